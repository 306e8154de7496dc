"""What can happen to the process: signals, no more files, disks and pipes that take nothing, no tokenizer. Against the
real command; numbers are those of docs/faults.md.
"""

from __future__ import annotations

import fcntl
import json
import os
import resource
import signal
import sys
from contextlib import asynccontextmanager, closing
from typing import TYPE_CHECKING, Any

import pytest
import trio
from support.command import Command, openai_provider
from support.standing import (
    DONE,
    HeldPort,
    ask,
    chat,
    data_of,
    eventually,
    get,
    metrics,
    openai_error,
    serves,
    text_of,
    upstream,
)  # fmt: skip

from trio_ai_proxy.testing import RawClient, Script, Step, openai_stream

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator
    from pathlib import Path

    from trio_ai_proxy.testing import ScriptedServer

pytestmark = [
    pytest.mark.process,
    pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc and at Linux's devices"),
]

EVENT = b'data: {"id":"x","choices":[{"index":0,"delta":{"content":"' + b"w " * 8000 + b'"}}]}\n\n'


def endless(data: bytes, pause: float = 0.0) -> Script:
    def steps() -> Iterator[Step]:
        while True:
            yield Step(pause, data)

    return Script(steps=steps)


def words(count: int, pause: float = 0.05) -> Script:
    return openai_stream([f"{number} " for number in range(count)], pause=pause)


@asynccontextmanager
async def house(
    script: Script, *, drain: str = "1s", hypercorn: bool = False, server: str = "", more: str = ""
) -> AsyncIterator[tuple[Command, ScriptedServer]]:
    """A gateway of its own, whose provider plays `script` for what has the word "fault" in it."""
    with trio.fail_after(60), closing(HeldPort()) as port:
        async with upstream(port, script) as provider:
            config = openai_provider(f"{port.url}/v1", timeouts="stall = 20") + more
            async with Command(config, server=f'drain = "{drain}"\n{server}', hypercorn=hypercorn) as gateway:
                yield gateway, provider


def connect(gateway: Command, **options: Any) -> RawClient:
    return RawClient("127.0.0.1", gateway.port, **options)


async def begin(client: RawClient, **fields: Any) -> None:
    """Ask for a stream, and read its head and its first words."""
    await client.post("/v1/chat/completions", json=chat("fault", **fields))
    await client.read_head()
    await client.read_chunk()


async def rest(client: RawClient) -> bytes:
    return b"".join(piece.data for piece in await client.read_body())


async def refuses(gateway: Command) -> bool:
    try:
        stream = await trio.open_tcp_stream("127.0.0.1", gateway.port)
    except OSError:
        return True
    await stream.aclose()
    return False


async def leave(gateway: Command, number: signal.Signals = signal.SIGTERM) -> None:
    """Send the signal, and wait until it has arrived: under Hypercorn's command line the master passes it on."""
    gateway.signal(number)

    async def drains() -> bool:
        return (await get(gateway, "/readyz", admin=True)).status == 503

    await eventually(drains)


# ── 35, 36: signals (more of them in test_shutdown.py) ──────────────────────────────────────────────────────────────────


async def test_35_a_request_on_a_connection_that_was_open_is_a_503() -> None:
    async with (
        house(words(20), drain="10s") as (gateway, provider),
        connect(gateway) as client,
        connect(gateway) as late,
    ):
        await begin(client)
        await late.send(b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\n")
        await trio.sleep(0.1)
        await leave(gateway)
        body = json.dumps(chat()).encode()
        try:
            await late.send(b"content-length: %d\r\n\r\n" % len(body) + body)
            answer = await late.read_all()
        except trio.BrokenResourceError:
            answer = b""
        if answer:  # closed before a whole head came is as good: nothing was begun
            assert answer.startswith(b"HTTP/1.1 503 ")
            assert openai_error(answer.partition(b"\r\n\r\n")[2])["code"] == "draining"
        assert len(provider.exchanges) == 1
        assert data_of(await rest(client))[-1] == DONE
        assert await gateway.wait(seconds=5) == 0


async def test_35_who_has_no_byte_of_an_answer_yet_gets_a_503() -> None:
    async with (
        house(Script(head_pause=60), drain="300ms") as (gateway, provider),
        connect(gateway) as streamed, connect(gateway) as whole,
    ):  # fmt: skip
        for client, stream in ((streamed, True), (whole, False)):
            await client.post("/v1/chat/completions", json=chat("fault", stream=stream))
        await eventually(lambda: len(provider.exchanges) == 2)
        gateway.signal(signal.SIGTERM)
        for client in (streamed, whole):
            assert (await client.read_head()).status == 503
            assert openai_error(await rest(client))["code"] == "shutdown"
            await client.fin()
        assert await gateway.wait(seconds=5) == 0
        assert [record["outcome"] for record in gateway.records()] == ["shutdown"] * 2


@pytest.mark.parametrize("hypercorn", [False, True], ids=["serve", "hypercorn"])
async def test_36_a_client_that_does_not_read_does_not_hold_up_the_end(hypercorn: bool) -> None:
    async with house(endless(EVENT), hypercorn=hypercorn) as (gateway, provider):
        async with connect(gateway, receive_buffer=4096) as client:
            await client.post("/v1/chat/completions", json=chat("fault"))
            await eventually(lambda: provider.exchanges and provider.exchanges[0].bytes_sent > 0)
            await trio.sleep(0.3)
            began = trio.current_time()
            gateway.signal(signal.SIGTERM)
            assert await gateway.wait(seconds=6) == 0
            assert trio.current_time() - began < 1 + 2 + 1.5, "drain, two seconds more, and a shared machine"
        [record] = gateway.records()
        assert record["outcome"] == "shutdown"
        assert "Traceback" not in gateway.log


# ── 40: files ────────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_40_without_files_streams_live_on_and_it_recovers() -> None:
    async with house(words(30)) as (gateway, _), connect(gateway) as client:
        await serves(gateway)
        await begin(client)
        used = gateway.open_files()
        _, hard = resource.prlimit(gateway.worker_pid, resource.RLIMIT_NOFILE)
        resource.prlimit(gateway.worker_pid, resource.RLIMIT_NOFILE, (used + 6, hard))
        crowd: list[trio.SocketStream] = []
        try:
            while len(crowd) < 40:  # the system accepts them into the queue; the gateway cannot
                crowd.append(await trio.open_tcp_stream("127.0.0.1", gateway.port))
            await trio.sleep(0.3)
            assert gateway.open_files() <= used + 6
            body = await rest(client)
            assert data_of(body)[-1] == DONE
            assert text_of(body).endswith("28 29 ")
        finally:
            for stream in crowd:
                await trio.aclose_forcefully(stream)
        await eventually(lambda: gateway.open_files() <= used + 1)
        await serves(gateway)
        assert '"bug"' not in gateway.log


async def test_40_without_a_file_for_the_provider_it_is_a_502_and_it_recovers() -> None:
    async with house(words(3, 0)) as (gateway, _), connect(gateway) as first, connect(gateway) as second:
        for client in (first, second):
            await client.get("/healthz")
            await client.read_head()
            await client.read_body()
        _, hard = resource.prlimit(gateway.worker_pid, resource.RLIMIT_NOFILE)
        resource.prlimit(gateway.worker_pid, resource.RLIMIT_NOFILE, (3, hard))
        await first.post("/v1/chat/completions", json=chat())
        assert (await first.read_head()).status == 502
        assert openai_error(await rest(first))["code"] == "upstream_refused"
        resource.prlimit(gateway.worker_pid, resource.RLIMIT_NOFILE, (hard, hard))
        await second.post("/v1/chat/completions", json=chat())
        assert (await second.read_head()).status == 200
        assert data_of(await rest(second))[-1] == DONE
        await serves(gateway)
        level = gateway.open_files()
        for _ in range(5):
            await serves(gateway)
        # One more may be the record log, opened again; five would be one for each exchange.
        await eventually(lambda: gateway.open_files() <= level + 1)
        assert '"bug"' not in gateway.log


# ── 43: disks and pipes ──────────────────────────────────────────────────────────────────────────────────────────────


async def _ask_many(gateway: Command, count: int = 20) -> None:
    for _ in range(count):
        answer = await ask(gateway)
        assert (answer.text, answer.seconds < 2) == ("Hello, world.", True)


async def test_43_a_full_disk_costs_records_and_nothing_else(tmp_path: Path) -> None:
    with trio.fail_after(60), closing(HeldPort()) as port:
        gateway = Command(openai_provider(f"{port.url}/v1"))
        text = gateway.config_file.read_text().replace(str(gateway.records_file), "/dev/full")
        gateway.config_file.write_text(text)
        async with upstream(port), gateway:
            await _ask_many(gateway)

            async def all_dropped() -> bool:
                return (await metrics(gateway))["trio_ai_proxy_records_dropped_total"] == 20

            await eventually(all_dropped)
            gateway.signal(signal.SIGTERM)
            assert await gateway.wait(seconds=5) == 0
            assert "Traceback" not in gateway.log


async def test_43_a_blocked_pipe_costs_records_and_nothing_else(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)  # somebody has it open, and does not read
    fcntl.fcntl(reader, fcntl.F_SETPIPE_SZ, 4096)
    try:
        with trio.fail_after(60), closing(HeldPort()) as port:
            gateway = Command(openai_provider(f"{port.url}/v1"))
            text = gateway.config_file.read_text().replace(str(gateway.records_file), str(pipe))
            gateway.config_file.write_text(text)
            async with upstream(port), gateway:
                await _ask_many(gateway, 60)
                began = trio.current_time()
                gateway.signal(signal.SIGTERM)
                assert await gateway.wait(seconds=8) == 0
                assert trio.current_time() - began < 5
                assert "Traceback" not in gateway.log
    finally:
        os.close(reader)


async def test_43_a_standard_error_that_nobody_reads_holds_up_nobody() -> None:
    """The default: records go to a pipe that a supervisor reads, or does not."""
    read_end, write_end = os.pipe()
    fcntl.fcntl(read_end, fcntl.F_SETPIPE_SZ, 4096)
    try:
        with trio.fail_after(60), closing(HeldPort()) as port:
            gateway = Command(openai_provider(f"{port.url}/v1"))
            text = gateway.config_file.read_text().replace(str(gateway.records_file), "-")
            gateway.config_file.write_text(text)
            async with upstream(port):
                process = await trio.lowlevel.open_process(
                    [sys.executable, "-m", "trio_ai_proxy", "serve", "--config", str(gateway.config_file)],
                    stderr=write_end, stdout=write_end,
                )  # fmt: skip
                try:
                    await eventually(lambda: _answers(gateway), seconds=20)
                    await _ask_many(gateway, 60)
                    assert (await get(gateway, "/healthz", admin=True)).status == 200
                    began = trio.current_time()
                    process.terminate()
                    with trio.fail_after(8):
                        assert await process.wait() == 0
                    assert trio.current_time() - began < 6
                finally:
                    if process.returncode is None:
                        process.kill()
                        with trio.move_on_after(2, shield=True):
                            await process.wait()
    finally:
        os.close(read_end)
        os.close(write_end)


async def _answers(gateway: Command) -> bool:
    return not await refuses(gateway)


# ── 45: tokens ───────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("ranks", ["missing", "broken"])
async def test_45_without_rank_files_counts_are_estimates_and_streams_go_on(tmp_path: Path, ranks: str) -> None:
    if ranks == "broken":
        for name in ("cl100k_base", "o200k_base"):
            (tmp_path / f"{name}.tiktoken").write_bytes(b"not base64\n" * 1000)
    more = f'[tokens]\nranks_dir = "{tmp_path}"\nload_timeout = "300ms"\n'
    async with house(words(30, 0.01), more=more) as (gateway, _):
        answer = await ask(gateway, chat("fault", stream_options={"include_usage": True}))
        assert answer.data[-1] == DONE
        usage = json.loads(answer.data[-2])["usage"]
        record = await gateway.record(answer.request_id)
        assert record["usage_source"] == "estimated"
        assert record["completion_tokens"] == usage["completion_tokens"] > 0
        assert record["prompt_tokens"] == usage["prompt_tokens"] > 0
        await eventually(lambda: "counts are estimates" in gateway.log)
        assert "Traceback" not in gateway.log
