"""What every benchmark needs: the real command, a look at what it holds, and a report that ends in an exit code.

A benchmark measures and prints; it fails only where something is wrong, not where something is slow today.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import re
import resource
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import trio

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))

from support.command import Command, openai_provider

from trio_ai_proxy.testing import RawClient

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable, Sequence

__all__ = [
    "ASK", "PATH", "Arguments", "Command", "Holdings", "Report", "arguments", "came_back", "check_left", "holdings", "main",
    "percentile", "provider", "raise_file_limit", "records_by_id",
]  # fmt: skip

PATH = "/v1/chat/completions"
ASK: dict[str, Any] = {"model": "scripted", "messages": [{"role": "user", "content": "Tell me about the river."}]}
_UPSTREAM = "upstream_connections"
_GAUGES = ("exchanges_in_flight", "client_connections", "slots_in_use", "slots_waiting", _UPSTREAM)


@dataclass
class Report:
    """A table of what was measured, and the conditions that must hold."""

    title: str
    columns: Sequence[str] = ("what", "value")
    rows: list[tuple[str, ...]] = field(default_factory=list)
    checks: list[tuple[bool, str]] = field(default_factory=list)

    def row(self, *cells: object) -> None:
        """One line of the table; a float is shown with two decimals."""
        self.rows.append(tuple(f"{cell:,.2f}" if isinstance(cell, float) else str(cell) for cell in cells))

    def check(self, holds: bool, claim: str) -> None:
        """A condition, with what was seen in its words."""
        self.checks.append((holds, claim))

    def show(self) -> int:
        """Print it all; the exit code."""
        lines = [tuple(self.columns), *self.rows]
        widths = [max(len(line[place]) for line in lines) for place in range(len(self.columns))]
        print(f"\n== {self.title}")
        for place, line in enumerate(lines):
            print("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip())
            if place == 0:
                print("  ".join("-" * width for width in widths))
        for holds, claim in self.checks:
            print(f"{'ok    ' if holds else 'FAILED'} {claim}")
        sys.stdout.flush()
        return 0 if all(holds for holds, _ in self.checks) else 1


@dataclass(frozen=True, slots=True)
class Arguments:
    """The command line. `minutes` is for memory.py alone."""

    quick: bool
    seed: int
    minutes: float | None


def arguments(doc: str | None) -> Arguments:
    """Read the command line; `doc` is what --help says."""
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a smaller number of everything")
    parser.add_argument("--seed", type=int, default=1, help="of what is chosen at random")
    parser.add_argument("--minutes", type=float, help="how long memory.py keeps its mixed load up (10; quick: 0.3)")
    given = parser.parse_args()
    return Arguments(given.quick, given.seed, given.minutes)


def main(doc: str | None, measure: Callable[[Arguments], Awaitable[Report]]) -> None:
    """Run one benchmark as a program."""
    report: Report = trio.run(measure, arguments(doc))
    raise SystemExit(report.show())


def provider(url: str, *, timeouts: str = "", extra: str = "") -> str:
    """TOML: a scripted upstream at `url` as the model `scripted`, tokens counted where the rank files are at hand."""
    folder = os.environ.get("TRIO_AI_PROXY_RANKS_DIR")
    tokens = f"[tokens]\nranks_dir = {json.dumps(folder)}\n" if folder else "[tokens]\nload_timeout = 0.1\n"
    return tokens + openai_provider(f"{url}/v1", timeouts=timeouts, extra=extra)


def raise_file_limit() -> None:
    """Allow as many open files as the system lets us; the gateway inherits it."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def percentile(values: Iterable[float], share: float) -> float:
    """The smallest value that `share` (0 to 1) of all do not exceed; NaN for none."""
    ordered = sorted(values)
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)] if ordered else math.nan


def records_by_id(gateway: Command) -> dict[str, list[dict[str, Any]]]:
    """The exchange records that have been written, by request id."""
    found: dict[str, list[dict[str, Any]]] = {}
    for record in gateway.records():
        found.setdefault(record["request_id"], []).append(record)
    return found


@dataclass(frozen=True, slots=True)
class Holdings:
    """What a gateway holds at one moment: its gauges, the exchanges it lists, its open files."""

    gauges: dict[str, float]
    exchanges: int
    files: int

    def exceed(self, start: Holdings, *, idle: int = 0) -> dict[str, float]:
        """What should not be there when nothing is under way, whatever `start` caught; and more files than at `start`. Up to
        `idle` connections to the provider may be waiting for their next request."""
        more = {name: value for name, value in self.gauges.items() if value > 0 and name != _UPSTREAM}
        if self.gauges[_UPSTREAM] > max(idle, start.gauges[_UPSTREAM]):
            more[_UPSTREAM] = self.gauges[_UPSTREAM]
        more |= {"exchanges listed": self.exchanges} if self.exchanges else {}
        files = self.files - int(self.gauges[_UPSTREAM]), start.files - int(start.gauges[_UPSTREAM])
        return more | ({"open files": files[0] - files[1]} if files[0] > files[1] else {})

    def __str__(self) -> str:
        gauges = ", ".join(f"{name} {value:g}" for name, value in self.gauges.items())
        return f"{gauges}, exchanges listed {self.exchanges}, open files {self.files}"


async def holdings(gateway: Command) -> Holdings:
    """Look at what it holds."""
    metrics = (await _get(gateway, "/metrics")).decode()
    listed = json.loads(await _get(gateway, "/exchanges"))["exchanges"]
    gauges = {name: _sum(metrics, name) for name in _GAUGES}
    await trio.sleep(0.05)  # our own connections to the admin port are files of its as well
    return Holdings(gauges, len(listed), gateway.open_files())


async def came_back(
    gateway: Command, start: Holdings, *, idle: int = 0, seconds: float = 5.0
) -> tuple[Holdings, float]:
    """Look until it holds no more than at `start`, or until `seconds` are over: the last look, and how long it took."""
    began = trio.current_time()
    while True:
        now = await holdings(gateway)
        took = trio.current_time() - began
        if not now.exceed(start, idle=idle) or took > seconds:
            return now, took
        await trio.sleep(0.05)


async def check_left(gateway: Command, report: Report, start: Holdings, *, idle: int = 0) -> None:
    """Check that nothing is left, as far as can be seen from outside, but for `idle` connections to the provider."""
    now, took = await came_back(gateway, start, idle=idle)
    report.check(not now.exceed(start, idle=idle), f"nothing is left behind ({now}; seen after {took:.2f} s)")


async def _get(gateway: Command, path: str) -> bytes:
    async with RawClient("127.0.0.1", gateway.admin_port) as client:
        await client.get(path)
        await client.read_head()
        return b"".join(chunk.data for chunk in await client.read_body())


def _sum(metrics: str, name: str) -> float:
    return sum(float(value) for value in re.findall(rf"^trio_ai_proxy_{name}(?:{{.*}})? (\S+)$", metrics, re.MULTILINE))
