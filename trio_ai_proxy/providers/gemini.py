"""The Gemini API: `generateContent`, its stream, and embeddings, with a key of Google AI Studio.

The model stands in the path, so nothing of it reaches the path unescaped. A stream is asked for as events (`alt=sse`); one
that comes as a JSON array all the same, as from older services in between, is read too.
Source: https://ai.google.dev/api/generate-content and https://ai.google.dev/api/embeddings
"""

from __future__ import annotations

from typing import TYPE_CHECKING
from urllib.parse import quote

from trio_ai_proxy.errors import InvalidRequest, UpstreamStatus
from trio_ai_proxy.framing.json_array import JSONArrayFramer
from trio_ai_proxy.framing.sse import SSEFramer
from trio_ai_proxy.providers.account import Account
from trio_ai_proxy.providers.base import EVENT_STREAM, UpstreamRequest, encode_body
from trio_ai_proxy.providers.gemini_errors import read_error
from trio_ai_proxy.providers.gemini_request import generate_body
from trio_ai_proxy.providers.gemini_stream import GeminiDecoder, read_answer
from trio_ai_proxy.providers.gemini_turns import Flavour
from trio_ai_proxy.providers.gemini_vectors import batch_body, read_vectors

if TYPE_CHECKING:
    from collections.abc import Mapping

    from trio_ai_proxy.chat.events import Event
    from trio_ai_proxy.chat.request import ChatRequest
    from trio_ai_proxy.framing.frame import Frame, Framer
    from trio_ai_proxy.pipeline import Stage
    from trio_ai_proxy.providers.base import Authority, Provider
    from trio_ai_proxy.providers.kind import Kind
    from trio_ai_proxy.settings import ProviderSettings

JSON = "application/json"
STREAM_TYPES = (EVENT_STREAM, JSON)


class GeminiProvider:
    """One account at the Gemini API. Raises `ConfigError` if it cannot be used as it is configured."""

    wire = "gemini"
    stream_types: tuple[str, ...] = STREAM_TYPES
    authority: Authority | None = None

    def __init__(self, settings: ProviderSettings, kind: Kind) -> None:
        account = Account(settings, kind, key_header="x-goog-api-key", key_prefix="")
        self.name = account.name
        self.kind = account.kind
        self.capabilities = kind.capabilities
        self._account = account
        self._flavour = Flavour(
            kind=account.kind,
            call_ids=True,
            files_url=f"{account.base_url}/v1beta/",
            needs_type=False,
            service_tier=True,
        )
        self._stream_headers = account.headers(EVENT_STREAM)
        self._answer_headers = account.headers(JSON)

    def prepare(self, request: ChatRequest, *, model: str, stream: bool) -> UpstreamRequest:
        """See `Provider.prepare`."""
        if request.operation not in self.capabilities.operations:
            raise InvalidRequest(f"The model `{request.model}` does not serve {request.operation}.", param="model")
        collection, short = _named(model)
        path = f"/v1beta/{collection}/{quote(short, safe='')}"
        if request.operation == "embeddings":
            body, dropped = batch_body(request, name=f"{collection}/{short}", kind=self.kind)
            url = self._account.url(f"{path}:batchEmbedContents")
        else:
            body, dropped = generate_body(request, self._flavour, model=short)
            if stream:
                url = self._account.url(f"{path}:streamGenerateContent", alt="sse")
            else:
                url = self._account.url(f"{path}:generateContent")
        headers = self._stream_headers if stream else self._answer_headers
        body.update(self._account.body_credential)
        return UpstreamRequest("POST", url, headers, encode_body(body), stream, dropped)

    def framer(self, media_type: str = EVENT_STREAM) -> Framer:
        return JSONArrayFramer() if media_type == JSON else SSEFramer()

    def for_model(self, model: str) -> Provider:
        return self

    def decoder(self, request: ChatRequest) -> Stage[Frame, Event]:
        return GeminiDecoder(request, self._account.scrub)

    def read_answer(self, request: ChatRequest, body: bytes) -> list[Event]:
        if request.operation == "embeddings":
            return read_vectors(body)
        return read_answer(request, body, self._account.scrub)

    def read_error(self, status: int, headers: Mapping[str, str], body: bytes) -> UpstreamStatus:
        return read_error(status, headers, body, self._account.scrub)


def _named(model: str) -> tuple[str, str]:
    """The collection that a model is in, and its name there; a name without a collection is one of Google's models."""
    collection, _, short = model.partition("/")
    return (collection, short) if collection in ("models", "tunedModels") and short else ("models", model)
