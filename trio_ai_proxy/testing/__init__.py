"""How others prove it: scripted upstreams and clients for tests of disconnect and cancellation (docs/testing.md).

In memory on a virtual clock: `ScriptedTransport` is the provider, `open_client` the client. On real sockets:
`ScriptedServer` is the provider, `RawClient` the client. `no_leaks` holds either to its word.
"""

from __future__ import annotations

from trio_ai_proxy.testing.client import ClientAnswer, ScriptedClient, open_client
from trio_ai_proxy.testing.in_memory import OpenGateway, open_gateway
from trio_ai_proxy.testing.leaks import LeftBehind, no_leaks
from trio_ai_proxy.testing.raw import Head, RawClient, TimedChunk
from trio_ai_proxy.testing.scripts import openai_answer, openai_error, openai_stream
from trio_ai_proxy.testing.server import ReceivedRequest, ScriptedServer, ServerExchange, WireScript
from trio_ai_proxy.upstream.script import Script, ScriptedTransport, Step

__all__ = [
    "ClientAnswer",
    "Head",
    "LeftBehind",
    "OpenGateway",
    "RawClient",
    "ReceivedRequest",
    "Script",
    "ScriptedClient",
    "ScriptedServer",
    "ScriptedTransport",
    "ServerExchange",
    "Step",
    "TimedChunk",
    "WireScript",
    "no_leaks",
    "open_client",
    "open_gateway",
    "openai_answer",
    "openai_error",
    "openai_stream",
]
