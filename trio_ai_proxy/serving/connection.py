"""One client connection, whose failure is nobody else's.

Hypercorn's connection with four changes. Whatever goes wrong in it ends it and no other (the stock server ends with the
first exception that is not an OSError). Writing is not shielded and has a deadline by progress: a client that takes no
byte for `stall` seconds is thrown out. A write that was cut by a cancellation closes the connection, since half a chunk
is on the wire. After an early refusal the rest of the request is read and dropped for a short while, so that the refusal
is not destroyed by a reset.
"""

from __future__ import annotations

import math
import socket
import struct
from typing import TYPE_CHECKING, Any

import trio
from hypercorn.trio.tcp_server import MAX_RECV, TCPServer
from hypercorn.utils import parse_socket_addr
from typing_extensions import override

from trio_ai_proxy.serving.guard import Guard
from trio_ai_proxy.serving.protocol import Protocol

if TYPE_CHECKING:
    from hypercorn.config import Config
    from hypercorn.trio.worker_context import WorkerContext
    from hypercorn.typing import AppWrapper, LifespanState

_LINGER_RESET = struct.pack("ii", 1, 0)
_SIOCOUTQ = 0x5411  # Linux, tcp(7): bytes in the send queue that the peer has not acknowledged
_TLS_SLICE = 16 * 1024
_LOOKS = 10  # how often within the stall time a client that takes nothing is looked after


def _unsent_bytes(sock: socket.socket) -> int | None:
    """What the peer has not taken yet, or None where the system does not tell."""
    try:
        import fcntl

        return int(struct.unpack("i", fcntl.ioctl(sock, _SIOCOUTQ, b"\0\0\0\0"))[0])
    except (ImportError, OSError):
        return None


class GuardedServer(TCPServer):
    """One connection. Hypercorn makes one for each that it accepts."""

    protocol: Protocol  # type: ignore[assignment]  # no ProtocolWrapper: it exists to switch to HTTP/2

    def __init__(
        self, app: AppWrapper, config: Config, context: WorkerContext, state: LifespanState, stream: Any
    ) -> None:
        super().__init__(app, config, context, state, stream)
        guard = getattr(getattr(app, "app", None), "guard", None)
        self.guard: Guard = guard if isinstance(guard, Guard) else Guard()
        self.stalled = False
        self._broken = False
        self._reading = trio.CancelScope()
        self._resume: trio.Event | None = None
        self._lingering = False
        self._tls = hasattr(stream, "do_handshake")
        self.scheme = "https" if self._tls else "http"
        self.client: tuple[str, int] | None = None
        self.server: tuple[str, int] | None = None

    # -- life ---------------------------------------------------------------------------------------------------------

    @override
    async def run(self) -> None:
        try:
            await self._serve()
        except BaseException as error:  # noqa: BLE001, ASYNC103  # what must go on upwards is raised again
            rest = self.contain(
                error, "connection failed", (OSError, trio.BrokenResourceError, trio.ClosedResourceError)
            )
            if rest is not None:
                raise rest from None  # noqa: ASYNC104  # this is the cancellation

    def contain(
        self, error: BaseException, event: str, expected: tuple[type[BaseException], ...] = ()
    ) -> BaseException | None:
        """What of `error` must go on upwards: a cancellation, an interrupt. The rest is a bug, and ends here in the log,
        unless it was `expected`.

        A panic of a native library is a `BaseException`; left alone it would end the process.
        """
        upwards: BaseException | None
        bug: BaseException | None
        if isinstance(error, BaseExceptionGroup):
            upwards, bug = error.split((trio.Cancelled, KeyboardInterrupt, SystemExit, GeneratorExit))
        elif isinstance(error, trio.Cancelled | KeyboardInterrupt | SystemExit | GeneratorExit):
            upwards, bug = error, None
        else:
            upwards, bug = None, error
        if bug is not None and not isinstance(bug, expected):
            self.guard.report(event, error=bug)
        return upwards

    async def _serve(self) -> None:
        stream: Any = self.stream
        if self._tls:
            try:
                with trio.fail_after(self.config.ssl_handshake_timeout):
                    await stream.do_handshake()
            except (trio.BrokenResourceError, trio.TooSlowError):
                await trio.aclose_forcefully(stream)
                return
            sock = stream.transport_stream.socket
        else:
            sock = stream.socket
        self._socket: trio.socket.SocketType = sock
        self._raw: socket.socket = sock._sock  # noqa: SLF001  # trio offers no non-blocking send
        self.guard.opened(self)
        try:
            self.client = parse_socket_addr(sock.family, sock.getpeername())
            self.server = parse_socket_addr(sock.family, sock.getsockname())
            self.protocol = Protocol(self)
            async with trio.open_nursery() as self.nursery:
                self.set_idle(True)
                if self.guard.draining:
                    self.close_if_idle()
                await self._read()
        except OSError:
            pass  # gone before it began
        finally:
            self.guard.closed(self)
            await trio.aclose_forcefully(stream)

    async def _read(self) -> None:
        """Read until the client is gone, whatever else happens on this connection."""
        lingered = 0
        with self._reading:
            while True:
                try:
                    data = await self._receive()
                except (OSError, trio.ClosedResourceError, trio.BrokenResourceError):
                    break
                if not data:
                    break
                if self._lingering:
                    lingered += len(data)
                    if lingered > self.guard.linger_bytes:
                        break
                    continue
                await self.protocol.receive(data)
                data = b""  # what was read, a long prompt perhaps, must not stay for as long as its answer takes
                await self._wait_for_room()
        # A half-closed client cannot be told from one that has left, and such clients have practically disappeared.
        self.protocol.closed()
        self._break()

    async def _receive(self) -> bytes | bytearray:
        """What has come; b"" if the client has sent its last byte. Past trio's stream, which costs as much again."""
        if self._tls:
            return await self.stream.receive_some(MAX_RECV)
        while True:
            await trio.lowlevel.wait_readable(self._raw)
            try:
                return self._raw.recv(MAX_RECV)
            except BlockingIOError:
                continue

    async def _wait_for_room(self) -> None:
        """Read on only when the application has taken enough of the body."""
        while (
            self.protocol.stream is not None and self.protocol.stream.request.unread_bytes > self.guard.max_unread_bytes
        ):
            self._resume = trio.Event()
            await self._resume.wait()
            self._resume = None

    def resume_reading(self) -> None:
        """The application has taken some of the body."""
        if self._resume is not None:
            self._resume.set()

    def set_idle(self, idle: bool) -> None:
        """Between requests the next head is due within the keep-alive time; during one there is no such deadline."""
        self._reading.deadline = trio.current_time() + self.guard.keep_alive if idle else math.inf

    def close_if_idle(self) -> None:
        """Close unless a request is being read or answered."""
        if self.protocol.idle:
            self._reading.cancel()

    def linger(self) -> None:
        """The last answer is out: say so, drop what still comes, and close soon."""
        if self._lingering or self._broken:
            return
        self._lingering = True
        self._reading.deadline = trio.current_time() + self.guard.linger_seconds
        self.resume_reading()
        if self._tls:
            self._reading.cancel()
            return
        try:
            self._raw.shutdown(socket.SHUT_WR)
        except OSError:
            self._reading.cancel()

    def abort(self) -> None:
        """Close at once by reset: what has not been sent is dropped, and the client sees that something is missing."""
        if self._broken:
            return
        try:
            self._raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _LINGER_RESET)
        except OSError:
            pass  # closed already
        self._break()

    def _break(self) -> None:
        """Nothing is written from now on, and the reader wakes."""
        if not self._broken:
            self._broken = True
            self._socket.close()
            self._reading.cancel()
            self.resume_reading()

    # -- writing ------------------------------------------------------------------------------------------------------

    def push_now(self, data: bytes) -> bytes | None:
        """Write as much of `data` as the socket takes at once, and return the rest; None if nothing may be written now."""
        if self._broken or self._tls or self.send_lock.locked():
            return None
        try:
            sent = self._raw.send(data)
        except BlockingIOError:
            return data
        except OSError:
            self._lost()
            return b""
        return data[sent:]

    async def push(self, data: bytes) -> None:
        """Write `data`: at once if the socket takes it, else as it takes it. Returns when all is handed over, or when the
        client is gone; the application learns of that from `receive`."""
        if self._broken:
            return
        if not self._tls and not self.send_lock.locked():
            try:
                sent = self._raw.send(data)
            except BlockingIOError:
                sent = 0
            except OSError:
                self._lost()
                return
            if sent == len(data):
                return
            data = data[sent:]
        try:
            async with self.send_lock:
                await (self._push_tls(data) if self._tls else self._push_rest(data))
        except trio.Cancelled:
            self.abort()  # a part of a chunk may be out
            raise
        except (OSError, trio.BrokenResourceError, trio.ClosedResourceError):
            self._lost()

    async def _push_rest(self, data: bytes) -> None:
        rest = memoryview(data)
        while rest:
            if not await self._writable():
                return
            try:
                rest = rest[self._raw.send(rest) :]
            except BlockingIOError:
                continue

    async def _writable(self) -> bool:
        """Wait until the socket takes bytes again; False if the client took none for the stall time.

        A socket becomes writable only when a good part of its buffer is free, which a slow reader may need minutes for; so
        progress is what the peer acknowledged, where the system tells. It is looked for several times within the stall time,
        since what is on its way when we begin to wait is acknowledged at once, and would count for the whole of it.
        """
        unsent = _unsent_bytes(self._raw)
        now = progress_at = trio.current_time()
        while True:
            given_up_at = progress_at + self.guard.stall
            with trio.move_on_at(min(given_up_at, now + self.guard.stall / _LOOKS)):
                await trio.lowlevel.wait_writable(self._raw)
                return True
            now = trio.current_time()
            still_unsent = _unsent_bytes(self._raw)
            if unsent is not None and still_unsent is not None and still_unsent < unsent:
                unsent, progress_at = still_unsent, now
            elif now >= given_up_at:
                self._stall()
                return False

    async def _push_tls(self, data: bytes) -> None:
        for start in range(0, len(data), _TLS_SLICE):
            with trio.move_on_after(self.guard.stall) as patience:
                await self.stream.send_all(data[start : start + _TLS_SLICE])
            if patience.cancelled_caught:
                self._stall()
                return

    def _stall(self) -> None:
        self.stalled = True
        self.abort()
        self.protocol.closed()

    def _lost(self) -> None:
        self._break()
        self.protocol.closed()
