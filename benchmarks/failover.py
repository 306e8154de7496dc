"""What failover does for clients, and what it costs.

    outage    requests at 50 a second while the first of two targets goes down and comes back: with status 503, with
              connections refused, with streams cut in the middle
    hedging   a provider with 5 % slow first tokens: TTFT without hedging, after a fixed time, and after its own "p95"
    healthy   everything switched on against off, where nothing fails: TTFT and processor time

All three, or those that are named on the command line. The provider is played in the benchmark's own process.
"""

from __future__ import annotations

import argparse
import math
import os
import random
import sys
from collections import Counter
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
import trio
from lab import PATH, Command, Report, percentile

from trio_ai_proxy.testing import RawClient, Script, ScriptedServer, Step, openai_error, openai_stream
from trio_ai_proxy.testing.raw import BodyCut

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator

    from trio_ai_proxy.testing import ReceivedRequest

RATE = 50  # requests a second
WORDS = [f" word{number}" for number in range(20)]
TICKS = os.sysconf("SC_CLK_TCK")
RELEASE_SECONDS = 0.010
PATIENCE = 60.0  # a client that waits longer counts as failed


@dataclass
class Seen:
    """What one client saw. Times are `trio.current_time()`."""

    number: int
    asked_at: float
    first_at: float | None = None
    error: str | None = None
    provider: str | None = None
    attempts: int = 0


@dataclass
class Clients:
    """Clients of one gateway that come at a steady rate, whatever becomes of those before them. The answer is to be `words`."""

    gateway: Command
    model: str = "both"
    words: list[str] = field(default_factory=lambda: WORDS)
    seen: list[Seen] = field(default_factory=list)

    async def run(self, count: int, *, rate: float = RATE) -> None:
        began = trio.current_time()
        async with trio.open_nursery() as nursery:
            for number in range(count):
                await trio.sleep_until(began + number / rate)
                nursery.start_soon(self.ask, number)

    async def ask(self, number: int) -> None:
        seen = Seen(number, trio.current_time())
        self.seen.append(seen)
        body = b""
        try:
            with trio.move_on_after(PATIENCE) as waiting:
                async with RawClient("127.0.0.1", self.gateway.port) as client:
                    messages = [{"role": "user", "content": "Tell me about the river."}]
                    fields = {"model": self.model, "stream": True, "user": str(number), "messages": messages}
                    await client.post(PATH, json=fields)
                    head = await client.read_head()
                    seen.provider = head.header("x-llm-provider")
                    seen.attempts = int(head.header("x-llm-attempts") or 0)
                    while (chunk := await client.read_chunk()) is not None:
                        body += chunk.data
                        if seen.first_at is None and b" word0" in body:
                            seen.first_at = chunk.at
                    seen.error = _fault(head.status, body, "".join(self.words))
            if waiting.cancelled_caught:
                seen.error = "nothing within a minute"
        except (BodyCut, OSError, trio.BrokenResourceError) as error:
            seen.error = type(error).__name__

    @property
    def failures(self) -> Counter[str]:
        return Counter(one.error for one in self.seen if one.error is not None)

    @property
    def ttfts(self) -> list[float]:
        """In milliseconds."""
        return [(one.first_at - one.asked_at) * 1000 for one in self.seen if one.first_at is not None]


def _fault(status: int, body: bytes, text: str) -> str | None:
    """What is wrong with an answer; None if it is whole, to the letter."""
    if status != 200:
        return f"status {status}"
    payloads = [line.removeprefix(b"data: ") for line in body.split(b"\n\n") if line]
    if payloads[-1:] != [b"[DONE]"]:
        return "no [DONE]"
    return None if _text(payloads[:-1]) == text else "another text"


def _text(payloads: list[bytes]) -> str:
    documents = [msgspec.json.decode(payload) for payload in payloads]
    return "".join(choice["delta"].get("content") or "" for one in documents for choice in one["choices"])


def models(*urls: str, name: str = "both", tables: str = "", **fields: str) -> str:
    """TOML: providers `target0`, `target1` … at `urls`, and one model that has them as targets, in order of priority."""
    text = "[tokens]\nload_timeout = 0.1\n"
    for number, url in enumerate(urls):
        text += f'[providers.target{number}]\nkind = "openai"\nbase_url = "{url}/v1"\napi_key = "sk-x"\n'
    text += tables + f"[models.{name}]\n" + "".join(f"{key} = {value}\n" for key, value in fields.items())
    for number in range(len(urls)):
        text += f'[[models.{name}.targets]]\nprovider = "target{number}"\nmodel = "m"\npriority = {number}\n'
    return text


# ── outage ───────────────────────────────────────────────────────────────────────────────────────────────────────────


@dataclass
class Flapping:
    """A provider that is down for a while: with 503, with cut streams, or (its server's doing) with refused connections."""

    manner: str
    is_down: bool = False
    came_while_down: int = 0

    def answer(self, request: ReceivedRequest) -> Script:
        self.came_while_down += self.is_down
        if self.is_down and self.manner == "status 503":
            return openai_error(503)
        if self.is_down and self.manner == "connections refused":
            return Script(refuse=True)  # those that were open are reset
        if self.manner == "streams cut":
            return Script(steps=self._steps, ending="cut" if self.is_down else "close")
        return openai_stream(WORDS, pause=0.005, usage=(8, 20))

    async def flap(self, server: ScriptedServer, down_at: float, up_at: float) -> None:
        """Go down and come back."""
        await trio.sleep_until(down_at)
        self.is_down = True
        if self.manner == "connections refused":
            await server.refuse_connections()
        await trio.sleep_until(up_at)
        await server.accept_connections()
        self.is_down = False

    def _steps(self) -> Iterator[Step]:
        """The whole stream, or as much of it as comes until the provider is down."""
        was_down = self.is_down
        for number, step in enumerate(openai_stream(WORDS, pause=0.005, usage=(8, 20)).steps()):
            if was_down and number > len(WORDS) // 2:
                return
            yield step


async def outage(options: argparse.Namespace) -> Report:
    count = 150 if options.quick else 1000
    whole = count / RATE
    starts, lasts = whole * 0.2, whole * 0.4
    opening = 1.0 if options.quick else 5.0
    report = Report(
        f"outage: {count} requests at {RATE}/s, the first target down from {starts:g} s for {lasts:g} s; "
        f"breaker open = {opening:g}s",
        ("the target is down with", "failed", "continued", "came to it while down", "slowest TTFT ms", "recovery s"),
    )
    for manner in ("status 503", "connections refused", "streams cut"):
        flapping = Flapping(manner)
        async with ScriptedServer(flapping.answer) as first, ScriptedServer(Flapping("").answer) as second:
            config = models(first.url, second.url, continuation='"splice"', breaker=f'{{ open = "{opening:g}s" }}')
            async with Command(config) as gateway:
                clients = Clients(gateway)
                went_up = trio.current_time() + starts + lasts

                async with trio.open_nursery() as nursery:
                    nursery.start_soon(flapping.flap, first, went_up - lasts, went_up)
                    await clients.run(count)
                records = gateway.records()
        rows = [row for record in records for row in record["attempts"]]
        # Refused connections reach no server: there the gateway's own rows tell.
        dead = sum(row["provider"] == "target0" and row["outcome"] == "upstream_error" for row in rows)
        came = dead if manner == "connections refused" else flapping.came_while_down
        back = [one.first_at for one in clients.seen if one.provider == "target0" and (one.first_at or 0.0) > went_up]
        recovery = min((at for at in back if at is not None), default=None)
        failed, continued = clients.failures, sum(row["kind"] == "continuation" for row in rows)
        took = recovery - went_up if recovery is not None else math.nan
        report.row(manner, failed.total(), continued, came, max(clients.ttfts, default=math.nan), took)
        report.check(not failed, f"{manner}: no client sees a failure {dict(failed) or ''}".rstrip())
        report.check(recovery is not None and took <= opening + 1.0, f"{manner}: it is asked again within {took:.1f} s")
        report.check(came <= max(40, RATE * lasts / 4), f"{manner}: the dead target is spared ({came} attempts)")
    return report


# ── hedging ──────────────────────────────────────────────────────────────────────────────────────────────────────────


class Uneven:
    """Two targets with the same habit: most first tokens come soon, some late. What a request meets at a target is drawn once
    and is the same in every run."""

    def __init__(self, seed: int, target: int, *, share: float = 0.05, late: float = 2.0) -> None:
        self._seed, self._target, self._share, self._late = seed, target, share, late
        self.first_sent: dict[str, float] = {}

    def answer(self, request: ReceivedRequest) -> Script:
        user = request.json()["user"]
        drawn = random.Random(f"{self._seed} {self._target} {user}")
        wait = self._late if drawn.random() < self._share else drawn.uniform(0.08, 0.16)
        return replace(openai_stream(WORDS, pause=0.005, usage=(8, 20)), steps=lambda: self._steps(user, wait))

    def _steps(self, user: str, wait: float) -> Iterator[Step]:
        role, first, *others = openai_stream(WORDS, pause=0.005, usage=(8, 20)).steps()
        yield role
        yield replace(first, pause=wait)
        self.first_sent[user] = trio.current_time()
        yield from others


async def hedging(options: argparse.Namespace) -> Report:
    count = 200 if options.quick else 1000
    report = Report(
        f"hedging: {count} requests at {RATE}/s, a first token after 80 to 160 ms, in 5 % of the calls after 2 s; "
        f"seed {options.seed}",
        ("hedge_after", "TTFT p50 ms", "p95", "p99", "extra calls %", "beaten", "released p99 ms", "max"),
    )
    for after in (None, '"250ms"', '"p95"'):
        habits = [Uneven(options.seed, target) for target in (0, 1)]
        async with ScriptedServer(habits[0].answer) as first, ScriptedServer(habits[1].answer) as second:
            fields = {} if after is None else {"hedge_after": after}
            async with Command(models(first.url, second.url, retries="0", **fields)) as gateway:
                clients = Clients(gateway)
                await clients.run(count)
                await trio.sleep(0.1)
        calls = len(first.exchanges) + len(second.exchanges)
        released = []
        for own, other in ((first, habits[1]), (second, habits[0])):
            for exchange in own.exchanges:
                user = exchange.request.json()["user"]
                if exchange.released_at is not None and user in other.first_sent:
                    released.append((exchange.released_at - other.first_sent[user]) * 1000)
        ttfts = clients.ttfts
        quantiles = [percentile(ttfts, share) for share in (0.5, 0.95, 0.99)]
        last = (percentile(released, 0.99), max(released)) if released else ("–", "–")
        report.row(after or "off", *quantiles, (calls - count) / count * 100, len(released), *last)
        failed = clients.failures
        report.check(not failed, f"{after or 'off'}: no client sees a failure {dict(failed) or ''}".rstrip())
        if after is not None:
            slowest = max(released, default=0.0)
            report.check(slowest <= RELEASE_SECONDS * 1000, f"{after}: every loser is released within {slowest:.1f} ms")
            report.check(len(released) >= calls - count, f"{after}: each of {calls - count} extra calls has a loser")
            report.check(
                (calls - count) / count <= 0.1 + 10 / count, f"{after}: within the budget of 10 % and ten at once"
            )
    return report


# ── healthy ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def cpu_seconds(pid: int) -> float:
    """Processor time of a process so far."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICKS


async def healthy(options: argparse.Namespace) -> Report:
    rounds, count = (3, 50) if options.quick else (10, 250)
    tokens = 100
    report = Report(
        f"healthy: {rounds} rounds of {count} streams of {tokens} tokens at {RATE}/s for each; nothing fails",
        ("failover", "TTFT p50 ms", "p99", "CPU ms a stream"),
    )

    def answer(_: ReceivedRequest) -> Script:
        return openai_stream(words, pause=0.005, usage=(8, tokens))

    words = [f" word{number}" for number in range(tokens)]
    plain = {"retries": "0", "malformed_limit": "0"}
    full = {"retries": "2", "hedge_after": '"10s"', "continuation": '"splice"'}
    async with ScriptedServer(answer) as first, ScriptedServer(answer) as second:
        off = models(first.url, name="off", **plain)
        on = models(first.url, second.url, name="on", **full)
        async with Command(off) as off_gateway, Command(on) as on_gateway:
            sides = [Clients(off_gateway, "off", words), Clients(on_gateway, "on", words)]
            for side in sides:  # code is loaded and connections are open
                await Clients(side.gateway, side.model, words).run(20)
            spent = [0.0, 0.0]
            for _ in range(rounds):  # by turns, so that both meet the same neighbours
                for place, side in enumerate(sides):
                    began = cpu_seconds(side.gateway.worker_pid)
                    await side.run(count)
                    spent[place] += cpu_seconds(side.gateway.worker_pid) - began
    each = [seconds / rounds / count * 1000 for seconds in spent]
    for name, side, cost in zip(("off", "on"), sides, each, strict=True):
        report.row(name, percentile(side.ttfts, 0.5), percentile(side.ttfts, 0.99), cost)
        report.check(not side.failures, f"{name}: no client sees a failure {dict(side.failures) or ''}".rstrip())
    medians = [percentile(side.ttfts, 0.5) for side in sides]
    report.row("more", medians[1] - medians[0], "", each[1] - each[0])
    return report


PARTS: dict[str, Callable[[argparse.Namespace], Awaitable[Report]]] = {
    "outage": outage,
    "hedging": hedging,
    "healthy": healthy,
}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", choices=[[], *PARTS], help="which; none: all")
    parser.add_argument("--quick", action="store_true", help="a smaller number of everything")
    parser.add_argument("--seed", type=int, default=1, help="of what is chosen at random")
    options = parser.parse_args()
    codes = []
    for part in options.parts or PARTS:
        report: Report = trio.run(PARTS[part], options)
        codes.append(report.show())
    return max(codes)


if __name__ == "__main__":
    sys.exit(main())
