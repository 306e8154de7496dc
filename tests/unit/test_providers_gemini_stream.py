from __future__ import annotations

import contextlib
import json
from typing import TYPE_CHECKING, Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.recordings import comparable, recordings, ways_to_cut

from trio_ai_proxy.chat.events import Ended, Event, Failed, Finished, Started, TextDelta, ToolCallDelta, UsageReported
from trio_ai_proxy.chat.fold import Fold
from trio_ai_proxy.chat.request import ChatRequest
from trio_ai_proxy.chat.usage import TokenUsage
from trio_ai_proxy.errors import TruncatedStream, UpstreamError, UpstreamProtocolError
from trio_ai_proxy.framing.frame import Frame
from trio_ai_proxy.framing.json_array import JSONArrayFramer
from trio_ai_proxy.framing.sse import SSEFramer
from trio_ai_proxy.providers.gemini_stream import GeminiDecoder, read_answer

if TYPE_CHECKING:
    from support.recordings import Recording

RECORDINGS = recordings("gemini")
FINISHED = [recording for recording in RECORDINGS if recording.raises is None]
ANSWERS = [recording for recording in FINISHED if not any(isinstance(event, dict) for event in recording.events)]


def asked(operation: Any = "chat", **fields: Any) -> ChatRequest:
    return ChatRequest(operation, "m", True, False, {"messages": [], **fields})


def chunk(*parts: Any, finish: str | None = None, **more: Any) -> dict[str, Any]:
    content = {"parts": [{"text": part} if isinstance(part, str) else part for part in parts], "role": "model"}
    candidate = {"content": content, **({"finishReason": finish} if finish else {})}
    return {"candidates": [candidate], "responseId": "r", "modelVersion": "m", **more}


def frame(payload: Any) -> Frame:
    return Frame(payload if isinstance(payload, bytes) else json.dumps(payload).encode())


def decode(*payloads: Any, request: ChatRequest | None = None) -> list[Event]:
    decoder = GeminiDecoder(request or asked(), str)
    events = [event for payload in payloads for event in decoder.feed(frame(payload))]
    return [*events, *decoder.close()]


def play(operation: Any, pieces: list[bytes]) -> tuple[list[Event], str | None]:
    whole = b"".join(pieces)
    framer = JSONArrayFramer() if whole.startswith(b"[") else SSEFramer()
    decoder = GeminiDecoder(asked(operation), str)
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


def chunks_of(recording: Recording) -> list[dict[str, Any]]:
    if recording.response.startswith(b"["):
        return json.loads(recording.response)
    lines = recording.response.split(b"\r\n")
    return [json.loads(line.removeprefix(b"data: ")) for line in lines if line]


def as_one_answer(chunks: list[dict[str, Any]]) -> dict[str, Any]:
    """The same answer as Gemini gives it where no stream is asked for."""
    whole: dict[str, Any] = {}
    candidates: dict[int, dict[str, Any]] = {}
    for one in chunks:
        whole |= {name: value for name, value in one.items() if name != "candidates" and value is not None}
        for candidate in one.get("candidates") or ():
            index = candidate.get("index", 0)
            kept = candidates.setdefault(index, {"content": {"parts": [], "role": "model"}})
            kept["content"]["parts"] += (candidate.get("content") or {}).get("parts") or []
            kept.update({name: value for name, value in candidate.items() if name != "content"})
    if candidates:
        whole["candidates"] = [candidate for _, candidate in sorted(candidates.items())]
    return whole


@pytest.mark.parametrize("recording", RECORDINGS, ids=lambda recording: recording.name)
def test_recording_means_what_stands_beside_it_however_it_is_cut(recording: Recording) -> None:
    for pieces in ways_to_cut(recording.response):
        events, raised = play(recording.operation, pieces)
        assert (comparable(events), raised) == (recording.events, recording.raises)


@pytest.mark.parametrize("recording", FINISHED, ids=lambda recording: recording.name)
def test_bytes_after_the_end_change_nothing(recording: Recording) -> None:
    for more in (b"\r\n", b"\r\n\r\n", b" \n"):
        assert comparable(play(recording.operation, [recording.response + more])[0]) == recording.events


@pytest.mark.parametrize("recording", RECORDINGS, ids=lambda recording: recording.name)
def test_stream_cut_at_any_byte_is_whole_only_if_each_candidate_had_finished(recording: Recording) -> None:
    for length in range(len(recording.response)):
        events, raised = play(recording.operation, [recording.response[:length]])
        if any(isinstance(event, Failed) for event in events):
            continue
        spoken = {event.index for event in events if isinstance(event, TextDelta | ToolCallDelta)}
        finished = {event.index for event in events if isinstance(event, Finished)}
        assert (raised is None) == (Ended() in events)
        if raised is None:
            assert finished
            assert finished >= spoken


@pytest.mark.parametrize("recording", ANSWERS, ids=lambda recording: recording.name)
def test_whole_answer_folds_to_the_message_of_its_stream(recording: Recording) -> None:
    streamed, at_once = Fold(), Fold()
    for event in recording.events:
        streamed.add(event)  # type: ignore[arg-type]
    for event in read_answer(asked(recording.operation), json.dumps(as_one_answer(chunks_of(recording))).encode(), str):
        at_once.add(event)
    assert at_once.answer() == streamed.answer()


class TestCalls:
    def test_made_up_ids_differ_between_calls_and_answers_and_not_between_readings(self) -> None:
        call = {"functionCall": {"name": "f", "args": {}}}

        def ids(answer: str) -> list[str]:
            events = decode(chunk(call, call, finish="STOP", responseId=answer))
            return [event.id for event in events if isinstance(event, ToolCallDelta)]

        assert ids("a") == ids("a")
        assert len({*ids("a"), *ids("b")}) == 4

    def test_older_form_is_answered_in_its_word(self) -> None:
        events = decode(chunk({"functionCall": {"name": "f"}}, finish="STOP"), request=asked(functions=[{"name": "f"}]))
        assert Finished("function_call") in events

    def test_length_stays_length(self) -> None:
        assert Finished("length") in decode(chunk({"functionCall": {"name": "f"}}, finish="MAX_TOKENS"))

    @pytest.mark.parametrize("arguments", [None, "", [], 1])
    def test_arguments_that_are_no_object_are_an_empty_one(self, arguments: Any) -> None:
        events = decode(chunk({"functionCall": {"name": "f", "args": arguments}}, finish="STOP"))
        assert [event.arguments for event in events if isinstance(event, ToolCallDelta)] == ["{}"]


class TestEnd:
    @pytest.mark.parametrize(
        ("said", "meant"),
        [
            ("STOP", "stop"), ("MAX_TOKENS", "length"), ("SAFETY", "content_filter"), ("RECITATION", "content_filter"),
            ("BLOCKLIST", "content_filter"), ("PROHIBITED_CONTENT", "content_filter"), ("SPII", "content_filter"),
            ("IMAGE_SAFETY", "content_filter"), ("MODEL_ARMOR", "content_filter"), ("OTHER", "OTHER"), ("NEW", "NEW"),
        ],
    )  # fmt: skip
    def test_reason_is_said_in_our_word(self, said: str, meant: str) -> None:
        assert decode(chunk("a", finish=said))[-2:] == [Finished(meant), Ended()]

    @pytest.mark.parametrize("reason", [None, "", "FINISH_REASON_UNSPECIFIED", 7, {}])
    def test_reason_that_says_nothing_is_none(self, reason: Any) -> None:
        decoder = GeminiDecoder(asked(), str)
        decoder.feed(frame({"candidates": [{"content": {"parts": [{"text": "a"}]}, "finishReason": reason}]}))
        with pytest.raises(TruncatedStream):
            decoder.close()

    def test_each_candidate_must_have_finished(self) -> None:
        decoder = GeminiDecoder(asked(), str)
        decoder.feed(frame(chunk("a", finish="STOP")))
        decoder.feed(frame({"candidates": [{"index": 1, "content": {"parts": [{"text": "b"}]}}]}))
        with pytest.raises(TruncatedStream):
            decoder.close()

    def test_failure_of_one_candidate_finishes_none(self) -> None:
        events = decode(
            chunk("a", finish="STOP"),
            {"candidates": [{"index": 1, "finishReason": "UNEXPECTED_TOOL_CALL"}]},
        )
        assert isinstance(events[-1], Failed)
        assert events[-1].error.code == "unexpected_tool_call"
        assert not any(isinstance(event, Finished | Ended) for event in events)

    def test_candidates_without_indices_are_counted(self) -> None:
        body = {"candidates": [
            {"content": {"parts": [{"text": text}]}, "finishReason": "STOP"} for text in "ab"
        ], "responseId": "r"}  # fmt: skip
        assert read_answer(asked(), json.dumps(body).encode(), str) == [
            Started("r", ""), TextDelta("a"), TextDelta("b", 1), Finished("stop"), Finished("stop", 1), Ended(),
        ]  # fmt: skip

    def test_done_of_services_in_between_says_nothing(self) -> None:
        assert decode(chunk("a", finish="STOP"), b"[DONE]", b" ")[-1] == Ended()

    def test_nothing_follows_the_end(self) -> None:
        decoder = GeminiDecoder(asked(), str)
        decoder.feed(frame(chunk("a", finish="STOP")))
        decoder.close()
        assert decoder.feed(frame(chunk("b"))) == []
        assert decoder.close() == []


class TestUsage:
    def test_count_that_does_not_change_is_told_once(self) -> None:
        counts = {"promptTokenCount": 1, "candidatesTokenCount": 2, "totalTokenCount": 3}
        events = decode(chunk("a", usageMetadata=counts), chunk("b", finish="STOP", usageMetadata=counts))
        assert sum(isinstance(event, UsageReported) for event in events) == 1

    def test_prompt_alone_is_told_as_that_while_text_is_coming(self) -> None:
        """A total would be believed, and what is generated would not be counted any more."""
        prompt_alone = {"promptTokenCount": 9, "totalTokenCount": 9, "cachedContentTokenCount": 4}
        whole = {**prompt_alone, "candidatesTokenCount": 2, "totalTokenCount": 11}
        decoder = GeminiDecoder(asked(), str)
        told = [
            [event.usage for event in decoder.feed(frame(payload)) if isinstance(event, UsageReported)]
            for payload in (
                chunk("a", usageMetadata=prompt_alone),
                chunk("b", usageMetadata=prompt_alone),
                chunk("c", usageMetadata=whole),
                chunk("d", finish="STOP", usageMetadata=prompt_alone),
            )
        ]
        assert told == [[TokenUsage(9, cached_tokens=4)], [], [TokenUsage(9, 2, 11, cached_tokens=4)], []]
        assert decoder.close() == [Finished("stop"), Ended()]

    def test_prompt_alone_is_all_there_is_where_nothing_follows(self) -> None:
        counts = {"promptTokenCount": 9, "totalTokenCount": 9}
        events = decode(chunk(finish="SAFETY", usageMetadata=counts))
        assert [event.usage for event in events if isinstance(event, UsageReported)] == [
            TokenUsage(9),
            TokenUsage(9, 0, 9),
        ]
        at_once = read_answer(asked(), json.dumps(chunk(finish="SAFETY", usageMetadata=counts)).encode(), str)
        assert [event.usage for event in at_once if isinstance(event, UsageReported)] == [TokenUsage(9, 0, 9)]

    def test_nothing_is_told_before_the_answer_began(self) -> None:
        decoder = GeminiDecoder(asked(), str)
        assert decoder.feed(frame({"usageMetadata": {"promptTokenCount": 9}})) == []
        begun = decoder.feed(frame(chunk("a")))
        assert begun == [Started("r", "m"), TextDelta("a"), UsageReported(TokenUsage(9))]


class TestErrors:
    @pytest.mark.parametrize(
        "garbage",
        [b"{", b"[]", b"null", b"1", b'"x"', b"hello", b'{"candidates":"x"}', b'{"candidates":[1]}',
         b'{"candidates":[{"content":"x"}]}', b'{"a":' + b"[" * 100_000, b'{"a":1}x'],
    )  # fmt: skip
    def test_what_is_not_of_geminis_shape_is_refused_without_its_content(self, garbage: bytes) -> None:
        with pytest.raises(UpstreamProtocolError, match="not a Gemini answer") as caught:
            GeminiDecoder(asked(), str).feed(Frame(garbage))
        assert not isinstance(caught.value, TruncatedStream)

    def test_half_a_frame_is_a_truncated_stream(self) -> None:
        with pytest.raises(TruncatedStream):
            GeminiDecoder(asked(), str).feed(Frame(b'{"candidates":[{"con', whole=False))

    def test_words_of_the_error_are_scrubbed(self) -> None:
        decoder = GeminiDecoder(asked(), lambda text: text.replace("AIza-secret", "***"))
        (failed,) = decoder.feed(frame({"error": {"message": "bad AIza-secret", "status": "INTERNAL", "code": 500}}))
        assert isinstance(failed, Failed)
        assert (failed.error.message, failed.error.status) == ("bad ***", 502)

    @pytest.mark.parametrize("body", [b"", b"<html>", b"{}", b"[]", b'{"candidates":[]}', b'{"usageMetadata":{}}'])
    def test_what_is_no_answer_is_refused(self, body: bytes) -> None:
        with pytest.raises(UpstreamProtocolError):
            read_answer(asked(), body, str)

    def test_error_in_a_200_is_a_failure_also_in_an_array(self) -> None:
        body = b'[{"error":{"code":429,"message":"slow","status":"RESOURCE_EXHAUSTED"}}]'
        (failed,) = read_answer(asked(), body, str)
        assert isinstance(failed, Failed)
        assert (failed.error.status, failed.error.type) == (429, "RESOURCE_EXHAUSTED")


_any = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3)
    | st.dictionaries(
        st.sampled_from([
            "candidates", "content", "parts", "text", "thought", "thoughtSignature", "functionCall", "name", "args", "id",
            "index", "finishReason", "groundingMetadata", "groundingChunks", "groundingSupports", "web", "uri", "segment",
            "startIndex", "endIndex", "groundingChunkIndices", "citationMetadata", "citationSources", "logprobsResult",
            "chosenCandidates", "topCandidates", "token", "logProbability", "usageMetadata", "promptTokenCount",
            "candidatesTokenCount", "promptFeedback", "blockReason", "error", "code", "status", "details", "message",
            "createTime", "inlineData", "data", "mimeType", "executableCode",
        ]),
        inner,
        max_size=4,
    ),
    max_leaves=12,
)  # fmt: skip
_candidate = st.fixed_dictionaries(
    {},
    optional={
        "index": st.none() | st.integers(-1, 3),
        "content": st.none() | st.fixed_dictionaries({"parts": st.lists(st.fixed_dictionaries({}, optional={
            "text": _any, "thought": _any, "thoughtSignature": _any, "inlineData": _any,
            "functionCall": st.fixed_dictionaries({}, optional={"name": _any, "args": _any, "id": _any}),
        }), max_size=3)}),
        "finishReason": _any,
        "finishMessage": _any,
        "groundingMetadata": _any,
        "citationMetadata": _any,
        "logprobsResult": _any,
    },
)  # fmt: skip
_chunk = st.fixed_dictionaries(
    {},
    optional={
        "candidates": st.none() | st.lists(_candidate, max_size=2),
        "usageMetadata": st.none() | st.dictionaries(st.sampled_from(["promptTokenCount", "totalTokenCount"]), _any),
        "promptFeedback": _any,
        "error": _any,
        "responseId": _any,
        "createTime": _any,
    },
)


@settings(max_examples=150, deadline=None)
@given(st.lists(_any | _chunk, max_size=4))
def test_whatever_comes_is_read_or_refused(chunks: list[Any]) -> None:
    decoder = GeminiDecoder(asked(), str)
    bodies = [msgspec.json.encode(one) for one in chunks]
    for body in bodies:
        with contextlib.suppress(UpstreamProtocolError):
            read_answer(asked(), body, str)
    with contextlib.suppress(UpstreamProtocolError):
        for body in bodies:
            decoder.feed(Frame(body))
        decoder.close()
