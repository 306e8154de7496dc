"""The line map against tomllib: every key of a document has the line on which it stands."""

from __future__ import annotations

import tomllib
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trio_ai_proxy.config.lines import Path, line_map

if TYPE_CHECKING:
    from collections.abc import Iterator

DOCUMENT = (
    r'''# a comment with "quotes" and [brackets]
top = 1
[server]          # a table
bind = "a # b"

[providers."name with . dot"]
key.dotted . "quoted\tkey" = 'x'

[[keys]]
name = "a"
models = [
  "x",   # one
  [ 1, 2,
    3 ],

  { inner = { deep = 1 }, other = """
two
lines with \""" and ""quotes""""" },
]
after = 1979-05-27T07:32:00Z

[[keys]]
'name' = '''
    + """'''
literal
'' two'''''
"""
    + r"""last = [] # nothing
[[keys.sub]]
a = {}
[keys.sub.table]
b = +inf
[[keys.sub]]
c = true"""
)


def paths_of(value: object, path: Path = ()) -> Iterator[Path]:
    yield path
    if isinstance(value, dict):
        for name, inner in value.items():
            yield from paths_of(inner, (*path, name))
    elif isinstance(value, list):
        for number, inner in enumerate(value):
            yield from paths_of(inner, (*path, number))


def test_every_key_has_its_line() -> None:
    lines = line_map(DOCUMENT)
    assert lines == {
        (): 1,
        ("top",): 2,
        ("server",): 3,
        ("server", "bind"): 4,
        ("providers",): 6,
        ("providers", "name with . dot"): 6,
        ("providers", "name with . dot", "key"): 7,
        ("providers", "name with . dot", "key", "dotted"): 7,
        ("providers", "name with . dot", "key", "dotted", "quoted\tkey"): 7,
        ("keys",): 9,
        ("keys", 0): 9,
        ("keys", 0, "name"): 10,
        ("keys", 0, "models"): 11,
        ("keys", 0, "models", 0): 12,
        ("keys", 0, "models", 1): 13,
        ("keys", 0, "models", 1, 0): 13,
        ("keys", 0, "models", 1, 1): 13,
        ("keys", 0, "models", 1, 2): 14,
        ("keys", 0, "models", 2): 16,
        ("keys", 0, "models", 2, "inner"): 16,
        ("keys", 0, "models", 2, "inner", "deep"): 16,
        ("keys", 0, "models", 2, "other"): 16,
        ("keys", 0, "after"): 20,
        ("keys", 1): 22,
        ("keys", 1, "name"): 23,
        ("keys", 1, "last"): 26,
        ("keys", 1, "sub"): 27,
        ("keys", 1, "sub", 0): 27,
        ("keys", 1, "sub", 0, "a"): 28,
        ("keys", 1, "sub", 0, "table"): 29,
        ("keys", 1, "sub", 0, "table", "b"): 30,
        ("keys", 1, "sub", 1): 31,
        ("keys", 1, "sub", 1, "c"): 32,
    }
    assert set(lines) == set(paths_of(tomllib.loads(DOCUMENT)))


def test_carriage_returns_change_no_line() -> None:
    assert line_map(DOCUMENT.replace("\n", "\r\n")) == line_map(DOCUMENT)


def test_a_header_of_its_own_is_where_a_table_stands() -> None:
    assert line_map("[a.b]\n\n[a]\n") == {(): 1, ("a",): 3, ("a", "b"): 1}


def test_an_empty_document_has_only_its_beginning() -> None:
    assert line_map("") == {(): 1}
    assert line_map(" # nothing\n\n") == {(): 1}


@pytest.mark.parametrize("text", ["=", "a = ", "a = 'x", 'a = "x\n', "[a]\n\n%"])
def test_what_is_no_toml_at_all_is_an_error(text: str) -> None:
    with pytest.raises(ValueError, match=r"this is not TOML \(at line \d"):
        line_map(text)


# Every leaf is a number that occurs once, so the text itself says on which line a leaf is.
NAMES = st.sampled_from(["a", "b-c", "1", '"x.y"', "'l # q'", '"\\u00e9 \\""', '"]"'])
NEWLINES = st.sampled_from(["", "\n", "\r\n", " # ] } , \" ''' \n\n"])
PADDING = st.sampled_from(["", " ", "\t "])
STRINGS = st.sampled_from(
    ['"""\n\n" ""\\""""', "'''\n'' #\n'''", '"""""""', "''", '"\\\\"', '"# ["', "1979-05-27 07:32:00"]
)


@st.composite
def values(draw: st.DrawFn, depth: int = 0) -> str:
    kind = draw(st.sampled_from(["leaf", "text", "array", "table"] if depth < 3 else ["leaf", "text"]))
    if kind == "leaf":
        return "LEAF"
    if kind == "text":
        return draw(STRINGS)
    if kind == "array":
        items = draw(st.lists(values(depth + 1), max_size=3))
        body = "".join(draw(NEWLINES) + item + draw(NEWLINES) + "," + draw(NEWLINES) for item in items)
        return f"[{body}{draw(NEWLINES)}]"
    names = draw(st.lists(NAMES, unique=True, max_size=3))
    pairs = [f"{name}{draw(PADDING)}={draw(PADDING)}{draw(values(depth + 1))}" for name in names]
    return "{" + f"{draw(PADDING)},{draw(PADDING)}".join(pairs) + "}"


@st.composite
def documents(draw: st.DrawFn) -> str:
    parts = []
    for number in range(draw(st.integers(0, 4))):
        header = draw(
            st.sampled_from(["", f"[t{number}]", f"[ t{number} . 'x y'.z ]", "[[ many ]]", "[[many]]\n[many.sub]"])
        )
        if header or number == 0:
            names = draw(st.lists(NAMES, unique=True, max_size=3))
            dots = draw(st.sampled_from(["", ".d", ' . "e"']))
            pairs = [f"{draw(PADDING)}{name}{dots} = {draw(values())}{draw(NEWLINES)}\n" for name in names]
            parts.append(f"{header}{draw(NEWLINES)}\n{''.join(pairs)}")
    text = "".join(parts)
    for number in range(text.count("LEAF")):
        text = text.replace("LEAF", str(1_000_000 + number), 1)
    return text


@given(documents())
def test_every_path_is_mapped_to_the_line_of_its_value(text: str) -> None:
    tree = tomllib.loads(text)
    lines = line_map(text)
    assert set(lines) == set(paths_of(tree))
    line_of_number = {
        word: number
        for number, line in enumerate(text.replace("\r\n", "\n").split("\n"), start=1)
        for word in line.replace(",", " ")
        .replace("]", " ")
        .replace("}", " ")
        .replace("=", " ")
        .replace("[", " ")
        .split()
        if word.isdigit() and len(word) == 7
    }
    for path in paths_of(tree):
        value: object = tree
        for step in path:
            value = value[step]  # type: ignore[index]
        if type(value) is int:
            assert lines[path] == line_of_number[str(value)]
