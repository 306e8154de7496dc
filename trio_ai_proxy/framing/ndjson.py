"""Cut a byte stream into lines of JSON, one value each (`application/x-ndjson`). A line ends in LF or CRLF, and is found as
bytes: a character that the network cut in two is never decoded in halves, and no other character ends a line, for within
JSON a line end is always written as an escape.

Source: https://github.com/ndjson/ndjson-spec. What stands at the end of the stream without its line end is given as a last
frame; the decoder decides whether it is whole.
"""

from __future__ import annotations

from trio_ai_proxy.errors import UpstreamProtocolError
from trio_ai_proxy.framing.frame import Frame


class NDJSONFramer:
    """A stage from chunks to frames; see `Frame` for what a frame holds. A blank line is a frame without data.

    At most `max_frame_bytes` are held back. A longer line raises `UpstreamProtocolError`, after the lines before it have
    been given. Every byte is searched once, however small the chunks are.
    """

    def __init__(self, *, max_frame_bytes: int = 4 * 2**20) -> None:
        self.alive = False
        self._max_frame_bytes = max_frame_bytes
        self._pending = bytearray()  # the line that has begun

    def feed(self, item: bytes) -> list[Frame]:
        pending = self._pending
        if len(pending) > self._max_frame_bytes:
            raise self._too_long()
        *lines, rest = item.split(b"\n")
        self.alive = bool(lines)
        if lines and pending:
            lines[0] = bytes(pending) + lines[0]
            pending.clear()
        frames = []
        for line in lines:
            if len(line) > self._max_frame_bytes:
                pending += line  # so that the next call says it
                break
            frames.append(_frame(line, line + b"\n"))
        else:
            pending += rest
        if len(pending) > self._max_frame_bytes and not frames:
            raise self._too_long()
        return frames

    def close(self) -> list[Frame]:
        if len(self._pending) > self._max_frame_bytes:
            raise self._too_long()
        rest = bytes(self._pending)
        self._pending.clear()
        return [_frame(rest, rest, whole=False)] if rest.strip() else []

    def _too_long(self) -> UpstreamProtocolError:
        return UpstreamProtocolError(f"The provider sent no end of a line within {self._max_frame_bytes} bytes.")


def _frame(line: bytes, raw: bytes, *, whole: bool = True) -> Frame:
    if line.endswith(b"\r"):
        line = line[:-1]
    return Frame(line if line.strip() else None, "", raw, whole)
