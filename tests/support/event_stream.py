"""AWS's event stream, written from its specification alone: what the tests send where no SDK's encoder is at hand.

Source: https://smithy.io/2.0/aws/amazon-eventstream.html
"""

from __future__ import annotations

import datetime
import struct
import uuid
from dataclasses import dataclass, field
from typing import TYPE_CHECKING
from zlib import crc32

if TYPE_CHECKING:
    from collections.abc import Mapping


class Byte(int):
    """A header value of one byte."""


class Short(int):
    """A header value of two bytes."""


class Long(int):
    """A header value of eight bytes."""


@dataclass(frozen=True)
class EventMessage:
    """One message."""

    headers: Mapping[str, object] = field(default_factory=dict)
    payload: bytes = b""

    def encode(self) -> bytes:
        head = b"".join(_header(name, value) for name, value in self.headers.items())
        prelude = struct.pack("!II", 16 + len(head) + len(self.payload), len(head))
        body = prelude + struct.pack("!I", crc32(prelude)) + head + self.payload
        return body + struct.pack("!I", crc32(body))


def _header(name: str, value: object) -> bytes:
    encoded = name.encode()
    return struct.pack("!B", len(encoded)) + encoded + _value(value)


def _value(value: object) -> bytes:
    match value:
        case True:
            return b"\x00"
        case False:
            return b"\x01"
        case Byte():
            return struct.pack("!Bb", 2, value)
        case Short():
            return struct.pack("!Bh", 3, value)
        case Long():
            return struct.pack("!Bq", 5, value)
        case int():
            return struct.pack("!Bi", 4, value)
        case bytes():
            return struct.pack("!BH", 6, len(value)) + value
        case str():
            text = value.encode()
            return struct.pack("!BH", 7, len(text)) + text
        case datetime.datetime():
            return struct.pack("!Bq", 8, round(value.timestamp() * 1000))
        case uuid.UUID():
            return b"\x09" + value.bytes
        case _:
            raise TypeError(f"no header can hold {value!r}")
