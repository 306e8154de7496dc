"""What exchanges have in common that go to one account: what speaks with it, its connections, its slots, and its credentials
where it has several.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import msgspec

from trio_ai_proxy.guards.slots import Slots
from trio_ai_proxy.providers.table import KINDS, build_provider
from trio_ai_proxy.relay.credentials import Credentials
from trio_ai_proxy.relay.exchange import Target
from trio_ai_proxy.telemetry.log import get_logger
from trio_ai_proxy.upstream.client import UpstreamClient
from trio_ai_proxy.upstream.demo import demo_transport

if TYPE_CHECKING:
    from collections.abc import Mapping

    import httpx

    from trio_ai_proxy.providers.base import Provider
    from trio_ai_proxy.settings import ProviderSettings, Timeouts
    from trio_ai_proxy.telemetry.metrics import Metrics
    from trio_ai_proxy.upstream.readiness import Readiness


class Account(msgspec.Struct, frozen=True):
    """One configured provider, for as long as the server runs.

    provider     what speaks with it, for any of its models
    credentials  its several ones, None where there are not several
    """

    settings: ProviderSettings
    provider: Provider
    client: UpstreamClient
    slots: Slots
    credentials: Credentials | None

    def target(self, model: str, timeouts: Timeouts) -> Target:
        """Its own `model`, as a place where an exchange goes."""
        return Target(self.provider.for_model(model), model, self.client, self.slots, timeouts)


def build_accounts(
    settings: Mapping[str, ProviderSettings],
    transports: Mapping[str, httpx.AsyncBaseTransport],
    readiness: Readiness,
    metrics: Metrics,
) -> Mapping[str, Account]:
    """Every configured account, by its name. `transports` are those to use in place of the configured ones, by the same names;
    `metrics` and the log are told of credentials that go out and come in again."""
    return {
        name: _build_account(provider, transports.get(name), readiness, metrics) for name, provider in settings.items()
    }


def _build_account(
    settings: ProviderSettings, transport: httpx.AsyncBaseTransport | None, readiness: Readiness, metrics: Metrics
) -> Account:
    if transport is None and KINDS[settings.kind].embedded:
        transport = demo_transport()
    provider, credentials = build_provider(settings), None
    if len(settings.api_keys) > 1:
        each = [build_provider(settings, place) for place in range(len(settings.api_keys))]
        credentials = Credentials(each, partial(_report_credential, metrics, settings.name))
    return Account(
        settings=settings,
        provider=provider,
        client=UpstreamClient(settings, transport, readiness),
        slots=Slots(settings.name, settings.max_in_flight, settings.max_queued),
        credentials=credentials,
    )


def _report_credential(metrics: Metrics, provider: str, place: int, reason: str | None) -> None:
    """One of several credentials is out, or in again if there is no `reason`."""
    if reason is None:
        get_logger().info("credential in again", provider=provider, credential=place)
        return
    metrics.credential_out(provider, place, reason)
    get_logger().warning("credential out", provider=provider, credential=place, reason=reason)
