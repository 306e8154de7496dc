"""What every dialect can be asked. No I/O: a dialect reads what a client sends and writes what it understands."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Sequence

    from trio_ai_proxy.chat.events import Event, Started
    from trio_ai_proxy.chat.fold import Answer
    from trio_ai_proxy.chat.request import ChatRequest, Operation
    from trio_ai_proxy.chat.usage import TokenUsage
    from trio_ai_proxy.errors import ProxyError


class StreamEncoder(Protocol):
    """Events → the bytes by which one streamed answer says them; for what follows the last of them see `Dialect.terminal`.

    `Failed`, `Ended` and `UsageReported` give no bytes: how a stream ends depends on the outcome, which the relay knows.
    """

    def feed(self, events: Sequence[Event]) -> bytes: ...


class StreamGrammar(Protocol):
    """Looks at what is sent to a client as one streamed answer. Raises `chat.grammar.IllegalSequence` with a sentence."""

    def feed(self, data: bytes) -> None: ...

    def close(self) -> None: ...


class Dialect(Protocol):
    """One client format."""

    name: str
    wire: str
    operation: Operation
    terminal: bytes  # what ends a whole stream
    keep_alive: bytes  # a line that says "still here" and nothing else

    def parse_request(self, body: bytes, *, model: str | None = None) -> ChatRequest:
        """Read the client's body. `model` is the one that the route fixes: then the body may leave it out and may not
        name another. Raises `InvalidRequest` with the field at fault."""
        ...

    def encode_error(self, error: ProxyError) -> bytes:
        """The JSON body of an error answer."""
        ...

    def encode_stream_error(self, error: ProxyError) -> bytes:
        """The frame by which a stream that has begun says that it failed. Nothing follows it."""
        ...

    def encode_usage(self, started: Started, usage: TokenUsage) -> bytes:
        """The frame that reports usage at the end of a stream."""
        ...

    def encode_answer(self, answer: Answer, request: ChatRequest) -> bytes:
        """A whole answer to `request` as one JSON document."""
        ...

    def encoder(self, started: Started, request: ChatRequest | None = None) -> StreamEncoder:
        """A new encoder for one streamed answer to `request`. `started` has what every chunk repeats, complete: id, model and
        time are filled in where the provider did not say them."""
        ...

    def grammar(self, *, include_usage: bool, own: bool) -> StreamGrammar:
        """A new validator of one streamed answer. `include_usage`: the client asked for usage; `own`: the gateway wrote it
        all, and no frame of it is a provider's."""
        ...
