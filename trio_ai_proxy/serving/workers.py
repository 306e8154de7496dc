"""Several worker processes on one port: each has a listening socket of its own there, and the kernel deals the connections
out. They share the port and the log, and nothing else.

The supervisor owns the workers. It holds their sockets open, so that connections which wait in the queue of a worker that
died are served by its successor; it starts a worker that died again; it hands on signals, and waits. It serves nothing.
"""

from __future__ import annotations

import signal
import socket
import subprocess
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING

import trio

from trio_ai_proxy.errors import ConfigError
from trio_ai_proxy.serving.lifeline import Job
from trio_ai_proxy.serving.listener import address, open_listener, open_shared
from trio_ai_proxy.telemetry.lines import LineSink
from trio_ai_proxy.telemetry.log import configure_logging, get_logger

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from trio_ai_proxy.settings import Settings

AT_ONCE = 2.0  # a worker that has served for less has died at once
MOST_IN_SUCCESSION = 5  # so many such deaths of one worker are a fault that no further start will mend
FIRST_PAUSE, LONGEST_PAUSE = 0.1, 5.0
LATE = 6.0  # what a worker may need beside its drain: for its last connections, and to write its records
FORCED = 3.0  # what it may need to end after a second signal
_FLUSH_SECONDS = 2.0
# No failure in a drain: a service manager's signal goes to every process, and one that is still starting ends by it.
ENDED_BY_SIGNAL = (0, -signal.SIGTERM, -signal.SIGINT, 128 + signal.SIGINT)


@dataclass(frozen=True, slots=True)
class Post:
    """A worker's number and its sockets. Whoever holds the place is replaced when it dies."""

    worker: int
    listener: socket.socket
    admin: socket.socket | None

    def close(self) -> None:
        """Close our copies of the sockets."""
        self.listener.close()
        if self.admin is not None:
            self.admin.close()


def open_posts(settings: Settings) -> list[Post]:
    """The sockets of `[server] workers` workers. Raises `ConfigError` with every address that cannot be had."""
    count = settings.server.workers
    problems: list[str] = []
    opened: list[socket.socket] = []
    admins: list[socket.socket | None] = [None] * count
    try:
        opened += open_shared(settings.server.bind, count)
    except ConfigError as error:
        problems += error.problems
    listeners = list(opened)
    for worker in range(count if settings.admin.bind else 0):
        try:
            admin = open_listener(settings.admin.bind_of(worker))
        except ConfigError as error:
            problems += error.problems
        else:
            opened.append(admin)
            admins[worker] = admin
    if problems:
        for one in opened:
            one.close()
        raise ConfigError(problems)
    return [Post(*each) for each in zip(range(count), listeners, admins, strict=True)]


class Restarts:
    """Decides, never sleeps: when a worker that died is started again."""

    def __init__(self) -> None:
        self._in_succession = 0  # deaths without a long life between them
        self._at_once = 0

    def after(self, served: float) -> float | None:
        """The pause in seconds after a death of a worker that had served for `served` seconds (0: it never did); None: it
        is not to be started again."""
        if served >= LONGEST_PAUSE:
            self._in_succession = 0
        self._at_once = self._at_once + 1 if served < AT_ONCE else 0
        if self._at_once >= MOST_IN_SUCCESSION:
            return None
        self._in_succession += 1
        return min(FIRST_PAUSE * float(2 ** min(self._in_succession - 1, 16)), LONGEST_PAUSE)


class Supervisor:
    """Runs one worker for each post until a signal, or until one of them cannot be kept alive.

    command   starts a worker; the number of the descriptor of its line is added to it
    """

    def __init__(self, settings: Settings, posts: Sequence[Post], command: Sequence[str]) -> None:
        self._settings = settings
        self._posts = posts
        self._command = command
        self._log = get_logger()
        self._failed = False
        self._orders: list[int] = []  # the signals so far; what follows the second changes nothing
        self._drain = trio.Event()
        self._force = trio.Event()
        self._starting = trio.Lock()  # a socket is not closed while a process is being started that inherits it
        self._ready = [trio.Event() for _ in posts]

    async def run(self, announce: Callable[[str], None]) -> int:
        """Returns the exit code, as for one process: 0 after a drain, 128 + signal after a second signal; 1 if a worker
        failed. `announce` gets the address of the data port once every worker accepts connections."""
        lines = LineSink("-")
        async with trio.open_nursery() as whole:
            whole.start_soon(lines.run)
            configure_logging(lines)
            await whole.start(self._watch_signals)
            whole.start_soon(self._announce, announce)
            whole.start_soon(self._let_go)
            async with trio.open_nursery() as workers:
                for post in self._posts:
                    workers.start_soon(self._keep, post)
            await lines.flush(_FLUSH_SECONDS)
            whole.cancel_scope.cancel()
        if self._force.is_set():
            return 128 + self._orders[1]
        return 1 if self._failed else 0

    async def _watch_signals(self, task_status: trio.TaskStatus[None]) -> None:
        with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
            task_status.started()
            async for number in signals:
                self._order(number)

    def _order(self, number: int) -> None:
        self._orders.append(number)
        (self._drain if len(self._orders) == 1 else self._force).set()

    async def _announce(self, announce: Callable[[str], None]) -> None:
        where = address(self._posts[0].listener)
        for ready in self._ready:
            await ready.wait()
        announce(where)

    async def _let_go(self) -> None:
        """Nobody new is let in while the workers drain: the last copies of the listening sockets are then theirs to close."""
        await self._drain.wait()
        async with self._starting:
            for post in self._posts:
                post.close()

    async def _keep(self, post: Post) -> None:
        """Have a worker at `post` until the drain."""
        restarts = Restarts()
        while not self._drain.is_set():
            line, theirs = socket.socketpair()
            with theirs:
                process = await self._start(post, theirs)
            if process is None:
                line.close()
                return
            served = await self._own(process, line, post)
            code = process.returncode
            if self._drain.is_set():
                if code not in ENDED_BY_SIGNAL and not self._force.is_set():
                    self._failed = True
                    self._log.error("worker failed while it drained", worker=post.worker, pid=process.pid, code=code)
                return
            pause = restarts.after(served)
            self._log.error(
                "worker died", worker=post.worker, pid=process.pid, code=code, served_seconds=round(served, 3),
                restart_in_seconds=pause,
            )  # fmt: skip
            if pause is None:
                self._failed = True
                self._log.error("worker dies at once, again and again: all end", worker=post.worker)
                self._drain.set()
                return
            with trio.move_on_after(pause):
                await self._drain.wait()

    async def _start(self, post: Post, theirs: socket.socket) -> trio.Process | None:
        async with self._starting:
            if self._drain.is_set():
                return None
            inherited = [theirs.fileno(), post.listener.fileno()]
            if post.admin is not None:
                inherited.append(post.admin.fileno())
            command = [*self._command, "--worker", str(theirs.fileno())]
            return await trio.lowlevel.open_process(command, stdin=subprocess.DEVNULL, pass_fds=inherited)

    async def _own(self, process: trio.Process, line: socket.socket, post: Post) -> float:
        """Wait for the end of `process`; how many seconds it has served, 0 if it never did. Whatever cuts the wait short
        closes the line, and the worker ends by itself."""
        since: list[float] = []
        async with trio.SocketStream(trio.socket.from_stdlib_socket(line)) as stream, trio.open_nursery() as nursery:
            nursery.start_soon(self._tell, stream, post)
            nursery.start_soon(self._hear, stream, post, since)
            nursery.start_soon(self._bound, process, post)
            await process.wait()
            nursery.cancel_scope.cancel()
        return trio.current_time() - since[0] if since else 0.0

    async def _tell(self, stream: trio.SocketStream, post: Post) -> None:
        admin = replace(self._settings.admin, bind=self._settings.admin.bind_of(post.worker))
        job = Job(
            worker=post.worker,
            settings=replace(self._settings, admin=admin),
            listener=post.listener.fileno(),
            admin=post.admin.fileno() if post.admin is not None else None,
        )
        with suppress(trio.BrokenResourceError):  # it died
            await stream.send_all(job.encode())
            await self._drain.wait()
            await stream.send_all(bytes([signal.SIGTERM]))
            await self._force.wait()
            await stream.send_all(bytes([self._orders[1]]))

    async def _hear(self, stream: trio.SocketStream, post: Post, since: list[float]) -> None:
        with suppress(trio.BrokenResourceError):
            if await stream.receive_some(1):
                since.append(trio.current_time())
                self._ready[post.worker].set()

    async def _bound(self, process: trio.Process, post: Post) -> None:
        """Kill a worker that does not obey."""
        await self._drain.wait()
        with trio.move_on_after(self._settings.server.drain + LATE):
            await self._force.wait()
            await trio.sleep(FORCED)
        self._failed = True
        self._log.error("worker killed, it did not end in time", worker=post.worker, pid=process.pid)
        process.kill()


def supervise(
    settings: Settings, posts: Sequence[Post], command: Sequence[str], announce: Callable[[str], None]
) -> int:
    """Run the workers to their end. Returns the exit code."""
    return trio.run(partial(Supervisor(settings, posts, command).run, announce))
