"""Scripts in OpenAI's shape, and the demo service, played in memory on the virtual clock."""

from __future__ import annotations

import itertools
import json
from typing import TYPE_CHECKING, Any

import httpx
import pytest
import trio

from trio_ai_proxy.testing import ScriptedTransport, no_leaks, openai_error, openai_stream
from trio_ai_proxy.upstream.demo import demo_transport

if TYPE_CHECKING:
    from trio.testing import MockClock

    from trio_ai_proxy.testing import Script


async def post(transport: httpx.AsyncBaseTransport, fields: Any, path: str = "/v1/chat/completions") -> httpx.Response:
    async with httpx.AsyncClient(transport=transport, timeout=None) as client:
        return await client.post(f"http://upstream.invalid{path}", json=fields)


def ask(model: str, **fields: Any) -> dict[str, Any]:
    return {"model": model, "messages": [{"role": "user", "content": "hello"}], **fields}


async def play(script: Script) -> list[tuple[float, str]]:
    """Each event of the answer and when it came."""
    seen = []
    transport = ScriptedTransport(lambda _: script)
    async with httpx.AsyncClient(transport=transport, timeout=None) as client:
        start = trio.current_time()
        async with client.stream("POST", "http://upstream.invalid/") as response:
            async for chunk in response.aiter_raw():
                event = chunk.decode().removeprefix("data: ").removesuffix("\n\n")
                seen.append((trio.current_time() - start, event))
    return seen


async def test_a_stream_has_role_pieces_finish_usage_and_done(autojump_clock: MockClock) -> None:
    seen = await play(openai_stream(["a", "b"], pause=2, usage=(3, 2), head_pause=1))
    assert [at for at, _ in seen] == [1, 3, 5, 5, 5, 5]
    *chunks, done = [event for _, event in seen]
    assert done == "[DONE]"
    read = [json.loads(chunk) for chunk in chunks]
    assert [chunk["choices"][0]["delta"] for chunk in read[:-1]] == [
        {"role": "assistant", "content": ""},
        {"content": "a"},
        {"content": "b"},
        {},
    ]
    assert read[3]["choices"][0]["finish_reason"] == "stop"
    assert read[4]["usage"] == {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5}


async def test_a_stream_can_lack_its_ends(autojump_clock: MockClock) -> None:
    assert len(await play(openai_stream(["a"], done=False))) == 3
    assert len(await play(openai_stream(["a"], finish_reason=None))) == 3
    assert len(await play(openai_stream(["a"], ends=False))) == 2


async def test_a_stream_can_be_endless(autojump_clock: MockClock) -> None:
    script = openai_stream(itertools.repeat("x"), pause=1)
    with trio.move_on_after(1000) as scope:
        await play(script)
    assert scope.cancelled_caught


async def test_an_error_refuses_or_comes_inside_a_stream(autojump_clock: MockClock) -> None:
    refused = await post(ScriptedTransport(lambda _: openai_error(429, "slow", headers=[("retry-after", "3")])), {})
    assert refused.status_code == 429
    assert refused.headers["retry-after"] == "3"
    assert refused.json()["error"]["message"] == "slow"
    [(_, event)] = await play(openai_error(200, "late"))
    assert json.loads(event)["error"]["message"] == "late"


async def test_the_demo_streams_thirty_words_a_second(autojump_clock: MockClock) -> None:
    start = trio.current_time()
    response = await post(demo_transport(), ask("demo", max_tokens=60))
    assert trio.current_time() - start == pytest.approx(2.0)
    assert response.status_code == 200
    assert response.headers["content-type"].startswith("text/event-stream")
    assert response.text.endswith("data: [DONE]\n\n")


async def test_each_demo_answer_has_an_id_of_its_own(autojump_clock: MockClock) -> None:
    transport = demo_transport()
    texts = [(await post(transport, ask("demo-fast"))).text for _ in range(2)]
    first, second = (json.loads(text.split("\n")[0].removeprefix("data: ")) for text in texts)
    assert first["id"] != second["id"]
    assert first["created"] > 1_700_000_000


async def test_the_demo_stalls_for_ever(autojump_clock: MockClock) -> None:
    async with no_leaks():
        with trio.move_on_after(1_000_000) as scope:
            await post(demo_transport(), ask("demo-stall"))
    assert scope.cancelled_caught


async def test_the_demo_cuts_the_connection(autojump_clock: MockClock) -> None:
    with pytest.raises(httpx.RemoteProtocolError):
        await post(demo_transport(), ask("demo-cut"))


async def test_the_demo_has_both_operations_and_no_other_path(autojump_clock: MockClock) -> None:
    transport = demo_transport()
    completion = await post(transport, {"model": "demo-fast", "prompt": "hello"}, "/v1/completions")
    assert '"text_completion"' in completion.text
    assert (await post(transport, {}, "/v1/embeddings")).status_code == 404


@pytest.mark.parametrize("body", [b"", b"[]", b"{", b"\xff", b"[" * 100_000])
async def test_the_demo_refuses_a_body_that_is_no_object(autojump_clock: MockClock, body: bytes) -> None:
    async with httpx.AsyncClient(transport=demo_transport()) as client:
        response = await client.post("http://upstream.invalid/v1/chat/completions", content=body)
    assert response.status_code == 400
