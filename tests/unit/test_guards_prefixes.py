from __future__ import annotations

import pytest

from trio_ai_proxy.guards.prefixes import MARK, compile_search, open_ended, plain
from trio_ai_proxy.guards.regex import UnreadableRegex


def verdict(regex: str, text: str) -> str:
    """What is known of a match at the beginning of `text`, which may go on."""
    data = text.encode()
    found = compile_search(open_ended(regex)).match(data + MARK)
    if found is None:
        return "none"
    return "open" if found.end() > len(data) else data[: found.end()].decode()


@pytest.mark.parametrize(
    ("regex", "text", "expected"),
    [
        ("abc", "ab", "open"),
        ("abc", "abc", "abc"),
        ("abc", "abd", "none"),
        ("a+", "aa", "open"),
        ("a+", "aab", "aa"),
        ("a+?", "a", "a"),
        ("(?U)a+", "a", "a"),
        ("a|ab", "a", "a"),
        ("ab|a", "a", "open"),
        ("ab|a", "ac", "a"),
        (r"\d{4}", "123", "open"),
        (r"\d{2,4}", "1234", "1234"),
        (r"\d{4}\b", "1234", "open"),
        (r"\d{4}\b", "1234 ", "1234"),
        (r"\d{4}\b", "12345", "none"),
        (r"\d{4}\B", "1234", "open"),
        (r"a$", "a", "open"),
        (r"a$", "a\n", "none"),
        (r"(?m)a$", "a", "open"),
        (r"(?m)a$", "a\n", "a"),
        (r"a\z", "a", "open"),
        (r"\Aa", "a", "a"),
        (r"(?i)AB", "a", "open"),
        (r"(?i:AB)c", "abC", "none"),
        (r"\Qa.b\E+", "a.bb", "open"),
        (r"\Qa.b", "axb", "none"),
        (r"\Q\E", "a", ""),
        ("[]a]b", "]", "open"),
        ("[^]a]b", "c", "open"),
        ("[^]a]b", "]", "none"),
        ("[[:alpha:]]b", "z", "open"),
        (r"[\]]b", "]", "open"),
        (r"\x41\x{1F600}\101\pL\p{Greek}", "A😀Aa", "open"),
        (r"\x41\x{1F600}\101\pL\p{Greek}", "A😀Aaω", "A😀Aaω"),
        ("a{", "a", "open"),
        ("a{,2}", "a{,2", "open"),
        ("a{,2}", "a{,2}", "a{,2}"),
        ("(?P<one>a)(?<two>b)(c)", "ab", "open"),
        ("(?:a|b(?:c|d))*e", "abcbd", "open"),
        ("é+x", "é", "open"),
        (".", "\x00", "\x00"),
        (r"a\x00", "a", "open"),
        (r"a\x00\x00", "a\x00", "open"),
    ],
)
def test_what_more_text_may_change_is_open_and_the_rest_is_decided(regex: str, text: str, expected: str) -> None:
    assert verdict(regex, text) == expected


@pytest.mark.parametrize("regex", ["(?P<a>x)|(?P<b>y)", "(x)(?i:y)", r"\Q(\E", "[(]", "a{2}?"])
def test_without_its_groups_it_is_the_same_expression(regex: str) -> None:
    texts = ["x", "y", "xy", "xY", "(", "aa", "a", ""]
    before, after = compile_search(regex), compile_search(plain(regex))
    assert after.groups == 0
    assert [before.fullmatch(text) is None for text in texts] == [after.fullmatch(text) is None for text in texts]


def test_pieces_of_characters_are_refused_by_name() -> None:
    with pytest.raises(UnreadableRegex, match=r"`\\C` matches a piece of a character"):
        open_ended(r"a\C")


def test_what_is_too_large_is_refused_and_what_needs_more_room_gets_it() -> None:
    large = open_ended(r"(?:\pL{100}){10}")
    assert compile_search(large).match("é".encode() + MARK).end() == 3
    with pytest.raises(UnreadableRegex, match="too large"):
        compile_search(*[open_ended(rf"(?:\pL{{100}}){{10}}{number}") for number in range(40)])
