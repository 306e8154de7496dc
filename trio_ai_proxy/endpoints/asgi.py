"""The only code that handles ASGI dictionaries: a request's head, and answers that are not streams."""

from __future__ import annotations

import os
import re
from collections.abc import Awaitable, Callable, Mapping
from typing import TYPE_CHECKING, Any

import msgspec

if TYPE_CHECKING:
    from trio_ai_proxy.errors import ProxyError

Receive = Callable[[], Awaitable[Any]]
Send = Callable[[Any], Awaitable[None]]
Headers = list[tuple[bytes, bytes]]

# What a client may call its request: enough for UUIDs, ULIDs and trace ids, nothing that could break a header or a log.
_SANE_ID = re.compile(rb"[A-Za-z0-9._:/+=-]{1,128}")


class Head:
    """The head of one request: method, exact raw path, query and headers (names in lower case); `captures` is what the route's
    path has taken from it."""

    __slots__ = ("captures", "headers", "method", "path", "query", "request", "request_id")

    def __init__(self, scope: Mapping[str, Any]) -> None:
        self.method: str = scope["method"]
        self.path: bytes = scope.get("raw_path") or scope["path"].encode()
        self.query: bytes = scope.get("query_string", b"")
        self.captures: Mapping[str, str] = {}
        self.headers: dict[bytes, bytes] = {name.lower(): value for name, value in scope["headers"]}
        self.request: Any = scope.get("extensions", {}).get("trio_ai_proxy.request")  # under the guarded server only
        given = self.headers.get(b"x-request-id", b"")
        self.request_id = given.decode("ascii") if _SANE_ID.fullmatch(given) else os.urandom(16).hex()

    def stalled(self) -> bool:
        """Whether the client is gone because it stopped reading."""
        return bool(getattr(self.request, "stalled", False))


def openai_error(error: ProxyError) -> bytes:
    """An error where no dialect is known: in OpenAI's shape, which every client library here can read."""
    return msgspec.json.encode(
        {"error": {"message": error.message, "type": error.type, "param": error.param, "code": error.code}}
    )


async def answer(
    send: Send, status: int, body: bytes, headers: Headers, content_type: bytes = b"application/json"
) -> None:
    """Send a whole answer."""
    head = [(b"content-type", content_type), (b"content-length", b"%d" % len(body)), *headers]
    await send({"type": "http.response.start", "status": status, "headers": head})
    await send({"type": "http.response.body", "body": body, "more_body": False})


async def answer_json(send: Send, status: int, value: object, headers: Headers) -> None:
    """Send a whole answer of JSON."""
    await answer(send, status, msgspec.json.encode(value), headers)
