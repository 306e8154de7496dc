from __future__ import annotations

from collections import deque
from time import process_time

import pytest
from support.recordings import recordings, ways_to_cut

from trio_ai_proxy.errors import UpstreamProtocolError
from trio_ai_proxy.framing.frame import Frame
from trio_ai_proxy.framing.sse import SSEFramer

BOM = b"\xef\xbb\xbf"
SEPARATORS = "a\u2028b\u2029c\u0085d\x0be\x0cf\x1cg".encode()


def frames_of(pieces: list[bytes]) -> list[Frame]:
    framer = SSEFramer()
    frames = [frame for piece in pieces for frame in framer.feed(piece)]
    return frames + framer.close()


def said(pieces: list[bytes]) -> list[tuple[str, bytes]]:
    """What a reader of the stream is told: events with data."""
    return [(frame.event, frame.data) for frame in frames_of(pieces) if frame.data is not None]


# Each is (stream, what it says). The cases are those of the event-stream section of the HTML standard and of the
# web-platform tests for it (eventsource/format-*).
CASES = {
    "line feeds": (b"data: a\n\ndata: b\n\n", [("", b"a"), ("", b"b")]),
    "carriage returns and line feeds": (b"data: a\r\n\r\ndata: b\r\n\r\n", [("", b"a"), ("", b"b")]),
    "carriage returns": (b"data: a\r\rdata: b\r\r", [("", b"a"), ("", b"b")]),
    "line ends mixed": (b"data: a\n\r\ndata: b\r\r\ndata: c\r\n\n", [("", b"a"), ("", b"b"), ("", b"c")]),
    "carriage return inside an event of line feeds": (b"data: a\rdata: b\n\n", [("", b"a\nb")]),
    "byte order mark": (BOM + b"data: a\n\n", [("", b"a")]),
    "second byte order mark is no field": (BOM + BOM + b"data: a\n\ndata: b\n\n", [("", b"b")]),
    "byte order mark later is data": (b"data: a\n\ndata: " + BOM + b"\n\n", [("", b"a"), ("", BOM)]),
    "several data lines": (b"data: a\ndata: b\ndata:\ndata: c\n\n", [("", b"a\nb\n\nc")]),
    "data without a colon": (b"data\n\n", [("", b"")]),
    "data without a colon, twice": (b"data\ndata\n\n", [("", b"\n")]),
    "empty data": (b"data:\n\n", [("", b"")]),
    "no space": (b"data:a\n\n", [("", b"a")]),
    "one space only is dropped": (b"data:  a\n\n", [("", b" a")]),
    "a tab is data": (b"data:\ta\n\n", [("", b"\ta")]),
    "colon in data": (b"data: a: b\n\n", [("", b"a: b")]),
    "comments": (b": x\n\n:\n:y\ndata: a\n: z\n\n", [("", b"a")]),
    "long comment": (b":" + b"x" * 2048 + b"\ndata: a\n\n", [("", b"a")]),
    "unknown fields": (b"id: 1\nretry: 10\nfoo: bar\ndata: a\nfoo\n\n", [("", b"a")]),
    "names are case-sensitive": (b"Data: a\nDATA: b\n data: c\ndata: d\n\n", [("", b"d")]),
    "event name": (b"event: x\ndata: a\n\nevent:y\ndata: b\n\ndata: c\n\n", [("x", b"a"), ("y", b"b"), ("", b"c")]),
    "event name after the data": (b"data: a\nevent: x\n\n", [("x", b"a")]),
    "last event name counts": (b"event: x\nevent: y\ndata: a\n\n", [("y", b"a")]),
    "event without data says nothing": (b"event: x\n\ndata: a\n\n", [("", b"a")]),
    "many blank lines": (b"\n\n\ndata: a\n\n\n\n\ndata: b\n\n", [("", b"a"), ("", b"b")]),
    "separators of text are data": (b"data: " + SEPARATORS + b"\n\n", [("", SEPARATORS)]),
    "NUL is data": (b"data: a\0b\n\n", [("", b"a\0b")]),
    "bytes that are not UTF-8 are data": (b"data: \xff\xfe\n\n", [("", b"\xff\xfe")]),
    "nothing": (b"", []),
    "blank lines only": (b"\n\n \n", []),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_stream_says_the_same_however_it_is_cut(case: str) -> None:
    stream, expected = CASES[case]
    for pieces in ways_to_cut(stream):
        assert said(pieces) == expected, pieces


@pytest.mark.parametrize("case", CASES)
def test_raw_bytes_joined_are_the_stream(case: str) -> None:
    stream, _ = CASES[case]
    for pieces in ways_to_cut(stream):
        raws = b"".join(frame.raw for frame in frames_of(pieces))
        assert raws.rstrip() == stream.removeprefix(BOM).rstrip(), pieces


@pytest.mark.parametrize("recording", recordings("openai"), ids=lambda recording: recording.name)
def test_recordings_frame_the_same_however_they_are_cut(recording) -> None:
    whole = frames_of([recording.response])
    assert b"".join(frame.raw for frame in whole) == recording.response
    for pieces in ways_to_cut(recording.response):
        assert frames_of(pieces) == whole


def test_frame_with_carriage_returns_alone_does_not_wait_for_the_next_byte() -> None:
    assert SSEFramer().feed(b"data: a\r\r") == [Frame(b"a", "", b"data: a\r\r")]


def test_line_feed_after_a_frame_of_carriage_returns_ends_nothing() -> None:
    framer = SSEFramer()
    framer.feed(b"data: a\r\r")
    assert [frame.data for frame in framer.feed(b"\ndata: b\r\r")] == [b"b"]


def test_last_line_feed_of_a_blank_line_belongs_to_its_frame() -> None:
    framer = SSEFramer()
    assert framer.feed(b"data: a\r\n\r") == []
    assert framer.feed(b"\ndata: b") == [Frame(b"a", "", b"data: a\r\n\r\n")]


@pytest.mark.parametrize("rest", [b"data: [DONE]", b"data: [DONE]\n", b"data: [DONE]\r\n", b"data: [DONE]\r\n\r"])
def test_what_stands_at_the_end_without_its_blank_line_is_given_as_it_came(rest: bytes) -> None:
    framer = SSEFramer()
    assert framer.feed(b"data: a\n\n" + rest) == [Frame(b"a", "", b"data: a\n\n")]
    assert framer.close() == [Frame(b"[DONE]", "", rest, whole=False)]
    assert framer.close() == []


@pytest.mark.parametrize("rest", [b"", b"\n", b"\r\n", b" \n"])
def test_white_space_at_the_end_is_nothing(rest: bytes) -> None:
    framer = SSEFramer()
    framer.feed(b"data: a\n\n")
    framer.feed(rest)
    assert framer.close() == []


def test_half_a_byte_order_mark_at_the_end_is_a_frame_without_data() -> None:
    framer = SSEFramer()
    assert framer.feed(b"\xef\xbb") == []
    assert framer.close() == [Frame(None, "", b"\xef\xbb", whole=False)]


class TestSignsOfLife:
    def test_a_frame_is_one(self) -> None:
        framer = SSEFramer()
        framer.feed(b"data: a\n\n")
        assert framer.alive

    def test_half_a_frame_is_none(self) -> None:
        framer = SSEFramer()
        framer.feed(b"data: a\n\nda")
        assert framer.alive
        for byte in (b"t", b"a", b":", b" ", b"x", b"\n"):
            framer.feed(byte)
            assert not framer.alive
        framer.feed(b"\n")
        assert framer.alive

    @pytest.mark.parametrize("end", [b"\n", b"\r\n", b"\r"])
    def test_a_comment_line_is_one_without_its_blank_line(self, end: bytes) -> None:
        framer = SSEFramer()
        framer.feed(b": pi")
        assert not framer.alive
        framer.feed(b"ng" + end)
        assert framer.alive
        framer.feed(b": half")
        assert not framer.alive

    def test_a_comment_in_the_middle_of_an_event_is_one(self) -> None:
        framer = SSEFramer()
        framer.feed(b"data: a\n")
        assert not framer.alive
        framer.feed(b": ping\n")
        assert framer.alive
        framer.feed(b"data: b: c\n")
        assert not framer.alive

    def test_a_colon_in_a_value_is_none(self) -> None:
        framer = SSEFramer()
        framer.feed(b"data: a\n")
        framer.feed(b"data: ")
        framer.feed(b":b\n")
        assert not framer.alive


class TestBound:
    def test_frame_of_exactly_the_bound_passes(self) -> None:
        raw = b"data: " + b"x" * 92 + b"\n\n"
        for pieces in ways_to_cut(raw):
            framer = SSEFramer(max_frame_bytes=100)
            assert [frame.raw for piece in pieces for frame in framer.feed(piece)] == [raw]

    @pytest.mark.parametrize("end", [b"\n\n", b"\r\n\r\n", b""])
    def test_longer_frame_is_refused_however_it_comes(self, end: bytes) -> None:
        for pieces in ways_to_cut(b"data: " + b"x" * 200 + end):
            framer = SSEFramer(max_frame_bytes=100)
            with pytest.raises(UpstreamProtocolError, match="no blank line within 100 bytes"):
                deque((framer.feed(piece) for piece in pieces), maxlen=0)

    @pytest.mark.parametrize("rest", [b"", b"\n\ndata: c\n\n"])
    def test_frames_before_a_longer_one_are_given_first(self, rest: bytes) -> None:
        framer = SSEFramer(max_frame_bytes=100)
        frames = framer.feed(b"data: a\n\ndata: b\n\ndata: " + b"x" * 200 + rest)
        assert [frame.data for frame in frames] == [b"a", b"b"]
        with pytest.raises(UpstreamProtocolError):
            framer.feed(b"\n\n")
        with pytest.raises(UpstreamProtocolError):
            framer.close()

    def test_a_long_frame_is_searched_once(self) -> None:
        """It takes 0.03 s of the processor; a search from the start at each piece would look at 8 GB, and take 7 s."""
        framer = SSEFramer(max_frame_bytes=8 * 2**20)
        began = process_time()
        for _ in range(4096):
            assert framer.feed(b"x" * 1024) == []
        (frame,) = framer.feed(b"\n\n")
        assert len(frame.raw) == 4 * 2**20 + 2
        assert process_time() - began < 1
