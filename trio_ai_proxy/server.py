"""The process: sockets, signals, and the gateway between them.

SIGTERM or SIGINT: readiness goes off, the listener closes, streams have the drain time, then one in-band error each, and
the process ends with 0. A second signal ends it at once.
"""

from __future__ import annotations

import gc
import os
import signal
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import trio

from trio_ai_proxy.config import check_bind, default_settings, load_settings
from trio_ai_proxy.errors import ConfigError
from trio_ai_proxy.gateway import Gateway
from trio_ai_proxy.providers.table import KINDS
from trio_ai_proxy.relay.probe import probe
from trio_ai_proxy.serving.hosted import binds, take_over, workers
from trio_ai_proxy.serving.listener import address, open_listener, serve_app
from trio_ai_proxy.upstream.resolver import install_resolver

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable, Mapping

    from trio_ai_proxy.settings import Settings

CONFIG_VARIABLE = "TRIO_AI_PROXY_CONFIG"
DEFAULT_CONFIG = "config.toml"
AFTER_DRAIN = 2.0  # what the in-band errors may take to leave, once the drain time is over
FORCED_FLUSH = 1.0  # what a disk that hangs may hold up an end by a second signal


def read_settings(path: str | None, environ: Mapping[str, str]) -> tuple[Settings, list[str]]:
    """The settings of the file at `path`; else of the file that TRIO_AI_PROXY_CONFIG names; else of config.toml, if there is
    one; else the defaults. Also notes for people. Raises `ConfigError`."""
    named = path or environ.get(CONFIG_VARIABLE)
    file = named or DEFAULT_CONFIG
    try:
        text = Path(file).read_text(encoding="utf-8")
    except FileNotFoundError:
        if named is not None:
            raise ConfigError([f"{file}: there is no such file."]) from None
        return default_settings(environ, KINDS), []
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError([f"{file}: cannot be read: {error}."]) from error
    return load_settings(text, file=file, environ=environ, read_file=_read_secret, kinds=KINDS)


def _read_secret(path: str) -> str:
    return Path(path).read_text(encoding="utf-8")


def run(settings: Settings, announce: Callable[[str], None]) -> int:
    """Serve until a signal. `announce` gets the address of the data port once it accepts. Returns the exit code.

    Raises `ConfigError` where a port cannot be had.
    """
    listener = open_listener(settings.server.bind)
    admin = open_listener(settings.admin.bind) if settings.admin.bind else None
    return trio.run(_serve, settings, listener, admin, announce)


def calm_collector() -> None:
    """What lives as long as the process is never looked at again, and a full collection, which stops every stream, is made
    less often. Memory does not depend on it: an exchange leaves next to nothing that only the collector can find."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(10_000, 20, 50)


async def _serve(
    settings: Settings, listener: socket.socket, admin: socket.socket | None, announce: Callable[[str], None]
) -> int:
    gateway = Gateway(settings, admin_listener=admin)
    calm_collector()
    stop = trio.Event()
    forced: list[int] = []
    async with trio.open_nursery() as nursery:
        await nursery.start(_watch_signals, gateway, stop, nursery.cancel_scope, forced)
        await nursery.start(
            partial(
                _serve_data,
                gateway,
                listener,
                stop,
                graceful=settings.server.drain + AFTER_DRAIN,
                whole=nursery.cancel_scope,
            )
        )
        announce(gateway.address)
    # A second signal ends the writers with all the rest; the records of what it cut are written here.
    await gateway.records.flush(FORCED_FLUSH)
    return 128 + forced[0] if forced else 0


async def _serve_data(
    gateway: Gateway, listener: socket.socket, stop: trio.Event, *, graceful: float, whole: trio.CancelScope,
    task_status: trio.TaskStatus[Any],
) -> None:  # fmt: skip
    gateway.address = address(listener)
    await serve_app(gateway, listener, stop, graceful=graceful, task_status=task_status)
    whole.cancel()


async def _watch_signals(
    gateway: Gateway, stop: trio.Event, whole: trio.CancelScope, forced: list[int],
    task_status: trio.TaskStatus[None],
) -> None:  # fmt: skip
    with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
        task_status.started()
        async for number in signals:
            if not stop.is_set():
                gateway.begin_drain()
                stop.set()
            else:
                forced.append(number)
                whole.cancel()
                return


async def probe_targets(settings: Settings) -> dict[str, str | None]:
    """Ask each model's target for one token: model → None if it answered, else one sentence on why not."""
    gateway = Gateway(settings)
    install_resolver()
    try:
        return {name: await probe(target) for name, target in gateway.targets()}
    finally:
        await gateway.aclose()


class HostedApp:
    """The application that `hypercorn -k trio trio_ai_proxy:app` serves. The file that TRIO_AI_PROXY_CONFIG names (default
    config.toml) is read when the worker starts."""

    def __init__(self) -> None:
        self._gateway: Gateway | None = None

    @property
    def guard(self) -> Any:
        """The limits of its connections, once it has started."""
        return self._gateway.guard if self._gateway is not None else None

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "lifespan":
            self._gateway = self._start(receive)
        if self._gateway is not None:
            await self._gateway(scope, receive, send)

    def _start(self, receive: Any) -> Gateway:
        try:
            settings, notes = read_settings(None, os.environ)
            if workers(receive) > 1:
                raise ConfigError(["More than one worker is not built yet: leave out `-w`, or give `-w 1`."])
            for bind in binds(receive):
                check_bind(replace(settings, server=replace(settings.server, bind=bind)))
            admin = open_listener(settings.admin.bind) if settings.admin.bind else None
        except ConfigError as error:
            # Hypercorn would show a traceback and exit with 1. Nothing is open yet that could be left behind.
            for problem in error.problems:
                sys.stderr.write(problem + "\n")
            sys.stderr.flush()
            os._exit(2)
        for note in notes:
            sys.stderr.write(note + "\n")
        gateway = Gateway(settings, admin_listener=admin)
        take_over(receive, gateway.guard, graceful=settings.server.drain + AFTER_DRAIN)
        calm_collector()
        return gateway
