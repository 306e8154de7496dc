"""Whatever a provider sends, in whatever order: its decoder raises nothing but our own errors, and tells the story of one answer,
as far as it goes.

The frames are those of the recordings: some left out, some said twice, some in another place, some of another recording, and
some with values of their JSON replaced.
"""

from __future__ import annotations

import functools
import re
from typing import TYPE_CHECKING, Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.accounts import WIRES, account, media_type_of
from support.recordings import recordings

from trio_ai_proxy.chat.grammar import EventGrammar, IllegalSequence
from trio_ai_proxy.chat.request import ChatRequest
from trio_ai_proxy.errors import UpstreamError

if TYPE_CHECKING:
    from trio_ai_proxy.chat.events import Event
    from trio_ai_proxy.framing.frame import Frame

# What is the provider's own to say, right or wrong: its numbers, the names and arguments that the model wrote,
# where it cites from.
ITS_OWN = re.compile(
    r"JSON object|has no name|UsageReported|Cited|two calls have one id|none was called|without tokens|choice -"
)
ODD = st.sampled_from([None, True, 0, -1, 7, 1.5, "", "x", "stop", [], {}, [None], ["x"], {"x": 1}, [{}], "\u2028"])


@functools.cache
def frames_of(wire: str) -> dict[str, list[list[Frame]]]:
    """The frames of each recording, by the media type under which they came."""
    provider = account(wire)
    found: dict[str, list[list[Frame]]] = {}
    for recording in recordings(wire):
        if recording.operation != "chat":
            continue
        media_type = media_type_of(provider, recording.response)
        framer = provider.framer(media_type)
        try:
            frames = [*framer.feed(recording.response), *framer.close()]
        except UpstreamError:
            continue
        found.setdefault(media_type, []).append(frames)
    return found


@st.composite
def disturbed(draw: st.DrawFn, wire: str) -> list[Frame]:
    """The frames of one recording, disturbed."""
    streams = draw(st.sampled_from(list(frames_of(wire).values())))
    frames = list(draw(st.sampled_from(streams)))
    for _ in range(draw(st.integers(0, 4))):
        if not frames:
            break
        at = draw(st.integers(0, len(frames) - 1))
        match draw(st.sampled_from(["drop", "repeat", "move", "mix", "spoil", "spoil"])):
            case "drop":
                del frames[at]
            case "repeat":
                frames.insert(at, frames[at])
            case "move":
                frames.insert(draw(st.integers(0, len(frames) - 1)), frames.pop(at))
            case "mix":
                other = draw(st.sampled_from(streams))
                frames.insert(at, draw(st.sampled_from(other)))
            case "spoil":
                frames[at] = draw(_spoilt(frames[at]))
    return frames


@st.composite
def _spoilt(draw: st.DrawFn, frame: Frame) -> Frame:
    """The frame with one value of its JSON replaced, wherever it stands."""
    try:
        document = msgspec.json.decode(frame.data or b"")
    except (msgspec.DecodeError, UnicodeError):
        return frame
    node: Any = document
    while isinstance(node, dict | list) and node:
        key = draw(st.sampled_from(sorted(node))) if isinstance(node, dict) else draw(st.integers(0, len(node) - 1))
        inner = node[key]
        if not isinstance(inner, dict | list) or not inner or draw(st.integers(0, 2)) == 0:
            node[key] = draw(ODD)
            break
        node = inner
    return msgspec.structs.replace(frame, data=msgspec.json.encode(document))


@pytest.mark.parametrize("wire", WIRES)
@settings(max_examples=150)
@given(st.data())
def test_tells_the_story_of_one_answer_whatever_comes(wire: str, data: st.DataObject) -> None:
    request = ChatRequest(
        "chat", "m", stream=True, include_usage=True, fields={"messages": [{"role": "user", "content": "x"}]}
    )
    decoder = account(wire).decoder(request)
    grammar = EventGrammar(reasons_required=False)
    events: list[Event] = []
    try:
        for frame in data.draw(disturbed(wire)):
            events += decoder.feed(frame)
        events += decoder.close()
    except UpstreamError:
        pass
    try:
        for event in events:
            grammar.feed(event)
    except IllegalSequence as wrong:
        # OpenAI's older form of a call has no id, whatever word it ends with.
        older = wire in ("openai", "azure", "huggingface") and "has no id" in str(wrong)
        if not older and not ITS_OWN.search(str(wrong)):
            raise
