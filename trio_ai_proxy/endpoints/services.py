"""What endpoints are given: the gateway's parts, as far as an endpoint may know them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Sequence

    from trio_ai_proxy.guards.auth import Keyring
    from trio_ai_proxy.relay.client import Client
    from trio_ai_proxy.relay.exchange import Exchange, Live, Plan
    from trio_ai_proxy.relay.planning import Planner
    from trio_ai_proxy.routing.backoff import Budget
    from trio_ai_proxy.routing.credentials import CredentialView
    from trio_ai_proxy.routing.health import Health
    from trio_ai_proxy.routing.routes import Routes
    from trio_ai_proxy.settings import ModelSettings, Settings
    from trio_ai_proxy.telemetry.metrics import Metrics


class Services(Protocol):
    """The gateway, seen from an endpoint."""

    settings: Settings
    keyring: Keyring
    routes: Routes
    live: Live
    metrics: Metrics
    planner: Planner
    draining: bool
    started_at: int

    def known_targets(self) -> list[tuple[ModelSettings, Sequence[Health], Budget]]:
        """Every model, what is known of its targets, and what is left for hedges; one without a name is for all other names."""
        ...

    def known_credentials(self) -> dict[str, Sequence[CredentialView]]:
        """What is known of each credential of the providers that have several, by the provider's name."""
        ...

    def begin(self, exchange: Exchange, plan: Plan) -> None:
        """`exchange` is going to do `plan`: give it what it needs for that, its meter above all."""
        ...

    def record(self, exchange: Exchange, client: Client) -> None:
        """Write the books: once for every exchange, when it has ended."""
        ...

    def report_bug(self, exchange: Exchange, error: BaseException) -> None:
        """Log a bug under the exchange's request id."""
        ...
