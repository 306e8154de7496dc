"""Ollama behind the gateway for a client of OpenAI's: text, tools, thoughts, errors and vectors, streamed and not."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import openai
import pytest
from support.exchanges import DONE, QUESTION, Bench, error_of, in_band_error, said, terminals, text
from support.recordings import recordings, ways_to_cut

from trio_ai_proxy.testing import Script, Step

if TYPE_CHECKING:
    from trio.testing import MockClock

    from trio_ai_proxy.testing import ClientAnswer
    from trio_ai_proxy.upstream.script import Ending

RECORDED = {recording.name: recording.response for recording in recordings("ollama")}
LINES = (("content-type", "application/x-ndjson"),)
JSON = (("content-type", "application/json; charset=utf-8"),)
ASK_USAGE = {**QUESTION, "stream": True, "stream_options": {"include_usage": True}}


def bench(script: Script, **more: Any) -> Bench:
    account = {"kind": "ollama", "base_url": "http://upstream.invalid", "api_key": None}
    return Bench(script, provider=account, target="qwen3:8b", server={"validate_streams": True}, **more)


def lines(*pieces: bytes, pause: float = 0.0, ending: Ending = "close") -> Script:
    return Script(headers=LINES, steps=lambda: iter([Step(pause, piece) for piece in pieces]), ending=ending)


def at_once(answer: Any, *, status: int = 200) -> Script:
    body = answer if isinstance(answer, bytes) else json.dumps(answer).encode()
    return Script(status=status, headers=JSON, steps=lambda: iter([Step(0.0, body)]))


def chunks(answer: ClientAnswer) -> list[Any]:
    """The stream as OpenAI's SDK types it."""
    found = [one.payload for one in said(answer) if isinstance(one.payload, dict) and "choices" in one.payload]
    return [openai.types.chat.ChatCompletionChunk.model_validate(payload) for payload in found]


def sent(gateway: Bench) -> dict[str, Any]:
    [exchange] = gateway.transport.exchanges
    return json.loads(exchange.request.content)


class TestStreamed:
    async def test_text_and_usage(self, autojump_clock: MockClock) -> None:
        async with bench(lines(RECORDED["chat"])) as gateway:
            answer = await gateway.ask(json=ASK_USAGE)
            assert text(answer) == "The sky."
            assert terminals(answer) == ["[DONE]"]
            assert answer.body.endswith(DONE)
            *_, last, usage = chunks(answer)
            assert last.choices[0].finish_reason == "stop"
            assert (usage.usage.prompt_tokens, usage.usage.completion_tokens) == (26, 3)
            assert {(chunk.model, chunk.created) for chunk in chunks(answer)} == {("gpt-4o", 1772600767)}
            [exchange] = gateway.transport.exchanges
            assert exchange.request.url == "http://upstream.invalid/api/chat"
            assert sent(gateway) == {"model": "qwen3:8b", "messages": QUESTION["messages"], "stream": True}
            assert gateway.log("illegal stream") == []
        record = gateway.record
        assert (record.prompt_tokens, record.completion_tokens, record.usage_source) == (26, 3, "provider")
        assert record.outcome == "completed"

    async def test_every_piece_leaves_when_its_line_is_whole(self, autojump_clock: MockClock) -> None:
        first, *rest = RECORDED["chat"].splitlines(keepends=True)
        async with bench(lines(first[:40], first[40:], *rest, pause=1.0)) as gateway:
            answer = await gateway.ask_stream()
            assert sorted({at for at, _ in answer.chunks}) == [2.0, 3.0, 4.0, 5.0]

    @pytest.mark.parametrize("way", range(4))
    async def test_it_is_the_same_however_it_is_cut(self, autojump_clock: MockClock, way: int) -> None:
        pieces = list(ways_to_cut(RECORDED["tools_parallel"]))[way]
        async with bench(lines(*pieces)) as gateway:
            answer = await gateway.ask_stream()
            calls = [call for chunk in chunks(answer) for call in chunk.choices[0].delta.tool_calls or ()]
            assert [(call.index, call.id, call.function.name) for call in calls] == [
                (0, "call_1", "now"), (1, "call_2", "deep"), (2, "call_3", "none"),
            ]  # fmt: skip
            assert json.loads(calls[1].function.arguments)["z"]["b"][0] == 1
            assert chunks(answer)[-1].choices[0].finish_reason == "tool_calls"
            assert [chunk.choices[0].delta.model_extra for chunk in chunks(answer)][1] == {"reasoning_content": "Both."}
            assert gateway.log("illegal stream") == []

    async def test_completion(self, autojump_clock: MockClock) -> None:
        async with bench(lines(RECORDED["text"])) as gateway:
            answer = await gateway.client.post(
                "/v1/completions", json={"model": "gpt-4o", "prompt": "What", "stream": True, "suffix": "."}
            )
            pieces = [one.payload["choices"][0]["text"] for one in said(answer) if one.payload != "[DONE]"]
            assert "".join(pieces) == "That's"
            assert terminals(answer) == ["[DONE]"]
            assert sent(gateway) == {"model": "qwen3:8b", "prompt": "What", "suffix": ".", "stream": True}

    async def test_error_after_text_is_told_in_band(self, autojump_clock: MockClock) -> None:
        async with bench(lines(RECORDED["chat_error"])) as gateway:
            _, error = in_band_error(await gateway.ask_stream())
            assert error["message"] == "an error was encountered while running the model"
        assert gateway.record.outcome == "upstream_error"

    async def test_error_before_text_has_a_status(self, autojump_clock: MockClock) -> None:
        async with bench(lines(RECORDED["chat_error_first"])) as gateway:
            answer = await gateway.ask_stream()
            assert (answer.status, error_of(answer)["message"]) == (502, "model runner has unexpectedly stopped")

    @pytest.mark.parametrize("name", ["chat_cut", "chat_cut_within_a_line"])
    async def test_cut_is_no_end(self, autojump_clock: MockClock, name: str) -> None:
        async with bench(lines(RECORDED[name])) as gateway:
            assert in_band_error(await gateway.ask_stream())[1]["code"] == "upstream_truncated"
        assert gateway.record.outcome == "upstream_truncated"

    async def test_silence_is_not_ended_by_half_a_line(self, autojump_clock: MockClock) -> None:
        first, *_ = RECORDED["chat"].splitlines(keepends=True)
        async with bench(lines(first, *[b" "] * 100, pause=1.0), timeouts={"idle": 10.0}) as gateway:
            at, error = in_band_error(await gateway.ask_stream())
            assert (at, error["code"]) == (11.0, "timeout_idle")


class TestAtOnce:
    async def test_message(self, autojump_clock: MockClock) -> None:
        whole = {
            "model": "qwen3:8b",
            "created_at": "2026-03-04T05:06:07.5Z",
            "message": {
                "role": "assistant", "content": "Let me see.", "thinking": "Hm.",
                "tool_calls": [{"function": {"name": "get_weather", "arguments": {"city": "Oslo"}}}],
            },
            "done_reason": "stop", "done": True, "prompt_eval_count": 20, "eval_count": 9,
        }  # fmt: skip
        async with bench(at_once(whole)) as gateway:
            answer = await gateway.ask()
            read = openai.types.chat.ChatCompletion.model_validate(answer.json())
            [choice] = read.choices
            assert (choice.message.content, choice.finish_reason) == ("Let me see.", "tool_calls")
            assert choice.message.model_extra == {"reasoning_content": "Hm."}
            [call] = choice.message.tool_calls or []
            assert call.id.startswith("call_")
            assert (call.type, call.function.name) == ("function", "get_weather")
            assert json.loads(call.function.arguments) == {"city": "Oslo"}
            assert (read.model, read.created) == ("gpt-4o", 1772600767)
            assert read.usage is not None
            assert (read.usage.prompt_tokens, read.usage.completion_tokens) == (20, 9)
            assert sent(gateway)["stream"] is False

    async def test_status_and_words_of_an_error_are_kept(self, autojump_clock: MockClock) -> None:
        async with bench(at_once({"error": "model 'x' not found"}, status=404)) as gateway:
            for ask in (gateway.ask, gateway.ask_stream):
                assert error_of(await ask())["message"] == "model 'x' not found"

    async def test_vectors(self, autojump_clock: MockClock) -> None:
        whole = {"model": "qwen3:8b", "embeddings": [[0.5, 1.0], [2.0, -1.0]], "prompt_eval_count": 8}
        async with bench(at_once(whole)) as gateway:
            answer = await gateway.client.post("/v1/embeddings", json={"model": "gpt-4o", "input": ["a", "b"]})
            read = openai.types.CreateEmbeddingResponse.model_validate(answer.json())
            assert [one.embedding for one in read.data] == [[0.5, 1.0], [2.0, -1.0]]
            assert read.usage.prompt_tokens == 8
            assert sent(gateway) == {"model": "qwen3:8b", "input": ["a", "b"]}

    async def test_what_was_left_out_is_named(self, autojump_clock: MockClock) -> None:
        async with bench(lines(RECORDED["chat"])) as gateway:
            answer = await gateway.ask(json={**QUESTION, "stream": True, "user": "u", "store": False})
            assert answer.header("x-llm-dropped") == "user, store"
