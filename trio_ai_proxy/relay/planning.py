"""What is done with a request: which model it is for, who looks at it first, and where it can go.

A plan is made when the request has been read. Where something has to be waited for before it can be said where it goes (its
guards, or what it is about), the plan says so, and the exchange waits for that within its own deadline.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

import msgspec
import trio

from trio_ai_proxy.accounting.tokens import count_prompt
from trio_ai_proxy.chat.templates import check_untemplated
from trio_ai_proxy.dialects.table import with_options
from trio_ai_proxy.errors import ConfigError, Forbidden, InvalidRequest
from trio_ai_proxy.relay.exchange import Leg, Plan
from trio_ai_proxy.relay.guarding import Guarding
from trio_ai_proxy.relay.journey import NOWHERE, Journey, Nowhere
from trio_ai_proxy.relay.meaning import Meanings
from trio_ai_proxy.relay.override import find_override, without_credential
from trio_ai_proxy.relay.scrutiny import Scrutiny
from trio_ai_proxy.routing.caller import NOBODY
from trio_ai_proxy.routing.facts import facts_of
from trio_ai_proxy.routing.patience import total_for
from trio_ai_proxy.routing.placeholders import fill_model, fill_options, has_placeholders
from trio_ai_proxy.telemetry.log import get_logger

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping, Sequence

    from trio_ai_proxy.accounting.tokens import Tokenizers
    from trio_ai_proxy.chat.request import ChatRequest
    from trio_ai_proxy.guards.base import Guard
    from trio_ai_proxy.providers.base import Capabilities
    from trio_ai_proxy.relay.accounts import Account
    from trio_ai_proxy.relay.desk import ExchangeDesk
    from trio_ai_proxy.relay.exchange import Exchange
    from trio_ai_proxy.relay.routers import Routers
    from trio_ai_proxy.routing.caller import Caller
    from trio_ai_proxy.routing.routes import Routes
    from trio_ai_proxy.settings import KeySettings, ModelSettings, Settings, TargetSettings
    from trio_ai_proxy.telemetry.metrics import Metrics


class Planner:
    """Makes the plans of all exchanges.

    `routes` tells the model of a name, `accounts` and `routers` what its targets are and who chooses among them, `tokenizers` how
    their tokens are counted. `desk` is what those who look after one exchange may ask for. Raises `ConfigError` where a model
    asks another for what that cannot make.
    """

    def __init__(
        self,
        settings: Settings,
        *,
        routes: Routes,
        accounts: Mapping[str, Account],
        routers: Routers,
        tokenizers: Tokenizers,
        metrics: Metrics,
        desk: Callable[[Exchange], ExchangeDesk],
    ) -> None:
        self._settings = settings
        self._routes = routes
        self._accounts = accounts
        self._routers = routers
        self._tokenizers = tokenizers
        self._metrics = metrics
        self._desk = desk
        self._log = get_logger()
        self._guards = _guards_of(settings)
        self._meanings = {name: meanings for name in settings.models if (meanings := self._build_meanings(name))}

    def plan(self, request: ChatRequest, key: KeySettings | None, caller: Caller = NOBODY) -> Plan:
        """Where `request` of `caller` goes and how. Raises `ClientError`."""
        if not self._routes.allowed(key, request.model):
            raise Forbidden(f"This key may not use the model `{request.model}`.", param="model")
        model = self._routes.resolve(request.model)
        if model.response_streaming == "deny" and request.stream:
            raise InvalidRequest(
                f"Streaming is not allowed for the model `{request.model}`.",
                param="stream",
                code="streaming_not_allowed",
            )
        if not any(self._settings.guards[name].kind == "template" for name in model.guards):
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
            if self._settings.server.validate_streams
            else None,
            prepare=prepare,
        )

    def plan_child(self, request: ChatRequest, key: str | None, *, seconds: float) -> Plan:
        """Where a `request` of the gateway's own goes, on behalf of the client whose key is called `key`, within `seconds` at
        most. The key need not be good for that model: the configuration wants it to be asked. Raises `ClientError`."""
        model = self._routes.resolve(request.model)
        return Plan(
            request=request,
            model=model,
            stream=False,
            hide_usage=True,
            journey=self._journey(request, model, NOBODY, key, stream=False),
            total=min(seconds, total_for(NOBODY, (model.targets[0].timeouts or model.timeouts).total)),
            scrutinise=partial(self._scrutiny, hide_usage=True, stream=False)
            if self._settings.server.validate_streams
            else None,
        )

    def _build_meanings(self, name: str) -> Meanings | None:
        """What finds out what requests for the model `name` are about, if it wants that. Raises `ConfigError`."""
        model = self._settings.models[name]
        priorities = [target.priority for target in model.targets]
        if model.balance != "semantic" or model.semantic is None or len(set(priorities)) == len(priorities):
            return None  # or there is nothing to compare
        asked = self._routes.resolve(model.semantic.model)
        able = (self._accounts[one.provider].provider.for_model(one.model).capabilities for one in asked.targets)
        if not any("embeddings" in capabilities.operations for capabilities in able):
            text = f"[models.{name}] semantic: no target of the model '{asked.name}' makes embeddings"
            raise ConfigError([text])
        return Meanings(
            model.semantic, [target.description for target in model.targets], partial(self._report_meaning, name)
        )

    async def _enter_guards(self, caller: Caller, key: str | None, exchange: Exchange, plan: Plan) -> Plan:
        """What is to be done when the guards have seen the request."""
        guarding = exchange.guarding = Guarding(
            [self._guards[name] for name in plan.model.guards], self._desk(exchange)
        )
        request = await guarding.enter(plan.request)
        journey = self._journey(request, plan.model, caller, key, stream=plan.stream)
        plan = msgspec.structs.replace(plan, request=request, journey=journey)
        return await self._find_meaning(caller, key, exchange, plan) if plan.model.name in self._meanings else plan

    async def _find_meaning(self, caller: Caller, key: str | None, exchange: Exchange, plan: Plan) -> Plan:
        """`plan`, with targets in the order of their nearness to what is asked."""
        near = await self._meanings[plan.model.name].similarities(plan.request, self._desk(exchange))
        if not near:
            return plan
        journey = self._journey(plan.request, plan.model, caller, key, stream=plan.stream, similarities=near)
        return msgspec.structs.replace(plan, journey=journey)

    def _report_meaning(self, model: str, result: str, reason: str | None) -> None:
        self._metrics.meaning(model, result)
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
        router, healths, hedges = self._routers.of(model)
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
        chosen = model.targets[index]
        account = self._accounts[chosen.provider]
        target = account.target(fill_model(chosen.model, caller), chosen.timeouts or model.timeouts)
        if request.operation not in target.provider.capabilities.operations:
            raise InvalidRequest(f"The model `{request.model}` does not serve {request.operation}.", param="model")
        auth = account.settings.auth
        override = find_override(auth, caller, request.fields, keys=bool(self._settings.keys))
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
            encoding=self._tokenizers.for_model(target.model),
            can_prefill=_can_prefill(chosen, capabilities),
        )
        if account.credentials is None or override is not None:
            return leg
        return leg.with_credential(account.credentials.take(trio.current_time()))

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
        self._metrics.violation(side, provider)
        self._log.error("illegal stream", request_id=request_id, provider=provider, side=side, violation=violation)


def _can_prefill(target: TargetSettings, capabilities: Capabilities) -> bool:
    said = target.capabilities.prefill if target.capabilities is not None else None
    return capabilities.prefill if said is None else said


def _guards_of(settings: Settings) -> Mapping[str, Guard]:
    """The configured guards. Who has none does not pay for RE2 and the lists of IBANs: five megabytes."""
    if not settings.guards:
        return {}
    from trio_ai_proxy.guards.build import build_guards

    return build_guards(settings)
