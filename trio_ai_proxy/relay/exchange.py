"""One exchange: what it is about, how far it has come, and how it may be ended from outside.

Whoever ends it settles the outcome first and cancels second, and only ever cancels the reader: the upstream is released
from the reader's side, the channel closes behind it, and the writer says to the client what the outcome is.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import trio

from trio_ai_proxy.accounting.outcome import Cause, Outcome

if TYPE_CHECKING:
    from tiktoken import Encoding

    from trio_ai_proxy.accounting.meter import Meter
    from trio_ai_proxy.accounting.record import Attempt
    from trio_ai_proxy.chat.request import ChatRequest
    from trio_ai_proxy.chat.usage import TokenUsage, UsageSource
    from trio_ai_proxy.dialects.base import Dialect
    from trio_ai_proxy.errors import ProxyError
    from trio_ai_proxy.guards.slots import Slots
    from trio_ai_proxy.providers.base import Provider
    from trio_ai_proxy.relay.override import Override
    from trio_ai_proxy.relay.scrutiny import Scrutiny
    from trio_ai_proxy.settings import ModelSettings, Timeouts
    from trio_ai_proxy.upstream.client import UpstreamClient

Phase = Literal["accepted", "body", "queue", "connect", "first_token", "streaming", "done"]

MAX_ABANDONED = 64
MAX_ABANDONED_BYTES = 8 * 2**20


@dataclass(frozen=True, slots=True)
class Target:
    """Where an exchange goes: one provider, its own name for the model, and the deadlines that hold."""

    provider: Provider
    model: str
    client: UpstreamClient
    slots: Slots
    timeouts: Timeouts


@dataclass(frozen=True, slots=True)
class Plan:
    """What is to be done.

    stream         the client gets a stream
    ask_stream     the provider is asked for one
    hide_usage     the client did not ask for the usage chunk
    client_model   the name to show to the client in place of the provider's, or None where they are the same
    override       the client's own credential, which goes out in place of ours, or None
    """

    request: ChatRequest
    model: ModelSettings
    target: Target
    stream: bool
    ask_stream: bool
    hide_usage: bool
    client_model: str | None
    override: Override | None = None


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
        "abandoned", "accepted_at", "attempts", "body_bytes", "departure_is_told", "dialect", "encoding", "key",
        "live", "meter", "model", "opened_at", "outcome", "phase", "plan", "receiving", "released_at", "request_id",
        "scrutiny", "settled_at", "upstream", "usage", "whole",
    )  # fmt: skip

    def __init__(self, request_id: str, dialect: Dialect, live: Live, *, now: float) -> None:
        self.request_id = request_id
        self.dialect = dialect
        self.live = live
        self.key: str | None = None
        self.model = ""  # the name that the client asked for
        self.plan: Plan | None = None
        self.meter: Meter | None = None
        self.scrutiny: Scrutiny | None = None
        self.encoding: Encoding | None = None
        self.usage: tuple[TokenUsage, UsageSource] | None = None
        self.body_bytes = 0
        self.outcome = Outcome()
        self.phase: Phase = "accepted"
        self.attempts: list[Attempt] = []
        self.accepted_at = now
        self.settled_at: float | None = None
        self.opened_at: float | None = None
        self.released_at: float | None = None
        self.receiving = trio.CancelScope()  # the wait for the client's body
        self.upstream = trio.CancelScope()  # everything that the reader does
        self.departure_is_told = False  # at once, and never for the end of an answer (the guarded server does so)
        self.whole = False  # the provider has said everything; what is left is to hand it over
        self.abandoned = False  # the client has gone, and the provider is read on for its usage

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
        self.upstream.deadline = min(self.upstream.deadline, trio.current_time() + seconds)

    def _read_on_seconds(self) -> float:
        if self.plan is None:
            return 0.0
        model, target = self.plan.model, self.plan.target
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
