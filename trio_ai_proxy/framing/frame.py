"""One delimited unit on the wire."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Frame:
    """One unit, with its bytes as they came.

    data   the payload (for SSE: the `data` lines joined by LF, without field names); None for a unit without any
           (an SSE comment or an event that holds no data): it shows that the sender lives, and says nothing
    event  the SSE event name, "" if none was given
    raw    exactly the bytes this frame took up on the wire, delimiter included. The raws of all frames, joined, are the
           stream as it came (but for a leading byte order mark), so that a frame can be passed on untouched.
    """

    data: bytes | None
    event: str = ""
    raw: bytes = b""
