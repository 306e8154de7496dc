"""A gateway in the test's own process between a provider that is played byte by byte and real clients: what can be counted of
the short path (docs/architecture.md) is counted here."""

from __future__ import annotations

import json
import re
from contextlib import asynccontextmanager
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any, Literal

import trio
from support.exchanges import Kept
from support.raw_server import CHUNKED, END, Peer

from trio_ai_proxy.gateway import Gateway
from trio_ai_proxy.relay.client import Client
from trio_ai_proxy.serving.listener import open_listener, serve_app
from trio_ai_proxy.testing import RawClient, no_leaks
from trio_ai_proxy.testing.in_memory import scripted_settings
from trio_ai_proxy.upstream.client import UpstreamResponse

if TYPE_CHECKING:
    import random
    from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
    from pathlib import Path

    import pytest

    from trio_ai_proxy.accounting.record import ExchangeRecord
    from trio_ai_proxy.settings import Timeouts
    from trio_ai_proxy.testing import TimedChunk
PATH = "/v1/chat/completions"
ASK: dict[str, Any] = {
    "model": "scripted", "stream": True, "stream_options": {"include_usage": True},
    "messages": [{"role": "user", "content": "Tell me about the river."}],
}  # fmt: skip
DONE = b"data: [DONE]\n\n"
WORDS = ["é", "日本", "😀", " river", "\u2028", " \\n", "ß", " water"]
KEEP_ALIVE = re.compile(rb": keep-alive\n\n")


def frame(text: str | None = None, **fields: Any) -> bytes:
    head = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1_700_000_000, "model": "scripted"}
    delta = {"content": text} if text is not None else {"role": "assistant", "content": ""}
    value = {**head, "choices": [{"index": 0, "delta": delta, "finish_reason": None}], **fields}
    return b"data: " + json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode() + b"\n\n"


ROLE = frame()
FINISH = frame("", choices=[{"index": 0, "delta": {}, "finish_reason": "stop"}])
USAGE = frame("", choices=[], usage={"prompt_tokens": 7, "completion_tokens": 40, "total_tokens": 47})


def frames(count: int = 40) -> list[bytes]:
    return [ROLE, *(frame(WORDS[number % len(WORDS)]) for number in range(count)), FINISH, USAGE, DONE]


class Served:
    """A gateway on a real port. `records` are those of its exchanges, `lines` what it has logged."""

    def __init__(self, gateway: Gateway, port: int) -> None:
        self.gateway = gateway
        self.port = port
        self.records: list[ExchangeRecord] = Kept()
        self.lines: list[bytes] = Kept()
        gateway._ledger = self.records  # type: ignore[assignment]  # it is put to, and no more
        gateway._log_lines.put = self.lines.put  # type: ignore[method-assign, assignment]  # as above

    async def ask(self, *, version: str = "1.1", **fields: Any) -> bytes:
        """One exchange read to its end: its body."""
        async with RawClient("127.0.0.1", self.port) as client:
            await ask(client, version=version, **fields)
            assert (await client.read_head()).status == 200
            if version == "1.0":
                return await client.read_all()
            return b"".join(piece.data for piece in await client.read_body())


async def ask(client: RawClient, *, version: str = "1.1", **fields: Any) -> None:
    body = json.dumps({**ASK, **fields}).encode()
    head = f"POST {PATH} HTTP/{version}\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n"
    await client.send(head.encode() + body)


@asynccontextmanager
async def serving(
    origin: str,
    tmp_path: Path,
    *,
    timeouts: Timeouts | None = None,
    ca_file: str | None = None,
    kind: str = "openai",
    around: Callable[[Gateway], Any] = lambda gateway: gateway,
    serve: Callable[..., Awaitable[None]] = serve_app,
    validate: bool = False,
    **model: Any,
) -> AsyncIterator[Served]:
    """A gateway before the provider at `origin`. Afterwards nothing is watched, and nothing is left."""
    base_url = f"{origin}/v1" if kind == "openai" else origin
    settings = scripted_settings(base_url=base_url, timeouts=timeouts)
    settings = replace(
        settings,
        server=replace(settings.server, record_log=str(tmp_path / "records"), validate_streams=validate),
        models={"scripted": replace(settings.models["scripted"], **model)},
        providers={"scripted": replace(settings.providers["scripted"], kind=kind, ca_file=ca_file)},
    )
    async with no_leaks():
        gateway, listener, stop = Gateway(settings), open_listener("127.0.0.1:0"), trio.Event()
        served = Served(gateway, listener.getsockname()[1])
        with trio.fail_after(60):
            async with trio.open_nursery() as nursery:
                await nursery.start(partial(serve, around(gateway), listener, stop, graceful=1.0))
                try:
                    yield served
                    await gateway.live.empty.wait()
                    assert gateway._readiness.watched == 0
                finally:
                    stop.set()


def count_passed(patch: pytest.MonkeyPatch) -> list[bytes]:
    """From now on, what has gone the short path. A test of it that sees nothing here has proved nothing."""
    pieces: list[bytes] = []
    send_now = Client.send_now

    def counted(client: Client, data: bytes) -> bool:
        is_sent = send_now(client, data)
        if is_sent:
            pieces.append(data)
        return is_sent

    patch.setattr(Client, "send_now", counted)
    return pieces


def switch_off(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(UpstreamResponse, "can_watch", False)


def playing(
    pieces: Iterable[bytes],
    pause: float = 0.002,
    *,
    end: bytes = END,
    ending: Literal["keep", "fin", "rst", "stall", "goodbye"] = "keep",
) -> Callable[[Peer], Awaitable[None]]:
    """A provider that answers each request with these bytes, a piece at a time, and then behaves as `ending` says."""
    pieces = list(pieces)

    async def handler(peer: Peer) -> None:
        while await peer.request():
            await peer.send(CHUNKED)
            for piece in pieces:
                await peer.send(piece)
                await trio.sleep(pause)
            if end:
                await peer.send(end)
            if ending == "fin":
                return
            if ending == "rst":
                peer.reset()
                return
            if ending == "goodbye":
                await peer.say_goodbye()
            if ending in ("stall", "goodbye"):
                await peer.until_left()

    return handler


def cut_every(size: int, body: bytes) -> list[bytes]:
    return [body[at : at + size] for at in range(0, len(body), size)]


def cut_in_characters(body: bytes) -> list[bytes]:
    """Cut behind the first byte of every character of several."""
    places = [at + 1 for at, byte in enumerate(body) if byte >= 0xC0]
    return [body[start:stop] for start, stop in zip([0, *places], [*places, len(body)], strict=True)]


def random_cuts(body: bytes, dice: random.Random, count: int) -> list[bytes]:
    places = sorted(dice.sample(range(1, len(body)), min(count, len(body) - 1)))
    return [body[start:stop] for start, stop in zip([0, *places], [*places, len(body)], strict=True)]


async def read_some(client: RawClient) -> TimedChunk:
    """The next chunk of a body that has not ended."""
    piece = await client.read_chunk()
    assert piece is not None
    return piece
