"""Several processes write to one file, and to one pipe: every line arrives, and arrives whole."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest
import trio

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = pytest.mark.process

WRITERS, LINES = 3, 3000
# Lines of 30 to 4000 bytes, put in lots, so that batches of all sizes are written.
WRITER = """
import json, sys, trio
from trio_ai_proxy.telemetry.lines import LineSink

async def main(target, writer, lines):
    sink = LineSink(target)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(sink.run)
        for number in range(lines):
            filling = "x" * (number * 7919 % 3970)
            sink.put(json.dumps([writer, number, filling], separators=(",", ":")).encode() + b"\\n")
            if number % 50 == 0:
                await trio.sleep(0.001)
        await sink.flush(60)
        nursery.cancel_scope.cancel()
    assert sink.dropped == 0, sink.dropped

trio.run(main, sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
"""


def writers(target: str, stderr: int | None = None) -> list[subprocess.Popen[bytes]]:
    return [
        subprocess.Popen([sys.executable, "-c", WRITER, target, str(writer), str(LINES)], stderr=stderr)
        for writer in range(WRITERS)
    ]


def assert_whole(data: bytes) -> None:
    rows = [json.loads(line) for line in data.splitlines()]
    for writer in range(WRITERS):
        assert [number for who, number, _ in rows if who == writer] == list(range(LINES)), "in order, none lost"
    assert all(len(filling) == number * 7919 % 3970 for _, number, filling in rows)


async def test_lines_of_several_processes_in_one_file_are_whole(tmp_path: Path) -> None:
    file = tmp_path / "records"
    with trio.fail_after(60):
        for process in writers(str(file)):
            assert await trio.to_thread.run_sync(process.wait) == 0
    assert_whole(file.read_bytes())


async def test_lines_of_several_processes_in_one_pipe_are_whole_though_it_is_full_most_of_the_time() -> None:
    reading, writing = os.pipe()
    started = writers("-", stderr=writing)
    os.close(writing)

    def blocks() -> Iterator[bytes]:
        while block := os.read(reading, 1000):
            yield block

    with trio.fail_after(60):
        data = await trio.to_thread.run_sync(lambda: b"".join(blocks()))
        for process in started:
            assert await trio.to_thread.run_sync(process.wait) == 0
    os.close(reading)
    assert_whole(data)
