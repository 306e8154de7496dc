from __future__ import annotations

import datetime
import struct
import uuid
from typing import TYPE_CHECKING
from zlib import crc32

import pytest
from botocore.eventstream import EventStreamBuffer
from hypothesis import given
from hypothesis import strategies as st
from support.event_stream import Byte, EventMessage, Long, Short

from trio_ai_proxy.errors import UpstreamProtocolError
from trio_ai_proxy.framing.event_stream import EventStreamFramer, read_headers
from trio_ai_proxy.framing.frame import Frame

if TYPE_CHECKING:
    import random

MOMENT = datetime.datetime(2026, 5, 4, 3, 2, 1, 987000, tzinfo=datetime.UTC)
ID = uuid.UUID("12345678-9abc-def0-1234-56789abcdef0")
EVERY_TYPE = {
    "yes": True,
    "no": False,
    "byte": Byte(-3),
    "short": Short(-300),
    "int": -70_000,
    "long": Long(-(2**40)),
    "bytes": b"\x00\xff",
    "text": "Grüße\u2028",
    "time": MOMENT,
    "uuid": ID,
}


def message(payload: bytes = b"{}", event: str = "contentBlockDelta", **headers: object) -> bytes:
    named = {":event-type": event, ":content-type": "application/json", ":message-type": "event", **headers}
    return EventMessage(headers=named, payload=payload).encode()


def frames(*chunks: bytes) -> list[Frame]:
    framer = EventStreamFramer()
    return [frame for chunk in chunks for frame in framer.feed(chunk)] + framer.close()


def raw(head: bytes, payload: bytes = b"", *, size: int | None = None, header_size: int | None = None) -> bytes:
    """A message laid by hand, with good checksums."""
    total = 16 + len(head) + len(payload) if size is None else size
    prelude = struct.pack("!II", total, len(head) if header_size is None else header_size)
    body = prelude + struct.pack("!I", crc32(prelude)) + head + payload
    return body + struct.pack("!I", crc32(body))


header_values = st.one_of(
    st.booleans(),
    st.integers(-(2**31), 2**31 - 1),
    st.binary(max_size=50),
    st.text(max_size=30),
    st.uuids(),
)
messages = st.builds(
    lambda headers, payload: EventMessage(headers=headers, payload=payload).encode(),
    st.dictionaries(st.text(min_size=1, max_size=20), header_values, max_size=5),
    st.binary(max_size=300),
)


class TestAgainstTheSdks:
    @given(st.lists(messages, max_size=5), st.randoms(use_true_random=False))
    def test_is_cut_as_botocore_cuts_it_however_it_comes(self, sent: list[bytes], chance: random.Random) -> None:
        stream = b"".join(sent)
        cuts = sorted(chance.randint(0, len(stream)) for _ in range(chance.randint(0, 12)))
        pieces = [stream[start:end] for start, end in zip([0, *cuts], [*cuts, len(stream)], strict=True)]
        buffer = EventStreamBuffer()
        expected = []
        for piece in pieces:
            buffer.add_data(piece)
            expected += list(buffer)
        found = frames(*pieces)
        assert b"".join(frame.raw for frame in found) == stream
        assert [frame.data for frame in found if not frame.event.startswith("error:")] == [
            one.payload for one in expected if one.headers.get(":message-type") != "error"
        ]
        for frame, one in zip(found, expected, strict=True):
            size = struct.unpack("!I", frame.raw[4:8])[0]
            ours = read_headers(frame.raw[12 : 12 + size])
            theirs = {
                name: uuid.UUID(bytes=v) if isinstance(ours[name], uuid.UUID) else v for name, v in one.headers.items()
            }  # type: ignore[arg-type]  # as above
            assert ours == theirs

    def test_every_type_of_header_is_read(self) -> None:
        [frame] = frames(message(**EVERY_TYPE))
        size = struct.unpack("!I", frame.raw[4:8])[0]
        found = read_headers(frame.raw[12 : 12 + size])
        milliseconds = int(MOMENT.timestamp() * 1000)
        expected = {**EVERY_TYPE, "time": milliseconds, ":event-type": "contentBlockDelta"}
        assert {name: found[name] for name in expected} == expected


class TestFrame:
    def test_holds_payload_name_and_bytes(self) -> None:
        sent = message(b'{"a":1}')
        assert frames(sent) == [Frame(b'{"a":1}', "contentBlockDelta", sent)]

    def test_byte_by_byte_is_the_same(self) -> None:
        stream = message(b'{"a":1}') + message(b"", "messageStop")
        assert frames(*(stream[i : i + 1] for i in range(len(stream)))) == frames(stream)

    def test_exception_is_named_as_one(self) -> None:
        sent = EventMessage(
            headers={":message-type": "exception", ":exception-type": "throttlingException"}, payload=b'{"message":"m"}'
        ).encode()
        [frame] = frames(sent)
        assert (frame.event, frame.data) == ("exception:throttlingException", b'{"message":"m"}')

    def test_error_has_its_words_for_data(self) -> None:
        headers = {":message-type": "error", ":error-code": "Bad", ":error-message": "It is bad."}
        [frame] = frames(EventMessage(headers=headers, payload=b"").encode())
        assert (frame.event, frame.data) == ("error:Bad", b"It is bad.")

    def test_message_without_headers_is_an_event_without_a_name(self) -> None:
        assert frames(raw(b"", b"x"))[0].event == ""

    def test_shows_life_when_one_is_complete(self) -> None:
        framer = EventStreamFramer()
        sent = message()
        framer.feed(sent[:20])
        assert not framer.alive
        framer.feed(sent[20:] + sent[:5])
        assert framer.alive

    def test_half_of_one_at_the_end_is_not_whole(self) -> None:
        sent = message()
        *_, last = frames(sent + sent[:-1])
        assert (last.data, last.whole, last.raw) == (None, False, sent[:-1])


class TestFaults:
    @given(st.integers(0, 10_000), st.integers(1, 255))
    def test_one_wrong_byte_anywhere_is_never_passed_on(self, place: int, change: int) -> None:
        sent = bytearray(message(b'{"text":"The sea is wide."}'))
        sent[place % len(sent)] ^= change
        framer = EventStreamFramer()
        try:
            assert framer.feed(bytes(sent)) == []
        except UpstreamProtocolError:
            pass  # … or it is said at once; a length that was made larger waits for bytes that do not come

    def test_frames_before_the_fault_are_given(self) -> None:
        sent, bad = message(), bytearray(message())
        bad[-1] ^= 1
        framer = EventStreamFramer()
        assert len(framer.feed(sent + bytes(bad))) == 1
        with pytest.raises(UpstreamProtocolError, match="wrong checksum"):
            framer.feed(sent)
        with pytest.raises(UpstreamProtocolError, match="wrong checksum"):
            framer.close()

    @pytest.mark.parametrize(
        ("bad", "words"),
        [
            (raw(b"", size=2**31), "more than"),
            (raw(b"", size=8), "cannot be true"),
            (raw(b"", header_size=1), "cannot be true"),
            (raw(b"\x01a"), "cannot be read"),
            (raw(b"\x09a"), "cannot be read"),
            (raw(b"\x01a\x07\x00"), "cannot be read"),
            (raw(b"\x01a\x07\x00\x05abc"), "cannot be read"),
            (raw(b"\x01a\x04\x00"), "cannot be read"),
            (raw(b"\x01a\x09\x00"), "cannot be read"),
            (raw(b"\x01a\x07\x00\x01\xff"), "cannot be read"),
            (raw(b"\x01\xff\x00"), "cannot be read"),
            (raw(b"\x01a\x0a"), "unknown type"),
            (raw(b"\x01a\x00\x01a\x01"), "twice"),
        ],
    )
    def test_what_is_no_message_is_refused(self, bad: bytes, words: str) -> None:
        with pytest.raises(UpstreamProtocolError, match=words):
            frames(bad)

    def test_length_is_bounded(self) -> None:
        framer = EventStreamFramer(max_frame_bytes=100)
        with pytest.raises(UpstreamProtocolError, match="more than 100 bytes"):
            framer.feed(message(b"x" * 100))

    @given(st.lists(st.binary(max_size=60), max_size=8))
    def test_garbage_raises_nothing_else(self, chunks: list[bytes]) -> None:
        try:
            frames(*chunks)
        except UpstreamProtocolError:
            pass

    @given(st.binary(max_size=60))
    def test_garbage_in_headers_raises_nothing_else(self, head: bytes) -> None:
        try:
            frames(raw(head))
        except UpstreamProtocolError:
            pass
