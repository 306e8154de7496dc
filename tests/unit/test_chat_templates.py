"""How a request names a template, and what becomes of that where there is none."""

from __future__ import annotations

from typing import Any

import pytest
from support.entering import asked, user

from trio_ai_proxy.chat.templates import check_untemplated, fill, gaps_in, name_in
from trio_ai_proxy.errors import InvalidRequest


@pytest.mark.parametrize(
    ("value", "name"),
    [
        ("{template://a}", "a"),
        ("{template://my template-1.x}", "my template-1.x"),
        ("{template://}", None),
        ("{template://a}}", None),
        ("{template://a", None),
        (" {template://a}", None),
        ("{template://a}\n", None),
        (["{template://a}"], None),
        (None, None),
    ],
)
def test_a_reference_is_the_whole_text_and_nothing_else(value: Any, name: str | None) -> None:
    assert name_in(value) == name


def test_gaps_are_named_and_what_is_none_stays() -> None:
    text = "{{a}} {{ b-1 }} {{a}} {{}} {{a b}} {c} {{{a}}}"
    assert gaps_in(text) == ["a", "b-1", "a", "a"]
    assert fill(text, {"a": "1", "b-1": "{{a}}"}) == "1 {{a}} 1 {{}} {{a b}} {c} {1}"


def test_without_templates_a_chat_that_names_one_has_no_messages() -> None:
    with pytest.raises(InvalidRequest, match="must be a list of at least one message") as raised:
        check_untemplated(asked("{template://a}"))
    assert raised.value.param == "messages"
    check_untemplated(asked(user("{template://a}")))
    check_untemplated(asked("{template://a}", "completions"))
