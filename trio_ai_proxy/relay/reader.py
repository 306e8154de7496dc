"""The upstream task: attempts, one after the other or side by side, until one has answered. It never raises what a provider
can do wrong; it settles the outcome, or says that the answer is whole, closes its end of the channel, and the writer says the
rest.

Once an attempt has been committed to, what it brings is what the client gets. Should it break off then, another can only
continue it (`relay.thread`), where the model's `continuation` says so.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import msgspec
import trio

from trio_ai_proxy.accounting.outcome import Cause
from trio_ai_proxy.accounting.record import Attempt as AttemptRow
from trio_ai_proxy.errors import (
    GuardBlocked,
    GuardFailed,
    InvalidRequest,
    Overloaded,
    ProxyError,
    TruncatedStream,
    UpstreamError,
    UpstreamTimeout,
)
from trio_ai_proxy.relay.attempt import Attempt, Beaten
from trio_ai_proxy.relay.seam import Diverged
from trio_ai_proxy.relay.thread import Thread
from trio_ai_proxy.relay.whole import encode_answer

if TYPE_CHECKING:
    from collections.abc import Callable

    from trio_ai_proxy.relay.exchange import Exchange, Leg, Plan
    from trio_ai_proxy.relay.feed import Feed
    from trio_ai_proxy.relay.guarding import Guarding


async def read_upstream(
    exchange: Exchange, plan: Plan, feed: Feed, report_bug: Callable[[Exchange, BaseException], None]
) -> None:
    """Have the answer made and send what the client is to get. When this returns the answer is whole or the outcome is
    settled, unless it was cancelled from above."""
    scope = exchange.upstream
    try:
        scope.deadline = trio.current_time() + plan.total
        with scope:
            if plan.prepare is not None:
                exchange.phase = "prepare"
                plan = exchange.plan = await plan.prepare(exchange, plan)
            guarding = exchange.guarding
            if guarding is None or not guarding.looks_at_answers:
                await _Attempts(exchange, plan, feed).run()
            else:
                await _answer_past(guarding, exchange, plan, feed)
        if scope.cancelled_caught and not exchange.ended and not exchange.whole:
            error = UpstreamTimeout("total", plan.total, f"The exchange was not over within {plan.total:g} s.")
            exchange.settle(Cause.TIMEOUT_TOTAL, error)
    except ProxyError as error:
        if exchange.leg is not None and exchange.leg.override is not None:
            exchange.leg.override.scrub(error)
        exchange.settle(_cause_of(error), error)
    except Exception as error:  # noqa: BLE001  # here, so that the writer can finish the piece that it has in hand
        exchange.settle(Cause.BUG, detail=repr(error))
        report_bug(exchange, error)
    finally:
        if exchange.abandoned:
            exchange.live.abandoned -= 1
        feed.close()


async def _answer_past(guarding: Guarding, exchange: Exchange, plan: Plan, feed: Feed) -> None:
    """Have an answer made at which guards look. It is whole when the last of them has let the last of it pass."""
    failure: ProxyError | None = None
    feed.client.reshape = guarding.headers
    async with trio.open_nursery() as nursery:
        screen = guarding.open_screen(exchange, plan, feed, nursery)
        attempts = _Attempts(exchange, plan, feed)
        try:
            try:
                await attempts.run()
            except ProxyError as error:
                failure = error
            if failure is None and attempts.answered is not None:
                await screen.finish(partial(encode_answer, attempts.answered))
            elif screen.has_written:
                await screen.close()  # what has passed the guards is the client's, and then it is told
        except ProxyError as error:
            failure = failure or error
        finally:
            if not screen.has_written and not exchange.whole:  # the guards have kept all of it
                exchange.attempts = [msgspec.structs.replace(row, answered=False) for row in exchange.attempts]
        nursery.cancel_scope.cancel()
    if failure is not None:
        raise failure


def _cause_of(error: ProxyError) -> Cause:
    if isinstance(error, GuardBlocked | GuardFailed):
        return Cause.GUARD
    if isinstance(error, UpstreamTimeout):
        return Cause(f"timeout_{error.deadline}")
    if isinstance(error, TruncatedStream):
        return Cause.UPSTREAM_TRUNCATED
    if isinstance(error, Overloaded):
        return Cause.TIMEOUT_QUEUE if error.code == "timeout_queue" else Cause.LIMIT
    return Cause.UPSTREAM_ERROR if isinstance(error, UpstreamError) else Cause.REFUSED


class _Attempts:
    """Those of one exchange."""

    __slots__ = (
        "_answering", "_broken", "_decided", "_exchange", "_failed", "_feed", "_gave", "_plan", "_rows", "_running", "answered",
    )  # fmt: skip

    def __init__(self, exchange: Exchange, plan: Plan, feed: Feed) -> None:
        self._exchange = exchange
        self._plan = plan
        self._feed = feed
        self.answered: Attempt | None = None  # the one that has said everything
        self._answering: Attempt | None = None
        self._running: dict[Attempt, trio.CancelScope | None] = {}  # with a scope where others may run beside it
        self._decided: trio.Event | None = None
        self._failed: list[Attempt] = []
        self._broken: ProxyError | None = None  # what broke off an answer of which the client has a part
        self._gave: Attempt | None = None  # the last that gave the client something
        self._rows: dict[Attempt, AttemptRow | None] = {}  # in the order in which they began
        if plan.stream and plan.model.continuation != "off":
            exchange.thread = Thread()

    async def run(self) -> None:
        """Returns when one has answered. Else raises what the client is to be told: what broke the answer off, or the failure
        that tells the most."""
        exchange = self._exchange
        leg, kind = self._plan.journey.first(), "first"
        while True:
            seconds = self._plan.journey.hedge_after(leg) if self._broken is None else None
            if seconds is None:
                only = self._begin(leg, kind, alone=True)
                await self._make(only)
                failed = [only] if only.error is not None else []
            else:
                failed = await self._race(leg, kind, seconds)
            # To a client that waits for the whole nothing has been given yet, and all of it can be made again. Nor has it where
            # the beginning was held back.
            answering, self._answering = self._answering, None
            cut = answering if answering is not None and answering.committed and self._plan.stream else None
            if not failed:
                self.answered = answering
                return
            self._failed += failed
            if cut is not None:
                self._broken = self._broken or cut.error
                self._gave = cut if cut.gave or self._gave is None else self._gave
            step = None if exchange.ended else self._go_on(failed, cut) if self._broken else self._again(failed)
            if step is None:
                raise self._what_to_tell()
            kind = "continuation" if self._broken else "retry" if step[0].index == leg.index else "next"
            leg, pause = step
            exchange.opened_at = None  # nothing is open while we wait
            if pause > 0:
                await trio.sleep(pause)

    def _lacks_nothing(self, thread: Thread) -> bool:
        """Whether each choice has said its last word. What broke off then is the end itself, and nobody else can say that
        for the provider: it is told as the break that it is, as it is without continuation."""
        count = self._plan.request.fields.get("n")
        return thread.is_finished(count if isinstance(count, int) else 1)

    def _what_to_tell(self) -> ProxyError:
        """The failure for the client, whose target is then the one that is named. Of an answer that broke off it is the break.
        Otherwise who was asked first is heard first: what others say, who only stood in, would hide it, the more so where they
        had not even been asked."""
        order = (UpstreamError, Overloaded, ProxyError)
        failures = next(
            found for kind in order if (found := [one for one in self._failed if isinstance(one.error, kind)])
        )
        told = [one for one in failures if one.leg.index == failures[0].leg.index][-1]
        error = self._broken or told.error
        answering = told if self._broken is None or self._gave is None else self._gave
        self._exchange.answer_with(answering.leg, answering.meter)
        return error if error is not None else UpstreamError("The provider has not answered.")

    def _again(self, failed: list[Attempt]) -> tuple[Leg, float] | None:
        """Where to ask next, before anything has been given to the client."""
        left = self._exchange.upstream.deadline - trio.current_time()
        errors = [(one.leg, one.error) for one in failed if one.error is not None]
        return self._plan.journey.after(errors, left=left)

    def _go_on(self, failed: list[Attempt], cut: Attempt | None) -> tuple[Leg, float] | None:
        """Where to have the rest of an answer made that broke off; None where that cannot be done honestly."""
        thread, last = self._exchange.thread, cut or failed[-1]
        leg, error = last.leg, last.error
        if thread is None or error is None or self._lacks_nothing(thread):
            return None
        if isinstance(error, Diverged):
            # It says something else from the beginning on. From where we are it may go on, if it can begin there.
            prefilled = leg.prefilled(thread.text)
            if prefilled is not None:
                return prefilled, 0.0
        other = self._plan.journey.instead(leg, error, is_cut=cut is not None)
        return None if other is None else (other, 0.0)

    async def _race(self, leg: Leg, kind: str, seconds: float) -> list[Attempt]:
        """One attempt, and beside it another where the first has said nothing after so many seconds. Returns those that failed,
        nothing if one has answered."""
        journey = self._plan.journey
        first = self._begin(leg, kind)
        contenders = [first]
        decided = self._decided = trio.Event()  # one answers, or the first has failed

        async def run(contender: Attempt) -> None:
            await self._make(contender)
            decided.set()

        async with trio.open_nursery() as race:
            race.start_soon(run, first)
            with trio.move_on_after(seconds):
                await decided.wait()
            other = journey.beside(leg) if not decided.is_set() and not self._exchange.ended else None
            if other is not None:
                contenders.append(self._begin(other, "hedge"))
                race.start_soon(run, contenders[1])
        if self._answering is not None:
            contenders = [self._answering]
        return [one for one in contenders if one.error is not None]

    def _begin(self, leg: Leg, kind: str, *, alone: bool = False) -> Attempt:
        """An attempt, which is in the books of its target from now on: it must be made. `alone`: no other is made beside it."""
        exchange, plan = self._exchange, self._plan
        attempt = Attempt(exchange, plan, leg, kind, self._feed, self._pass, plan.journey.begin(leg))
        if not exchange.attempts_committed and not self._running:
            exchange.answer_with(leg, attempt.meter)
        exchange.attempts_begun += 1
        self._running[attempt] = None if alone else trio.CancelScope()
        self._rows[attempt] = None
        return attempt

    async def _make(self, attempt: Attempt) -> None:
        """Have it run. What went wrong is its `error`; there is none either where it was beaten."""
        exchange = self._exchange
        began = trio.current_time()
        is_over = False
        try:
            scope = self._running[attempt]
            if scope is None:
                await attempt.run()
                is_over = True
            else:
                with scope:
                    await attempt.run()
                    is_over = True
        except Beaten:
            pass
        except (UpstreamError, Overloaded, InvalidRequest) as error:
            attempt.error = error
            is_over = not exchange.abandoned  # else it was read on within bounds of ours
        finally:
            del self._running[attempt]
            attempt.trial.end(attempt.error, attempt.meter, is_over=is_over)
            exchange.malformed += attempt.malformed
            self._rows[attempt] = self._row(attempt, began, is_over=is_over)
            exchange.attempts = [row for row in self._rows.values() if row is not None]

    def _pass(self, attempt: Attempt) -> None:
        """Let `attempt` answer, and stop those beside it. Raises `Beaten` if another one answers already."""
        if self._answering is not None:
            raise Beaten
        self._answering = attempt
        for other, scope in self._running.items():
            if other is not attempt and scope is not None:
                scope.cancel()
        if self._decided is not None:
            self._decided.set()

    def _row(self, attempt: Attempt, began: float, *, is_over: bool) -> AttemptRow:
        leg = attempt.leg
        is_beaten = self._answering is not None and self._answering is not attempt
        return AttemptRow(
            provider=leg.target.provider.name,
            model=leg.target.model,
            outcome="beaten" if is_beaten else self._outcome(attempt, is_over=is_over).value,
            milliseconds=round((trio.current_time() - began) * 1000, 3),
            prompt_tokens=attempt.meter.reported_prompt,
            completion_tokens=attempt.meter.completion_tokens,
            kind=attempt.kind,
            answered=attempt.gave,
            credential=leg.credential.index if leg.credential is not None else None,
        )

    def _outcome(self, attempt: Attempt, *, is_over: bool) -> Cause:
        """How the attempt ended, for its row."""
        exchange = self._exchange
        if exchange.outcome.cause is not None:
            return exchange.outcome.cause
        if attempt.error is not None:
            return _cause_of(attempt.error)
        if attempt.whole:
            return Cause.COMPLETED
        if exchange.upstream.cancel_called and exchange.upstream.deadline <= trio.current_time():
            return Cause.TIMEOUT_TOTAL
        return Cause.BUG if is_over else Cause.SHUTDOWN  # only the server itself cancels without having said why
