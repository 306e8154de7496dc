"""Another wire on each side, beside what the recordings tell: what is dropped and refused, a provider that never streams, one
that always does, and embeddings.
"""

from __future__ import annotations

import base64
import json
import struct
from typing import TYPE_CHECKING, Any, ClassVar

import pytest
import trio
import trio.testing
from support.exchanges import QUESTION, Bench, error_of, said, stream, terminals, text

from trio_ai_proxy.testing import Script, Step

if TYPE_CHECKING:
    from trio.testing import MockClock

ON = {"validate_streams": True}
LINE = {"model": "llama3", "created_at": "2026-01-01T00:00:00Z", "done": False}
LAST = {**LINE, "message": {"role": "assistant", "content": ""}, "done": True, "done_reason": "stop"}
COUNTS = {"prompt_eval_count": 5, "eval_count": 2}


def lines(*documents: dict[str, Any], pause: float = 0.0, **more: Any) -> Script:
    steps = [Step(pause, json.dumps(document).encode() + b"\n") for document in documents]
    headers = (("content-type", "application/x-ndjson"),)
    return Script(headers=headers, steps=lambda: iter(steps), ending="close", **more)


def words(content: str) -> dict[str, Any]:
    return {**LINE, "message": {"role": "assistant", "content": content}}


def document(value: Any, *, status: int = 200, pause: float = 0.0, head_pause: float = 0.0) -> Script:
    headers = (("content-type", "application/json"),)
    body = json.dumps(value).encode()
    return Script(status=status, headers=headers, steps=lambda: iter([Step(pause, body)]), head_pause=head_pause)


def ollama(script: Script, **more: Any) -> Bench:
    return Bench(script, provider={"kind": "ollama", "base_url": "http://upstream.invalid"}, server=ON, **more)


def never(script: Script, **more: Any) -> Bench:
    """A provider that does not stream."""
    return Bench(script, provider={"kind": "llama2", "base_url": "http://upstream.invalid"}, server=ON, **more)


class TestDropped:
    async def test_field_is_named_in_the_head_of_a_stream(self, autojump_clock: MockClock) -> None:
        async with ollama(lines(words("Hi"), LAST)) as bench:
            answer = await bench.ask_stream(json={**QUESTION, "stream": True, "user": "u", "store": True})
            assert answer.header("x-llm-dropped") == "user, store"
            assert text(answer) == "Hi"

    async def test_field_is_named_in_the_head_of_an_answer(self, autojump_clock: MockClock) -> None:
        async with ollama(document(words("Hi") | LAST | {"message": {"role": "assistant", "content": "Hi"}})) as bench:
            answer = await bench.ask(json={**QUESTION, "user": "u"})
            assert (answer.status, answer.header("x-llm-dropped")) == (200, "user")

    async def test_nothing_dropped_is_nothing_named(self, autojump_clock: MockClock) -> None:
        async with ollama(lines(words("Hi"), LAST)) as bench:
            answer = await bench.ask_stream()
            assert "x-llm-dropped" not in [name for name, _ in answer.headers]

    async def test_field_that_matters_is_refused_before_anything_is_sent(self, autojump_clock: MockClock) -> None:
        async with ollama(lines(words("Hi"), LAST)) as bench:
            answer = await bench.ask(json={**QUESTION, "n": 3})
            assert answer.status == 400
            assert error_of(answer)["param"] == "n"
            assert bench.transport.exchanges == []
            assert bench.record.outcome == "refused"

    @pytest.mark.parametrize(("rule", "status"), [("drop", 200), ("error", 400)])
    async def test_model_may_decide_otherwise(self, rule: str, status: int, autojump_clock: MockClock) -> None:
        fields = {**QUESTION, "n": 3} if rule == "drop" else {**QUESTION, "user": "u"}
        async with ollama(document({**LAST, "message": words("Hi")["message"]}), model={"unsupported": rule}) as bench:
            answer = await bench.ask(json=fields)
            assert answer.status == status
            assert answer.header("x-llm-dropped") == ("n" if rule == "drop" else None)


class TestUsage:
    ASK: ClassVar[dict[str, Any]] = {**QUESTION, "stream": True, "stream_options": {"include_usage": True}}

    async def test_providers_own_is_told_in_one_last_chunk(self, autojump_clock: MockClock) -> None:
        async with ollama(lines(words("Hi"), LAST | COUNTS)) as bench:
            *_, last, done = said(await bench.ask_stream(json=self.ASK))
            assert done.payload == "[DONE]"
            assert last.payload["choices"] == []
            assert last.payload["usage"]["total_tokens"] == 7
            assert bench.record.usage_source == "provider"

    async def test_our_count_stands_in_where_it_says_none(self, autojump_clock: MockClock) -> None:
        async with ollama(lines(words("Hi"), LAST)) as bench:
            *_, last, _ = said(await bench.ask_stream(json=self.ASK))
            assert last.payload["usage"]["completion_tokens"] >= 1
            assert bench.record.usage_source in ("counted", "estimated")

    async def test_nobody_who_did_not_ask_is_told(self, autojump_clock: MockClock) -> None:
        async with ollama(lines(words("Hi"), LAST | COUNTS)) as bench:
            frames = said(await bench.ask_stream())
            assert not [one for one in frames if isinstance(one.payload, dict) and one.payload.get("usage")]


class TestNeverStreams:
    ANSWER: ClassVar[dict[str, Any]] = {"data": [{"generated_text": "Hello there"}]}

    async def test_client_gets_an_honest_stream_of_one_piece(self, autojump_clock: MockClock) -> None:
        async with never(document(self.ANSWER, head_pause=3)) as bench:
            answer = await bench.ask_stream()
            assert answer.header("content-type") == "text/event-stream; charset=utf-8"
            assert (text(answer), terminals(answer)) == ("Hello there", ["[DONE]"])
            assert {one.at for one in said(answer)} == {3.0}
            assert bench.log("illegal stream") == []
            assert bench.record.outcome == "completed"
            assert bench.record.ttft_ms == 3000

    async def test_error_before_it_has_its_true_status(self, autojump_clock: MockClock) -> None:
        async with never(document({"error": "busy"}, status=429)) as bench:
            answer = await bench.ask_stream()
            assert (answer.status, error_of(answer)["message"]) == (429, "busy")

    async def test_first_token_does_not_bound_what_comes_when_it_is_whole(self, autojump_clock: MockClock) -> None:
        async with never(document(self.ANSWER, head_pause=50), timeouts={"first_token": 10}) as bench:
            assert text(await bench.ask_stream()) == "Hello there"

    async def test_total_does(self, autojump_clock: MockClock) -> None:
        async with never(document(self.ANSWER, head_pause=50), timeouts={"total": 20}) as bench:
            answer = await bench.ask_stream()
            assert answer.status == 504
            assert bench.record.outcome == "timeout_total"

    async def test_client_that_leaves_releases_it_at_once(self, autojump_clock: MockClock) -> None:
        async with never(document(self.ANSWER, head_pause=50)) as bench:
            await bench.ask_stream(leave_after=5)
            await trio.testing.wait_all_tasks_blocked()
            assert bench.record.outcome == "client_gone"
            assert bench.released_at == 5.0


class TestCuts:
    async def test_stream_that_is_cut_is_an_error_in_band(self, autojump_clock: MockClock) -> None:
        async with ollama(lines(words("Hi"))) as bench:
            answer = await bench.ask_stream()
            assert len(terminals(answer)) == 1
            assert b"[DONE]" not in answer.body
            assert bench.record.outcome == "upstream_truncated"

    async def test_silence_is_bounded(self, autojump_clock: MockClock) -> None:
        async with ollama(lines(words("Hi"), LAST, pause=30), timeouts={"idle": 10}) as bench:
            answer = await bench.ask_stream()
            assert said(answer)[-1].at == 40.0
            assert bench.record.outcome == "timeout_idle"

    async def test_client_that_leaves_releases_it_at_once(self, autojump_clock: MockClock) -> None:
        async with ollama(lines(*[words("Hi")] * 50, pause=1)) as bench:
            await bench.ask_stream(leave_after=5.5)
            await trio.testing.wait_all_tasks_blocked()
            assert bench.released_at == 5.5
            assert bench.record.outcome == "client_gone"


class TestEmbeddings:
    PACKED = base64.b64encode(struct.pack("<2f", 0.5, -1.0)).decode()
    ASK: ClassVar[dict[str, Any]] = {"model": "gpt-4o", "input": ["the sea", "the river"]}

    async def ask(self, bench: Bench, **fields: Any) -> Any:
        return await bench.client.post("/v1/embeddings", json={**self.ASK, **fields})

    async def test_of_openais_wire_pass_as_they_came(self, autojump_clock: MockClock) -> None:
        given = {
            "object": "list",
            "data": [{"object": "embedding", "index": at, "embedding": self.PACKED} for at in range(2)],
            "model": "gpt-4o", "usage": {"prompt_tokens": 2, "total_tokens": 2}, "extra": 1,
        }  # fmt: skip
        async with Bench(document(given), server=ON) as bench:
            answer = await self.ask(bench, encoding_format="base64")
            assert (answer.status, answer.json()) == (200, given)
            [exchange] = bench.transport.exchanges
            assert exchange.request.url.path == "/v1/embeddings"
            assert json.loads(exchange.request.content) == {**self.ASK, "encoding_format": "base64"}
            record = bench.record
            assert (record.dialect, record.prompt_tokens, record.completion_tokens) == ("openai_embeddings", 2, 0)
            assert record.usage_source == "provider"

    @pytest.mark.parametrize(("form", "vector"), [("base64", PACKED), ("float", [0.5, -1.0]), (None, [0.5, -1.0])])
    async def test_of_another_wire_come_in_the_form_that_was_asked_for(
        self, form: str | None, vector: Any, autojump_clock: MockClock
    ) -> None:
        given = {"model": "llama3", "embeddings": [[0.5, -1.0]] * 2, "prompt_eval_count": 4}
        async with ollama(document(given)) as bench:
            answer = await self.ask(bench, **({"encoding_format": form} if form else {}))
            assert [one["embedding"] for one in answer.json()["data"]] == [vector, vector]
            assert answer.json()["usage"] == {"prompt_tokens": 4, "total_tokens": 4}
            assert bench.record.outcome == "completed"

    async def test_tokens_are_counted_where_nobody_says(self, autojump_clock: MockClock) -> None:
        given = {"object": "list", "data": [{"index": 0, "embedding": [1.0]}], "model": "m"}
        async with Bench(document(given)) as bench:
            assert (await self.ask(bench)).status == 200
            assert bench.record.prompt_tokens >= 2
            assert bench.record.usage_source == "estimated"

    @pytest.mark.parametrize("rule", ["allow", "deny", "always"])
    async def test_no_rule_makes_a_stream_of_them(self, rule: str, autojump_clock: MockClock) -> None:
        given = {"object": "list", "data": [{"index": 0, "embedding": [1.0]}], "model": "gpt-4o"}
        async with Bench(document(given), model={"response_streaming": rule}) as bench:
            answer = await self.ask(bench)
            assert (answer.status, answer.json()) == (200, given)

    async def test_what_is_no_embedding_is_the_providers_fault(self, autojump_clock: MockClock) -> None:
        for wrong in ({"data": []}, {"object": "list"}, {"data": [{"embedding": {"a": 1}}]}, {"data": 1}):
            async with Bench(document(wrong)) as bench:
                answer = await self.ask(bench)
                assert answer.status == 502
                assert bench.record.outcome == "upstream_error"

    async def test_stream_of_them_is_refused(self, autojump_clock: MockClock) -> None:
        async with Bench(document({})) as bench:
            answer = await self.ask(bench, stream=True)
            assert (answer.status, error_of(answer)["param"]) == (400, "stream")


async def test_provider_that_only_streams_is_gathered_with_the_clients_name_for_the_model(
    autojump_clock: MockClock,
) -> None:
    script = stream(
        b'data: {"choices":[{"index":0,"delta":{"content":"Hi"},"finish_reason":"stop"}]}\n\n', b"data: [DONE]\n\n"
    )
    async with Bench(script, provider={"kind": "demo", "base_url": "demo://x/v1"}, target="their-name") as bench:
        whole = (await bench.ask()).json()
        assert whole["model"] == "gpt-4o"
        assert whole["id"] == f"chatcmpl-{bench.record.request_id}"
        assert whole["created"] > 0
        assert whole["choices"][0]["message"]["content"] == "Hi"
