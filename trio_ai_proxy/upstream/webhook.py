"""Web services that are no providers, and that guards ask: one POST of JSON, one bounded answer.

The rules are those for providers: a pool of connections for each origin, TLS verified, nothing taken from the environment, no
redirect followed, no compression. Errors name the guard, never the address, which may hold a credential.
"""

from __future__ import annotations

from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import trio

from trio_ai_proxy.errors import UpstreamProtocolError, UpstreamTimeout
from trio_ai_proxy.providers.base import UpstreamRequest
from trio_ai_proxy.settings import ProviderSettings
from trio_ai_proxy.upstream.client import UpstreamClient
from trio_ai_proxy.upstream.transport import TrioTransport

if TYPE_CHECKING:
    from collections.abc import Mapping

    import httpx

MAX_ANSWER_BYTES = 1 * 2**20


class Webhooks:
    """All that one gateway asks. `aclose` it."""

    def __init__(self, transports: Mapping[str, httpx.AsyncBaseTransport] | None = None) -> None:
        """`transports`: origin ("https://guard.example.com") → what takes the place of the network there."""
        self._transports = transports or {}
        self._own: TrioTransport | None = None  # made when it is first needed: reading the authorities takes a while
        self._clients: dict[tuple[str, str], UpstreamClient] = {}

    async def post(
        self, guard: str, url: str, headers: Mapping[str, str], body: bytes, *, seconds: float
    ) -> tuple[int, bytes]:
        """POST `body` to `url` for the guard of that name. Returns the status, whatever it is, and the body. Raises
        `UpstreamError` where there was no answer within `seconds`, or one of more than 1 MiB."""
        who = f"The web service of guard '{guard}'"
        lines = {"content-type": "application/json", **{name.lower(): value for name, value in headers.items()}}
        encoded = tuple((name.encode("latin-1"), value.encode("latin-1")) for name, value in lines.items())
        request = UpstreamRequest("POST", url, encoded, body, stream=False)
        with trio.move_on_after(seconds):
            response = await self._client(guard, url, who).open(request, connect=seconds)
            try:
                if response.headers.get("content-encoding", "identity").strip().lower() not in ("", "identity"):
                    raise UpstreamProtocolError(f"{who} compressed its answer although that was not asked for.")
                return response.status, await response.read_all(MAX_ANSWER_BYTES)
            finally:
                await response.aclose()
        raise UpstreamTimeout("total", seconds, f"{who} did not answer within {seconds:g} s.")

    async def aclose(self) -> None:
        """Close the idle connections."""
        for client in self._clients.values():
            await client.aclose()

    def _client(self, guard: str, url: str, who: str) -> UpstreamClient:
        parts = urlsplit(url)
        origin = f"{parts.scheme}://{parts.netloc}"
        client = self._clients.get((guard, origin))
        if client is None:
            transport = self._transports.get(origin)
            if transport is None:
                transport = self._own = self._own or TrioTransport()
            settings = ProviderSettings(guard, "webhook")
            client = self._clients[guard, origin] = UpstreamClient(settings, transport, who=who)
        return client
