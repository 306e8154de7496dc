"""A whole gateway in memory: its real code between a scripted client and scripted upstreams, on Trio's clock."""

from __future__ import annotations

from typing import TYPE_CHECKING, Self

from trio_ai_proxy.settings import (
    ModelSettings,
    ProviderSettings,
    Secret,
    Settings,
    TargetSettings,
    Timeouts,
    TokenSettings,
)
from trio_ai_proxy.testing.client import ScriptedClient, open_client

if TYPE_CHECKING:
    from collections.abc import Awaitable, Mapping
    from types import TracebackType

    import httpx

    from trio_ai_proxy.gateway import Gateway


def open_gateway(settings: Settings, transports: Mapping[str, httpx.AsyncBaseTransport] | None = None) -> OpenGateway:
    """`async with open_gateway(settings, {"scripted": transport}) as opened:` starts a gateway, and ends it after.

    transports  for each provider (by the name of its block in the settings) what takes the place of the network
    """
    return OpenGateway(settings, transports)


class OpenGateway:
    """A started gateway: `gateway` is it, `client` speaks to it. See `open_gateway`."""

    def __init__(self, settings: Settings, transports: Mapping[str, httpx.AsyncBaseTransport] | None) -> None:
        # Imported late: the testing kit also serves those who test something else than the gateway.
        from trio_ai_proxy.gateway import Gateway

        self.gateway: Gateway = Gateway(settings, transports=transports)
        self.client: ScriptedClient = open_client(self.gateway)

    async def __aenter__(self) -> Self:
        await self.client.__aenter__()
        return self

    def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> Awaitable[None]:
        return self.client.__aexit__(kind, error, trace)


def scripted_settings(
    *, model: str = "scripted", base_url: str = "http://upstream.invalid/v1", timeouts: Timeouts | None = None
) -> Settings:
    """Settings of one open gateway with one model of one OpenAI-compatible provider; both are called "scripted".

    No token encoding is loaded: that takes a thread, whose files and connections would look like leaks. The
    gateway's own counts are therefore estimates.

    base_url  where the provider is; of no matter for a `ScriptedTransport`, `server.url + "/v1"` for a `ScriptedServer`
    """
    deadlines = timeouts or Timeouts()
    key = Secret("sk-scripted", "a test")
    provider = ProviderSettings(name="scripted", kind="openai", base_url=base_url, api_key=key)
    target = TargetSettings(provider="scripted", model="scripted")
    answering = ModelSettings(name=model, targets=(target,), timeouts=deadlines)
    return Settings(
        tokens=TokenSettings(load_timeout=0),
        timeouts=deadlines,
        providers={"scripted": provider},
        models={model: answering},
    )
