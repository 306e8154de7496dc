"""Templates through the whole gateway: the provider gets what the template says, and a reference never reaches it."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from support.exchanges import CHAT, Bench, error_of

from trio_ai_proxy.settings import GuardSettings, MessageSettings, TemplateSettings
from trio_ai_proxy.testing import openai_answer

if TYPE_CHECKING:
    from trio.testing import MockClock

SEA = openai_answer("sea")
PROMPTS = GuardSettings(
    name="prompts",
    kind="template",
    templates={
        "ask": TemplateSettings(messages=(MessageSettings("user", "What is the {{thing}}?"),)),
        "go-on": TemplateSettings(prompt="The {{thing}} is"),
    },
)
STYLE = GuardSettings(name="style", kind="decorate", prepend=(MessageSettings("system", "Be brief."),))
REFERENCE: dict[str, Any] = {"model": "gpt-4o", "messages": "{template://ask}", "properties": {"thing": "sea"}}


async def test_provider_gets_the_filled_template_and_no_properties(autojump_clock: MockClock) -> None:
    async with Bench(SEA, guards=(PROMPTS, STYLE)) as bench:
        answer = await bench.ask(json=REFERENCE)
        assert answer.status == 200
        [exchange] = bench.transport.exchanges
        sent = json.loads(exchange.request.content)
        assert sent["messages"] == [
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": "What is the sea?"},
        ]
        assert "properties" not in sent


async def test_completion_gets_a_prompt(autojump_clock: MockClock) -> None:
    async with Bench(SEA, guards=(PROMPTS,)) as bench:
        fields = {"model": "gpt-4o", "prompt": "{template://go-on}", "properties": {"thing": "sea"}}
        await bench.client.post("/v1/completions", json=fields)
        [exchange] = bench.transport.exchanges
        assert json.loads(exchange.request.content)["prompt"] == "The sea is"


async def test_missing_property_is_named_and_nobody_asked(autojump_clock: MockClock) -> None:
    async with Bench(SEA, guards=(PROMPTS,)) as bench:
        answer = await bench.ask(json={**REFERENCE, "properties": {"things": "sea"}})
        assert answer.status == 400
        error = error_of(answer)
        assert (error["code"], error["param"]) == ("missing_value", "properties.thing")
        assert bench.transport.exchanges == []


async def test_reference_is_no_list_of_messages_where_there_are_no_templates(autojump_clock: MockClock) -> None:
    for guards in ((), (STYLE,)):
        async with Bench(SEA, guards=guards) as bench:
            answer = await bench.client.post(CHAT, json=REFERENCE)
            assert answer.status == 400
            assert error_of(answer)["param"] == "messages"
            assert bench.transport.exchanges == []
