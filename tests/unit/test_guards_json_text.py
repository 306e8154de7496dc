from __future__ import annotations

import json
from itertools import combinations
from typing import TYPE_CHECKING, Literal

import pytest

from trio_ai_proxy.guards.json_text import JSONText
from trio_ai_proxy.guards.matcher import Patterns
from trio_ai_proxy.guards.patterns import NAMED, own_pattern
from trio_ai_proxy.guards.redaction import Redaction

if TYPE_CHECKING:
    from collections.abc import Sequence

    from trio_ai_proxy.guards.patterns import Pattern

BUILT_IN = Patterns([*NAMED["email"], *NAMED["card"], *NAMED["api_key"], own_pattern("pin", r"\bpin[0-9]{4}\b")])
SECRET = "sk-ant-api03-" + "aB3_" * 6 + "xYz"


def redaction(patterns: Patterns = BUILT_IN, *, window: int = 256, blocks: bool = False) -> Redaction:
    def substitute(pattern: Pattern, text: str) -> str | None:
        return None if blocks else f'["{pattern.name}"\n]'

    on_overflow: Literal["block"] = "block"
    return Redaction("pii", patterns, substitute, window=window, on_overflow=on_overflow, of="answer")


def read(parts: Sequence[str], patterns: Patterns = BUILT_IN) -> str:
    stage = JSONText(redaction(patterns))
    written = "".join(stage.feed(part) for part in parts)
    written += stage.close()
    assert stage.held == 0
    return written


def inside(name: str) -> str:
    """What stands for a match, within a string."""
    return json.dumps(f'["{name}"\n]')[1:-1]


DOCUMENT = (
    r'{ "to":"bob\u0040x.org" , "c\u0061rd 4111 1111 1111 1111":4111111111111111 ,"n":[-12.5e+3, true,null , false ,0],'
    r'"key":"line\n'
    + SECRET.replace("a", r"\u0061", 1)
    + r'\n\"q\" \\ \/ \ud83d\ude00 é","deep":{"":"","pin":"pin1234\tpin12345"}}'
)
WRITTEN = (
    f'{{ "to":"{inside("email")}" , "c\\u0061rd {inside("card")}":"{inside("card")}" ,"n":[-12.5e+3, true,null , false ,0],'
    f'"key":"line\\n{inside("api_key")}\\n\\"q\\" \\\\ \\/ \\ud83d\\ude00 é","deep":'
    f'{{"":"","pin":"{inside("pin")}\\tpin12345"}}}}'
)


def test_what_it_says_is_redacted_and_what_it_does_not_say_stays_as_it_was_written() -> None:
    assert read([DOCUMENT]) == WRITTEN
    said = json.loads(WRITTEN)
    assert said["to"] == '["email"\n]'
    assert said["n"] == json.loads(DOCUMENT)["n"]


def test_every_cut_and_every_character_apart_give_the_same() -> None:
    for cut in range(len(DOCUMENT) + 1):
        assert read([DOCUMENT[:cut], DOCUMENT[cut:]]) == WRITTEN
    assert read(list(DOCUMENT)) == WRITTEN
    for first, second in combinations(range(0, len(DOCUMENT), 5), 2):
        assert read([DOCUMENT[:first], DOCUMENT[first:second], DOCUMENT[second:]]) == WRITTEN


@pytest.mark.parametrize("write", [lambda c: c, lambda c: f"\\u{ord(c):04x}", lambda c: f"\\u{ord(c):04X}"])
def test_no_character_of_a_secret_leaves_wherever_it_is_cut(write: object) -> None:
    assert callable(write)
    raw = "".join(write(character) for character in SECRET)
    for cut in range(len(raw) + 1):
        stage = JSONText(redaction())
        left = stage.feed('{"é🙂":"né\\n' + raw[:cut])
        assert left in ('{"é🙂":"né\\n', '{"é🙂":"né\\n' + inside("api_key"))
        assert left + stage.feed(raw[cut:] + '"}') + stage.close() == '{"é🙂":"né\\n' + inside("api_key") + '"}'


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("4111111111111111", '"{card}"'),
        (" 4111111111111111 ", ' "{card}" '),
        ("-4111111111111111", '"-{card}"'),
        ("[4111111111111111,4111111111111112]", '["{card}",4111111111111112]'),
        ("[4111,1111,1111,1111]", "[4111,1111,1111,1111]"),
        ('"4111 1111 1111 1111"', '"{card}"'),
        ('{"a":"4111 1111","b":"1111 1111"}', '{"a":"4111 1111","b":"1111 1111"}'),
        ("", ""),
        ("true", "true"),
        ('{"a":12', '{"a":12'),
        ('{"a":"b\\', '{"a":"b\\'),
        ('{"a":"\\u00', '{"a":"\\u00'),
        ('{"a":"\\ud83d', '{"a":"\\ud83d'),
        ('{"a":"\\ud83dx\\ude00"}', '{"a":"\\ud83dx\\ude00"}'),
    ],
)
def test_json_remains_json(text: str, expected: str) -> None:
    expected = expected.replace("{card}", inside("card"))
    assert read([text]) == expected
    assert read(list(text)) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("mail bob@x.org now", "mail {email} now"),
        ("4111 1111 1111 1111", "{card}"),
        ("{'to': 'bob@x.org', 'card': '4111 1111 1111 1111'}", "{'to': '{email}', 'card': '{card}'}"),
        ("{to: bob@x.org}", "{to: {email}}"),
        ('{"a": 1, b: "bob\\u0040x.org", c: 4111 1111 1111 1111}', '{"a": 1, b: "{in}", c: {card}}'),
        ('{"a":"bob\\x40x.org \\q bob@x.org"}', '{"a":"bob\\x40x.org \\q {in}"}'),
        ("nullify pin1234", "nullify {pin}"),
        ("12 4111111111111111", "12 {card}"),
    ],
)
def test_what_is_no_json_is_read_as_text(text: str, expected: str) -> None:
    for name in ("email", "card", "pin"):
        expected = expected.replace("{" + name + "}", f'["{name}"\n]')
    expected = expected.replace("{in}", inside("email"))
    assert read([text]) == expected
    assert read(list(text)) == expected


def test_a_character_that_is_written_in_two_halves_is_one() -> None:
    smiling = Patterns([own_pattern("smile", "a.b")])
    for text in ('"a\\ud83d\\uDE42b"', '"a🙂b"'):
        assert read([text], smiling) == read(list(text), smiling) == f'"{inside("smile")}"'
    for text in ('"a\\ude42\\ud83db"', '"a\\ud83d\\u0041b"', '"a\\ud83d\\nb"'):
        assert read([text], smiling) == read(list(text), smiling) == text


def test_numbers_of_any_length_are_let_through_in_a_bounded_space() -> None:
    stage = JSONText(redaction(Patterns([own_pattern("x", "x[0-9]")])))
    number, blanks = "1" * 2000, " " * 2000
    written = ""
    for character in f'{{"a":{number}{blanks},"b":1{blanks}}}':
        written += stage.feed(character)
        assert stage.held <= 257
    assert written + stage.close() == f'{{"a":{number}{blanks},"b":1{blanks}}}'


def test_text_that_no_pattern_can_extend_leaves_at_once() -> None:
    stage = JSONText(redaction(Patterns([own_pattern("x", "x[0-9]")])))
    assert stage.feed('{"a":"some') == '{"a":"some'
    assert stage.feed(" \\u0078") == " "
    assert stage.held == 1
    assert stage.feed("y \\") == "\\u0078y "
    assert stage.held == 1


@pytest.mark.parametrize(
    "text", ['{"a":"b bob@x.org c"}', '{"a":4111111111111111,"b":2}', "plain bob@x.org c", "'x' \"bob@x.org\""]
)
def test_nothing_leaves_behind_what_blocks(text: str) -> None:
    for parts in ([text], list(text)):
        found = redaction(blocks=True)
        stage = JSONText(found)
        written = "".join(stage.feed(part) for part in parts) + stage.close()
        assert found.blocked is not None
        assert found.blocked.guard == "pii"
        assert text.startswith(written)
        assert "bob" not in written
        assert "4111" not in written
        assert not written.endswith("c")
