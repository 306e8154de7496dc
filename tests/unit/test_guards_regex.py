"""Regular expressions of a configuration: what RE2 cannot read is said in words, with its place."""

from __future__ import annotations

import pytest

from trio_ai_proxy.guards.regex import UnreadableRegex, compile_regex


@pytest.mark.parametrize(
    ("pattern", "problem"),
    [
        ("a(b", "missing ): the parenthesis at character 2 stands alone"),
        ("((a)", "missing ): the parenthesis at character 1 stands alone"),
        ("[(](a\\)", "missing ): the parenthesis at character 4 stands alone"),
        ("[])](", "missing ): the parenthesis at character 5 stands alone"),
        ("a)b(", "unexpected ): the parenthesis at character 2 stands alone"),
        ("x[a-", "missing ] at character 2, `[a-`"),
        ("xa**", "bad repetition operator at character 3, `**`"),
        ("a{2,1}", "invalid repetition size at character 2, `{2,1}`"),
        ("ü[z-a]", "invalid character class range at character 3, `z-a`"),
        ("a\\", "trailing \\"),
        ("(a{2000}){2000}", "invalid repetition size: {2000}"),
        ("x(?=y)", "invalid perl operator at character 2, `(?=`; RE2 has no look-around and no back-references"),
        ("(a)\\1", "invalid escape sequence at character 4, `\\1`; RE2 has no look-around and no back-references"),
    ],
)
def test_what_is_wrong_with_an_expression_is_said_with_its_place(
    pattern: str, problem: str, capfd: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(UnreadableRegex) as raised:
        compile_regex(pattern)
    assert str(raised.value) == problem
    assert capfd.readouterr() == ("", "")


def test_a_sound_expression_finds_what_it_means() -> None:
    regex = compile_regex("(?i)b(o+)m")
    found = regex.search("ein BOOM")
    assert found is not None
    assert (found.group(), found.group(1), found.span(), regex.groups) == ("BOOM", "OO", (4, 8), 1)
    assert regex.search("bam") is None
    assert regex.fullmatch("bom") is not None
