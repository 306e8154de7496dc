"""The same guards where Hypercorn is in charge: `hypercorn -k trio trio_ai_proxy:app`.

Hypercorn builds its worker without asking us, but it starts the application's lifespan first. There we meet its
configuration (the lifespan's `receive` belongs to the object that holds it) and put our connection class in its place,
before the first connection is accepted.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from hypercorn.trio.lifespan import Lifespan

from trio_ai_proxy.serving.connection import GuardedServer
from trio_ai_proxy.serving.listener import configure
from trio_ai_proxy.serving.names import UnknownHypercorn, install

if TYPE_CHECKING:
    from trio_ai_proxy.serving.guard import Guard


def take_over(receive: Any, guard: Guard, *, graceful: float) -> None:
    """Guard the connections of the Hypercorn worker whose lifespan `receive` this is. Raises `UnknownHypercorn`."""
    lifespan = getattr(receive, "__self__", None)
    if not isinstance(lifespan, Lifespan):
        raise UnknownHypercorn(
            "trio_ai_proxy:app runs under Hypercorn's trio worker: hypercorn -k trio trio_ai_proxy:app"
        )
    install(GuardedServer)
    configure(lifespan.config, guard, graceful=graceful)


def binds(receive: Any) -> list[str]:
    """The network addresses, `host:port`, of the worker whose lifespan `receive` this is. Sockets of the file system and
    inherited ones are the operator's own affair."""
    lifespan = getattr(receive, "__self__", None)
    given = lifespan.config.bind if isinstance(lifespan, Lifespan) else []
    return [bind if ":" in bind else f"{bind}:8000" for bind in given if not bind.startswith(("unix:", "fd://"))]


def workers(receive: Any) -> int:
    """How many such workers there are. (Hypercorn's `-w 0` is one, without a master in front.)"""
    lifespan = getattr(receive, "__self__", None)
    return max(1, int(lifespan.config.workers)) if isinstance(lifespan, Lifespan) else 1
