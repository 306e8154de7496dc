"""The witness itself: a real engine stops generating when its client leaves, so a gateway can be measured by it."""

from __future__ import annotations

import httpx
import pytest
import trio
from support.engine import start_engine
from support.tiny_model import cached_model

from trio_ai_proxy.testing import RawClient

BODY = {"model": "any", "messages": [{"role": "user", "content": "the river"}]}


@pytest.mark.witness
async def test_the_engine_answers_as_many_tokens_as_were_asked_for() -> None:
    with trio.fail_after(60):
        async with start_engine(cached_model("tiny")) as engine, httpx.AsyncClient(trust_env=False) as client:
            response = await client.post(f"{engine.base_url}/v1/chat/completions", json={**BODY, "max_tokens": 50})
            assert response.json()["usage"]["completion_tokens"] == 50
            assert response.json()["choices"][0]["finish_reason"] == "length"
            assert await engine.tokens_predicted() == 50


@pytest.mark.witness
async def test_the_engine_stops_generating_when_its_client_leaves() -> None:
    with trio.fail_after(120):
        async with start_engine(cached_model("mid")) as engine:
            host, _, port = engine.base_url.removeprefix("http://").partition(":")
            async with RawClient(host, int(port)) as client:
                await client.post("/v1/chat/completions", json={**BODY, "max_tokens": 3000, "stream": True})
                await client.read_head()
                for _ in range(5):
                    await client.read_chunk()
                assert await engine.requests_processing() == 1
                await client.fin()
            while await engine.requests_processing():
                await trio.sleep(0.01)
            generated = await engine.tokens_predicted()
            assert 0 < generated < 500
            await trio.sleep(0.5)
            assert await engine.tokens_predicted() == generated
