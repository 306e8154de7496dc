"""What a client asks for, as its dialect read it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

Operation = Literal["chat", "completions", "embeddings", "moderations"]
Unsupported = Literal["auto", "drop", "error"]


@dataclass(frozen=True, slots=True)
class ChatRequest:
    """One request for generated text, for embeddings, or for a judgement of a text.

    operation      "chat" (messages), "completions" (a prompt), "embeddings" or "moderations" (inputs)
    model          the name the client asked for; never empty
    stream         whether the client wants the answer as a stream
    include_usage  whether the client wants the usage chunk at the end of the stream
    fields         the whole JSON object as it was sent, unknown fields included; read, never written
    unsupported    what becomes of a field that the provider has no word for; see `chat.fields`
    """

    operation: Operation
    model: str
    stream: bool
    include_usage: bool
    fields: dict[str, Any]
    unsupported: Unsupported = "auto"

    @property
    def can_stream(self) -> bool:
        """Whether what answers it is generated bit by bit."""
        return self.operation in ("chat", "completions")
