"""An answer in one piece: the provider's own bytes, or what its stream said."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
from support.exchanges import DONE, QUESTION, ROLE, STOP, Bench, delta, error_of, frame, stream, times, usage
from support.ranks import encoding

import trio_ai_proxy.relay.whole
from trio_ai_proxy.testing import Script, Step, openai_answer

if TYPE_CHECKING:
    from trio.testing import MockClock

ODD = (
    b'{ "id":"1", "model" : "gpt-4o","x":1e2,\n"choices":[{"index":0,"message":'
    b'{"role":"assistant","content":"\\u00e9t\xc3\xa9"},"finish_reason":"stop"}],'
    b'"usage":{"prompt_tokens":3,"completion_tokens":4,"total_tokens":7}}\n'
)


def document(*chunks: bytes) -> Script:
    return Script(
        headers=(("content-type", "application/json"),), steps=lambda: iter([Step(0.5, chunk) for chunk in chunks])
    )


class TestPassThrough:
    @pytest.mark.parametrize("size", [1, 7, 1000])
    async def test_bytes_are_the_provider_s(self, autojump_clock: MockClock, size: int) -> None:
        pieces = [ODD[start : start + size] for start in range(0, len(ODD), size)]
        async with Bench(document(*pieces)) as bench:
            answer = await bench.ask()
            assert (answer.status, answer.body) == (200, ODD)
            assert answer.header("content-type") == "application/json"
            assert answer.header("content-length") == str(len(ODD))
            assert answer.header("x-llm-provider") == "scripted"
        record = bench.record
        assert (record.outcome, record.phase, record.usage_source) == ("completed", "done", "provider")
        assert (record.prompt_tokens, record.completion_tokens) == (3, 4)
        assert (record.stream, record.bytes_out, record.chunks_out) == (False, len(ODD), 1)

    async def test_alias_is_the_only_thing_that_changes(self, autojump_clock: MockClock) -> None:
        async with Bench(document(ODD.replace(b'"gpt-4o"', b'"real"')), target="real") as bench:
            answer = await bench.ask()
            assert answer.body == ODD

    async def test_tokens_are_counted_where_the_provider_is_silent(self, autojump_clock: MockClock) -> None:
        ranks = encoding("o200k_base")
        async with Bench(openai_answer("The sea is wide.")) as bench:
            bench.gateway.tokenizers.install("o200k_base", ranks)
            await bench.ask()
        assert (bench.record.usage_source, bench.record.completion_tokens) == (
            "counted", len(ranks.encode_ordinary("The sea is wide.")),
        )  # fmt: skip

    async def test_error_inside_a_good_status_is_one(self, autojump_clock: MockClock) -> None:
        async with Bench(document(b'{"error":{"message":"No.","type":"t","code":"c"}}')) as bench:
            answer = await bench.ask()
            assert (answer.status, error_of(answer)["code"]) == (502, "c")
        assert bench.record.outcome == "upstream_error"

    @pytest.mark.parametrize("body", [b"", b"[]", b"null", b"{}", b'{"choices":[]}', b"\xff", b'"text"'])
    async def test_what_is_no_answer_is_a_502(self, autojump_clock: MockClock, body: bytes) -> None:
        async with Bench(document(body)) as bench:
            answer = await bench.ask()
            assert (answer.status, error_of(answer)["code"]) == (502, "upstream_protocol_error")
        assert bench.record.outcome == "upstream_error"

    async def test_too_long_an_answer_is_refused(
        self, autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(trio_ai_proxy.relay.whole, "MAX_ANSWER_BYTES", 1000)
        async with Bench(document(*[b" " * 100] * 50)) as bench:
            answer = await bench.ask()
            assert (answer.status, error_of(answer)["code"]) == (502, "upstream_protocol_error")
            assert bench.released_at == 5.5


class TestFolded:
    async def test_says_what_the_stream_said(self, autojump_clock: MockClock) -> None:
        call = {"index": 0, "id": "call_1", "type": "function", "function": {"name": "find", "arguments": '{"q":'}}
        script = stream(
            delta(ROLE), delta({"reasoning_content": "Hm. "}), (1, delta("The")), delta(" sea"),
            delta({"tool_calls": [call]}), delta({"tool_calls": [{"index": 0, "function": {"arguments": '"sea"}'}}]}),
            delta({}, finish="tool_calls"), usage(3, 4), DONE,
        )  # fmt: skip
        async with Bench(script, provider={"kind": "demo"}) as bench:
            answer = await bench.ask()
            assert answer.status == 200
            assert answer.header("content-type") == "application/json"
            whole = answer.json()
            [choice] = whole["choices"]
            assert choice["message"]["content"] == "The sea"
            assert choice["message"]["reasoning_content"] == "Hm. "
            assert choice["message"]["tool_calls"] == [
                {"id": "call_1", "type": "function", "function": {"name": "find", "arguments": '{"q":"sea"}'}}
            ]
            assert choice["finish_reason"] == "tool_calls"
            assert (whole["id"], whole["object"], whole["model"]) == ("chatcmpl-1", "chat.completion", "gpt-4o")
            assert (whole["usage"]["prompt_tokens"], whole["usage"]["completion_tokens"]) == (3, 4)
            [exchange] = bench.transport.exchanges
            assert json.loads(exchange.request.content)["stream"] is True
            assert times(answer) == [1.0]
        record = bench.record
        assert (record.outcome, record.phase, record.stream, record.usage_source) == (
            "completed",
            "done",
            False,
            "provider",
        )

    async def test_several_choices_stay_apart(self, autojump_clock: MockClock) -> None:
        def piece(index: int, content: str, finish: str | None = None) -> bytes:
            choice: dict[str, Any] = {"index": index, "delta": {"content": content}, "finish_reason": finish}
            return frame({"id": "1", "model": "gpt-4o", "choices": [choice]})

        script = stream(piece(1, "b"), piece(0, "a"), piece(1, "B", "stop"), piece(0, "A", "length"), DONE)
        async with Bench(script, provider={"kind": "demo"}) as bench:
            whole = (await bench.ask()).json()
            assert [(c["index"], c["message"]["content"], c["finish_reason"]) for c in whole["choices"]] == [
                (0, "aA", "length"), (1, "bB", "stop"),
            ]  # fmt: skip

    async def test_usage_is_our_count_where_the_provider_is_silent(self, autojump_clock: MockClock) -> None:
        ranks = encoding("o200k_base")
        script = stream(delta("The sea"), delta(" is wide."), STOP, DONE)
        async with Bench(script, provider={"kind": "demo"}) as bench:
            bench.gateway.tokenizers.install("o200k_base", ranks)
            whole = (await bench.ask()).json()
            assert whole["usage"]["completion_tokens"] == len(ranks.encode_ordinary("The sea is wide."))
        assert bench.record.usage_source == "counted"
        assert bench.record.completion_tokens == whole["usage"]["completion_tokens"]

    async def test_alias_is_the_model(self, autojump_clock: MockClock) -> None:
        script = stream(delta("sea", model="real"), delta({}, finish="stop", model="real"), DONE)
        async with Bench(script, provider={"kind": "demo"}, target="real") as bench:
            assert (await bench.ask()).json()["model"] == "gpt-4o"

    async def test_error_in_the_stream_is_a_status(self, autojump_clock: MockClock) -> None:
        last = frame({"error": {"message": "No.", "type": "t", "code": 503}})
        async with Bench(stream(delta("The sea"), last), provider={"kind": "demo"}) as bench:
            answer = await bench.ask()
            assert (answer.status, error_of(answer)["message"]) == (503, "No.")
        assert bench.record.outcome == "upstream_error"

    async def test_too_long_a_stream_is_refused(
        self, autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(trio_ai_proxy.relay.whole, "MAX_FOLDED_BYTES", 10_000)
        script = stream(*[(1.0, delta("x" * 1000))] * 50, STOP, DONE)
        async with Bench(script, provider={"kind": "demo"}) as bench:
            answer = await bench.ask()
            assert (answer.status, error_of(answer)["code"]) == (502, "upstream_protocol_error")
            assert (bench.released_at or 0) < 12
        assert bench.record.outcome == "upstream_error"

    async def test_completions_fold_as_completions(self, autojump_clock: MockClock) -> None:
        def piece(text: str, finish: str | None = None) -> bytes:
            return frame(
                {"id": "1", "model": "gpt-4o", "choices": [{"index": 0, "text": text, "finish_reason": finish}]}
            )

        async with Bench(stream(piece("The"), piece(" sea", "stop"), DONE), provider={"kind": "demo"}) as bench:
            answer = await bench.client.post("/v1/completions", json={"model": "gpt-4o", "prompt": "What?"})
            whole = answer.json()
            assert (whole["object"], whole["choices"][0]["text"]) == ("text_completion", "The sea")
        assert bench.record.dialect == "openai_text"


async def test_one_shot_request_is_sent_as_one(autojump_clock: MockClock) -> None:
    async with Bench(openai_answer("sea")) as bench:
        await bench.ask(json={**QUESTION, "stream": False})
        [exchange] = bench.transport.exchanges
        fields = json.loads(exchange.request.content)
        assert fields["stream"] is False
        assert "stream_options" not in fields
