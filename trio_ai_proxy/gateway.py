"""The composition root: settings in, an ASGI application out.

(The module is not called `app`: `trio_ai_proxy.app` is the application that Hypercorn is given by that name, and a module
of that name would take its place.)

What lives as long as the server lives in one nursery, opened when the server starts and cancelled when it ends: the
writers of log and records, the loading of token encodings, the admin port, and the watch over a shutdown.
"""

from __future__ import annotations

import time
from datetime import UTC, datetime
from functools import partial
from typing import TYPE_CHECKING, Any

import msgspec
import trio

from trio_ai_proxy.accounting.outcome import Cause
from trio_ai_proxy.accounting.record import ExchangeRecord
from trio_ai_proxy.accounting.tokens import Tokenizers, load_encoding
from trio_ai_proxy.endpoints.admin import AdminPort
from trio_ai_proxy.endpoints.data import DataPort
from trio_ai_proxy.errors import ConfigError, Interrupted
from trio_ai_proxy.guards.auth import Keyring
from trio_ai_proxy.relay.accounts import build_accounts
from trio_ai_proxy.relay.counting import usage_now
from trio_ai_proxy.relay.desk import ExchangeDesk
from trio_ai_proxy.relay.exchange import Exchange, Live, Plan, Target
from trio_ai_proxy.relay.planning import Planner
from trio_ai_proxy.relay.routers import Routers
from trio_ai_proxy.routing.placeholders import has_placeholders
from trio_ai_proxy.routing.router import target_names
from trio_ai_proxy.routing.routes import Routes
from trio_ai_proxy.serving.guard import Guard
from trio_ai_proxy.serving.listener import serve_app
from trio_ai_proxy.telemetry.ledger import Ledger
from trio_ai_proxy.telemetry.lines import LineSink
from trio_ai_proxy.telemetry.log import configure_logging, get_logger
from trio_ai_proxy.telemetry.metrics import Metrics, loop_lag
from trio_ai_proxy.upstream.readiness import Readiness
from trio_ai_proxy.upstream.resolver import install_resolver
from trio_ai_proxy.upstream.webhook import Webhooks

if TYPE_CHECKING:
    import socket
    from collections.abc import Mapping, Sequence

    import httpx

    from trio_ai_proxy.guards.slots import Slots
    from trio_ai_proxy.relay.client import Client
    from trio_ai_proxy.relay.credentials import Credentials
    from trio_ai_proxy.routing.backoff import Budget
    from trio_ai_proxy.routing.credentials import CredentialView
    from trio_ai_proxy.routing.health import Health
    from trio_ai_proxy.settings import ModelSettings, Secret, Settings
    from trio_ai_proxy.upstream.client import UpstreamClient

_FLUSH_SECONDS = 2.0
_BREAKER_STATES = {"closed": 0, "half_open": 1, "open": 2}


class Gateway:
    """The gateway as an ASGI application.

    transports      provider name, or origin of a web service ("https://guard.example.com") → the httpx transport to use for it in
                    place of the configured one (tests)
    admin_listener  a listening socket for the admin port, or None: then there is none

    Its public parts are what endpoints and exchanges are given of it (`endpoints.services`, `relay.child.Home`), and where to
    look for what lives longer than an exchange: `accounts`, `routers`, `tokenizers`, and `guard`, which has the connections.
    """

    def __init__(
        self,
        settings: Settings,
        *,
        transports: Mapping[str, httpx.AsyncBaseTransport] | None = None,
        admin_listener: socket.socket | None = None,
    ) -> None:
        self.settings = settings
        self.keyring = Keyring(settings.keys)
        self.routes = Routes(settings)
        self.live = Live()
        self.metrics = Metrics(settings.models, _configured_targets(settings))
        self.tokenizers = Tokenizers()
        self.draining = False
        self.started_at = int(time.time())
        self.address = settings.server.bind
        self._log = get_logger()
        self.guard = Guard(stall=settings.timeouts.stall, h2c=settings.server.h2c, report=self._report)
        self.records = LineSink(settings.server.record_log)
        # One sink for standard error: two would cut into each other's lines.
        self._log_lines = self.records if settings.server.record_log == "-" else LineSink("-")
        self._ledger = Ledger(self.records)
        self._admin = AdminPort(self, Guard(stall=settings.timeouts.stall, report=self._report))
        self._admin_listener = admin_listener
        self._readiness = Readiness()
        self._webhooks = Webhooks(transports)
        self.accounts = build_accounts(settings.providers, transports or {}, self._readiness, self.metrics)
        self.routers = Routers(settings.models, self.accounts)
        self.planner = Planner(
            settings,
            routes=self.routes,
            accounts=self.accounts,
            routers=self.routers,
            tokenizers=self.tokenizers,
            metrics=self.metrics,
            desk=self.desk,
        )
        self._watch_gauges()
        self._drain = trio.Event()
        self._data = DataPort(self)

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        kind = scope["type"]
        if kind == "http":
            await self._data(scope, receive, send)
        elif kind == "lifespan":
            await self._live_and_die(receive, send)
        else:
            raise RuntimeError(f"an ASGI scope of type {kind!r} is not served")

    # -- the server's life --------------------------------------------------------------------------------------------

    async def _live_and_die(self, receive: Any, send: Any) -> None:
        await receive()  # lifespan.startup
        install_resolver()
        async with trio.open_nursery() as server:
            for sink in {self.records, self._log_lines}:
                server.start_soon(sink.run)
            configure_logging(self._log_lines, secrets=self._secrets())
            server.start_soon(self._readiness.run)
            server.start_soon(loop_lag, self.metrics)
            server.start_soon(self._load_encodings)
            server.start_soon(self._watch_worker)
            server.start_soon(self._finish_streams)
            stop_admin = trio.Event()
            if self._admin_listener is not None:
                await server.start(partial(serve_app, self._admin, self._admin_listener, stop_admin, graceful=1.0))
            await send({"type": "lifespan.startup.complete"})
            await receive()  # lifespan.shutdown
            stop_admin.set()
            await self.records.flush(_FLUSH_SECONDS)
            await self._log_lines.flush(_FLUSH_SECONDS)
            server.cancel_scope.cancel()
        await self.aclose()
        await send({"type": "lifespan.shutdown.complete"})

    def begin_drain(self) -> None:
        """Take no more work. Streams that run have the drain time; then each gets one in-band error."""
        if not self.draining:
            self.draining = True
            self.guard.drain()
            self._drain.set()

    async def _watch_worker(self) -> None:
        """Where Hypercorn is in charge, its worker's shutdown is our signal."""
        await self.guard.context_seen.wait()
        if self.guard.context is not None:
            await self.guard.context.terminated.wait()
            self.begin_drain()

    async def _finish_streams(self) -> None:
        await self._drain.wait()
        with trio.move_on_after(self.settings.server.drain):
            await self.live.empty.wait()
        for exchange in list(self.live.exchanges.values()):
            exchange.interrupt(Cause.SHUTDOWN, Interrupted("The gateway is shutting down; send the request again."))

    async def _load_encodings(self) -> None:
        """Encodings load beside the traffic, one after the other, in a thread that may hang without harm; until one is
        there, and where it cannot be had, counts are estimates."""
        names = self.tokenizers.needed(self._target_models())
        threads = trio.CapacityLimiter(1)
        for name in sorted(names):
            reason = f"not loaded within {self.settings.tokens.load_timeout:g} s"
            with trio.move_on_after(self.settings.tokens.load_timeout):
                try:
                    encoding = await trio.to_thread.run_sync(
                        load_encoding, name, self.settings.tokens.ranks_dir, limiter=threads, abandon_on_cancel=True
                    )
                    self.tokenizers.install(name, encoding)
                    continue
                except Exception as error:  # noqa: BLE001  # whatever a download or a file can do; the stream goes on
                    said = error.message if isinstance(error, ConfigError) else ""
                    reason = f"{type(error).__name__} {said}"[:300].strip()
            self._log.warning(
                "token encoding missing, counts are estimates",
                encoding=name, reason=reason, help="trio-ai-proxy tokens install, or docs/tokens.md",
            )  # fmt: skip

    def _target_models(self) -> set[str]:
        return {target.model for model in self.settings.models.values() for target in model.targets}

    def _watch_gauges(self) -> None:
        self.metrics.watch("exchanges_in_flight", lambda: len(self.live))
        self.metrics.watch("client_connections", lambda: len(self.guard.connections))
        for name, account in self.accounts.items():
            slots, client, credentials = account.slots, account.client, account.credentials
            self.metrics.watch("slots_in_use", partial(_in_use, slots), provider=name)
            self.metrics.watch("slots_waiting", partial(_waiting, slots), provider=name)
            for reason in slots.refused:
                refused = partial(slots.refused.__getitem__, reason)
                self.metrics.watch("queue_refused", refused, provider=name, reason=reason)
            if client.open_connections is not None:
                self.metrics.watch("upstream_connections", partial(_connections, client), provider=name)
            if credentials is not None:
                self.metrics.watch("credentials_usable", partial(_usable, credentials), provider=name)
        for model in self.settings.models.values():
            for index, name in enumerate(target_names(model.targets)):
                labels = {"model": model.name, "provider": (provider := model.targets[index].provider)}
                labels["target"] = name.removeprefix(f"{provider}/")
                self.metrics.watch("breaker_state", partial(self._breaker_state, model, index), **labels)
                self.metrics.watch("target_in_flight", partial(self._in_flight, model, index), **labels)
        self.metrics.watch("records_dropped", lambda: self.records.dropped)
        self.metrics.watch("log_lines_dropped", lambda: self._log_lines.dropped)

    def _breaker_state(self, model: ModelSettings, index: int) -> int:
        return _BREAKER_STATES[self.routers.of(model).healths[index].breaker.state(trio.current_time())]

    def _in_flight(self, model: ModelSettings, index: int) -> int:
        return self.routers.of(model).healths[index].in_flight

    def _secrets(self) -> list[Secret]:
        providers = self.settings.providers.values()
        keys = [key for provider in providers for key in (provider.api_key, *provider.api_keys)]
        auths = [provider.auth for provider in providers if provider.auth is not None]
        others = [*(provider.service_account for provider in providers), *(one.secret_access_key for one in providers)]
        others += [
            *(one.session_token for one in providers),
            *(one.entra.client_secret for one in providers if one.entra),
        ]
        values = [*keys, *others, *(auth.header_value for auth in auths), *(auth.param_value for auth in auths)]
        return [value for value in values if value is not None]

    def targets(self) -> list[tuple[str, Target]]:
        """Every configured model's name, and where it goes, with each credential where there are several; but for those whose
        target a request has to say."""
        found: list[tuple[str, Target]] = []
        for name, model in self.settings.models.items():
            for chosen in model.targets:
                if has_placeholders(chosen.model):
                    continue
                account = self.accounts[chosen.provider]
                target = account.target(chosen.model, chosen.timeouts or model.timeouts)
                credentials = account.credentials
                if credentials is None:
                    found.append((name, target))
                    continue
                each = (credentials.provider(place, chosen.model) for place in range(len(credentials)))
                found += [
                    (f"{name}, credential {place}", msgspec.structs.replace(target, provider=one))
                    for place, one in enumerate(each)
                ]
        return found

    def known_targets(self) -> list[tuple[ModelSettings, Sequence[Health], Budget]]:
        """Every configured model, what is known of its targets, and what is left for hedges. Last, without a name, the account
        that all other names go to, if it has been asked."""
        models = list(self.settings.models.values())
        if "" in self.routers.known:
            models.append(self.routes.resolve(""))
        known = [(model, self.routers.of(model)) for model in models]
        return [(model, one.healths, one.hedges) for model, one in known]

    def known_credentials(self) -> dict[str, Sequence[CredentialView]]:
        """What is known of each credential of the providers that have several, by the provider's name."""
        now = trio.current_time()
        several = {name: one.credentials for name, one in self.accounts.items() if one.credentials is not None}
        return {name: credentials.ring.view(now) for name, credentials in several.items()}

    async def aclose(self) -> None:
        """Close idle connections."""
        for account in self.accounts.values():
            await account.client.aclose()
        await self._webhooks.aclose()

    # -- what endpoints ask -------------------------------------------------------------------------------------------

    def desk(self, exchange: Exchange) -> ExchangeDesk:
        """What those who look after `exchange` may ask for."""
        return ExchangeDesk(self, exchange, self._webhooks)

    def begin(self, exchange: Exchange, plan: Plan) -> None:
        """Give `exchange` what it needs for `plan`."""
        exchange.plan = plan

    def record(self, exchange: Exchange, client: Client) -> None:
        """Write the books: once for every exchange, when it has ended."""
        now = trio.current_time()
        plan, leg, meter, outcome = exchange.plan, exchange.leg, exchange.meter, exchange.outcome
        usage, source = usage_now(exchange)
        released = None
        if exchange.released_at is not None and exchange.settled_at is not None:
            released = max(0.0, exchange.released_at - exchange.settled_at)
        record = ExchangeRecord(
            time=datetime.now(UTC).isoformat(timespec="milliseconds"),
            request_id=exchange.request_id,
            key=exchange.key,
            dialect=exchange.dialect.name,
            model=exchange.model,
            provider=leg.target.provider.name if leg is not None else None,
            target_model=leg.target.model if leg is not None else None,
            stream=plan.stream if plan is not None else False,
            outcome=(outcome.cause or Cause.BUG).value,
            detail=outcome.detail,
            phase=exchange.phase,
            status=client.status,
            attempts=exchange.attempts,
            prompt_tokens=usage.prompt_tokens,
            completion_tokens=usage.completion_tokens,
            total_tokens=usage.total_tokens,
            cached_tokens=usage.cached_tokens,
            reasoning_tokens=usage.reasoning_tokens,
            cache_write_tokens=usage.cache_write_tokens,
            usage_source=source,
            cost=None,
            ttft_ms=round(meter.ttft * 1000, 3) if meter is not None and meter.ttft is not None else None,
            duration_ms=round((now - exchange.accepted_at) * 1000, 3),
            upstream_released_ms=round(released * 1000, 3) if released is not None else None,
            bytes_out=client.bytes_out,
            chunks_out=client.chunks_out,
            malformed_events=exchange.malformed,
            parent=exchange.parent,
            guard=exchange.guard,
            guards=exchange.guarding.finish_books() if exchange.guarding is not None else [],
        )
        self._ledger.put(record)
        self.metrics.record(record, meter.gaps if meter is not None else None)

    def report_bug(self, exchange: Exchange, error: BaseException) -> None:
        """Log a bug under the exchange's request id."""
        self._log.error("bug", request_id=exchange.request_id, exc_info=error)

    def _report(self, event: str, **facts: Any) -> None:
        error = facts.pop("error", None)
        self._log.error(event, exc_info=error, **facts)


def _configured_targets(settings: Settings) -> set[tuple[str, str]]:
    """Providers and models that the configuration names: not those whose name a request fills in."""
    targets = [target for model in settings.models.values() for target in model.targets]
    return {(target.provider, target.model) for target in targets if not has_placeholders(target.model)}


def _in_use(slots: Slots) -> int:
    return slots.in_use


def _waiting(slots: Slots) -> int:
    return slots.waiting


def _usable(credentials: Credentials) -> int:
    return credentials.ring.usable(trio.current_time())


def _connections(client: UpstreamClient) -> int:
    return client.open_connections or 0
