"""The gateway under Hypercorn's own connection and under the guarded one: the client cannot tell them apart."""

from __future__ import annotations

from contextlib import asynccontextmanager
from functools import partial
from typing import TYPE_CHECKING, Any

import hypercorn.trio.run
import pytest
import trio
from hypercorn.app_wrappers import ASGIWrapper
from hypercorn.config import Config, Sockets
from hypercorn.trio.tcp_server import TCPServer

from trio_ai_proxy.gateway import Gateway
from trio_ai_proxy.serving.connection import GuardedServer
from trio_ai_proxy.serving.listener import open_listener
from trio_ai_proxy.testing import RawClient, Script, ScriptedTransport, Step, openai_answer, openai_error, openai_stream
from trio_ai_proxy.testing.in_memory import scripted_settings

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

CUT = Script(
    steps=lambda: iter([*list(openai_stream(["Hello", ", "]).steps())[:3], Step(0, b'data: {"choi')]), ending="cut"
)
SCRIPTS = {
    "a stream": (True, openai_stream(["Hello", ", ", "wörld", "."], usage=(3, 4))),
    "a stream without usage": (True, openai_stream(["Hello", ", ", "world", "."], usage=None)),
    "one answer": (False, openai_answer("Hello, world.", usage=(3, 4))),
    "a cut stream": (True, CUT),
    "a refusal": (True, openai_error(429, "Slow down.", type="rate_limit_error", code="rate_limit_exceeded")),
}


@asynccontextmanager
async def serving(app: Gateway, connection: type[TCPServer], monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[int]:
    monkeypatch.setattr(hypercorn.trio.run, "TCPServer", connection)
    listener = open_listener("127.0.0.1:0")
    config = Config()
    config.errorlog = None
    config.include_server_header = False
    config.graceful_timeout = 1
    stop = trio.Event()
    async with trio.open_nursery() as nursery:
        serve = partial(
            hypercorn.trio.run.worker_serve, ASGIWrapper(app), config, sockets=Sockets([], [listener], []),
            shutdown_trigger=stop.wait,
        )  # fmt: skip
        await nursery.start(serve)
        yield listener.getsockname()[1]
        stop.set()


async def exchange(port: int, fields: dict[str, Any]) -> tuple[int, list[tuple[str, str]], bytes]:
    async with RawClient("127.0.0.1", port) as client:
        await client.post("/v1/chat/completions", json=fields, headers=[("x-request-id", "the-same")])
        head = await client.read_head()
        body = b"".join([chunk.data for chunk in await client.read_body()])
    headers = sorted((name, value) for name, value in head.headers if name not in ("date", "connection"))
    return head.status, headers, body


@pytest.mark.parametrize("name", SCRIPTS)
async def test_both_ways_of_serving_give_the_same_bytes(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    stream, script = SCRIPTS[name]
    fields = {"model": "scripted", "stream": stream, "messages": [{"role": "user", "content": "Hi"}]}
    if stream:
        fields["stream_options"] = {"include_usage": True}
    seen = []
    for connection in (TCPServer, GuardedServer):
        gateway = Gateway(scripted_settings(), transports={"scripted": ScriptedTransport(lambda request: script)})
        with trio.fail_after(20):
            async with serving(gateway, connection, monkeypatch) as port:
                seen.append(await exchange(port, fields))
    assert seen[0] == seen[1]
    assert seen[0][2]
