"""Which target a request goes to, and which next: decides, never sleeps; the time and every random number are arguments.

    those that can take it at all (who it is for, what it can do, how much it can hold)
    → not tried in vain before → breaker → the best priority → balance

If every breaker is open the least bad target is tried: what is certain to fail helps no one.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING

import msgspec

from trio_ai_proxy.errors import InvalidRequest
from trio_ai_proxy.routing.balance import Balance, Candidate, Draw, balance_of
from trio_ai_proxy.routing.facts import ABILITIES, Facts, TargetFacts
from trio_ai_proxy.routing.patterns import one_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from trio_ai_proxy.routing.health import Health
    from trio_ai_proxy.routing.steps import Step
    from trio_ai_proxy.settings import ModelSettings, TargetSettings

_NO_PROBE = 1.0  # above every random number


class Choice(msgspec.Struct, frozen=True):
    """A target.

    index    its place in the model
    reasons  why it, a few words each
    forced   its breaker admits no call, and nor does any other: it is the least bad
    again    it has been tried in this exchange: its pause comes first
    """

    index: int
    reasons: tuple[str, ...]
    forced: bool = False
    again: bool = False


@dataclass(frozen=True, slots=True)
class Line:
    """What becomes of one target, for people. `order` is 1 for the one that would be asked first, None for one that is never
    asked for this request."""

    index: int
    name: str
    order: int | None
    why: tuple[str, ...]


class Router:
    """Of one model.

    healths  of its targets, in the same order
    targets  what each can do
    """

    def __init__(self, model: ModelSettings, healths: Sequence[Health], targets: Sequence[TargetFacts]) -> None:
        self._model = model
        self._targets = targets
        names = target_names(model.targets)
        self._candidates = [
            Candidate(index, names[index], target.weight, health, target.description)
            for index, (target, health) in enumerate(zip(model.targets, healths, strict=True))
        ]
        only = model.targets[0]
        self._is_plain = (
            len(model.targets) == 1 and only.match is None and only.capabilities is None and only.max_context is None
        )
        self._balances: dict[int, Balance] = {target.priority: balance_of(model) for target in model.targets}

    @property
    def is_plain(self) -> bool:
        """There is one target, and it takes what comes."""
        return self._is_plain

    def choose(self, facts: Facts, tried: Mapping[int, Step], now: float, random: float) -> Choice | None:
        """The target for the next attempt, None if there is none left. `tried` is what the targets' errors meant, by index.

        The target that is returned must be begun (`Health.begin`) before anyone else chooses: only that takes up its probe.
        """
        if "stop" in tried.values():
            return None
        usable = self._usable(facts, tried)
        fresh = [one for one in usable if tried.get(one.index) != "again"]
        stale = [one for one in usable if tried.get(one.index) == "again"]
        draw = _draw(facts, now, random)
        for pool, again in ((fresh, False), (stale, True)):
            admitted = [one for one in pool if one.health.breaker.admits(now)]
            if admitted:
                chosen, reasons = self._pick(admitted, draw)
                return Choice(chosen.index, reasons, again=again)
        for pool, again in ((fresh, False), (stale, True)):
            if pool:
                chosen = min(pool, key=self._badness)
                return Choice(chosen.index, ("every breaker is open: the least bad",), forced=True, again=again)
        return None

    def _pick(self, admitted: Sequence[Candidate], draw: Draw) -> tuple[Candidate, tuple[str, ...]]:
        priority = min(self._model.targets[one.index].priority for one in admitted)
        group = [one for one in admitted if self._model.targets[one.index].priority == priority]
        if len(group) == 1:
            return group[0], (f"priority {priority}",)
        balance = self._balances[priority]
        chosen = balance.order(group, draw)[0]
        balance.took(chosen, group, draw)
        return chosen, (f"priority {priority}", self._model.balance)

    def _badness(self, one: Candidate) -> tuple[float, int, int, int]:
        """Who may be asked again first, has failed the least, and goes first anyway."""
        breaker = one.health.breaker
        return breaker.retry_at, breaker.consecutive, self._model.targets[one.index].priority, one.index

    def _usable(self, facts: Facts, tried: Mapping[int, Step]) -> list[Candidate]:
        able = self._able(facts)
        fitting = [one for one in able if self._fits(one, facts, tried)]
        if not fitting and "larger" not in tried.values():
            # The length is an estimate: the largest window is worth a try.
            largest = max((self._targets[one.index].max_context or 0 for one in able), default=0)
            fitting = [one for one in able if self._targets[one.index].max_context == largest]
        return [one for one in fitting if tried.get(one.index) not in ("next", "larger")]

    def _able(self, facts: Facts) -> list[Candidate]:
        """Those whom it is for and who can do it. If there are none, those of whom only their kind says that they cannot: the
        provider then refuses in its own words, or leaves out what the model allows to be left out."""
        meant = [one for one in self._candidates if not self._strangers(one, facts)]
        return [one for one in meant if not self._lacking(one, facts)] or [
            one for one in meant if not self._targets[one.index].ruled_out & _needs(facts)
        ]

    def _strangers(self, one: Candidate, facts: Facts) -> list[str]:
        """Why this request is not meant for the target; nothing if it is."""
        match = self._model.targets[one.index].match
        if match is None:
            return []
        why = [
            f"only for header {name}: {pattern}"
            for name, pattern in match.headers.items()
            if not one_of((pattern,)).fullmatch(facts.headers.get(name.lower(), ""))
        ]
        if match.keys and (facts.key is None or not one_of(match.keys).fullmatch(facts.key)):
            why.append(f"only for keys {', '.join(match.keys)}")
        return why

    def _lacking(self, one: Candidate, facts: Facts) -> list[str]:
        """What the request needs and the target does not do."""
        target = self._targets[one.index]
        lacks = [name for name in ABILITIES if name in target.lacks and getattr(facts, name)]
        return ([] if facts.operation in target.operations else [facts.operation]) + [str(name) for name in lacks]

    def _fits(self, one: Candidate, facts: Facts, tried: Mapping[int, Step]) -> bool:
        window = self._targets[one.index].max_context
        if "larger" in tried.values():
            return window is not None and window > self._too_small(facts, tried)
        return window is None or facts.tokens <= window

    def _too_small(self, facts: Facts, tried: Mapping[int, Step]) -> int:
        """The largest window that is known not to be enough."""
        windows = [self._targets[index].max_context or 0 for index, step in tried.items() if step == "larger"]
        return max(*windows, facts.tokens - 1, 0)

    def refusal(self, facts: Facts) -> InvalidRequest | None:
        """Why no target may be asked for this request, whatever their state; None if one may."""
        if self._able(facts):
            return None
        meant = [one for one in self._candidates if not self._strangers(one, facts)]
        if not meant:
            text = f"No target of the model `{self._model.name}` is meant for this request."
            return InvalidRequest(text, param="model", code="no_target")
        lacking = sorted({name for one in meant for name in self._lacking(one, facts)})
        text = f"No target of the model `{self._model.name}` can do what this request needs: {', '.join(lacking)}."
        return InvalidRequest(text, param="model", code="unsupported_parameter")

    def explain(self, facts: Facts, now: float) -> list[Line]:
        """All targets: first those that would be asked, in order, then those that would not be. It changes nothing."""
        draw = _draw(facts, now, _NO_PROBE)
        usable = self._usable(facts, {})
        admitted = [one for one in usable if one.health.breaker.admits(now)]
        shut = sorted((one for one in usable if one not in admitted), key=self._badness)
        groups: dict[int, list[Candidate]] = {}
        for one in admitted:
            groups.setdefault(self._model.targets[one.index].priority, []).append(one)
        ordered = [one for priority in sorted(groups) for one in self._balances[priority].order(groups[priority], draw)]
        lines = [
            Line(one.index, one.name, place, self._why(one, now))
            for place, one in enumerate([*ordered, *shut], start=1)
        ]
        left_out = [one for one in self._candidates if one not in usable]
        return lines + [Line(one.index, one.name, None, self._why_not(one, facts)) for one in left_out]

    def _why(self, one: Candidate, now: float) -> tuple[str, ...]:
        target, health = self._model.targets[one.index], one.health
        why = [f"priority {target.priority}", f"{self._model.balance}, weight {one.weight}"]
        state = health.breaker.state(now)
        if state == "open":
            why.append(f"breaker open for {health.breaker.retry_at - now:.1f} s more")
        elif state == "half_open":
            why.append(
                "breaker half open: one call at a time" if health.breaker.admits(now) else "breaker: being probed"
            )
        return tuple(why)

    def _why_not(self, one: Candidate, facts: Facts) -> tuple[str, ...]:
        why = self._strangers(one, facts) + [f"no {name}" for name in self._lacking(one, facts)]
        window = self._targets[one.index].max_context
        if window is not None and facts.tokens > window:
            why.append(f"window of {window} tokens, and this needs about {facts.tokens}")
        return tuple(why)


def _draw(facts: Facts, now: float, random: float) -> Draw:
    return Draw(now, random, facts.hash_value, facts.similarities)


def _needs(facts: Facts) -> set[str]:
    return {name for name in ABILITIES if getattr(facts, name)}


def target_names(targets: Iterable[TargetSettings]) -> list[str]:
    """What each is known by: its provider and model, and a number where two have both."""
    seen: Counter[str] = Counter()
    names = []
    for target in targets:
        name = f"{target.provider}/{target.model}"
        seen[name] += 1
        names.append(name if seen[name] == 1 else f"{name}#{seen[name]}")
    return names
