"""Lines leave by a queue and a thread of their own: whoever has one to write never waits for a disk or a pipe.

What does not fit is dropped and counted. Streams notice nothing of a full disk, a blocked pipe or a rotated file.

Several processes may write to one file or pipe, and cut into no line of one another. A write to a file opened for appending
is one piece. A write to a pipe is one piece up to PIPE_BUF bytes (POSIX, write()), so no more goes into one there, and no
part of a line; only a line that is longer can be cut, by a pipe that is full.
"""

from __future__ import annotations

import os
import select
import stat
import threading
from collections import deque
from contextlib import suppress

import trio

STANDARD_ERROR = 2

# One write at a time: enough to empty a full queue in a few turns, little enough to lose when a write fails.
BATCH_BYTES = 2**20
PAUSE = 0.02  # seconds between two batches; what comes meanwhile goes with the next

# How long the thread waits for a pipe that somebody else made non-blocking, before it gives the batch up.
PIPE_PATIENCE_MS = 1000


class LineSink:
    """Writes lines to a file, or to standard error (`"-"`), in the order in which they were put.

    dropped  how many lines were lost: the queue was full, or writing failed
    """

    def __init__(self, target: str, *, max_lines: int = 10_000, max_bytes: int = 16 * 2**20) -> None:
        self.target = target
        self.dropped = 0
        self._max_lines = max_lines
        self._max_bytes = max_bytes
        self._lines: deque[bytes] = deque()
        self._queued_bytes = 0
        self._lock = threading.Lock()  # held for a few assignments only; other threads log too
        self._limiter = trio.CapacityLimiter(1)
        self._progress = trio.lowlevel.ParkingLot()
        self._wake = trio.Event()
        self._token: trio.lowlevel.TrioToken | None = None
        self._trio_thread = 0
        # The rest belongs to the one thread that writes.
        self._is_writing = False
        self._is_torn = False
        self._file: int | None = None

    @property
    def is_running(self) -> bool:
        """Whether `run` is at work."""
        return self._token is not None

    def put(self, line: bytes) -> bool:
        """Queue `line`, line feed included. Returns whether there was room. Never blocks; any thread may call it."""
        with self._lock:
            if len(self._lines) >= self._max_lines or self._queued_bytes + len(line) > self._max_bytes:
                self.dropped += 1
                return False
            self._lines.append(line)
            self._queued_bytes += len(line)
        token = self._token
        if token is not None:
            if threading.get_ident() == self._trio_thread:
                self._ring()
            else:
                with suppress(trio.RunFinishedError):
                    token.run_sync_soon(self._ring, idempotent=True)
        return True

    async def run(self) -> None:
        """Write what is put, until cancelled. A write that hangs is left behind with its thread."""
        self._token = trio.lowlevel.current_trio_token()
        self._trio_thread = threading.get_ident()
        try:
            while True:
                self._wake = trio.Event()
                if not self._lines:
                    await self._wake.wait()
                await self._write_in_thread()
                await trio.sleep(PAUSE)  # a thread a line would cost more than the line
        finally:
            self._token = None
            self._progress.unpark_all()
            self._close_if_idle()

    async def flush(self, seconds: float) -> bool:
        """Wait until all that was put has been written (or lost), for at most `seconds`. Returns whether it has."""
        with trio.move_on_after(seconds):
            while self._lines or self._is_writing:
                if self.is_running:
                    await self._progress.park()
                else:
                    await self._write_in_thread()
                    self._close_if_idle()
            return True
        return False

    async def _write_in_thread(self) -> None:
        await trio.to_thread.run_sync(self._write_batch, limiter=self._limiter, abandon_on_cancel=True)
        self._progress.unpark_all()

    def _ring(self) -> None:
        self._wake.set()

    # -- in the writing thread ----------------------------------------------------------------------------------------

    def _write_batch(self) -> None:
        """Take about a megabyte of lines and write them. Takes them here, so that a cancelled wait for the thread loses
        none."""
        batch: list[bytes] = []
        size = 0
        with self._lock:
            self._is_writing = True
            while self._lines and size < BATCH_BYTES:
                line = self._lines.popleft()
                size += len(line)
                batch.append(line)
            self._queued_bytes -= size
        lost = len(batch)
        try:
            lost = self._write(batch)
        finally:
            with self._lock:
                self.dropped += lost
                self._is_writing = False

    def _write(self, batch: list[bytes]) -> int:
        """Write the lines; returns how many did not get out whole."""
        # A line that a full disk broke off is ended first, or it would spoil the next one.
        data = memoryview((b"\n" if self._is_torn else b"") + b"".join(batch))
        written = 0
        try:
            descriptor = self._descriptor()
            ends = [len(data)] if stat.S_ISREG(os.fstat(descriptor).st_mode) else _pieces(batch, int(self._is_torn))
            while written < len(data):
                end = next(end for end in ends if end > written)
                try:
                    written += os.write(descriptor, data[written:end])
                except BlockingIOError:
                    if not _becomes_writable(descriptor):
                        break
        except OSError:
            self._close()
        if written == 0:
            return len(batch)
        left = written - (1 if self._is_torn else 0)
        for place, line in enumerate(batch):
            if left < len(line):
                self._is_torn = left > 0
                return len(batch) - place
            left -= len(line)
        self._is_torn = False
        return 0

    def _descriptor(self) -> int:
        """The open file; opened anew when the name stands for another one by now, or for none (log rotation)."""
        if self.target == "-":
            return STANDARD_ERROR
        if self._file is not None:
            try:
                if os.path.samestat(os.stat(self.target), os.fstat(self._file)):
                    return self._file
            except FileNotFoundError:
                pass
            self._close()
        self._file = os.open(self.target, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o640)
        return self._file

    def _close(self) -> None:
        if self._file is not None:
            with suppress(OSError):
                os.close(self._file)
            self._file = None

    def _close_if_idle(self) -> None:
        with self._lock:  # a thread that begins to write takes the same lock, and opens the file after it
            if not self._is_writing:
                self._close()


def _pieces(batch: list[bytes], begins: int) -> list[int]:
    """Where to end each write: after as many whole lines as fit into PIPE_BUF bytes, one at least. `begins` bytes stand before
    the first line."""
    ends, start, end = [], 0, begins
    for line in batch:
        if end > start + begins and end + len(line) - start > select.PIPE_BUF:
            ends.append(end)
            start, begins = end, 0
        end += len(line)
    return [*ends, end]


def _becomes_writable(descriptor: int) -> bool:
    poll = select.poll()
    poll.register(descriptor, select.POLLOUT)
    return bool(poll.poll(PIPE_PATIENCE_MS))
