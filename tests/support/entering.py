"""Requests that go through a guard which asks nobody: without a loop, for it has nothing to wait for."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

import pytest

from trio_ai_proxy.chat.request import ChatRequest
from trio_ai_proxy.errors import GuardBlocked

if TYPE_CHECKING:
    from collections.abc import Coroutine

    from trio_ai_proxy.chat.request import Operation
    from trio_ai_proxy.guards.base import Desk, RequestGuard

_FIELD: dict[Operation, str] = {
    "chat": "messages",
    "completions": "prompt",
    "embeddings": "input",
    "moderations": "input",
}


def asked(said: Any, operation: Operation = "chat", **fields: Any) -> ChatRequest:
    """A request whose messages, prompt or input are `said`."""
    fields = {"model": "m", _FIELD[operation]: said, **fields}
    return ChatRequest(operation, "m", stream=False, include_usage=False, fields=fields)


def user(*texts: str) -> list[dict[str, Any]]:
    """A conversation in which only the user speaks."""
    return [{"role": "user", "content": text} for text in texts]


def entered(guard: RequestGuard, request: ChatRequest) -> ChatRequest:
    """`request` behind `guard`, which neither waits nor changes what it was given."""
    before = repr(request)
    entering = cast("Coroutine[object, None, ChatRequest]", guard.enter(request, cast("Desk", None)))
    try:
        entering.send(None)
    except StopIteration as done:
        assert repr(request) == before
        result: ChatRequest = done.value
        return result
    raise AssertionError("the guard waits for something")


def refused(guard: RequestGuard, request: ChatRequest) -> tuple[str, str, str | None]:
    """Code, message and field at fault of the refusal."""
    with pytest.raises(GuardBlocked) as raised:
        entered(guard, request)
    assert raised.value.status == 400
    assert raised.value.guard == "g"
    return raised.value.code, raised.value.message, raised.value.param
