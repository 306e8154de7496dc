"""Vertex AI with tokens: one fetch for all who wait, on a wall clock that runs with the virtual one."""

from __future__ import annotations

import json
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
import trio
import trio.testing
from support.exchanges import Bench, error_of, terminals, text
from support.google_key import pem, service_account

import trio_ai_proxy.upstream.authorise
from trio_ai_proxy.testing import Script, Step

if TYPE_CHECKING:
    from collections.abc import Callable

    import httpx
    from trio.testing import MockClock

    from trio_ai_proxy.testing import ClientAnswer

NOW = 1_800_000_000.0
VERTEX: dict[str, Any] = {
    "kind": "vertex",
    "base_url": "http://vertex.invalid",
    "api_key": None,
    "project": "p",
    "location": "global",
    "service_account": service_account("http://tokens.invalid/token"),
}


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


def chunk(said: str, *, finish: str | None = None) -> bytes:
    candidate = {"content": {"parts": [{"text": said}]}, **({"finishReason": finish} if finish else {})}
    return b"data: " + json.dumps({"candidates": [candidate], "responseId": "r"}).encode() + b"\r\n\r\n"


def speaking(*steps: tuple[float, bytes]) -> Script:
    return Script(steps=lambda: iter([Step(*step) for step in steps]))


SAY_HI = speaking((0.0, chunk("Hi", finish="STOP")))


class Google:
    """A token service and Vertex AI in one: tokens are counted, and each is good for `lifetime` seconds."""

    def __init__(
        self, answer: Callable[[str], Script] | None = None, *, lifetime: float = 3600, pause: float = 0.0
    ) -> None:
        self.tokens: list[Script | None] = []  # what the service shall do, None to give a token
        self.asked: list[httpx.Request] = []
        self.bearers: list[str] = []
        self._answer = answer or (lambda _bearer: SAY_HI)
        self._lifetime = lifetime
        self._pause = pause

    def __call__(self, request: httpx.Request) -> Script:
        if request.url.host != "vertex.invalid":
            self.asked.append(request)
            planned = self.tokens.pop(0) if self.tokens else None
            name = f"token-number-{len(self.asked)}"
            value = {"access_token": name, "expires_in": self._lifetime, "token_type": "Bearer"}
            return planned or document(value, pause=self._pause)
        self.bearers.append(request.headers["authorization"])
        return self._answer(self.bearers[-1])


def bench(google: Google, **provider: Any) -> Bench:
    return Bench(google, provider={**VERTEX, **provider}, target="gemini-2.5-flash")


async def test_simultaneous_requests_fetch_once(wall_clock: MockClock) -> None:
    google = Google(pause=2.0)
    answers: list[ClientAnswer] = []

    async def ask(gateway: Bench) -> None:
        answers.append(await gateway.ask_stream())

    async with bench(google) as gateway, trio.open_nursery() as nursery:
        for _ in range(20):
            nursery.start_soon(ask, gateway)
    assert len(google.asked) == 1
    assert google.bearers == ["Bearer token-number-1"] * 20
    assert [text(answer) for answer in answers] == ["Hi"] * 20


async def test_stream_goes_on_when_its_token_expires_and_the_next_request_has_a_new_one(wall_clock: MockClock) -> None:
    slow = speaking(*((60.0, chunk("x")) for _ in range(10)), (0.0, chunk("", finish="STOP")))
    google = Google(lambda _: slow, lifetime=300)
    async with bench(google) as gateway:
        for _ in range(2):
            answer = await gateway.ask_stream()
            assert (text(answer), terminals(answer)) == ("x" * 10, ["[DONE]"])
    assert google.bearers == ["Bearer token-number-1", "Bearer token-number-2"]


async def test_token_is_replaced_a_minute_before_it_expires(wall_clock: MockClock) -> None:
    google = Google(lifetime=300)
    async with bench(google) as gateway:
        await gateway.ask_stream()
        await trio.sleep(239)
        await gateway.ask_stream()
        await trio.sleep(2)
        await gateway.ask_stream()
    assert google.bearers == ["Bearer token-number-1"] * 2 + ["Bearer token-number-2"]


async def test_refusal_of_the_token_service_is_a_clear_502_without_credentials(wall_clock: MockClock) -> None:
    google = Google()
    line = pem().split("\n")[3]
    refusal = {"error": "invalid_grant", "error_description": f"Invalid JWT Signature. {line}"}
    google.tokens = [document(refusal, status=400)]
    async with bench(google) as gateway:
        answer = await gateway.ask_stream()
        error = error_of(answer)
        assert (answer.status, error["code"]) == (502, "upstream_refused")
        assert error["message"] == (
            "Google gave no access token for provider 'scripted' (status 400): invalid_grant: Invalid JWT Signature. ***"
        )
        assert text(await gateway.ask_stream()) == "Hi"
    assert len(google.asked) == 2


async def test_client_that_leaves_while_it_waits_ends_the_fetch_and_the_next_one_begins_again(
    wall_clock: MockClock,
) -> None:
    google = Google(pause=5.0)
    answers: list[ClientAnswer] = []

    async def leave(gateway: Bench) -> None:
        await gateway.ask_stream(leave_after=1.0)

    async def ask(gateway: Bench) -> None:
        answers.append(await gateway.ask_stream())

    async with bench(google) as gateway:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(leave, gateway)
            await trio.testing.wait_all_tasks_blocked()
            nursery.start_soon(ask, gateway)
        [record] = [record for record in gateway.records if record.outcome == "client_gone"]
        assert record.phase == "connect"
    assert text(answers[0]) == "Hi"
    assert google.bearers == ["Bearer token-number-2"]


async def test_refused_token_is_fetched_anew(wall_clock: MockClock) -> None:
    refusal = {"error": {"code": 401, "message": "Expired: token-number-1", "status": "UNAUTHENTICATED"}}

    def answer(bearer: str) -> Script:
        return document(refusal, status=401) if bearer.endswith("1") and trio.current_time() > 99 else SAY_HI

    google = Google(answer)
    async with bench(google) as gateway:
        await gateway.ask_stream()
        await trio.sleep(100)
        refused = await gateway.ask_stream()
        assert (refused.status, error_of(refused)["message"]) == (502, "Expired: ***")
        assert text(await gateway.ask_stream()) == "Hi"
    assert google.bearers[-1] == "Bearer token-number-2"


async def test_machine_account_is_asked_at_the_metadata_server(wall_clock: MockClock) -> None:
    google = Google()
    environment = {"GCE_METADATA_HOST": "metadata.invalid:81", "GOOGLE_CLOUD_PROJECT": "p"}
    async with bench(google, service_account=None, project=None, environment=environment) as gateway:
        assert text(await gateway.ask_stream()) == "Hi"
    [request] = google.asked
    assert (request.method, request.url.host, request.url.port) == ("GET", "metadata.invalid", 81)
    assert request.headers["metadata-flavor"] == "Google"


async def test_claude_is_asked_with_the_same_token(wall_clock: MockClock) -> None:
    google = Google(
        lambda _: document({"type": "error", "error": {"type": "overloaded_error", "message": "m"}}, status=529)
    )
    async with Bench(google, provider=VERTEX, target="claude-opus-4") as gateway:
        answer = await gateway.ask_stream()
        assert (answer.status, error_of(answer)["type"]) == (529, "overloaded_error")
    assert google.bearers == ["Bearer token-number-1"]
