"""`no_leaks` sees what outlives a block, and only that."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest
import trio

from trio_ai_proxy.testing import LeftBehind, no_leaks

if TYPE_CHECKING:
    from trio.testing import MockClock


async def test_a_task_that_outlives_the_block_is_named(autojump_clock: MockClock) -> None:
    async with trio.open_nursery() as nursery:
        with pytest.raises(LeftBehind, match=r"1 more tasks than before: .*sleep_forever"):
            async with no_leaks():
                nursery.start_soon(trio.sleep_forever)
        nursery.cancel_scope.cancel()


async def test_an_ending_may_take_a_moment(autojump_clock: MockClock) -> None:
    async with trio.open_nursery() as nursery:
        async with no_leaks(within=2):
            nursery.start_soon(trio.sleep, 1.5)
        assert not nursery.child_tasks


async def test_an_open_file_is_named(autojump_clock: MockClock) -> None:
    reading, writing = -1, -1
    try:
        with pytest.raises(LeftBehind, match=r"2 more file descriptors than before: \d+ → pipe"):
            async with no_leaks():
                reading, writing = os.pipe()
    finally:
        os.close(reading)
        os.close(writing)


async def test_what_was_there_before_does_not_count(autojump_clock: MockClock) -> None:
    async with trio.open_nursery() as nursery:
        nursery.start_soon(trio.sleep_forever)
        async with no_leaks():
            nursery.cancel_scope.cancel()
            await trio.lowlevel.cancel_shielded_checkpoint()


async def test_a_block_that_raises_is_not_judged(autojump_clock: MockClock) -> None:
    async with trio.open_nursery() as nursery:
        judge = no_leaks()
        await judge.__aenter__()
        nursery.start_soon(trio.sleep_forever)
        await judge.__aexit__(ValueError, ValueError(), None)
        nursery.cancel_scope.cancel()
