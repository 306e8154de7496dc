from __future__ import annotations

import copy
import json
from dataclasses import replace
from typing import Any

import pytest

from trio_ai_proxy.chat.events import Ended, Event, Finished, TextDelta, ToolCallDelta
from trio_ai_proxy.chat.fold import Fold
from trio_ai_proxy.chat.request import ChatRequest, Operation
from trio_ai_proxy.errors import GuardBlocked
from trio_ai_proxy.guards.patterns import NAMED, own_pattern
from trio_ai_proxy.guards.redact import Redact, RedactedRequest

PATTERNS = [*NAMED["email"], *NAMED["card"], *NAMED["api_key"], own_pattern("employee", "E[0-9]{6}")]
CARD = "4111 1111 1111 1111"
KEY = "sk-ant-api03-" + "aB3_" * 40  # longer than the window


def guard(**options: Any) -> Redact:
    return Redact("pii", patterns=PATTERNS, **options)


def asked(operation: Operation = "chat", **fields: Any) -> ChatRequest:
    return ChatRequest(operation, "m", stream=True, include_usage=False, fields=fields)


def said(content: Any, **more: Any) -> ChatRequest:
    return asked(messages=[{"role": "user", "content": content, **more}])


def content_of(request: ChatRequest) -> Any:
    return request.fields["messages"][0]["content"]


def answered(redact: Redact, request: ChatRequest, *texts: str) -> str:
    stage = redact.filter(request)
    events: list[Event] = [*map(TextDelta, texts), Finished("stop"), Ended()]
    fold = Fold()
    left = [one for event in events for one in stage.feed([event])]
    for event in left + stage.close():
        fold.add(event)
    return fold.answer().choices[0].text


class TestRequest:
    def test_the_same_object_goes_on_where_nothing_is_found(self) -> None:
        request = said("Hello", tools=[{"function": {"description": "d"}}])
        for redact in (guard(), guard(reversible=True), guard(action="block", replace=None)):
            assert redact.redact(request) is request

    async def test_entering_is_redacting(self) -> None:
        entered = await guard().enter(said("a@b.cd"), None)  # type: ignore[arg-type]
        assert content_of(entered) == "[email]"

    def test_all_text_is_looked_into_and_nothing_is_written_to(self) -> None:
        request = asked(
            messages=[
                {"role": "system", "content": "from a@b.cd"},
                {"role": "user", "name": "bob", "content": [{"type": "text", "text": f"my {CARD}"}, "and E123456"]},
                {
                    "role": "assistant",
                    "content": None,
                    "refusal": "not a@b.cd",
                    "reasoning_content": "E123456?",
                    "thinking_blocks": [
                        {"type": "thinking", "thinking": "E123456!", "signature": "s"},
                        {"type": "thinking", "thinking": "ok", "signature": "t"},
                        {"type": "redacted_thinking", "data": "a@b.cd"},
                    ],
                    "tool_calls": [
                        {
                            "id": "1",
                            "type": "function",
                            "function": {"name": "f", "arguments": '{"to":"a\\u0040b.cd","n":4111111111111111}'},
                        },
                        {"id": "2", "type": "custom", "custom": {"name": "g", "input": "E123456"}},
                    ],
                },
                {"role": "tool", "tool_call_id": "1", "content": '{"x":"\\nE123456","n":4111111111111111}'},
                {
                    "role": "tool",
                    "tool_call_id": "2",
                    "content": [{"type": "text", "text": "[E123456"}, {"type": "text", "text": "]"}],
                },
                {"role": "assistant", "function_call": {"name": "f", "arguments": "E123456"}},
            ],
            tools=[
                {
                    "type": "function",
                    "function": {
                        "name": "f",
                        "description": "to a@b.cd",
                        "parameters": {
                            "properties": {"title": {"type": "string", "enum": ["a@b.cd", 1], "description": "E123456"}}
                        },
                    },
                }
            ],
            user="a@b.cd",
            metadata={"who": "a@b.cd"},
            prediction={"type": "content", "content": "E123456"},
            logit_bias={"4111111111111111": 1},
        )
        before = copy.deepcopy(request.fields)
        fields = guard().redact(request).fields
        assert request.fields == before
        assert (
            fields
            == asked(
                messages=[
                    {"role": "system", "content": "from [email]"},
                    {
                        "role": "user",
                        "name": "bob",
                        "content": [{"type": "text", "text": "my [card]"}, "and [employee]"],
                    },
                    {
                        "role": "assistant",
                        "content": None,
                        "refusal": "not [email]",
                        "reasoning_content": "[employee]?",
                        "thinking_blocks": [
                            {"type": "thinking", "thinking": "[employee]!"},
                            {"type": "thinking", "thinking": "ok", "signature": "t"},
                            {"type": "redacted_thinking", "data": "a@b.cd"},
                        ],
                        "tool_calls": [
                            {
                                "id": "1",
                                "type": "function",
                                "function": {"name": "f", "arguments": '{"to":"[email]","n":"[card]"}'},
                            },
                            {"id": "2", "type": "custom", "custom": {"name": "g", "input": "[employee]"}},
                        ],
                    },
                    {"role": "tool", "tool_call_id": "1", "content": '{"x":"\\n[employee]","n":"[card]"}'},
                    {
                        "role": "tool",
                        "tool_call_id": "2",
                        "content": [{"type": "text", "text": "[[employee]"}, {"type": "text", "text": "]"}],
                    },
                    {"role": "assistant", "function_call": {"name": "f", "arguments": "[employee]"}},
                ],
                tools=[
                    {
                        "type": "function",
                        "function": {
                            "name": "f",
                            "description": "to [email]",
                            "parameters": {
                                "properties": {
                                    "title": {"type": "string", "enum": ["[email]", 1], "description": "[employee]"}
                                }
                            },
                        },
                    }
                ],
                user="[email]",
                metadata={"who": "[email]"},
                prediction={"type": "content", "content": "[employee]"},
                logit_bias={"4111111111111111": 1},
            ).fields
        )
        assert fields["messages"][2]["tool_calls"][0]["function"]["name"] == "f"

    def test_other_operations(self) -> None:
        assert guard().redact(asked("completions", prompt="a@b.cd", suffix="E123456")).fields == {
            "prompt": "[email]",
            "suffix": "[employee]",
        }
        assert guard().redact(asked("completions", prompt=["E12", "3456"])).fields == {"prompt": ["E12", "3456"]}
        assert guard().redact(asked("embeddings", input=["x", "a@b.cd"])).fields == {"input": ["x", "[email]"]}
        assert guard(replace="").redact(asked("embeddings", input=["x", "a@b.cd"])).fields == {"input": ["x", ""]}
        assert guard().redact(asked("moderations", input="a@b.cd")).fields == {"input": "[email]"}

    @pytest.mark.parametrize("prompt", [[1, 2], [[1, 2]]])
    def test_token_numbers_are_refused_because_nobody_can_read_them(self, prompt: Any) -> None:
        with pytest.raises(GuardBlocked, match="token numbers") as refused:
            guard().redact(asked("completions", prompt=prompt))
        assert (refused.value.param, refused.value.code) == ("prompt", "unreadable_prompt")

    def test_a_match_may_cross_parts_of_a_content_at_each_of_its_places(self) -> None:
        for cut in range(1, len(CARD)):
            parts = [{"type": "text", "text": "my " + CARD[:cut]}, {"type": "image_url", "image_url": {"url": "u"}},
                     {"type": "text", "text": CARD[cut:] + " ok"}]  # fmt: skip
            assert content_of(guard().redact(said(parts))) == [
                {"type": "text", "text": "my [card]"},
                {"type": "image_url", "image_url": {"url": "u"}},
                {"type": "text", "text": " ok"},
            ]
        parts = [{"type": "text", "text": character, "n": 1} for character in f"<{CARD}>"]
        assert content_of(guard().redact(said(parts))) == [
            {"type": "text", "text": "<", "n": 1},
            {"type": "text", "text": "[card]", "n": 1},
            {"type": "text", "text": ">", "n": 1},
        ]

    def test_each_part_is_looked_into_alone_as_well(self) -> None:
        parts = ["4111111111111111", "2 apples, a@b.cd", "mary"]
        assert content_of(guard().redact(said(parts))) == ["[card]", "2 apples, [email]", "mary"]

    def test_a_content_keeps_at_least_one_part(self) -> None:
        parts = [{"type": "text", "text": "a@b."}, {"type": "text", "text": "cd"}]
        assert content_of(guard(replace="").redact(said(parts))) == [{"type": "text", "text": ""}]
        assert content_of(guard(replace="").redact(said(["E123456"]))) == [""]
        assert content_of(guard(replace="").redact(said("E123456"))) == ""

    def test_block_refuses_and_names_the_place_and_not_the_secret(self) -> None:
        request = asked(messages=[{"role": "user", "content": "hello"}, {"role": "user", "content": f"my {CARD}"}])
        with pytest.raises(GuardBlocked) as refused:
            guard(action="block", replace=None).redact(request)
        error = refused.value
        assert (error.guard, error.param, error.status) == ("pii", "messages.1.content", 400)
        assert "`card`" in error.message
        assert "4111" not in error.message

    def test_a_match_that_is_too_long_follows_on_overflow(self) -> None:
        options: dict[str, Any] = {"patterns": [own_pattern("long", "<[^>]*>")], "window": 8}
        with pytest.raises(GuardBlocked, match="longer than 8 characters"):
            Redact("pii", **options).redact(said("a <1234567890> b"))
        assert content_of(Redact("pii", **options).redact(said("a <12345> b"))) == "a [long] b"
        with pytest.raises(GuardBlocked, match="longer than 8 characters"):
            Redact("pii", **options).redact(said(["a <1234", "567890> b"]))
        request = said("a <1234567890> b")
        assert Redact("pii", **options, on_overflow="release").redact(request) is request


class TestReversible:
    def test_values_have_placeholders_and_come_back(self) -> None:
        redact = guard(reversible=True)
        request = redact.redact(said(f"a@b.cd, x@y.zz, a@b.cd, {CARD}, {KEY}."))
        assert content_of(request) == "[email_1], [email_2], [email_1], [card_1], [api_key_1]."
        assert isinstance(request, RedactedRequest)
        assert request.operation == "chat"
        assert CARD not in repr(replace(request, fields={}))
        text = "Dear [email_2], [card_1] of [email_1]: [api_key_1]. [email_3] [card] [email_1"
        back = f"Dear x@y.zz, {CARD} of a@b.cd: {KEY}. [email_3] [card] [email_1"
        assert answered(redact, request, text) == back
        assert answered(redact, request, *text) == back
        for cut in range(len(text)):
            assert answered(redact, request, text[:cut], text[cut:]) == back

    def test_what_the_model_says_by_itself_is_redacted_still(self) -> None:
        redact = guard(reversible=True)
        request = redact.redact(said("a@b.cd"))
        stage = redact.filter(request)
        assert stage.feed([TextDelta("[email_1] or q@q.qq, E123456. ")]) == [
            TextDelta("a@b.cd or [email], [employee]. ")
        ]
        assert stage.hits == 2

    def test_values_come_back_in_arguments_as_json(self) -> None:
        redact = Redact("pii", patterns=[own_pattern("quoted", '"[^"]*"\n')], reversible=True)
        request = redact.redact(said('say "hi"\n'))
        stage = redact.filter(request)
        out = stage.feed([ToolCallDelta(0, arguments='{"a":"[quo\\u0074ed_1]"}')])
        assert [json.loads(event.arguments) for event in out if isinstance(event, ToolCallDelta)] == [{"a": '"hi"\n'}]

    def test_a_placeholder_of_the_client_is_not_one_of_ours(self) -> None:
        redact = guard(reversible=True)
        request = redact.redact(said("What is [email_1]? And a@b.cd?"))
        assert content_of(request) == "What is [email_1]? And [email_2]?"
        assert answered(redact, request, "[email_1] [email_2]") == "[email_1] a@b.cd"

    def test_two_guards_and_copies_of_the_request(self) -> None:
        one = Redact("one", patterns=NAMED["email"], reversible=True)
        two = Redact("two", patterns=NAMED["card"], reversible=True, replace="<{name}>")
        first = one.redact(said(f"a@b.cd {CARD}"))
        last = replace(two.redact(first), fields={"messages": []})
        assert answered(one, first, "[email_1] <card_1>") == "a@b.cd <card_1>"
        assert answered(one, last, "[email_1] <card_1>") == "a@b.cd <card_1>"
        assert answered(two, last, "[email_1] <card_1>") == f"[email_1] {CARD}"

    def test_answers_may_be_left_alone_but_for_what_is_put_back(self) -> None:
        redact = guard(reversible=True, redacts_answers=False)
        request = redact.redact(said("a@b.cd"))
        assert answered(redact, request, "[email_1] q@q.qq") == "a@b.cd q@q.qq"
        assert answered(redact, said("x"), "[email_1] q@q.qq") == "[email_1] q@q.qq"

    def test_one_request_knows_nothing_of_another(self) -> None:
        redact = guard(reversible=True)
        redact.redact(said("a@b.cd"))
        other = redact.redact(said("x@y.zz"))
        assert answered(redact, other, "[email_1]") == "x@y.zz"
        assert answered(redact, said("hello"), "[email_1]") == "[email_1]"

    def test_it_needs_a_place_for_the_name(self) -> None:
        with pytest.raises(ValueError, match=r"`replace` with `\{name\}` in it"):
            guard(reversible=True, replace="***")
        assert content_of(guard(replace="***").redact(said("a@b.cd"))) == "***"


def test_answers_that_were_asked_for_in_json_are_read_as_json() -> None:
    for wanted in ({"type": "json_object"}, {"type": "json_schema", "json_schema": {}}):
        request = asked(messages=[], response_format=wanted)
        assert (
            answered(guard(), request, '{"a":"\\nE123456","c":4111111111111111}')
            == '{"a":"\\n[employee]","c":"[card]"}'
        )
    assert answered(guard(), asked(messages=[]), '{"c":4111111111111111}') == '{"c":[card]}'


def test_blocked_answers_are_blocked() -> None:
    stage = guard(action="block", replace=None).filter(said("x"))
    assert stage.feed([TextDelta("Hello E123456 and")]) == [TextDelta("Hello ")]
    assert stage.blocked is not None
    assert "`employee`" in stage.blocked.message
