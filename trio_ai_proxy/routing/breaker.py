"""When a target that fails is left alone, and how it comes back: decides, never sleeps.

    state      asked for a call                       success          failure                          rate limited
    closed     yes                                    counts           counts; opens at the limits      counts for the rate
    open       no (past it: only if all are open)     closes           nothing                          nothing
    half open  one at a time, as a probe              closes           open again, for twice as long    as a failure

An open breaker turns half open by time alone. A call that began before the state last changed says nothing of it. A call
without a verdict (the client has gone) counts for nothing, and a probe that ends so is given back. A probe that has shown a
token makes room for the next one, so that a long answer does not hold up the recovery; only a whole answer closes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from trio_ai_proxy.errors import ProxyError, UpstreamError, UpstreamTimeout
from trio_ai_proxy.routing.steps import status_meant, step_for
from trio_ai_proxy.routing.window import SlidingSum

if TYPE_CHECKING:
    from trio_ai_proxy.settings import BreakerSettings

State = Literal["closed", "open", "half_open"]
Verdict = Literal["success", "failure", "limited", "none"]

MIN_CALLS = 10  # fewer within the window say nothing of a rate
_FIRST_PAUSE = 1 / 8  # of the longest
_DOUBLINGS = 3


def verdict_for(error: ProxyError | None, *, own_key: bool = True) -> Verdict:
    """What the end of a call says of its target; None is a whole answer.

    Connections, deadlines, 5xx and what is no answer are failures. A rate limit counts for the rate alone, and so does a
    credential of ours that is refused; with `own_key` false it was the client's. All else is the request's doing, and so is
    the end of the whole exchange's time.
    """
    if error is None:
        return "success"
    if not isinstance(error, UpstreamError):
        return "none"
    if isinstance(error, UpstreamTimeout):
        return "none" if error.deadline == "total" else "failure"
    step, status = step_for(error), status_meant(error)
    if step in ("stop", "larger") or status in (409, 413, 425):
        return "none"
    if status == 429:
        return "limited" if step == "again" else "none"  # else it is this one request that is too large for the rate
    if status in (401, 402, 403, 407):
        return "limited" if own_key else "none"
    return "failure"


class Admission:
    """One call's place at the breaker, to be settled when it ends."""

    __slots__ = ("is_forced", "is_probe", "is_settled", "round")

    def __init__(self, round: int, *, is_probe: bool, is_forced: bool) -> None:
        self.round = round
        self.is_probe = is_probe
        self.is_forced = is_forced
        self.is_settled = False


class Breaker:
    """Of one target.

    retry_at     when the next probe may go, while it is not closed
    consecutive  failures since the last success
    """

    __slots__ = ("_calls", "_closed_at", "_failed", "_is_open", "_level", "_probe", "_round", "_settings",
                 "consecutive", "retry_at")  # fmt: skip

    def __init__(self, settings: BreakerSettings) -> None:
        self._settings = settings
        self._calls = SlidingSum(settings.window)
        self._failed = SlidingSum(settings.window)
        self._is_open = False
        self._level = 0
        self._round = 0
        self._closed_at = float("-inf")
        self._probe: Admission | None = None
        self.consecutive = 0
        self.retry_at = float("-inf")

    def state(self, now: float) -> State:
        if not self._is_open:
            return "closed"
        return "half_open" if now >= self.retry_at else "open"

    def admits(self, now: float) -> bool:
        """Whether a call may be made."""
        return not self._is_open or (now >= self.retry_at and self._probe is None)

    def enter(self, now: float) -> Admission:
        """The place of a call that is made now. Where `admits` says no it is made all the same, because there is nobody else:
        its success closes, its failure changes nothing."""
        is_probe = self._is_open and self.admits(now)
        admission = Admission(self._round, is_probe=is_probe, is_forced=self._is_open and not is_probe)
        if is_probe:
            self._probe = admission
        return admission

    def progress(self, admission: Admission) -> None:
        """The call has shown a token."""
        if self._probe is admission:
            self._probe = None

    def settle(self, admission: Admission, verdict: Verdict, now: float) -> None:
        """The call has ended. The first time counts."""
        if admission.is_settled:
            return
        admission.is_settled = True
        if self._probe is admission:
            self._probe = None
        if verdict == "none" or admission.round != self._round:
            return
        if self._is_open:
            if verdict == "success":
                self._close(now)
            elif admission.is_probe:
                self._wait(now)
            return
        self._calls.add(1, now)
        if verdict == "success":
            self.consecutive = 0
            return
        self._failed.add(1, now)
        if verdict == "failure":
            self.consecutive += 1
        if self.consecutive >= self._settings.failures or self.failure_rate(now) >= self._settings.rate:
            self._open(now)

    def failure_rate(self, now: float) -> float:
        """The share of calls within the window that failed or were rate limited; 0 while there are too few."""
        calls = self._calls.total(now)
        return self._failed.total(now) / calls if calls >= MIN_CALLS else 0.0

    def _open(self, now: float) -> None:
        # Who fails again so soon has not recovered: the pauses go on where they were.
        if now - self._closed_at >= self._settings.window:
            self._level = 0
        self._is_open = True
        self._round += 1
        self._wait(now)

    def _wait(self, now: float) -> None:
        self.retry_at = now + self._settings.open * _FIRST_PAUSE * 2.0**self._level
        self._level = min(self._level + 1, _DOUBLINGS)

    def _close(self, now: float) -> None:
        self._is_open = False
        self._round += 1
        self._closed_at = now
        self._probe = None
        self.consecutive = 0
        self._calls.clear()
        self._failed.clear()
