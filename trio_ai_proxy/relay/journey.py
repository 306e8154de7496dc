"""From target to target: one exchange's way through the targets of its model. The decisions are `routing`'s; this is where
they meet the clock and chance.
"""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

import trio

from trio_ai_proxy.errors import InvalidRequest
from trio_ai_proxy.relay.credentials import is_about_the_credential
from trio_ai_proxy.relay.seam import Diverged
from trio_ai_proxy.routing.backoff import wait_before
from trio_ai_proxy.routing.breaker import verdict_for
from trio_ai_proxy.routing.router import Choice
from trio_ai_proxy.routing.steps import is_key_dead, step_for

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from trio_ai_proxy.accounting.meter import Meter
    from trio_ai_proxy.chat.request import ChatRequest
    from trio_ai_proxy.errors import ProxyError
    from trio_ai_proxy.relay.credentials import Credential
    from trio_ai_proxy.relay.exchange import Leg, Trial
    from trio_ai_proxy.routing.backoff import Budget
    from trio_ai_proxy.routing.facts import Facts
    from trio_ai_proxy.routing.health import Health
    from trio_ai_proxy.routing.health import Trial as HealthTrial
    from trio_ai_proxy.routing.router import Router
    from trio_ai_proxy.routing.steps import Step
    from trio_ai_proxy.settings import ModelSettings


class Journey:
    """See `relay.exchange.Journey`.

    `facts_of` tells what the request needs. `make` gives the leg to a target by its number; its second argument says whether the
    leg stands in for a target that has failed. It raises `InvalidRequest` where the request cannot be made there. `hedges`
    bounds the calls that are made beside slow ones, for all exchanges of the model.
    """

    __slots__ = (
        "_broke_off", "_facts_of", "_failures", "_healths", "_hedges", "_known", "_make", "_model", "_router", "_slow", "_tried",
        "_used",
    )  # fmt: skip

    def __init__(
        self,
        model: ModelSettings,
        router: Router,
        healths: Sequence[Health],
        facts_of: Callable[[], Facts],
        make: Callable[[int, bool], Leg],
        hedges: Budget,
    ) -> None:
        self._hedges = hedges
        self._model = model
        self._router = router
        self._healths = healths
        self._facts_of = facts_of
        self._known: Facts | None = None
        self._make = make
        self._tried: dict[int, Step] = {}
        self._slow: int | None = None  # one that was beaten: nobody knows that it would have failed
        self._failures: dict[int, int] = {}
        self._broke_off: dict[int, Leg] = {}  # those that may be asked for the same answer again, in this order
        self._used: tuple[Leg, ...] = ()  # those that went out with one of several credentials

    @property
    def _facts(self) -> Facts:
        if self._known is None:
            self._known = self._facts_of()
        return self._known

    def first(self) -> Leg:
        refused: InvalidRequest | None = None
        while True:
            choice = self._choose()
            if choice is None:
                break
            try:
                return self._made(choice.index, False)
            except InvalidRequest as error:
                refused = refused or error
                self._tried[choice.index] = "next"
        text = "No target of this model can take this request."
        raise refused or self._router.refusal(self._facts) or InvalidRequest(text)

    def after(self, failed: Sequence[tuple[Leg, ProxyError]], *, left: float) -> tuple[Leg, float] | None:
        """See `relay.exchange.Journey.after`. The same target with another credential comes first. Without one it is tried again
        while its retries, its budget and the time allow it, then the others; a target that cannot take the request is passed
        over."""
        again: tuple[Leg, ProxyError] | None = None
        rotated: Leg | None = None
        for leg, error in failed:
            if leg.index == self._slow:
                self._slow = None
            other_key = self._with_another(leg, error)
            if other_key is not None:
                rotated = rotated or other_key
                continue
            self._failures[leg.index] = self._failures.get(leg.index, 0) + 1
            step = self._step(leg, error)
            if step == "stop":
                return None
            if step == "again":
                again, step = (leg, error), "next"
            self._tried[leg.index] = step
        if rotated is not None:
            return rotated, 0.0
        pause = self._pause(*again, left) if again is not None else None
        if again is not None and pause is not None:
            return self._renewed(again[0], trio.current_time() + pause), pause
        other = self._other()
        return None if other is None else (other, 0.0)

    def instead(self, leg: Leg, error: ProxyError, *, is_cut: bool) -> Leg | None:
        """See `relay.exchange.Journey.instead`. Another target, for this one breaks off; where there is no other, one that has
        broken off, for it may have been bad luck. A policy on content that ends an answer is not walked round."""
        other_key = None if is_cut else self._with_another(leg, error)
        if other_key is not None:
            return other_key
        index = leg.index
        self._failures[index] = self._failures.get(index, 0) + 1
        self._tried[index] = "next"
        if index == self._slow:
            self._slow = None
        has_diverged = isinstance(error, Diverged)
        step = step_for(error)
        if is_cut and not has_diverged and step == "stop":
            return None
        if has_diverged:
            self._broke_off.pop(index, None)
        elif is_cut or step == "again":
            self._broke_off[index] = leg
        other = self._other()
        if other is not None:
            return other
        for index, again in self._broke_off.items():
            health = self._healths[index]
            if self._failures.get(index, 0) <= self._model.retries and health.budget.spend(trio.current_time()):
                return self._renewed(again, trio.current_time()) if not again.begun else self._made(index, False)
        return None

    def hedge_after(self, leg: Leg) -> float | None:
        """See `relay.exchange.Journey.hedge_after`. Not with tools that run at the provider: they may do a thing twice."""
        after = self._model.hedge_after
        if after is None or len(self._model.targets) < 2 or not leg.ask_stream or _has_own_tools(leg.request):
            return None
        self._hedges.earn(trio.current_time())
        return self._healths[leg.index].p95() if after == "p95" else after

    def beside(self, leg: Leg) -> Leg | None:
        """See `relay.exchange.Journey.beside`."""
        if not self._hedges.has(trio.current_time()):
            return None
        is_first = leg.index not in self._tried
        self._tried.setdefault(leg.index, "next")
        other = self._other()
        if other is not None:
            self._slow = leg.index if is_first else None
            self._hedges.spend(trio.current_time())
        return other

    def begin(self, leg: Leg) -> Trial:
        is_again = leg.index in self._failures
        if leg.credential is not None:
            is_again = is_again or any(one.index == leg.index for one in self._used)
            self._used += (leg,)
        tokens = 0 if self._router.is_plain else self._facts.tokens
        own_key = leg.override is None
        return _Trial(self._healths[leg.index], tokens, leg.credential, is_again=is_again, own_key=own_key)

    def _step(self, leg: Leg, error: ProxyError) -> Step:
        step = step_for(error, failures=self._failures.get(leg.index, 0))
        if step == "next" and leg.credential is not None and is_key_dead(error):
            # One that only has to rest is as good as a target that only has to rest.
            return "again" if leg.credential.of.ring.is_resting(trio.current_time()) else step
        return step

    def _with_another(self, leg: Leg, error: ProxyError) -> Leg | None:
        """The same leg with a usable credential that this exchange has not tried; None if `error` is not about the credential
        or there is none."""
        if leg.credential is None or not is_about_the_credential(error):
            return None
        ours = leg.credential.of
        tried = {one.credential.index for one in self._used if one.credential is not None and one.credential.of is ours}
        other = ours.take_usable(trio.current_time(), tried)
        return None if other is None else leg.with_credential(other)

    def _made(self, index: int, is_stand_in: bool) -> Leg:
        leg = self._make(index, is_stand_in)
        return leg if leg.credential is None else self._renewed(leg, trio.current_time())

    def _renewed(self, leg: Leg, now: float) -> Leg:
        """`leg` with the credential whose turn it is at `now`, where it has gone out with its own before."""
        credential = leg.credential
        if credential is None or all(one.credential is not credential for one in self._used):
            return leg
        return leg.with_credential(credential.of.take(now))

    def _pause(self, leg: Leg, error: ProxyError, left: float) -> float | None:
        """Seconds before `leg` is tried again, None if it is not."""
        failures = self._failures.get(leg.index, 0)
        if failures > self._model.retries:
            return None
        rest = None
        if leg.credential is not None and is_about_the_credential(error):
            rest = leg.credential.of.ring.told_rest(trio.current_time()) or 0.0
        pause = wait_before(error, failures, left=left, random=random.random(), rest=rest)  # noqa: S311  # jitter is no secret
        if pause is None or not self._healths[leg.index].budget.spend(trio.current_time()):
            return None
        return pause

    def _other(self) -> Leg | None:
        while True:
            choice = self._choose()
            if choice is None and self._slow is not None:
                del self._tried[self._slow]
                self._slow = None
                continue
            if choice is None:
                return None
            try:
                return self._made(choice.index, True)
            except InvalidRequest:
                self._tried[choice.index] = "next"

    def _choose(self) -> Choice | None:
        if self._router.is_plain:  # then it need not be known what the request needs
            return None if self._tried else Choice(0, ())
        return self._router.choose(self._facts, self._tried, trio.current_time(), random.random())  # noqa: S311  # as above


class Nowhere:
    """The way of an exchange of which it is not known yet what will be asked: it has to be prepared first."""

    def first(self) -> Leg:
        raise RuntimeError(_UNPREPARED)

    def after(self, failed: Sequence[tuple[Leg, ProxyError]], *, left: float) -> tuple[Leg, float] | None:
        raise RuntimeError(_UNPREPARED)

    def instead(self, leg: Leg, error: ProxyError, *, is_cut: bool) -> Leg | None:
        raise RuntimeError(_UNPREPARED)

    def beside(self, leg: Leg) -> Leg | None:
        raise RuntimeError(_UNPREPARED)

    def hedge_after(self, leg: Leg) -> float | None:
        raise RuntimeError(_UNPREPARED)

    def begin(self, leg: Leg) -> Trial:
        raise RuntimeError(_UNPREPARED)


_UNPREPARED = "the exchange has not been prepared"
NOWHERE = Nowhere()


class _Trial:
    """One attempt in the books of its target, and of its credential where there are several."""

    __slots__ = ("_credential", "_health", "_is_sent", "_own_key", "_tokens", "_trial")

    def __init__(
        self, health: Health, tokens: int, credential: Credential | None, *, is_again: bool, own_key: bool
    ) -> None:
        self._health = health
        self._credential = credential
        self._own_key = own_key
        self._is_sent = False
        self._tokens = tokens
        self._trial: HealthTrial = health.begin(trio.current_time(), tokens=tokens, retry=is_again)

    def sent(self) -> None:
        self._is_sent = True
        self._health.sent(self._trial, trio.current_time())

    def first_token(self) -> None:
        self._health.first_token(self._trial, trio.current_time())
        if self._credential is not None:
            self._credential.answered(trio.current_time())

    def end(self, error: ProxyError | None, meter: Meter, *, is_over: bool) -> None:
        if not self._is_sent:
            self.sent()  # it has waited for a slot of ours, which is no silence of the target's
        verdict = verdict_for(error, own_key=self._own_key) if is_over else "none"
        if isinstance(error, Diverged):
            verdict = "none"  # another one's words are not the right ones because they came first
        if self._credential is not None and is_over and self._credential.ended(error, trio.current_time()):
            verdict = "none"  # with another credential it may well answer
        made = meter.completion_tokens
        reported = meter.reported.total_tokens if meter.reported is not None else 0
        used = reported or ((meter.reported_prompt or self._tokens) + made if made else None)
        self._health.end(self._trial, trio.current_time(), verdict, tokens=used, completion_tokens=made or None)


def _has_own_tools(request: ChatRequest) -> bool:
    """Whether the provider itself would act on the request (search the web, run code), and twice if it were asked twice."""
    fields = request.fields
    tools = fields.get("tools") or ()
    if not isinstance(tools, list | tuple) or not all(
        isinstance(tool, dict) and tool.get("type") == "function" for tool in tools
    ):
        return True
    return fields.get("web_search_options") is not None
