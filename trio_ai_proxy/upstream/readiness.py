"""Which of many sockets have something to read, asked once for all of them.

A task that waits for one socket at a time costs, for each chunk, a system call to arm the wait and two passes of Trio's
scheduler. Where chunks come one by one, as tokens do, that is more than all the rest of the work. Here one task waits for
an epoll set, and what has come is handed on by a plain call. Whoever watches a socket is still a task that waits, within its
own scopes: when it is cancelled it stops watching in the same instant, and what its callback raises is raised in it, and in
nobody else.

Linux only; elsewhere `is_running` stays false and everybody waits for himself.
"""

from __future__ import annotations

import select
from typing import TYPE_CHECKING, Protocol

import trio

if TYPE_CHECKING:
    from collections.abc import Callable


class HasFileno(Protocol):
    """A socket."""

    def fileno(self) -> int: ...


class Readiness:
    """Watches sockets for tasks. Lives as long as its `run`.

    is_running  whether `watch` can be used
    """

    def __init__(self) -> None:
        self.is_running = False
        self._watchers: dict[int, _Watcher] = {}
        self._epoll: select.epoll | None = None

    @property
    def watched(self) -> int:
        """How many sockets are watched now."""
        return len(self._watchers)

    async def run(self) -> None:
        """Serve those who watch, until cancelled."""
        if not hasattr(select, "epoll"):
            return
        with select.epoll() as epoll:
            self._epoll = epoll
            self.is_running = True
            try:
                await self._serve(epoll)
            finally:
                self.is_running = False
                self._epoll = None
                for watcher in self._watchers.values():
                    watcher.wake()
                self._watchers.clear()

    async def _serve(self, epoll: select.epoll) -> None:
        watchers = self._watchers
        number = epoll.fileno()
        while True:
            await trio.lowlevel.wait_readable(number)
            for socket_number, _ in epoll.poll(0):
                # Who was woken or cancelled by the call before is no longer here.
                watcher = watchers.get(socket_number)
                if watcher is None:
                    continue
                try:
                    goes_on = watcher.on_readable()
                except BaseException as error:  # noqa: BLE001, ASYNC103  # up to a panic, it is raised in the watching task
                    watcher.error = error
                    goes_on = False
                # What was called may have had its own task cancelled, and then there is nobody left to wake.
                if not goes_on and watchers.get(socket_number) is watcher:
                    self._leave(socket_number)
                    watcher.wake()

    async def watch(self, socket: HasFileno, on_readable: Callable[[], bool]) -> None:
        """Call `on_readable` whenever `socket` has something to read, until it returns false. It must neither wait nor leave
        the socket as it is. Raises what it raises. Returns early, without a call, when `run` ends, when the system will not
        have one more socket watched, and after `forget`.

        Raises `trio.BusyResourceError` if the socket is watched already.
        """
        number = socket.fileno()
        if number in self._watchers:
            raise trio.BusyResourceError("another task watches this socket")
        if not self._enter(number):
            await trio.lowlevel.checkpoint()
            return
        watcher = self._watchers[number] = _Watcher(trio.lowlevel.current_task(), on_readable)

        def stop(_: object) -> trio.lowlevel.Abort:
            self._leave(number)
            return trio.lowlevel.Abort.SUCCEEDED

        try:
            await trio.lowlevel.wait_task_rescheduled(stop)
        finally:
            # Also when it was cancelled by the same call that then failed: a bug is not to be lost.
            error, watcher.error = watcher.error, None
            if error is not None:
                raise error

    def forget(self, socket: HasFileno) -> None:
        """Wake whoever watches `socket`, if anybody does: it is about to be closed, and its number may then be another's."""
        watcher = self._watchers.get(socket.fileno())
        if watcher is not None:
            self._leave(socket.fileno())
            watcher.wake()

    def _enter(self, number: int) -> bool:
        if self._epoll is None or number < 0:
            return False
        try:
            self._epoll.register(number, select.EPOLLIN)
        except OSError:
            return False
        return True

    def _leave(self, number: int) -> None:
        del self._watchers[number]
        if self._epoll is not None:
            try:
                self._epoll.unregister(number)
            except OSError:
                pass  # closed behind our back; this is called where nothing may be raised


class _Watcher:
    """A task that waits, and what to call for it meanwhile."""

    __slots__ = ("_task", "error", "on_readable")

    def __init__(self, task: trio.lowlevel.Task, on_readable: Callable[[], bool]) -> None:
        self._task = task
        self.on_readable = on_readable
        self.error: BaseException | None = None

    def wake(self) -> None:
        trio.lowlevel.reschedule(self._task)
