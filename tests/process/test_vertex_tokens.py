"""Tokens of a service account over real connections: the token service is another host than the provider's."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING
from urllib.parse import parse_qs

import pytest
import trio
from support.google_key import service_account
from support.recordings import recordings

from trio_ai_proxy.settings import ModelSettings, ProviderSettings, Settings, TargetSettings, TokenSettings
from trio_ai_proxy.testing import Script, ScriptedServer, Step, no_leaks, open_gateway

if TYPE_CHECKING:
    from trio_ai_proxy.testing import ClientAnswer, ReceivedRequest

RECORDED = {recording.name: recording.response for recording in recordings("gemini")}
ASK = {"model": "m", "messages": [{"role": "user", "content": "hi"}], "stream": True}


def token(request: ReceivedRequest) -> Script:
    assert parse_qs(request.body.decode())["grant_type"] == ["urn:ietf:params:oauth:grant-type:jwt-bearer"]
    body = json.dumps({"access_token": "token-of-the-test", "expires_in": 3600}).encode()
    headers = (("content-type", "application/json"),)
    return Script(headers=headers, steps=lambda: iter([Step(0.0, body)]), head_pause=0.2)


def settings(tokens: str, vertex: str) -> Settings:
    account = ProviderSettings(
        name="v",
        kind="vertex",
        base_url=vertex,
        project="p",
        location="global",
        service_account=service_account(f"{tokens}/token"),
    )
    return Settings(
        tokens=TokenSettings(load_timeout=0),
        providers={"v": account},
        models={"m": ModelSettings(name="m", targets=(TargetSettings(provider="v", model="gemini-2.5-flash"),))},
    )


@pytest.mark.process
async def test_twenty_clients_get_their_streams_with_one_token_and_leave_nothing() -> None:
    speak = Script(steps=lambda: iter([Step(0.01, line + b"\r\n") for line in RECORDED["text"].split(b"\r\n")[:-1]]))
    answers: list[ClientAnswer] = []
    with trio.fail_after(30):
        async with no_leaks(), ScriptedServer(token) as tokens, ScriptedServer(speak) as vertex:
            async with open_gateway(settings(tokens.url, vertex.url)) as opened, trio.open_nursery() as nursery:

                async def ask() -> None:
                    answers.append(await opened.client.post("/v1/chat/completions", json=ASK))

                for _ in range(20):
                    nursery.start_soon(ask)
            assert len(tokens.exchanges) == 1
            assert {one.request.header("authorization") for one in vertex.exchanges} == {"Bearer token-of-the-test"}
            path = "/v1/projects/p/locations/global/publishers/google/models/gemini-2.5-flash:streamGenerateContent?alt=sse"
            assert {one.request.path for one in vertex.exchanges} == {path}
    assert [answer.status for answer in answers] == [200] * 20
    assert all(answer.body.endswith(b"data: [DONE]\n\n") for answer in answers)


@pytest.mark.process
async def test_client_that_leaves_in_the_middle_of_a_fetch_lets_go_of_the_token_service() -> None:
    silent = Script(head_pause=60.0)
    with trio.fail_after(30):
        async with no_leaks(), ScriptedServer(silent) as tokens, ScriptedServer(silent) as vertex:
            async with open_gateway(settings(tokens.url, vertex.url)) as opened:
                await opened.client.post("/v1/chat/completions", json=ASK, leave_after=0.3)
                [fetch] = tokens.exchanges
                await fetch.over.wait()
                assert fetch.released_at is not None
                assert len(opened.gateway.live) == 0
            assert vertex.exchanges == []
