"""What a request says, whichever of OpenAI's spellings it uses; and what cannot be read, by its place."""

from __future__ import annotations

import base64
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.event_strategies import JSON

from trio_ai_proxy.chat.prompt import (
    AudioPart,
    Call,
    FilePart,
    ImagePart,
    Prompt,
    Schema,
    TextPart,
    Thought,
    Tool,
    ToolChoice,
    Turn,
)
from trio_ai_proxy.chat.reading import read_inputs, read_prompt
from trio_ai_proxy.chat.request import ChatRequest, Operation
from trio_ai_proxy.errors import InvalidRequest

DATA = base64.b64encode(b"\x00\x01\x02").decode()


def prompt(operation: Operation = "chat", **fields: Any) -> Prompt:
    if operation == "chat":
        fields.setdefault("messages", [{"role": "user", "content": "hi"}])
    return read_prompt(ChatRequest(operation, "m", stream=False, include_usage=False, fields=fields))


def turns(*messages: dict[str, Any]) -> tuple[Turn, ...]:
    return prompt(messages=list(messages)).turns


def parts(*content: Any) -> tuple[Any, ...]:
    return turns({"role": "user", "content": list(content)})[0].parts


def refused(**fields: Any) -> str | None:
    with pytest.raises(InvalidRequest) as caught:
        prompt(**fields)
    assert caught.value.status == 400
    assert f'"{caught.value.param}"' in caught.value.message
    return caught.value.param


class TestTurns:
    def test_stand_in_their_order_with_their_places(self) -> None:
        said = turns(
            {"role": "system", "content": "a"},
            {"role": "user", "content": "b", "name": "Ann"},
            {"role": "developer", "content": "c"},
            {"role": "assistant", "content": "d"},
        )
        assert [(turn.role, turn.text(), turn.place) for turn in said] == [
            ("system", "a", "messages.0"),
            ("user", "b", "messages.1"),
            ("system", "c", "messages.2"),
            ("assistant", "d", "messages.3"),
        ]
        assert said[1].name == "Ann"

    def test_system_texts_are_joined_for_those_who_have_one_place_for_them(self) -> None:
        asked = prompt(
            messages=[
                {"role": "system", "content": "a"},
                {"role": "user", "content": "b"},
                {"role": "developer", "content": [{"type": "text", "text": "c"}, {"type": "text", "text": "d"}]},
                {"role": "system", "content": ""},
            ]
        )
        assert asked.system_text() == "a\n\ncd"
        assert [turn.role for turn in asked.spoken()] == ["user"]

    def test_tool_answer_knows_the_function_that_was_called(self) -> None:
        call = {"id": "c1", "type": "function", "function": {"name": "f", "arguments": "{}"}}
        _, answer = turns(
            {"role": "assistant", "content": None, "tool_calls": [call]},
            {"role": "tool", "tool_call_id": "c1", "content": "42"},
        )
        assert (answer.role, answer.call_id, answer.name, answer.text()) == ("tool", "c1", "f", "42")

    def test_older_function_call_and_its_answer_find_one_another(self) -> None:
        called, answer = turns(
            {"role": "assistant", "content": None, "function_call": {"name": "f", "arguments": "{}"}},
            {"role": "function", "name": "f", "content": "42"},
        )
        assert called.calls == (Call("call_f", "f", "{}", place="messages.0.function_call"),)
        assert (answer.role, answer.call_id, answer.name) == ("tool", "call_f", "f")

    def test_assistant_may_have_declined(self) -> None:
        (turn,) = turns({"role": "assistant", "content": None, "refusal": "No."})
        assert (turn.parts, turn.refusal) == ((), "No.")

    @pytest.mark.parametrize(
        ("message", "param"),
        [
            ({"role": "robot", "content": "a"}, "messages.0.role"),
            ({"role": "tool", "content": "a"}, "messages.0.tool_call_id"),
            ({"role": "tool", "content": "a", "tool_call_id": 1}, "messages.0.tool_call_id"),
            ({"role": "user", "content": 1}, "messages.0.content"),
            ({"role": "user", "content": [1]}, "messages.0.content.0"),
            ({"role": "user", "content": [{"type": "text"}]}, "messages.0.content.0.text"),
            ({"role": "user", "content": [{"text": "a"}]}, "messages.0.content.0.type"),
            ({"role": "user", "content": [{"type": "video"}]}, "messages.0.content.0.type"),
            ({"role": "assistant", "tool_calls": 1}, "messages.0.tool_calls"),
            ({"role": "assistant", "tool_calls": [1]}, "messages.0.tool_calls.0.function"),
            ({"role": "assistant", "tool_calls": [{"id": "c"}]}, "messages.0.tool_calls.0.function"),
            ({"role": "assistant", "tool_calls": [{"function": {"name": "f"}}]}, "messages.0.tool_calls.0.id"),
            (
                {"role": "assistant", "tool_calls": [{"id": "c", "function": {"name": "f", "arguments": 1}}]},
                "messages.0.tool_calls.0.function.arguments",
            ),
        ],
    )
    def test_that_cannot_be_read_are_named(self, message: dict[str, Any], param: str) -> None:
        assert refused(messages=[message]) == param


class TestParts:
    def test_text(self) -> None:
        cache = {"type": "ephemeral"}
        assert parts("a", {"type": "text", "text": "b", "cache_control": cache}, {"type": "text", "text": ""}) == (
            TextPart("a", "messages.0.content.0"),
            TextPart("b", "messages.0.content.1", cache),
        )

    def test_cache_mark_of_a_message_goes_to_its_text(self) -> None:
        (turn,) = turns({"role": "user", "content": "a", "cache_control": {"type": "ephemeral"}})
        assert turn.parts == (TextPart("a", "messages.0.content", {"type": "ephemeral"}),)

    @pytest.mark.parametrize("image", [{"url": "https://h/i.png", "detail": "low"}, {"url": "gs://b/i.png"}])
    def test_image_by_address(self, image: dict[str, Any]) -> None:
        (part,) = parts({"type": "image_url", "image_url": image})
        assert part == ImagePart(url=image["url"], detail=image.get("detail", ""), place="messages.0.content.0")

    def test_image_whose_address_stands_alone(self) -> None:
        (part,) = parts({"type": "image_url", "image_url": "https://h/i.png"})
        assert part.url == "https://h/i.png"

    @pytest.mark.parametrize(
        ("head", "media_type"),
        [("image/jpeg;base64", "image/jpeg"), ("IMAGE/GIF;charset=x;BASE64", "image/gif"), (";base64", "image/png")],
    )
    def test_image_by_its_bytes(self, head: str, media_type: str) -> None:
        (part,) = parts({"type": "image_url", "image_url": {"url": f"data:{head},{DATA}"}})
        assert (part.url, part.data, part.media_type) == ("", DATA, media_type)

    @pytest.mark.parametrize(
        ("image", "param"),
        [
            (None, "url"), ({}, "url"), ({"url": 1}, "url"), ({"url": ""}, "url"), ("data:image/png", "url"),
            ("data:image/png,AAAA", "url"), ("data:image/png;base64,%", "url"), ("data:image/png;base64,AAA", "url"),
        ],
    )  # fmt: skip
    def test_image_that_is_none(self, image: Any, param: str) -> None:
        message = {"role": "user", "content": [{"type": "image_url", "image_url": image}]}
        assert refused(messages=[message]) == f"messages.0.content.0.image_url.{param}"

    def test_audio(self) -> None:
        (part,) = parts({"type": "input_audio", "input_audio": {"data": DATA, "format": "wav"}})
        assert part == AudioPart(DATA, "wav", "messages.0.content.0")

    @pytest.mark.parametrize(
        ("audio", "param"), [(None, ""), ({}, ""), ({"data": 1}, ""), ({"data": "%", "format": "wav"}, ".data")]
    )
    def test_audio_that_is_none(self, audio: Any, param: str) -> None:
        message = {"role": "user", "content": [{"type": "input_audio", "input_audio": audio}]}
        assert refused(messages=[message]) == f"messages.0.content.0.input_audio{param}"

    @pytest.mark.parametrize(
        ("file", "facts"),
        [
            ({"file_id": "file-1"}, {"file_id": "file-1"}),
            ({"file_id": "https://h/a.pdf"}, {"url": "https://h/a.pdf"}),
            ({"file_data": "https://h/a.pdf", "filename": "a"}, {"url": "https://h/a.pdf", "filename": "a"}),
            ({"file_data": DATA}, {"data": DATA, "media_type": "application/pdf"}),
            ({"file_data": DATA, "format": "text/plain"}, {"data": DATA, "media_type": "text/plain"}),
            ({"file_data": f"data:text/csv;base64,{DATA}"}, {"data": DATA, "media_type": "text/csv"}),
        ],
    )
    def test_file(self, file: dict[str, Any], facts: dict[str, Any]) -> None:
        assert parts({"type": "file", "file": file}) == (FilePart(**facts, place="messages.0.content.0"),)

    @pytest.mark.parametrize(
        ("file", "param"), [(None, ""), ({}, ""), ({"file_id": 1}, ""), ({"file_data": "%"}, ".file_data")]
    )
    def test_file_that_is_none(self, file: Any, param: str) -> None:
        message = {"role": "user", "content": [{"type": "file", "file": file}]}
        assert refused(messages=[message]) == f"messages.0.content.0.file{param}"


class TestThoughts:
    BLOCKS: tuple[dict[str, Any], ...] = (
        {"type": "thinking", "thinking": "Hm", "signature": "s"},
        {"type": "redacted_thinking", "data": "d"},
    )

    def test_beside_the_content(self) -> None:
        (turn,) = turns({"role": "assistant", "content": "a", "thinking_blocks": [*self.BLOCKS, 1, {"type": "other"}]})
        assert turn.thoughts == (Thought("Hm", "s"), Thought(redacted="d"))
        assert turn.text() == "a"

    def test_within_the_content(self) -> None:
        (turn,) = turns({"role": "assistant", "content": [*self.BLOCKS, {"type": "text", "text": "a"}]})
        assert turn.thoughts == (Thought("Hm", "s"), Thought(redacted="d"))
        assert turn.parts == (TextPart("a", "messages.0.content.2"),)


class TestCalls:
    def call(self, **more: Any) -> Call:
        call = {"id": "c", "type": "function", "function": {"name": "f", **more.pop("function", {})}, **more}
        return turns({"role": "assistant", "tool_calls": [call]})[0].calls[0]

    def test_arguments_may_be_missing_or_an_object(self) -> None:
        assert self.call().arguments == ""
        assert self.call(function={"arguments": {"a": 1}}).arguments == '{"a":1}'

    @pytest.mark.parametrize(("arguments", "value"), [("", {}), (" ", {}), ("{}", {}), ('{"a":[1]}', {"a": [1]})])
    def test_arguments_as_an_object(self, arguments: str, value: dict[str, Any]) -> None:
        assert self.call(function={"arguments": arguments}).argument_object() == value

    @pytest.mark.parametrize("arguments", ["[1]", "{", "1", "x", '{"a":' * 100_000])
    def test_arguments_that_are_no_object_are_named(self, arguments: str) -> None:
        with pytest.raises(InvalidRequest) as caught:
            self.call(function={"arguments": arguments}).argument_object()
        assert caught.value.param == "messages.0.tool_calls.0.function.arguments"

    def test_thought_signature_comes_back(self) -> None:
        assert self.call(extra_content={"google": {"thought_signature": "s"}}).signature == "s"

    @pytest.mark.parametrize("extra", [1, {}, {"google": 1}, {"google": {"thought_signature": 1}}])
    def test_other_extras_are_no_signature(self, extra: Any) -> None:
        assert self.call(extra_content=extra).signature == ""


class TestTools:
    def test_are_read_with_what_they_have(self) -> None:
        full = {
            "type": "function",
            "function": {"name": "f", "description": "d", "parameters": {"type": "object"}, "strict": True},
            "cache_control": {"type": "ephemeral"},
        }
        bare = {"type": "function", "function": {"name": "g", "parameters": None}}
        assert prompt(tools=[full, bare], functions=[{"name": "h"}]).tools == (
            Tool("f", "d", {"type": "object"}, True, "tools.0", {"type": "ephemeral"}),
            Tool("g", place="tools.1"),
            Tool("h", place="functions.0"),
        )

    @pytest.mark.parametrize(
        ("fields", "param"),
        [
            ({"tools": {}}, "tools"),
            ({"tools": [1]}, "tools.0"),
            ({"tools": [{"type": "custom"}]}, "tools.0.type"),
            ({"tools": [{"type": "function"}]}, "tools.0.function"),
            ({"tools": [{"type": "function", "function": {"name": ""}}]}, "tools.0.function"),
            (
                {"tools": [{"type": "function", "function": {"name": "f", "parameters": 1}}]},
                "tools.0.function.parameters",
            ),
            ({"functions": [1]}, "functions.0.function"),
        ],
    )
    def test_that_cannot_be_read_are_named(self, fields: dict[str, Any], param: str) -> None:
        assert refused(**fields) == param

    @pytest.mark.parametrize(
        ("fields", "choice"),
        [
            ({}, None),
            ({"tool_choice": None}, None),
            ({"tool_choice": "auto"}, ToolChoice("auto")),
            ({"tool_choice": "none"}, ToolChoice("none")),
            ({"tool_choice": "required"}, ToolChoice("required")),
            ({"tool_choice": {"type": "function", "function": {"name": "f"}}}, ToolChoice("named", "f")),
            ({"function_call": {"name": "f"}}, ToolChoice("named", "f")),
            ({"function_call": "auto"}, ToolChoice("auto")),
        ],
    )
    def test_choice(self, fields: dict[str, Any], choice: ToolChoice | None) -> None:
        assert prompt(**fields).tool_choice == choice

    @pytest.mark.parametrize("value", ["any", 1, {"type": "function"}, {"type": "allowed_tools"}])
    def test_choice_that_is_none(self, value: Any) -> None:
        assert refused(tool_choice=value) == "tool_choice"


class TestSchema:
    @pytest.mark.parametrize(
        ("value", "schema"),
        [
            (None, None),
            ({"type": "text"}, None),
            ({"type": "json_object"}, Schema()),
            (
                {"type": "json_schema", "json_schema": {"name": "n", "strict": True, "schema": {"a": 1}}},
                Schema({"a": 1}, "n", "", True),
            ),
            (
                {"type": "json_schema", "json_schema": {"description": "d", "strict": None, "schema": {}}},
                Schema({}, "", "d"),
            ),
        ],
    )
    def test_is_read(self, value: Any, schema: Schema | None) -> None:
        assert prompt(response_format=value).response == schema

    @pytest.mark.parametrize("value", ["json", {"type": "json_schema"}, {"type": "grammar"}, []])
    def test_that_is_none(self, value: Any) -> None:
        assert refused(response_format=value) == "response_format"


class TestPlainValues:
    def test_are_read(self) -> None:
        asked = prompt(
            temperature=0, top_p=0.5, frequency_penalty=1, presence_penalty=-1.5, seed=7, n=2, user="u", logprobs=True,
            top_logprobs=3, parallel_tool_calls=False, reasoning_effort="low", metadata={"a": "b"}, max_tokens=5,
        )  # fmt: skip
        assert (asked.temperature, asked.top_p, asked.frequency_penalty, asked.presence_penalty) == (0, 0.5, 1, -1.5)
        assert (asked.seed, asked.n, asked.user, asked.logprobs, asked.top_logprobs) == (7, 2, "u", True, 3)
        assert (asked.parallel_tool_calls, asked.reasoning_effort) == (False, "low")
        assert (asked.metadata, asked.max_tokens) == ({"a": "b"}, 5)

    def test_that_were_not_said_are_nothing(self) -> None:
        names = ("temperature", "seed", "n", "stop", "user", "metadata", "max_tokens", "reasoning_effort", "tools")
        assert prompt(**dict.fromkeys(names)) == prompt()
        assert prompt().n == 1

    def test_newer_limit_of_tokens_goes_before_the_older(self) -> None:
        assert prompt(max_tokens=5, max_completion_tokens=6).max_tokens == 6
        assert prompt(max_tokens=5, max_completion_tokens=None).max_tokens == 5

    @pytest.mark.parametrize(("stop", "texts"), [("", ()), ("a", ("a",)), ([], ()), (["a", "b"], ("a", "b"))])
    def test_stop(self, stop: Any, texts: tuple[str, ...]) -> None:
        assert prompt(stop=stop).stop == texts

    @pytest.mark.parametrize(
        ("name", "value"),
        [
            ("temperature", "0"), ("temperature", True), ("top_p", []), ("max_tokens", 1.5), ("max_tokens", 0),
            ("max_completion_tokens", -1), ("n", 0), ("n", True), ("n", "2"), ("seed", 0.5), ("stop", 1), ("stop", [1]),
            ("user", 1), ("metadata", []), ("metadata", {"a": 1}), ("reasoning_effort", "much"),
            ("reasoning_effort", 1), ("parallel_tool_calls", 1), ("top_logprobs", "1"),
        ],
    )  # fmt: skip
    def test_of_another_type_are_named(self, name: str, value: Any) -> None:
        assert refused(**{name: value}) == name


class TestPromptsAndInputs:
    @pytest.mark.parametrize("given_prompt", ["a", ["a"]])
    def test_prompt_of_a_completion_is_one_message(self, given_prompt: Any) -> None:
        (turn,) = prompt("completions", prompt=given_prompt).turns
        assert turn == Turn("user", (TextPart("a", "prompt"),), place="prompt")

    @pytest.mark.parametrize("value", [["a", "b"], [1, 2], [[1], [2]]])
    def test_prompt_of_several_or_of_tokens_is_refused(self, value: Any) -> None:
        assert refused(operation="completions", prompt=value) == "prompt"

    def inputs(self, value: Any) -> tuple[str, ...]:
        return read_inputs(ChatRequest("embeddings", "m", stream=False, include_usage=False, fields={"input": value}))

    def test_inputs_are_one_text_or_several(self) -> None:
        assert self.inputs("a") == ("a",)
        assert self.inputs(["a", "b"]) == ("a", "b")

    @pytest.mark.parametrize("value", ["", [], [""], [1], [[1]], None, {}])
    def test_inputs_that_are_none(self, value: Any) -> None:
        with pytest.raises(InvalidRequest) as caught:
            self.inputs(value)
        assert caught.value.param == "input"


TOP_KEYS = (
    "tools", "functions", "tool_choice", "function_call", "response_format", "stop", "n", "temperature", "metadata", "user",
    "seed", "logprobs",
)  # fmt: skip
MESSAGE_KEYS = (
    "content", "tool_calls", "function_call", "thinking_blocks", "refusal", "name", "tool_call_id", "cache_control", "type",
    "text",
)  # fmt: skip
INNER_KEYS = (
    "type", "text", "image_url", "url", "file", "file_data", "function", "name", "arguments", "id", "data", "input_audio",
)  # fmt: skip


def nested(keys: tuple[str, ...]) -> st.SearchStrategy[Any]:
    inner = st.sampled_from(INNER_KEYS)
    words = st.sampled_from(["text", "image_url", "file", "function", "input_audio", "data:;base64,AA", "thinking"])
    value = st.recursive(
        JSON | words, lambda deep: st.lists(deep, max_size=2) | st.dictionaries(inner, deep, max_size=3), max_leaves=6
    )
    return st.dictionaries(st.sampled_from(keys), value, max_size=4)


@given(nested(TOP_KEYS), nested(MESSAGE_KEYS), st.sampled_from(["user", "assistant", "tool", "system", "function"]))
def test_whatever_a_client_sends_is_read_or_refused(fields: dict[str, Any], message: dict[str, Any], role: str) -> None:
    try:
        asked = prompt(**{**fields, "messages": [{**message, "role": role}]})
    except InvalidRequest:
        return
    assert len(asked.turns) == 1
