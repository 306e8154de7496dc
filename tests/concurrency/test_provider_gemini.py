"""Gemini behind the gateway for a client of OpenAI's: text, tools and errors, streamed and not."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import openai
import pytest
from support.exchanges import QUESTION, Bench, error_of, in_band_error, said, stream, terminals, text
from support.recordings import recordings

from trio_ai_proxy.testing import Script, Step

if TYPE_CHECKING:
    from trio.testing import MockClock

    from trio_ai_proxy.testing import ClientAnswer

RECORDED = {recording.name: recording.response for recording in recordings("gemini")}
ASK_USAGE = {**QUESTION, "stream": True, "stream_options": {"include_usage": True}}


def bench(script: Script, **more: Any) -> Bench:
    return Bench(
        script, provider={"kind": "gemini", "base_url": "http://upstream.invalid"}, target="gemini-2.5-flash", **more
    )


def document(value: Any, *, status: int = 200) -> Script:
    return Script(
        status=status,
        headers=(("content-type", "application/json; charset=UTF-8"),),
        steps=lambda: iter([Step(0.0, value if isinstance(value, bytes) else json.dumps(value).encode())]),
    )


def chunks(answer: ClientAnswer) -> list[Any]:
    """The stream as OpenAI's SDK types it."""
    found = [one.payload for one in said(answer) if isinstance(one.payload, dict) and "choices" in one.payload]
    return [openai.types.chat.ChatCompletionChunk.model_validate(payload) for payload in found]


def completion(answer: ClientAnswer) -> Any:
    return openai.types.chat.ChatCompletion.model_validate(answer.json())


CALL = {
    "candidates": [{
        "content": {"parts": [{"text": "See."}, {"functionCall": {"name": "f", "args": {"a": [1]}}, "thoughtSignature": "c2ln"}]},
        "finishReason": "STOP",
    }],
    "usageMetadata": {"promptTokenCount": 5, "candidatesTokenCount": 3, "thoughtsTokenCount": 4, "totalTokenCount": 12},
    "modelVersion": "gemini-2.5-flash", "responseId": "r1",
}  # fmt: skip


class TestStreamed:
    @pytest.mark.parametrize("form", ["text", "text_as_array"])
    async def test_text_and_usage_in_either_form(self, autojump_clock: MockClock, form: str) -> None:
        script = stream(RECORDED[form]) if form == "text" else document(RECORDED[form])
        async with bench(script) as gateway:
            answer = await gateway.ask(json=ASK_USAGE)
            assert text(answer) == "The sea is wide."
            assert terminals(answer) == ["[DONE]"]
            *_, last, usage = chunks(answer)
            assert last.choices[0].finish_reason == "stop"
            assert (usage.usage.prompt_tokens, usage.usage.completion_tokens) == (4, 5)
            assert {chunk.model for chunk in chunks(answer)} == {"gpt-4o"}
        assert (gateway.record.usage_source, gateway.record.outcome) == ("provider", "completed")

    async def test_tools(self, autojump_clock: MockClock) -> None:
        async with bench(stream(RECORDED["tools_parallel"])) as gateway:
            answer = await gateway.ask_stream()
            calls = [call for chunk in chunks(answer) for call in chunk.choices[0].delta.tool_calls or ()]
            assert [(call.index, call.id, call.function.name) for call in calls] == [
                (0, "fc1", "weather"), (1, "fc2", "weather"), (2, "fc3", "clock"),
            ]  # fmt: skip
            assert json.loads(calls[0].function.arguments)["city"] == "Łódź"
            assert calls[0].model_extra == {"extra_content": {"google": {"thought_signature": "c2lnLWE="}}}
            assert chunks(answer)[-1].choices[0].finish_reason == "tool_calls"

    async def test_error_before_the_first_token_has_its_status(self, autojump_clock: MockClock) -> None:
        async with bench(
            document([{"error": {"code": 429, "message": "Slow.", "status": "RESOURCE_EXHAUSTED"}}], status=429)
        ) as gateway:
            answer = await gateway.ask_stream()
            assert (answer.status, error_of(answer)["type"]) == (429, "RESOURCE_EXHAUSTED")

    async def test_error_inside_the_stream_is_in_band(self, autojump_clock: MockClock) -> None:
        async with bench(stream(RECORDED["error_in_the_stream"])) as gateway:
            _, error = in_band_error(await gateway.ask_stream())
            assert error["message"].startswith("The model is overloaded")

    async def test_stream_that_ends_without_a_finish_is_no_success(self, autojump_clock: MockClock) -> None:
        async with bench(stream(RECORDED["ends_without_finish"])) as gateway:
            _, error = in_band_error(await gateway.ask_stream())
            assert error["code"] == "upstream_truncated"
        assert gateway.record.completion_tokens == 2

    async def test_prompt_that_was_blocked_is_filtered(self, autojump_clock: MockClock) -> None:
        async with bench(stream(RECORDED["prompt_blocked"])) as gateway:
            answer = await gateway.ask_stream()
            assert chunks(answer)[-1].choices[0].finish_reason == "content_filter"
            assert terminals(answer) == ["[DONE]"]


class TestAtOnce:
    async def test_text_tools_and_usage(self, autojump_clock: MockClock) -> None:
        async with bench(document(CALL)) as gateway:
            whole = completion(await gateway.ask())
            (choice,) = whole.choices
            assert (choice.message.content, choice.finish_reason) == ("See.", "tool_calls")
            assert json.loads(choice.message.tool_calls[0].function.arguments) == {"a": [1]}
            assert (whole.usage.prompt_tokens, whole.usage.completion_tokens, whole.usage.total_tokens) == (5, 7, 12)
            assert whole.usage.completion_tokens_details.reasoning_tokens == 4

    async def test_what_was_answered_goes_back_as_it_came(self, autojump_clock: MockClock) -> None:
        async with bench(document(CALL)) as gateway:
            message = (await gateway.ask()).json()["choices"][0]["message"]
            result = {"role": "tool", "tool_call_id": message["tool_calls"][0]["id"], "content": "7"}
            await gateway.ask(json={**QUESTION, "messages": [*QUESTION["messages"], message, result]})
            sent = json.loads(gateway.transport.exchanges[-1].request.content)
            assert sent["contents"][1]["parts"][1]["thoughtSignature"] == "c2ln"
            assert sent["contents"][2]["parts"][0]["functionResponse"]["name"] == "f"

    async def test_error(self, autojump_clock: MockClock) -> None:
        body = {"error": {"code": 404, "message": "No such model.", "status": "NOT_FOUND"}}
        async with bench(document(body, status=404)) as gateway:
            answer = await gateway.ask()
            assert (answer.status, error_of(answer)["message"]) == (404, "No such model.")

    async def test_embeddings(self, autojump_clock: MockClock) -> None:
        async with bench(document({"embeddings": [{"values": [0.5, -1.5]}]})) as gateway:
            answer = await gateway.client.post("/v1/embeddings", json={"model": "gpt-4o", "input": "a"})
            assert answer.json()["data"][0]["embedding"] == [0.5, -1.5]

    async def test_fields_that_were_left_out_are_named(self, autojump_clock: MockClock) -> None:
        async with bench(document(CALL)) as gateway:
            answer = await gateway.ask(json={**QUESTION, "verbosity": "low"})
            assert answer.header("x-llm-dropped") == "verbosity"
