"""The guard `decorate`: messages of the house before and after those of the request (Kong's prompt decorator). Pure."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from trio_ai_proxy.errors import GuardBlocked

if TYPE_CHECKING:
    from trio_ai_proxy.chat.request import ChatRequest
    from trio_ai_proxy.guards.base import Desk
    from trio_ai_proxy.settings import MessageSettings


@dataclass(frozen=True, slots=True)
class Decorate:
    """See `RequestGuard`. A completion has no messages, and without them the house's would be missing: it is refused, as at
    Kong. What generates nothing (embeddings) passes."""

    name: str
    prepend: tuple[MessageSettings, ...] = ()
    append: tuple[MessageSettings, ...] = ()

    async def enter(self, request: ChatRequest, desk: Desk) -> ChatRequest:
        """`request` with the messages. Raises `GuardBlocked` for a completion."""
        if request.operation == "completions":
            raise GuardBlocked(
                f"The model `{request.model}` is for chat only: this gateway adds messages to what it is asked.",
                guard=self.name,
                code="operation_not_allowed",
                param="prompt",
            )
        if request.operation != "chat":
            return request
        messages = [*_told(self.prepend), *request.fields["messages"], *_told(self.append)]
        return replace(request, fields=request.fields | {"messages": messages})


def _told(messages: tuple[MessageSettings, ...]) -> list[dict[str, str]]:
    return [{"role": message.role, "content": message.content} for message in messages]
