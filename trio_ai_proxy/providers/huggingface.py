"""Hugging Face: its router, and servers of one's own that run its software.

At the router a chat is OpenAI's, whoever serves the model, and texts and vectors are those of Hugging Face's own inference,
where the model's name is part of the path. At any other address there is one model: an Inference Endpoint or a container of
Text Generation Inference or Text Embeddings Inference, with their documented paths.

Source: https://huggingface.co/docs/inference-providers and https://huggingface.co/docs/text-generation-inference
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from urllib.parse import quote, urlsplit

import msgspec

from trio_ai_proxy.chat.reading import read_prompt
from trio_ai_proxy.errors import InvalidRequest, UpstreamStatus
from trio_ai_proxy.framing.sse import SSEFramer
from trio_ai_proxy.providers.account import Account
from trio_ai_proxy.providers.base import EVENT_STREAM, UpstreamRequest, encode_body
from trio_ai_proxy.providers.error_words import status_error
from trio_ai_proxy.providers.huggingface_request import chat_body, embedding_body, text_body
from trio_ai_proxy.providers.huggingface_stream import (
    ChatDecoder,
    TextDecoder,
    error_text,
    read_chat,
    read_text,
    read_vectors,
)
from trio_ai_proxy.providers.loose import read_object

if TYPE_CHECKING:
    from collections.abc import Mapping

    from trio_ai_proxy.chat.events import Event
    from trio_ai_proxy.chat.request import ChatRequest
    from trio_ai_proxy.framing.frame import Frame, Framer
    from trio_ai_proxy.pipeline import Stage
    from trio_ai_proxy.providers.base import Authority, Provider
    from trio_ai_proxy.providers.kind import Kind
    from trio_ai_proxy.settings import ProviderSettings


class HuggingFaceProvider:
    """One account at Hugging Face, or one server. Raises `ConfigError` if it cannot be used as it is configured."""

    wire = "huggingface"
    stream_types: tuple[str, ...] = (EVENT_STREAM,)
    authority: Authority | None = None

    def __init__(self, settings: ProviderSettings, kind: Kind) -> None:
        self._options = {
            name: value
            for name, value in (("use_cache", settings.use_cache), ("wait_for_model", settings.wait_for_model))
            if value is not None
        }
        # The service reads them in the head; Kong says them in the body, which older servers read.
        headers = {f"x-{name.replace('_', '-')}": str(value).lower() for name, value in self._options.items()}
        account = Account(settings, kind, headers=headers)
        self.name = account.name
        self.kind = account.kind
        self.capabilities = kind.capabilities
        self._account = account
        self._is_router = urlsplit(account.base_url).hostname == urlsplit(kind.default_base_url or "").hostname
        self._scrub = account.scrub
        self._stream_headers = account.headers(EVENT_STREAM)
        self._answer_headers = account.headers("application/json")

    def prepare(self, request: ChatRequest, *, model: str, stream: bool) -> UpstreamRequest:
        if request.operation not in self.capabilities.operations:
            raise InvalidRequest(f"The model `{request.model}` does not serve {request.operation}.", param="model")
        body, dropped, path = self._translate(request, model, stream=stream)
        headers = self._stream_headers if stream else self._answer_headers
        whole = encode_body({**body, **self._account.body_credential})
        return UpstreamRequest("POST", self._account.url(path), headers, whole, stream, dropped)

    def _translate(
        self, request: ChatRequest, model: str, *, stream: bool
    ) -> tuple[dict[str, Any], tuple[str, ...], str]:
        if request.operation == "chat":
            return chat_body(request, model=model, stream=stream), (), "/v1/chat/completions"
        if request.operation == "completions":
            body, dropped = text_body(request, stream=stream, provider=self.kind)
            path = _model_path(model) if self._is_router else "/generate_stream" if stream else "/generate"
        else:
            body, dropped = embedding_body(request, provider=self.kind)
            path = f"{_model_path(model)}/pipeline/feature-extraction" if self._is_router else "/"
        return {**body, "options": self._options} if self._options else body, dropped, path

    def framer(self, media_type: str = EVENT_STREAM) -> Framer:
        return SSEFramer()

    def for_model(self, model: str) -> Provider:
        return self

    def decoder(self, request: ChatRequest) -> Stage[Frame, Event]:
        if request.operation == "chat":
            return ChatDecoder(request, self._scrub)
        return TextDecoder(read_prompt(request).stop, self._scrub)

    def read_answer(self, request: ChatRequest, body: bytes) -> list[Event]:
        if request.operation == "chat":
            return read_chat(request, body, self._scrub)
        if request.operation == "completions":
            return read_text(body, read_prompt(request).stop, self._scrub)
        return read_vectors(body, self._scrub)

    def read_error(self, status: int, headers: Mapping[str, str], body: bytes) -> UpstreamStatus:
        payload = read_object(body) or {}
        words, seconds = payload.get("error"), payload.get("estimated_time")
        if isinstance(words, list):
            body = msgspec.json.encode({**payload, "error": error_text(words)})
        error = status_error(status, headers, body, self._scrub)
        # How long a model will still be loaded stands in the body alone.
        if error.retry_after is None and isinstance(seconds, int | float) and 0 <= seconds < 86_400:
            error.retry_after = float(seconds)
        return error


def _model_path(model: str) -> str:
    """Where Hugging Face's own inference has `model` ("owner/name"). Raises `InvalidRequest` for a name that would lead
    elsewhere."""
    steps = model.split("/")
    if any(step in ("", ".", "..") for step in steps):
        raise InvalidRequest("The provider has no model of that name.", param="model", code="model_not_found")
    return "/hf-inference/models/" + "/".join(quote(step, safe="") for step in steps)
