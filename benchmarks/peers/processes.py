"""What is started is stopped, and its cost is read from the kernel: pinning, CPU seconds and memory of a process tree.

Standard library alone, so that the suite runs on any Python 3.11 or later; there is no Trio here.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import time
import urllib.request
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

now = time.monotonic  # noqa: TID251 - real time of other processes; no Trio here
pause = time.sleep  # noqa: TID251 - the same

_TICK = os.sysconf("SC_CLK_TCK")
CORES = sorted(os.sched_getaffinity(0))


class NotStarted(Exception):
    """A process ended, or did not listen in time."""


def pinned(core: int | None) -> Callable[[], None]:
    """For `preexec_fn`: stay on the core of that place (None: on any)."""
    cores = set(CORES) if core is None else {CORES[core % len(CORES)]}
    return lambda: os.sched_setaffinity(0, cores)


def free_port() -> int:
    """A port that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def free_ports(count: int) -> int:
    """The first of `count` consecutive ports that nobody listens on now."""
    while True:
        first = free_port()
        with ExitStack() as probes, suppress(OSError, OverflowError):
            for port in range(first, first + count):
                probes.enter_context(socket.socket()).bind(("127.0.0.1", port))
            return first


class Started:
    """A process tree on one core. `listens` is the port to wait for."""

    def __init__(
        self,
        argv: Sequence[str],
        *,
        core: int | None,
        listens: int,
        log: Path,
        env: Mapping[str, str] | None = None,
        seconds: float = 60,
    ) -> None:
        with log.open("wb") as out:
            self._process = subprocess.Popen(
                argv, preexec_fn=pinned(core), env={**os.environ, **(env or {})}, stdin=subprocess.DEVNULL,
                stdout=out, stderr=out, cwd=log.parent, start_new_session=True,
            )  # fmt: skip
        try:
            self._wait_for(listens, seconds, log)
        except BaseException:
            self.stop()
            raise

    def _wait_for(self, port: int, seconds: float, log: Path) -> None:
        limit = now() + seconds
        while now() < limit and self._process.poll() is None:
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    return
            pause(0.05)
        raise NotStarted(f"{self._process.args!r} does not listen:\n{log.read_text(errors='replace')[-2000:]}")

    def pids(self) -> list[int]:
        """It and its descendants."""
        found, todo = [], [self._process.pid]
        while todo:
            pid = todo.pop()
            found.append(pid)
            try:
                for task in os.listdir(f"/proc/{pid}/task"):
                    todo += map(int, Path(f"/proc/{pid}/task/{task}/children").read_text().split())
            except OSError:
                pass  # it has just ended
        return found

    def spread(self) -> None:
        """Pin its child processes, each with all its threads, to a core of its own; the process itself stays where it is."""
        for place, pid in enumerate(sorted(self.pids()[1:])):
            for task in os.listdir(f"/proc/{pid}/task"):
                with suppress(ProcessLookupError):
                    os.sched_setaffinity(int(task), {CORES[place % len(CORES)]})

    def cpu(self) -> float:
        """Seconds of CPU, user and system, so far."""
        ticks = 0
        for pid in self.pids():
            try:
                fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
            except OSError:
                continue
            ticks += int(fields[11]) + int(fields[12])
        return ticks / _TICK

    def kib(self, kind: str = "Pss") -> int:
        """Its memory: proportional set size (what it shares counted in parts), or `Rss`."""
        total = 0
        for pid in self.pids():
            try:
                lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
            except OSError:
                continue
            total += sum(int(line.split()[1]) for line in lines if line.startswith(f"{kind}:"))
        return total

    def stop(self) -> None:
        """SIGTERM, then SIGKILL for whatever of the tree is left."""
        if self._process.poll() is not None:
            return
        pids = self.pids()
        self._process.terminate()
        try:
            self._process.wait(3)
        except subprocess.TimeoutExpired:
            pass
        for pid in pids:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                pass
        self._process.wait()


class Provider:
    """The provider that every target asks, on the load's core."""

    def __init__(self, programs: Path, folder: Path, core: int | None = 1) -> None:
        self.port = free_port()
        self._started = Started(
            [str(programs / "provider"), str(self.port)], core=core, listens=self.port, log=folder / "provider.log"
        )

    def _get(self, path: str) -> str:
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}{path}", timeout=20) as answer:
            return str(answer.read().decode())

    def set(self, *, chunks: int, gap_us: int) -> None:
        """How streams are from now on; forgets what was counted."""
        self._get(f"/set?chunks={chunks}&gap_us={gap_us}")

    def departed(self) -> int:
        """How many streams the other side has closed before their end."""
        return int(json.loads(self._get("/counts"))["departed"])

    def departures(self) -> dict[int, int]:
        """Their numbers, and when each was seen closed (CLOCK_MONOTONIC, ns)."""
        lines = self._get("/departures").splitlines() if self.departed() else []
        return {int(stream): int(at) for stream, at in map(str.split, lines)}

    def stop(self) -> None:
        self._started.stop()


class Clients:
    """One run of the load on its core; `result()` is what the program printed."""

    def __init__(self, programs: Path, port: int, *options: str, core: int | None = 1) -> None:
        self._process = subprocess.Popen(
            [str(programs / "clients"), str(port), *options], preexec_fn=pinned(core), text=True,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        )  # fmt: skip

    @property
    def _out(self) -> IO[str]:
        assert self._process.stdout is not None
        return self._process.stdout

    def opened(self) -> bool:
        """Wait until all streams of `-o` are open; whether they are."""
        return self._out.readline().strip() == "open"

    def result(self) -> dict[str, Any]:
        """Let go of what is held, and wait for the end."""
        out, _ = self._process.communicate()
        if self._process.returncode:
            raise NotStarted(f"the load ended with {self._process.returncode}")
        return dict(json.loads(out.splitlines()[-1]))


def others_cpu(since: tuple[float, float] | None = None) -> tuple[float, float]:
    """CPU seconds of the machine, and of what we have started and seen end. With `since`: (seconds of others, seconds)."""
    fields = [int(field) / _TICK for field in Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:9]]
    busy = sum(fields) - fields[3] - fields[4]
    mine = sum(os.times()[:4])
    if since is None:
        return busy, mine
    return busy - since[0] - (mine - since[1]), busy - since[0]
