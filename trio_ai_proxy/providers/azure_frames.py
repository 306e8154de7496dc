"""The frames in which Azure's asynchronous filter says what it has found: their choices have no `delta`, which OpenAI's wire
promises, and clients fall over it. These frames alone are written anew, with an empty one; all others stay as they came.

Source: https://learn.microsoft.com/azure/foundry/openai/concepts/content-streaming
"""

from __future__ import annotations

import msgspec
from typing_extensions import override

from trio_ai_proxy.framing.frame import Frame
from trio_ai_proxy.framing.sse import SSEFramer

_MARK = b'"content_filter_offsets"'  # within a text its quotes would have backslashes before them
_DELTA = b'"delta"'


class AzureFramer(SSEFramer):
    """A stage from chunks to frames; see `SSEFramer`. What is decoded is what came; what is passed on has the delta."""

    @override
    def feed(self, item: bytes) -> list[Frame]:
        return [_with_delta(frame) if _MARK in frame.raw else frame for frame in super().feed(item)]

    @override
    def close(self) -> list[Frame]:
        return [_with_delta(frame) if _MARK in frame.raw else frame for frame in super().close()]


def _with_delta(frame: Frame) -> Frame:
    if frame.data is None or _DELTA in frame.data:
        return frame
    try:
        chunk = msgspec.json.decode(frame.data)
        choices = chunk["choices"]
        for choice in choices:
            choice.setdefault("delta", {})
        data = msgspec.json.encode(chunk)
    except (msgspec.DecodeError, UnicodeError, RecursionError, KeyError, TypeError, AttributeError):
        return frame  # the decoder says what is wrong with it
    end = b"\r\n" if frame.raw.endswith(b"\r\n") else b"\n"
    return Frame(frame.data, frame.event, b"data: " + data + (end + end if frame.whole else b""), frame.whole)
