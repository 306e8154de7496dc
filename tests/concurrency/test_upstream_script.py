"""The scripted upstream plays to the second, and knows when it was let go."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING

import httpx
import pytest
import trio

from trio_ai_proxy.errors import TruncatedStream, UpstreamRefused
from trio_ai_proxy.providers.base import UpstreamRequest
from trio_ai_proxy.settings import ProviderSettings
from trio_ai_proxy.upstream.client import UpstreamClient
from trio_ai_proxy.upstream.script import Script, ScriptedTransport, Step
from trio_ai_proxy.upstream.transport import READ

if TYPE_CHECKING:
    from trio.testing import MockClock

REQUEST = UpstreamRequest("POST", "http://scripted.invalid/x", (), b'{"a":1}', stream=True)


def steps(*pairs: tuple[float, bytes]) -> Script:
    return Script(steps=lambda: (Step(*pair) for pair in pairs))


def client_of(transport: httpx.AsyncBaseTransport) -> UpstreamClient:
    return UpstreamClient(ProviderSettings("scripted", "demo"), transport)


async def test_each_chunk_comes_when_the_script_says(autojump_clock: MockClock) -> None:
    script = steps((1, b"a"), (2, b""), (3, b"b"))
    transport = ScriptedTransport(lambda request: script)
    began = trio.current_time()
    seen = []
    async with await client_of(transport).open(REQUEST, connect=1) as response:
        assert (response.status, response.headers) == (200, {"content-type": "text/event-stream"})
        assert transport.open_responses == 1
        for _ in range(3):
            chunk = await response.read()
            seen.append((trio.current_time() - began, chunk))
    assert seen == [(1, b"a"), (6, b"b"), (6, b"")]
    assert transport.open_responses == 0
    (exchange,) = transport.exchanges
    assert (exchange.opened_at, exchange.released_at, exchange.chunks_read) == (began, began + 6, 2)
    assert (exchange.request.content, str(exchange.request.url)) == (b'{"a":1}', REQUEST.url)


async def test_it_can_be_iterated_as_httpx_does(autojump_clock: MockClock) -> None:
    transport = ScriptedTransport(lambda request: steps((1, b"a"), (1, b"b")))
    async with httpx.AsyncClient(transport=transport, trust_env=False) as client:
        assert (await client.get("http://scripted.invalid/")).content == b"ab"
    assert transport.open_responses == 0


async def test_a_refusal_is_a_connect_error_after_its_pause(autojump_clock: MockClock) -> None:
    transport = ScriptedTransport(lambda request: Script(refuse=True, head_pause=2))
    with pytest.raises(UpstreamRefused):
        await client_of(transport).open(REQUEST, connect=1)
    (exchange,) = transport.exchanges
    assert exchange.released_at == exchange.opened_at + 2


async def test_a_cut_is_never_a_clean_end(autojump_clock: MockClock) -> None:
    script = Script(steps=lambda: iter([Step(1, b"a")]), ending="cut")
    async with await client_of(ScriptedTransport(lambda request: script)).open(REQUEST, connect=1) as response:
        assert await response.read() == b"a"
        with pytest.raises(TruncatedStream):
            await response.read()


async def test_a_stall_lasts_until_it_is_closed(autojump_clock: MockClock) -> None:
    transport = ScriptedTransport(lambda request: Script(steps=lambda: iter([Step(1, b"a")]), ending="stall"))
    began = trio.current_time()
    with trio.move_on_after(1000):
        async with await client_of(transport).open(REQUEST, connect=1) as response:
            while await response.read():
                pass
    assert transport.exchanges[0].released_at == began + 1000


async def test_it_is_released_when_it_is_cancelled_before_the_head(autojump_clock: MockClock) -> None:
    transport = ScriptedTransport(lambda request: Script(head_pause=100))
    began = trio.current_time()
    with trio.move_on_after(3):
        await client_of(transport).open(REQUEST, connect=1)
    assert (transport.open_responses, transport.exchanges[0].released_at) == (0, began + 3)


async def test_a_read_that_was_cancelled_can_be_repeated_and_loses_nothing(autojump_clock: MockClock) -> None:
    transport = ScriptedTransport(lambda request: steps((10, b"a"), (10, b"b")))
    began = trio.current_time()
    response = await transport.handle_async_request(httpx.Request("GET", "http://scripted.invalid/"))
    with trio.move_on_after(4):
        await response.extensions[READ]()
    assert await response.extensions[READ]() == b"a"
    assert trio.current_time() - began == 10
    await response.aclose()
    with pytest.raises(httpx.StreamClosed):
        await response.extensions[READ]()


async def test_an_endless_script_lets_others_run() -> None:
    endless = Script(steps=lambda: (Step(0.0, b"x") for _ in itertools.count()))
    async with await client_of(ScriptedTransport(lambda request: endless)).open(REQUEST, connect=1) as response:
        with trio.move_on_after(0.05) as scope:
            while await response.read():
                pass
        assert scope.cancelled_caught
