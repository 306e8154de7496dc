"""When the client leaves, in whatever phase, the upstream is let go of at that instant, or read on within bounds."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import trio
import trio.testing
from support.exchanges import (
    DONE,
    QUESTION,
    ROLE,
    STOP,
    Bench,
    delta,
    endless,
    stream,
    terminals,
    text,
    usage,
)  # fmt: skip
from support.ranks import encoding

from trio_ai_proxy.accounting.tokens import count_prompt
from trio_ai_proxy.relay.exchange import MAX_ABANDONED, MAX_ABANDONED_BYTES
from trio_ai_proxy.testing import Script, Step, openai_answer

if TYPE_CHECKING:
    from trio.testing import MockClock

    from trio_ai_proxy.relay.exchange import Exchange, Plan

WORDS = ["The", " sea", ",", " the", " wide", " sea", "."]


def spoken(*, pause: float = 1.0) -> Script:
    """The words, a second apart, and the provider's own count."""
    return stream(delta(ROLE), *((pause, delta(word)) for word in WORDS), STOP, usage(100, 200), DONE)


class TestPhase:
    async def test_body(self, autojump_clock: MockClock) -> None:
        async with Bench(spoken()) as bench:
            answer = await bench.client.post("/v1/chat/completions", body=[b"{", b"}"], body_pause=10, leave_after=3)
            assert (answer.status, answer.returned_at) == (None, 3.0)
            assert bench.transport.exchanges == []
        record = bench.record
        assert (record.outcome, record.phase, record.status) == ("client_gone", "body", None)
        assert (record.prompt_tokens, record.completion_tokens, record.bytes_out) == (0, 0, 0)

    async def test_body_sent(self, autojump_clock: MockClock) -> None:
        """It leaves in the moment in which its request is whole: nothing is held for longer than that moment."""
        for _ in range(10):
            async with Bench(spoken()) as bench:
                answer = await bench.ask_stream(leave_on="body-sent")
                assert answer.status is None
                assert all(exchange.released_at == exchange.opened_at for exchange in bench.transport.exchanges)
            assert bench.record.outcome == "client_gone"

    async def test_known_before_the_upstream_is_opened(
        self, autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        async with Bench(spoken()) as bench:
            begin = bench.gateway.begin

            def begin_and_leave(exchange: Exchange, plan: Plan) -> None:
                begin(exchange, plan)
                exchange.client_left()

            monkeypatch.setattr(bench.gateway, "begin", begin_and_leave)
            await bench.ask_stream()
            assert bench.transport.exchanges == []
        assert (bench.record.outcome, bench.record.phase) == ("client_gone", "queue")

    async def test_queue(self, autojump_clock: MockClock) -> None:
        async with Bench(spoken(), provider={"max_in_flight": 1}) as bench:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(bench.ask_stream)
                await trio.testing.wait_all_tasks_blocked()
                answer = await bench.ask_stream(leave_after=3)
                assert answer.returned_at == 3.0
                assert bench.gateway.accounts["scripted"].slots.waiting == 0
            assert trio.current_time() == 7.0
        assert [(record.outcome, record.phase) for record in bench.records] == [
            ("client_gone", "queue"), ("completed", "done"),
        ]  # fmt: skip
        assert len(bench.transport.exchanges) == 1

    @pytest.mark.parametrize("as_stream", [True, False])
    async def test_before_the_head(self, autojump_clock: MockClock, as_stream: bool) -> None:
        async with Bench(stream(head_pause=100)) as bench:
            ask = bench.ask_stream if as_stream else bench.ask
            answer = await ask(leave_after=3)
            assert (answer.status, answer.returned_at, bench.released_at) == (None, 3.0, 3.0)
        record = bench.record
        assert (record.outcome, record.phase, record.status) == ("client_gone", "first_token", None)
        assert record.upstream_released_ms == 0
        assert [attempt.outcome for attempt in record.attempts] == ["client_gone"]

    async def test_before_the_first_token(self, autojump_clock: MockClock) -> None:
        async with Bench(stream((1, delta(ROLE)), (100, STOP))) as bench:
            answer = await bench.ask_stream(leave_after=3)
            assert (answer.status, answer.returned_at, bench.released_at) == (None, 3.0, 3.0)
        record = bench.record
        assert (record.outcome, record.phase, record.status, record.ttft_ms) == (
            "client_gone",
            "first_token",
            None,
            None,
        )
        assert record.upstream_released_ms == 0

    @pytest.mark.parametrize("leave_after", [1.5, 2.5, 3.5, 6.5])
    async def test_in_mid_stream_what_was_delivered_is_counted(
        self, autojump_clock: MockClock, leave_after: float
    ) -> None:
        ranks = encoding("o200k_base")
        async with Bench(spoken()) as bench:
            bench.gateway.tokenizers.install("o200k_base", ranks)
            answer = await bench.ask_stream(leave_after=leave_after)
            assert (answer.returned_at, bench.released_at) == (leave_after, leave_after)
            assert terminals(answer) == []
            assert text(answer) == "".join(WORDS[: int(leave_after)])
        record = bench.record
        assert (record.outcome, record.phase, record.status) == ("client_gone", "streaming", 200)
        assert record.usage_source == "counted"
        assert record.completion_tokens == len(ranks.encode_ordinary(text(answer)))
        assert record.prompt_tokens == count_prompt(QUESTION, "chat", ranks)
        assert record.bytes_out == len(answer.body)
        assert record.chunks_out == len(answer.chunks)
        assert record.upstream_released_ms == 0

    async def test_on_a_chunk(self, autojump_clock: MockClock) -> None:
        async with Bench(spoken()) as bench:
            answer = await bench.ask_stream(leave_on=2)
            assert (answer.returned_at, bench.released_at) == (2.0, 2.0)
        assert bench.record.outcome == "client_gone"

    async def test_folded(self, autojump_clock: MockClock) -> None:
        ranks = encoding("o200k_base")
        async with Bench(spoken(), provider={"kind": "demo"}) as bench:
            bench.gateway.tokenizers.install("o200k_base", ranks)
            answer = await bench.ask(leave_after=3.5)
            assert (answer.status, answer.returned_at, bench.released_at) == (None, 3.5, 3.5)
        record = bench.record
        assert (record.outcome, record.phase, record.stream) == ("client_gone", "streaming", False)
        assert record.completion_tokens == len(ranks.encode_ordinary("The sea,"))
        assert record.bytes_out == 0

    async def test_one_shot_in_the_middle_of_the_body(self, autojump_clock: MockClock) -> None:
        script = Script(
            headers=(("content-type", "application/json"),), steps=lambda: iter([Step(1, b"{"), Step(100, b"}")])
        )
        async with Bench(script) as bench:
            answer = await bench.ask(leave_after=3)
            assert (answer.status, answer.returned_at, bench.released_at) == (None, 3.0, 3.0)
        assert bench.record.outcome == "client_gone"

    async def test_after_the_last_chunk_the_exchange_was_completed(self, autojump_clock: MockClock) -> None:
        """Everything was delivered; what the client did not wait for is the end of the connection."""
        script = stream(delta("sea"), (1, STOP), (0.0, DONE), ending="stall")
        async with Bench(script) as bench:
            answer = await bench.ask_stream(leave_on=3)
            assert terminals(answer) == ["[DONE]"]
        assert (bench.record.outcome, bench.record.phase) == ("completed", "done")

    async def test_with_a_piece_in_flight_is_no_completion(self, autojump_clock: MockClock) -> None:
        """The provider has said everything, but the client left without taking the last of it."""
        script = stream(delta("The"), (1, delta(" sea")), (1, STOP), (0.0, DONE))
        async with Bench(script) as bench:
            answer = await bench.ask_stream(stop_reading_after=1, leave_after=10)
            assert text(answer) == "The"
            assert answer.returned_at == 10.0
        assert bench.record.outcome == "client_gone"

    async def test_with_everything_in_flight_at_once_is_no_completion(self, autojump_clock: MockClock) -> None:
        async with Bench(stream(delta("sea") + STOP + DONE)) as bench:
            answer = await bench.ask_stream(stop_reading_after=0, leave_after=20)
            assert answer.body == b""
        assert bench.record.outcome == "client_gone"

    @pytest.mark.parametrize("kind", ["openai", "demo"], ids=["one-shot", "folded"])
    async def test_with_the_whole_answer_in_flight_is_no_completion(self, autojump_clock: MockClock, kind: str) -> None:
        script = openai_answer("sea") if kind == "openai" else spoken()
        async with Bench(script, provider={"kind": kind}) as bench:
            answer = await bench.ask(stop_reading_after=0, leave_after=20)
            assert answer.body == b""
        assert bench.record.outcome == "client_gone"

    async def test_while_it_does_not_read(self, autojump_clock: MockClock) -> None:
        async with Bench(endless(lambda number: delta(f" {number}"))) as bench:
            answer = await bench.ask_stream(stop_reading_after=3, leave_after=10)
            assert (answer.returned_at, bench.released_at) == (10.0, 10.0)
        assert bench.record.outcome == "client_gone"

    async def test_the_slot_is_free_for_the_next_at_that_instant(self, autojump_clock: MockClock) -> None:
        async with Bench(spoken(), provider={"max_in_flight": 1}) as bench:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(lambda: bench.ask_stream(leave_after=2.5))
                await trio.testing.wait_all_tasks_blocked()
                answer = await bench.ask_stream()
            assert terminals(answer) == ["[DONE]"]
            first, second = bench.transport.exchanges
            assert (first.released_at, second.opened_at) == (2.5, 2.5)


class TestPolicy:
    @pytest.mark.parametrize(("policy", "kind"), [("cancel", "groq"), ("cancel", "openai"), ("auto", "openai")])
    async def test_cancel_lets_go_at_once_and_counts(self, autojump_clock: MockClock, policy: str, kind: str) -> None:
        async with Bench(spoken(), model={"on_disconnect": policy}, provider={"kind": kind}) as bench:
            await bench.ask_stream(leave_after=2.5)
            assert bench.released_at == 2.5
        assert (bench.record.outcome, bench.record.usage_source) == ("client_gone", "estimated")

    @pytest.mark.parametrize(("policy", "kind"), [("drain", "groq"), ("drain", "openai"), ("auto", "groq")])
    async def test_drain_reads_on_for_the_exact_usage(self, autojump_clock: MockClock, policy: str, kind: str) -> None:
        async with Bench(spoken(), model={"on_disconnect": policy}, provider={"kind": kind}) as bench:
            answer = await bench.ask_stream(leave_after=2.5)
            assert terminals(answer) == []
            assert text(answer) == "The sea"
            assert bench.released_at == 7.0
        record = bench.record
        assert (record.outcome, record.usage_source) == ("client_gone", "provider")
        assert (record.prompt_tokens, record.completion_tokens) == (100, 200)
        assert record.upstream_released_ms == 4_500
        assert record.bytes_out == len(answer.body)

    async def test_drain_holds_for_one_shot_answers_too(self, autojump_clock: MockClock) -> None:
        script = openai_answer("sea", usage=(3, 4), head_pause=8)
        async with Bench(script, model={"on_disconnect": "drain"}) as bench:
            await bench.ask(leave_after=2.5)
            assert bench.released_at == 8.0
        assert (bench.record.outcome, bench.record.usage_source) == ("client_gone", "provider")

    async def test_drain_holds_before_the_first_token_too(self, autojump_clock: MockClock) -> None:
        async with Bench(spoken(), model={"on_disconnect": "drain"}) as bench:
            await bench.ask_stream(leave_after=0.5)
            assert bench.released_at == 7.0
        record = bench.record
        assert (record.outcome, record.completion_tokens) == ("client_gone", 200)
        assert (record.status, record.bytes_out, record.chunks_out) == (None, 0, 0)

    async def test_drain_is_over_when_its_time_is(self, autojump_clock: MockClock) -> None:
        script = endless(lambda _: delta("."), pause=1)
        async with Bench(script, model={"on_disconnect": "drain"}, timeouts={"abandoned": 30}) as bench:
            await bench.ask_stream(leave_after=2.5)
            assert bench.released_at == 32.5
        assert (bench.record.outcome, bench.record.usage_source) == ("client_gone", "estimated")

    async def test_drain_does_not_outlast_the_total(self, autojump_clock: MockClock) -> None:
        script = endless(lambda _: delta("."), pause=1)
        async with Bench(script, model={"on_disconnect": "drain"}, timeouts={"abandoned": 30, "total": 10}) as bench:
            await bench.ask_stream(leave_after=2.5)
            assert bench.released_at == 10.0
        assert bench.record.outcome == "client_gone"

    async def test_drain_keeps_to_the_idle_deadline(self, autojump_clock: MockClock) -> None:
        script = stream(delta("sea"), ending="stall")
        async with Bench(script, model={"on_disconnect": "drain"}, timeouts={"abandoned": 30, "idle": 5}) as bench:
            await bench.ask_stream(leave_after=2.5)
            assert bench.released_at == 5.0
        assert bench.record.outcome == "client_gone"

    @pytest.mark.parametrize("kind", ["openai", "demo"], ids=["streamed", "folded"])
    async def test_drain_reads_so_many_bytes_and_no_more(self, autojump_clock: MockClock, kind: str) -> None:
        size = 2**20
        script = endless(lambda _: delta("." * size), pause=1)
        async with Bench(script, model={"on_disconnect": "drain"}, provider={"kind": kind}) as bench:
            await (bench.ask_stream if kind == "openai" else bench.ask)(leave_after=2.5)
            assert bench.released_at == 2.0 + MAX_ABANDONED_BYTES / size
        assert bench.record.outcome == "client_gone"

    async def test_only_so_many_are_drained_at_a_time(self, autojump_clock: MockClock) -> None:
        async with Bench(spoken(), model={"on_disconnect": "drain"}) as bench:
            async with trio.open_nursery() as nursery:
                for _ in range(MAX_ABANDONED + 3):
                    nursery.start_soon(lambda: bench.ask_stream(leave_after=2.5))
                await trio.sleep(3)
                assert bench.gateway.live.abandoned == MAX_ABANDONED
                assert len(bench.gateway.live) == MAX_ABANDONED
                assert bench.transport.open_responses == MAX_ABANDONED
                assert sum(row["abandoned"] for row in await bench.rows()) == MAX_ABANDONED
            released = [exchange.released_at for exchange in bench.transport.exchanges]
            assert sorted(released, key=float) == [2.5] * 3 + [7.0] * MAX_ABANDONED
        sources = [record.usage_source for record in bench.records]
        assert (sources.count("estimated"), sources.count("provider")) == (3, MAX_ABANDONED)

    @pytest.mark.parametrize(("abandoned", "released"), [(30.0, 6.5), (3.0, 5.5)])
    async def test_grace_waits_for_so_long(self, autojump_clock: MockClock, abandoned: float, released: float) -> None:
        script = endless(lambda _: delta("."), pause=1)
        async with Bench(
            script, model={"on_disconnect": "grace", "grace": 4.0}, timeouts={"abandoned": abandoned}
        ) as bench:
            await bench.ask_stream(leave_after=2.5)
            assert bench.released_at == released
        assert bench.record.outcome == "client_gone"

    async def test_a_drained_one_dies_when_an_operator_says_so(self, autojump_clock: MockClock) -> None:
        script = endless(lambda _: delta("."), pause=1)
        async with Bench(script, model={"on_disconnect": "drain"}) as bench, trio.open_nursery() as nursery:
            nursery.start_soon(lambda: bench.ask_stream(leave_after=2.5, headers=[("x-request-id", "r")]))
            await trio.sleep(5.5)
            assert (await bench.cancel("r")).status == 200
            await trio.testing.wait_all_tasks_blocked()
            assert bench.released_at == 5.5
        assert bench.record.outcome == "client_gone"

    async def test_a_client_that_leaves_in_the_queue_is_not_drained(self, autojump_clock: MockClock) -> None:
        async with (
            Bench(spoken(), model={"on_disconnect": "drain"}, provider={"max_in_flight": 1}) as bench,
            trio.open_nursery() as nursery,
        ):
            nursery.start_soon(bench.ask_stream)
            await trio.testing.wait_all_tasks_blocked()
            answer = await bench.ask_stream(leave_after=3)
            assert answer.returned_at == 3.0
        assert len(bench.transport.exchanges) == 1
