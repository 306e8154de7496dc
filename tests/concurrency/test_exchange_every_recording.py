"""Every recorded answer of every provider through a whole gateway, for a client of OpenAI's wire: as a stream, and gathered into
one answer. Nothing that the client is sent breaks the grammar, and the books say what the provider said.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
from support.accounts import PLACES, WIRES, account, media_type_of
from support.decoding import fold
from support.exchanges import Bench, terminals
from support.openai_words import as_text, on_the_wire
from support.recordings import recordings

from trio_ai_proxy.chat.events import GENERATION, UsageReported
from trio_ai_proxy.framing.sse import SSEFramer
from trio_ai_proxy.providers.openai_stream import OpenAIDecoder, read_answer
from trio_ai_proxy.testing import Script, Step

if TYPE_CHECKING:
    from support.recordings import Recording
    from trio.testing import MockClock

    from trio_ai_proxy.chat.fold import Answer

EVERY = pytest.mark.parametrize(
    ("wire", "recording"),
    [pytest.param(wire, one, id=f"{wire}-{one.name}") for wire in WIRES for one in recordings(wire)],
)
# What these providers leave out or spoil, nobody makes up or repairs: a client sees it as it is.
MISTAKES = {
    ("huggingface", "text_nulls"): "choice 0 has no finish_reason",
    ("huggingface", "text_without_details"): "choice 0 has no finish_reason",
    ("openai", "surrogates_and_bad_utf8"): "a frame that is not JSON",
}
PATHS = {"chat": "/v1/chat/completions", "completions": "/v1/completions"}
ASKED: dict[str, Any] = {
    "chat": {"model": "gpt-4o", "messages": [{"role": "user", "content": "hi"}]},
    "completions": {"model": "gpt-4o", "prompt": "hi"},
}


def bench(wire: str, recording: Recording) -> Bench:
    media_type = media_type_of(account(wire), recording.response)
    script = Script(
        headers=(("content-type", media_type),), steps=lambda: iter([Step(0.0, recording.response)]), ending="close"
    )
    provider = {"kind": wire, "base_url": "http://upstream.invalid", **PLACES.get(wire, {})}
    return Bench(script, provider=provider, server={"validate_streams": True})


def meant(recording: Recording) -> Answer:
    """What the recording says, as far as the client's wire can say it."""
    events = [event for event in recording.events if not isinstance(event, dict)]
    if recording.operation == "chat":
        return fold(map(on_the_wire, events))
    return fold(said for event in events if (said := as_text(event)) is not None)


def same(told: Answer, recording: Recording) -> None:
    """The client was told what was meant, whatever name and id the gateway gave it."""
    expected = meant(recording)
    expected.choices = [choice for choice in expected.choices if choice != type(choice)(choice.index)]
    told.choices = [choice for choice in told.choices if choice != type(choice)(choice.index)]
    assert told.choices == expected.choices


def is_whole(recording: Recording) -> bool:
    return recording.raises is None and not any(isinstance(event, dict) for event in recording.events)


def check_books(bench: Bench, wire: str, recording: Recording) -> None:
    assert bench.log("bug") == []
    violations = [line["violation"] for line in bench.log("illegal stream")]
    assert not violations or violations == [MISTAKES.get((wire, recording.name))]
    record = bench.record
    assert (record.outcome == "completed") == is_whole(recording)
    reports = [event.usage for event in recording.events if isinstance(event, UsageReported)]
    if reports and (reports[-1].total_tokens or reports[-1].completion_tokens):
        last = reports[-1]
        assert record.usage_source == "provider"
        assert (record.prompt_tokens, record.completion_tokens) == (last.prompt_tokens, last.completion_tokens)


@EVERY
async def test_as_a_stream(wire: str, recording: Recording, autojump_clock: MockClock) -> None:
    body = {**ASKED[recording.operation], "stream": True, "stream_options": {"include_usage": True}}
    async with bench(wire, recording) as gateway:
        answer = await gateway.client.post(PATHS[recording.operation], json=body)
        check_books(gateway, wire, recording)
        generated = any(isinstance(event, GENERATION) for event in recording.events)
        if not is_whole(recording):
            assert (answer.status == 200) == generated
            if generated:
                assert len(terminals(answer)) == 1
                assert b"[DONE]" not in answer.body
            return
        assert answer.status == 200
        assert answer.body.endswith(b"data: [DONE]\n\n")
        framer, decoder = SSEFramer(), OpenAIDecoder(recording.operation, str)
        told = [event for frame in framer.feed(answer.body) for event in decoder.feed(frame)]
        same(fold(told), recording)


@EVERY
async def test_gathered_into_one_answer(wire: str, recording: Recording, autojump_clock: MockClock) -> None:
    async with bench(wire, recording) as gateway:
        provider: Any = gateway.gateway.accounts["scripted"].provider
        provider.capabilities = replace(provider.capabilities, streams_only=True)
        answer = await gateway.client.post(PATHS[recording.operation], json=ASKED[recording.operation])
        check_books(gateway, wire, recording)
        if not is_whole(recording):
            assert answer.status >= 400
            assert answer.json()["error"]["message"]
            return
        assert answer.status == 200
        if answer.json()["choices"]:
            told = read_answer(recording.operation, answer.body, str)
            same(fold(told), recording)
        else:
            assert not meant(recording).choices
