"""A signal ends the process in order: what is short comes to its end, what is endless gets one error in band after the
drain time, nobody new is let in, and the exit code is 0. A second signal ends it at once.
"""

from __future__ import annotations

import json
import signal
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import pytest
import trio
from support.command import Command

from trio_ai_proxy.testing import RawClient
from trio_ai_proxy.testing.raw import BodyCut

if TYPE_CHECKING:
    from collections.abc import Callable

pytestmark = pytest.mark.process

DRAIN = 3.0
AFTER_DRAIN = 2.0
SHORT, ENDLESS = 20, 5
SHORT_TOKENS = 30  # one second of the demo's pace
SERVERS = pytest.mark.parametrize("hypercorn", [False, True], ids=["serve", "hypercorn"])
CONFIG = "[tokens]\nload_timeout = 0.1\n[providers.demo]\nkind = 'demo'\n" + "".join(
    f"[models.{name}]\ntargets = [{{ provider = 'demo', model = '{name}' }}]\n" for name in ("demo", "demo-endless")
)


def command(*, hypercorn: bool) -> Command:
    return Command(CONFIG, server=f"drain = {DRAIN}", hypercorn=hypercorn)


@dataclass
class Answer:
    """What one client has read so far. `ended` is True once the body has come to its own end, False once it was cut."""

    status: int | None = None
    body: bytes = b""
    begun: trio.Event = field(default_factory=trio.Event)
    ended: bool | None = None

    @property
    def frames(self) -> list[Any]:
        frames = [frame.removeprefix(b"data: ") for frame in self.body.split(b"\n\n") if frame]
        return [frame.decode() if frame == b"[DONE]" else json.loads(frame) for frame in frames]


async def ask(gateway: Command, answer: Answer, **fields: Any) -> None:
    """Put one request and read its answer to whatever end it has."""
    body = {"messages": [{"role": "user", "content": "Hello"}], **fields}
    async with RawClient("127.0.0.1", gateway.port) as client:
        await client.post("/v1/chat/completions", json=body)
        if not fields["stream"]:
            answer.begun.set()
        try:
            answer.status = (await client.read_head()).status
            while (chunk := await client.read_chunk()) is not None:
                answer.body += chunk.data
                answer.begun.set()
            answer.ended = True
        except (BodyCut, trio.BrokenResourceError):
            answer.ended = False


async def readiness(gateway: Command) -> int:
    async with RawClient("127.0.0.1", gateway.admin_port) as client:
        await client.get("/readyz")
        return (await client.read_head()).status


async def _is_turned_away(gateway: Command, hypercorn: bool) -> None:
    """Nobody new is let in. Hypercorn's command keeps the listening socket open in its parent process, where a new
    connection waits unanswered until that process ends; by ourselves we close it, and the system refuses."""
    client = RawClient("127.0.0.1", gateway.port)
    if not hypercorn:
        with trio.fail_after(1):
            while not await _is_refused(client):
                await trio.sleep(0.01)
        return
    async with client:
        await client.get("/healthz")
        try:
            assert await client.read_all() == b""
        except trio.BrokenResourceError:
            pass


async def _is_refused(client: RawClient) -> bool:
    try:
        async with client:
            return False
    except ConnectionRefusedError:
        return True


async def exchanges(gateway: Command) -> int:
    async with RawClient("127.0.0.1", gateway.admin_port) as client:
        await client.get("/exchanges")
        await client.read_head()
        body = b"".join(chunk.data for chunk in await client.read_body())
        return len(json.loads(body)["exchanges"])


def outcomes(gateway: Command, is_wanted: Callable[[dict[str, Any]], bool] = lambda _: True) -> list[str]:
    return sorted(record["outcome"] for record in gateway.records() if is_wanted(record))


@SERVERS
async def test_sigterm_lets_short_streams_end_and_tells_endless_ones(hypercorn: bool) -> None:
    short, endless = [Answer() for _ in range(SHORT)], [Answer() for _ in range(ENDLESS)]
    one_shot = Answer()
    with trio.fail_after(60):
        async with command(hypercorn=hypercorn) as gateway, trio.open_nursery() as clients:
            for answer in endless:
                clients.start_soon(_ask, gateway, answer, {"model": "demo-endless", "stream": True})
            clients.start_soon(_ask, gateway, one_shot, {"model": "demo-endless", "stream": False})
            for answer in short:
                fields = {"model": "demo", "stream": True, "max_tokens": SHORT_TOKENS}
                clients.start_soon(_ask, gateway, answer, fields)
            for answer in (*short, *endless):
                await answer.begun.wait()
            assert await readiness(gateway) == 200
            assert await exchanges(gateway) == SHORT + ENDLESS + 1
            signalled = trio.current_time()
            gateway.signal(signal.SIGTERM)
            while await readiness(gateway) != 503:
                await trio.sleep(0.01)
            assert trio.current_time() - signalled < 1
            clients.start_soon(_is_turned_away, gateway, hypercorn)
            code = await gateway.wait(seconds=DRAIN + AFTER_DRAIN + 5)
            took = trio.current_time() - signalled
        assert code == 0, gateway.log
        assert DRAIN <= took < DRAIN + AFTER_DRAIN

    for answer in short:
        assert answer.ended is True
        *_, finish, done = answer.frames
        assert done == "[DONE]"
        assert finish["choices"][0]["finish_reason"] == "length"
        words = [frame for frame in answer.frames[:-1] if frame["choices"][0]["delta"].get("content")]
        assert len(words) == SHORT_TOKENS
    for answer in endless:
        assert answer.ended is True, "the body has an end of its own: the error is the last word, not a cut"
        *words, last = answer.frames
        assert len(words) > DRAIN * 20
        assert last["error"]["code"] == "shutdown"
        assert {type(last["error"][name]) for name in ("message", "type", "code")} == {str}
        assert not any(word == "[DONE]" or "error" in word for word in words)
    assert (one_shot.status, json.loads(one_shot.body)["error"]["code"]) == (503, "shutdown")

    assert outcomes(gateway) == ["completed"] * SHORT + ["shutdown"] * (ENDLESS + 1)
    assert "Traceback" not in gateway.log


async def _ask(gateway: Command, answer: Answer, fields: dict[str, Any]) -> None:
    await ask(gateway, answer, **fields)


@SERVERS
async def test_sigterm_with_nothing_to_do_ends_at_once(hypercorn: bool) -> None:
    with trio.fail_after(60):
        async with command(hypercorn=hypercorn) as gateway, RawClient("127.0.0.1", gateway.port) as idle:
            await idle.get("/healthz")
            assert (await idle.read_head()).status == 200
            await idle.read_body()
            signalled = trio.current_time()
            gateway.signal(signal.SIGTERM)
            assert await idle.read_all() == b"", "a connection without a request is closed, without a word"
            assert await gateway.wait(seconds=20) == 0, gateway.log
            assert trio.current_time() - signalled < 2
        assert "Traceback" not in gateway.log


@SERVERS
async def test_sigint_drains_like_sigterm(hypercorn: bool) -> None:
    answer = Answer()
    with trio.fail_after(60):
        async with command(hypercorn=hypercorn) as gateway, trio.open_nursery() as clients:
            clients.start_soon(_ask, gateway, answer, {"model": "demo", "stream": True, "max_tokens": SHORT_TOKENS})
            await answer.begun.wait()
            gateway.signal(signal.SIGINT)
            assert await gateway.wait(seconds=DRAIN + AFTER_DRAIN + 5) == 0, gateway.log
        assert answer.ended is True
        assert answer.frames[-1] == "[DONE]"
        assert outcomes(gateway) == ["completed"]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_a_second_signal_ends_it_at_once(number: signal.Signals) -> None:
    answers = [Answer() for _ in range(ENDLESS)]
    with trio.fail_after(60):
        async with command(hypercorn=False) as gateway, trio.open_nursery() as clients:
            for answer in answers:
                clients.start_soon(_ask, gateway, answer, {"model": "demo-endless", "stream": True})
            for answer in answers:
                await answer.begun.wait()
            gateway.signal(signal.SIGTERM)
            while await readiness(gateway) != 503:
                await trio.sleep(0.01)
            signalled = trio.current_time()
            gateway.signal(number)
            assert await gateway.wait(seconds=20) == 128 + number, gateway.log
            assert trio.current_time() - signalled < 1
        for answer in answers:
            assert answer.ended is False, "what is cut looks cut"
            assert b"[DONE]" not in answer.body
        assert outcomes(gateway) == ["shutdown"] * ENDLESS
        assert "Traceback" not in gateway.log
