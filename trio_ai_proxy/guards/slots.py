"""How many at once: a fair queue for the slots of one provider, in front of its transport.

The queue is ours because a connection pool's own queue does not survive cancellation, and because a crowd of one client
must not hold up the others. A slot belongs to the task that took it, and that task gives it back in `finally`.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Literal

import trio

from trio_ai_proxy.errors import Crowded, Overloaded
from trio_ai_proxy.guards.turns import Pace, Turns

if TYPE_CHECKING:
    from typing import Any

Reason = Literal["timeout", "full", "crowded"]
"""timeout  no slot came free in time
full     the queue was full, and it was not the client's own doing
crowded  the queue was full, and the client had the most places in it"""


class _Place:
    """A task that waits. `is_taken`: it waits no longer, for another one has its place."""

    __slots__ = ("is_taken", "task")

    def __init__(self) -> None:
        self.task = trio.lowlevel.current_task()
        self.is_taken = False


class Slots:
    """`limit` slots. Who finds none free waits: the keys in turn, and of one key first come first served.

    At most `max_queued` wait. Who finds the queue full takes the last place of the key that has the most, if that one has
    at least as many left as the newcomer's key has then; otherwise the newcomer is refused.

    refused  how many were refused, by reason
    """

    def __init__(self, name: str, limit: int, max_queued: int = 1000) -> None:
        self.name = name
        self.refused: dict[Reason, int] = {"timeout": 0, "full": 0, "crowded": 0}
        self._limit = limit
        self._max_queued = max_queued
        self._in_use = 0
        self._queue: Turns[_Place] = Turns()
        self._pace = Pace()

    @property
    def in_use(self) -> int:
        """Slots that are held now. While anybody waits, all of them are."""
        return self._in_use

    @property
    def waiting(self) -> int:
        """Tasks that wait for one."""
        return len(self._queue)

    async def take(self, seconds: float, key: str | None = None) -> None:
        """Take one slot, in the name of `key`; None is one key as well. Raises `Overloaded` if none came free within
        `seconds`, or at once if too many wait already."""
        if self._in_use < self._limit:
            self._in_use += 1
            return
        await trio.lowlevel.checkpoint_if_cancelled()  # who has gone by now takes nobody's place
        queue = self._queue
        if len(queue) >= self._max_queued:
            self._make_room(seconds, key)
        elif not queue:
            self._pace.begin(trio.current_time())
        place = _Place()
        queue.add(key, place)

        def leave(_: Any) -> trio.lowlevel.Abort:
            queue.remove(key, place)
            return trio.lowlevel.Abort.SUCCEEDED

        with trio.move_on_after(seconds):
            # Who has been given a slot, or lost its place, is woken by that and cannot be cancelled in the same instant.
            await trio.lowlevel.wait_task_rescheduled(leave)
            if place.is_taken:
                # Without a key nobody can tell whose crowd it is.
                raise self._refusal(seconds, is_crowd=key is not None)
            return
        self.refused["timeout"] += 1
        text = f"Provider '{self.name}' had no free slot within {seconds:g} s."
        raise Overloaded(text, code="timeout_queue", retry_after=1)

    def give_back(self) -> None:
        """Give back a slot that was taken: to whoever's turn it is."""
        if self._queue:
            self._pace.move(trio.current_time())
            trio.lowlevel.reschedule(self._queue.next().task)
        elif self._in_use:
            self._in_use -= 1
        else:
            raise RuntimeError(f"a slot of {self.name} was given back that nobody had")

    def _make_room(self, seconds: float, key: str | None) -> None:
        """Have another one's place in a full queue, or raise why not."""
        own, most = self._queue.waiting(key), self._queue.longest
        if own + 1 >= most:
            raise self._refusal(seconds, is_crowd=own == most > 0 and key is not None)
        place = self._queue.shed()
        place.is_taken = True
        trio.lowlevel.reschedule(place.task)

    def _refusal(self, seconds: float, *, is_crowd: bool) -> Overloaded:
        # As long as those who wait now will take, at the pace of late; by the queue's deadline they are gone anyway.
        wait = self._pace.seconds_for(len(self._queue) + 1, trio.current_time(), most=seconds)
        retry_after = max(1, math.ceil(wait))
        self.refused["crowded" if is_crowd else "full"] += 1
        full = f"{self._max_queued} requests wait for a slot of provider '{self.name}' already"
        if is_crowd:
            return Crowded(f"{full}, and this key has the most of them.", retry_after=retry_after)
        return Overloaded(f"{full}.", code="queue_full", retry_after=retry_after)
