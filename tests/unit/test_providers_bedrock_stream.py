from __future__ import annotations

import json
from base64 import b64encode
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.recordings import comparable, recordings, ways_to_cut

from trio_ai_proxy.chat.events import (
    Cited,
    Ended,
    Event,
    Failed,
    Finished,
    ReasoningDelta,
    ReasoningSealed,
    Started,
    TextDelta,
    ToolCallDelta,
    UsageReported,
)
from trio_ai_proxy.chat.fold import Answer, Fold
from trio_ai_proxy.chat.usage import TokenUsage
from trio_ai_proxy.errors import TruncatedStream, UpstreamError, UpstreamProtocolError
from trio_ai_proxy.framing.event_stream import EventStreamFramer
from trio_ai_proxy.framing.frame import Frame
from trio_ai_proxy.providers.bedrock_stream import BedrockDecoder, read_converse

EVENTS = ("messageStart", "contentBlockStart", "contentBlockDelta", "contentBlockStop", "messageStop", "metadata")


def frame(event: str, payload: Any = None) -> Frame:
    return Frame(payload if isinstance(payload, bytes) else json.dumps(payload or {}).encode(), event)


def text(words: str, index: int = 0) -> Frame:
    return frame("contentBlockDelta", {"contentBlockIndex": index, "delta": {"text": words}})


def decode(*frames: Frame, answer_tool: str = "") -> list[Event]:
    decoder = BedrockDecoder(answer_tool, str)
    return [event for one in frames for event in decoder.feed(one)]


def play(pieces: list[bytes]) -> tuple[list[Event], str | None]:
    framer, decoder = EventStreamFramer(), BedrockDecoder("", str)
    events: list[Event] = []
    try:
        for piece in pieces:
            for found in framer.feed(piece):
                events += decoder.feed(found)
        for found in framer.close():
            events += decoder.feed(found)
        events += decoder.close()
    except UpstreamError as error:
        return events, type(error).__name__
    return events, None


@pytest.mark.parametrize("recording", recordings("bedrock"), ids=lambda recording: recording.name)
def test_recording_means_what_stands_beside_it_however_it_is_cut(recording) -> None:
    for pieces in ways_to_cut(recording.response):
        events, raised = play(pieces)
        assert (comparable(events), raised) == (recording.events, recording.raises)


@pytest.mark.parametrize("recording", recordings("bedrock"), ids=lambda recording: recording.name)
def test_stream_cut_at_any_byte_is_whole_only_if_it_had_said_so(recording) -> None:
    for length in range(len(recording.response)):
        events, raised = play([recording.response[:length]])
        if any(isinstance(event, Failed) for event in events):
            continue
        assert (raised is None) == (Ended() in events)
        if Ended() in events:
            assert any(isinstance(event, Finished) for event in events)


# -- a whole answer means what its stream means -----------------------------------------------------------------------


def folded(events: list[Event]) -> Answer:
    fold = Fold()
    for event in events:
        fold.add(event)
    return fold.answer()


def document(*content: dict[str, Any], reason: str = "end_turn", usage: dict[str, int] | None = None) -> bytes:
    return json.dumps(
        {
            "output": {"message": {"role": "assistant", "content": list(content)}},
            "stopReason": reason,
            "usage": usage,
            "metrics": {"latencyMs": 1},
        }
    ).encode()


SPOKEN: dict[str, Any] = {"inputTokens": 11, "outputTokens": 6, "totalTokens": 17}
WHOLE: dict[str, bytes] = {
    "text": document({"text": "The sea is wide."}, usage=SPOKEN),
    "length": document({"text": "The"}, reason="max_tokens", usage={**SPOKEN, "outputTokens": 1, "totalTokens": 12}),
    "tool": document(
        {"text": "Let me look."},
        {
            "toolUse": {
                "toolUseId": "tooluse_kZJMlvQmRJ6eAyJE5GIl7Q",
                "name": "get_weather",
                "input": {"city": "Paris"},
            }
        },
        reason="tool_use",
        usage={"inputTokens": 300, "outputTokens": 40, "totalTokens": 340},
    ),
    "tools_parallel": document(
        {
            "toolUse": {
                "toolUseId": "tooluse_a",
                "name": "get_weather",
                "input": {"place": {"city": "Paris", "box": [[1, 2], [3, 4]]}},
            }
        },
        {"toolUse": {"toolUseId": "tooluse_b", "name": "get_time", "input": {}}},
        {"toolUse": {"toolUseId": "tooluse_c", "name": "get_time", "input": {}}},
        reason="tool_use",
        usage={"inputTokens": 300, "outputTokens": 40, "totalTokens": 340},
    ),
    "reasoning": document(
        {"reasoningContent": {"reasoningText": {"text": "Let me think.", "signature": "EuYBCkQYAiJAg1=="}}},
        {"text": "42"},
        usage={"inputTokens": 9, "outputTokens": 30, "totalTokens": 39},
    ),
    "reasoning_redacted": document(
        {"reasoningContent": {"redactedContent": b64encode(b"hidden thought and more").decode()}},
        {"text": "42"},
        usage={"inputTokens": 9, "outputTokens": 30, "totalTokens": 39},
    ),
    "cache_usage": document(
        {"text": "Yes"},
        usage={
            "inputTokens": 4,
            "outputTokens": 1,
            "totalTokens": 5,
            "cacheReadInputTokens": 1000,
            "cacheWriteInputTokens": 200,
        },
    ),
    "citations": document(
        {"text": "It says: "},
        {
            "citationsContent": {
                "content": [{"text": "the sea is wide"}],
                "citations": [
                    {
                        "title": "Seas",
                        "sourceContent": [{"text": "The sea is wide."}],
                        "location": {"documentChar": {"documentIndex": 0, "start": 10, "end": 26}},
                    }
                ],
            }
        },
        {
            "citationsContent": {
                "content": [{"text": "."}],
                "citations": [{"title": "Page", "location": {"web": {"url": "https://sea.example/"}}}],
            }
        },
        usage={"inputTokens": 90, "outputTokens": 12, "totalTokens": 102},
    ),
    "no_usage": document({"text": "Yes"}, reason="stop_sequence"),
    "server_tool": document(
        {"toolUse": {"toolUseId": "s", "name": "nova_grounding", "type": "server_tool_use", "input": {"q": "sea"}}},
        {"toolResult": {"toolUseId": "s", "content": [{"json": {}}]}},
        {"text": "Wide."},
        usage={"inputTokens": 9, "outputTokens": 9, "totalTokens": 18},
    ),
    "guardrail": document(
        {"text": "Sorry, the model cannot answer this question."},
        reason="guardrail_intervened",
        usage={"inputTokens": 0, "outputTokens": 0, "totalTokens": 0},
    ),
}


@pytest.mark.parametrize("name", WHOLE)
def test_whole_answer_folds_to_what_its_stream_folds_to(name: str) -> None:
    [recording] = [one for one in recordings("bedrock") if one.name == name]
    streamed, _ = play([recording.response])
    at_once = folded(read_converse(WHOLE[name], "", str))
    expected = folded(streamed)
    for one in (at_once, expected):
        for call in one.choices[0].tool_calls:
            call.arguments = json.loads(call.arguments)  # type: ignore[assignment]  # white space may differ
    assert at_once == expected


class TestWholeAnswer:
    @pytest.mark.parametrize("body", [b"", b"{", b"[]", b"null", b"{}", b'{"output":{}}', b'{"output":[]}', b"x" * 9])
    def test_what_is_none_is_refused(self, body: bytes) -> None:
        with pytest.raises(UpstreamProtocolError):
            read_converse(body, "", str)

    @pytest.mark.parametrize(
        ("body", "words"),
        [
            (
                b'{"Output":{"__type":"com.amazon.coral.service#UnknownOperationException"},"Version":"1.0"}',
                "AWS answered UnknownOperationException.",
            ),
            (b'{"message":"no such thing"}', "no such thing"),
        ],
    )
    def test_refusal_that_came_with_a_good_status_is_one(self, body: bytes, words: str) -> None:
        [failed] = read_converse(body, "", str)
        assert isinstance(failed, Failed)
        assert failed.error.message == words

    def test_empty_message_is_whole(self) -> None:
        assert read_converse(document(), "", str) == [Started("", ""), Finished("stop"), Ended()]

    def test_half_a_surrogate_pair_is_read(self) -> None:
        body = document({"text": "a"}).replace(b'"a"', b'"a\\ud83d"')
        assert read_converse(body, "", str)[1] == TextDelta("a\ufffd")


class TestAnswerByTool:
    def test_input_of_the_tool_is_the_text(self) -> None:
        start = {"contentBlockIndex": 0, "start": {"toolUse": {"toolUseId": "t", "name": "json_answer"}}}
        pieces = [{"contentBlockIndex": 0, "delta": {"toolUse": {"input": piece}}} for piece in ('{"a":', "1}")]
        events = decode(
            frame("messageStart"),
            frame("contentBlockStart", start),
            *(frame("contentBlockDelta", piece) for piece in pieces),
            frame("contentBlockStop", {"contentBlockIndex": 0}),
            frame("messageStop", {"stopReason": "tool_use"}),
            answer_tool="json_answer",
        )
        assert events == [Started("", ""), TextDelta('{"a":'), TextDelta("1}"), Finished("stop")]

    def test_whole_answer_says_the_same(self) -> None:
        block = {"toolUse": {"toolUseId": "t", "name": "json_answer", "input": {"a": 1}}}
        events = read_converse(document(block, reason="tool_use"), "json_answer", str)
        assert events == [Started("", ""), TextDelta('{"a":1}'), Finished("stop"), Ended()]

    def test_call_beside_it_is_a_call(self) -> None:
        blocks = [{"toolUse": {"toolUseId": name, "name": name, "input": {}}} for name in ("json_answer", "look")]
        events = read_converse(document(*blocks, reason="tool_use"), "json_answer", str)
        assert events[1:-1] == [
            TextDelta("{}"),
            ToolCallDelta(0, "look", "look"),
            ToolCallDelta(0, arguments="{}"),
            Finished("tool_calls"),
        ]

    def test_second_answer_is_left_out(self) -> None:
        block = {"toolUse": {"toolUseId": "t", "name": "json_answer", "input": {"a": 1}}}
        events = read_converse(document(block, block, reason="tool_use"), "json_answer", str)
        assert [event for event in events if isinstance(event, TextDelta)] == [TextDelta('{"a":1}')]

    def test_text_of_a_model_that_does_not_call_it_is_text(self) -> None:
        assert decode(text("No."), answer_tool="json_answer")[1:] == [TextDelta("No.")]


class TestBlocks:
    def test_end_that_is_not_said_is_made_up_for(self) -> None:
        events = decode(
            frame("contentBlockStart", {"contentBlockIndex": 0, "start": {"toolUse": {"name": "f"}}}),
            frame("contentBlockStart", {"contentBlockIndex": 0, "start": {"toolUse": {"name": "g"}}}),
            frame("contentBlockDelta", {"contentBlockIndex": 1, "delta": {"reasoningContent": {"signature": "s"}}}),
            frame("messageStop", {"stopReason": "tool_use"}),
        )
        assert events[1:] == [
            ToolCallDelta(0, "call_0", "f"),
            ToolCallDelta(0, arguments="{}"),
            ToolCallDelta(1, "call_1", "g"),
            ToolCallDelta(1, arguments="{}"),
            ReasoningSealed("s"),
            Finished("tool_calls"),
        ]

    def test_redacted_pieces_that_are_no_base64_are_kept_as_they_are(self) -> None:
        piece = {"contentBlockIndex": 0, "delta": {"reasoningContent": {"redactedContent": "a"}}}
        events = decode(frame("contentBlockDelta", piece), frame("contentBlockDelta", piece), frame("contentBlockStop"))
        assert events[1:] == [ReasoningSealed(redacted="aa")]

    def test_citation_of_nothing_is_one(self) -> None:
        delta = {"contentBlockIndex": 0, "delta": {"citation": {"location": {"documentPage": 3}, "source": 1}}}
        assert decode(frame("contentBlockDelta", delta), frame("contentBlockStop"))[1:] == [Cited()]

    def test_start_is_said_once_and_before_all_else(self) -> None:
        events = decode(text("a"), frame("messageStart"), text("b"))
        assert events == [Started("", ""), TextDelta("a"), TextDelta("b")]

    def test_thought_without_words_is_no_event(self) -> None:
        delta = {"contentBlockIndex": 0, "delta": {"reasoningContent": {"text": ""}}}
        assert decode(frame("contentBlockDelta", delta))[1:] == []
        delta["delta"]["reasoningContent"]["text"] = "hm"  # type: ignore[index]  # as above
        assert decode(frame("contentBlockDelta", delta))[1:] == [ReasoningDelta("hm")]


class TestEnd:
    def test_usage_that_comes_early_ends_nothing(self) -> None:
        usage = {"usage": {"inputTokens": 1, "outputTokens": 2, "totalTokens": 3}}
        events = decode(frame("metadata", usage), text("a"), frame("messageStop", {"stopReason": "end_turn"}))
        assert events[0] == UsageReported(TokenUsage(1, 2, 3))
        assert Ended() not in events

    def test_stop_is_said_once(self) -> None:
        stop = frame("messageStop", {"stopReason": "end_turn"})
        assert decode(stop, stop) == [Started("", ""), Finished("stop")]

    def test_stop_without_a_reason_gets_none(self) -> None:
        decoder = BedrockDecoder("", str)
        assert decoder.feed(frame("messageStop", {"stopReason": None})) == [Started("", "")]
        assert decoder.close() == [Ended()]

    def test_nothing_follows_the_end(self) -> None:
        decoder = BedrockDecoder("", str)
        decoder.feed(frame("messageStop", {"stopReason": "end_turn"}))
        assert decoder.feed(frame("metadata")) == [Ended()]
        assert decoder.feed(text("a")) == []
        assert decoder.close() == []

    def test_empty_stream_is_truncated(self) -> None:
        with pytest.raises(TruncatedStream):
            BedrockDecoder("", str).close()


class TestErrors:
    @pytest.mark.parametrize(
        ("name", "payload", "facts"),
        [
            ("exception:throttlingException", {"message": "m"}, ("m", "throttlingException", 429)),
            ("exception:ThrottlingException", {"Message": "m"}, ("m", "ThrottlingException", 429)),
            ("throttlingException", {"message": "m"}, ("m", "throttlingException", 429)),
            ("exception:accessDeniedException", {"message": "m"}, ("m", "accessDeniedException", 502)),
            ("exception:modelTimeoutException", {"message": "m"}, ("m", "modelTimeoutException", 504)),
            ("exception:brandNewException", {"message": "m"}, ("m", "brandNewException", 502)),
            ("exception:", {}, ("The provider reported an error.", "upstream_error", 502)),
            ("exception:x", b"not json", ("not json", "x", 502)),
            ("error:400", b"m", ("m", "400", 502)),
            ("odd:x", b"", ("The provider reported x.", "x", 502)),
        ],
    )
    def test_in_any_shape_end_the_stream(self, name: str, payload: Any, facts: tuple[str, str, int]) -> None:
        decoder = BedrockDecoder("", str)
        data = payload if isinstance(payload, bytes) else json.dumps(payload).encode()
        [failed] = decoder.feed(Frame(data, name))
        assert isinstance(failed, Failed)
        assert (failed.error.message, failed.error.type, failed.error.status) == facts
        assert decoder.feed(text("a")) == []
        assert decoder.close() == []

    def test_credential_is_taken_out(self) -> None:
        decoder = BedrockDecoder("", lambda words: words.replace("wJalr", "***"))
        [failed] = decoder.feed(frame("exception:validationException", {"message": "key wJalr is bad"}))
        assert isinstance(failed, Failed)
        assert failed.error.message == "key *** is bad"

    @pytest.mark.parametrize("garbage", [b"{", b"[]", b"1", b"", b"hello", b'{"delta":1}', b'{"a":' + b"[" * 100_000])
    @pytest.mark.parametrize("event", ["contentBlockDelta"])
    def test_what_is_not_of_converse_s_shape_is_refused(self, garbage: bytes, event: str) -> None:
        with pytest.raises(UpstreamProtocolError, match="not an answer of Converse") as caught:
            decode(Frame(garbage, event))
        assert not isinstance(caught.value, TruncatedStream)


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(
        ["delta", "start", "text", "toolUse", "input", "name", "toolUseId", "type", "reasoningContent", "signature",
         "redactedContent", "citation", "location", "web", "url", "sourceContent", "usage", "inputTokens", "stopReason",
         "contentBlockIndex", "message", "content", "output", "Output", "__type", "citationsContent", "citations",
         "reasoningText", "originalMessage"]), inner, max_size=5),
    max_leaves=20,
)  # fmt: skip


@given(st.lists(st.tuples(st.sampled_from([*EVENTS, "exception:x", "error:y", ""]), values), max_size=6))
def test_whatever_stands_in_the_known_fields_raises_nothing_else(sent: list[tuple[str, Any]]) -> None:
    decoder = BedrockDecoder("answer", str)
    try:
        for event, payload in sent:
            decoder.feed(Frame(json.dumps(payload).encode(), event))
        decoder.close()
    except UpstreamProtocolError:
        pass


@given(values)
def test_whatever_a_whole_answer_holds_raises_nothing_else(payload: Any) -> None:
    for body in (payload, {"output": {"message": {"content": [payload]}}, "stopReason": payload, "usage": payload}):
        try:
            read_converse(json.dumps(body).encode(), "answer", str)
        except UpstreamProtocolError:
            pass
