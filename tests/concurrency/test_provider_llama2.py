"""A provider that has no streams, behind the gateway: a client that wants one gets an honest one, made of the whole answer;
until that is there nothing is committed, and everything that ends an exchange ends this one."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import openai
import pytest
import trio
from support.exchanges import DONE, QUESTION, Bench, error_of, in_band_error, said, terminals, text

from trio_ai_proxy.testing import Script, Step

if TYPE_CHECKING:
    from trio.testing import MockClock

    from trio_ai_proxy.testing import ClientAnswer
    from trio_ai_proxy.upstream.script import Ending

JSON = (("content-type", "application/json"),)
SEA = {"data": [{"generated_text": "The sea is wide."}], "usage": {"prompt_tokens": 12, "completion_tokens": 5}}
ASK_USAGE = {**QUESTION, "stream": True, "stream_options": {"include_usage": True}}


def bench(script: Script, **more: Any) -> Bench:
    account = {"kind": "llama2", "base_url": "http://upstream.invalid/generate", **more.pop("provider", {})}
    return Bench(script, provider=account, target="llama-2", server={"validate_streams": True}, **more)


def document(
    answer: Any, *, status: int = 200, head_pause: float = 1.0, pause: float = 0.0, size: int = 10_000, ending: Ending = "close"
) -> Script:  # fmt: skip
    body = answer if isinstance(answer, bytes) else json.dumps(answer).encode()
    steps = [Step(pause, body[start : start + size]) for start in range(0, len(body), size)]
    headers = (*JSON, ("retry-after", "3"))
    return Script(status=status, headers=headers, steps=lambda: iter(steps), head_pause=head_pause, ending=ending)


def chunks(answer: ClientAnswer) -> list[Any]:
    found = [one.payload for one in said(answer) if isinstance(one.payload, dict) and "choices" in one.payload]
    return [openai.types.chat.ChatCompletionChunk.model_validate(payload) for payload in found]


class TestStreamMadeOfAnAnswer:
    async def test_is_a_whole_one(self, autojump_clock: MockClock) -> None:
        async with bench(document(SEA, size=7, pause=0.125)) as gateway:
            answer = await gateway.ask(json=ASK_USAGE)
            assert answer.status == 200
            assert answer.header("content-type") == "text/event-stream; charset=utf-8"
            assert text(answer) == "The sea is wide."
            assert terminals(answer) == ["[DONE]"]
            assert answer.body.endswith(DONE)
            role, content, end, usage = chunks(answer)
            assert role.choices[0].delta.role == "assistant"
            assert content.choices[0].finish_reason is None
            assert end.choices[0].finish_reason == "stop"
            assert (usage.choices, usage.usage.prompt_tokens, usage.usage.completion_tokens) == ([], 12, 5)
            assert len({(chunk.id, chunk.created, chunk.model) for chunk in chunks(answer)}) == 1
            assert role.model == "gpt-4o"
            assert role.id.startswith("chatcmpl-")
            assert role.created > 0
            [exchange] = gateway.transport.exchanges
            assert exchange.request.url == "http://upstream.invalid/generate"
            assert json.loads(exchange.request.content) == {
                "inputs": "<s>[INST] What is the sea? [/INST]", "parameters": {"return_full_text": False},
            }  # fmt: skip
            assert dict(exchange.request.headers)["accept"] == "application/json"
            assert gateway.log("illegal stream") == []
        record = gateway.record
        assert (record.outcome, record.phase, record.stream) == ("completed", "done", True)
        assert (record.prompt_tokens, record.completion_tokens, record.usage_source) == (12, 5, "provider")

    async def test_leaves_in_one_piece_and_not_before_it_is_whole(self, autojump_clock: MockClock) -> None:
        async with bench(document(SEA, size=30, pause=1.0)) as gateway:
            answer = await gateway.ask_stream()
            assert answer.started_at == gateway.released_at == answer.chunks[0][0]
            assert len({at for at, _ in answer.chunks}) == 1

    async def test_has_no_usage_chunk_that_was_not_asked_for_and_counts_what_is_not_told(
        self, autojump_clock: MockClock
    ) -> None:
        async with bench(document({"generated_text": "The sea is wide."})) as gateway:
            answer = await gateway.ask_stream()
            assert all(chunk.usage is None for chunk in chunks(answer))
        assert gateway.record.usage_source == "estimated"
        assert gateway.record.completion_tokens > 0
        async with bench(document({"generated_text": "The sea is wide."})) as gateway:
            answer = await gateway.ask(json=ASK_USAGE)
            assert chunks(answer)[-1].usage.completion_tokens == gateway.record.completion_tokens

    async def test_of_nothing_said_is_whole_too(self, autojump_clock: MockClock) -> None:
        async with bench(document({"generated_text": ""})) as gateway:
            answer = await gateway.ask_stream()
            assert (answer.status, text(answer), terminals(answer)) == (200, "", ["[DONE]"])
            assert gateway.log("illegal stream") == []

    async def test_of_a_completion(self, autojump_clock: MockClock) -> None:
        async with bench(document({"generated_text": " wide."})) as gateway:
            answer = await gateway.client.post(
                "/v1/completions", json={"model": "gpt-4o", "prompt": "The sea is", "stream": True}
            )
            assert [one.payload["choices"][0]["text"] for one in said(answer)[:-1]] == [" wide.", ""]
            assert terminals(answer) == ["[DONE]"]
            assert gateway.log("illegal stream") == []

    async def test_is_made_for_who_must_have_one(self, autojump_clock: MockClock) -> None:
        async with bench(document(SEA), model={"response_streaming": "always"}) as gateway:
            assert text(await gateway.ask()) == "The sea is wide."


class TestFailure:
    @pytest.mark.parametrize(("status", "told"), [(422, 422), (429, 429), (500, 502), (503, 503), (401, 502)])
    async def test_has_its_true_status_and_words(self, autojump_clock: MockClock, status: int, told: int) -> None:
        script = document({"error": "No.", "error_type": "overloaded"}, status=status)
        async with bench(script) as gateway:
            answer = await gateway.ask_stream()
            same = await gateway.ask()
        assert (answer.status, error_of(answer)) == (same.status, error_of(same))
        assert error_of(answer)["message"] == "No."
        assert answer.status == told
        assert answer.header("retry-after") == "3"
        assert {record.outcome for record in gateway.records} == {"upstream_error"}

    @pytest.mark.parametrize("body", [b"", b"{}", b"<html>", b'{"error":"out of memory"}', b'{"generated_text":1}'])
    async def test_inside_a_good_status_is_no_stream(self, autojump_clock: MockClock, body: bytes) -> None:
        async with bench(document(body)) as gateway:
            answer = await gateway.ask_stream()
            assert answer.status == 502
            assert error_of(answer)
        assert gateway.record.outcome == "upstream_error"

    async def test_of_the_connection_is_no_stream(self, autojump_clock: MockClock) -> None:
        async with bench(Script(refuse=True)) as gateway:
            assert (await gateway.ask_stream()).status == 502

    async def test_of_a_cut_answer_is_no_stream(self, autojump_clock: MockClock) -> None:
        async with bench(document(b'{"generated_text":"The se', ending="cut")) as gateway:
            answer = await gateway.ask_stream()
            assert (answer.status, error_of(answer)["code"]) == (502, "upstream_truncated")
        assert gateway.record.outcome == "upstream_truncated"

    async def test_of_a_whole_answer_that_stops_in_the_middle_is_no_stream(self, autojump_clock: MockClock) -> None:
        async with bench(document(b'{"generated_text":"The se')) as gateway:
            assert (await gateway.ask_stream()).status == 502


class TestDeadline:
    async def test_first_token_is_none_because_the_whole_is_waited_for(self, autojump_clock: MockClock) -> None:
        async with bench(document(SEA, head_pause=500), timeouts={"first_token": 10.0}) as gateway:
            answer = await gateway.ask_stream()
            assert (text(answer), answer.started_at) == ("The sea is wide.", 500.0)

    async def test_total_ends_the_wait_for_the_head(self, autojump_clock: MockClock) -> None:
        async with bench(document(SEA, head_pause=500), timeouts={"total": 100.0}) as gateway:
            answer = await gateway.ask_stream()
            assert (answer.status, error_of(answer)["code"], answer.started_at) == (504, "timeout_total", 100.0)
            assert gateway.released_at == 100.0
        assert gateway.record.outcome == "timeout_total"

    async def test_idle_ends_the_wait_for_the_rest(self, autojump_clock: MockClock) -> None:
        async with bench(document(b'{"generated', ending="stall"), timeouts={"idle": 10.0}) as gateway:
            answer = await gateway.ask_stream()
            assert (answer.status, error_of(answer)["code"], answer.started_at) == (504, "timeout_idle", 11.0)
        assert gateway.record.outcome == "timeout_idle"

    async def test_total_ends_an_answer_that_drips(self, autojump_clock: MockClock) -> None:
        script = document(b" " * 1000, size=1, pause=5.0)
        async with bench(script, timeouts={"idle": 10.0, "total": 100.0}) as gateway:
            answer = await gateway.ask_stream()
            assert (answer.status, error_of(answer)["code"]) == (504, "timeout_total")

    async def test_comments_may_be_sent_while_it_thinks_and_then_failures_are_in_band(
        self, autojump_clock: MockClock
    ) -> None:
        async with bench(document(SEA, head_pause=25), model={"keep_alive": 10.0}) as gateway:
            answer = await gateway.ask_stream()
            assert [one.at for one in said(answer)][:2] == [10.0, 20.0]
            assert text(answer) == "The sea is wide."
            assert terminals(answer) == ["[DONE]"]
        async with bench(document({"error": "No."}, status=500, head_pause=25), model={"keep_alive": 10.0}) as gateway:
            assert in_band_error(await gateway.ask_stream())[1]["message"] == "No."


class TestDeparture:
    @pytest.mark.parametrize("as_stream", [True, False])
    async def test_while_it_thinks_releases_it_at_once(self, autojump_clock: MockClock, as_stream: bool) -> None:
        async with bench(document(SEA, head_pause=500)) as gateway:
            answer = await (gateway.ask_stream if as_stream else gateway.ask)(leave_after=7)
            assert (answer.status, answer.returned_at, gateway.released_at) == (None, 7.0, 7.0)
        assert (gateway.record.outcome, gateway.record.phase) == ("client_gone", "first_token")

    async def test_while_the_rest_is_on_its_way_releases_it_at_once(self, autojump_clock: MockClock) -> None:
        async with bench(document(SEA, size=10, pause=1.0)) as gateway:
            answer = await gateway.ask_stream(leave_after=4)
            assert (answer.status, gateway.released_at) == (None, 4.0)
        assert gateway.record.outcome == "client_gone"

    async def test_of_an_operators_choice_ends_it(self, autojump_clock: MockClock) -> None:
        async with bench(document(SEA, head_pause=500)) as gateway:
            answers: list[ClientAnswer] = []

            async def ask() -> None:
                answers.append(await gateway.ask_stream())

            async with trio.open_nursery() as nursery:
                nursery.start_soon(ask)
                await trio.sleep(5)
                [row] = await gateway.rows()
                await gateway.cancel(row["id"])
            assert answers[0].status == 503
            assert gateway.released_at == 5.0


async def test_whole_answer_is_one_of_openais(autojump_clock: MockClock) -> None:
    async with bench(document(SEA)) as gateway:
        answer = await gateway.ask()
        read = openai.types.chat.ChatCompletion.model_validate(answer.json())
        assert (read.choices[0].message.content, read.choices[0].finish_reason) == ("The sea is wide.", "stop")
        assert read.model == "gpt-4o"
        assert read.usage is not None
        assert read.usage.total_tokens == 17


async def test_what_it_cannot_say_is_refused_before_anything_is_sent(autojump_clock: MockClock) -> None:
    tools = [{"type": "function", "function": {"name": "f"}}]
    async with bench(document(SEA)) as gateway:
        answer = await gateway.ask(json={**QUESTION, "stream": True, "tools": tools})
        assert (answer.status, error_of(answer)["param"]) == (400, "tools")
        assert gateway.transport.exchanges == []
    assert gateway.record.outcome == "refused"


async def test_format_of_ollama_streams(autojump_clock: MockClock) -> None:
    said_lines = b'{"message":{"content":"Hi"},"done":false}\n{"done":true,"done_reason":"stop"}\n'
    script = Script(headers=(("content-type", "application/x-ndjson"),), steps=lambda: iter([Step(0.0, said_lines)]))
    account = {"format": "ollama", "base_url": "http://upstream.invalid"}
    async with bench(script, provider=account) as gateway:
        assert text(await gateway.ask_stream()) == "Hi"
        assert json.loads(gateway.transport.exchanges[0].request.content)["stream"] is True
