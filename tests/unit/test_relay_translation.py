"""Another wire on each side: nothing lost, nothing after the end, and a head without gaps."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from trio_ai_proxy.chat.events import Ended, Event, Failed, Finished, Started, TextDelta
from trio_ai_proxy.dialects.table import DIALECTS
from trio_ai_proxy.errors import TruncatedStream, UpstreamError, UpstreamProtocolError
from trio_ai_proxy.framing.sse import SSEFramer
from trio_ai_proxy.providers.openai_stream import OpenAIDecoder
from trio_ai_proxy.relay.path import Batch
from trio_ai_proxy.relay.translation import Names, Translation

if TYPE_CHECKING:
    from trio_ai_proxy.framing.frame import Frame

CHAT = DIALECTS["llm/v1/chat"]
DONE = b"data: [DONE]\n\n"


def translating(*, model: str | None = None, decoder: Any = None, max_frame_bytes: int = 10_000) -> Translation:
    names = Names(id="made-up", model=model, asked="asked", created=17)
    framer = SSEFramer(max_frame_bytes=max_frame_bytes)
    return Translation(framer, decoder or OpenAIDecoder("chat", str), CHAT, names)


def frame(delta: Any = None, *, finish: str | None = None, **more: Any) -> bytes:
    choice = {"index": 0, "delta": delta or {}, "finish_reason": finish}
    return b"data: " + json.dumps({"choices": [choice], **more}).encode() + b"\n\n"


def chunks(out: bytes) -> list[Any]:
    assert out == b"" or out.endswith(b"\n\n")
    return [json.loads(part.removeprefix(b"data: ")) for part in out.split(b"\n\n")[:-1]]


def contents(out: bytes) -> list[str]:
    return [chunk["choices"][0]["delta"].get("content", "") for chunk in chunks(out)]


TEXT = frame({"content": "a"}, id="i", model="real", created=5, system_fingerprint="f")
FINISH = frame(finish="stop")


class Says:
    """A decoder that says at its end what it was given."""

    def __init__(self, *events: Event) -> None:
        self._events = list(events)

    def feed(self, item: Frame) -> list[Event]:
        return []

    def close(self) -> list[Event]:
        return self._events


class TestHead:
    @pytest.mark.parametrize(
        ("model", "said", "shown"),
        [(None, "real", "real"), (None, "", "asked"), ("ours", "real", "ours"), ("ours", "", "ours")],
    )
    def test_model_is_the_clients_or_the_providers_or_what_was_asked_for(
        self, model: str | None, said: str, shown: str
    ) -> None:
        batch = translating(model=model).feed(frame({"content": "a"}, model=said))
        assert {chunk["model"] for chunk in chunks(batch.out)} == {shown}

    def test_what_the_provider_says_is_kept(self) -> None:
        batch = translating().feed(TEXT)
        assert batch.events == [Started("i", "real", 5, "f"), TextDelta("a")]
        first = chunks(batch.out)[0]
        assert (first["id"], first["created"], first["system_fingerprint"]) == ("i", 5, "f")

    def test_what_it_does_not_say_is_filled_in(self) -> None:
        batch = translating().feed(frame({"content": "a"}))
        assert batch.events[0] == Started("made-up", "asked", 17)
        assert {(chunk["id"], chunk["created"]) for chunk in chunks(batch.out)} == {("made-up", 17)}

    def test_head_that_is_never_said_is_made_up(self) -> None:
        path = translating(decoder=Says(TextDelta("a"), Finished("stop"), Ended()))
        assert path.feed(TEXT) == Batch(alive=True)
        batch = path.close()
        assert batch.events == [Started("made-up", "asked", 17), TextDelta("a"), Finished("stop"), Ended()]
        assert contents(batch.out) == ["", "a", ""]
        assert batch.ended


class TestPieces:
    def test_each_gives_whole_frames(self) -> None:
        path = translating()
        assert path.feed(TEXT[:-1]) == Batch()
        assert contents(path.feed(TEXT[-1:] + TEXT).out) == ["", "a", "a"]

    def test_more_text_alone_is_one_frame(self) -> None:
        path = translating()
        path.feed(TEXT)
        batch = path.feed(frame({"content": "b"}))
        assert (contents(batch.out), batch.events, batch.alive, batch.ended) == (["b"], [TextDelta("b")], True, False)

    def test_comments_are_life_and_nothing_else(self) -> None:
        assert translating().feed(b": hi\n\n") == Batch(alive=True)

    def test_half_a_frame_is_no_life(self) -> None:
        assert translating().feed(b"data: {") == Batch()


class TestEnd:
    def test_is_the_providers_terminal_and_nothing_follows(self) -> None:
        path = translating()
        path.feed(TEXT)
        batch = path.feed(FINISH + DONE + TEXT)
        assert batch.ended
        assert batch.error is None
        assert batch.events == [Finished("stop"), Ended()]
        assert len(chunks(batch.out)) == 1
        assert path.feed(TEXT) == Batch()
        assert path.close() == Batch()

    def test_may_be_the_close_where_all_is_said(self) -> None:
        path = translating()
        path.feed(TEXT + FINISH)
        assert path.close() == Batch(b"", [Ended()], alive=True, ended=True)
        assert path.feed(TEXT) == Batch()

    def test_of_a_stream_that_was_cut_is_an_error(self) -> None:
        path = translating()
        path.feed(TEXT)
        batch = path.close()
        assert isinstance(batch.error, TruncatedStream)
        assert not batch.ended
        assert path.close() == Batch()

    def test_last_frame_counts_without_its_blank_line(self) -> None:
        path = translating()
        path.feed(TEXT + FINISH)
        path.feed(DONE.rstrip())
        assert path.close().ended

    def test_text_in_the_last_frame_is_not_lost(self) -> None:
        path = translating()
        path.feed(TEXT)
        path.feed(frame({"content": "b"}, finish="stop").rstrip())
        batch = path.close()
        assert contents(batch.out) == ["b", ""]
        assert batch.ended

    def test_failure_that_shows_only_at_the_end_is_no_end(self) -> None:
        error = UpstreamError("m")
        path = translating(decoder=Says(TextDelta("a"), Failed(error)))
        batch = path.close()
        assert (batch.error, batch.ended) == (error, False)
        assert contents(batch.out) == ["", "a"]


class TestErrors:
    def test_reported_one_ends_the_stream_after_what_came_before(self) -> None:
        path = translating()
        batch = path.feed(TEXT + b'data: {"error":{"message":"m"}}\n\n' + TEXT)
        assert contents(batch.out) == ["", "a"]
        assert isinstance(batch.events[-1], Failed)
        assert batch.error is not None
        assert batch.error.message == "m"
        assert not batch.ended
        assert path.feed(TEXT) == Batch()

    def test_broken_frame_is_one_after_what_came_before(self) -> None:
        batch = translating().feed(TEXT + b"data: {\n\n" + TEXT)
        assert contents(batch.out) == ["", "a"]
        assert type(batch.error) is UpstreamProtocolError
        assert isinstance(batch.events[-1], Failed)

    def test_broken_frame_at_once_writes_nothing(self) -> None:
        batch = translating().feed(b"data: {\n\n")
        assert batch.out == b""
        assert [type(event) for event in batch.events] == [Failed]

    def test_what_follows_a_reported_one_is_not_even_an_error(self) -> None:
        batch = translating().feed(TEXT + b'data: {"error":"m"}\n\ndata: {\n\n')
        assert batch.error is not None
        assert batch.error.message == "m"
        assert [type(event) for event in batch.events].count(Failed) == 1

    def test_frame_that_is_too_long_is_one(self) -> None:
        batch = translating(max_frame_bytes=100).feed(b"data: " + b"x" * 500)
        path = translating(max_frame_bytes=100)
        path.feed(b"data: " + b"x" * 500)
        again = path.feed(b"x")
        assert isinstance(batch.error or again.error, UpstreamProtocolError)

    def test_frame_that_is_too_long_and_last_is_one(self) -> None:
        path = translating(max_frame_bytes=100)
        first, last = path.feed(b"data: " + b"x" * 99), path.close()
        assert isinstance(first.error or last.error, UpstreamProtocolError)
