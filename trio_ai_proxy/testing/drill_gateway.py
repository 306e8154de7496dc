"""The gateway under drill: a process that the drill starts, or one that runs already. It is seen only through its two
ports and its records."""

from __future__ import annotations

import functools
import json
import signal
import socket
import subprocess
import sys
import tempfile
import tomllib
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import trio

from trio_ai_proxy.errors import ConfigError
from trio_ai_proxy.providers.demo_script import DEMO_MODELS
from trio_ai_proxy.testing.raw import BodyCut, RawClient, TimedChunk

if TYPE_CHECKING:
    from collections.abc import Awaitable
    from types import TracebackType

EARLY_HEAD_MODEL = "drill-early-head"  # waits for its first token behind keep-alive comments, so its head is out early
IDLE_SECONDS = 1.5
DRAIN_SECONDS = 3.0
_START_SECONDS = 30.0
_POLL_SECONDS = 0.005


@dataclass(frozen=True, slots=True)
class Address:
    """Where a port is."""

    host: str
    port: int

    @classmethod
    def of_url(cls, url: str) -> Address:
        """Of an `http://HOST:PORT` URL. Raises `ConfigError` for anything else: drills need raw connections."""
        parts = urlsplit(url)
        if parts.scheme != "http" or parts.hostname is None:
            raise ConfigError([f"a drill needs a URL like http://127.0.0.1:8000, not {url!r}"])
        return cls(parts.hostname, parts.port or 80)

    @classmethod
    def of_bind(cls, bind: str) -> Address:
        """Of a `bind` of the configuration, as a client on this machine reaches it."""
        host, _, port = bind.rpartition(":")
        return cls("127.0.0.1" if host in ("", "0.0.0.0", "[::]") else host.strip("[]"), int(port))  # noqa: S104


@dataclass(slots=True)
class GatewayUnderDrill:
    """Where the gateway is, and what it tells of its exchanges.

    data, admin  its ports; None: the admin port is not known, and nothing can be read there
    key          sent as the bearer, where there is one
    records      the file that its exchange records end up in, if it can be read here
    process      the process, if the drill started it
    patience     seconds to wait for an answer that the gateway's own deadlines must bring
    """

    data: Address
    admin: Address | None = None
    key: str | None = None
    records: trio.Path | None = None
    process: trio.Process | None = None
    patience: float = 75.0

    def connect(self) -> RawClient:
        """A connection to the data port, still to be opened by `async with`."""
        return RawClient(self.data.host, self.data.port)

    def headers(self, request_id: str) -> list[tuple[str, str]]:
        """What every request of a drill carries."""
        authorization = [("authorization", f"Bearer {self.key}")] if self.key is not None else []
        return [("x-request-id", request_id), *authorization]

    async def models(self) -> set[str] | None:
        """The models that it serves, None if it does not say."""
        async with self.connect() as client:
            await client.get("/v1/models", headers=self.headers("drill-models"))
            head = await client.read_head()
            answer = _read_json(await client.read_body())
        if head.status != 200 or not isinstance(answer, dict):
            return None
        return {str(row["id"]) for row in answer.get("data", [])}

    async def until_live(self, request_id: str, *, within: float = 2.0) -> bool:
        """Wait until the exchange is there. Without an admin port: wait a little, and believe it."""
        if self.admin is None:
            await trio.sleep(0.3)
            return True
        with trio.move_on_after(within):
            async with RawClient(self.admin.host, self.admin.port) as client:
                await _wait_until(client, request_id, is_live=True)
            return True
        return False

    async def gone_after(self, request_id: str, since: float, *, within: float = 3.0) -> float | None:
        """Milliseconds from `since` until the exchange is no longer there; None if it stays, or if nobody can tell."""
        if self.admin is None:
            return None
        with trio.move_on_after(within):
            async with RawClient(self.admin.host, self.admin.port) as client:
                await _wait_until(client, request_id, is_live=False)
            return (trio.current_time() - since) * 1000
        return None

    async def live(self) -> set[str] | None:
        """The ids of all exchanges that live now, None if there is no admin port to ask."""
        if self.admin is None:
            return None
        async with RawClient(self.admin.host, self.admin.port) as client:
            return await _live_ids(client)

    async def record(self, request_id: str, *, within: float = 3.0) -> dict[str, Any] | None:
        """The exchange's record, as soon as it is written; None if it is not written in time or cannot be read here."""
        if self.records is None:
            return None
        with trio.move_on_after(within):
            while True:
                found = [one for one in await self._all_records() if one.get("request_id") == request_id]
                if found:
                    return found[-1]
                await trio.sleep(0.02)
        return None

    async def _all_records(self) -> list[dict[str, Any]]:
        if self.records is None or not await self.records.exists():
            return []
        records = []
        for line in (await self.records.read_bytes()).splitlines():
            # Where records share standard error with the log, every other line is something else, or not yet whole.
            try:
                value = json.loads(line)
            except ValueError:
                continue
            if isinstance(value, dict) and "outcome" in value:
                records.append(value)
        return records

    def open_files(self) -> int | None:
        """How many file descriptors the process holds; None where the system does not show it, or it is not ours."""
        if self.process is None:
            return None
        try:
            return sum(1 for _ in Path(f"/proc/{self.process.pid}/fd").iterdir())
        except OSError:
            return None


class StartedGateway:
    """`async with StartedGateway(config) as gateway:` runs `trio-ai-proxy serve` until the block is left.

    config  the file to serve; None: one made for drills, with the demo provider, free ports and short deadlines
    Raises `ConfigError` with what the process said if it does not come up.
    """

    def __init__(self, config: Path | None = None, *, key: str | None = None) -> None:
        self._config = config
        self._key = key

    async def __aenter__(self) -> GatewayUnderDrill:
        async with AsyncExitStack() as stack:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="trio-ai-proxy-drill-")))
            log = trio.Path(folder / "stderr")
            config = self._config
            if config is None:
                config = folder / "config.toml"
                await trio.Path(config).write_text(drill_config(folder / "records"))
            gateway = await _describe(config, log, key=self._key, is_ours=self._config is None)
            self._nursery = await stack.enter_async_context(trio.open_nursery())
            errors = await stack.enter_async_context(await trio.open_file(log, "wb"))
            command = [sys.executable, "-m", "trio_ai_proxy", "serve", "--config", str(config)]
            run = functools.partial(trio.run_process, check=False, stdout=subprocess.DEVNULL, stderr=errors.wrapped)
            gateway.process = await self._nursery.start(run, command)
            is_up = await _is_up(gateway)
            self._running = stack.pop_all()
        if not is_up:
            said = (await log.read_bytes()).decode("utf-8", "replace")
            await self._stop()
            address = f"{gateway.data.host}:{gateway.data.port}"
            raise ConfigError([f"the gateway did not come up on {address}; it said:\n{said}"])
        return gateway

    def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> Awaitable[None]:
        return self._stop()

    async def _stop(self) -> None:
        async with self._running:
            self._nursery.cancel_scope.cancel()


def drill_config(records: Path) -> str:
    """A configuration for drills: every demo model, free ports, deadlines that pass while you watch."""
    lines = [
        "[server]",
        f'bind = "127.0.0.1:{_free_port()}"',
        f"drain = {DRAIN_SECONDS}",
        f"record_log = {json.dumps(str(records))}",
        "[admin]",
        f'bind = "127.0.0.1:{_free_port()}"',
        "[timeouts]",
        f"idle = {IDLE_SECONDS}",
        "first_token = 20",
        "total = 120",
        "[providers.demo]",
        'kind = "demo"',
    ]
    for name in DEMO_MODELS:
        lines += [f"[models.{json.dumps(name)}]", f'targets = [{{ provider = "demo", model = {json.dumps(name)} }}]']
    lines += [
        f"[models.{EARLY_HEAD_MODEL}]",
        "keep_alive = 0.2",
        'targets = [{ provider = "demo", model = "demo-slow-first-token" }]',
    ]
    return "\n".join(lines) + "\n"


async def _describe(config: Path, log: trio.Path, *, key: str | None, is_ours: bool) -> GatewayUnderDrill:
    """Where a gateway of that configuration will be found."""
    written = tomllib.loads(await trio.Path(config).read_text())
    server, admin = written.get("server", {}), written.get("admin", {})
    admin_bind = admin.get("bind", "127.0.0.1:8001")
    record_log = server.get("record_log", "-")
    return GatewayUnderDrill(
        data=Address.of_bind(server.get("bind", "127.0.0.1:8000")),
        admin=Address.of_bind(admin_bind) if admin_bind else None,
        key=key,
        records=log if record_log == "-" else trio.Path(record_log),
        patience=15.0 if is_ours else 75.0,
    )


async def _is_up(gateway: GatewayUnderDrill) -> bool:
    """Wait until it takes connections; False if it ends before it does, or never does."""
    process = gateway.process
    with trio.move_on_after(_START_SECONDS):
        while process is not None and process.poll() is None:
            try:
                async with gateway.connect():
                    return True
            except OSError:
                await trio.sleep(0.05)
    return False


async def _live_ids(client: RawClient) -> set[str]:
    await client.get("/exchanges")
    await client.read_head()
    answer = _read_json(await client.read_body())
    if not isinstance(answer, dict) or not isinstance(answer.get("exchanges"), list):
        raise ConfigError([f"{client.host}:{client.port} is no admin port: its /exchanges lists no exchanges"])
    return {str(row["id"]) for row in answer["exchanges"]}


async def _wait_until(client: RawClient, request_id: str, *, is_live: bool) -> None:
    while True:
        if (request_id in await _live_ids(client)) == is_live:
            return
        await trio.sleep(_POLL_SECONDS)


def _read_json(chunks: list[TimedChunk]) -> Any:
    try:
        return json.loads(b"".join(chunk.data for chunk in chunks))
    except ValueError:
        return None


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def terminate(gateway: GatewayUnderDrill) -> None:
    """Ask the process to end: SIGTERM. Only for a gateway that the drill started."""
    if gateway.process is None:
        raise ValueError("this gateway was not started by the drill")
    gateway.process.send_signal(signal.SIGTERM)


async def is_refusing(gateway: GatewayUnderDrill) -> bool:
    """Whether new work is turned away: no connection, or a 503."""
    try:
        async with gateway.connect() as client:
            body = {"model": "demo-fast", "messages": [{"role": "user", "content": "Too late?"}]}
            await client.post("/v1/chat/completions", json=body, headers=gateway.headers("drill-late"))
            return (await client.read_head()).status == 503
    except (OSError, BodyCut, trio.BrokenResourceError):
        return True
