"""`trio-ai-proxy drill` praises a gateway that keeps its promises, and finds the one that does not."""

from __future__ import annotations

import itertools
import json
from typing import TYPE_CHECKING

import pytest
import trio

from trio_ai_proxy.errors import ConfigError
from trio_ai_proxy.testing import ReceivedRequest, Script, ScriptedServer, Step, openai_stream
from trio_ai_proxy.testing.drill import DrillResult, drill, exit_code, leaves, render, run_drills
from trio_ai_proxy.testing.drill_gateway import Address, GatewayUnderDrill

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.process
async def test_our_own_gateway_passes_every_drill() -> None:
    with trio.fail_after(120):
        results = await run_drills()
    assert exit_code(results) == 0, render(results)
    assert all(result.passed for result in results), render(results)
    assert len(results) == 16
    departures = [result for result in results if result.name.startswith("client leaves")]
    assert all(result.released_ms is not None for result in departures)


async def test_a_gateway_that_calls_everything_whole_fails() -> None:
    with trio.fail_after(60):
        async with ScriptedServer(openai_stream(["all", " is", " well"], usage=(1, 3))) as server:
            results = await run_drills(server.url)
    by_name = {result.name: result for result in results}
    assert by_name["a stream runs to its end"].passed
    for name in ("upstream falls silent", "upstream is cut", "upstream fails inside a 200", "upstream says 429"):
        assert by_name[name].passed is False
    assert by_name["client leaves in mid-stream (FIN)"].passed is None
    assert by_name["SIGTERM with streams in flight"].passed is None
    assert exit_code(results) == 1
    assert "upstream is cut: expected one error in band, no [DONE]" in render(results)


async def test_a_gateway_that_lets_go_of_nothing_fails() -> None:
    def answer_admin(_: ReceivedRequest) -> Script:
        rows = [{"id": exchange.request.header("x-request-id")} for exchange in data.exchanges]
        return Script(steps=lambda: iter([Step(0, json.dumps({"exchanges": rows}).encode())]))

    endless = openai_stream(itertools.repeat("x"), pause=0.01)
    with trio.fail_after(60):
        async with ScriptedServer(endless) as data, ScriptedServer(answer_admin) as admin:
            gateway = GatewayUnderDrill(Address.of_url(data.url), admin=Address.of_url(admin.url))
            result = await leaves("demo-endless", "fin", after_chunks=2)(gateway)
    assert result.passed is False
    assert result.seen == "still live long after the client had left"


@pytest.mark.parametrize("url", ["https://127.0.0.1:1", "127.0.0.1:8000", "http://"])
async def test_a_url_that_cannot_be_drilled_is_one_sentence(url: str) -> None:
    with pytest.raises(ConfigError, match="a drill needs a URL like"):
        await drill(url=url)


async def test_a_gateway_that_is_not_there_is_one_sentence() -> None:
    with pytest.raises(ConfigError, match="no gateway answers at"):
        await drill(url="http://127.0.0.1:1")


@pytest.mark.process
async def test_a_gateway_that_does_not_come_up_says_why(tmp_path: Path) -> None:
    config = tmp_path / "config.toml"
    config.write_text('[server]\nbind = "127.0.0.1:1"\nnonsense = true\n')
    with trio.fail_after(60), pytest.raises(ConfigError, match=r"(?s)did not come up.*nonsense"):
        await drill(config=str(config))


def test_the_table_shows_what_could_not_be_judged() -> None:
    results = [
        DrillResult("one", "x", True, "fine", 3.4, {"outcome": "client_gone", "completion_tokens": 7}),
        DrillResult("two", "x", None, "no admin port to look at"),
    ]
    assert render(results).splitlines() == [
        "drill  result  outcome      released  tokens  seen",
        "one    ok      client_gone  3 ms      7       fine",
        "two    -       -            -         -       no admin port to look at",
        "",
        "1 passed, 0 failed, 1 could not be judged",
    ]
    assert exit_code(results) == 0
