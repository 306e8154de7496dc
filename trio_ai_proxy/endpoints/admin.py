"""The admin port: health, metrics, what is known of targets, and the exchanges that live now, any of which an operator can
end."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from urllib.parse import unquote_to_bytes

import msgspec
import trio

from trio_ai_proxy.accounting.outcome import Cause
from trio_ai_proxy.endpoints.asgi import Head, answer, answer_json, openai_error
from trio_ai_proxy.endpoints.data import answer_ready
from trio_ai_proxy.errors import Interrupted, MethodNotAllowed, ProxyError, UnknownPath

if TYPE_CHECKING:
    from collections.abc import Sequence

    from trio_ai_proxy.endpoints.asgi import Receive, Send
    from trio_ai_proxy.endpoints.services import Services
    from trio_ai_proxy.relay.exchange import Exchange
    from trio_ai_proxy.routing.backoff import Budget
    from trio_ai_proxy.routing.credentials import CredentialView
    from trio_ai_proxy.routing.health import Health, HealthView
    from trio_ai_proxy.serving.guard import Guard
    from trio_ai_proxy.settings import ModelSettings

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
        if head.path not in (b"/metrics", b"/healthz", b"/readyz", b"/exchanges", b"/targets"):
            raise UnknownPath("The admin port serves /metrics, /healthz, /readyz, /exchanges and /targets.")
        _only(head, "GET")
        if head.path == b"/metrics":
            body, content_type = self._services.metrics.render()
            await answer(send, 200, body, [], content_type.encode("ascii"))
        elif head.path == b"/healthz":
            await answer_json(send, 200, {"status": "ok"}, [])
        elif head.path == b"/readyz":
            await answer_ready(self._services, send, [])
        elif head.path == b"/targets":
            now = trio.current_time()
            models = [_model(*target, now) for target in self._services.known_targets()]
            known = self._services.known_credentials()
            credentials = {name: [_credential(*one) for one in enumerate(views)] for name, views in known.items()}
            await answer_json(send, 200, {"models": models, "credentials": credentials}, [])
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
    leg, meter = exchange.leg, exchange.meter
    return {
        "id": exchange.request_id,
        "parent": exchange.parent,
        "guard": exchange.guard,
        "guards": msgspec.to_builtins(exchange.guarding.finish_books()) if exchange.guarding is not None else [],
        "key": exchange.key,
        "model": exchange.model,
        "provider": leg.target.provider.name if leg is not None else None,
        "target": leg.target.model if leg is not None else None,
        "attempt": exchange.attempts_begun,
        "phase": exchange.phase,
        "abandoned": exchange.abandoned,
        "age_seconds": round(now - exchange.accepted_at, 3),
        "chunks": meter.chunks if meter is not None else 0,
        "completion_tokens": meter.completion_tokens if meter is not None else 0,
    }


def _model(model: ModelSettings, healths: Sequence[Health], hedges: Budget, now: float) -> dict[str, object]:
    """What is known of one model's targets; the model is null where it stands for all names that nobody has configured."""
    hedges.has(now)
    return {
        "model": model.name or None,
        "balance": model.balance,
        "hedges_left": round(hedges.held, 3) if model.hedge_after is not None else None,
        "targets": [
            {
                "provider": target.provider,
                "target": target.model or None,
                "priority": target.priority,
                "weight": target.weight,
                **_health(health.view(now)),
            }
            for target, health in zip(model.targets, healths, strict=True)
        ],
    }


def _health(view: HealthView) -> dict[str, object]:
    return {
        "breaker": view.state,
        "retry_in_seconds": _rounded(view.retry_in),
        "consecutive_failures": view.consecutive_failures,
        "failure_rate": round(view.failure_rate, 3),
        "in_flight": view.in_flight,
        "ttft_seconds": _rounded(view.ttft),
        "ttft_p95_seconds": _rounded(view.ttft_p95),
        "seconds_per_token": _rounded(view.per_token, 6),
        "requests_last_minute": view.requests_last_minute,
        "tokens_last_minute": view.tokens_last_minute,
        "retries_left": round(view.retries_left, 3),
    }


def _credential(place: int, view: CredentialView) -> dict[str, object]:
    return {
        "credential": place,
        "state": view.state,
        "reason": view.reason,
        "out_for_seconds": _rounded(view.out_for),
        "ready_in_seconds": _rounded(view.ready_in),
    }


def _rounded(seconds: float | None, digits: int = 3) -> float | None:
    return None if seconds is None else round(seconds, digits)


async def _live(receive: Receive, send: Send) -> None:
    while True:
        kind = (await receive())["type"]
        await send({"type": f"{kind}.complete"})
        if kind == "lifespan.shutdown":
            return
