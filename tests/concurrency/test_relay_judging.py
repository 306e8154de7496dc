"""One answer past one judge, on a virtual clock: what leaves when, and what is left when it is over."""

from __future__ import annotations

import random
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import pytest
import trio
from support.judges import ScriptedDesk, ScriptedJudge

from trio_ai_proxy.chat.events import Ended, Event, Finished, TextDelta
from trio_ai_proxy.errors import GuardBlocked, UpstreamError
from trio_ai_proxy.guards.base import Block, Pass, Replace
from trio_ai_proxy.relay.judging import MAX_HELD_CHARACTERS, MAX_IN_FLIGHT, Judging

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from trio.testing import MockClock

    from trio_ai_proxy.guards.base import Verdict, Window

END: list[Event] = [Finished("stop"), Ended()]


class Client:
    """Takes events, each batch in `seconds`, and keeps when it had them."""

    def __init__(self, seconds: float = 0.0) -> None:
        self.seconds = seconds
        self.got: list[tuple[float, Event]] = []
        self.error: Exception | None = None

    async def take(self, events: list[Event]) -> None:
        await trio.sleep(self.seconds)
        if self.error is not None:
            raise self.error
        self.got += [(trio.current_time(), event) for event in events]

    @property
    def text(self) -> str:
        return "".join(event.text for _, event in self.got if isinstance(event, TextDelta))


class Run:
    """One judging and what is around it."""

    def __init__(
        self, judging: Judging, client: Client, nursery: trio.Nursery, blocks: list[tuple[float, GuardBlocked]]
    ) -> None:
        self.judging = judging
        self.client = client
        self.nursery = nursery
        self.blocks = blocks

    async def say(self, *steps: tuple[float, str] | str) -> None:
        """The provider says so much, each piece alone or after so many seconds, and the end."""
        for step in steps:
            pause, text = step if isinstance(step, tuple) else (0.0, step)
            await trio.sleep(pause)
            await self.judging.feed([TextDelta(text)])
        await self.judging.feed(END)
        await self.judging.close()


@asynccontextmanager
async def running(judge: ScriptedJudge, client: Client | None = None) -> AsyncIterator[Run]:
    """Nothing of it may be left when the block is left."""
    client = client or Client()
    blocks: list[tuple[float, GuardBlocked]] = []

    def note(blocked: GuardBlocked) -> None:
        blocks.append((trio.current_time(), blocked))

    with trio.fail_after(1000):
        async with trio.open_nursery() as nursery:
            judging = Judging("g", judge, ScriptedDesk(None), nursery, client.take, on_block=note)
            yield Run(judging, client, nursery, blocks)
            await trio.testing.wait_all_tasks_blocked()
            assert not nursery.child_tasks


def after(seconds: float, verdict: Verdict | None = None) -> ScriptedJudge:
    return ScriptedJudge(lambda window: (seconds, verdict or Pass()), window=2)


def by_text(**said: tuple[float, Verdict]) -> ScriptedJudge:
    """A judge that knows each window; what it does not know passes at once."""
    return ScriptedJudge(lambda window: said.get(window.new, (0.0, Pass())), window=2)


# -- hold -------------------------------------------------------------------------------------------------------------


async def test_verdict_lets_out_while_the_provider_is_silent(autojump_clock: MockClock) -> None:
    async with running(after(3)) as run:
        await run.say("aa", (100, "bb"))
    assert run.client.got == [
        (3, TextDelta("aa")),
        (103, TextDelta("bb")),
        (103, Finished("stop")),
        (103, Ended()),
    ]
    assert run.judging.held_seconds == 6
    assert run.judging.windows == 2
    assert run.judging.verdicts == {"pass": 2}
    assert run.blocks == []


async def test_windows_are_judged_side_by_side_and_leave_in_order(autojump_clock: MockClock) -> None:
    async with running(by_text(aa=(5, Pass()), bb=(1, Replace("X")), cc=(7, Pass()))) as run:
        await run.say("aabb", "cc")
    assert run.client.got == [
        (5, TextDelta("aa")),
        (5, TextDelta("X")),
        (7, TextDelta("cc")),
        (7, Finished("stop")),
        (7, Ended()),
    ]
    assert run.judging.held_seconds == 7  # not thirteen: time is counted once, however much waits
    assert run.judging.verdicts == {"pass": 2, "replace": 1}


async def test_block_ends_it_at_once_and_cancels_the_other_judgements(autojump_clock: MockClock) -> None:
    judge = by_text(bb=(2, Block("because")), cc=(500, Pass()), dd=(500, Pass()))
    async with running(judge) as run:
        await run.judging.feed([TextDelta("aabbccdd")])
        await trio.sleep(3)
        assert [(at, one.guard, one.message) for at, one in run.blocks] == [(2, "g", "because")]
        assert run.judging.blocked is run.blocks[0][1]
        assert judge.cancelled == 2
        await run.judging.feed([TextDelta("ee"), *END])
        await run.judging.close()
        assert trio.current_time() == 3
    assert run.client.got == [(0, TextDelta("aa"))]
    assert sorted(window.new for window in judge.shown) == ["aa", "bb", "cc", "dd"]
    assert run.judging.held_seconds == 2


async def test_what_was_let_pass_before_a_block_still_leaves(autojump_clock: MockClock) -> None:
    async with running(by_text(bb=(2, Block("because"))), Client(seconds=10)) as run:
        run.nursery.start_soon(run.judging.feed, [TextDelta("aabb")])
        await trio.sleep(3)
        assert run.judging.blocked is not None
        await run.judging.close()
    assert run.client.got == [(10, TextDelta("aa"))]


async def test_provider_is_not_read_on_while_the_judge_is_behind(autojump_clock: MockClock) -> None:
    judge = after(10)
    async with running(judge) as run:
        fed = []
        for _ in range(MAX_IN_FLIGHT + 2):
            await run.judging.feed([TextDelta("aa")])
            fed.append(trio.current_time())
        await run.judging.feed(END)
        await run.judging.close()
    assert fed == [*[0.0] * MAX_IN_FLIGHT, 10.0, 10.0]
    assert judge.most_at_once == MAX_IN_FLIGHT
    assert run.client.text == "aa" * (MAX_IN_FLIGHT + 2)


async def test_provider_is_not_read_on_while_too_much_is_held(autojump_clock: MockClock) -> None:
    judge = ScriptedJudge(lambda window: (10, Pass()), window=MAX_HELD_CHARACTERS)
    async with running(judge) as run:
        await run.judging.feed([TextDelta("a" * MAX_HELD_CHARACTERS)])
        assert trio.current_time() == 0
        await run.judging.feed([TextDelta("b")])
        assert trio.current_time() == 10
        await run.judging.feed(END)
        await run.judging.close()


async def test_window_larger_than_what_is_held_does_not_stop_the_provider(autojump_clock: MockClock) -> None:
    judge = ScriptedJudge(lambda window: (1, Pass()), window=2**17)
    async with running(judge) as run:
        await run.say("a" * 2**16, "b" * 2**15, "c")
    assert run.client.got[0] == (1, TextDelta("a" * 2**16 + "b" * 2**15 + "c"))


async def test_provider_is_not_read_on_while_the_client_does_not_take(autojump_clock: MockClock) -> None:
    async with running(after(0), Client(seconds=20)) as run:
        await run.judging.feed([TextDelta("aa")])
        await trio.sleep(1)  # it has been judged, and is on its way
        await run.judging.feed([TextDelta("b")])
        assert trio.current_time() == 20
        await run.judging.feed(END)
        await run.judging.close()
        assert trio.current_time() == 40
    assert run.client.text == "aab"


async def test_answer_without_its_end_is_judged_to_its_last_character(autojump_clock: MockClock) -> None:
    judge = after(4)
    async with running(judge) as run:
        await run.judging.feed([TextDelta("aab")])
        await run.judging.close()
    assert run.client.text == "aab"
    assert sorted((window.new, window.is_last) for window in judge.shown) == [("aa", False), ("b", True)]


async def test_answer_without_text_ends_at_once(autojump_clock: MockClock) -> None:
    async with running(after(4)) as run:
        await run.say()
    assert run.client.got == [(0, END[0]), (0, END[1])]
    assert run.judging.windows == 0


# -- beside -----------------------------------------------------------------------------------------------------------


def beside(say: dict[str, tuple[float, Verdict]]) -> ScriptedJudge:
    return ScriptedJudge(lambda window: say.get(window.new, (0.0, Pass())), window=2, mode="beside")


async def test_beside_text_leaves_at_once_and_the_end_after_the_last_verdict(autojump_clock: MockClock) -> None:
    async with running(beside({"bb": (9, Pass())})) as run:
        await run.say("aa", (1, "bb"), (1, "c"))
    assert run.client.got == [
        (0, TextDelta("aa")),
        (1, TextDelta("bb")),
        (2, TextDelta("c")),
        (10, Finished("stop")),
        (10, Ended()),
    ]
    assert run.judging.held_seconds == 8


async def test_beside_a_verdict_against_it_cuts_while_the_provider_is_silent(autojump_clock: MockClock) -> None:
    async with running(beside({"bb": (9, Block("no"))})) as run:
        await run.judging.feed([TextDelta("aabbcc")])
        assert trio.current_time() == 0
        await trio.sleep(100)
        assert [(at, one.message) for at, one in run.blocks] == [(9, "no")]
        await run.judging.close()
        assert trio.current_time() == 100
    assert run.client.text == "aabbcc"
    assert run.judging.verdicts == {"pass": 2, "block": 1}


async def test_beside_an_answer_that_is_blocked_at_last_is_never_told_as_whole(autojump_clock: MockClock) -> None:
    async with running(beside({"c": (9, Block("no"))})) as run:
        await run.say("aabb", "c")
        assert trio.current_time() == 9
    assert [event for _, event in run.client.got] == [TextDelta("aabb"), TextDelta("c")]


async def test_beside_a_replacement_comes_too_late_and_is_counted_as_that(autojump_clock: MockClock) -> None:
    async with running(beside({"aa": (9, Replace("X"))})) as run:
        await run.say("aa")
    assert run.client.text == "aa"
    assert run.judging.verdicts == {"late": 1}


async def test_beside_an_answer_does_not_run_ahead_of_its_judge(autojump_clock: MockClock) -> None:
    judge = ScriptedJudge(lambda window: (10, Pass()), window=2, mode="beside")
    async with running(judge) as run:
        await run.judging.feed([TextDelta("aa" * (MAX_IN_FLIGHT + 1))])
        assert trio.current_time() == 10
        await run.judging.feed(END)
        await run.judging.close()
    assert judge.most_at_once == MAX_IN_FLIGHT


# -- whatever comes -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(40))
async def test_client_is_given_what_the_verdicts_make_of_the_answer_and_nothing_after_a_block(
    autojump_clock: MockClock, seed: int
) -> None:
    chance = random.Random(seed)
    text = "".join(chance.choice("abcdefgh") for _ in range(chance.randint(0, 80)))
    size = chance.randint(1, 7)
    windows = [text[start : start + size] for start in range(0, len(text), size)]
    verdicts: list[Verdict] = chance.choices([Pass(), Replace("X"), Replace("")], k=len(windows))
    blocked_at = chance.randrange(len(windows)) if windows and chance.random() < 0.4 else len(windows)
    verdicts[blocked_at:] = [Block("no")] * (len(windows) - blocked_at)
    shown = 0

    def say(window: Window) -> tuple[float, Verdict]:
        # Windows begin to be judged in any order, but each is known by what is before it.
        nonlocal shown
        shown += 1
        place = len(window.context) // size
        return chance.random() * 9, verdicts[place]

    judge = ScriptedJudge(say, window=size, overlap=1000)
    async with running(judge, Client(seconds=chance.random())) as run:
        start = 0
        while start < len(text):
            end = start + chance.randint(1, 9)
            await trio.sleep(chance.random() * 2)
            await run.judging.feed([TextDelta(text[start:end])])
            start = end
        await run.judging.feed(END)
        await run.judging.close()
    made = [
        verdict.text if isinstance(verdict, Replace) else window
        for window, verdict in zip(windows, verdicts, strict=True)
        if not isinstance(verdict, Block)
    ]
    ends = [event for _, event in run.client.got if not isinstance(event, TextDelta)]
    if blocked_at == len(windows):
        assert run.client.text == "".join(made)
        assert ends == END
        assert sum(run.judging.verdicts.values()) == run.judging.windows == shown == len(windows)
    else:
        assert "".join(made).startswith(run.client.text)
        assert ends == []
        assert run.judging.verdicts["block"] == 1
        assert len(run.blocks) == 1


# -- the way out ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["hold", "beside"])
async def test_client_that_leaves_takes_everything_along(autojump_clock: MockClock, mode: str) -> None:
    judge = ScriptedJudge(lambda window: (500, Pass()), window=2, mode=mode)  # type: ignore[arg-type]
    client = Client()
    with trio.fail_after(100):
        async with trio.open_nursery() as nursery:
            judging = Judging("g", judge, ScriptedDesk(None), nursery, client.take)
            nursery.start_soon(judging.feed, [TextDelta("aa" * (MAX_IN_FLIGHT + 3))])
            await trio.sleep(1)
            nursery.start_soon(judging.close)
            await trio.sleep(4)
            nursery.cancel_scope.cancel()
    assert trio.current_time() == 5
    assert judge.cancelled == MAX_IN_FLIGHT
    assert len(judge.shown) == MAX_IN_FLIGHT
    assert [event for _, event in client.got if isinstance(event, Finished)] == []


async def test_feed_that_was_cancelled_has_taken_its_events(autojump_clock: MockClock) -> None:
    async with running(after(10)) as run:
        with trio.move_on_after(5) as scope:
            await run.judging.feed([TextDelta("aa" * (MAX_IN_FLIGHT + 1))])
        assert scope.cancelled_caught
        await run.judging.feed(END)
        await run.judging.close()
    assert run.client.text == "aa" * (MAX_IN_FLIGHT + 1)


async def test_failure_to_deliver_comes_out_where_it_is_fed_and_ends_it(autojump_clock: MockClock) -> None:
    client = Client()
    client.error = UpstreamError("The answer could not be written.")
    judge = by_text(cc=(500, Pass()))
    async with running(judge, client) as run:
        await run.judging.feed([TextDelta("aacc")])
        await trio.sleep(1)
        assert judge.cancelled == 1
        with pytest.raises(UpstreamError, match="could not be written"):
            await run.judging.feed([TextDelta("dd")])
        with pytest.raises(UpstreamError, match="could not be written"):
            await run.judging.close()


async def test_judge_sees_what_was_before_as_the_provider_said_it(autojump_clock: MockClock) -> None:
    seen: list[tuple[str, str]] = []

    def say(window: Window) -> tuple[float, Verdict]:
        seen.append((window.context, window.new))
        return 1.0, Replace("-")

    async with running(ScriptedJudge(say, window=3, overlap=4)) as run:
        await run.say("abcdefgh")
    assert sorted(seen) == [("", "abc"), ("abc", "def"), ("cdef", "gh")]
    assert run.client.text == "---"
