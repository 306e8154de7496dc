"""Guards, and a beginning that is held back, or that two targets race for: nothing leaves early, twice, or out of order."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING, Any

import pytest
from support.exchanges import (
    DONE,
    QUESTION,
    ROLE,
    STOP,
    delta,
    error_of,
    stream,
)
from support.failover import Relay
from support.guarded import (
    BREAKS,
    PIECES,
    REDACTED,
    assert_legal,
    assert_whole,
    hold,
    part,
    redact,
    shown,
    told,
    verdict,
    watch,
)

if TYPE_CHECKING:
    from trio.testing import MockClock

    from trio_ai_proxy.testing import Script
    from trio_ai_proxy.upstream.script import Ending

STREAM = {**QUESTION, "stream": True}
ASKS_USAGE = {**STREAM, "stream_options": {"include_usage": True}}


@pytest.fixture(autouse=True)
def _chance(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(random, "random", lambda: 0.5)


class TestHeldBeginning:
    @pytest.mark.parametrize("how", BREAKS)
    async def test_what_breaks_within_the_window_is_unseen(self, autojump_clock: MockClock, how: str) -> None:
        async with hold(
            a=part("Never seen", **BREAKS[how]), b=told(*PIECES), guards=(redact(),), timeouts={"idle": 5.0}
        ) as bench:
            got = await bench.ask_stream()
            assert_whole(bench, got)
            assert bench.record.guards[0].hits == 1

    async def test_it_is_let_go_while_the_provider_is_silent(self, autojump_clock: MockClock) -> None:
        script = stream(
            delta(ROLE), (1.0, delta("My mail is ")), (1.0, delta("anna@exa")), (30.0, delta("mple.org.")), STOP, DONE
        )
        async with hold(a=script, guards=(redact(),)) as bench:
            got = await bench.ask_stream()
            assert_whole(bench, got, "My mail is [email].")
            assert [at for at, chunk in got.chunks if b"My mail" in chunk] == [11.0]

    @pytest.mark.parametrize("mode", ["hold", "beside"])
    async def test_order_is_kept_where_judges_are_slow(self, autojump_clock: MockClock, mode: str) -> None:
        words = [f"word {number}. " for number in range(40)]
        async with hold(
            a=told(*words, pause=0.7),
            guards=(redact(), watch(mode=mode)),
            judge=lambda _: verdict("pass", 3.0),
        ) as bench:
            assert_whole(bench, await bench.ask_stream(), "".join(words))

    @pytest.mark.parametrize("at", [9.0, 10.0, 11.0, 12.0, 13.0])
    @pytest.mark.parametrize("ending", ["cut", "close"])
    async def test_slow_client_is_told_nothing_twice(
        self, autojump_clock: MockClock, at: float, ending: Ending
    ) -> None:
        """Whatever is on its way to the client when the provider breaks off has been said."""
        first = stream(
            delta(ROLE),
            delta("One, "),
            (1.0, delta("two, ")),
            (at - 2.0, delta("three, ")),
            (0.5, b": x\n\n"),
            ending=ending,
        )
        second = told("One, ", "two, ", "three, ", "four.")
        for _ in range(4):  # who goes first in one instant is left to chance
            async with hold(a=first, b=second, guards=(redact(),), model={"hold_for": at - 1.0}) as bench:
                assert_whole(bench, await bench.ask_stream(read_pause=5.0), "One, two, three, four.")

    @pytest.mark.parametrize("ending", ["cut", "close", "stall"])
    async def test_break_in_the_instant_in_which_it_is_let_go(self, autojump_clock: MockClock, ending: Ending) -> None:
        first = stream(delta(ROLE), delta("One, "), (10.0, delta("two, ")), ending=ending)
        second = told("One, ", "two, ", "three.")
        for _ in range(10):
            async with hold(a=first, b=second, guards=(redact(),), timeouts={"idle": 10.0}) as bench:
                assert_whole(bench, await bench.ask_stream(), "One, two, three.")

    @pytest.mark.parametrize("seconds", [5.0, 10.0, 15.0])
    async def test_client_that_leaves_leaves_nothing_behind(self, autojump_clock: MockClock, seconds: float) -> None:
        async with hold(
            a=part("My mail is ", "still unknown", ending="stall"),
            guards=(watch(),),
            judge=lambda _: verdict("pass", 1000.0),
        ) as bench:
            await bench.ask_stream(leave_after=seconds)
            await bench.gateway.live.empty.wait()
            assert {one.outcome for one in bench.records} == {"client_gone"}
            assert_legal(bench)

    async def test_guard_that_blocks_what_was_held_is_a_real_400(self, autojump_clock: MockClock) -> None:
        async with hold(
            a=part("anna@example.org is her mail", ending="stall"), guards=(redact(action="block"),)
        ) as bench:
            got = await bench.ask_stream()
            assert (got.status, error_of(got)["code"]) == (400, "content_blocked")
            assert bench.released("a") == [10.0]
            assert bench.record.outcome == "guard"


class TestHedge:
    async def test_loser_is_never_shown_to_a_guard(self, autojump_clock: MockClock) -> None:
        windows: list[str] = []

        def judge(fields: dict[str, Any]) -> Script:
            windows.append(shown(fields))
            return verdict("pass", 2.0)

        slow = stream((5.0, delta(ROLE) + delta("bob@example.org is slow")), STOP, DONE)
        async with Relay(
            a=slow,
            b=told(*PIECES, pause=0.2),
            guards=(redact(), watch()),
            judge=judge,
            model={"hedge_after": 1.0, "hedge_budget": 1.0, "retries": 0},
            server={"validate_streams": True},
        ) as bench:
            assert_whole(bench, await bench.ask_stream())
            assert sorted(windows) == sorted(REDACTED[start : start + 8] for start in range(0, len(REDACTED), 8))
            [record] = [one for one in bench.records if one.parent is None]
            assert [row.outcome for row in record.attempts] == ["beaten", "completed"]
            assert record.guards[0].hits == 1

    @pytest.mark.parametrize("continuation", ["off", "splice", "hold"])
    async def test_block_while_two_race_lets_go_of_both(self, autojump_clock: MockClock, continuation: str) -> None:
        slow = stream((5.0, delta(ROLE) + delta("slow")), STOP, DONE)
        async with Relay(
            a=slow,
            b=stream(delta(ROLE), delta("anna@example.org is first"), ending="stall"),
            guards=(redact(action="block"),),
            model={
                "hedge_after": 1.0,
                "hedge_budget": 1.0,
                "retries": 0,
                "continuation": continuation,
                "hold_for": 1.0,
            },
        ) as bench:
            got = await bench.ask_stream()
            assert (got.status, error_of(got)["code"]) == (400, "content_blocked")
            assert [row.outcome for row in bench.record.attempts] == ["beaten", "guard"]
