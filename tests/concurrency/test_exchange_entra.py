"""Azure with tokens: one fetch for all who wait, on a wall clock that runs with the virtual one."""

from __future__ import annotations

import json
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
import trio
import trio.testing
from support.exchanges import DONE, ROLE, STOP, Bench, delta, error_of, stream, terminals, text
from support.recordings import recordings

import trio_ai_proxy.upstream.authorise
from trio_ai_proxy.settings import EntraSettings, Secret
from trio_ai_proxy.testing import Script, Step, openai_error

if TYPE_CHECKING:
    from collections.abc import Callable

    import httpx
    from trio.testing import MockClock

    from trio_ai_proxy.testing import ClientAnswer

NOW = 1_800_000_000.0
SECRET = "s3cr3t-of-the-app"
AZURE: dict[str, Any] = {
    "kind": "azure",
    "base_url": "http://res.invalid",
    "api_key": None,
    "entra": EntraSettings("tenant", "app", Secret(SECRET, "a test")),
}
SAY_HI = stream(delta(ROLE), delta("Hi"), STOP, DONE)


@pytest.fixture
def wall_clock(monkeypatch: pytest.MonkeyPatch, autojump_clock: MockClock) -> MockClock:
    clock = SimpleNamespace(time=lambda: NOW + trio.current_time())
    monkeypatch.setattr(trio_ai_proxy.upstream.authorise, "time", clock)
    return autojump_clock


def document(value: Any, *, status: int = 200, pause: float = 0.0) -> Script:
    return Script(
        status=status,
        headers=(("content-type", "application/json"),),
        steps=lambda: iter([Step(0.0, json.dumps(value).encode())]),
        head_pause=pause,
    )


class Azure:
    """A token service and a provider in one: tokens are counted, and each is good for `lifetime` seconds."""

    def __init__(
        self, answer: Callable[[str], Script] | None = None, *, lifetime: float = 3600, pause: float = 0.0
    ) -> None:
        self.tokens: list[Script | None] = []  # what the service shall do, None to give a token
        self.asked = 0
        self.bearers: list[str] = []
        self._answer = answer or (lambda _bearer: SAY_HI)
        self._lifetime = lifetime
        self._pause = pause

    def __call__(self, request: httpx.Request) -> Script:
        if request.url.host == "login.microsoftonline.com":
            self.asked += 1
            planned = self.tokens.pop(0) if self.tokens else None
            value = {"access_token": f"token-number-{self.asked}", "expires_in": self._lifetime, "token_type": "Bearer"}
            return planned or document(value, pause=self._pause)
        self.bearers.append(request.headers["authorization"])
        return self._answer(self.bearers[-1])


async def test_first_request_fetches_and_the_others_use_it(wall_clock: MockClock) -> None:
    azure = Azure()
    async with Bench(azure, provider=AZURE) as bench:
        for _ in range(3):
            assert text(await bench.ask_stream()) == "Hi"
    assert azure.asked == 1
    assert azure.bearers == ["Bearer token-number-1"] * 3


async def test_simultaneous_requests_fetch_once(wall_clock: MockClock) -> None:
    azure = Azure(pause=2.0)
    answers: list[ClientAnswer] = []

    async def ask(bench: Bench) -> None:
        answers.append(await bench.ask_stream())

    async with Bench(azure, provider=AZURE) as bench, trio.open_nursery() as nursery:
        for _ in range(50):
            nursery.start_soon(ask, bench)
    assert azure.asked == 1
    assert [text(answer) for answer in answers] == ["Hi"] * 50


async def test_stream_goes_on_when_its_token_expires_and_the_next_request_has_a_new_one(wall_clock: MockClock) -> None:
    slow = stream(delta(ROLE), *((60.0, delta("x")) for _ in range(10)), STOP, DONE)
    azure = Azure(lambda _: slow, lifetime=300)
    async with Bench(azure, provider=AZURE) as bench:
        for _ in range(2):
            answer = await bench.ask_stream()
            assert (text(answer), terminals(answer)) == ("x" * 10, ["[DONE]"])
    assert azure.bearers == ["Bearer token-number-1", "Bearer token-number-2"]


async def test_token_is_replaced_before_it_expires(wall_clock: MockClock) -> None:
    azure = Azure(lifetime=300)
    async with Bench(azure, provider=AZURE) as bench:
        await bench.ask()
        await trio.sleep(200)
        await bench.ask_stream()
        await trio.sleep(41)
        await bench.ask_stream()
    assert azure.bearers == ["Bearer token-number-1"] * 2 + ["Bearer token-number-2"]


async def test_failure_is_told_to_all_who_waited_and_the_next_one_tries_again(wall_clock: MockClock) -> None:
    refusal = {"error": "invalid_client", "error_description": f"AADSTS7000215: Invalid client secret {SECRET}."}
    azure = Azure()
    azure.tokens = [document(refusal, status=401, pause=1.0)]
    answers: list[ClientAnswer] = []

    async def ask(bench: Bench) -> None:
        answers.append(await bench.ask_stream())

    async with Bench(azure, provider=AZURE) as bench:
        async with trio.open_nursery() as nursery:
            for _ in range(20):
                nursery.start_soon(ask, bench)
        assert azure.asked == 1
        for answer in answers:
            error = error_of(answer)
            assert answer.status == 502
            assert error["code"] == "upstream_refused"
            assert "AADSTS7000215" in error["message"]
            assert SECRET not in error["message"]
        assert text(await bench.ask_stream()) == "Hi"
    assert azure.asked == 2
    assert {record.outcome for record in bench.records[:20]} == {"upstream_error"}


@pytest.mark.parametrize("failure", [Script(refuse=True), document({}, status=503), document([])], ids=str)
async def test_good_token_is_used_while_the_service_is_down(wall_clock: MockClock, failure: Script) -> None:
    azure = Azure(lifetime=300)
    azure.tokens = [None, failure, failure, None]
    async with Bench(azure, provider=AZURE) as bench:
        await bench.ask_stream()
        await trio.sleep(245)
        for _ in range(3):
            assert text(await bench.ask_stream()) == "Hi"
        assert azure.asked == 2
        await trio.sleep(11)
        assert text(await bench.ask_stream()) == "Hi"
        assert azure.asked == 3
        await trio.sleep(50)
        assert text(await bench.ask_stream()) == "Hi"
    assert azure.bearers[-2:] == ["Bearer token-number-1", "Bearer token-number-4"]


async def test_service_that_cannot_be_reached_is_named_as_such(wall_clock: MockClock) -> None:
    azure = Azure()
    azure.tokens = [Script(refuse=True)]
    async with Bench(azure, provider=AZURE) as bench:
        answer = await bench.ask()
        assert answer.status == 502
        assert error_of(answer)["message"].startswith("The credential of provider 'scripted' could not be fetched")
    assert azure.bearers == []


async def test_client_that_leaves_while_it_waits_ends_the_fetch_and_the_next_one_begins_again(
    wall_clock: MockClock,
) -> None:
    azure = Azure(pause=5.0)
    answers: list[ClientAnswer] = []

    async def ask(bench: Bench) -> None:
        answers.append(await bench.ask_stream())

    async with Bench(azure, provider=AZURE) as bench:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(ask_and_leave, bench, 1.0)
            await trio.testing.wait_all_tasks_blocked()
            nursery.start_soon(ask, bench)
        [record] = [record for record in bench.records if record.outcome == "client_gone"]
        assert record.phase == "connect"
    assert text(answers[0]) == "Hi"
    assert azure.asked == 2
    assert azure.bearers == ["Bearer token-number-2"]


async def ask_and_leave(bench: Bench, after: float) -> None:
    await bench.ask_stream(leave_after=after)


async def test_refused_token_is_fetched_anew(wall_clock: MockClock) -> None:
    def answer(bearer: str) -> Script:
        return (
            openai_error(401, "Expired.", code="401") if bearer.endswith("1") and trio.current_time() > 99 else SAY_HI
        )

    azure = Azure(answer)
    async with Bench(azure, provider=AZURE) as bench:
        await bench.ask_stream()
        await trio.sleep(100)
        refused = await bench.ask_stream()
        assert (refused.status, error_of(refused)["code"]) == (502, "401")
        assert text(await bench.ask_stream()) == "Hi"
    assert azure.asked == 2


async def test_tokens_do_not_come_back_in_errors(wall_clock: MockClock) -> None:
    azure = Azure(lambda bearer: openai_error(400, f"what is {bearer}?"))
    async with Bench(azure, provider=AZURE) as bench:
        answer = await bench.ask_stream()
        assert error_of(answer)["message"] == "what is Bearer ***?"
    assert bench.record.detail == "what is Bearer ***?"


@pytest.mark.parametrize("recording", recordings("azure"), ids=lambda recording: recording.name)
async def test_recordings_reach_the_client_with_their_annotations(wall_clock: MockClock, recording: Any) -> None:
    if recording.operation != "chat":
        return
    played = stream(*(recording.response[i : i + 100] for i in range(0, len(recording.response), 100)))
    async with Bench(Azure(lambda _: played), provider=AZURE, target="eu-gpt-4o") as bench:
        answer = await bench.ask_stream()
        one_shot = await bench.ask()
    spoken = "".join(event.text for event in recording.events if type(event).__name__ == "TextDelta")
    names = {type(event).__name__ for event in recording.events}
    assert one_shot.status == 502  # a stream is no document
    if "Ended" in names:
        assert (answer.status, text(answer), terminals(answer)) == (200, spoken, ["[DONE]"])
        assert b"prompt_filter_results" in answer.body
        assert (b"content_filter_offsets" in answer.body) == (b"content_filter_offsets" in recording.response)
        assert b'"gpt-4o-2024-11-20"' not in answer.body
        assert bench.records[0].usage_source == ("provider" if "UsageReported" in names else "estimated")
    elif spoken:
        assert answer.status == 200
        assert terminals(answer) == ["upstream_truncated" if recording.raises else "upstream_error"]
    else:
        assert answer.status == 400
        assert error_of(answer)["code"] == "content_filter"
        assert answer.json()["error"]["innererror"]["code"] == "ResponsibleAIPolicyViolation"
