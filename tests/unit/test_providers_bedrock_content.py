from __future__ import annotations

import json
from typing import Any

import pytest
from support.bedrock import CALLED, HELLO, PNG, RESULT, SPEC, WEATHER, body, messages, prepare, user

from trio_ai_proxy.errors import InvalidRequest


class TestTurns:
    def test_plain_question_is_said(self) -> None:
        assert body() == {"messages": [user({"text": "Hello"})]}

    def test_completion_is_one_question(self) -> None:
        assert body(operation="completions", prompt="Once", max_tokens=5) == {
            "messages": [user({"text": "Once"})],
            "inferenceConfig": {"maxTokens": 5},
        }

    def test_system_messages_go_to_their_place_in_order(self) -> None:
        given = body(
            messages=[
                {"role": "system", "content": "One"},
                *HELLO,
                {"role": "developer", "content": [{"type": "text", "text": "Two"}]},
            ]
        )
        assert given == {"system": [{"text": "One"}, {"text": "Two"}], "messages": [user({"text": "Hello"})]}

    def test_turns_alternate(self) -> None:
        found = messages(
            *HELLO, *HELLO, {"role": "assistant", "content": "a"}, {"role": "assistant", "content": "b"}, *HELLO
        )
        assert found == [
            user({"text": "Hello"}, {"text": "Hello"}),
            {"role": "assistant", "content": [{"text": "a"}, {"text": "b"}]},
            user({"text": "Hello"}),
        ]

    def test_blank_text_is_left_out_and_with_it_a_turn_of_nothing(self) -> None:
        found = messages(*HELLO, {"role": "assistant", "content": " \n"}, {"role": "user", "content": "a"})
        assert found == [user({"text": "Hello"}, {"text": "a"})]

    def test_conversation_of_nothing_is_refused(self) -> None:
        with pytest.raises(InvalidRequest, match="says something"):
            prepare(messages=[{"role": "user", "content": " "}, {"role": "system", "content": "x"}])

    def test_beginning_of_the_answer_does_not_end_in_white_space(self) -> None:
        found = messages(*HELLO, {"role": "assistant", "content": "It is: \n"})
        assert found[-1] == {"role": "assistant", "content": [{"text": "It is:"}]}

    def test_calls_and_results_are_said(self) -> None:
        found = messages(*HELLO, CALLED, RESULT, {"role": "tool", "tool_call_id": "call_1", "content": ""}, *HELLO)
        use = {"toolUse": {"toolUseId": "call_1", "name": "get_weather", "input": {"a": 1}}}
        assert found[1:] == [
            {"role": "assistant", "content": [use]},
            user(
                {"toolResult": {"toolUseId": "call_1", "content": [{"text": "sunny"}]}},
                {"toolResult": {"toolUseId": "call_1", "content": [{"text": ""}]}},
                {"text": "Hello"},
            ),
        ]

    def test_id_of_another_service_is_replaced_in_both_places(self) -> None:
        odd = "call/" + "x" * 100
        called = json.loads(json.dumps(CALLED).replace("call_1", odd))
        found = messages(*HELLO, called, {**RESULT, "tool_call_id": odd})
        used = found[1]["content"][0]["toolUse"]["toolUseId"]
        assert used == found[2]["content"][0]["toolResult"]["toolUseId"]
        assert used.startswith("call_")
        assert len(used) <= 64

    def test_arguments_that_are_no_object_are_refused_by_their_place(self) -> None:
        called = json.loads(json.dumps(CALLED).replace('{\\"a\\": 1}', "[1"))
        with pytest.raises(InvalidRequest) as caught:
            prepare(messages=[*HELLO, called, RESULT])
        assert caught.value.param == "messages.1.tool_calls.0.function.arguments"

    def test_thoughts_come_back_before_the_text(self) -> None:
        blocks = [
            {"type": "thinking", "thinking": "hm", "signature": "sig"},
            {"type": "redacted_thinking", "data": "AAAA"},
            {"type": "thinking", "thinking": "without proof"},
        ]
        found = messages(*HELLO, {"role": "assistant", "content": "42", "thinking_blocks": blocks}, *HELLO)
        assert found[1]["content"] == [
            {"reasoningContent": {"reasoningText": {"text": "hm", "signature": "sig"}}},
            {"reasoningContent": {"redactedContent": "AAAA"}},
            {"text": "42"},
        ]

    def test_refusal_is_said_as_text(self) -> None:
        found = messages(*HELLO, {"role": "assistant", "content": None, "refusal": "No."}, *HELLO)
        assert found[1]["content"] == [{"text": "No."}]

    def test_cache_marks_stand_behind_what_they_mark(self) -> None:
        mark = {"cache_control": {"type": "ephemeral"}}
        given = body(
            messages=[
                {"role": "system", "content": [{"type": "text", "text": "s", "cache_control": {"ttl": "1h"}}]},
                {"role": "user", "content": [{"type": "text", "text": "a", **mark}, {"type": "text", "text": "b"}]},
                CALLED,
                {**RESULT, **mark},
            ],
            tools=[{**WEATHER, **mark}],
        )
        point = {"cachePoint": {"type": "default"}}
        assert given["system"] == [{"text": "s"}, {"cachePoint": {"type": "default", "ttl": "1h"}}]
        assert given["messages"][0]["content"] == [{"text": "a"}, point, {"text": "b"}]
        assert given["messages"][2]["content"][1] == point
        assert given["toolConfig"]["tools"] == [SPEC, point]


class TestMedia:
    def part(self, part: dict[str, Any]) -> dict[str, Any]:
        return messages({"role": "user", "content": [part]})[0]["content"][0]  # type: ignore[no-any-return]  # an object

    def test_image_goes_with_its_bytes(self) -> None:
        found = self.part({"type": "image_url", "image_url": {"url": PNG}})
        assert found == {"image": {"format": "png", "source": {"bytes": "iVBORw0KGgo="}}}

    @pytest.mark.parametrize("filename", ["a/b_c.pdf", ""])
    def test_document_goes_with_its_bytes_and_a_name(self, filename: str) -> None:
        found = self.part({"type": "file", "file": {"file_data": "QUJD", "filename": filename}})
        name = "a-b-c" if filename else "document"
        assert found == {"document": {"format": "pdf", "name": name, "source": {"bytes": "QUJD"}}}

    def test_names_of_documents_differ(self) -> None:
        part = {"type": "file", "file": {"file_data": "data:text/plain;base64,QUJD", "filename": "x.txt"}}
        found = messages({"role": "user", "content": [part, part]})[0]["content"]
        assert [block["document"]["name"] for block in found] == ["x", "x (2)"]

    def test_document_of_an_unknown_type_is_known_by_its_ending(self) -> None:
        data = "data:application/octet-stream;base64,QUJD"
        assert (
            self.part({"type": "file", "file": {"file_data": data, "filename": "x.CSV"}})["document"]["format"] == "csv"
        )

    def test_sound_goes_with_its_bytes(self) -> None:
        found = self.part({"type": "input_audio", "input_audio": {"data": "QUJD", "format": "mp3"}})
        assert found == {"audio": {"format": "mp3", "source": {"bytes": "QUJD"}}}

    @pytest.mark.parametrize(
        "part",
        [
            {"type": "image_url", "image_url": {"url": "https://a.example/b.png"}},
            {"type": "image_url", "image_url": {"url": "data:image/tiff;base64,QUJD"}},
            {"type": "file", "file": {"file_id": "file-1"}},
            {"type": "file", "file": {"file_id": "https://a.example/b.pdf"}},
            {"type": "file", "file": {"file_data": "data:application/zip;base64,QUJD"}},
        ],
    )
    @pytest.mark.parametrize("unsupported", ["auto", "drop"])
    def test_what_cannot_be_taken_is_refused_by_its_place(self, part: dict[str, Any], unsupported: str) -> None:
        with pytest.raises(InvalidRequest) as caught:
            prepare(messages=[*HELLO, {"role": "user", "content": [part]}], unsupported=unsupported)
        assert caught.value.param == "messages.1.content.0"

    def test_picture_in_a_system_message_is_refused(self) -> None:
        part = {"type": "image_url", "image_url": {"url": PNG}}
        with pytest.raises(InvalidRequest, match="system message holds text"):
            prepare(messages=[{"role": "system", "content": [part]}, *HELLO])

    def test_result_of_a_tool_may_be_a_picture(self) -> None:
        result = {**RESULT, "content": [{"type": "image_url", "image_url": {"url": PNG}}]}
        found = messages(*HELLO, CALLED, result)
        assert "image" in found[2]["content"][0]["toolResult"]["content"][0]
