from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.recordings import Recording, comparable, recordings, ways_to_cut

from trio_ai_proxy.chat.events import (
    Embedded,
    Ended,
    Event,
    Failed,
    Finished,
    Started,
    TextDelta,
    ToolCallDelta,
    UsageReported,
)
from trio_ai_proxy.chat.fold import Fold
from trio_ai_proxy.chat.grammar import EventGrammar
from trio_ai_proxy.chat.usage import TokenUsage
from trio_ai_proxy.errors import TruncatedStream, UpstreamError, UpstreamProtocolError
from trio_ai_proxy.framing.frame import Frame
from trio_ai_proxy.framing.ndjson import NDJSONFramer
from trio_ai_proxy.providers.ollama_stream import OllamaDecoder, read_answer, read_embeddings

RECORDINGS = recordings("ollama")
WHOLE = [recording for recording in RECORDINGS if Ended() in recording.events]


def play(pieces: list[bytes]) -> tuple[list[Event], str | None]:
    framer, decoder = NDJSONFramer(), OllamaDecoder(str)
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


@pytest.mark.parametrize("recording", RECORDINGS, ids=lambda recording: recording.name)
def test_recording_means_what_stands_beside_it_however_it_is_cut(recording: Recording) -> None:
    for pieces in ways_to_cut(recording.response):
        events, raised = play(pieces)
        assert (comparable(events), raised) == (recording.events, recording.raises)


@pytest.mark.parametrize("recording", RECORDINGS, ids=lambda recording: recording.name)
def test_recording_is_a_story_that_can_be_told(recording: Recording) -> None:
    grammar = EventGrammar()
    events, raised = play([recording.response])
    for event in events:
        grammar.feed(event)
    if raised is None:
        grammar.close()


@pytest.mark.parametrize("recording", RECORDINGS, ids=lambda recording: recording.name)
def test_bytes_to_spare_after_the_end_are_nothing(recording: Recording) -> None:
    spare = b'\n{"message":{"content":"more"},"done":false}\n{"error":"x"}\nnot json\n'
    if Ended() not in recording.events and not isinstance(recording.events[-1], dict):
        return
    for pieces in ways_to_cut(recording.response + spare):
        assert comparable(play(pieces)[0]) == recording.events


@pytest.mark.parametrize("recording", RECORDINGS, ids=lambda recording: recording.name)
def test_stream_cut_at_any_byte_is_whole_only_if_it_had_said_so(recording: Recording) -> None:
    for length in range(len(recording.response)):
        events, raised = play([recording.response[:length]])
        if any(isinstance(event, Failed) for event in events):
            continue
        assert (raised is None) == (Ended() in events)
        if Ended() in events:
            assert b'"done":true' in recording.response[:length]


def one_shot(recording: Recording) -> dict[str, Any]:
    """The document that a server sends where no stream is asked for: what its lines say, joined, as the server joins them."""
    lines = [json.loads(line) for line in recording.response.split(b"\n") if line.strip()]
    whole: dict[str, Any] = {}
    for line in lines:
        whole |= {name: value for name, value in line.items() if value is not None}
    whole["created_at"] = next(line["created_at"] for line in lines if line["created_at"])
    if any(line.get("logprobs") for line in lines):
        whole["logprobs"] = [token for line in lines for token in line.get("logprobs") or []]
    if recording.operation == "completions":
        for name in ("response", "thinking"):
            whole[name] = "".join(line.get(name) or "" for line in lines)
        return whole
    said = [line.get("message") or {} for line in lines]
    message: dict[str, Any] = {"role": "assistant"}
    for name in ("content", "thinking"):
        message[name] = "".join(one.get(name) or "" for one in said)
    message["tool_calls"] = [call for one in said for call in one.get("tool_calls") or []]
    return {**whole, "message": message}


@pytest.mark.parametrize("recording", WHOLE, ids=lambda recording: recording.name)
def test_the_same_answer_at_once_is_the_same_message(recording: Recording) -> None:
    streamed, at_once = Fold(), Fold()
    for event in recording.events:
        streamed.add(event)  # type: ignore[arg-type]  # whole recordings hold events alone
    for event in read_answer(json.dumps(one_shot(recording)).encode(), str):
        at_once.add(event)
    assert at_once.answer() == streamed.answer()


class TestAnswer:
    def test_ends(self) -> None:
        body = {"model": "m", "created_at": "2023-12-12T14:13:43.416799Z", "message": {"content": "Hi"}, "done": True}
        events = read_answer(json.dumps(body).encode(), str)
        assert events == [Started("", "m", 1702390423), TextDelta("Hi"), Finished("stop"), Ended()]

    @pytest.mark.parametrize(
        "body",
        [
            b"", b"[]", b"null", b'"x"', b"{}", b'{"done":true}', b'{"message":{"content":"x"}}', b"{", b"<html>",
            b'{"response":"x","done":false}', b'{"message":"x","done":true}', b"[" * 100_000,
        ],
    )  # fmt: skip
    def test_that_is_none_is_a_fault_of_the_provider(self, body: bytes) -> None:
        with pytest.raises(UpstreamProtocolError):
            read_answer(body, str)

    def test_with_an_error_in_it_has_failed(self) -> None:
        [failed] = read_answer(b'{"error":"out of memory"}', str)
        assert isinstance(failed, Failed)
        assert failed.error.message == "out of memory"

    @pytest.mark.parametrize("time", ["", "yesterday", 5, None, "0001-01-01T00:00:00Z", "9999-99-99", {}])
    def test_time_that_is_none_is_not_said(self, time: Any) -> None:
        body = {"created_at": time, "message": {"content": "Hi"}, "done": True}
        assert read_answer(json.dumps(body).encode(), str)[0] == Started("", "")

    def test_half_a_surrogate_pair_is_no_reason_to_stop(self) -> None:
        body = b'{"message":{"content":"\\ud83d"},"done":true}'
        assert TextDelta("\ufffd") in read_answer(body, str)


class TestCalls:
    def test_without_ids_have_one_of_their_own_and_the_same_each_time(self) -> None:
        call = {"function": {"name": "f", "arguments": {"a": 1}}}
        body = {"created_at": "x", "message": {"tool_calls": [call, call]}, "done": True}
        first, second = (event for event in read_answer(json.dumps(body).encode(), str) if type(event) is ToolCallDelta)
        assert first.id != second.id
        assert first.id.startswith("call_")
        again = read_answer(json.dumps(body).encode(), str)
        assert [first, second] == again[1:3]
        later = read_answer(json.dumps({**body, "created_at": "y"}).encode(), str)
        assert first.id not in {event.id for event in later if type(event) is ToolCallDelta}

    @pytest.mark.parametrize(
        ("given", "told"),
        [({}, "{}"), (None, "{}"), ("", "{}"), ('{"a": 1}', '{"a": 1}'), ({"a": {"b": []}}, '{"a":{"b":[]}}')],
    )
    def test_arguments_are_json_text(self, given: Any, told: str) -> None:
        body = {"message": {"tool_calls": [{"function": {"name": "f", "arguments": given}}]}, "done": True}
        [call] = (event for event in read_answer(json.dumps(body).encode(), str) if type(event) is ToolCallDelta)
        assert call.arguments == told

    @pytest.mark.parametrize("call", [{}, {"function": None}, {"function": {}}, {"function": {"name": 5}}])
    def test_that_name_no_function_are_none(self, call: Any) -> None:
        body = {"message": {"content": "x", "tool_calls": [call]}, "done": True}
        assert Finished("stop") in read_answer(json.dumps(body).encode(), str)


class TestEmbeddings:
    def test_are_told_in_order_with_their_usage(self) -> None:
        body = b'{"model":"m","embeddings":[[0.5,-1],[1e-3,2]],"total_duration":1,"prompt_eval_count":8}'
        assert read_embeddings(body, 2, str) == [
            Started("", "m"),
            Embedded([0.5, -1], 0),
            Embedded([1e-3, 2], 1),
            UsageReported(TokenUsage(prompt_tokens=8, total_tokens=8)),
            Ended(),
        ]

    def test_need_no_usage(self) -> None:
        assert read_embeddings(b'{"embeddings":[[1.0]]}', 1, str) == [Started("", ""), Embedded([1.0]), Ended()]

    @pytest.mark.parametrize(
        "vectors",
        [
            b"null", b"[]", b"[[1],[2],[3]]", b"[[1],[]]", b'[[1],["a"]]', b"[[1],[true]]", b'[[1],"AAAA"]', b"[[1],null]",
            b'{"0":[1]}', b"[[1],[[1]]]",
        ],
    )  # fmt: skip
    def test_that_are_not_one_vector_for_each_input_are_a_fault_of_the_provider(self, vectors: bytes) -> None:
        with pytest.raises(UpstreamProtocolError):
            read_embeddings(b'{"embeddings":%b}' % vectors, 2, str)

    def test_with_an_error_in_it_have_failed(self) -> None:
        assert isinstance(read_embeddings(b'{"error":"x"}', 1, str)[0], Failed)


def test_half_a_line_is_a_cut_and_a_broken_one_a_fault() -> None:
    with pytest.raises(TruncatedStream):
        OllamaDecoder(str).feed(Frame(b'{"model', whole=False))
    with pytest.raises(UpstreamProtocolError) as caught:
        OllamaDecoder(str).feed(Frame(b'{"model'))
    assert not isinstance(caught.value, TruncatedStream)


def test_credentials_do_not_come_back_in_errors() -> None:
    decoder = OllamaDecoder(lambda text: text.replace("secret", "***"))
    [failed] = decoder.feed(Frame(b'{"error":"bad key secret"}'))
    assert isinstance(failed, Failed)
    assert failed.error.message == "bad key ***"


# -- anything at all --------------------------------------------------------------------------------------------------

_JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)
_CALL = st.fixed_dictionaries(
    {},
    optional={"id": _JSON, "function": st.fixed_dictionaries({}, optional={"name": _JSON, "arguments": _JSON}) | _JSON},
)
_MESSAGE = st.fixed_dictionaries(
    {}, optional={"content": _JSON, "thinking": _JSON, "tool_calls": st.lists(_CALL, max_size=2) | _JSON}
)
_KEYS = (
    "model", "created_at", "response", "thinking", "logprobs", "embeddings", "done", "done_reason", "prompt_eval_count",
    "prompt_eval_cached_count", "eval_count", "error", "tool_calls",
)  # fmt: skip
_LINE = st.fixed_dictionaries({}, optional={**dict.fromkeys(_KEYS, _JSON), "message": _MESSAGE | _JSON})


@given(st.lists(_LINE | _JSON, max_size=4))
def test_whatever_stands_in_the_fields_is_read_or_is_a_fault_of_the_provider(lines: list[Any]) -> None:
    stream = b"".join(json.dumps(line).encode() + b"\n" for line in lines)
    events, raised = play([stream])
    assert raised in (None, "TruncatedStream", "UpstreamProtocolError")
    for event in events:
        assert isinstance(event, Event)  # type: ignore[arg-type,misc]  # a union of classes
    for line in lines:
        body = json.dumps(line).encode()
        for read in (lambda body: read_answer(body, str), lambda body: read_embeddings(body, 1, str)):
            try:
                assert read(body)
            except UpstreamProtocolError:
                pass


@given(st.binary(max_size=80))
def test_any_bytes_are_read_or_are_a_fault_of_the_provider(data: bytes) -> None:
    assert play([data])[1] in (None, "TruncatedStream", "UpstreamProtocolError")
