"""One answer on its way past one judge: events in, events out, in order, and the verdicts in between.

The task that reads the provider feeds it, a task of its own gives on what may leave: so a verdict lets text go while the
provider is silent. Several windows are judged at once, and no more than a few wait: then the provider is not read on.

hold    Nothing leaves before its verdict. A replacement leaves in the place of its window, as one delta.
beside  All leaves at once, but for the end of each choice and of the answer: what is told as whole has been judged whole.
        The answer is never more than a few windows ahead of its verdicts.
"""

from __future__ import annotations

from collections import Counter, deque
from typing import TYPE_CHECKING, assert_never

import trio

from trio_ai_proxy.errors import GuardBlocked, ProxyError
from trio_ai_proxy.guards.base import Block, Pass, Replace
from trio_ai_proxy.relay.line import Line

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from trio_ai_proxy.chat.events import Event
    from trio_ai_proxy.guards.base import Desk, Judge, Verdict
    from trio_ai_proxy.relay.line import Ticket

MAX_IN_FLIGHT = 4
MAX_HELD_CHARACTERS = 2**16


class Judging:
    """One judge over one answer.

    name          the guard's
    blocked       why the answer ends here, None while it may go on
    windows       how many windows there were
    verdicts      how many were told "pass", "replace" or "block"; "late" is a replacement of text that had left
    """

    def __init__(
        self,
        name: str,
        judge: Judge,
        desk: Desk,
        nursery: trio.Nursery,
        deliver: Callable[[list[Event]], Awaitable[None]],
        *,
        on_block: Callable[[GuardBlocked], None] | None = None,
    ) -> None:
        """`name` is the guard's. All tasks run in `nursery`, and end with `close` or with it. `deliver` gets what may leave,
        one call at a time; a `ProxyError` that it raises comes out of `feed` and `close`. `on_block` is told of a block at once,
        by the task that learns of it."""
        self.blocked: GuardBlocked | None = None
        self.windows = 0
        self.verdicts: Counter[str] = Counter()
        self.name = name
        self._judge = judge
        self._desk = desk
        self._nursery = nursery
        self._deliver = deliver
        self._on_block = on_block
        self._line = Line(judge)
        self._to_judge: deque[Ticket] = deque()
        self._judging: set[trio.CancelScope] = set()
        self._is_closed = False
        self._is_delivering = False
        self._error: ProxyError | None = None
        self._held_seconds = 0.0
        self._held_since: float | None = None
        self._is_given_up = False
        self._moved = trio.lowlevel.ParkingLot()  # whoever feeds waits here for what is in the way
        self._ready = trio.lowlevel.ParkingLot()  # whoever delivers waits here
        self._over = trio.Event()
        nursery.start_soon(self._deliver_all, name=f"deliver past {name}")

    @property
    def held_seconds(self) -> float:
        """How long something that could have left has waited for a verdict until now, however much of it there was."""
        pending = trio.current_time() - self._held_since if self._held_since is not None else 0.0
        return self._held_seconds + pending

    @property
    def failures(self) -> int:
        """How often there was no verdict."""
        return self._judge.failures

    async def feed(self, events: Sequence[Event]) -> None:
        """Take the next events. Returns when what may leave of them has left, and the judge keeps up. After a block they are
        dropped. A `feed` that was cancelled has taken its events all the same."""
        if self._error is not None:
            raise self._error
        self._take(self._line.feed(events))
        while self._is_behind():
            await self._moved.park()
        if self._error is not None:
            raise self._error

    async def close(self) -> None:
        """The answer is over. Returns when all of it has left, or all that may after a block."""
        if not self._is_closed:
            self._is_closed = True
            self._take(self._line.close())
        await self._over.wait()
        if self._error is not None:
            raise self._error

    def give_up(self) -> None:
        """Nobody waits for the answer any more: nothing more of it is judged or given on, and nobody who feeds has to wait."""
        self._is_given_up = True
        self._to_judge.clear()
        for scope in self._judging:
            scope.cancel()
        self._look()

    def _take(self, closed: list[Ticket]) -> None:
        if self._is_given_up:
            return
        self.windows += len(closed)
        self._to_judge += closed
        self._start()
        self._look()

    def _is_behind(self) -> bool:
        if self._over.is_set() or self.blocked is not None or self._is_given_up:
            return False
        if self._line.has_ready or self._is_delivering or self._to_judge:
            return True
        return self._line.held > MAX_HELD_CHARACTERS and bool(self._judging)

    def _start(self) -> None:
        """Have judged what may be judged now."""
        while self._to_judge and len(self._judging) < MAX_IN_FLIGHT and not self._over.is_set():
            scope = trio.CancelScope()
            self._judging.add(scope)
            self._nursery.start_soon(self._ask, self._to_judge.popleft(), scope, name=f"ask {self.name}")

    def _look(self) -> None:
        """Something has changed: wake whom it concerns, and keep the time."""
        self._keep_time()
        self._ready.unpark_all()
        self._moved.unpark_all()

    def _keep_time(self) -> None:
        if self._line.is_waiting and not self._is_given_up:
            if self._held_since is None:
                self._held_since = trio.current_time()
        elif self._held_since is not None:
            self._held_seconds += trio.current_time() - self._held_since
            self._held_since = None

    async def _ask(self, ticket: Ticket, scope: trio.CancelScope) -> None:
        try:
            with scope:
                self._decide(ticket, await self._judge.judge(ticket.window, self._desk))
        finally:
            self._judging.discard(scope)
        self._start()
        self._look()

    def _decide(self, ticket: Ticket, verdict: Verdict) -> None:
        if self.blocked is not None:
            return
        match verdict:
            case Pass():
                self.verdicts["pass"] += 1
            case Replace():
                self.verdicts["replace" if self._judge.mode == "hold" else "late"] += 1
            case Block():
                self.verdicts["block"] += 1
            case _:
                assert_never(verdict)
        self._line.decide(ticket, verdict)
        if isinstance(verdict, Block):
            self._block(verdict)

    def _block(self, verdict: Block) -> None:
        self.blocked = GuardBlocked(verdict.reason, guard=self.name)
        self._to_judge.clear()
        for scope in self._judging:
            scope.cancel()
        self._look()
        if self._on_block is not None:
            self._on_block(self.blocked)

    async def _deliver_all(self) -> None:
        try:
            while not self._is_given_up:
                events = self._line.take()
                if events:
                    self._is_delivering = True
                    await self._deliver(events)
                    self._is_delivering = False
                    self._moved.unpark_all()
                elif self.blocked is not None or (self._is_closed and self._line.is_empty):
                    return
                else:
                    await self._ready.park()
        except ProxyError as error:  # nobody takes them any more
            self._error = error
            self._to_judge.clear()
            for scope in self._judging:
                scope.cancel()
        finally:
            self._over.set()
            self._moved.unpark_all()
