"""The short path of a stream: while the client keeps up and the provider sends a token at a time, chunks pass from socket to
socket without a task being woken. Whatever is more than that is left to the ordinary path.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import trio

if TYPE_CHECKING:
    from collections.abc import Callable

    from trio_ai_proxy.relay.exchange import Exchange
    from trio_ai_proxy.relay.feed import Feed
    from trio_ai_proxy.relay.path import Batch, Path
    from trio_ai_proxy.upstream.client import UpstreamResponse

LONE_CHUNKS = 2  # so many in a row make it worth while
LONE_BYTES = 4096


async def watch(
    response: UpstreamResponse,
    path: Path,
    exchange: Exchange,
    feed: Feed,
    clock: trio.CancelScope,
    idle: float,
    observe: Callable[[Batch, float], None],
) -> Batch | None:
    """Relay `response` through `path` for as long as it is simple. Returns the batch that needs more than that, or None: then
    it is for the next read to see what there is.

    The idle deadline, which is `clock`'s, is not armed again for each chunk: when it passes, we look whether there was life
    since (`idle` seconds). `observe` gets what each chunk that has gone out came to, and the time.
    """
    for _ in range(2):  # the writer takes its last piece to the client; of two tasks either may come first
        await trio.lowlevel.checkpoint()
        if feed.writer_is_idle:
            break
    else:
        return None  # it is not done with it
    client, now = feed.client, trio.current_time
    silent_at = clock.deadline
    left: Batch | None = None

    def take(data: bytes) -> bool:
        nonlocal silent_at, left
        batch = path.feed(data)
        out = batch.out
        if batch.ended or batch.error is not None or exchange.ended or (out and not client.send_now(out)):
            left = batch
            return False
        seen_at = now()
        if out:
            feed.passed_at = seen_at
        if batch.events:
            observe(batch, seen_at)
        if batch.alive:
            silent_at = seen_at + idle
        return not client.backlog

    clock.deadline = math.inf
    while True:
        with trio.CancelScope(deadline=silent_at) as patience:
            await response.watch(take)
        if not patience.cancelled_caught or silent_at <= now():
            break
    clock.deadline = silent_at  # where it has passed, `read` gets what may have come in the last moment
    if left is None and client.backlog:
        await feed.send(b"")  # the writer waits for the client to take it
        clock.deadline = now() + idle
    return left
