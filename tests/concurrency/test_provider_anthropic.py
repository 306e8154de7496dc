"""Claude behind the gateway for a client of OpenAI's: text, tools, thoughts and errors, streamed and not."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import openai
import pytest
from support.exchanges import DONE, QUESTION, Bench, error_of, in_band_error, said, stream, terminals, text
from support.ranks import encoding
from support.recordings import recordings

from trio_ai_proxy.testing import Script, Step

if TYPE_CHECKING:
    from trio.testing import MockClock

    from trio_ai_proxy.testing import ClientAnswer

RECORDED = {recording.name: recording.response for recording in recordings("anthropic")}
ASK_USAGE = {**QUESTION, "stream": True, "stream_options": {"include_usage": True}}


def bench(script: Script, **more: Any) -> Bench:
    return Bench(
        script,
        provider={"kind": "anthropic", "base_url": "http://upstream.invalid"},
        target="claude-opus-5",
        **more,
    )


def at_once(answer: dict[str, Any], *, status: int = 200) -> Script:
    steps = [Step(0.0, json.dumps(answer).encode())]
    headers = (("content-type", "application/json"), ("retry-after", "3"))
    return Script(status=status, headers=headers, steps=lambda: iter(steps))


MESSAGE = {
    "id": "msg_01",
    "type": "message",
    "role": "assistant",
    "model": "claude-opus-5",
    "content": [
        {"type": "thinking", "thinking": "hm", "signature": "sig"},
        {"type": "text", "text": "Let me see."},
        {"type": "tool_use", "id": "toolu_01", "name": "get_weather", "input": {"location": "Oslo"}},
    ],
    "stop_reason": "tool_use",
    "usage": {"input_tokens": 20, "cache_read_input_tokens": 5, "output_tokens": 9},
}


def spoken(words: str) -> bytes:
    delta = {"type": "text_delta", "text": words}
    event = {"type": "content_block_delta", "index": 0, "delta": delta}
    return b"event: content_block_delta\ndata: %b\n\n" % json.dumps(event).encode()


def chunks(answer: ClientAnswer) -> list[Any]:
    """The stream as OpenAI's SDK types it."""
    found = [one.payload for one in said(answer) if isinstance(one.payload, dict) and "choices" in one.payload]
    return [openai.types.chat.ChatCompletionChunk.model_validate(payload) for payload in found]


class TestStreamed:
    async def test_text_and_usage(self, autojump_clock: MockClock) -> None:
        async with bench(stream(RECORDED["text"])) as gateway:
            answer = await gateway.ask(json=ASK_USAGE)
            assert text(answer) == "Hello!"
            assert terminals(answer) == ["[DONE]"]
            assert answer.body.endswith(DONE)
            *_, last, usage = chunks(answer)
            assert last.choices[0].finish_reason == "stop"
            assert (usage.usage.prompt_tokens, usage.usage.completion_tokens) == (25, 15)
            assert {chunk.model for chunk in chunks(answer)} == {"gpt-4o"}
            [exchange] = gateway.transport.exchanges
            sent = json.loads(exchange.request.content)
            assert exchange.request.url == "http://upstream.invalid/v1/messages"
            assert (sent["model"], sent["stream"], sent["max_tokens"]) == ("claude-opus-5", True, 4096)
        record = gateway.record
        assert (record.prompt_tokens, record.completion_tokens, record.usage_source) == (25, 15, "provider")
        assert record.outcome == "completed"

    async def test_tools(self, autojump_clock: MockClock) -> None:
        async with bench(stream(RECORDED["tool_calls_parallel"])) as gateway:
            answer = await gateway.ask_stream()
            calls: dict[int, tuple[str, str, str]] = {}
            for chunk in chunks(answer):
                for call in chunk.choices[0].delta.tool_calls or ():
                    known = calls.get(call.index, ("", "", ""))
                    calls[call.index] = (
                        known[0] + (call.id or ""),
                        known[1] + (call.function.name or ""),
                        known[2] + (call.function.arguments or ""),
                    )
            assert [(name, json.loads(arguments)) for _, name, arguments in calls.values()] == [
                ("now", {}),
                ("search", {"where": {"all": [1, {"of": "é"}], "none": None}}),
                ("ask", {"whole": [True, "at once"]}),
                ("nameless", {}),
            ]
            assert len({call_id for call_id, _, _ in calls.values()}) == 4
            assert chunks(answer)[-1].choices[0].finish_reason == "tool_calls"

    @pytest.mark.parametrize(("name", "code"), [("error_overloaded", "upstream_status"),
                                                ("cut_between_frames", "upstream_truncated"),
                                                ("cut_before_the_end", "upstream_truncated")])  # fmt: skip
    async def test_failure_in_the_middle_is_told_and_not_done(
        self, name: str, code: str, autojump_clock: MockClock
    ) -> None:
        async with bench(stream(RECORDED[name])) as gateway:
            answer = await gateway.ask_stream()
            assert text(answer).startswith("Hel")
            assert in_band_error(answer)[1]["code"] == code

    async def test_failure_before_the_first_token_has_its_status(self, autojump_clock: MockClock) -> None:
        async with bench(stream(RECORDED["error_first"])) as gateway:
            answer = await gateway.ask_stream()
            assert answer.status == 429
            assert error_of(answer)["message"] == "Too many"

    async def test_client_that_leaves_has_the_providers_prompt_and_our_count_of_the_answer(
        self, autojump_clock: MockClock
    ) -> None:
        ranks = encoding("o200k_base")
        whole = RECORDED["usage_cumulative"]  # 10 tokens, 1,000 read from the cache and 100 written to it
        begun = whole[: whole.index(b"event: content_block_delta")]
        script = stream(begun, *((1.0, piece) for piece in (spoken("The wide"), spoken(" blue"), spoken(" sea"))))
        async with bench(script) as gateway:
            gateway.gateway.tokenizers.install("o200k_base", ranks)
            answer = await gateway.ask_stream(leave_after=2.5)
            assert (text(answer), terminals(answer), gateway.released_at) == ("The wide blue", [], 2.5)
        record = gateway.record
        assert (record.outcome, record.usage_source) == ("client_gone", "counted")
        assert (record.prompt_tokens, record.cached_tokens, record.cache_write_tokens) == (1110, 1000, 100)
        assert record.completion_tokens == len(ranks.encode_ordinary("The wide blue")) > 0
        assert record.total_tokens == record.prompt_tokens + record.completion_tokens

    async def test_stream_that_breaks_off_has_the_providers_prompt(self, autojump_clock: MockClock) -> None:
        whole = RECORDED["usage_cumulative"]
        broken = whole[: whole.index(b"event: content_block_stop")]
        async with bench(stream(broken)) as gateway:
            assert in_band_error(await gateway.ask(json=ASK_USAGE))[1]["code"] == "upstream_truncated"
        record = gateway.record
        assert (record.prompt_tokens, record.cached_tokens, record.cache_write_tokens) == (1110, 1000, 100)
        assert (record.completion_tokens > 0, record.usage_source) == (True, "estimated")

    async def test_ping_is_a_sign_of_life(self, autojump_clock: MockClock) -> None:
        ping = b'event: ping\ndata: {"type": "ping"}\n\n'
        whole = RECORDED["text"]
        middle = whole.index(b"event: content_block_stop")
        script = stream(whole[:middle], *((20.0, ping) for _ in range(5)), (20.0, whole[middle:]))
        async with bench(script, timeouts={"idle": 30}) as gateway:
            assert terminals(await gateway.ask_stream()) == ["[DONE]"]


class TestAtOnce:
    async def test_thoughts_text_and_tools(self, autojump_clock: MockClock) -> None:
        async with bench(at_once(MESSAGE)) as gateway:
            answer = await gateway.ask(json={**QUESTION, "reasoning_effort": "low", "seed": 1})
            assert answer.status == 200
            assert answer.header("x-llm-dropped") == "seed"
            whole = openai.types.chat.ChatCompletion.model_validate(answer.json())
            message = answer.json()["choices"][0]["message"]
            assert message["content"] == "Let me see."
            assert message["reasoning_content"] == "hm"
            assert message["thinking_blocks"] == [{"type": "thinking", "thinking": "hm", "signature": "sig"}]
            [call] = whole.choices[0].message.tool_calls or []
            assert call.type == "function"
            assert (call.id, json.loads(call.function.arguments)) == ("toolu_01", {"location": "Oslo"})
            assert whole.choices[0].finish_reason == "tool_calls"
            assert whole.usage is not None
            assert (whole.usage.prompt_tokens, whole.usage.completion_tokens) == (25, 9)
            assert whole.usage.prompt_tokens_details is not None
            assert whole.usage.prompt_tokens_details.cached_tokens == 5

    async def test_an_answer_in_json(self, autojump_clock: MockClock) -> None:
        block = {"type": "tool_use", "id": "t", "name": "json_answer", "input": {"sea": "blue"}}
        async with bench(at_once({**MESSAGE, "content": [block]})) as gateway:
            answer = await gateway.ask(json={**QUESTION, "response_format": {"type": "json_object"}})
            [choice] = answer.json()["choices"]
            assert json.loads(choice["message"]["content"]) == {"sea": "blue"}
            assert (choice["finish_reason"], choice["message"].get("tool_calls")) == ("stop", None)

    async def test_an_error(self, autojump_clock: MockClock) -> None:
        error = {"type": "error", "error": {"type": "overloaded_error", "message": "Overloaded"}, "request_id": "r"}
        async with bench(at_once(error, status=529)) as gateway:
            answer = await gateway.ask()
            assert answer.status == 529
            assert answer.header("retry-after") == "3"
            assert error_of(answer)["type"] == "overloaded_error"

    async def test_what_it_has_no_word_for_is_refused_before_it_is_asked(self, autojump_clock: MockClock) -> None:
        async with bench(at_once(MESSAGE)) as gateway:
            answer = await gateway.ask(json={**QUESTION, "n": 2})
            assert answer.status == 400
            assert answer.json()["error"]["param"] == "n"
            assert gateway.transport.exchanges == []

    async def test_a_completion(self, autojump_clock: MockClock) -> None:
        async with bench(
            at_once({**MESSAGE, "content": [{"type": "text", "text": " upon"}], "stop_reason": "end_turn"})
        ) as gateway:
            answer = await gateway.client.post("/v1/completions", json={"model": "gpt-4o", "prompt": "Once"})
            assert answer.json()["choices"][0]["text"] == " upon"

    async def test_names_that_no_header_can_hold_are_told_as_far_as_one_can(self, autojump_clock: MockClock) -> None:
        async with bench(at_once(MESSAGE), model={"unsupported": "drop"}) as gateway:
            answer = await gateway.ask(json={**QUESTION, "a\r\nx-evil: é": 1, "n" * 5000: 1})
            assert answer.status == 200
            dropped = answer.header("x-llm-dropped") or ""
            assert dropped.startswith("a??x-evil: ?, nnn")
            assert len(dropped) == 1000
            assert answer.header("x-evil") is None
