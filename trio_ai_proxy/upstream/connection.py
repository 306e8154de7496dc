"""One connection to a provider: a socket, perhaps with TLS on it. It is opened under a deadline that its caller sets,
and closed at once or not at all: no closing waits for the other side, and no failure or cancellation leaves a socket
open.
"""

from __future__ import annotations

import errno
import os
import socket
import ssl
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, cast

import certifi
import httpx
import trio
from trio.lowlevel import wait_readable, wait_writable
from typing_extensions import override

if TYPE_CHECKING:
    from collections.abc import Callable

    from trio_ai_proxy.upstream.readiness import Readiness

RECEIVE_BYTES = 64 * 1024


class Origin(NamedTuple):
    """What a connection can be used for."""

    scheme: str
    host: str
    port: int


def tls_context(ca_file: str | None = None) -> ssl.SSLContext:
    """Certificates and names are verified, against `ca_file` (PEM), the system's authorities, or, on a machine that has
    none (a slim container), those that come with httpx.

    Raises `OSError` (`ssl.SSLError` is one) if the file cannot be used.
    """
    if ca_file is None and not _system_has_authorities():
        ca_file = certifi.where()
    return ssl.create_default_context(cafile=ca_file)


def _system_has_authorities() -> bool:
    paths = ssl.get_default_verify_paths()
    try:
        return bool(paths.cafile) or (bool(paths.capath) and any(Path(paths.capath).iterdir()))
    except OSError:
        return False


def reason(error: BaseException) -> str:
    """Why a connection failed, in a few words that hold neither a credential nor a path; "" if nobody knows."""
    seen: BaseException | None = error
    while seen is not None:
        if isinstance(seen, BaseExceptionGroup):
            seen = seen.exceptions[0]
        if isinstance(seen, ssl.SSLCertVerificationError):
            return f"certificate refused: {seen.verify_message}"
        if isinstance(seen, ssl.SSLError):
            return f"TLS failed: {(seen.reason or 'handshake broken off').replace('_', ' ').lower()}"
        if isinstance(seen, socket.gaierror):
            return "the name cannot be resolved"
        if isinstance(seen, OSError) and seen.errno is not None:
            return os.strerror(seen.errno).lower()
        seen = seen.__cause__ or seen.__context__  # httpcore raises some of its own `from None`
    return ""


async def open_connection(origin: Origin, context: ssl.SSLContext) -> Connection:
    """A connection to `origin`, TLS included. Addresses are tried as RFC 6555 says (trio's `open_tcp_stream`).

    Raises `httpx.ConnectError`.
    """
    try:
        stream = await trio.open_tcp_stream(origin.host, origin.port)
    except (OSError, ValueError) as error:  # ValueError: a host that is no host name
        raise httpx.ConnectError(f"no connection: {reason(error) or 'not a host name'}") from error
    # Trio's socket becomes a plain one, which is not blocking either: waiting first and receiving then saves the
    # receive that fails, and closing it is one synchronous call.
    wrapped = stream.socket
    family, kind, proto = wrapped.family, wrapped.type, wrapped.proto
    plain = socket.socket(family, kind, proto, fileno=wrapped.detach())
    plain.setblocking(False)
    connection = Connection(origin, plain)
    if origin.scheme == "https":
        try:
            await connection.start_tls(context)
        except BaseException:
            connection.close_now()
            raise
    return connection


class Connection:
    """Bytes out, bytes in. Failures are `httpx.WriteError` and `httpx.ReadError`."""

    __slots__ = ("_lost", "_socket", "_tap", "_tls", "_watched_by", "idle_since", "origin")

    def __init__(self, origin: Origin, plain: socket.socket) -> None:
        self.origin = origin
        self.idle_since = 0.0
        self._socket = plain
        self._tls: trio.SSLStream[_Wire] | None = None
        self._tap: _Tap | None = None
        self._lost: OSError | None = None  # an error that is told once
        self._watched_by: Readiness | None = None

    async def start_tls(self, context: ssl.SSLContext) -> None:
        """Raises `httpx.ConnectError` unless the other side proves to be `origin.host`."""
        tap = _Tap(context)
        try:
            # Missing close_notify is common, and HTTP has its own framing: hence `https_compatible`.
            stream = trio.SSLStream(
                _Wire(self._socket),
                cast("ssl.SSLContext", tap),
                server_hostname=self.origin.host,
                https_compatible=True,
            )
            await stream.do_handshake()
        except (OSError, ValueError, trio.BrokenResourceError, trio.ClosedResourceError) as error:
            raise httpx.ConnectError(f"no connection: {reason(error) or 'broken off in the TLS handshake'}") from error
        self._tls, self._tap = stream, tap

    async def send(self, data: bytes) -> None:
        try:
            if self._tls is None:
                await _send(self._socket, data)
            else:
                await self._tls.send_all(data)
        except (OSError, trio.BrokenResourceError, trio.ClosedResourceError) as error:
            raise httpx.WriteError(f"connection lost: {reason(error) or 'closed'}") from error

    async def receive(self) -> bytes:
        """What one read brings (all of it: with TLS that may be many records), or b"" at the end of the connection."""
        try:
            if self._lost is not None:
                raise self._lost
            if self._tls is None or self._tap is None:
                return await _receive(self._socket)
            if self._tap.fault is not None:
                raise self._tap.fault
            data = await self._tls.receive_some(RECEIVE_BYTES)
            return self._tap.drain(bytes(data)) if data else b""
        except (OSError, trio.BrokenResourceError, trio.ClosedResourceError) as error:
            raise httpx.ReadError(f"connection lost: {reason(error) or 'closed'}") from error

    async def watch(self, readiness: Readiness, take: Callable[[bytes], bool]) -> None:
        """Hand `take` what comes, as it comes, while it returns true. Returns when it returned false, and also when there is
        something that `receive` has to look at: the end of the connection, its loss, or TLS that wants to answer."""
        tap = self._tap
        if self._lost is not None or (tap is not None and tap.needs_care):
            return

        def on_readable() -> bool:
            try:
                data = self._socket.recv(RECEIVE_BYTES)
            except BlockingIOError:
                return True
            except OSError as error:
                self._lost = error
                return False
            if tap is not None and data:
                data = tap.read(data)
                return (not data or take(data)) and not tap.needs_care
            return bool(data) and take(data)

        self._watched_by = readiness
        try:
            await readiness.watch(self._socket, on_readable)
        finally:
            self._watched_by = None

    def is_quiet(self) -> bool:
        """Whether an idle connection can be used: nothing has come on it, neither bytes nor its end. Does not wait."""
        if self._tap is not None and self._tap.holds_bytes():
            return False
        try:
            self._socket.recv(1, socket.MSG_PEEK)
        except BlockingIOError:
            return True
        except OSError:
            return False
        return False

    def close_now(self) -> None:
        """Close the socket, without a goodbye and without a checkpoint. A task that waits on it gets an error.
        Idempotent."""
        if self._socket.fileno() != -1:
            if self._watched_by is not None:
                self._lost = OSError(errno.EBADF, "closed")
                self._watched_by.forget(self._socket)
            trio.lowlevel.notify_closing(self._socket)
            self._socket.close()


class _Tap:
    """Stands where `trio.SSLStream` expects the context, and keeps hold of what it makes: the TLS object and the
    buffers of encrypted bytes. SSLStream hands out one record at a time and does not say whether it holds more. We
    must know both: to give all that one read brought as one item, and never to reuse a connection with bytes behind
    the answer (they would be read as the next one's).

    fault  what ended the TLS past the stream, which would take it for a good end
    """

    __slots__ = ("_context", "_encrypted", "_ended", "_outgoing", "_tls", "fault")

    def __init__(self, context: ssl.SSLContext) -> None:
        self._context = context
        self._encrypted: ssl.MemoryBIO | None = None
        self._outgoing: ssl.MemoryBIO | None = None
        self._tls: ssl.SSLObject | None = None
        self._ended = False
        self.fault: ssl.SSLError | None = None

    def wrap_bio(self, incoming: ssl.MemoryBIO, outgoing: ssl.MemoryBIO, **options: Any) -> ssl.SSLObject:
        self._encrypted, self._outgoing = incoming, outgoing
        self._tls = self._context.wrap_bio(incoming, outgoing, **options)
        return self._tls

    def holds_bytes(self) -> bool:
        return self._encrypted is not None and self._encrypted.pending > 0

    @property
    def needs_care(self) -> bool:
        """Whether there is something for the stream to do: its end to be told, or bytes to be sent (TLS 1.3 may ask for new
        keys at any time)."""
        return self._ended or (self._outgoing is not None and self._outgoing.pending > 0)

    def read(self, encrypted: bytes) -> bytes:
        """What `encrypted`, just received, completes. Past the stream, which does not mind: both read from one buffer."""
        if self._encrypted is None:
            return b""
        self._encrypted.write(encrypted)
        return self.drain(b"")

    def drain(self, first: bytes) -> bytes:
        """`first` and all records behind it that have come whole."""
        if self._tls is None or not self.holds_bytes():
            return first
        records = [first] if first else []
        try:
            while record := self._tls.read(RECEIVE_BYTES):
                records.append(record)
            self._ended = True
        except ssl.SSLWantReadError:
            pass  # no whole record is left
        except ssl.SSLZeroReturnError:
            self._ended = True  # a goodbye, which shows again at the next receive
        except ssl.SSLError as error:
            self._ended, self.fault = True, error  # does not show again: what follows looks like an end
        return b"".join(records)


class _Wire(trio.abc.Stream):
    """The plain socket as `trio.SSLStream` wants it."""

    def __init__(self, plain: socket.socket) -> None:
        self._socket = plain

    @override
    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        try:
            await _send(self._socket, data)
        except OSError as error:
            raise trio.BrokenResourceError from error

    @override
    async def wait_send_all_might_not_block(self) -> None:
        await wait_writable(self._socket)

    @override
    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        try:
            return await _receive(self._socket)
        except OSError as error:
            raise trio.BrokenResourceError from error

    @override
    async def aclose(self) -> None:
        # Never reached: a connection is closed by its socket. Here because a stream must be closable.
        self._socket.close()
        await trio.lowlevel.checkpoint()


async def _receive(plain: socket.socket) -> bytes:
    while True:
        await wait_readable(plain)
        try:
            return plain.recv(RECEIVE_BYTES)
        except BlockingIOError:
            pass  # readable a moment ago, no longer (a dropped packet): wait again


async def _send(plain: socket.socket, data: bytes | bytearray | memoryview) -> None:
    rest = memoryview(data)
    while True:
        try:
            rest = rest[plain.send(rest) :]
        except BlockingIOError:
            pass
        if not rest:
            return
        await wait_writable(plain)
