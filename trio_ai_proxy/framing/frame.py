"""One delimited unit on the wire, and what cuts it out."""

from __future__ import annotations

from typing import Protocol

import msgspec


# A struct, not a dataclass: one is made for every chunk of every stream, and this one costs a sixth.
class Frame(msgspec.Struct, frozen=True, gc=False):
    """One unit, with its bytes as they came.

    data   the payload (for SSE: the `data` lines joined by LF, without field names); None for a unit without any
           (an SSE comment or an event that holds no data): it shows that the sender lives, and says nothing
    event  the SSE event name, "" if none was given
    raw    exactly the bytes this frame took up on the wire, delimiter included. The raws of all frames, joined, are the
           stream as it came (but for a leading byte order mark), so that a frame can be passed on untouched.
    whole  False for what stood at the end of the stream without its delimiter: perhaps half of something
    """

    data: bytes | None
    event: str = ""
    raw: bytes = b""
    whole: bool = True


class Framer(Protocol):
    """A stage from chunks to frames.

    alive  whether the last `feed` completed something that shows life: a frame, or a comment line. A deadline for
           silence is armed again by this and not by bytes, so that a sender who drips one byte a minute is silent.
    """

    @property
    def alive(self) -> bool: ...

    def feed(self, item: bytes) -> list[Frame]: ...

    def close(self) -> list[Frame]: ...
