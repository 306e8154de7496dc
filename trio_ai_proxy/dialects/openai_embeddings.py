"""OpenAI's embeddings, as a client speaks it. There are no streams of them.

Source: https://platform.openai.com/docs/api-reference/embeddings/create
"""

from __future__ import annotations

import struct
from base64 import b64decode, b64encode
from typing import TYPE_CHECKING, Any

from trio_ai_proxy.chat.request import ChatRequest
from trio_ai_proxy.dialects import openai_shape
from trio_ai_proxy.errors import InvalidRequest, UpstreamProtocolError

if TYPE_CHECKING:
    from trio_ai_proxy.chat.events import Started
    from trio_ai_proxy.chat.fold import Answer
    from trio_ai_proxy.chat.request import Operation
    from trio_ai_proxy.chat.usage import TokenUsage
    from trio_ai_proxy.dialects.base import StreamEncoder, StreamGrammar
    from trio_ai_proxy.errors import ProxyError


class OpenAIEmbeddings:
    """See `Dialect`."""

    name = "openai_embeddings"
    wire = "openai"
    operation: Operation = "embeddings"
    terminal = b""
    keep_alive = b""

    def parse_request(self, body: bytes, *, model: str | None = None) -> ChatRequest:
        fields = openai_shape.read_object(body)
        _check(fields)
        asked = openai_shape.read_model(fields, model)
        return ChatRequest(self.operation, asked, stream=False, include_usage=False, fields=fields)

    def encode_error(self, error: ProxyError) -> bytes:
        return openai_shape.encode_error(error)

    def encode_stream_error(self, error: ProxyError) -> bytes:
        return openai_shape.encode_stream_error(error)

    def encode_usage(self, started: Started, usage: TokenUsage) -> bytes:
        return b""

    def encode_answer(self, answer: Answer, request: ChatRequest) -> bytes:
        wants_text = request.fields.get("encoding_format") == "base64"
        data = [
            {"object": "embedding", "index": index, "embedding": _in_form(vector, as_text=wants_text)}
            for index, vector in enumerate(answer.embeddings)
        ]
        tokens = answer.usage.prompt_tokens if answer.usage is not None else 0
        usage = {"prompt_tokens": tokens, "total_tokens": tokens}
        return openai_shape.encode({"object": "list", "data": data, "model": answer.model, "usage": usage})

    def encoder(self, started: Started, request: ChatRequest | None = None) -> StreamEncoder:
        raise RuntimeError("there are no streams of embeddings, and `parse_request` asks for none")

    def grammar(self, *, include_usage: bool, own: bool) -> StreamGrammar:
        raise RuntimeError("there are no streams of embeddings, so there is no grammar of one")


def _check(fields: dict[str, Any]) -> None:
    if fields.get("stream"):
        raise InvalidRequest('Embeddings cannot be streamed; leave "stream" out.', param="stream")
    value = fields.get("input")
    if not isinstance(value, str | list) or not value:
        raise InvalidRequest('"input" must be a text or a list, and not empty.', param="input")
    if fields.get("encoding_format") not in (None, "float", "base64"):
        raise InvalidRequest('"encoding_format" must be float or base64.', param="encoding_format")


def _in_form(vector: list[float] | str, *, as_text: bool) -> list[float] | str:
    """`vector` as numbers, or as the base64 of 32-bit floats, lowest byte first. Raises `UpstreamProtocolError` where it
    cannot be had."""
    try:
        if as_text and not isinstance(vector, str):
            return b64encode(struct.pack(f"<{len(vector)}f", *vector)).decode("ascii")
        if not as_text and isinstance(vector, str):
            packed = b64decode(vector, validate=True)
            return list(struct.unpack(f"<{len(packed) // 4}f", packed))
    except (struct.error, OverflowError, ValueError) as error:
        raise UpstreamProtocolError("The provider sent an embedding that is no list of 32-bit numbers.") from error
    return vector
