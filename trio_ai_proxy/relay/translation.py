"""Another wire on each side: the provider's frames become events, and events become what the client understands.

Pure. Usage is not written here: a provider reports it in pieces and in its own time, and the relay writes what came of it
once, at the end.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from typing_extensions import override

from trio_ai_proxy.chat.events import Ended, Event, Failed, Started, TextDelta
from trio_ai_proxy.errors import UpstreamProtocolError
from trio_ai_proxy.relay.path import Batch, FramedPath
from trio_ai_proxy.relay.seam import Diverged

if TYPE_CHECKING:
    from collections.abc import Sequence

    from trio_ai_proxy.chat.request import ChatRequest
    from trio_ai_proxy.dialects.base import Dialect, StreamEncoder
    from trio_ai_proxy.framing.frame import Frame, Framer
    from trio_ai_proxy.pipeline import Stage
    from trio_ai_proxy.relay.seam import Blank, Seam
    from trio_ai_proxy.relay.thread import Thread


class Names:
    """What the head of an answer says where the provider says nothing, or another name than the client's.

    id       for an answer to which the provider gave none
    model    the name to show in place of the provider's, or None to leave it
    asked    the name that was asked for, for a provider that says none
    created  seconds since the epoch
    """

    __slots__ = ("asked", "created", "id", "model")

    def __init__(self, *, id: str, model: str | None, asked: str, created: int) -> None:
        self.id = id
        self.model = model
        self.asked = asked
        self.created = created

    def complete(self, started: Started) -> Started:
        """`started` with nothing missing."""
        return Started(
            started.id or self.id,
            self.model or started.model or self.asked,
            started.created or self.created,
            started.system_fingerprint,
        )


class Translation(FramedPath):
    """One streamed answer on its way from a provider to a client of another wire; see `Path`.

    The `Started` among a batch's events is complete, whether the provider began with one or not.
    """

    def __init__(
        self,
        framer: Framer,
        decoder: Stage[Frame, Event],
        dialect: Dialect | None,
        names: Names,
        request: ChatRequest | None = None,
        *,
        malformed_limit: int = 0,
        thread: Thread | None = None,
        goes_on: bool = False,
    ) -> None:
        """`thread` is the stream that this one is joined on to, if there is one; `goes_on`: the provider was given its text, and
        does not begin again. Without a `dialect` nothing is written: what the client lacks is the batch's `new`."""
        super().__init__(framer, decoder, malformed_limit=malformed_limit)
        self._request = request
        self._dialect = dialect
        self._names = names
        self._has_head = False
        self._encoder: StreamEncoder | None = None
        self._seam: Seam | Blank | None = None
        if thread is not None and thread.started is not None:
            self._seam = thread.go_on() if goes_on else thread.restart()
            if dialect is not None:
                self._encoder = dialect.encoder(thread.started, request)
                self._encoder.feed(thread.said())  # it writes on where another one stopped; the client has this

    @override
    def _pass(self, frames: list[Frame]) -> Batch:
        decode = self._decoder.feed
        events: list[Event] = []
        batch = Batch(b"", events, True)
        error: UpstreamProtocolError | None = None
        for frame in frames:
            try:
                events += decode(frame)
            except UpstreamProtocolError as wrong:
                if self._forgive(frame, wrong):
                    continue
                error = wrong
                break
        if len(events) != 1 or type(events[0]) is not TextDelta:
            self._look(batch)
        if events:
            try:
                self._encode(events, batch)
            except Diverged as diverged:
                batch.ended = False
                if isinstance(events[-1], Ended | Failed):
                    events.pop()  # there is one reason why it is over
                return self._end(batch, diverged)
        return batch if error is None or self._is_over else self._end(batch, error)

    def _look(self, batch: Batch) -> None:
        """See whether the stream is over. What a provider says after its end is nothing."""
        events = batch.events
        for position, event in enumerate(events):
            if isinstance(event, Ended):
                batch.ended = True
            elif isinstance(event, Failed):
                batch.error = event.error
            else:
                continue
            self._is_over = True
            del events[position + 1 :]
            return

    @override
    def _take(self, events: list[Event], batch: Batch) -> None:
        try:
            self._encode(events, batch)
        except Diverged as diverged:
            events.append(Failed(diverged))
        batch.events += events  # after that: the head that was missing is among them now

    def _encode(self, events: list[Event], batch: Batch) -> None:
        """Put what `events` say, and the client lacks, into `batch`. Raises `Diverged`."""
        if not self._has_head:
            started = self._complete_head(events)
            if self._encoder is None and self._dialect is not None:
                self._encoder = self._dialect.encoder(started, self._request)
        new: Sequence[Event] = events
        if self._seam is not None:
            batch.new = batch.new or []  # also where it says something else, of which nothing is for the client
            new = self._seam.feed(events)
            if self._seam.is_closed:
                self._seam = None
        elif self._dialect is None:
            batch.new = batch.new or []
        if batch.new is not None:
            batch.new += new
        if self._encoder is not None:
            batch.out += self._encoder.feed(new)

    def _complete_head(self, events: list[Event]) -> Started:
        self._has_head = True
        position = next((at for at, event in enumerate(events) if isinstance(event, Started)), None)
        said = events[position] if position is not None else None
        started = self._names.complete(said if isinstance(said, Started) else Started("", ""))
        if position is None:
            events.insert(0, started)
        else:
            events[position] = started
        return started
