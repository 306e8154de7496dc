"""One connection to a provider: a socket, perhaps with TLS on it. It is opened under a deadline that its caller sets,
and closed at once or not at all: no closing waits for the other side, and no failure or cancellation leaves a socket
open.
"""

from __future__ import annotations

import os
import socket
import ssl
from pathlib import Path
from typing import Any, NamedTuple, cast

import certifi
import httpx
import trio
from trio.lowlevel import wait_readable, wait_writable
from typing_extensions import override

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

    __slots__ = ("_socket", "_tap", "_tls", "idle_since", "origin")

    def __init__(self, origin: Origin, plain: socket.socket) -> None:
        self.origin = origin
        self.idle_since = 0.0
        self._socket = plain
        self._tls: trio.SSLStream[_Wire] | None = None
        self._tap: _Tap | None = None

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
            if self._tls is None or self._tap is None:
                return await _receive(self._socket)
            data = await self._tls.receive_some(RECEIVE_BYTES)
            return self._tap.drain(bytes(data)) if data else b""
        except (OSError, trio.BrokenResourceError, trio.ClosedResourceError) as error:
            raise httpx.ReadError(f"connection lost: {reason(error) or 'closed'}") from error

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
            trio.lowlevel.notify_closing(self._socket)
            self._socket.close()


class _Tap:
    """Stands where `trio.SSLStream` expects the context, and keeps hold of what it makes: the TLS object and the
    buffer of encrypted bytes. SSLStream hands out one record at a time and does not say whether it holds more. We
    must know both: to give all that one read brought as one item, and never to reuse a connection with bytes behind
    the answer (they would be read as the next one's).
    """

    __slots__ = ("_context", "_encrypted", "_tls")

    def __init__(self, context: ssl.SSLContext) -> None:
        self._context = context
        self._encrypted: ssl.MemoryBIO | None = None
        self._tls: ssl.SSLObject | None = None

    def wrap_bio(self, incoming: ssl.MemoryBIO, outgoing: ssl.MemoryBIO, **options: Any) -> ssl.SSLObject:
        self._encrypted = incoming
        self._tls = self._context.wrap_bio(incoming, outgoing, **options)
        return self._tls

    def holds_bytes(self) -> bool:
        return self._encrypted is not None and self._encrypted.pending > 0

    def drain(self, first: bytes) -> bytes:
        """`first` and all records behind it that have come whole."""
        if self._tls is None or not self.holds_bytes():
            return first
        records = [first]
        try:
            while record := self._tls.read(RECEIVE_BYTES):
                records.append(record)
        except ssl.SSLError:
            pass  # no whole record is left; an error shows again at the next receive
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
