"""The slower side sets the pace: what a client does not take is not read."""

from __future__ import annotations

from typing import TYPE_CHECKING

import trio
from support.exchanges import DONE, STOP, Bench, delta, endless, stream, terminals, text

if TYPE_CHECKING:
    from trio.testing import MockClock

# One in the client's hands, one in the writer's, one in the reader's, and one more that the transport may have given.
A_HANDFUL = 4


async def test_client_that_stops_reading_stops_the_upstream(autojump_clock: MockClock) -> None:
    async with Bench(endless(lambda number: delta(f" {number}"))) as bench:
        answer = await bench.ask_stream(stop_reading_after=10, leave_after=500)
        assert len(answer.chunks) == 10
        [exchange] = bench.transport.exchanges
        assert exchange.chunks_read <= 10 + A_HANDFUL
        assert (exchange.released_at, answer.returned_at) == (500.0, 500.0)
    assert bench.record.outcome == "client_gone"


async def test_client_that_never_reads_costs_a_handful_of_chunks(autojump_clock: MockClock) -> None:
    async with Bench(endless(lambda _: delta("x" * 10_000))) as bench:
        await bench.ask_stream(stop_reading_after=0, leave_after=500)
        [exchange] = bench.transport.exchanges
        assert exchange.chunks_read <= A_HANDFUL
    assert bench.record.bytes_out <= A_HANDFUL * 11_000


async def test_slow_client_gets_everything_at_its_own_pace(autojump_clock: MockClock) -> None:
    script = stream(*(delta(f" {number}") for number in range(50)), STOP, DONE)
    async with Bench(script) as bench:
        answer = await bench.ask_stream(read_pause=2)
        assert text(answer) == "".join(f" {number}" for number in range(50))
        assert terminals(answer) == ["[DONE]"]
        assert [at for at, _ in answer.chunks[:50]] == [2.0 * number for number in range(1, 51)]
    assert bench.record.outcome == "completed"


async def test_one_that_does_not_read_holds_up_nobody_else(autojump_clock: MockClock) -> None:
    script = endless(lambda number: delta(f" {number}"), pause=0.1)
    async with Bench(script) as bench, trio.open_nursery() as nursery:
        nursery.start_soon(lambda: bench.ask_stream(stop_reading_after=1, leave_after=50))
        answer = await bench.ask_stream(leave_after=10.05)
        assert len(answer.chunks) == 100
        assert [round(at, 6) for at, _ in answer.chunks] == [round(number / 10, 6) for number in range(1, 101)]
