"""Lone chunks go from socket to socket in a plain call, and nobody can tell but by the time it takes: the same bytes, the same
books, whatever the wire cuts them into.
"""

from __future__ import annotations

import json
import random
import re
from typing import TYPE_CHECKING, Any, Literal

import pytest
from support.raw_server import END, chunk, raw_server
from support.short_path import (
    DONE,
    FINISH,
    ROLE,
    USAGE,
    cut_every,
    cut_in_characters,
    frame,
    frames,
    playing,
    random_cuts,
    serving,
    switch_off,
)

from trio_ai_proxy.chat.events import TextDelta
from trio_ai_proxy.relay.scrutiny import Scrutiny

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from trio_ai_proxy.accounting.record import ExchangeRecord
    from trio_ai_proxy.chat.events import Event


@pytest.mark.parametrize("pause", [0.001, 0.005, 0.02])
async def test_lone_frames_come_as_they_were_sent(pause: float, tmp_path: Path, passed: list[bytes]) -> None:
    said = frames()
    async with (
        raw_server(playing(map(chunk, said), pause)) as server,
        serving(server.origin, tmp_path) as served,
    ):
        assert await served.ask() == b"".join(said)
    assert len(passed) >= 30
    [record] = served.records
    assert (record.outcome, record.usage_source, record.completion_tokens) == ("completed", "provider", 40)
    assert record.bytes_out == sum(map(len, said))


LAYOUTS: dict[str, list[bytes]] = {
    "characters cut between chunks": list(map(chunk, cut_in_characters(b"".join(frames())))),
    "frames cut between chunks": list(map(chunk, cut_every(100, b"".join(frames())))),
    "chunks cut between reads": cut_every(90, b"".join(map(chunk, frames()))),
    "comments between frames": [chunk(piece) for one in frames() for piece in (b": ping\n\n", one)],
    "an end that comes with the last frames": [*map(chunk, frames()[:-3]), chunk(FINISH + USAGE + DONE)],
    "an end in one read with the end of the body": [*map(chunk, frames()[:-1]), chunk(DONE) + END],
    "chunks with extensions and a trailer": [
        *(b"%x;a=b\r\n%b\r\n" % (len(one), one) for one in frames()), b"0\r\nx-trailer: 1\r\n\r\n",
    ],
}  # fmt: skip


@pytest.mark.parametrize("layout", LAYOUTS)
async def test_however_it_is_laid_on_the_wire(layout: str, tmp_path: Path, passed: list[bytes]) -> None:
    pieces = LAYOUTS[layout]
    has_end = pieces[-1].endswith(b"\r\n\r\n") and b"0\r\n" in pieces[-1][-24:]
    async with (
        raw_server(playing(pieces, end=b"" if has_end else END)) as server,
        serving(server.origin, tmp_path) as served,
    ):
        for _ in range(2):  # the second time on the connection of the first
            body = await served.ask()
            comment = b": ping\n\n"
            assert body.replace(comment, b"") == b"".join(frames())
            assert (body.count(comment) >= 40) == layout.startswith("comments")
            await served.gateway.live.empty.wait()  # the client need not wait for the end behind the end
        assert len(server.peers) == 1
    assert len(passed) >= 40


async def test_a_usage_chunk_that_was_not_asked_for_does_not_come(tmp_path: Path, passed: list[bytes]) -> None:
    said = frames()
    async with (
        raw_server(playing(map(chunk, said))) as server,
        serving(server.origin, tmp_path) as served,
    ):
        assert await served.ask(stream_options=None) == b"".join(one for one in said if one is not USAGE)
    assert len(passed) >= 30
    assert served.records[0].usage_source == "provider"


async def test_a_usage_chunk_is_made_up_where_none_came(tmp_path: Path, passed: list[bytes]) -> None:
    said = [ROLE, *(frame(" word") for _ in range(20)), FINISH]
    async with (
        raw_server(playing(map(chunk, said))) as server,
        serving(server.origin, tmp_path) as served,
    ):
        body = await served.ask()
    assert body.startswith(b"".join(said))
    assert json.loads(body.removesuffix(DONE).split(b"\n\n")[-2].removeprefix(b"data: "))["usage"]
    assert len(passed) >= 10


async def test_who_watches_the_grammar_of_streams_sees_all_of_it(
    tmp_path: Path, passed: list[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[Event] = []
    sent: list[bytes] = []
    observe, send = Scrutiny.observe, Scrutiny.send

    def observed(scrutiny: Scrutiny, events: Sequence[Event]) -> None:
        said.extend(events)
        observe(scrutiny, events)

    def noted(scrutiny: Scrutiny, data: bytes) -> None:
        sent.append(data)
        send(scrutiny, data)

    monkeypatch.setattr(Scrutiny, "observe", observed)
    monkeypatch.setattr(Scrutiny, "send", noted)
    async with (
        raw_server(playing(map(chunk, frames()))) as server,
        serving(server.origin, tmp_path, validate=True) as served,
    ):
        body = await served.ask()
    assert len(passed) >= 30
    assert sum(isinstance(event, TextDelta) for event in said) == 40
    assert b"".join(sent) == body


class TestWithAndWithout:
    """The same provider, with the short path and without it: the same bytes, the same books."""

    @pytest.mark.parametrize("seed", range(12))
    async def test_however_it_is_cut(
        self, seed: int, tmp_path: Path, passed: list[bytes], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        dice = random.Random(seed)
        said = [one for piece in frames(25) for one in (dice.choice([b"", b"", b": still here\n\n"]), piece) if one]
        ending: Literal["keep", "fin", "rst"] = "keep"
        end = END
        wire = b"".join(map(chunk, random_cuts(b"".join(said), dice, dice.randrange(5, 60))))
        if seed % 3 == 1:  # broken off somewhere
            wire, end = wire[: dice.randrange(len(wire) // 2, len(wire))], b""
            ending = dice.choice(["fin", "rst"])
        elif seed % 3 == 2:
            wire = b"".join(map(chunk, said))
        pieces = random_cuts(wire, dice, 40)
        if seed % 4 == 3:  # the provider says that something went wrong
            pieces, end = (
                [*map(chunk, said[:20]), chunk(b'data: {"error":{"message":"no","type":"server_error"}}\n\n')],
                END,
            )
        async with (
            raw_server(playing(pieces, 0.003, end=end, ending=ending)) as server,
            serving(server.origin, tmp_path) as served,
        ):
            on = await served.ask()
            number = len(passed)
            assert number >= 5
            with monkeypatch.context() as patch:
                switch_off(patch)
                off = await served.ask()
            assert len(passed) == number
        assert _no_ids(on) == _no_ids(off)
        first, second = (_books(record) for record in served.records)
        assert first == second

    async def test_where_the_provider_speaks_another_language(
        self, tmp_path: Path, passed: list[bytes], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        wire = b"".join(map(chunk, anthropic_stream()))
        pieces = random_cuts(wire, random.Random(1), 60)
        async with (
            raw_server(playing(pieces, 0.003)) as server,
            serving(server.origin, tmp_path, kind="anthropic") as served,
        ):
            on = await served.ask()
            number = len(passed)
            with monkeypatch.context() as patch:
                switch_off(patch)
                off = await served.ask()
        assert _no_ids(on) == _no_ids(off)
        assert on.count(b'"content":" word') == 40
        assert on.endswith(DONE)
        assert 10 <= number == len(passed)
        first, second = (_books(record) for record in served.records)
        assert first == second


def anthropic_stream() -> list[bytes]:
    usage = {"input_tokens": 7, "output_tokens": 1}
    head: dict[str, Any] = {
        "id": "msg_1",
        "type": "message",
        "role": "assistant",
        "model": "m",
        "content": [],
        "stop_reason": None,
    }
    said: list[dict[str, Any]] = [
        {"type": "message_start", "message": {**head, "stop_sequence": None, "usage": usage}},
        {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}},
        *(
            {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": f" word{number}é"}}
            for number in range(40)
        ),
        {"type": "content_block_stop", "index": 0},
        {"type": "message_delta", "delta": {"stop_reason": "end_turn"}, "usage": {"output_tokens": 40}},
        {"type": "message_stop"},
    ]
    return [f"event: {one['type']}\ndata: {json.dumps(one, ensure_ascii=False)}\n\n".encode() for one in said]


def _no_ids(body: bytes) -> bytes:
    """`body` without what differs from one request to the next."""
    return re.sub(rb'[0-9a-f]{32}|"created":\d+', b"-", body)


def _books(record: ExchangeRecord) -> dict[str, Any]:
    names = ("outcome", "status", "phase", "prompt_tokens", "completion_tokens", "usage_source", "bytes_out")
    return {name: getattr(record, name) for name in names}
