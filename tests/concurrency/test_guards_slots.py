"""The queue for a provider's slots: fair between clients, bounded in length and time, and no slot is ever lost."""

from __future__ import annotations

from collections import Counter
from functools import partial
from typing import TYPE_CHECKING

import pytest
import trio
import trio.testing
from hypothesis import given, settings
from hypothesis import strategies as st

from trio_ai_proxy.errors import Crowded, Overloaded
from trio_ai_proxy.guards.slots import Slots

if TYPE_CHECKING:
    from collections.abc import Callable

    from trio.testing import MockClock


class Bench:
    """Slots, and those who come for them. `served` are the names of those who got one, in order, each with the time;
    `refused` the errors of the others."""

    def __init__(self, nursery: trio.Nursery, limit: int = 1, max_queued: int = 10_000, seconds: float = 1e6) -> None:
        self.slots = Slots("x", limit, max_queued)
        self.served: list[tuple[str, float]] = []
        self.refused: dict[str, Overloaded] = {}
        self.seconds = seconds
        self._nursery = nursery

    async def come(self, name: str, key: str | None, stay: float = 1.0) -> None:
        """Come, wait, and keep the slot for as long as `stay`."""
        try:
            await self.slots.take(self.seconds, key)
        except Overloaded as error:
            self.refused[name] = error
            return
        self.served.append((name, trio.current_time()))
        try:
            await trio.sleep(stay)
        finally:
            self.slots.give_back()

    async def line_up(self, *names: str, stay: float = 1.0) -> None:
        """Come one after the other; the key is the first letter of the name, "-": none."""
        for name in names:
            key = None if name[0] == "-" else name[0]
            self._nursery.start_soon(partial(self.come, name, key, stay))
            await trio.testing.wait_all_tasks_blocked()

    @property
    def order(self) -> list[str]:
        return [name for name, _ in self.served]


class TestFairness:
    async def test_crowd_of_one_key_delays_another_by_one_turn(self, autojump_clock: MockClock) -> None:
        async with trio.open_nursery() as nursery:
            bench = Bench(nursery)
            await bench.line_up(*(f"a{number}" for number in range(1001)))
            await trio.sleep(0.5)
            came = trio.current_time()
            await bench.line_up("b")
            await trio.sleep(10)
            [served] = [at for name, at in bench.served if name == "b"]
            assert served - came <= 1.5  # the rest of the running turn, and one of the other key
            assert bench.slots.waiting == 1000 - 9  # it cost the others one turn of ten
            nursery.cancel_scope.cancel()
        assert (bench.slots.in_use, bench.slots.waiting) == (0, 0)

    @pytest.mark.parametrize("limit", [1, 7])
    async def test_keys_that_want_more_than_there_is_have_equal_shares(
        self, autojump_clock: MockClock, limit: int
    ) -> None:
        """Whatever the number of requests that each has waiting: 2, 4, 8, 16 and 32 at a time."""
        async with trio.open_nursery() as nursery:
            bench = Bench(nursery, limit)

            async def insist(key: str) -> None:
                while True:
                    await bench.come(key, key)

            for place, key in enumerate("abcde", start=1):
                for _ in range(2**place * limit):
                    nursery.start_soon(insist, key)
            await trio.sleep(1000.5)
            nursery.cancel_scope.cancel()
        shares = Counter(bench.order)
        assert set(shares) == set("abcde")
        assert max(shares.values()) - min(shares.values()) <= 0.02 * shares.total() / 5
        assert shares.total() == limit * 1001

    async def test_of_one_key_first_come_first_served(self, autojump_clock: MockClock) -> None:
        async with trio.open_nursery() as nursery:
            bench = Bench(nursery)
            await bench.line_up("a1", "a2", "b1", "a3", "-1", "b2", "-2")
        assert bench.order == ["a1", "a2", "b1", "-1", "a3", "b2", "-2"]
        assert trio.current_time() == 7.0

    async def test_nobody_is_held_up_while_a_slot_is_free(self, autojump_clock: MockClock) -> None:
        async with trio.open_nursery() as nursery:
            bench = Bench(nursery, 3)
            await bench.line_up("a1", "a2", "a3")
        assert [at for _, at in bench.served] == [0.0, 0.0, 0.0]


class TestBounds:
    async def test_of_time(self, autojump_clock: MockClock) -> None:
        async with trio.open_nursery() as nursery:
            bench = Bench(nursery, seconds=5)
            await bench.line_up("a1", "a2", stay=100)
            await trio.sleep(5.0)
            await trio.testing.wait_all_tasks_blocked()
            error = bench.refused["a2"]
            assert (error.status, error.code, error.retry_after) == (503, "timeout_queue", 1)
            assert (bench.slots.in_use, bench.slots.waiting) == (1, 0)
        assert bench.slots.refused == {"timeout": 1, "full": 0, "crowded": 0}

    async def test_slot_that_comes_free_as_the_time_is_up_goes_to_one_of_two(self, autojump_clock: MockClock) -> None:
        for _ in range(20):  # which of two tasks that are due runs first is up to chance
            async with trio.open_nursery() as nursery:
                bench = Bench(nursery, seconds=5)
                await bench.line_up("a1", "a2", stay=5)
            assert len(bench.served) + len(bench.refused) == 2
            assert (bench.slots.in_use, bench.slots.waiting) == (0, 0)

    async def test_newcomer_of_who_has_the_most_places_is_told_that_it_is_its_own_crowd(
        self, autojump_clock: MockClock
    ) -> None:
        async with trio.open_nursery() as nursery:
            bench = Bench(nursery, max_queued=3)
            await bench.line_up("a1", "a2", "a3", "b1", "a4")
            error = bench.refused["a4"]
            assert isinstance(error, Crowded)
            assert (error.status, error.type, error.code) == (429, "rate_limit_error", "queue_crowded")
            assert "'x'" in error.message
            assert bench.slots.waiting == 3
        assert bench.order == ["a1", "a2", "b1", "a3"]
        assert bench.slots.refused == {"timeout": 0, "full": 0, "crowded": 1}

    async def test_newcomer_takes_the_last_place_of_the_longest_line(self, autojump_clock: MockClock) -> None:
        async with trio.open_nursery() as nursery:
            bench = Bench(nursery, max_queued=4)
            await bench.line_up("a1", "a2", "a3", "a4", "a5", "b1", "c1")
            assert {name: error.status for name, error in bench.refused.items()} == {"a5": 429, "a4": 429}
            assert bench.slots.waiting == 4
        assert bench.order == ["a1", "a2", "b1", "c1", "a3"]

    async def test_places_are_not_passed_to_and_fro_between_equals(self, autojump_clock: MockClock) -> None:
        async with trio.open_nursery() as nursery:
            bench = Bench(nursery, max_queued=3)
            await bench.line_up("a1", "a2", "a3", "b1", "b2", "c1", "a4")
            assert {name: (error.status, error.code) for name, error in bench.refused.items()} == {
                "b2": (503, "queue_full"),  # it would have as many then as the other has now
                "a3": (429, "queue_crowded"),
                "a4": (429, "queue_crowded"),  # no key has more than this one
            }
        assert bench.order == ["a1", "a2", "b1", "c1"]

    async def test_of_a_crowd_without_a_name_nobody_is_told_that_it_is_its_own(self, autojump_clock: MockClock) -> None:
        async with trio.open_nursery() as nursery:
            bench = Bench(nursery, max_queued=2)
            await bench.line_up("-1", "-2", "-3", "-4", "b1")
            assert {name: (error.status, error.code) for name, error in bench.refused.items()} == {
                "-4": (503, "queue_full"),
                "-3": (503, "queue_full"),
            }
        assert bench.order == ["-1", "-2", "b1"]

    async def test_no_queue_at_all(self, autojump_clock: MockClock) -> None:
        async with trio.open_nursery() as nursery:
            bench = Bench(nursery, max_queued=0)
            await bench.line_up("a1", "a2", "b1")
            assert {error.code for error in bench.refused.values()} == {"queue_full"}
        assert bench.order == ["a1"]

    async def test_retry_after_is_how_long_the_queue_takes_at_its_pace(self, autojump_clock: MockClock) -> None:
        async with trio.open_nursery() as nursery:
            bench = Bench(nursery, max_queued=7, seconds=60)
            await bench.line_up(*(f"a{number}" for number in range(8)), stay=2.0)
            await bench.line_up("a8")
            assert bench.refused["a8"].retry_after == 60  # nothing has moved yet: all who wait are gone by then
            await trio.sleep(8.5)  # four were served, in eight seconds and a half
            await bench.line_up(*(f"a{number}" for number in range(9, 14)))
            assert bench.refused["a13"].retry_after == 17  # 8 · 8.5 / 4

    async def test_retry_after_is_at_least_a_second(self, autojump_clock: MockClock) -> None:
        async with trio.open_nursery() as nursery:
            bench = Bench(nursery, max_queued=2, seconds=60)
            await bench.line_up("a1", "a2", "a3", stay=0.01)
            await trio.sleep(0.015)
            await bench.line_up("a4", "a5", stay=0.01)
            assert bench.refused["a5"].retry_after == 1


class TestCancellation:
    async def test_slot_given_to_one_that_is_cancelled_in_that_instant_goes_on(self, autojump_clock: MockClock) -> None:
        for first in ("give back", "cancel"):
            async with trio.open_nursery() as nursery:
                bench = Bench(nursery)
                await bench.slots.take(1)
                leaving = trio.CancelScope()

                async def leave(scope: trio.CancelScope = leaving, bench: Bench = bench) -> None:
                    with scope:
                        await bench.come("a1", "a")

                nursery.start_soon(leave)
                await trio.testing.wait_all_tasks_blocked()
                await bench.line_up("a2")
                moves: list[Callable[[], object]] = [bench.slots.give_back, leaving.cancel]
                for move in moves if first == "give back" else reversed(moves):
                    move()
            assert bench.order[-1] == "a2"
            assert (bench.slots.in_use, bench.slots.waiting) == (0, 0)

    async def test_one_that_has_gone_takes_nobody_s_place(self, autojump_clock: MockClock) -> None:
        async with trio.open_nursery() as nursery:
            bench = Bench(nursery, max_queued=2)
            await bench.line_up("a1", "a2", "a3")
            with trio.CancelScope() as gone:
                gone.cancel()
                await bench.come("b1", "b")
            assert gone.cancelled_caught
            assert bench.refused == {}
        assert bench.order == ["a1", "a2", "a3"]

    async def test_slot_that_nobody_had_cannot_be_given_back(self) -> None:
        slots = Slots("x", 1)
        with pytest.raises(RuntimeError, match="nobody had"):
            slots.give_back()
        await slots.take(1)
        slots.give_back()
        with pytest.raises(RuntimeError, match="nobody had"):
            slots.give_back()


MOVES = st.lists(
    st.one_of(
        st.tuples(st.just("come"), st.sampled_from([None, "a", "b", "c"]), st.sampled_from([0.5, 1.0, 2.0, 1e6])),
        st.tuples(st.sampled_from(["finish", "cancel"]), st.integers(0, 30), st.just(0.0)),
        st.tuples(st.just("wait"), st.none(), st.sampled_from([0.0, 0.5, 1.0])),
    ),
    max_size=60,
)


@settings(deadline=None)
@given(moves=MOVES, limit=st.integers(1, 4), max_queued=st.integers(0, 5))
def test_no_slot_is_lost_or_there_twice_whatever_happens_in_whatever_order(
    moves: list[tuple[str, object, float]], limit: int, max_queued: int
) -> None:
    """What follows without a wait between happens in one instant."""
    trio.run(_play, moves, limit, max_queued, clock=trio.testing.MockClock(autojump_threshold=0))


async def _play(moves: list[tuple[str, object, float]], limit: int, max_queued: int) -> None:
    slots = Slots("x", limit, max_queued)
    waiting: set[int] = set()
    holding: set[int] = set()
    scopes: list[trio.CancelScope] = []
    finished: list[trio.Event] = []

    async def come(number: int, key: str | None, seconds: float) -> None:
        with scopes[number]:
            waiting.add(number)
            try:
                await slots.take(seconds, key)
            except Overloaded:
                return
            finally:
                waiting.discard(number)
            holding.add(number)
            try:
                await finished[number].wait()
            finally:
                holding.discard(number)
                slots.give_back()

    def check() -> None:
        assert slots.in_use == len(holding) <= limit
        assert slots.waiting == len(waiting) <= max_queued
        assert not waiting or len(holding) == limit

    with trio.fail_after(1e9):
        async with trio.open_nursery() as nursery:
            for move, what, seconds in moves:
                if move == "come":
                    assert what is None or isinstance(what, str)
                    scopes.append(trio.CancelScope())
                    finished.append(trio.Event())
                    nursery.start_soon(come, len(scopes) - 1, what, seconds)
                elif move == "wait":
                    await trio.sleep(seconds)
                    await trio.testing.wait_all_tasks_blocked()
                    check()
                elif scopes:
                    assert isinstance(what, int)
                    number = what % len(scopes)
                    scopes[number].cancel() if move == "cancel" else finished[number].set()
            await trio.testing.wait_all_tasks_blocked()
            check()
            for event in finished:
                event.set()
    assert (slots.in_use, slots.waiting) == (0, 0)
