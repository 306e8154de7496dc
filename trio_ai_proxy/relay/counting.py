"""The final usage of an exchange, worked out once: the provider's numbers, or our own count, which for a long prompt is
made in a worker thread so that no stream waits for it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import trio

from trio_ai_proxy.accounting.tokens import count_prompt
from trio_ai_proxy.chat.usage import TokenUsage, UsageSource

if TYPE_CHECKING:
    from tiktoken import Encoding

    from trio_ai_proxy.relay.exchange import Exchange

_INLINE_BYTES = 32 * 1024  # about 8,000 tokens, 2 ms
_PATIENCE = 5.0
_threads = trio.CapacityLimiter(1)  # of its own: a queue of long prompts must not hold up what else runs in threads


async def settle_usage(exchange: Exchange) -> tuple[TokenUsage, UsageSource]:
    """The tokens of `exchange`, all of whose events have been seen, and who says so."""
    if exchange.usage is None:
        prompt_tokens: int | None = None
        meter, plan = exchange.meter, exchange.plan
        is_told = meter is None or meter.has_report or meter.reported_prompt > 0
        if not is_told and plan is not None and exchange.body_bytes > _INLINE_BYTES:
            with trio.move_on_after(_PATIENCE):
                prompt_tokens = await trio.to_thread.run_sync(
                    count_prompt, plan.request.fields, plan.request.operation, exchange.encoding,
                    limiter=_threads, abandon_on_cancel=True,
                )  # fmt: skip
        exchange.usage = usage_now(exchange, prompt_tokens)
    return exchange.usage


def usage_now(exchange: Exchange, prompt_tokens: int | None = None) -> tuple[TokenUsage, UsageSource]:
    """The same without waiting: a long prompt that has not been counted is estimated."""
    meter, plan = exchange.meter, exchange.plan
    if exchange.usage is not None:
        return exchange.usage
    if meter is None or plan is None:
        return TokenUsage(), "estimated"
    long = exchange.body_bytes > _INLINE_BYTES
    encoding: Encoding | None = None if long else exchange.encoding

    def count() -> int:
        if prompt_tokens is not None:
            return prompt_tokens
        return count_prompt(plan.request.fields, plan.request.operation, encoding)

    usage, source = meter.usage(count)
    is_uncounted = long and prompt_tokens is None and not meter.reported_prompt
    return usage, "estimated" if source == "counted" and is_uncounted else source
