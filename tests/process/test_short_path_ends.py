"""How a stream ends on the short path: by cuts, deadlines, interruptions and bugs, as it would on the long one."""

from __future__ import annotations

import json
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, Literal

import pytest
import trio
from support.raw_server import CHUNKED, END, Peer, chunk, raw_server
from support.short_path import DONE, FINISH, KEEP_ALIVE, ROLE, ask, frame, frames, playing, read_some, serving

from trio_ai_proxy.accounting.outcome import Cause
from trio_ai_proxy.errors import Interrupted
from trio_ai_proxy.relay.passthrough import PassThrough
from trio_ai_proxy.settings import Timeouts
from trio_ai_proxy.testing import RawClient
from trio_ai_proxy.testing.raw import BodyCut
from trio_ai_proxy.upstream.client import UpstreamResponse

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from trio_ai_proxy.gateway import Gateway
    from trio_ai_proxy.relay.path import Batch


CUTS: dict[str, tuple[bytes, Literal["fin", "rst"]]] = {
    "between two chunks": (b"", "fin"),
    "between two chunks, by reset": (b"", "rst"),
    "in a chunk": (b"400\r\ndata: ", "fin"),
    "in a chunk's head": (b"4", "fin"),
    "in a chunk's end": (b"6\r\n: ping\r", "fin"),
    "in a frame": (chunk(b'data: {"id'), "fin"),
}


@pytest.mark.parametrize("cut", CUTS)
async def test_a_cut_is_told_and_never_looks_like_an_end(cut: str, tmp_path: Path, passed: list[bytes]) -> None:
    said = [ROLE, *(frame(" word") for _ in range(20))]
    end, ending = CUTS[cut]
    async with (
        raw_server(playing(map(chunk, said), end=end, ending=ending)) as server,
        serving(server.origin, tmp_path) as served,
    ):
        body = await served.ask()
    assert body.startswith(b"".join(said))
    assert b'"error"' in body[len(b"".join(said)) :]
    assert b"[DONE]" not in body
    assert len(passed) >= 15
    assert [record.outcome for record in served.records] == ["upstream_truncated"]


async def test_a_wrong_chunk_size_is_told(tmp_path: Path, passed: list[bytes]) -> None:
    said = [ROLE, *(frame(" word") for _ in range(20))]
    async with (
        raw_server(playing(map(chunk, said), end=chunk(frame(" last")) + b"zz\r\n")) as server,
        serving(server.origin, tmp_path) as served,
    ):
        body = await served.ask()
    assert body.startswith(b"".join(said) + frame(" last") + b'data: {"error"')
    assert len(passed) >= 15
    assert [record.outcome for record in served.records] == ["upstream_error"]


async def test_an_end_without_a_length_is_an_end(tmp_path: Path, passed: list[bytes]) -> None:
    said = frames()

    async def handler(peer: Peer) -> None:
        await peer.request()
        await peer.send(b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n\r\n")
        for one in said[:-1]:  # its finish reason and a clean end
            await peer.send(one)
            await trio.sleep(0.002)

    async with raw_server(handler) as server, serving(server.origin, tmp_path) as served:
        assert await served.ask() == b"".join(said)
    assert len(passed) >= 30


async def test_silence_after_lone_chunks_ends_at_the_idle_deadline_and_a_comment_is_a_sign_of_life(
    tmp_path: Path, passed: list[bytes]
) -> None:
    last_at = 0.0

    async def handler(peer: Peer) -> None:
        nonlocal last_at
        await peer.request()
        await peer.send(CHUNKED + chunk(ROLE))
        for _ in range(10):
            await peer.send(chunk(frame(" word")))
            await trio.sleep(0.005)
        for _ in range(4):
            await trio.sleep(0.3)
            await peer.send(chunk(b": still here\n"))
            last_at = trio.current_time()
        await peer.until_left()

    async with (
        raw_server(handler) as server,
        serving(server.origin, tmp_path, timeouts=Timeouts(idle=0.5)) as served,
    ):
        body = await served.ask()
        over_at = trio.current_time()
    assert b'"error"' in body
    assert 0.45 <= over_at - last_at < 0.75
    assert len(passed) >= 5
    assert [record.outcome for record in served.records] == ["timeout_idle"]


async def test_bytes_that_complete_nothing_are_no_sign_of_life(tmp_path: Path, passed: list[bytes]) -> None:
    last_at = 0.0

    async def handler(peer: Peer) -> None:
        nonlocal last_at
        await peer.request()
        await peer.send(CHUNKED + chunk(ROLE))
        for _ in range(10):
            await peer.send(chunk(frame(" word")))
            last_at = trio.current_time()
            await trio.sleep(0.005)
        for byte in b"data: " + b"x" * 100:
            await peer.send(chunk(b"%c" % byte))
            await trio.sleep(0.05)

    async with (
        raw_server(handler) as server,
        serving(server.origin, tmp_path, timeouts=Timeouts(idle=0.6)) as served,
    ):
        await served.ask()
        over_at = trio.current_time()
    assert 0.55 <= over_at - last_at < 0.9
    assert len(passed) >= 5
    assert [record.outcome for record in served.records] == ["timeout_idle"]


async def test_entering_the_short_path_starts_no_new_patience(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Half a frame is a lone chunk, and two of them open the path; the deadline stays that of the last whole one."""
    last_at = 0.0
    watched: list[float] = []
    watch = UpstreamResponse.watch

    async def noted(response: UpstreamResponse, take: Callable[[bytes], bool]) -> None:
        watched.append(trio.current_time())
        await watch(response, take)

    async def handler(peer: Peer) -> None:
        nonlocal last_at
        await peer.request()
        await peer.send(CHUNKED + chunk(ROLE + frame(" word" * 2000)))  # too long to be a lone one
        last_at = trio.current_time()
        for byte in b"data: xxxx":
            await trio.sleep(0.15)
            await peer.send(chunk(b"%c" % byte))

    monkeypatch.setattr(UpstreamResponse, "watch", noted)
    async with (
        raw_server(handler) as server,
        serving(server.origin, tmp_path, timeouts=Timeouts(idle=0.6)) as served,
    ):
        await served.ask()
        over_at = trio.current_time()
    assert watched
    assert watched[0] - last_at > 0.25
    assert 0.55 <= over_at - last_at < 0.75


async def test_the_total_deadline_holds(tmp_path: Path, passed: list[bytes]) -> None:
    async with (
        raw_server(playing([chunk(ROLE), *[chunk(frame(" word"))] * 1000])) as server,
        serving(server.origin, tmp_path, timeouts=Timeouts(total=0.5)) as served,
    ):
        began = trio.current_time()
        body = await served.ask()
        assert 0.45 < trio.current_time() - began < 1.0
    assert b'"error"' in body
    assert len(passed) >= 20
    assert [record.outcome for record in served.records] == ["timeout_total"]


@pytest.mark.parametrize("how", ["operator", "shutdown"])
async def test_an_interruption_is_told_in_band_after_whole_frames(
    how: str, tmp_path: Path, passed: list[bytes]
) -> None:
    async with (
        raw_server(playing([chunk(ROLE), *[chunk(frame(" word"))] * 1000])) as server,
        serving(server.origin, tmp_path) as served,
        RawClient("127.0.0.1", served.port) as client,
    ):
        await ask(client)
        await client.read_head()
        body = [(await read_some(client)).data for _ in range(20)]
        cause = Cause.CANCELLED if how == "operator" else Cause.SHUTDOWN
        for exchange in list(served.gateway.live.exchanges.values()):
            exchange.interrupt(cause, Interrupted("Stopped."))
        body += [piece.data for piece in await client.read_body()]
    text = b"".join(body)
    assert text.count(b"Stopped.") == 1
    assert all(one.startswith((b"data: {", b"")) for one in text.split(b"\n\n"))
    assert all(json.loads(one.removeprefix(b"data: ")) for one in text.split(b"\n\n") if one)
    assert len(passed) >= 10
    assert [record.outcome for record in served.records] == [cause.value]


async def test_when_nobody_watches_any_more_the_long_way_goes_on(tmp_path: Path, passed: list[bytes]) -> None:
    said = frames(100)
    watching = trio.CancelScope()

    def stoppable(gateway: Gateway) -> Gateway:
        run = gateway._readiness.run

        async def run_until_stopped() -> None:
            with watching:
                await run()

        gateway._readiness.run = run_until_stopped  # type: ignore[method-assign]  # only to have a scope around it
        return gateway

    async with (
        raw_server(playing(map(chunk, said), 0.005)) as server,
        serving(server.origin, tmp_path, around=stoppable) as served,
        RawClient("127.0.0.1", served.port) as client,
    ):
        await ask(client)
        await client.read_head()
        body = [(await read_some(client)).data for _ in range(20)]
        while served.gateway._readiness.watched == 0:  # it has no event for it
            await trio.sleep(0.001)
        watching.cancel()
        body += [piece.data for piece in await client.read_body()]
        assert not served.gateway._readiness.is_running
    assert b"".join(body) == b"".join(said)
    assert 10 <= len(passed) < 60


class TestKeepAlive:
    async def test_there_is_no_silence_while_tokens_come(self, tmp_path: Path, passed: list[bytes]) -> None:
        said = frames(40)
        async with (
            raw_server(playing(map(chunk, said), 0.02)) as server,
            serving(server.origin, tmp_path, keep_alive=0.3) as served,
        ):
            assert await served.ask() == b"".join(said)
        assert len(passed) >= 30

    async def test_a_comment_comes_in_a_silence_and_between_whole_frames(
        self, tmp_path: Path, passed: list[bytes]
    ) -> None:
        said = frames(20)

        async def handler(peer: Peer) -> None:
            await peer.request()
            await peer.send(CHUNKED)
            for number, one in enumerate(said):
                await peer.send(chunk(one))
                await trio.sleep(0.7 if number == 15 else 0.01)
            await peer.send(END)

        async with (
            raw_server(handler) as server,
            serving(server.origin, tmp_path, keep_alive=0.3) as served,
        ):
            body = await served.ask()
        comments = KEEP_ALIVE.findall(body)
        assert len(comments) == 2
        assert KEEP_ALIVE.sub(b"", body) == b"".join(said)
        assert body.index(comments[0]) == sum(map(len, said[:16]))
        assert len(passed) >= 10


class Panic(BaseException):
    """What a native library raises when it panics."""


@pytest.mark.parametrize("kind", [RuntimeError, Panic])
async def test_a_bug_in_a_decoder_ends_its_own_exchange_and_no_other(
    kind: type[BaseException], tmp_path: Path, passed: list[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    feed = PassThrough.feed
    in_short_path: list[str] = []

    def buggy(path: PassThrough, data: bytes) -> Batch:
        if b"BOOM" in data:
            in_short_path.append(trio.lowlevel.current_task().name)
            raise kind("no such luck")
        return feed(path, data)

    monkeypatch.setattr(PassThrough, "feed", buggy)
    good = frames(60)
    bad = [ROLE, *(frame(" word") for _ in range(15)), frame("BOOM"), frame(" more"), FINISH, DONE]

    async def handler(peer: Peer) -> None:
        while request := await peer.request():
            await peer.send(CHUNKED)
            for one in bad if b"unlucky" in request else good:
                await peer.send(chunk(one))
                await trio.sleep(0.003)
            await peer.send(END)

    bodies: list[bytes] = []
    async with (
        raw_server(handler) as server,
        serving(server.origin, tmp_path) as served,
        AsyncExitStack() as stack,
    ):
        nursery = await stack.enter_async_context(trio.open_nursery())

        async def whole() -> None:
            bodies.append(await served.ask())

        nursery.start_soon(whole)
        nursery.start_soon(whole)
        async with RawClient("127.0.0.1", served.port) as client:
            await ask(client, user="unlucky")
            await client.read_head()
            if kind is RuntimeError:
                body = b"".join(piece.data for piece in await client.read_body())
                assert body.startswith(b"".join(bad[:16]) + b'data: {"error"')
                assert b"[DONE]" not in body
            else:
                with pytest.raises((trio.BrokenResourceError, BodyCut)):
                    await client.read_body()
        await stack.aclose()
        assert served.gateway._readiness.is_running
        assert await served.ask() == b"".join(good)
    assert bodies == [b"".join(good)] * 2
    assert ["Readiness.run" in name for name in in_short_path] == [True]
    outcomes = [record.outcome for record in served.records]
    assert outcomes.count("completed") == 3
    assert len(outcomes) == 4
    if kind is RuntimeError:
        assert outcomes.count("bug") == 1
    assert any(b"no such luck" in line for line in served.lines)
