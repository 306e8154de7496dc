"""Every recorded answer of every provider through a whole gateway with a guard that looks for words of that very answer: what the
client is given is the answer without a guard, redacted. The words lie across the events in which the provider has said them.

The redaction that is expected is made here with Python's `re` over the joined answer, by the rules of `guards/matcher.py`.
"""

from __future__ import annotations

import json
import re
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
import re2  # type: ignore[import-untyped]  # it comes without types
from support.accounts import PLACES, WIRES, account, media_type_of
from support.decoding import fold
from support.exchanges import Bench
from support.recordings import recordings

from trio_ai_proxy.chat.events import (
    Event,
    Failed,
    ReasoningDelta,
    ReasoningSealed,
    RefusalDelta,
    TextDelta,
    ToolCallDelta,
)
from trio_ai_proxy.errors import UpstreamError
from trio_ai_proxy.framing.sse import SSEFramer
from trio_ai_proxy.providers.openai_stream import OpenAIDecoder, read_answer
from trio_ai_proxy.settings.guards import GuardSettings, PatternSettings
from trio_ai_proxy.testing import Script, Step

if TYPE_CHECKING:
    from collections.abc import Iterable

    from support.recordings import Recording
    from trio.testing import MockClock

    from trio_ai_proxy.accounting.record import GuardUse
    from trio_ai_proxy.chat.fold import Answer, Choice
    from trio_ai_proxy.testing import ClientAnswer

EVERY = pytest.mark.parametrize(
    ("wire", "recording"),
    [pytest.param(wire, one, id=f"{wire}-{one.name}") for wire in WIRES for one in recordings(wire)],
)
PIECES = pytest.mark.parametrize("size", [None, 1], ids=["whole", "byte-by-byte"])
# What these providers leave out, nobody makes up: a client sees it as it is, with a guard and without.
MISTAKES = {
    ("huggingface", "text_nulls"): "choice 0 has no finish_reason",
    ("huggingface", "text_without_details"): "choice 0 has no finish_reason",
}
PATHS = {"chat": "/v1/chat/completions", "completions": "/v1/completions"}
ASKED: dict[str, Any] = {
    "chat": {"model": "gpt-4o", "messages": [{"role": "user", "content": "hi"}]},
    "completions": {"model": "gpt-4o", "prompt": "hi"},
}
INSTEAD = "<gone>"
NOTHING = "nothing that any of them says"


# -- what is looked for -----------------------------------------------------------------------------------------------


def words_of(recording: Recording) -> list[str]:
    """Words of the recording's own: of each part some that its deltas cut in two, and the longest that one delta holds."""
    parts: dict[tuple[type, int, int], list[str]] = {}
    blocks = 0
    for event in recording.events:
        match event:
            case TextDelta() | ReasoningDelta() | RefusalDelta():
                # A thought that is sealed has left: no word goes on from one into the next.
                block = blocks if isinstance(event, ReasoningDelta) else 0
                parts.setdefault((type(event), event.index, block), []).append(event.text)
            case ToolCallDelta():
                parts.setdefault((type(event), event.index, event.call), []).append(event.arguments)
            case ReasoningSealed():
                blocks += 1
            case _:
                pass
    words: list[str] = []
    for pieces in parts.values():
        cut = [word for place in range(1, len(pieces)) if (word := _across(pieces[place - 1], pieces[place]))]
        words += cut[:1] + cut[len(cut) // 2 : len(cut) // 2 + 1] + cut[-1:]
        words += sorted(re.findall(r"[^\W\d_]{2,}", " ".join(pieces)), key=len)[-1:]
    return list(dict.fromkeys(words))[:12]


def _across(before: str, after: str) -> str:
    """Up to four letters on either side of the place between the two, "" if there are none on one of them."""
    left = re.search(r"[^\W\d_]{1,4}[ ]?$", before)
    right = re.match(r"[ ]?[^\W\d_]{1,4}", after)
    return left[0] + right[0] if left and right else ""


def guard(words: list[str]) -> GuardSettings:
    patterns = tuple(PatternSettings(f"word{number}", re2.escape(word)) for number, word in enumerate(words))
    return GuardSettings("words", "redact", patterns=patterns, replace=INSTEAD, on=("response",))


# -- what is expected -------------------------------------------------------------------------------------------------


class Expected:
    """The answer without a guard, redacted. `hits` are the words that were found in it."""

    def __init__(self, words: list[str], plain: Answer) -> None:
        self._search = re.compile("|".join(map(re.escape, words)))
        self.hits = 0
        self.choices = [self._choice(choice) for choice in plain.choices]

    def _gone(self, text: str) -> str:
        text, found = self._search.subn(INSTEAD, text)
        self.hits += found
        return text

    def _choice(self, choice: Choice) -> Choice:
        text = self._gone(choice.text)
        for place, cited in enumerate(choice.citations):
            url, title, quote = map(self._gone, (cited.url, cited.title, cited.quote))
            choice.citations[place] = type(cited)(url, title, cited.source, quote, cited.start, cited.end, cited.index)
        for call in choice.tool_calls:
            call.name, call.arguments = self._gone(call.name), self._arguments(call.arguments)
        return replace(
            choice,
            text=text,
            reasoning=self._gone(choice.reasoning),
            # What was signed and has changed proves nothing: it is no block that could be sent back.
            thoughts=[thought for thought in choice.thoughts if not self._search.search(thought.text)],
            refusal=self._gone(choice.refusal),
            logprobs=[],  # they tell the tokens of text that does not leave
        )

    def _arguments(self, arguments: str) -> str:
        try:
            return json.dumps(self._value(json.loads(arguments)))
        except ValueError:
            return self._gone(arguments)

    def _value(self, value: Any) -> Any:
        if isinstance(value, dict):
            return {self._gone(name): self._value(member) for name, member in value.items()}
        if isinstance(value, list):
            return [self._value(member) for member in value]
        if isinstance(value, str):
            return self._gone(value)
        written = json.dumps(value)
        gone = self._gone(written)
        return value if gone == written else gone


def check_places(told: list[Choice], plain: list[Choice], expected: list[Choice]) -> None:
    """A citation has the place in the text that it had, or none once the text has changed. `expected` then has what is told."""
    for choice, before, after in zip(told, plain, expected, strict=True):
        for place, (cited, wanted) in enumerate(zip(choice.citations, after.citations, strict=True)):
            if (cited.start, cited.end) != (wanted.start, wanted.end):
                assert (cited.start, cited.end) == (0, 0)
                assert after.text != before.text
                after.citations[place] = type(cited)(
                    wanted.url, wanted.title, wanted.source, wanted.quote, index=wanted.index
                )
            elif cited.end:
                assert after.text[: cited.end] == before.text[: cited.end]


def _written(choices: Iterable[Choice]) -> list[Choice]:
    """`choices` with arguments in one way of writing JSON, and without those in which nothing is said."""
    found = [choice for choice in choices if choice != type(choice)(choice.index)]
    for choice in found:
        for call in choice.tool_calls:
            try:
                call.arguments = json.dumps(json.loads(call.arguments))
            except ValueError:
                continue
    return found


# -- the gateway ------------------------------------------------------------------------------------------------------


class Seen:
    """What a client was given: the answer, and the error at which it ended."""

    def __init__(self, answer: ClientAnswer, told: Answer, error: dict[str, Any] | None) -> None:
        self.answer = answer
        self.told = told
        self.error = error and {name: error[name] for name in ("type", "code")}


async def asked(
    wire: str, recording: Recording, size: int | None, guards: tuple[GuardSettings, ...], *, stream: bool = True
) -> tuple[Seen, list[GuardUse]]:
    """Ask a gateway whose provider plays the recording, in pieces of `size`. Nothing that it sends is illegal."""
    data = recording.response
    pieces = [data] if size is None else [data[at : at + size] for at in range(0, len(data), size)]
    script = Script(
        headers=(("content-type", media_type_of(account(wire), data)),),
        steps=lambda: iter([Step(0.0, piece) for piece in pieces]),
        ending="close",
    )
    provider = {"kind": wire, "base_url": "http://upstream.invalid", **PLACES.get(wire, {})}
    body = {**ASKED[recording.operation], "stream": stream}
    if stream:
        body["stream_options"] = {"include_usage": True}
    async with Bench(script, provider=provider, server={"validate_streams": True}, guards=guards) as bench:
        opened: Any = bench.gateway.accounts["scripted"].provider
        opened.capabilities = replace(opened.capabilities, streams_only=not stream)
        answer = await bench.client.post(PATHS[recording.operation], json=body)
        assert bench.log("bug") == []
        violations = [line["violation"] for line in bench.log("illegal stream")]
        mistake = MISTAKES.get((wire, recording.name))
        if (wire, recording.name) != ("openai", "surrogates_and_bad_utf8") or guards:
            assert not violations or violations == [mistake]
        return (_streamed if stream else _whole)(recording, answer), bench.record.guards


def _streamed(recording: Recording, answer: ClientAnswer) -> Seen:
    if answer.status != 200:
        return Seen(answer, fold([]), answer.json()["error"])
    told: list[Event] = []
    framer, decoder = SSEFramer(), OpenAIDecoder(recording.operation, str)
    error = None
    try:
        for frame in framer.feed(answer.body):
            if frame.data is not None and frame.data.startswith(b'{"error"'):
                error = json.loads(frame.data)["error"]
                break
            told += decoder.feed(frame)
    except UpstreamError as raised:
        pytest.fail(f"the client cannot read it: {raised}")
    assert not any(isinstance(event, Failed) for event in told)
    assert (error is None) == answer.body.endswith(b"data: [DONE]\n\n")
    return Seen(answer, fold(told), error)


def _whole(recording: Recording, answer: ClientAnswer) -> Seen:
    if answer.status != 200:
        return Seen(answer, fold([]), answer.json()["error"])
    if not answer.json()["choices"]:
        return Seen(answer, fold([]), None)
    return Seen(answer, fold(read_answer(recording.operation, answer.body, str)), None)


async def check(wire: str, recording: Recording, *, size: int | None, stream: bool) -> None:
    words = words_of(recording)
    plain, _ = await asked(wire, recording, None, (), stream=stream)
    seen, [use] = await asked(wire, recording, size, (guard(words or [NOTHING]),), stream=stream)
    assert (seen.answer.status, seen.error) == (plain.answer.status, plain.error)
    expected = Expected(words or [NOTHING], plain.told)
    check_places(seen.told.choices, plain.told.choices, expected.choices)
    assert _written(seen.told.choices) == _written(expected.choices)
    assert seen.told.usage == plain.told.usage
    # Completions cannot say what a model thinks; a guard sees it all the same.
    assert use.hits == expected.hits or (recording.operation == "completions" and use.hits > expected.hits)
    if words and any(choice.text or choice.tool_calls for choice in plain.told.choices):
        assert use.hits


@EVERY
@PIECES
async def test_stream_is_the_plain_one_redacted(
    wire: str, recording: Recording, size: int | None, autojump_clock: MockClock
) -> None:
    await check(wire, recording, size=size, stream=True)


@EVERY
@PIECES
async def test_gathered_answer_is_the_plain_one_redacted(
    wire: str, recording: Recording, size: int | None, autojump_clock: MockClock
) -> None:
    await check(wire, recording, size=size, stream=False)
