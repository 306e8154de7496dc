"""OpenAI's wire: chat completions, completions, embeddings and moderations, of OpenAI and of the many that speak as it does.

What goes out is the client's own JSON object with the fields that are ours to say: the model, whether it is a stream,
and that usage shall be reported. Where it goes, and with which credential, is settled when the provider is built.
Source: https://platform.openai.com/docs/api-reference/chat/create
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from trio_ai_proxy.errors import InvalidRequest, UpstreamStatus
from trio_ai_proxy.framing.sse import SSEFramer
from trio_ai_proxy.providers.account import Account
from trio_ai_proxy.providers.base import EVENT_STREAM, UpstreamRequest, encode_body
from trio_ai_proxy.providers.error_words import status_error
from trio_ai_proxy.providers.openai_stream import OpenAIDecoder, read_answer

if TYPE_CHECKING:
    from collections.abc import Mapping

    from trio_ai_proxy.chat.events import Event
    from trio_ai_proxy.chat.request import ChatRequest, Operation
    from trio_ai_proxy.framing.frame import Frame, Framer
    from trio_ai_proxy.pipeline import Stage
    from trio_ai_proxy.providers.base import Authority, Provider
    from trio_ai_proxy.providers.kind import Kind
    from trio_ai_proxy.settings import ProviderSettings

PATHS: Mapping[Operation, str] = {
    "chat": "/chat/completions",
    "completions": "/completions",
    "embeddings": "/embeddings",
    "moderations": "/moderations",
}


class OpenAIProvider:
    """One account at one service of OpenAI's wire. Raises `ConfigError` if it cannot be used as it is configured."""

    wire = "openai"
    stream_types: tuple[str, ...] = (EVENT_STREAM,)
    authority: Authority | None = None

    def __init__(self, settings: ProviderSettings, kind: Kind, account: Account | None = None) -> None:
        """`account` is for a service that presents its credential in another way than OpenAI."""
        account = account or Account(settings, kind)
        self.name = account.name
        self.kind = account.kind
        self.capabilities = kind.capabilities
        self._urls = {operation: account.url(path) for operation, path in PATHS.items()}
        self._body_credential = account.body_credential
        self._stream_headers = account.headers(EVENT_STREAM)
        self._answer_headers = account.headers("application/json")
        self._scrub = account.scrub

    def prepare(self, request: ChatRequest, *, model: str, stream: bool) -> UpstreamRequest:
        """See `Provider.prepare`."""
        if request.operation not in self.capabilities.operations:
            raise InvalidRequest(f"The model `{request.model}` does not serve {request.operation}.", param="model")
        headers = self._stream_headers if stream else self._answer_headers
        body = encode_body(self._fields(request, model, stream=stream))
        return UpstreamRequest("POST", self._url(request.operation, model), headers, body, stream)

    def _url(self, operation: Operation, model: str) -> str:
        return self._urls[operation]

    def _fields(self, request: ChatRequest, model: str, *, stream: bool) -> dict[str, Any]:
        fields = dict(request.fields)
        fields["model"] = model
        # stream_options without stream is a 400 at OpenAI, and where usage cannot be asked for, the field is not known.
        options = fields.pop("stream_options", None)
        if stream:
            fields["stream"] = True
            if self.capabilities.stream_usage:
                fields["stream_options"] = {**(options or {}), "include_usage": True}
        elif "stream" in fields:
            fields["stream"] = False
        if self.capabilities.max_tokens_only:
            limit = fields.pop("max_completion_tokens", None)
            if limit is not None:
                fields["max_tokens"] = limit
        if not self.capabilities.developer_role and "messages" in fields:
            fields["messages"] = [_without_developer(message) for message in fields["messages"]]
        fields.update(self._body_credential)
        return fields

    def framer(self, media_type: str = EVENT_STREAM) -> Framer:
        return SSEFramer()

    def for_model(self, model: str) -> Provider:
        return self

    def decoder(self, request: ChatRequest) -> Stage[Frame, Event]:
        return OpenAIDecoder(request.operation, self._scrub)

    def read_answer(self, request: ChatRequest, body: bytes) -> list[Event]:
        return read_answer(request.operation, body, self._scrub)

    def read_error(self, status: int, headers: Mapping[str, str], body: bytes) -> UpstreamStatus:
        return status_error(status, headers, body, self._scrub)


def _without_developer(message: Any) -> Any:
    """`message`, said by the system where it is the developer's: the two mean the same, and most services know one."""
    is_developers = isinstance(message, dict) and message.get("role") == "developer"
    return {**message, "role": "system"} if is_developers else message
