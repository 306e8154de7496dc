"""The line between a worker process and the process that started it, its owner: what the worker is to serve, that it does,
the signals that it is to obey; and, when the owner is gone, nothing more. A worker that reads nothing more begins to end.

Signals go by this line because a worker may be sent them by others too: a terminal sends SIGINT to every process in the
foreground, a service manager SIGTERM to every process of the service. A worker that counted those would take the first
signal for the second.
"""

from __future__ import annotations

import pickle
import socket
from dataclasses import dataclass
from typing import TYPE_CHECKING

import trio

from trio_ai_proxy.errors import ConfigError

if TYPE_CHECKING:
    from trio_ai_proxy.settings import Settings

READY = b"+"
_LENGTH_BYTES = 4


@dataclass(frozen=True, slots=True)
class Job:
    """What one worker is given: its number from 0, the settings that its owner has checked, and the descriptors of the
    sockets that it inherits (admin: None if there is no admin port)."""

    worker: int
    settings: Settings
    listener: int
    admin: int | None

    def encode(self) -> bytes:
        """As it goes over the line."""
        data = pickle.dumps(self)
        return len(data).to_bytes(_LENGTH_BYTES, "big") + data


class Owner:
    """A worker's end of the line: the inherited descriptor `descriptor`. Raises `ConfigError` if it is none."""

    def __init__(self, descriptor: int) -> None:
        try:
            self._line = socket.socket(fileno=descriptor)
            self._line.set_inheritable(False)
            self._line.setblocking(True)
        except OSError as error:
            raise ConfigError([f"--worker is for processes that serve itself starts: {error.strerror}."]) from error
        self._stream: trio.SocketStream | None = None

    def take(self) -> Job | None:
        """What to serve; None if the owner is gone. Blocks: there is nothing else to do yet."""
        length = self._receive(_LENGTH_BYTES)
        data = self._receive(int.from_bytes(length, "big")) if length is not None else None
        if data is None:
            return None
        job: Job = pickle.loads(data)  # noqa: S301  from the process that started us, over a socket that nobody else has
        return job

    def _receive(self, size: int) -> bytes | None:
        parts = bytearray()
        while len(parts) < size:
            try:
                part = self._line.recv(size - len(parts))
            except OSError:
                return None
            if not part:
                return None
            parts += part
        return bytes(parts)

    def close(self) -> None:
        """Let go of the line."""
        if self._stream is not None:
            self._stream.socket.close()
        self._line.close()

    async def ready(self) -> None:
        """Tell the owner that connections are accepted."""
        try:
            await self._open_stream().send_all(READY)
        except trio.BrokenResourceError:
            pass  # it is gone; whoever waits for its next signal learns it

    async def signal(self) -> int | None:
        """Wait for the number of a signal to obey; None: the owner is gone."""
        try:
            data = await self._open_stream().receive_some(1)
        except trio.BrokenResourceError:
            return None
        return data[0] if data else None

    def _open_stream(self) -> trio.SocketStream:
        if self._stream is None:
            self._stream = trio.SocketStream(trio.socket.from_stdlib_socket(self._line))
        return self._stream
