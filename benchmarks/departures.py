"""How soon the provider is let go when a client leaves.

A client leaves before the response's head, before the first token, in mid-stream, and from a one-shot request; by FIN and
by RST. Measured: from the client's close() until the provider's end of the connection sees it closed. Client and provider
live in this one process and one exchange runs at a time, so that only the gateway's delay, twice the loopback, and the
waking of this process are in the figure.
"""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, Any, Literal

import trio
from lab import ASK, PATH, Arguments, Command, Report, check_left, holdings, main, percentile, provider, records_by_id

from trio_ai_proxy.testing import RawClient, Script, ScriptedServer, openai_answer, openai_stream

if TYPE_CHECKING:
    from collections.abc import Callable

LONG = 3600.0
MEDIAN_MS, MAX_MS = 5.0, 50.0
CHUNKS_READ = 5
Phase = Literal["before headers", "before first token", "mid-stream", "one-shot"]

SCRIPTS: dict[Phase, Callable[[], Script]] = {
    "before headers": lambda: openai_stream(["late"], head_pause=LONG),
    "before first token": lambda: openai_stream(["late"], pause=LONG),
    "mid-stream": lambda: openai_stream(itertools.repeat(" word"), pause=0.02),
    "one-shot": lambda: openai_answer("late", head_pause=LONG),
}


class Bench:
    def __init__(self, server: ScriptedServer, gateway: Command) -> None:
        self.server = server
        self.gateway = gateway
        self.ids = itertools.count(1)

    async def whole(self) -> str:
        """One exchange that runs to its end: its request id."""
        request_id = f"bench-{next(self.ids)}"
        async with RawClient("127.0.0.1", self.gateway.port) as client:
            await client.post(PATH, json={**ASK, "stream": True}, headers=[("x-request-id", request_id)])
            await client.read_head()
            await client.read_body()
        return request_id

    async def leave(self, phase: Phase, how: Literal["fin", "rst"]) -> tuple[str, float]:
        """One departure: its request id, and the milliseconds until the provider saw it (infinite: it did not)."""
        request_id, number = f"bench-{next(self.ids)}", len(self.server.exchanges)
        async with RawClient("127.0.0.1", self.gateway.port) as client:
            body = {**ASK, "stream": phase != "one-shot"}
            await client.post(PATH, json=body, headers=[("x-request-id", request_id)])
            while len(self.server.exchanges) == number:  # noqa: ASYNC110 - it has no event for it
                await trio.sleep(0.001)
            exchange = self.server.exchanges[-1]
            if phase == "before first token":
                while exchange.chunks_sent < 1:  # noqa: ASYNC110 - as above
                    await trio.sleep(0.001)
            if phase == "mid-stream":
                await client.read_head()
                for _ in range(CHUNKS_READ):
                    await client.read_chunk()
            else:
                await trio.sleep(0.02)  # all that moves has come to rest
            left_at = trio.current_time()
            await (client.fin() if how == "fin" else client.rst())
            with trio.move_on_after(5):
                await exchange.over.wait()
        if exchange.released_at is None:
            return request_id, float("inf")
        return request_id, (exchange.released_at - left_at) * 1000


async def measure(given: Arguments) -> Report:
    times = 10 if given.quick else 50
    report = Report(
        f"departures: {times} of each; milliseconds from close() to the provider's socket seen closed",
        ("phase", "how", "median", "p95", "max", "outcome", "completion tokens", "source"),
    )
    script: Script = openai_stream(["whole"])
    async with (
        ScriptedServer(lambda _: script) as server,
        Command(provider(server.url, timeouts=f"first_token = {LONG}\ntotal = {LONG}")) as gateway,
    ):
        bench = Bench(server, gateway)
        source = await _until_ready(bench)
        start = await holdings(gateway)
        everything: list[float] = []
        seen: dict[str, Phase] = {}
        rows: list[tuple[Phase, str, list[float], list[str]]] = []
        for phase, make in SCRIPTS.items():
            for how in ("fin", "rst"):
                delays, ids = [], []
                for _ in range(times):
                    script = make()
                    request_id, delay = await bench.leave(phase, how)  # type: ignore[arg-type]
                    delays.append(delay)
                    ids.append(request_id)
                    seen[request_id] = phase
                everything += delays
                rows.append((phase, how, delays, ids))
        await check_left(gateway, report, start)
        await gateway.record(rows[-1][3][-1])
        records = records_by_id(gateway)
    for phase, how, delays, ids in rows:
        found = [record for request_id in ids for record in records.get(request_id, [])]
        tokens = [record["completion_tokens"] for record in found]
        report.row(
            phase, how, percentile(delays, 0.5), percentile(delays, 0.95), max(delays),
            _all(found, "outcome"), f"{min(tokens, default=0)}-{max(tokens, default=0)}", _all(found, "usage_source"),
        )  # fmt: skip
    median, slowest = percentile(everything, 0.5), max(everything)
    report.row("all", "", median, percentile(everything, 0.95), slowest, "", "", "")
    report.check(median < MEDIAN_MS, f"the median is below {MEDIAN_MS:g} ms ({median:.2f})")
    report.check(slowest < MAX_MS, f"none takes {MAX_MS:g} ms ({slowest:.2f})")
    report.check(
        all(len(records.get(request_id, [])) == 1 for request_id in seen), "each departure has exactly one record"
    )
    wrong = [request_id for request_id, phase in seen.items() if not _is_right(records.get(request_id), phase, source)]
    report.check(not wrong, f"each record says client_gone, with tokens that are {source} ({len(wrong)} do not)")
    if source != "counted":
        report.row("(no rank files: set TRIO_AI_PROXY_RANKS_DIR to have tokens counted)", *[""] * 7)
    return report


async def _until_ready(bench: Bench) -> str:
    """Run whole exchanges until the tokens are counted; without rank files they stay estimates."""
    source = ""
    for _ in range(40):
        record = await bench.gateway.record(await bench.whole())
        source = record["usage_source"]
        if source == "counted" or "ranks_dir" not in bench.gateway.config_file.read_text():
            break
        await trio.sleep(0.25)
    return source


def _is_right(records: list[dict[str, Any]] | None, phase: Phase, source: str) -> bool:
    if not records or records[0]["outcome"] != "client_gone" or records[0]["usage_source"] != source:
        return False
    tokens = records[0]["completion_tokens"]
    # The role chunk shares a block with the first word; one word is one token.
    return records[0]["prompt_tokens"] > 0 and (tokens >= CHUNKS_READ if phase == "mid-stream" else tokens == 0)


def _all(records: list[dict[str, Any]], name: str) -> str:
    values = [record[name] for record in records]
    return ", ".join(f"{values.count(value)} {value}" for value in sorted(set(values)))


if __name__ == "__main__":
    main(__doc__, measure)
