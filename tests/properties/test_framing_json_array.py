"""The frames of a JSON array are its members, wherever the network cuts it."""

from __future__ import annotations

import json
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from hypothesis import given
from hypothesis import strategies as st

from trio_ai_proxy.errors import UpstreamProtocolError
from trio_ai_proxy.framing.json_array import JSONArrayFramer

if TYPE_CHECKING:
    from trio_ai_proxy.framing.frame import Frame

_texts = st.text(st.sampled_from('ab"\\{}[],:\n\u2028é🌊'), max_size=8)
_values = st.recursive(
    st.none() | st.booleans() | st.integers() | _texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_texts, inner, max_size=3),
    max_leaves=8,
)
_objects = st.lists(st.dictionaries(_texts, _values, max_size=3), max_size=5)
_cuts = st.lists(st.integers(0, 2000), max_size=12)


def pieces(data: bytes, cuts: list[int]) -> list[bytes]:
    places = sorted({0, len(data), *(cut for cut in cuts if cut < len(data))})
    return [data[start:end] for start, end in pairwise(places)]


def frames_of(chunks: list[bytes]) -> list[Frame]:
    framer = JSONArrayFramer()
    return [frame for chunk in chunks for frame in framer.feed(chunk)] + framer.close()


@given(_objects, _cuts, st.sampled_from([None, 1]), st.booleans(), st.sampled_from([b"", b"\xef\xbb\xbf", b"\r\n"]))
def test_frames_are_the_members_and_their_bytes_are_the_stream(
    members: list[dict[str, Any]], cuts: list[int], indent: int | None, ascii_only: bool, before: bytes
) -> None:
    data = before + json.dumps(members, indent=indent, ensure_ascii=ascii_only).encode() + b"\r\n"
    for chunks in (pieces(data, cuts), [data], [data[at : at + 1] for at in range(len(data))]):
        frames = frames_of(chunks)
        assert [json.loads(frame.data) for frame in frames if frame.data is not None] == members
        assert all(frame.whole for frame in frames)
        assert b"".join(frame.raw for frame in frames) == data


@given(_objects.filter(bool), st.integers(0, 400), _cuts)
def test_array_that_is_cut_gives_its_whole_members_and_then_half_of_one(
    members: list[dict[str, Any]], length: int, cuts: list[int]
) -> None:
    data = json.dumps(members).encode()[:length]
    frames = frames_of(pieces(data, cuts))
    whole = [json.loads(frame.data) for frame in frames if frame.whole and frame.data is not None]
    assert whole == members[: len(whole)]
    assert all(frame is frames[-1] for frame in frames if not frame.whole)
    assert b"".join(frame.raw for frame in frames) == data


@given(st.lists(st.binary(max_size=30), max_size=6))
def test_whatever_comes_is_cut_or_refused(chunks: list[bytes]) -> None:
    try:
        frames_of(chunks)
    except UpstreamProtocolError:
        pass
