"""What a client that stays sees of one answer: every byte of it, how it ended, and what it said."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

import trio

from trio_ai_proxy.testing.raw import BodyCut, Head, RawClient

if TYPE_CHECKING:
    from trio_ai_proxy.testing.drill_gateway import GatewayUnderDrill

_PROMPT = "Tell me about the river."


@dataclass(slots=True)
class Seen:
    """What a client that stayed saw of one answer."""

    head: Head | None = None
    body: bytes = b""
    ended: Literal["whole", "cut", "silent"] = "silent"
    events: list[str] = field(default_factory=list)

    def parse(self) -> None:
        lines = self.body.decode("utf-8", "replace").split("\n")
        self.events = [line.removeprefix("data:").strip() for line in lines if line.startswith("data:")]

    @property
    def status(self) -> int | None:
        return self.head.status if self.head is not None else None

    @property
    def is_done(self) -> bool:
        return "[DONE]" in self.events

    @property
    def error(self) -> dict[str, Any] | None:
        """The error object: of the last event, or of a body that is no stream."""
        text = self.events[-1] if self.events else self.body.decode("utf-8", "replace")
        try:
            value = json.loads(text)
        except ValueError:
            return None
        error = value.get("error") if isinstance(value, dict) else None
        return error if isinstance(error, dict) else None

    @property
    def in_band_error(self) -> str | None:
        """The code of the one error that a stream ended with: well-formed, last, not followed by `[DONE]`."""
        error = self.error
        words = (error or {}).get("message"), (error or {}).get("type"), (error or {}).get("code")
        is_one = sum('"error"' in event for event in self.events) == 1
        if self.status != 200 or self.is_done or not is_one or not all(isinstance(word, str) for word in words):
            return None
        return str(words[2])

    def told(self) -> str:
        """All of it in one line, for people."""
        code = (self.error or {}).get("code")
        parts = [f"status {self.status}", f"{len(self.events)} events", "[DONE]" if self.is_done else "no [DONE]"]
        return ", ".join([*parts, *([f"error {code}"] if code else []), f"ended {self.ended}"])


async def ask(
    gateway: GatewayUnderDrill, client: RawClient, model: str, request_id: str, *, stream: bool, **fields: Any
) -> None:
    """Send a chat completion request; `fields` are added to it."""
    body = {"model": model, "messages": [{"role": "user", "content": _PROMPT}], "stream": stream, **fields}
    if stream:
        body["stream_options"] = {"include_usage": True}
    await client.post("/v1/chat/completions", json=body, headers=gateway.headers(request_id))


async def stay(
    gateway: GatewayUnderDrill,
    model: str,
    request_id: str,
    *,
    stream: bool = True,
    fields: dict[str, Any] | None = None,
) -> Seen:
    """Ask, and read the answer for as long as the gateway's patience."""
    seen = Seen()
    with trio.move_on_after(gateway.patience):
        await stay_into(seen, gateway, model, request_id, fields or {}, stream=stream)
    seen.parse()
    return seen


async def stay_into(
    seen: Seen,
    gateway: GatewayUnderDrill,
    model: str,
    request_id: str,
    fields: dict[str, Any],
    *,
    stream: bool = True,
) -> None:
    """Read one answer for as long as it lasts. `seen` grows as it comes, so it is of use before the end."""
    async with gateway.connect() as client:
        await ask(gateway, client, model, request_id, stream=stream, **fields)
        try:
            seen.head = await client.read_head()
            while (chunk := await client.read_chunk()) is not None:
                seen.body += chunk.data
            seen.ended = "whole"
        except (BodyCut, trio.BrokenResourceError):
            seen.ended = "cut"
        seen.parse()
