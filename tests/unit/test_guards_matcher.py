from __future__ import annotations

from itertools import combinations
from typing import TYPE_CHECKING, Literal

import pytest

from trio_ai_proxy.guards.matcher import Found, Matcher, Patterns, Piece, TooLong
from trio_ai_proxy.guards.patterns import NAMED, Pattern, own_pattern

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

BUILT_IN = Patterns([pattern for named in NAMED.values() for pattern in named])
SECRET = "sk-ant-api03-" + "aB3_" * 6 + "xYz"  # forty characters
MIB = 1 << 20


def matcher(
    *regexes: str, window: int = 256, on_overflow: Literal["block", "release"] = "block", joins_tails: bool = False
) -> Matcher:
    patterns = Patterns([own_pattern(regex, regex) for regex in regexes]) if regexes else BUILT_IN
    return Matcher(patterns, window=window, on_overflow=on_overflow, joins_tails=joins_tails)


def shown(pieces: Iterable[Piece]) -> str:
    out = []
    for piece in pieces:
        if isinstance(piece, str):
            out.append(piece)
        elif isinstance(piece, TooLong):
            out.append("<too long>")
        elif not piece.goes_on:
            out.append(f"[{piece.pattern.name}]")
    return "".join(out)


def read(stage: Matcher, parts: Sequence[str]) -> str:
    return shown([piece for part in parts for piece in stage.feed(part)] + stage.close())


TEXT = f"Über bob@x-y.org — 🙂4111 1111 1111 1111🙂, {SECRET}. 10.0.0.1é\nDE89370400440532013000; +49 30 1234567!"
REDACTED = "Über [email] — 🙂[card]🙂, [api_key]. [ip]é\n[iban]; [phone]!"


def test_every_pair_of_cuts_gives_what_the_whole_text_gives() -> None:
    assert read(matcher(), [TEXT]) == REDACTED
    for first, second in combinations(range(len(TEXT) + 1), 2):
        assert read(matcher(), [TEXT[:first], TEXT[first:second], TEXT[second:]]) == REDACTED


def test_character_by_character_and_with_pieces_to_spare() -> None:
    assert read(matcher(), list(TEXT)) == REDACTED
    assert read(matcher(), [piece for character in TEXT for piece in ("", character, "")]) == REDACTED


def test_no_character_of_a_secret_leaves_wherever_it_is_cut() -> None:
    assert len(SECRET) == 40
    for cut in range(41):
        stage = matcher()
        before = shown(stage.feed("né🙂" + SECRET[:cut]))
        assert before == "né🙂" or (cut >= 27 and before == "né🙂[api_key]")
        assert before + shown(stage.feed(SECRET[cut:] + "\u00a0é")) + shown(stage.close()) == "né🙂[api_key]\u00a0é"


def test_text_that_no_pattern_can_extend_leaves_at_once() -> None:
    stage = matcher("secret[0-9]+")
    assert stage.feed("the se") == ["the "]
    assert stage.held == 2
    assert stage.feed("a is it") == ["sea is it"]
    assert stage.held == 0
    assert stage.feed(" secret1") == [" "]
    assert stage.held == 7
    assert shown(stage.feed("2.")) == "[secret[0-9]+]."
    assert stage.close() == []


def test_a_match_that_nothing_can_change_leaves_at_once() -> None:
    stage = matcher("E[0-9]{3}")
    assert shown(stage.feed("id E123")) == "id [E[0-9]{3}]"
    assert stage.held == 0


def test_the_rest_leaves_at_the_end_and_the_next_text_knows_nothing_of_it() -> None:
    stage = matcher("ab+c", r"^x")
    assert stage.feed("abb") == []
    assert stage.close() == ["abb"]
    assert shown(stage.feed("cx") + stage.close()) == "cx"
    assert shown(stage.feed("x") + stage.close()) == "[^x]"


def test_the_first_named_counts_at_one_place_and_the_leftmost_before_that() -> None:
    assert read(matcher("ab", "abc"), ["abc"]) == "[ab]c"
    assert read(matcher("abc", "ab"), list("abcab")) == "[abc][ab]"
    assert read(matcher("bcd", "abc"), list("abcd")) == "[abc]d"
    # The first could still be a match there, so the second has to wait for it.
    stage = matcher("abcd", "ab")
    assert stage.feed("abc") == []
    assert shown(stage.feed("e")) == "[ab]ce"


def test_what_its_check_refuses_is_no_match_and_the_next_one_is_asked() -> None:
    odd = Pattern("odd", "[0-9]+", lambda text: len(text) % 2 and len(text))
    two = Pattern("two", "[0-9]{2}")
    stage = Matcher(Patterns([odd, two]), window=256, on_overflow="block")
    assert read(stage, list("123 1234")) == "[odd] [two][two]"
    stage = Matcher(Patterns([odd]), window=256, on_overflow="block")
    assert read(stage, list("1234")) == "1[odd]"


def test_a_check_may_take_the_beginning_of_a_match() -> None:
    three = Pattern("three", "[a-z]+", lambda text: min(3, len(text)))
    stage = Matcher(Patterns([three]), window=256, on_overflow="block")
    assert read(stage, list("abcdefgh.")) == "[three][three][three]."


def test_whoever_asks_may_refuse_a_match_too() -> None:
    stage = Matcher(
        Patterns([own_pattern("n", "[0-9]")]), window=9, on_overflow="block", accepts=lambda _, text: text > "4"
    )
    assert read(stage, ["1927"]) == "1[n]2[n]"


def test_word_boundaries_and_lines_are_seen_over_cuts() -> None:
    for parts in (["a12 12", "3 12"], list("a12 123 12"), ["a", "12 ", "12", "3 1", "2"]):
        assert read(matcher(r"\b12\b"), parts) == "a12 123 [\\b12\\b]"
        assert read(matcher(r"12$"), parts) == "a12 123 [12$]"
    assert read(matcher("(?m)^b"), ["ab\n", "bb"]) == "ab\n[(?m)^b]b"
    assert read(matcher("(?m)b$"), list("b\nbb")) == "[(?m)b$]\nb[(?m)b$]"


def test_half_a_surrogate_pair_is_a_character_like_others() -> None:
    text = "\ud83da1\ude00\ud83d\ude001"
    assert read(matcher("a?1"), list(text)) == "\ud83d[a?1]\ude00\ud83d\ude00[a?1]"


class TestTail:
    KEY = Pattern("key", "k-[a-z]{3}", tail="abcdefghijklmnopqrstuvwxyz-")

    def test_follows_its_match_and_holds_nothing(self) -> None:
        stage = Matcher(Patterns([self.KEY]), window=8, on_overflow="block")
        assert shown(stage.feed("my k-abc")) == "my [key]"
        for _ in range(100):
            assert shown(stage.feed("d-e" * 10)) == ""
            assert stage.held == 0
        assert shown(stage.feed("f. k")) == ". "
        assert shown(stage.close()) == "k"

    def test_is_told_with_its_match_where_that_is_wanted(self) -> None:
        stage = Matcher(Patterns([self.KEY]), window=8, on_overflow="block", joins_tails=True)
        assert stage.feed("my k-abc") == ["my "]
        assert stage.feed("de" * 20) == []
        [found, rest] = stage.feed(" k-xyz")
        assert (found, rest) == (Found(self.KEY, "k-abc" + "de" * 20), " ")
        assert stage.close() == [Found(self.KEY, "k-xyz")]
        assert stage.close() == []


class TestOverflow:
    def test_window_characters_are_held_and_one_more_is_too_many(self) -> None:
        stage = matcher("a[^b]*b", window=8)
        assert stage.feed("xa1234567") == ["x"]
        assert stage.held == 8
        assert shown(stage.feed("8")) == "<too long>"
        assert (stage.held, stage.feed("more"), stage.close()) == (0, [], [])

    def test_block_ends_the_text_before_it(self) -> None:
        assert read(matcher("a[^b]*b", window=8), ["x a b a1234567890"]) == "x [a[^b]*b] <too long>"

    def test_released_text_is_not_looked_into_again_for_the_same_pattern(self) -> None:
        for parts in (["xa1a3456789ab."], list("xa1a3456789ab.")):
            assert read(matcher("a[^b]*b", window=8, on_overflow="release"), parts) == "xa1a3456789[a[^b]*b]."

        for parts in (["xa12345a89b ab."], list("xa12345a89b ab.")):
            assert read(matcher("a[^b]*b", window=8, on_overflow="release"), parts) == "xa12345a89b [a[^b]*b]."

    def test_released_text_still_shows_what_others_look_for(self) -> None:
        stage = matcher("a[^b]*b", "[0-9]{3}", window=8, on_overflow="release")
        assert read(stage, ["xa..123....4567"]) == "xa..[[0-9]{3}]....[[0-9]{3}]7"
        stage = matcher("a[^b]*b", "a[0-9]{3}", window=8, on_overflow="release")
        assert read(stage, list("xa123........")) == "x[a[0-9]{3}]........"


class TestSettle:
    """What is held has left all the same: then the rest of a match stays."""

    def test_what_is_held_leaves_and_what_completes_it_does_not(self) -> None:
        stage = matcher("secret[0-9]{4}")
        assert stage.feed("my secret12") == ["my "]
        assert (stage.settle(), stage.held) == (["secret12"], 0)
        assert stage.feed("3") == []
        assert stage.held == 1
        assert shown(stage.feed("4 and on")) == "[secret[0-9]{4}] and on"
        assert shown(stage.close()) == ""

    def test_what_does_not_complete_it_leaves(self) -> None:
        stage = matcher("secret[0-9]{4}")
        stage.feed("my secret12")
        stage.settle()
        assert stage.feed("3") == []
        assert stage.feed("x") == ["3x"]
        assert stage.held == 0

    def test_a_match_that_its_end_completes_is_one(self) -> None:
        stage = matcher(r"\b[0-9]{4}\b")
        assert stage.feed("pin 1234") == ["pin "]
        assert shown(stage.settle()) == r"[\b[0-9]{4}\b]"
        assert shown(stage.feed("5 6789") + stage.close()) == "5 [\\b[0-9]{4}\\b]"

    def test_what_stands_behind_such_a_match_stays_in_sight(self) -> None:
        stage = matcher("x(yz)?", "y1")
        assert stage.feed("xy") == []
        assert shown(stage.settle()) == "[x(yz)?]y"
        assert shown(stage.feed("1 y") + stage.close()) == "[y1] y"

    def test_what_has_left_whole_is_not_told_again(self) -> None:
        stage = matcher(r"foo\B")
        assert stage.feed("a foo") == ["a "]
        assert stage.settle() == ["foo"]
        assert shown(stage.feed("x") + stage.close()) == "x"

    def test_twice_and_with_nothing_held(self) -> None:
        stage = matcher("ab(cd)+e")
        assert (stage.settle(), stage.feed("abc"), stage.settle(), stage.settle()) == ([], [], ["abc"], [])
        assert (stage.feed("d"), stage.settle(), shown(stage.feed("e"))) == ([], ["d"], "[ab(cd)+e]")


class TestCost:
    """A square of these lengths would take hours."""

    @pytest.mark.parametrize("text", ["a" * 100_000, "a" * 100_000 + "b", "ab" * 50_000])
    @pytest.mark.parametrize("on_overflow", ["block", "release"])
    def test_nested_repetition_is_no_catastrophe(self, text: str, on_overflow: Literal["block", "release"]) -> None:
        stage = matcher("(a+)+$", "(a|aa|b)+c", on_overflow=on_overflow)
        pieces = [*stage.feed(text), *stage.close()]
        assert len(shown(pieces)) <= len(text) + 100

    @pytest.mark.parametrize("text", ["a", "1", "4 ", "a@b.", "word "])
    def test_a_mebibyte_without_a_boundary_passes_in_one_piece_and_in_many(self, text: str) -> None:
        whole = (text * MIB)[:MIB]
        stage = matcher(on_overflow="release")
        pieces = [*stage.feed(whole), *stage.close()]
        assert sum(len(piece if isinstance(piece, str) else getattr(piece, "text", "")) for piece in pieces) == MIB
        stage = matcher("(a+)+$", on_overflow="release")
        left = 0
        for start in range(0, MIB, 64):
            left += len(shown(stage.feed(whole[start : start + 64])))
            assert stage.held <= 256
            assert start + 64 - left == stage.held
        assert left + len(shown(stage.close())) <= MIB
