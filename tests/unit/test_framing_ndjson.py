from __future__ import annotations

import json

import pytest
from support.recordings import ways_to_cut

from trio_ai_proxy.errors import UpstreamProtocolError
from trio_ai_proxy.framing.frame import Frame
from trio_ai_proxy.framing.ndjson import NDJSONFramer


def read(pieces: list[bytes], **limits: int) -> list[Frame]:
    framer = NDJSONFramer(**limits)
    frames = [frame for piece in pieces for frame in framer.feed(piece)]
    return frames + framer.close()


STREAM = '{"a":1}\n{"b":"é🙂\u2028\u0085 "}\r\n\n \r\n{"c":2}'.encode()


def test_lines_are_the_same_however_they_are_cut() -> None:
    for pieces in ways_to_cut(STREAM):
        frames = read(pieces)
        assert [frame.data for frame in frames] == [
            b'{"a":1}', '{"b":"é🙂\u2028\u0085 "}'.encode(), None, None, b'{"c":2}'
        ]  # fmt: skip
        assert b"".join(frame.raw for frame in frames) == STREAM
        assert [frame.whole for frame in frames] == [True, True, True, True, False]
        assert all(frame.event == "" for frame in frames)


def test_no_other_character_ends_a_line() -> None:
    line = json.dumps({"x": "\u2028\u2029\u0085\x0b\x0c\x1c"}, ensure_ascii=False).encode()
    assert [frame.data for frame in read([line + b"\n"])] == [line]


def test_last_line_without_an_end_is_given_and_is_not_called_whole() -> None:
    assert read([b'{"a"']) == [Frame(b'{"a"', "", b'{"a"', whole=False)]


@pytest.mark.parametrize("rest", [b"", b" ", b"\r", b" \t\r"])
def test_nothing_but_white_space_at_the_end_is_nothing(rest: bytes) -> None:
    assert read([b"{}\n", rest]) == [Frame(b"{}", "", b"{}\n")]


def test_life_is_a_completed_line_and_not_a_byte() -> None:
    framer = NDJSONFramer()
    framer.feed(b'{"a"')
    assert not framer.alive
    framer.feed(b":1}\n")
    assert framer.alive
    framer.feed(b"\n")
    assert framer.alive
    framer.feed(b"x")
    assert not framer.alive


class TestLimit:
    def test_line_of_just_that_length_passes(self) -> None:
        assert [frame.data for frame in read([b"x" * 10 + b"\n"], max_frame_bytes=10)] == [b"x" * 10]
        assert [frame.data for frame in read([b"x" * 10], max_frame_bytes=10)] == [b"x" * 10]

    @pytest.mark.parametrize("size", [1, 3, 100])
    def test_longer_line_is_refused_before_it_ends(self, size: int) -> None:
        line = b"x" * 11
        with pytest.raises(UpstreamProtocolError, match="no end of a line within 10 bytes"):
            read([line[at : at + size] for at in range(0, len(line), size)], max_frame_bytes=10)

    def test_longer_line_is_refused_although_its_end_came_with_it(self) -> None:
        with pytest.raises(UpstreamProtocolError):
            read([b"x" * 11 + b"\n"], max_frame_bytes=10)

    @pytest.mark.parametrize("bad", [b"x" * 11, b"x" * 11 + b"\nb\n"])
    def test_lines_before_it_are_given_first(self, bad: bytes) -> None:
        framer = NDJSONFramer(max_frame_bytes=10)
        assert [frame.data for frame in framer.feed(b"a\n" + bad)] == [b"a"]
        with pytest.raises(UpstreamProtocolError):
            framer.feed(b"c\n")
        with pytest.raises(UpstreamProtocolError):
            framer.close()


def test_every_byte_is_searched_once() -> None:
    """A long line in small pieces costs what its length is, and not that squared: 8 MiB in pieces of 16 bytes are done
    in a moment, or not in an hour."""
    framer = NDJSONFramer(max_frame_bytes=16 * 2**20)
    piece = b"x" * 16
    for _ in range(2**19):
        framer.feed(piece)
    [frame] = framer.feed(b"\n")
    assert len(frame.raw) == 8 * 2**20 + 1
