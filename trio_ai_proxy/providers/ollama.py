"""Ollama's own wire: `/api/chat`, `/api/generate` and `/api/embed`, of a server of one's own or of Ollama's cloud.

A stream is lines of JSON. The connection is what holds the generation: when it is closed, the server stops.
Source: https://docs.ollama.com/api
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from trio_ai_proxy.chat.reading import read_inputs
from trio_ai_proxy.errors import InvalidRequest, UpstreamStatus
from trio_ai_proxy.framing.ndjson import NDJSONFramer
from trio_ai_proxy.providers.account import Account
from trio_ai_proxy.providers.base import UpstreamRequest, encode_body
from trio_ai_proxy.providers.error_words import status_error
from trio_ai_proxy.providers.ollama_request import chat_body, embeddings_body, text_body
from trio_ai_proxy.providers.ollama_stream import OllamaDecoder, read_answer, read_embeddings

if TYPE_CHECKING:
    from collections.abc import Mapping

    from trio_ai_proxy.chat.events import Event
    from trio_ai_proxy.chat.request import ChatRequest, Operation
    from trio_ai_proxy.framing.frame import Frame, Framer
    from trio_ai_proxy.pipeline import Stage
    from trio_ai_proxy.providers.base import Authority, Provider
    from trio_ai_proxy.providers.kind import Kind
    from trio_ai_proxy.settings import ProviderSettings

LINES = "application/x-ndjson"

_PATHS: Mapping[Operation, str] = {"chat": "/api/chat", "completions": "/api/generate", "embeddings": "/api/embed"}
_BODIES = {"chat": chat_body, "completions": text_body, "embeddings": embeddings_body}


class OllamaProvider:
    """One Ollama server. Raises `ConfigError` if it cannot be used as it is configured."""

    wire = "ollama"
    stream_types: tuple[str, ...] = (LINES,)
    authority: Authority | None = None

    def __init__(self, settings: ProviderSettings, kind: Kind) -> None:
        account = Account(settings, kind)
        self.name = account.name
        self.kind = account.kind
        self.capabilities = kind.capabilities
        self._urls = {operation: account.url(path) for operation, path in _PATHS.items()}
        self._body_credential = account.body_credential
        self._stream_headers = account.headers(LINES)
        self._answer_headers = account.headers("application/json")
        self._scrub = account.scrub

    def prepare(self, request: ChatRequest, *, model: str, stream: bool) -> UpstreamRequest:
        """See `Provider.prepare`."""
        operation = request.operation
        if operation not in self.capabilities.operations:
            raise InvalidRequest(f"The model `{request.model}` does not serve {operation}.", param="model")
        said, dropped = _BODIES[operation](request, self.kind)
        body = {"model": model, **said}
        if operation != "embeddings":
            body["stream"] = stream  # said either way: a stream is what Ollama does by itself
        body |= self._body_credential
        headers = self._stream_headers if stream else self._answer_headers
        return UpstreamRequest("POST", self._urls[operation], headers, encode_body(body), stream, dropped)

    def framer(self, media_type: str = LINES) -> Framer:
        return NDJSONFramer()

    def for_model(self, model: str) -> Provider:
        return self

    def decoder(self, request: ChatRequest) -> Stage[Frame, Event]:
        return OllamaDecoder(self._scrub)

    def read_answer(self, request: ChatRequest, body: bytes) -> list[Event]:
        if request.operation == "embeddings":
            return read_embeddings(body, len(read_inputs(request)), self._scrub)
        return read_answer(body, self._scrub)

    def read_error(self, status: int, headers: Mapping[str, str], body: bytes) -> UpstreamStatus:
        return status_error(status, headers, body, self._scrub)
