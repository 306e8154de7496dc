"""Fixtures for pytest-trio: `pytest_plugins = ["trio_ai_proxy.testing.fixtures"]` in a conftest makes them known.

The only module of the package that imports pytest, which is none of its run-time dependencies.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from trio_ai_proxy.testing.in_memory import OpenGateway, open_gateway, scripted_settings
from trio_ai_proxy.testing.leaks import no_leaks
from trio_ai_proxy.testing.scripts import openai_answer, openai_stream
from trio_ai_proxy.testing.server import ReceivedRequest, ScriptedServer
from trio_ai_proxy.upstream.script import Script, ScriptedTransport

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    import httpx

    from trio_ai_proxy.settings import Settings
    from trio_ai_proxy.testing.client import ScriptedClient


if TYPE_CHECKING:
    trio_fixture = pytest.fixture  # pytest-trio has no types; to a type checker the two are the same
else:
    from pytest_trio import trio_fixture


class ScriptedUpstream:
    """A provider in memory. Set `script` to what it is to answer, at any time; `transport` is what plays it.

    Until then it says "Hello, world.", as a stream or in one piece, as it is asked.
    """

    def __init__(self) -> None:
        self.script: Script | None = None
        self.requests: list[httpx.Request] = []
        self.transport = ScriptedTransport(self._answer)

    def _answer(self, request: httpx.Request) -> Script:
        self.requests.append(request)
        return self.script or _hello(json.loads(request.content))


class ScriptedPort:
    """A provider on a real port. Set `script` to what it is to answer, at any time; `server` is what plays it.

    Until then it says "Hello, world.", as a stream or in one piece, as it is asked.
    """

    def __init__(self) -> None:
        self.script: Script | None = None
        self.server = ScriptedServer(self._answer)

    def _answer(self, request: ReceivedRequest) -> Script:
        return self.script or _hello(request.json())


def _hello(fields: dict[str, Any]) -> Script:
    words = ["Hello", ", ", "world", "."]
    return openai_stream(words, usage=(3, 4)) if fields.get("stream") else openai_answer("".join(words), usage=(3, 4))


@pytest.fixture
def scripted_upstream() -> ScriptedUpstream:
    """The provider behind `gateway_client`."""
    return ScriptedUpstream()


@pytest.fixture
def gateway_settings() -> Settings:
    """What `gateway_client` talks to is built from this: one model, "scripted". Override it where you need another."""
    return scripted_settings()


@trio_fixture
async def open_scripted_gateway(
    gateway_settings: Settings, scripted_upstream: ScriptedUpstream
) -> AsyncIterator[OpenGateway]:
    """A started gateway in memory; every provider of its settings is the scripted upstream. When the test is over it
    is shut down, and the test fails if a task or a file descriptor is left."""
    transports = dict.fromkeys(gateway_settings.providers, scripted_upstream.transport)
    async with no_leaks(), open_gateway(gateway_settings, transports) as opened:
        yield opened  # noqa: ASYNC119  # pytest-trio runs a fixture to its end


@pytest.fixture
def gateway_client(open_scripted_gateway: OpenGateway) -> ScriptedClient:
    """A client of that gateway."""
    return open_scripted_gateway.client


@trio_fixture
async def scripted_port() -> AsyncIterator[ScriptedPort]:
    """A provider on a real loopback port. Not for a virtual clock, which would not wait for sockets."""
    port = ScriptedPort()
    async with port.server:
        yield port  # noqa: ASYNC119  # as above
