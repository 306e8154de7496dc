"""Cut a byte stream into server-sent events. A blank line is a frame's end; lines end in LF, CR or CRLF, and are found
as bytes: a character that the network cut in two is never decoded in halves.

The rules are those of "Parsing an event stream" in the HTML standard, with one leniency: what stands at the end of the
stream without its blank line is given as a last frame (a browser drops it); the decoder decides whether it is whole.
"""

from __future__ import annotations

import re

from trio_ai_proxy.errors import UpstreamProtocolError
from trio_ai_proxy.framing.frame import Frame

_BYTE_ORDER_MARK = b"\xef\xbb\xbf"
_LINE_ENDS = b"\r\n"

# Two line ends in a row. The lookahead keeps the CR of a CRLF from counting as a line end of its own.
_BLANK_LINE = re.compile(rb"(?:\r?\n|\r(?=\r))(?:\r\n?|\n)")


class SSEFramer:
    """A stage from chunks to frames; see `Frame` for what a frame holds.

    At most `max_frame_bytes` are held back. A longer frame raises `UpstreamProtocolError`, after the frames before it
    have been given. Every byte is searched once, however small the chunks are.
    """

    def __init__(self, *, max_frame_bytes: int = 4 * 2**20) -> None:
        self.alive = False
        self._max_frame_bytes = max_frame_bytes
        self._pending = bytearray()  # the frame that has begun
        self._line = 0  # where its last, incomplete line begins
        self._head: bytes | None = b""  # the first bytes, until they are a byte order mark or not; then None

    def feed(self, item: bytes) -> list[Frame]:
        block = item if self._head is None else self._without_mark(item)
        pending = self._pending
        if pending:
            self._refuse_if_too_long()
            # A frame's end takes up four bytes at most, so it shows in what is new and the three bytes before it.
            if not _holds_blank_line(pending[-3:] + block):
                return self._keep(block, [])
            block = bytes(pending) + block
            pending.clear()
        if b"\r" not in block:
            frames, rest = self._cut(block, b"\n")
        elif block.count(b"\r\n") == block.count(b"\n") == block.count(b"\r"):
            frames, rest = self._cut(block, b"\r\n")
        else:
            frames, rest = self._cut_mixed(block)
        if len(block) > self._max_frame_bytes:
            for position, frame in enumerate(frames):
                if len(frame.raw) > self._max_frame_bytes:
                    frames, rest = frames[:position], frame.raw
                    break
        if not rest:
            self.alive = bool(frames)
            return frames
        self._line = 0
        return self._keep(rest, frames)

    def close(self) -> list[Frame]:
        self._refuse_if_too_long()
        rest = (self._head or b"") + bytes(self._pending)
        self._head = None
        self._pending.clear()
        return [_frame(rest, whole=False)] if rest.strip() else []

    def _without_mark(self, item: bytes) -> bytes:
        """`item` without the byte order mark at the very start of the stream. A second one is data."""
        head = (self._head or b"") + item
        if len(head) < len(_BYTE_ORDER_MARK) and _BYTE_ORDER_MARK.startswith(head):
            self._head = head
            return b""
        self._head = None
        return head.removeprefix(_BYTE_ORDER_MARK)

    def _cut(self, block: bytes, line_end: bytes) -> tuple[list[Frame], bytes]:
        """Frames and rest of a block in which all lines end alike. Nearly all streams are such."""
        blank = line_end + line_end
        *parts, rest = block.split(blank)
        return [
            Frame(part[6:], "", part + blank)
            if part.startswith(b"data: ") and b"\n" not in part
            else _frame(part + blank)
            for part in parts
        ], rest

    def _cut_mixed(self, block: bytes) -> tuple[list[Frame], bytes]:
        """Frames and rest of a block in which lines end in different ways, or in bare CR."""
        frames = []
        start = 0
        for blank in _BLANK_LINE.finditer(block):
            end = blank.end()
            # CR, LF, CR and no more: the LF that belongs to the second CR is still to come in all but a contrived
            # stream. After CR, CR the frame is given at once; where a LF does come, it opens the next frame harmlessly.
            if end == len(block) and block.endswith(b"\n\r"):
                break
            frames.append(_frame(block[start:end]))
            start = end
        return frames, block[start:]

    def _keep(self, added: bytes, frames: list[Frame]) -> list[Frame]:
        """Hold `added` back, note whether it completed a comment line, and give `frames`."""
        pending = self._pending
        pending += added
        self.alive = bool(frames)
        last = max(added.rfind(b"\n"), added.rfind(b"\r"))
        if last >= 0:
            stop = len(pending) - len(added) + last + 1
            lines = pending[self._line : stop]
            self._line = stop
            if lines.startswith(b":") or b"\n:" in lines or b"\r:" in lines:
                self.alive = True
        if not frames:
            self._refuse_if_too_long()
        return frames

    def _refuse_if_too_long(self) -> None:
        if len(self._pending) > self._max_frame_bytes:
            raise UpstreamProtocolError(f"The provider sent no blank line within {self._max_frame_bytes} bytes.")


def _holds_blank_line(block: bytes | bytearray) -> bool:
    return b"\n\n" in block or (b"\r" in block and _BLANK_LINE.search(block) is not None)


def _frame(raw: bytes, *, whole: bool = True) -> Frame:
    """Read the lines of one frame."""
    body = raw.rstrip(_LINE_ENDS)
    if body.startswith(b"data: ") and b"\n" not in body and b"\r" not in body:
        return Frame(body[6:], "", raw, whole)
    data: list[bytes] = []
    event = ""
    for line in raw.splitlines():  # of bytes: at LF, CR and CRLF only; that of str splits at U+2028 and others as well
        name, _, value = line.partition(b":")
        if name == b"data":
            data.append(value.removeprefix(b" "))
        elif name == b"event":
            event = value.removeprefix(b" ").decode("utf-8", "replace")
    return Frame(b"\n".join(data) if data else None, event, raw, whole)
