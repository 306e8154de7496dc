"""Names become addresses in threads of our own: a name server that hangs must not take the threads that files, logs and
the tokenizer need (trio's default limiter serves them all).
"""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING, Any

import trio
from typing_extensions import override

if TYPE_CHECKING:
    from collections.abc import Callable

MAX_THREADS = 16
CACHE_SECONDS = 30.0  # getaddrinfo hides the record's own time to live; service meshes refresh about as often
MAX_NAMES = 256

AddressInfo = list[tuple[Any, Any, int, str, Any]]


class _Lookup:
    """One question under way, for all who ask it at the time."""

    __slots__ = ("answered", "error")

    def __init__(self) -> None:
        self.answered = trio.Event()
        self.error: OSError | None = None


class CachingResolver(trio.abc.HostnameResolver):
    """`getaddrinfo` with its own threads, one thread a name, and answers that are kept for a short while.

    Failures are not kept, but all who wait for one look-up share its failure.
    """

    def __init__(self, getaddrinfo: Callable[..., AddressInfo] = socket.getaddrinfo) -> None:
        self._getaddrinfo = getaddrinfo
        self._limiter = trio.CapacityLimiter(MAX_THREADS)
        self._known: dict[tuple[Any, ...], tuple[float, AddressInfo]] = {}
        self._asked: dict[tuple[Any, ...], _Lookup] = {}

    @override
    async def getaddrinfo(
        self,
        host: bytes | None,
        port: bytes | str | int | None,
        family: int = 0,
        type: int = 0,
        proto: int = 0,
        flags: int = 0,
    ) -> AddressInfo:
        question = (host, port, family, type, proto, flags)
        while True:
            until, answer = self._known.get(question, (0.0, []))
            if answer and trio.current_time() < until:
                await trio.lowlevel.checkpoint()
                return list(answer)  # trio sorts what it gets in place
            lookup = self._asked.get(question)
            if lookup is None:
                return list(await self._ask(question))
            await lookup.answered.wait()
            if lookup.error is not None:
                # A new exception each time: one that is raised in many tasks gathers all their tracebacks.
                raise lookup.error.__class__(*lookup.error.args) from lookup.error

    async def _ask(self, question: tuple[Any, ...]) -> AddressInfo:
        lookup = self._asked[question] = _Lookup()
        try:
            answer = await trio.to_thread.run_sync(
                self._getaddrinfo, *question, abandon_on_cancel=True, limiter=self._limiter
            )
        except OSError as error:
            lookup.error = error
            raise
        finally:
            # When the asker is cancelled the others find neither an answer nor an error, and one of them asks again.
            del self._asked[question]
            lookup.answered.set()
        while len(self._known) >= MAX_NAMES:
            del self._known[next(iter(self._known))]
        self._known[question] = (trio.current_time() + CACHE_SECONDS, answer)
        return answer

    @override
    async def getnameinfo(self, sockaddr: Any, flags: int) -> tuple[str, str]:
        return await trio.to_thread.run_sync(
            socket.getnameinfo, sockaddr, flags, abandon_on_cancel=True, limiter=self._limiter
        )


_is_installed: trio.lowlevel.RunVar[bool] = trio.lowlevel.RunVar("trio_ai_proxy_resolver", default=False)


def install_resolver() -> None:
    """Make this run's look-ups go through a `CachingResolver`, unless someone has set a resolver already. Safe to
    repeat.

    Trio itself answers numeric addresses before it asks any resolver.
    """
    if _is_installed.get():
        return
    _is_installed.set(True)
    previous = trio.socket.set_custom_hostname_resolver(CachingResolver())
    if previous is not None:
        trio.socket.set_custom_hostname_resolver(previous)
