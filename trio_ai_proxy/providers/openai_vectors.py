"""The vectors of OpenAI's embeddings: `data`, in the order of the inputs.

Source: https://platform.openai.com/docs/api-reference/embeddings/create
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

from trio_ai_proxy.chat.events import Embedded, Ended, Event, Started, UsageReported
from trio_ai_proxy.errors import UpstreamProtocolError
from trio_ai_proxy.providers.openai_wire import token_usage

if TYPE_CHECKING:
    from trio_ai_proxy.providers.openai_wire import Usage


class _Vector(msgspec.Struct, gc=False):
    index: Any = None
    embedding: list[float] | str | None = None


class _Vectors(msgspec.Struct):
    data: list[_Vector] | None = None


_decode = msgspec.json.Decoder(_Vectors).decode


def read_vectors(body: bytes, started: Started, usage: Usage | None) -> list[Event]:
    """What a whole answer with embeddings means; `started` and `usage` are what was read of it already. Raises
    `UpstreamProtocolError` if it has no vectors."""
    try:
        vectors = _decode(body).data or []
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise UpstreamProtocolError("The provider sent what is not a list of embeddings.") from error
    found = []
    for position, vector in enumerate(vectors):
        if vector.embedding is None:
            continue
        index = vector.index if type(vector.index) is int and vector.index >= 0 else position
        found.append(Embedded(vector.embedding, index))
    events: list[Event] = [started, *sorted(found, key=lambda one: one.index)]
    if len(events) == 1:
        raise UpstreamProtocolError("The provider's answer has no embeddings.")
    counted = token_usage(usage) if usage is not None else None
    if counted is not None:
        events.append(UsageReported(counted))
    events.append(Ended())
    return events
