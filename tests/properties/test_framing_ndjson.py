from __future__ import annotations

from typing import TYPE_CHECKING

from hypothesis import given
from hypothesis import strategies as st

from trio_ai_proxy.framing.ndjson import NDJSONFramer

if TYPE_CHECKING:
    from trio_ai_proxy.framing.frame import Frame


@st.composite
def cut_streams(draw: st.DrawFn) -> list[bytes]:
    pieces = st.sampled_from([b"\n", b"\r\n", b"\r", b" ", b'{"a":1}', "é\u2028🙂".encode(), b"\xff", b"\x85"])
    stream = draw(st.one_of(st.lists(pieces, max_size=20).map(b"".join), st.binary(max_size=60)))
    places = sorted(draw(st.sets(st.integers(0, len(stream)), max_size=8)))
    return [stream[start:stop] for start, stop in zip([0, *places], [*places, len(stream)], strict=True)]


def read(pieces: list[bytes]) -> list[Frame]:
    framer = NDJSONFramer()
    frames = [frame for piece in pieces for frame in framer.feed(piece)]
    return frames + framer.close()


@given(cut_streams())
def test_any_cut_gives_the_lines_of_the_stream(pieces: list[bytes]) -> None:
    lines = b"".join(pieces).split(b"\n")
    expected = [line.removesuffix(b"\r") for line in lines if line.strip()]
    assert [frame.data for frame in read(pieces) if frame.data is not None] == expected


@given(cut_streams())
def test_raw_bytes_joined_are_the_stream_for_any_cut(pieces: list[bytes]) -> None:
    assert b"".join(frame.raw for frame in read(pieces)).rstrip() == b"".join(pieces).rstrip()


@given(cut_streams())
def test_only_the_last_line_can_be_without_its_end(pieces: list[bytes]) -> None:
    frames = read(pieces)
    assert all(frame.whole for frame in frames[:-1])
    if frames:
        assert frames[-1].whole == frames[-1].raw.endswith(b"\n")
