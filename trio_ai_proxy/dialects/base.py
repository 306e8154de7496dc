"""What every dialect can be asked. No I/O: a dialect reads what a client sends and writes what it understands."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from trio_ai_proxy.chat.events import Started
    from trio_ai_proxy.chat.fold import Answer
    from trio_ai_proxy.chat.request import ChatRequest, Operation
    from trio_ai_proxy.chat.usage import TokenUsage
    from trio_ai_proxy.errors import ProxyError


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

    def encode_answer(self, answer: Answer) -> bytes:
        """A whole answer as one JSON document."""
        ...
