"""An exchange that the gateway makes itself, on behalf of another one: a guard asks a model, a balance wants a vector.

It is an exchange like any other: its own request id, deadline, slots, attempts, record and metrics, and it is listed among those
that live. It runs in the task of whoever asked, and is cancelled with it. It has no guards and nothing to prepare, so it has no
children either.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

import msgspec
import trio

from trio_ai_proxy.accounting.outcome import Cause
from trio_ai_proxy.chat.request import ChatRequest
from trio_ai_proxy.errors import ClientError, InternalError, InvalidRequest
from trio_ai_proxy.relay.client import Client
from trio_ai_proxy.relay.counting import settle_usage
from trio_ai_proxy.relay.exchange import Exchange
from trio_ai_proxy.relay.run import run_exchange

if TYPE_CHECKING:
    from collections.abc import Mapping

    from trio_ai_proxy.chat.events import Started
    from trio_ai_proxy.chat.fold import Answer
    from trio_ai_proxy.chat.request import Operation
    from trio_ai_proxy.chat.usage import TokenUsage
    from trio_ai_proxy.dialects.base import StreamEncoder, StreamGrammar
    from trio_ai_proxy.errors import ProxyError
    from trio_ai_proxy.relay.exchange import Live
    from trio_ai_proxy.relay.planning import Planner


class Home(Protocol):
    """The gateway, seen from a child."""

    live: Live
    planner: Planner

    def record(self, exchange: Exchange, client: Client) -> None:
        """Write the books: once for every exchange, when it has ended."""
        ...

    def report_bug(self, exchange: Exchange, error: BaseException) -> None:
        """Log a bug under the exchange's request id."""
        ...


async def ask_child(
    home: Home,
    parent: Exchange,
    purpose: str,
    operation: Operation,
    model: str,
    fields: Mapping[str, Any],
    *,
    seconds: float,
) -> Answer:
    """Have the configured `model` answer a request with these `fields` (without `model` and `stream`).

    purpose  what for: the name of a guard, or of what else the gateway does by itself

    Raises `ProxyError` where there is no whole answer within `seconds`, or within what is left of the parent's time.
    """
    now = trio.current_time()
    kept = _Kept(operation)
    parent.children += 1
    child = Exchange(f"{parent.request_id}-g{parent.children}", kept, home.live, now=now)
    child.parent, child.guard = parent.request_id, purpose
    child.key, child.model = parent.key, model
    child.departure_is_told = True  # whoever asked does not leave without cancelling this task
    client = Client(_take_nothing, [])
    home.live.add(child)
    try:
        request = ChatRequest(operation, model, stream=False, include_usage=False, fields={**fields, "model": model})
        try:
            child.body_bytes = _size(request.fields)
            child.plan = plan = home.planner.plan_child(
                request, child.key, seconds=min(seconds, parent.upstream.deadline - now)
            )
        except ClientError as error:
            child.settle(Cause.REFUSED, error)
            raise
        await run_exchange(child, plan, client, home.report_bug)
        if child.outcome.cause is Cause.COMPLETED:
            child.phase = "done"
        await settle_usage(child)
    finally:
        # Cancelled from above, or a bug of ours here.
        child.settle(*_cause_from(parent))
        if parent.guarding is not None and child.usage is not None:
            parent.guarding.asked(purpose, child.usage[0].total_tokens)
        home.live.remove(child)
        home.record(child, client)
    if child.outcome.cause is not Cause.COMPLETED or kept.answer is None:
        raise child.outcome.error or InternalError(f"The model `{model}` could not be asked.")
    return kept.answer


def _cause_from(parent: Exchange) -> tuple[Cause, None, str]:
    """Why a child has ended that has not said so itself: it was cancelled, and not by its own deadline."""
    if parent.outcome.cause is not None:
        return parent.outcome.cause, None, "with its parent"
    if parent.upstream.deadline <= trio.current_time():
        return Cause.TIMEOUT_TOTAL, None, "with its parent"
    return Cause.CANCELLED, None, "nobody waits for it any more"


async def _take_nothing(message: object) -> None:
    """Stands where a client's connection stands: what the child has to say is kept, not sent."""
    await trio.lowlevel.checkpoint()


def _size(fields: Mapping[str, Any]) -> int:
    try:
        return len(msgspec.json.encode(fields))
    except (RecursionError, UnicodeEncodeError) as error:
        raise InvalidRequest("The gateway's own request cannot be written as JSON.") from error


class _Kept:
    """A `Dialect` for an answer that stays here: of no provider's wire, so that every answer is read, and kept whole.

    answer  what was answered, None before it
    """

    name = "gateway"
    wire = ""
    terminal = b""
    keep_alive = b""

    def __init__(self, operation: Operation) -> None:
        self.operation: Operation = operation
        self.answer: Answer | None = None

    def encode_answer(self, answer: Answer, request: ChatRequest) -> bytes:
        self.answer = answer
        return b""

    def encode_error(self, error: ProxyError) -> bytes:
        return b""  # it is in the outcome

    def encode_stream_error(self, error: ProxyError) -> bytes:
        return b""

    def encode_usage(self, started: Started, usage: TokenUsage) -> bytes:
        return b""

    def parse_request(self, body: bytes, *, model: str | None = None) -> ChatRequest:
        raise RuntimeError("nobody sends the gateway its own requests")

    def encoder(self, started: Started, request: ChatRequest | None = None) -> StreamEncoder:
        raise RuntimeError("the gateway asks for whole answers")

    def grammar(self, *, include_usage: bool, own: bool) -> StreamGrammar:
        raise RuntimeError("the gateway asks for whole answers, so there is no grammar of a stream")
