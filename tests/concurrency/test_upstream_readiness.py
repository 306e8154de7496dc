"""Watching many sockets with one task: whoever watches is a task like any other, and nothing of it stays behind."""

from __future__ import annotations

import errno
import select
import socket
from contextlib import asynccontextmanager, contextmanager
from typing import TYPE_CHECKING

import httpx
import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from trio_ai_proxy.upstream.connection import Connection, Origin
from trio_ai_proxy.upstream.readiness import Readiness

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator

pytestmark = pytest.mark.skipif(not hasattr(select, "epoll"), reason="there is no epoll on this system")

ORIGIN = Origin("http", "provider.invalid", 80)


class Panic(BaseException):
    """What a native library raises when it panics."""


@asynccontextmanager
async def running() -> AsyncIterator[Readiness]:
    """A readiness that runs, and that nobody watches with when the block is left."""
    readiness = Readiness()
    with trio.fail_after(10):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(readiness.run)
            await wait_all_tasks_blocked()
            yield readiness
            assert readiness.watched == 0
            nursery.cancel_scope.cancel()


@contextmanager
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.setblocking(False)
        theirs.setblocking(False)
        yield ours, theirs


def collect(ours: socket.socket, into: list[bytes], until: int = 1_000_000) -> Callable[[], bool]:
    """Receive, and go on until so many pieces have come."""

    def on_readable() -> bool:
        into.append(ours.recv(65536))
        return len(into) < until

    return on_readable


async def test_what_comes_is_handed_on_until_the_callback_has_enough() -> None:
    async with running() as readiness:
        with pair() as (ours, theirs):
            got: list[bytes] = []
            async with trio.open_nursery() as nursery:
                nursery.start_soon(readiness.watch, ours, collect(ours, got, 3))
                for piece in (b"one", b"two", b"three"):
                    await wait_all_tasks_blocked(0.001)
                    theirs.send(piece)
            assert got == [b"one", b"two", b"three"]
            theirs.send(b"not asked for")
            await wait_all_tasks_blocked(0.001)
            assert len(got) == 3


async def test_bytes_that_were_there_before_are_seen() -> None:
    async with running() as readiness:
        with pair() as (ours, theirs):
            theirs.send(b"early")
            got: list[bytes] = []
            await readiness.watch(ours, collect(ours, got, 1))
            assert got == [b"early"]


async def test_a_cancelled_watcher_stops_in_the_same_instant_and_takes_no_byte() -> None:
    async with running() as readiness:
        with pair() as (ours, theirs):
            got: list[bytes] = []
            async with trio.open_nursery() as nursery:
                nursery.start_soon(readiness.watch, ours, collect(ours, got))
                await wait_all_tasks_blocked()
                assert readiness.watched == 1
                theirs.send(b"late")
                nursery.cancel_scope.cancel()
                assert readiness.watched == 0
            assert got == []
            assert ours.recv(10) == b"late"


async def test_who_is_cancelled_before_waiting_does_not_watch() -> None:
    async with running() as readiness:
        with pair() as (ours, _), trio.CancelScope() as scope:
            scope.cancel()
            await readiness.watch(ours, lambda: True)
        assert scope.cancelled_caught


@pytest.mark.parametrize("goes_on", [True, False])
async def test_a_callback_may_have_its_own_task_cancelled(goes_on: bool) -> None:
    """As it happens when a write to the client finds that the client has gone."""
    async with running() as readiness:
        with pair() as (ours, theirs), pair() as (other, others):
            got: list[bytes] = []
            async with trio.open_nursery() as nursery:
                nursery.start_soon(readiness.watch, other, collect(other, got, 1))
                with trio.CancelScope() as scope:

                    def leave() -> bool:
                        ours.recv(100)
                        scope.cancel()
                        return goes_on

                    theirs.send(b"x")
                    await readiness.watch(ours, leave)
                assert scope.cancelled_caught
                others.send(b"still served")
            assert got == [b"still served"]


async def test_a_callback_may_have_the_task_of_another_cancelled() -> None:
    async with running() as readiness:
        with pair() as (ours, theirs), pair() as (other, others):
            calls: list[str] = []
            scopes = {"one": trio.CancelScope(), "two": trio.CancelScope()}

            def end_both(name: str) -> Callable[[], bool]:
                def on_readable() -> bool:
                    calls.append(name)
                    for scope in scopes.values():
                        scope.cancel()
                    return False

                return on_readable

            async def watch(name: str, end: socket.socket) -> None:
                with scopes[name]:
                    await readiness.watch(end, end_both(name))

            async with trio.open_nursery() as nursery:
                nursery.start_soon(watch, "one", ours)
                nursery.start_soon(watch, "two", other)
                await wait_all_tasks_blocked()
                theirs.send(b"x")
                others.send(b"x")
            assert len(calls) == 1


@pytest.mark.parametrize("kind", [ValueError, Panic])
async def test_what_a_callback_raises_is_raised_in_its_own_task_and_nobody_else_notices(
    kind: type[BaseException],
) -> None:
    async with running() as readiness:
        with pair() as (ours, theirs), pair() as (other, others):
            got: list[bytes] = []

            def fail() -> bool:
                raise kind("a bug")

            async with trio.open_nursery() as nursery:
                nursery.start_soon(readiness.watch, other, collect(other, got, 2))
                theirs.send(b"x")
                others.send(b"one")
                with pytest.raises(kind, match="a bug"):
                    await readiness.watch(ours, fail)
                assert readiness.is_running
                await wait_all_tasks_blocked(0.001)
                others.send(b"two")
            assert b"".join(got) == b"onetwo"


async def test_a_bug_is_not_lost_where_the_same_call_had_its_task_cancelled() -> None:
    async with running() as readiness:
        with pair() as (ours, theirs), trio.CancelScope() as scope:

            def fail() -> bool:
                scope.cancel()
                raise ValueError("a bug")

            theirs.send(b"x")
            with pytest.raises(ValueError, match="a bug"):
                await readiness.watch(ours, fail)


async def test_one_that_floods_gets_one_call_a_turn() -> None:
    async with running() as readiness:
        with pair() as (ours, theirs), pair() as (other, others):
            theirs.send(b"x" * 1000)
            turns: list[str] = []

            def flood() -> bool:
                turns.append("flood")
                return bool(ours.recv(1)) and len(turns) < 200

            def calm() -> bool:
                other.recv(1)
                turns.append("calm")
                others.send(b"y")  # as if it had come meanwhile
                return len(turns) < 200

            others.send(b"y")
            async with trio.open_nursery() as nursery:
                nursery.start_soon(readiness.watch, ours, flood)
                nursery.start_soon(readiness.watch, other, calm)
                for _ in range(50):
                    await trio.lowlevel.checkpoint()  # and everybody else runs between two turns
                assert 0 < len(turns) < 150
            assert abs(turns.count("flood") - turns.count("calm")) <= 2


async def test_a_socket_has_one_watcher() -> None:
    async with running() as readiness:
        with pair() as (ours, theirs):
            got: list[bytes] = []
            async with trio.open_nursery() as nursery:
                nursery.start_soon(readiness.watch, ours, collect(ours, got, 1))
                await wait_all_tasks_blocked()
                with pytest.raises(trio.BusyResourceError):
                    await readiness.watch(ours, lambda: True)
                theirs.send(b"for the first")
            assert got == [b"for the first"]


async def test_who_watches_when_it_ends_returns() -> None:
    readiness = Readiness()
    with trio.fail_after(10), pair() as (ours, _), pair() as (other, _):
        async with trio.open_nursery() as nursery:
            server = trio.CancelScope()

            async def run() -> None:
                with server:
                    await readiness.run()

            nursery.start_soon(run)
            await wait_all_tasks_blocked()
            nursery.start_soon(readiness.watch, ours, lambda: True)
            nursery.start_soon(readiness.watch, other, lambda: True)
            await wait_all_tasks_blocked()
            server.cancel()
        assert (readiness.is_running, readiness.watched) == (False, 0)
        await readiness.watch(ours, lambda: True)  # and who comes too late


async def test_a_socket_that_the_system_will_not_watch_is_nobodys_bug(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Full:
        """An epoll set for which there is no room (fs.epoll.max_user_watches)."""

        def register(self, number: int, events: int) -> None:
            raise OSError(errno.ENOSPC, "No space left on device")

    async with running() as readiness:
        with pair() as (ours, _):
            with monkeypatch.context() as patch:
                patch.setattr(readiness, "_epoll", Full())
                await readiness.watch(ours, lambda: True)
            assert readiness.watched == 0


async def test_a_closed_socket_leaves_no_watcher_to_whoever_gets_its_number() -> None:
    async with running() as readiness:
        with pair() as (ours, _):
            connection = Connection(ORIGIN, ours)
            got: list[bytes] = []

            def take(data: bytes) -> bool:
                got.append(data)
                return True

            number = ours.fileno()
            async with trio.open_nursery() as nursery:
                nursery.start_soon(connection.watch, readiness, take)
                await wait_all_tasks_blocked()
                connection.close_now()
                assert readiness.watched == 0
                with pair() as (next_one, next_other):
                    assert number in (next_one.fileno(), next_other.fileno())
                    next_other.send(b"not for the first")
                    next_one.send(b"not for the first")
                    await wait_all_tasks_blocked(0.001)
            assert got == []


async def test_a_number_that_was_closed_behind_its_watcher_can_be_watched_again() -> None:
    """Nobody does so; if somebody did, neither trio nor the others should suffer."""
    async with running() as readiness:
        with pair() as (ours, _):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(readiness.watch, ours, lambda: True)
                await wait_all_tasks_blocked()
                ours.close()
                nursery.cancel_scope.cancel()
        assert readiness.watched == 0
        with pair() as (ours, theirs):
            theirs.send(b"x")
            await readiness.watch(ours, collect(ours, [], 1))


class TestConnection:
    async def test_bytes_go_to_take_and_the_end_is_left_for_receive(self) -> None:
        async with running() as readiness:
            with pair() as (ours, theirs):
                connection = Connection(ORIGIN, ours)
                got: list[bytes] = []
                theirs.send(b"all")
                theirs.close()

                def take(data: bytes) -> bool:
                    got.append(data)
                    return True

                await connection.watch(readiness, take)
                assert got == [b"all"]
                assert await connection.receive() == b""

    async def test_what_take_does_not_want_more_of_is_left_for_receive(self) -> None:
        async with running() as readiness:
            with pair() as (ours, theirs):
                connection = Connection(ORIGIN, ours)
                theirs.send(b"one")
                await connection.watch(readiness, lambda data: data != b"one")
                theirs.send(b"two")
                assert await connection.receive() == b"two"

    async def test_a_loss_is_told_by_receive_and_not_forgotten(self) -> None:
        async with running() as readiness:
            listener = socket.create_server(("127.0.0.1", 0))
            with listener, socket.create_connection(listener.getsockname()) as ours:
                theirs, _ = listener.accept()
                ours.setblocking(False)
                connection = Connection(ORIGIN, ours)
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(connection.watch, readiness, lambda _: True)
                    await wait_all_tasks_blocked()
                    theirs.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
                    theirs.close()
                await connection.watch(readiness, lambda _: True)  # at once: there is nothing to wait for
                with pytest.raises(httpx.ReadError, match="connection reset"):
                    await connection.receive()
