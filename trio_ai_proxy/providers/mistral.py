"""Mistral's own service: its chat, fill-in-the-middle, embeddings and moderations.

It speaks OpenAI's wire with words of its own, see `mistral_request` and `mistral_stream`. A server that one runs oneself and
that speaks OpenAI's or Ollama's wire to the letter is said by `format`, and other classes speak to it.
Source: https://docs.mistral.ai/api
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from trio_ai_proxy.errors import InvalidRequest, UpstreamStatus
from trio_ai_proxy.framing.sse import SSEFramer
from trio_ai_proxy.providers.account import Account
from trio_ai_proxy.providers.base import EVENT_STREAM, UpstreamRequest, encode_body
from trio_ai_proxy.providers.error_words import status_error
from trio_ai_proxy.providers.loose import read_object
from trio_ai_proxy.providers.mistral_request import (
    chat_body,
    embedding_body,
    fills_in,
    fim_body,
    moderation_body,
)  # fmt: skip
from trio_ai_proxy.providers.mistral_stream import MistralDecoder, read_answer

if TYPE_CHECKING:
    from collections.abc import Mapping

    from trio_ai_proxy.chat.events import Event
    from trio_ai_proxy.chat.request import ChatRequest
    from trio_ai_proxy.framing.frame import Frame, Framer
    from trio_ai_proxy.pipeline import Stage
    from trio_ai_proxy.providers.base import Authority, Provider
    from trio_ai_proxy.providers.kind import Kind
    from trio_ai_proxy.settings import ProviderSettings


class MistralProvider:
    """One account at Mistral. Raises `ConfigError` if it cannot be used as it is configured."""

    wire = "mistral"
    stream_types: tuple[str, ...] = (EVENT_STREAM,)
    authority: Authority | None = None

    def __init__(self, settings: ProviderSettings, kind: Kind) -> None:
        account = Account(settings, kind)
        self.name = account.name
        self.kind = account.kind
        self.capabilities = kind.capabilities
        self._chat_url = account.url("/chat/completions")
        self._fim_url = account.url("/fim/completions")
        self._embed_url = account.url("/embeddings")
        self._judge_url = account.url("/moderations")
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
        elif request.operation == "moderations":
            body, dropped = moderation_body(request, model=model, provider=self.kind)
            url = self._judge_url
        elif fills_in(request):
            body, dropped = fim_body(request, model=model, stream=stream, provider=self.kind)
            url = self._fim_url
        else:
            body, dropped = chat_body(request, model=model, stream=stream, provider=self.kind)
            url = self._chat_url
        headers = self._stream_headers if stream else self._answer_headers
        return UpstreamRequest("POST", url, headers, encode_body({**body, **self._body_credential}), stream, dropped)

    def framer(self, media_type: str = EVENT_STREAM) -> Framer:
        return SSEFramer()

    def for_model(self, model: str) -> Provider:
        return self

    def decoder(self, request: ChatRequest) -> Stage[Frame, Event]:
        return MistralDecoder(request, self._scrub)

    def read_answer(self, request: ChatRequest, body: bytes) -> list[Event]:
        return read_answer(request, body, self._scrub)

    def read_error(self, status: int, headers: Mapping[str, str], body: bytes) -> UpstreamStatus:
        # What is wrong with which field stands in FastAPI's form, at the top or in place of the message.
        payload = read_object(body)
        message = payload.get("message") if payload is not None else None
        if payload is not None and isinstance(message, dict) and "detail" in message:
            body = msgspec.json.encode({**payload, "message": None, "detail": message["detail"]})
        return status_error(status, headers, body, self._scrub)
