"""Azure OpenAI (Microsoft Foundry): OpenAI's wire at addresses of Azure's own, with a key in a header of its own or a token of
Microsoft Entra ID.

There are two sets of addresses. With a dated `api_version` the deployment is in the path; without one, or with a word such as
"preview", it is the v1 interface, where the deployment is the request's model.
Source: https://learn.microsoft.com/azure/ai-foundry/openai/reference and …/openai/api-version-lifecycle
"""

from __future__ import annotations

import re
from dataclasses import replace
from typing import TYPE_CHECKING
from urllib.parse import quote

from typing_extensions import override

from trio_ai_proxy.chat.fields import FIELDS, Fate
from trio_ai_proxy.errors import InvalidRequest
from trio_ai_proxy.providers.account import Account
from trio_ai_proxy.providers.azure_frames import AzureFramer
from trio_ai_proxy.providers.base import EVENT_STREAM
from trio_ai_proxy.providers.entra import build_authority
from trio_ai_proxy.providers.openai import PATHS, OpenAIProvider
from trio_ai_proxy.settings import Secret

if TYPE_CHECKING:
    from collections.abc import Mapping

    from trio_ai_proxy.chat.request import ChatRequest, Operation
    from trio_ai_proxy.framing.frame import Framer
    from trio_ai_proxy.providers.base import UpstreamRequest
    from trio_ai_proxy.providers.kind import Kind
    from trio_ai_proxy.settings import ProviderSettings

FATES: Mapping[str, Fate] = {name: "passed" for fields in FIELDS.values() for name in fields}
"""It is OpenAI's wire: every field goes through, and Azure judges it."""

_DATED = re.compile(r"\d{4}-\d{2}-\d{2}(-preview)?")
_FIRST_WITH_STREAM_OPTIONS = "2024-09-01"  # by the lifecycle page; earlier versions answer 400 to `stream_options`


class AzureProvider(OpenAIProvider):
    """One resource of Azure OpenAI. The target's model is the deployment, unless the settings name one."""

    def __init__(self, settings: ProviderSettings, kind: Kind) -> None:
        if settings.base_url is not None:
            # What the portal shows for OpenAI's own SDK ends so.
            settings = replace(settings, base_url=settings.base_url.rstrip("/").removesuffix("/openai/v1"))
        authority = build_authority(settings)
        account = Account(
            settings,
            kind,
            default_base_url=f"https://{settings.instance}.openai.azure.com" if settings.instance else None,
            key_header="api-key",
            key_prefix="",
            secrets=_secrets(settings),
        )
        super().__init__(settings, kind, account)
        self.authority = authority
        if authority is not None:
            self._scrub = lambda text: authority.scrub(account.scrub(text))
        self._account = account
        self._deployment = settings.deployment
        version = settings.api_version
        self._query = {"api-version": version} if version is not None else {}
        self._is_dated = version is not None and _DATED.fullmatch(version) is not None
        if version is not None and self._is_dated and version < _FIRST_WITH_STREAM_OPTIONS:
            self.capabilities = replace(self.capabilities, stream_usage=False)

    @override
    def prepare(self, request: ChatRequest, *, model: str, stream: bool) -> UpstreamRequest:
        return super().prepare(request, model=self._deployment or model, stream=stream)

    @override
    def framer(self, media_type: str = EVENT_STREAM) -> Framer:
        return AzureFramer()

    @override
    def _url(self, operation: Operation, model: str) -> str:
        path = PATHS[operation]
        if not self._is_dated:
            return self._account.url(f"/openai/v1{path}", **self._query)
        if model in ("", ".", ".."):  # which `quote` leaves as they are, and which would walk through the path
            raise InvalidRequest("This is not a deployment's name.", param="model")
        return self._account.url(f"/openai/deployments/{quote(model, safe='')}{path}", **self._query)


def _secrets(settings: ProviderSettings) -> tuple[Secret | None, ...]:
    identity_header = settings.environment.get("IDENTITY_HEADER")
    return (
        settings.entra.client_secret if settings.entra is not None else None,
        Secret(identity_header, "environment variable IDENTITY_HEADER") if identity_header else None,
    )
