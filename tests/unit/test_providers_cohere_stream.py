from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.provider_streams import anything, asked, assert_only_whole_streams_end, fold, play, play_nonsense, provider
from support.recordings import Recording, comparable, recordings, ways_to_cut

from trio_ai_proxy.chat.events import (
    Cited,
    Embedded,
    Ended,
    Failed,
    Finished,
    ReasoningDelta,
    Started,
    TextDelta,
    ToolCallDelta,
    UsageReported,
)
from trio_ai_proxy.chat.usage import TokenUsage
from trio_ai_proxy.errors import TruncatedStream, UpstreamProtocolError
from trio_ai_proxy.framing.frame import Frame

COHERE = provider("cohere")
RECORDINGS = recordings("cohere")
USAGE = {"billed_units": {"input_tokens": 3, "output_tokens": 6}, "tokens": {"input_tokens": 66, "output_tokens": 8}}


def read(body: Any, operation: Any = "chat") -> list[Any]:
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    return COHERE.read_answer(asked(operation, stream=False), data)


def recorded(name: str) -> Recording:
    return next(recording for recording in RECORDINGS if recording.name == name)


@pytest.mark.parametrize("recording", RECORDINGS, ids=lambda recording: recording.name)
def test_recording_means_what_stands_beside_it_however_it_is_cut(recording: Recording) -> None:
    for pieces in ways_to_cut(recording.response):
        events, raised = play(COHERE, asked(recording.operation), pieces)
        assert (comparable(events), raised) == (recording.events, recording.raises)


@pytest.mark.parametrize("recording", RECORDINGS, ids=lambda recording: recording.name)
def test_stream_cut_at_any_byte_is_whole_only_if_it_had_said_so(recording: Recording) -> None:
    assert_only_whole_streams_end(COHERE, recording, (b'"message-end"', b'"stream-end"'))


@pytest.mark.parametrize("media_type", ["text/event-stream", "application/stream+json", "application/x-ndjson"])
@pytest.mark.parametrize("recording", [one for one in RECORDINGS if "lines" in one.name], ids=lambda one: one.name)
def test_lines_of_json_are_read_whatever_they_are_called(recording: Recording, media_type: str) -> None:
    assert media_type in COHERE.stream_types
    events, raised = play(COHERE, asked(recording.operation), [recording.response], media_type)
    assert (comparable(events), raised) == (recording.events, recording.raises)


MESSAGES: dict[str, dict[str, Any]] = {
    "text": {"content": [{"type": "text", "text": "The sea."}]},
    "thinking": {"content": [{"type": "thinking", "thinking": "Three sisters."}, {"type": "text", "text": "Three."}]},
    "tool_call": {
        "tool_plan": "I will ask for the weather.",
        "tool_calls": [
            {
                "id": "get_weather_p1t92w7gfgq7",
                "type": "function",
                "function": {
                    "name": "get_weather",
                    "arguments": '{\n    "location": {"city": "Toronto", "near": []}\n}',
                },
            }
        ],
    },
    "tool_calls_parallel": {
        "tool_plan": "I will look at both, and at the clock.",
        "tool_calls": [
            {"id": "w_1", "type": "function", "function": {"name": "get_weather", "arguments": '{"location":"Madrid"}'}},
            {"id": "w_2", "type": "function",
             "function": {"name": "get_weather", "arguments": '{"location":"Brasilia"}'}},
            {"id": "t_1", "type": "function", "function": {"name": "now", "arguments": None}},
        ],
    },
    "citations": {
        "content": [{"type": "text", "text": "Emperor penguins are the tallest."}],
        "citations": [
            {"start": 0, "end": 16, "text": "Emperor penguins", "type": "TEXT_CONTENT",
             "sources": [{"type": "document", "id": "doc:0", "document": {"id": "doc:0", "title": "Tall penguins"}}]},
            {"start": 21, "end": 28, "text": "tallest",
             "sources": [{"type": "document", "id": "doc:1",
                          "document": {"url": "https://example.org/penguins", "title": "Penguins"}},
                         {"type": "tool", "id": "search_1:0", "tool_output": {}}]},
            {"start": 0, "end": 3, "text": "I w", "type": "PLAN", "sources": [{"type": "tool", "id": "x:0"}]},
        ],
    },
}  # fmt: skip


class TestWholeAnswers:
    @pytest.mark.parametrize("name", MESSAGES)
    def test_mean_the_same_as_the_stream_of_the_same(self, name: str) -> None:
        reason = "TOOL_CALL" if "tool" in name else "COMPLETE"
        message = {"role": "assistant", **MESSAGES[name]}
        whole = read(
            {"id": "c14c80c3-18eb-4519-9460-6c92edd8cfb4", "finish_reason": reason, "message": message, "usage": USAGE}
        )
        events, _ = play(COHERE, asked(), [recorded(name).response])
        assert fold(whole) == fold(events)
        assert whole[-1] == Ended()

    def test_of_version_1_are_read(self) -> None:
        body = {
            "text": "The sea.", "generation_id": "g", "finish_reason": "MAX_TOKENS",
            "citations": [{"start": 0, "end": 3, "text": "The", "document_ids": ["d"]}],
            "meta": {"billed_units": {"input_tokens": 1, "output_tokens": 2}},
        }  # fmt: skip
        assert read(body) == [
            Started("g", ""),
            TextDelta("The sea."),
            Cited(source="d", quote="The", end=3),
            Finished("length"),
            UsageReported(TokenUsage(1, 2, 3)),
            Ended(),
        ]

    def test_of_version_1_with_calls_have_their_text_for_a_plan(self) -> None:
        calls = [{"name": "f", "parameters": {"a": [1]}}, {"name": "g", "parameters": None}]
        assert read({"text": "I will", "tool_calls": calls, "finish_reason": "COMPLETE"}) == [
            Started("", ""),
            ReasoningDelta("I will"),
            ToolCallDelta(0, "call_1_0", "f", '{"a":[1]}'),
            ToolCallDelta(1, "call_1_1", "g"),
            ToolCallDelta(1, arguments="{}"),
            Finished("tool_calls"),
            Ended(),
        ]

    def test_of_version_1_can_be_several_texts(self) -> None:
        generations = [{"text": "a", "finish_reason": "COMPLETE"}, {"text": "b", "finish_reason": "MAX_TOKENS"}]
        assert read({"id": "g", "generations": generations}, "completions") == [
            Started("g", ""),
            TextDelta("a"),
            Finished("stop"),
            TextDelta("b", 1),
            Finished("length", 1),
            Ended(),
        ]

    @pytest.mark.parametrize(
        ("reason", "word"),
        [("COMPLETE", "stop"), ("STOP_SEQUENCE", "stop"), ("MAX_TOKENS", "length"), ("ERROR_LIMIT", "length"),
         ("TOOL_CALL", "tool_calls"), ("ERROR_TOXIC", "content_filter"), ("NEW_ONE", "NEW_ONE")],
    )  # fmt: skip
    def test_finish_in_openais_words(self, reason: str, word: str) -> None:
        assert Finished(word) in read({"id": "i", "finish_reason": reason, "message": {"content": []}})

    @pytest.mark.parametrize("reason", ["ERROR", "TIMEOUT", "USER_CANCEL"])
    def test_that_failed_have_no_finish_and_keep_their_usage(self, reason: str) -> None:
        events = read({"id": "i", "finish_reason": reason, "message": {"content": []}, "usage": USAGE})
        assert [type(event) for event in events] == [Started, UsageReported, Failed]

    def test_call_without_arguments_that_was_cut_short_is_not_made_whole(self) -> None:
        call = {"id": "c", "type": "function", "function": {"name": "f", "arguments": ""}}
        body = {"id": "i", "finish_reason": "MAX_TOKENS", "message": {"tool_calls": [call]}}
        assert ToolCallDelta(0, arguments="{}") not in read(body)

    @pytest.mark.parametrize("body", [b"", b"[]", b"null", b"{}", b"\xff", b'{"id":1}', b'{"message":', b'{"delta":1}'])
    def test_what_is_none_is_refused(self, body: bytes) -> None:
        with pytest.raises(UpstreamProtocolError):
            read(body)

    @pytest.mark.parametrize("body", [{"message": "no"}, {"error": "no"}, {"error": {"message": "no"}}])
    def test_error_in_a_good_status_is_one(self, body: Any) -> None:
        (failed,) = read(body)
        assert failed.error.message == "no"


class TestEmbeddings:
    @pytest.mark.parametrize("vectors", [{"float": [[0.5, 1], [2.0]]}, [[0.5, 1], [2.0]]])
    def test_are_read_in_the_order_of_the_inputs(self, vectors: Any) -> None:
        body = {"id": "e", "embeddings": vectors, "texts": ["a", "b"], "meta": {"billed_units": {"input_tokens": 7}}}
        assert read(body, "embeddings") == [
            Started("e", ""),
            Embedded([0.5, 1.0], 0),
            Embedded([2.0], 1),
            UsageReported(TokenUsage(7, 0, 7)),
            Ended(),
        ]

    @pytest.mark.parametrize("vectors", [None, {}, {"int8": [[1]]}, {"float": [[True]]}, {"float": ["x"]}, "x"])
    def test_that_are_no_numbers_are_refused(self, vectors: Any) -> None:
        with pytest.raises(UpstreamProtocolError):
            read({"id": "e", "embeddings": vectors}, "embeddings")


class TestErrors:
    @pytest.mark.parametrize(
        ("status", "seen", "words"),
        [(400, 400, "invalid request: message must be at least 1 token long"), (401, 502, "invalid api token"),
         (429, 429, "You are using a Trial key"), (500, 500, "internal server error")],
    )  # fmt: skip
    def test_before_the_answer_keep_the_services_words(self, status: int, seen: int, words: str) -> None:
        error = COHERE.read_error(status, {"Retry-After": "7"}, json.dumps({"id": "1", "message": words}).encode())
        assert (error.upstream_status, error.message, error.retry_after) == (status, words, 7.0)
        assert error.status == seen or status == 500

    def test_never_show_the_key(self) -> None:
        words = json.dumps({"message": "bad sk-1234567890"}).encode()
        failed = COHERE.decoder(asked()).feed(Frame(words))[0]
        assert isinstance(failed, Failed)
        for error in (COHERE.read_error(401, {}, words), failed.error, read(words)[0].error):
            assert error.message == "bad ***"

    def test_of_any_kind_end_the_stream(self) -> None:
        decoder = COHERE.decoder(asked())
        assert isinstance(decoder.feed(Frame(b'{"message":"no"}'))[-1], Failed)
        assert decoder.feed(Frame(b'{"type":"content-delta","delta":{"message":{"content":{"text":"a"}}}}')) == []
        assert decoder.close() == []

    @pytest.mark.parametrize(
        "garbage", [b"{", b"[]", b"hello", b'{"type":', b'{"delta":"x"}', b'{"delta":{"message":1}}']
    )
    def test_what_is_not_of_coheres_shape_is_refused(self, garbage: bytes) -> None:
        with pytest.raises(UpstreamProtocolError) as caught:
            COHERE.decoder(asked()).feed(Frame(garbage))
        assert not isinstance(caught.value, TruncatedStream)
        with pytest.raises(TruncatedStream):
            COHERE.decoder(asked()).feed(Frame(garbage, whole=False))


# -- whatever stands where the documentation says something else ---------------------------------------------------------

WORDS = [
    "text", "thinking", "content", "tool_plan", "tool_calls", "citations", "id", "function", "name", "arguments",
    "parameters", "sources", "document", "url", "start", "end", "finish_reason", "usage", "tokens", "input_tokens",
    "output_tokens", "billed_units", "error", "message", "logprobs", "token_ids", "index", "generations", "meta", "float",
]  # fmt: skip
KINDS = [
    "message-start", "content-start", "content-delta", "content-end", "tool-plan-delta", "tool-call-start",
    "tool-call-delta", "tool-call-end", "citation-start", "message-end", "text-generation", "tool-calls-chunk",
    "tool-calls-generation", "citation-generation", "stream-end", "stream-error", "debug", "new", None, 1,
]  # fmt: skip
TOP = ["index", "id", "delta", "message", "logprobs", "text", "tool_calls", "tool_call_delta", "citations", "response",
       "finish_reason", "usage", "meta", "err", "error", "generation_id", "generations", "embeddings"]  # fmt: skip
ANYTHING = anything(WORDS)
MESSAGE = st.dictionaries(st.sampled_from(WORDS[2:6]), ANYTHING, max_size=4)
DELTA = st.fixed_dictionaries(
    {}, optional={"message": MESSAGE, "finish_reason": ANYTHING, "usage": ANYTHING, "error": ANYTHING}
)
EVENT = st.builds(
    lambda kind, name, delta, rest: {**rest, name: kind, "delta": delta},
    st.sampled_from(KINDS), st.sampled_from(["type", "event_type"]), DELTA, st.dictionaries(st.sampled_from(TOP), ANYTHING),
)  # fmt: skip


@given(st.lists(EVENT, max_size=6))
def test_nothing_but_our_own_errors_comes_of_any_stream(events: list[Any]) -> None:
    stream = b"".join(b"data: %b\n\n" % json.dumps(event).encode() for event in events)
    play_nonsense(COHERE, asked(), stream)


@given(st.dictionaries(st.sampled_from(TOP), ANYTHING), st.sampled_from(["chat", "completions", "embeddings"]))
def test_nothing_but_our_own_errors_comes_of_any_document(body: Any, operation: Any) -> None:
    try:
        read(body, operation)
    except UpstreamProtocolError:
        pass
