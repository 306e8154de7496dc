"""Whatever a property says: the request that comes out of a template has the template's messages and no others."""

from __future__ import annotations

from typing import Any

import msgspec
from hypothesis import given
from hypothesis import strategies as st
from support.entering import asked, entered

from trio_ai_proxy.guards.template import Template
from trio_ai_proxy.settings import MessageSettings, TemplateSettings

PIECES = st.sampled_from(
    ['"', "\\", "{{", "}}", "{{a}}", "{{b}}", "{template://t}", "}", "]", ",", "\n", "\x00", "\u2028", "😀"]
)
VALUES = st.one_of(st.text(), st.lists(PIECES).map("".join))
NAMES = st.sampled_from(["a", "b", "messages", "role", "content", "model"])
CONTENTS = st.lists(st.one_of(VALUES, NAMES.map("{{%s}}".__mod__)), max_size=6).map("".join)
MESSAGES = st.builds(MessageSettings, st.sampled_from(["system", "user", "assistant"]), CONTENTS)


@given(
    st.lists(MESSAGES, min_size=1, max_size=4),
    st.fixed_dictionaries(dict.fromkeys(["a", "b", "messages", "role", "content", "model"], VALUES)),
)
def test_no_value_changes_the_structure(messages: list[MessageSettings], values: dict[str, str]) -> None:
    guard = Template("g", {"t": TemplateSettings(messages=tuple(messages))})
    request = asked("{template://t}", properties=values, tools=[{"type": "function"}])
    # As the provider reads it.
    sent = msgspec.json.decode(msgspec.json.encode(entered(guard, request).fields))
    assert list(sent) == ["model", "messages", "tools"]
    assert sent["model"] == "m"
    assert sent["tools"] == [{"type": "function"}]
    assert [list(message) for message in sent["messages"]] == [["role", "content"]] * len(messages)
    assert [message["role"] for message in sent["messages"]] == [message.role for message in messages]


@given(VALUES, VALUES)
def test_every_value_arrives_letter_by_letter(first: str, second: str) -> None:
    guard = Template("g", {"t": TemplateSettings(messages=(MessageSettings("user", "<{{a}}|{{ b }}|{{a}}>"),))})
    fields: Any = msgspec.json.decode(
        msgspec.json.encode(entered(guard, asked("{template://t}", properties={"a": first, "b": second})).fields)
    )
    assert fields["messages"] == [{"role": "user", "content": f"<{first}|{second}|{first}>"}]


@given(VALUES)
def test_a_prompt_is_one_text(value: str) -> None:
    guard = Template("g", {"t": TemplateSettings(prompt="({{a}})")})
    request = entered(guard, asked("{template://t}", "completions", properties={"a": value}))
    assert msgspec.json.decode(msgspec.json.encode(request.fields)) == {"model": "m", "prompt": f"({value})"}
