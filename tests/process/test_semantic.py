"""`balance = "semantic"` from outside: the real command between a client, two targets and an embeddings model on real ports; and
a web service that a guard asks, over a real connection."""

from __future__ import annotations

import json
from contextlib import asynccontextmanager, closing
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pytest
import trio
from support.exchanges import Kept
from support.semantic import vectors_of
from support.standing import HeldPort, ask, chat, eventually, get, idle, metrics, standing

from trio_ai_proxy.dialects.table import DIALECTS
from trio_ai_proxy.errors import UpstreamRefused, UpstreamTimeout
from trio_ai_proxy.relay.exchange import Exchange
from trio_ai_proxy.testing import RawClient, Script, ScriptedServer, no_leaks, open_gateway, openai_answer, openai_error
from trio_ai_proxy.testing.in_memory import scripted_settings

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from support.command import Command

    from trio_ai_proxy.testing import ReceivedRequest

pytestmark = pytest.mark.process


@dataclass(frozen=True)
class House:
    gateway: Command
    port: HeldPort


@pytest.fixture(scope="module")
def house() -> Iterator[House]:
    port = HeldPort()
    config = f"""
[providers.all]
kind = "openai"
base_url = "{port.url}/v1"
api_key = "sk-all"
[models.vectors]
retries = 0
targets = [{{ provider = "all", model = "embed-1" }}]
[models.team]
balance = "semantic"
semantic = {{ model = "vectors", threshold = 0.6, timeout = "1500ms" }}
targets = [
  {{ provider = "all", model = "poet", description = "a poem" }},
  {{ provider = "all", model = "lawyer", description = "the law" }},
  {{ provider = "all", model = "anyone" }},
]
"""
    with closing(port), standing(config) as gateway:
        yield House(gateway, port)


class Provider:
    """Vectors of words, after `pause` seconds, and answers of whom is asked."""

    def __init__(self, house: House) -> None:
        self.pause = 0.0
        self.server = ScriptedServer(self._play)
        self.server.port = house.port.number

    def _play(self, request: ReceivedRequest) -> Script:
        fields: dict[str, Any] = request.json()
        if request.path.endswith("/embeddings"):
            return vectors_of(fields, head_pause=self.pause)
        return openai_answer(fields["model"])


@asynccontextmanager
async def provider(house: House) -> AsyncIterator[Provider]:
    playing = Provider(house)
    with trio.fail_after(30):
        async with playing.server:
            yield playing
            await idle(house.gateway)
    assert '"bug"' not in house.gateway.log


async def who(house: House, text: str) -> str:
    answer = await ask(house.gateway, chat(text, model="team", stream=False))
    assert answer.status == 200, (answer.body, house.gateway.log)
    said: str = json.loads(answer.body)["choices"][0]["message"]["content"]
    assert answer.header("x-llm-model") == said
    return said


async def test_who_answers_is_who_it_is_for_and_who_leaves_leaves_nothing(house: House) -> None:
    async with provider(house) as playing:
        assert [await who(house, text) for text in ("write a poem", "which law?", "the sea")] == [
            "poet", "lawyer", "anyone",
        ]  # fmt: skip
        playing.pause = 30.0
        began = trio.current_time()
        assert await who(house, "another poem") == "poet"  # its turn, by weight
        assert 1.5 <= trio.current_time() - began < 10
        numbers = await metrics(house.gateway)
        assert numbers['trio_ai_proxy_semantic_total{model="team",result="asked"}'] == 3
        assert numbers['trio_ai_proxy_semantic_total{model="team",result="failed"}'] == 1
        await trio.sleep(1.1)  # the rest after a failure
        async with RawClient("127.0.0.1", house.gateway.port) as client:
            question = chat("one more poem", model="team")
            await client.post("/v1/chat/completions", json=question, headers=[("x-request-id", "leaving")])

            async def is_asked() -> bool:
                rows = json.loads((await get(house.gateway, "/exchanges", admin=True)).body)["exchanges"]
                return [row["parent"] for row in rows if row["phase"] == "first_token"] == ["leaving"]

            await eventually(is_asked, seconds=1.4)
        records = {name: await house.gateway.record(name) for name in ("leaving", "leaving-g1")}
        assert {record["outcome"] for record in records.values()} == {"client_gone"}
        assert (records["leaving"]["phase"], records["leaving-g1"]["parent"]) == ("prepare", "leaving")
        assert records["leaving-g1"]["upstream_released_ms"] < 200


async def test_a_web_service_is_asked_over_a_connection_that_is_kept_and_let_go_of_when_nobody_waits() -> None:
    def play(request: ReceivedRequest) -> Script:
        if request.path == "/slow":
            return Script(head_pause=30.0)
        return openai_error(403, "No.") if request.json()["a"] else openai_answer("yes")

    with trio.fail_after(20):
        async with no_leaks(), ScriptedServer(play) as server, open_gateway(scripted_settings()) as opened:
            opened.gateway._ledger = Kept()  # type: ignore[assignment]  # it is put to, and no more
            exchange = Exchange("mine", DIALECTS["llm/v1/chat"], opened.gateway.live, now=trio.current_time())
            desk = opened.gateway.desk(exchange)
            for a, status in ((0, 200), (1, 403), (0, 200)):
                got, body = await desk.post("pii", f"{server.url}/judge", {"x-key": "k"}, b'{"a": %d}' % a, seconds=5)
                assert got == status
                assert json.loads(body)
            own = opened.gateway._webhooks._own
            assert own is not None
            assert (own.open_connections, own.idle_connections) == (1, 1)
            with pytest.raises(UpstreamTimeout, match="The web service of guard 'pii' did not answer within"):
                await desk.post("pii", f"{server.url}/slow", {}, b"{}", seconds=0.2)
            with trio.move_on_after(0.2):
                await desk.post("pii", f"{server.url}/slow", {}, b"{}", seconds=5)
            await eventually(lambda: [one.released_at is None for one in server.exchanges[3:]] == [False, False])
            assert own.open_connections == 0
            nobody = HeldPort()
            with (
                closing(nobody),
                pytest.raises(UpstreamRefused, match="The web service of guard 'pii' cannot be reached"),
            ):
                await desk.post("pii", f"{nobody.url}/judge", {}, b"{}", seconds=5)
