"""Watches one exchange and never holds it up: what it cannot understand it counts as a fault of its own, and goes on.

Pure: `now` is an argument (seconds of a monotonic clock). A chunk of one delta costs about a microsecond.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from trio_ai_proxy.accounting.histogram import Histogram
from trio_ai_proxy.accounting.tokens import CompletionCounter
from trio_ai_proxy.chat.events import (
    Finished,
    ReasoningDelta,
    RefusalDelta,
    TextDelta,
    ToolCallDelta,
    UsageReported,
)
from trio_ai_proxy.chat.usage import TokenUsage

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from tiktoken import Encoding

    from trio_ai_proxy.chat.events import Event
    from trio_ai_proxy.chat.usage import UsageSource

# Upper bounds in seconds: those of OpenTelemetry's gen_ai.server.time_per_output_token, with finer ones below (a fast
# model on the next rack) and coarser ones above (a stall).
INTER_TOKEN_BUCKETS = (
    0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0, 2.5, 5.0, 10.0, 30.0,
)  # fmt: skip


class Meter:
    """What one exchange has generated so far, and when.

    chunks           how many observations held something generated
    ttft             seconds from the acceptance of the request to the first of them, None before it
    gaps             seconds from one of them to the next, None before a second one; deltas that came in one chunk are one step
    reported         the provider's latest own count, None before one; without a total it is of the prompt alone
    finish_reasons   choice → why it ended
    faults           how often the meter itself failed; the numbers are then too low
    """

    __slots__ = (
        "_accepted_at", "_counter", "_lane", "_last", "chunks", "faults", "finish_reasons", "gaps", "reported", "ttft",
    )  # fmt: skip

    def __init__(self, *, accepted_at: float, encoding: Encoding | None) -> None:
        self._accepted_at = accepted_at
        self._counter = CompletionCounter(encoding)
        self._lane: tuple[object, ...] | None = None
        self._last: float | None = None
        self.chunks = 0
        self.ttft: float | None = None
        self.gaps: Histogram | None = None
        self.reported: TokenUsage | None = None
        self.finish_reasons: dict[int, str] = {}
        self.faults = 0

    @property
    def has_report(self) -> bool:
        """Whether the provider has told its own count. Then ours is not needed, and stops."""
        # Some servers put zeros into every chunk until they know.
        reported = self.reported
        return reported is not None and bool(reported.total_tokens or reported.completion_tokens)

    @property
    def reported_prompt(self) -> int:
        """The provider's own count of the prompt, which some tell before they begin to answer; 0 if it has told none."""
        return self.reported.prompt_tokens if self.reported is not None else 0

    @property
    def completion_tokens(self) -> int:
        """The tokens generated so far, as far as is known now."""
        if self.reported is not None and self.has_report:
            return self.reported.completion_tokens
        return self._counter.total

    def observe(self, events: Sequence[Event], now: float) -> None:
        """Take note of the events of one chunk, seen at `now`. Never raises."""
        try:
            if len(events) > 1:  # a whole answer comes with its usage: look at that first, and save the counting
                for event in events:
                    if type(event) is UsageReported:
                        self.reported = event.usage
            generated = False
            for event in events:
                watch = _WATCH.get(type(event))
                if watch is not None and watch(self, event):
                    generated = True
            if generated:
                self.chunks += 1
                if self._last is None:
                    self.ttft = now - self._accepted_at
                else:
                    if self.gaps is None:
                        self.gaps = Histogram(INTER_TOKEN_BUCKETS)
                    self.gaps.observe(now - self._last)
                self._last = now
        except Exception:  # noqa: BLE001 - a stream must not end because its counting did
            self.faults += 1

    def usage(self, count_prompt: Callable[[], int]) -> tuple[TokenUsage, UsageSource]:
        """The tokens of the exchange, and who says so: the provider if it has, else our own count. Never raises.

        `count_prompt` gives the tokens of the prompt; it is called only if the provider has not told.
        """
        reported = self.reported
        if reported is not None and self.has_report:
            return reported, "provider"
        source = self._counter.source
        prompt_tokens = completion_tokens = 0
        try:
            completion_tokens = self._counter.total
            prompt_tokens = self.reported_prompt or count_prompt()
        except Exception:  # noqa: BLE001 - the record must be written, with what is known
            self.faults += 1
        if self.faults:
            source = "estimated"
        usage = TokenUsage(
            prompt_tokens=prompt_tokens,
            completion_tokens=completion_tokens,
            total_tokens=prompt_tokens + completion_tokens,
            cached_tokens=reported.cached_tokens if reported is not None else 0,
            cache_write_tokens=reported.cache_write_tokens if reported is not None else 0,
        )
        return usage, source

    def _text(self, event: TextDelta | ReasoningDelta | RefusalDelta) -> bool:
        if not event.text:
            return False
        self._count(event.text, (type(event), event.index))
        return True

    def _tool_call(self, event: ToolCallDelta) -> bool:
        if event.name:
            self._count(event.name, (event.index, event.call, "name"))
        if event.arguments:
            self._count(event.arguments, (event.index, event.call))
        return bool(event.name or event.arguments)

    def _usage(self, event: UsageReported) -> bool:
        self.reported = event.usage
        return False

    def _finished(self, event: Finished) -> bool:
        self.finish_reasons[event.index] = event.reason
        return False

    def _count(self, text: str, lane: tuple[object, ...]) -> None:
        """Count more of the text that `lane` stands for: no token reaches from one choice, or thought, into another."""
        if self.reported is not None and self.has_report:
            return
        if lane != self._lane:
            self._counter.cut()
            self._lane = lane
        self._counter.add(text)


_WATCH: dict[type, Callable[[Meter, Any], bool]] = {
    TextDelta: Meter._text,  # noqa: SLF001
    ReasoningDelta: Meter._text,  # noqa: SLF001
    RefusalDelta: Meter._text,  # noqa: SLF001
    ToolCallDelta: Meter._tool_call,  # noqa: SLF001
    UsageReported: Meter._usage,  # noqa: SLF001
    Finished: Meter._finished,  # noqa: SLF001
}
