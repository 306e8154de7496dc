"""`validate_streams`: a stream that breaks the grammar is told of once, counted, and goes on."""

from __future__ import annotations

from support.exchanges import STOP, Bench, delta, frame, stream, terminals, text, usage

from trio_ai_proxy.testing import openai_answer

ON = {"validate_streams": True}
ROLE = {"role": "assistant", "content": ""}


def violations(bench: Bench) -> list[str]:
    return [f"{line['side']}: {line['violation']}" for line in bench.log("illegal stream")]


async def test_a_good_stream_is_nothing_to_tell_of(autojump_clock) -> None:
    script = stream(delta(ROLE), delta("Hi"), STOP, usage(1, 2), b"data: [DONE]\n\n")
    async with Bench(script, server=ON) as bench:
        answer = await bench.ask_stream()
        assert terminals(answer) == ["[DONE]"]
        assert violations(bench) == []


async def test_a_broken_one_is_told_of_once_with_its_request_and_goes_on(autojump_clock) -> None:
    said = delta({"tool_calls": [{"index": 0, "id": "c", "function": {"name": "f", "arguments": "{"}}]})
    script = stream(delta(ROLE), said, delta("Hi"), STOP, delta("more"), delta("more"), b"data: [DONE]\n\n")
    async with Bench(script, server=ON) as bench:
        answer = await bench.ask_stream()
        assert terminals(answer) == ["[DONE]"]
        assert text(answer) == "Himoremore"
        [line] = bench.log("illegal stream")
        assert line["request_id"] == bench.record.request_id
        assert (line["side"], line["provider"]) == ("provider", "scripted")
        assert line["violation"] == "choice 0: the arguments of call 0 are no JSON object"
        page = bench.gateway.metrics.render()[0].decode()
        assert 'trio_ai_proxy_stream_violations_total{provider="scripted",side="provider"} 1.0' in page


async def test_what_the_client_is_sent_is_looked_at_too(autojump_clock) -> None:
    """The decoder passes over what follows a choice's end; the bytes reach the client all the same."""
    script = stream(delta(ROLE), delta("Hi"), STOP, delta("more"), b"data: [DONE]\n\n")
    async with Bench(script, server=ON) as bench:
        assert text(await bench.ask_stream()) == "Himore"
        assert violations(bench) == ["client: choice 0 goes on after its finish_reason"]


async def test_an_error_in_band_is_an_end(autojump_clock) -> None:
    async with Bench(stream(delta(ROLE), delta("Hi"), frame({"error": {"message": "m"}})), server=ON) as bench:
        assert len(terminals(await bench.ask_stream())) == 1
        assert violations(bench) == []


async def test_a_whole_answer_is_looked_at_where_it_comes_from(autojump_clock) -> None:
    async with Bench(openai_answer("Hi"), server=ON) as bench:
        assert (await bench.ask()).status == 200
        assert violations(bench) == []


async def test_an_answer_with_an_error_status_is_no_stream(autojump_clock) -> None:
    async with Bench(stream(frame({"error": {"message": "m"}})), server=ON) as bench:
        assert (await bench.ask_stream()).status == 502
        assert violations(bench) == []


async def test_it_is_off_unless_it_is_switched_on(autojump_clock) -> None:
    async with Bench(stream(delta(ROLE), STOP, delta("more"), b"data: [DONE]\n\n")) as bench:
        await bench.ask_stream()
        assert violations(bench) == []
