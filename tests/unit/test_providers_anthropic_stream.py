from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.recordings import Recording, comparable, recordings, ways_to_cut

from trio_ai_proxy.chat.events import (
    Cited,
    Ended,
    Event,
    Failed,
    Finished,
    ReasoningDelta,
    Started,
    TextDelta,
    ToolCallDelta,
    UsageReported,
)
from trio_ai_proxy.chat.fold import Answer, Fold
from trio_ai_proxy.chat.request import ChatRequest, Operation
from trio_ai_proxy.chat.usage import TokenUsage
from trio_ai_proxy.errors import TruncatedStream, UpstreamError, UpstreamProtocolError
from trio_ai_proxy.framing.frame import Frame
from trio_ai_proxy.framing.sse import SSEFramer
from trio_ai_proxy.providers.anthropic_stream import AnthropicDecoder, read_answer

if TYPE_CHECKING:
    from collections.abc import Iterable

RECORDINGS = recordings("anthropic")
EACH = pytest.mark.parametrize("recording", RECORDINGS, ids=lambda recording: recording.name)
START = {"type": "message_start", "message": {"id": "i", "model": "m", "content": [], "usage": {"input_tokens": 1}}}


def asked(operation: Operation = "chat", **fields: Any) -> ChatRequest:
    return ChatRequest(operation, "asked", True, False, fields)


def frame(payload: Any, event: str = "") -> Frame:
    return Frame(payload if isinstance(payload, bytes) else json.dumps(payload).encode(), event)


def decode(*payloads: Any, request: ChatRequest | None = None) -> list[Event]:
    decoder = AnthropicDecoder(request or asked(), str)
    assert decoder.feed(frame(START)) == [Started("i", "m"), UsageReported(TokenUsage(1))]
    return [event for payload in payloads for event in decoder.feed(frame(payload))]


def play(request: ChatRequest, pieces: Iterable[bytes]) -> tuple[list[Event], str | None]:
    framer, decoder = SSEFramer(), AnthropicDecoder(request, str)
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


@EACH
def test_recording_means_what_stands_beside_it_however_it_is_cut(recording: Recording) -> None:
    for pieces in ways_to_cut(recording.response):
        events, raised = play(asked(recording.operation), pieces)
        assert (comparable(events), raised) == (recording.events, recording.raises)


@EACH
def test_stream_cut_at_any_byte_is_whole_only_if_it_had_said_so(recording: Recording) -> None:
    for length in range(len(recording.response)):
        events, raised = play(asked(recording.operation), [recording.response[:length]])
        if any(isinstance(event, Failed) for event in events):
            continue
        assert (raised is None) == (Ended() in events)
        assert Ended() not in events or b'"message_stop"}' in recording.response[:length]


def folded(events: list[Event]) -> Answer:
    fold = Fold()
    for event in events:
        fold.add(event)
    return fold.answer()


def in_one_piece(response: bytes) -> bytes:
    """The answer that the API would have given at once: the stream gathered as its documentation says."""
    framer = SSEFramer()
    frames = [found for found in framer.feed(response) + framer.close() if found.data not in (None, b"[DONE]")]
    message: dict[str, Any] = {}
    written: dict[int, str] = {}
    for event in (json.loads(found.data or b"") for found in frames):
        match event["type"]:
            case "message_start":
                message = event["message"]
            case "content_block_start":
                message["content"].append(event["content_block"])
            case "content_block_delta":
                block, delta = message["content"][event["index"]], event["delta"]
                match delta["type"]:
                    case "text_delta":
                        block["text"] = (block["text"] or "") + (delta["text"] or "")
                    case "thinking_delta":
                        block["thinking"] += delta["thinking"]
                    case "signature_delta":
                        block["signature"] = delta["signature"]
                    case "input_json_delta":
                        written[event["index"]] = written.get(event["index"], "") + delta["partial_json"]
                    case "citations_delta":
                        block["citations"] = [*(block.get("citations") or []), delta["citation"]]
            case "message_delta":
                message |= event["delta"]
                given_usage = {name: value for name, value in (event.get("usage") or {}).items() if value is not None}
                message["usage"] = {**(message.get("usage") or {}), **given_usage}
            case "message_stop":
                break
    for index, text in written.items():
        if text:
            message["content"][index]["input"] = json.loads(text)
    return json.dumps(message).encode()


WHOLE = [
    recording for recording in RECORDINGS if Ended() in recording.events and recording.name != "blocks_of_tomorrow"
]


@pytest.mark.parametrize("recording", WHOLE, ids=lambda recording: recording.name)
def test_an_answer_at_once_folds_to_what_its_stream_folds_to(recording: Recording) -> None:
    request = asked(recording.operation)
    streamed, _ = play(request, [recording.response])
    at_once = read_answer(request, in_one_piece(recording.response), str)
    assert at_once[-1] == Ended()
    one, other = folded(streamed), folded(at_once)
    for choice in (*one.choices, *other.choices):
        for call in choice.tool_calls:
            call.arguments = json.dumps(json.loads(call.arguments))
    assert one == other


class TestText:
    def test_before_the_start_is_told_after_one(self) -> None:
        decoder = AnthropicDecoder(asked(), str)
        delta = {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": "a"}}
        assert decoder.feed(frame(delta)) == [Started("", ""), TextDelta("a")]
        assert decoder.feed(frame(START)) == []

    def test_that_a_block_begins_with_counts(self) -> None:
        begun = {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": "a"}}
        assert decode(begun) == [TextDelta("a")]

    def test_a_thought_that_a_block_begins_with_counts(self) -> None:
        begun = {"type": "content_block_start", "index": 0, "content_block": {"type": "thinking", "thinking": "a"}}
        assert decode(begun) == [ReasoningDelta("a")]

    def test_of_a_wrong_type_is_nothing(self) -> None:
        for wrong in (None, 1, [], {}, ""):
            assert decode({"type": "content_block_delta", "delta": {"type": "text_delta", "text": wrong}}) == []


def tool(name: str, *fragments: str, index: int = 0) -> list[dict[str, Any]]:
    block = {"type": "tool_use", "id": "t", "name": name, "input": {}}
    deltas = [
        {"type": "content_block_delta", "index": index, "delta": {"type": "input_json_delta", "partial_json": text}}
        for text in fragments
    ]
    return [
        {"type": "content_block_start", "index": index, "content_block": block},
        *deltas,
        {"type": "content_block_stop", "index": index},
    ]


def end(reason: str | None) -> dict[str, Any]:
    return {"type": "message_delta", "delta": {"stop_reason": reason}}


class TestAnswersInJson:
    JSON = asked(response_format={"type": "json_object"})

    def test_input_of_the_answers_tool_is_the_text(self) -> None:
        events = decode(*tool("json_answer", "", '{"a"', ":1}"), end("tool_use"), request=self.JSON)
        assert events == [TextDelta('{"a"'), TextDelta(":1}"), Finished("stop")]

    def test_empty_input_is_an_empty_object(self) -> None:
        assert decode(*tool("json_answer"), end("tool_use"), request=self.JSON) == [TextDelta("{}"), Finished("stop")]

    def test_cut_short_says_so(self) -> None:
        events = decode(*tool("json_answer", '{"a'), end("max_tokens"), request=self.JSON)
        assert events[-1] == Finished("length")

    def test_other_tools_are_called_as_ever(self) -> None:
        events = decode(*tool("f", "{}"), end("tool_use"), request=self.JSON)
        assert events == [ToolCallDelta(0, "t", "f"), ToolCallDelta(0, arguments="{}"), Finished("tool_calls")]

    def test_a_tool_of_that_name_is_a_tool_where_no_json_was_asked_for(self) -> None:
        assert decode(*tool("json_answer", "{}"))[0] == ToolCallDelta(0, "t", "json_answer")

    def test_at_once_too(self) -> None:
        block = {"type": "tool_use", "id": "t", "name": "json_answer", "input": {"a": [1]}}
        body = json.dumps({"id": "i", "model": "m", "content": [block], "stop_reason": "tool_use"}).encode()
        assert read_answer(self.JSON, body, str)[1:] == [TextDelta('{"a":[1]}'), Finished("stop"), Ended()]


class TestEnd:
    def test_blocks_that_were_never_closed_are_closed_by_it(self) -> None:
        begun = tool("f")[0]
        assert decode(begun, end("tool_use"))[1:] == [ToolCallDelta(0, arguments="{}"), Finished("tool_calls")]
        assert decode(begun, {"type": "message_stop"})[1:] == [ToolCallDelta(0, arguments="{}"), Ended()]

    def test_older_calls_end_in_their_own_word(self) -> None:
        request = asked(functions=[{"name": "f"}])
        assert decode(*tool("f"), end("tool_use"), request=request)[-1] == Finished("function_call")

    def test_is_said_once(self) -> None:
        assert decode(end("end_turn"), end("end_turn")).count(Finished("stop")) == 1

    def test_usage_before_it_waits_for_it(self) -> None:
        """The relay stops counting when it is told the provider's count, so that count must be the last one."""
        interim = {"type": "message_delta", "delta": {}, "usage": {"output_tokens": 3}}
        assert decode(interim) == []
        reported = UsageReported(TokenUsage(1, 3, 4))
        assert decode(interim, end("end_turn")) == [Finished("stop"), reported]
        assert decode(interim, {"type": "message_stop"}) == [reported, Ended()]

    def test_without_a_count_of_the_answer_there_is_no_usage(self) -> None:
        start = {"type": "message_start", "message": {"usage": {"input_tokens": 9, "output_tokens": 1}}}
        assert decode(start, end("end_turn"), {"type": "message_stop"}) == [Finished("stop"), Ended()]

    def test_prompt_is_told_before_the_answer_and_its_cached_parts_are_in_it(self) -> None:
        counts = {
            "input_tokens": 9,
            "cache_read_input_tokens": 20,
            "cache_creation_input_tokens": 3,
            "output_tokens": 1,
        }
        start = {"type": "message_start", "message": {"id": "i", "model": "m", "usage": counts}}
        decoder = AnthropicDecoder(asked(), str)
        prompt = UsageReported(TokenUsage(32, 0, 0, cached_tokens=20, cache_write_tokens=3))
        assert decoder.feed(frame(start)) == [Started("i", "m"), prompt]
        told = {**end("end_turn"), "usage": {"output_tokens": 7}}
        whole = UsageReported(TokenUsage(32, 7, 39, cached_tokens=20, cache_write_tokens=3))
        assert decoder.feed(frame(told)) == [Finished("stop"), whole]
        assert decoder.feed(frame(start)) == [], "what is told once more is not told as less"

    @pytest.mark.parametrize("usage", [None, {}, {"input_tokens": 0, "output_tokens": 1}, {"input_tokens": None}])
    def test_prompt_that_is_not_counted_at_the_start_is_not_told(self, usage: Any) -> None:
        start = {"type": "message_start", "message": {"id": "i", "model": "m", "usage": usage}}
        assert AnthropicDecoder(asked(), str).feed(frame(start)) == [Started("i", "m")]

    def test_usage_of_an_answer_at_once_is_told_once(self) -> None:
        usage = {"input_tokens": 9, "cache_read_input_tokens": 20, "output_tokens": 7}
        body = {"id": "i", "model": "m", "content": [], "stop_reason": "end_turn", "usage": usage}
        assert read_answer(asked(), json.dumps(body).encode(), str) == [
            Started("i", "m"),
            Finished("stop"),
            UsageReported(TokenUsage(29, 7, 36, cached_tokens=20)),
            Ended(),
        ]

    def test_without_a_beginning_is_no_answer(self) -> None:
        with pytest.raises(TruncatedStream, match="before the answer began"):
            AnthropicDecoder(asked(), str).close()

    def test_nothing_is_said_twice(self) -> None:
        decoder = AnthropicDecoder(asked(), str)
        assert Ended() in decoder.feed(frame({"type": "message_stop"}))
        assert (decoder.feed(frame(START)), decoder.close()) == ([], [])


class TestErrors:
    @pytest.mark.parametrize(
        ("kind", "status"),
        [
            ("invalid_request_error", 400),
            ("authentication_error", 502),  # of our account: not the caller's doing
            ("not_found_error", 404),
            ("rate_limit_error", 429),
            ("api_error", 502),
            ("timeout_error", 504),
            ("overloaded_error", 529),
        ],
    )
    def test_have_the_status_that_they_have_outside_of_a_stream(self, kind: str, status: int) -> None:
        [failed] = decode({"type": "error", "error": {"type": kind, "message": "m"}})
        assert isinstance(failed, Failed)
        assert (failed.error.status, failed.error.type, failed.error.message) == (status, kind, "m")

    def test_without_a_type_are_errors_too(self) -> None:
        [failed] = decode({"error": {"code": 500, "message": "no slot", "type": "server_error"}})
        assert isinstance(failed, Failed)
        assert (failed.error.message, failed.error.status) == ("no slot", 502)

    def test_show_no_credentials(self) -> None:
        error = {"type": "error", "error": {"type": "authentication_error", "message": "bad sk-1"}}

        def scrub(text: str) -> str:
            return text.replace("sk-1", "***")

        for payload, event in ((error, "error"), (b"bad sk-1", "error")):
            [failed] = AnthropicDecoder(asked(), scrub).feed(frame(payload, event))
            assert isinstance(failed, Failed)
            assert failed.error.message == "bad ***"
        [at_once] = read_answer(asked(), json.dumps(error).encode(), scrub)
        assert isinstance(at_once, Failed)
        assert at_once.error.message == "bad ***"

    @pytest.mark.parametrize(
        "body", [b"", b"{}", b"[]", b"1", b"<html>", b'{"content":1}', b'{"content":[1]}', b"\xff", b"[" * 100_000]
    )
    def test_what_is_no_answer_is_a_protocol_error(self, body: bytes) -> None:
        with pytest.raises(UpstreamProtocolError):
            read_answer(asked(), body, str)

    @pytest.mark.parametrize("data", [b"{", b"1", b"[]", b'{"type":"message_delta","delta":1}', b"[" * 100_000])
    def test_broken_frames_are_protocol_errors_and_halves_are_cuts(self, data: bytes) -> None:
        with pytest.raises(UpstreamProtocolError) as raised:
            AnthropicDecoder(asked(), str).feed(Frame(data))
        assert type(raised.value) is UpstreamProtocolError
        with pytest.raises(TruncatedStream):
            AnthropicDecoder(asked(), str).feed(Frame(data, whole=False))

    @pytest.mark.parametrize("data", [b"", b" ", b"[DONE]"])
    def test_frames_that_say_nothing_are_nothing(self, data: bytes) -> None:
        assert AnthropicDecoder(asked(), str).feed(Frame(data)) == []
        assert AnthropicDecoder(asked(), str).feed(Frame(b"x", "ping")) == []


def test_citation_of_a_wrong_shape_is_an_empty_one() -> None:
    block = {"type": "text", "text": "a", "citations": [None, {"url": 1, "document_index": "x"}]}
    body = json.dumps({"content": [block]}).encode()
    assert read_answer(asked(), body, str)[2:] == [Cited(end=1), Cited(end=1), Ended()]


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)
EVENTS = ("message_start", "content_block_start", "content_block_delta", "content_block_stop", "message_delta",
          "message_stop", "error", "ping", "other")  # fmt: skip
KINDS = ("text", "thinking", "redacted_thinking", "tool_use", "server_tool_use", "text_delta", "thinking_delta",
         "signature_delta", "input_json_delta", "citations_delta", "other")  # fmt: skip
OTHERS = ("text", "thinking", "signature", "partial_json", "citation", "citations", "stop_reason", "stop_details",
          "id", "name", "input", "data")  # fmt: skip
INNER = st.fixed_dictionaries({}, optional={"type": st.sampled_from(KINDS) | JSON, **dict.fromkeys(OTHERS, JSON)})
COUNTS = ("input_tokens", "output_tokens", "cache_read_input_tokens", "output_tokens_details")
USAGE = st.fixed_dictionaries({}, optional=dict.fromkeys(COUNTS, JSON))
MESSAGE = st.fixed_dictionaries(
    {},
    optional={
        **dict.fromkeys(("id", "model", "stop_reason", "stop_details", "error", "type"), JSON),
        "content": st.lists(INNER, max_size=3) | JSON,
        "usage": USAGE | JSON,
    },
)
EVENT = st.fixed_dictionaries(
    {"type": st.sampled_from(EVENTS) | JSON},
    optional={
        "index": st.integers(0, 2) | JSON,
        "delta": INNER | JSON,
        "content_block": INNER | JSON,
        "message": MESSAGE | JSON,
        "usage": USAGE | JSON,
        "error": JSON,
    },
)


@given(st.lists(EVENT, max_size=6), MESSAGE, st.sampled_from(["", "error", "ping"]))
def test_whatever_comes_the_only_errors_are_the_providers(events: list[Any], message: Any, name: str) -> None:
    request = asked(response_format={"type": "json_object"})
    decoder = AnthropicDecoder(request, str)
    try:
        for event in events:
            for said in decoder.feed(frame(event, name)):
                assert not isinstance(said, TextDelta) or said.text
        decoder.close()
    except UpstreamError:
        pass
    try:
        folded(read_answer(request, json.dumps(message).encode(), str))
    except UpstreamError:
        pass
