"""The final usage of an exchange, worked out once: the provider's numbers, or our own count, which for a long prompt is
made in a worker thread so that no stream waits for it."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import trio

from trio_ai_proxy.accounting.tokens import CompletionCounter, count_prompt
from trio_ai_proxy.chat.usage import TokenUsage, UsageSource

if TYPE_CHECKING:
    from tiktoken import Encoding

    from trio_ai_proxy.relay.exchange import Exchange, Leg

_INLINE_BYTES = 32 * 1024  # about 8,000 tokens, 2 ms
_PATIENCE = 5.0
_threads = trio.CapacityLimiter(1)  # of its own: a queue of long prompts must not hold up what else runs in threads


async def settle_usage(exchange: Exchange) -> tuple[TokenUsage, UsageSource]:
    """The tokens of `exchange`, all of whose events have been seen, and who says so."""
    if exchange.usage is None:
        prompt_tokens: int | None = None
        meter, leg = exchange.meter, exchange.leg
        is_told = meter is None or meter.has_report or meter.reported_prompt > 0
        if not is_told and leg is not None and exchange.body_bytes > _INLINE_BYTES:
            with trio.move_on_after(_PATIENCE):
                prompt_tokens = await trio.to_thread.run_sync(
                    count_prompt, leg.request.fields, leg.request.operation, leg.encoding,
                    limiter=_threads, abandon_on_cancel=True,
                )  # fmt: skip
        exchange.usage = usage_now(exchange, prompt_tokens)
    return exchange.usage


def usage_now(exchange: Exchange, prompt_tokens: int | None = None) -> tuple[TokenUsage, UsageSource]:
    """The same without waiting: a long prompt that has not been counted is estimated."""
    meter, leg = exchange.meter, exchange.leg
    if exchange.usage is not None:
        return exchange.usage
    if meter is None or leg is None:
        return TokenUsage(), "estimated"
    long = exchange.body_bytes > _INLINE_BYTES
    encoding: Encoding | None = None if long else leg.encoding

    def count() -> int:
        if prompt_tokens is not None:
            return prompt_tokens
        return count_prompt(leg.request.fields, leg.request.operation, encoding)

    usage, source = meter.usage(count)
    if leg.begun:
        usage, source = _with_beginning(usage, source, leg)
    is_uncounted = long and prompt_tokens is None and not meter.reported_prompt
    return usage, "estimated" if source == "counted" and is_uncounted else source


def _with_beginning(usage: TokenUsage, source: UsageSource, leg: Leg) -> tuple[TokenUsage, UsageSource]:
    """The usage of the whole answer, of which the beginning was sent along as a part of the prompt. The total is what it was."""
    counter = CompletionCounter(leg.encoding)
    counter.add(leg.begun)
    begun = min(counter.total, usage.prompt_tokens) if usage.prompt_tokens else counter.total
    whole = replace(
        usage,
        prompt_tokens=max(0, usage.prompt_tokens - begun),
        completion_tokens=usage.completion_tokens + begun,
        total_tokens=max(usage.total_tokens, usage.completion_tokens + begun),
    )
    return whole, counter.source if source == "provider" else source
