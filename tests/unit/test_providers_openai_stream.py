from __future__ import annotations

import contextlib
import json
import re
from typing import Any, ClassVar

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.decoding import checked, run_stages
from support.recordings import comparable, recordings, ways_to_cut

from trio_ai_proxy.chat.events import (
    Cited,
    Embedded,
    Ended,
    Event,
    Failed,
    Finished,
    LogProbabilities,
    Moderated,
    ReasoningDelta,
    ReasoningSealed,
    Started,
    TextDelta,
    ToolCallDelta,
    UsageReported,
)
from trio_ai_proxy.chat.fold import Fold
from trio_ai_proxy.chat.grammar import EventGrammar, IllegalSequence
from trio_ai_proxy.chat.usage import TokenUsage
from trio_ai_proxy.errors import TruncatedStream, UpstreamProtocolError
from trio_ai_proxy.framing.frame import Frame
from trio_ai_proxy.framing.sse import SSEFramer
from trio_ai_proxy.providers.openai_stream import OpenAIDecoder, read_answer

OURS = "upstream_error"
KEYS = (
    "choices", "delta", "message", "content", "text", "tool_calls", "index", "id", "function", "name", "arguments",
    "finish_reason", "usage", "prompt_tokens", "completion_tokens", "error", "logprobs", "token", "annotations",
    "url_citation", "url", "refusal", "thinking_blocks", "signature", "thinking", "data", "embedding",
    "reasoning_content", "function_call", "x_groq", "created", "model", "prompt_tokens_details", "cached_tokens",
    "extra_content", "google", "thought_signature", "end_index", "object",
)  # fmt: skip


def frame(payload: Any, event: str = "") -> Frame:
    return Frame(payload if isinstance(payload, bytes) else json.dumps(payload).encode(), event)


def chunk(delta: Any = None, *, index: int = 0, finish: Any = None, **more: Any) -> dict[str, Any]:
    choice = {"index": index, "delta": delta or {}, "finish_reason": finish}
    return {"id": "i", "model": "m", "choices": [choice], **more}


def decode(*payloads: Any) -> list[Event]:
    decoder = OpenAIDecoder("chat", str)
    return [event for payload in payloads for event in decoder.feed(frame(payload))]


def play(operation: Any, pieces: list[bytes]) -> tuple[list[Event], str | None]:
    return run_stages(SSEFramer(), OpenAIDecoder(operation, str), pieces)


@pytest.mark.parametrize("recording", recordings("openai"), ids=lambda recording: recording.name)
def test_recording_means_what_stands_beside_it_however_it_is_cut(recording) -> None:
    for pieces in ways_to_cut(recording.response):
        events, raised = play(recording.operation, pieces)
        assert (comparable(events), raised) == (recording.events, recording.raises)


@pytest.mark.parametrize("recording", recordings("openai"), ids=lambda recording: recording.name)
def test_stream_cut_at_any_byte_is_whole_only_if_it_had_said_so(recording) -> None:
    """Whatever was lost, it is not called whole unless every choice had its finish reason or [DONE] was there."""
    for length in range(len(recording.response)):
        events, raised = play(recording.operation, [recording.response[:length]])
        if any(isinstance(event, Failed) for event in events):
            continue
        spoken = {event.index for event in events if isinstance(event, TextDelta | ToolCallDelta)}
        finished = {event.index for event in events if isinstance(event, Finished)}
        assert (raised is None) == (Ended() in events)
        if Ended() in events and b"[DONE]" not in recording.response[:length]:
            assert finished >= spoken
            assert finished


class TestText:
    def test_text_of_a_choice_under_way_is_read_as_any_other(self) -> None:
        first, second = decode(chunk({"content": "a"}), chunk({"content": "b"}))[1:]
        assert (first, second) == (TextDelta("a"), TextDelta("b"))

    def test_text_beside_other_things_loses_none_of_them(self) -> None:
        delta = {"content": "b", "tool_calls": [{"index": 0, "id": "c", "function": {"name": "f", "arguments": ""}}]}
        usage = {"prompt_tokens": 1, "completion_tokens": 2, "total_tokens": 3}
        events = decode(chunk({"content": "a"}), chunk(delta, finish="stop", usage=usage))
        assert events[2:] == [
            TextDelta("b"),
            ToolCallDelta(0, "c", "f"),
            ToolCallDelta(0, arguments="{}"),
            Finished("stop"),
            UsageReported(TokenUsage(1, 2, 3)),
        ]

    def test_empty_text_is_no_event(self) -> None:
        assert (
            decode(chunk({"content": "a"}), chunk({"content": ""}), chunk({"content": []}), chunk({"content": {}}))[2:]
            == []
        )

    def test_text_of_one_operation_is_not_read_in_the_other(self) -> None:
        both = {"id": "i", "model": "m", "choices": [{"index": 0, "text": "t", "delta": {"content": "c"}}]}
        assert decode(both)[1:] == [TextDelta("c")]
        assert OpenAIDecoder("completions", str).feed(frame(both))[1:] == [TextDelta("t")]

    def test_known_fields_do_not_depend_on_unknown_ones(self) -> None:
        odd = {**chunk({"content": "a", "audio": [1]}), "obfuscation": {"x": [None]}, "usage_breakdown": 1}
        assert decode(odd)[1:] == [TextDelta("a")]


class TestStart:
    def test_is_said_once(self) -> None:
        events = decode(chunk({"role": "assistant"}), chunk({"content": "a"}), chunk({}, finish="stop"))
        assert [event for event in events if isinstance(event, Started)] == [Started("i", "m")]

    def test_comes_before_the_first_text_also_without_id_and_model(self) -> None:
        assert decode({"choices": [{"delta": {"content": "a"}}]}) == [Started("", ""), TextDelta("a")]

    @pytest.mark.parametrize(("created", "seconds"), [(17, 17), (17.9, 17), (None, 0), ("17", 0), (-1, 0), (True, 0)])
    def test_created_is_a_whole_number(self, created: Any, seconds: int) -> None:
        assert decode({"id": "i", "created": created, "choices": []}) == [Started("i", "", seconds)]


class TestToolCalls:
    def test_calls_without_index_are_counted(self) -> None:
        calls = [{"id": "a", "function": {"name": "f"}}, {"id": "b", "function": {"name": "g"}}]
        assert decode(chunk({"tool_calls": calls}))[1:] == [ToolCallDelta(0, "a", "f"), ToolCallDelta(1, "b", "g")]

    def test_arguments_sent_as_an_object_become_text(self) -> None:
        call = {"index": 0, "id": "a", "function": {"name": "f", "arguments": {"city": "Paris"}}}
        assert decode(chunk({"tool_calls": [call]}))[1:] == [ToolCallDelta(0, "a", "f", '{"city":"Paris"}')]

    def test_call_is_told_when_its_name_is_known_with_all_that_came_before(self) -> None:
        call = {"index": 0, "id": "a", "function": {"arguments": '{"a"'}}
        rest = {"index": 0, "function": {"name": "f", "arguments": ":1}"}}
        assert decode(chunk({"tool_calls": [call]}), chunk({"tool_calls": [rest]}))[1:] == [
            ToolCallDelta(0, "a", "f", '{"a":1}')
        ]

    def test_call_without_a_name_is_none(self) -> None:
        assert decode(chunk({"tool_calls": [{"index": 0, "id": "a"}]}), chunk({}, finish="stop"))[1:] == [
            Finished("stop")
        ]

    def test_calls_are_numbered_from_0_as_they_appear(self) -> None:
        calls = [{"index": number, "id": f"c{number}", "function": {"name": "f"}} for number in (7, 3)]
        more = {"index": 7, "function": {"arguments": "{}"}}
        assert decode(chunk({"tool_calls": calls}), chunk({"tool_calls": [more]}))[1:] == [
            ToolCallDelta(0, "c7", "f"),
            ToolCallDelta(1, "c3", "f"),
            ToolCallDelta(0, arguments="{}"),
        ]

    def test_calls_that_share_a_number_are_told_apart_by_their_ids(self) -> None:
        calls = [{"index": 0, "id": name, "function": {"name": "f", "arguments": "{}"}} for name in "ab"]
        assert decode(chunk({"tool_calls": calls[:1]}), chunk({"tool_calls": calls[1:]}))[1:] == [
            ToolCallDelta(0, "a", "f", "{}"),
            ToolCallDelta(1, "b", "f", "{}"),
        ]

    def test_id_that_changes_with_every_fragment_is_the_first_one(self) -> None:
        calls = [
            {"index": 0, "id": "a", "function": {"name": "f", "arguments": "{"}},
            {"index": 0, "id": "b", "function": {"arguments": "}"}},
        ]
        assert decode(*(chunk({"tool_calls": [call]}) for call in calls))[1:] == [
            ToolCallDelta(0, "a", "f", "{"),
            ToolCallDelta(0, arguments="}"),
        ]

    def test_id_and_name_that_are_repeated_are_told_once(self) -> None:
        calls = [{"index": 0, "id": "a", "function": {"name": "f", "arguments": part}} for part in ("", "{", "", "}")]
        assert decode(*(chunk({"tool_calls": [call]}) for call in calls))[1:] == [
            ToolCallDelta(0, "a", "f"),
            ToolCallDelta(0, arguments="{"),
            ToolCallDelta(0, arguments="}"),
        ]

    def test_call_without_an_id_gets_one_that_no_other_has(self) -> None:
        calls = [{"function": {"name": "f", "arguments": "{}"}}, {"function": {"name": "f", "arguments": "{}"}}]
        made = decode(chunk({"tool_calls": calls}))[1:]
        assert [event.id for event in made if isinstance(event, ToolCallDelta)] == ["call_i_0_0", "call_i_0_1"]

    @pytest.mark.parametrize(("finish", "told"), [("tool_calls", ["", "{}"]), ("length", [""])])
    def test_call_that_is_over_without_arguments_has_an_object_without_members(
        self, finish: str, told: list[str]
    ) -> None:
        calls = [{"index": 0, "id": "a", "function": {"name": "f"}}]
        events = decode(chunk({"tool_calls": calls}), chunk({}, finish=finish))
        assert [event.arguments for event in events if isinstance(event, ToolCallDelta)] == told

    def test_thought_signature_goes_with_its_call(self) -> None:
        extra = {"extra_content": {"google": {"thought_signature": "s"}}}
        call = {"index": 0, "id": "a", "function": {"name": "f", "arguments": "{}"}, **extra}
        assert decode(chunk({"tool_calls": [call]}))[1:] == [ToolCallDelta(0, "a", "f", "{}", signature="s")]

    def test_empty_fragment_is_no_event(self) -> None:
        assert decode(chunk({"tool_calls": [{"index": 0, "function": {"arguments": ""}}]}))[1:] == []


class TestBesideTheText:
    def test_probabilities_follow_the_text_that_they_are_of(self) -> None:
        token = {"token": "a", "logprob": -0.5, "bytes": [97], "top_logprobs": []}
        payload = chunk({"content": "a"})
        payload["choices"][0]["logprobs"] = {"content": [token, 1, {"token": None}], "refusal": None}
        again = chunk({"content": "b"})
        again["choices"][0]["logprobs"] = {"content": [token]}
        told = LogProbabilities([token])
        assert decode(payload, again)[1:] == [TextDelta("a"), told, TextDelta("b"), told]

    @pytest.mark.parametrize("nothing", [None, {}, {"content": None}, {"content": []}, [1], "x", {"content": [1]}])
    def test_probabilities_of_nothing_are_none(self, nothing: Any) -> None:
        payload = chunk({"content": "a"})
        payload["choices"][0]["logprobs"] = nothing
        assert decode(payload)[1:] == [TextDelta("a")]

    def test_page_and_document_that_text_is_from(self) -> None:
        annotations = [
            {"type": "url_citation", "url_citation": {"url": "u", "title": "t", "start_index": 0, "end_index": 1}},
            {"type": "file_citation", "file_citation": {"file_id": "d", "filename": "n", "index": 1, "quote": "q"}},
            {"type": "url_citation", "url_citation": {"url": ""}},
            {"type": "file_citation", "file_citation": {"index": 3}},
            "x",
        ]
        assert decode(chunk({"content": "a"}), chunk({"annotations": annotations}))[2:] == [
            Cited("u", "t", end=1),
            Cited("", "n", "d", "q", end=1),
        ]

    def test_thoughts_of_a_stream_are_sealed_where_their_signature_comes(self) -> None:
        blocks = [{"type": "thinking", "thinking": "", "signature": "s"}, {"type": "redacted_thinking", "data": "d"}]
        events = decode(chunk({"reasoning_content": "Hm"}), chunk({"thinking_blocks": blocks}))
        assert events[1:] == [ReasoningDelta("Hm"), ReasoningSealed("s"), ReasoningSealed(redacted="d")]

    def test_block_of_a_stream_may_repeat_the_text_that_it_seals(self) -> None:
        """As this gateway and others write it."""
        blocks = [{"type": "thinking", "thinking": "Hm", "signature": "s"}]
        events = decode(
            chunk({"reasoning_content": "H"}), chunk({"reasoning_content": "m"}), chunk({"thinking_blocks": blocks})
        )
        assert events[1:] == [ReasoningDelta("H"), ReasoningDelta("m"), ReasoningSealed("s")]

    def test_block_that_repeats_the_reasoning_of_its_chunk_is_told_once(self) -> None:
        said = {"reasoning_content": "Hm", "thinking_blocks": [{"type": "thinking", "thinking": "Hm"}]}
        assert decode(chunk(said))[1:] == [ReasoningDelta("Hm")]

    @pytest.mark.parametrize("odd", ["x", [1], [{}], [{"signature": 1}], {"a": 1}])
    def test_blocks_of_another_shape_say_nothing(self, odd: Any) -> None:
        assert decode(chunk({"reasoning_content": "Hm", "thinking_blocks": odd}))[1:] == [ReasoningDelta("Hm")]


class TestUsage:
    @pytest.mark.parametrize(
        ("usage", "expected"),
        [
            ({"prompt_tokens": 1, "completion_tokens": 2, "total_tokens": 9}, TokenUsage(1, 2, 9)),
            ({"prompt_tokens": 1, "completion_tokens": 2}, TokenUsage(1, 2, 3)),
            ({"prompt_tokens": 1.0, "completion_tokens": None, "total_tokens": -4}, TokenUsage(1, 0, 0)),
            (
                {
                    "prompt_tokens": 5,
                    "completion_tokens": 6,
                    "total_tokens": 11,
                    "prompt_tokens_details": {"cached_tokens": 4},
                    "completion_tokens_details": {"reasoning_tokens": 3},
                },
                TokenUsage(5, 6, 11, 4, 3),
            ),
            ({"prompt_tokens": 1, "prompt_tokens_details": None, "completion_tokens_details": {}}, TokenUsage(1, 0, 1)),
        ],
    )
    def test_is_read(self, usage: dict[str, Any], expected: TokenUsage) -> None:
        assert decode({"id": "i", "choices": [], "usage": usage})[1:] == [UsageReported(expected)]

    def test_of_nothing_is_no_report(self) -> None:
        assert decode({"id": "i", "choices": [], "usage": {}})[1:] == []

    def test_on_a_choice_is_read(self) -> None:
        choice = {
            "index": 0,
            "delta": {},
            "finish_reason": "stop",
            "usage": {"prompt_tokens": 1, "completion_tokens": 2},
        }
        assert decode({"id": "i", "choices": [choice]})[2:] == [UsageReported(TokenUsage(1, 2, 3))]


class TestErrors:
    @pytest.mark.parametrize(
        ("payload", "facts"),
        [
            ({"error": {"message": "m", "type": "t", "code": "c", "param": "p"}}, ("m", "t", "c", "p", 502)),
            ({"error": {"message": "m", "code": 429}}, ("m", OURS, "429", None, 429)),
            ({"error": {"message": "m", "code": "503"}}, ("m", OURS, "503", None, 503)),
            ({"error": {"message": "m", "code": 1210}}, ("m", OURS, "1210", None, 502)),
            ({"error": {"message": "m", "code": 401}}, ("m", OURS, "401", None, 502)),
            ({"error": "text"}, ("text", OURS, OURS, None, 502)),
            ({"error": True}, ("The provider reported an error in its answer.", OURS, OURS, None, 502)),
            ({"error": {"why": 1}}, ('{"why":1}', OURS, OURS, None, 502)),
            (chunk({"content": ""}, x_groq={"error": "over capacity"}), ("over capacity", OURS, OURS, None, 502)),
            (chunk({}, finish="error"), ("The provider ended its answer with an error.", OURS, OURS, None, 502)),
            ({"choices": [{"error": {"message": "m", "code": 502}}]}, ("m", OURS, "502", None, 502)),
        ],
    )
    def test_in_any_shape_end_the_stream(self, payload: Any, facts: tuple[Any, ...]) -> None:
        decoder = OpenAIDecoder("chat", str)
        decoder.feed(frame(chunk({"content": "a"})))
        failed = decoder.feed(frame(payload))[-1]
        assert isinstance(failed, Failed)
        error = failed.error
        assert (error.message, error.type, error.code, error.param, error.status) == facts
        assert decoder.feed(frame(chunk({"content": "b"}))) == []
        assert decoder.feed(frame(b"[DONE]")) == []
        assert decoder.close() == []

    def test_text_that_came_with_the_error_is_kept_and_no_finish_is(self) -> None:
        events = decode(chunk({"content": "a"}, finish="error", error={"message": "m", "code": 502}))
        assert [type(event) for event in events] == [Started, TextDelta, Failed]

    @pytest.mark.parametrize("nothing", [None, "", {}, False])
    def test_error_field_of_nothing_is_none(self, nothing: Any) -> None:
        assert decode(chunk({"content": "a"}, error=nothing))[1:] == [TextDelta("a")]

    @pytest.mark.parametrize("words", [b'{"error":{"message":"m"}}', b'{"message":"m"}', b"m", b'"m"'])
    def test_event_named_error_is_one_whatever_it_holds(self, words: bytes) -> None:
        (failed,) = OpenAIDecoder("chat", str).feed(Frame(words, "error"))
        assert isinstance(failed, Failed)
        assert failed.error.message == "m"

    def test_credential_is_taken_out(self) -> None:
        decoder = OpenAIDecoder("chat", lambda text: text.replace("sk-secret", "***"))
        (failed,) = decoder.feed(frame({"error": {"message": "bad sk-secret", "code": "sk-secret"}}))
        assert isinstance(failed, Failed)
        assert (failed.error.message, failed.error.code) == ("bad ***", "***")

    @pytest.mark.parametrize(
        "garbage",
        [b"{", b'{"choices":', b"[]", b"null", b"1", b'"x"', b"hello", b'{"choices":"x"}', b'{"choices":[1]}',
         b'{"choices":[{"delta":"x"}]}', b'{"a":' + b"[" * 100_000, b'{"a":1}x'],
    )  # fmt: skip
    def test_what_is_not_of_openais_shape_is_refused(self, garbage: bytes) -> None:
        with pytest.raises(UpstreamProtocolError, match="not an OpenAI answer") as caught:
            OpenAIDecoder("chat", str).feed(Frame(garbage))
        assert not isinstance(caught.value, TruncatedStream)

    def test_message_of_the_refusal_shows_nothing_of_the_content(self) -> None:
        with pytest.raises(UpstreamProtocolError) as caught:
            OpenAIDecoder("chat", str).feed(Frame(b'{"choices":[{"delta":{"content":"my secret"}'))
        assert "secret" not in caught.value.message


class TestEnd:
    def test_nothing_follows_done(self) -> None:
        decoder = OpenAIDecoder("chat", str)
        assert decoder.feed(frame(b"[DONE]")) == [Ended()]
        assert decoder.feed(frame(chunk({"content": "a"}))) == []
        assert decoder.feed(frame(b"[DONE]")) == []
        assert decoder.close() == []

    @pytest.mark.parametrize("quiet", [Frame(None), Frame(b""), Frame(b" "), Frame(b"{}", "ping"), Frame(b"x", "ping")])
    def test_what_says_nothing_starts_nothing(self, quiet: Frame) -> None:
        decoder = OpenAIDecoder("chat", str)
        assert decoder.feed(quiet) == []
        with pytest.raises(TruncatedStream):
            decoder.close()

    def test_all_choices_must_be_finished(self) -> None:
        decoder = OpenAIDecoder("chat", str)
        decoder.feed(frame(chunk({"content": "a"})))
        decoder.feed(frame(chunk({"content": "b"}, index=1)))
        decoder.feed(frame(chunk({}, finish="stop")))
        with pytest.raises(TruncatedStream):
            decoder.close()

    def test_chunk_after_the_finish_does_not_open_the_choice_again(self) -> None:
        decoder = OpenAIDecoder("chat", str)
        decoder.feed(frame(chunk({"content": "a"}, finish="stop")))
        decoder.feed(frame(chunk({"content": ""}, usage={"prompt_tokens": 1})))
        assert decoder.close() == [Ended()]
        assert decoder.close() == []

    def test_finish_is_said_once(self) -> None:
        events = decode(chunk({"content": "a"}, finish="stop"), chunk({}, finish="stop"))
        assert [event for event in events if isinstance(event, Finished)] == [Finished("stop")]

    def test_word_of_the_providers_own_is_kept(self) -> None:
        assert Finished("eos_token") in decode(chunk({"content": "a"}, finish="eos_token"))

    def test_whole_json_at_the_end_of_the_stream_counts_without_its_blank_line(self) -> None:
        decoder = OpenAIDecoder("chat", str)
        last = json.dumps(chunk({"content": "a"}, finish="stop")).encode()
        assert Finished("stop") in decoder.feed(Frame(last, "", last, whole=False))
        assert decoder.close() == [Ended()]

    @pytest.mark.parametrize("half", [b'{"choices":[{"delta":{"content":"a', b"[DONE", b"[D"])
    def test_half_a_frame_at_the_end_is_a_truncated_stream(self, half: bytes) -> None:
        with pytest.raises(TruncatedStream):
            OpenAIDecoder("chat", str).feed(Frame(half, "", b"data: " + half, whole=False))


class TestWholeAnswers:
    def test_chat(self) -> None:
        body = {
            "id": "i", "object": "chat.completion", "created": 5, "model": "m", "system_fingerprint": "f",
            "choices": [{
                "index": 0, "finish_reason": "tool_calls",
                "message": {
                    "role": "assistant", "content": "Hi", "refusal": None, "reasoning_content": "Hm",
                    "tool_calls": [{"id": "c", "type": "function", "function": {"name": "f", "arguments": "{}"}}],
                },
            }],
            "usage": {"prompt_tokens": 1, "completion_tokens": 2, "total_tokens": 3},
        }  # fmt: skip
        events = read_answer("chat", json.dumps(body).encode(), str)
        assert [type(event).__name__ for event in events] == [
            "Started", "ReasoningDelta", "TextDelta", "ToolCallDelta", "Finished", "UsageReported", "Ended",
        ]  # fmt: skip
        assert events[0] == Started("i", "m", 5, "f")
        assert events[3] == ToolCallDelta(0, "c", "f", "{}")

    def test_completions(self) -> None:
        body = {"id": "i", "model": "m", "choices": [{"text": "a", "finish_reason": "stop"}, {"text": "b"}]}
        assert read_answer("completions", json.dumps(body).encode(), str) == [
            Started("i", "m"), TextDelta("a"), Finished("stop"), TextDelta("b", 1), Ended(),
        ]  # fmt: skip

    def test_error_in_a_200_is_a_failure(self) -> None:
        (failed,) = read_answer("chat", b'{"error":{"message":"m","code":429}}', str)
        assert isinstance(failed, Failed)
        assert failed.error.status == 429

    @pytest.mark.parametrize("body", [b"", b"<html>", b"{}", b'{"choices":[]}', b'{"choices":null}', b"[]"])
    def test_what_is_no_answer_is_refused(self, body: bytes) -> None:
        with pytest.raises(UpstreamProtocolError):
            read_answer("chat", body, str)


class TestEmbeddings:
    HEAD: ClassVar[dict[str, Any]] = {"object": "list", "model": "m", "usage": {"prompt_tokens": 2, "total_tokens": 2}}

    def read(self, **more: Any) -> list[Event]:
        return read_answer("embeddings", json.dumps({**self.HEAD, **more}).encode(), str)

    def test_are_read_in_the_order_of_the_inputs(self) -> None:
        data = [{"index": 1, "embedding": [1, 0.5]}, {"index": 0, "embedding": "AAAA"}]
        assert checked(self.read(data=data)) == [
            Started("", "m"),
            Embedded("AAAA", 0),
            Embedded([1.0, 0.5], 1),
            UsageReported(TokenUsage(2, 0, 2)),
            Ended(),
        ]

    def test_without_numbers_count_by_their_places(self) -> None:
        assert [event.index for event in self.read(data=[{"embedding": [1]}] * 2) if isinstance(event, Embedded)] == [
            0,
            1,
        ]

    @pytest.mark.parametrize("data", [None, [], [{}], [{"embedding": None}], [{"embedding": {}}], 1, [1]])
    def test_that_are_none_are_refused(self, data: Any) -> None:
        with pytest.raises(UpstreamProtocolError):
            self.read(data=data)

    def test_error_in_their_place_is_one(self) -> None:
        (failed,) = self.read(error={"message": "m"})
        assert isinstance(failed, Failed)


class TestModerations:
    RESULT: ClassVar[dict[str, Any]] = {"flagged": True, "categories": {"hate": True}, "category_scores": {"hate": 0.9}}

    def read(self, **more: Any) -> list[Event]:
        return read_answer("moderations", json.dumps({"id": "modr-1", "model": "m", **more}).encode(), str)

    def test_are_read_in_the_order_of_the_inputs(self) -> None:
        calm = {**self.RESULT, "flagged": False}
        events = checked(self.read(results=[self.RESULT, calm]))
        assert events == [Started("modr-1", "m"), Moderated(self.RESULT), Moderated(calm, 1), Ended()]
        gathered = Fold()
        for event in events:
            gathered.add(event)
        assert gathered.answer().moderations == [self.RESULT, calm]

    def test_say_that_something_was_found_where_the_provider_only_says_what(self) -> None:
        for found in (True, False):
            bare = {"categories": {"pii": found, "law": False}, "category_scores": {"pii": 0.5}}
            [_, judged, _] = self.read(results=[bare])
            assert judged == Moderated({**bare, "flagged": found})

    def test_usage_is_taken_where_it_is_told(self) -> None:
        usage = {"prompt_tokens": 3, "total_tokens": 3}
        assert UsageReported(TokenUsage(3, 0, 3)) in self.read(results=[self.RESULT], usage=usage)

    @pytest.mark.parametrize("results", [None, [], [{}], [{"flagged": False}], [{"categories": {}}], 1, [1]])
    def test_that_are_none_are_refused(self, results: Any) -> None:
        with pytest.raises(UpstreamProtocolError):
            self.read(results=results)

    def test_error_in_their_place_is_one(self) -> None:
        (failed,) = self.read(error={"message": "m"})
        assert isinstance(failed, Failed)


DEEP = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 5) | st.floats() | st.sampled_from(["", "a", "stop", "error", "{}"]),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.sampled_from(KEYS), inner, max_size=3),
    max_leaves=12,
)


@given(
    st.lists(st.dictionaries(st.sampled_from(KEYS), DEEP, max_size=6), max_size=5),
    st.sampled_from(["chat", "completions"]),
)
def test_whatever_a_service_sends_is_read_or_refused(documents: list[Any], operation: Any) -> None:
    """… and what is read never says two things of which one cannot be: a choice that is over, a call without a beginning."""
    decoder, grammar = OpenAIDecoder(operation, str), EventGrammar(reasons_required=False)
    try:
        events = [event for document in documents for event in decoder.feed(frame(document))]
        events += decoder.close()
    except UpstreamProtocolError:
        return
    try:
        for event in events:
            grammar.feed(event)
    except IllegalSequence as wrong:
        # What the service says of numbers and arguments is its own; that it is told as it is, is ours.
        if not re.search("JSON object|Cited|UsageReported|none was called|one id|of choice -", str(wrong)):
            raise


@given(st.dictionaries(st.sampled_from(KEYS), DEEP, max_size=6), st.sampled_from(["chat", "completions", "embeddings"]))
def test_whatever_a_whole_answer_holds_is_read_or_refused(document: Any, operation: Any) -> None:
    with contextlib.suppress(UpstreamProtocolError):
        read_answer(operation, json.dumps(document).encode(), str)
