"""Vertex AI: Gemini, and the models of others that Google serves, in one project and location.

The place is settled when a provider is built: `project` and `location` pick host and path, the model stands in the path, escaped.
Which wire is spoken depends on whose model it is; see `vertex_partners` for those that are not Google's.
Source: https://cloud.google.com/vertex-ai/generative-ai/docs/model-reference/inference and, for the hosts,
https://cloud.google.com/vertex-ai/generative-ai/docs/learn/locations
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING
from urllib.parse import quote

from trio_ai_proxy.errors import ConfigError, InvalidRequest, UpstreamStatus
from trio_ai_proxy.framing.json_array import JSONArrayFramer
from trio_ai_proxy.framing.sse import SSEFramer
from trio_ai_proxy.providers.account import Account
from trio_ai_proxy.providers.base import EVENT_STREAM, UpstreamRequest, encode_body
from trio_ai_proxy.providers.gemini_errors import read_error
from trio_ai_proxy.providers.gemini_request import generate_body
from trio_ai_proxy.providers.gemini_stream import GeminiDecoder, read_answer
from trio_ai_proxy.providers.gemini_turns import Flavour
from trio_ai_proxy.providers.gemini_vectors import read_vectors, vertex_body
from trio_ai_proxy.providers.google_auth import METADATA_HOST, MachineAccount, ServiceAccount, private_key_of

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

_WHOLE_NAME = re.compile(r"(?:publishers/)?([a-z0-9-]+)/(?:models/)?(.+)")
_PUBLISHERS = (
    ("claude-", "anthropic"),
    ("mistral-", "mistralai"),
    ("codestral-", "mistralai"),
    ("ministral-", "mistralai"),
)
_SEVERAL_REGIONS = ("us", "eu")


class VertexProvider:
    """One project at Vertex AI. Raises `ConfigError` if it cannot be used as it is configured.

    account  where it is and how a key is presented
    """

    wire = "gemini"
    stream_types: tuple[str, ...] = (EVENT_STREAM, JSON)

    def __init__(self, settings: ProviderSettings, kind: Kind) -> None:
        location = settings.location or ""
        project = settings.project or settings.environment.get("GOOGLE_CLOUD_PROJECT") or ""
        if location and not re.fullmatch(r"[a-z0-9-]+", location):
            raise ConfigError([f"provider '{settings.name}': location is none of Google's (a region, or `global`)"])
        self.account = Account(
            settings,
            kind,
            default_base_url=f"https://{_host(location)}",
            key_header="x-goog-api-key",
            key_prefix="",
            secrets=(private_key_of(settings.service_account),),
        )
        self.name = self.account.name
        self.kind = self.account.kind
        self.capabilities = kind.capabilities
        self.authority: Authority | None = None
        self._tokens: MachineAccount | ServiceAccount | None = None
        has_key = settings.api_key is not None or settings.auth is not None
        if not has_key:
            if settings.service_account is not None:
                self._tokens = account = ServiceAccount(settings.name, settings.service_account)
                project = project or account.project
            else:
                host = settings.environment.get("GCE_METADATA_HOST") or METADATA_HOST
                self._tokens = MachineAccount(settings.name, host)
            self.authority = self._tokens
        self.place = self._place(settings, project, location, has_key=settings.api_key is not None)
        self.stream_headers = self.account.headers(EVENT_STREAM)
        self.answer_headers = self.account.headers(JSON)
        self.version = settings.version
        self._flavour = Flavour(kind=self.kind, call_ids=False, files_url="", needs_type=True, service_tier=False)
        self._views: dict[str, Provider] = {}

    def _place(self, settings: ProviderSettings, project: str, location: str, *, has_key: bool) -> str:
        """Where the paths of models begin."""
        if not project and has_key:
            return "/v1"  # "express mode": the key stands for its project
        lacking = [key for key, value in (("project", project), ("location", location)) if not value]
        if lacking:
            raise ConfigError([f"provider '{settings.name}' of kind '{self.kind}' needs {' and '.join(lacking)}"])
        return f"/v1/projects/{quote(project, safe=':')}/locations/{location}"

    def scrub(self, text: str) -> str:
        """`text` without the account's credentials."""
        text = self.account.scrub(text)
        return text if self._tokens is None else self._tokens.scrub(text)

    def url(self, publisher: str, model: str, method: str, **query: str) -> str:
        """The address of a method of a model."""
        name = quote(model, safe="@")  # a version is written `@20250514`
        return self.account.url(f"{self.place}/publishers/{quote(publisher, safe='')}/models/{name}:{method}", **query)

    @staticmethod
    def publisher_of(model: str) -> tuple[str, str]:
        """Whose model it is, and its name there: as it says itself (`anthropic/claude-…`), else by how its name begins."""
        whole = _WHOLE_NAME.fullmatch(model)
        if whole is not None and whole.group(1) not in ("endpoints", "models", "publishers"):
            return whole.group(1), whole.group(2)
        short = model.removeprefix("models/")
        return next((publisher for prefix, publisher in _PUBLISHERS if short.startswith(prefix)), "google"), short

    def prepare(self, request: ChatRequest, *, model: str, stream: bool) -> UpstreamRequest:
        """See `Provider.prepare`."""
        if request.operation not in self.capabilities.operations:
            raise InvalidRequest(f"The model `{request.model}` does not serve {request.operation}.", param="model")
        _, name = self.publisher_of(model)
        query: dict[str, str] = {}
        if request.operation == "embeddings":
            method, body, dropped = vertex_body(request, model=name, kind=self.kind)
        else:
            body, dropped = generate_body(request, self._flavour, model=name)
            method = "streamGenerateContent" if stream else "generateContent"
            query = {"alt": "sse"} if stream else {}
        if name.startswith("endpoints/"):  # a model that was tuned there
            path = f"{self.place}/endpoints/{quote(name.removeprefix('endpoints/'), safe='')}:{method}"
            url = self.account.url(path, **query)
        else:
            url = self.url("google", name, method, **query)
        return self.send(url, body, dropped, stream=stream)

    def send(self, url: str, body: dict[str, object], dropped: tuple[str, ...], *, stream: bool) -> UpstreamRequest:
        """The request with `body` to `url`, for this account."""
        headers = self.stream_headers if stream else self.answer_headers
        return UpstreamRequest(
            "POST", url, headers, encode_body({**body, **self.account.body_credential}), stream, dropped
        )

    def framer(self, media_type: str = EVENT_STREAM) -> Framer:
        return JSONArrayFramer() if media_type == JSON else SSEFramer()

    def for_model(self, model: str) -> Provider:
        """Itself for Google's models, else what speaks the publisher's wire with the same credential."""
        publisher, _ = self.publisher_of(model)
        if publisher == "google":
            return self
        view = self._views.get(publisher)
        if view is None:
            from trio_ai_proxy.providers.vertex_partners import partner  # other wires, for those who call for them

            view = self._views[publisher] = partner(self, publisher)
        return view

    def decoder(self, request: ChatRequest) -> Stage[Frame, Event]:
        return GeminiDecoder(request, self.scrub)

    def read_answer(self, request: ChatRequest, body: bytes) -> list[Event]:
        if request.operation == "embeddings":
            return read_vectors(body)
        return read_answer(request, body, self.scrub)

    def read_error(self, status: int, headers: Mapping[str, str], body: bytes) -> UpstreamStatus:
        return read_error(status, headers, body, self.scrub)


def _host(location: str) -> str:
    if location in ("", "global"):
        return "aiplatform.googleapis.com"
    if location in _SEVERAL_REGIONS:
        return f"aiplatform.{location}.rep.googleapis.com"
    return f"{location}-aiplatform.googleapis.com"
