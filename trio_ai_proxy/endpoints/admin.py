"""The admin port: health, metrics, and the exchanges that live now, any of which an operator can end."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from urllib.parse import unquote_to_bytes

import trio

from trio_ai_proxy.accounting.outcome import Cause
from trio_ai_proxy.endpoints.asgi import Head, answer, answer_json, openai_error
from trio_ai_proxy.endpoints.data import answer_ready
from trio_ai_proxy.errors import Interrupted, MethodNotAllowed, ProxyError, UnknownPath

if TYPE_CHECKING:
    from trio_ai_proxy.endpoints.asgi import Receive, Send
    from trio_ai_proxy.endpoints.services import Services
    from trio_ai_proxy.relay.exchange import Exchange
    from trio_ai_proxy.serving.guard import Guard

_EXCHANGE_PREFIX = b"/exchanges/"


class AdminPort:
    """What operators can call."""

    def __init__(self, services: Services, guard: Guard) -> None:
        self._services = services
        self.guard = guard

    async def __call__(self, scope: Any, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await _live(receive, send)
            return
        head = Head(scope)
        try:
            await self._answer(head, send)
        except ProxyError as error:
            headers = [(b"allow", error.allow.encode("ascii"))] if isinstance(error, MethodNotAllowed) else []
            await answer(send, error.status, openai_error(error), headers)

    async def _answer(self, head: Head, send: Send) -> None:
        if head.path.startswith(_EXCHANGE_PREFIX):
            _only(head, "DELETE")
            await self._cancel(unquote_to_bytes(head.path[len(_EXCHANGE_PREFIX) :]).decode("utf-8", "replace"), send)
            return
        if head.path not in (b"/metrics", b"/healthz", b"/readyz", b"/exchanges"):
            raise UnknownPath("The admin port serves /metrics, /healthz, /readyz and /exchanges.")
        _only(head, "GET")
        if head.path == b"/metrics":
            body, content_type = self._services.metrics.render()
            await answer(send, 200, body, [], content_type.encode("ascii"))
        elif head.path == b"/healthz":
            await answer_json(send, 200, {"status": "ok"}, [])
        elif head.path == b"/readyz":
            await answer_ready(self._services, send, [])
        else:
            now = trio.current_time()
            rows = [_row(exchange, now) for exchange in self._services.live.exchanges.values()]
            await answer_json(send, 200, {"exchanges": rows}, [])

    async def _cancel(self, request_id: str, send: Send) -> None:
        exchange = self._services.live.find(request_id)
        if exchange is None:
            raise UnknownPath("No exchange of that id lives.")
        exchange.interrupt(Cause.CANCELLED, Interrupted("An operator ended this exchange.", code="cancelled"))
        await answer_json(send, 200, {"cancelled": request_id}, [])


def _only(head: Head, method: str) -> None:
    if head.method not in (method, "HEAD" if method == "GET" else method):
        raise MethodNotAllowed(f"{head.method[:20]} is not served here; {method} is.", allow=method)


def _row(exchange: Exchange, now: float) -> dict[str, object]:
    plan, meter = exchange.plan, exchange.meter
    return {
        "id": exchange.request_id,
        "key": exchange.key,
        "model": exchange.model,
        "provider": plan.target.provider.name if plan is not None else None,
        "target": plan.target.model if plan is not None else None,
        "phase": exchange.phase,
        "abandoned": exchange.abandoned,
        "age_seconds": round(now - exchange.accepted_at, 3),
        "chunks": meter.chunks if meter is not None else 0,
        "completion_tokens": meter.completion_tokens if meter is not None else 0,
    }


async def _live(receive: Receive, send: Send) -> None:
    while True:
        kind = (await receive())["type"]
        await send({"type": f"{kind}.complete"})
        if kind == "lifespan.shutdown":
            return
