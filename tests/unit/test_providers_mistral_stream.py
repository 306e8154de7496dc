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
    LogProbabilities,
    Moderated,
    ReasoningDelta,
    Started,
    TextDelta,
    ToolCallDelta,
    UsageReported,
)
from trio_ai_proxy.chat.usage import TokenUsage
from trio_ai_proxy.errors import TruncatedStream, UpstreamProtocolError
from trio_ai_proxy.framing.frame import Frame

MISTRAL = provider("mistral")
RECORDINGS = recordings("mistral")
USAGE = {"prompt_tokens": 16, "total_tokens": 50, "completion_tokens": 34}
HEAD = {"id": "cmpl-e5cc70bb28c444948073e77776eb30ef", "created": 1702256327, "model": "mistral-large-latest"}


def recorded(name: str) -> Recording:
    return next(recording for recording in RECORDINGS if recording.name == name)


def read(body: Any, operation: Any = "chat", **fields: Any) -> list[Any]:
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    return MISTRAL.read_answer(asked(operation, stream=False, **fields), data)


def chunk(delta: Any, finish: Any = None, index: int = 0, **more: Any) -> bytes:
    choice = {"index": index, "delta": delta, "finish_reason": finish, **more}
    return b"data: " + json.dumps({**HEAD, "choices": [choice]}).encode() + b"\n\n"


@pytest.mark.parametrize("recording", RECORDINGS, ids=lambda recording: recording.name)
def test_recording_means_what_stands_beside_it_however_it_is_cut(recording: Recording) -> None:
    for pieces in ways_to_cut(recording.response):
        events, raised = play(MISTRAL, asked(recording.operation), pieces)
        assert (comparable(events), raised) == (recording.events, recording.raises)


@pytest.mark.parametrize("recording", RECORDINGS, ids=lambda recording: recording.name)
def test_stream_cut_at_any_byte_is_whole_only_if_it_had_said_so(recording: Recording) -> None:
    reasons = tuple(
        b'"finish_reason":"%b"' % one for one in (b"stop", b"length", b"model_length", b"tool_calls", b"content_filter")
    )
    assert_only_whole_streams_end(MISTRAL, recording, (b"[DONE]", *reasons))


THREE = [{"type": "thinking", "thinking": [{"type": "text", "text": "Three"}, {"type": "text", "text": " sisters."}]}]
MESSAGES: dict[str, dict[str, Any]] = {
    "text": {"content": "The sea.", "tool_calls": None, "prefix": False},
    "tool_call": {
        "content": "",
        "tool_calls": [
            {
                "id": "D681PevKs",
                "function": {"name": "get_weather", "arguments": {"city": {"name": "Paris"}}},
                "index": 0,
            }
        ],
    },
    "tool_calls_parallel": {
        "content": "",
        "tool_calls": [
            {"id": "D681PevKs", "function": {"name": "get_weather", "arguments": '{"city":"Paris"}'}, "index": 0},
            {"id": "VvvODy9mT", "function": {"name": "get_weather", "arguments": '{"city":"Rome"}'}, "index": 1},
            {"id": "aaaaaaaaa", "function": {"name": "now", "arguments": ""}, "index": 2},
        ],
    },
    "reasoning": {"content": [*THREE, {"type": "text", "text": "Three."}]},
    "reasoning_signed": {"content": [{**THREE[0], "signature": "c2ln"}, {"type": "text", "text": "Three."}]},
    "references": {
        "content": [
            {"type": "text", "text": "Penguins are tall"},
            {"type": "reference", "reference_ids": [0, "doc"]},
            {"type": "text", "text": "."},
            {"type": "tool_reference", "tool": "web_search", "title": "Penguins", "url": "https://example.org/p"},
        ]
    },
}


class TestWholeAnswers:
    @pytest.mark.parametrize("name", MESSAGES)
    def test_mean_the_same_as_the_stream_of_the_same(self, name: str) -> None:
        reason = "tool_calls" if "tool" in name else "stop"
        choice = {"index": 0, "finish_reason": reason, "message": {"role": "assistant", **MESSAGES[name]}}
        whole = fold(read({**HEAD, "object": "chat.completion", "choices": [choice], "usage": USAGE}))
        streamed = fold(play(MISTRAL, asked(), [recorded(name).response])[0])
        for answer in (whole, streamed):  # an object and its text are the same arguments
            for call in answer.choices[0].tool_calls:
                call.arguments = json.loads(call.arguments)
        assert whole == streamed

    def test_of_a_completion_are_chats(self) -> None:
        choice = {"index": 0, "finish_reason": "model_length", "message": {"content": "The sea"}}
        events = read({**HEAD, "choices": [choice]}, "completions")
        assert events[1:] == [TextDelta("The sea"), Finished("length"), Ended()]

    def test_have_the_probabilities_of_their_tokens(self) -> None:
        token = {"token": "a", "logprob": -0.5, "bytes": [97], "token_id": 7, "top_logprobs": []}
        choice = {"index": 0, "finish_reason": "stop", "message": {"content": "a"}, "logprobs": {"content": [token]}}
        assert LogProbabilities([token]) in read({**HEAD, "choices": [choice]})

    @pytest.mark.parametrize(
        "body", [b"", b"[]", b"null", b"{}", b'{"choices":[]}', b"\xff", b'{"choices":[{"message":1}]}']
    )
    def test_what_is_none_is_refused(self, body: bytes) -> None:
        with pytest.raises(UpstreamProtocolError):
            read(body)

    def test_error_in_place_of_one_has_no_finish(self) -> None:
        choice = {"index": 0, "finish_reason": "error", "message": {"content": [{"type": "text", "text": "a"}]}}
        events = read({**HEAD, "choices": [choice]})
        assert isinstance(events[-1], Failed)
        assert not [event for event in events if isinstance(event, Finished)]


class TestEmbeddings:
    def test_are_read_in_the_order_of_the_inputs(self) -> None:
        data = [
            {"object": "embedding", "index": 1, "embedding": [2]},
            {"object": "embedding", "index": 0, "embedding": [1.5]},
        ]
        body = {
            "id": "e",
            "object": "list",
            "model": "mistral-embed",
            "data": data,
            "usage": {"prompt_tokens": 3, "total_tokens": 3},
        }
        assert read(body, "embeddings") == [
            Started("e", "mistral-embed"),
            Embedded([1.5], 0),
            Embedded([2.0], 1),
            UsageReported(TokenUsage(3, 0, 3)),
            Ended(),
        ]


class TestModerations:
    def test_are_openais_with_a_word_on_whether_something_was_found(self) -> None:
        result = {"categories": {"pii": True, "law": False}, "category_scores": {"pii": 0.9, "law": 0.1}}
        body = {"id": "m", "model": "mistral-moderation-latest", "results": [result]}
        assert read(body, "moderations") == [
            Started("m", "mistral-moderation-latest"),
            Moderated({**result, "flagged": True}),
            Ended(),
        ]


class TestBegunText:
    """An answer that goes on from the assistant's last message begins with that message."""

    ASKED = asked(messages=[{"role": "user", "content": "hi"}, {"role": "assistant", "content": "The sea"}])

    def texts(self, *deltas: str, request: Any = ASKED) -> str:
        stream = b"".join(chunk({"content": delta}) for delta in deltas) + chunk({"content": ""}, "stop")
        return fold(play(MISTRAL, request, [stream])[0]).choices[0].text

    @pytest.mark.parametrize(
        ("deltas", "text"),
        [(("The sea", " is wide"), " is wide"), (("The", " sea is", " wide"), " is wide"), (("The sea is wide",), " is wide"),
         (("T", "h", "e", " ", "s", "e", "a", "!"), "!"), (("The", " land"), "The land"), (("Wide",), "Wide"),
         (("The",), "The"), (("The sea",), ""), (("The sea", "The sea"), "The sea")],
    )  # fmt: skip
    def test_is_taken_off_once_and_nothing_else_is(self, deltas: tuple[str, ...], text: str) -> None:
        assert self.texts(*deltas) == text

    def test_is_taken_off_every_choice(self) -> None:
        stream = b"".join(
            chunk({"content": text}, index=index) for text in ("The", " sea", "!") for index in (0, 1)
        ) + chunk({}, "stop") + chunk({}, "stop", index=1)  # fmt: skip
        answer = fold(play(MISTRAL, self.ASKED, [stream])[0])
        assert [choice.text for choice in answer.choices] == ["!", "!"]

    def test_is_taken_off_a_whole_answer(self) -> None:
        choice = {"index": 0, "finish_reason": "stop", "message": {"content": "The sea is wide"}}
        events = MISTRAL.read_answer(self.ASKED, json.dumps({**HEAD, "choices": [choice]}).encode())
        assert events[1] == TextDelta(" is wide")

    def test_is_none_where_the_last_word_is_another_s(self) -> None:
        assert self.texts("hi", " there", request=asked()) == "hi there"


class TestStream:
    def test_nothing_of_a_finished_choice_or_stream_is_told(self) -> None:
        part = {"content": [{"type": "thinking", "thinking": [{"type": "text", "text": "late"}]}]}
        events, _ = play(
            MISTRAL, asked(), [chunk({"content": "a"}, "stop") + chunk(part) + b"data: [DONE]\n\n" + chunk(part)]
        )
        assert [type(event) for event in events] == [Started, TextDelta, Finished, Ended]

    def test_thought_beside_a_finish_comes_before_it(self) -> None:
        part = {"content": [{"type": "thinking", "thinking": "a"}, "b"]}
        assert play(MISTRAL, asked(), [chunk(part, "stop")])[0][1:] == [
            ReasoningDelta("a"),
            TextDelta("b"),
            Finished("stop"),
            Ended(),
        ]

    def test_ids_that_are_made_up_differ_from_turn_to_turn(self) -> None:
        call = {"tool_calls": [{"id": "null", "function": {"name": "f", "arguments": "{}"}, "index": 0}]}
        stream = [chunk(call, "tool_calls")]
        later = asked(messages=[{"role": "user", "content": "a"}] * 3)
        ids = [
            next(e.id for e in play(MISTRAL, one, stream)[0] if isinstance(e, ToolCallDelta))
            for one in (asked(), asked(), later)
        ]
        assert ids[0] == ids[1] != ids[2]
        assert all(len(one) == 9 and one.isalnum() for one in ids)

    def test_list_that_only_stands_in_a_text_is_text(self) -> None:
        text = '"content": [{"type":"thinking","thinking":"x"}]'
        assert fold(play(MISTRAL, asked(), [chunk({"content": text}, "stop")])[0]).choices[0].text == text

    @pytest.mark.parametrize(
        "garbage", [b"{", b"[]", b"hello", b'{"choices":[{"delta":{"content":[', b'{"choices":"x"}']
    )
    def test_what_is_not_of_the_documented_shape_is_refused(self, garbage: bytes) -> None:
        with pytest.raises(UpstreamProtocolError) as caught:
            MISTRAL.decoder(asked()).feed(Frame(garbage))
        assert not isinstance(caught.value, TruncatedStream)
        with pytest.raises(TruncatedStream):
            MISTRAL.decoder(asked()).feed(Frame(garbage, whole=False))


EXTRA = [{"type": "extra_forbidden", "loc": ["body", "foo"], "msg": "Extra inputs are not permitted", "input": 1}]


class TestErrors:
    @pytest.mark.parametrize(
        ("status", "body", "message"),
        [(401, {"message": "Unauthorized", "request_id": "r"}, "Unauthorized"),
         (401, {"detail": "Unauthorized"}, "Unauthorized"),
         (422, {"detail": EXTRA}, "body.foo: Extra inputs are not permitted"),
         (422, {"object": "error", "message": {"detail": EXTRA}, "type": "invalid_request_error", "code": None},
          "body.foo: Extra inputs are not permitted"),
         (429, {"object": "error", "message": "Service tier capacity exceeded.", "type": "service_tier_capacity_exceeded",
                "param": None, "code": "3505"}, "Service tier capacity exceeded."),
         (400, {"object": "error", "message": "Tool call id was x", "type": "invalid_function_call", "code": "3280"},
          "Tool call id was x")],
    )  # fmt: skip
    def test_before_the_answer_keep_the_services_words(self, status: int, body: dict[str, Any], message: str) -> None:
        error = MISTRAL.read_error(status, {"retry-after": "3"}, json.dumps(body).encode())
        assert (error.upstream_status, error.message, error.retry_after) == (status, message, 3.0)
        if body.get("type"):
            assert error.type == body["type"]

    def test_never_show_the_key(self) -> None:
        words = json.dumps({"object": "error", "message": "bad sk-1234567890"}).encode()
        failed = MISTRAL.decoder(asked()).feed(Frame(words))[-1]
        assert isinstance(failed, Failed)
        for error in (MISTRAL.read_error(401, {}, words), failed.error, read(words)[0].error):
            assert error.message == "bad ***"


# -- whatever stands where the documentation says something else ---------------------------------------------------------

WORDS = [
    "type", "text", "thinking", "signature", "closed", "content", "reference_ids", "url", "title", "tool_calls", "function",
    "name", "arguments", "id", "index", "delta", "message", "finish_reason", "error", "logprobs", "token",
]  # fmt: skip
ANYTHING = anything(WORDS)
PART = st.fixed_dictionaries(
    {"type": st.sampled_from(["text", "thinking", "reference", "tool_reference", "new", None, 1])},
    optional=dict.fromkeys(("text", "thinking", "signature", "reference_ids", "url", "title"), ANYTHING),
)
CALL = st.fixed_dictionaries(
    {},
    optional={
        "id": st.sampled_from(["null", "", "abcdefghi", None]) | ANYTHING,
        "function": ANYTHING,
        "index": ANYTHING,
    },
)
SAID = st.fixed_dictionaries(
    {"content": st.lists(PART | ANYTHING, max_size=4) | ANYTHING}, optional={"tool_calls": st.lists(CALL, max_size=2)}
)
CHOICE = st.fixed_dictionaries(
    {},
    optional={"index": st.integers(0, 2) | ANYTHING, "delta": SAID, "message": SAID, "finish_reason": ANYTHING},
)
CHUNK = st.fixed_dictionaries(
    {"choices": st.lists(CHOICE, max_size=3) | ANYTHING}, optional={"usage": ANYTHING, "id": ANYTHING}
)


@given(st.lists(CHUNK, max_size=5), st.booleans())
def test_nothing_but_our_own_errors_comes_of_any_stream(chunks: list[Any], begun: bool) -> None:
    stream = b"".join(b"data: %b\n\n" % json.dumps(one).encode() for one in chunks)
    play_nonsense(MISTRAL, TestBegunText.ASKED if begun else asked(), stream)


@given(CHUNK | st.fixed_dictionaries({"data": ANYTHING}), st.sampled_from(["chat", "completions", "embeddings"]))
def test_nothing_but_our_own_errors_comes_of_any_document(body: Any, operation: Any) -> None:
    try:
        read(body, operation)
    except UpstreamProtocolError:
        pass


@given(ANYTHING, st.integers(400, 599))
def test_nothing_but_an_error_comes_of_any_error(body: Any, status: int) -> None:
    MISTRAL.read_error(status, {}, json.dumps(body).encode())
    MISTRAL.read_error(status, {}, json.dumps({"message": {"detail": body}}).encode())
