"""One exchange: what it is about, how far it has come, and how it may be ended from outside.

Whoever ends it settles the outcome first and cancels second, and only ever cancels the reader: the upstream is released
from the reader's side, the channel closes behind it, and the writer says to the client what the outcome is.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Literal, Protocol

import msgspec
import trio
from msgspec.structs import replace

from trio_ai_proxy.accounting.outcome import Cause, Outcome

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from tiktoken import Encoding

    from trio_ai_proxy.accounting.meter import Meter
    from trio_ai_proxy.accounting.record import Attempt
    from trio_ai_proxy.chat.request import ChatRequest
    from trio_ai_proxy.chat.usage import TokenUsage, UsageSource
    from trio_ai_proxy.dialects.base import Dialect
    from trio_ai_proxy.errors import ProxyError
    from trio_ai_proxy.guards.slots import Slots
    from trio_ai_proxy.providers.base import Provider
    from trio_ai_proxy.relay.credentials import Credential
    from trio_ai_proxy.relay.guarding import Guarding
    from trio_ai_proxy.relay.override import Override
    from trio_ai_proxy.relay.scrutiny import Scrutiny
    from trio_ai_proxy.relay.thread import Thread
    from trio_ai_proxy.settings import ModelSettings, Timeouts
    from trio_ai_proxy.upstream.client import UpstreamClient

Phase = Literal["accepted", "body", "prepare", "queue", "connect", "first_token", "streaming", "done"]

MAX_ABANDONED = 64
MAX_ABANDONED_BYTES = 8 * 2**20


class Target(msgspec.Struct, frozen=True):
    """Where an exchange goes: one provider, its own name for the model, and the deadlines that hold."""

    provider: Provider
    model: str
    client: UpstreamClient
    slots: Slots
    timeouts: Timeouts


class Leg(msgspec.Struct, frozen=True):
    """One way to an answer: a target, and what follows from choosing it.

    index          its place among the model's targets
    request        what is asked there
    ask_stream     the provider is asked for a stream
    client_model   the name to show to the client in place of the provider's, or None where they are the same
    override       the client's own credential, which goes out in place of ours, or None
    encoding       how its tokens are counted, None: they are estimated
    can_prefill    it goes on from an assistant's message as if it had begun it itself
    begun          the text that it is asked to go on from, "" where it is asked for the whole answer
    credential     the one of the provider's several that goes out, None where there are not several
    """

    index: int
    target: Target
    request: ChatRequest
    ask_stream: bool
    client_model: str | None
    override: Override | None = None
    encoding: Encoding | None = None
    can_prefill: bool = False
    begun: str = ""
    credential: Credential | None = None

    def with_credential(self, credential: Credential) -> Leg:
        """The same leg, with that one of the provider's credentials."""
        provider = credential.of.provider(credential.index, self.target.model)
        return replace(self, target=replace(self.target, provider=provider), credential=credential)

    def prefilled(self, text: str | None) -> Leg | None:
        """The same leg, asked to go on from `text`; None where that cannot be asked."""
        request = self.request
        blank = text is None or not text.strip()
        if blank or text is None or request.operation != "chat" or not self.can_prefill:
            return None
        messages = list(request.fields["messages"])
        said = ""
        if messages and isinstance(messages[-1], dict) and messages[-1].get("role") == "assistant":
            # The client has begun the answer itself: its words and ours are one message.
            said = messages.pop().get("content")
            if not isinstance(said, str):
                return None
        messages.append({"role": "assistant", "content": said + text.rstrip()})
        fields = {**request.fields, "messages": messages}
        return replace(self, request=dataclasses.replace(request, fields=fields), begun=text)


class Journey(Protocol):
    """Where one exchange goes, from target to target, and what is learnt of them on the way."""

    def first(self) -> Leg:
        """Where it goes first. Raises `InvalidRequest` if there is no target that can take it at all."""
        ...

    def after(self, failed: Sequence[tuple[Leg, ProxyError]], *, left: float) -> tuple[Leg, float] | None:
        """Where it goes when these have failed, side by side where there are several, and after how many seconds; None if it ends
        with that. `left` are the seconds that the exchange still has."""
        ...

    def instead(self, leg: Leg, error: ProxyError, *, is_cut: bool) -> Leg | None:
        """Who can make the answer again that has broken off, now that `leg` has failed with `error`; None if nobody is left.
        `is_cut`: the client has been given some of what this one said."""
        ...

    def beside(self, leg: Leg) -> Leg | None:
        """Who is asked beside `leg`, which is slow; None if there is nobody, or too many have been asked so already."""
        ...

    def hedge_after(self, leg: Leg) -> float | None:
        """After how many seconds without a token another is asked beside `leg`; None: never."""
        ...

    def begin(self, leg: Leg) -> Trial:
        """An attempt begins there. Every trial ends, once."""
        ...


class Trial(Protocol):
    """One attempt, as the books on its target see it."""

    def sent(self) -> None:
        """It has its slot: from here on it is the target that is waited for."""
        ...

    def first_token(self) -> None:
        """A stream has shown real generation."""
        ...

    def end(self, error: ProxyError | None, meter: Meter, *, is_over: bool) -> None:
        """It has ended: with `error`, or whole, or, if not `is_over`, cancelled before anybody could tell."""
        ...


class Plan(msgspec.Struct, frozen=True):
    """What is to be done.

    stream      the client gets a stream
    hide_usage  the client did not ask for the usage chunk
    journey     where it goes
    total       seconds that all of it may take
    scrutinise  makes what looks at the stream of one leg, where somebody wants that
    prepare     what has to be waited for before it can be said where it goes: gives the plan that is then followed. It runs
                within the exchange, and counts against its deadline. Raises `ProxyError` where the exchange goes no further.
                What the client gets (`stream`, `hide_usage`, the model) stays as it is
    """

    request: ChatRequest
    model: ModelSettings
    stream: bool
    hide_usage: bool
    journey: Journey
    total: float
    scrutinise: Callable[[Exchange, Leg], Scrutiny] | None = None
    prepare: Callable[[Exchange, Plan], Awaitable[Plan]] | None = None


class Live:
    """The exchanges that live now. Its length is the gauge; nothing stays in it that has no task."""

    def __init__(self) -> None:
        self.exchanges: dict[int, Exchange] = {}
        self.abandoned = 0
        self.empty = trio.Event()
        self.empty.set()

    def __len__(self) -> int:
        return len(self.exchanges)

    def add(self, exchange: Exchange) -> None:
        if not self.exchanges:
            self.empty = trio.Event()
        self.exchanges[id(exchange)] = exchange

    def remove(self, exchange: Exchange) -> None:
        del self.exchanges[id(exchange)]
        if not self.exchanges:
            self.empty.set()

    def find(self, request_id: str) -> Exchange | None:
        """The exchange of that id; the oldest one, should a client have used its id twice."""
        return next((exchange for exchange in self.exchanges.values() if exchange.request_id == request_id), None)


class Exchange:
    """One client request, from its acceptance to its record."""

    __slots__ = (
        "abandoned", "accepted_at", "attempts", "attempts_begun", "attempts_committed", "body_bytes", "children",
        "departure_is_told", "dialect", "guard", "guarding", "key", "leg", "live", "malformed", "meter", "model",
        "opened_at", "outcome", "parent", "phase", "plan", "receiving", "released_at", "request_id", "settled_at", "thread",
        "upstream", "usage", "whole",
    )  # fmt: skip

    def __init__(self, request_id: str, dialect: Dialect, live: Live, *, now: float) -> None:
        self.request_id = request_id
        self.dialect = dialect
        self.live = live
        self.key: str | None = None
        self.model = ""  # the name that the client asked for
        self.parent: str | None = None  # the request id of the exchange that has made this one
        self.guard: str | None = None  # … and what for
        self.guarding: Guarding | None = None  # the guards of its model, where it has some
        self.children = 0  # how many it has made itself
        self.plan: Plan | None = None
        self.leg: Leg | None = None  # the one that answers, or was tried last
        self.meter: Meter | None = None
        self.usage: tuple[TokenUsage, UsageSource] | None = None
        self.body_bytes = 0
        self.outcome = Outcome()
        self.phase: Phase = "accepted"
        self.attempts: list[Attempt] = []  # those that have ended
        self.attempts_begun = 0
        self.attempts_committed = 0  # more than one: the answer was continued
        self.malformed = 0  # events of the provider that made no sense and were passed over
        self.thread: Thread | None = None  # what the client has been given, where an answer may be continued
        self.accepted_at = now
        self.settled_at: float | None = None
        self.opened_at: float | None = None
        self.released_at: float | None = None
        self.receiving = trio.CancelScope()  # the wait for the client's body
        self.upstream = trio.CancelScope()  # everything that the reader does
        self.departure_is_told = False  # at once, and never for the end of an answer (the guarded server does so)
        self.whole = False  # the provider has said everything; what is left is to hand it over
        self.abandoned = False  # the client has gone, and the provider is read on for its usage

    def answer_with(self, leg: Leg, meter: Meter) -> None:
        """`leg` answers from now on, as far as is known now."""
        before = self.meter
        is_continued = self.thread is not None and self.thread.started is not None
        if is_continued and before is not None and meter.ttft is not None:
            meter.ttft = before.ttft  # the client has had its first token long since
        self.leg = leg
        self.meter = meter
        self.usage = None

    def settle(self, cause: Cause, error: ProxyError | None = None, detail: str | None = None) -> bool:
        """Say how it ended, and when. Only the first to say so counts; returns whether this was it."""
        if not self.outcome.settle(cause, error, detail):
            return False
        self.settled_at = trio.current_time()
        return True

    def interrupt(self, cause: Cause, error: ProxyError) -> None:
        """End it from outside: an operator, a shutdown. An abandoned one, which has its outcome, only stops reading; one
        whose answer is whole is over when the client has taken it."""
        if not self.whole:
            self.settle(cause, error)
        self.receiving.cancel()
        self.upstream.cancel()

    def client_left(self, *, stalled: bool = False) -> None:
        """The client has gone. Release the provider at once, or read on within bounds, as the model's policy says."""
        detail = "the client stopped reading" if stalled else f"the client left in phase {self.phase}"
        if not self.settle(Cause.CLIENT_GONE, detail=detail):
            return
        seconds = self._read_on_seconds()
        if seconds <= 0 or self.opened_at is None or self.whole or self.live.abandoned >= MAX_ABANDONED:
            self.upstream.cancel()
            return
        self.abandoned = True
        self.live.abandoned += 1
        if self.guarding is not None:
            self.guarding.give_up()
        self.upstream.deadline = min(self.upstream.deadline, trio.current_time() + seconds)

    def _read_on_seconds(self) -> float:
        if self.plan is None or self.leg is None:
            return 0.0
        model, target = self.plan.model, self.leg.target
        match model.on_disconnect:
            case "cancel":
                return 0.0
            case "drain":
                return target.timeouts.abandoned
            case "grace":
                return min(model.grace, target.timeouts.abandoned)
            case "auto":
                return target.timeouts.abandoned if target.provider.capabilities.bills_after_abort else 0.0

    @property
    def ended(self) -> bool:
        """Whether somebody has said how it ended."""
        return self.outcome.cause is not None
