from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.provider_streams import (
    anything,
    asked,
    assert_only_whole_streams_end,
    fold,
    play,
    play_nonsense,
    provider,
)
from support.recordings import Recording, comparable, recordings, ways_to_cut

from trio_ai_proxy.chat.events import (
    Embedded,
    Ended,
    Failed,
    Finished,
    Started,
    TextDelta,
    ToolCallDelta,
    UsageReported,
)
from trio_ai_proxy.chat.usage import TokenUsage
from trio_ai_proxy.errors import TruncatedStream, UpstreamProtocolError
from trio_ai_proxy.framing.frame import Frame

HUB = provider("huggingface")
RECORDINGS = recordings("huggingface")
DETAILS = {"finish_reason": "eos_token", "generated_tokens": 3, "input_length": 5, "prefill": [], "tokens": []}


def recorded(name: str) -> Recording:
    return next(recording for recording in RECORDINGS if recording.name == name)


def read(body: Any, operation: Any = "completions", **fields: Any) -> list[Any]:
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    return HUB.read_answer(asked(operation, stream=False, **fields), data)


def token(text: str, **more: Any) -> bytes:
    return b"data:" + json.dumps({"token": {"text": text, "special": False}, **more}).encode() + b"\n\n"


@pytest.mark.parametrize("recording", RECORDINGS, ids=lambda recording: recording.name)
def test_recording_means_what_stands_beside_it_however_it_is_cut(recording: Recording) -> None:
    for pieces in ways_to_cut(recording.response):
        events, raised = play(HUB, asked(recording.operation), pieces)
        assert (comparable(events), raised) == (recording.events, recording.raises)


@pytest.mark.parametrize("recording", RECORDINGS, ids=lambda recording: recording.name)
def test_stream_cut_at_any_byte_is_whole_only_if_it_had_said_so(recording: Recording) -> None:
    chat = tuple(b'"finish_reason":"%b"' % word for word in (b"stop", b"eos_token", b"tool_calls", b"length"))
    text = (b'"generated_text":" The', '"generated_text":"Größe'.encode())
    assert_only_whole_streams_end(HUB, recording, chat if recording.operation == "chat" else text)


class TestWholeAnswers:
    def test_text_means_the_same_as_the_stream_of_the_same(self) -> None:
        whole = read({"generated_text": " The sea", "details": DETAILS})
        assert fold(whole) == fold(play(HUB, asked("completions"), [recorded("text").response])[0])

    def test_chat_means_the_same_as_the_stream_of_the_same(self) -> None:
        call = {"id": "0", "type": "function", "function": {"name": "get_weather", "arguments": {"city": "Rome"}}}
        body = {
            "id": "", "created": 1726656043, "model": "meta-llama/Llama-3.1-8B-Instruct", "system_fingerprint": "2.2.1-dev0",
            "choices": [{"index": 0, "finish_reason": "tool_calls", "message": {"role": "assistant", "tool_calls": [call]}}],
            "usage": {"prompt_tokens": 13, "completion_tokens": 9, "total_tokens": 22},
        }  # fmt: skip
        whole = fold(read(body, "chat"))
        streamed = fold(play(HUB, asked(), [recorded("chat_tools").response])[0])
        for answer in (whole, streamed):
            answer.choices[0].tool_calls[0].arguments = json.loads(answer.choices[0].tool_calls[0].arguments)
        assert whole == streamed

    def test_text_of_a_pipeline_is_in_a_list(self) -> None:
        assert read([{"generated_text": "a"}]) == [Started("", ""), TextDelta("a"), Ended()]

    def test_usage_is_told_where_both_numbers_are_known(self) -> None:
        assert read({"generated_text": "a", "details": {**DETAILS, "input_length": None}}) == [
            Started("", ""),
            TextDelta("a"),
            Finished("stop"),
            Ended(),
        ]
        prefilled = {**DETAILS, "input_length": None, "prefill": [{"id": 1}, {"id": 2}]}
        assert UsageReported(TokenUsage(2, 3, 5)) in read({"generated_text": "a", "details": prefilled})

    @pytest.mark.parametrize(
        "body", [b"", b"[]", b"null", b"{}", b"\xff", b'{"generated_text":1}', b'[{"generated_text":"a"},{}]']
    )
    def test_what_is_none_is_refused(self, body: bytes) -> None:
        with pytest.raises(UpstreamProtocolError):
            read(body)

    @pytest.mark.parametrize("operation", ["chat", "completions", "embeddings"])
    def test_error_in_a_good_status_is_one(self, operation: Any) -> None:
        (failed,) = read({"error": "Model is overloaded", "error_type": "overloaded"}, operation)
        assert (failed.error.message, failed.error.type, failed.error.status) == (
            "Model is overloaded",
            "overloaded",
            429,
        )


class TestStopSequences:
    """The server leaves the stop sequence at the end of the text, where OpenAI's has none."""

    @pytest.mark.parametrize(
        ("deltas", "stop", "text"),
        [((" one", " two", "\n"), ["\n"], " one two"), ((" one", "EN", "D"), ["END"], " one"), (("a", "b", "c"), "c", "ab"),
         (("E", "N", "END"), ["END"], "EN"), (("aE", "NDE", "ND"), ["END"], "aEND"), (("a b",), ["b", " b"], "a"),
         ((" one",), ["x"], " one"), (("aba", "b"), ["abab", "bab"], "")],
    )  # fmt: skip
    @pytest.mark.parametrize("is_stream", [True, False])
    def test_is_no_part_of_the_text(self, deltas: tuple[str, ...], stop: Any, text: str, is_stream: bool) -> None:
        whole, details = "".join(deltas), {**DETAILS, "finish_reason": "stop_sequence"}
        if is_stream:
            frames = [token(delta) for delta in deltas[:-1]]
            frames.append(token(deltas[-1], generated_text=whole, details=details))
            events, raised = play(HUB, asked("completions", stop=stop), frames)
            assert raised is None
        else:
            events = read({"generated_text": whole, "details": details}, stop=stop)
        choices = fold(events).choices
        assert "".join(choice.text for choice in choices) == text
        assert Finished("stop") in events

    def test_beginning_of_one_that_was_none_is_told(self) -> None:
        frames = [token("aE"), token("N"), token("x"), token("E", generated_text="aENxE", details=DETAILS)]
        events, _ = play(HUB, asked("completions", stop=["END"]), frames)
        assert [event.text for event in events if isinstance(event, TextDelta)] == ["a", "ENx", "E"]

    def test_at_the_end_of_a_text_that_ended_otherwise_stays(self) -> None:
        events, _ = play(
            HUB, asked("completions", stop=["END"]), [token("a END", generated_text="a END", details=DETAILS)]
        )
        assert fold(events).choices[0].text == "a END"

    @given(st.lists(st.text("ab", max_size=3), max_size=6), st.lists(st.text("ab", max_size=3), max_size=3))
    def test_nothing_of_the_text_is_lost_or_told_twice(self, deltas: list[str], stop: list[str]) -> None:
        frames = [token(delta) for delta in deltas] + [token("", generated_text="", details=DETAILS)]
        events, _ = play(HUB, asked("completions", stop=stop), frames)
        assert "".join(event.text for event in events if isinstance(event, TextDelta)) == "".join(deltas)


class TestStream:
    def test_nothing_follows_the_end(self) -> None:
        stream = token("a", generated_text="a", details=DETAILS) + token("b") + b"data:[DONE]\n\n"
        events, _ = play(HUB, asked("completions"), [stream])
        assert [type(event) for event in events] == [Started, TextDelta, Finished, UsageReported, Ended]

    def test_calls_that_are_all_called_0_are_told_apart(self) -> None:
        calls = [{"index": n, "id": "0", "function": {"name": "f", "arguments": "{}"}} for n in (0, 1)]
        chunk = {"choices": [{"index": 0, "delta": {"tool_calls": calls}, "finish_reason": "tool_calls"}]}
        events, _ = play(HUB, asked(), [b"data: %b\n\n" % json.dumps(chunk).encode()])
        ids = [event.id for event in events if isinstance(event, ToolCallDelta)]
        assert ids == ["call_1_0_0", "call_1_0_1"]

    @pytest.mark.parametrize("garbage", [b"{", b"[]", b"hello", b'{"token":', b'{"token":1}'])
    def test_what_is_no_text_is_refused(self, garbage: bytes) -> None:
        with pytest.raises(UpstreamProtocolError) as caught:
            HUB.decoder(asked("completions")).feed(Frame(garbage))
        assert not isinstance(caught.value, TruncatedStream)
        with pytest.raises(TruncatedStream):
            HUB.decoder(asked("completions")).feed(Frame(garbage, whole=False))


class TestEmbeddings:
    @pytest.mark.parametrize("body", [[[0.5, 1], [2.0]], {"embeddings": [[0.5, 1], [2]]}])
    def test_are_read_in_the_order_of_the_inputs(self, body: Any) -> None:
        assert read(body, "embeddings") == [Started("", ""), Embedded([0.5, 1.0], 0), Embedded([2.0], 1), Ended()]

    def test_of_one_text_can_be_the_vector_itself(self) -> None:
        assert read([0.5, 1], "embeddings")[1] == Embedded([0.5, 1.0], 0)

    @pytest.mark.parametrize("body", [[], {}, [[[0.5], [1]]], [["x"]], [[True]], [[]], "x", {"embeddings": None}])
    def test_that_are_no_vectors_of_texts_are_refused(self, body: Any) -> None:
        with pytest.raises(UpstreamProtocolError):
            read(body, "embeddings")


class TestErrors:
    @pytest.mark.parametrize(
        ("status", "body", "message", "retry_after"),
        [(422, {"error": "Input validation error: `inputs` must have less than 5 tokens", "error_type": "validation"},
          "Input validation error: `inputs` must have less than 5 tokens", None),
         (503, {"error": "Model x is currently loading", "estimated_time": 20.5}, "Model x is currently loading", 20.5),
         (400, {"error": ["a", "b"], "warnings": []}, "a; b", None),
         (401, {"error": "Invalid credentials in Authorization header"}, "Invalid credentials in Authorization header", None),
         (400, {"error": {"message": "Model not supported", "type": "t", "code": "model_not_supported"}},
          "Model not supported", None),
         (503, {"error": "x", "estimated_time": "soon"}, "x", None)],
    )  # fmt: skip
    def test_before_the_answer_keep_the_services_words(
        self, status: int, body: dict[str, Any], message: str, retry_after: float | None
    ) -> None:
        error = HUB.read_error(status, {}, json.dumps(body).encode())
        assert (error.upstream_status, error.message, error.retry_after) == (status, message, retry_after)

    def test_never_show_the_key(self) -> None:
        for words in ({"error": "bad sk-1234567890", "error_type": "generation"}, {"error": ["bad sk-1234567890"]}):
            data = json.dumps(words).encode()
            failed = HUB.decoder(asked("completions")).feed(Frame(data))[-1]
            assert isinstance(failed, Failed)
            for error in (HUB.read_error(401, {}, data), failed.error, read(words)[0].error):
                assert error.message == "bad ***"

    @pytest.mark.parametrize("operation", ["chat", "completions"])
    def test_end_the_stream(self, operation: Any) -> None:
        decoder = HUB.decoder(asked(operation))
        assert isinstance(decoder.feed(Frame(b'{"error":"no","error_type":"generation"}'))[-1], Failed)
        assert decoder.feed(Frame(b'{"token":{"text":"a"}}')) == []
        assert decoder.close() == []


# -- whatever stands where the documentation says something else ---------------------------------------------------------

ANYTHING = anything(
    ["text", "special", "finish_reason", "generated_tokens", "input_length", "prefill", "message", "error"]
)
GENERATED = st.fixed_dictionaries(
    {},
    optional=dict.fromkeys(
        ("token", "generated_text", "details", "error", "error_type", "embeddings", "choices"), ANYTHING
    ),
)


@given(st.lists(GENERATED, max_size=5), st.sampled_from(["chat", "completions"]))
def test_nothing_but_our_own_errors_comes_of_any_stream(frames: list[Any], operation: Any) -> None:
    stream = b"".join(b"data:%b\n\n" % json.dumps(one).encode() for one in frames)
    play_nonsense(HUB, asked(operation, stop=["a"]), stream)


@given(
    GENERATED | st.lists(GENERATED | ANYTHING, max_size=2) | ANYTHING,
    st.sampled_from(["chat", "completions", "embeddings"]),
)
def test_nothing_but_our_own_errors_comes_of_any_document(body: Any, operation: Any) -> None:
    try:
        read(body, operation)
    except UpstreamProtocolError:
        pass


@given(ANYTHING | st.dictionaries(st.sampled_from(["error", "estimated_time", "error_type"]), ANYTHING))
def test_nothing_but_an_error_comes_of_any_error(body: Any) -> None:
    HUB.read_error(503, {}, json.dumps(body).encode())
