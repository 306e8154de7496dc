"""OpenAI's wire: chat completions and completions, of OpenAI and of the many that speak as it does.

What goes out is the client's own JSON object with the fields that are ours to say: the model, whether it is a stream,
and that usage shall be reported. Where it goes, and with which credential, is settled when the provider is built.
Source: https://platform.openai.com/docs/api-reference/chat/create
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import msgspec

from trio_ai_proxy import __version__
from trio_ai_proxy.errors import ConfigError, InvalidRequest, UpstreamStatus
from trio_ai_proxy.framing.sse import SSEFramer
from trio_ai_proxy.providers.base import UpstreamRequest
from trio_ai_proxy.providers.openai_errors import scrubber, status_error
from trio_ai_proxy.providers.openai_stream import OpenAIDecoder, read_answer

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from trio_ai_proxy.chat.events import Event
    from trio_ai_proxy.chat.request import ChatRequest, Operation
    from trio_ai_proxy.framing.frame import Frame, Framer
    from trio_ai_proxy.pipeline import Stage
    from trio_ai_proxy.providers.kind import Kind
    from trio_ai_proxy.settings import ProviderSettings

_PATHS: Mapping[Operation, str] = {"chat": "/chat/completions", "completions": "/completions"}
_MIN_SECRET_HEADER = 16  # a configured header's value of this length may be a credential, and is taken out of errors

_encode = msgspec.json.Encoder().encode


class OpenAIProvider:
    """One account at one service of OpenAI's wire. Raises `ConfigError` if it cannot be used as it is configured."""

    wire = "openai"

    def __init__(self, settings: ProviderSettings, kind: Kind) -> None:
        base_url = settings.base_url or kind.default_base_url
        if base_url is None:
            raise ConfigError([f"provider '{settings.name}' of kind '{kind.name}' needs a base_url"])
        self.name = settings.name
        self.kind = kind.name
        self.capabilities = kind.capabilities
        self._urls = {operation: _url(base_url, path, settings) for operation, path in _PATHS.items()}
        self._body_credential = _body_credential(settings)
        self._stream_headers = _headers(settings, "text/event-stream")
        self._answer_headers = _headers(settings, "application/json")
        self._scrub = scrubber(_credentials(settings))

    def prepare(self, request: ChatRequest, *, model: str, stream: bool) -> UpstreamRequest:
        """See `Provider.prepare`. Raises `InvalidRequest` also for a body too deep to be written again."""
        if request.operation not in self.capabilities.operations:
            raise InvalidRequest(f"The model `{request.model}` does not serve {request.operation}.", param="model")
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
        fields.update(self._body_credential)
        try:
            body = _encode(fields)
        except RecursionError as error:
            raise InvalidRequest("The request body is nested too deeply to be passed on.") from error
        headers = self._stream_headers if stream else self._answer_headers
        return UpstreamRequest("POST", self._urls[request.operation], headers, body, stream)

    def framer(self) -> Framer:
        return SSEFramer()

    def decoder(self, operation: Operation) -> Stage[Frame, Event]:
        return OpenAIDecoder(operation, self._scrub)

    def read_answer(self, operation: Operation, body: bytes) -> list[Event]:
        return read_answer(operation, body, self._scrub)

    def read_error(self, status: int, headers: Mapping[str, str], body: bytes) -> UpstreamStatus:
        return status_error(status, headers, body, self._scrub)


def _url(base_url: str, path: str, settings: ProviderSettings) -> str:
    base, _, query = base_url.partition("?")
    parameters = [query] if query else []
    auth = settings.auth
    if auth is not None and auth.param_location == "query" and auth.param_name and auth.param_value is not None:
        parameters.append(f"{quote(auth.param_name, safe='')}={quote(auth.param_value.reveal(), safe='')}")
    return base.rstrip("/") + path + ("?" + "&".join(parameters) if parameters else "")


def _body_credential(settings: ProviderSettings) -> dict[str, Any]:
    auth = settings.auth
    if auth is not None and auth.param_location == "body" and auth.param_name and auth.param_value is not None:
        return {auth.param_name: auth.param_value.reveal()}
    return {}


def _headers(settings: ProviderSettings, accept: str) -> tuple[tuple[bytes, bytes], ...]:
    """A configured header takes the place of ours of the same name; the credential takes the place of both."""
    headers = {
        "content-type": "application/json",
        "accept": accept,
        "accept-encoding": "identity",  # a compressed stream would have to be taken apart to be read
        "user-agent": f"trio-ai-proxy/{__version__}",
    }
    headers.update({name.lower(): value for name, value in settings.headers.items()})
    auth = settings.auth
    if auth is not None and auth.header_name and auth.header_value is not None:
        headers[auth.header_name.lower()] = auth.header_value.reveal()
    elif settings.api_key is not None:
        headers["authorization"] = f"Bearer {settings.api_key.reveal()}"
    try:
        return tuple((name.encode("ascii"), value.encode("latin-1")) for name, value in headers.items())
    except UnicodeEncodeError:
        # Without `from`: the cause would carry the credential.
        raise ConfigError([f"provider '{settings.name}': a header or credential is not Latin-1 text"]) from None


def _credentials(settings: ProviderSettings) -> Iterator[str]:
    if settings.api_key is not None:
        yield settings.api_key.reveal()
    auth = settings.auth
    if auth is not None:
        for secret in (auth.header_value, auth.param_value):
            if secret is not None:
                yield secret.reveal()
                yield from secret.reveal().split()  # "Bearer …": an error may show the second word alone
    yield from (value for value in settings.headers.values() if len(value) >= _MIN_SECRET_HEADER)
