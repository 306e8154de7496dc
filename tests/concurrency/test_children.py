"""What a guard may ask of the gateway, as exchanges of their own: a model, a judge, a web service. On a virtual clock."""

from __future__ import annotations

import json
from contextlib import asynccontextmanager
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest
import trio
from support.exchanges import DONE, QUESTION, Bench, delta, endless, key, stream
from support.semantic import documented

from trio_ai_proxy.dialects.table import DIALECTS
from trio_ai_proxy.errors import (
    Interrupted,
    InvalidRequest,
    Overloaded,
    ProxyError,
    UnknownModel,
    UpstreamProtocolError,
    UpstreamRefused,
    UpstreamStatus,
    UpstreamTimeout,
)
from trio_ai_proxy.relay.exchange import Exchange
from trio_ai_proxy.testing import Script, ScriptedTransport, Step, openai_answer, openai_error

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    import httpx
    from trio.testing import MockClock

    from trio_ai_proxy.guards.base import Desk

CHAT = DIALECTS["llm/v1/chat"]
FIELDS = {"messages": QUESTION["messages"]}
YES = openai_answer("yes", usage=(5, 1), head_pause=0.5)
JUDGED = {
    "id": "modr-1",
    "model": "omni-moderation-latest",
    "results": [{"flagged": True, "categories": {"hate": True, "violence": False}, "category_scores": {"hate": 0.9}}],
}


@asynccontextmanager
async def parent_of(
    bench: Bench, *, total: float = 100.0, key: str | None = None
) -> AsyncIterator[tuple[Exchange, Desk]]:
    """An exchange in the middle of its work, and its desk."""
    exchange = Exchange("mine", CHAT, bench.gateway.live, now=trio.current_time())
    exchange.key = key
    exchange.upstream.deadline = trio.current_time() + total
    desk: Desk = bench.gateway.desk(exchange)
    with exchange.upstream:
        yield exchange, desk


def body(bench: Bench) -> dict[str, Any]:
    """What the provider was asked."""
    [exchange] = bench.transport.exchanges
    asked: dict[str, Any] = json.loads(exchange.request.content)
    return asked


async def test_a_model_is_asked_as_an_exchange_of_its_own(autojump_clock: MockClock) -> None:
    async with Bench(YES, target="gpt-4o-mini") as bench, parent_of(bench, key="team") as (parent, desk):
        answer = await desk.ask("judge", "gpt-4o", {**FIELDS, "temperature": 0}, seconds=3.0)
        assert (answer.choices[0].text, answer.choices[0].finish_reason) == ("yes", "stop")
        assert body(bench) == {**FIELDS, "temperature": 0, "model": "gpt-4o-mini"}
        record = bench.record
        assert (record.request_id, record.parent, record.guard, record.key) == ("mine-g1", "mine", "judge", "team")
        assert (record.outcome, record.phase, record.status, record.stream) == ("completed", "done", 200, False)
        assert (record.model, record.target_model, record.dialect) == ("gpt-4o", "gpt-4o-mini", "gateway")
        assert (record.total_tokens, record.duration_ms) == (6, 500.0)
        assert parent.children == 1
        assert not parent.ended


async def test_a_provider_that_only_streams_is_asked_too(autojump_clock: MockClock) -> None:
    async with (
        Bench(
            lambda _request: stream(delta("y"), delta("es"), delta({}, finish="stop"), DONE), provider={"kind": "demo"}
        ) as bench,
        parent_of(bench) as (_, desk),
    ):
        answer = await desk.ask("judge", "gpt-4o", FIELDS, seconds=3.0)
        assert answer.choices[0].text == "yes"
        assert answer.usage is not None


async def test_the_key_need_not_be_good_for_what_a_guard_asks(autojump_clock: MockClock) -> None:
    async with Bench(YES, keys=(key("team", "s", "other"),)) as bench, parent_of(bench, key="team") as (_, desk):
        assert (await desk.ask("judge", "gpt-4o", FIELDS, seconds=3.0)).choices[0].text == "yes"


async def test_a_child_is_asked_for_a_whole_answer_whatever_clients_may_have(autojump_clock: MockClock) -> None:
    async with Bench(YES, model={"response_streaming": "always"}) as bench, parent_of(bench) as (_, desk):
        assert (await desk.ask("judge", "gpt-4o", FIELDS, seconds=3.0)).choices[0].text == "yes"


async def test_several_may_be_asked_at_once(autojump_clock: MockClock) -> None:
    async with Bench(YES) as bench, parent_of(bench) as (_, desk):
        async with trio.open_nursery() as nursery:
            for guard in ("a", "b", "c"):
                nursery.start_soon(partial(desk.ask, guard, "gpt-4o", FIELDS, seconds=3.0))
        assert trio.current_time() == 0.5
        assert {record.request_id for record in bench.records} == {"mine-g1", "mine-g2", "mine-g3"}
        assert {record.guard for record in bench.records} == {"a", "b", "c"}


async def test_a_child_fails_over_by_the_rules_of_its_model(autojump_clock: MockClock) -> None:
    played = iter([openai_error(503), YES])
    async with Bench(lambda _request: next(played), model={"retries": 1}) as bench, parent_of(bench) as (_, desk):
        assert (await desk.ask("judge", "gpt-4o", FIELDS, seconds=30.0)).choices[0].text == "yes"
        assert [row.kind for row in bench.record.attempts] == ["first", "retry"]


@pytest.mark.parametrize(
    ("script", "error", "outcome"),
    [
        (openai_error(500), UpstreamStatus, "upstream_error"),
        (openai_error(400, "Bad."), UpstreamStatus, "upstream_error"),
        (Script(refuse=True), UpstreamRefused, "upstream_error"),
        (documented({"object": "chat.completion"}), UpstreamProtocolError, "upstream_error"),
        (openai_answer("late", head_pause=9.0), UpstreamTimeout, "timeout_total"),
    ],
)
async def test_what_went_wrong_is_raised_and_recorded(
    autojump_clock: MockClock, script: Script, error: type[ProxyError], outcome: str
) -> None:
    async with Bench(script) as bench, parent_of(bench) as (parent, desk):
        with pytest.raises(error):
            await desk.ask("judge", "gpt-4o", FIELDS, seconds=3.0)
        assert (bench.record.outcome, bench.record.parent) == (outcome, "mine")
        assert not parent.ended
        assert trio.current_time() <= 3.0


async def test_a_model_that_is_not_there_is_refused_and_recorded(autojump_clock: MockClock) -> None:
    async with Bench(YES) as bench, parent_of(bench) as (_, desk):
        with pytest.raises(UnknownModel):
            await desk.ask("judge", "nobody", FIELDS, seconds=3.0)
        assert (bench.record.outcome, bench.record.phase, bench.record.provider) == ("refused", "accepted", None)


async def test_what_no_target_can_do_is_refused(autojump_clock: MockClock) -> None:
    async with Bench(YES, provider={"kind": "anthropic"}) as bench, parent_of(bench) as (_, desk):
        with pytest.raises(InvalidRequest):
            await desk.moderate("judge", "gpt-4o", "hate", seconds=3.0)
        assert bench.record.outcome == "refused"


async def test_what_cannot_be_written_is_refused(autojump_clock: MockClock) -> None:
    deep: list[Any] = []
    for _ in range(10_000):
        deep = [deep]
    async with Bench(YES) as bench, parent_of(bench) as (_, desk):
        with pytest.raises(InvalidRequest, match="cannot be written as JSON"):
            await desk.ask("judge", "gpt-4o", {**FIELDS, "metadata": deep}, seconds=3.0)
        assert bench.record.outcome == "refused"


async def test_a_bug_is_logged_under_the_childs_id_and_raised_as_ours(autojump_clock: MockClock) -> None:
    def broken(_request: httpx.Request) -> Script:
        raise ZeroDivisionError("a bug")

    async with Bench(broken) as bench, parent_of(bench) as (_, desk):
        with pytest.raises(ProxyError) as raised:
            await desk.ask("judge", "gpt-4o", FIELDS, seconds=3.0)
        assert raised.value.status == 500
        assert (bench.record.outcome, bench.log("bug")[0]["request_id"]) == ("bug", "mine-g1")


async def test_a_child_waits_for_a_slot_like_any_other(autojump_clock: MockClock) -> None:
    async with (
        Bench(YES, provider={"max_in_flight": 1}, timeouts={"queue": 1.0}) as bench,
        parent_of(bench) as (_, desk),
    ):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(partial(desk.ask, "a", "gpt-4o", FIELDS, seconds=3.0))
            await trio.testing.wait_all_tasks_blocked()
            await desk.ask("b", "gpt-4o", FIELDS, seconds=3.0)
        assert trio.current_time() == 1.0
    async with (
        Bench(openai_answer("slow", head_pause=9.0), provider={"max_in_flight": 1}, timeouts={"queue": 1.0}) as bench,
        parent_of(bench) as (_, desk),
        trio.open_nursery() as nursery,
    ):
        nursery.start_soon(partial(desk.ask, "a", "gpt-4o", FIELDS, seconds=20.0))
        await trio.testing.wait_all_tasks_blocked()
        with pytest.raises(Overloaded):
            await desk.ask("b", "gpt-4o", FIELDS, seconds=3.0)


# -- who ends it -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("after", [0.0, 0.25, 0.75, 1.25, 1.75, 2.5])
async def test_a_child_that_nobody_waits_for_any_more_leaves_nothing_at_any_phase(
    autojump_clock: MockClock, after: float
) -> None:
    """It waits for a slot, for the head, for the body, for the next attempt, and for that one's body."""
    pieces = [Step(0.5, b'{"choices"'), Step(0.5, b": [")]
    heads: list[Script] = [
        Script(
            headers=(("content-type", "application/json"),), steps=lambda: iter(pieces), head_pause=0.5, ending="cut"
        ),
        Script(
            headers=(("content-type", "application/json"),), steps=lambda: iter(pieces), head_pause=0.5, ending="stall"
        ),
    ]
    played = iter(heads)
    async with Bench(lambda _request: next(played), model={"retries": 1}) as bench, parent_of(bench) as (_, desk):
        with trio.move_on_after(after) as scope:
            await desk.ask("judge", "gpt-4o", FIELDS, seconds=30.0)
        assert scope.cancelled_caught
        assert trio.current_time() == after
        assert (bench.record.outcome, bench.record.detail) == ("cancelled", "nobody waits for it any more")
        assert [exchange.released_at for exchange in bench.transport.exchanges][-1:] == ([after] if after else [])


async def test_a_child_ends_with_its_parent_and_says_why(autojump_clock: MockClock) -> None:
    async with Bench(openai_answer("late", head_pause=9.0)) as bench:
        async with parent_of(bench) as (parent, desk), trio.open_nursery() as nursery:
            nursery.start_soon(partial(desk.ask, "judge", "gpt-4o", FIELDS, seconds=30.0))
            await trio.sleep(1)
            parent.client_left()
        assert (bench.record.outcome, bench.record.detail) == ("client_gone", "with its parent")
        assert bench.released_at == 1.0


async def test_a_child_has_no_more_time_than_its_parent(autojump_clock: MockClock) -> None:
    async with Bench(openai_answer("late", head_pause=9.0)) as bench:
        async with parent_of(bench, total=2.0) as (_, desk):
            await desk.ask("judge", "gpt-4o", FIELDS, seconds=30.0)
        assert trio.current_time() == 2.0
        assert (bench.record.outcome, bench.record.detail) == ("timeout_total", "with its parent")


async def test_an_operator_can_end_a_child_alone(autojump_clock: MockClock) -> None:
    async with Bench(openai_answer("late", head_pause=9.0)) as bench, parent_of(bench) as (parent, desk):
        async with trio.open_nursery() as nursery:

            @nursery.start_soon
            async def ask() -> None:
                with pytest.raises(Interrupted):
                    await desk.ask("judge", "gpt-4o", FIELDS, seconds=30.0)

            await trio.sleep(1)
            await bench.cancel("mine-g1")
        assert (bench.record.outcome, parent.ended) == ("cancelled", False)


async def test_a_child_is_interrupted_with_all_others_when_the_drain_is_over(autojump_clock: MockClock) -> None:
    async with Bench(openai_answer("late", head_pause=999.0), server={"drain": 2.0}) as bench:
        async with parent_of(bench, total=1e6) as (_, desk), trio.open_nursery() as nursery:

            @nursery.start_soon
            async def ask() -> None:
                with pytest.raises(Interrupted):
                    await desk.ask("judge", "gpt-4o", FIELDS, seconds=1e6)

            await trio.sleep(1)
            bench.gateway.begin_drain()
        assert (bench.record.outcome, trio.current_time()) == ("shutdown", 3.0)


# -- moderation --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("kind", "asked"), [("openai", "hateful"), ("mistral", ["hateful"])])
async def test_a_text_is_judged_in_openais_words(autojump_clock: MockClock, kind: str, asked: object) -> None:
    document = {**JUDGED, "results": [{**JUDGED["results"][0]}]}  # type: ignore[dict-item]  # it is a list of objects
    if kind == "mistral":
        del document["results"][0]["flagged"]
    account = {"kind": kind, "base_url": "http://upstream.invalid/v1"}
    async with Bench(documented(document), provider=account, target="judge-1") as bench, parent_of(bench) as (_, desk):
        result = await desk.moderate("judge", "gpt-4o", "hateful", seconds=3.0)
        assert result["flagged"] is True
        assert (result["categories"]["hate"], result["category_scores"]) == (True, {"hate": 0.9})
        [exchange] = bench.transport.exchanges
        assert exchange.request.url.path == "/v1/moderations"
        assert body(bench) == {"model": "judge-1", "input": asked}
        record = bench.record
        assert (record.outcome, record.prompt_tokens, record.completion_tokens) == ("completed", 2, 0)
        assert record.usage_source == "estimated"


async def test_a_judge_that_says_nothing_is_a_failure(autojump_clock: MockClock) -> None:
    async with Bench(documented({**JUDGED, "results": []})) as bench, parent_of(bench) as (_, desk):
        with pytest.raises(UpstreamProtocolError, match="has no judgements"):
            await desk.moderate("judge", "gpt-4o", "hateful", seconds=3.0)


# -- web services ------------------------------------------------------------------------------------------------------

HOOK = "https://hook.invalid"
URL = f"{HOOK}/judge?token=sk-hook"


@asynccontextmanager
async def hooked(answer: Callable[[httpx.Request], Script]) -> AsyncIterator[tuple[ScriptedTransport, Desk]]:
    """A desk whose web service plays `answer`."""
    bench = Bench(YES)
    bench.transports[HOOK] = hook = ScriptedTransport(answer)
    async with bench, parent_of(bench) as (_, desk):
        yield hook, desk


async def test_a_web_service_is_sent_json_and_its_answer_comes_as_it_is(autojump_clock: MockClock) -> None:
    async with hooked(lambda _request: openai_error(418, "No.")) as (hook, desk):
        status, content = await desk.post("pii", URL, {"X-Token": "t"}, b'{"a": 1}', seconds=3.0)
        assert (status, json.loads(content)["error"]["message"]) == (418, "No.")
        [exchange] = hook.exchanges
        request = exchange.request
        assert (request.method, str(request.url), request.content) == ("POST", URL, b'{"a": 1}')
        assert (request.headers["content-type"], request.headers["x-token"]) == ("application/json", "t")
        assert request.headers["accept-encoding"] == "identity"


def forever(_request: httpx.Request) -> Script:
    return endless(lambda _number: b"x" * 65_536)


def gzipped(_request: httpx.Request) -> Script:
    return Script(headers=(("content-encoding", "gzip"),), steps=lambda: iter([Step(0.0, b"x")]))


@pytest.mark.parametrize(
    ("answer", "error", "words"),
    [
        (lambda _: Script(refuse=True), UpstreamRefused, "The web service of guard 'pii' cannot be reached."),
        (
            lambda _: Script(head_pause=9.0),
            UpstreamTimeout,
            "The web service of guard 'pii' did not answer within 3 s.",
        ),
        (lambda _: stream(b"x", ending="stall"), UpstreamTimeout, "did not answer within 3 s."),
        (lambda _: stream(b"x", ending="cut"), UpstreamProtocolError, "stopped before the end"),
        (forever, UpstreamProtocolError, "The web service of guard 'pii' sent an answer of more than 1048576 bytes."),
        (gzipped, UpstreamProtocolError, "compressed its answer"),
    ],
)
async def test_a_web_service_that_fails_is_named_by_its_guard(
    autojump_clock: MockClock, answer: Callable[[httpx.Request], Script], error: type[ProxyError], words: str
) -> None:
    async with hooked(answer) as (_, desk):
        with pytest.raises(error) as raised:
            await desk.post("pii", URL, {}, b"{}", seconds=3.0)
        assert words in raised.value.message
        assert "sk-hook" not in raised.value.message
        assert trio.current_time() <= 3.0


async def test_a_web_service_that_nobody_waits_for_any_more_is_let_go_of_at_once(autojump_clock: MockClock) -> None:
    async with hooked(lambda _: Script(head_pause=9.0)) as (hook, desk):
        with trio.move_on_after(1.0):
            await desk.post("pii", URL, {}, b"{}", seconds=3.0)
        assert [exchange.released_at for exchange in hook.exchanges] == [1.0]


async def test_an_address_that_cannot_be_used_is_a_failure_and_no_bug(autojump_clock: MockClock) -> None:
    async with hooked(lambda _: YES) as (_, desk):
        with pytest.raises(UpstreamRefused, match="its address cannot be used"):
            await desk.post("pii", "ftp://elsewhere.invalid/x", {}, b"{}", seconds=3.0)
