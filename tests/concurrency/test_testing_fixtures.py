"""The fixtures that users get: a whole gateway in memory between a scripted upstream and a scripted client."""

from __future__ import annotations

import itertools
import json
from typing import TYPE_CHECKING

import httpx

from trio_ai_proxy.testing import openai_stream

if TYPE_CHECKING:
    from trio.testing import MockClock

    from trio_ai_proxy.testing import OpenGateway, ScriptedClient
    from trio_ai_proxy.testing.fixtures import ScriptedPort, ScriptedUpstream

pytest_plugins = ["trio_ai_proxy.testing.fixtures"]

BODY = {"model": "scripted", "stream": True, "messages": [{"role": "user", "content": "hello"}]}


async def test_the_gateway_answers_with_what_the_upstream_said(
    autojump_clock: MockClock, gateway_client: ScriptedClient, scripted_upstream: ScriptedUpstream
) -> None:
    answer = await gateway_client.post("/v1/chat/completions", json={**BODY, "stream": False})
    assert answer.status == 200
    assert answer.json()["usage"]["completion_tokens"] == 4
    [request] = scripted_upstream.requests
    assert json.loads(request.content)["model"] == "scripted"


async def test_the_upstream_is_released_the_moment_the_client_leaves(
    autojump_clock: MockClock,
    open_scripted_gateway: OpenGateway,
    gateway_client: ScriptedClient,
    scripted_upstream: ScriptedUpstream,
) -> None:
    scripted_upstream.script = openai_stream(itertools.repeat("x"), pause=1)
    answer = await gateway_client.post("/v1/chat/completions", json=BODY, leave_after=10.5)
    assert len(answer.chunks) > 5
    [exchange] = scripted_upstream.transport.exchanges
    assert exchange.released_at == answer.left_at
    assert answer.returned_at == answer.left_at
    assert len(open_scripted_gateway.gateway.live) == 0


async def test_a_scripted_port_speaks_real_http(scripted_port: ScriptedPort) -> None:
    async with httpx.AsyncClient(trust_env=False) as client:
        response = await client.post(f"{scripted_port.server.url}/v1/chat/completions", json=BODY)
    assert response.text.endswith("data: [DONE]\n\n")
