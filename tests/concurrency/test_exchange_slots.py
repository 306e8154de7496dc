"""A provider's slots: never more in flight than allowed, first come first served, and every one given back."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

import pytest
import trio
import trio.testing
from support.exchanges import DONE, STOP, Bench, delta, stream, terminals

from trio_ai_proxy.errors import Overloaded
from trio_ai_proxy.guards.slots import Slots
from trio_ai_proxy.testing import Script, openai_error

if TYPE_CHECKING:
    from collections.abc import Callable

    from trio.testing import MockClock

    from trio_ai_proxy.testing import ScriptedTransport


def a_second() -> Script:
    return stream(delta("sea"), (1, STOP), DONE)


def most_at_once(transport: ScriptedTransport) -> int:
    """The most requests that were open at one time. One that ends as another begins makes room for it."""
    moves = [(exchange.opened_at, 1) for exchange in transport.exchanges]
    moves += [(exchange.released_at or 0.0, -1) for exchange in transport.exchanges]
    open_now = most = 0
    for _, move in sorted(moves):
        open_now += move
        most = max(most, open_now)
    return most


async def test_never_more_in_flight_than_allowed(autojump_clock: MockClock) -> None:
    async with Bench(a_second(), provider={"max_in_flight": 3}) as bench:
        async with trio.open_nursery() as nursery:
            for _ in range(20):
                nursery.start_soon(bench.ask_stream)
        assert most_at_once(bench.transport) == 3
        assert trio.current_time() == 7.0
    assert {record.outcome for record in bench.records} == {"completed"}


async def test_first_come_first_served(autojump_clock: MockClock) -> None:
    order: list[int] = []

    async def ask(bench: Bench, number: int) -> None:
        await bench.ask_stream()
        order.append(number)

    async with Bench(a_second(), provider={"max_in_flight": 1}) as bench, trio.open_nursery() as nursery:
        for number in range(8):
            nursery.start_soon(ask, bench, number)
            await trio.testing.wait_all_tasks_blocked()
    assert order == list(range(8))


@pytest.mark.parametrize(
    ("script", "manner"),
    [
        (lambda: stream(delta("sea"), ending="cut"), {}),
        (lambda: stream(ending="stall"), {"leave_after": 2}),
        (lambda: stream(delta("sea"), ending="stall"), {}),
        (lambda: openai_error(500), {}),
        (lambda: Script(refuse=True), {}),
        (lambda: Script(status=302), {}),
    ],
    ids=["cut", "client left", "idle", "error", "refused", "redirect"],
)
async def test_slot_comes_back_however_it_ends(
    autojump_clock: MockClock, script: Callable[[], Script], manner: Any
) -> None:
    scripts = iter([script(), a_second()])
    async with Bench(lambda _: next(scripts), provider={"max_in_flight": 1}, timeouts={"idle": 5}) as bench:
        await bench.ask_stream(**manner)
        assert bench.gateway._slots["scripted"].in_use == 0
        assert terminals(await bench.ask_stream()) == ["[DONE]"]


async def test_crowd_that_comes_and_goes_leaves_every_slot_free(autojump_clock: MockClock) -> None:
    async with Bench(a_second(), provider={"max_in_flight": 2}, timeouts={"queue": 5}) as bench:
        async with trio.open_nursery() as nursery:
            for number in range(60):
                # Among them some that leave at the very moment at which a slot becomes theirs.
                leaving: Any = {"leave_after": number % 7 / 2} if number % 3 else {}
                nursery.start_soon(partial(bench.ask_stream, **leaving))
        assert most_at_once(bench.transport) == 2
    assert len(bench.records) == 60
    assert {record.outcome for record in bench.records} == {"completed", "client_gone", "timeout_queue"}


async def test_taking_waits_no_longer_than_it_may(autojump_clock: MockClock) -> None:
    slots = Slots("x", 1)
    await slots.take(5)
    assert (slots.in_use, slots.waiting) == (1, 0)
    caught: list[Overloaded] = []

    async def wait() -> None:
        try:
            await slots.take(5)
        except Overloaded as error:
            caught.append(error)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(wait)
        await trio.testing.wait_all_tasks_blocked()
        assert slots.waiting == 1
    assert trio.current_time() == 5.0
    [error] = caught
    assert (error.status, error.code, error.retry_after) == (503, "timeout_queue", 1)
    assert "'x'" in error.message
    slots.give_back()
    assert (slots.in_use, slots.waiting) == (0, 0)
