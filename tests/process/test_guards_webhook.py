"""A guard that asks a web service, from outside: the real command before a provider and a web service on real ports."""

from __future__ import annotations

import json
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import pytest
import trio
from support.exchanges import DONE as DONE_FRAME
from support.exchanges import ROLE, STOP, delta
from support.guarded_house import SOON, House, check_clean, guarded_house, serving, streamed
from support.standing import DONE, Answer, ask, chat, eventually

from trio_ai_proxy.testing import RawClient, Script, Step, openai_answer

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator

    from trio_ai_proxy.testing import ReceivedRequest

pytestmark = pytest.mark.process


@pytest.fixture(scope="module")
def house() -> Iterator[House]:
    with guarded_house() as opened:
        yield opened


@pytest.fixture(autouse=True)
async def _afterwards(house: House) -> AsyncIterator[None]:
    yield
    await check_clean(house)


def well_formed(got: Answer) -> None:
    assert (got.status, got.data[-1], got.data.count(DONE)) == (200, DONE, 1)


def says(verdict: object, *, status: int = 200, head_pause: float = 0.0) -> Script:
    body = json.dumps(verdict).encode()
    return Script(
        status=status,
        headers=(("content-type", "application/json"),),
        steps=lambda: iter([Step(0.0, body)]),
        head_pause=head_pause,
    )


def speaking(*pieces: str, pause: float = 0.0) -> Script:
    return streamed(delta(ROLE), *map(delta, pieces), STOP, DONE_FRAME, pause=pause)


async def test_webhook_passes_replaces_and_blocks(house: House) -> None:
    shown: list[dict[str, Any]] = []

    def judge(request: ReceivedRequest) -> Script:
        window = request.json()
        shown.append(window)
        assert (request.path, request.header("authorization")) == ("/judge", "Bearer office-token")
        if window["side"] == "request":
            return says({"action": "replace", "texts": [text.replace("coffee", "tea") for text in window["texts"]]})
        if "forbidden" in window["context"] + window["text"]:
            return says({"action": "block", "reason": "Not here."})
        if "some" in window["text"]:
            return says({"action": "replace", "text": window["text"].replace("some", "no")})
        return says({"action": "pass"})

    def answer(request: ReceivedRequest) -> Script:
        fields = request.json()
        asked = fields["messages"][-1]["content"]
        more = ("word that is ", "forbidden", " here") if "more" in asked else ("end.",)
        pieces = (asked, ": take ", "it with some su", "gar, that is the ", *more)
        return speaking(*pieces, pause=0.03) if fields.get("stream") else openai_answer("".join(pieces))

    async with serving(house.provider, answer), serving(house.hook, judge):
        got = await ask(house.gateway, chat("coffee", model="office"))
        well_formed(got)
        assert got.text == "tea: take it with no sugar, that is the end."
        assert [one["side"] for one in shown] == ["request", "response", "response", "response"]
        windows = sorted(shown[1:], key=lambda one: len(one["context"]))  # they are judged side by side
        assert [one["text"] for one in windows] == ["tea: take it wit", "h some sugar, th", "at is the end."]
        assert [one["context"] for one in windows] == ["", "tea: take it wit", "tea: take it with some sugar, th"]
        assert [one["is_last"] for one in windows] == [False, False, True]

        got = await ask(house.gateway, chat("more coffee", model="office"))
        well_formed(got)
        # The word begins in a window that is good by itself; with the next one it is seen, and nothing of that leaves, nor of
        # what had not left by then.
        assert got.text
        assert "more tea: take it with no sugar, that is the word that is forb".startswith(got.text)
        assert b"content_filter" in got.body

        got = await ask(house.gateway, chat("more coffee", model="office", stream=False))
        assert (got.status, got.error["code"], got.error["message"]) == (400, "content_blocked", "Not here.")


async def test_webhook_may_refuse_a_request(house: House) -> None:
    async with (
        serving(house.provider, speaking("never")) as provider,
        serving(house.hook, says({"action": "block", "reason": "Not this."})),
    ):
        got = await ask(house.gateway, chat(model="office"))
        assert (got.status, got.error["code"], got.error["message"]) == (400, "content_blocked", "Not this.")
        assert provider.exchanges == []


FAULTS = {
    "status 500": says({"action": "pass"}, status=500),
    "no verdict": says({"action": "perhaps"}),
    "reset": Script(refuse=True),
    "too late": says({"action": "pass"}, head_pause=5.0),
    "not there": None,
}


@asynccontextmanager
async def broken_hook(house: House, fault: str) -> AsyncIterator[None]:
    script = FAULTS[fault]
    if script is None:
        yield  # nobody listens
        return
    async with serving(house.hook, script):
        yield


@pytest.mark.parametrize("fault", FAULTS)
async def test_webhook_that_fails_lets_all_pass_or_nothing(house: House, fault: str) -> None:
    async with (
        serving(house.provider, speaking("All is well, ", "said the sea.")) as provider,
        broken_hook(house, fault),
    ):
        got = await ask(house.gateway, chat(model="office-open"))
        well_formed(got)
        assert got.text == "All is well, said the sea."
        asked = len(provider.exchanges)
        got = await ask(house.gateway, chat(model="office-closed"))
        assert got.status in (502, 503, 504)
        assert got.error["code"] == "guard_failed"
        assert len(provider.exchanges) == asked, "what was not judged goes nowhere"
        got = await ask(house.gateway, chat(model="office-answers"))
        assert got.status in (400, 502, 503, 504)
        assert b"well" not in got.body


@pytest.mark.parametrize("side", ["request", "response"])
@pytest.mark.parametrize("leaving", ["fin", "rst"])
async def test_client_that_leaves_while_a_webhook_hangs_takes_its_connection_along(
    house: House, side: str, leaving: str, record_property: Callable[[str, object], None]
) -> None:
    def judge(request: ReceivedRequest) -> Script:
        return says({"action": "pass"}, head_pause=60.0 if request.json()["side"] == side else 0.0)

    endless = Script(steps=lambda: iter([Step(0.0, delta(ROLE)), Step(0.0, delta("words" * 8))]), ending="stall")
    async with serving(house.provider, endless) as provider, serving(house.hook, judge) as hook:
        client = RawClient("127.0.0.1", house.gateway.port)
        async with client:
            await client.post("/v1/chat/completions", json=chat(model="office"))
            await eventually(lambda: any(exchange.request.json()["side"] == side for exchange in hook.exchanges))
            left_at = trio.current_time()
            await (client.fin() if leaving == "fin" else client.rst())
            hanging = [exchange for exchange in hook.exchanges if not exchange.is_complete]
            assert hanging
            with trio.fail_after(5):
                for exchange in [*hanging, *provider.exchanges]:
                    await exchange.over.wait()
        released = [exchange.released_at for exchange in (*hanging, *provider.exchanges)]
        assert len(provider.exchanges) == (side == "response")
        took = [at - left_at for at in released if at is not None]
        assert len(took) == len(released)
        assert max(took) < SOON
        record_property("milliseconds from the client's leaving to the release of all", round(max(took) * 1000, 3))
