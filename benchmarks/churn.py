"""What is left after thousands of exchanges that were cancelled at random moments.

2,000 exchanges, 64 at a time, streamed and one-shot, each left after a random time by FIN or by RST (some run to their
end), against a provider with 20 slots: most of them wait in its queue. Afterwards 100 of 100 probes must succeed, and
everything that the gateway holds must be back where it was.
"""

from __future__ import annotations

import math
import random
from collections import Counter

import trio
from lab import ASK, PATH, Arguments, Command, Report, check_left, holdings, main, percentile, provider, records_by_id

from trio_ai_proxy.testing import RawClient, ReceivedRequest, Script, ScriptedServer, openai_answer, openai_stream
from trio_ai_proxy.testing.raw import BodyCut

AT_A_TIME, SLOTS, PROBES = 64, 20, 100
WORDS, PACE = 20, 0.005
ALLOWED = {"client_gone", "completed"}


class Churn:
    def __init__(self, seed: int, gateway: Command) -> None:
        self.random = random.Random(seed)
        self.gateway = gateway
        self.seen: Counter[str] = Counter()
        self.sent: set[str] = (
            set()
        )  # whole requests of clients that stayed, or left by FIN: the gateway has read them all

    def answer(self, request: ReceivedRequest) -> Script:
        """What the provider says: a tenth of a second of words, after a moment's thought."""
        if request.json()["user"] == "probe":
            return openai_stream(["fine"], usage=(3, 1))
        pause = self.random.uniform(0, 0.02)
        if request.json().get("stream"):
            return openai_stream([" word"] * WORDS, pause=PACE, head_pause=pause)
        return openai_answer(" word" * WORDS, head_pause=pause + WORDS * PACE)

    async def one(self, number: int) -> None:
        """One exchange, left after anything from no time to more than it takes."""
        patience = self.random.choice([self.random.uniform(0, 0.4), self.random.uniform(0, 0.02), math.inf])
        stream, rude = self.random.random() < 0.7, self.random.random() < 0.5
        request_id = f"churn-{number}"
        left = sent = False
        try:
            async with RawClient("127.0.0.1", self.gateway.port) as client:
                with trio.move_on_after(patience) as waiting:
                    await client.post(
                        PATH,
                        json={**ASK, "user": "churn", "stream": stream},
                        headers=[("x-request-id", request_id)],
                    )
                    sent = True
                    status = (await client.read_head()).status
                    body = b"".join(chunk.data for chunk in await client.read_body())
                    whole = b"[DONE]" in body if stream else status == 200
                    self.seen["whole" if whole else f"status {status}: {body[-120:]!r}"] += 1
                left = waiting.cancelled_caught
                if left:
                    self.seen["left"] += 1
                    await (client.rst() if rude else client.fin())
                if sent and not (left and rude):
                    self.sent.add(request_id)
        except (BodyCut, OSError, trio.BrokenResourceError) as error:
            self.seen["left" if left else f"{type(error).__name__}"] += 1

    async def probe(self, number: int) -> bool:
        """Whether an ordinary exchange comes out whole."""
        with trio.move_on_after(10):
            async with RawClient("127.0.0.1", self.gateway.port) as client:
                await client.post(
                    PATH, json={**ASK, "user": "probe", "stream": True}, headers=[("x-request-id", f"probe-{number}")]
                )
                if (await client.read_head()).status != 200:
                    return False
                return b"[DONE]" in b"".join(chunk.data for chunk in await client.read_body())
        return False


async def measure(given: Arguments) -> Report:
    exchanges = 300 if given.quick else 2000
    report = Report(f"churn: {exchanges} exchanges, {AT_A_TIME} at a time, {SLOTS} slots, seed {given.seed}")
    churn: Churn
    async with ScriptedServer(lambda request: churn.answer(request)) as server:
        config = provider(server.url, timeouts="queue = 60", extra=f"max_in_flight = {SLOTS}")
        async with Command(config) as gateway:
            churn = Churn(given.seed, gateway)
            await churn.probe(-1)
            await gateway.record("probe--1")
            start = await holdings(gateway)
            began = trio.current_time()
            numbers = iter(range(exchanges))
            async with trio.open_nursery() as nursery:
                for _ in range(AT_A_TIME):
                    nursery.start_soon(_work, churn, numbers)
            took = trio.current_time() - began
            upstream_requests = len(server.exchanges)
            came = 0
            began = trio.current_time()
            for number in range(PROBES):
                came += await churn.probe(number)
            probes_took = trio.current_time() - began
            await gateway.record(f"probe-{PROBES - 1}")
            await check_left(gateway, report, start, idle=SLOTS)
            now = await holdings(gateway)
            records = records_by_id(gateway)
            still_open = sum(not exchange.over.is_set() for exchange in server.exchanges)
            server_connections = server.open_connections
    report.row("seconds", took)
    report.row("exchanges a second", exchanges / took)
    for name, count in churn.seen.most_common():
        report.row(f"seen by clients: {name}", count)
    churned = [entry for request_id, entries in records.items() if request_id.startswith("churn") for entry in entries]
    for outcome, count in Counter((record["outcome"], record["phase"]) for record in churned).most_common():
        report.row(f"recorded: {outcome[0]} in phase {outcome[1]}", count)
    report.row("requests that reached the provider", upstream_requests)
    released = [record["upstream_released_ms"] for record in churned if record["upstream_released_ms"] is not None]
    report.row("upstream released, p99 ms", percentile(released, 0.99))
    report.row("a probe afterwards, ms", probes_took / PROBES * 1000)
    report.check(came == PROBES, f"{came} of {PROBES} probes succeed")
    unexpected = set(churn.seen) - {"whole", "left"}
    report.check(not unexpected, f"clients saw whole answers or left, nothing else {sorted(unexpected) or ''}".strip())
    report.check(all(len(entries) == 1 for entries in records.values()), "no exchange has two records")
    missing = churn.sent - records.keys()
    report.check(
        not missing, f"each of {len(churn.sent)} requests that it must have read is recorded ({len(missing)} not)"
    )
    outcomes = Counter(record["outcome"] for record in churned)
    report.check(set(outcomes) <= ALLOWED, f"outcomes are {dict(outcomes)}")
    report.check(churn.seen["whole"] <= outcomes["completed"], "whoever saw the end is recorded as completed")
    report.check(still_open == 0, f"the provider has no answer under way ({still_open})")
    report.check(
        server_connections == now.gauges["upstream_connections"],
        f"gateway and provider agree on their connections ({server_connections}, idle)",
    )
    return report


async def _work(churn: Churn, numbers: object) -> None:
    for number in numbers:  # type: ignore[attr-defined]
        await churn.one(number)


if __name__ == "__main__":
    main(__doc__, measure)
