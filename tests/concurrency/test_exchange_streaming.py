"""What a streaming client sees: the provider's frames as they are, the right headers, and one end that is true."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any

import pytest
from support.exchanges import (
    DONE,
    QUESTION,
    ROLE,
    STOP,
    Bench,
    delta,
    error_of,
    in_band_error,
    said,
    stream,
    terminals,
    text,
    times,
    usage,
)  # fmt: skip
from support.ranks import encoding

from trio_ai_proxy.accounting.tokens import count_prompt
from trio_ai_proxy.testing import Script, openai_answer

if TYPE_CHECKING:
    from trio.testing import MockClock

ASK_USAGE = {**QUESTION, "stream": True, "stream_options": {"include_usage": True}}


def sent_upstream(bench: Bench) -> dict[str, Any]:
    [exchange] = bench.transport.exchanges
    fields: dict[str, Any] = json.loads(exchange.request.content)
    return fields


class TestGate:
    async def test_role_chunk_waits_for_the_first_token_and_is_delivered_with_it(
        self, autojump_clock: MockClock
    ) -> None:
        async with Bench(stream((1, delta(ROLE)), (3, delta("sea")), STOP, DONE)) as bench:
            answer = await bench.ask_stream()
            assert answer.started_at == 4.0
            assert times(answer)[0] == 4.0
            assert said(answer)[0].payload["choices"][0]["delta"] == ROLE
            assert text(answer) == "sea"
        assert bench.record.ttft_ms == 4_000

    async def test_comments_before_the_first_token_are_left_out_and_later_ones_pass(
        self, autojump_clock: MockClock
    ) -> None:
        async with Bench(stream(b": one\n\n", delta("sea"), b": two\n\n", STOP, DONE)) as bench:
            answer = await bench.ask_stream()
            assert b": one" not in answer.body
            assert b": two\n\n" in answer.body

    async def test_every_chunk_leaves_when_it_came(self, autojump_clock: MockClock) -> None:
        async with Bench(stream(*((1.5, delta(f" {n}")) for n in range(6)), (1.5, STOP), (1.5, DONE))) as bench:
            answer = await bench.ask_stream()
            assert times(answer) == [1.5 * number for number in range(1, 9)]

    @pytest.mark.parametrize("said_first", [{"tool_calls": [{"index": 0, "id": "c", "function": {"name": "f"}}]},
                                            {"reasoning_content": "hm"}, {"refusal": "no"}])  # fmt: skip
    async def test_opens_for_anything_that_was_generated(
        self, autojump_clock: MockClock, said_first: dict[str, Any]
    ) -> None:
        async with Bench(stream((1, delta(ROLE)), (1, delta(said_first)), (9, STOP), DONE)) as bench:
            answer = await bench.ask_stream()
            assert answer.started_at == 2.0

    async def test_answer_without_a_single_token_is_whole(self, autojump_clock: MockClock) -> None:
        async with Bench(stream(delta(ROLE), STOP, DONE)) as bench:
            answer = await bench.ask_stream()
            assert (answer.status, terminals(answer), text(answer)) == (200, ["[DONE]"], "")
        assert bench.record.outcome == "completed"

    async def test_first_token_of_a_megabyte_passes(self, autojump_clock: MockClock) -> None:
        async with Bench(stream(delta("x" * 2**20), STOP, DONE)) as bench:
            answer = await bench.ask_stream()
            assert len(text(answer)) == 2**20

    async def test_megabyte_without_a_token_is_refused(self, autojump_clock: MockClock) -> None:
        async with Bench(stream(*[delta(ROLE, padding="x" * 2**16)] * 20, STOP, DONE)) as bench:
            answer = await bench.ask_stream()
            assert (answer.status, error_of(answer)["code"]) == (502, "upstream_error")
        assert bench.record.outcome == "upstream_error"


class TestUsage:
    async def test_provider_s_chunk_passes_when_it_was_asked_for(self, autojump_clock: MockClock) -> None:
        async with Bench(stream(delta("sea"), STOP, usage(3, 4), DONE)) as bench:
            answer = await bench.ask_stream(json=ASK_USAGE)
            last = said(answer)[-2].payload
            assert (last["choices"], last["usage"]["completion_tokens"]) == ([], 4)
            assert answer.body.count(b'"usage"') == 1
            assert terminals(answer) == ["[DONE]"]
        assert (bench.record.usage_source, bench.record.total_tokens) == ("provider", 7)

    async def test_provider_s_chunk_is_hidden_when_it_was_not(self, autojump_clock: MockClock) -> None:
        async with Bench(stream(delta("sea"), STOP, usage(3, 4), DONE)) as bench:
            answer = await bench.ask_stream()
            assert b'"usage"' not in answer.body
            assert sent_upstream(bench)["stream_options"] == {"include_usage": True}
        assert (bench.record.usage_source, bench.record.total_tokens) == ("provider", 7)

    async def test_chunk_is_made_from_our_count_when_the_provider_sends_none(self, autojump_clock: MockClock) -> None:
        ranks = encoding("o200k_base")
        async with Bench(stream(delta("The sea"), delta(" is wide."), STOP, DONE)) as bench:
            bench.gateway.tokenizers.install("o200k_base", ranks)
            answer = await bench.ask_stream(json=ASK_USAGE)
            last = said(answer)[-2].payload
            assert last["choices"] == []
            assert last["usage"]["completion_tokens"] == len(ranks.encode_ordinary("The sea is wide."))
            assert last["usage"]["prompt_tokens"] == count_prompt(QUESTION, "chat", ranks)
            assert last["usage"]["total_tokens"] == last["usage"]["prompt_tokens"] + last["usage"]["completion_tokens"]
            assert (last["id"], last["model"], last["object"]) == ("chatcmpl-1", "gpt-4o", "chat.completion.chunk")
            assert terminals(answer) == ["[DONE]"]
        assert (bench.record.usage_source, bench.record.completion_tokens) == (
            "counted", last["usage"]["completion_tokens"],
        )  # fmt: skip

    async def test_no_chunk_is_made_for_a_stream_that_failed(self, autojump_clock: MockClock) -> None:
        async with Bench(stream(delta("sea"), ending="cut")) as bench:
            answer = await bench.ask_stream(json=ASK_USAGE)
            in_band_error(answer)
            assert b'"usage"' not in answer.body


class TestEnd:
    @pytest.mark.parametrize(
        "last",
        [(STOP, DONE), (STOP,), (STOP + DONE,), (STOP, DONE, DONE), (STOP, DONE + DONE), (STOP, DONE, delta("late"), DONE)],
        ids=["usual", "no DONE", "one chunk", "DONE twice", "DONE twice in one chunk", "more after DONE"],
    )  # fmt: skip
    async def test_is_one_and_the_last(self, autojump_clock: MockClock, last: tuple[bytes, ...]) -> None:
        async with Bench(stream(delta("sea"), *last)) as bench:
            answer = await bench.ask_stream()
            assert text(answer) == "sea"
            assert terminals(answer) == ["[DONE]"]
            assert answer.body.endswith(DONE)
            assert answer.is_complete
        assert bench.record.outcome == "completed"

    async def test_comes_at_once_though_the_provider_does_not_hang_up(self, autojump_clock: MockClock) -> None:
        async with Bench(stream(delta("sea"), (1, STOP), DONE, ending="stall")) as bench:
            answer = await bench.ask_stream()
            assert times(answer)[-1] == 1.0
            assert bench.released_at is not None
            assert bench.released_at <= 1.25
        assert bench.record.outcome == "completed"

    async def test_character_cut_in_two_by_the_network_is_whole(self, autojump_clock: MockClock) -> None:
        whole = delta("Das Meer 🌊, la mer été") + STOP + DONE
        pieces = [(0.1, bytes([byte])) for byte in whole]
        async with Bench(stream(*pieces)) as bench:
            answer = await bench.ask_stream()
            assert text(answer) == "Das Meer 🌊, la mer été"
            assert answer.body == whole
        assert bench.record.outcome == "completed"

    async def test_frames_pass_byte_for_byte(self, autojump_clock: MockClock) -> None:
        odd = b'data: {"id":"1", "model" : "gpt-4o","choices":[{"delta":{"content":"\\u00e9"},"index":0}],"x":1e2}\n\n'
        async with Bench(stream(odd, STOP, DONE)) as bench:
            answer = await bench.ask_stream()
            assert answer.body == odd + STOP + DONE


class TestRequest:
    async def test_always_streams_whatever_is_asked(self, autojump_clock: MockClock) -> None:
        async with Bench(
            stream(delta("sea"), STOP, usage(3, 4), DONE), model={"response_streaming": "always"}
        ) as bench:
            answer = await bench.ask()
            assert answer.header("content-type") == "text/event-stream; charset=utf-8"
            assert (text(answer), terminals(answer)) == ("sea", ["[DONE]"])
        assert bench.record.stream

    async def test_deny_refuses_a_stream_and_serves_the_rest(self, autojump_clock: MockClock) -> None:
        async with Bench(openai_answer("sea"), model={"response_streaming": "deny"}) as bench:
            answer = await bench.ask_stream()
            error = error_of(answer)
            assert (answer.status, error["code"], error["param"]) == (400, "streaming_not_allowed", "stream")
            assert bench.transport.exchanges == []
            assert (await bench.ask()).status == 200
        assert [record.outcome for record in bench.records] == ["refused", "completed"]

    @pytest.mark.parametrize(("force", "temperature"), [(False, 1.5), (True, 0.2)])
    async def test_options_fill_what_is_left_out_and_win_by_force(
        self, autojump_clock: MockClock, force: bool, temperature: float
    ) -> None:
        model = {"options": {"temperature": 0.2, "max_tokens": 100}, "force_options": force}
        async with Bench(stream(delta("sea"), STOP, DONE), model=model) as bench:
            await bench.ask_stream(json={**QUESTION, "stream": True, "temperature": 1.5, "unknown": [1]})
            fields = sent_upstream(bench)
            assert (fields["temperature"], fields["max_tokens"]) == (temperature, 100)
            assert (fields["messages"], fields["unknown"]) == (QUESTION["messages"], [1])

    async def test_alias_stands_in_every_frame(self, autojump_clock: MockClock) -> None:
        real = "gpt-4o-2024-11-20"
        script = stream(
            delta(ROLE, model=real), delta(f'I am "model":"{real}"', model=real), delta("", finish="stop", model=real),
            usage(3, 4, model=real), DONE,
        )  # fmt: skip
        async with Bench(script, target=real) as bench:
            answer = await bench.ask_stream(json=ASK_USAGE)
            models = {one.payload["model"] for one in said(answer)[:-1]}
            assert models == {"gpt-4o"}
            assert text(answer) == f'I am "model":"{real}"'
            assert sent_upstream(bench)["model"] == real
            assert answer.header("x-llm-model") == real
        assert (bench.record.model, bench.record.target_model) == ("gpt-4o", real)

    async def test_alias_stands_in_our_own_usage_chunk(self, autojump_clock: MockClock) -> None:
        script = stream(delta("sea", model="real"), delta({}, finish="stop", model="real"), DONE)
        async with Bench(script, target="real") as bench:
            answer = await bench.ask_stream(json=ASK_USAGE)
            assert {one.payload["model"] for one in said(answer)[:-1]} == {"gpt-4o"}


class TestHeaders:
    async def test_say_who_answers_and_that_it_is_a_stream(self, autojump_clock: MockClock) -> None:
        async with Bench(stream(delta("sea"), STOP, DONE)) as bench:
            answer = await bench.ask_stream(headers=[("x-request-id", "my-id:1")])
            assert answer.header("x-request-id") == "my-id:1"
            assert (answer.header("x-llm-provider"), answer.header("x-llm-model")) == ("scripted", "gpt-4o")
            assert answer.header("content-type") == "text/event-stream; charset=utf-8"
            assert (answer.header("cache-control"), answer.header("x-accel-buffering")) == ("no-cache", "no")
            assert answer.header("content-length") is None
        assert bench.record.request_id == "my-id:1"

    @pytest.mark.parametrize("insane", ["", "a b", "x" * 129, "a\r\nb: c", "é", 'a"b', "<script>"])
    async def test_insane_request_id_is_replaced(self, autojump_clock: MockClock, insane: str) -> None:
        async with Bench(stream(delta("sea"), STOP, DONE)) as bench:
            answer = await bench.ask_stream(headers=[("x-request-id", insane)])
            given = answer.header("x-request-id") or ""
            assert re.fullmatch("[0-9a-f]{32}", given)
        assert bench.record.request_id == given

    @pytest.mark.parametrize("script", [Script(refuse=True), Script(status=500)])
    async def test_stand_on_errors_too(self, autojump_clock: MockClock, script: Script) -> None:
        async with Bench(script) as bench:
            answer = await bench.ask_stream(headers=[("x-request-id", "mine")])
            assert (answer.header("x-request-id"), answer.header("x-llm-provider")) == ("mine", "scripted")
