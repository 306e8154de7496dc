"""Anthropic's Messages API: Claude at its maker, and other servers that speak as it does.

A completion is asked for as a chat of one message. Where it goes, which version of the API it is and with which credential
is settled when the provider is built.

Source: https://platform.claude.com/docs/en/api/messages/create
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from trio_ai_proxy.errors import InvalidRequest, UpstreamStatus
from trio_ai_proxy.framing.sse import SSEFramer
from trio_ai_proxy.providers.account import Account
from trio_ai_proxy.providers.anthropic_request import FATES, messages_body
from trio_ai_proxy.providers.anthropic_stream import AnthropicDecoder, read_answer
from trio_ai_proxy.providers.base import EVENT_STREAM, UpstreamRequest, encode_body
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

__all__ = ["FATES", "AnthropicProvider"]

DEFAULT_VERSION = "2023-06-01"
# From this version on, `temperature`, `top_p` and `top_k` are errors, whatever the model: the reason why it is not the
# default. Source: https://platform.claude.com/docs/en/api/versioning
_WITHOUT_SAMPLING = "2026-10-21"


class AnthropicProvider:
    """One account at one service of the Messages API. Raises `ConfigError` if it cannot be used as it is configured."""

    wire = "anthropic"
    stream_types: tuple[str, ...] = (EVENT_STREAM,)
    authority: Authority | None = None

    def __init__(self, settings: ProviderSettings, kind: Kind) -> None:
        version = settings.version or DEFAULT_VERSION
        headers = {"anthropic-version": version}
        if settings.beta:
            headers["anthropic-beta"] = ",".join(settings.beta)
        account = Account(settings, kind, key_header="x-api-key", key_prefix="", headers=headers)
        self.name = account.name
        self.kind = account.kind
        self.capabilities = kind.capabilities
        self._sampling = version < _WITHOUT_SAMPLING  # dates in order of time are in order of letters
        self._url = account.url("/v1/messages")
        self._body_credential = account.body_credential
        self._stream_headers = account.headers(EVENT_STREAM)
        self._answer_headers = account.headers("application/json")
        self._scrub = account.scrub

    def prepare(self, request: ChatRequest, *, model: str, stream: bool) -> UpstreamRequest:
        """See `Provider.prepare`."""
        if request.operation not in self.capabilities.operations:
            raise InvalidRequest(f"The model `{request.model}` does not serve {request.operation}.", param="model")
        fields, dropped = messages_body(
            request, model=model, stream=stream, provider=self.kind, sampling=self._sampling
        )
        headers = self._stream_headers if stream else self._answer_headers
        body = encode_body(fields | self._body_credential)
        return UpstreamRequest("POST", self._url, headers, body, stream, dropped)

    def framer(self, media_type: str = EVENT_STREAM) -> Framer:
        return SSEFramer()

    def for_model(self, model: str) -> Provider:
        return self

    def decoder(self, request: ChatRequest) -> Stage[Frame, Event]:
        return AnthropicDecoder(request, self._scrub)

    def read_answer(self, request: ChatRequest, body: bytes) -> list[Event]:
        return read_answer(request, body, self._scrub)

    def read_error(self, status: int, headers: Mapping[str, str], body: bytes) -> UpstreamStatus:
        return status_error(status, headers, body, self._scrub)
