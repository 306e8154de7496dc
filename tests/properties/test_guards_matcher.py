"""Nothing about a match depends on how its text was cut."""

from __future__ import annotations

from typing import TYPE_CHECKING

import re2
from hypothesis import given, settings
from hypothesis import strategies as st

from trio_ai_proxy.guards.matcher import Found, Matcher, Patterns, Piece, TooLong
from trio_ai_proxy.guards.patterns import NAMED, Pattern, own_pattern
from trio_ai_proxy.guards.regex import UnreadableRegex

if TYPE_CHECKING:
    from collections.abc import Sequence

# A small alphabet, so that expressions and texts meet: letters, digits, what numbers are written with, a line's end, characters
# of two and four bytes, half a surrogate pair, and the very mark that the search puts after a text.
ALPHABET = "aab1 -.@\né🙂\ud83d\x00"
TEXTS = st.text(st.sampled_from(ALPHABET), max_size=24)

LOOKS_AT = [
    "a",
    "b",
    "1",
    "é",
    "🙂",
    r"\x00",
    ".",
    "(?s:.)",
    r"\d",
    r"\w",
    r"\W",
    "[ab]",
    "[^a]",
    r"[^\n]",
    r"\x{e9}",
    r"\-",
]
OTHERS = [r"\Qa.\E", "(?i:A)", r"\pL", "[[:alpha:]]", r"\b", r"\B", "^", "$", r"\A", r"\z", "(?m:^)", "(?m:$)"]
ATOMS = st.sampled_from([*LOOKS_AT, *OTHERS])
REGEXES = st.recursive(
    ATOMS,
    lambda inner: st.one_of(
        st.lists(inner, min_size=1, max_size=4).map("".join),
        st.lists(inner, min_size=2, max_size=3).map(lambda branches: f"({'|'.join(branches)})"),
        st.tuples(inner, st.sampled_from(["*", "+", "?", "*?", "+?", "??", "{2}", "{1,3}", "{0,2}?", "{2,}"])).map(
            lambda pair: f"(?:{pair[0]}){pair[1]}"
        ),
        inner.map(lambda regex: f"(?P<name>{regex})" if "name" not in regex else regex),
    ),
    max_leaves=6,
)


def even(text: str) -> int:
    """A check that takes the longest beginning with an even number of characters."""
    return len(text) & ~1


@st.composite
def patterns(draw: st.DrawFn) -> list[Pattern]:
    found = []
    for number in range(draw(st.integers(1, 3))):
        regex = draw(REGEXES)
        try:
            pattern = own_pattern(f"p{number}", regex)
        except UnreadableRegex:  # it matches the empty text
            pattern = own_pattern(f"p{number}", f"(?:{regex})[ab1é]")
        check = draw(st.sampled_from([None, None, even]))
        tail = draw(st.sampled_from(["", "", "", "ab", "1\n"]))
        found.append(Pattern(pattern.name, pattern.regex, check, tail))
    return found


@st.composite
def cuts(draw: st.DrawFn, text: str) -> list[str]:
    places = sorted(draw(st.lists(st.integers(0, len(text)), max_size=8)))
    return [text[start:stop] for start, stop in zip([0, *places], [*places, len(text)], strict=True)]


def joined(pieces: Sequence[Piece]) -> list[object]:
    """What has left, in a form that does not tell where it was cut."""
    out: list[object] = []
    for piece in pieces:
        if isinstance(piece, str):
            if out and isinstance(out[-1], str):
                out[-1] += piece
            else:
                out.append(piece)
        elif isinstance(piece, Found):
            if piece.goes_on:
                last = out[-1]
                assert isinstance(last, tuple)
                out[-1] = (last[0], last[1] + piece.text)
            else:
                out.append((piece.pattern.name, piece.text))
        else:
            out.append(piece)
    return out


def by_the_rules(wanted: list[Pattern], text: str) -> list[object]:
    """The rules, as they are written, on a text that is whole."""
    data = text.encode("utf-8", "surrogatepass")
    compiled = [re2.compile(pattern.regex) for pattern in wanted]
    out: list[object] = []
    at = 0
    while at < len(text):
        place = len(text[:at].encode("utf-8", "surrogatepass"))
        for pattern, regex in zip(wanted, compiled, strict=True):
            match = regex.match(data, place)
            if match is None:
                continue
            said = match[0].decode("utf-8", "surrogatepass")
            length = pattern.check(said) if pattern.check else len(said)
            if length:
                end = at + length
                while end < len(text) and text[end] in pattern.tail:
                    end += 1
                out.append((pattern.name, text[at:end]))
                at = end
                break
        else:
            if out and isinstance(out[-1], str):
                out[-1] += text[at]
            else:
                out.append(text[at])
            at += 1
    return out


@given(patterns(), TEXTS, st.data())
def test_what_is_found_is_what_the_rules_say_for_any_cut(wanted: list[Pattern], text: str, data: st.DataObject) -> None:
    matcher = Matcher(Patterns(wanted), window=100, on_overflow="block")
    pieces = [piece for part in data.draw(cuts(text)) for piece in matcher.feed(part)]
    assert joined(pieces + matcher.close()) == by_the_rules(wanted, text)


@given(patterns(), TEXTS, st.data(), st.integers(1, 6), st.sampled_from(["block", "release"]))
def test_any_cut_gives_the_same_where_matches_are_too_long(
    wanted: list[Pattern], text: str, data: st.DataObject, window: int, on_overflow: str
) -> None:
    compiled = Patterns(wanted)

    def run(parts: list[str]) -> list[object]:
        matcher = Matcher(compiled, window=window, on_overflow=on_overflow)  # type: ignore[arg-type]
        pieces = []
        for part in parts:
            pieces += matcher.feed(part)
            assert matcher.held <= window
        return joined(pieces + matcher.close())

    assert run(data.draw(cuts(text))) == run([text]) == run(list(text))


@given(patterns(), TEXTS, st.data())
def test_text_is_neither_lost_nor_made_up(wanted: list[Pattern], text: str, data: st.DataObject) -> None:
    matcher = Matcher(Patterns(wanted), window=4, on_overflow="release")
    said = ""
    for part in data.draw(cuts(text)):
        pieces = matcher.feed(part)
        said += "".join(piece if isinstance(piece, str) else piece.text for piece in pieces)  # type: ignore[union-attr]
    rest = matcher.close()
    assert said + "".join(piece if isinstance(piece, str) else piece.text for piece in rest) == text  # type: ignore[union-attr]


@given(patterns(), TEXTS, st.data())
def test_what_has_left_never_contains_a_match_at_any_moment(
    wanted: list[Pattern], text: str, data: st.DataObject
) -> None:
    """However the text may go on: what `text` goes on with is drawn after its first half has been let through."""
    untailed = [Pattern(pattern.name, pattern.regex, pattern.check) for pattern in wanted]
    matcher = Matcher(Patterns(untailed), window=100, on_overflow="block")
    pieces: list[Piece] = []
    for part in data.draw(cuts(text)):
        pieces += matcher.feed(part)
        whole = text + data.draw(TEXTS)
        left = joined(pieces)
        for said, expected in zip(left, by_the_rules(untailed, whole), strict=False):
            # What comes last may be the first part of a text, and a text alone: a match leaves whole.
            assert said == expected or (said is left[-1] and isinstance(said, str) and str(expected).startswith(said))


@given(patterns(), TEXTS)
def test_what_is_held_could_still_become_a_match(wanted: list[Pattern], text: str) -> None:
    """Were all that is held dead, it would have left: some expression has not decided from its first character on."""
    compiled = Patterns(wanted)
    matcher = Matcher(compiled, window=100, on_overflow="block")
    pieces = matcher.feed(text)
    if matcher.held:
        before = text[: len(text) - matcher.held]
        data = text.encode("utf-8", "surrogatepass") + b"\x00"
        place = len(before.encode("utf-8", "surrogatepass"))
        _, each = compiled.going_on
        ends = [match.end() for one in each if (match := one.match(data, place)) is not None]
        assert len(data) in ends
    assert not any(isinstance(piece, TooLong) for piece in pieces)


BUILT_IN = Patterns([pattern for named in NAMED.values() for pattern in named])
NUMBERS = [
    "4111 1111 1111 1111",
    "DE89 3704 0044 0532 0130 00",
    "+49 30 1234567",
    "10.1.2.3",
    "2001:db8::1",
    "E123",
    "3.",
]
KEYS = ["sk-" + "aB3d" * 6, "ghp_" + "x1Y2" * 9, "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIx.sig", "AKIA" + "Q" * 16]
THINGS = st.sampled_from([*NUMBERS, *KEYS, "a.b@c.de", "und"])


@settings(max_examples=60)
@given(st.lists(THINGS | st.sampled_from(" .,;-é🙂\n0a"), max_size=8).map("".join), st.data())
def test_built_in_patterns_find_the_same_for_any_cut(text: str, data: st.DataObject) -> None:
    matcher = Matcher(BUILT_IN, window=256, on_overflow="block")
    pieces = [piece for part in data.draw(cuts(text)) for piece in matcher.feed(part)]
    assert joined(pieces + matcher.close()) == by_the_rules(list(BUILT_IN.patterns), text)
