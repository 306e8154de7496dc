"""A scripted upstream in memory: what to answer, when, and how to break off. It plays on Trio's clock, real or virtual.

The `demo` provider is one; users' own tests get them through `trio_ai_proxy.testing`.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass, field
from typing import Literal

import httpx
import trio


@dataclass(frozen=True, slots=True)
class Step:
    """Wait `pause` seconds, then give `chunk`."""

    pause: float
    chunk: bytes


Ending = Literal["close", "cut", "stall"]


@dataclass(frozen=True, slots=True)
class Script:
    """One answer.

    status, headers  the response's head
    steps            what follows, pulled one at a time (it may be endless)
    head_pause       seconds before the head
    refuse           the connection itself fails
    ending           after the last step: close cleanly, cut the connection, or fall silent for ever
    """

    status: int = 200
    headers: tuple[tuple[str, str], ...] = (("content-type", "text/event-stream"),)
    steps: Callable[[], Iterator[Step]] = field(default=lambda: iter(()))
    head_pause: float = 0.0
    refuse: bool = False
    ending: Ending = "close"
