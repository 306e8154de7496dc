"""The one shape: a stage is fed what came, and gives what is now complete.

Framers (chunk → frame), decoders (frame → event) and filters (event → event) are all stages. A stage is plain
synchronous Python with a bounded buffer; it never waits, logs or looks at a clock.
"""

from __future__ import annotations

from typing import Protocol, TypeVar

In_contra = TypeVar("In_contra", contravariant=True)
Out = TypeVar("Out")


class Stage(Protocol[In_contra, Out]):
    """`feed` gives what `item` completed (perhaps nothing); `close` gives the rest, or says what is missing.

    Both raise `UpstreamProtocolError` when the bytes cannot be what they claim to be, and `close` raises
    `TruncatedStream` when they stop in the middle of something.
    """

    def feed(self, item: In_contra) -> list[Out]: ...

    def close(self) -> list[Out]: ...
