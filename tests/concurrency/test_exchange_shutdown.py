"""Ended from outside: by a shutdown, which gives what runs its time, and by an operator, who does not."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

import pytest
import trio
import trio.testing
from support.exchanges import DONE, STOP, Bench, delta, endless, error_of, in_band_error, stream, terminals, text

if TYPE_CHECKING:
    from trio.testing import MockClock

    from trio_ai_proxy.testing import ClientAnswer

ENDLESS = endless(lambda _: delta("."), pause=1)
NAMED: Any = {"headers": [("x-request-id", "r")]}


class Asked:
    """One request as a task: `answer` is what came of it."""

    def __init__(self, nursery: trio.Nursery, ask: Any, **manner: Any) -> None:
        self.answer: ClientAnswer | None = None
        nursery.start_soon(self._ask, partial(ask, **NAMED, **manner))

    async def _ask(self, ask: Any) -> None:
        self.answer = await ask()


class TestShutdown:
    async def test_new_requests_are_sent_elsewhere(self, autojump_clock: MockClock) -> None:
        async with Bench(ENDLESS) as bench:
            assert (await bench.client.get("/readyz")).status == 200
            bench.gateway.begin_drain()
            answer = await bench.ask_stream()
            error = error_of(answer)
            assert (answer.status, error["code"], answer.header("retry-after")) == (503, "draining", "1")
            assert (await bench.client.get("/readyz")).status == 503
            assert (await bench.client.get("/healthz")).status == 200
            assert (await bench.admin.get("/readyz")).status == 503
            assert bench.transport.exchanges == []
        assert (bench.record.outcome, bench.record.status) == ("refused", 503)

    async def test_running_streams_have_the_drain_time_to_finish(self, autojump_clock: MockClock) -> None:
        script = stream(delta("The"), (9, delta(" sea")), STOP, DONE)
        async with Bench(script, server={"drain": 10.0}) as bench:
            async with trio.open_nursery() as nursery:
                asked = Asked(nursery, bench.ask_stream)
                await trio.sleep(1)
                bench.gateway.begin_drain()
            assert asked.answer is not None
            assert terminals(asked.answer) == ["[DONE]"]
            assert text(asked.answer) == "The sea"
        assert bench.record.outcome == "completed"

    async def test_after_it_each_gets_one_error_in_band(self, autojump_clock: MockClock) -> None:
        async with Bench(ENDLESS, server={"drain": 10.0}) as bench:
            async with trio.open_nursery() as nursery:
                asked = Asked(nursery, bench.ask_stream)
                await trio.sleep(2.5)
                bench.gateway.begin_drain()
            assert asked.answer is not None
            at, error = in_band_error(asked.answer)
            assert (at, error["type"], error["code"]) == (12.5, "interrupted_error", "shutdown")
            assert bench.released_at == 12.5
        record = bench.record
        assert (record.outcome, record.phase, record.upstream_released_ms) == ("shutdown", "streaming", 0)

    @pytest.mark.parametrize("ask", ["ask_stream", "ask"])
    async def test_before_a_token_it_is_a_status(self, autojump_clock: MockClock, ask: str) -> None:
        async with Bench(stream(head_pause=1e9), server={"drain": 10.0}) as bench:
            async with trio.open_nursery() as nursery:
                asked = Asked(nursery, getattr(bench, ask))
                await trio.sleep(1)
                bench.gateway.begin_drain()
            assert asked.answer is not None
            assert (asked.answer.status, error_of(asked.answer)["code"]) == (503, "shutdown")
            assert bench.released_at == 11.0
        assert bench.record.outcome == "shutdown"

    async def test_waiting_ones_are_told_too(self, autojump_clock: MockClock) -> None:
        async with Bench(ENDLESS, server={"drain": 10.0}, provider={"max_in_flight": 1}) as bench:
            async with trio.open_nursery() as nursery:
                Asked(nursery, bench.ask_stream)
                await trio.testing.wait_all_tasks_blocked()
                queued = Asked(nursery, bench.ask_stream)
                await trio.testing.wait_all_tasks_blocked()
                bench.gateway.begin_drain()
            assert queued.answer is not None
            assert (queued.answer.status, queued.answer.returned_at) == (503, 10.0)
        assert [record.outcome for record in bench.records] == ["shutdown", "shutdown"]

    async def test_one_that_still_sends_its_body_is_told_too(self, autojump_clock: MockClock) -> None:
        async with Bench(ENDLESS, server={"drain": 10.0}) as bench:
            async with trio.open_nursery() as nursery:
                post = partial(bench.client.post, "/v1/chat/completions")
                asked = Asked(nursery, post, body=[b"{", b"}"], body_pause=1000)
                await trio.sleep(1)
                bench.gateway.begin_drain()
            assert asked.answer is not None
            assert (asked.answer.status, asked.answer.returned_at) == (503, 11.0)
        assert (bench.record.outcome, bench.record.phase) == ("shutdown", "body")

    async def test_abandoned_ones_die_with_it(self, autojump_clock: MockClock) -> None:
        async with Bench(ENDLESS, server={"drain": 10.0}, model={"on_disconnect": "drain"}) as bench:
            async with trio.open_nursery() as nursery:
                Asked(nursery, bench.ask_stream, leave_after=2.5)
                await trio.sleep(3)
                assert bench.gateway.live.abandoned == 1
                bench.gateway.begin_drain()
            assert bench.released_at == 13.0
        assert bench.record.outcome == "client_gone"

    async def test_no_drain_time_is_none(self, autojump_clock: MockClock) -> None:
        async with Bench(ENDLESS, server={"drain": 0.0}) as bench:
            async with trio.open_nursery() as nursery:
                Asked(nursery, bench.ask_stream)
                await trio.sleep(2.5)
                bench.gateway.begin_drain()
            assert bench.released_at == 2.5
        assert bench.record.outcome == "shutdown"


class TestOperator:
    async def test_ends_a_stream_with_one_error_in_band(self, autojump_clock: MockClock) -> None:
        async with Bench(ENDLESS) as bench:
            async with trio.open_nursery() as nursery:
                asked = Asked(nursery, bench.ask_stream)
                await trio.sleep(2.5)
                done = await bench.cancel("r")
                assert (done.status, done.json()) == (200, {"cancelled": "r"})
            assert asked.answer is not None
            at, error = in_band_error(asked.answer)
            assert (at, error["type"], error["code"]) == (2.5, "interrupted_error", "cancelled")
            assert bench.released_at == 2.5
        assert (bench.record.outcome, bench.record.upstream_released_ms) == ("cancelled", 0)

    @pytest.mark.parametrize("ask", ["ask_stream", "ask"])
    async def test_before_a_token_it_is_a_status(self, autojump_clock: MockClock, ask: str) -> None:
        async with Bench(stream(head_pause=1e9)) as bench:
            async with trio.open_nursery() as nursery:
                asked = Asked(nursery, getattr(bench, ask))
                await trio.sleep(2.5)
                await bench.cancel("r")
            assert asked.answer is not None
            assert (asked.answer.status, error_of(asked.answer)["code"]) == (503, "cancelled")
            assert bench.released_at == 2.5
        assert bench.record.outcome == "cancelled"

    async def test_ends_one_that_still_sends_its_body(self, autojump_clock: MockClock) -> None:
        async with Bench(ENDLESS) as bench:
            async with trio.open_nursery() as nursery:
                post = partial(bench.client.post, "/v1/chat/completions")
                asked = Asked(nursery, post, body=[b"{", b"}"], body_pause=1000)
                await trio.sleep(2.5)
                await bench.cancel("r")
            assert asked.answer is not None
            assert (asked.answer.status, asked.answer.returned_at) == (503, 2.5)
        assert (bench.record.outcome, bench.record.phase) == ("cancelled", "body")

    async def test_lets_go_of_the_upstream_though_the_client_does_not_read(self, autojump_clock: MockClock) -> None:
        async with Bench(ENDLESS) as bench, trio.open_nursery() as nursery:
            Asked(nursery, bench.ask_stream, stop_reading_after=1, leave_after=100)
            await trio.sleep(20.5)
            await bench.cancel("r")
            await trio.testing.wait_all_tasks_blocked()
            assert bench.released_at == 20.5
        assert bench.record.outcome == "cancelled"

    async def test_twice_is_once(self, autojump_clock: MockClock) -> None:
        async with Bench(ENDLESS) as bench:
            async with trio.open_nursery() as nursery:
                asked = Asked(nursery, bench.ask_stream)
                await trio.sleep(2.5)
                nursery.start_soon(bench.cancel, "r")
                nursery.start_soon(bench.cancel, "r")
            assert asked.answer is not None
            assert terminals(asked.answer) == ["cancelled"]

    async def test_cannot_end_what_does_not_live(self, autojump_clock: MockClock) -> None:
        async with Bench(ENDLESS) as bench:
            assert (await bench.cancel("r")).status == 404
            assert (await bench.admin.get("/exchanges/r")).status == 405
            assert (await bench.admin.post("/exchanges")).status == 405
            assert (await bench.admin.get("/nothing")).status == 404


class TestRows:
    async def test_show_phase_and_counts_as_they_are(self, autojump_clock: MockClock) -> None:
        script = stream((1, delta("The")), (2, delta(" sea")), (3, STOP), DONE, head_pause=4)
        async with Bench(script) as bench:
            async with trio.open_nursery() as nursery:
                Asked(nursery, bench.ask_stream)
                seen = []
                for at in (0.5, 4.5, 5.5, 7.5):
                    await trio.sleep_until(at)
                    [row] = await bench.rows()
                    seen.append((row["phase"], row["chunks"]))
                    assert row["age_seconds"] == at
                    assert (row["id"], row["model"], row["provider"], row["target"]) == (
                        "r", "gpt-4o", "scripted", "gpt-4o",
                    )  # fmt: skip
                    assert (row["key"], row["abandoned"]) == (None, False)
                assert seen == [("first_token", 0), ("first_token", 0), ("streaming", 1), ("streaming", 2)]
                assert row["completion_tokens"] > 0
            assert await bench.rows() == []

    async def test_show_who_waits(self, autojump_clock: MockClock) -> None:
        async with Bench(ENDLESS, provider={"max_in_flight": 1}) as bench, trio.open_nursery() as nursery:
            Asked(nursery, bench.ask_stream, leave_after=10)
            await trio.testing.wait_all_tasks_blocked()
            Asked(nursery, bench.ask_stream, leave_after=5)
            Asked(
                nursery,
                partial(bench.client.post, "/v1/chat/completions"),
                body=[b"{", b"}"],
                body_pause=9,
                leave_after=5,
            )
            await trio.sleep(2)
            assert sorted(row["phase"] for row in await bench.rows()) == ["body", "queue", "streaming"]
            page = (await bench.admin.get("/metrics")).body.decode()
            assert "\ntrio_ai_proxy_exchanges_in_flight 3.0\n" in page
            assert '\ntrio_ai_proxy_slots_in_use{provider="scripted"} 1.0\n' in page
            assert '\ntrio_ai_proxy_slots_waiting{provider="scripted"} 1.0\n' in page
