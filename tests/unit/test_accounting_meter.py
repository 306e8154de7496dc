"""The meter sees what was generated and when, believes the provider, and cannot fail."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

import pytest
from support.ranks import encoding

from trio_ai_proxy.accounting.meter import Meter
from trio_ai_proxy.chat.events import (
    Ended,
    Failed,
    Finished,
    ReasoningDelta,
    RefusalDelta,
    Started,
    TextDelta,
    ToolCallDelta,
    UsageReported,
)
from trio_ai_proxy.chat.usage import TokenUsage
from trio_ai_proxy.errors import UpstreamError

if TYPE_CHECKING:
    from tiktoken import Encoding


def prompt_of(count: int) -> Any:
    return lambda: count


def never() -> int:
    raise AssertionError("the prompt must not be counted")


def test_the_first_token_and_the_gaps_are_timed_by_chunks_that_generate() -> None:
    meter = Meter(accepted_at=10.0, encoding=None)
    meter.observe([Started("id", "model")], 10.5)
    meter.observe([TextDelta("")], 10.6)
    assert meter.ttft is None
    meter.observe([TextDelta("Hel")], 11.0)
    meter.observe([TextDelta("lo"), TextDelta(" you")], 11.25)
    meter.observe([], 12.0)
    meter.observe([ToolCallDelta(0, arguments="{}")], 14.25)
    meter.observe([Finished("stop"), Ended()], 20.0)
    assert meter.ttft == 1.0
    assert meter.chunks == 3
    assert (meter.gaps.count, meter.gaps.sum) == (2, 3.25)
    assert meter.finish_reasons == {0: "stop"}


def test_the_count_of_the_provider_wins_and_the_prompt_is_not_counted() -> None:
    meter = Meter(accepted_at=0.0, encoding=None)
    meter.observe([TextDelta("text")], 1.0)
    meter.observe([UsageReported(TokenUsage(5, 1, 6))], 1.0)
    meter.observe([UsageReported(TokenUsage(5, 7, 12, cached_tokens=2, reasoning_tokens=3))], 2.0)
    assert meter.usage(never) == (TokenUsage(5, 7, 12, cached_tokens=2, reasoning_tokens=3), "provider")
    assert meter.has_report
    assert meter.completion_tokens == 7


def test_a_report_of_zeros_is_none() -> None:
    meter = Meter(accepted_at=0.0, encoding=None)
    meter.observe([UsageReported(TokenUsage()), TextDelta("text")], 1.0)
    usage, source = meter.usage(prompt_of(4))
    assert (usage.prompt_tokens, usage.completion_tokens, source) == (4, 1, "estimated")
    assert not meter.has_report


PROMPT_ALONE = UsageReported(TokenUsage(90, cached_tokens=60, cache_write_tokens=20))


def test_a_report_of_the_prompt_alone_is_believed_and_what_is_generated_is_counted() -> None:
    meter = Meter(accepted_at=0.0, encoding=encoding())
    meter.observe([Started("id", "model"), PROMPT_ALONE], 1.0)
    assert (meter.ttft, meter.has_report, meter.reported_prompt) == (None, False, 90)
    meter.observe([TextDelta("Hello")], 2.0)
    meter.observe([TextDelta(" world")], 3.0)
    assert meter.completion_tokens == 2
    assert meter.usage(never) == (TokenUsage(90, 2, 92, cached_tokens=60, cache_write_tokens=20), "counted")


def test_a_report_of_the_prompt_alone_makes_no_estimate_a_count() -> None:
    meter = Meter(accepted_at=0.0, encoding=None)
    meter.observe([PROMPT_ALONE, TextDelta("Hello")], 1.0)
    usage, source = meter.usage(never)
    assert (usage.prompt_tokens, usage.completion_tokens > 0, source) == (90, True, "estimated")


def test_a_report_of_the_prompt_alone_gives_way_to_that_of_the_whole() -> None:
    whole = TokenUsage(95, 7, 102, cached_tokens=60, reasoning_tokens=3, cache_write_tokens=20)
    meter = Meter(accepted_at=0.0, encoding=encoding())
    for number, events in enumerate(([PROMPT_ALONE], [TextDelta("Hello")], [Finished("stop"), UsageReported(whole)])):
        meter.observe(cast("Any", events), float(number))
    assert (meter.has_report, meter.completion_tokens) == (True, 7)
    assert meter.usage(never) == (whole, "provider")


def test_a_stream_that_comes_in_one_piece_is_what_it_says_at_its_end() -> None:
    whole = TokenUsage(90, 7, 97, cached_tokens=60, cache_write_tokens=20)
    meter = Meter(accepted_at=0.0, encoding=encoding())
    meter.observe([PROMPT_ALONE, TextDelta("Hello"), Finished("stop"), UsageReported(whole), Ended()], 1.0)
    assert meter.usage(never) == (whole, "provider")


def test_without_a_report_all_that_was_generated_is_counted() -> None:
    meter = Meter(accepted_at=0.0, encoding=encoding())
    meter.observe([ReasoningDelta("Let me think"), TextDelta("Hello world"), RefusalDelta("I cannot")], 1.0)
    meter.observe([ToolCallDelta(0, id="call_1", name="look_up"), ToolCallDelta(0, arguments='{"city":')], 2.0)
    meter.observe([ToolCallDelta(0, arguments='"Oslo"}')], 3.0)
    parts = ["Let me think", "Hello world", "I cannot", "look_up", '{"city":"Oslo"}']
    generated = sum(len(encoding().encode_ordinary(part)) for part in parts)
    assert meter.completion_tokens == generated
    assert meter.usage(prompt_of(11)) == (TokenUsage(11, generated, 11 + generated), "counted")


def test_choices_that_arrive_interleaved_are_counted_apart() -> None:
    meter = Meter(accepted_at=0.0, encoding=encoding())
    for word in (" some", " thing"):
        meter.observe([TextDelta(word, 0), TextDelta(word, 1)], 1.0)
    assert meter.completion_tokens == 4


def test_an_exchange_that_was_cut_keeps_what_it_had() -> None:
    meter = Meter(accepted_at=0.0, encoding=encoding())
    meter.observe([TextDelta("Hello world")], 1.0)
    meter.observe([Failed(UpstreamError("overloaded"))], 2.0)
    assert meter.usage(prompt_of(1)) == (TokenUsage(1, 2, 3), "counted")


def test_a_whole_answer_with_its_usage_is_not_counted_again() -> None:
    meter = Meter(accepted_at=0.0, encoding=cast("Encoding", None))
    meter.observe([TextDelta("x" * 10_000), Finished("stop"), UsageReported(TokenUsage(1, 2, 3)), Ended()], 1.0)
    assert meter._counter.total == 0
    assert meter.chunks == 1


def test_a_fault_in_the_meter_is_counted_and_never_raised() -> None:
    meter = Meter(accepted_at=0.0, encoding=None)
    meter.observe(cast("Any", [TextDelta(cast("str", 5))]), 1.0)
    meter.observe(cast("Any", None), 1.0)
    meter.observe([TextDelta("one two three")], 2.0)
    assert meter.faults == 2
    usage, source = meter.usage(never)
    assert source == "estimated"
    assert (usage.prompt_tokens, meter.faults) == (0, 3)
    assert usage.completion_tokens > 0


@pytest.mark.parametrize("reason", ["stop", "length", "a new one"])
def test_each_choice_keeps_its_own_finish_reason(reason: str) -> None:
    meter = Meter(accepted_at=0.0, encoding=None)
    meter.observe([Finished(reason, 0), Finished("stop", 1)], 1.0)
    assert meter.finish_reasons == {0: reason, 1: "stop"}
    assert meter.chunks == 0
