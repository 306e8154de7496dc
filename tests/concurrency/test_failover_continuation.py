"""An answer that broke off is gone on with: no character lost, none said twice, and where that cannot be, one error."""

from __future__ import annotations

import json
import random
from typing import TYPE_CHECKING, Any

import pytest
import trio
from support.exchanges import (
    DONE,
    QUESTION,
    ROLE,
    SERVER_ERROR,
    STOP,
    Bench,
    delta,
    frame,
    said,
    stream,
    terminals,
    usage,
)
from support.failover import WHOLE, Awaited, Relay, answer, broken, counted, ids, models, text
from support.ranks import encoding

from trio_ai_proxy.testing import Script, Step, openai_error

if TYPE_CHECKING:
    from collections.abc import Callable

    from trio.testing import MockClock

    from trio_ai_proxy.testing import ClientAnswer

ASKS_USAGE = {**QUESTION, "stream": True, "stream_options": {"include_usage": True}}
SEA = ["The", " sea", " is", " wide", "."]


@pytest.fixture(autouse=True)
def _chance(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(random, "random", lambda: 0.5)


def relay(**playing: Any) -> Relay:
    model = {"continuation": "splice", "retries": 0, **playing.pop("model", {})}
    server = {"validate_streams": True}
    return Relay(model=model, server=server, **{"timeouts": {"idle": 8.0}, **playing})


def assert_legal(bench: Bench) -> None:
    assert bench.log("illegal stream") == []
    assert bench.log("bug") == []


def assert_whole(bench: Relay, got: ClientAnswer, whole: str = WHOLE) -> None:
    assert (got.status, text(got), terminals(got)) == (200, whole, ["[DONE]"])
    assert len(ids(got)) == 1
    assert_legal(bench)


class TestText:
    @pytest.mark.parametrize("after", [1, 2, 39, 59, 60])
    async def test_cut_at_any_word(self, autojump_clock: MockClock, after: int) -> None:
        async with relay(a=broken(after), b=answer()) as bench:
            assert_whole(bench, await bench.ask_stream())

    @pytest.mark.parametrize("size", [1, 3, 7, 1000])
    async def test_other_words_boundaries_make_no_difference(self, autojump_clock: MockClock, size: int) -> None:
        pieces = [WHOLE[start : start + size] for start in range(0, len(WHOLE), size)]
        async with relay(a=broken(40), b=answer(pieces, pause=0)) as bench:
            assert_whole(bench, await bench.ask_stream())

    async def test_cut_inside_a_character(self, autojump_clock: MockClock) -> None:
        first, second = delta("größe "), delta("漢字🌊")
        for at in range(1, len(second) + 1):
            script = stream(delta(ROLE), first, second[:at], ending="cut")
            async with relay(a=script, b=answer(["grö", "ße 漢", "字🌊!"])) as bench:
                assert_whole(bench, await bench.ask_stream(), "größe 漢字🌊!")

    async def test_several_cuts(self, autojump_clock: MockClock) -> None:
        async with relay(a=broken(10), b=broken(5), c=broken(30, ending="stall"), d=answer()) as bench:
            assert_whole(bench, await bench.ask_stream())
        assert [row.answered for row in bench.record.attempts] == [True, False, True, True]

    async def test_several_cuts_inside_of_pieces(self, autojump_clock: MockClock) -> None:
        async with relay(a=broken(2, words=SEA), b=broken(2, words=["The sea is", " wi"]), c=answer(SEA)) as bench:
            assert_whole(bench, await bench.ask_stream(), "The sea is wide.")

    async def test_failures_between_do_not_matter(self, autojump_clock: MockClock) -> None:
        refused = openai_error(400, "No.", code="bad")
        async with relay(a=broken(10), b=refused, c=Script(refuse=True), d=openai_error(500), e=answer()) as bench:
            assert_whole(bench, await bench.ask_stream())

    async def test_error_event_in_the_middle(self, autojump_clock: MockClock) -> None:
        script = stream(delta(ROLE), delta("The"), delta(" sea") + SERVER_ERROR)
        async with relay(a=script, b=answer(SEA)) as bench:
            assert_whole(bench, await bench.ask_stream(), "The sea is wide.")

    async def test_error_with_text_in_one_frame_loses_no_text(self, autojump_clock: MockClock) -> None:
        last = json.loads(delta(" sea")[6:]) | {"error": {"message": "No.", "type": "server_error", "code": "boom"}}
        for script in (
            stream(delta(ROLE), delta("The"), frame(last)),
            stream(delta(ROLE), delta("The") + frame(last)),
        ):
            async with relay(a=script, b=answer(SEA)) as bench:
                assert_whole(bench, await bench.ask_stream(), "The sea is wide.")

    async def test_garbage_beyond_the_limit(self, autojump_clock: MockClock) -> None:
        bad = b"data: {nothing\n\n"
        script = stream(delta(ROLE), delta("The"), bad, delta(" sea"), bad, delta(" never"))
        async with relay(a=script, b=answer(SEA), model={"malformed_limit": 1}) as bench:
            assert_whole(bench, await bench.ask_stream(), "The sea is wide.")

    async def test_policy_that_ends_an_answer_is_not_walked_round(self, autojump_clock: MockClock) -> None:
        refused = frame({"error": {"message": "No.", "type": "x", "code": "content_filter"}})
        async with relay(a=stream(delta(ROLE), delta("The"), refused), b=answer(SEA)) as bench:
            got = await bench.ask_stream()
            assert (terminals(got), bench.times("b")) == (["content_filter"], [])

    @pytest.mark.parametrize("continuation", ["off", "splice"])
    async def test_cut_after_the_finish_reason_is_a_cut(self, autojump_clock: MockClock, continuation: str) -> None:
        script = stream(delta(ROLE), *map(delta, SEA), STOP, ending="cut")
        async with relay(a=script, b=answer(SEA), model={"continuation": continuation}) as bench:
            got = await bench.ask_stream(json=ASKS_USAGE)
            assert (text(got), terminals(got), bench.times("b")) == ("The sea is wide.", ["upstream_truncated"], [])
        assert bench.record.outcome == "upstream_truncated"

    async def test_error_after_the_finish_reason_is_an_error(self, autojump_clock: MockClock) -> None:
        told = frame({"error": {"message": "overloaded", "type": "server_error", "code": "late"}})
        async with relay(a=stream(delta(ROLE), *map(delta, SEA), STOP, told), b=answer(SEA)) as bench:
            got = await bench.ask_stream()
            assert (terminals(got), bench.times("b")) == (["late"], [])
        assert bench.record.outcome == "upstream_error"

    async def test_healthy_stream_passes_as_it_came(self, autojump_clock: MockClock) -> None:
        odd = b'data: { "id":"1","model":"model-a", "extra":{"x":1e2},"choices":[{"index":0,"delta":{"content":"\\u00e9"}}]}\n\n'
        script = stream(odd, delta({}, finish="stop", model="model-a"), DONE)
        async with relay(a=script, b=answer()) as bench:
            got = await bench.ask_stream()
            assert got.body.startswith(odd.replace(b'"model-a"', b'"gpt-4o"'))

    async def test_off_is_one_error(self, autojump_clock: MockClock) -> None:
        async with relay(a=broken(3), b=answer(), model={"continuation": "off"}) as bench:
            got = await bench.ask_stream()
            assert (terminals(got), bench.times("b")) == (["upstream_truncated"], [])

    async def test_completions_go_on_as_well(self, autojump_clock: MockClock) -> None:
        def piece(text: str, finish: str | None = None) -> bytes:
            return frame({"id": "1", "model": "m", "choices": [{"index": 0, "text": text, "finish_reason": finish}]})

        cut = stream(piece("The"), piece(" sea"), ending="cut")
        whole = stream(piece("The s"), piece("ea is"), piece(" wide.", "stop"), DONE)
        async with relay(a=cut, b=whole) as bench:
            got = await bench.client.post("/v1/completions", json={"model": "gpt-4o", "prompt": "?", "stream": True})
            said_all = [one.payload for one in said(got) if isinstance(one.payload, dict)]
            assert "".join(one["choices"][0]["text"] for one in said_all) == "The sea is wide."


class TestDivergence:
    @pytest.mark.parametrize(
        "words",
        [["The", " ocean"], ["the sea is wide."], ["The", " se"], ["The"], [], ["The seas are"]],
        ids=["other word", "other case", "shorter", "much shorter", "nothing", "goes on otherwise"],
    )
    async def test_is_one_error_and_nothing_of_it_is_shown(self, autojump_clock: MockClock, words: list[str]) -> None:
        async with relay(a=broken(3, words=SEA), b=answer(words)) as bench:
            got = await bench.ask_stream()
            assert (text(got), terminals(got)) == ("The sea is", ["upstream_truncated"])
            assert_legal(bench)
        record = bench.record
        assert (record.outcome, record.provider, record.target_model) == ("upstream_truncated", "a", "model-a")
        assert record.completion_tokens == record.attempts[0].completion_tokens

    async def test_third_target_may_know_better(self, autojump_clock: MockClock) -> None:
        async with relay(a=broken(3, words=SEA), b=answer(["Other"]), c=answer(SEA)) as bench:
            assert_whole(bench, await bench.ask_stream(), "The sea is wide.")

    async def test_who_broke_off_may_be_asked_again(self, autojump_clock: MockClock) -> None:
        script = [broken(3, words=SEA), answer(SEA)]
        async with relay(a=script, b=answer(["Other"]), model={"retries": 1}) as bench:
            assert_whole(bench, await bench.ask_stream(), "The sea is wide.")
            assert (len(bench.times("a")), len(bench.times("b"))) == (2, 1)

    async def test_does_not_count_against_who_diverged(self, autojump_clock: MockClock) -> None:
        async with relay(a=broken(3, words=SEA), b=answer(["Other"])) as bench:
            for _ in range(4):
                await bench.ask_stream()
            breakers = [health.breaker for health in bench.gateway.routers.known["gpt-4o"].healths]
            assert (breakers[0].consecutive, breakers[1].consecutive) == (4, 0)


class TestPrefill:
    @staticmethod
    def goes_on(body: dict[str, Any]) -> Script:
        last = body["messages"][-1]
        if last["role"] != "assistant":
            return answer(["I", " say", " other", " things"], count=(7, 4))
        assert last["content"] == "The sea is"
        return answer([" wide", "."], count=(10, 2), model="model-b")

    async def test_goes_on_from_what_was_delivered(self, autojump_clock: MockClock) -> None:
        ranks = encoding("o200k_base")
        async with relay(a=broken(3, words=SEA), b=self.goes_on, targets={"b": {"prefill": True}}) as bench:
            bench.gateway.tokenizers.install("o200k_base", ranks)
            got = await bench.ask_stream(json=ASKS_USAGE)
            assert_whole(bench, got, "The sea is wide.")
            assert [body["messages"][-1]["role"] for body in bench.asked("b")] == ["user", "assistant"]
            told = counted(got)
            assert told["total_tokens"] == 12
            assert told["prompt_tokens"] + told["completion_tokens"] == 12
            assert told["completion_tokens"] > 2
            assert told["model"] == "model-b"
            assert models(got) == {"gpt-4o", "model-b"}
        record = bench.record
        assert (record.completion_tokens, record.total_tokens) == (told["completion_tokens"], 12)
        assert record.usage_source != "provider"
        assert bench.rows_of_record == [
            ("a", "first", "upstream_truncated"), ("b", "continuation", "upstream_error"),
            ("b", "continuation", "completed"),
        ]  # fmt: skip

    @pytest.mark.parametrize("repeats", [True, False])
    async def test_blank_at_the_seam_is_there_once(self, autojump_clock: MockClock, repeats: bool) -> None:
        def goes_on(body: dict[str, Any]) -> Script:
            if body["messages"][-1]["role"] != "assistant":
                return answer(["Other"])
            assert body["messages"][-1]["content"] == "The sea"
            return answer([" " if repeats else "", "\nis", " wide."])

        async with relay(a=broken(2, words=["The sea", " \n"]), b=goes_on, targets={"b": {"prefill": True}}) as bench:
            got = await bench.ask_stream()
            assert text(got) == "The sea \nis wide." if repeats else "The sea \n\nis wide."

    async def test_client_s_own_beginning_is_kept(self, autojump_clock: MockClock) -> None:
        seen: list[Any] = []

        def goes_on(body: dict[str, Any]) -> Script:
            seen.append(body["messages"])
            return answer([" wide."]) if len(seen) > 1 else answer(["Other"])

        messages = [*QUESTION["messages"], {"role": "assistant", "content": "Well: "}]
        async with relay(a=broken(3, words=SEA), b=goes_on, targets={"b": {"prefill": True}}) as bench:
            got = await bench.ask_stream(json={**QUESTION, "stream": True, "messages": messages})
            assert text(got) == "The sea is wide."
        assert seen[-1] == [*QUESTION["messages"], {"role": "assistant", "content": "Well: The sea is"}]

    async def test_refused_prefill_is_tried_once(self, autojump_clock: MockClock) -> None:
        def refuses(body: dict[str, Any]) -> Script:
            is_prefill = body["messages"][-1]["role"] == "assistant"
            return openai_error(400, "No.", code="invalid_prefill") if is_prefill else answer(["Other"])

        async with relay(
            a=broken(3, words=SEA), b=refuses, targets={"b": {"prefill": True}, "a": {"prefill": False}},
            model={"retries": 3},
        ) as bench:  # fmt: skip
            got = await bench.ask_stream()
            assert terminals(got) == ["upstream_truncated"]
            assert len(bench.times("b")) == 2

    async def test_one_that_goes_on_may_be_cut_as_well(self, autojump_clock: MockClock) -> None:
        def goes_on(body: dict[str, Any]) -> Script:
            last = body["messages"][-1]
            if last["role"] != "assistant":
                return answer(["Other"])
            return broken(1, words=[" is"]) if last["content"] == "The sea" else answer([" wide", "."])

        scripts = [broken(2, words=SEA), openai_error(401)]
        async with relay(a=scripts, b=goes_on, targets={"b": {"prefill": True}}, model={"retries": 1}) as bench:
            assert_whole(bench, await bench.ask_stream(), "The sea is wide.")
            assert bench.asked("b")[-1]["messages"][-1]["content"] == "The sea is"

    async def test_call_of_a_tool_is_never_prefilled(self, autojump_clock: MockClock) -> None:
        call = {"index": 0, "id": "call_1", "type": "function", "function": {"name": "find", "arguments": '{"q"'}}
        cut = stream(delta(ROLE), delta({"tool_calls": [call]}), ending="cut")
        async with relay(a=cut, b=answer(["Other"]), targets={"b": {"prefill": True}}) as bench:
            got = await bench.ask_stream()
            assert terminals(got) == ["upstream_truncated"]
            assert len(bench.times("b")) == 1


class TestTools:
    @staticmethod
    def calls(*arguments: str, id: str = "call_1", name: str = "find", number: int = 0) -> list[bytes]:
        first = {"index": number, "id": id, "type": "function", "function": {"name": name, "arguments": ""}}
        parts = [delta({"tool_calls": [first]})]
        more = [{"index": number, "function": {"arguments": part}} for part in arguments]
        return parts + [delta({"tool_calls": [call]}) for call in more]

    @staticmethod
    def made(got: ClientAnswer) -> dict[int, tuple[str, str, str]]:
        found: dict[int, tuple[str, str, str]] = {}
        for one in said(got):
            for choice in one.payload["choices"] if isinstance(one.payload, dict) and "choices" in one.payload else ():
                for call in choice["delta"].get("tool_calls") or ():
                    before = found.get(call["index"], ("", "", ""))
                    function = call["function"]
                    found[call["index"]] = (
                        before[0] + call.get("id", ""), before[1] + function.get("name", ""),
                        before[2] + function.get("arguments", ""),
                    )  # fmt: skip
        return found

    @pytest.mark.parametrize("count", [0, 1, 2, 3])
    async def test_cut_inside_a_call(self, autojump_clock: MockClock, count: int) -> None:
        end = delta({}, finish="tool_calls")
        cut = stream(delta(ROLE), *self.calls(*['{"q', '":"s', 'ea"}'][:count]), ending="cut")
        again = stream(delta(ROLE), *self.calls('{"q":', '"sea"', "}", id="call_9"), end, DONE)
        async with relay(a=cut, b=again) as bench:
            got = await bench.ask_stream()
            assert terminals(got) == ["[DONE]"]
            assert self.made(got) == {0: ("call_1", "find", '{"q":"sea"}')}
            assert_legal(bench)

    async def test_cut_between_two_calls(self, autojump_clock: MockClock) -> None:
        end = delta({}, finish="tool_calls")
        one, two = self.calls('{"a":', "1}"), self.calls('{"b":', "2}", id="call_2", name="open", number=1)
        for at in range(1, 7):
            cut = stream(delta(ROLE), delta("Hm."), *[*one, *two][:at], ending="cut")
            async with relay(a=cut, b=stream(delta(ROLE), delta("H"), delta("m."), *one, *two, end, DONE)) as bench:
                got = await bench.ask_stream()
                assert (terminals(got), text(got)) == (["[DONE]"], "Hm.")
                assert self.made(got) == {0: ("call_1", "find", '{"a":1}'), 1: ("call_2", "open", '{"b":2}')}

    @pytest.mark.parametrize(
        ("given", "again"),
        [
            (('{"q":"s',), lambda calls: [*calls('{"q":"lake"}')]),
            (('{"q":"s',), lambda calls: [*calls('{"q":"sea"}', name="open")]),
            (('{"q":"s',), lambda calls: [*calls('{"q"')]),
            (('{"q":"s',), lambda calls: [delta("First "), *calls('{"q":"sea"}')]),
            (('{"q":"s',), lambda _: [delta("I say it.")]),
            (('{"q":"s',), lambda _: []),
            ((), lambda calls: [*calls('{"q":"sea"}', name="open")]),
            ((), lambda _: [delta("I say it.")]),
            ((), lambda _: []),
        ],
        ids=[
            "other arguments", "other name", "shorter", "text first", "text", "nothing", "bare: other name", "bare: text",
            "bare: nothing",
        ],
    )  # fmt: skip
    async def test_other_call_is_one_error(
        self, autojump_clock: MockClock, given: tuple[str, ...], again: Callable[..., list[bytes]]
    ) -> None:
        cut = stream(delta(ROLE), *self.calls(*given), ending="cut")
        async with relay(a=cut, b=stream(delta(ROLE), *again(self.calls), STOP, DONE)) as bench:
            got = await bench.ask_stream()
            assert terminals(got) == ["upstream_truncated"]
            assert self.made(got) == {0: ("call_1", "find", "".join(given))}
            assert text(got) == ""


class TestOtherWires:
    @staticmethod
    def event(name: str, **fields: Any) -> bytes:
        return f"event: {name}\ndata: {json.dumps({'type': name, **fields})}\n\n".encode()

    def anthropic(self, *words: str, thought: str = "") -> Script:
        event = self.event
        message = {
            "id": "msg_1", "type": "message", "role": "assistant", "model": "claude", "content": [],
            "stop_reason": None, "usage": {"input_tokens": 9, "output_tokens": 1},
        }  # fmt: skip
        parts = [event("message_start", message=message)]
        if thought:
            parts += [
                event("content_block_start", index=0, content_block={"type": "thinking", "thinking": ""}),
                event("content_block_delta", index=0, delta={"type": "thinking_delta", "thinking": thought}),
                event("content_block_delta", index=0, delta={"type": "signature_delta", "signature": "s"}),
                event("content_block_stop", index=0),
            ]
        at = int(bool(thought))
        parts.append(event("content_block_start", index=at, content_block={"type": "text", "text": ""}))
        parts += [event("content_block_delta", index=at, delta={"type": "text_delta", "text": word}) for word in words]
        parts += [
            event("content_block_stop", index=at),
            event("message_delta", delta={"stop_reason": "end_turn"}, usage={"output_tokens": 5}),
            event("message_stop"),
        ]
        return stream(*parts)

    def gemini(self, *words: str) -> Script:
        def part(text: str, **more: Any) -> bytes:
            candidate = {"content": {"parts": [{"text": text}], "role": "model"}, "index": 0, **more}
            counts = {"promptTokenCount": 9, "candidatesTokenCount": 5, "totalTokenCount": 14}
            return frame({"candidates": [candidate], "usageMetadata": counts, "modelVersion": "gem"})

        return stream(*[part(word) for word in words[:-1]], part(words[-1], finishReason="STOP"))

    @pytest.mark.parametrize("kind", ["anthropic", "gemini"])
    async def test_second_target_of_another_wire(self, autojump_clock: MockClock, kind: str) -> None:
        script = self.anthropic("The se", "a is wide.") if kind == "anthropic" else self.gemini("The se", "a is wide.")
        async with relay(a=broken(3, words=SEA), b=script, providers={"b": {"kind": kind}}) as bench:
            got = await bench.ask_stream(json=ASKS_USAGE)
            assert_whole(bench, got, "The sea is wide.")
            told = counted(got)
            assert (told["prompt_tokens"], told["completion_tokens"]) == (9, 5)
        assert bench.record.provider == "b"

    async def test_first_target_of_another_wire(self, autojump_clock: MockClock) -> None:
        whole = self.anthropic("The", " sea", " is", " wide.", thought="Hm.")
        steps = [step.chunk for step in whole.steps()]
        for at in range(1, len(steps)):
            async with relay(
                a=stream(*steps[:at], ending="cut"), b=answer(SEA), providers={"a": {"kind": "anthropic"}}
            ) as bench:
                got = await bench.ask_stream()
                if at < len(steps) - 1:
                    assert_whole(bench, got, "The sea is wide.")
                else:  # its `stop_reason` has come, and its `message_stop` has not
                    assert (text(got), terminals(got)) == ("The sea is wide.", ["upstream_truncated"])

    async def test_thoughts_are_not_compared_and_not_shown_twice(self, autojump_clock: MockClock) -> None:
        think = [delta({"reasoning_content": "Hm, "}), delta({"reasoning_content": "the sea."})]
        other = [delta({"reasoning_content": "Well."})]
        for parts in (think[:1], think, [*think, delta("The")]):
            again = stream(delta(ROLE), *other, *map(delta, SEA), STOP, DONE)
            async with relay(a=stream(delta(ROLE), *parts, ending="cut"), b=again) as bench:
                got = await bench.ask_stream()
                assert_whole(bench, got, "The sea is wide.")
                assert b"Well." not in got.body


class TestChoices:
    @staticmethod
    def piece(index: int, content: str, finish: str | None = None) -> bytes:
        choice: dict[str, Any] = {"index": index, "delta": {"content": content}, "finish_reason": finish}
        return frame({"id": "1", "model": "gpt-4o", "choices": [choice]})

    @staticmethod
    def texts(got: ClientAnswer) -> dict[int, str]:
        found: dict[int, str] = {}
        for one in said(got):
            for choice in one.payload["choices"] if isinstance(one.payload, dict) and "choices" in one.payload else ():
                found[choice["index"]] = found.get(choice["index"], "") + (choice["delta"].get("content") or "")
        return found

    async def test_each_is_joined_for_itself(self, autojump_clock: MockClock) -> None:
        piece = self.piece
        cut = stream(piece(0, "A"), piece(1, "xy"), piece(0, "B"), ending="cut")
        again = stream(piece(1, "x"), piece(1, "yz", "stop"), piece(0, "ABC"), piece(0, "D", "stop"), DONE)
        async with relay(a=cut, b=again) as bench:
            got = await bench.ask_stream(json={**QUESTION, "stream": True, "n": 2})
            assert (self.texts(got), terminals(got)) == ({0: "ABCD", 1: "xyz"}, ["[DONE]"])

    async def test_one_that_is_finished_is_left_alone(self, autojump_clock: MockClock) -> None:
        piece = self.piece
        cut = stream(piece(0, "A", "stop"), piece(1, "x"), ending="cut")
        again = stream(piece(0, "Other", "stop"), piece(1, "xy", "stop"), DONE)
        async with relay(a=cut, b=again) as bench:
            got = await bench.ask_stream(json={**QUESTION, "stream": True, "n": 2})
            assert (self.texts(got), terminals(got)) == ({0: "A", 1: "xy"}, ["[DONE]"])
            assert got.body.count(b'"finish_reason":"stop"') + got.body.count(b'"finish_reason": "stop"') == 2

    async def test_one_that_is_missing_in_the_restart_is_a_divergence(self, autojump_clock: MockClock) -> None:
        piece = self.piece
        cut = stream(piece(0, "A"), piece(1, "x"), ending="cut")
        async with relay(a=cut, b=stream(piece(0, "AB", "stop"), DONE)) as bench:
            got = await bench.ask_stream(json={**QUESTION, "stream": True, "n": 2})
            assert terminals(got) == ["upstream_truncated"]


class TestWholeAnswers:
    """A client that waits for all of it has been given nothing, so all of it is made again."""

    async def test_document_that_breaks_off(self, autojump_clock: MockClock) -> None:
        body = json.dumps({"id": "1", "model": "m", "choices": []}).encode()
        cut = Script(headers=(("content-type", "application/json"),), steps=lambda: iter([Step(0, body)]), ending="cut")
        whole = {"index": 0, "message": {"role": "assistant", "content": "sea"}, "finish_reason": "stop"}
        good = json.dumps({"id": "2", "model": "model-b", "choices": [whole]}).encode()
        script = Script(headers=(("content-type", "application/json"),), steps=lambda: iter([Step(0, good)]))
        async with relay(a=cut, b=script) as bench:
            got = await bench.ask()
            assert (got.status, got.json()["id"], got.header("x-llm-provider")) == (200, "2", "b")

    @pytest.mark.parametrize("continuation", ["off", "splice"])
    async def test_stream_that_is_folded_and_breaks_off(self, autojump_clock: MockClock, continuation: str) -> None:
        folded = {"a": {"kind": "demo"}, "b": {"kind": "demo"}}
        model = {"continuation": continuation}
        async with relay(a=broken(3), b=answer(SEA), providers=folded, model=model) as bench:
            got = await bench.ask()
            assert got.json()["choices"][0]["message"]["content"] == "The sea is wide."
        assert bench.rows_of_record == [("a", "first", "upstream_truncated"), ("b", "next", "completed")]
        assert [row.answered for row in bench.record.attempts] == [False, True]


async def test_keep_alive_between_and_within_attempts(autojump_clock: MockClock) -> None:
    model = {"keep_alive": 2.0}
    async with relay(a=broken(1, words=SEA, ending="stall", pause=5), b=answer(SEA, before=5), model=model) as bench:
        got = await bench.ask_stream()
        assert (text(got), terminals(got)) == ("The sea is wide.", ["[DONE]"])
        comments = [at for at, chunk in got.chunks if chunk.startswith(b":")]
        assert comments == [2.0, 4.0, 7.0, 9.0, 11.0, 13.0, 15.0, 17.0]


async def test_usage_that_was_sent_is_not_sent_again(autojump_clock: MockClock) -> None:
    cut = stream(delta(ROLE), *map(delta, SEA), STOP, usage(3, 5), ending="cut")
    async with relay(a=cut, b=answer(SEA)) as bench:
        got = await bench.ask_stream(json=ASKS_USAGE)
        assert (terminals(got), counted(got)["completion_tokens"]) == (["upstream_truncated"], 5)


async def test_each_piece_is_told_at_once(autojump_clock: MockClock) -> None:
    async with relay(a=broken(2, words=SEA, pause=1), b=answer(SEA, pause=1)) as bench:
        got = await bench.ask_stream()
        at = [
            one.at for one in said(got) if one.payload != "[DONE]" and one.payload["choices"][0]["delta"].get("content")
        ]
        assert at == [1.0, 2.0, 5.0, 6.0, 7.0]


async def test_slow_client_gets_it_all(autojump_clock: MockClock) -> None:
    async with relay(a=broken(40), b=answer()) as bench:
        with trio.fail_after(1000):
            got = await bench.ask_stream(read_pause=1.0)
        assert_whole(bench, got)


async def test_piece_that_could_not_be_handed_over_was_not_given(autojump_clock: MockClock) -> None:
    """The piece and the end of patience come in one instant, while the client is busy with the piece before."""
    bench = relay(a=answer(), b=answer(SEA, pause=0))
    awaited = Awaited(delta(ROLE) + delta("The"), delta(" sea"), at_once=1)
    bench.transports["a"] = awaited
    found: list[ClientAnswer] = []

    async def ask() -> None:
        found.append(await bench.ask_stream(read_pause=100.0))

    async with bench:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(ask)
            await trio.sleep(5)
            awaited.more()
            autojump_clock.jump(3.0)
        assert_whole(bench, found[0], "The sea is wide.")
    assert bench.rows_of_record[0] == ("a", "first", "timeout_idle")
