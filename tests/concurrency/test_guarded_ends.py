"""How guarded exchanges end: whoever ends them, in whatever phase, one terminal, one record, and nothing left behind."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
import trio
from support.exchanges import (
    DONE,
    QUESTION,
    ROLE,
    STOP,
    Bench,
    delta,
    endless,
    error_of,
    in_band_error,
    said,
    stream,
    terminals,
    text,
)
from support.failover import Relay, counted
from support.guarded import (
    assert_legal,
    both,
    children,
    mine,
    reasons,
    redact,
    told,
    verdict,
    watch,
)

from trio_ai_proxy.testing import openai_answer

if TYPE_CHECKING:
    from trio.testing import MockClock

    from trio_ai_proxy.settings.guards import GuardSettings
    from trio_ai_proxy.testing import ClientAnswer

STREAM = {**QUESTION, "stream": True}
ASKS_USAGE = {**STREAM, "stream_options": {"include_usage": True}}
VALIDATE = {"validate_streams": True}


def asked_of_judges(bench: Bench) -> int:
    return sum(json.loads(one.request.content)["model"] == "judge" for one in bench.transport.exchanges)


class TestClientGone:
    @pytest.mark.parametrize("policy", ["cancel", "drain", "grace", "auto"])
    async def test_while_a_request_guard_waits_for_its_model(self, autojump_clock: MockClock, policy: str) -> None:
        play = both(lambda: told("Never."), lambda _: verdict("pass", 100.0))
        async with Bench(play, guards=(watch(on=("request",)),), model={"on_disconnect": policy}) as bench:
            got = await bench.ask_stream(leave_after=5)
            await bench.gateway.live.empty.wait()
            assert (got.status, got.returned_at) == (None, 5.0)
            [asked] = bench.transport.exchanges
            assert asked.released_at == 5.0
            record = mine(bench)
            assert (record.outcome, record.phase) == ("client_gone", "prepare")
            assert [child.outcome for child in children(bench)] == ["client_gone"]

    @pytest.mark.parametrize("mode", ["hold", "beside"])
    async def test_while_a_judge_thinks(self, autojump_clock: MockClock, mode: str) -> None:
        play = both(
            lambda: told("One two three four five six ", "and so on", pause=2.0), lambda _: verdict("pass", 100)
        )
        async with Bench(play, guards=(watch(mode=mode),), model={"on_disconnect": "cancel"}) as bench:
            got = await bench.ask_stream(leave_after=5)
            await bench.gateway.live.empty.wait()
            assert got.returned_at == 5.0
            assert all(one.released_at is not None and one.released_at <= 5.0 for one in bench.transport.exchanges)
            assert {record.outcome for record in bench.records} == {"client_gone"}

    @pytest.mark.parametrize("mode", ["hold", "beside"])
    async def test_while_the_last_verdicts_are_waited_for(self, autojump_clock: MockClock, mode: str) -> None:
        play = both(lambda: told("One two three four"), lambda _: verdict("pass", 100))
        for policy in ("cancel", "drain"):
            async with Bench(play, guards=(watch(mode=mode),), model={"on_disconnect": policy}) as bench:
                began = trio.current_time()
                got = await bench.ask_stream(leave_after=5)
                await bench.gateway.live.empty.wait()
                assert got.returned_at == trio.current_time() == began + 5.0
                record = mine(bench)
                assert (record.outcome, record.completion_tokens) == ("client_gone", 11)
                assert record.attempts[0].outcome == "completed"

    @pytest.mark.parametrize("mode", ["hold", "beside"])
    async def test_nothing_is_judged_for_nobody(self, autojump_clock: MockClock, mode: str) -> None:
        """What is read on is read on for its usage, and at the provider's pace."""
        words = [f"word {number}." for number in range(100)]
        play = both(lambda: told(*words, pause=0.1), lambda _: verdict("pass", 20))
        guards = (watch(mode=mode), watch(name="second"))
        async with Bench(play, guards=guards, model={"on_disconnect": "drain"}) as bench:
            await bench.ask_stream(leave_after=7)
            at_leaving = asked_of_judges(bench)
            await bench.gateway.live.empty.wait()
            assert trio.current_time() < 20
            assert asked_of_judges(bench) == at_leaving
            record = mine(bench)
            assert (record.outcome, record.completion_tokens, record.usage_source) == ("client_gone", 11, "provider")
            assert all(child.outcome == "client_gone" for child in children(bench))

    async def test_nothing_is_judged_for_nobody_where_the_first_judge_passes(self, autojump_clock: MockClock) -> None:
        words = [f"word {number}." for number in range(100)]
        play = both(lambda: told(*words, pause=0.1), lambda _: verdict("pass", 1.5))
        async with Bench(
            play, guards=(watch(), redact(), watch(name="second")), model={"on_disconnect": "drain"}
        ) as bench:
            await bench.ask_stream(leave_after=7)
            at_leaving = asked_of_judges(bench)
            await bench.gateway.live.empty.wait()
            assert asked_of_judges(bench) == at_leaving
            assert mine(bench).completion_tokens == 11

    @pytest.mark.parametrize("guards", [(redact(),), (watch(),), (watch(mode="beside"),), (redact(), watch())])
    async def test_while_it_does_not_read(self, autojump_clock: MockClock, guards: tuple[GuardSettings, ...]) -> None:
        play = both(lambda: endless(lambda n: delta(f"word {n}. "), pause=0.01), lambda _: verdict("pass"))
        async with Bench(play, guards=guards, model={"on_disconnect": "cancel"}) as bench:
            await bench.ask_stream(stop_reading_after=2, leave_after=50)
            await bench.gateway.live.empty.wait()
            assert trio.current_time() == 50.0
            # The provider was not read on: what is on its way is bounded.
            first = bench.transport.exchanges[0]
            assert first.chunks_read < 60
            assert mine(bench).outcome == "client_gone"

    async def test_before_its_whole_answer_is_judged(self, autojump_clock: MockClock) -> None:
        play = both(lambda: openai_answer("One two three four"), lambda _: verdict("pass", 100))
        for policy in ("cancel", "drain"):
            async with Bench(play, guards=(watch(),), model={"on_disconnect": policy}) as bench:
                began = trio.current_time()
                await bench.ask(leave_after=5)
                await bench.gateway.live.empty.wait()
                assert trio.current_time() == began + 5.0
                assert mine(bench).outcome == "client_gone"


class TestInterrupted:
    @pytest.mark.parametrize("mode", ["hold", "beside"])
    @pytest.mark.parametrize("how", ["operator", "shutdown"])
    @pytest.mark.parametrize("asking", [QUESTION, STREAM], ids=["whole", "stream"])
    async def test_while_a_judge_thinks(
        self, autojump_clock: MockClock, how: str, mode: str, asking: dict[str, Any]
    ) -> None:
        play = both(
            lambda: (
                told("One two three", " four five six") if asking is STREAM else openai_answer("One two three four")
            ),
            lambda _: verdict("pass", 100.0),
        )
        async with Bench(play, guards=(watch(mode=mode),), server={"drain": 5.0, **VALIDATE}) as bench:
            found: list[ClientAnswer] = []

            async def ask() -> None:
                found.append(await bench.ask(json=asking))

            async with trio.open_nursery() as nursery:
                nursery.start_soon(ask)
                await trio.sleep(5 if how == "operator" else 0.5)
                if how == "operator":
                    await self._cancel_mine(bench)
                else:
                    bench.gateway.begin_drain()
            [got] = found
            cause = "cancelled" if how == "operator" else "shutdown"
            assert mine(bench).outcome == cause
            assert trio.current_time() < 6
            if got.status == 200:
                assert in_band_error(got)[1]["code"]
            else:
                assert (got.status, bool(error_of(got))) == (503, True)
            assert {child.outcome for child in children(bench)} == {cause}
            assert_legal(bench)

    @pytest.mark.parametrize("how", ["operator", "shutdown"])
    async def test_while_a_request_guard_waits(self, autojump_clock: MockClock, how: str) -> None:
        play = both(lambda: told("Never."), lambda _: verdict("pass", 100.0))
        async with Bench(play, guards=(watch(on=("request",)),), server={"drain": 5.0}) as bench:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(bench.ask_stream)
                await trio.sleep(1)
                if how == "operator":
                    await self._cancel_mine(bench)
                else:
                    bench.gateway.begin_drain()
            assert mine(bench).outcome == ("cancelled" if how == "operator" else "shutdown")
            assert (mine(bench).status, len(bench.transport.exchanges)) == (503, 1)

    async def _cancel_mine(self, bench: Bench) -> None:
        [row] = [row for row in await bench.rows() if row.get("parent") is None]
        assert (await bench.cancel(row["id"])).status in (200, 202, 204)

    async def test_operator_who_looks_changes_nothing(self, autojump_clock: MockClock) -> None:
        script = stream(delta(ROLE) + delta("Mail: anna@exa"), (8.0, delta("mple.org ")), (1.0, STOP + DONE))
        async with Bench(script, guards=(redact(),)) as bench:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(bench.ask_stream)
                for seconds in (2, 3):
                    await trio.sleep(seconds)
                    [row] = await bench.rows()
                    assert row["guards"][0]["held_ms"] == trio.current_time() * 1000
            assert mine(bench).guards[0].held_ms == 8000


class TestDeadlines:
    @pytest.mark.parametrize("mode", ["hold", "beside"])
    @pytest.mark.parametrize("pieces", [("One two three",), ("One two three", "four five")])
    async def test_total_passes_while_a_judge_thinks(
        self, autojump_clock: MockClock, mode: str, pieces: tuple[str, ...]
    ) -> None:
        play = both(lambda: told(*pieces), lambda _: verdict("pass", 100.0))
        async with Bench(play, guards=(watch(mode=mode),), timeouts={"total": 30.0}, server=VALIDATE) as bench:
            got = await bench.ask_stream()
            assert trio.current_time() == 30.0
            if mode == "hold":
                assert (got.status, error_of(got)["code"]) == (504, "timeout_total")
            else:
                assert in_band_error(got)[1]["code"] == "timeout_total"
                assert reasons(got) == []
            assert mine(bench).outcome == "timeout_total"
            assert {child.outcome for child in children(bench)} == {"timeout_total"}
            assert_legal(bench)

    async def test_total_passes_while_a_request_guard_waits(self, autojump_clock: MockClock) -> None:
        play = both(lambda: told("Never."), lambda _: verdict("pass", 100.0))
        guard = watch(on=("request",))
        async with Bench(play, guards=(guard,), timeouts={"total": 30.0}) as bench:
            got = await bench.ask_stream()
            assert (got.status, error_of(got)["code"], trio.current_time()) == (504, "timeout_total", 30.0)
            assert mine(bench).outcome == "timeout_total"

    async def test_idle_stands_still_while_a_guard_thinks(self, autojump_clock: MockClock) -> None:
        """The provider has more to say, and is not read, for the judge is behind."""
        words = [f"word {number}." for number in range(60)]
        async with Relay(
            a=told(*words),
            guards=(watch(),),
            judge=lambda _: verdict("pass", 40.0),
            server=VALIDATE,
            timeouts={"idle": 50.0, "total": 2900.0},
            model={"retries": 0},
        ) as relay:
            got = await relay.ask_stream()
            assert (text(got), terminals(got)) == ("".join(words), ["[DONE]"])
            assert trio.current_time() > 50.0
            assert_legal(relay)


class TestKeepAlive:
    async def test_block_after_a_comment_is_told_in_band(self, autojump_clock: MockClock) -> None:
        play = both(lambda: told("One two three"), lambda _: verdict("block", 12.0))
        async with Bench(play, guards=(watch(),), model={"keep_alive": 5.0}, server=VALIDATE) as bench:
            got = await bench.ask_stream()
            assert (got.status, text(got)) == (200, "")
            assert sum(1 for one in said(got) if isinstance(one.payload, str) and one.payload.startswith(":")) == 2
            assert len(terminals(got)) == 1
            if terminals(got) == ["[DONE]"]:
                assert reasons(got) == [(0, "content_filter")]
            assert mine(bench).outcome == "guard"
            assert_legal(bench)

    async def test_comments_go_on_while_text_is_held(self, autojump_clock: MockClock) -> None:
        script = stream(delta(ROLE), delta("Mail: "), delta("anna@exa"), (22.0, delta("mple.org.")), STOP, DONE)
        async with Bench(script, guards=(redact(),), model={"keep_alive": 5.0}, server=VALIDATE) as bench:
            got = await bench.ask_stream()
            assert (text(got), terminals(got)) == ("Mail: [email].", ["[DONE]"])
            comments = [one.at for one in said(got) if isinstance(one.payload, str) and one.payload.startswith(":")]
            assert comments == [5.0, 10.0, 15.0, 20.0]
            assert_legal(bench)


class TestSlowClient:
    @pytest.mark.parametrize("guards", [(redact(),), (watch(),), (watch(mode="beside"),), (watch(whole=True),)])
    async def test_it_gets_all_in_order(self, autojump_clock: MockClock, guards: tuple[GuardSettings, ...]) -> None:
        words = [f"word {number}. " for number in range(30)]
        play = both(lambda: told(*words, pause=0.1), lambda _: verdict("pass", 0.5))
        async with Bench(play, guards=guards, server=VALIDATE, timeouts={"idle": 20.0}) as bench:
            got = await bench.ask(json=ASKS_USAGE, read_pause=3.0)
            assert (text(got), terminals(got)) == ("".join(words), ["[DONE]"])
            assert counted(got)["completion_tokens"] == 11
            assert_legal(bench)
