"""What a waiting stream costs in memory, and whether a long mixed load leaves any behind.

First: resident memory with 500 and with 1,000 open streams that have had one token and wait for the next, and after they
have all left. Then: a bounded mixed load (short streams, one-shots, aborts, errors, slow readers), resident memory every
five seconds, and the slope of its second half by least squares.
"""

from __future__ import annotations

import random
from collections import Counter
from typing import TYPE_CHECKING

import trio
from lab import (
    ASK,
    PATH,
    Arguments,
    Command,
    Report,
    check_left,
    holdings,
    main,
    provider,
    raise_file_limit,
)  # fmt: skip

from trio_ai_proxy.testing import (
    RawClient,
    ReceivedRequest,
    Script,
    ScriptedServer,
    openai_answer,
    openai_error,
    openai_stream,
)  # fmt: skip
from trio_ai_proxy.testing.raw import BodyCut

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

LONG = 3600.0
OPEN = (500, 1000)
AT_A_TIME, PAUSE = 16, 0.05  # the load is bounded: so many clients, and each rests between two requests
MAX_SLOPE = 256.0  # KiB a minute: 360 MiB a day
CONNECTING = 50


def answer(request: ReceivedRequest) -> Script:
    """The request's own field `user` says what the provider does."""
    match request.json()["user"]:
        case "waits":
            return openai_stream(["one", "late"], pause=0, ending="stall", ends=False)
        case "one-shot":
            return openai_answer(" word" * 50, usage=(8, 50), head_pause=0.02)
        case "abort":
            return openai_stream([" word"] * 1000, pause=0.005)
        case "refused":
            return openai_error(429, "Slow down.", type="tokens", code="rate_limit_exceeded")
        case "cut":
            return openai_stream([" word"] * 5, ends=False, ending="cut")
        case "slow reader":
            return openai_stream([" word" * 200] * 40)
        case _:
            return openai_stream([" word"] * 50, pause=0.002)


class Load:
    """The clients. `seen` counts what they did."""

    def __init__(self, gateway: Command, seed: int) -> None:
        self.gateway = gateway
        self.random = random.Random(seed)
        self.seen: Counter[str] = Counter()

    async def wait_open(self, count: int, all_open: trio.Event, leave: trio.Event) -> None:
        """Hold `count` streams open, each after its first token, until told to leave."""
        connecting = trio.CapacityLimiter(CONNECTING)
        opened = 0

        async def one() -> None:
            nonlocal opened
            async with RawClient("127.0.0.1", self.gateway.port) as client:
                async with connecting:
                    await client.post(PATH, json={**ASK, "user": "waits", "stream": True})
                    await client.read_head()
                    await client.read_chunk()
                opened += 1
                if opened == count:
                    all_open.set()
                await leave.wait()

        async with trio.open_nursery() as nursery:
            for _ in range(count):
                nursery.start_soon(one)

    async def work(self) -> None:
        """One client of the mixed load, for ever."""
        manners: list[tuple[str, Callable[[RawClient], Awaitable[None]]]] = [
            ("stream", self._read), ("stream", self._read), ("stream", self._read), ("one-shot", self._read),
            ("abort", self._abort), ("abort", self._abort), ("refused", self._read), ("cut", self._read),
            ("unknown model", self._read), ("slow reader", self._read_slowly),
        ]  # fmt: skip
        while True:
            name, behave = self.random.choice(manners)
            model = "nobody" if name == "unknown model" else "scripted"
            try:
                async with RawClient("127.0.0.1", self.gateway.port) as client:
                    body = {**ASK, "model": model, "user": name, "stream": name != "one-shot"}
                    await client.post(PATH, json=body)
                    await behave(client)
                self.seen[name] += 1
            except (BodyCut, OSError, trio.BrokenResourceError) as error:
                self.seen[f"{name}: {type(error).__name__}"] += 1
            await trio.sleep(PAUSE)

    async def _read(self, client: RawClient) -> None:
        await client.read_head()
        await client.read_body()

    async def _abort(self, client: RawClient) -> None:
        with trio.move_on_after(self.random.uniform(0, 0.2)):
            await self._read(client)
        await (client.rst() if self.random.random() < 0.5 else client.fin())

    async def _read_slowly(self, client: RawClient) -> None:
        await client.read_head()
        while await client.read_chunk() is not None:  # noqa: ASYNC110 - a slow reader is meant
            await trio.sleep(0.05)


async def measure(given: Arguments) -> Report:
    minutes = given.minutes if given.minutes is not None else (0.3 if given.quick else 10.0)
    interval = 5.0 if minutes >= 1 else 1.0
    raise_file_limit()
    report = Report(f"memory: open streams, then {minutes:g} minutes of mixed load by {AT_A_TIME} clients")
    timeouts = f"first_token = {LONG}\nidle = {LONG}\ntotal = {LONG}"
    async with ScriptedServer(answer) as server:
        config = provider(server.url, timeouts=timeouts, extra="max_in_flight = 5000")
        async with Command(config) as gateway:
            load = Load(gateway, given.seed)
            await _until_warm(load)
            start = await holdings(gateway)
            await _measure_open(gateway, load, report)
            await check_left(gateway, report, start, idle=AT_A_TIME)
        # A process of its own: in what the thousand streams have left free a leak could grow for hours without being seen.
        async with Command(config) as gateway:
            load = Load(gateway, given.seed)
            await _until_warm(load)
            start = await holdings(gateway)
            samples = await _measure_load(gateway, server, load, minutes * 60, interval)
            await check_left(gateway, report, start, idle=AT_A_TIME)
    half = samples[len(samples) // 2 :]
    slope = _slope(half) * 60
    report.row("load: requests", sum(load.seen.values()))
    report.row("load: kinds", ", ".join(f"{count} {name}" for name, count in load.seen.most_common()))
    report.row("load: MiB at the start / middle / end", " / ".join(
        f"{kib / 1024:.2f}" for _, kib in (samples[0], half[0], samples[-1])
    ))  # fmt: skip
    report.row("load: samples of the second half", len(half))
    report.row("load: slope of the second half, KiB a minute", slope)
    if minutes >= 5:
        report.check(slope < MAX_SLOPE, f"the slope is below {MAX_SLOPE:g} KiB a minute ({slope:.1f})")
    strange = {name for name in load.seen if ":" in name}
    report.check(not strange, f"no client met anything unexpected {sorted(strange) or ''}".strip())
    return report


async def _until_warm(load: Load) -> None:
    """A few seconds of everything: code paths, tables and pools are there before the first measure."""
    with trio.move_on_after(3):
        async with trio.open_nursery() as nursery:
            for _ in range(AT_A_TIME):
                nursery.start_soon(load.work)
    load.seen.clear()
    await trio.sleep(1)


async def _measure_open(gateway: Command, load: Load, report: Report) -> None:
    before = gateway.rss_kib()
    report.row("MiB with no stream open", before / 1024)
    for count in OPEN:
        all_open, leave = trio.Event(), trio.Event()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(load.wait_open, count, all_open, leave)
            with trio.fail_after(60):
                await all_open.wait()
            await trio.sleep(2)
            now = gateway.rss_kib()
            report.row(f"MiB with {count} open", now / 1024)
            report.row(f"KiB a stream, {count} open", (now - before) / count)
            listed = (await holdings(gateway)).exchanges
            report.check(listed == count, f"{listed} of {count} streams are open")
            leave.set()
        await trio.sleep(2)
        report.row(f"MiB after {count} have left", gateway.rss_kib() / 1024)


async def _measure_load(
    gateway: Command, server: ScriptedServer, load: Load, seconds: float, interval: float
) -> list[tuple[float, int]]:
    """Resident memory over time: (seconds, KiB)."""
    samples = []
    async with trio.open_nursery() as nursery:
        for _ in range(AT_A_TIME):
            nursery.start_soon(load.work)
        began = trio.current_time()
        for number in range(int(seconds / interval) + 1):
            await trio.sleep_until(began + number * interval)
            samples.append((trio.current_time() - began, gateway.rss_kib()))
            server.exchanges.clear()  # they are of no use here, and this process has to last as well
        nursery.cancel_scope.cancel()
    return samples


def _slope(samples: list[tuple[float, int]]) -> float:
    """Least squares, KiB a second."""
    count = len(samples)
    mean_time = sum(time for time, _ in samples) / count
    mean_size = sum(size for _, size in samples) / count
    spread = sum((time - mean_time) ** 2 for time, _ in samples)
    return sum((time - mean_time) * (size - mean_size) for time, size in samples) / spread if spread else 0.0


if __name__ == "__main__":
    main(__doc__, measure)
