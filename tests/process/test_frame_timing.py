"""Frames keep their time: what comes a frame at a time goes out a frame at a time, through the real command.

The fault that these tests look for is the 40 ms step: with Nagle's algorithm on, a small write waits for the
acknowledgement of the one before it, which a client that only reads delays by 40 ms (RFC 896, RFC 1122 4.2.3.2).
"""

from __future__ import annotations

import ctypes
import errno
import itertools
import os
import socket
from statistics import median
from typing import TYPE_CHECKING

import pytest
import trio
from support.command import Command, openai_provider

from trio_ai_proxy.testing import RawClient, ScriptedServer, openai_stream

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.process

PAUSE = 0.015
FRAMES = 60
PATH = "/v1/chat/completions"
ASK = {"model": "scripted", "stream": True, "messages": [{"role": "user", "content": "Tell me about the river."}]}
TOKENS = "[tokens]\nload_timeout = 0.1\n"
SERVED_BY = pytest.mark.parametrize("hypercorn", [False, True], ids=["serve", "hypercorn"])
_PIDFD_GETFD = 438  # the same number on every architecture of Linux


@SERVED_BY
async def test_gaps_between_small_frames_stay_as_they_came_and_each_frame_goes_out_alone(hypercorn: bool) -> None:
    pulled: list[float] = []

    def pieces() -> Iterator[str]:
        for number in range(FRAMES):
            pulled.append(trio.current_time())  # the frame before this one has just been sent
            yield f"<{number}>"
        pulled.append(trio.current_time())

    with trio.fail_after(60):
        async with (
            ScriptedServer(lambda _: openai_stream(pieces(), pause=PAUSE)) as server,
            Command(TOKENS + openai_provider(f"{server.url}/v1"), hypercorn=hypercorn) as gateway,
            RawClient("127.0.0.1", gateway.port) as client,
        ):
            await client.post(PATH, json=ASK)
            assert (await client.read_head()).status == 200
            chunks = []
            _acknowledge_late(client)
            while (chunk := await client.read_chunk()) is not None:
                chunks.append(chunk)
                _acknowledge_late(client)

    frames = [chunk for chunk in chunks if b'"<' in chunk.data]
    together = [chunk.data for chunk in frames if chunk.data.count(b'"<') > 1]
    assert b"".join(chunk.data for chunk in frames).count(b'"<') == FRAMES
    # The machine may stop us for longer than a gap now and then, and then two frames are there at once.
    assert len(together) <= FRAMES // 10, together
    assert len(frames) >= FRAMES * 9 // 10
    gaps_in = [later - earlier for earlier, later in itertools.pairwise(pulled[1:])]
    gaps_out = [later.at - earlier.at for earlier, later in itertools.pairwise(frames)]
    assert abs(median(gaps_out) - median(gaps_in)) < 0.004
    assert sum(gap < max(0.035, 2 * median(gaps_in)) for gap in gaps_out) >= 0.9 * len(gaps_out), gaps_out


@SERVED_BY
async def test_nagles_algorithm_is_off_on_both_sides_of_an_exchange(hypercorn: bool) -> None:
    with trio.fail_after(60):
        async with (
            ScriptedServer(lambda _: openai_stream(["one", "two"], ends=False, ending="stall")) as server,
            Command(TOKENS + openai_provider(f"{server.url}/v1"), hypercorn=hypercorn) as gateway,
            RawClient("127.0.0.1", gateway.port) as client,
        ):
            await client.post(PATH, json=ASK)
            await client.read_head()
            await client.read_chunk()
            sides = _sides(gateway.worker_pid, serves=gateway.port, asks=server.port)
    assert sides == {"client": {True}, "upstream": {True}}


def _acknowledge_late(client: RawClient) -> None:
    """Let the kernel hold acknowledgements back, as it does for a client that is far away: on loopback it sends each at
    once, and Nagle's algorithm would go unseen. The option does not last, so it is set for each read (tcp(7))."""
    client._stream.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_QUICKACK, 0)


def _sides(pid: int, *, serves: int, asks: int) -> dict[str, set[bool]]:
    """Whether TCP_NODELAY is set on the connections that process `pid` has accepted on one port and opened to another."""
    found: dict[str, set[bool]] = {}
    process = os.pidfd_open(pid)
    try:
        for name in os.listdir(f"/proc/{pid}/fd"):
            if not os.readlink(f"/proc/{pid}/fd/{name}").startswith("socket:"):
                continue
            with socket.socket(fileno=_copy_of(process, int(name))) as copy:
                if copy.family != socket.AF_INET or copy.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
                    continue
                ours, theirs = copy.getsockname()[1], copy.getpeername()[1]
                is_on = bool(copy.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY))
            if ours == serves:
                found.setdefault("client", set()).add(is_on)
            elif theirs == asks:
                found.setdefault("upstream", set()).add(is_on)
    finally:
        os.close(process)
    return found


def _copy_of(process: int, fd: int) -> int:
    """The same open file in this process (pidfd_getfd(2)): the one way to ask the real socket for its options."""
    copy = ctypes.CDLL(None, use_errno=True).syscall(_PIDFD_GETFD, process, fd, 0)
    if copy < 0:
        number = ctypes.get_errno()
        if number in (errno.EPERM, errno.ENOSYS):
            pytest.skip(f"sockets of another process cannot be looked at here: {os.strerror(number)}")
        raise OSError(number, os.strerror(number))
    return int(copy)
