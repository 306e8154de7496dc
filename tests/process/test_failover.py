"""Failover from outside: the real command in front of two providers on real ports, one of which misbehaves."""

from __future__ import annotations

import json
from contextlib import AsyncExitStack, asynccontextmanager, closing
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pytest
import trio
from support.exchanges import DONE as DONE_FRAME
from support.exchanges import ROLE, STOP, delta
from support.failover import WHOLE, WORDS, answer, broken
from support.standing import DONE, Answer, HeldPort, ask, chat, data_of, eventually, idle, standing, text_of, wire

from trio_ai_proxy.testing import RawClient, Script, ScriptedServer, Step, openai_answer, openai_error

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from support.command import Command

    from trio_ai_proxy.testing import ReceivedRequest

pytestmark = pytest.mark.process

MODEL = """
[models.{name}]
continuation = "splice"
retries = {retries}
{more}
targets = [
  {{ provider = "first", model = "one" }},
  {{ provider = "second", model = "two", priority = 1, capabilities = {{ prefill = {prefill} }} }},
]
"""


@dataclass(frozen=True)
class House:
    gateway: Command
    first: HeldPort
    second: HeldPort


@pytest.fixture(scope="module")
def house() -> Iterator[House]:
    first, second = HeldPort(), HeldPort()
    config = f"""
[timeouts]
connect = 2
first_token = 0.6
idle = 0.6
total = 20
[breaker]
failures = 1000
window = "5ms"
[providers.first]
kind = "openai"
base_url = "{first.url}/v1"
api_key = "sk-first"
[providers.stock]
kind = "openai"
base_url = "{first.url}/v1"
api_key = "sk-first"
transport = "httpx"
[providers.second]
kind = "openai"
base_url = "{second.url}/v1"
api_key = "sk-second"
"""
    config += MODEL.format(name="pair", retries=1, more="", prefill="false")
    config += MODEL.format(name="prefilled", retries=0, more="", prefill="true")
    patient = 'hedge_after = 0.2\ntimeouts = { first_token = "10s" }'
    config += MODEL.format(name="hedged", retries=0, more=patient, prefill="false")
    breaker = 'breaker = { failures = 2, rate = 1, window = "1s", open = "800ms" }'
    config += MODEL.format(name="flapping", retries=0, more=breaker, prefill="false")
    held = MODEL.replace('"splice"', '"hold"')
    config += held.format(name="held", retries=0, more="hold_for = 0.3", prefill="false")
    config += held.format(name="held-stock", retries=0, more="hold_for = 0.3", prefill="false").replace(
        "first", "stock"
    )
    with closing(first), closing(second), standing(config) as gateway:
        yield House(gateway, first, second)


@pytest.fixture(autouse=True)
async def _afterwards(house: House) -> AsyncIterator[None]:
    yield
    with trio.fail_after(20):
        await idle(house.gateway)
    assert '"bug"' not in house.gateway.log
    assert "Traceback" not in house.gateway.log


class Providers:
    """Both of them. `asked` are the bodies that each has got."""

    def __init__(self, house: House, first: Any, second: Any) -> None:
        self.asked: dict[str, list[Any]] = {"first": [], "second": []}
        self.first = self._server("first", house.first, first)
        self.second = self._server("second", house.second, second)

    def _server(self, name: str, port: HeldPort, playing: Any) -> ScriptedServer:
        left = list(playing) if isinstance(playing, list) else [playing]

        def play(request: ReceivedRequest) -> Script:
            self.asked[name].append(request.json())
            script = left.pop(0) if len(left) > 1 else left[0]
            found: Script = script if isinstance(script, Script) else script(request.json())
            return found

        server = ScriptedServer(play)
        server.port = port.number
        return server


@asynccontextmanager
async def playing(house: House, first: Any, second: Any) -> AsyncIterator[Providers]:
    providers = Providers(house, first, second)
    with trio.fail_after(30):
        async with providers.first, providers.second:
            yield providers


def frames(got: Answer) -> list[dict[str, Any]]:
    return [json.loads(payload) for payload in got.data if payload != DONE]


def assert_whole(got: Answer) -> None:
    assert (got.status, got.text, got.data[-1]) == (200, WHOLE, DONE)
    assert got.data.count(DONE) == 1
    assert len({one["id"] for one in frames(got)}) == 1


def streaming(house: House, model: str = "pair", **fields: Any) -> Any:
    return ask(house.gateway, chat("Explain.", model=model, **fields))


@pytest.mark.parametrize("cut", ["fin", "rst"])
@pytest.mark.parametrize("inside", [True, False])
async def test_cut_is_spliced_to_the_byte(house: House, cut: str, inside: bool) -> None:
    async with playing(
        house, wire(broken(40, pause=0.001), cut=cut, cut_inside=inside), answer(pause=0.001)
    ) as providers:
        got = await streaming(house, stream_options={"include_usage": True})
        assert_whole(got)
        assert (got.header("x-llm-provider"), got.header("x-llm-attempts")) == ("first", "1")
        assert [one["usage"]["completion_tokens"] for one in frames(got) if one.get("usage")] == [60]
        assert [len(asked) for asked in providers.asked.values()] == [1, 1]
    record = await house.gateway.record(got.request_id)
    assert [(row["provider"], row["kind"], row["outcome"]) for row in record["attempts"]] == [
        ("first", "first", "upstream_truncated"), ("second", "continuation", "completed"),
    ]  # fmt: skip


async def test_cut_anywhere_in_the_bytes_of_a_character(house: House) -> None:
    whole, odd = "größe 漢字🌊!", delta("漢字🌊")
    for at in range(len(odd) - 30, len(odd), 3):
        script = Script(steps=lambda at=at: iter([Step(0, delta(ROLE) + delta("größe ") + odd[:at])]), ending="cut")
        async with playing(house, wire(script), answer(["grö", "ße 漢", "字🌊!"], pause=0)):
            got = await streaming(house)
            assert (got.text, got.data[-1]) == (whole, DONE)


async def test_lone_chunks_of_the_short_path_are_remembered(house: House) -> None:
    """Chunks that go from socket to socket past every task are part of what was delivered."""
    async with playing(house, broken(40, pause=0.02), answer(pause=0)):
        assert_whole(await streaming(house))


async def test_restart_that_says_something_else_is_one_error(house: House) -> None:
    async with playing(house, broken(40, pause=0.001), answer(["Something", " else."], pause=0)):
        got = await streaming(house)
        assert (got.text, got.error["code"]) == ("".join(WORDS[:40]), "upstream_truncated")


async def test_restart_that_says_something_else_is_gone_on_with_where_that_can_be(house: House) -> None:
    def second(body: Any) -> Script:
        last = body["messages"][-1]
        return answer(WORDS[40:] if last["role"] == "assistant" else ["Something", " else."], pause=0)

    async with playing(house, broken(40, pause=0.001), second) as providers:
        got = await streaming(house, "prefilled")
        assert_whole(got)
        assert providers.asked["second"][-1]["messages"][-1]["content"] == "".join(WORDS[:40])


async def test_unavailable_leads_to_the_next(house: House) -> None:
    async with playing(house, openai_error(503), answer(pause=0)) as providers:
        got = await streaming(house)
        assert_whole(got)
        assert (got.header("x-llm-provider"), got.header("x-llm-attempts")) == ("second", "3")
        assert len(providers.asked["first"]) == 2
    async with playing(house, openai_error(503), openai_answer(WHOLE)):
        got = await streaming(house, stream=False)
        assert json.loads(got.body)["choices"][0]["message"]["content"] == WHOLE


async def test_nobody_there_leads_to_the_next(house: House) -> None:
    async with AsyncExitStack() as stack:
        server = ScriptedServer(answer(pause=0))
        server.port = house.second.number
        await stack.enter_async_context(server)
        assert_whole(await streaming(house))


@pytest.mark.parametrize(
    "script",
    [
        answer(before=5),
        Script(head_pause=5),
        Script(steps=lambda: iter([Step(0, delta(ROLE))]), ending="stall"),
    ],
    ids=["slow first token", "no response", "silence after the role"],
)
async def test_slow_or_silent_leads_to_the_next_at_once(house: House, script: Script) -> None:
    async with playing(house, script, answer(pause=0)) as providers:
        got = await streaming(house)
        assert_whole(got)
        assert 0.5 < got.seconds < 3
        assert len(providers.asked["first"]) == 1
        await eventually(lambda: providers.first.exchanges[0].released_at is not None)


async def test_stall_in_the_middle_is_spliced(house: House) -> None:
    async with playing(house, broken(20, pause=0.001, ending="stall"), answer(pause=0)) as providers:
        got = await streaming(house)
        assert_whole(got)
        assert got.seconds < 4
        await eventually(lambda: providers.first.exchanges[0].released_at is not None)


async def test_retry_after_is_kept(house: House) -> None:
    limited = openai_error(429, headers=[("retry-after", "1")])
    async with playing(house, [limited, answer(pause=0)], answer(pause=0)) as providers:
        assert_whole(await streaming(house))
        first, second = providers.first.exchanges
        assert 1.0 <= second.opened_at - first.opened_at < 3
        assert providers.second.exchanges == []


async def test_malformed_event_is_left_out(house: House) -> None:
    parts = [delta(ROLE), *map(delta, WORDS), STOP, DONE_FRAME]
    parts.insert(10, b'data: {"id": "1", "choices": [{"delta": {"content": \n\n')
    script = Script(steps=lambda: iter([Step(0.001, part) for part in parts]))
    async with playing(house, script, answer(pause=0)) as providers:
        got = await streaming(house)
        assert_whole(got)
        assert providers.asked["second"] == []
    assert (await house.gateway.record(got.request_id))["malformed_events"] == 1


async def test_flapping_provider_is_spared_and_found_again(house: House) -> None:
    is_up = False

    def first(_: Any) -> Script:
        return answer(pause=0) if is_up else openai_error(503)

    async with playing(house, first, answer(pause=0)) as providers:
        for _ in range(10):
            assert_whole(await streaming(house, "flapping"))
        assert 2 <= len(providers.asked["first"]) <= 6
        is_up = True

        async def is_back() -> bool:
            return bool((await streaming(house, "flapping")).header("x-llm-provider") == "first")

        await eventually(is_back, seconds=10)
        assert (await streaming(house, "flapping")).header("x-llm-provider") == "first"


async def test_hedge_lets_go_of_the_loser_at_once(house: House) -> None:
    async with playing(house, answer(before=8), answer(pause=0)) as providers:
        got = await streaming(house, "hedged")
        assert_whole(got)
        assert got.seconds < 3
        [loser], [winner] = providers.first.exchanges, providers.second.exchanges
        await eventually(lambda: loser.released_at is not None)
        assert loser.released_at is not None
        assert loser.released_at - winner.opened_at < 1
    record = await house.gateway.record(got.request_id)
    assert [row["outcome"] for row in record["attempts"]] == ["beaten", "completed"]


@pytest.mark.parametrize(
    "second", [Script(head_pause=15), answer(pause=0.3)], ids=["before its head", "while it swallows"]
)
async def test_client_that_leaves_in_mid_continuation_closes_all(house: House, second: Script) -> None:
    async with playing(house, broken(3, pause=0.001), second) as providers:
        async with RawClient("127.0.0.1", house.gateway.port) as client:
            await client.post(
                "/v1/chat/completions", json=chat("Explain.", model="pair"), headers=[("x-request-id", "gone")]
            )
            await client.read_head()
            await eventually(lambda: providers.second.exchanges)
            left_at = trio.current_time()
        await eventually(lambda: providers.second.exchanges[0].over.is_set())
        released = providers.second.exchanges[0].released_at
        assert released is not None
        assert released - left_at < 1
        await eventually(lambda: providers.first.open_connections == 0)
        assert len(providers.asked["second"]) == 1
    record = await house.gateway.record("gone")
    assert record["outcome"] == "client_gone"


async def test_client_s_own_deadline(house: House) -> None:
    async with playing(house, Script(head_pause=10), Script(head_pause=10)):
        got = await ask(house.gateway, chat("Explain.", model="hedged"), headers=[("x-request-timeout", "500ms")])
        assert (got.status, got.error["code"]) == (504, "timeout_total")
        assert 0.4 < got.seconds < 3
        got = await ask(house.gateway, chat("Explain.", model="pair"), headers=[("x-request-timeout", "soon")])
        assert (got.status, got.error["param"]) == (400, "x-request-timeout")


HOLDING = pytest.mark.parametrize("model", ["held", "held-stock"])


@HOLDING
@pytest.mark.parametrize("cut", ["fin", "rst"])
async def test_cut_while_the_beginning_is_held_back_is_not_seen(house: House, model: str, cut: str) -> None:
    async with playing(house, wire(broken(9, words=["Wrong"] * 9, pause=0.001), cut=cut), answer(pause=0)) as providers:
        got = await streaming(house, model)
        assert_whole(got)
        assert b"Wrong" not in got.body
        assert (got.header("x-llm-provider"), got.header("x-llm-attempts")) == ("second", "2")
        assert [len(asked) for asked in providers.asked.values()] == [1, 1]
    record = await house.gateway.record(got.request_id)
    assert [(row["kind"], row["outcome"], row["answered"]) for row in record["attempts"]] == [
        ("first", "upstream_truncated", False), ("next", "completed", True),
    ]  # fmt: skip
    assert record["attempts"][0]["completion_tokens"] >= 9


@HOLDING
async def test_what_is_held_back_is_passed_on_while_the_provider_is_silent_and_nothing_is_lost(
    house: House, model: str
) -> None:
    steps = [Step(0, delta(ROLE)), *(Step(0.001, delta(word)) for word in WORDS[:5])]
    steps += [Step(0.5, delta("".join(WORDS[5:]))), Step(0, STOP + DONE_FRAME)]
    async with playing(house, Script(steps=lambda: iter(steps)), answer(pause=0)) as providers:
        async with RawClient("127.0.0.1", house.gateway.port) as client:
            await client.post("/v1/chat/completions", json=chat("Explain.", model=model))
            await client.read_head()
            chunks = await client.read_body()
        body = b"".join(chunk.data for chunk in chunks)
        assert chunks[-1].at - chunks[0].at > 0.1  # what was held came before the provider went on
        assert b"".join(data_of(chunks[0].data)).count(b'"content"') == 6
        assert (text_of(body), data_of(body)[-1]) == (WHOLE, DONE)
        assert providers.asked["second"] == []


@HOLDING
async def test_cut_after_that_is_spliced(house: House, model: str) -> None:
    async with playing(house, wire(broken(40, pause=0.012)), answer(pause=0)):
        got = await streaming(house, model)
        assert_whole(got)
        assert got.header("x-llm-attempts") == "1"
