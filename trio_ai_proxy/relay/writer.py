"""The downstream task: what the channel brings goes to the client, and then exactly one terminal, by the outcome.

No status line leaves before the reader has seen real generation, so an early failure keeps its true status. While the
provider thinks, a model may have comment lines sent; that commits the status, and failures are then told in band.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import trio

from trio_ai_proxy.accounting.outcome import Cause
from trio_ai_proxy.chat.events import Started
from trio_ai_proxy.errors import InternalError, ProxyError
from trio_ai_proxy.relay.counting import settle_usage
from trio_ai_proxy.relay.feed import Last

if TYPE_CHECKING:
    from trio_ai_proxy.relay.client import Client, Headers
    from trio_ai_proxy.relay.exchange import Exchange, Plan
    from trio_ai_proxy.relay.feed import Feed

EVENT_STREAM: Headers = [
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-cache"),
    (b"x-accel-buffering", b"no"),  # a proxy in front must not gather what is meant to arrive piece by piece
]
_MAX_DROPPED = 1000  # characters of the header that names what was left out


async def write_client(
    exchange: Exchange, plan: Plan, feed: Feed, from_reader: trio.MemoryReceiveChannel[bytes], client: Client
) -> None:
    """Send what comes, then the terminal. A whole answer counts as completed when the client has taken it, and not before.

    Returns without a terminal where the outcome is not settled: then the reader has failed, and its failure is on its
    way up.
    """
    async with from_reader:
        if plan.stream:
            await _write_stream(plan, exchange, feed, from_reader, client)
        else:
            await _write_answer(exchange, feed, from_reader, client)
    if exchange.whole and not exchange.ended:
        await _settle_completed(exchange)
    if exchange.ended:
        await conclude(exchange, client, plan=plan, feed=feed)


async def _write_stream(
    plan: Plan, exchange: Exchange, feed: Feed, from_reader: trio.MemoryReceiveChannel[bytes], client: Client
) -> None:
    keep_alive = plan.model.keep_alive
    is_patient = keep_alive is None and plan.model.continuation != "hold"
    while True:
        try:
            if is_patient:
                block = await from_reader.receive()
            else:
                said = await _receive_in_time(from_reader, feed, keep_alive)
                block = exchange.dialect.keep_alive if said is None else said
        except trio.EndOfChannel:
            return
        if exchange.outcome.cause is Cause.CLIENT_GONE:
            continue  # read on for its usage: nobody takes it, and nobody shall count it as sent
        if not block and not isinstance(block, Last):
            await client.flush()
            continue
        if client.status is None:
            is_patient = keep_alive is None
            await client.start(200, EVENT_STREAM + _told(exchange, feed))
        if exchange.departure_is_told and isinstance(block, Last):
            exchange.whole = True
            await client.finish(block + await _usage_chunk(exchange, plan, feed) + exchange.dialect.terminal)
            exchange.settle(Cause.COMPLETED)
            return
        await client.send(block)


async def _receive_in_time(
    from_reader: trio.MemoryReceiveChannel[bytes], feed: Feed, keep_alive: float | None
) -> bytes | None:
    """The next block, or what has been held back for long enough, or None when the client has been sent nothing for
    `keep_alive` seconds, past the writer either. Raises `trio.EndOfChannel`."""
    pause = math.inf if keep_alive is None else keep_alive
    due = trio.current_time() + pause
    while True:
        with trio.CancelScope(deadline=min(due, feed.held_until)) as feed.patience:
            return await from_reader.receive()
        held = feed.take_held()
        if held:
            return held
        if due <= trio.current_time():
            due = feed.passed_at + pause
            if due <= trio.current_time():
                return None


def _told(exchange: Exchange, feed: Feed | None = None) -> Headers:
    """The headers that say who answers, at which attempt, and what of the request the provider has not been told.

    Names of fields may be the client's own, and of any length: a header holds printable ASCII, and is no place for a novel.
    """
    leg = exchange.leg
    if leg is None:
        return []
    headers = [
        (b"x-llm-provider", leg.target.provider.name.encode()),
        (b"x-llm-model", leg.target.model.encode("ascii", "backslashreplace")),
        (b"x-llm-attempts", b"%d" % exchange.attempts_begun),
    ]
    if feed is None or not feed.dropped:
        return headers
    names = "".join(letter if " " <= letter <= "~" else "?" for letter in ", ".join(feed.dropped)[:_MAX_DROPPED])
    return [*headers, (b"x-llm-dropped", names.strip().encode())]


async def _write_answer(
    exchange: Exchange, feed: Feed, from_reader: trio.MemoryReceiveChannel[bytes], client: Client
) -> None:
    async for body in from_reader:
        if exchange.outcome.cause is Cause.CLIENT_GONE:
            continue
        if exchange.departure_is_told:
            await client.answer(200, body, _told(exchange, feed))
            exchange.settle(Cause.COMPLETED)
            return
        head = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(body)), *_told(exchange, feed)]
        await client.start(200, head)
        await client.send(body)
        # Before the end is said, for with that the server reports the client as gone.
        await _settle_completed(exchange)
        await client.finish()


async def _settle_completed(exchange: Exchange) -> None:
    # A send returns also because the client has left. The receiver learns of that in the same instant, and goes first.
    if not exchange.departure_is_told:
        await trio.lowlevel.checkpoint()
    exchange.settle(Cause.COMPLETED)


async def conclude(exchange: Exchange, client: Client, *, plan: Plan | None = None, feed: Feed | None = None) -> None:
    """The one terminal. Whole: the dialect's own end. Not begun: a status and a body. Else one error in band, and the end."""
    if client.finished:
        return
    outcome = exchange.outcome
    if outcome.cause is Cause.CLIENT_GONE:
        return
    if outcome.cause is Cause.COMPLETED and plan is not None and plan.stream:
        if client.status is None:  # whole, and without a single token
            await client.start(200, EVENT_STREAM + _told(exchange, feed))
        await client.finish(await _usage_chunk(exchange, plan, feed) + exchange.dialect.terminal)
        return
    guarding = exchange.guarding
    if (
        outcome.cause is Cause.GUARD
        and guarding is not None
        and guarding.screen is not None
        and client.status is not None
    ):
        end = guarding.screen.cut_off()
        if end is not None and plan is not None:
            await client.finish(end + await _usage_chunk(exchange, plan, feed) + exchange.dialect.terminal)
            return
    error = outcome.error or InternalError("The gateway failed; its log tells more under this request id.")
    if client.status is None:
        await client.answer(error.status, exchange.dialect.encode_error(error), error_headers(error) + _told(exchange))
    else:
        await client.finish(exchange.dialect.encode_stream_error(error))


async def _usage_chunk(exchange: Exchange, plan: Plan, feed: Feed | None) -> bytes:
    """The usage chunk, where the client asked for one and the provider has sent none that it could see."""
    if feed is None or plan.hide_usage or feed.usage_sent:
        return b""
    usage, _ = await settle_usage(exchange)
    started = feed.started or Started(id=f"chatcmpl-{exchange.request_id}", model=plan.request.model)
    if exchange.leg is not None and exchange.leg.client_model is not None:
        started = Started(started.id, exchange.leg.client_model, started.created, started.system_fingerprint)
    chunk = exchange.dialect.encode_usage(started, usage)
    return chunk if exchange.guarding is None else exchange.guarding.frames(chunk)


def error_headers(error: ProxyError) -> Headers:
    """The headers that belong to an error."""
    headers: Headers = []
    if error.retry_after is not None:
        headers.append((b"retry-after", b"%d" % max(1, round(error.retry_after))))
    if error.status == 401:
        headers.append((b"www-authenticate", b"Bearer"))
    return headers
