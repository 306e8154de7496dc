"""The composition root: settings in, an ASGI application out.

(The module is not called `app`: `trio_ai_proxy.app` is the application that Hypercorn is given by that name, and a module
of that name would take its place.)

What lives as long as the server lives in one nursery, opened when the server starts and cancelled when it ends: the
writers of log and records, the loading of token encodings, the admin port, and the watch over a shutdown.
"""

from __future__ import annotations

import time
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from typing import TYPE_CHECKING, Any

import msgspec
import trio

from trio_ai_proxy.accounting.outcome import Cause
from trio_ai_proxy.accounting.record import ExchangeRecord
from trio_ai_proxy.accounting.tokens import Tokenizers, count_prompt, load_encoding
from trio_ai_proxy.chat.templates import check_untemplated
from trio_ai_proxy.dialects.table import with_options
from trio_ai_proxy.endpoints.admin import AdminPort
from trio_ai_proxy.endpoints.data import DataPort
from trio_ai_proxy.errors import ConfigError, Forbidden, Interrupted, InvalidRequest
from trio_ai_proxy.guards.auth import Keyring
from trio_ai_proxy.guards.build import build_guards
from trio_ai_proxy.guards.slots import Slots
from trio_ai_proxy.providers.table import KINDS, build_provider
from trio_ai_proxy.relay.counting import usage_now
from trio_ai_proxy.relay.credentials import Credentials
from trio_ai_proxy.relay.desk import ExchangeDesk
from trio_ai_proxy.relay.exchange import Exchange, Leg, Live, Plan, Target
from trio_ai_proxy.relay.guarding import Guarding
from trio_ai_proxy.relay.journey import NOWHERE, Journey, Nowhere
from trio_ai_proxy.relay.meaning import Meanings
from trio_ai_proxy.relay.override import find_override, without_credential
from trio_ai_proxy.relay.scrutiny import Scrutiny
from trio_ai_proxy.routing.backoff import Budget
from trio_ai_proxy.routing.caller import NOBODY
from trio_ai_proxy.routing.facts import facts_of, target_facts
from trio_ai_proxy.routing.health import Health
from trio_ai_proxy.routing.patience import total_for
from trio_ai_proxy.routing.placeholders import fill_model, fill_options, has_placeholders
from trio_ai_proxy.routing.router import Router, target_names
from trio_ai_proxy.routing.routes import Routes
from trio_ai_proxy.serving.guard import Guard
from trio_ai_proxy.serving.listener import serve_app
from trio_ai_proxy.telemetry.ledger import Ledger
from trio_ai_proxy.telemetry.lines import LineSink
from trio_ai_proxy.telemetry.log import configure_logging, get_logger
from trio_ai_proxy.telemetry.metrics import Metrics, loop_lag
from trio_ai_proxy.upstream.client import UpstreamClient
from trio_ai_proxy.upstream.demo import demo_transport
from trio_ai_proxy.upstream.readiness import Readiness
from trio_ai_proxy.upstream.resolver import install_resolver
from trio_ai_proxy.upstream.webhook import Webhooks

if TYPE_CHECKING:
    import socket
    from collections.abc import Awaitable, Callable, Mapping, Sequence

    import httpx

    from trio_ai_proxy.chat.request import ChatRequest
    from trio_ai_proxy.providers.base import Capabilities, Provider
    from trio_ai_proxy.relay.client import Client
    from trio_ai_proxy.routing.caller import Caller
    from trio_ai_proxy.routing.credentials import CredentialView
    from trio_ai_proxy.settings import KeySettings, ModelSettings, Secret, Settings, TargetSettings

_FLUSH_SECONDS = 2.0
_BREAKER_STATES = {"closed": 0, "half_open": 1, "open": 2}


class Gateway:
    """The gateway as an ASGI application.

    transports      provider name, or origin of a web service ("https://guard.example.com") → the httpx transport to use for it in
                    place of the configured one (tests)
    admin_listener  a listening socket for the admin port, or None: then there is none
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
        self._providers: dict[str, Provider] = {}
        self._credentials: dict[str, Credentials] = {}  # of those that have several
        self._clients: dict[str, UpstreamClient] = {}
        self._slots: dict[str, Slots] = {}
        self._routers: dict[str, tuple[Router, list[Health], Budget]] = {}
        self._webhooks = Webhooks(transports)
        for name, provider in settings.providers.items():
            transport = (transports or {}).get(name)
            if transport is None and KINDS[provider.kind].embedded:
                transport = demo_transport()
            self._providers[name] = build_provider(provider)
            if len(provider.api_keys) > 1:
                each = [build_provider(provider, place) for place in range(len(provider.api_keys))]
                self._credentials[name] = Credentials(each, partial(self._report_credential, name))
            self._clients[name] = UpstreamClient(provider, transport, self._readiness)
            self._slots[name] = Slots(name, provider.max_in_flight, provider.max_queued)
        self._guards = build_guards(settings)
        self._meanings = {name: meanings for name in settings.models if (meanings := self._build_meanings(name))}
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
        for name, slots in self._slots.items():
            self.metrics.watch("slots_in_use", partial(_in_use, slots), provider=name)
            self.metrics.watch("slots_waiting", partial(_waiting, slots), provider=name)
            for reason in slots.refused:
                refused = partial(slots.refused.__getitem__, reason)
                self.metrics.watch("queue_refused", refused, provider=name, reason=reason)
            if self._clients[name].open_connections is not None:
                self.metrics.watch("upstream_connections", partial(_connections, self._clients[name]), provider=name)
        for name, credentials in self._credentials.items():
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
        return _BREAKER_STATES[self._routing(model)[1][index].breaker.state(trio.current_time())]

    def _in_flight(self, model: ModelSettings, index: int) -> int:
        return self._routing(model)[1][index].in_flight

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
            for index, chosen in enumerate(model.targets):
                if has_placeholders(chosen.model):
                    continue
                target, credentials = self._target(model, index), self._credentials.get(chosen.provider)
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
        if "" in self._routers:
            models.append(self.routes.resolve(""))
        return [(model, *self._routing(model)[1:]) for model in models]

    def known_credentials(self) -> dict[str, Sequence[CredentialView]]:
        """What is known of each credential of the providers that have several, by the provider's name."""
        now = trio.current_time()
        return {name: credentials.ring.view(now) for name, credentials in self._credentials.items()}

    async def aclose(self) -> None:
        """Close idle connections."""
        for client in self._clients.values():
            await client.aclose()
        await self._webhooks.aclose()

    # -- what endpoints ask -------------------------------------------------------------------------------------------

    def plan(self, request: ChatRequest, key: KeySettings | None, caller: Caller = NOBODY) -> Plan:
        """Where `request` of `caller` goes and how. Raises `ClientError`."""
        if not self.routes.allowed(key, request.model):
            raise Forbidden(f"This key may not use the model `{request.model}`.", param="model")
        model = self.routes.resolve(request.model)
        if model.response_streaming == "deny" and request.stream:
            raise InvalidRequest(
                f"Streaming is not allowed for the model `{request.model}`.",
                param="stream",
                code="streaming_not_allowed",
            )
        if not any(self.settings.guards[name].kind == "template" for name in model.guards):
            check_untemplated(request)
        stream = request.can_stream and (request.stream or model.response_streaming == "always")
        name = key.name if key is not None else None
        prepare: Callable[[Exchange, Plan], Awaitable[Plan]] | None = None
        if model.guards:
            journey: Journey | Nowhere = NOWHERE  # it is not known yet what will be asked
            prepare = partial(self._enter_guards, caller, name)
        else:
            journey = self._journey(request, model, caller, name, stream=stream)
            if model.name in self._meanings:
                prepare = partial(self._find_meaning, caller, name)
        return Plan(
            request=request,
            model=model,
            stream=stream,
            hide_usage=not request.include_usage,
            journey=journey,
            total=total_for(caller, (model.targets[0].timeouts or model.timeouts).total),
            scrutinise=partial(self._scrutiny, hide_usage=not request.include_usage, stream=stream)
            if self.settings.server.validate_streams
            else None,
            prepare=prepare,
        )

    def plan_child(self, request: ChatRequest, key: str | None, *, seconds: float) -> Plan:
        """Where a `request` of the gateway's own goes, on behalf of the client whose key is called `key`, within `seconds` at
        most. The key need not be good for that model: the configuration wants it to be asked. Raises `ClientError`."""
        model = self.routes.resolve(request.model)
        return Plan(
            request=request,
            model=model,
            stream=False,
            hide_usage=True,
            journey=self._journey(request, model, NOBODY, key, stream=False),
            total=min(seconds, total_for(NOBODY, (model.targets[0].timeouts or model.timeouts).total)),
            scrutinise=partial(self._scrutiny, hide_usage=True, stream=False)
            if self.settings.server.validate_streams
            else None,
        )

    def desk(self, exchange: Exchange) -> ExchangeDesk:
        """What those who look after `exchange` may ask for."""
        return ExchangeDesk(self, exchange, self._webhooks)

    def _build_meanings(self, name: str) -> Meanings | None:
        """What finds out what requests for the model `name` are about, if it wants that. Raises `ConfigError`."""
        model = self.settings.models[name]
        priorities = [target.priority for target in model.targets]
        if model.balance != "semantic" or model.semantic is None or len(set(priorities)) == len(priorities):
            return None  # or there is nothing to compare
        asked = self.routes.resolve(model.semantic.model)
        able = (self._providers[one.provider].for_model(one.model).capabilities.operations for one in asked.targets)
        if not any("embeddings" in operations for operations in able):
            text = f"[models.{name}] semantic: no target of the model '{asked.name}' makes embeddings"
            raise ConfigError([text])
        return Meanings(
            model.semantic, [target.description for target in model.targets], partial(self._report_meaning, name)
        )

    async def _enter_guards(self, caller: Caller, key: str | None, exchange: Exchange, plan: Plan) -> Plan:
        """What is to be done when the guards have seen the request."""
        guarding = exchange.guarding = Guarding([self._guards[name] for name in plan.model.guards], self.desk(exchange))
        request = await guarding.enter(plan.request)
        journey = self._journey(request, plan.model, caller, key, stream=plan.stream)
        plan = msgspec.structs.replace(plan, request=request, journey=journey)
        return await self._find_meaning(caller, key, exchange, plan) if plan.model.name in self._meanings else plan

    async def _find_meaning(self, caller: Caller, key: str | None, exchange: Exchange, plan: Plan) -> Plan:
        """`plan`, with targets in the order of their nearness to what is asked."""
        near = await self._meanings[plan.model.name].similarities(plan.request, self.desk(exchange))
        if not near:
            return plan
        journey = self._journey(plan.request, plan.model, caller, key, stream=plan.stream, similarities=near)
        return msgspec.structs.replace(plan, journey=journey)

    def _report_meaning(self, model: str, result: str, reason: str | None) -> None:
        self.metrics.meaning(model, result)
        if reason is not None:
            self._log.warning("semantic balance failed, targets take turns", model=model, reason=reason)

    def _journey(
        self,
        request: ChatRequest,
        model: ModelSettings,
        caller: Caller,
        key: str | None,
        *,
        stream: bool,
        similarities: Sequence[float] = (),
    ) -> Journey:
        router, healths, hedges = self._routing(model)
        # Only a target that says how much it holds needs to know how long the prompt is.
        is_measured = any(target.max_context is not None for target in model.targets)
        tokens = count_prompt(request.fields, request.operation, None) if is_measured else 0
        facts = partial(facts_of, request, model, caller, key=key, tokens=tokens, similarities=similarities)
        refusal = None if router.is_plain else router.refusal(facts())
        if refusal is not None:
            raise refusal
        legs: dict[int, Leg] = {}

        def make(index: int, is_stand_in: bool) -> Leg:
            if index not in legs:
                legs[index] = self._leg(request, model, caller, index, stream=stream, is_stand_in=is_stand_in)
            return legs[index]

        if len(model.targets) == 1:
            make(0, False)  # what the request itself gets wrong is known before anything begins
        return Journey(model, router, healths, facts, make, hedges)

    def _routing(self, model: ModelSettings) -> tuple[Router, list[Health], Budget]:
        """Who chooses among the targets of `model`, and what is known of them. Names that nobody has configured, which all go
        to one account, share theirs."""
        name = model.name if model.name in self.settings.models else ""
        found = self._routers.get(name)
        if found is None:
            healths = [Health(model.breaker, now=trio.current_time()) for _ in model.targets]
            facts = [
                target_facts(target, self._providers[target.provider].for_model(target.model).capabilities)
                for target in model.targets
            ]
            hedges = Budget(model.hedge_budget, per_second=0.0, now=trio.current_time())
            found = self._routers[name] = Router(model, healths, facts), healths, hedges
        return found

    def _leg(
        self,
        request: ChatRequest,
        model: ModelSettings,
        caller: Caller,
        index: int,
        *,
        stream: bool,
        is_stand_in: bool = False,
    ) -> Leg:
        """The way to target number `index` of `model`. What stands in for another is named to the client by its own name.
        Raises `InvalidRequest`."""
        target = self._target(model, index, caller)
        if request.operation not in target.provider.capabilities.operations:
            raise InvalidRequest(f"The model `{request.model}` does not serve {request.operation}.", param="model")
        auth = self.settings.providers[model.targets[index].provider].auth
        override = find_override(auth, caller, request.fields, keys=bool(self.settings.keys))
        fields = without_credential(auth, request.fields)
        if model.options:
            options = fill_options(model.options, caller) if has_placeholders(model.options) else model.options
            fields = with_options(fields, options, force=model.force_options)
        if fields is not request.fields:
            request = replace(request, fields=fields)
        if model.unsupported != request.unsupported:
            request = replace(request, unsupported=model.unsupported)
        capabilities = target.provider.capabilities
        can_stream = request.can_stream and not capabilities.never_streams
        leg = Leg(
            index=index,
            target=target,
            request=request,
            ask_stream=can_stream and (stream or capabilities.streams_only),
            client_model=None if is_stand_in or target.model == request.model else request.model,
            override=override,
            encoding=self.tokenizers.for_model(target.model),
            can_prefill=_can_prefill(model.targets[index], capabilities),
        )
        credentials = self._credentials.get(model.targets[index].provider)
        if credentials is None or override is not None:
            return leg
        return leg.with_credential(credentials.take(trio.current_time()))

    def _target(self, model: ModelSettings, index: int, caller: Caller = NOBODY) -> Target:
        chosen = model.targets[index]
        name = chosen.provider
        target_model = fill_model(chosen.model, caller)
        return Target(
            provider=self._providers[name].for_model(target_model),
            model=target_model,
            client=self._clients[name],
            slots=self._slots[name],
            timeouts=chosen.timeouts or model.timeouts,
        )

    def begin(self, exchange: Exchange, plan: Plan) -> None:
        """Give `exchange` what it needs for `plan`."""
        exchange.plan = plan

    def _scrutiny(self, exchange: Exchange, leg: Leg, *, stream: bool, hide_usage: bool) -> Scrutiny:
        answer = None
        if stream:
            # What the provider itself streams on the client's wire passes as it is; all else is our own writing.
            guarding = exchange.guarding
            is_screened = guarding is not None and guarding.looks_at_answers
            own = leg.target.provider.wire != exchange.dialect.wire or not leg.ask_stream or is_screened
            if guarding is not None and guarding.changes_the_form:
                return Scrutiny(None, partial(self._report_violation, exchange.request_id, leg.target.provider.name))
            answer = exchange.dialect.grammar(include_usage=not hide_usage, own=own)
        return Scrutiny(answer, partial(self._report_violation, exchange.request_id, leg.target.provider.name))

    def _report_violation(self, request_id: str, provider: str, side: str, violation: str) -> None:
        self.metrics.violation(side, provider)
        self._log.error("illegal stream", request_id=request_id, provider=provider, side=side, violation=violation)

    def _report_credential(self, provider: str, place: int, reason: str | None) -> None:
        """One of several credentials is out, or in again if there is no `reason`."""
        if reason is None:
            self._log.info("credential in again", provider=provider, credential=place)
            return
        self.metrics.credential_out(provider, place, reason)
        self._log.warning("credential out", provider=provider, credential=place, reason=reason)

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


def _can_prefill(target: TargetSettings, capabilities: Capabilities) -> bool:
    said = target.capabilities.prefill if target.capabilities is not None else None
    return capabilities.prefill if said is None else said


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
