"""The queue for a provider's slots from outside: the real command, two clients with keys, and one slot."""

from __future__ import annotations

from contextlib import asynccontextmanager, closing
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest
import trio
from support.standing import DONE, Answer, HeldPort, ask, chat, eventually, idle, metrics, standing, upstream

from trio_ai_proxy.testing import RawClient, openai_stream

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from support.command import Command

pytestmark = pytest.mark.process

TURN = 0.3
QUEUED = 8


@dataclass(frozen=True)
class House:
    gateway: Command
    port: HeldPort


@pytest.fixture(scope="module")
def house() -> Iterator[House]:
    port = HeldPort()
    config = f"""
[providers.scripted]
kind = "openai"
base_url = "{port.url}/v1"
api_key = "sk-upstream"
max_in_flight = 1
max_queued = {QUEUED}
[models]
scripted.targets = [{{ provider = "scripted", model = "scripted" }}]
[[keys]]
name = "team-a"
secret = "a-secret-of-team-a"
[[keys]]
name = "team-b"
secret = "a-secret-of-team-b"
"""
    with closing(port), standing(config) as gateway:
        yield House(gateway, port)


@pytest.fixture(autouse=True)
async def _afterwards(house: House) -> AsyncIterator[None]:
    yield
    with trio.fail_after(20):
        await idle(house.gateway)
    assert '"bug"' not in house.gateway.log
    assert "Traceback" not in house.gateway.log


@asynccontextmanager
async def crowd(house: House) -> AsyncIterator[trio.Nursery]:
    """A provider that takes its time, and who come to it."""
    with trio.fail_after(40):
        async with upstream(house.port, openai_stream(["x"], pause=TURN)), trio.open_nursery() as nursery:
            yield nursery


def as_team(name: str) -> list[tuple[str, str]]:
    return [("authorization", f"Bearer a-secret-of-team-{name}")]


async def test_crowd_of_one_client_does_not_hold_up_another(house: House) -> None:
    order: list[str] = []

    async def come(team: str) -> None:
        got = await ask(house.gateway, chat("fault"), headers=as_team(team))
        assert got.status == 200, got.body
        assert got.data[-1] == DONE
        order.append(team)

    async with crowd(house) as nursery:
        for _ in range(1 + QUEUED - 2):
            nursery.start_soon(come, "a")
        await eventually(partial(counts, house, "waiting", QUEUED - 2))
        nursery.start_soon(come, "b")
    assert sorted(order) == ["a"] * (QUEUED - 1) + ["b"]
    assert order.index("b") <= 2


async def test_who_fills_the_queue_is_told_so_and_the_other_still_finds_a_place(house: House) -> None:
    answers: list[Answer] = []

    async def come(team: str) -> None:
        answers.append(await ask(house.gateway, chat("fault"), headers=as_team(team)))

    async with crowd(house) as nursery:
        for _ in range(1 + QUEUED):
            nursery.start_soon(come, "a")
        await eventually(partial(counts, house, "waiting", QUEUED))
        got = await ask(house.gateway, chat("fault"), headers=as_team("a"))
        assert (got.status, got.error["type"], got.error["code"]) == (429, "rate_limit_error", "queue_crowded")
        assert 1 <= int(got.header("retry-after") or "0") <= 10
        assert got.seconds < TURN
        got = await ask(house.gateway, chat("fault"), headers=as_team("b"))
        assert got.status == 200, got.body
        assert got.data[-1] == DONE
    assert sorted(answer.status for answer in answers) == [200] * QUEUED + [429]  # one gave its place up
    record = await house.gateway.record(next(one.request_id for one in answers if one.status == 429))
    assert (record["outcome"], record["phase"], record["key"]) == ("limit", "queue", "team-a")
    refused = (await metrics(house.gateway))['trio_ai_proxy_queue_refused_total{provider="scripted",reason="crowded"}']
    assert refused == 2


@pytest.mark.parametrize("way", ["fin", "rst"])
async def test_who_leaves_the_queue_leaves_nothing_in_it(house: House, way: str) -> None:
    before = len(departures(house))
    async with crowd(house) as nursery:
        nursery.start_soon(partial(ask, house.gateway, chat("fault"), headers=as_team("a")))
        await eventually(partial(counts, house, "in_use", 1))
        async with RawClient("127.0.0.1", house.gateway.port) as client:
            await client.post("/v1/chat/completions", json=chat("fault"), headers=as_team("b"))
            await eventually(partial(counts, house, "waiting", 1))
            await (client.fin() if way == "fin" else client.rst())
            await eventually(partial(counts, house, "waiting", 0))
    await eventually(lambda: len(departures(house)) == before + 1)
    assert departures(house)[-1]["phase"] == "queue"


def departures(house: House) -> list[dict[str, Any]]:
    """The records of clients that left."""
    return [record for record in house.gateway.records() if record["outcome"] == "client_gone"]


async def counts(house: House, what: str, value: float) -> bool:
    return (await metrics(house.gateway))[f'trio_ai_proxy_slots_{what}{{provider="scripted"}}'] == value
