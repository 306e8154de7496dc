"""Same wire on both sides: the provider's frames go through as they came, and are read on the way by.

Pure. What a frame says is known from its events. Its bytes change in one place only, the model's name, and a frame that
the client is not to see is left out whole: no frame is taken apart and put together again.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import msgspec
from typing_extensions import override

from trio_ai_proxy.chat.events import GENERATION, Ended, Event, Failed, Started, TextDelta, UsageReported
from trio_ai_proxy.errors import UpstreamProtocolError
from trio_ai_proxy.relay.path import Batch, FramedPath

if TYPE_CHECKING:
    from trio_ai_proxy.framing.frame import Frame, Framer
    from trio_ai_proxy.pipeline import Stage

# Both begin with a whole JSON string, its quotes included, and so cannot match inside a text: there every quote has a
# backslash before it, and the same words stand as `\"model\":\"…\"`.
_MODEL = re.compile(rb'("model"\s*:\s*)("(?:[^"\\]|\\.)*")')
_SOME_CHOICE = re.compile(rb'"choices"\s*:\s*\[\s*\{')


class PassThrough(FramedPath):
    """One streamed answer on its way from a provider to a client of the same wire.

    client_model  the name that the client shall read in place of the provider's, or None to leave it
    hide_usage    whether a chunk that reports usage and nothing else is for us and not for the client

    Left out: the provider's terminal (the caller writes one that fits the outcome) and what follows it, a frame that
    reports an error, pings, and comments before generation begins (they would pass for the beginning of an answer).

    See `Path` for the rest.
    """

    def __init__(
        self,
        framer: Framer,
        decoder: Stage[Frame, Event],
        *,
        client_model: str | None,
        hide_usage: bool,
        malformed_limit: int = 0,
    ) -> None:
        super().__init__(framer, decoder, malformed_limit=malformed_limit)
        self._rename = None if client_model is None else _Rename(client_model)
        self._hide_usage = hide_usage
        self._is_generating = False

    @override
    def close(self) -> Batch:
        batch = super().close()
        if batch.out:
            # The last frame lacks its blank line, and what the caller writes next would become part of it.
            batch.out += b"\n\n"
        return batch

    @override
    def _pass(self, frames: list[Frame]) -> Batch:
        decode = self._decoder.feed
        rename = self._rename
        out: list[bytes] = []
        events: list[Event] = []
        batch = Batch(b"", events, True)
        for frame in frames:
            try:
                said = decode(frame)
            except UpstreamProtocolError as error:
                if self._forgive(frame, error):
                    continue
                self._end(batch, error)
                break
            events += said
            is_more_text = self._is_generating and len(said) == 1 and isinstance(said[0], TextDelta)
            if not is_more_text and not self._may_pass(frame, said, batch):
                if self._is_over:
                    if batch.error is not None:
                        batch.new = events[: len(events) - len(said)]  # what else it says goes with it
                    break
                continue
            out.append(frame.raw if rename is None else rename.apply(frame.raw))
        batch.out = b"".join(out)
        return batch

    def _may_pass(self, frame: Frame, said: list[Event], batch: Batch) -> bool:
        """Whether the client sees this frame. Takes note of what it changes."""
        reports_usage = False
        for event in said:
            if isinstance(event, Ended):
                self._is_over = batch.ended = True
                return False
            if isinstance(event, Failed):
                self._is_over = True
                batch.error = event.error
                return False
            if isinstance(event, GENERATION):
                self._is_generating = True
            elif isinstance(event, UsageReported):
                reports_usage = True
        if frame.event == "ping":
            return False
        if frame.data is None:
            return self._is_generating
        if reports_usage:
            # A choice without text says nothing, so events alone do not tell a usage chunk from the last choice's.
            says_usage_only = all(isinstance(event, UsageReported | Started) for event in said)
            if self._hide_usage and says_usage_only and _SOME_CHOICE.search(frame.data) is None:
                return False
            self.usage_sent = True
        return bool(frame.data)


class _Rename:
    """Puts the client's name for the model into each frame. What to replace is learnt from the first frame, as the
    provider spells it; from then on it is one search for those bytes."""

    def __init__(self, client_model: str) -> None:
        self._name = msgspec.json.encode(client_model)
        self._theirs = b""
        self._ours = b""

    def apply(self, raw: bytes) -> bytes:
        if self._theirs:
            before, theirs, after = raw.partition(self._theirs)
            if theirs:
                return before + self._ours + after
        found = _MODEL.search(raw)
        if found is None:
            return raw
        self._theirs = found[0]
        self._ours = found[1] + self._name
        return raw[: found.start()] + self._ours + raw[found.end() :]


def rename_model(body: bytes, reported: str, name: str) -> bytes:
    """A whole JSON answer with the model's name changed from `reported` to `name`, and no other byte."""
    new = msgspec.json.encode(name)

    def replace(found: re.Match[bytes]) -> bytes:
        try:
            is_it = msgspec.json.decode(found[2]) == reported
        except (msgspec.DecodeError, UnicodeDecodeError):
            is_it = False  # no JSON string, so it is not the one that was read
        return found[1] + new if is_it else found[0]

    return _MODEL.sub(replace, body)
