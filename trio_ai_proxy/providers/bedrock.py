"""Amazon Bedrock: Converse and ConverseStream for every model that chats, InvokeModel for embeddings.

A request is signed (SigV4) with a key found as the AWS SDKs find theirs, unless the account has a Bedrock API key, which is
presented as a bearer token. The model's name is one segment of the path, so that an ARN's slashes are escaped.
Source: https://docs.aws.amazon.com/bedrock/latest/APIReference/API_runtime_ConverseStream.html
"""

from __future__ import annotations

import re
from dataclasses import replace
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import msgspec

from trio_ai_proxy.errors import ConfigError, InvalidRequest, UpstreamStatus
from trio_ai_proxy.framing.event_stream import EventStreamFramer
from trio_ai_proxy.providers.account import Account
from trio_ai_proxy.providers.aws_credentials import AwsAuthority
from trio_ai_proxy.providers.base import EVENT_STREAM, UpstreamRequest
from trio_ai_proxy.providers.bedrock_embeddings import invoke, read_embeddings
from trio_ai_proxy.providers.bedrock_models import model_of
from trio_ai_proxy.providers.bedrock_request import answer_tool_of, converse
from trio_ai_proxy.providers.bedrock_stream import BedrockDecoder, read_converse
from trio_ai_proxy.providers.error_words import status_error
from trio_ai_proxy.providers.loose import a_text, read_object
from trio_ai_proxy.settings import Secret

if TYPE_CHECKING:
    from collections.abc import Mapping

    from trio_ai_proxy.chat.events import Event
    from trio_ai_proxy.chat.request import ChatRequest
    from trio_ai_proxy.framing.frame import Frame, Framer
    from trio_ai_proxy.pipeline import Stage
    from trio_ai_proxy.providers.base import Authority, Provider
    from trio_ai_proxy.providers.kind import Kind
    from trio_ai_proxy.settings import ProviderSettings

AWS_EVENT_STREAM = "application/vnd.amazon.eventstream"

_REGION = re.compile(r"[a-z0-9-]{1,40}").fullmatch
_REGION_OF_HOST = re.compile(
    r"https?://[^/]*\bbedrock-runtime(?:-fips)?\.([a-z0-9-]+)\.(?:amazonaws\.com|api\.aws)"
).match
_BEARER = "AWS_BEARER_TOKEN_BEDROCK"
_KEY_REFUSED = frozenset({"ExpiredTokenException", "ExpiredToken", "UnrecognizedClientException"})


class BedrockProvider:
    """One account in one region. Raises `ConfigError` if it cannot be used as it is configured."""

    wire = "bedrock"
    stream_types: tuple[str, ...] = (AWS_EVENT_STREAM,)

    def __init__(self, settings: ProviderSettings, kind: Kind) -> None:
        settings = _with_bearer(settings)
        region = _region(settings)
        suffix = ".cn" if region.startswith("cn-") else ""
        account = Account(
            settings,
            kind,
            default_base_url=f"https://bedrock-runtime.{region}.amazonaws.com{suffix}" if region else None,
            secrets=(settings.secret_access_key, settings.session_token),
        )
        self.name = account.name
        self.kind = account.kind
        self.capabilities = kind.capabilities
        self.authority: Authority | None = None
        self._signer: AwsAuthority | None = None
        if settings.api_key is None and settings.auth is None:
            if not region:
                raise ConfigError([f"provider '{settings.name}' of kind '{kind.name}' needs a region"])
            self.authority = self._signer = AwsAuthority(settings, region=region, service="bedrock")
        self._account = account
        self._stream_headers = account.headers(AWS_EVENT_STREAM)
        self._answer_headers = account.headers("application/json")

    def prepare(self, request: ChatRequest, *, model: str, stream: bool) -> UpstreamRequest:
        """See `Provider.prepare`."""
        if request.operation == "embeddings":
            body, dropped = invoke(request, model, kind=self.kind)
            action, stream = "invoke", False
        else:
            body, dropped = converse(request, model_of(model), kind=self.kind)
            action = "converse-stream" if stream else "converse"
        if self._account.body_credential:
            body = msgspec.json.encode({**msgspec.json.decode(body), **self._account.body_credential})
        headers = self._stream_headers if stream else self._answer_headers
        url = self._account.url(f"/model/{_segment(model)}/{action}")
        return UpstreamRequest("POST", url, headers, body, stream, dropped)

    def framer(self, media_type: str = EVENT_STREAM) -> Framer:
        return EventStreamFramer()

    def for_model(self, model: str) -> Provider:
        return self

    def decoder(self, request: ChatRequest) -> Stage[Frame, Event]:
        return BedrockDecoder(answer_tool_of(request), self._scrub)

    def read_answer(self, request: ChatRequest, body: bytes) -> list[Event]:
        if request.operation == "embeddings":
            return read_embeddings(body, self._scrub)
        return read_converse(body, answer_tool_of(request), self._scrub)

    def read_error(self, status: int, headers: Mapping[str, str], body: bytes) -> UpstreamStatus:
        """AWS names the error in a header or in `__type`, and its words in `message` or `Message`."""
        fields = read_object(body)
        if fields is None:
            return status_error(status, headers, body, self._scrub)
        lowered = {name.lower(): value for name, value in headers.items()}
        kind = lowered.get("x-amzn-errortype") or a_text(fields.get("__type")) or a_text(fields.get("code"))
        name = kind.partition(":")[0].rpartition("#")[2]
        if self._signer is not None and name in _KEY_REFUSED:
            self._signer.reject()
        words: Any = fields.get("message") or fields.get("Message") or fields.get("originalMessage")
        if not words and fields.get("error"):  # who stands in for AWS may speak as others do
            return status_error(status, headers, body, self._scrub)
        said = {key: value for key, value in (("message", words), ("type", name)) if value}
        return status_error(status, headers, msgspec.json.encode(said), self._scrub)

    def _scrub(self, text: str) -> str:
        text = self._account.scrub(text)
        return text if self._signer is None else self._signer.scrub(text)


def _segment(model: str) -> str:
    """The model's name as one segment of a path."""
    if not model.strip("."):
        raise InvalidRequest("There is no model of that name at Bedrock.", param="model")
    return quote(model, safe="")


def _with_bearer(settings: ProviderSettings) -> ProviderSettings:
    """`settings` with the environment's Bedrock API key, where they give no credential of their own."""
    token = settings.environment.get(_BEARER)
    given = (
        settings.api_key, settings.auth, settings.access_key_id, settings.secret_access_key, settings.profile,
        settings.role_arn,
    )  # fmt: skip
    if not token or any(one is not None for one in given):
        return settings
    return replace(settings, api_key=Secret(token, _BEARER))


def _region(settings: ProviderSettings) -> str:
    """The region: as configured, else where the address says, else the environment's; "" if nobody says."""
    region = settings.region
    if region is None and settings.base_url is not None and (found := _REGION_OF_HOST(settings.base_url)):
        region = found[1]
    environment = settings.environment
    region = region or environment.get("AWS_REGION") or environment.get("AWS_DEFAULT_REGION") or ""
    if region and not _REGION(region):
        raise ConfigError([f"provider '{settings.name}': '{region}' is no AWS region"])
    return region
