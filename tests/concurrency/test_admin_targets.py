"""What an operator sees of targets: on the admin port, in metrics, and in the list of exchanges."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import trio
from support.exchanges import DONE, STOP, Bench, delta, stream

from trio_ai_proxy.settings import BreakerSettings, TargetSettings
from trio_ai_proxy.testing import openai_error

if TYPE_CHECKING:
    import httpx
    from trio.testing import MockClock

    from trio_ai_proxy.testing import Script

WELL = stream((0.5, delta("The")), (1, delta(" sea")), STOP, DONE)
FIRST, SECOND = (
    TargetSettings(provider="scripted", model=name, priority=at) for at, name in enumerate(("bad", "good"))
)


def by_name(request: httpx.Request) -> Script:
    """The target that is called "bad" is down."""
    return openai_error(503) if b'"bad"' in request.content else WELL


def two(**fields: Any) -> dict[str, Any]:
    return {"targets": (FIRST, SECOND), "breaker": BreakerSettings(failures=2, open=80.0), **fields}


async def targets(bench: Bench) -> list[dict[str, Any]]:
    [model] = (await bench.admin.get("/targets")).json()["models"]
    assert model["model"] == "gpt-4o"
    found: list[dict[str, Any]] = model["targets"]
    return found


async def gauge(bench: Bench, name: str) -> dict[str, float]:
    lines = (await bench.admin.get("/metrics")).body.decode().splitlines()
    found = [line.rpartition(" ") for line in lines if line.startswith(f"trio_ai_proxy_{name}{{")]
    return {labels.partition('target="')[2].rstrip('"}'): float(value) for labels, _, value in found}


async def test_every_target_is_there_before_anybody_has_asked(autojump_clock: MockClock) -> None:
    async with Bench(WELL, model=two(hedge_after=3.0)) as bench:
        [model] = (await bench.admin.get("/targets")).json()["models"]
        assert (model["balance"], model["hedges_left"]) == ("weighted", 10.0)
        assert [(row["provider"], row["target"], row["priority"]) for row in model["targets"]] == [
            ("scripted", "bad", 0),
            ("scripted", "good", 1),
        ]
        for row in model["targets"]:
            assert (row["breaker"], row["in_flight"], row["requests_last_minute"]) == ("closed", 0, 0)
            assert row["ttft_seconds"] is row["ttft_p95_seconds"] is row["retry_in_seconds"] is None


async def test_a_breaker_that_opens_shows_and_so_does_its_next_probe(autojump_clock: MockClock) -> None:
    async with Bench(by_name, model=two()) as bench:
        for _ in range(2):
            assert (await bench.ask_stream()).status == 200
        bad, good = await targets(bench)
        assert (bad["breaker"], bad["consecutive_failures"], bad["requests_last_minute"]) == ("open", 2, 2)
        assert 0 < bad["retry_in_seconds"] <= 10.0  # an eighth of the longest pause
        assert (good["breaker"], round(good["ttft_seconds"], 2), good["requests_last_minute"]) == ("closed", 0.5, 2)
        assert await gauge(bench, "breaker_state") == {"bad": 2.0, "good": 0.0}
        await trio.sleep(10)
        assert (await targets(bench))[0]["breaker"] == "half_open"
        assert await gauge(bench, "breaker_state") == {"bad": 1.0, "good": 0.0}


async def test_what_is_under_way_shows_with_its_attempt(autojump_clock: MockClock) -> None:
    async with Bench(by_name, model=two(retries=1)) as bench, trio.open_nursery() as nursery:
        nursery.start_soon(bench.ask_stream)
        await trio.sleep(1.2)  # a retry after at most a quarter of a second, then the other one
        [row] = await bench.rows()
        assert (row["attempt"], row["target"]) == (3, "good")
        assert await gauge(bench, "target_in_flight") == {"bad": 0.0, "good": 1.0}
        assert [one["in_flight"] for one in await targets(bench)] == [0, 1]
        await trio.sleep(10)
        kinds = [(attempt.kind, attempt.model, attempt.answered) for attempt in bench.record.attempts]
        assert kinds == [("first", "bad", False), ("retry", "bad", False), ("next", "good", True)]
        page = (await bench.admin.get("/metrics")).body.decode()
        assert 'trio_ai_proxy_retries_total{provider="scripted",target="bad"} 1.0' in page
        assert 'attempts_total{outcome="completed",provider="scripted",target="good"} 1.0' in page


async def test_a_hedge_is_counted_as_started_and_won(autojump_clock: MockClock) -> None:
    slow = replace(WELL, head_pause=30.0)

    def by_pace(request: httpx.Request) -> Script:
        return slow if b'"bad"' in request.content else WELL

    async with Bench(by_pace, model=two(hedge_after=2.0)) as bench:
        assert (await bench.ask_stream()).status == 200
        assert [(one.kind, one.outcome) for one in sorted(bench.record.attempts, key=lambda one: one.model)] == [
            ("first", "beaten"),
            ("hedge", "completed"),
        ]
        page = (await bench.admin.get("/metrics")).body.decode()
        assert 'trio_ai_proxy_hedges_total{provider="scripted",result="won",target="good"} 1.0' in page


async def test_a_continuation_is_counted_by_how_it_ended(autojump_clock: MockClock) -> None:
    cut = stream(delta("The"), ending="cut")

    def breaks(request: httpx.Request) -> Script:
        return cut if b'"bad"' in request.content else WELL

    async with Bench(breaks, model=two(continuation="splice")) as bench:
        assert (await bench.ask_stream()).status == 200
        page = (await bench.admin.get("/metrics")).body.decode()
        assert 'continuations_total{outcome="completed",provider="scripted",target="good"} 1.0' in page
        assert [attempt.kind for attempt in bench.record.attempts] == ["first", "continuation"]


async def test_two_targets_of_one_name_are_told_apart(autojump_clock: MockClock) -> None:
    async with Bench(WELL, model={"targets": (FIRST, FIRST)}) as bench:
        assert await gauge(bench, "breaker_state") == {"bad": 0.0, "bad#2": 0.0}


async def test_names_that_nobody_has_configured_share_one_entry_and_one_label(autojump_clock: MockClock) -> None:
    bench = Bench(WELL)
    bench.settings = replace(bench.settings, pass_through="scripted")
    async with bench:
        assert [model["model"] for model in (await bench.admin.get("/targets")).json()["models"]] == ["gpt-4o"]
        for name in ("one", "other"):
            question = {"model": name, "stream": True, "messages": [{"role": "user", "content": "Hi"}]}
            assert (await bench.ask_stream(json=question)).status == 200
        *_, shared = (await bench.admin.get("/targets")).json()["models"]
        assert (shared["model"], shared["hedges_left"]) == (None, None)
        [target] = shared["targets"]
        assert (target["provider"], target["target"], target["requests_last_minute"]) == ("scripted", None, 2)
        page = (await bench.admin.get("/metrics")).body.decode()
        assert 'attempts_total{outcome="completed",provider="scripted",target="other"} 2.0' in page
