"""Cut a byte stream into AWS event-stream messages. Each message says its own length and carries two checksums; nothing of
it is given before both have been verified, so a frame is never half of something.

A message is a prelude (its length, the length of its headers, their CRC-32), headers, payload, and the CRC-32 of all that.
Source: https://smithy.io/2.0/aws/amazon-eventstream.html
"""

from __future__ import annotations

import struct
from struct import Struct
from uuid import UUID
from zlib import crc32

from trio_ai_proxy.errors import UpstreamProtocolError
from trio_ai_proxy.framing.frame import Frame

HeaderValue = bool | int | bytes | str | UUID

_PRELUDE = Struct("!III")
_CHECKSUM = Struct("!I")
_LENGTH = Struct("!H")
_OVERHEAD = _PRELUDE.size + _CHECKSUM.size
_MAX_HEADER_BYTES = 128 * 1024  # by the specification
_MAX_KEPT = 64
_NUMBERS = {
    2: Struct("!b"),
    3: Struct("!h"),
    4: Struct("!i"),
    5: Struct("!q"),
    8: Struct("!q"),
}  # 8: milliseconds since 1970
_BYTES, _TEXT, _UUID = 6, 7, 9


class EventStreamFramer:
    """A stage from chunks to frames.

    data   the payload; of a message of type "error", which has none, the text of its `:error-message`
    event  the `:event-type`; of other messages their type, a colon and the `:exception-type` or `:error-code`
           ("exception:throttlingException")

    At most `max_frame_bytes` are held back. Raises `UpstreamProtocolError` for a longer message, a wrong checksum and headers
    that cannot be read, after the frames before it have been given.
    """

    def __init__(self, *, max_frame_bytes: int = 4 * 2**20) -> None:
        self.alive = False
        self._max_frame_bytes = max_frame_bytes
        self._pending = bytearray()
        self._needed = _PRELUDE.size  # before this much is pending, looking at it is no use
        self._fault: UpstreamProtocolError | None = None
        # Nearly all messages of a stream have one of three heads.
        self._names: dict[bytes, tuple[str, bytes | None]] = {}

    def feed(self, item: bytes) -> list[Frame]:
        if self._fault is not None:
            raise self._fault
        block = item
        if self._pending:
            self._pending += item
            if len(self._pending) < self._needed:
                self.alive = False
                return []
            block = bytes(self._pending)
            self._pending.clear()
        frames: list[Frame] = []
        start = 0
        self._needed = _PRELUDE.size
        try:
            while len(block) - start >= _PRELUDE.size:
                size, header_size = self._read_prelude(block, start)
                if len(block) - start < size:
                    self._needed = size
                    break
                frames.append(self._frame(block[start : start + size], header_size))
                start += size
        except UpstreamProtocolError as error:
            self._fault = error
            if not frames:
                raise
        else:
            self._pending += block[start:]
        self.alive = bool(frames)
        return frames

    def close(self) -> list[Frame]:
        if self._fault is not None:
            raise self._fault
        rest = bytes(self._pending)
        self._pending.clear()
        return [Frame(None, "", rest, whole=False)] if rest else []

    def _read_prelude(self, block: bytes, start: int) -> tuple[int, int]:
        size, header_size, checksum = _PRELUDE.unpack_from(block, start)
        if crc32(block[start : start + 8]) != checksum:
            raise UpstreamProtocolError("The provider sent an event whose head has a wrong checksum.")
        if size > self._max_frame_bytes:
            raise UpstreamProtocolError(f"The provider sent an event of more than {self._max_frame_bytes} bytes.")
        if header_size > min(size - _OVERHEAD, _MAX_HEADER_BYTES):
            raise UpstreamProtocolError("The provider sent an event whose lengths cannot be true.")
        return size, header_size

    def _frame(self, raw: bytes, header_size: int) -> Frame:
        if crc32(raw[:-4]) != _CHECKSUM.unpack_from(raw, len(raw) - 4)[0]:
            raise UpstreamProtocolError("The provider sent an event with a wrong checksum.")
        end = _PRELUDE.size + header_size
        head = raw[_PRELUDE.size : end]
        known = self._names.get(head)
        if known is None:
            known = _name(read_headers(head))
            if len(self._names) < _MAX_KEPT:
                self._names[head] = known
        event, words = known
        return Frame(raw[end:-4] if words is None else words, event, raw)


def _name(headers: dict[str, HeaderValue]) -> tuple[str, bytes | None]:
    """What a frame is called, and what takes the place of its payload."""
    said = {name: value for name, value in headers.items() if isinstance(value, str)}
    kind = said.get(":message-type", "event")
    match kind:
        case "event":
            return said.get(":event-type", ""), None
        case "error":
            return f"error:{said.get(':error-code', '')}", said.get(":error-message", "").encode()
        case _:
            return f"{kind}:{said.get(':exception-type', '')}", None


def read_headers(head: bytes) -> dict[str, HeaderValue]:
    """The headers of a message. A timestamp is a number of milliseconds since 1970. Raises `UpstreamProtocolError`."""
    headers: dict[str, HeaderValue] = {}
    place = 0
    try:
        while place < len(head):
            name_end = place + 1 + head[place]
            name, kind = _exactly(head, place + 1, name_end).decode(), head[name_end]
            value, place = _read_value(head, kind, name_end + 1)
            if name in headers:
                raise UpstreamProtocolError("The provider sent an event that has a header twice.")
            headers[name] = value
    except (IndexError, struct.error, UnicodeDecodeError) as error:
        raise UpstreamProtocolError("The provider sent an event whose headers cannot be read.") from error
    return headers


def _read_value(head: bytes, kind: int, place: int) -> tuple[HeaderValue, int]:
    if kind in (0, 1):
        return kind == 0, place
    number = _NUMBERS.get(kind)
    if number is not None:
        return number.unpack_from(head, place)[0], place + number.size
    if kind == _UUID:
        return UUID(bytes=_exactly(head, place, place + 16)), place + 16
    if kind not in (_BYTES, _TEXT):
        raise UpstreamProtocolError("The provider sent an event with a header of an unknown type.")
    start = place + _LENGTH.size
    end = start + _LENGTH.unpack_from(head, place)[0]
    value = _exactly(head, start, end)
    return value.decode() if kind == _TEXT else value, end


def _exactly(head: bytes, start: int, end: int) -> bytes:
    if end > len(head):
        raise IndexError
    return head[start:end]
