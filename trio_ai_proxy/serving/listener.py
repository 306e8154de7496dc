"""A listening socket, and an application served on it by Hypercorn's own worker with our connections."""

from __future__ import annotations

import socket
from functools import partial
from typing import TYPE_CHECKING, Any

import trio
from hypercorn.app_wrappers import ASGIWrapper
from hypercorn.config import Config, Sockets
from hypercorn.trio.run import worker_serve

from trio_ai_proxy.errors import ConfigError
from trio_ai_proxy.serving.connection import GuardedServer
from trio_ai_proxy.serving.names import install
from trio_ai_proxy.telemetry.log import hypercorn_logger

if TYPE_CHECKING:
    from trio_ai_proxy.serving.guard import Guard

_BACKLOG = 1024


def open_listener(bind: str) -> socket.socket:
    """Listen on `host:port` (`[::1]:8000` for IPv6, `fd://3` for an inherited socket). Raises `ConfigError` in one sentence."""
    if bind.startswith("fd://"):
        inherited = socket.socket(fileno=int(bind.removeprefix("fd://")))
        inherited.setblocking(False)
        return inherited
    listener = _bound(bind)
    listener.listen(_BACKLOG)
    return listener


def open_shared(bind: str, count: int) -> list[socket.socket]:
    """`count` sockets that listen on one `host:port`; the system deals the connections out among them. Raises `ConfigError`.

    A socket that shares may join whoever of this user shares the port already, so a second gateway on it would go unseen:
    the port is first taken by a socket that does not.
    """
    first = _bound(bind)
    if count > 1:
        bind = address(first)  # port 0 has become a number
        first.close()
    opened = [first] if count == 1 else []
    try:
        while len(opened) < count:
            opened.append(_bound(bind, is_shared=True))
        for listener in opened:
            listener.listen(_BACKLOG)
    except ConfigError:
        for listener in opened:
            listener.close()
        raise
    return opened


def _bound(bind: str, *, is_shared: bool = False) -> socket.socket:
    host, _, port = bind.rpartition(":")
    host = host.strip("[]")
    listener: socket.socket | None = None
    try:
        listener = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if is_shared:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        listener.bind((host, int(port)))
    except OSError as error:
        if listener is not None:
            listener.close()
        raise ConfigError([f"Cannot listen on {bind}: {error.strerror or error}."]) from error
    listener.setblocking(False)
    return listener


def address(listener: socket.socket) -> str:
    """`host:port` that a listener has got, with the port that the system chose where 0 was asked for."""
    host, port = listener.getsockname()[:2]
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def configure(config: Config, guard: Guard, *, graceful: float) -> None:
    """Set what the guards rely on, whoever made `config`: our own `serve`, or Hypercorn's command line."""
    config.graceful_timeout = graceful
    config.keep_alive_timeout = guard.keep_alive
    config.keep_alive_max_requests = 2**31
    config.read_timeout = None  # it would end a stream whose client has nothing to say; the body has its own deadline
    config.include_server_header = False
    config.alpn_protocols = ["http/1.1"]
    config.websocket_ping_interval = None


async def serve_app(
    app: Any, listener: socket.socket, stop: trio.Event, *, graceful: float,
    task_status: trio.TaskStatus[Any] = trio.TASK_STATUS_IGNORED,
) -> None:  # fmt: skip
    """Serve the ASGI application `app` until `stop` is set; then its connections have `graceful` seconds to end."""
    install(GuardedServer)
    config = Config()
    config.errorlog = hypercorn_logger()
    config.accesslog = None
    configure(config, app.guard, graceful=graceful)
    await worker_serve(
        ASGIWrapper(app), config, sockets=Sockets([], [listener], []), shutdown_trigger=partial(_wait, stop),
        task_status=task_status,
    )  # fmt: skip


async def _wait(stop: trio.Event) -> None:
    await stop.wait()
