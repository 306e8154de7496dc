from __future__ import annotations

import pytest

from trio_ai_proxy.guards.matcher import Found, Matcher, Patterns
from trio_ai_proxy.guards.patterns import NAMED, own_pattern
from trio_ai_proxy.guards.regex import UnreadableRegex

COMPILED = {name: Patterns(patterns) for name, patterns in NAMED.items()}
JWT = "eyJhbGciOiJIUzI1NiIsInR5cCI6IkpXVCJ9.eyJzdWIiOiIxMjM0NTY3ODkwIn0.dozjgNryP4J3jVmNHl0w5N_XgL0n3I9PlFUP0THsR8U"

RUNS = [
    "a",
    "1",
    "4 ",
    "4",
    "a.",
    "a-",
    "a@",
    "a@b.",
    "@",
    "DE12 ",
    "DE",
    "+1 ",
    "00",
    "0 1",
    "1.",
    "2001:",
    "f",
    "::",
    "eyJ",
]
RUNS += ["sk-", "A", "AKIA", "ghp_", "é", "x@y", "-", "(2", "+"]


def found(name: str, text: str) -> list[str]:
    """What the pattern `name` takes of `text`."""
    matcher = Matcher(COMPILED[name], window=256, on_overflow="block", joins_tails=True)
    return [piece.text for piece in [*matcher.feed(text), *matcher.close()] if isinstance(piece, Found)]


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("email", "a@b.co"),
        ("email", "first.last+tag@mail-1.example.co.uk"),
        ("email", "jürgen.groß@straße.de"),
        ("email", "o'neil_99%x@xn--bcher-kva.example"),
        ("email", "a@b.xn--p1ai"),
        ("email", "x" * 64 + "@" + "y" * 60 + ".org"),
        ("card", "4111111111111111"),
        ("card", "4111 1111 1111 1111"),
        ("card", "4111-1111-1111-1111"),
        ("card", "4111\u00a01111\u20111111\u20131111"),
        ("card", "378282246310005"),
        ("card", "3782 822463 10005"),
        ("card", "4222222222222"),
        ("card", "6304000000000000000"),
        ("card", "4 1 1 1 1 1 1 1 1 1 1 1 1 1 1 1"),
        ("iban", "DE89370400440532013000"),
        ("iban", "DE89 3704 0044 0532 0130 00"),
        ("iban", "gb82 west 1234 5698 7654 32"),
        ("iban", "MT84MALT011000012345MTLCAST001S"),
        ("iban", "NO93 8601 1117 947"),
        ("phone", "+493012345678"),
        ("phone", "+49 (0)30 1234-5678"),
        ("phone", "+1 (212) 555-0123"),
        ("phone", "+44 20 7946 0958"),
        ("phone", "0049 30 1234567"),
        ("phone", "(212) 555-0123"),
        ("phone", "212-555-0123"),
        ("phone", "212.555.0123"),
        ("phone", "1-212-555-0123"),
        ("phone", "212\u2011555\u20110123"),
        ("phone", "01 23 45 67 89"),
        ("phone", "01.23.45.67.89"),
        ("phone", "0171/1234567"),
        ("phone", "030 12345678"),
        ("phone", "020 7946 0958"),
        ("phone", "(030) 1234567"),
        ("ip", "192.168.0.1"),
        ("ip", "255.255.255.255"),
        ("ip", "2001:db8::1"),
        ("ip", "2001:0db8:85a3:0000:0000:8a2e:0370:7334"),
        ("ip", "fe80::1ff:fe23:4567:890a"),
        ("ip", "FD00::"),
        ("ip", "ff02::1"),
        ("api_key", "sk-ant-api03-" + "aB3_" * 23 + "AA"),
        ("api_key", "sk-proj-" + "aB3-" * 39),
        ("api_key", "sk-" + "0123456789abcdef" * 2),
        ("api_key", "AKIAIOSFODNN7EXAMPLE"),
        ("api_key", "ASIAIOSFODNN7EXAMPLE"),
        ("api_key", "ghp_" + "a1B2" * 9),
        ("api_key", "gho_" + "a1B2" * 9),
        ("api_key", "github_pat_" + "a1B2" * 5 + "xy_" + "c" * 59),
        ("api_key", "AIza" + "Sy_-1" * 7),
        ("api_key", "xoxb-123456789012-123456789012-abcdefABCDEF"),
        ("api_key", "xoxp-123456789012"),
        ("api_key", "glpat-" + "a1B2c" * 4),
        ("api_key", "hf_" + "aB" * 17),
        ("api_key", JWT),
    ],
)
def test_each_form_is_taken_whole_and_nothing_around_it(name: str, text: str) -> None:
    assert found(name, text) == [text]
    assert found(name, f"See {text}, and (again: {text}) é{'' if name == 'email' else text} end.")[:2] == [text, text]


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("email", "a@b, @home, a at b dot c, me@localhost, a@b.c, x@1.2.3"),
        ("email", "a" * 300 + " b@ c"),
        ("card", "4111111111111112"),
        ("card", "41111111111111111"),
        ("card", "4111  1111 1111 1111"),
        ("card", "x4111111111111111"),
        ("card", "411111111111"),
        ("card", "0000000000000000"),
        ("iban", "DE88370400440532013000"),
        ("iban", "DE8937040044053201300"),
        ("iban", "XX89370400440532013000"),
        ("iban", "DE893704004405320130001"),
        ("phone", "2024-01-15 12:30:45, 01.02.2024, 2125550123, 555-0123, 1,000,000, 3.14159265358979"),
        ("phone", "x+12345678, +1234567890123456"),
        ("ip", "1.2.3, 256.1.1.1, 1.2.3.999, 12:30:45, 10:20, std::vec, a::b, x[::2], ::1, 2024:10, dead:beef"),
        (
            "api_key",
            "sk-short, sk-spinner-double-bounce-child, task-force-on-climate-change-2024, AKIA1, eyJ.eyJ, ghp_abc",
        ),
    ],
)
def test_what_only_looks_similar_is_left(name: str, text: str) -> None:
    assert found(name, text) == []


def test_a_number_is_found_in_front_of_other_digits() -> None:
    assert found("card", "4111 1111 1111 1111 12/26") == ["4111 1111 1111 1111"]
    assert found("iban", "DE89 3704 0044 0532 0130 00 EUR 20") == ["DE89 3704 0044 0532 0130 00"]
    assert found("ip", "10.0.0.1/8 and 2001:db8::/32 and 1.2.3.4.5") == ["10.0.0.1", "2001:db8::", "1.2.3.4"]
    assert found("ip", "fe80::1:zz and 2001:db8:1") == ["fe80::1"]


def test_a_key_is_found_behind_an_escape_sequence() -> None:
    assert found("api_key", "line\\nsk-ant-" + "aB3_" * 6) == ["sk-ant-" + "aB3_" * 6]


@pytest.mark.parametrize("name", list(NAMED))
@pytest.mark.parametrize("run", RUNS)
def test_no_run_of_characters_is_too_long_for_the_default_window(name: str, run: str) -> None:
    matcher = Matcher(COMPILED[name], window=256, on_overflow="block")
    text = "x@" + "a" * 10 + " eyJ" + run * 600
    assert "".join(getattr(piece, "text", piece) for piece in [*matcher.feed(text), *matcher.close()]) == text  # type: ignore[misc]


def test_own_pattern_is_compiled_before_it_is_used() -> None:
    assert own_pattern("employee", "E[0-9]{6}").name == "employee"
    with pytest.raises(UnreadableRegex, match="missing"):
        own_pattern("x", "a(")
    with pytest.raises(UnreadableRegex, match="empty text"):
        own_pattern("x", "a*")
    with pytest.raises(UnreadableRegex, match="look-around"):
        own_pattern("x", "(?=a)b")
    with pytest.raises(UnreadableRegex, match=r"\\C"):
        own_pattern("x", r"\C")
