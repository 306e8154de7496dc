"""Several credentials of one provider, from outside: the real command in front of a provider that refuses one of them."""

from __future__ import annotations

import json
from contextlib import closing
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pytest
import trio
from support.standing import DONE, HeldPort, ask, chat, get, idle, metrics, standing, well

from trio_ai_proxy.testing import Script, ScriptedServer, openai_error

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from support.command import Command

    from trio_ai_proxy.testing import ReceivedRequest

pytestmark = pytest.mark.process

REFUSED, WELL, LIMITED = "sk-refused-marker-71001", "sk-well-marker-71002", "sk-limited-marker-71003"
KEYS = (REFUSED, WELL, LIMITED)


@dataclass(frozen=True)
class House:
    gateway: Command
    port: HeldPort


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    file: Path = tmp_path_factory.mktemp("keys") / "limited"
    file.write_text(f"{LIMITED}\n")
    port = HeldPort()
    config = f"""
[providers.pool]
kind = "openai_compatible"
base_url = "{port.url}/v1"
api_keys = ["${{REFUSED_KEY}}", "${{WELL_KEY}}", "file:{file}"]
[models.scripted]
retries = 0
targets = [{{ provider = "pool", model = "scripted" }}]
"""
    with closing(port), standing(config, env={"REFUSED_KEY": REFUSED, "WELL_KEY": WELL}) as gateway:
        yield House(gateway, port)


class Pool:
    """The provider: it refuses one credential, limits another, and repeats in its errors what it was sent."""

    def __init__(self) -> None:
        self.asked: list[str] = []

    def __call__(self, request: ReceivedRequest) -> Script:
        key = (request.header("authorization") or "").removeprefix("Bearer ")
        self.asked.append(key)
        if key == REFUSED:
            return openai_error(401, f"Incorrect API key provided: {key}.", code="invalid_api_key")
        if key == LIMITED:
            return openai_error(
                429, f"Rate limit reached for {key}.", code="rate_limit_exceeded", headers=[("retry-after", "90")]
            )
        assert key == WELL
        return well(request)


async def test_a_refused_and_a_limited_credential_cost_no_client_an_answer(house: House) -> None:
    pool, gateway, seen = Pool(), house.gateway, b""
    server = ScriptedServer(pool)
    server.port = house.port.number
    attempts: list[list[dict[str, Any]]] = []
    with trio.fail_after(60):
        async with server:
            for number in range(8):
                streamed = number % 2 == 0
                got = await ask(gateway, chat(stream=streamed))
                assert got.status == 200, got
                said = got.text if streamed else json.loads(got.body)["choices"][0]["message"]["content"]
                assert said == "Hello, world."
                assert not streamed or got.data[-1] == DONE
                seen += got.body + repr(got.headers).encode()
                attempts.append((await gateway.record(got.request_id))["attempts"])
                assert got.header("x-llm-attempts") == str(len(attempts[-1]))
            assert pool.asked.count(REFUSED) == pool.asked.count(LIMITED) == 1
            assert [row["credential"] for row in attempts[0]] == [0, 1]
            assert [row["credential"] for row in attempts[1]] == [2, 1]
            assert [[row["credential"] for row in rows] for rows in attempts[2:]] == [[1]] * 6
            shown = await get(gateway, "/targets", admin=True)
            states = json.loads(shown.body)["credentials"]["pool"]
            assert [one["state"] for one in states] == ["out", "usable", "resting"]
            samples = await metrics(gateway)
            assert samples['trio_ai_proxy_credentials_usable{provider="pool"}'] == 1
            out = 'trio_ai_proxy_credentials_out_total{credential="0",provider="pool",reason="401"}'
            assert samples[out] == 1
            seen += shown.body + (await get(gateway, "/metrics", admin=True)).body
            await idle(gateway)
    assert '"credential out"' in gateway.log
    written = gateway.log + gateway.records_file.read_text() + seen.decode()
    assert not any(key in written for key in KEYS)


async def test_when_no_credential_is_taken_the_provider_s_error_is_told_without_them(house: House) -> None:
    def refuse(request: ReceivedRequest) -> Script:
        return openai_error(
            401, f"Incorrect API key provided: {request.header('authorization')}", code="invalid_api_key"
        )

    server = ScriptedServer(refuse)
    server.port = house.port.number
    with trio.fail_after(30):
        async with server:
            got = await ask(house.gateway)
    assert (got.status, got.error["code"]) == (502, "invalid_api_key")
    assert not any(key.encode() in got.body for key in KEYS)
    assert not any(key in house.gateway.log for key in KEYS)
