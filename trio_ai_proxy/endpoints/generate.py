"""The endpoints that generate text: from a request's head to its record.

What can be refused from the head alone is refused before the body is read. From then on one task receives for the
request's whole life, so that a departure is seen in every phase.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import trio

from trio_ai_proxy.accounting.outcome import Cause
from trio_ai_proxy.errors import (
    BodyTimeout,
    BodyTooLarge,
    ClientError,
    InternalError,
    Overloaded,
    ProxyError,
    UnsupportedMediaType,
)  # fmt: skip
from trio_ai_proxy.guards.body import Body
from trio_ai_proxy.relay.client import Client
from trio_ai_proxy.relay.counting import settle_usage
from trio_ai_proxy.relay.exchange import Exchange
from trio_ai_proxy.relay.run import run_exchange
from trio_ai_proxy.relay.writer import conclude
from trio_ai_proxy.routing.caller import Caller
from trio_ai_proxy.routing.placeholders import fill_model

if TYPE_CHECKING:
    from trio_ai_proxy.dialects.base import Dialect
    from trio_ai_proxy.endpoints.asgi import Head, Headers, Receive, Send
    from trio_ai_proxy.endpoints.services import Services
    from trio_ai_proxy.settings import KeySettings


class Generate:
    """One dialect at one path; `model` is the one that the path fixes, perhaps with placeholders, or None."""

    def __init__(self, services: Services, dialect: Dialect, model: str | None = None) -> None:
        self._services = services
        self._dialect = dialect
        self._model = model

    async def handle(self, head: Head, receive: Receive, send: Send, headers: Headers) -> None:
        """Serve one request. Raises nothing but cancellation, and writes exactly one record."""
        services = self._services
        exchange = Exchange(head.request_id, self._dialect, services.live, now=trio.current_time())
        is_direct = head.request is not None and send == head.request.send
        client = Client(send, headers, head.request if is_direct else None)
        services.live.add(exchange)
        try:
            key = self._check_head(head, exchange)
            body = Body(services.settings.server.max_body)
            if head.request is not None:
                exchange.departure_is_told = True
                await head.request.subscribe(body.add, partial(_left, exchange, body, head))
                await self._serve(exchange, client, body, key, head)
            else:
                async with trio.open_nursery() as request:
                    request.start_soon(_pump, receive, body, exchange, head)
                    await self._serve(exchange, client, body, key, head)
                    request.cancel_scope.cancel()
        except ProxyError as error:
            exchange.settle(Cause.REFUSED, error)
            await conclude(exchange, client)
        except Exception as error:  # noqa: BLE001  # the edge where a bug becomes one 500 and one log line
            exchange.settle(
                Cause.BUG, InternalError("The gateway failed; its log tells more under this request id."), repr(error)
            )
            services.report_bug(exchange, error)
            await conclude(exchange, client)
        finally:
            # Also when the server itself cancels: after the drain, or because a second signal came.
            exchange.settle(Cause.SHUTDOWN, detail="the server stopped")
            services.live.remove(exchange)
            services.record(exchange, client)

    def _check_head(self, head: Head, exchange: Exchange) -> KeySettings | None:
        services = self._services
        if services.draining:
            raise Overloaded("The gateway is shutting down; try again elsewhere.", code="draining", retry_after=1)
        key = services.keyring.identify(head.headers.get(b"authorization"))
        exchange.key = key.name if key is not None else None
        content_type = head.headers.get(b"content-type", b"application/json").partition(b";")[0].strip().lower()
        if content_type != b"application/json":
            raise UnsupportedMediaType("The request body must be JSON: send `content-type: application/json`.")
        if head.headers.get(b"content-encoding", b"identity").strip().lower() != b"identity":
            raise UnsupportedMediaType("A compressed request body is not understood.", param="content-encoding")
        length = head.headers.get(b"content-length", b"")
        limit = services.settings.server.max_body
        if length.isdigit() and int(length) > limit:
            raise BodyTooLarge(f"The request body is larger than {limit} bytes.")
        return key

    async def _serve(self, exchange: Exchange, client: Client, body: Body, key: KeySettings | None, head: Head) -> None:
        services = self._services
        exchange.phase = "body"
        seconds = services.settings.timeouts.body
        if not body.ready.is_set():
            exchange.receiving.deadline = trio.current_time() + seconds
            with exchange.receiving:
                await body.ready.wait()
        if exchange.ended:  # gone, or interrupted, before the body was whole
            await conclude(exchange, client)
            return
        if not body.ready.is_set():
            exchange.settle(Cause.TIMEOUT_BODY, BodyTimeout(f"The request body was not complete within {seconds:g} s."))
            await conclude(exchange, client)
            return
        try:
            exchange.body_bytes = body.size
            caller = Caller(head.headers, head.query, head.captures)
            model = fill_model(self._model, caller) if self._model is not None else None
            request = self._dialect.parse_request(body.content(), model=model)
            exchange.model = request.model
            plan = services.planner.plan(request, key, caller)
        except ClientError as error:
            exchange.settle(Cause.REFUSED, error)
            await conclude(exchange, client)
            return
        services.begin(exchange, plan)
        await run_exchange(exchange, plan, client, services.report_bug)
        if exchange.outcome.cause is Cause.COMPLETED:
            exchange.phase = "done"
        await settle_usage(exchange)


async def _pump(receive: Receive, body: Body, exchange: Exchange, head: Head) -> None:
    """The only caller of `receive`, until the client has gone or the request is over. Under the guarded server there is no
    need for such a task: the connection tells."""
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            break
        body.add(message.get("body", b""), not message.get("more_body", False))
    _left(exchange, body, head)


def _left(exchange: Exchange, body: Body, head: Head) -> None:
    """The client has gone."""
    exchange.client_left(stalled=head.stalled())
    body.ready.set()
