"""How long to wait before the same target is tried again, and how often that may be: decides, never sleeps.

The pause is exponential with full jitter (https://aws.amazon.com/blogs/architecture/exponential-backoff-and-jitter/). What the
provider asks for with Retry-After is kept where the deadline allows it. Retries are a share of what a target is asked anyway,
so that they cannot multiply the load on one that is down (Finagle's RetryBudget: 20 per cent and a small floor).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from trio_ai_proxy.errors import ProxyError

BASE_SECONDS = 0.25
MAX_SECONDS = 8.0
MAX_RETRY_AFTER = 60.0  # as OpenAI's SDKs: who asks for more than a minute is not waited for
NEEDED_SECONDS = 1.0  # what must be left after the pause for it to have been worth waiting


def pause(failures: int, random: float) -> float:
    """Seconds after the `failures`-th failure; `random` is from 0 to below 1."""
    return random * min(MAX_SECONDS, BASE_SECONDS * 2.0 ** min(failures - 1, 16))


def wait_before(
    error: ProxyError, failures: int, *, left: float, random: float, rest: float | None = None
) -> float | None:
    """Seconds to wait before the same target is tried again after `error`, its `failures`-th failure in this exchange. None if
    that does not fit into the `left` seconds of the deadline: then it is the next target's turn, at once. `rest` takes the
    place of the error's own Retry-After: what the first of several credentials has been told, 0 for nothing.

    After Retry-After comes a little jitter, or all who were told the same would come back together.
    """
    wait = pause(failures, random)
    told = error.retry_after if rest is None else rest
    if told is not None and told > 0:
        if told > MAX_RETRY_AFTER:
            return None
        wait = told + random * BASE_SECONDS
    return wait if wait + NEEDED_SECONDS <= left else None


class Budget:
    """A token bucket of extra calls: each ordinary call puts `ratio` of one in, time puts `per_second` in, and it holds at most
    `burst`. It begins full."""

    __slots__ = ("_at", "_burst", "_held", "_per_second", "_ratio")

    def __init__(self, ratio: float = 0.2, *, per_second: float = 0.1, burst: float = 10.0, now: float = 0.0) -> None:
        self._ratio = ratio
        self._per_second = per_second
        self._burst = burst
        self._held = burst
        self._at = now

    def earn(self, now: float) -> None:
        """An ordinary call is made."""
        self._fill(now, self._ratio)

    def spend(self, now: float) -> bool:
        """Take one extra call. Returns whether there was one."""
        if not self.has(now):
            return False
        self._held -= 1.0
        return True

    def has(self, now: float) -> bool:
        """Whether there is one to take."""
        self._fill(now, 0.0)
        return self._held >= 1.0

    @property
    def held(self) -> float:
        """What there was when it was last asked."""
        return self._held

    def _fill(self, now: float, more: float) -> None:
        self._held = min(self._burst, self._held + more + max(0.0, now - self._at) * self._per_second)
        self._at = max(self._at, now)
