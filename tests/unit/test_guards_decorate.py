"""The guard `decorate`: messages of the house around those of the request."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from support.entering import asked, entered, refused, user

from trio_ai_proxy.guards.decorate import Decorate
from trio_ai_proxy.settings import MessageSettings

if TYPE_CHECKING:
    from trio_ai_proxy.chat.request import Operation

HOUSE = Decorate(
    "g",
    prepend=(MessageSettings("system", "Be brief."), MessageSettings("assistant", "Yes?")),
    append=(MessageSettings("user", "Thank you."),),
)


def test_messages_stand_before_and_after_those_of_the_request_in_their_order() -> None:
    request = entered(HOUSE, asked(user("a", "b"), temperature=0))
    assert request.fields == {
        "model": "m",
        "messages": [
            {"role": "system", "content": "Be brief."},
            {"role": "assistant", "content": "Yes?"},
            *user("a", "b"),
            {"role": "user", "content": "Thank you."},
        ],
        "temperature": 0,
    }


def test_each_request_has_messages_of_its_own() -> None:
    one, other = (entered(HOUSE, asked(user("a"))) for _ in range(2))
    one.fields["messages"][0]["content"] = "x"
    assert other.fields["messages"][0]["content"] == "Be brief."


def test_a_completion_has_no_messages_and_is_refused() -> None:
    code, message, param = refused(HOUSE, asked("Once", "completions"))
    assert (code, param) == ("operation_not_allowed", "prompt")
    assert "for chat only" in message


@pytest.mark.parametrize("operation", ["embeddings", "moderations"])
def test_what_generates_nothing_passes_as_it_is(operation: Operation) -> None:
    request = asked(["a"], operation)
    assert entered(HOUSE, request) is request
