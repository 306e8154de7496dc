"""How many at once: a fair queue for the slots of one provider, in front of its transport.

The queue is ours because a connection pool's own queue does not survive cancellation. A slot belongs to the task that
took it, and that task gives it back in `finally`.
"""

from __future__ import annotations

import trio

from trio_ai_proxy.errors import Overloaded


class Slots:
    """`limit` slots. First come, first served."""

    def __init__(self, name: str, limit: int) -> None:
        self.name = name
        self._limiter = trio.CapacityLimiter(limit)

    @property
    def in_use(self) -> int:
        """Slots that are held now."""
        return int(self._limiter.borrowed_tokens)

    @property
    def waiting(self) -> int:
        """Tasks that wait for one."""
        return self._limiter.statistics().tasks_waiting

    async def take(self, seconds: float) -> None:
        """Take one slot. Raises `Overloaded` if none came free within `seconds`."""
        try:
            self._limiter.acquire_nowait()
            return
        except trio.WouldBlock:
            pass
        with trio.move_on_after(seconds):
            await self._limiter.acquire()
            return
        raise Overloaded(
            f"Provider '{self.name}' had no free slot within {seconds:g} s.", code="timeout_queue", retry_after=1
        )

    def give_back(self) -> None:
        """Give back the slot that this task holds."""
        self._limiter.release()
