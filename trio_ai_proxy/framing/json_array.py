"""Cut the objects out of a JSON array that grows while it is sent: `[{…},` now, `{…}]` later. A frame's end is the brace that
closes an object at the top; braces inside strings are text, escapes are respected, and nothing else of JSON is looked at:
whether an object is well formed is the decoder's question.

Gemini's streams have this form without `alt=sse`, and its errors have it too. An object that stands alone, without the
array, is a frame as well.
"""

from __future__ import annotations

import re

from trio_ai_proxy.errors import UpstreamProtocolError
from trio_ai_proxy.framing.frame import Frame

_BYTE_ORDER_MARK = b"\xef\xbb\xbf"
_BETWEEN = frozenset(b" \t\r\n,[]")

_OUTSIDE = re.compile(rb'["{}]')  # what matters outside a string …
_INSIDE = re.compile(rb'["\\]')  # … and inside one


class JSONArrayFramer:
    """A stage from chunks to frames; see `Frame` for what a frame holds.

    `raw` begins with what stood between this object and the one before. At most `max_frame_bytes` are held back; a longer
    object, and anything between two objects that is no separator, raises `UpstreamProtocolError`, after the frames before
    it have been given. Every byte is searched once, however small the chunks are.
    """

    def __init__(self, *, max_frame_bytes: int = 4 * 2**20) -> None:
        self.alive = False
        self._max_frame_bytes = max_frame_bytes
        self._pending = bytearray()  # what has been seen since the last frame
        self._seen = 0  # how much of it has been looked at
        self._begin = -1  # where in it the object begins, or -1
        self._depth = 0
        self._in_string = False
        self._error: UpstreamProtocolError | None = None

    def feed(self, item: bytes) -> list[Frame]:
        if self._error is not None:
            raise self._error
        self._pending += item
        frames: list[Frame] = []
        try:
            while self._advance():
                frames.append(self._cut())
            if len(self._pending) > self._max_frame_bytes:
                raise UpstreamProtocolError(f"The provider sent no whole object within {self._max_frame_bytes} bytes.")
        except UpstreamProtocolError as error:
            if not frames:
                raise
            self._error = error
        self.alive = bool(frames)
        return frames

    def close(self) -> list[Frame]:
        if self._error is not None:
            raise self._error
        rest = bytes(self._pending)
        self._pending.clear()
        if self._begin >= 0:
            return [Frame(rest[self._begin :], "", rest, whole=False)]
        return [Frame(None, "", rest)] if rest else []

    def _advance(self) -> bool:
        """Look at what is new, up to the end of an object; whether there is one."""
        pending, at = self._pending, self._seen
        if self._begin < 0:
            at = self._find_begin(at)
            if self._begin < 0:
                self._seen = at
                return False
        while True:
            found = (_INSIDE if self._in_string else _OUTSIDE).search(pending, at)
            if found is None:
                self._seen = len(pending)
                return False
            at = found.end()
            match found.group():
                case b'"':
                    self._in_string = not self._in_string
                case b"{":
                    self._depth += 1
                case b"\\":
                    if at == len(pending):  # what is escaped is still to come
                        self._seen = at - 1
                        return False
                    at += 1
                case _:
                    self._depth -= 1
                    if not self._depth:
                        self._seen = at
                        return True

    def _find_begin(self, at: int) -> int:
        pending = self._pending
        while at < len(pending):
            if pending[at] == 0x7B:  # {
                self._begin = at
                return at
            if pending[at] not in _BETWEEN and not _BYTE_ORDER_MARK.startswith(pending[: at + 1]):
                raise UpstreamProtocolError("The provider sent something other than an array of JSON objects.")
            at += 1
        return at

    def _cut(self) -> Frame:
        raw = bytes(self._pending[: self._seen])
        if len(raw) > self._max_frame_bytes:
            raise UpstreamProtocolError(f"The provider sent an object of more than {self._max_frame_bytes} bytes.")
        frame = Frame(raw[self._begin :], "", raw)
        del self._pending[: self._seen]
        self._seen = 0
        self._begin = -1
        return frame
