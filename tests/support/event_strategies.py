"""Hypothesis strategies: the events of any answer that a provider could give, in any order in which it could give them."""

from __future__ import annotations

import json
from typing import Any

from hypothesis import strategies as st

from trio_ai_proxy.chat.events import (
    Cited,
    Embedded,
    Ended,
    Event,
    Finished,
    LogProbabilities,
    ReasoningDelta,
    ReasoningSealed,
    RefusalDelta,
    Started,
    TextDelta,
    ToolCallDelta,
    UsageReported,
)
from trio_ai_proxy.chat.usage import TokenUsage

# Every character that UTF-8 can say: control characters, U+2028 and what lies beyond the first plane included.
SPOKEN = st.text(st.characters(codec="utf-8"), min_size=1, max_size=12)
WORDS = st.text(st.characters(codec="utf-8", categories=("L", "N")), min_size=1, max_size=8)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text(st.characters(codec="utf-8"), max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(WORDS, inner, max_size=3),
    max_leaves=8,
)
# "error" is no reason for an end, and these two are for those who have called a tool.
REASONS = st.sampled_from(["stop", "length", "content_filter"]) | WORDS.filter(
    lambda word: word not in ("error", "tool_calls", "function_call")
)

STARTED = st.builds(
    Started, id=WORDS, model=SPOKEN, created=st.integers(1, 2**40), system_fingerprint=st.none() | SPOKEN
)


@st.composite
def usages(draw: st.DrawFn) -> TokenUsage:
    """Counts that hold together."""
    cached, written, rest = (draw(st.integers(0, 1000)) for _ in range(3))
    reasoning, spoken = draw(st.integers(0, 1000)), draw(st.integers(1, 1000))
    prompt, completion = cached + written + rest, reasoning + spoken
    return TokenUsage(prompt, completion, prompt + completion, cached, reasoning, written)


def _token() -> st.SearchStrategy[dict[str, Any]]:
    logprob = st.floats(-50, 0, allow_subnormal=False)
    alone = {"token": SPOKEN, "logprob": logprob, "bytes": st.none() | st.lists(st.integers(0, 255), max_size=4)}
    return st.fixed_dictionaries(
        {**alone, "top_logprobs": st.lists(st.fixed_dictionaries(alone), max_size=2)},
    )


@st.composite
def _calls(draw: st.DrawFn, index: int) -> list[Event]:
    """Calls of tools: told one after the other or with their fragments mixed, but begun in order."""
    waiting: list[list[ToolCallDelta]] = []
    for call in range(draw(st.integers(1, 3))):
        arguments = json.dumps(draw(st.dictionaries(WORDS, JSON, max_size=3)), ensure_ascii=draw(st.booleans()))
        cuts = sorted(draw(st.lists(st.integers(0, len(arguments)), max_size=4)))
        pieces = [arguments[a:b] for a, b in zip([0, *cuts], [*cuts, len(arguments)], strict=True)]
        name, signature = draw(WORDS), draw(st.sampled_from(["", "", "c2ln"]))
        first = ToolCallDelta(call, f"call-{index}-{call}", name, pieces[0], index, signature)
        waiting.append([first, *(ToolCallDelta(call, arguments=piece, index=index) for piece in pieces[1:] if piece)])
    told: list[Event] = []
    begun = 0
    while any(waiting):
        open_ = [fragments for fragments in waiting[:begun] if fragments]
        choices = [*open_, *waiting[begun : begun + 1]]
        fragments = draw(st.sampled_from(choices))
        if begun < len(waiting) and fragments is waiting[begun]:
            begun += 1
        told.append(fragments.pop(0))
    return told


@st.composite
def _choice(draw: st.DrawFn, index: int, tools: bool) -> list[Event]:
    """All that is said of one choice, in order."""
    said: list[Event] = []
    kinds = st.sampled_from([TextDelta, ReasoningDelta, RefusalDelta, ReasoningSealed, LogProbabilities])
    for kind in draw(st.lists(kinds, max_size=8)):
        if kind is ReasoningSealed:
            signature = draw(st.none() | SPOKEN)
            redacted = draw(SPOKEN) if signature is None else ""
            said.append(ReasoningSealed(signature or "", redacted, index))
        elif kind is LogProbabilities:
            said.append(LogProbabilities(draw(st.lists(_token(), min_size=1, max_size=2)), index))
        else:
            said.append(kind(draw(SPOKEN), index))
    length = sum(len(event.text) for event in said if isinstance(event, TextDelta))
    for _ in range(draw(st.integers(0, 2))):
        start, end = sorted((draw(st.integers(0, length)), draw(st.integers(0, length))))
        texts = [draw(st.just("") | SPOKEN) for _ in range(4)]
        if any(texts):
            said.insert(draw(st.integers(0, len(said))), Cited(*texts, start=start, end=end, index=index))
    has_calls = tools and draw(st.booleans())
    if has_calls:
        said += draw(_calls(index))
    return [*said, Finished(draw(st.just("tool_calls") if has_calls else REASONS), index)]


@st.composite
def answers(draw: st.DrawFn, *, most_choices: int = 3, tools: bool = True) -> list[Event]:
    """The events of one whole answer; choices are told at once or one after the other, usage comes whenever it likes."""
    waiting = [draw(_choice(index, tools)) for index in range(draw(st.integers(1, most_choices)))]
    told: list[Event] = [draw(STARTED)]
    while any(waiting):
        told.append(draw(st.sampled_from([events for events in waiting if events])).pop(0))
    for usage in draw(st.lists(usages(), max_size=2)):
        told.insert(draw(st.integers(1, len(told))), UsageReported(usage))
    return [*told, Ended()]


@st.composite
def vectors(draw: st.DrawFn) -> list[Event]:
    """The events of an answer with embeddings, as numbers that 32 bits can say."""
    numbers = st.lists(st.floats(-1, 1, width=32), min_size=1, max_size=4)
    found = [Embedded(draw(numbers), index) for index in range(draw(st.integers(1, 3)))]
    usage = draw(st.integers(1, 1000))
    return [draw(STARTED), *found, UsageReported(TokenUsage(usage, 0, usage)), Ended()]
