"""One attempt: from the slot to the last byte. What a provider does wrong is raised as an `UpstreamError`; what becomes of it
is decided above.

One clock is re-armed through the whole attempt: the first-token deadline until real generation is seen, then the idle
deadline from each event. It stands still while we wait for the client.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

import trio

from trio_ai_proxy.accounting.meter import Meter
from trio_ai_proxy.chat.events import GENERATION, Event, Failed, Started
from trio_ai_proxy.chat.fold import Fold
from trio_ai_proxy.errors import (
    TruncatedStream,
    UpstreamError,
    UpstreamProtocolError,
    UpstreamRefused,
    UpstreamTimeout,
)  # fmt: skip
from trio_ai_proxy.relay.counting import settle_usage
from trio_ai_proxy.relay.exchange import MAX_ABANDONED_BYTES
from trio_ai_proxy.relay.feed import Last
from trio_ai_proxy.relay.passthrough import PassThrough, rename_model
from trio_ai_proxy.relay.short_path import LONE_BYTES, LONE_CHUNKS, watch
from trio_ai_proxy.relay.translation import Names, Translation
from trio_ai_proxy.upstream.attempt import check_answer, check_stream, media_type_of
from trio_ai_proxy.upstream.authorise import authorise

if TYPE_CHECKING:
    from collections.abc import Sequence

    from trio_ai_proxy.errors import ProxyError
    from trio_ai_proxy.relay.exchange import Exchange, Leg, Phase, Plan, Trial
    from trio_ai_proxy.relay.feed import Feed
    from trio_ai_proxy.relay.guarding import Screen
    from trio_ai_proxy.relay.path import Batch, Path
    from trio_ai_proxy.upstream.client import UpstreamResponse

MAX_ANSWER_BYTES = 32 * 2**20
MAX_FOLDED_BYTES = 4 * MAX_ANSWER_BYTES  # a streamed token takes up about 250 bytes: half a million of them
MAX_HELD_BYTES = 1 * 2**20
_TAIL_SECONDS = 0.25

Gate = Callable[["Attempt"], None]
"""Asked when an attempt has real generation to show. Raises `Beaten` if another one answers already."""


class Beaten(Exception):
    """Another attempt was quicker, or the client has gone before this one had sent anything."""


def _shut(_: Attempt) -> None:
    raise Beaten


class Attempt:
    """One try at one target.

    leg, kind   where it goes, and why it is made (see `accounting.record.Attempt`)
    trial       its place in the books of the target
    leg, kind   where it goes, and why it is made (see `accounting.record.Attempt`)
    trial       its place in the books of the target
    whole       the provider has said everything
    generating  it generates, and is the one that answers
    committed   the client has been given, or is being given, what it generates
    gave        the client has been given something by it that it had not
    error       why the provider has not answered, where it is over
    meter       what it has generated
    started     who answers, once that is known
    dropped     fields of the request that the provider has not been told
    malformed   events that made no sense and were passed over
    """

    def __init__(
        self, exchange: Exchange, plan: Plan, leg: Leg, kind: str, feed: Feed, gate: Gate, trial: Trial
    ) -> None:
        """`gate` is asked once, when real generation is there, whether this attempt shall be the one that answers. `trial` is
        told how far it has come, but not its end."""
        self.leg = leg
        self.kind = kind
        self.whole = False
        self.generating = False
        self.committed = False
        self.gave = False
        self.error: ProxyError | None = None
        self.meter = Meter(accepted_at=exchange.accepted_at, encoding=leg.encoding)
        self.started: Started | None = None
        self.dropped: tuple[str, ...] = ()
        self.malformed = 0
        self.trial = trial
        self._scrutiny = plan.scrutinise(exchange, leg) if plan.scrutinise is not None else None
        self._gate = gate
        self._exchange = exchange
        self._plan = plan
        self.leg = leg
        self._feed = feed
        self._timeouts = leg.target.timeouts
        self._clock = trio.CancelScope()
        self._is_answering = False  # the head of a whole answer is there
        self._release: trio.CancelScope | None = None  # what waits for that time where there are guards
        self._held_until: float | None = None  # when the client is to get what has been held back from it
        self._screen = exchange.guarding.screen if exchange.guarding is not None else None
        self._read_on = 0  # bytes since the client has gone

    async def run(self) -> None:
        """Make the attempt. When this returns, the answer is whole and the client has it, or will have it. Raises
        `UpstreamError`, `Overloaded` (no slot in time) and `InvalidRequest` (the provider cannot do what is asked)."""
        exchange, slots = self._exchange, self.leg.target.slots
        self._enter("queue")
        await slots.take(self._timeouts.queue, exchange.key)
        try:
            self.trial.sent()
            self._clock.deadline = trio.current_time() + self._first_token_seconds()
            with self._clock:
                await self._open_and_read()
            if self._clock.cancelled_caught and not self.whole:
                raise self._silence()
        finally:
            slots.give_back()
            self._hold_no_more()
            self._gate = _shut  # it refers back to this: a circle would wait for the collector

    def _enter(self, phase: Phase) -> None:
        if not self._exchange.attempts_committed:  # else it has come further than that
            self._exchange.phase = phase

    def _first_token_seconds(self) -> float:
        # A one-shot answer comes when it is whole, so the wait for its first byte says nothing: `total` bounds it.
        return self._timeouts.first_token if self.leg.ask_stream else math.inf

    def _silence(self) -> UpstreamTimeout:
        if self.generating or self._is_answering:
            name, seconds, what = "idle", self._timeouts.idle, "fell silent for"
        else:
            name, seconds, what = "first_token", self._timeouts.first_token, "sent no token within"
        return UpstreamTimeout(name, seconds, f"Provider '{self.leg.target.provider.name}' {what} {seconds:g} s.")

    async def _open_and_read(self) -> None:
        exchange, plan, leg = self._exchange, self._plan, self.leg
        provider = leg.target.provider
        request = provider.prepare(leg.request, model=leg.target.model, stream=leg.ask_stream)
        self.dropped = request.dropped
        if leg.override is not None:
            request = leg.override.apply(request)
        await trio.lowlevel.checkpoint_if_cancelled()  # who has gone by now costs no request
        self._enter("connect")
        if provider.authority is not None:
            request = await authorise(provider.authority, request, leg.target.client, connect=self._timeouts.connect)
        if exchange.ended:
            raise Beaten  # the client has gone, and is not worth another request
        exchange.opened_at = trio.current_time()
        try:
            response = await leg.target.client.open(
                request, connect=self._timeouts.connect, sent=partial(self._enter, "first_token")
            )
            del request  # it may be long, and the answer may take long
            try:
                self._enter("first_token")
                if response.status == 401 and provider.authority is not None:
                    provider.authority.reject()
                if not leg.ask_stream:
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

    def _win(self) -> None:
        """Real generation is there: this is the attempt that answers. Raises `Beaten`."""
        self._gate(self)
        if self.leg.ask_stream:  # a whole answer says nothing of its first token
            self.trial.first_token()
        self.generating = True

    def _commit(self) -> None:
        """From here on the client gets what this attempt brings. Raises `Beaten`."""
        if not self.generating:
            self._win()
        self.committed = True
        exchange, feed = self._exchange, self._feed
        exchange.attempts_committed += 1
        if self._held_until is not None:
            self._hold_no_more()
            if self.meter.chunks:
                self.meter.ttft = trio.current_time() - exchange.accepted_at  # the client waited for it until now
        exchange.answer_with(self.leg, self.meter)
        exchange.phase = "streaming"
        feed.dropped = self.dropped
        thread = exchange.thread
        if thread is None or thread.started is None:
            feed.client.scrutiny = self._scrutiny
            if thread is not None:
                thread.started = self._names().complete(self.started or Started("", ""))
        feed.started = self._head()

    def _head(self) -> Started | None:
        """What the usage chunk says of the answer: who has made it. A continued stream stays one by its id."""
        thread, started = self._exchange.thread, self.started
        begun = thread.started if thread is not None else None
        if begun is None or started is None:
            return started or begun
        return Started(begun.id, started.model, begun.created, begun.system_fingerprint)

    def _is_simple(self, response: UpstreamResponse) -> bool:
        if self._screen is not None:
            return False
        return response.can_watch and self._feed.client.can_send_now and not self._exchange.ended

    def _observe(self, events: list[Event], now: float) -> None:
        self.meter.observe(events, now)
        if self._scrutiny is not None:
            self._scrutiny.observe(events)
        if self.started is None:
            self.started = next((event for event in events if isinstance(event, Started)), None)
            if self.committed:
                self._feed.started = self._head()

    def _hand_over(self, batch: Batch) -> None:
        """What `batch` says has gone out."""
        if batch.out or batch.new:
            self.gave = True
            if self._exchange.thread is not None:
                self._exchange.thread.note(batch.given)

    def _passed(self, batch: Batch, now: float) -> None:
        """The same, past the writer."""
        if batch.events:
            self._observe(batch.events, now)
        self._hand_over(batch)

    # -- a stream for a client that wants one ---------------------------------------------------------------------------

    async def _read_stream(self, response: UpstreamResponse) -> None:
        path = self._path(response)
        held: list[Batch] = []  # what the client is not given yet
        held_bytes = 0
        data = b""
        lone = 0  # how many chunks in a row came by themselves
        while True:
            batch: Batch | None = None
            if lone >= LONE_CHUNKS and self._is_simple(response):
                data, out, going = b"", b"", []  # nothing of the past is kept while we wait
                idle = self._timeouts.idle
                batch = await watch(response, path, self._exchange, self._feed, self._clock, idle, self._passed)
            if batch is None:
                data = await self._read(response)
                batch = path.feed(data) if data else path.close()
                lone = lone + 1 if self.committed and 0 < len(data) <= LONE_BYTES else 0
            if batch.events:
                self._observe(batch.events, trio.current_time())
            self.malformed = path.malformed
            out = batch.out
            going = [batch]
            if not self.committed:
                held.append(batch)
                held_bytes += len(out) if self._screen is None else len(data)
                if not batch.ended and self._is_held(batch, held, held_bytes):
                    continue
                self._commit()  # also where it is whole, and without a single token
                out = b"".join(each.out for each in held)
                going, held = held, []
            self._feed.usage_sent = path.usage_sent
            if self._screen is not None:
                await self._show(self._screen, going)
            elif out:
                await self._send(Last(out) if batch.ended else out)
                for each in going:
                    self._hand_over(each)
            if batch.error is not None:
                raise batch.error
            if batch.ended:
                self.whole = True
                if self._screen is None:
                    self._exchange.whole = True
                    self._feed.close()  # the client need not wait for what follows
                await self._read_tail(response)
                return
            if batch.alive:
                self._clock.deadline = trio.current_time() + self._timeouts.idle

    def _is_held(self, batch: Batch, held: list[Batch], held_bytes: int) -> bool:
        """Whether `held`, of which `batch` came last, is not for the client yet: before the first token, which opens the gate,
        and after it while the model's `continuation` says so. Raises `Beaten`, and what ends the attempt."""
        model, thread, now = self._plan.model, self._exchange.thread, trio.current_time()
        if not self.generating:
            if not any(isinstance(event, GENERATION) for event in batch.events):
                if batch.error is not None:
                    raise batch.error
                if held_bytes > MAX_HELD_BYTES:
                    raise UpstreamError("The provider sent a megabyte without a token.")
                return True
            if model.continuation != "hold" or (thread is not None and thread.started is not None):
                return False
            self._win()
            self._held_until = now + model.hold_for
            # A read must not be broken off, so it is somebody else that looks at the clock: the writer, or a task of the guards'.
            if self._screen is None:
                self._feed.hold(self._held_until, partial(self._let_go, held))
            else:
                self._release = self._screen.later(self._held_until, partial(self._show_held, self._screen, held))
        self.meter.ttft = None  # the client has seen nothing
        if batch.error is not None:
            raise batch.error
        if held_bytes >= model.hold_bytes or (held_bytes and self._held_until is not None and now >= self._held_until):
            return False
        if batch.alive:
            self._clock.deadline = now + self._timeouts.idle
        return True

    def _let_go(self, held: list[Batch]) -> bytes:
        """It has been held for long enough: what the client gets now. If that is nothing, it gets the first thing that comes."""
        out = b"".join(each.out for each in held)
        if out:
            self._commit()
            for each in held:
                self._hand_over(each)
            held.clear()
        return out

    def _hold_no_more(self) -> None:
        if self._held_until is not None:
            self._held_until = None
            self._feed.hold_no_more()
        if self._release is not None:
            self._release.cancel()
            self._release = None

    async def _show(self, screen: Screen, batches: Sequence[Batch]) -> None:
        """Let the guards see what the client is to get. The idle clock stands still while they think."""
        self._clock.deadline = math.inf
        await screen.feed([event for batch in batches for event in batch.given])
        for batch in batches:
            self._hand_over(batch)
        self._clock.deadline = trio.current_time() + self._timeouts.idle

    async def _show_held(self, screen: Screen, held: list[Batch]) -> None:
        """It has been held for long enough: now the guards get it."""
        if held and not self.committed:
            self._release = None  # which this runs in
            self._commit()
            batches, held[:] = list(held), []
            # All at once: meanwhile the reader may have more, and that comes behind it.
            await screen.feed([event for batch in batches for event in batch.given])
            for batch in batches:
                self._hand_over(batch)

    def _path(self, response: UpstreamResponse) -> Path:
        plan, leg, dialect = self._plan, self.leg, self._exchange.dialect
        provider = leg.target.provider
        framer, decoder = provider.framer(media_type_of(response.headers)), provider.decoder(leg.request)
        limit, thread = plan.model.malformed_limit, self._exchange.thread
        is_first = thread is None or thread.started is None  # nothing has gone out yet
        if provider.wire == dialect.wire and is_first and self._screen is None:
            return PassThrough(
                framer, decoder, client_model=leg.client_model, hide_usage=plan.hide_usage, malformed_limit=limit
            )
        return Translation(
            framer, decoder, dialect if self._screen is None else None, self._names(), leg.request,
            malformed_limit=limit, thread=thread, goes_on=bool(leg.begun),
        )  # fmt: skip

    def _names(self) -> Names:
        return Names(
            id=f"chatcmpl-{self._exchange.request_id}",
            model=self.leg.client_model,
            asked=self.leg.request.model,
            created=int(time.time()),
        )

    async def _read(self, response: UpstreamResponse) -> bytes:
        try:
            data = await response.read()
        except UpstreamRefused as error:
            if not self.generating and not self._is_answering:
                raise
            raise TruncatedStream(f"The provider's answer broke off: {error.message}") from error
        if self._exchange.abandoned:
            self._read_on += len(data)
            if self._read_on > MAX_ABANDONED_BYTES:
                raise UpstreamError("The rest of the answer is longer than what is read on for its usage.")
        return data

    async def _send(self, out: bytes) -> None:
        if self._feed.send_nowait(out):  # the writer is waiting, as it does while the client keeps up
            return
        self._clock.deadline = math.inf
        await self._feed.send(out)
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
        provider = self.leg.target.provider
        framer, decoder = provider.framer(media_type_of(response.headers)), provider.decoder(self.leg.request)
        limit = self._plan.model.malformed_limit
        path = PassThrough(framer, decoder, client_model=None, hide_usage=True, malformed_limit=limit)
        fold = Fold()
        said: list[Event] = []  # for the guards, who see it when it is whole: until then all of it may be made again
        size = 0
        while True:
            data = await self._read(response)
            size += len(data)
            if size > MAX_FOLDED_BYTES:
                raise UpstreamProtocolError(f"The provider streamed more than {MAX_FOLDED_BYTES} bytes of one answer.")
            batch = path.feed(data) if data else path.close()
            self.malformed = path.malformed
            if batch.events:
                self._observe(batch.events, trio.current_time())
                if self._screen is not None:
                    said += batch.events
                else:
                    for event in batch.events:
                        fold.add(event)
                if not self.generating and any(isinstance(event, GENERATION) for event in batch.events):
                    self._commit()
            if batch.error is not None:
                raise batch.error
            if batch.ended:
                break
            if batch.alive and self.generating:
                self._clock.deadline = trio.current_time() + self._timeouts.idle
        if self._screen is not None:
            await self._show_whole(self._screen, said)
        else:
            await self._finish(await self.encode_answer(fold))
        await self._read_tail(response)

    async def encode_answer(self, fold: Fold) -> bytes:
        """A whole answer, in the client's format."""
        usage, _ = await settle_usage(self._exchange)
        answer = fold.answer()
        names = self._names().complete(Started(answer.id, answer.model, answer.created, answer.system_fingerprint))
        answer = replace(answer, id=names.id, model=names.model, created=names.created, usage=usage)
        return self._exchange.dialect.encode_answer(answer, self.leg.request)

    async def _read_answer(self, response: UpstreamResponse) -> None:
        """The provider's document. Where it is the client's as well, it passes as it came, but for the model's name."""
        plan, leg = self._plan, self.leg
        self._is_answering = True  # the head is there: from here on it is the idle deadline that holds
        self._enter("streaming")
        body = await self._read_whole(response)
        provider, dialect = leg.target.provider, self._exchange.dialect
        events = provider.read_answer(leg.request, body)
        self._observe(events, trio.current_time())
        for event in events:
            if isinstance(event, Failed):
                raise event.error
        self._commit()
        if self._screen is not None:
            if plan.stream:
                events = [self._names().complete(self.started or Started("", "")), *_without_head(events)]
            await self._show_whole(self._screen, events)
            return
        if plan.stream:
            await self._stream_answer(events)
            return
        if provider.wire != dialect.wire:
            fold = Fold()
            for event in events:
                fold.add(event)
            await self._finish(await self.encode_answer(fold))
            return
        if leg.client_model is not None and self.started is not None:
            body = rename_model(body, self.started.model, leg.client_model)
        await self._finish(body)

    async def _stream_answer(self, events: list[Event]) -> None:
        """A stream for the client of a provider that has none: what it said, in one piece, when it has said it."""
        started = self._names().complete(self.started or Started("", ""))
        self._feed.started = started
        await self._finish(Last(self._exchange.dialect.encoder(started, self.leg.request).feed(events)))

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

    async def _show_whole(self, screen: Screen, events: list[Event]) -> None:
        self._clock.deadline = math.inf
        self.whole = True
        await screen.feed(events)
        self.gave = True

    async def _finish(self, body: bytes) -> None:
        self._clock.deadline = math.inf
        await trio.lowlevel.checkpoint_if_cancelled()
        self.gave = self.whole = True
        self._exchange.whole = True  # from here on nothing comes in between: the writer is waiting
        await self._feed.send(body)
        self._feed.close()


def _without_head(events: list[Event]) -> list[Event]:
    return [event for event in events if not isinstance(event, Started)]
