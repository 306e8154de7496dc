"""Each deadline passes at its very second, is named in what the client sees, and lets go of the upstream there and then."""

from __future__ import annotations

from typing import TYPE_CHECKING

import httpx
import pytest
import trio
import trio.testing
from support.exchanges import (
    DONE,
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
    times,
)  # fmt: skip
from typing_extensions import override

from trio_ai_proxy.testing import Script, Step, openai_answer

if TYPE_CHECKING:
    from trio.testing import MockClock

SLOW = {"head_pause": 1e9}


class Unreachable(httpx.AsyncBaseTransport):
    """A transport whose connections never come about; it keeps to the deadline that it is given."""

    def __init__(self) -> None:
        self.open = 0

    @override
    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        self.open += 1
        try:
            with trio.fail_after(request.extensions["timeout"]["connect"]):
                await trio.sleep_forever()
        except trio.TooSlowError as error:
            raise httpx.ConnectTimeout("too slow") from error
        finally:
            self.open -= 1
        raise AssertionError


class TestConnect:
    @pytest.mark.parametrize("as_stream", [True, False])
    async def test_passes_at_its_second(self, autojump_clock: MockClock, as_stream: bool) -> None:
        transport = Unreachable()
        async with Bench(transport, timeouts={"connect": 5}) as bench:
            answer = await (bench.ask_stream() if as_stream else bench.ask())
            assert answer.status == 504
            error = error_of(answer)
            assert (error["type"], error["code"]) == ("timeout_error", "timeout_connect")
            assert times(answer) == [5.0]
            assert transport.open == 0
        record = bench.record
        assert (record.outcome, record.phase, record.status) == ("timeout_connect", "connect", 504)
        assert [attempt.outcome for attempt in record.attempts] == ["timeout_connect"]
        assert record.duration_ms == 5_000
        assert record.ttft_ms is None

    async def test_client_that_leaves_meanwhile_ends_it(self, autojump_clock: MockClock) -> None:
        transport = Unreachable()
        async with Bench(transport, timeouts={"connect": 5}) as bench:
            answer = await bench.ask_stream(leave_after=2)
            assert (answer.left_at, answer.returned_at) == (2.0, 2.0)
            assert transport.open == 0
        assert (bench.record.outcome, bench.record.phase, bench.record.status) == ("client_gone", "connect", None)


class TestFirstToken:
    @pytest.mark.parametrize(
        "script",
        [
            stream(head_pause=1e9),
            stream(ending="stall"),
            stream(delta(ROLE), ending="stall"),
            endless(lambda _: delta(ROLE), pause=1),
            endless(lambda _: b": processing\n\n", pause=1),
            endless(lambda _: b'event: ping\ndata: {"type": "ping"}\n\n', pause=1),
            endless(lambda _: b"data:", pause=1),
        ],
        ids=["no head", "silence", "role chunk", "role chunks", "comments", "pings", "half a frame"],
    )
    async def test_passes_whatever_comes_that_is_no_token(self, autojump_clock: MockClock, script: Script) -> None:
        async with Bench(script, timeouts={"first_token": 7, "idle": 3}) as bench:
            answer = await bench.ask_stream()
            assert answer.status == 504
            error = error_of(answer)
            assert (error["type"], error["code"]) == ("timeout_error", "timeout_first_token")
            assert "7 s" in error["message"]
            assert times(answer) == [7.0]
            assert bench.released_at == 7.0
        assert (bench.record.outcome, bench.record.status) == ("timeout_first_token", 504)
        assert bench.record.upstream_released_ms == 0
        assert bench.record.completion_tokens == 0

    async def test_token_in_the_last_moment_opens_the_gate(self, autojump_clock: MockClock) -> None:
        script = stream((6.999, delta("sea")), (100, STOP), DONE)
        async with Bench(script, timeouts={"first_token": 7}) as bench:
            answer = await bench.ask_stream()
            assert terminals(answer) == ["[DONE]"]
        assert (bench.record.outcome, bench.record.ttft_ms) == ("completed", 6_999)

    async def test_does_not_count_the_wait_for_a_slot(self, autojump_clock: MockClock) -> None:
        def steps() -> Script:
            return stream((6, delta("sea")), STOP, DONE)

        async with (
            Bench(lambda _: steps(), timeouts={"first_token": 7}, provider={"max_in_flight": 1}) as bench,
            trio.open_nursery() as nursery,
        ):
            nursery.start_soon(bench.ask_stream)
            nursery.start_soon(bench.ask_stream)
        assert [record.outcome for record in bench.records] == ["completed", "completed"]

    async def test_holds_also_where_the_answer_is_folded(self, autojump_clock: MockClock) -> None:
        script = endless(lambda _: b": processing\n\n", pause=1)
        async with Bench(script, timeouts={"first_token": 7}, provider={"kind": "demo"}) as bench:
            answer = await bench.ask()
            assert (answer.status, error_of(answer)["code"]) == (504, "timeout_first_token")
            assert (times(answer), bench.released_at) == ([7.0], 7.0)
        assert bench.record.outcome == "timeout_first_token"

    async def test_does_not_hold_for_an_answer_in_one_piece(self, autojump_clock: MockClock) -> None:
        async with Bench(openai_answer("sea", head_pause=100), timeouts={"first_token": 7, "idle": 7}) as bench:
            answer = await bench.ask()
            assert answer.status == 200
            assert times(answer) == [100.0]
        assert bench.record.outcome == "completed"


class TestIdle:
    async def test_passes_at_its_second_in_band(self, autojump_clock: MockClock) -> None:
        script = stream((1, delta("The")), (2, delta(" sea")), ending="stall")
        async with Bench(script, timeouts={"idle": 5}) as bench:
            answer = await bench.ask_stream()
            at, error = in_band_error(answer)
            assert (error["type"], error["code"]) == ("timeout_error", "timeout_idle")
            assert "5 s" in error["message"]
            assert (at, bench.released_at) == (8.0, 8.0)
            assert text(answer) == "The sea"
        record = bench.record
        assert (record.outcome, record.phase, record.status) == ("timeout_idle", "streaming", 200)
        assert record.upstream_released_ms == 0

    @pytest.mark.parametrize(
        "life",
        [delta("."), b": processing\n\n", b": processing\n", b'event: ping\ndata: {"type": "ping"}\n\n'],
        ids=["event", "comment frame", "comment line", "ping"],
    )
    async def test_is_put_off_by_every_sign_of_life(self, autojump_clock: MockClock, life: bytes) -> None:
        signs = [(4.0, life)] * 10
        script = stream((1, delta("sea")), *signs, ending="stall")
        async with Bench(script, timeouts={"idle": 5}) as bench:
            answer = await bench.ask_stream()
            at, error = in_band_error(answer)
            assert error["code"] == "timeout_idle"
            assert (at, bench.released_at) == (46.0, 46.0)

    async def test_is_not_put_off_by_a_drip_of_bytes(self, autojump_clock: MockClock) -> None:
        drip = [(1.0, bytes([byte])) for byte in delta("a long text that never ends")]
        script = stream((1, delta("sea")), *drip, ending="stall")
        async with Bench(script, timeouts={"idle": 5}) as bench:
            answer = await bench.ask_stream()
            at, error = in_band_error(answer)
            assert error["code"] == "timeout_idle"
            assert (at, bench.released_at) == (6.0, 6.0)
            assert text(answer) == "sea"

    async def test_stands_still_while_the_client_does_not_take(self, autojump_clock: MockClock) -> None:
        pieces = [delta(f" {number}") for number in range(20)]
        script = stream(delta(ROLE), *pieces, STOP, DONE)
        async with Bench(script, timeouts={"idle": 5}) as bench:
            answer = await bench.ask_stream(read_pause=50)
            assert terminals(answer) == ["[DONE]"]
            assert text(answer) == "".join(f" {number}" for number in range(20))
        assert bench.record.outcome == "completed"

    async def test_begins_anew_when_the_client_has_taken(self, autojump_clock: MockClock) -> None:
        script = stream(delta("1"), delta("2"), delta("3"), ending="stall")
        async with Bench(script, timeouts={"idle": 5}) as bench:
            answer = await bench.ask_stream(read_pause=50)
            at, error = in_band_error(answer)
            # The third piece is handed over at 100, when the client has taken the second; the client takes it at 150.
            assert error["code"] == "timeout_idle"
            assert bench.released_at == 105.0
            assert at == 200.0

    async def test_holds_also_where_the_answer_is_folded(self, autojump_clock: MockClock) -> None:
        script = stream((1, delta("The")), (4, delta(" sea")), ending="stall")
        async with Bench(script, timeouts={"idle": 5}, provider={"kind": "demo"}) as bench:
            answer = await bench.ask()
            assert (answer.status, error_of(answer)["code"]) == (504, "timeout_idle")
            assert (times(answer), bench.released_at) == ([10.0], 10.0)
        assert (bench.record.outcome, bench.record.status) == ("timeout_idle", 504)

    async def test_ends_an_answer_in_one_piece_that_stalls_after_its_head(self, autojump_clock: MockClock) -> None:
        head = Script(
            headers=(("content-type", "application/json"),), steps=lambda: iter([Step(1, b"{")]), ending="stall"
        )
        async with Bench(head, timeouts={"idle": 5, "first_token": 3}) as bench:
            answer = await bench.ask()
            error = error_of(answer)
            assert (answer.status, error["code"]) == (504, "timeout_idle")
            assert "5 s" in error["message"]
            assert (times(answer), bench.released_at) == ([6.0], 6.0)
        assert bench.record.outcome == "timeout_idle"

    async def test_lets_an_answer_in_one_piece_come_slowly(self, autojump_clock: MockClock) -> None:
        whole = (
            b'{"id":"1","model":"gpt-4o","choices":[{"index":0,"message":{"content":"sea"},"finish_reason":"stop"}]}'
        )
        pieces = [Step(4, whole[start : start + 20]) for start in range(0, len(whole), 20)]
        script = Script(headers=(("content-type", "application/json"),), steps=lambda: iter(pieces))
        async with Bench(script, timeouts={"idle": 5}) as bench:
            answer = await bench.ask()
            assert (answer.status, answer.body) == (200, whole)
        assert bench.record.outcome == "completed"


class TestTotal:
    async def test_passes_before_the_first_token_with_its_status(self, autojump_clock: MockClock) -> None:
        async with Bench(stream(head_pause=1e9), timeouts={"total": 9}) as bench:
            answer = await bench.ask_stream()
            assert (answer.status, error_of(answer)["code"]) == (504, "timeout_total")
            assert (times(answer), bench.released_at) == ([9.0], 9.0)
        assert bench.record.outcome == "timeout_total"

    async def test_passes_in_the_middle_of_a_lively_stream(self, autojump_clock: MockClock) -> None:
        async with Bench(endless(lambda _: delta("."), pause=2), timeouts={"total": 9}) as bench:
            answer = await bench.ask_stream()
            at, error = in_band_error(answer)
            assert (error["type"], error["code"]) == ("timeout_error", "timeout_total")
            assert (at, bench.released_at) == (9.0, 9.0)
            assert text(answer) == "...."
        record = bench.record
        assert (record.outcome, record.phase, record.status) == ("timeout_total", "streaming", 200)

    async def test_passes_while_the_client_does_not_read(self, autojump_clock: MockClock) -> None:
        async with Bench(endless(lambda _: delta(".")), timeouts={"total": 9, "idle": 3}) as bench:
            answer = await bench.ask_stream(stop_reading_after=2, leave_after=50)
            assert bench.released_at == 9.0
            assert answer.returned_at == 50.0
        assert bench.record.outcome == "timeout_total"
        assert bench.record.upstream_released_ms == 0

    async def test_counts_the_wait_for_a_slot(self, autojump_clock: MockClock) -> None:
        script = stream(ending="stall")
        async with (
            Bench(script, timeouts={"total": 9}, provider={"max_in_flight": 1}) as bench,
            trio.open_nursery() as nursery,
        ):
            nursery.start_soon(bench.ask_stream)
            await trio.sleep(1)
            answer = await bench.ask_stream(leave_after=8.5)
            assert answer.left_at == 9.5
        assert [record.outcome for record in bench.records] == ["timeout_total", "client_gone"]

    async def test_bounds_an_answer_in_one_piece(self, autojump_clock: MockClock) -> None:
        async with Bench(openai_answer("sea", head_pause=100), timeouts={"total": 9}) as bench:
            answer = await bench.ask()
            assert (answer.status, error_of(answer)["code"]) == (504, "timeout_total")
            assert (times(answer), bench.released_at) == ([9.0], 9.0)
        assert bench.record.outcome == "timeout_total"

    async def test_does_not_hold_an_answer_to_account_whose_end_has_been_seen(self, autojump_clock: MockClock) -> None:
        script = stream((8.9, delta("sea")), STOP, DONE, ending="stall")
        async with Bench(script, timeouts={"total": 9}) as bench:
            answer = await bench.ask_stream()
            assert terminals(answer) == ["[DONE]"]
        assert bench.record.outcome == "completed"


class TestQueue:
    async def test_sheds_at_its_second_and_the_slot_is_good_again_later(self, autojump_clock: MockClock) -> None:
        def script(_request: httpx.Request) -> Script:
            return stream((1, delta("sea")), (19, STOP), DONE)

        async with Bench(script, timeouts={"queue": 10}, provider={"max_in_flight": 1}) as bench:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(bench.ask_stream)
                await trio.testing.wait_all_tasks_blocked()
                shed = await bench.ask_stream()
                assert times(shed) == [10.0]
                assert shed.status == 503
                error = error_of(shed)
                assert (error["type"], error["code"]) == ("overloaded_error", "timeout_queue")
                assert shed.header("retry-after") == "1"
            assert trio.current_time() == 20.0
            again = await bench.ask_stream()
            assert terminals(again) == ["[DONE]"]
        assert [record.outcome for record in bench.records] == ["timeout_queue", "completed", "completed"]
        assert bench.records[0].phase == "queue"
        assert bench.records[0].provider == "scripted"
        assert len(bench.transport.exchanges) == 2


class TestBody:
    async def test_passes_with_a_408(self, autojump_clock: MockClock) -> None:
        async with Bench(stream(), timeouts={"body": 6}) as bench:
            manner = {"body": [b'{"model"', b": 1}"], "body_pause": 100.0}
            answer = await bench.client.post("/v1/chat/completions", **manner)
            assert answer.status == 408
            error = error_of(answer)
            assert (error["type"], error["code"]) == ("timeout_error", "timeout_body")
            assert times(answer) == [6.0]
            assert bench.transport.exchanges == []
        assert (bench.record.outcome, bench.record.phase) == ("timeout_body", "body")

    async def test_does_not_count_towards_the_total(self, autojump_clock: MockClock) -> None:
        """`total` is documented to run from the request's last byte."""
        pieces = [b'{"model": "gpt-4o", "stream": true, ', b'"messages": [{"role": "user", "content": "x"}]}']
        script = stream((5, delta("sea")), STOP, DONE)
        async with Bench(script, timeouts={"body": 30, "total": 9}) as bench:
            answer = await bench.client.post("/v1/chat/completions", body=pieces, body_pause=20)
            assert terminals(answer) == ["[DONE]"]
        assert bench.record.outcome == "completed"
        assert said(answer)[0].at == 25.0
