"""What is measured, and how: each function gives figures of one target in one repetition, by name.

Units are in the names: `_ms`, `_us`, `_s`, `_kib`. `faults` counts all that went wrong: it must be 0.
"""

from __future__ import annotations

from dataclasses import dataclass
from statistics import median
from typing import TYPE_CHECKING, Any

from processes import Clients, Provider, Started, now, pause

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

Figures = dict[str, float]

RUNGS = (8, 16, 32, 48, 64, 96, 128, 160, 192, 224, 256, 320, 384, 512)
STREAMS = (1, 50, 200)
HELD = (500, 1000, 2000)
_FAULTS = ("errors", "refused", "unfinished", "disordered", "missing")
_SETTLE_SECONDS = 2.0


@dataclass(frozen=True)
class Lab:
    """One target under test, or the provider itself (`started` is None)."""

    programs: Path
    provider: Provider
    port: int
    headers: Sequence[str]
    started: Started | None
    pace: float
    quick: bool = False

    def clients(self, *options: object, core: int | None = 1) -> Clients:
        given = [part for header in self.headers for part in ("-H", header)]
        return Clients(self.programs, self.port, *map(str, options), *given, core=core)

    def cpu(self) -> float:
        return self.started.cpu() if self.started else 0.0

    def load(self, *options: object) -> tuple[dict[str, Any], float]:
        """Run the clients to their end; what they say, and the target's CPU seconds meanwhile."""
        before = self.cpu()
        result = self.clients(*options).result()
        pause(0.05)  # what the target does after an answer's last byte is part of its cost
        return result, self.cpu() - before

    def count(self, usual: int, least: int) -> int:
        """How much work: a like time for every target."""
        return max(least, int(usual * self.pace * (0.5 if self.quick else 1)))


def _faults(result: dict[str, Any], *, but: Sequence[str] = ()) -> int:
    return sum(int(result[name]) for name in _FAULTS if name not in but)


def warm_up(lab: Lab) -> None:
    """Connections, code paths and allocator in use, before anything is measured."""
    lab.provider.set(chunks=5, gap_us=0)
    lab.clients("-c", 16, "-n", lab.count(300, 48), "-t", 30).result()
    lab.clients("-c", 16, "-n", lab.count(300, 48), "-t", 30, "-j").result()


def costs(lab: Lab) -> Figures:
    """CPU of a short stream, a JSON request, and a chunk in a burst; 32 in flight."""
    figures: Figures = {"faults": 0}
    for name, chunks, usual, extra in (("short", 1, 2500, ()), ("json", 1, 2500, ("-j",)), ("burst", 100, 700, ())):
        lab.provider.set(chunks=chunks, gap_us=0)
        result, cpu = lab.load("-c", 32, "-n", lab.count(usual, 48), "-t", 60, *extra)
        figures["faults"] += _faults(result)
        if name == "burst":
            figures["burst_us"] = cpu / max(1, result["chunks"]) * 1e6
            figures["burst_chunks_a_second"] = result["chunks"] / result["seconds"]
        else:
            figures[f"{name}_ms"] = cpu / max(1, result["answered"]) * 1e3
            figures[f"{name}_a_second"] = result["answered"] / result["seconds"]
    return figures


def latency(lab: Lab) -> Figures:
    """One, 50 and 200 streams, a chunk each 20 ms: what a chunk that comes alone costs, and what is added to its time."""
    figures: Figures = {"faults": 0}
    for streams in (1, 50) if lab.quick else STREAMS:
        # One stream: short ones, so that there are enough first chunks. Else the openings are spread over a stream's life of
        # a second, and a little further, so that no two streams get their chunks together.
        chunks, rounds, rate = (10, 30, 0.0) if streams == 1 else (50, 3, streams / 1.02)
        if lab.quick:
            rounds = max(2, rounds // 2)
        lab.provider.set(chunks=chunks, gap_us=5_000 if streams == 1 else 20_000)
        result, cpu = lab.load("-c", streams, "-n", streams * rounds, "-r", rate, "-t", 40)
        figures["faults"] += _faults(result)
        for name in ("ttft", "delay"):
            if result[name]:
                figures[f"{name}_{streams}_p50_ms"], figures[f"{name}_{streams}_p99_ms"] = (
                    us / 1e3 for us in result[name]
                )
        if streams != 1 and result["chunks"]:
            figures[f"lone_{streams}_us"] = cpu / result["chunks"] * 1e6
    return figures


def departures(lab: Lab) -> Figures:
    """From a client's close to the provider's seeing its connection closed: one stream at a time, and 50 at once."""
    figures: Figures = {"faults": 0}
    for name, streams, requests in (("idle", 1, 20), ("loaded", 50, 200)):
        lab.provider.set(chunks=300, gap_us=20_000)
        result, _ = lab.load("-c", streams, "-n", requests, "-r", 800, "-x", 3 if name == "idle" else 5, "-t", 20)
        left = dict(result["left"])
        limit = now() + _SETTLE_SECONDS
        while lab.provider.departed() < len(left) and now() < limit:
            pause(0.02)
        seen = lab.provider.departures()
        took = sorted(max(0, seen[stream] - at) / 1e6 for stream, at in left.items() if stream in seen)
        figures[f"leave_{name}_seen"] = len(took) / max(1, requests)
        if len(took) * 2 > requests:
            figures[f"leave_{name}_p50_ms"], figures[f"leave_{name}_p99_ms"] = (
                median(took),
                took[(len(took) - 1) * 99 // 100],
            )
        figures["faults"] += _faults(result, but=("unfinished", "missing"))
    return figures


def held(lab: Lab, streams: int) -> Figures:
    """Open 250 streams a second, hold so many of them at a chunk a second each, close all at once."""
    lab.provider.set(chunks=1000, gap_us=1_000_000)
    pause(0.3)
    idle, before = lab.started.kib() if lab.started else 0, lab.cpu()
    clients = lab.clients("-c", streams, "-o", "-r", 250, "-t", 45)
    is_open = clients.opened()
    figures: Figures = {f"open_{streams}_cpu_s": lab.cpu() - before, "faults": 0 if is_open else 1}
    if is_open and lab.started:
        pause(0.5)
        start, since = lab.cpu(), now()
        pause(1.5)
        figures[f"hold_{streams}_share"] = (lab.cpu() - start) / (now() - since)
        figures[f"stream_{streams}_kib"] = (lab.started.kib() - idle) / streams
    result = clients.result()
    if result["ttft"]:
        figures[f"open_{streams}_ttft_p99_ms"] = result["ttft"][1] / 1e3
    limit = now() + _SETTLE_SECONDS
    while lab.provider.departed() < len(result["left"]) and now() < limit:
        pause(0.02)
    seen = lab.provider.departures()
    took = sorted((seen[stream] - at) / 1e6 for stream, at in result["left"] if stream in seen)
    figures[f"close_{streams}_seen"] = len(took) / streams
    if len(took) * 2 > streams:
        figures[f"close_{streams}_p50_ms"] = median(took)
    return figures


def is_clean(lab: Lab, streams: int) -> bool:
    """Two rounds of so many streams, 64 chunks each, one a 20 ms, openings spread over a stream's life: clean is nothing
    lost, p99 delay < 10 ms, p99 TTFT < 50 ms."""
    lab.provider.set(chunks=64, gap_us=20_000)
    result, _ = lab.load("-c", streams, "-n", streams * 2, "-r", streams / 1.28, "-t", 20)
    return not _faults(result) and result["delay"][1] < 10_000 and result["ttft"][1] < 50_000


def clean_streams(lab: Lab, repetitions: int) -> int:
    """The largest of `RUNGS` that most repetitions serve cleanly (0: none), found by halving, as if it held for all below."""

    def mostly(streams: int) -> bool:
        good = bad = 0
        while max(good, bad) * 2 <= repetitions:
            if is_clean(lab, streams):
                good += 1
            else:
                bad += 1
        return good > bad

    low, high = -1, len(RUNGS)
    while high - low > 1:
        middle = (low + high) // 2
        if mostly(RUNGS[middle]):
            low = middle
        else:
            high = middle
    return RUNGS[low] if low >= 0 else 0


def pair(lab: Lab, workers: int) -> Figures:
    """One port served by `workers` processes, a core each; as many programs of clients. With one, its clients are on the
    other core; with two, on both, so that on a machine of two cores the load takes its part of each."""
    figures: Figures = {"faults": 0}
    for name, chunks, options in (("short", 1, ("-c", 32, "-n", 3000)), ("burst", 100, ("-c", 32, "-n", 900))):
        lab.provider.set(chunks=chunks, gap_us=0)
        before, since = lab.cpu(), now()
        clients = [lab.clients(*options, core=1 - place) for place in range(workers)]
        results = [each.result() for each in clients]
        took = now() - since
        units = sum(each["answered"] if chunks == 1 else each["chunks"] for each in results)
        figures["faults"] += sum(map(_faults, results))
        figures[f"{name}_{workers}_a_second"] = units / took
        figures[f"{name}_{workers}_us"] = (lab.cpu() - before) / max(1, units) * 1e6
    if lab.started:
        figures[f"pss_{workers}_mib"] = lab.started.kib() / 1024
        figures[f"rss_{workers}_mib"] = lab.started.kib("Rss") / 1024
    return figures
