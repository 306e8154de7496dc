"""What is known of one target: how much it has to do, how quick it is, how it has failed. Decides, never sleeps: every
function takes `now`.

A latency is a peak EWMA: a worse value counts at once, a better one by and by, and a target that is not asked is forgiven
slowly, so that it is asked again some day (Finagle's balancer, https://twitter.github.io/finagle/guide/Clients.html).
"""

from __future__ import annotations

import math
from bisect import bisect_left, insort
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING

from trio_ai_proxy.routing.backoff import Budget
from trio_ai_proxy.routing.breaker import Admission, Breaker, State, Verdict
from trio_ai_proxy.routing.window import SlidingSum

if TYPE_CHECKING:
    from trio_ai_proxy.settings import BreakerSettings

_SMOOTHING_SECONDS = 30.0
# Ten times the time between two requests of a quiet model, or its slow target would be asked every other time.
_FORGIVING_SECONDS = 600.0
_SAMPLES = 200
_MIN_SAMPLES = 20
_USAGE_SECONDS = 60.0


class PeakEwma:
    """A latency in seconds."""

    __slots__ = ("_at", "_value")

    def __init__(self) -> None:
        self._value: float | None = None
        self._at = 0.0

    def observe(self, seconds: float, now: float) -> None:
        before = self.value(now)
        if before is not None and seconds < before:
            weight = math.exp(-max(0.0, now - self._at) / _SMOOTHING_SECONDS)
            seconds = before * weight + seconds * (1.0 - weight)
        self._value, self._at = seconds, max(self._at, now)

    def at_least(self, seconds: float, now: float) -> None:
        """It would have been `seconds` or more: what was awaited had not come by then."""
        before = self.value(now)
        if before is not None and seconds > before:
            self.observe(seconds, now)

    def value(self, now: float) -> float | None:
        """None while nothing is known."""
        if self._value is None:
            return None
        return self._value * math.exp(-max(0.0, now - self._at) / _FORGIVING_SECONDS)


class Recent:
    """The last 200 values."""

    __slots__ = ("_order", "_sorted")

    def __init__(self) -> None:
        self._order: deque[float] = deque()
        self._sorted: list[float] = []

    def add(self, value: float) -> None:
        if len(self._order) == _SAMPLES:
            del self._sorted[bisect_left(self._sorted, self._order.popleft())]
        self._order.append(value)
        insort(self._sorted, value)

    def quantile(self, share: float) -> float | None:
        """The value that `share` of them do not exceed; None while there are fewer than 20."""
        count = len(self._sorted)
        return self._sorted[math.ceil(share * count) - 1] if count >= _MIN_SAMPLES else None


class Trial:
    """One call at a target, from its choice to its end."""

    __slots__ = ("admission", "first_at", "is_over", "sent_at", "tokens")

    def __init__(self, admission: Admission, now: float, tokens: int) -> None:
        self.admission = admission
        self.sent_at = now
        self.first_at: float | None = None
        self.tokens = tokens
        self.is_over = False


@dataclass(frozen=True, slots=True)
class HealthView:
    """One target's health, for people. Times in seconds, None where nothing is known.

    retry_in  until the next probe, while it is left alone
    """

    state: State
    retry_in: float | None
    consecutive_failures: int
    failure_rate: float
    in_flight: int
    ttft: float | None
    ttft_p95: float | None
    per_token: float | None
    requests_last_minute: int
    tokens_last_minute: int
    retries_left: float


class Health:
    """Of one target of one model. All calls of it pass here, in this order: `begin`, `sent`, `first_token`, `end`."""

    __slots__ = ("_per_token", "_recent", "_requests", "_tokens", "_ttft", "breaker", "budget", "in_flight")

    def __init__(self, breaker: BreakerSettings, *, now: float = 0.0) -> None:
        self.breaker = Breaker(breaker)
        self.budget = Budget(now=now)
        self.in_flight = 0
        self._ttft = PeakEwma()
        self._per_token = PeakEwma()
        self._recent = Recent()
        self._tokens = SlidingSum(_USAGE_SECONDS)
        self._requests = SlidingSum(_USAGE_SECONDS)

    def begin(self, now: float, *, tokens: int = 0, retry: bool = False) -> Trial:
        """This target has been chosen. `tokens` is what the call will use, as far as one can tell; `retry` says that the budget
        has been asked for it, so that it earns nothing."""
        self.in_flight += 1
        self._requests.add(1, now)
        self._tokens.add(tokens, now)
        if not retry:
            self.budget.earn(now)
        return Trial(self.breaker.enter(now), now, tokens)

    def sent(self, trial: Trial, now: float) -> None:
        """The request goes out: what it waited before for a slot of ours says nothing of the target."""
        trial.sent_at = now

    def first_token(self, trial: Trial, now: float) -> None:
        """Real generation has been seen. The first time counts."""
        if trial.first_at is not None or trial.is_over:
            return
        trial.first_at = now
        self._ttft.observe(now - trial.sent_at, now)
        self._recent.add(now - trial.sent_at)
        self.breaker.progress(trial.admission)

    def end(
        self,
        trial: Trial,
        now: float,
        verdict: Verdict,
        *,
        tokens: int | None = None,
        completion_tokens: int | None = None,
    ) -> None:
        """The call has ended, however it did. The first time counts. `tokens` is what it has used, None where nobody knows
        better than before."""
        if trial.is_over:
            return
        trial.is_over = True
        self.in_flight -= 1
        self.breaker.settle(trial.admission, verdict, now)
        if tokens is not None:
            self._tokens.add(tokens - trial.tokens, now)
        if verdict == "success":
            if completion_tokens is not None:
                self._observe_pace(trial, now, completion_tokens)
        elif trial.first_at is None:
            self._observe_silence(now - trial.sent_at, now)

    def _observe_pace(self, trial: Trial, now: float, completion_tokens: int) -> None:
        # The first token is there when its clock starts; a one-shot answer has no such clock.
        since, count = (
            (trial.sent_at, completion_tokens) if trial.first_at is None else (trial.first_at, completion_tokens - 1)
        )
        if count > 0:
            self._per_token.observe((now - since) / count, now)

    def _observe_silence(self, seconds: float, now: float) -> None:
        """A call that was given up while it waited. Were they left out, a target whose slow calls lose every hedge would look
        quick, and be hedged ever sooner."""
        self._ttft.at_least(seconds, now)
        slowest = self.p95()
        if slowest is not None and seconds >= slowest:
            self._recent.add(seconds)

    def ttft(self, now: float) -> float | None:
        """Seconds to the first token, None while nothing is known."""
        return self._ttft.value(now)

    def per_token(self, now: float) -> float | None:
        """Seconds from token to token, None while nothing is known."""
        return self._per_token.value(now)

    def p95(self) -> float | None:
        """The 95th percentile of the last 200 times to the first token; None while there are fewer than 20."""
        return self._recent.quantile(0.95)

    def tokens(self, now: float) -> int:
        """Used in the last minute, with what is still expected of calls in flight."""
        return max(0, self._tokens.total(now))

    def requests(self, now: float) -> int:
        """Begun in the last minute."""
        return self._requests.total(now)

    def view(self, now: float) -> HealthView:
        breaker, state = self.breaker, self.breaker.state(now)
        self.budget.has(now)
        return HealthView(
            state=state,
            retry_in=None if state == "closed" else max(0.0, breaker.retry_at - now),
            consecutive_failures=breaker.consecutive,
            failure_rate=breaker.failure_rate(now),
            in_flight=self.in_flight,
            ttft=self.ttft(now),
            ttft_p95=self.p95(),
            per_token=self.per_token(now),
            requests_last_minute=self.requests(now),
            tokens_last_minute=self.tokens(now),
            retries_left=self.budget.held,
        )
