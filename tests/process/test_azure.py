"""Azure over real connections: a token service, a machine's identity service and a provider on loopback ports."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs

import pytest
import trio
from support.recordings import recordings

from trio_ai_proxy.settings import (
    EntraSettings,
    ModelSettings,
    ProviderSettings,
    Settings,
    TargetSettings,
    Timeouts,
    TokenSettings,
)
from trio_ai_proxy.testing import Script, ScriptedServer, Step, no_leaks, open_gateway, openai_answer

if TYPE_CHECKING:
    from pathlib import Path

    from trio_ai_proxy.testing.server import ReceivedRequest

pytestmark = pytest.mark.process

BODY = {"model": "m", "messages": [{"role": "user", "content": "hi"}]}
RECORDED = {recording.name: recording for recording in recordings("azure")}


def json_script(value: Any, status: int = 200) -> Script:
    return Script(
        status=status,
        headers=(("content-type", "application/json"),),
        steps=lambda: iter([Step(0.0, json.dumps(value).encode())]),
    )


class Services:
    """What answers on one port: tokens, and chat completions."""

    def __init__(self) -> None:
        self.token_requests: list[ReceivedRequest] = []
        self.bearers: list[str | None] = []

    def __call__(self, request: ReceivedRequest) -> Script:
        if "/token" in request.path:
            self.token_requests.append(request)
            return json_script({"access_token": f"token-{len(self.token_requests)}", "expires_in": "3600"})
        self.bearers.append(request.header("authorization"))
        if request.json().get("stream"):
            whole = RECORDED["asynchronous_filter"].response
            return Script(steps=lambda: iter([Step(0.0, whole[i : i + 40]) for i in range(0, len(whole), 40)]))
        return openai_answer("Color is", model="gpt-4o-2024-11-20", usage=(4, 2))


def settings(server: ScriptedServer, environ: dict[str, str], **keys: Any) -> Settings:
    account = ProviderSettings(
        name="az", kind="azure", base_url=server.url, api_version="2024-10-21", environment=environ, **keys
    )
    model = ModelSettings(name="m", targets=(TargetSettings("az", "gpt-4o"),))
    return Settings(
        tokens=TokenSettings(load_timeout=0), timeouts=Timeouts(), providers={"az": account}, models={"m": model}
    )


async def check(server: ScriptedServer, services: Services, configured: Settings) -> None:
    """Two requests, one token."""
    with trio.fail_after(20):
        async with open_gateway(configured) as opened:
            whole = await opened.client.post("/v1/chat/completions", json=BODY)
            streamed = await opened.client.post("/v1/chat/completions", json={**BODY, "stream": True})
    assert whole.json()["choices"][0]["message"]["content"] == "Color is"
    assert whole.json()["model"] == "m"
    assert streamed.body.endswith(b"data: [DONE]\n\n")
    chunks = [json.loads(part[6:]) for part in streamed.body.split(b"\n\n") if part.startswith(b"data: {")]
    assert "".join(c["delta"].get("content") or "" for chunk in chunks for c in chunk["choices"]) == "Color is"
    assert services.bearers == ["Bearer token-1", "Bearer token-1"]
    paths = {exchange.request.path for exchange in server.exchanges if "/token" not in exchange.request.path}
    assert paths == {"/openai/deployments/gpt-4o/chat/completions?api-version=2024-10-21"}


async def test_an_application_with_a_federated_token(tmp_path: Path) -> None:
    services = Services()
    token_file = trio.Path(tmp_path / "token")
    await token_file.write_text("federated\n")
    async with no_leaks(), ScriptedServer(services) as server:
        environ = {"AZURE_AUTHORITY_HOST": server.url, "AZURE_FEDERATED_TOKEN_FILE": str(token_file)}
        await check(server, services, settings(server, environ, entra=EntraSettings("tenant", "app")))
    [asked] = services.token_requests
    assert (asked.method, asked.path) == ("POST", "/tenant/oauth2/v2.0/token")
    assert parse_qs(asked.body.decode())["client_assertion"] == ["federated"]


async def test_the_identity_of_a_machine() -> None:
    services = Services()
    async with no_leaks(), ScriptedServer(services) as server:
        environ = {"AZURE_POD_IDENTITY_AUTHORITY_HOST": server.url}
        await check(server, services, settings(server, environ, managed_identity=True))
    [asked] = services.token_requests
    assert (asked.method, asked.header("metadata"), asked.body) == ("GET", "true", b"")


async def test_the_identity_of_an_app_service() -> None:
    services = Services()
    async with no_leaks(), ScriptedServer(services) as server:
        environ = {"IDENTITY_ENDPOINT": f"{server.url}/msi/token", "IDENTITY_HEADER": "header-of-the-service"}
        await check(server, services, settings(server, environ, managed_identity=True))
    [asked] = services.token_requests
    assert (asked.method, asked.header("x-identity-header")) == ("GET", "header-of-the-service")


async def test_a_token_file_that_is_not_there_is_one_error() -> None:
    services = Services()
    async with no_leaks(), ScriptedServer(services) as server:
        environ = {"AZURE_AUTHORITY_HOST": server.url, "AZURE_FEDERATED_TOKEN_FILE": "/nowhere/token"}
        configured = settings(server, environ, entra=EntraSettings("tenant", "app"))
        with trio.fail_after(20):
            async with open_gateway(configured) as opened:
                answer = await opened.client.post("/v1/chat/completions", json=BODY)
    assert answer.status == 502
    assert "federated token file" in answer.json()["error"]["message"]
    assert services.bearers == []
