"""The Trio half of credentials that expire: it carries out the steps that an `Authority` says, one exchange for all who wait.

A wait for a credential is cancelled with the exchange that waits; the next one begins again. Who waited while a fetch failed has
the same answer, and asks no second time: a service that is down is not asked once for each of a thousand.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary

import trio

from trio_ai_proxy.errors import UpstreamError, UpstreamRefused
from trio_ai_proxy.providers.base import FileStep

if TYPE_CHECKING:
    from trio_ai_proxy.providers.base import Authority, UpstreamRequest
    from trio_ai_proxy.upstream.client import UpstreamClient

MAX_CREDENTIAL_BYTES = 256 * 1024
MAX_STEPS = 8


class _Door:
    """One fetch at a time. `failures` counts those that failed, of which the last one said `said`."""

    __slots__ = ("failures", "lock", "said")

    def __init__(self) -> None:
        self.lock = trio.Lock()
        self.failures = 0
        self.said = ""


_doors: WeakKeyDictionary[Authority, _Door] = WeakKeyDictionary()


async def authorise(
    authority: Authority, request: UpstreamRequest, client: UpstreamClient, *, connect: float
) -> UpstreamRequest:
    """`request`, signed with a credential that is good now, fetched first if there is none.

    Raises `UpstreamError` if none can be had. There is no deadline of its own but `connect`: the caller's holds.
    """
    if authority.step(time.time()) is not None:
        door = _doors.setdefault(authority, _Door())
        failures = door.failures
        async with door.lock:
            if door.failures != failures and authority.step(time.time()) is not None:
                raise UpstreamRefused(door.said)
            try:
                await _fetch(authority, client, connect)
            except UpstreamError as error:
                door.failures += 1
                door.said = error.message
                raise
    return authority.sign(request, time.time())


async def _fetch(authority: Authority, client: UpstreamClient, connect: float) -> None:
    for taken in range(MAX_STEPS + 1):
        step = authority.step(time.time())
        if step is None:
            return
        if taken == MAX_STEPS:
            break
        if isinstance(step, FileStep):
            found = await _read_file(step, client)
            authority.accept(404 if found is None else 200, {}, found or b"", time.time())
            continue
        try:
            response = await client.open(step, connect=connect)
            try:
                body = await response.read_all(MAX_CREDENTIAL_BYTES)
            finally:
                await response.aclose()
        except UpstreamError as error:
            # The one that failed is not the provider, which has not been asked yet.
            message = f"The credential of provider '{client.name}' could not be fetched: {error.message}"
            try:
                authority.accept(0, {}, b"", time.time())  # what it has may do for a while yet
            except UpstreamError:
                raise UpstreamRefused(message) from error
            continue
        authority.accept(response.status, response.headers, body, time.time())
    raise UpstreamRefused(f"The credential of provider '{client.name}' could not be had in {MAX_STEPS} steps.")


async def _read_file(step: FileStep, client: UpstreamClient) -> bytes | None:
    try:
        return await trio.Path(step.path).read_bytes()
    except FileNotFoundError as error:
        if step.optional:
            return None
        raise _unreadable(client) from error
    except OSError as error:
        raise _unreadable(client) from error


def _unreadable(client: UpstreamClient) -> UpstreamRefused:
    return UpstreamRefused(f"The credential file of provider '{client.name}' cannot be read.")
