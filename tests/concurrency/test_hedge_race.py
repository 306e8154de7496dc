"""A second attempt that is begun in the instant in which the first one answers is let go of in that instant."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from support.exchanges import DONE, STOP, Bench, delta, stream

from trio_ai_proxy.settings import TargetSettings

if TYPE_CHECKING:
    import httpx
    from trio.testing import MockClock

    from trio_ai_proxy.testing import Script

HEDGE_AFTER = 2.0
TARGETS = tuple(
    TargetSettings(provider="scripted", model=name, priority=at) for at, name in enumerate(("on-time", "slow"))
)


@pytest.mark.parametrize("early", [0.0, 1e-9, 1e-6, -1e-9, -1e-6])
async def test_who_answers_when_the_other_is_asked_does_not_wait_for_it(
    early: float, autojump_clock: MockClock
) -> None:
    on_time = stream((HEDGE_AFTER - early, delta("The")), delta(" sea"), STOP, DONE)
    slow = stream((1000.0, delta("Late")), STOP, DONE)

    def answer(request: httpx.Request) -> Script:
        return slow if b'"slow"' in request.content else on_time

    model = {"targets": TARGETS, "hedge_after": HEDGE_AFTER}
    for _ in range(20):  # the order within one instant is drawn anew each time
        async with Bench(answer, model=model) as bench:
            assert (await bench.ask_stream()).status == 200
            assert bench.record.outcome == "completed"
            assert bench.record.duration_ms < 3000
