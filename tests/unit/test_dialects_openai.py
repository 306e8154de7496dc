"""Both OpenAI dialects: what they share, and where they differ."""

from __future__ import annotations

import json
from typing import Any

import pytest

from trio_ai_proxy.chat.events import Started
from trio_ai_proxy.chat.fold import Answer, Choice, ToolCall
from trio_ai_proxy.chat.request import ChatRequest
from trio_ai_proxy.chat.usage import TokenUsage
from trio_ai_proxy.dialects.table import DIALECTS
from trio_ai_proxy.errors import InvalidRequest, TruncatedStream, UpstreamStatus

CHAT = DIALECTS["llm/v1/chat"]
TEXT = DIALECTS["llm/v1/completions"]
MESSAGES = [{"role": "user", "content": "hi"}]
ASKED = ChatRequest("chat", "m", stream=False, include_usage=False, fields={})

both = pytest.mark.parametrize("dialect", [CHAT, TEXT], ids=["chat", "completions"])


def body(dialect: Any, **fields: Any) -> bytes:
    own: dict[str, Any] = {"messages": MESSAGES} if dialect is CHAT else {"prompt": "hi"}
    return json.dumps({"model": "m", **own, **fields}).encode()


def refused(dialect: Any, document: bytes, *, model: str | None = None) -> InvalidRequest:
    with pytest.raises(InvalidRequest) as caught:
        dialect.parse_request(document, model=model)
    assert caught.value.status == 400
    return caught.value


@both
class TestRequest:
    def test_is_read_with_all_its_fields(self, dialect: Any) -> None:
        document = body(dialect, temperature=0.5, unknown={"model": "nested"}, text="é🙂\u2028")
        request = dialect.parse_request(document)
        assert request.fields == json.loads(document)
        assert (request.operation, request.model) == (dialect.operation, "m")
        assert (request.stream, request.include_usage) == (False, False)

    @pytest.mark.parametrize(
        ("fields", "stream", "include_usage"),
        [
            ({"stream": True}, True, False),
            ({"stream": False}, False, False),
            ({"stream": None}, False, False),
            ({"stream": True, "stream_options": {"include_usage": True}}, True, True),
            ({"stream": True, "stream_options": {"include_usage": False}}, True, False),
            ({"stream": True, "stream_options": {"include_usage": None}}, True, False),
            ({"stream": True, "stream_options": {}}, True, False),
            ({"stream": True, "stream_options": None}, True, False),
            ({"stream_options": {"include_usage": True}}, False, False),
            ({"stream": False, "stream_options": "ignored"}, False, False),
        ],
    )
    def test_stream_and_usage_are_read(
        self, dialect: Any, fields: dict[str, Any], stream: bool, include_usage: bool
    ) -> None:
        request = dialect.parse_request(body(dialect, **fields))
        assert (request.stream, request.include_usage) == (stream, include_usage)

    @pytest.mark.parametrize("value", ["false", "true", 0, 1, {}, []])
    def test_stream_is_a_boolean_and_nothing_that_could_pass_for_one(self, dialect: Any, value: Any) -> None:
        error = refused(dialect, body(dialect, stream=value))
        assert (error.param, error.message) == ("stream", '"stream" must be true or false.')

    @pytest.mark.parametrize("value", ["x", 1, [], True])
    def test_stream_options_are_an_object(self, dialect: Any, value: Any) -> None:
        assert refused(dialect, body(dialect, stream=True, stream_options=value)).param == "stream_options"

    def test_include_usage_is_a_boolean(self, dialect: Any) -> None:
        error = refused(dialect, body(dialect, stream=True, stream_options={"include_usage": "yes"}))
        assert error.param == "stream_options.include_usage"

    @pytest.mark.parametrize("model", [None, ""])
    def test_model_is_needed(self, dialect: Any, model: Any) -> None:
        assert refused(dialect, body(dialect, model=model)).code == "missing_model"

    @pytest.mark.parametrize("model", [1, True, ["m"], {}, "x" * 257, "a\nb", "a\rb", "a\0", "a\x1b[0m", "\u202e"])
    def test_model_is_short_printable_text(self, dialect: Any, model: Any) -> None:
        assert refused(dialect, body(dialect, model=model)).param == "model"

    @pytest.mark.parametrize("model", ["x" * 256, "meta-llama/Llama-3.3 70B:free@v1", "модель"])
    def test_model_may_be_any_such_text(self, dialect: Any, model: str) -> None:
        assert dialect.parse_request(body(dialect, model=model)).model == model


@both
class TestModelOfTheRoute:
    @pytest.mark.parametrize("model", [None, "gpt-4o"])
    def test_may_be_left_out_or_repeated(self, dialect: Any, model: Any) -> None:
        assert dialect.parse_request(body(dialect, model=model), model="gpt-4o").model == "gpt-4o"
        without = json.loads(body(dialect))
        del without["model"]
        assert dialect.parse_request(json.dumps(without).encode(), model="gpt-4o").model == "gpt-4o"

    @pytest.mark.parametrize("model", ["gpt-4", "", 1, {}])
    def test_leaves_no_choice(self, dialect: Any, model: Any) -> None:
        error = refused(dialect, body(dialect, model=model), model="gpt-4o")
        assert error.message == "This path serves 'gpt-4o'; leave \"model\" out."
        assert error.param == "model"


@both
class TestJSON:
    @pytest.mark.parametrize(
        ("document", "why"),
        [
            (b"", "not valid JSON"),
            (b"{", "not valid JSON"),
            (b"hello", "not valid JSON"),
            (b'{"a":1} x', "not valid JSON"),
            (b'{"a":NaN}', "not valid JSON"),
            (b'{"a":Infinity}', "not valid JSON"),
            (b'{"a":-Infinity}', "not valid JSON"),
            (b'{"a":"\\ud800"}', "not valid JSON"),
            (b'{"\\udc00":1}', "not valid JSON"),
            (b'{"a":"\x01"}', "not valid JSON"),
            (b"\xef\xbb\xbf{}", "not valid JSON"),
            (b'{"a":1e999}', "too large"),
            (b'{"a":' + b"9" * 5_000 + b"}", "too large"),
            (b'{"a":' + b"[" * 200_000 + b"]" * 200_000 + b"}", "too deeply"),
            (b'{"a":' * 200_000 + b"1" + b"}" * 200_000, "too deeply"),
            (b"[]", "not a JSON object"),
            (b"null", "not a JSON object"),
            (b'"x"', "not a JSON object"),
            (b"1", "not a JSON object"),
            (b'{"a":"\xff"}', "not UTF-8"),
            (b'{"a":"\xed\xa0\x80"}', "not UTF-8"),
            ('{"a":1}'.encode("utf-16"), "not UTF-8"),
            ('{"a":1}'.encode("utf-16-le"), "not valid JSON"),
        ],
    )
    def test_what_cannot_be_read_says_why(self, dialect: Any, document: bytes, why: str) -> None:
        error = refused(dialect, document)
        assert why in error.message
        assert error.code == "invalid_json"

    @pytest.mark.parametrize("name", ["model", "stream", "stream_options"])
    def test_field_that_decides_stands_once(self, dialect: Any, name: str) -> None:
        values = {"model": b'"m"', "stream": b"true", "stream_options": b"{}"}
        twice = b'{"%b":%b,' % (name.encode(), values[name]) + body(dialect, **{name: json.loads(values[name])})[1:]
        error = refused(dialect, twice)
        assert (error.param, error.code) == (name, "duplicate_field")
        assert f'"{name}" more than once' in error.message

    def test_namesake_further_down_is_another_field(self, dialect: Any) -> None:
        document = body(dialect, metadata={"model": "x", "stream": 1, "deeper": [{"model": "y", "messages": []}]})
        assert dialect.parse_request(document).model == "m"

    def test_namesake_in_a_text_is_text(self, dialect: Any) -> None:
        document = body(dialect, user='{"model":"x","model":"y"}')
        assert dialect.parse_request(document).model == "m"

    def test_number_beyond_64_bits_is_kept(self, dialect: Any) -> None:
        assert dialect.parse_request(body(dialect, seed=2**70)).fields["seed"] == 2**70


class TestChat:
    @pytest.mark.parametrize(
        ("messages", "param"),
        [
            (None, "messages"),
            ([], "messages"),
            ("hi", "messages"),
            ({}, "messages"),
            (["hi"], "messages.0"),
            ([*MESSAGES, None], "messages.1"),
            ([{"content": "hi"}], "messages.0.role"),
            ([{"role": ""}], "messages.0.role"),
            ([{"role": 1}], "messages.0.role"),
        ],
    )
    def test_messages_are_a_list_of_objects_with_a_role(self, messages: Any, param: str) -> None:
        assert refused(CHAT, body(CHAT, messages=messages)).param == param

    def test_a_reference_to_a_template_may_stand_in_their_place(self) -> None:
        """A guard puts messages there; the gateway refuses it for a model that has no such guard."""
        request = CHAT.parse_request(body(CHAT, messages="{template://a b}"))
        assert request.fields["messages"] == "{template://a b}"
        for messages in ("{template://}", "{template://a} ", "{template://a{b}", ["{template://a}"]):
            assert refused(CHAT, body(CHAT, messages=messages)).param in ("messages", "messages.0")

    def test_messages_twice_are_refused(self) -> None:
        assert refused(CHAT, b'{"messages":[],' + body(CHAT)[1:]).param == "messages"

    @pytest.mark.parametrize("fields", [{"messages": MESSAGES, "prompt": "hi"}, {"prompt": "hi"}])
    def test_prompt_belongs_to_the_other_path(self, fields: dict[str, Any]) -> None:
        error = refused(CHAT, json.dumps({"model": "m", **fields}).encode())
        assert error.param == "prompt"
        assert 'is for chat and takes "messages"' in error.message


class TestCompletions:
    @pytest.mark.parametrize("prompt", ["hi", ["a", "b"], ["a", ""], [1, 2], [[1], [2, 3]]])
    def test_prompt_has_four_forms(self, prompt: Any) -> None:
        assert TEXT.parse_request(body(TEXT, prompt=prompt)).fields["prompt"] == prompt

    @pytest.mark.parametrize(
        "prompt",
        [None, "", [], [[]], 1, {}, ["a", 1], [1, "a"], [1.5], [True], [-1], [[1], "a"], [[1], []], [["a"]], [None]],
    )
    def test_prompt_has_no_other(self, prompt: Any) -> None:
        assert refused(TEXT, body(TEXT, prompt=prompt)).param == "prompt"

    def test_prompt_twice_is_refused(self) -> None:
        assert refused(TEXT, b'{"prompt":"x",' + body(TEXT)[1:]).param == "prompt"

    @pytest.mark.parametrize("fields", [{"messages": MESSAGES, "prompt": "hi"}, {"messages": MESSAGES}])
    def test_messages_belong_to_the_other_path(self, fields: dict[str, Any]) -> None:
        error = refused(TEXT, json.dumps({"model": "m", **fields}).encode())
        assert error.param == "messages"
        assert 'is for completions and takes "prompt"' in error.message


@both
class TestErrors:
    def test_have_openais_four_words(self, dialect: Any) -> None:
        error = UpstreamStatus("m", upstream_status=429, type="t", code="c", param="p")
        assert json.loads(dialect.encode_error(error)) == {
            "error": {"message": "m", "type": "t", "param": "p", "code": "c"}
        }

    def test_in_a_stream_are_one_frame_with_texts_in_an_object(self, dialect: Any) -> None:
        frame = dialect.encode_stream_error(TruncatedStream('cut\n\n"here" é'))
        assert frame.startswith(b'data: {"error":{')
        assert frame.endswith(b"}}\n\n")
        assert frame.count(b"\n") == 2
        assert json.loads(frame[6:])["error"] == {
            "message": 'cut\n\n"here" é', "type": "upstream_error", "param": None, "code": "upstream_truncated",
        }  # fmt: skip


@both
class TestUsageChunk:
    def test_has_no_choices_and_the_streams_names(self, dialect: Any) -> None:
        frame = dialect.encode_usage(Started("i", "m", 5, "fp"), TokenUsage(10, 20, 30, 4, 5))
        assert frame.startswith(b"data: ")
        assert frame.endswith(b"\n\n")
        assert json.loads(frame[6:]) == {
            "id": "i",
            "object": "chat.completion.chunk" if dialect is CHAT else "text_completion",
            "created": 5,
            "model": "m",
            "system_fingerprint": "fp",
            "choices": [],
            "usage": {
                "prompt_tokens": 10,
                "completion_tokens": 20,
                "total_tokens": 30,
                "prompt_tokens_details": {"cached_tokens": 4},
                "completion_tokens_details": {"reasoning_tokens": 5},
            },
        }

    def test_adds_the_total_up_where_nobody_gave_one(self, dialect: Any) -> None:
        chunk = json.loads(dialect.encode_usage(Started("i", "m"), TokenUsage(1, 2))[6:])
        assert chunk["usage"]["total_tokens"] == 3
        assert "system_fingerprint" not in chunk


class TestWholeAnswer:
    def test_of_chat(self) -> None:
        choice = Choice(0, text="Hi", reasoning="Hm", finish_reason="stop")
        answer = Answer("i", "m", 5, "fp", [choice, Choice(1)], TokenUsage(1, 2, 3))
        whole = json.loads(CHAT.encode_answer(answer, ASKED))
        assert {name: whole[name] for name in ("id", "object", "created", "model", "system_fingerprint")} == {
            "id": "i", "object": "chat.completion", "created": 5, "model": "m", "system_fingerprint": "fp",
        }  # fmt: skip
        assert whole["usage"]["total_tokens"] == 3
        assert whole["choices"] == [
            {
                "index": 0,
                "message": {"role": "assistant", "content": "Hi", "refusal": None, "reasoning_content": "Hm"},
                "logprobs": None,
                "finish_reason": "stop",
            },
            {
                "index": 1,
                "message": {"role": "assistant", "content": "", "refusal": None},
                "logprobs": None,
                "finish_reason": None,
            },
        ]

    def test_of_chat_with_tools_has_no_text(self) -> None:
        choice = Choice(0, tool_calls=[ToolCall("c", "f", "{}")], finish_reason="tool_calls")
        (made,) = json.loads(CHAT.encode_answer(Answer("i", "m", choices=[choice]), ASKED))["choices"]
        assert made["message"] == {
            "role": "assistant",
            "content": None,
            "refusal": None,
            "tool_calls": [{"id": "c", "type": "function", "function": {"name": "f", "arguments": "{}"}}],
        }

    def test_of_chat_with_openais_older_function_call(self) -> None:
        choice = Choice(0, tool_calls=[ToolCall("", "f", "{}")], finish_reason="function_call")
        (made,) = json.loads(CHAT.encode_answer(Answer("i", "m", choices=[choice]), ASKED))["choices"]
        assert made["message"]["function_call"] == {"name": "f", "arguments": "{}"}
        assert "tool_calls" not in made["message"]

    def test_of_chat_that_declines(self) -> None:
        (made,) = json.loads(CHAT.encode_answer(Answer("i", "m", choices=[Choice(0, refusal="No.")]), ASKED))["choices"]
        assert (made["message"]["content"], made["message"]["refusal"]) == (None, "No.")

    def test_of_completions(self) -> None:
        answer = Answer("i", "m", 5, choices=[Choice(0, text="Hi", finish_reason="length")])
        assert json.loads(TEXT.encode_answer(answer, ASKED)) == {
            "id": "i",
            "object": "text_completion",
            "created": 5,
            "model": "m",
            "choices": [{"text": "Hi", "index": 0, "logprobs": None, "finish_reason": "length"}],
        }

    def test_makes_no_usage_up(self) -> None:
        assert "usage" not in json.loads(CHAT.encode_answer(Answer("i", "m"), ASKED))


@both
def test_ends_and_waits_in_the_words_of_the_format(dialect: Any) -> None:
    assert dialect.terminal == b"data: [DONE]\n\n"
    assert dialect.keep_alive == b": keep-alive\n\n"
