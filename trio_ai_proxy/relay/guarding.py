"""The guards of one exchange: in on the way to the provider, and out on the way to the client; and what they did.

On the way out the answer is events until every guard has seen it; only then is it written in the client's format. A guard
that stops an answer settles the outcome and cancels the upstream, as an operator would, whatever task it is in.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

import msgspec
import trio

from trio_ai_proxy.accounting.outcome import Cause
from trio_ai_proxy.accounting.record import GuardUse
from trio_ai_proxy.chat.events import (
    Failed,
    Finished,
    ReasoningDelta,
    RefusalDelta,
    Started,
    TextDelta,
    ToolCallDelta,
)
from trio_ai_proxy.chat.fold import Fold
from trio_ai_proxy.errors import GuardBlocked, ProxyError
from trio_ai_proxy.relay.judging import Judging

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from trio_ai_proxy.chat.events import Event
    from trio_ai_proxy.chat.request import ChatRequest
    from trio_ai_proxy.dialects.base import StreamEncoder
    from trio_ai_proxy.guards.base import Desk, Filter, Guard, Judge, Reshaper
    from trio_ai_proxy.relay.client import Headers
    from trio_ai_proxy.relay.exchange import Exchange, Plan
    from trio_ai_proxy.relay.feed import Feed

Encode = Callable[[Fold], Awaitable[bytes]]

_SPOONFUL = 8 * 1024
_MAX_CHOICES = 128  # OpenAI's own limit for `n`, which is the client's word


class Guarding:
    """What the guards of a model do for one exchange.

    uses     what each has done, for the books
    blocked  the guard that has stopped it
    """

    def __init__(self, guards: Sequence[Guard], desk: Desk) -> None:
        self.uses = {guard.name: GuardUse(guard.name, guard.kind) for guard in guards}
        self.blocked: Guard | None = None
        self.screen: Screen | None = None
        self._guards = guards
        self._desk = desk
        self._requests: dict[str, ChatRequest] = {}
        self._reshapers = [guard.reshaping for guard in guards if guard.reshaping is not None]

    @property
    def looks_at_answers(self) -> bool:
        """Whether an answer may leave otherwise than the provider has said it."""
        return any(guard.on_response or guard.judging or guard.reshaping for guard in self._guards)

    @property
    def changes_the_form(self) -> bool:
        """Whether what the client gets may be of another form than its dialect's."""
        return bool(self._reshapers)

    async def enter(self, request: ChatRequest) -> ChatRequest:
        """`request` as it may go on. Raises `GuardBlocked`, and what a guard that could not be asked makes of that."""
        for guard in self._guards:
            if guard.on_request is not None:
                use, before, began = self.uses[guard.name], request, trio.current_time()
                use.request = "failed"
                try:
                    request = await guard.on_request.enter(request, self._desk)
                    use.request = "passed" if request is before else "changed"
                except GuardBlocked:
                    use.request = "blocked"
                    self.blocked = guard
                    raise
                finally:
                    use.request_ms = round((trio.current_time() - began) * 1000, 3)
            self._requests[guard.name] = request
        return request

    def open_screen(self, exchange: Exchange, plan: Plan, feed: Feed, nursery: trio.Nursery) -> Screen:
        """What the answer passes through. Its tasks run in `nursery`."""
        self.screen = Screen(exchange, plan, feed, nursery, self)
        return self.screen

    def stages(self, screen: Screen, nursery: trio.Nursery) -> list[_Filtering | Judging]:
        """The guards that look at what an answer says, in their order, for `screen`."""
        stages: list[_Filtering | Judging] = []
        for guard in self._guards:
            request = self._requests[guard.name]
            if guard.on_response is not None:
                stages.append(_Filtering(guard, guard.on_response.filter(request)))
            if guard.judging is not None:
                stages.append(screen.judge(guard, guard.judging.judge_for(request), self._desk, len(stages), nursery))
        return stages

    def give_up(self) -> None:
        """The client has gone, and the provider is read on for its usage alone: nobody is asked about the answer any more."""
        if self.screen is not None:
            self.screen.give_up()

    def headers(self, headers: Headers) -> Headers:
        """The headers of an answer, as the guards would have them."""
        for reshaper in self._reshapers:
            headers = reshaper.headers(headers)
        return headers

    def document(self, body: bytes) -> bytes:
        """A whole answer, as the guards would have it."""
        return _reshape(body, self._reshapers) if self._reshapers else body

    def frames(self, out: bytes) -> bytes:
        """Events of a stream, as the guards would have them: each with its data in one line, as dialects write them."""
        if not self._reshapers or not out:
            return out
        lines = out.split(b"\n")
        for at, line in enumerate(lines):
            if line.startswith(b"data: {"):
                lines[at] = b"data: " + _reshape(line[6:], self._reshapers)
        return b"\n".join(lines)

    def asked(self, guard: str, tokens: int) -> None:
        """An exchange that `guard` has had made is over, and has cost `tokens`."""
        use = self.uses.get(guard)
        if use is not None:
            use.calls += 1
            use.tokens += tokens

    def finish_books(self) -> list[GuardUse]:
        """What each guard has done, when all is over."""
        if self.screen is not None:
            self.screen.fill_in(self.uses)
        return list(self.uses.values())


def _reshape(document: bytes, reshapers: Sequence[Reshaper]) -> bytes:
    fields = msgspec.json.decode(document)
    for reshaper in reshapers:
        fields = reshaper.document(fields)
    return msgspec.json.encode(fields)


class _Filtering:
    """A guard's filter, and for how long it held back what it held."""

    def __init__(self, guard: Guard, look: Filter) -> None:
        self.guard = guard
        self.filter = look
        self._held_seconds = 0.0
        self._held_since: float | None = None

    @property
    def held_seconds(self) -> float:
        pending = trio.current_time() - self._held_since if self._held_since is not None else 0.0
        return self._held_seconds + pending

    def feed(self, events: Sequence[Event]) -> list[Event]:
        out = self.filter.feed(events)
        if self.filter.held:
            if self._held_since is None:
                self._held_since = trio.current_time()
        else:
            self.release()
        return out

    def release(self) -> None:
        if self._held_since is not None:
            self._held_seconds += trio.current_time() - self._held_since
            self._held_since = None


class Screen:
    """The answer of one exchange on its way past the guards of its model: events in, what the client understands out.

    Whoever reads the provider feeds it. It stands still while a guard or the client is slow, and so does whoever feeds it.

    has_written  a part of the answer is on its way to the client
    """

    def __init__(self, exchange: Exchange, plan: Plan, feed: Feed, nursery: trio.Nursery, guarding: Guarding) -> None:
        self._exchange = exchange
        self._plan = plan
        self._feed = feed
        self._nursery = nursery
        self._guarding = guarding
        self._stages = guarding.stages(self, nursery)
        self._head = Started("", "")
        self._encoder: StreamEncoder | None = None
        self._fold: Fold | None = None if plan.stream else Fold()
        self._begun: set[int] = set()  # choices of which something has left
        self._ended: set[int] = set()  # … and the end
        self.has_written = False
        self._one_at_a_time = trio.Lock()

    def judge(self, guard: Guard, judge: Judge, desk: Desk, place: int, nursery: trio.Nursery) -> Judging:
        """The stage of a guard that has to ask, as number `place` of all."""

        async def deliver(events: list[Event]) -> None:
            await self._pass(events, place + 1)

        return Judging(guard.name, judge, desk, nursery, deliver, on_block=lambda error: self._block(guard, error))

    async def feed(self, events: Sequence[Event]) -> None:
        """Take what the provider has said. Returns when what may leave of it has left, as far as the guards keep up."""
        async with self._one_at_a_time:
            if not self._exchange.ended:
                # A provider that fails is not the end of the answer: another may go on in the middle of what is held.
                for piece in in_spoonfuls([event for event in events if not isinstance(event, Failed)]):
                    await self._pass(piece, 0)
                    if len(events) > 1:
                        await trio.lowlevel.checkpoint()  # a long answer in one piece must not hold up the others

    async def finish(self, encode: Encode) -> None:
        """The provider has said everything. Returns when all of it has left, which makes the exchange whole. `encode` writes the
        answer for a client that wants no stream."""
        await self.close()
        if self._exchange.ended:
            return
        body = self._guarding.document(await encode(self._fold)) if self._fold is not None else b""
        await trio.lowlevel.checkpoint_if_cancelled()
        self._exchange.whole = True  # from here on nothing comes in between
        if self._fold is not None:
            await self._feed.send(body)
        self._feed.close()

    async def close(self) -> None:
        """The provider says no more. Returns when all that may leave has left."""
        async with self._one_at_a_time:
            for place, stage in enumerate(self._stages):
                if self._exchange.ended:
                    return
                if isinstance(stage, Judging):
                    await stage.close()
                    continue
                rest = stage.filter.close()
                stage.release()
                await self._pass(rest, place + 1)
                if stage.filter.blocked is not None:
                    self._block(stage.guard, stage.filter.blocked)

    def give_up(self) -> None:
        """Nobody waits for the answer any more: what still comes is taken, and nobody is asked about it."""
        for stage in self._stages:
            if isinstance(stage, Judging):
                stage.give_up()

    def later(self, until: float, act: Callable[[], Awaitable[None]]) -> trio.CancelScope:
        """Do something at that time, unless the scope that is returned is cancelled before."""
        scope = trio.CancelScope()

        async def wait() -> None:
            with scope:
                await trio.sleep_until(until)
            if not scope.cancel_called:  # perhaps in the very instant, in which the sleep is over all the same
                try:
                    await act()
                except ProxyError as error:
                    self._exchange.settle(Cause.UPSTREAM_ERROR, error)
                    self._exchange.upstream.cancel()

        self._nursery.start_soon(wait)
        return scope

    async def _pass(self, events: Sequence[Event], place: int) -> None:
        """Through the stages from number `place` on, and out."""
        for at in range(place, len(self._stages)):
            stage = self._stages[at]
            if not events:
                return
            if isinstance(stage, Judging):
                await stage.feed(events)
                return
            events = stage.feed(events)
            if stage.filter.blocked is not None:
                await self._pass(events, at + 1)
                self._block(stage.guard, stage.filter.blocked)
                return
        if events:
            await self._write(events)

    async def _write(self, events: Sequence[Event]) -> None:
        if self._exchange.ended:
            return
        if self._fold is not None:
            for event in events:
                self._fold.add(event)
            return
        if self._encoder is None:
            self._head = next((event for event in events if isinstance(event, Started)), self._head)
            self._encoder = self._new_encoder()
        out = self._guarding.frames(self._encoder.feed(events))
        if out:
            self.has_written = True
            if not self._feed.send_nowait(out):
                await self._feed.send(out)
        for event in events:  # now that it has left: a guard may have stopped it on its way to a slow client
            index = getattr(event, "index", None)
            if index is not None:
                self._begun.add(index)
                if isinstance(event, Finished):
                    self._ended.add(index)

    def _new_encoder(self) -> StreamEncoder:
        leg = self._exchange.leg
        return self._exchange.dialect.encoder(self._head, leg.request if leg is not None else None)

    def _block(self, guard: Guard, error: GuardBlocked) -> None:
        """End it here: the outcome first, and then the upstream goes."""
        if self._exchange.settle(Cause.GUARD, error, f"guard '{guard.name}': {error.message}"):
            self._guarding.blocked = guard
        self._exchange.upstream.cancel()

    def cut_off(self) -> bytes | None:
        """The end of a stream that a guard has cut, where the guard is to end it as a filter of the provider's would: a finish
        reason for each choice, with the guard's name. None: it ends with an error."""
        guard = self._guarding.blocked
        if guard is None or guard.on_block != "finish" or self._encoder is None:
            return None
        count = self._plan.request.fields.get("n")
        choices = self._begun.union(range(min(count, _MAX_CHOICES) if isinstance(count, int) else 1))
        ends = [Finished("content_filter", index) for index in sorted(choices - self._ended)]
        if not ends:  # nothing is left to be said of any choice
            return None
        fresh = self._new_encoder()  # for choices that the client knows nothing of: it says who speaks
        out = b"".join((self._encoder if end.index in self._begun else fresh).feed([end]) for end in ends)
        lines = out.split(b"\n")
        for at, line in enumerate(lines):
            if line.startswith(b"data: {"):
                lines[at] = b"data: " + msgspec.json.encode(msgspec.json.decode(line[6:]) | {"guard": guard.name})
        return self._guarding.frames(b"\n".join(lines))

    def fill_in(self, uses: dict[str, GuardUse]) -> None:
        """What the guards have found, and for how long they held it."""
        for stage in self._stages:
            if isinstance(stage, Judging):
                use = uses[stage.name]
                use.windows, use.verdicts = stage.windows, dict(stage.verdicts)
                if stage.failures:
                    use.verdicts["failed"] = stage.failures
            else:
                use = uses[stage.guard.name]
                use.hits = stage.filter.hits
                if stage.filter.blocked is not None:
                    use.verdicts = {"block": 1}
            use.held_ms = round(stage.held_seconds * 1000, 3)


def in_spoonfuls(events: Sequence[Event]) -> Iterator[list[Event]]:
    """`events` in lists of at most about 8,000 characters, for what takes time with each. A longer delta becomes several."""
    spoonful: list[Event] = []
    size = 0
    for event in events:
        said = _said(event)
        size += len(said)
        if size > _SPOONFUL and isinstance(event, TextDelta | ReasoningDelta | RefusalDelta | ToolCallDelta):
            name = "arguments" if isinstance(event, ToolCallDelta) else "text"
            for start in range(0, len(said), _SPOONFUL):
                piece: dict[str, str] = {name: said[start : start + _SPOONFUL]}
                if start and isinstance(event, ToolCallDelta):
                    piece |= {"id": "", "name": "", "signature": ""}  # which the first has told
                yield [*spoonful, msgspec.structs.replace(event, **piece)]
                spoonful = []
            size = 0
        else:
            spoonful.append(event)
    if spoonful:
        yield spoonful


def _said(event: Event) -> str:
    if isinstance(event, TextDelta | ReasoningDelta | RefusalDelta):
        return event.text
    return event.arguments if isinstance(event, ToolCallDelta) else ""
