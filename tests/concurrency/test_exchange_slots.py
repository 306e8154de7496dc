"""A provider's slots: never more in flight than allowed, each client in its turn, and every one given back."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

import pytest
import trio
import trio.testing
from support.exchanges import DONE, STOP, Bench, delta, error_of, key, stream, terminals
from support.failover import Relay

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
        assert bench.gateway.accounts["scripted"].slots.in_use == 0
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


TWO_KEYS = (key("team-a", "secret-of-a"), key("team-b", "secret-of-b"))


def as_team(name: str) -> Any:
    return {"headers": [("authorization", f"Bearer secret-of-{name}")]}


async def test_clients_take_turns_by_their_keys(autojump_clock: MockClock) -> None:
    async with Bench(a_second(), provider={"max_in_flight": 1}, keys=TWO_KEYS) as bench, trio.open_nursery() as nursery:
        for _ in range(50):
            nursery.start_soon(partial(bench.ask_stream, **as_team("a")))
        await trio.testing.wait_all_tasks_blocked()
        await trio.sleep(0.5)
        got = await bench.ask_stream(**as_team("b"))
        assert (terminals(got), got.returned_at) == (["[DONE]"], 3.0)
    assert [record.key for record in bench.records[:4]] == ["team-a", "team-a", "team-b", "team-a"]


async def test_full_queue_refuses_at_once_and_says_whose_crowd_it_is(autojump_clock: MockClock) -> None:
    provider = {"max_in_flight": 1, "max_queued": 2}
    async with Bench(a_second(), provider=provider, timeouts={"queue": 30}, keys=TWO_KEYS) as bench:
        async with trio.open_nursery() as nursery:
            for _ in range(3):
                nursery.start_soon(partial(bench.ask_stream, **as_team("a")))
            await trio.testing.wait_all_tasks_blocked()
            crowded = await bench.ask_stream(**as_team("a"))
            assert (crowded.status, error_of(crowded)["code"]) == (429, "queue_crowded")
            assert (error_of(crowded)["type"], crowded.header("retry-after")) == ("rate_limit_error", "30")
            nursery.start_soon(partial(bench.ask_stream, **as_team("b")))
            await trio.testing.wait_all_tasks_blocked()
            full = await bench.ask_stream(**as_team("b"))
            # Of two keys that wait with one request each none has more than its part.
            assert (full.status, error_of(full)["code"]) == (429, "queue_crowded")
            assert trio.current_time() == 0.0
        page = bench.gateway.metrics.render()[0].decode()
        assert '\ntrio_ai_proxy_queue_refused_total{provider="scripted",reason="crowded"} 3.0\n' in page
        assert '\ntrio_ai_proxy_queue_refused_total{provider="scripted",reason="full"} 0.0\n' in page
    assert [(record.key, record.outcome, record.status) for record in bench.records] == [
        ("team-a", "limit", 429), ("team-a", "limit", 429), ("team-b", "limit", 429), ("team-a", "completed", 200),
        *[("team-a", "completed", 200), ("team-b", "completed", 200)],
    ]  # fmt: skip
    assert {record.phase for record in bench.records} == {"queue", "done"}


async def test_full_queue_without_keys_is_a_503(autojump_clock: MockClock) -> None:
    async with (
        Bench(a_second(), provider={"max_in_flight": 1, "max_queued": 0}) as bench,
        trio.open_nursery() as nursery,
    ):
        nursery.start_soon(bench.ask_stream)
        await trio.testing.wait_all_tasks_blocked()
        got = await bench.ask()
        assert (got.status, error_of(got)["type"], error_of(got)["code"]) == (503, "overloaded_error", "queue_full")
        assert int(got.header("retry-after") or "0") >= 1
        assert bench.record.outcome == "limit"


async def test_full_queue_leads_to_the_next_target_at_once(autojump_clock: MockClock) -> None:
    full = {"max_in_flight": 1, "max_queued": 0}
    async with Relay(a=a_second(), b=a_second(), providers={"a": full, "b": full}) as bench:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(bench.ask_stream)
            await trio.testing.wait_all_tasks_blocked()
            got = await bench.ask_stream()
            assert (terminals(got), got.header("x-llm-provider"), got.returned_at) == (["[DONE]"], "b", 1.0)
        [rows] = [record.attempts for record in bench.records if len(record.attempts) > 1]
        assert [(row.provider, row.kind, row.outcome) for row in rows] == [
            ("a", "first", "limit"), ("b", "next", "completed"),
        ]  # fmt: skip
        assert bench.gateway.routers.known["gpt-4o"].healths[0].breaker.consecutive == 0


async def test_one_that_loses_its_place_goes_to_the_next_target_at_once(autojump_clock: MockClock) -> None:
    async with Relay(a=a_second(), b=a_second(), providers={"a": {"max_in_flight": 1, "max_queued": 2}}) as bench:
        slots = bench.gateway.accounts["a"].slots
        async with trio.open_nursery() as nursery:
            for _ in range(3):
                nursery.start_soon(bench.ask_stream)
            await trio.testing.wait_all_tasks_blocked()
            assert (slots.waiting, bench.times("b")) == (2, [])
            nursery.start_soon(slots.take, 100, "team-a")
            await trio.testing.wait_all_tasks_blocked()
            assert (slots.waiting, bench.times("b")) == (2, [0.0])
        slots.give_back()
        assert sorted(len(record.attempts) for record in bench.records) == [1, 1, 2]
