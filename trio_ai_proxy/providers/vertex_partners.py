"""The models of others at Vertex AI: each speaks its maker's wire, at Google's address and with Google's credential.

Claude takes Anthropic's body without the model, and the version in it in place of a header; Mistral's models take Mistral's
body; whoever else publishes there is reached by the one address that speaks OpenAI's wire.
Source: https://cloud.google.com/vertex-ai/generative-ai/docs/partner-models/use-partner-models
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from trio_ai_proxy.errors import InvalidRequest, UpstreamStatus
from trio_ai_proxy.framing.sse import SSEFramer
from trio_ai_proxy.providers.anthropic_request import messages_body
from trio_ai_proxy.providers.anthropic_stream import AnthropicDecoder
from trio_ai_proxy.providers.anthropic_stream import read_answer as read_anthropic
from trio_ai_proxy.providers.base import EVENT_STREAM, UpstreamRequest
from trio_ai_proxy.providers.gemini_errors import read_error
from trio_ai_proxy.providers.mistral_request import chat_body, fills_in, fim_body
from trio_ai_proxy.providers.mistral_stream import MistralDecoder
from trio_ai_proxy.providers.mistral_stream import read_answer as read_mistral
from trio_ai_proxy.providers.openai_stream import OpenAIDecoder
from trio_ai_proxy.providers.openai_stream import read_answer as read_openai

if TYPE_CHECKING:
    from collections.abc import Mapping

    from trio_ai_proxy.chat.events import Event
    from trio_ai_proxy.chat.request import ChatRequest, Operation
    from trio_ai_proxy.framing.frame import Frame, Framer
    from trio_ai_proxy.pipeline import Stage
    from trio_ai_proxy.providers.base import Provider
    from trio_ai_proxy.providers.vertex import VertexProvider

ANTHROPIC_VERSION = "vertex-2023-10-16"

_WRITTEN: frozenset[Operation] = frozenset({"chat", "completions"})
_CHAT_ALONE: frozenset[Operation] = frozenset({"chat"})


def partner(home: VertexProvider, publisher: str) -> Provider:
    """`home`'s account for the models of `publisher`."""
    match publisher:
        case "anthropic":
            return Claude(home)
        case "mistralai":
            return Mistral(home)
        case _:
            return OpenModel(home)


class _Partner:
    """What they have in common: Google's account, and Google's errors where the maker did not come to a word."""

    stream_types: tuple[str, ...] = (EVENT_STREAM,)
    operations = _WRITTEN

    def __init__(self, home: VertexProvider) -> None:
        self.name = home.name
        self.kind = home.kind
        self.authority = home.authority
        self.capabilities = replace(home.capabilities, operations=self.operations)
        self._home = home

    def _check(self, request: ChatRequest) -> None:
        if request.operation not in self.operations:
            raise InvalidRequest(f"The model `{request.model}` does not serve {request.operation}.", param="model")

    def _send(
        self, publisher: str, model: str, body: dict[str, Any], dropped: tuple[str, ...], *, stream: bool
    ) -> UpstreamRequest:
        url = self._home.url(publisher, model, "streamRawPredict" if stream else "rawPredict")
        return self._home.send(url, body, dropped, stream=stream)

    def framer(self, media_type: str = EVENT_STREAM) -> Framer:
        return SSEFramer()

    def for_model(self, model: str) -> Provider:
        return self._home.for_model(model)

    def read_error(self, status: int, headers: Mapping[str, str], body: bytes) -> UpstreamStatus:
        return read_error(status, headers, body, self._home.scrub)


class Claude(_Partner):
    """Anthropic's models."""

    wire = "anthropic"

    def prepare(self, request: ChatRequest, *, model: str, stream: bool) -> UpstreamRequest:
        """See `Provider.prepare`."""
        self._check(request)
        _, name = self._home.publisher_of(model)
        fields, dropped = messages_body(
            request, model=None, stream=stream, provider=self.kind, model_name=name.replace("@", "-")
        )
        body = {"anthropic_version": self._home.version or ANTHROPIC_VERSION, **fields}
        return self._send("anthropic", name, body, dropped, stream=stream)

    def decoder(self, request: ChatRequest) -> Stage[Frame, Event]:
        return AnthropicDecoder(request, self._home.scrub)

    def read_answer(self, request: ChatRequest, body: bytes) -> list[Event]:
        return read_anthropic(request, body, self._home.scrub)


class Mistral(_Partner):
    """Mistral's models. A completion with a `suffix` is their fill-in-the-middle, at the same address."""

    wire = "mistral"

    def prepare(self, request: ChatRequest, *, model: str, stream: bool) -> UpstreamRequest:
        """See `Provider.prepare`."""
        self._check(request)
        _, name = self._home.publisher_of(model)
        write = fim_body if fills_in(request) else chat_body
        body, dropped = write(request, model=name, stream=stream, provider=self.kind)
        return self._send("mistralai", name, body, dropped, stream=stream)

    def decoder(self, request: ChatRequest) -> Stage[Frame, Event]:
        return MistralDecoder(request, self._home.scrub)

    def read_answer(self, request: ChatRequest, body: bytes) -> list[Event]:
        return read_mistral(request, body, self._home.scrub)


class OpenModel(_Partner):
    """The open models that Google serves (`meta/…`, `deepseek-ai/…`), which speak OpenAI's wire."""

    wire = "openai"
    operations = _CHAT_ALONE

    def prepare(self, request: ChatRequest, *, model: str, stream: bool) -> UpstreamRequest:
        """See `Provider.prepare`."""
        self._check(request)
        body = dict(request.fields)
        options = body.pop("stream_options", None)
        publisher, name = self._home.publisher_of(model)
        body |= {"model": f"{publisher}/{name}", "stream": stream}
        if stream:
            body["stream_options"] = {**(options or {}), "include_usage": True}
        url = self._home.account.url(f"{self._home.place}/endpoints/openapi/chat/completions")
        return self._home.send(url, body, (), stream=stream)

    def decoder(self, request: ChatRequest) -> Stage[Frame, Event]:
        return OpenAIDecoder(request.operation, self._home.scrub)

    def read_answer(self, request: ChatRequest, body: bytes) -> list[Event]:
        return read_openai(request.operation, body, self._home.scrub)
