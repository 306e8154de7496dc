from __future__ import annotations

from typing import TYPE_CHECKING

from hypothesis import given
from hypothesis import strategies as st

from trio_ai_proxy.framing.sse import SSEFramer

if TYPE_CHECKING:
    from trio_ai_proxy.framing.frame import Frame

_LINES = st.sampled_from(
    [b"data: a", b"data:b", b"data", b"data:  {}", b": ping", b":", b"event: x", b"event", b"id: 1", b"", b"", b"\xff"]
)  # fmt: skip
_ENDS = st.sampled_from([b"\n", b"\r\n", b"\r"])


@st.composite
def streams(draw: st.DrawFn) -> bytes:
    lines = draw(st.lists(st.tuples(_LINES, _ENDS), max_size=12))
    return draw(st.sampled_from([b"", b"\xef\xbb\xbf"])) + b"".join(line + end for line, end in lines)


@st.composite
def cut_streams(draw: st.DrawFn) -> list[bytes]:
    stream = draw(st.one_of(streams(), st.binary(max_size=60)))
    places = sorted(draw(st.sets(st.integers(0, len(stream)), max_size=8)))
    return [stream[start:stop] for start, stop in zip([0, *places], [*places, len(stream)], strict=True)]


def read(pieces: list[bytes]) -> list[Frame]:
    framer = SSEFramer()
    frames = [frame for piece in pieces for frame in framer.feed(piece)]
    return frames + framer.close()


def dispatched(stream: bytes) -> list[tuple[str, bytes]]:
    """The standard's algorithm, a line at a time; and the last event is given although it is not ended."""
    events: list[tuple[str, bytes]] = []
    data: list[bytes] = []
    event = ""
    text = stream.removeprefix(b"\xef\xbb\xbf").replace(b"\r\n", b"\n").replace(b"\r", b"\n")
    for line in [*text.split(b"\n"), b""]:
        if not line:
            if data:
                events.append((event, b"\n".join(data)))
            data, event = [], ""
            continue
        name, _, value = line.partition(b":")
        value = value[1:] if value.startswith(b" ") else value
        if name == b"data":
            data.append(value)
        elif name == b"event":
            event = value.decode("utf-8", "replace")
    return events


@given(cut_streams())
def test_any_cut_of_any_stream_says_what_the_standard_says(pieces: list[bytes]) -> None:
    expected = dispatched(b"".join(pieces))
    assert [(frame.event, frame.data) for frame in read(pieces) if frame.data is not None] == expected


@given(cut_streams())
def test_raw_bytes_joined_are_the_stream_for_any_cut(pieces: list[bytes]) -> None:
    stream = b"".join(pieces).removeprefix(b"\xef\xbb\xbf")
    assert b"".join(frame.raw for frame in read(pieces)).rstrip() == stream.rstrip()
