"""Look-ups use few threads of their own, share what they learn, and forget it soon."""

from __future__ import annotations

import socket
import threading
from typing import TYPE_CHECKING, Any

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from trio_ai_proxy.upstream.resolver import CACHE_SECONDS, MAX_NAMES, MAX_THREADS, CachingResolver, install_resolver

if TYPE_CHECKING:
    from trio.testing import MockClock

ANSWER: list[Any] = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("192.0.2.1", 80))]


class Names:
    """A name service that counts, and can be made to hang."""

    def __init__(self, error: OSError | None = None) -> None:
        self.asked: list[bytes] = []
        self.one_asked = threading.Event()
        self.many_asked = threading.Event()
        self.go_on = threading.Event()
        self.go_on.set()
        self.error = error

    def __call__(self, host: bytes, *rest: Any) -> Any:
        self.asked.append(host)
        self.one_asked.set()
        if len(self.asked) >= MAX_THREADS:
            self.many_asked.set()
        self.go_on.wait(10)
        if self.error is not None:
            raise self.error
        return ANSWER


async def test_an_answer_is_kept_for_a_while_and_no_longer(mock_clock: MockClock) -> None:
    names = Names()
    resolver = CachingResolver(names)
    for _ in range(3):
        assert await resolver.getaddrinfo(b"a", 80) == ANSWER
    assert names.asked == [b"a"]
    mock_clock.jump(CACHE_SECONDS)
    await resolver.getaddrinfo(b"a", 80)
    assert names.asked == [b"a", b"a"]


async def test_the_answer_that_is_kept_cannot_be_changed_by_who_gets_it() -> None:
    resolver = CachingResolver(Names())
    for _ in range(3):
        answer = await resolver.getaddrinfo(b"a", 80)
        assert answer == ANSWER
        answer.clear()


async def test_all_who_ask_for_one_name_share_one_look_up() -> None:
    names = Names()
    names.go_on.clear()
    resolver = CachingResolver(names)
    got: list[Any] = []

    async def ask() -> None:
        got.append(await resolver.getaddrinfo(b"a", 80))

    async with trio.open_nursery() as nursery:
        for _ in range(10):
            nursery.start_soon(ask)
        await wait_all_tasks_blocked()
        names.go_on.set()
    assert (names.asked, got) == ([b"a"], [ANSWER] * 10)


async def test_all_who_wait_share_a_failure_and_it_is_not_kept() -> None:
    names = Names(socket.gaierror(socket.EAI_NONAME, "unknown"))
    names.go_on.clear()
    resolver = CachingResolver(names)
    failures: list[OSError] = []

    async def ask() -> None:
        with pytest.raises(socket.gaierror) as caught:
            await resolver.getaddrinfo(b"a", 80)
        failures.append(caught.value)

    async with trio.open_nursery() as nursery:
        for _ in range(3):
            nursery.start_soon(ask)
        await wait_all_tasks_blocked()
        names.go_on.set()
    assert names.asked == [b"a"]
    assert len(set(map(id, failures))) == 3
    names.error = None
    assert await resolver.getaddrinfo(b"a", 80) == ANSWER


async def test_when_the_one_who_asked_leaves_another_asks() -> None:
    names = Names()
    names.go_on.clear()
    resolver = CachingResolver(names)
    leaver = trio.CancelScope()
    got: list[Any] = []

    async def ask_and_leave() -> None:
        with leaver:
            await resolver.getaddrinfo(b"a", 80)

    async def ask() -> None:
        got.append(await resolver.getaddrinfo(b"a", 80))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(ask_and_leave)
        # Not only has the thread been asked for: it runs, and whoever leaves now leaves it behind.
        await trio.to_thread.run_sync(names.one_asked.wait, 10)
        nursery.start_soon(ask)
        await wait_all_tasks_blocked()
        leaver.cancel()
        await wait_all_tasks_blocked()
        names.go_on.set()
    assert (names.asked, got) == ([b"a", b"a"], [ANSWER])


async def test_the_threads_are_few_and_our_own() -> None:
    names = Names()
    names.go_on.clear()
    resolver = CachingResolver(names)
    try:
        async with trio.open_nursery() as nursery:
            for number in range(MAX_THREADS + 5):
                nursery.start_soon(resolver.getaddrinfo, b"%d" % number, 80)
            await wait_all_tasks_blocked()
            assert await trio.to_thread.run_sync(names.many_asked.wait, 5)
            assert trio.to_thread.current_default_thread_limiter().borrowed_tokens == 0
            assert len(names.asked) == MAX_THREADS
            nursery.cancel_scope.cancel()
    finally:
        names.go_on.set()


async def test_the_names_that_are_kept_are_bounded() -> None:
    resolver = CachingResolver(Names())
    for number in range(MAX_NAMES + 10):
        await resolver.getaddrinfo(b"%d" % number, 80)
    assert len(resolver._known) == MAX_NAMES


async def test_it_is_installed_once_and_never_over_another() -> None:
    mine = CachingResolver(Names())
    trio.socket.set_custom_hostname_resolver(mine)
    install_resolver()
    assert await trio.socket.getaddrinfo("any.invalid", 80) == ANSWER
    assert trio.socket.set_custom_hostname_resolver(None) is mine


async def test_the_installed_one_resolves_for_trio() -> None:
    install_resolver()
    install_resolver()
    found = await trio.socket.getaddrinfo("localhost", 80, type=socket.SOCK_STREAM)
    assert {entry[4][0] for entry in found} <= {"127.0.0.1", "::1"}
    assert isinstance(trio.socket.set_custom_hostname_resolver(None), CachingResolver)
