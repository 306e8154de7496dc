"""Several worker processes on one port: all serve, one that dies is replaced, a signal drains all, and none outlives the
process that started them.
"""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import sys
from collections import Counter
from contextlib import AsyncExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import trio
from support.command import Command, free_port, free_ports

from trio_ai_proxy.testing import RawClient
from trio_ai_proxy.testing.raw import BodyCut

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Callable

pytestmark = pytest.mark.process

DRAIN = 2.0
AFTER_DRAIN = 2.0
CONNECTIONS = 40  # that all of them fall to one of two workers happens once in 2**39 runs
CONFIG = "[tokens]\nload_timeout = 0.1\n[providers.demo]\nkind = 'demo'\n" + "".join(
    f"[models.{name}]\ntargets = [{{ provider = 'demo', model = '{name}' }}]\n" for name in ("demo", "demo-endless")
)


def command(*, drain: float = DRAIN) -> Command:
    return Command(CONFIG, server=f"drain = {drain}", workers=2)


async def get(port: int, path: str) -> tuple[int, bytes]:
    async with RawClient("127.0.0.1", port) as client:
        await client.get(path)
        status = (await client.read_head()).status
        return status, b"".join(chunk.data for chunk in await client.read_body())


async def wait_until(is_so: Callable[[], bool], *, seconds: float = 20) -> None:
    with trio.fail_after(seconds):
        while not is_so():
            await trio.sleep(0.02)


async def in_flight(gateway: Command, worker: int) -> int:
    """How many exchanges live in one worker, by its own admin port."""
    return len(json.loads((await get(gateway.admin_port + worker, "/exchanges"))[1])["exchanges"])


async def both_serve(gateway: Command) -> None:
    """Both workers answer at their admin ports."""
    with trio.fail_after(30):
        for worker in range(2):
            while True:
                try:
                    assert (await get(gateway.admin_port + worker, "/readyz"))[0] == 200
                    break
                except (OSError, trio.BrokenResourceError):
                    await trio.sleep(0.05)


class Streams:
    """Open streams that never end by themselves, and what became of them."""

    def __init__(self, gateway: Command, nursery: trio.Nursery) -> None:
        self._gateway, self._nursery = gateway, nursery
        self.endings: Counter[str] = Counter()

    async def open(self, count: int) -> None:
        for _ in range(count):
            await self._nursery.start(self._stream)

    async def _stream(self, task_status: trio.TaskStatus[None]) -> None:
        body = {"model": "demo-endless", "stream": True, "messages": [{"role": "user", "content": "Hello"}]}
        async with RawClient("127.0.0.1", self._gateway.port) as client:
            await client.post("/v1/chat/completions", json=body)
            assert (await client.read_head()).status == 200
            first = await client.read_chunk()
            assert first is not None
            task_status.started()
            last = b""
            try:
                while (chunk := await client.read_chunk()) is not None:
                    last = chunk.data
                self.endings["told" if b'"shutdown"' in last else "ended"] += 1
            except (BodyCut, trio.BrokenResourceError):
                self.endings["cut"] += 1


def is_gone(pid: int) -> bool:
    """Whether the process has ended; one that nobody has waited for yet has, too."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except (FileNotFoundError, ProcessLookupError):
        return True


def is_free(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) != 0


def events(gateway: Command, event: str) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in gateway.log.splitlines() if line.startswith("{")]
    return [line for line in lines if line["event"] == event]


async def test_all_workers_serve_one_port_and_write_one_record_log() -> None:
    with trio.fail_after(60):
        async with command() as gateway:
            await both_serve(gateway)
            await wait_until(lambda: "Serving on" in gateway.log)
            assert f"http://127.0.0.1:{gateway.admin_port + 1}" in gateway.log
            async with AsyncExitStack() as stack:
                clients = [
                    await stack.enter_async_context(RawClient("127.0.0.1", gateway.port)) for _ in range(CONNECTIONS)
                ]
                for number, client in enumerate(clients):
                    body = {"model": "demo", "max_tokens": 1, "messages": [{"role": "user", "content": "Hello"}]}
                    await client.post(
                        "/v1/chat/completions", json=body, headers=[("x-request-id", f"request-{number}")]
                    )
                for client in clients:
                    assert (await client.read_head()).status == 200
                    await client.read_body()
                served = [await _gauge(gateway, worker, "client_connections") for worker in range(2)]
                assert sum(served) == CONNECTIONS
                assert min(served) > 0, served
            await wait_until(lambda: len(gateway.records()) == CONNECTIONS)
            ids = {record["request_id"] for record in gateway.records()}
            assert ids == {f"request-{number}" for number in range(CONNECTIONS)}


async def _gauge(gateway: Command, worker: int, name: str) -> int:
    text = (await get(gateway.admin_port + worker, "/metrics"))[1].decode()
    found = re.search(rf"^trio_ai_proxy_{name}(?:{{.*}})? (\S+)$", text, re.MULTILINE)
    assert found, text
    return int(float(found[1]))


async def test_a_worker_that_dies_is_replaced_and_the_port_serves_on() -> None:
    with trio.fail_after(60):
        async with command() as gateway:
            await both_serve(gateway)
            first = set(gateway.worker_pids())
            assert len(first) == 2
            killed = min(first)
            os.kill(killed, signal.SIGKILL)
            # Also those whom the system deals to the dead worker's socket: they wait there for its successor.
            for _ in range(CONNECTIONS // 2):
                assert (await get(gateway.port, "/healthz"))[0] == 200
            await both_serve(gateway)
            now = set(gateway.worker_pids())
            assert len(now) == 2
            assert len(now & first) == 1
            [line] = events(gateway, "worker died")
            assert (line["pid"], line["code"]) == (killed, -signal.SIGKILL)
            assert line["restart_in_seconds"] > 0
            gateway.signal(signal.SIGTERM)
            assert await gateway.wait(seconds=20) == 0, gateway.log
            assert "Traceback" not in gateway.log


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_a_signal_drains_all_workers(number: signal.Signals) -> None:
    with trio.fail_after(60):
        async with command() as gateway, trio.open_nursery() as nursery:
            await both_serve(gateway)
            streams = Streams(gateway, nursery)
            await streams.open(CONNECTIONS)
            assert min([await in_flight(gateway, worker) for worker in range(2)]) > 0
            pids = gateway.worker_pids()
            signalled = trio.current_time()
            gateway.signal(number)
            with trio.fail_after(1.5):
                while not is_free(gateway.port):
                    await trio.sleep(0.02)
            for worker in range(2):
                assert (await get(gateway.admin_port + worker, "/readyz"))[0] == 503
            assert await gateway.wait(seconds=DRAIN + AFTER_DRAIN + 5) == 0, gateway.log
            assert DRAIN <= trio.current_time() - signalled < DRAIN + AFTER_DRAIN
            assert all(map(is_gone, pids))
        assert streams.endings == {"told": CONNECTIONS}
        assert [record["outcome"] for record in gateway.records()] == ["shutdown"] * CONNECTIONS
        assert "Traceback" not in gateway.log


async def test_a_signal_that_every_process_gets_is_one_signal() -> None:
    """So a terminal sends SIGINT, and a service manager SIGTERM."""
    with trio.fail_after(60):
        async with command() as gateway, trio.open_nursery() as nursery:
            await both_serve(gateway)
            streams = Streams(gateway, nursery)
            await streams.open(10)
            pids = gateway.worker_pids()
            signalled = trio.current_time()
            for pid in [*pids, gateway.process.pid, *pids]:
                os.kill(pid, signal.SIGTERM)
            assert await gateway.wait(seconds=20) == 0, gateway.log
            assert trio.current_time() - signalled >= DRAIN
        assert streams.endings == {"told": 10}
        assert not events(gateway, "worker died")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_a_second_signal_ends_all_workers_at_once(number: signal.Signals) -> None:
    with trio.fail_after(60):
        async with command(drain=60) as gateway, trio.open_nursery() as nursery:
            await both_serve(gateway)
            streams = Streams(gateway, nursery)
            await streams.open(10)
            pids = gateway.worker_pids()
            gateway.signal(signal.SIGTERM)
            await wait_until(lambda: is_free(gateway.port))
            signalled = trio.current_time()
            gateway.signal(number)
            assert await gateway.wait(seconds=20) == 128 + number, gateway.log
            assert trio.current_time() - signalled < 2
            assert all(map(is_gone, pids))
        assert streams.endings == {"cut": 10}
        assert [record["outcome"] for record in gateway.records()] == ["shutdown"] * 10
        assert "Traceback" not in gateway.log


async def test_workers_do_not_outlive_the_process_that_started_them() -> None:
    with trio.fail_after(60):
        async with command(drain=1) as gateway, trio.open_nursery() as nursery:
            await both_serve(gateway)
            streams = Streams(gateway, nursery)
            await streams.open(10)
            pids = gateway.worker_pids()
            assert len(pids) == 2
            gateway.signal(signal.SIGKILL)
            await wait_until(lambda: is_free(gateway.port), seconds=2)
            await wait_until(lambda: all(map(is_gone, pids)), seconds=1 + AFTER_DRAIN + 3)
            assert all(is_free(gateway.admin_port + worker) for worker in range(2))
        assert streams.endings == {"told": 10}, "they drain, as if they had been told to"


async def test_a_worker_that_hangs_is_killed_after_the_drain() -> None:
    with trio.fail_after(60):
        async with command(drain=0) as gateway:
            await both_serve(gateway)
            stopped = gateway.worker_pids()[0]
            os.kill(stopped, signal.SIGSTOP)
            gateway.signal(signal.SIGTERM)
            assert await gateway.wait(seconds=30) == 1, gateway.log
            assert is_gone(stopped)
        [line] = events(gateway, "worker killed, it did not end in time")
        assert line["pid"] == stopped


async def test_workers_that_die_at_once_again_and_again_end_the_process(tmp_path: Path) -> None:
    """An interpreter that fails in a worker only."""
    (tmp_path / "sitecustomize.py").write_text("import os, sys\nif '--worker' in sys.orig_argv: os._exit(7)\n")
    config = _written(tmp_path, free_port(), free_ports(2))
    with trio.fail_after(60):
        result = await _run("serve", "--config", str(config), env={"PYTHONPATH": str(tmp_path)})
    assert result.returncode == 1, result
    lines = [json.loads(line) for line in result.stderr.decode().splitlines()]
    died = [line for line in lines if line["event"] == "worker died"]
    assert {line["code"] for line in died} == {7}
    assert 5 <= len(died) <= 10
    assert [line["event"] for line in lines].count("worker dies at once, again and again: all end") == 1
    assert b"Serving" not in result.stdout


def _written(folder: Path, port: int, admin: int) -> Path:
    file = folder / "config.toml"
    file.write_text(f'[server]\nbind = "127.0.0.1:{port}"\nworkers = 2\n[admin]\nbind = "127.0.0.1:{admin}"\n' + CONFIG)
    return file


async def _run(*arguments: str, env: dict[str, str] | None = None) -> subprocess.CompletedProcess[bytes]:
    argv = [sys.executable, "-m", "trio_ai_proxy", *arguments]
    return await trio.run_process(
        argv, capture_stdout=True, capture_stderr=True, check=False, env={**os.environ, **(env or {})}
    )


async def test_ports_that_are_taken_are_told_all_at_once(tmp_path: Path) -> None:
    port, admin = free_port(), free_ports(2)
    with trio.fail_after(60), socket.socket() as data, socket.socket() as second:
        # A port that others share as well: a second gateway must not slip in beside the first.
        data.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        for taken, number in ((data, port), (second, admin + 1)):
            taken.bind(("127.0.0.1", number))
            taken.listen()
        result = await _run("serve", "--config", str(_written(tmp_path, port, admin)))
    assert result.returncode == 2
    assert result.stderr.decode().splitlines() == [
        f"Cannot listen on 127.0.0.1:{taken}: Address already in use." for taken in (port, admin + 1)
    ]


async def test_a_configuration_that_cannot_be_used_starts_no_worker(tmp_path: Path) -> None:
    with trio.fail_after(60):
        result = await _run("serve", "--config", str(_written(tmp_path, 8002, 8001)))
        assert result.returncode == 2
        [line] = result.stderr.decode().splitlines()
        assert "from where 2 `workers` want a port each, and one is the data port." in line
        result = await _run("serve", "--worker", "999")
        assert result.returncode == 2
        assert len(result.stderr.splitlines()) == 1


async def test_check_says_what_workers_do_not_share(tmp_path: Path) -> None:
    with trio.fail_after(60):
        result = await _run("check", "--config", str(_written(tmp_path, 8000, 8001)))
    assert result.returncode == 0
    assert "note: 2 workers share the data port and nothing else" in result.stdout.decode()


async def test_workers_of_hypercorns_command_have_an_admin_port_each() -> None:
    with trio.fail_after(60):
        async with Command(CONFIG, server="drain = 1", workers=2, hypercorn=True) as gateway:
            await both_serve(gateway)
            assert (await get(gateway.port, "/healthz"))[0] == 200
            gateway.signal(signal.SIGTERM)
            assert await gateway.wait(seconds=20) == 0, gateway.log
        assert "Traceback" not in gateway.log
