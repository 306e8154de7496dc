"""What every provider can be asked. No I/O: a provider says what to send and what the answer means."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Mapping

    from trio_ai_proxy.chat.events import Event
    from trio_ai_proxy.chat.request import ChatRequest, Operation
    from trio_ai_proxy.errors import UpstreamStatus
    from trio_ai_proxy.framing.frame import Frame, Framer
    from trio_ai_proxy.pipeline import Stage


@dataclass(frozen=True, slots=True)
class Capabilities:
    """What a service does and does not do; a quirk is a value here, never an `if` elsewhere.

    operations              what it serves
    stream_usage            it understands `stream_options = {"include_usage": true}`
    bills_after_abort       it goes on generating, and charging, when the connection is closed: `on_disconnect = "auto"`
                            then reads on for the exact usage instead of closing
    streams_only            it always answers with a stream; a one-shot answer is folded from it
    """

    operations: frozenset[Operation] = frozenset({"chat", "completions"})
    stream_usage: bool = True
    bills_after_abort: bool = False
    streams_only: bool = False


@dataclass(frozen=True, slots=True)
class UpstreamRequest:
    """What goes out. Built from configuration and the client's fields; nothing in a request picks the host or the path."""

    method: str
    url: str
    headers: tuple[tuple[bytes, bytes], ...]
    body: bytes
    stream: bool


class Provider(Protocol):
    """One account at one service."""

    name: str
    kind: str
    wire: str  # equal to the dialect's `wire` for an operation: frames may pass untouched
    capabilities: Capabilities

    def prepare(self, request: ChatRequest, *, model: str, stream: bool) -> UpstreamRequest:
        """The request to send for `request` to the service's own model name `model`.

        `stream` is what we ask the provider for, which need not be what the client asked us for. Raises `InvalidRequest`
        where the service cannot do what is asked.
        """
        ...

    def framer(self) -> Framer:
        """A new framer for one streamed answer."""
        ...

    def decoder(self, operation: Operation) -> Stage[Frame, Event]:
        """A new decoder for one streamed answer to `operation`."""
        ...

    def read_answer(self, operation: Operation, body: bytes) -> list[Event]:
        """What a whole (one-shot) answer means. Raises `UpstreamProtocolError` if it is not one."""
        ...

    def read_error(self, status: int, headers: Mapping[str, str], body: bytes) -> UpstreamStatus:
        """The provider's error answer as our error: its words kept, our credentials taken out."""
        ...
