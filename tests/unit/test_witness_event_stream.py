"""AWS's own encoder of event streams as a witness of our framer, and of the encoder that the other tests use."""

from __future__ import annotations

import datetime
import uuid

import pytest
from smithy_aws_event_stream import events as theirs
from support.event_stream import Byte, EventMessage, Long, Short

from trio_ai_proxy.framing.event_stream import EventStreamFramer, read_headers

MOMENT = datetime.datetime(2026, 5, 4, 3, 2, 1, 987000, tzinfo=datetime.UTC)
ID = uuid.UUID("12345678-9abc-def0-1234-56789abcdef0")
PLAIN = {
    "yes": True,
    "no": False,
    "int": -70_000,
    "bytes": b"\x00\xff",
    "text": "Grüße\u2028",
    "time": MOMENT,
    "uuid": ID,
}


def test_every_type_of_header_is_written_alike() -> None:
    ours = EventMessage({**PLAIN, "byte": Byte(-3), "short": Short(-300), "long": Long(-(2**40))}, b"{}").encode()
    sized = {"byte": theirs.Byte(-3), "short": theirs.Short(-300), "long": theirs.Long(-(2**40))}
    assert theirs.EventMessage(headers={**PLAIN, **sized}, payload=b"{}").encode() == ours


@pytest.mark.parametrize("size", [1, 3, 7, 1000])
def test_what_it_writes_is_read(size: int) -> None:
    headers = {":event-type": "contentBlockDelta", ":message-type": "event"}
    sent = b"".join(theirs.EventMessage(headers=headers, payload=b'{"n":%d}' % n).encode() for n in range(3))
    framer = EventStreamFramer()
    frames = [frame for at in range(0, len(sent), size) for frame in framer.feed(sent[at : at + size])] + framer.close()
    assert [frame.data for frame in frames] == [b'{"n":0}', b'{"n":1}', b'{"n":2}']
    assert {frame.event for frame in frames} == {"contentBlockDelta"}
    assert b"".join(frame.raw for frame in frames) == sent


def test_headers_mean_what_was_meant() -> None:
    sent = theirs.EventMessage(headers=PLAIN, payload=b"").encode()
    length = int.from_bytes(sent[4:8], "big")
    read = read_headers(sent[12 : 12 + length])
    assert read == {**PLAIN, "time": round(MOMENT.timestamp() * 1000)}
