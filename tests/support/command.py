"""The real command in a process of its own, on real ports: what black-box tests speak to."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import trio

if TYPE_CHECKING:
    from types import TracebackType

_START_SECONDS = 60


def free_port() -> int:
    """A port that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def free_ports(count: int) -> int:
    """The first of `count` consecutive ports that nobody listens on now."""
    while True:
        first = free_port()
        with contextlib.ExitStack() as probes, contextlib.suppress(OSError, OverflowError):
            for port in range(first, first + count):
                probes.enter_context(socket.socket()).bind(("127.0.0.1", port))
            return first


class Command:
    """A gateway process. `async with Command(config) as gateway:`; leaving ends it, by SIGTERM and then by force.

    config     TOML without [server] bind and [admin]; those are added
    server     further lines of the [server] table
    hypercorn  start it as `hypercorn -k trio trio_ai_proxy:app`
    workers    how many processes serve; their admin ports are consecutive
    """

    def __init__(
        self,
        config: str = "",
        *,
        server: str = "",
        hypercorn: bool = False,
        workers: int = 1,
        env: dict[str, str] | None = None,
    ) -> None:
        self._folder = Path(tempfile.mkdtemp(prefix="gateway-"))
        self.workers = workers
        self.port, self.admin_port = free_port(), free_ports(workers)
        if workers > 1 and not hypercorn:
            server += f"\nworkers = {workers}"
        self.records_file = self._folder / "records.jsonl"
        self.config_file = self._folder / "config.toml"
        self.config_file.write_text(
            f'[server]\nbind = "127.0.0.1:{self.port}"\nrecord_log = "{self.records_file}"\n{server}\n'
            f'[admin]\nbind = "127.0.0.1:{self.admin_port}"\n{config}\n'
        )
        self._hypercorn = hypercorn
        self._env = {**os.environ, "PYTHONUNBUFFERED": "1", **(env or {})}
        self._env.pop("OPENAI_API_KEY", None) if not env else None
        self.process: subprocess.Popen[bytes]

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def log(self) -> str:
        """What it has written to its standard output and error."""
        return (self._folder / "log").read_text(errors="replace")

    def records(self) -> list[dict[str, Any]]:
        """The exchange records written so far."""
        if not self.records_file.exists():
            return []
        return [json.loads(line) for line in self.records_file.read_text().splitlines()]

    async def record(self, request_id: str, *, seconds: float = 20) -> dict[str, Any]:
        """The record of one exchange, as soon as it is written."""
        with trio.fail_after(seconds):
            while True:
                for record in self.records():
                    if record["request_id"] == request_id:
                        return record
                await trio.sleep(0.02)

    @property
    def worker_pid(self) -> int:
        """The process that serves: under Hypercorn's command line a child of the one that was started."""
        if not self._hypercorn:
            return self.process.pid
        return self._children()[-1]

    def worker_pids(self) -> list[int]:
        """The processes that serve, where several do under `serve`, in no order."""
        return self._children()

    def open_files(self) -> int:
        """How many file descriptors it has."""
        return len(os.listdir(f"/proc/{self.worker_pid}/fd"))

    def rss_kib(self) -> int:
        """Its resident memory."""
        for line in Path(f"/proc/{self.worker_pid}/status").read_text().splitlines():
            if line.startswith("VmRSS:"):
                return int(line.split()[1])
        raise RuntimeError("no VmRSS")

    def signal(self, number: int) -> None:
        self.process.send_signal(number)

    async def wait(self, *, seconds: float) -> int:
        """Its exit code, due within `seconds`."""
        with trio.fail_after(seconds):
            while self.process.poll() is None:
                await trio.sleep(0.02)
        return int(self.process.returncode)

    async def __aenter__(self) -> Self:
        if self._hypercorn:
            argv = [
                sys.executable,
                "-m",
                "hypercorn",
                "-k",
                "trio",
                "-w",
                str(self.workers),
                "-b",
                f"127.0.0.1:{self.port}",
                "trio_ai_proxy:app",
            ]
            self._env["TRIO_AI_PROXY_CONFIG"] = str(self.config_file)
        else:
            argv = [sys.executable, "-m", "trio_ai_proxy", "serve", "--config", str(self.config_file)]
        with (self._folder / "log").open("wb") as log:
            self.process = subprocess.Popen(argv, stdout=log, stderr=log, env=self._env, cwd=self._folder)  # noqa: ASYNC220
        try:
            await self._accepts()
        except BaseException:
            self._kill()
            raise
        return self

    async def _accepts(self) -> None:
        with trio.move_on_after(_START_SECONDS):
            while self.process.poll() is None:
                with contextlib.suppress(OSError):
                    stream = await trio.open_tcp_stream("127.0.0.1", self.port)
                    await stream.aclose()
                    return
                await trio.sleep(0.05)
        raise RuntimeError(f"the gateway did not start:\n{self.log}")

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            with trio.move_on_after(5, shield=True):
                while self.process.poll() is None:
                    await trio.sleep(0.02)
        self._kill()

    def _kill(self) -> None:
        if self.process.poll() is None:
            for child in self._children():
                with contextlib.suppress(ProcessLookupError):
                    os.kill(child, signal.SIGKILL)
            self.process.kill()
        self.process.wait()

    def _children(self) -> list[int]:
        """Each belongs to the thread that started it."""
        found: list[int] = []
        for children in Path(f"/proc/{self.process.pid}/task").glob("*/children"):
            with contextlib.suppress(OSError):
                found += map(int, children.read_text().split())
        return found


def openai_provider(
    base_url: str, *, model: str = "scripted", timeouts: str = "", extra: str = "", key: str = "sk-upstream-marker"
) -> str:
    """TOML of one OpenAI-compatible provider at `base_url` and one model of it, which gets one attempt."""
    return f"""
[timeouts]
{timeouts}
[providers.scripted]
kind = "openai"
base_url = "{base_url}"
api_key = "{key}"
{extra}
[models."{model}"]
targets = [{{ provider = "scripted", model = "{model}" }}]
retries = 0
"""
