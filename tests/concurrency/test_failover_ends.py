"""Between two attempts and in the midst of one: who leaves, who stops it, what runs out, and what is left of it (nothing)."""

from __future__ import annotations

import random
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest
import trio
from support.exchanges import QUESTION, Bench, error_of, stream, terminals
from support.failover import Relay, answer, broken, text

import trio_ai_proxy.relay.attempt
from trio_ai_proxy.settings import AuthSettings, BreakerSettings, Timeouts
from trio_ai_proxy.testing import Script, openai_answer, openai_error

if TYPE_CHECKING:
    from collections.abc import Callable

    from trio.testing import MockClock

SEA = ["The", " sea", " is", " wide", "."]


@pytest.fixture(autouse=True)
def _chance(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(random, "random", lambda: 0.5)


def relay(**playing: Any) -> Relay:
    model = {"continuation": "splice", "retries": 1, **playing.pop("model", {})}
    return Relay(model=model, **playing)


def limited(seconds: float) -> Script:
    return openai_error(429, headers=[("retry-after", f"{seconds:g}")])


async def leaves(bench: Relay) -> str:
    await bench.ask_stream(leave_after=3.0)
    return "client_gone"


async def is_cancelled(bench: Relay) -> str:
    async with trio.open_nursery() as nursery:
        nursery.start_soon(partial(bench.ask_stream, headers=[("x-request-id", "me")]))
        await trio.sleep(3.0)
        await bench.cancel("me")
    assert trio.current_time() == 3.0
    return "cancelled"


async def is_shut_down(bench: Relay) -> str:
    async with trio.open_nursery() as nursery:
        nursery.start_soon(bench.ask_stream)
        await trio.sleep(2.0)
        bench.gateway.begin_drain()
    assert trio.current_time() == 3.0
    return "shutdown"


PHASES: dict[str, Callable[[], dict[str, Any]]] = {
    "first attempt": lambda: {"a": Script(head_pause=9), "b": answer(SEA)},
    "back-off": lambda: {"a": limited(9), "b": answer(SEA)},
    "second attempt, before its head": lambda: {"a": openai_error(401), "b": Script(head_pause=9)},
    "second attempt, in its answer": lambda: {"a": openai_error(401), "b": answer(SEA, pause=1)},
    "continuation, before its head": lambda: {"a": broken(2, words=SEA, pause=1), "b": Script(head_pause=9)},
    "continuation, swallowing": lambda: {"a": broken(2, words=SEA, pause=1), "b": answer(SEA, pause=2)},
    "continuation, telling": lambda: {"a": broken(1, words=SEA, pause=1), "b": answer(SEA, pause=0.8)},
    "stall": lambda: {"a": broken(1, words=SEA, pause=1, ending="stall"), "b": answer(SEA)},
}


@pytest.mark.parametrize("end", [leaves, is_cancelled, is_shut_down])
@pytest.mark.parametrize("phase", PHASES)
@pytest.mark.parametrize("on_disconnect", ["cancel", "drain"])
async def test_end_in_each_phase_releases_all_and_begins_nothing(
    autojump_clock: MockClock, end: Callable[[Relay], Any], phase: str, on_disconnect: str
) -> None:
    model = {"on_disconnect": on_disconnect}
    async with relay(**PHASES[phase](), model=model, server={"drain": 1.0}, timeouts={"abandoned": 50.0}) as bench:
        cause = await end(bench)
        counts = {name: len(bench.times(name)) for name in "ab"}
        await trio.sleep(100)  # what is read on for its usage is over by then
        assert counts == {name: len(bench.times(name)) for name in "ab"}
        for name in "ab":
            assert None not in bench.released(name)
        if cause != "client_gone" or on_disconnect == "cancel" or phase == "back-off":
            assert all(at is not None and at <= 3.0 for name in "ab" for at in bench.released(name))
    assert bench.record.outcome == cause
    if phase.startswith(("continuation", "stall")):
        assert bench.record.phase == "streaming"
    assert {row.outcome for row in bench.record.attempts} <= {cause, "upstream_error", "upstream_truncated"}


async def test_client_that_leaves_during_a_pause_has_nothing_to_be_read_on_for(autojump_clock: MockClock) -> None:
    model = {"on_disconnect": "drain"}
    async with relay(a=limited(9), b=answer(SEA), model=model, timeouts={"abandoned": 50.0}) as bench:
        got = await bench.ask_stream(leave_after=3.0)
        assert got.returned_at == 3.0


async def test_our_own_bound_on_reading_on_is_not_held_against_the_target(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trio_ai_proxy.relay.attempt, "MAX_ABANDONED_BYTES", 100)
    model = {"on_disconnect": "drain"}
    async with relay(a=answer(pause=1), model=model, timeouts={"abandoned": 50.0}) as bench:
        await bench.ask_stream(leave_after=2.5)
        assert bench.released("a") == [3.0]
        assert bench.gateway.routers.known["gpt-4o"].healths[0].breaker.consecutive == 0


async def test_abandoned_answer_that_breaks_off_is_not_made_again(autojump_clock: MockClock) -> None:
    async with relay(
        a=broken(4, words=SEA, pause=1), b=answer(SEA), model={"on_disconnect": "drain"}, timeouts={"abandoned": 50.0}
    ) as bench:
        await bench.ask_stream(leave_after=2.0)
        await trio.sleep(60)
        assert (bench.released("a"), bench.times("b")) == ([4.0], [])
    assert bench.record.outcome == "client_gone"


async def test_abandoned_answer_that_fails_before_a_token_is_not_tried_again(autojump_clock: MockClock) -> None:
    a = stream((4.0, b"data: " + b'{"error":{"message":"No.","type":"server_error","code":"x"}}' + b"\n\n"))
    model = {"on_disconnect": "drain"}
    async with relay(a=a, b=answer(SEA), model=model, timeouts={"abandoned": 50.0}) as bench:
        await bench.ask_stream(leave_after=2.0)
        await trio.sleep(60)
        assert (len(bench.times("a")), bench.times("b")) == (1, [])


class TestTime:
    async def test_total_is_shared_by_attempts_and_pauses(self, autojump_clock: MockClock) -> None:
        async with relay(
            a=[limited(3), Script(head_pause=100)],
            b=Script(head_pause=100),
            timeouts={"total": 12.0, "first_token": 5.0},
        ) as bench:
            got = await bench.ask_stream()
            assert (got.status, error_of(got)["code"], trio.current_time()) == (504, "timeout_total", 12.0)
            assert (bench.times("a"), bench.times("b")) == ([0.0, 3.125], [8.125])

    async def test_total_ends_a_continuation_with_one_error(self, autojump_clock: MockClock) -> None:
        async with relay(
            a=broken(2, words=SEA, pause=1), b=answer(SEA, pause=1), timeouts={"total": 6.5}
        ) as bench:  # fmt: skip
            got = await bench.ask_stream()
            assert (text(got), terminals(got), trio.current_time()) == ("The sea is wide", ["timeout_total"], 6.5)

    @pytest.mark.parametrize(("seconds", "second"), [(20, "b"), (8, "a"), (61, "b")])
    async def test_retry_after_that_does_not_fit_is_not_waited_for(
        self, autojump_clock: MockClock, seconds: float, second: str
    ) -> None:
        total = 10.0 if seconds < 60 else 500.0
        async with relay(a=[limited(seconds), answer(SEA)], b=answer(SEA), timeouts={"total": total}) as bench:
            got = await bench.ask_stream()
            assert (text(got), got.header("x-llm-provider")) == ("The sea is wide.", second)

    async def test_retry_after_that_nobody_can_wait_for_is_passed_on(self, autojump_clock: MockClock) -> None:
        async with relay(a=limited(100)) as bench:
            got = await bench.ask_stream()
            assert (got.status, got.header("retry-after"), trio.current_time()) == (429, "100", 0.0)

    async def test_pauses_grow(self, autojump_clock: MockClock) -> None:
        async with relay(a=openai_error(500), model={"retries": 5, "breaker": BreakerSettings(failures=100)}) as bench:
            assert (await bench.ask_stream()).status == 502
            assert bench.times("a") == [0.0, 0.125, 0.375, 0.875, 1.875, 3.875]

    async def test_slot_is_free_during_a_pause(self, autojump_clock: MockClock) -> None:
        bench = relay(a=[limited(9), answer(SEA)], providers={"a": {"max_in_flight": 1}})
        async with bench, trio.open_nursery() as nursery:
            nursery.start_soon(bench.ask_stream)
            await trio.sleep(1)
            assert bench.gateway.accounts["a"].slots.in_use == 0
            assert text(await bench.ask_stream()) == "The sea is wide."
            assert trio.current_time() < 2

    async def test_target_s_own_deadline(self, autojump_clock: MockClock) -> None:
        own = Timeouts(connect=9, first_token=2, idle=9, total=60, queue=9, body=9, stall=9, abandoned=9)
        async with relay(a=Script(head_pause=50), b=answer(SEA), targets={"a": {"timeouts": own}}) as bench:
            await bench.ask_stream()
            assert bench.times("b") == [2.0]


class TestRequestTimeout:
    @pytest.mark.parametrize(
        ("said", "seconds"), [("2", 2.0), ("1500ms", 1.5), ("2s", 2.0), ("0.5", 0.5), (" 3 ", 3.0)]
    )
    async def test_is_the_client_s_total(self, autojump_clock: MockClock, said: str, seconds: float) -> None:
        async with Bench(Script(head_pause=100)) as bench:
            got = await bench.ask_stream(headers=[("X-Request-Timeout", said)])
            assert (got.status, error_of(got)["code"], trio.current_time()) == (504, "timeout_total", seconds)
        assert bench.record.outcome == "timeout_total"

    async def test_never_raises_it(self, autojump_clock: MockClock) -> None:
        async with Bench(Script(head_pause=100), timeouts={"total": 5.0}) as bench:
            got = await bench.ask(headers=[("x-request-timeout", "60")])
            assert (got.status, trio.current_time()) == (504, 5.0)

    @pytest.mark.parametrize("said", ["0", "-1", "soon", "1m", "1e3", "nan", "inf", "2 s", "1,5", "0ms", "9" * 40, "٣"])
    async def test_what_is_no_time_is_refused(self, autojump_clock: MockClock, said: str) -> None:
        async with Bench(openai_answer("sea")) as bench:
            got = await bench.ask(headers=[("x-request-timeout", said.encode().decode("latin-1"))])
            assert (got.status, error_of(got)["param"]) == (400, "x-request-timeout")
            assert "x-request-timeout" in error_of(got)["message"]
            assert bench.transport.exchanges == []

    async def test_holds_for_attempts_and_pauses(self, autojump_clock: MockClock) -> None:
        async with relay(a=limited(5), b=answer(SEA)) as bench:
            got = await bench.ask_stream(headers=[("x-request-timeout", "3")])
            assert (text(got), bench.times("b")) == ("The sea is wide.", [0.0])


class TestWhatIsTold:
    async def test_field_that_the_next_has_no_word_for_hides_nothing(self, autojump_clock: MockClock) -> None:
        """The next target cannot even be asked; what the first has said is what is told."""
        fields = {**QUESTION, "stream": True, "n": 2}
        async with relay(a=openai_error(503, "First."), b=answer(SEA), providers={"b": {"kind": "anthropic"}}) as bench:
            got = await bench.ask_stream(json=fields)
            assert (got.status, error_of(got)["message"]) == (503, "First.")
            assert bench.times("b") == []

    async def test_field_that_the_first_has_no_word_for_leads_to_the_next(self, autojump_clock: MockClock) -> None:
        fields = {**QUESTION, "stream": True, "n": 2}
        async with relay(a=answer(SEA), b=answer(SEA), providers={"a": {"kind": "anthropic"}}) as bench:
            got = await bench.ask_stream(json=fields)
            assert (got.status, text(got), bench.times("a")) == (200, "The sea is wide.", [])

    async def test_field_that_nobody_has_a_word_for_is_a_400(self, autojump_clock: MockClock) -> None:
        fields, kind = {**QUESTION, "stream": True, "n": 2}, {"kind": "anthropic"}
        async with relay(a=answer(SEA), b=answer(SEA), providers={"a": kind, "b": kind}) as bench:
            assert (await bench.ask_stream(json=fields)).status == 400

    async def test_full_house_hides_nothing(self, autojump_clock: MockClock) -> None:
        async with relay(
            a=openai_error(500, "First."), b=answer(SEA), providers={"b": {"max_in_flight": 1}}, timeouts={"queue": 2.0},
            model={"retries": 0},
        ) as bench:  # fmt: skip
            slots = bench.gateway.accounts["b"].slots
            await slots.take(1)
            got = await bench.ask_stream()
            slots.give_back()
            assert (got.status, error_of(got)["message"], trio.current_time()) == (502, "First.", 2.0)

    async def test_full_house_leads_to_the_next(self, autojump_clock: MockClock) -> None:
        async with relay(
            a=answer(SEA), b=answer(SEA), providers={"a": {"max_in_flight": 1}}, timeouts={"queue": 2.0}
        ) as bench:
            slots = bench.gateway.accounts["a"].slots
            await slots.take(1)
            got = await bench.ask_stream()
            slots.give_back()
            assert (text(got), bench.times("b")) == ("The sea is wide.", [2.0])

    async def test_bad_key_of_a_client_is_not_held_against_the_target(self, autojump_clock: MockClock) -> None:
        auth = AuthSettings(header_name="x-own", header_value=None, allow_override=True)
        provider = {"a": {"auth": auth, "api_key": None}}
        async with relay(a=openai_error(401), b=answer(SEA), providers=provider) as bench:
            for _ in range(12):
                await bench.ask_stream(headers=[("x-own", "bad")])
            breaker = bench.gateway.routers.known["gpt-4o"].healths[0].breaker
            assert breaker.failure_rate(trio.current_time()) == 0.0


async def test_retries_are_a_share_of_all_calls(autojump_clock: MockClock) -> None:
    breaker = BreakerSettings(failures=10_000, rate=1.1)  # never opens
    async with relay(a=openai_error(500), b=answer(SEA, pause=0), model={"retries": 1, "breaker": breaker}) as bench:
        health = bench.gateway.routers.of(bench.settings.models["gpt-4o"]).healths[0]
        health.budget._per_second = 0.0
        for _ in range(100):
            await bench.ask_stream()
        assert len(bench.times("a")) == pytest.approx(100 + 10 + 20, abs=2)


async def test_answer_in_one_piece_says_nothing_of_the_first_token(autojump_clock: MockClock) -> None:
    async with relay(a=openai_answer("sea", head_pause=30)) as bench:
        await bench.ask()
        health = bench.gateway.routers.known["gpt-4o"].healths[0]
        assert health.ttft(trio.current_time()) is None
