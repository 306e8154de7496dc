from __future__ import annotations

import pytest

from trio_ai_proxy.errors import UpstreamProtocolError
from trio_ai_proxy.framing.frame import Frame
from trio_ai_proxy.framing.json_array import JSONArrayFramer


def test_frame_is_given_with_its_last_brace() -> None:
    framer = JSONArrayFramer()
    assert framer.feed(b'[{"a":"}') == []
    assert not framer.alive
    assert framer.feed(b'"}') == [Frame(b'{"a":"}"}', "", b'[{"a":"}"}')]
    assert framer.alive
    assert framer.feed(b',\n{"b":{}}]') == [Frame(b'{"b":{}}', "", b',\n{"b":{}}')]
    assert framer.close() == [Frame(None, "", b"]")]


def test_escape_may_be_cut_in_two() -> None:
    framer = JSONArrayFramer()
    assert framer.feed(b'[{"a":"\\') == []
    assert framer.feed(b'"}') == []
    (frame,) = framer.feed(b'"}')
    assert frame.data == b'{"a":"\\"}"}'


def test_object_that_stands_alone_is_a_frame() -> None:
    assert [frame.data for frame in JSONArrayFramer().feed(b'{"error":{"code":1}}')] == [b'{"error":{"code":1}}']


@pytest.mark.parametrize("data", [b"<html>", b"data: {}", b"1", b"null", b'"a"', b"[1,{}]"])
def test_what_is_no_array_of_objects_is_refused(data: bytes) -> None:
    framer = JSONArrayFramer()
    given: list[Frame] = []
    with pytest.raises(UpstreamProtocolError, match="other than an array"):
        given += framer.feed(data) + framer.close()
    assert given == []


def test_frames_before_what_is_refused_are_given() -> None:
    framer = JSONArrayFramer()
    assert [frame.data for frame in framer.feed(b'[{"a":1}x')] == [b'{"a":1}']
    for use in (framer.close, lambda: framer.feed(b"")):
        with pytest.raises(UpstreamProtocolError):
            use()


def test_object_that_is_too_long_is_refused_after_the_frames_before_it() -> None:
    framer = JSONArrayFramer(max_frame_bytes=50)
    assert len(framer.feed(b'[{"a":1},{"b":"' + b"x" * 60)) == 1
    with pytest.raises(UpstreamProtocolError, match="no whole object within 50 bytes"):
        framer.feed(b"x")


def test_object_that_is_too_long_is_refused_also_when_it_comes_at_once() -> None:
    with pytest.raises(UpstreamProtocolError, match="more than 50 bytes"):
        JSONArrayFramer(max_frame_bytes=50).feed(b'[{"b":"' + b"x" * 60 + b'"}]')


def test_separators_without_end_are_refused() -> None:
    framer = JSONArrayFramer(max_frame_bytes=50)
    assert framer.feed(b" , " * 10) == []
    with pytest.raises(UpstreamProtocolError):
        framer.feed(b" , " * 10)


def test_bytes_are_searched_once_however_small_the_chunks_are() -> None:
    """With a second look at all that is pending, this would take minutes."""
    framer = JSONArrayFramer()
    text = b'[{"a":"' + b"\\\\" * 100_000 + b'"}'
    frames = [frame for at in range(len(text)) for frame in framer.feed(text[at : at + 1])]
    assert [len(frame.raw) for frame in frames] == [len(text)]
