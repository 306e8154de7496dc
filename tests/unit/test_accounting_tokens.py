"""Counts are exact, whatever the deltas; no text and no JSON can make counting fail."""

from __future__ import annotations

import math
import random
from typing import TYPE_CHECKING, Any, cast

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.ranks import encoding

from trio_ai_proxy.accounting import tokens
from trio_ai_proxy.accounting.estimate import estimate_tokens
from trio_ai_proxy.accounting.tokens import (
    GATHER_AT_MOST,
    IMAGE_HIGH,
    IMAGE_LOW,
    CompletionCounter,
    Tokenizers,
    count_prompt,
    count_text,
)

if TYPE_CHECKING:
    from tiktoken import Encoding

BOTH = pytest.mark.parametrize("name", ["o200k_base", "cl100k_base"])

PROSE = (
    "The writer waits for the reader, never the other way round: “a stream that ends is a stream that ended”. "
    "It's 3.14 or 1,000,000; see https://example.org/a/b?c=d#e.\n\n  - item 1\n  - item 2\n\n```python\nx = {'a': 1}\n"
    "\tif x:\n\t\treturn  None\n```\nКогда клиент уходит, всё кончается. "
    "客户离开以后，网关会立即关闭连接，并记账。次の行。\n🚀🎉 naïve café 안녕하세요 세계 — done!   \n"
)


class Broken:
    """An encoding that cannot."""

    name = "o200k_base"

    def encode_ordinary(self, text: str) -> list[int]:
        raise ValueError(f"{len(text)} characters are too many")


def split(text: str, seed: int) -> list[str]:
    """`text` in deltas of a few characters, as a model would send it."""
    dice = random.Random(seed)
    pieces = []
    while text:
        size = dice.randint(1, 9)
        pieces.append(text[:size])
        text = text[size:]
    return pieces


def total(counter: CompletionCounter, pieces: list[str]) -> int:
    for piece in pieces:
        counter.add(piece)
    return counter.total


@BOTH
@pytest.mark.parametrize("seed", range(3))
def test_a_text_in_deltas_has_exactly_the_tokens_of_the_whole_text(name: str, seed: int) -> None:
    text = PROSE * 60
    whole = len(encoding(name).encode_ordinary(text))
    assert total(CompletionCounter(encoding(name)), split(text, seed)) == whole


@BOTH
def test_a_text_in_one_piece_or_in_characters_has_exactly_the_same_tokens(name: str) -> None:
    text = PROSE * 20
    whole = len(encoding(name).encode_ordinary(text))
    assert total(CompletionCounter(encoding(name)), [text]) == whole
    assert total(CompletionCounter(encoding(name)), list(text)) == whole


WORDS = st.sampled_from(
    [
        "the",
        " gateway",
        "  two",
        "客户",
        "です",
        "é",
        "e\u0301",
        "'s",
        "'S",
        "1234",
        "_x",
        "/",
        "!?",
        "…",
        "🚀",
        "。",
        "，",
    ]
) | st.sampled_from([" ", "\n", "\n\n", "\r\n", "\t", "。\n", "\x1c", "\x85", "\u3000"])


@BOTH
@settings(max_examples=60, deadline=None)
@given(words=st.lists(WORDS, min_size=1, max_size=40), repeat=st.integers(1, 400), seed=st.integers(0, 9))
def test_any_split_gives_the_count_of_the_whole_but_for_stretches_without_a_seam(
    name: str, words: list[str], repeat: int, seed: int
) -> None:
    text = "".join(words) * repeat
    whole = len(encoding(name).encode_ordinary(text))
    pieces = split(text, seed)
    got = total(CompletionCounter(encoding(name)), pieces)
    assert abs(got - whole) <= 3 * (len(text) // GATHER_AT_MOST)
    assert got == total(CompletionCounter(encoding(name)), pieces)


@settings(max_examples=40, deadline=None)
@given(pieces=st.lists(st.text(max_size=20), max_size=30))
def test_asking_for_the_total_changes_nothing(pieces: list[str]) -> None:
    asked, silent = CompletionCounter(encoding()), CompletionCounter(encoding())
    for piece in pieces:
        asked.add(piece)
        assert asked.total >= 0
        silent.add(piece)
    assert asked.total == silent.total


@BOTH
@pytest.mark.parametrize("sign", [" ", "\t", "\n", " \n", "a", "\u3000"])
def test_a_million_of_one_sign_is_counted_without_a_panic_and_in_bounded_memory(name: str, sign: str) -> None:
    counter = CompletionCounter(encoding(name))
    counter.add(sign * (1_000_000 // len(sign)))
    assert 0 < counter.total <= 1_000_000
    assert counter.source == "counted"
    assert counter._gathered < GATHER_AT_MOST


@BOTH
def test_memory_is_bounded_when_deltas_never_offer_a_seam(name: str) -> None:
    counter = CompletionCounter(encoding(name))
    for _ in range(20_000):
        counter.add("QUJD")
        assert counter._gathered < 2 * GATHER_AT_MOST
    assert abs(counter.total - len(encoding(name).encode_ordinary("QUJD" * 20_000))) <= 3 * (80_000 // GATHER_AT_MOST)


def test_a_cut_keeps_two_texts_apart() -> None:
    counter = CompletionCounter(encoding())
    counter.add("some")
    counter.cut()
    counter.cut()
    counter.add("thing")
    assert counter.total == 2
    assert len(encoding().encode_ordinary("something")) == 1


def test_a_panic_of_the_tokenizer_becomes_an_estimate(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tokens, "MAX_SLICE", 2_000_000)
    text = " " * 1_000_000
    count, counted = count_text(encoding(), text)
    assert not counted
    assert count == estimate_tokens(text)


def test_a_tokenizer_that_raises_leaves_an_estimate_that_says_so() -> None:
    counter = CompletionCounter(cast("Encoding", Broken()))
    counter.add("some words " * 1000)
    assert counter.source == "estimated"
    assert counter.total > 1000


@pytest.mark.parametrize("stop", [KeyboardInterrupt, SystemExit, GeneratorExit])
def test_an_interruption_is_not_taken_for_a_panic(stop: type[BaseException]) -> None:
    class Interrupted(Broken):
        def encode_ordinary(self, text: str) -> list[int]:
            raise stop

    with pytest.raises(stop):
        count_text(cast("Encoding", Interrupted()), "text")


def test_without_an_encoding_the_total_is_the_estimate_of_the_whole() -> None:
    text = "word after word, line after line.\n" * 500
    counter = CompletionCounter(None)
    assert total(counter, split(text, 1)) == pytest.approx(estimate_tokens(text), abs=2)
    assert counter.source == "estimated"


def test_nothing_added_is_no_token() -> None:
    assert CompletionCounter(encoding()).total == 0
    assert CompletionCounter(None).total == 0


def size(text: str) -> int:
    return len(encoding().encode_ordinary(text))


def test_messages_cost_their_text_and_the_documented_overhead() -> None:
    messages = [
        {"role": "system", "content": "You answer in one word."},
        {
            "role": "user",
            "name": "ann",
            "content": [{"type": "text", "text": "Is it "}, {"type": "text", "text": "so?"}],
        },
    ]
    text = size("system") + size("You answer in one word.") + size("user") + size("ann") + size("Is it ") + size("so?")
    assert count_prompt({"messages": messages}, "chat", encoding()) == text + 2 * 3 + 1 + 3


def test_no_messages_cost_the_priming_only() -> None:
    assert count_prompt({}, "chat", encoding()) == 3


def test_earlier_tool_calls_cost_their_names_and_arguments() -> None:
    bare = {"messages": [{"role": "assistant", "content": None}]}
    call = {"id": "call_1", "type": "function", "function": {"name": "look_up", "arguments": '{"city":"Oslo"}'}}
    made = {"messages": [{"role": "assistant", "content": None, "tool_calls": [call]}]}
    older = {"messages": [{"role": "assistant", "content": None, "function_call": call["function"]}]}
    cost = size("look_up") + size('{"city":"Oslo"}')
    for fields in (made, older):
        assert count_prompt(fields, "chat", encoding()) - count_prompt(bare, "chat", encoding()) == cost


WEATHER = {
    "name": "weather",
    "description": "Tell the weather of a place.",
    "parameters": {
        "type": "object",
        "properties": {
            "place": {"type": "string", "description": "City, then country."},
            "unit": {"type": "string", "description": "Scale", "enum": ["celsius", "kelvin"]},
        },
    },
}


@pytest.mark.parametrize(("name", "per_function"), [("o200k_base", 7), ("cl100k_base", 10)])
def test_function_definitions_cost_what_the_cookbook_says(name: str, per_function: int) -> None:
    chosen = encoding(name)

    def cost(text: str) -> int:
        return len(chosen.encode_ordinary(text))

    expected = per_function + cost("weather:Tell the weather of a place") + 12
    expected += 3 + 3 + cost("place:string:City, then country")
    expected += 3 - 3 + 3 + cost("celsius") + 3 + cost("kelvin") + cost("unit:string:Scale")
    assert count_prompt({"tools": [{"type": "function", "function": WEATHER}]}, "chat", chosen) == 3 + expected
    assert count_prompt({"functions": [WEATHER]}, "chat", chosen) == 3 + expected


def test_nested_properties_are_counted_and_a_bottomless_schema_ends() -> None:
    schema: dict[str, Any] = {"properties": {"leaf": {"type": "string"}}}
    deep = schema
    for _ in range(500):
        deep = {"properties": {"branch": {"items": deep}}}
    flat = count_prompt({"functions": [{"name": "f", "parameters": schema}]}, "chat", encoding())
    nested = count_prompt({"functions": [{"name": "f", "parameters": deep}]}, "chat", encoding())
    assert flat < nested < 500


@pytest.mark.parametrize(
    ("image", "cost"),
    [({"url": "data:,", "detail": "low"}, IMAGE_LOW), ({"url": "data:,"}, IMAGE_HIGH), ("junk", IMAGE_HIGH)],
)
def test_a_picture_costs_a_constant_and_not_its_bytes(image: object, cost: int) -> None:
    fields = {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": image}]}]}
    assert count_prompt(fields, "chat", encoding()) == 3 + 3 + size("user") + cost


@pytest.mark.parametrize(
    ("given_input", "cost"), [("the sea", 2), (["the sea", "the sea"], 4), ([1, 2, 3], 3), ([[1], [2, 3]], 3), (1, 0)]
)
def test_what_is_to_be_embedded_is_text_or_token_ids_or_several_of_them(given_input: object, cost: int) -> None:
    assert count_prompt({"input": given_input}, "embeddings", encoding()) == cost


@pytest.mark.parametrize(
    ("prompt", "cost"),
    [("two words", 2), (["two words", "two words"], 4), ([1, 2, 3], 3), ([[1, 2], [3]], 3), (None, 0), ([True], 0)],
)
def test_a_completion_prompt_is_text_or_token_ids_or_several_of_them(prompt: object, cost: int) -> None:
    assert count_prompt({"prompt": prompt}, "completions", encoding()) == cost


def test_what_follows_the_gap_of_a_completion_counts_too() -> None:
    assert count_prompt({"prompt": "two words", "suffix": " more"}, "completions", encoding()) == 3


KEYS = (
    ["messages", "role", "content", "name", "text", "type", "image_url", "detail", "tool_calls", "function", "x"],
    ["function_call", "arguments", "tools", "functions", "parameters", "properties", "items", "enum", "description"],
)
JUNK = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters(), max_size=8),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from(KEYS).flatmap(st.sampled_from), inner, max_size=6)
    ),
    max_leaves=25,
)


@settings(max_examples=300, deadline=None)
@given(messages=JUNK, tools=JUNK, prompt=JUNK)
def test_no_json_makes_counting_a_prompt_fail(messages: object, tools: object, prompt: object) -> None:
    fields = {"messages": [messages], "tools": tools, "functions": [tools], "prompt": prompt}
    for how in (None, encoding()):
        assert count_prompt(fields, "chat", how) >= 3
        assert count_prompt(fields, "completions", how) >= 0
        assert count_prompt({"messages": messages, "tools": [{"function": tools}]}, "chat", how) >= 3


def test_a_number_too_long_to_print_does_not_make_counting_fail() -> None:
    function = {"name": 10**5000, "parameters": {"properties": {"x": {"enum": [10**5000], "type": 10**5000}}}}
    assert count_prompt({"functions": [function], "messages": [10**5000]}, "chat", encoding()) > 3
    assert count_prompt({"prompt": [10**5000]}, "completions", encoding()) == 1


def test_an_estimated_prompt_is_a_whole_number_near_the_counted_one() -> None:
    fields = {"messages": [{"role": "user", "content": "Why is the sky blue, and since when? Explain in detail."}] * 9}
    counted = count_prompt(fields, "chat", encoding())
    assert count_prompt(fields, "chat", None) == pytest.approx(counted, rel=0.3)


def test_half_a_surrogate_pair_in_a_prompt_is_counted() -> None:
    fields = {"messages": [{"role": "user", "content": "a\ud800b"}]}
    assert math.isfinite(count_prompt(fields, "chat", encoding()))


def test_tokenizers_give_what_was_installed_and_name_what_is_needed() -> None:
    tokenizers = Tokenizers()
    assert tokenizers.for_model("gpt-4o") is None
    assert tokenizers.needed(["gpt-4o", "gpt-4", "claude"]) == {"o200k_base", "cl100k_base"}
    tokenizers.install("o200k_base", encoding())
    assert tokenizers.for_model("gpt-4o") is encoding()
    assert tokenizers.for_model("gpt-4") is None
    assert tokenizers.needed(["gpt-4o", "gpt-4"]) == {"cl100k_base"}
