"""A real engine stops generating when the gateway's client leaves: its own metrics say so, within a second.

The engine looks after the connection of a one-shot answer once in a second in which nobody asks it anything, so it is
left alone for that second: a test that asks for its metrics all the time would keep it generating.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any, Literal

import openai
import pytest
import trio
from support.witness import ENGINE_MODEL, engine_and_gateway, sdk

from trio_ai_proxy.testing import RawClient

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from support.command import Command
    from support.engine import Engine

pytestmark = [
    pytest.mark.witness,
    pytest.mark.process,
    # The SDK leaves its generators to the collector once it has seen [DONE] or an error; they are not ours.
    pytest.mark.filterwarnings(r"ignore:Async generator '(openai|httpx2|httpcore2)\.:ResourceWarning"),
]

ASKED_FOR = 2000
FAR_BELOW = 1000  # the engine makes one or two hundred a second; the whole answer would take ten seconds and more
BODY: dict[str, Any] = {
    "model": ENGINE_MODEL,
    "max_tokens": ASKED_FOR,
    "messages": [{"role": "user", "content": "the river"}],
}
SERVERS = pytest.mark.parametrize("hypercorn", [False, True], ids=["serve", "hypercorn"])


async def until_generating(engine: Engine) -> None:
    """Wait until the engine works, and half a second more: what follows is the middle of its answer."""
    while not await engine.requests_processing():
        await trio.sleep(0.02)
    await trio.sleep(0.5)


async def check_departure(engine: Engine, gateway: Command, leave: Callable[[], Awaitable[None]]) -> None:
    """`leave` makes the client go; then the engine must be found idle a second later, its count far below and frozen."""
    before, records = await engine.tokens_predicted(), len(gateway.records())
    await until_generating(engine)
    await leave()
    await trio.sleep(1)
    assert await engine.requests_processing() == 0, "the engine goes on for a client that has left"
    generated = await engine.tokens_predicted() - before
    assert 0 < generated < FAR_BELOW
    await trio.sleep(0.5)
    assert await engine.tokens_predicted() - before == generated
    while len(gateway.records()) == records:
        await trio.sleep(0.02)
    record = gateway.records()[-1]
    assert record["outcome"] == "client_gone"
    assert record["upstream_released_ms"] < 100


@SERVERS
@pytest.mark.parametrize("stream", [True, False], ids=["streamed", "one-shot"])
async def test_the_engine_stops_when_the_connection_ends(hypercorn: bool, stream: bool) -> None:
    with trio.fail_after(90):
        async with engine_and_gateway("mid", hypercorn=hypercorn) as (engine, gateway):
            for how in ("fin", "rst"):
                async with RawClient("127.0.0.1", gateway.port) as client:
                    await client.post("/v1/chat/completions", json={**BODY, "stream": stream})
                    await check_departure(engine, gateway, client.fin if how == "fin" else client.rst)


@SERVERS
async def test_the_engine_stops_when_the_client_process_is_killed(hypercorn: bool) -> None:
    program = (
        "import openai, sys\n"
        "client = openai.OpenAI(base_url=sys.argv[1] + '/v1', api_key='x', max_retries=0)\n"
        f"answer = client.chat.completions.create(**{BODY!r}, stream=sys.argv[2] == 'streamed')\n"
        "for chunk in answer: pass\n"
    )
    with trio.fail_after(90):
        async with engine_and_gateway("mid", hypercorn=hypercorn) as (engine, gateway), trio.open_nursery() as nursery:
            for manner in ("streamed", "one-shot"):
                process: trio.Process = await nursery.start(_run, [sys.executable, "-c", program, gateway.url, manner])

                async def kill(process: trio.Process = process) -> None:
                    process.kill()
                    await process.wait()

                await check_departure(engine, gateway, kill)


async def _run(argv: list[str], task_status: trio.TaskStatus[trio.Process]) -> None:
    await trio.run_process(argv, check=False, task_status=task_status)


@pytest.mark.parametrize("kind", ["sync", "async"])
async def test_the_engine_stops_when_the_sdk_closes_its_stream(kind: Literal["sync", "async"]) -> None:
    with trio.fail_after(90):
        async with engine_and_gateway("mid") as (engine, gateway):
            client = sdk(kind, gateway.url)
            if isinstance(client, openai.OpenAI):
                create: Any = client.chat.completions.create
                opened = await trio.to_thread.run_sync(lambda: create(**BODY, stream=True))
                await trio.to_thread.run_sync(next, opened)

                async def leave() -> None:
                    await trio.to_thread.run_sync(opened.close)
                    client.close()
            else:
                stream: Any = await client.chat.completions.create(**BODY, stream=True)
                await anext(stream)

                async def leave() -> None:
                    await stream.close()
                    await client.close()

            await check_departure(engine, gateway, leave)


async def test_the_engine_stops_when_the_sdk_is_cancelled_in_a_one_shot() -> None:
    with trio.fail_after(90):
        async with (
            engine_and_gateway("mid") as (engine, gateway),
            openai.AsyncOpenAI(base_url=f"{gateway.url}/v1", api_key="x", max_retries=0) as client,
            trio.open_nursery() as nursery,
        ):
            asking = trio.CancelScope()

            async def ask_in_vain() -> None:
                with asking:
                    await client.chat.completions.create(**BODY)
                assert asking.cancelled_caught

            async def leave() -> None:
                asking.cancel()
                await trio.lowlevel.checkpoint()

            nursery.start_soon(ask_in_vain)
            await check_departure(engine, gateway, leave)
