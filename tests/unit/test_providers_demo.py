"""The demo provider's answers: OpenAI's wire to the letter, the same words for the same request, faults by name."""

from __future__ import annotations

import itertools
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trio_ai_proxy.chat.events import Ended, Failed, Finished, TextDelta, ToolCallDelta, UsageReported
from trio_ai_proxy.chat.request import ChatRequest
from trio_ai_proxy.errors import TruncatedStream, UpstreamProtocolError
from trio_ai_proxy.providers.demo import DEMO_MODELS, DemoAnswer, DemoProvider, demo_script
from trio_ai_proxy.providers.demo_tools import example_value
from trio_ai_proxy.providers.table import KINDS, build_provider
from trio_ai_proxy.settings import ProviderSettings

CHAT = ChatRequest("chat", "demo", stream=True, include_usage=False, fields={})

_TOOL = {
    "type": "function",
    "function": {
        "name": "look_up",
        "parameters": {
            "type": "object",
            "properties": {"query": {"type": "string"}, "limit": {"type": "integer", "minimum": 3}},
        },
    },
}


def chat(text: str = "hello there", **fields: Any) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": text}], **fields}


def play(answer: DemoAnswer, limit: int | None = None) -> bytes:
    return b"".join(chunk for _, chunk in itertools.islice(answer.steps, limit))


def payloads(answer: DemoAnswer) -> list[Any]:
    frames = play(answer).split(b"\n\n")
    assert frames.pop() == b""
    assert all(frame.startswith(b"data: ") for frame in frames)
    texts = [frame.removeprefix(b"data: ") for frame in frames]
    return [text.decode() if text == b"[DONE]" else json.loads(text) for text in texts]


def said(chunks: list[Any]) -> str:
    choices = [chunk["choices"][0] for chunk in chunks if chunk != "[DONE]" and chunk["choices"]]
    return "".join(choice.get("text") or choice.get("delta", {}).get("content") or "" for choice in choices)


def finish_of(chunks: list[Any]) -> str:
    reasons = [choice["finish_reason"] for chunk in chunks if chunk != "[DONE]" for choice in chunk["choices"]]
    [reason] = [reason for reason in reasons if reason is not None]
    return reason


def events_of(model: str, fields: dict[str, Any], limit: int | None = None) -> list[Any]:
    provider = build_provider(ProviderSettings(name="demo", kind="demo"))
    framer, decoder = provider.framer(), provider.decoder(CHAT)
    answer = demo_script(model, "chat", fields)
    frames = framer.feed(play(answer, limit))
    if answer.ending == "close":  # what a connection that breaks leaves behind is nobody's frame
        frames += framer.close()
    events = [event for frame in frames for event in decoder.feed(frame)]
    return [*events, *decoder.close()]


def test_a_stream_is_a_role_chunk_then_words_then_the_finish_then_usage_then_done() -> None:
    chunks = payloads(
        demo_script("demo", "chat", chat(stream_options={"include_usage": True}), answer_id="x", created=7)
    )
    first, *words, last, usage, done = chunks
    assert first["choices"][0]["delta"] == {"role": "assistant", "content": "", "refusal": None}
    assert all(set(chunk["choices"][0]["delta"]) == {"content"} for chunk in words)
    assert last["choices"][0] == {"index": 0, "delta": {}, "logprobs": None, "finish_reason": "stop"}
    assert usage["choices"] == []
    assert usage["usage"]["completion_tokens"] == len(words)
    assert usage["usage"]["prompt_tokens"] == 2
    assert usage["usage"]["total_tokens"] == 2 + len(words)
    assert done == "[DONE]"
    for chunk in chunks[:-1]:
        assert (chunk["id"], chunk["created"], chunk["model"]) == ("chatcmpl-x", 7, "demo")
        assert chunk["object"] == "chat.completion.chunk"
    assert all(chunk["usage"] is None for chunk in chunks[:-2])


def test_completions_have_their_own_shape() -> None:
    chunks = payloads(demo_script("demo-fast", "completions", {"prompt": "once upon a time"}))
    *words, last, done = chunks
    assert done == "[DONE]"
    assert last["choices"][0] == {"index": 0, "text": "", "logprobs": None, "finish_reason": "stop"}
    assert {chunk["object"] for chunk in words} == {"text_completion"}
    assert len(said(chunks).split()) == len(words)


def test_usage_is_sent_only_to_those_who_ask() -> None:
    assert all("usage" not in chunk for chunk in payloads(demo_script("demo", "chat", chat()))[:-1])


def test_the_same_words_get_the_same_answer_and_others_another() -> None:
    answers = {text: said(payloads(demo_script("demo", "chat", chat(text)))) for text in map(str, range(200))}
    assert answers["7"] == said(payloads(demo_script("demo", "chat", chat("7", temperature=2))))
    assert len(set(answers.values())) == 8


def test_the_text_is_prose_of_a_good_length() -> None:
    words = said(payloads(demo_script("demo", "chat", chat()))).split()
    assert 200 < len(words) <= 400


@pytest.mark.parametrize("name", ["max_tokens", "max_completion_tokens"])
def test_a_token_limit_ends_with_length(name: str) -> None:
    chunks = payloads(demo_script("demo", "chat", chat(**{name: 5})))
    assert len(said(chunks).split()) == 5
    assert finish_of(chunks) == "length"


def test_the_endless_model_keeps_to_a_token_limit() -> None:
    chunks = payloads(demo_script("demo-endless", "chat", chat(max_tokens=2000)))
    assert len(said(chunks).split()) == 2000
    assert finish_of(chunks) == "length"


def test_the_endless_model_stops_at_a_stop() -> None:
    whole = said(payloads(demo_script("demo-endless", "chat", chat(max_tokens=100))))
    word = whole.split()[40]
    chunks = payloads(demo_script("demo-endless", "chat", chat(stop=f" {word}")))
    assert said(chunks) == whole[: whole.index(f" {word}")]
    assert finish_of(chunks) == "stop"


def test_the_endless_model_does_not_stop_by_itself() -> None:
    steps = demo_script("demo-endless", "chat", chat(stop="no such words")).steps
    assert sum(1 for _ in itertools.islice(steps, 20_000)) == 20_000


@given(st.integers(0, 300), st.integers(1, 30))
def test_a_stop_ends_the_text_before_it_wherever_it_stands(start: int, length: int) -> None:
    whole = said(payloads(demo_script("demo-fast", "chat", chat())))
    stop = whole[start : start + length]
    chunks = payloads(demo_script("demo-fast", "chat", chat(stop=["never said", stop])))
    assert said(chunks) == whole[: whole.index(stop)]
    assert finish_of(chunks) == "stop"


def test_a_word_every_thirtieth_of_a_second_and_none_for_the_fast_model() -> None:
    pauses = [pause for pause, _ in demo_script("demo", "chat", chat(max_tokens=4)).steps]
    assert pauses == [0.0, 1 / 30, 1 / 30, 1 / 30, 1 / 30, 0.0, 0.0]
    assert {pause for pause, _ in demo_script("demo-fast", "chat", chat()).steps} == {0.0}


def test_a_tool_is_called_with_arguments_that_fit_its_schema() -> None:
    chunks = payloads(demo_script("demo", "chat", chat("find “rivers”", tools=[_TOOL])))
    first, *fragments, _, done = chunks
    [call] = first["choices"][0]["delta"]["tool_calls"]
    assert (call["type"], call["function"]) == ("function", {"name": "look_up", "arguments": ""})
    assert len(fragments) > 1
    arguments = "".join(chunk["choices"][0]["delta"]["tool_calls"][0]["function"]["arguments"] for chunk in fragments)
    assert json.loads(arguments) == {"query": "find “rivers”", "limit": 3}
    assert finish_of(chunks) == "tool_calls"
    assert done == "[DONE]"


def test_the_named_tool_is_called() -> None:
    other = {"type": "function", "function": {"name": "other"}}
    choice = {"type": "function", "function": {"name": "other"}}
    [first, *_] = payloads(demo_script("demo", "chat", chat(tools=[_TOOL, other], tool_choice=choice)))
    assert first["choices"][0]["delta"]["tool_calls"][0]["function"]["name"] == "other"


def test_no_tool_is_called_when_none_is_wanted() -> None:
    chunks = payloads(demo_script("demo", "chat", chat(tools=[_TOOL], tool_choice="none")))
    assert finish_of(chunks) == "stop"


def test_after_a_tool_has_run_the_answer_quotes_its_result() -> None:
    messages = [
        {"role": "user", "content": "find rivers"},
        {"role": "assistant"},
        {"role": "tool", "content": "Oder, Po"},
    ]
    chunks = payloads(demo_script("demo", "chat", {"messages": messages, "tools": [_TOOL]}))
    assert said(chunks).startswith("The tool answered “Oder, Po”.")
    assert finish_of(chunks) == "stop"


@pytest.mark.parametrize(
    ("operation", "fields", "param"),
    [
        ("chat", chat(n=2), "n"),
        ("chat", chat(max_tokens=0), "max_tokens"),
        ("chat", chat(max_completion_tokens="5"), "max_completion_tokens"),
        ("chat", chat(stop=7), "stop"),
        ("chat", {}, "messages"),
        ("chat", {"messages": ["hello"]}, "messages"),
        ("chat", chat(tools=[{}]), "tools"),
        ("chat", chat(tools="yes"), "tools"),
        ("chat", chat(tools=[_TOOL], tool_choice={"function": {"name": "absent"}}), "tool_choice"),
        ("completions", {"prompt": ["one", "two"]}, "prompt"),
        ("completions", {"prompt": 5}, "prompt"),
    ],
)
def test_what_cannot_be_served_is_a_400_that_names_the_field(
    operation: Any, fields: dict[str, Any], param: str
) -> None:
    answer = demo_script("demo", operation, fields)
    assert answer.status == 400
    error = json.loads(play(answer))["error"]
    assert error["param"] == param
    assert error["type"] == "invalid_request_error"
    assert param in error["message"]


def test_an_unknown_model_is_a_404() -> None:
    answer = demo_script("gpt-99", "chat", chat())
    assert answer.status == 404
    assert json.loads(play(answer))["error"]["code"] == "model_not_found"


def test_a_rate_limit_says_when_to_try_again() -> None:
    answer = demo_script("demo-429", "chat", chat())
    assert answer.status == 429
    assert ("retry-after", "7") in answer.headers
    assert json.loads(play(answer))["error"]["code"] == "rate_limit_exceeded"


def test_the_slow_model_is_silent_for_eight_seconds_after_its_role_chunk() -> None:
    pauses = [pause for pause, _ in demo_script("demo-slow-first-token", "chat", chat(max_tokens=2)).steps]
    assert pauses[:3] == [0.0, 8.0, 1 / 30]


def test_a_stall_comes_after_ten_words() -> None:
    answer = demo_script("demo-stall", "chat", chat())
    assert answer.ending == "stall"
    assert len(payloads(answer)) == 11


def test_a_cut_comes_in_the_middle_of_a_frame() -> None:
    answer = demo_script("demo-cut", "chat", chat())
    assert answer.ending == "cut"
    assert not play(answer).endswith(b"\n")


def test_the_decoder_understands_a_whole_stream() -> None:
    events = events_of("demo-fast", chat(stream_options={"include_usage": True}))
    assert isinstance(events[-1], Ended)
    [usage] = [event for event in events if isinstance(event, UsageReported)]
    assert usage.usage.completion_tokens == sum(isinstance(event, TextDelta) for event in events)
    assert [event for event in events if isinstance(event, Finished)] == [Finished("stop")]


def test_the_decoder_understands_a_tool_call() -> None:
    events = events_of("demo-fast", chat("rivers", tools=[_TOOL]))
    calls = [event for event in events if isinstance(event, ToolCallDelta)]
    assert "".join(call.name for call in calls) == "look_up"
    assert json.loads("".join(call.arguments for call in calls)) == {"query": "rivers", "limit": 3}


def test_the_decoder_sees_the_error_inside_a_200() -> None:
    events = events_of("demo-error-in-200", chat())
    assert isinstance(events[-1], Failed)
    assert not any(isinstance(event, TextDelta) for event in events)


def test_the_decoder_sees_the_garbage() -> None:
    with pytest.raises(UpstreamProtocolError):
        events_of("demo-garbage", chat())


def test_the_decoder_sees_the_cut() -> None:
    with pytest.raises(TruncatedStream):
        events_of("demo-cut", chat())


def test_the_model_without_usage_reports_none_even_when_asked() -> None:
    events = events_of("demo-no-usage", chat(stream_options={"include_usage": True}))
    assert isinstance(events[-1], Ended)
    assert not any(isinstance(event, UsageReported) for event in events)


@pytest.mark.parametrize("model", DEMO_MODELS)
@pytest.mark.parametrize("operation", ["chat", "completions"])
def test_every_model_answers_both_operations(model: str, operation: Any) -> None:
    answer = demo_script(model, operation, {**chat(max_tokens=50), "prompt": "hello"})
    assert play(answer)


def test_the_provider_always_asks_for_a_stream() -> None:
    provider = build_provider(ProviderSettings(name="demo", kind="demo"))
    assert isinstance(provider, DemoProvider)
    assert provider.capabilities.streams_only
    request = ChatRequest("chat", "demo", stream=False, include_usage=False, fields=chat())
    sent = provider.prepare(request, model="demo-fast", stream=True)
    assert sent.url.startswith(KINDS["demo"].default_base_url or "")
    assert json.loads(sent.body)["model"] == "demo-fast"


@pytest.mark.parametrize(
    ("schema", "value"),
    [
        (None, {}),
        ({"properties": {"a": {"enum": ["x", "y"]}, "b": {"type": "boolean"}}}, {"a": "x", "b": True}),
        ({"type": "object", "properties": {"a": {"type": ["null", "number"]}}}, {"a": 1}),
        ({"properties": {"a": {"type": "array", "items": {"type": "string", "maxLength": 2}}}}, {"a": ["so"]}),
        ({"properties": {"a": {"const": 5}, "b": {"default": [1]}}}, {"a": 5, "b": [1]}),
        ({"properties": {"a": {"anyOf": [{"type": "null"}, {"type": "string"}]}}}, {"a": None}),
        ({"properties": {"a": {"$ref": "#/$defs/A"}}, "$defs": {"A": {"type": "integer"}}}, {"a": 1}),
        ({"properties": {"a": {"$ref": "#/nowhere"}}}, {"a": None}),
        ({"properties": {"a": 7}}, {"a": None}),
    ],
)
def test_an_example_fits_its_schema(schema: object, value: object) -> None:
    assert example_value(schema, text="some text") == value


def test_a_schema_that_refers_to_itself_has_an_end() -> None:
    schema = {"$ref": "#/$defs/Node", "$defs": {"Node": {"properties": {"next": {"$ref": "#/$defs/Node"}}}}}
    assert json.dumps(example_value(schema, text=""))


_json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
)


@given(_json_values)
def test_no_schema_raises(schema: object) -> None:
    json.dumps(example_value(schema, text="t"))


@given(
    st.dictionaries(st.sampled_from(["messages", "n", "stop", "max_tokens", "tools", "stream_options"]), _json_values)
)
def test_no_body_raises(fields: dict[str, Any]) -> None:
    assert play(demo_script("demo-fast", "chat", fields))


def test_a_lone_surrogate_does_not_break_the_answer() -> None:
    assert finish_of(payloads(demo_script("demo", "chat", chat("\ud800", tools=[_TOOL])))) == "tool_calls"
