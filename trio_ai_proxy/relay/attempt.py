"""One attempt: from the slot to the last byte. What a provider does wrong is raised as an `UpstreamError`; what becomes of it
is decided above. How its answer is read is said elsewhere: as a stream in `relay.streaming`, whole in `relay.whole`.

One clock is re-armed through the whole attempt: the first-token deadline until real generation is seen, then the idle
deadline from each event. It stands still while we wait for the client.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

import trio

from trio_ai_proxy.accounting.meter import Meter
from trio_ai_proxy.chat.events import Started
from trio_ai_proxy.errors import TruncatedStream, UpstreamError, UpstreamRefused, UpstreamTimeout
from trio_ai_proxy.relay.exchange import MAX_ABANDONED_BYTES
from trio_ai_proxy.relay.streaming import Streaming
from trio_ai_proxy.relay.translation import Names
from trio_ai_proxy.relay.whole import read_and_fold, read_answer
from trio_ai_proxy.upstream.attempt import check_answer, check_stream
from trio_ai_proxy.upstream.authorise import authorise

if TYPE_CHECKING:
    from trio_ai_proxy.chat.events import Event
    from trio_ai_proxy.errors import ProxyError
    from trio_ai_proxy.relay.exchange import Exchange, Leg, Phase, Plan, Trial
    from trio_ai_proxy.relay.feed import Feed
    from trio_ai_proxy.relay.path import Batch
    from trio_ai_proxy.upstream.client import UpstreamResponse

_TAIL_SECONDS = 0.25

Gate = Callable[["Attempt"], None]
"""Asked when an attempt has real generation to show. Raises `Beaten` if another one answers already."""


class Beaten(Exception):
    """Another attempt was quicker, or the client has gone before this one had sent anything."""


def _shut(_: Attempt) -> None:
    raise Beaten


class Attempt:
    """One try at one target.

    exchange    what it is made for
    plan        what is done in that
    leg, kind   where it goes, and why it is made (see `accounting.record.Attempt`)
    trial       its place in the books of the target
    feed        the way to the client
    timeouts    the target's
    clock       what it is made in: its deadline is the one that holds now
    screen      the guards that look at the answer, None where there are none
    has_head    the head of a whole answer is there
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

    __slots__ = (
        "_gate", "_read_on", "_scrutiny", "clock", "committed", "dropped", "error", "exchange", "feed", "gave", "generating",
        "has_head", "kind", "leg", "malformed", "meter", "plan", "screen", "started", "timeouts", "trial", "whole",
    )  # fmt: skip

    def __init__(
        self, exchange: Exchange, plan: Plan, leg: Leg, kind: str, feed: Feed, gate: Gate, trial: Trial
    ) -> None:
        """`gate` is asked once, when real generation is there, whether this attempt shall be the one that answers. `trial` is
        told how far it has come, but not its end."""
        self.exchange = exchange
        self.plan = plan
        self.leg = leg
        self.kind = kind
        self.trial = trial
        self.feed = feed
        self.timeouts = leg.target.timeouts
        self.clock = trio.CancelScope()
        self.screen = exchange.guarding.screen if exchange.guarding is not None else None
        self.has_head = False
        self.whole = False
        self.generating = False
        self.committed = False
        self.gave = False
        self.error: ProxyError | None = None
        self.meter = Meter(accepted_at=exchange.accepted_at, encoding=leg.encoding)
        self.started: Started | None = None
        self.dropped: tuple[str, ...] = ()
        self.malformed = 0
        self._scrutiny = plan.scrutinise(exchange, leg) if plan.scrutinise is not None else None
        self._gate = gate
        self._read_on = 0  # bytes since the client has gone

    async def run(self) -> None:
        """Make the attempt. When this returns, the answer is whole and the client has it, or will have it. Raises
        `UpstreamError`, `Overloaded` (no slot in time) and `InvalidRequest` (the provider cannot do what is asked)."""
        exchange, slots = self.exchange, self.leg.target.slots
        self.enter("queue")
        await slots.take(self.timeouts.queue, exchange.key)
        try:
            self.trial.sent()
            self.clock.deadline = trio.current_time() + self._first_token_seconds()
            with self.clock:
                await self._open_and_read()
            if self.clock.cancelled_caught and not self.whole:
                raise self._silence()
        finally:
            slots.give_back()
            self._gate = _shut  # it refers back to this: a circle would wait for the collector

    def enter(self, phase: Phase) -> None:
        """This is how far it has come."""
        if not self.exchange.attempts_committed:  # else it has come further than that
            self.exchange.phase = phase

    def _first_token_seconds(self) -> float:
        # A one-shot answer comes when it is whole, so the wait for its first byte says nothing: `total` bounds it.
        return self.timeouts.first_token if self.leg.ask_stream else math.inf

    def _silence(self) -> UpstreamTimeout:
        if self.generating or self.has_head:
            name, seconds, what = "idle", self.timeouts.idle, "fell silent for"
        else:
            name, seconds, what = "first_token", self.timeouts.first_token, "sent no token within"
        return UpstreamTimeout(name, seconds, f"Provider '{self.leg.target.provider.name}' {what} {seconds:g} s.")

    async def _open_and_read(self) -> None:
        exchange, plan, leg = self.exchange, self.plan, self.leg
        provider = leg.target.provider
        request = provider.prepare(leg.request, model=leg.target.model, stream=leg.ask_stream)
        self.dropped = request.dropped
        if leg.override is not None:
            request = leg.override.apply(request)
        await trio.lowlevel.checkpoint_if_cancelled()  # who has gone by now costs no request
        self.enter("connect")
        if provider.authority is not None:
            request = await authorise(provider.authority, request, leg.target.client, connect=self.timeouts.connect)
        if exchange.ended:
            raise Beaten  # the client has gone, and is not worth another request
        exchange.opened_at = trio.current_time()
        try:
            response = await leg.target.client.open(
                request, connect=self.timeouts.connect, sent=partial(self.enter, "first_token")
            )
            del request  # it may be long, and the answer may take long
            try:
                self.enter("first_token")
                if response.status == 401 and provider.authority is not None:
                    provider.authority.reject()
                if not leg.ask_stream:
                    await check_answer(response, provider)
                    await read_answer(self, response)
                    return
                await check_stream(response, provider)
                if not plan.stream:
                    await read_and_fold(self, response)
                    return
                streaming = Streaming(self)
                try:
                    await streaming.read(response)
                finally:
                    streaming.hold_no_more()
            finally:
                await response.aclose()
        finally:
            exchange.released_at = trio.current_time()

    def win(self) -> None:
        """Real generation is there: this is the attempt that answers. Raises `Beaten`."""
        self._gate(self)
        if self.leg.ask_stream:  # a whole answer says nothing of its first token
            self.trial.first_token()
        self.generating = True

    def commit(self) -> None:
        """From here on the client gets what this attempt brings. Raises `Beaten`."""
        if not self.generating:
            self.win()
        self.committed = True
        exchange, feed = self.exchange, self.feed
        exchange.attempts_committed += 1
        exchange.answer_with(self.leg, self.meter)
        exchange.phase = "streaming"
        feed.dropped = self.dropped
        thread = exchange.thread
        if thread is None or thread.started is None:
            feed.client.scrutiny = self._scrutiny
            if thread is not None:
                thread.started = self.names().complete(self.started or Started("", ""))
        feed.started = self._head()

    def _head(self) -> Started | None:
        """What the usage chunk says of the answer: who has made it. A continued stream stays one by its id."""
        thread, started = self.exchange.thread, self.started
        begun = thread.started if thread is not None else None
        if begun is None or started is None:
            return started or begun
        return Started(begun.id, started.model, begun.created, begun.system_fingerprint)

    def observe(self, events: list[Event], now: float) -> None:
        """The provider has said this."""
        self.meter.observe(events, now)
        if self._scrutiny is not None:
            self._scrutiny.observe(events)
        if self.started is None:
            self.started = next((event for event in events if isinstance(event, Started)), None)
            if self.committed:
                self.feed.started = self._head()

    def hand_over(self, batch: Batch) -> None:
        """What `batch` says has gone out."""
        if batch.out or batch.new:
            self.gave = True
            if self.exchange.thread is not None:
                self.exchange.thread.note(batch.given)

    def passed(self, batch: Batch, now: float) -> None:
        """What `batch` says has gone out, past the writer."""
        if batch.events:
            self.observe(batch.events, now)
        self.hand_over(batch)

    def names(self) -> Names:
        """What the client is told of the answer where the provider does not say it."""
        return Names(
            id=f"chatcmpl-{self.exchange.request_id}",
            model=self.leg.client_model,
            asked=self.leg.request.model,
            created=int(time.time()),
        )

    async def read(self, response: UpstreamResponse) -> bytes:
        """What comes next, nothing at the end. Raises `UpstreamError`."""
        try:
            data = await response.read()
        except UpstreamRefused as error:
            if not self.generating and not self.has_head:
                raise
            raise TruncatedStream(f"The provider's answer broke off: {error.message}") from error
        if self.exchange.abandoned:
            self._read_on += len(data)
            if self._read_on > MAX_ABANDONED_BYTES:
                raise UpstreamError("The rest of the answer is longer than what is read on for its usage.")
        return data

    async def read_tail(self, response: UpstreamResponse) -> None:
        """Let the connection come to its end, so that it can serve again; data after the end is dropped with it."""
        if response.at_end:
            return
        with trio.move_on_after(_TAIL_SECONDS):
            try:
                await response.read()
            except UpstreamError:
                pass  # the answer is whole; the connection is not kept
