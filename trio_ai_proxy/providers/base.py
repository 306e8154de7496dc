"""What every provider can be asked. No I/O: a provider says what to send and what the answer means."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import msgspec

from trio_ai_proxy.errors import InvalidRequest

if TYPE_CHECKING:
    from collections.abc import Mapping

    from trio_ai_proxy.chat.events import Event
    from trio_ai_proxy.chat.request import ChatRequest, Operation
    from trio_ai_proxy.errors import UpstreamStatus
    from trio_ai_proxy.framing.frame import Frame, Framer
    from trio_ai_proxy.pipeline import Stage


EVENT_STREAM = "text/event-stream"

_encode = msgspec.json.Encoder().encode


@dataclass(frozen=True, slots=True)
class Capabilities:
    """What a service does and does not do; a quirk is a value here, never an `if` elsewhere.

    operations              what it serves
    stream_usage            it understands `stream_options = {"include_usage": true}`
    bills_after_abort       it goes on generating, and charging, when the connection is closed: `on_disconnect = "auto"`
                            then reads on for the exact usage instead of closing
    streams_only            it always answers with a stream; a one-shot answer is folded from it
    never_streams           it only answers at once; a stream is made from its answer, in one piece
    tools, images, json_schema, reasoning
                            it calls tools; sees images; keeps to a schema; shows its thoughts
    prefill                 it goes on from an assistant's last message as if it had begun the answer itself
    usage_reported          it counts tokens and says so
    context_window          tokens that a request and its answer can have together, None where it depends on the model
    max_tokens_only         it knows the limit as `max_tokens` alone, not as `max_completion_tokens`
    developer_role          it knows the role `developer`; where not, such a message is said as `system`
    """

    operations: frozenset[Operation] = frozenset({"chat", "completions"})
    stream_usage: bool = True
    bills_after_abort: bool = False
    streams_only: bool = False
    never_streams: bool = False
    tools: bool = True
    images: bool = True
    json_schema: bool = True
    reasoning: bool = False
    prefill: bool = False
    usage_reported: bool = True
    context_window: int | None = None
    max_tokens_only: bool = False
    developer_role: bool = True


class UpstreamRequest(msgspec.Struct, frozen=True):
    """What goes out. Built from configuration and the client's fields; nothing in a request picks the host or the path.

    dropped  fields of the client's request that are not said in it, because the provider has no word for them
    """

    method: str
    url: str
    headers: tuple[tuple[bytes, bytes], ...]
    body: bytes
    stream: bool
    dropped: tuple[str, ...] = ()


def encode_body(fields: dict[str, Any]) -> bytes:
    """`fields` as JSON. Raises `InvalidRequest` for what is too deep to be written again."""
    try:
        return _encode(fields)
    except RecursionError as error:
        raise InvalidRequest("The request body is nested too deeply to be passed on.") from error


@dataclass(frozen=True, slots=True)
class FileStep:
    """A file that is written anew by others and must be read each time (a projected service account token).

    optional  whether it need not be there: what is not is answered with the status 404 and nothing
    """

    path: str
    optional: bool = False


class Authority(Protocol):
    """A credential that has to be fetched, and fetched again before it expires. It does no I/O: it says what to send, is
    told the answer, and signs. `now` is in seconds since the epoch.
    """

    def step(self, now: float) -> UpstreamRequest | FileStep | None:
        """What has to be asked, or read, next for a credential that is good at `now`; None if there is one."""
        ...

    def accept(self, status: int, headers: Mapping[str, str], body: bytes, now: float) -> None:
        """The answer to the last step; status 0 is none at all. Raises `UpstreamError`, without a credential in its words, if
        it is no use; then `step` begins at the beginning."""
        ...

    def sign(self, request: UpstreamRequest, now: float) -> UpstreamRequest:
        """`request` with the credential in it."""
        ...

    def reject(self) -> None:
        """The provider did not take the credential: do not use it again."""
        ...


class Provider(Protocol):
    """One account at one service.

    stream_types  the media types of its streams, the one that is asked for first
    authority    what signs its requests, or None where the credential never changes
    """

    name: str
    kind: str
    wire: str  # equal to the dialect's `wire` for an operation: frames may pass untouched
    stream_types: tuple[str, ...]
    capabilities: Capabilities
    authority: Authority | None

    def prepare(self, request: ChatRequest, *, model: str, stream: bool) -> UpstreamRequest:
        """The request to send for `request` to the service's own model name `model`.

        `stream` is what we ask the provider for, which need not be what the client asked us for. Raises `InvalidRequest`
        where the service cannot do what is asked, and for a body too deep to be written again.
        """
        ...

    def framer(self, media_type: str = EVENT_STREAM) -> Framer:
        """A new framer for one streamed answer, which has come as `media_type`."""
        ...

    def for_model(self, model: str) -> Provider:
        """This account for its own model name `model`: itself, or what speaks the wire that this model has there."""
        ...

    def decoder(self, request: ChatRequest) -> Stage[Frame, Event]:
        """A new decoder for one streamed answer to `request`."""
        ...

    def read_answer(self, request: ChatRequest, body: bytes) -> list[Event]:
        """What a whole (one-shot) answer to `request` means. Raises `UpstreamProtocolError` if it is not one."""
        ...

    def read_error(self, status: int, headers: Mapping[str, str], body: bytes) -> UpstreamStatus:
        """The provider's error answer as our error: its words kept, our credentials taken out."""
        ...
