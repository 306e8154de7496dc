"""The short path from a provider behind TLS: records are cut and joined as they like, and no end is overlooked."""

from __future__ import annotations

import ssl
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import pytest
import trio
from support.raw_server import CHUNKED, END, Peer, chunk, raw_server
from support.short_path import FINISH, ROLE, Served, cut_every, frame, frames, playing, serving
from typing_extensions import override

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable
    from pathlib import Path

    import trustme


class Cutting(trio.abc.Stream):
    """A stream whose bytes leave `size` at a time: TLS records arrive in parts, and many small ones at once where `size` is
    large and `pause` is not."""

    def __init__(self, stream: trio.abc.Stream) -> None:
        self._stream = stream
        self.size = 100_000

    @override
    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        for piece in cut_every(self.size, bytes(data)):
            await self._stream.send_all(piece)
            if self.size < 100_000:
                await trio.sleep(0.001)

    @override
    async def wait_send_all_might_not_block(self) -> None:
        await self._stream.wait_send_all_might_not_block()

    @override
    async def receive_some(self, max_bytes: int | None = None) -> bytes | bytearray:
        return await self._stream.receive_some(max_bytes)

    @override
    async def aclose(self) -> None:
        await self._stream.aclose()


class TestTLS:
    @asynccontextmanager
    async def behind(
        self,
        authority: trustme.CA,
        version: ssl.TLSVersion,
        tmp_path: Path,
        handler: Callable[[Peer], Awaitable[None]],
        *,
        size: int | None = None,
        **options: Any,
    ) -> AsyncIterator[Served]:
        """A gateway before `handler` behind TLS; `size` cuts its records."""
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        authority.issue_cert("127.0.0.1").configure_cert(context)
        context.maximum_version = version
        authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))

        async def cutting(peer: Peer) -> None:
            below = Cutting(peer._stream)
            stream = trio.SSLStream(below, context, server_side=True, https_compatible=True)
            await stream.do_handshake()
            if size is not None:
                below.size = size
            await handler(Peer(stream, peer._socket, peer.number))

        async with raw_server(cutting) as server:
            origin = server.origin.replace("http:", "https:")
            async with serving(origin, tmp_path, ca_file=str(tmp_path / "ca.pem"), **options) as served:
                yield served

    @pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
    @pytest.mark.parametrize("layout", ["a record a read", "three records a read", "records cut"])
    async def test_lone_frames_come_as_they_were_sent(
        self, authority: trustme.CA, version: ssl.TLSVersion, layout: str, tmp_path: Path, passed: list[bytes]
    ) -> None:
        said = frames()

        async def handler(peer: Peer) -> None:
            while await peer.request():
                await peer.send(CHUNKED)
                for number, one in enumerate(said):
                    await peer.send(chunk(one))
                    if layout != "three records a read" or number % 3 == 2:
                        await trio.sleep(0.003)
                await peer.send(END)

        size = 50 if layout == "records cut" else None
        async with self.behind(authority, version, tmp_path, handler, size=size) as served:
            for _ in range(2):
                assert await served.ask() == b"".join(said)
        assert len(passed) >= 18
        assert [record.outcome for record in served.records] == ["completed"] * 2

    @pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
    async def test_a_goodbye_in_mid_stream_is_seen_at_once_though_the_connection_stays_open(
        self, authority: trustme.CA, version: ssl.TLSVersion, tmp_path: Path, passed: list[bytes]
    ) -> None:
        said = [ROLE, *(frame(" word") for _ in range(20))]
        handler = playing(map(chunk, said), end=b"", ending="goodbye")
        async with self.behind(authority, version, tmp_path, handler) as served:
            with trio.fail_after(5):
                body = await served.ask()
        assert body.startswith(b"".join(said) + b'data: {"error"')
        assert len(passed) >= 15
        assert [record.outcome for record in served.records] == ["upstream_truncated"]

    async def test_a_damaged_record_is_a_loss_and_no_end(
        self, authority: trustme.CA, tmp_path: Path, passed: list[bytes]
    ) -> None:
        """Also where the body ends with the connection, and the frames before it would do for an answer."""
        said = [ROLE, *(frame(" word") for _ in range(20)), FINISH]

        async def handler(peer: Peer) -> None:
            await peer.request()
            await peer.send(b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n\r\n")
            for one in said:
                await peer.send(one)
                await trio.sleep(0.002)
            await peer._stream.transport_stream.send_all(b"\x17\x03\x03\x00\x20" + bytes(32))  # type: ignore[attr-defined]
            await peer.until_left()

        async with self.behind(authority, ssl.TLSVersion.TLSv1_3, tmp_path, handler) as served:
            body = await served.ask()
        assert body.startswith(b"".join(said) + b'data: {"error"')
        assert b"[DONE]" not in body
        assert len(passed) >= 15
