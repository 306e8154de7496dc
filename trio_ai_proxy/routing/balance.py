"""Who goes first among targets of equal priority: decides, never sleeps, and draws no number of its own.

A balance puts candidates in order, which changes nothing, and is told who was taken.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from hashlib import blake2b
from typing import TYPE_CHECKING, Protocol, assert_never

from typing_extensions import override

if TYPE_CHECKING:
    from collections.abc import Sequence

    from trio_ai_proxy.routing.health import Health
    from trio_ai_proxy.settings import ModelSettings

PROBE_SHARE = 0.04
# What an answer's pace weighs against the wait for its first token: as much as an answer of so many tokens.
_TOKENS_OF_AN_ANSWER = 100
SIMILARITY_THRESHOLD = 0.5


@dataclass(frozen=True, slots=True)
class Candidate:
    """A target that may be taken.

    index        its place in the model
    name         what it is known by, whatever its place: a target that comes or goes moves no other
    description  None: it is for what no other target's description fits
    """

    index: int
    name: str
    weight: int
    health: Health
    description: str | None = None


@dataclass(frozen=True, slots=True)
class Draw:
    """What a choice depends on beside the targets. `random` is from 0 to below 1."""

    now: float
    random: float
    hash_value: str | None = None
    similarities: Sequence[float] = ()


class Balance(Protocol):
    def order(self, candidates: Sequence[Candidate], draw: Draw) -> list[Candidate]:
        """All of them, the one to take first."""
        ...

    def took(self, chosen: Candidate, candidates: Sequence[Candidate], draw: Draw) -> None:
        """`chosen` of `candidates` was taken."""
        ...


class Weighted:
    """Nginx's smooth weighted round-robin: everyone gains its weight, the richest is taken and pays for all. Of 5, 1 and 1 it
    makes a a b a c a a, where the plain one makes a a a a a b c.

    Source: nginx, src/http/ngx_http_upstream_round_robin.c
    """

    def __init__(self) -> None:
        self._held: dict[int, int] = {}

    def order(self, candidates: Sequence[Candidate], draw: Draw) -> list[Candidate]:
        return sorted(candidates, key=lambda one: (-(self._held.get(one.index, 0) + one.weight), one.index))

    def took(self, chosen: Candidate, candidates: Sequence[Candidate], draw: Draw) -> None:
        for one in candidates:
            self._held[one.index] = self._held.get(one.index, 0) + one.weight
        self._held[chosen.index] -= sum(one.weight for one in candidates)


class _Lowest(ABC):
    """The lowest score first; those who have the same take turns by weight."""

    def __init__(self) -> None:
        self._turns = Weighted()

    def order(self, candidates: Sequence[Candidate], draw: Draw) -> list[Candidate]:
        scores = self._scores(candidates, draw)
        return sorted(self._turns.order(candidates, draw), key=lambda one: scores[one.index])

    def took(self, chosen: Candidate, candidates: Sequence[Candidate], draw: Draw) -> None:
        scores = self._scores(candidates, draw)
        equals = [one for one in candidates if scores[one.index] == scores[chosen.index]]
        self._turns.took(chosen, equals, draw)

    @abstractmethod
    def _scores(self, candidates: Sequence[Candidate], draw: Draw) -> dict[int, tuple[float, float]]:
        """By index."""


class LeastInFlight(_Lowest):
    """The fewest exchanges for its weight."""

    @override
    def _scores(self, candidates: Sequence[Candidate], draw: Draw) -> dict[int, tuple[float, float]]:
        return {one.index: (one.health.in_flight / one.weight, 0.0) for one in candidates}


class LowestUsage(_Lowest):
    """The fewest tokens in the last minute for its weight; of those with as many, the fewest requests."""

    @override
    def _scores(self, candidates: Sequence[Candidate], draw: Draw) -> dict[int, tuple[float, float]]:
        return {
            one.index: (one.health.tokens(draw.now) / one.weight, one.health.requests(draw.now) / one.weight)
            for one in candidates
        }


class LowestLatency(_Lowest):
    """The quickest: the shortest wait for an answer of a hundred tokens. The others together get 4 per cent of the calls, so
    that one which has recovered is seen.

    One of which nothing is known goes first, with one call at a time; its further calls wait until it has shown what it can do.
    """

    @override
    def order(self, candidates: Sequence[Candidate], draw: Draw) -> list[Candidate]:
        best, *others = super().order(candidates, draw)
        if others and draw.random < PROBE_SHARE:
            others.insert(0, others.pop(int(draw.random / PROBE_SHARE * len(others))))
            return [others[0], best, *others[1:]]
        return [best, *others]

    @override
    def _scores(self, candidates: Sequence[Candidate], draw: Draw) -> dict[int, tuple[float, float]]:
        waits = {one.index: _expected(one.health, draw.now) for one in candidates}
        known = [wait for wait in waits.values() if wait is not None]
        slowest = max(known, default=0.0)
        scores = {}
        for one in candidates:
            wait = waits[one.index]
            if wait is None:
                wait = slowest if one.health.in_flight else 0.0
            scores[one.index] = (wait, one.health.in_flight / one.weight if not known else 0.0)
        return scores


def _expected(health: Health, now: float) -> float | None:
    first, pace = health.ttft(now), health.per_token(now)
    if first is None and pace is None:
        return None
    return (first or 0.0) + _TOKENS_OF_AN_ANSWER * (pace or 0.0)


class ConsistentHash:
    """Rendezvous hashing, by weight: each target draws a lot for each value, and the highest goes first. A target that goes away
    gives only its own values to others; one that comes takes only what it draws highest for.

    A request without a value goes anywhere, by weight. Source: Schindelhauer and Schomaker, "Weighted distributed hash tables"
    """

    def order(self, candidates: Sequence[Candidate], draw: Draw) -> list[Candidate]:
        value = repr(draw.random) if draw.hash_value is None else draw.hash_value
        return sorted(candidates, key=lambda one: (_lot(value, one), one.index))

    def took(self, chosen: Candidate, candidates: Sequence[Candidate], draw: Draw) -> None:
        """It remembers nothing."""


def _lot(value: str, one: Candidate) -> float:
    """The lowest is drawn in proportion to the weight."""
    text = f"{value}\0{one.name}".encode("utf-8", "surrogatepass")
    number = int.from_bytes(blake2b(text, digest_size=8).digest(), "big")
    return -math.log((number + 1) / 2**64) / one.weight


class Semantic:
    """The one whose description is nearest to what is asked, if it is near enough; then those without a description, which are
    for everything else; then the others, the nearest first. Where nobody knows what is near, by weight in turn."""

    def __init__(self, threshold: float = SIMILARITY_THRESHOLD) -> None:
        self._threshold = threshold
        self._turns = Weighted()

    def order(self, candidates: Sequence[Candidate], draw: Draw) -> list[Candidate]:
        if not draw.similarities:
            return self._turns.order(candidates, draw)

        def rank(one: Candidate) -> tuple[int, float, int]:
            if one.description is None:
                return 1, 0.0, one.index
            near = draw.similarities[one.index]
            return (0 if near >= self._threshold else 2), -near, one.index

        return sorted(candidates, key=rank)

    def took(self, chosen: Candidate, candidates: Sequence[Candidate], draw: Draw) -> None:
        if not draw.similarities:
            self._turns.took(chosen, candidates, draw)


def balance_of(model: ModelSettings) -> Balance:
    """A new balance, for one group of the model's targets."""
    match model.balance:
        case "weighted":
            return Weighted()
        case "least_in_flight":
            return LeastInFlight()
        case "lowest_latency":
            return LowestLatency()
        case "lowest_usage":
            return LowestUsage()
        case "consistent_hash":
            return ConsistentHash()
        case "semantic":
            return Semantic(SIMILARITY_THRESHOLD if model.semantic is None else model.semantic.threshold)
        case _:
            assert_never(model.balance)
