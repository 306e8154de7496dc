"""The upstream task: one attempt, from the slot to the last byte. It never raises what a provider can do wrong; it settles
the outcome, or says that the answer is whole, closes its end of the channel, and the writer says the rest.

One clock is re-armed through the whole attempt: the first-token deadline until real generation is seen, then the idle
deadline from each event. It stands still while we wait for the client.
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING

import trio

from trio_ai_proxy.accounting.outcome import Cause
from trio_ai_proxy.accounting.record import Attempt
from trio_ai_proxy.chat.events import GENERATION, Event, Failed, Started
from trio_ai_proxy.chat.fold import Fold
from trio_ai_proxy.errors import (
    InvalidRequest,
    Overloaded,
    TruncatedStream,
    UpstreamError,
    UpstreamProtocolError,
    UpstreamRefused,
    UpstreamTimeout,
)  # fmt: skip
from trio_ai_proxy.relay.counting import settle_usage
from trio_ai_proxy.relay.exchange import MAX_ABANDONED_BYTES
from trio_ai_proxy.relay.passthrough import PassThrough, rename_model
from trio_ai_proxy.relay.translation import Names, Translation
from trio_ai_proxy.upstream.attempt import check_answer, check_stream, media_type_of
from trio_ai_proxy.upstream.authorise import authorise

if TYPE_CHECKING:
    from collections.abc import Callable

    from trio_ai_proxy.relay.client import Client
    from trio_ai_proxy.relay.exchange import Exchange, Plan
    from trio_ai_proxy.relay.path import Batch, Path
    from trio_ai_proxy.upstream.client import UpstreamResponse

MAX_ANSWER_BYTES = 32 * 2**20
MAX_FOLDED_BYTES = 4 * MAX_ANSWER_BYTES  # a streamed token takes up about 250 bytes: half a million of them
MAX_HELD_BYTES = 1 * 2**20
_TAIL_SECONDS = 0.25
_LONE_CHUNKS = 2
_LONE_BYTES = 4096


class Last(bytes):
    """The last piece of an answer that is whole: the terminal may go with it."""


@dataclass(slots=True)
class Stream:
    """What the reader tells the writer besides bytes: what a made-up usage chunk needs, which fields of the request the
    provider has not been told, and when it last sent the client something past the writer."""

    started: Started | None = None
    usage_sent: bool = False
    dropped: tuple[str, ...] = ()
    passed_at: float = -math.inf


async def read_upstream(
    exchange: Exchange,
    plan: Plan,
    stream: Stream,
    to_writer: trio.MemorySendChannel[bytes],
    client: Client,
    report_bug: Callable[[Exchange, BaseException], None],
) -> None:
    """Make the attempt and send what the client is to get. When this returns the answer is whole or the outcome is
    settled, unless it was cancelled from above."""
    scope = exchange.upstream
    began = trio.current_time()
    scope.deadline = began + plan.target.timeouts.total
    async with to_writer:
        try:
            with scope:
                await _Attempt(exchange, plan, stream, to_writer, client).run()
            if scope.cancelled_caught and not exchange.ended and not exchange.whole:
                seconds = plan.target.timeouts.total
                error = UpstreamTimeout("total", seconds, f"The exchange was not over within {seconds:g} s.")
                exchange.settle(Cause.TIMEOUT_TOTAL, error)
        except UpstreamError as error:
            if plan.override is not None:
                plan.override.scrub(error)
            exchange.settle(_cause_of(error), error)
        except Overloaded as error:
            exchange.settle(Cause.TIMEOUT_QUEUE, error)
        except InvalidRequest as error:
            exchange.settle(Cause.REFUSED, error)
        except Exception as error:  # noqa: BLE001  # here, so that the writer can finish the piece that it has in hand
            exchange.settle(Cause.BUG, detail=repr(error))
            report_bug(exchange, error)
        finally:
            if exchange.abandoned:
                exchange.live.abandoned -= 1
            # Only the server itself cancels without having said why.
            cause = exchange.outcome.cause or (Cause.COMPLETED if exchange.whole else Cause.SHUTDOWN)
            exchange.attempts.append(
                Attempt(
                    provider=plan.target.provider.name, model=plan.target.model,
                    outcome=cause.value,
                    milliseconds=round((trio.current_time() - began) * 1000, 3),
                )
            )  # fmt: skip


def _cause_of(error: UpstreamError) -> Cause:
    if isinstance(error, UpstreamTimeout):
        return Cause(f"timeout_{error.deadline}")
    if isinstance(error, TruncatedStream):
        return Cause.UPSTREAM_TRUNCATED
    return Cause.UPSTREAM_ERROR


class _Attempt:
    """One try at one target."""

    def __init__(
        self,
        exchange: Exchange,
        plan: Plan,
        stream: Stream,
        to_writer: trio.MemorySendChannel[bytes],
        client: Client,
    ) -> None:
        self._client = client
        self._exchange = exchange
        self._plan = plan
        self._stream = stream
        self._to_writer = to_writer
        self._timeouts = plan.target.timeouts
        self._clock = trio.CancelScope()
        self._generating = False
        self._read_on = 0  # bytes since the client has gone

    async def run(self) -> None:
        exchange, slots = self._exchange, self._plan.target.slots
        exchange.phase = "queue"
        await slots.take(self._timeouts.queue)
        try:
            self._clock.deadline = trio.current_time() + self._first_token_seconds()
            with self._clock:
                await self._open_and_read()
            if self._clock.cancelled_caught:
                self._settle_silence()
        finally:
            slots.give_back()

    def _first_token_seconds(self) -> float:
        # A one-shot answer comes when it is whole, so the wait for its first byte says nothing: `total` bounds it.
        return self._timeouts.first_token if self._plan.ask_stream else math.inf

    def _settle_silence(self) -> None:
        if self._exchange.whole:
            return
        if self._generating:
            name, seconds, what = "idle", self._timeouts.idle, "fell silent for"
        else:
            name, seconds, what = "first_token", self._timeouts.first_token, "sent no token within"
        error = UpstreamTimeout(name, seconds, f"Provider '{self._plan.target.provider.name}' {what} {seconds:g} s.")
        self._exchange.settle(Cause(f"timeout_{name}"), error)

    async def _open_and_read(self) -> None:
        exchange, plan = self._exchange, self._plan
        provider = plan.target.provider
        request = provider.prepare(plan.request, model=plan.target.model, stream=plan.ask_stream)
        self._stream.dropped = request.dropped
        if plan.override is not None:
            request = plan.override.apply(request)
        await trio.lowlevel.checkpoint_if_cancelled()  # who has gone by now costs no request
        exchange.phase = "connect"
        if provider.authority is not None:
            request = await authorise(provider.authority, request, plan.target.client, connect=self._timeouts.connect)
        exchange.opened_at = trio.current_time()
        try:
            response = await plan.target.client.open(
                request, connect=self._timeouts.connect, sent=partial(setattr, exchange, "phase", "first_token")
            )
            del request  # it may be long, and the answer may take long
            try:
                exchange.phase = "first_token"
                if response.status == 401 and provider.authority is not None:
                    provider.authority.reject()
                if not plan.ask_stream:
                    await check_answer(response, provider)
                    await self._read_answer(response)
                    return
                await check_stream(response, provider)
                if plan.stream:
                    await self._read_stream(response)
                else:
                    await self._read_and_fold(response)
            finally:
                await response.aclose()
        finally:
            exchange.released_at = trio.current_time()

    # -- a stream for a client that wants one ---------------------------------------------------------------------------

    async def _read_stream(self, response: UpstreamResponse) -> None:
        path = self._path(response)
        held: list[bytes] = []  # what came before the first token: it opens no gate
        held_bytes = 0
        lone = 0  # how many chunks in a row came by themselves
        while True:
            batch: Batch | None = None
            if lone >= _LONE_CHUNKS and response.can_watch and self._client.can_send_now and not self._exchange.ended:
                data, out = b"", b""  # nothing of the past is kept while we wait
                batch = await self._watch(response, path)
            if batch is None:
                data = await self._read(response)
                batch = path.feed(data) if data else path.close()
                lone = lone + 1 if self._generating and 0 < len(data) <= _LONE_BYTES else 0
            if batch.events:
                self._observe(batch.events)
            out = batch.out
            if not self._generating:
                held.append(out)
                held_bytes += len(out)
                if any(isinstance(event, GENERATION) for event in batch.events):
                    self._generating = True
                    self._exchange.phase = "streaming"
                    out = b"".join(held)
                    held.clear()
                elif not batch.ended and batch.error is None:
                    if held_bytes > MAX_HELD_BYTES:
                        raise UpstreamError("The provider sent a megabyte without a token.")
                    continue
                else:
                    out = b"" if batch.error is not None else b"".join(held)
            self._stream.usage_sent = path.usage_sent
            if out:
                await self._send(Last(out) if batch.ended else out)
            if batch.error is not None:
                raise batch.error
            if batch.ended:
                self._exchange.whole = True
                self._to_writer.close()  # the client need not wait for what follows
                await self._read_tail(response)
                return
            if batch.alive:
                self._clock.deadline = trio.current_time() + self._timeouts.idle

    async def _watch(self, response: UpstreamResponse, path: Path) -> Batch | None:
        """While the client keeps up and the provider sends more of the same, chunks pass from socket to socket without a
        task being woken. Returns the batch that needs more than that, or None: then it is for `read` to see what there is.

        The idle deadline is not armed again for each chunk: when it passes, we look whether there was life since.
        """
        for _ in range(2):  # the writer takes its last piece to the client; of two tasks either may come first
            await trio.lowlevel.checkpoint()
            if self._to_writer.statistics().tasks_waiting_receive:
                break
        else:
            return None  # it is not done with it
        exchange, client, stream, now = self._exchange, self._client, self._stream, trio.current_time
        idle = self._timeouts.idle
        silent_at = self._clock.deadline
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
                stream.passed_at = seen_at
            if batch.events:
                self._observe(batch.events, seen_at)
            if batch.alive:
                silent_at = seen_at + idle
            return not client.backlog

        self._clock.deadline = math.inf
        while True:
            with trio.CancelScope(deadline=silent_at) as patience:
                await response.watch(take)
            if not patience.cancelled_caught or silent_at <= now():
                break
        self._clock.deadline = silent_at  # where it has passed, `read` gets what may have come in the last moment
        if left is None and client.backlog:
            await self._send(b"")
        return left

    def _path(self, response: UpstreamResponse) -> Path:
        plan, dialect = self._plan, self._exchange.dialect
        provider = plan.target.provider
        framer, decoder = provider.framer(media_type_of(response.headers)), provider.decoder(plan.request)
        if provider.wire == dialect.wire:
            return PassThrough(framer, decoder, client_model=plan.client_model, hide_usage=plan.hide_usage)
        return Translation(framer, decoder, dialect, self._names(), plan.request)

    def _names(self) -> Names:
        plan = self._plan
        return Names(
            id=f"chatcmpl-{self._exchange.request_id}",
            model=plan.client_model,
            asked=plan.request.model,
            created=int(time.time()),
        )

    async def _read(self, response: UpstreamResponse) -> bytes:
        try:
            data = await response.read()
        except UpstreamRefused as error:
            if not self._generating:
                raise
            raise TruncatedStream(f"The provider's answer broke off: {error.message}") from error
        if self._exchange.abandoned:
            self._read_on += len(data)
            if self._read_on > MAX_ABANDONED_BYTES:
                raise UpstreamError("The rest of the answer is longer than what is read on for its usage.")
        return data

    async def _send(self, out: bytes) -> None:
        try:
            try:
                self._to_writer.send_nowait(out)  # the writer is waiting, as it does while the client keeps up
                return
            except trio.WouldBlock:
                pass
            self._clock.deadline = math.inf
            await self._to_writer.send(out)
        except trio.BrokenResourceError:
            # The writer has ended, which it does on its own only when it has failed; the nursery tells why.
            raise UpstreamError("The answer could not be written.") from None
        self._clock.deadline = trio.current_time() + self._timeouts.idle

    async def _read_tail(self, response: UpstreamResponse) -> None:
        """Let the connection come to its end, so that it can serve again; data after the end is dropped with it."""
        if response.at_end:
            return
        with trio.move_on_after(_TAIL_SECONDS):
            try:
                await response.read()
            except UpstreamError:
                pass  # the answer is whole; the connection is not kept

    # -- a whole answer -------------------------------------------------------------------------------------------------

    async def _read_and_fold(self, response: UpstreamResponse) -> None:
        """The provider streams, the client wants it at once."""
        provider = self._plan.target.provider
        framer, decoder = provider.framer(media_type_of(response.headers)), provider.decoder(self._plan.request)
        path = PassThrough(framer, decoder, client_model=None, hide_usage=True)
        fold = Fold()
        size = 0
        while True:
            data = await self._read(response)
            size += len(data)
            if size > MAX_FOLDED_BYTES:
                raise UpstreamProtocolError(f"The provider streamed more than {MAX_FOLDED_BYTES} bytes of one answer.")
            batch = path.feed(data) if data else path.close()
            if batch.events:
                self._observe(batch.events)
                for event in batch.events:
                    fold.add(event)
                if not self._generating and any(isinstance(event, GENERATION) for event in batch.events):
                    self._generating = True
                    self._exchange.phase = "streaming"
            if batch.error is not None:
                raise batch.error
            if batch.ended:
                break
            if batch.alive and self._generating:
                self._clock.deadline = trio.current_time() + self._timeouts.idle
        await self._finish(await self._encode_answer(fold))
        await self._read_tail(response)

    async def _encode_answer(self, fold: Fold) -> bytes:
        usage, _ = await settle_usage(self._exchange)
        answer = fold.answer()
        names = self._names().complete(Started(answer.id, answer.model, answer.created, answer.system_fingerprint))
        answer = replace(answer, id=names.id, model=names.model, created=names.created, usage=usage)
        return self._exchange.dialect.encode_answer(answer, self._plan.request)

    async def _read_answer(self, response: UpstreamResponse) -> None:
        """The provider's document. Where it is the client's as well, it passes as it came, but for the model's name."""
        plan = self._plan
        self._generating = True  # the head is there: from here on it is the idle deadline that holds
        self._exchange.phase = "streaming"
        body = await self._read_whole(response)
        provider, dialect = plan.target.provider, self._exchange.dialect
        events = provider.read_answer(plan.request, body)
        self._observe(events)
        for event in events:
            if isinstance(event, Failed):
                raise event.error
        if plan.stream:
            await self._stream_answer(events)
            return
        if provider.wire != dialect.wire:
            fold = Fold()
            for event in events:
                fold.add(event)
            await self._finish(await self._encode_answer(fold))
            return
        if plan.client_model is not None and self._stream.started is not None:
            body = rename_model(body, self._stream.started.model, plan.client_model)
        await self._finish(body)

    async def _stream_answer(self, events: list[Event]) -> None:
        """A stream for the client of a provider that has none: what it said, in one piece, when it has said it."""
        started = self._names().complete(self._stream.started or Started("", ""))
        self._stream.started = started
        await self._finish(Last(self._exchange.dialect.encoder(started, self._plan.request).feed(events)))

    async def _read_whole(self, response: UpstreamResponse) -> bytes:
        chunks: list[bytes] = []
        size = 0
        while True:
            self._clock.deadline = trio.current_time() + self._timeouts.idle
            data = await self._read(response)
            if not data:
                return b"".join(chunks)
            size += len(data)
            if size > MAX_ANSWER_BYTES:
                raise UpstreamProtocolError(f"The provider sent an answer of more than {MAX_ANSWER_BYTES} bytes.")
            chunks.append(data)

    async def _finish(self, body: bytes) -> None:
        self._clock.deadline = math.inf
        await trio.lowlevel.checkpoint_if_cancelled()
        self._exchange.whole = True  # from here on nothing comes in between: the writer is waiting
        await self._to_writer.send(body)
        self._to_writer.close()

    def _observe(self, events: list[Event], now: float | None = None) -> None:
        meter = self._exchange.meter
        if meter is not None:
            meter.observe(events, trio.current_time() if now is None else now)
        if self._exchange.scrutiny is not None:
            self._exchange.scrutiny.observe(events)
        if self._stream.started is None:
            self._stream.started = next((event for event in events if isinstance(event, Started)), None)
