"""A whole answer: gathered from a stream, or the provider's document. What the client gets is in one piece, and nothing of it
leaves before the provider has said everything; until then all of it may be made again.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING

import trio

from trio_ai_proxy.chat.events import GENERATION, Failed, Started
from trio_ai_proxy.chat.fold import Fold
from trio_ai_proxy.errors import UpstreamProtocolError
from trio_ai_proxy.relay.counting import settle_usage
from trio_ai_proxy.relay.feed import Last
from trio_ai_proxy.relay.passthrough import PassThrough, rename_model
from trio_ai_proxy.upstream.attempt import media_type_of

if TYPE_CHECKING:
    from trio_ai_proxy.chat.events import Event
    from trio_ai_proxy.relay.attempt import Attempt
    from trio_ai_proxy.relay.guarding import Screen
    from trio_ai_proxy.upstream.client import UpstreamResponse

MAX_ANSWER_BYTES = 32 * 2**20
MAX_FOLDED_BYTES = 4 * MAX_ANSWER_BYTES  # a streamed token takes up about 250 bytes: half a million of them


async def read_and_fold(attempt: Attempt, response: UpstreamResponse) -> None:
    """The provider streams, the client wants it at once. Raises `UpstreamError` and `Beaten`."""
    provider = attempt.leg.target.provider
    framer, decoder = provider.framer(media_type_of(response.headers)), provider.decoder(attempt.leg.request)
    limit = attempt.plan.model.malformed_limit
    path = PassThrough(framer, decoder, client_model=None, hide_usage=True, malformed_limit=limit)
    fold = Fold()
    said: list[Event] = []  # for the guards, who see it when it is whole: until then all of it may be made again
    size = 0
    while True:
        data = await attempt.read(response)
        size += len(data)
        if size > MAX_FOLDED_BYTES:
            raise UpstreamProtocolError(f"The provider streamed more than {MAX_FOLDED_BYTES} bytes of one answer.")
        batch = path.feed(data) if data else path.close()
        attempt.malformed = path.malformed
        if batch.events:
            attempt.observe(batch.events, trio.current_time())
            if attempt.screen is not None:
                said += batch.events
            else:
                for event in batch.events:
                    fold.add(event)
            if not attempt.generating and any(isinstance(event, GENERATION) for event in batch.events):
                attempt.commit()
        if batch.error is not None:
            raise batch.error
        if batch.ended:
            break
        if batch.alive and attempt.generating:
            attempt.clock.deadline = trio.current_time() + attempt.timeouts.idle
    if attempt.screen is not None:
        await _show_whole(attempt, attempt.screen, said)
    else:
        await _finish(attempt, await encode_answer(attempt, fold))
    await attempt.read_tail(response)


async def encode_answer(attempt: Attempt, fold: Fold) -> bytes:
    """A whole answer, in the client's format."""
    usage, _ = await settle_usage(attempt.exchange)
    answer = fold.answer()
    names = attempt.names().complete(Started(answer.id, answer.model, answer.created, answer.system_fingerprint))
    answer = replace(answer, id=names.id, model=names.model, created=names.created, usage=usage)
    return attempt.exchange.dialect.encode_answer(answer, attempt.leg.request)


async def read_answer(attempt: Attempt, response: UpstreamResponse) -> None:
    """The provider's document. Where it is the client's as well, it passes as it came, but for the model's name.
    Raises `UpstreamError` and `Beaten`."""
    plan, leg = attempt.plan, attempt.leg
    attempt.has_head = True  # from here on it is the idle deadline that holds
    attempt.enter("streaming")
    body = await _read_whole(attempt, response)
    provider, dialect = leg.target.provider, attempt.exchange.dialect
    events = provider.read_answer(leg.request, body)
    attempt.observe(events, trio.current_time())
    for event in events:
        if isinstance(event, Failed):
            raise event.error
    attempt.commit()
    if attempt.screen is not None:
        if plan.stream:
            started = attempt.names().complete(attempt.started or Started("", ""))
            attempt.feed.started = started
            events = [started, *_without_head(events)]
        await _show_whole(attempt, attempt.screen, events)
        return
    if plan.stream:
        await _stream_answer(attempt, events)
        return
    if provider.wire != dialect.wire:
        fold = Fold()
        for event in events:
            fold.add(event)
        await _finish(attempt, await encode_answer(attempt, fold))
        return
    if leg.client_model is not None and attempt.started is not None:
        body = rename_model(body, attempt.started.model, leg.client_model)
    await _finish(attempt, body)


async def _stream_answer(attempt: Attempt, events: list[Event]) -> None:
    """A stream for the client of a provider that has none: what it said, in one piece, when it has said it."""
    started = attempt.names().complete(attempt.started or Started("", ""))
    attempt.feed.started = started
    await _finish(attempt, Last(attempt.exchange.dialect.encoder(started, attempt.leg.request).feed(events)))


async def _read_whole(attempt: Attempt, response: UpstreamResponse) -> bytes:
    chunks: list[bytes] = []
    size = 0
    while True:
        attempt.clock.deadline = trio.current_time() + attempt.timeouts.idle
        data = await attempt.read(response)
        if not data:
            return b"".join(chunks)
        size += len(data)
        if size > MAX_ANSWER_BYTES:
            raise UpstreamProtocolError(f"The provider sent an answer of more than {MAX_ANSWER_BYTES} bytes.")
        chunks.append(data)


async def _show_whole(attempt: Attempt, screen: Screen, events: list[Event]) -> None:
    attempt.clock.deadline = math.inf
    attempt.whole = True
    await screen.feed(events)
    attempt.gave = True


async def _finish(attempt: Attempt, body: bytes) -> None:
    attempt.clock.deadline = math.inf
    await trio.lowlevel.checkpoint_if_cancelled()
    attempt.gave = attempt.whole = True
    attempt.exchange.whole = True  # from here on nothing comes in between: the writer is waiting
    await attempt.feed.send(body)
    attempt.feed.close()


def _without_head(events: list[Event]) -> list[Event]:
    return [event for event in events if not isinstance(event, Started)]
