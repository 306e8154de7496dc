"""Credentials that expire: one fetch for all who wait, none for nobody, and a failure is told and not kept."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import trio
import trio.testing
from msgspec.structs import replace

from trio_ai_proxy.errors import UpstreamError, UpstreamRefused
from trio_ai_proxy.providers.base import FileStep, UpstreamRequest
from trio_ai_proxy.settings import ProviderSettings
from trio_ai_proxy.upstream.authorise import MAX_CREDENTIAL_BYTES, MAX_STEPS, authorise
from trio_ai_proxy.upstream.client import UpstreamClient
from trio_ai_proxy.upstream.script import Script, ScriptedTransport, Step

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    import httpx
    from trio.testing import MockClock

WANTED = UpstreamRequest("POST", "http://provider.invalid/x", (), b"{}", stream=True)
ASK = UpstreamRequest("POST", "http://tokens.invalid/t", (), b"please", stream=False)


class Scripted:
    """An authority whose credential takes `steps`, and is what the last of them answered."""

    def __init__(self, *steps: UpstreamRequest | FileStep) -> None:
        self._steps = list(steps)
        self.left = list(steps)
        self.answers: list[bytes] = []
        self.refuses = False

    def step(self, now: float) -> UpstreamRequest | FileStep | None:
        return self.left[0] if self.left else None

    def accept(self, status: int, headers: Mapping[str, str], body: bytes, now: float) -> None:
        if status != 200 or self.refuses:
            self.left = list(self._steps)
            raise UpstreamError(f"The credential was not given ({status}).")
        self.answers.append(body)
        self.left.pop(0)

    def sign(self, request: UpstreamRequest, now: float) -> UpstreamRequest:
        return replace(request, headers=((b"authorization", self.answers[-1]),))

    def reject(self) -> None:
        self.left = list(self._steps)


def token(*, status: int = 200, pause: float = 0.0, body: bytes = b"token") -> Script:
    headers = (("content-type", "text/plain"),)
    return Script(status=status, headers=headers, steps=lambda: iter([Step(0.0, body)]), head_pause=pause)


class Service:
    """A token service that answers as `play` says, and counts."""

    def __init__(self, play: Callable[[int], Script] = lambda _number: token(pause=1.0)) -> None:
        self.asked = 0
        self._play = play
        self.transport = ScriptedTransport(self._answer)

    def _answer(self, request: httpx.Request) -> Script:
        self.asked += 1
        return self._play(self.asked)

    def client(self) -> UpstreamClient:
        return UpstreamClient(ProviderSettings("account", "demo"), self.transport)


async def sign(authority: Scripted, client: UpstreamClient) -> bytes:
    signed = await authorise(authority, WANTED, client, connect=5)
    assert (signed.url, signed.body) == (WANTED.url, WANTED.body)
    return dict(signed.headers)[b"authorization"]


async def test_credential_that_is_good_costs_no_request(autojump_clock: MockClock) -> None:
    authority, service = Scripted(ASK), Service()
    async with service.client() as client:
        assert await sign(authority, client) == b"token"
        assert await sign(authority, client) == b"token"
        assert service.asked == 1
        authority.reject()
        assert await sign(authority, client) == b"token"
        assert service.asked == 2
    assert trio.current_time() == 2.0
    assert service.transport.open_responses == 0


async def test_all_who_wait_share_one_fetch(autojump_clock: MockClock) -> None:
    authority, service = Scripted(ASK), Service()
    signed: list[bytes] = []

    async def one(client: UpstreamClient) -> None:
        signed.append(await sign(authority, client))

    async with service.client() as client, trio.open_nursery() as nursery:
        for _ in range(20):
            nursery.start_soon(one, client)
    assert signed == [b"token"] * 20
    assert service.asked == 1
    assert trio.current_time() == 1.0


async def test_two_accounts_do_not_wait_for_one_another(autojump_clock: MockClock) -> None:
    service = Service()
    async with service.client() as client, trio.open_nursery() as nursery:
        nursery.start_soon(sign, Scripted(ASK), client)
        nursery.start_soon(sign, Scripted(ASK), client)
    assert service.asked == 2
    assert trio.current_time() == 1.0


async def test_failure_is_told_to_those_who_waited_and_the_next_one_tries_again(autojump_clock: MockClock) -> None:
    authority, service = Scripted(ASK), Service(lambda number: token(status=503 if number == 1 else 200, pause=1.0))
    told: list[str] = []

    async def one(client: UpstreamClient) -> None:
        with pytest.raises(UpstreamError) as caught:
            await sign(authority, client)
        told.append(caught.value.message)

    async with service.client() as client:
        async with trio.open_nursery() as nursery:
            for _ in range(5):
                nursery.start_soon(one, client)
        assert told == ["The credential was not given (503)."] * 5
        assert (service.asked, trio.current_time()) == (1, 1.0)
        assert await sign(authority, client) == b"token"
    assert service.transport.open_responses == 0


async def test_who_is_cancelled_leaves_the_fetch_to_the_next(autojump_clock: MockClock) -> None:
    authority, service = Scripted(ASK), Service()
    done: list[float] = []

    async def one(client: UpstreamClient) -> None:
        await sign(authority, client)
        done.append(trio.current_time())

    async with service.client() as client, trio.open_nursery() as nursery:
        with trio.move_on_after(0.5):
            nursery.start_soon(
                one, client
            )  # waits behind the one that is cancelled, or before it: either way it is served
            await sign(authority, client)
    assert len(done) == 1
    assert done[0] <= 1.5
    assert service.transport.open_responses == 0


async def test_steps_follow_one_another_and_files_are_read_each_time(autojump_clock: MockClock, tmp_path: Path) -> None:
    file = tmp_path / "token"
    file.write_bytes(b"first")
    authority, service = Scripted(FileStep(str(file)), ASK, FileStep(str(file))), Service()
    async with service.client() as client:
        assert await sign(authority, client) == b"first"
        file.write_bytes(b"second")
        authority.reject()
        assert await sign(authority, client) == b"second"
    assert authority.answers == [b"first", b"token", b"first", b"second", b"token", b"second"]


async def test_steps_without_end_are_given_up(autojump_clock: MockClock) -> None:
    authority, service = Scripted(*[ASK] * (MAX_STEPS + 1)), Service(lambda _number: token())
    async with service.client() as client:
        with pytest.raises(UpstreamRefused, match=f"in {MAX_STEPS} steps"):
            await sign(authority, client)
        assert service.asked == MAX_STEPS
        assert await sign(Scripted(*[ASK] * MAX_STEPS), client) == b"token"


async def test_answer_that_is_too_long_is_none(autojump_clock: MockClock) -> None:
    service = Service(lambda _number: token(body=b"x" * (MAX_CREDENTIAL_BYTES + 1)))
    async with service.client() as client:
        with pytest.raises(UpstreamError):
            await sign(Scripted(ASK), client)
    assert service.transport.open_responses == 0


async def test_file_that_is_not_there_is_an_error_without_its_path(autojump_clock: MockClock, tmp_path: Path) -> None:
    async with Service().client() as client:
        with pytest.raises(UpstreamError) as caught:
            await sign(Scripted(FileStep(str(tmp_path / "secret-name"))), client)
    assert "secret-name" not in caught.value.message
