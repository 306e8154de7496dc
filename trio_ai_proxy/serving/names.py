"""What we take from Hypercorn beyond its public interface, checked before anything is served.

Hypercorn is pinned to 0.18.*. The guarded classes stand on the names below; if a release moves one, the process says so
and does not start, rather than serve without its guards.
"""

from __future__ import annotations

import inspect
from importlib.metadata import version
from typing import Any

import hypercorn.trio.run
from hypercorn.trio.lifespan import Lifespan
from hypercorn.trio.tcp_server import TCPServer
from hypercorn.trio.worker_context import WorkerContext

# class → the methods that are overridden or called, with their parameters
_METHODS: tuple[tuple[type, str, tuple[str, ...]], ...] = (
    (TCPServer, "__init__", ("self", "app", "config", "context", "state", "stream")),
    (TCPServer, "__await__", ("self",)),
    (TCPServer, "run", ("self",)),
    (Lifespan, "asgi_receive", ("self",)),
    (WorkerContext, "mark_request", ("self",)),
)


class UnknownHypercorn(RuntimeError):
    """The installed Hypercorn is not the one that the guards were written for."""


def check_names() -> None:
    """Raise `UnknownHypercorn`, naming what is missing, unless the guards fit the installed Hypercorn."""
    missing: list[str] = []
    for owner, name, parameters in _METHODS:
        method = getattr(owner, name, None)
        if method is None or tuple(inspect.signature(method).parameters) != parameters:
            missing.append(f"{owner.__module__}.{owner.__qualname__}.{name}({', '.join(parameters)})")
    if getattr(hypercorn.trio.run, "TCPServer", None) is None:
        missing.append("hypercorn.trio.run.TCPServer")
    if missing:
        found = version("hypercorn")
        raise UnknownHypercorn(
            f"hypercorn {found} lacks what the guards stand on: {'; '.join(missing)}; install hypercorn==0.18.*"
        )


def install(server_class: type[TCPServer]) -> None:
    """Have every Hypercorn worker of this process serve its connections with `server_class`."""
    check_names()
    run: Any = hypercorn.trio.run
    run.TCPServer = server_class
