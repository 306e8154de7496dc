"""The guards that ask, through a whole gateway in memory: what they ask for are exchanges of their own."""

from __future__ import annotations

import json
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import httpx
import pytest
import trio
from support.exchanges import DONE, QUESTION, Bench, delta, endless, stream

from trio_ai_proxy.chat.events import Ended, Event, Finished, TextDelta
from trio_ai_proxy.chat.request import ChatRequest
from trio_ai_proxy.dialects.table import DIALECTS
from trio_ai_proxy.errors import GuardBlocked, GuardFailed
from trio_ai_proxy.guards.moderate import Moderate
from trio_ai_proxy.guards.rewrite import RequestTransformer, ResponseTransformer
from trio_ai_proxy.guards.webhook import Webhook
from trio_ai_proxy.relay.exchange import Exchange
from trio_ai_proxy.relay.judging import Judging
from trio_ai_proxy.settings.guards import GuardKind, GuardSettings
from trio_ai_proxy.testing import Script, openai_answer, openai_error

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from trio.testing import MockClock

    from trio_ai_proxy.guards.base import Desk

END: list[Event] = [Finished("stop"), Ended()]


def settings(kind: GuardKind, **more: Any) -> GuardSettings:
    return GuardSettings(**{"name": "watch", "kind": kind, "model": "gpt-4o", "timeout": 5.0, **more})


def moderate(**more: Any) -> Moderate:
    return Moderate(settings("moderate", **more))


def rewriting(**more: Any) -> RequestTransformer:
    return RequestTransformer(settings("request_transformer", prompt="Say ocean.", **more))


def asked() -> ChatRequest:
    return ChatRequest("chat", "gpt-4o", stream=True, include_usage=False, fields=QUESTION)


def heard(request: httpx.Request) -> dict[str, str]:
    """What a guard's model is shown, as the guards write it."""
    shown: dict[str, str] = json.loads(json.loads(request.content)["messages"][-1]["content"])
    return shown


@asynccontextmanager
async def exchange_in(bench: Bench, *, total: float = 100.0) -> AsyncIterator[tuple[Exchange, Desk]]:
    """A client's exchange in the middle of its work, and its desk."""
    exchange = Exchange("mine", DIALECTS["llm/v1/chat"], bench.gateway.live, now=trio.current_time())
    exchange.upstream.deadline = trio.current_time() + total
    with exchange.upstream:
        yield exchange, bench.gateway.desk(exchange)


class Said:
    """What the client was given, and when."""

    def __init__(self) -> None:
        self.got: list[tuple[float, Event]] = []

    async def take(self, events: list[Event]) -> None:
        self.got += [(trio.current_time(), event) for event in events]


async def test_sentences_are_rewritten_while_the_provider_goes_on(autojump_clock: MockClock) -> None:
    client = Said()
    async with (
        Bench(lambda request: openai_answer(heard(request)["text"].upper(), head_pause=2.0)) as bench,
        exchange_in(bench) as (_, desk),
        trio.open_nursery() as nursery,
    ):
        judging = ResponseTransformer(settings("response_transformer", prompt="Shout."))
        stage = Judging("watch", judging.judge_for(asked()), desk, nursery, client.take)
        for piece in ("The sea", " is big. ", "It is ", "wet."):
            await trio.sleep(1)
            await stage.feed([TextDelta(piece)])
        await stage.feed(END)
        await stage.close()
        assert client.got == [
            (4.0, TextDelta("THE SEA IS BIG. ")),
            (6.0, TextDelta("IT IS WET.")),
            (6.0, END[0]),
            (6.0, END[1]),
        ]
        assert [(record.parent, record.guard, record.outcome) for record in bench.records] == [
            ("mine", "watch", "completed")
        ] * 2
        assert all((record.total_tokens or 0) > 0 for record in bench.records)


async def test_block_cancels_the_other_judgements_and_releases_what_they_asked(autojump_clock: MockClock) -> None:
    def answer(request: httpx.Request) -> Script:
        if "bad" in heard(request)["text"]:
            return openai_answer('{"verdict": "block", "reason": "bad"}', head_pause=1.0)
        return openai_answer('{"verdict": "pass"}', head_pause=50.0)

    client = Said()
    async with (
        Bench(answer) as bench,
        exchange_in(bench) as (_, desk),
        trio.open_nursery() as nursery,
    ):
        judging = moderate(uses="chat", window=4, overlap=0, timeout=60.0)
        stage = Judging("watch", judging.judge_for(asked()), desk, nursery, client.take)
        await stage.feed([TextDelta("goodbad!good")])
        await stage.close()
        assert trio.current_time() == 1.0
        assert stage.blocked is not None
        assert stage.blocked.message == "Stopped by the guard 'watch': bad."
        await trio.testing.wait_all_tasks_blocked()
        assert sorted(record.outcome or "" for record in bench.records) == ["cancelled", "cancelled", "completed"]
        assert [one.released_at for one in bench.transport.exchanges] == [1.0, 1.0, 1.0]
        assert client.got == []


async def test_client_that_leaves_takes_the_judgement_along(autojump_clock: MockClock) -> None:
    async with Bench(openai_answer("never", head_pause=1000.0)) as bench:
        judging = moderate(uses="chat", window=4, timeout=500.0)
        async with exchange_in(bench) as (_, desk), trio.open_nursery() as nursery:
            stage = Judging("watch", judging.judge_for(asked()), desk, nursery, Said().take)
            await stage.feed([TextDelta("good")])
            await trio.sleep(3)
            nursery.cancel_scope.cancel()
        assert bench.released_at == 3.0
        assert bench.record.outcome == "cancelled"


async def test_judgement_takes_no_longer_than_the_exchange_may(autojump_clock: MockClock) -> None:
    async with Bench(openai_answer("never", head_pause=1000.0)) as bench:
        one = moderate(uses="chat", timeout=500.0)
        async with exchange_in(bench, total=7.0) as (exchange, desk):
            with pytest.raises(GuardFailed) as caught:
                await one.enter(asked(), desk)
            assert caught.value.status == 504
        assert trio.current_time() == 7.0
        assert not exchange.ended
        assert bench.record.outcome == "timeout_total"


@pytest.mark.parametrize("flagged", [True, False])
async def test_moderation_model_is_asked_by_its_own_interface(autojump_clock: MockClock, flagged: bool) -> None:
    result = {"flagged": flagged, "categories": {"hate": flagged}, "category_scores": {"hate": 0.5}}
    document = json.dumps({"id": "modr-1", "model": "omni", "results": [result]}).encode()
    script = stream(document)
    headers = ((b"content-type", b"application/json"),)
    async with Bench(Script(steps=script.steps, headers=headers)) as bench, exchange_in(bench) as (_, desk):
        one = moderate()
        if flagged:
            with pytest.raises(GuardBlocked, match="hate"):
                await one.enter(asked(), desk)
        else:
            request = asked()
            assert await one.enter(request, desk) is request
        [sent] = bench.transport.exchanges
        assert sent.request.url.path == "/v1/moderations"
        assert json.loads(sent.request.content)["input"] == "What is the sea?"
        assert (bench.record.outcome, bench.record.guard) == ("completed", "watch")


async def test_request_is_rewritten_by_another_model(autojump_clock: MockClock) -> None:
    async with (
        Bench(openai_answer("<q>What is an ocean?</q>")) as bench,
        exchange_in(bench) as (_, desk),
    ):
        one = rewriting(extract="<q>(.*)</q>")
        entered = await one.enter(asked(), desk)
        assert entered.fields["messages"] == [{"role": "user", "content": "What is an ocean?"}]
        assert bench.record.guard == "watch"


async def test_model_that_fails_is_a_guard_that_fails(autojump_clock: MockClock) -> None:
    async with Bench(openai_error(500)) as bench, exchange_in(bench) as (_, desk):
        for on_failure in ("open", "closed"):
            one = rewriting(on_failure=on_failure)
            request = asked()
            if on_failure == "open":
                assert await one.enter(request, desk) is request
            else:
                with pytest.raises(GuardFailed):
                    await one.enter(request, desk)
        assert [record.outcome for record in bench.records] == ["upstream_error"] * 2


async def test_model_that_never_comes_to_an_end_is_cut_by_the_guards_own_deadline(autojump_clock: MockClock) -> None:
    async with (
        Bench(endless(lambda _: delta("a"), pause=1.0), provider={"kind": "demo"}) as bench,
        exchange_in(bench) as (_, desk),
    ):
        one = rewriting(timeout=20.0)
        with pytest.raises(GuardFailed) as caught:
            await one.enter(asked(), desk)
        assert (trio.current_time(), caught.value.status) == (20.0, 504)
        assert bench.record.outcome == "timeout_total"


async def test_webhook_is_asked_by_one_post(autojump_clock: MockClock) -> None:
    def answer(request: httpx.Request) -> httpx.Response:
        told = json.loads(request.content)
        return httpx.Response(200, json={"action": "replace", "text": told["text"].replace("sea", "ocean")})

    async with Bench(stream(DONE)) as bench:
        bench.gateway._webhooks._transports = {"https://judge.invalid": httpx.MockTransport(answer)}
        async with exchange_in(bench) as (_, desk):
            one = Webhook(settings("webhook", model=None, url="https://judge.invalid/v1?x=1", last_only=True))
            entered = await one.enter(asked(), desk)
        assert entered.fields["messages"] == [{"role": "user", "content": "What is the ocean?"}]
        assert bench.records == []
