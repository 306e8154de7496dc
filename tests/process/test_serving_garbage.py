"""An exchange leaves nothing that only the cyclic collector can find: a full collection stops every stream."""

from __future__ import annotations

import gc
import json
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

import pytest
import trio

from trio_ai_proxy.gateway import Gateway
from trio_ai_proxy.serving.listener import open_listener, serve_app
from trio_ai_proxy.testing import RawClient, ScriptedServer, openai_stream
from trio_ai_proxy.testing.in_memory import scripted_settings

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from pathlib import Path

EXCHANGES = 50
BODY = {"model": "scripted", "stream": True, "messages": [{"role": "user", "content": "Hi"}]}


async def to_the_end(port: int) -> None:
    async with RawClient("127.0.0.1", port) as client:
        for _ in range(EXCHANGES):
            await client.post("/v1/chat/completions", json=BODY)
            await client.read_head()
            await client.read_body()


async def token_by_token(port: int) -> None:
    """By the path that wakes no task."""
    async with RawClient("127.0.0.1", port) as client:
        for _ in range(EXCHANGES):
            await client.post("/v1/chat/completions", json={**BODY, "user": "slow"})
            await client.read_head()
            await client.read_body()


async def leave(port: int) -> None:
    for _ in range(EXCHANGES):
        async with RawClient("127.0.0.1", port) as client:
            await client.post("/v1/chat/completions", json={**BODY, "user": "endless"})
            await client.read_head()
            await client.read_chunk()


@pytest.mark.parametrize("clients", [to_the_end, token_by_token, leave])
async def test_an_exchange_leaves_next_to_nothing_for_the_collector(
    clients: Callable[[int], Awaitable[None]], tmp_path: Path
) -> None:
    """What is left after a departure are the connection and its tasks, which trio's own objects tie into circles."""

    def answer(request: object) -> object:
        who = json.loads(request.body).get("user")  # type: ignore[attr-defined]
        pieces = iter(lambda: "word ", None) if who == "endless" else ["Hello", "."] * (4 if who == "slow" else 1)
        return openai_stream(pieces, pause={"endless": 0.01, "slow": 0.003}.get(who, 0.0), usage=(3, 2))

    async with ScriptedServer(answer) as upstream:  # type: ignore[arg-type]
        settings = scripted_settings(base_url=f"{upstream.url}/v1")
        settings = replace(settings, server=replace(settings.server, record_log=str(tmp_path / "records")))
        gateway, listener, stop = Gateway(settings), open_listener("127.0.0.1:0"), trio.Event()
        port = listener.getsockname()[1]
        async with trio.open_nursery() as nursery:
            await nursery.start(partial(serve_app, gateway, listener, stop, graceful=1.0))
            with trio.fail_after(60):
                await clients(port)
                await gateway.live.empty.wait()
                gc.collect()
                gc.disable()
                try:
                    await clients(port)
                    await gateway.live.empty.wait()
                    gc.set_debug(gc.DEBUG_SAVEALL)
                    gc.collect()
                    kinds = [type(found).__name__ for found in gc.garbage]
                finally:
                    gc.set_debug(0)
                    gc.garbage.clear()
                    gc.enable()
            stop.set()
    ours = [
        kind for kind in kinds if kind in {"Exchange", "Plan", "Meter", "ChatRequest", "Head", "GuardedStream", "Body"}
    ]
    assert len(ours) <= EXCHANGES // 25, sorted(kinds)
    if clients is not leave:
        assert len(kinds) / EXCHANGES < 2
