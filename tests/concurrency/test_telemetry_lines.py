"""The sink writes in order, loses only what it counts, and never makes anybody wait."""

from __future__ import annotations

import os
import resource
import threading
from pathlib import Path

import pytest
import trio

from trio_ai_proxy.telemetry.lines import LineSink

PATIENCE = 10.0  # seconds for what takes milliseconds


async def test_lines_are_written_in_the_order_in_which_they_were_put(tmp_path: Path, nursery: trio.Nursery) -> None:
    sink = LineSink(str(tmp_path / "log"))
    nursery.start_soon(sink.run)
    for number in range(1000):
        assert sink.put(b"%d\n" % number)
        if number % 100 == 0:
            await trio.lowlevel.checkpoint()
    assert await sink.flush(PATIENCE)
    assert (tmp_path / "log").read_bytes() == b"".join(b"%d\n" % number for number in range(1000))
    assert sink.dropped == 0
    nursery.cancel_scope.cancel()


async def test_what_was_put_before_the_run_is_written_and_a_file_is_added_to(
    tmp_path: Path, nursery: trio.Nursery
) -> None:
    (tmp_path / "log").write_bytes(b"old\n")
    sink = LineSink(str(tmp_path / "log"))
    sink.put(b"new\n")
    nursery.start_soon(sink.run)
    assert await sink.flush(PATIENCE)
    assert (tmp_path / "log").read_bytes() == b"old\nnew\n"
    nursery.cancel_scope.cancel()


async def test_a_flush_without_a_run_writes_by_itself(tmp_path: Path) -> None:
    sink = LineSink(str(tmp_path / "log"))
    sink.put(b"line\n")
    assert await sink.flush(PATIENCE)
    assert (tmp_path / "log").read_bytes() == b"line\n"
    assert sink._file is None


async def test_other_threads_may_put_lines(tmp_path: Path, nursery: trio.Nursery) -> None:
    sink = LineSink(str(tmp_path / "log"))
    nursery.start_soon(sink.run)
    await trio.testing.wait_all_tasks_blocked()

    def put_many() -> None:
        for _ in range(500):
            sink.put(b"%d\n" % threading.get_ident())

    async with trio.open_nursery() as threads:
        for _ in range(3):
            threads.start_soon(trio.to_thread.run_sync, put_many)
    assert await sink.flush(PATIENCE)
    assert (tmp_path / "log").read_bytes().count(b"\n") == 1500
    nursery.cancel_scope.cancel()


async def test_a_blocked_pipe_blocks_nobody_and_what_does_not_fit_is_counted(nursery: trio.Nursery) -> None:
    reading, writing = os.pipe()
    try:
        sink = LineSink(f"/dev/fd/{writing}", max_lines=100)
        nursery.start_soon(sink.run)
        line = b"x" * 8191 + b"\n"
        late = 0.0
        with trio.fail_after(PATIENCE):
            while sink.dropped < 50:
                before = trio.current_time()
                sink.put(line)
                await trio.lowlevel.checkpoint()
                late = max(late, trio.current_time() - before)
        assert late < 1.0
        assert len(sink._lines) == 100
        before = trio.current_time()
        assert not await sink.flush(0.05)
        assert trio.current_time() - before < 2.0
        nursery.cancel_scope.cancel()
    finally:
        os.close(reading)  # lets the thread that was left behind go
        os.close(writing)


async def test_a_cancelled_run_leaves_a_hanging_write_behind(autojump_clock: object) -> None:
    reading, writing = os.pipe()
    try:
        sink = LineSink(f"/dev/fd/{writing}")
        sink.put(b"x" * 2**20)
        with trio.move_on_after(5) as scope:
            await sink.run()
        assert scope.cancelled_caught
        assert not sink.is_running
    finally:
        os.close(reading)
        os.close(writing)


async def test_a_queue_is_bounded_in_bytes_too(tmp_path: Path) -> None:
    sink = LineSink(str(tmp_path / "log"), max_bytes=100)
    assert sink.put(b"x" * 60)
    assert not sink.put(b"x" * 60)
    assert sink.put(b"x" * 40)
    assert sink.dropped == 1
    assert await sink.flush(PATIENCE)
    assert sink.put(b"x" * 60)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no /dev/full")
async def test_a_full_disk_costs_lines_and_nothing_else(nursery: trio.Nursery) -> None:
    sink = LineSink("/dev/full")
    nursery.start_soon(sink.run)
    sink.put(b"one\n")
    sink.put(b"two\n")
    assert await sink.flush(PATIENCE)
    assert sink.dropped == 2
    assert sink.is_running
    nursery.cancel_scope.cancel()


async def test_a_folder_that_is_missing_costs_lines_until_it_is_there(tmp_path: Path, nursery: trio.Nursery) -> None:
    sink = LineSink(str(tmp_path / "later" / "log"))
    nursery.start_soon(sink.run)
    sink.put(b"lost\n")
    assert await sink.flush(PATIENCE)
    assert sink.dropped == 1
    (tmp_path / "later").mkdir()
    sink.put(b"kept\n")
    assert await sink.flush(PATIENCE)
    assert (tmp_path / "later" / "log").read_bytes() == b"kept\n"
    nursery.cancel_scope.cancel()


@pytest.mark.parametrize("rotation", ["rename", "unlink"])
async def test_a_file_that_was_rotated_away_is_opened_anew(
    tmp_path: Path, rotation: str, nursery: trio.Nursery
) -> None:
    log = tmp_path / "log"
    sink = LineSink(str(log))
    nursery.start_soon(sink.run)
    sink.put(b"before\n")
    assert await sink.flush(PATIENCE)
    if rotation == "rename":
        log.rename(tmp_path / "log.1")
    else:
        log.unlink()
    sink.put(b"after\n")
    assert await sink.flush(PATIENCE)
    assert log.read_bytes() == b"after\n"
    nursery.cancel_scope.cancel()


async def test_a_line_that_a_full_disk_broke_off_does_not_spoil_the_next(tmp_path: Path) -> None:
    log = tmp_path / "log"
    sink = LineSink(str(log))
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    for line in (b"whole\n", b"broken off\n", b"lost\n"):
        sink.put(line)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10, hard))
    try:
        assert await sink.flush(PATIENCE)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert sink.dropped == 2
    sink.put(b"next\n")
    assert await sink.flush(PATIENCE)
    assert log.read_bytes() == b"whole\nbrok\nnext\n"
    assert sink.dropped == 2


async def test_a_dash_is_standard_error(capfd: pytest.CaptureFixture[str]) -> None:
    sink = LineSink("-")
    sink.put(b"to standard error\n")
    assert await sink.flush(PATIENCE)
    assert capfd.readouterr().err == "to standard error\n"


async def test_a_pipe_that_does_not_block_is_waited_for_and_then_given_up(capfd: pytest.CaptureFixture[str]) -> None:
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    saved = os.dup(2)
    sink = LineSink("-")
    try:
        os.dup2(writing, 2)
        sink.put(b"x" * 65535 + b"\n")
        sink.put(b"never\n")
        assert await sink.flush(PATIENCE)
    finally:
        os.dup2(saved, 2)
        for descriptor in (reading, writing, saved):
            os.close(descriptor)
    assert sink.dropped == 1
