"""llama.cpp's own Messages API behind the gateway: a real server of that wire, and a real engine that must stop."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import httpx
import pytest
import trio
from support.command import Command
from support.engine import Engine, start_engine
from support.tiny_model import Size, cached_model
from support.witness import ENGINE_MODEL, ask, close, sdk

from trio_ai_proxy.testing import RawClient

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

pytestmark = [
    pytest.mark.witness,
    pytest.mark.process,
    # The SDK leaves its generators to the collector once it has seen [DONE] or an error; they are not ours.
    pytest.mark.filterwarnings(r"ignore:Async generator '(openai|httpx2|httpcore2)\.:ResourceWarning"),
]


@asynccontextmanager
async def engine_and_gateway(size: Size) -> AsyncIterator[tuple[Engine, Command]]:
    async with start_engine(cached_model(size)) as engine:
        config = f"""
[tokens]
load_timeout = 0.1
[providers.engine]
kind = "anthropic"
base_url = "{engine.base_url}"
api_key = "none"
[models.{ENGINE_MODEL}]
targets = [{{ provider = "engine", model = "any" }}]
"""
        async with Command(config) as gateway:
            yield engine, gateway


async def test_text_and_usage_are_what_the_engine_says() -> None:
    question = {"messages": [{"role": "user", "content": [{"type": "text", "text": "the river"}]}], "max_tokens": 40}
    with trio.fail_after(60):
        async with engine_and_gateway("tiny") as (engine, gateway):
            async with httpx.AsyncClient(trust_env=False, timeout=30) as client:
                fixed = {**question, "temperature": 0, "model": "any"}
                direct = (await client.post(f"{engine.base_url}/v1/messages", json=fixed)).raise_for_status().json()
            sent = direct["usage"]["input_tokens"] + direct["usage"]["cache_read_input_tokens"]
            client_of_ours = sdk("async", gateway.url)
            for fields in ({}, {"stream": True, "stream_options": {"include_usage": True}}):
                through = await ask(client_of_ours, "chat", temperature=0, max_tokens=40, **fields)
                assert len(through.text) > 40
                assert through.finish_reason == "length"
                assert through.usages == ((sent, 40, sent + 40),)
                assert through.models == {ENGINE_MODEL}
            completed = await ask(client_of_ours, "completions", max_tokens=9)
            assert completed.usages[0][1] == 9
            await close(client_of_ours)
            while len(gateway.records()) < 3:
                await trio.sleep(0.02)
            assert {record["usage_source"] for record in gateway.records()} == {"provider"}


@pytest.mark.parametrize("stream", [True, False], ids=["streamed", "one-shot"])
async def test_the_engine_stops_when_the_client_leaves(stream: bool) -> None:
    body = {"model": ENGINE_MODEL, "max_tokens": 2000, "messages": [{"role": "user", "content": "the river"}]}
    with trio.fail_after(90):
        async with engine_and_gateway("mid") as (engine, gateway), RawClient("127.0.0.1", gateway.port) as client:
            before = await engine.tokens_predicted()
            await client.post("/v1/chat/completions", json={**body, "stream": stream})
            while not await engine.requests_processing():
                await trio.sleep(0.02)
            await trio.sleep(0.5)
            await client.fin()
            await trio.sleep(1)
            assert await engine.requests_processing() == 0, "the engine goes on for a client that has left"
            assert 0 < await engine.tokens_predicted() - before < 1000
            while not gateway.records():
                await trio.sleep(0.02)
            [record] = gateway.records()
            assert record["outcome"] == "client_gone"
            assert record["upstream_released_ms"] < 100
