"""The data port: an exact table of raw path and method → endpoint, and after it the routes whose paths have gaps, in the order of
the file. Nothing is decoded, joined or normalised on the way; what a gap took is decoded when its route has been found.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote_to_bytes

from trio_ai_proxy.dialects.table import DIALECTS
from trio_ai_proxy.endpoints.asgi import Head, answer, answer_json, openai_error
from trio_ai_proxy.endpoints.generate import Generate
from trio_ai_proxy.errors import MethodNotAllowed, ProxyError, UnknownModel, UnknownPath
from trio_ai_proxy.relay.writer import error_headers
from trio_ai_proxy.routing.paths import PathPattern

if TYPE_CHECKING:
    from trio_ai_proxy.endpoints.asgi import Headers, Receive, Send
    from trio_ai_proxy.endpoints.services import Services

Endpoint = Callable[[Head, "Receive", "Send", "Headers"], Awaitable[None]]

_MODEL_PREFIX = b"/v1/models/"


class DataPort:
    """What clients can call."""

    def __init__(self, services: Services) -> None:
        self._services = services
        chat, text = DIALECTS["llm/v1/chat"], DIALECTS["llm/v1/completions"]
        self._table: dict[bytes, dict[str, Endpoint]] = {
            b"/v1/chat/completions": {"POST": Generate(services, chat).handle},
            b"/v1/completions": {"POST": Generate(services, text).handle},
            b"/v1/embeddings": {"POST": Generate(services, DIALECTS["llm/v1/embeddings"]).handle},
            b"/v1/models": {"GET": self._models},
            b"/healthz": {"GET": self._health},
            b"/readyz": {"GET": self._ready},
        }
        self._patterns: list[tuple[PathPattern, dict[str, Endpoint]]] = []
        for route in services.settings.routes:
            endpoint = Generate(services, DIALECTS[route.route_type], route.model)
            pattern = PathPattern.parse(route.path)
            if pattern.names:
                self._patterns.append((pattern, {"POST": endpoint.handle}))
            else:
                self._table[route.path.encode("ascii")] = {"POST": endpoint.handle}
        self._model: dict[str, Endpoint] = {"GET": self._one_model}
        self._origins = frozenset(services.settings.server.cors_origins)

    async def __call__(self, scope: Any, receive: Receive, send: Send) -> None:
        head = Head(scope)
        headers: Headers = [(b"x-request-id", head.request_id.encode("ascii"))]
        if self._origins:
            headers += self._cors(head)
        try:
            endpoint = self._find(head)
            if endpoint is None:
                await send({"type": "http.response.start", "status": 204, "headers": headers})
                await send({"type": "http.response.body", "body": b""})
                return
            await endpoint(head, receive, send, headers)
        except ProxyError as error:
            if isinstance(error, MethodNotAllowed):
                headers.append((b"allow", error.allow.encode("ascii")))
            await answer(send, error.status, openai_error(error), error_headers(error) + headers)

    def _find(self, head: Head) -> Endpoint | None:
        """The endpoint; None for a page's preflight request, which is answered with headers alone."""
        methods = self._table.get(head.path)
        if methods is None and head.path.startswith(_MODEL_PREFIX) and len(head.path) > len(_MODEL_PREFIX):
            methods = self._model
        if methods is None:
            methods = self._match(head)
        if methods is None:
            raise UnknownPath(f"Nothing is served at {head.path.decode('ascii', 'backslashreplace')[:200]}.")
        if head.method == "OPTIONS" and self._origins and b"origin" in head.headers:
            return None
        endpoint = methods.get("GET" if head.method == "HEAD" else head.method)
        if endpoint is None:
            allow = ", ".join(methods)
            raise MethodNotAllowed(f"{head.method[:20]} is not served here; {allow} is.", allow=allow)
        return endpoint

    def _match(self, head: Head) -> dict[str, Endpoint] | None:
        """The first route with gaps that takes this path."""
        for pattern, methods in self._patterns:
            captures = pattern.match(head.path)
            if captures is not None:
                head.captures = captures
                return methods
        return None

    def _cors(self, head: Head) -> Headers:
        """The headers by which a page of a configured origin may read the answer (the Fetch standard's CORS protocol)."""
        origin = head.headers.get(b"origin", b"").decode("latin-1")
        if origin not in self._origins and "*" not in self._origins:
            return [(b"vary", b"origin")]
        allowed = "*" if "*" in self._origins else origin
        return [
            (b"access-control-allow-origin", allowed.encode("latin-1")),
            (b"access-control-allow-methods", b"GET, POST"),
            (b"access-control-allow-headers", head.headers.get(b"access-control-request-headers", b"*")),
            (
                b"access-control-expose-headers",
                b"x-request-id, x-llm-provider, x-llm-model, x-llm-attempts, x-llm-dropped, retry-after",
            ),
            (b"access-control-max-age", b"600"),
            (b"vary", b"origin"),
        ]

    async def _models(self, head: Head, receive: Receive, send: Send, headers: Headers) -> None:
        services = self._services
        key = services.keyring.identify(head.headers.get(b"authorization"))
        listed = [self._card(name) for name in services.routes.visible(key)]
        await answer_json(send, 200, {"object": "list", "data": listed}, headers)

    async def _one_model(self, head: Head, receive: Receive, send: Send, headers: Headers) -> None:
        services = self._services
        key = services.keyring.identify(head.headers.get(b"authorization"))
        name = unquote_to_bytes(head.path[len(_MODEL_PREFIX) :]).decode("utf-8", "replace")
        if name not in services.routes.visible(key):
            raise UnknownModel(
                f"The model `{name[:256]}` does not exist or you do not have access to it.", param="model"
            )
        await answer_json(send, 200, self._card(name), headers)

    def _card(self, name: str) -> dict[str, object]:
        return {"id": name, "object": "model", "created": self._services.started_at, "owned_by": "trio-ai-proxy"}

    async def _health(self, head: Head, receive: Receive, send: Send, headers: Headers) -> None:
        await answer_json(send, 200, {"status": "ok"}, headers)

    async def _ready(self, head: Head, receive: Receive, send: Send, headers: Headers) -> None:
        await answer_ready(self._services, send, headers)


async def answer_ready(services: Services, send: Send, headers: Headers) -> None:
    """Whether new work is wanted here; not while draining."""
    ready = not services.draining
    await answer_json(send, 200 if ready else 503, {"status": "ready" if ready else "draining"}, headers)
