"""JSON remains JSON, and what it says is what is looked into, however it is written and cut."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Literal

from hypothesis import given
from hypothesis import strategies as st

from trio_ai_proxy.guards.json_text import JSONText
from trio_ai_proxy.guards.matcher import Patterns
from trio_ai_proxy.guards.patterns import own_pattern
from trio_ai_proxy.guards.redaction import Redaction

if TYPE_CHECKING:
    from trio_ai_proxy.guards.patterns import Pattern

REPLACEMENT = '<"\\\n🙂>'
PATTERNS = Patterns([own_pattern("x", "ab+c"), own_pattern("n", "7[0-9]{2}"), own_pattern("q", '"\n+"')])


def redaction() -> Redaction:
    def substitute(pattern: Pattern, text: str) -> str | None:
        return REPLACEMENT

    on_overflow: Literal["block"] = "block"
    return Redaction("g", PATTERNS, substitute, window=40, on_overflow=on_overflow, of="answer")


def redacted(value: Any) -> Any:
    """What shall come of a value."""
    if isinstance(value, str):
        return redaction().whole(value)
    if isinstance(value, list):
        return [redacted(item) for item in value]
    if isinstance(value, dict):
        return [[redacted(name), redacted(item)] for name, item in value.items()]
    if isinstance(value, int) and not isinstance(value, bool):
        written = redaction().whole(str(value))
        return value if written == str(value) else written
    return value


def as_pairs(value: Any) -> Any:
    if isinstance(value, Pairs):
        return [[name, as_pairs(item)] for name, item in value]
    return [as_pairs(item) for item in value] if isinstance(value, list) else value


class Pairs(list[Any]):
    """The members of an object, none of them lost where two have the same name."""


TEXTS = st.text(st.sampled_from('aabbc7123"\\\n/é🙂\u2028'), max_size=10)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-99999, 99999) | TEXTS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3),
    max_leaves=6,
)


@st.composite
def written(draw: st.DrawFn, value: Any) -> str:
    """`value` as JSON, as somebody may write it: with blanks anywhere, and characters escaped who need not be."""
    blank = draw(st.sampled_from(["", "", " ", "\n\t"]))
    if isinstance(value, str):
        out = []
        for character in value:
            how = draw(st.integers(0, 2))
            if how == 0:
                out.append(json.dumps(character, ensure_ascii=True)[1:-1])
            elif how == 1 and ord(character) < 0x10000:
                out.append(f"\\u{ord(character):04X}")
            else:
                out.append("\\/" if character == "/" else json.dumps(character, ensure_ascii=False)[1:-1])
        said = '"' + "".join(out) + '"'
    elif isinstance(value, list):
        said = "[" + blank + ",".join(draw(written(item)) for item in value) + "]"
    elif isinstance(value, dict):
        members = (draw(written(name)) + ":" + draw(written(item)) for name, item in value.items())
        said = "{" + blank + ",".join(members) + "}"
    else:
        said = json.dumps(value)
    return blank + said + draw(st.sampled_from(["", " "]))


@st.composite
def cuts(draw: st.DrawFn, text: str) -> list[str]:
    places = sorted(draw(st.lists(st.integers(0, len(text)), max_size=8)))
    return [text[start:stop] for start, stop in zip([0, *places], [*places, len(text)], strict=True)]


def read(parts: list[str]) -> str:
    stage = JSONText(redaction())
    return "".join(stage.feed(part) for part in parts) + stage.close()


@given(VALUES, st.data())
def test_what_it_says_is_what_is_looked_into(value: Any, data: st.DataObject) -> None:
    document = data.draw(written(value))
    left = read(data.draw(cuts(document)))
    assert as_pairs(json.loads(left, object_pairs_hook=Pairs)) == redacted(value)


@given(VALUES, st.data())
def test_what_is_not_found_leaves_as_it_was_written(value: Any, data: st.DataObject) -> None:
    document = data.draw(written(value))
    if redacted(value) == as_pairs(json.loads(document, object_pairs_hook=Pairs)):
        assert read(data.draw(cuts(document))) == document


@given(st.text(st.sampled_from('ab7c12"\\u06{}[]:, \n-é'), max_size=30), st.data())
def test_any_cut_of_what_need_not_be_json_gives_the_same(text: str, data: st.DataObject) -> None:
    assert read(data.draw(cuts(text))) == read([text]) == read(list(text))
