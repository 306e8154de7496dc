"""Which of a provider's several credentials a call goes out with: decides, never sleeps; every function takes `now`.

    state     is asked                                  an answer   a rate limit         401, 402 or 403
    usable    in turn: who was asked longest ago        –           rests                out
    resting   if none is usable: whose rest ends first  usable      rests anew, longer   out
    out       as a probe, from time to time; if all     usable      a failed probe       a failed probe
              are out: who was asked longest ago

A rest is as long as the provider asks for, else short, and longer each time until there is an answer. What a call says that
was made before the state last changed is old: it ends no rest and is not counted towards a longer one, and a refusal from
before the credential came back does not take it out.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

FIRST_REST = 5.0  # seconds; each further one without an answer in between is twice as long
LONGEST_REST = 60.0
LONGEST_TOLD_REST = 3600.0  # of what a provider asks for; who asks for a day is asked again within the hour
FIRST_PROBE = 300.0
LONGEST_PROBE = 3600.0

State = Literal["usable", "resting", "out"]


@dataclass(frozen=True, slots=True)
class Turn:
    """One call with the credential at the place `index`; `round` counts the changes of its state before the call."""

    index: int
    round: int


@dataclass(frozen=True, slots=True)
class CredentialView:
    """One credential, for people. Times in seconds, None where they mean nothing.

    ready_in  until its rest ends, or until it is probed
    out_for   since it was taken out
    reason    the status that took it out
    """

    state: State
    ready_in: float | None
    out_for: float | None
    reason: str | None


class _Credential:
    __slots__ = (
        "asked", "back_in_round", "index", "is_probed", "out_at", "probe_at", "probes", "reason", "rest_is_told",
        "rest_until", "rests", "round",
    )  # fmt: skip

    def __init__(self, index: int) -> None:
        self.index = index
        self.asked = 0  # number of the last call with it, among those of the ring
        self.round = 0
        self.back_in_round = 0
        self.rest_until = -math.inf
        self.rest_is_told = False
        self.rests = 0  # without an answer in between
        self.reason: str | None = None  # it is out
        self.out_at = 0.0
        self.probe_at = 0.0
        self.probes = 0  # that failed
        self.is_probed = False

    def state(self, now: float) -> State:
        if self.reason is not None:
            return "out"
        return "resting" if now < self.rest_until else "usable"

    def probe(self, now: float) -> None:
        """It is asked, or has just failed: the next probe comes after a pause."""
        self.probe_at = now + min(LONGEST_PROBE, FIRST_PROBE * 2.0 ** min(self.probes, 16))

    def fail_probe(self, now: float) -> None:
        if self.is_probed:
            self.is_probed = False
            self.probes += 1
            self.probe(now)


class Ring:
    """The credentials of one provider, known by their places from 0."""

    def __init__(self, count: int) -> None:
        self._all = [_Credential(index) for index in range(count)]
        self._calls = 0

    def take(self, now: float) -> Turn:
        """The one whose turn it is. One that is out goes first when its probe is due: only then can it come back while the
        others work."""
        due = [one for one in self._all if one.reason is not None and now >= one.probe_at]
        if due:
            chosen = min(due, key=_longest_ago)
            chosen.is_probed = True
            chosen.probe(now)  # one probe at a time
            return self._ask(chosen)
        usable = self._among("usable", now) or sorted(self._among("resting", now), key=_soonest)[:1]
        return self._ask(min(usable or self._all, key=_longest_ago))

    def take_usable(self, now: float, tried: Collection[int]) -> Turn | None:
        """The one whose turn it is among those that are usable and not `tried`; None if there is none."""
        left = [one for one in self._among("usable", now) if one.index not in tried]
        return self._ask(min(left, key=_longest_ago)) if left else None

    def answered(self, turn: Turn, now: float) -> bool:
        """The provider has taken it. Returns whether it had been out."""
        one = self._all[turn.index]
        if turn.round != one.round:
            return False
        state = one.state(now)
        one.rests = 0
        if state != "usable":
            one.reason, one.rest_until, one.is_probed = None, -math.inf, False
            one.round += 1
            one.back_in_round = one.round
        return state == "out"

    def limited(self, turn: Turn, retry_after: float | None, now: float) -> None:
        """A rate limit. `retry_after` is what the provider asked for."""
        one = self._all[turn.index]
        told = min(retry_after, LONGEST_TOLD_REST) if retry_after is not None and retry_after > 0 else None
        if one.reason is not None:
            one.fail_probe(now)  # it may be well again, but nobody can tell from this
        elif turn.round == one.round:
            seconds = told or min(LONGEST_REST, FIRST_REST * 2.0 ** min(one.rests, 16))
            one.rest_until, one.rest_is_told = now + seconds, told is not None
            one.rests += 1
            one.round += 1
        elif told is not None and now + told > one.rest_until:
            one.rest_until, one.rest_is_told = now + told, True

    def refused(self, turn: Turn, reason: str, now: float) -> bool:
        """It is unknown, used up or not allowed. Returns whether that is news: it was in, and is out."""
        one = self._all[turn.index]
        if turn.round < one.back_in_round:
            return False
        is_news = one.reason is None
        if is_news:
            one.out_at = now
            one.probes = 0
            one.probe(now)
            one.round += 1
        else:
            one.fail_probe(now)
        one.reason = reason
        return is_news

    def usable(self, now: float) -> int:
        """How many are neither out nor resting."""
        return len(self._among("usable", now))

    def is_resting(self, now: float) -> bool:
        """Whether one that is not out has to rest."""
        return bool(self._among("resting", now))

    def told_rest(self, now: float) -> float | None:
        """Seconds until the first rest ends, where it is the provider who asked for it; None where it is a guess of ours, or
        nobody rests, or somebody need not."""
        resting = self._among("resting", now)
        if not resting or self.usable(now):
            return None
        first = min(resting, key=_soonest)
        return first.rest_until - now if first.rest_is_told else None

    def view(self, now: float) -> Sequence[CredentialView]:
        """Each of them, in order."""
        return [_view(one, now) for one in self._all]

    def _among(self, state: State, now: float) -> list[_Credential]:
        return [one for one in self._all if one.state(now) == state]

    def _ask(self, one: _Credential) -> Turn:
        self._calls += 1
        one.asked = self._calls
        return Turn(one.index, one.round)


def _longest_ago(one: _Credential) -> tuple[int, int]:
    return one.asked, one.index


def _soonest(one: _Credential) -> tuple[float, int, int]:
    return one.rest_until, one.asked, one.index


def _view(one: _Credential, now: float) -> CredentialView:
    state = one.state(now)
    ready_at = {"usable": None, "resting": one.rest_until, "out": one.probe_at}[state]
    return CredentialView(
        state=state,
        ready_in=None if ready_at is None else max(0.0, ready_at - now),
        out_for=now - one.out_at if state == "out" else None,
        reason=one.reason,
    )
