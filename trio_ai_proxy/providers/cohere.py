"""Cohere: version 2 of its chat, which completions use as well, and its embeddings.

Where version 1 answers (a gateway that stands in between and speaks it), its streams of JSON lines are read too, also where
they are called event streams. Source: https://docs.cohere.com/reference/about
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from trio_ai_proxy.errors import InvalidRequest, UpstreamStatus
from trio_ai_proxy.framing.ndjson import NDJSONFramer
from trio_ai_proxy.framing.sse import SSEFramer
from trio_ai_proxy.providers.account import Account
from trio_ai_proxy.providers.base import EVENT_STREAM, UpstreamRequest, encode_body
from trio_ai_proxy.providers.cohere_request import chat_body, embedding_body
from trio_ai_proxy.providers.cohere_stream import CohereDecoder, read_answer
from trio_ai_proxy.providers.error_words import status_error

if TYPE_CHECKING:
    from collections.abc import Mapping

    from trio_ai_proxy.chat.events import Event
    from trio_ai_proxy.chat.request import ChatRequest
    from trio_ai_proxy.framing.frame import Frame, Framer
    from trio_ai_proxy.pipeline import Stage
    from trio_ai_proxy.providers.base import Authority, Provider
    from trio_ai_proxy.providers.kind import Kind
    from trio_ai_proxy.settings import ProviderSettings


class CohereProvider:
    """One account at Cohere. Raises `ConfigError` if it cannot be used as it is configured."""

    wire = "cohere"
    stream_types: tuple[str, ...] = (EVENT_STREAM, "application/stream+json", "application/x-ndjson")
    authority: Authority | None = None

    def __init__(self, settings: ProviderSettings, kind: Kind) -> None:
        account = Account(settings, kind)
        self.name = account.name
        self.kind = account.kind
        self.capabilities = kind.capabilities
        self._chat_url, self._embed_url = account.url("/v2/chat"), account.url("/v2/embed")
        self._body_credential = account.body_credential
        self._scrub = account.scrub
        self._stream_headers = account.headers(EVENT_STREAM)
        self._answer_headers = account.headers("application/json")

    def prepare(self, request: ChatRequest, *, model: str, stream: bool) -> UpstreamRequest:
        if request.operation not in self.capabilities.operations:
            raise InvalidRequest(f"The model `{request.model}` does not serve {request.operation}.", param="model")
        if request.operation == "embeddings":
            body, dropped = embedding_body(request, model=model, provider=self.kind)
            url = self._embed_url
        else:
            body, dropped = chat_body(request, model=model, stream=stream, provider=self.kind)
            url = self._chat_url
        headers = self._stream_headers if stream else self._answer_headers
        return UpstreamRequest("POST", url, headers, encode_body({**body, **self._body_credential}), stream, dropped)

    def framer(self, media_type: str = EVENT_STREAM) -> Framer:
        return NDJSONFramer() if media_type != EVENT_STREAM else _EitherFramer()

    def for_model(self, model: str) -> Provider:
        return self

    def decoder(self, request: ChatRequest) -> Stage[Frame, Event]:
        return CohereDecoder(request, self._scrub)

    def read_answer(self, request: ChatRequest, body: bytes) -> list[Event]:
        return read_answer(request, body, self._scrub)

    def read_error(self, status: int, headers: Mapping[str, str], body: bytes) -> UpstreamStatus:
        return status_error(status, headers, body, self._scrub)


class _EitherFramer:
    """Cuts what is called an event stream. No line of one begins with a brace, so what does is lines of JSON."""

    def __init__(self) -> None:
        self._framer: Framer = SSEFramer()
        self._is_settled = False

    @property
    def alive(self) -> bool:
        return self._framer.alive

    def feed(self, item: bytes) -> list[Frame]:
        if not self._is_settled and item.strip():
            self._is_settled = True
            if item.lstrip()[:1] == b"{":
                self._framer = NDJSONFramer()
        return self._framer.feed(item)

    def close(self) -> list[Frame]:
        return self._framer.close()
