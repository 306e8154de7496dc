"""The process: sockets, signals, and the gateway between them.

SIGTERM or SIGINT: readiness goes off, the listener closes, streams have the drain time, then one in-band error each, and
the process ends with 0. A second signal ends it at once. A worker, one process of several, is told both by its owner, and
drains too when that is gone.
"""

from __future__ import annotations

import gc
import os
import signal
import socket
import sys
from contextlib import closing
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import trio

from trio_ai_proxy.config import Explanation, check_bind, default_settings, explain, guard_problems, load_settings
from trio_ai_proxy.errors import ConfigError
from trio_ai_proxy.gateway import Gateway
from trio_ai_proxy.providers.table import KINDS, build_provider
from trio_ai_proxy.relay.probe import probe
from trio_ai_proxy.serving.hosted import binds, take_over, workers
from trio_ai_proxy.serving.lifeline import Owner
from trio_ai_proxy.serving.listener import address, open_listener, serve_app
from trio_ai_proxy.serving.workers import open_posts, supervise
from trio_ai_proxy.telemetry.log import bind_facts
from trio_ai_proxy.upstream.resolver import install_resolver

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping, Sequence

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
    settings, notes = load_settings(text, file=file, environ=environ, read_file=_read_secret, kinds=KINDS)
    _try_providers(settings, file)
    return settings, notes


def _try_providers(settings: Settings, file: str) -> None:
    """Build every provider once: what only its own wire can find wrong (a key that is no key, an address that does not fit, a
    guard's model that cannot do what the guard asks) is found with the rest, before anything is served. Raises `ConfigError`."""
    problems = []
    operations: dict[tuple[str, str], Collection[str]] = {}
    for provider in settings.providers.values():
        models = {
            target.model
            for model in settings.models.values()
            for target in model.targets
            if target.provider == provider.name
        }
        try:
            built = build_provider(provider)
            for model in sorted(models):
                operations[provider.name, model] = built.for_model(model).capabilities.operations
        except ConfigError as error:
            problems += [f"{file}: {problem}" for problem in error.problems]
    if not problems:
        problems = [f"{file}: {problem}" for problem in guard_problems(settings, operations)]
    if problems:
        raise ConfigError(problems)


def _read_secret(path: str) -> str:
    return Path(path).read_text(encoding="utf-8")


def run(settings: Settings, announce: Callable[[str], None], command: Sequence[str] = ()) -> int:
    """Serve until a signal. `announce` gets the address of the data port once it accepts. Returns the exit code.

    command  starts a worker process; needed where `[server] workers` is above 1

    Raises `ConfigError` where a port cannot be had.
    """
    posts = open_posts(settings)
    if len(posts) > 1:
        return supervise(settings, posts, command, announce)
    return trio.run(_serve, settings, posts[0].listener, posts[0].admin, announce)


def run_worker(descriptor: int) -> int:
    """Serve as one of several processes: what the owner says over the inherited descriptor. Returns the exit code."""
    owner = Owner(descriptor)
    job = owner.take()
    if job is None:
        return 0
    bind_facts(worker=job.worker)
    listener = socket.socket(fileno=job.listener)
    admin = socket.socket(fileno=job.admin) if job.admin is not None else None
    for inherited in filter(None, (listener, admin)):
        inherited.set_inheritable(False)
    return trio.run(_serve, job.settings, listener, admin, _say_nothing, owner)


def _say_nothing(address: str) -> None:
    """The owner announces, once every worker is there."""


def calm_collector() -> None:
    """What lives as long as the process is never looked at again, and a full collection, which stops every stream, is made
    less often. Memory does not depend on it: an exchange leaves next to nothing that only the collector can find."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(10_000, 20, 50)


@dataclass(eq=False)
class _Ending:
    """How the process ends: first by a drain, then by force. `forced` has the number of the signal that did."""

    gateway: Gateway
    whole: trio.CancelScope
    stop: trio.Event = field(default_factory=trio.Event)
    forced: int | None = None

    def drain(self) -> None:
        if not self.stop.is_set():
            self.gateway.begin_drain()
            self.stop.set()

    def force(self, number: int) -> None:
        if self.forced is None:
            self.forced = number
            self.whole.cancel()

    def signalled(self, number: int) -> None:
        if self.stop.is_set():
            self.force(number)
        else:
            self.drain()


async def _serve(
    settings: Settings, listener: socket.socket, admin: socket.socket | None, announce: Callable[[str], None],
    owner: Owner | None = None,
) -> int:  # fmt: skip
    gateway = Gateway(settings, admin_listener=admin)
    calm_collector()
    async with trio.open_nursery() as nursery:
        ending = _Ending(gateway, nursery.cancel_scope)
        await nursery.start(_watch_signals, ending.signalled if owner is None else lambda _: ending.drain())
        if owner is not None:
            nursery.start_soon(_obey, owner, ending)
        graceful = settings.server.drain + AFTER_DRAIN
        await nursery.start(partial(_serve_data, gateway, listener, ending, graceful=graceful))
        announce(gateway.address)
        if owner is not None:
            await owner.ready()
    # A second signal ends the writers with all the rest; the records of what it cut are written here.
    await gateway.records.flush(FORCED_FLUSH)
    return 128 + ending.forced if ending.forced is not None else 0


async def _serve_data(
    gateway: Gateway, listener: socket.socket, ending: _Ending, *, graceful: float, task_status: trio.TaskStatus[Any]
) -> None:
    gateway.address = address(listener)
    await serve_app(gateway, listener, ending.stop, graceful=graceful, task_status=task_status)
    ending.whole.cancel()


async def _watch_signals(act: Callable[[int], None], task_status: trio.TaskStatus[None]) -> None:
    with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
        task_status.started()
        async for number in signals:
            act(number)


async def _obey(owner: Owner, ending: _Ending) -> None:
    """A worker's own signals let it drain, and only its owner ends it by force (see `lifeline`)."""
    with closing(owner):
        number = await owner.signal()
        ending.drain()  # also if the owner is gone
        if number is not None and (number := await owner.signal()) is not None:
            ending.force(number)


async def probe_targets(settings: Settings) -> dict[str, str | None]:
    """Ask each model's target for one token: model → None if it answered, else one sentence on why not."""
    gateway = Gateway(settings)
    install_resolver()
    try:
        return {name: await probe(target) for name, target in gateway.targets()}
    finally:
        await gateway.aclose()


def explain_request(
    settings: Settings, *, model: str | None, file: str | None, key: str | None, headers: Sequence[str]
) -> Explanation:
    """What becomes of the request in `file` ("-": standard input; None: a short chat). Raises `ConfigError`."""
    body: bytes | None = None
    if file is not None:
        try:
            body = sys.stdin.buffer.read() if file == "-" else Path(file).read_bytes()
        except OSError as error:
            raise ConfigError([f"{file}: cannot be read: {error.strerror}."]) from error
    providers = {name: build_provider(provider) for name, provider in settings.providers.items()}
    return explain(settings, providers, model=model, body=body, key=key, headers=headers)


def _any_admin(settings: Settings, count: int) -> socket.socket:
    """An admin port for one of `count` workers that do not know which of them they are: the first that is free. Raises
    `ConfigError`."""
    problems: list[str] = []
    for worker in range(count):
        try:
            return open_listener(settings.admin.bind_of(worker))
        except ConfigError as error:
            problems += error.problems
    raise ConfigError(problems)


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
            for bind in binds(receive):
                check_bind(replace(settings, server=replace(settings.server, bind=bind, workers=workers(receive))))
            admin = _any_admin(settings, workers(receive)) if settings.admin.bind else None
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
