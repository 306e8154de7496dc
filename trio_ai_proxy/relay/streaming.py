"""A stream for a client that wants one: what comes is passed on as it comes, from the first token on, which opens the gate.

Where the model's `continuation` is "hold", the beginning is held back for a while: what goes wrong within it is made again, and
the client does not see it.
"""

from __future__ import annotations

import math
from functools import partial
from typing import TYPE_CHECKING

import trio

from trio_ai_proxy.chat.events import GENERATION
from trio_ai_proxy.errors import UpstreamError
from trio_ai_proxy.relay.feed import Last
from trio_ai_proxy.relay.passthrough import PassThrough
from trio_ai_proxy.relay.short_path import LONE_BYTES, LONE_CHUNKS, watch
from trio_ai_proxy.relay.translation import Translation
from trio_ai_proxy.upstream.attempt import media_type_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from trio_ai_proxy.relay.attempt import Attempt
    from trio_ai_proxy.relay.guarding import Screen
    from trio_ai_proxy.relay.path import Batch, Path
    from trio_ai_proxy.upstream.client import UpstreamResponse

MAX_HELD_BYTES = 1 * 2**20


class Streaming:
    """The stream of one attempt."""

    __slots__ = ("_attempt", "_held", "_held_until", "_release")

    def __init__(self, attempt: Attempt) -> None:
        self._attempt = attempt
        self._held: list[Batch] = []  # what the client is not given yet
        self._held_until: float | None = None  # when it is to get that
        self._release: trio.CancelScope | None = None  # what waits for that time where there are guards

    async def read(self, response: UpstreamResponse) -> None:
        """Returns when the answer is whole and has been handed over. Whoever calls this calls `hold_no_more` when it is over,
        however it ends. Raises `UpstreamError` and `Beaten`."""
        attempt = self._attempt
        path = _path(attempt, response)
        held_bytes = 0
        data = b""
        lone = 0  # how many chunks in a row came by themselves
        while True:
            batch: Batch | None = None
            if lone >= LONE_CHUNKS and _is_simple(attempt, response):
                data, out, going = b"", b"", []  # nothing of the past is kept while we wait
                idle = attempt.timeouts.idle
                batch = await watch(response, path, attempt.exchange, attempt.feed, attempt.clock, idle, attempt.passed)
            if batch is None:
                data = await attempt.read(response)
                batch = path.feed(data) if data else path.close()
                lone = lone + 1 if attempt.committed and 0 < len(data) <= LONE_BYTES else 0
            if batch.events:
                attempt.observe(batch.events, trio.current_time())
            attempt.malformed = path.malformed
            out = batch.out
            going = [batch]
            if not attempt.committed:
                self._held.append(batch)
                held_bytes += len(out) if attempt.screen is None else len(data)
                if not batch.ended and self._is_held(batch, held_bytes):
                    continue
                self._commit()  # also where it is whole, and without a single token
                out = b"".join(each.out for each in self._held)
                going, self._held = self._held, []
            attempt.feed.usage_sent = path.usage_sent
            if attempt.screen is not None:
                await _show(attempt, attempt.screen, going)
            elif out:
                await _send(attempt, Last(out) if batch.ended else out)
                for each in going:
                    attempt.hand_over(each)
            if batch.error is not None:
                raise batch.error
            if batch.ended:
                attempt.whole = True
                if attempt.screen is None:
                    attempt.exchange.whole = True
                    attempt.feed.close()  # the client need not wait for what follows
                await attempt.read_tail(response)
                return
            if batch.alive:
                attempt.clock.deadline = trio.current_time() + attempt.timeouts.idle

    def _is_held(self, batch: Batch, held_bytes: int) -> bool:
        """Whether what is held, whose last is `batch`, is not for the client yet: before the first token, which opens the gate,
        and after it while the model's `continuation` says so. Raises `Beaten`, and what ends the attempt."""
        attempt = self._attempt
        model, thread, now = attempt.plan.model, attempt.exchange.thread, trio.current_time()
        if not attempt.generating:
            if not any(isinstance(event, GENERATION) for event in batch.events):
                if batch.error is not None:
                    raise batch.error
                if held_bytes > MAX_HELD_BYTES:
                    raise UpstreamError("The provider sent a megabyte without a token.")
                return True
            if model.continuation != "hold" or (thread is not None and thread.started is not None):
                return False
            attempt.win()
            self._held_until = now + model.hold_for
            # A read must not be broken off, so it is somebody else that looks at the clock: the writer, or a task of the guards'.
            if attempt.screen is None:
                attempt.feed.hold(self._held_until, self._let_go)
            else:
                self._release = attempt.screen.later(self._held_until, partial(self._show_held, attempt.screen))
        attempt.meter.ttft = None  # the client has seen nothing
        if batch.error is not None:
            raise batch.error
        if held_bytes >= model.hold_bytes or (held_bytes and self._held_until is not None and now >= self._held_until):
            return False
        if batch.alive:
            attempt.clock.deadline = now + attempt.timeouts.idle
        return True

    def _commit(self) -> None:
        """From here on the client gets it. Raises `Beaten`."""
        attempt, was_held = self._attempt, self._held_until is not None
        self.hold_no_more()
        if was_held and attempt.meter.chunks:
            # The client waited for it until now.
            attempt.meter.ttft = trio.current_time() - attempt.exchange.accepted_at
        attempt.commit()

    def _let_go(self) -> bytes:
        """It has been held for long enough: what the client gets now. If that is nothing, it gets the first thing that comes."""
        out = b"".join(each.out for each in self._held)
        if out:
            self._commit()
            for each in self._held:
                self._attempt.hand_over(each)
            self._held = []
        return out

    async def _show_held(self, screen: Screen) -> None:
        """It has been held for long enough: now the guards get it."""
        if self._held and not self._attempt.committed:
            self._release = None  # which this runs in
            self._commit()
            batches, self._held = self._held, []
            # All at once: meanwhile the reader may have more, and that comes behind it.
            await _feed_screen(self._attempt, screen, batches)

    def hold_no_more(self) -> None:
        """What is held has been passed on, or is thrown away."""
        if self._held_until is not None:
            self._held_until = None
            self._attempt.feed.hold_no_more()
        if self._release is not None:
            self._release.cancel()
            self._release = None


def _path(attempt: Attempt, response: UpstreamResponse) -> Path:
    plan, leg, dialect = attempt.plan, attempt.leg, attempt.exchange.dialect
    provider = leg.target.provider
    framer, decoder = provider.framer(media_type_of(response.headers)), provider.decoder(leg.request)
    limit, thread = plan.model.malformed_limit, attempt.exchange.thread
    is_first = thread is None or thread.started is None  # nothing has gone out yet
    if provider.wire == dialect.wire and is_first and attempt.screen is None:
        return PassThrough(
            framer, decoder, client_model=leg.client_model, hide_usage=plan.hide_usage, malformed_limit=limit
        )
    return Translation(
        framer, decoder, dialect if attempt.screen is None else None, attempt.names(), leg.request,
        malformed_limit=limit, thread=thread, goes_on=bool(leg.begun),
    )  # fmt: skip


def _is_simple(attempt: Attempt, response: UpstreamResponse) -> bool:
    if attempt.screen is not None:
        return False
    return response.can_watch and attempt.feed.client.can_send_now and not attempt.exchange.ended


async def _send(attempt: Attempt, out: bytes) -> None:
    if attempt.feed.send_nowait(out):  # the writer is waiting, as it does while the client keeps up
        return
    attempt.clock.deadline = math.inf
    await attempt.feed.send(out)
    attempt.clock.deadline = trio.current_time() + attempt.timeouts.idle


async def _show(attempt: Attempt, screen: Screen, batches: Sequence[Batch]) -> None:
    """Let the guards see what the client is to get. The idle clock stands still while they think."""
    attempt.clock.deadline = math.inf
    await _feed_screen(attempt, screen, batches)
    attempt.clock.deadline = trio.current_time() + attempt.timeouts.idle


async def _feed_screen(attempt: Attempt, screen: Screen, batches: Sequence[Batch]) -> None:
    """It is noted before it has passed the guards, which nothing brings back: the provider may break off meanwhile, and who goes
    on must not say it again."""
    for batch in batches:
        attempt.hand_over(batch)
    await screen.feed([event for batch in batches for event in batch.given])
