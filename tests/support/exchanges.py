"""A whole gateway in memory whose books are read, and which must be clean when the block is left: the bench of the tests
of an exchange.

Records and log lines are taken where the gateway puts them, so no thread and no file takes part: a virtual clock would
not wait for one. Times are virtual, from 0.
"""

from __future__ import annotations

import hashlib
import json
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self, Unpack

import httpx
import trio

from trio_ai_proxy.settings import (
    GuardSettings,
    KeySettings,
    ModelSettings,
    ProviderSettings,
    Secret,
    ServerSettings,
    Settings,
    TargetSettings,
    Timeouts,
    TokenSettings,
)
from trio_ai_proxy.testing import Script, ScriptedTransport, Step, no_leaks, open_client, open_gateway

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable, Iterator
    from types import TracebackType

    from trio_ai_proxy.accounting.record import ExchangeRecord
    from trio_ai_proxy.gateway import Gateway
    from trio_ai_proxy.testing import ClientAnswer, ScriptedClient
    from trio_ai_proxy.testing.client import Manner
    from trio_ai_proxy.upstream.script import Ending

# No test takes so long on its virtual clock; one that waits for ever fails after it.
LONGEST = 5_000.0

CHAT = "/v1/chat/completions"
QUESTION: dict[str, Any] = {"model": "gpt-4o", "messages": [{"role": "user", "content": "What is the sea?"}]}
ROLE = {"role": "assistant", "content": ""}
DONE = b"data: [DONE]\n\n"


class Kept(list[Any]):
    """Stands where the gateway's ledger, or its sink of log lines, stands."""

    dropped = 0

    def put(self, item: Any) -> bool:
        self.append(item)
        return True


class Bench:
    """`async with Bench(script) as bench:` one gateway with one model "gpt-4o" of one provider, "scripted".

    answer         what the provider plays: a script, a function from request to script, or another transport
    timeouts       deadlines that differ from the default; all others are too long to pass
    provider       fields of the provider's settings
    model          fields of the model's settings
    server         fields of the server's settings
    keys, target   as in the settings; `target` is the provider's name for the model
    guards         the guards of the model, in their order; where there are some there is also a model "judge" without any

    `records` are the exchange records, in the order in which they were written.
    """

    def __init__(
        self,
        answer: Script | Callable[[httpx.Request], Script] | httpx.AsyncBaseTransport,
        *,
        timeouts: dict[str, float] | None = None,
        provider: dict[str, Any] | None = None,
        model: dict[str, Any] | None = None,
        server: dict[str, Any] | None = None,
        keys: tuple[KeySettings, ...] = (),
        target: str = "gpt-4o",
        guards: tuple[GuardSettings, ...] = (),
    ) -> None:
        never = dict.fromkeys(("connect", "first_token", "idle", "total", "queue", "body", "stall", "abandoned"), 3e3)
        deadlines = Timeouts(**{**never, **(timeouts or {})})
        account = ProviderSettings(
            **{
                "name": "scripted",
                "kind": "openai",
                "base_url": "http://upstream.invalid/v1",
                "api_key": Secret("sk-upstream", "a test"),
                **(provider or {}),
            }
        )
        targets = (TargetSettings(provider="scripted", model=target),)
        # One attempt, unless a test is about more.
        plain = {"name": "gpt-4o", "targets": targets, "timeouts": deadlines, "retries": 0}
        answering = ModelSettings(**{**plain, "guards": tuple(guard.name for guard in guards), **(model or {})})
        asked = TargetSettings(provider="scripted", model="judge")
        models = {"gpt-4o": answering}
        if guards:
            models["judge"] = ModelSettings(**{**plain, "name": "judge", "targets": (asked,)})
        self.settings = Settings(
            server=ServerSettings(**(server or {})),
            tokens=TokenSettings(load_timeout=0),
            timeouts=deadlines,
            providers={"scripted": account},
            models=models,
            keys=keys,
            guards={guard.name: guard for guard in guards},
        )
        self.transport = answer if isinstance(answer, httpx.AsyncBaseTransport) else ScriptedTransport(_script(answer))
        self.transports: dict[str, httpx.AsyncBaseTransport] = {"scripted": self.transport}
        self.records: list[ExchangeRecord] = Kept()
        self._lines = Kept()

    async def __aenter__(self) -> Self:
        async with AsyncExitStack() as stack:
            self._bound = stack.enter_context(trio.CancelScope(deadline=trio.current_time() + LONGEST))
            await stack.enter_async_context(no_leaks())
            opening = open_gateway(self.settings, self.transports)
            self.gateway: Gateway = opening.gateway
            self.gateway._ledger = self.records  # type: ignore[assignment]  # it is put to, and no more
            self.gateway._log_lines.put = self._lines.put  # type: ignore[method-assign]  # as above
            opened = await stack.enter_async_context(opening)
            self.client: ScriptedClient = opened.client
            self.admin: ScriptedClient = open_client(self.gateway._admin, lifespan=False)
            self._running = stack.pop_all()
        return self

    def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> Awaitable[None]:
        return self._leave(error)

    async def _leave(self, error: BaseException | None) -> None:
        async with AsyncExitStack() as stack:
            stack.push_async_exit(self._running)
            if error is not None:
                raise error
            self.assert_clean()
        if self._bound.cancelled_caught:
            raise trio.TooSlowError

    def assert_clean(self) -> None:
        """Nothing is left of any exchange, wherever one looks."""
        gateway = self.gateway
        assert len(gateway.live) == 0
        assert gateway.live.empty.is_set()
        assert gateway.live.abandoned == 0
        page = gateway.metrics.render()[0].decode()
        assert "\ntrio_ai_proxy_exchanges_in_flight 0.0\n" in page
        for transport in self.transports.values():
            if isinstance(transport, ScriptedTransport):
                assert transport.open_responses == 0
        for name, account in gateway.accounts.items():
            assert (account.slots.in_use, account.slots.waiting) == (0, 0)
            for gauge in (f'slots_in_use{{provider="{name}"}}', f'slots_waiting{{provider="{name}"}}'):
                assert f"\ntrio_ai_proxy_{gauge} 0.0\n" in page
        for _, healths, _ in gateway.routers.known.values():
            for health in healths:
                assert health.in_flight == 0
                assert health.breaker._probe is None

    @property
    def record(self) -> ExchangeRecord:
        """The only record."""
        [record] = self.records
        return record

    def log(self, event: str) -> list[dict[str, Any]]:
        """The log lines of that event."""
        return [facts for facts in map(json.loads, self._lines) if facts["event"] == event]

    @property
    def released_at(self) -> float | None:
        """When the only upstream request was let go of."""
        [exchange] = self.transport.exchanges
        return exchange.released_at

    async def ask(self, **manner: Unpack[Manner]) -> ClientAnswer:
        """Put the question, as `manner` says, and wait for the end."""
        return await self.client.post(CHAT, **{"json": QUESTION, **manner})

    async def ask_stream(self, **manner: Unpack[Manner]) -> ClientAnswer:
        """The same, for a stream."""
        return await self.client.post(CHAT, **{"json": {**QUESTION, "stream": True}, **manner})

    async def cancel(self, request_id: str) -> ClientAnswer:
        """What an operator does."""
        return await self.admin.request("DELETE", f"/exchanges/{request_id}")

    async def rows(self) -> list[dict[str, Any]]:
        """What an operator sees."""
        rows: list[dict[str, Any]] = (await self.admin.get("/exchanges")).json()["exchanges"]
        return rows


def _script(answer: Script | Callable[[httpx.Request], Script]) -> Callable[[httpx.Request], Script]:
    return (lambda _request: answer) if isinstance(answer, Script) else answer


# -- what the provider says -------------------------------------------------------------------------------------------


def stream(*steps: tuple[float, bytes] | bytes, ending: Ending = "close", head_pause: float = 0.0) -> Script:
    """A streamed answer: chunks, each alone or with the seconds before it."""
    played = [Step(*step) if isinstance(step, tuple) else Step(0.0, step) for step in steps]
    return Script(steps=lambda: iter(played), ending=ending, head_pause=head_pause)


def endless(chunk: Callable[[int], bytes], *, pause: float = 0.0, first: bytes = b"") -> Script:
    """A stream that goes on for ever: `chunk(n)` for n = 0, 1, …, each after `pause` seconds."""

    def steps() -> Iterator[Step]:
        yield Step(0.0, first or delta(ROLE))
        number = 0
        while True:
            yield Step(pause, chunk(number))
            number += 1

    return Script(steps=steps)


def delta(said: dict[str, Any] | str, *, finish: str | None = None, model: str = "gpt-4o", **more: Any) -> bytes:
    """One chunk of OpenAI's stream, as a frame."""
    content = {"content": said} if isinstance(said, str) else said
    choice = {"index": 0, "delta": content, "logprobs": None, "finish_reason": finish}
    head = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1_700_000_000, "model": model}
    return frame({**head, "choices": [choice], **more})


def usage(prompt_tokens: int, completion_tokens: int, *, model: str = "gpt-4o") -> bytes:
    """The usage chunk of OpenAI's stream."""
    head = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1_700_000_000, "model": model}
    counts = {"prompt_tokens": prompt_tokens, "completion_tokens": completion_tokens}
    return frame({**head, "choices": [], "usage": {**counts, "total_tokens": prompt_tokens + completion_tokens}})


def frame(payload: dict[str, Any]) -> bytes:
    return b"data: " + json.dumps(payload, ensure_ascii=False, separators=(",", ":")).encode() + b"\n\n"


STOP = delta({}, finish="stop")
SERVER_ERROR = frame({"error": {"message": "The server had an error.", "type": "server_error", "code": "boom"}})


# -- what the client saw ----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Said:
    """One frame of the client's stream: when, and its JSON, `"[DONE]"`, or the comment."""

    at: float
    payload: Any


def said(answer: ClientAnswer) -> list[Said]:
    """The frames that a client saw. Every chunk must hold whole frames."""
    found = []
    for at, chunk in answer.chunks:
        assert chunk.endswith(b"\n\n"), chunk
        for part in chunk[:-2].split(b"\n\n"):
            data = part.removeprefix(b"data: ")
            found.append(Said(at, json.loads(data) if data[:1] == b"{" else data.decode()))
    return found


def text(answer: ClientAnswer) -> str:
    """The text that the client was given."""
    pieces = (choice["delta"].get("content") or "" for payload in _chunks(answer) for choice in payload["choices"])
    return "".join(pieces)


def times(answer: ClientAnswer) -> list[float]:
    """When the client was given something."""
    return [at for at, _ in answer.chunks]


def _chunks(answer: ClientAnswer) -> Iterable[dict[str, Any]]:
    return [one.payload for one in said(answer) if isinstance(one.payload, dict) and "choices" in one.payload]


def terminals(answer: ClientAnswer) -> list[str]:
    """What ended the stream, in order: `"[DONE]"` or the code of an in-band error. There may be one, and nothing after."""
    frames = said(answer)
    found = [
        "[DONE]" if one.payload == "[DONE]" else str(one.payload["error"]["code"])
        for one in frames
        if one.payload == "[DONE]" or (isinstance(one.payload, dict) and "error" in one.payload)
    ]
    if found:
        last = frames[-1].payload
        assert last == "[DONE]" or "error" in last, f"something follows the terminal: {last}"
    return found


def in_band_error(answer: ClientAnswer) -> tuple[float, dict[str, Any]]:
    """When a stream failed, and what it said: one error object as the SDKs read it, the last thing there is."""
    assert answer.status == 200
    assert answer.is_complete
    assert len(terminals(answer)) == 1
    last = said(answer)[-1]
    error: dict[str, Any] = last.payload["error"]
    assert all(isinstance(error[name], str) and error[name] for name in ("message", "type", "code"))
    assert b"[DONE]" not in answer.body
    return last.at, error


def error_of(answer: ClientAnswer) -> dict[str, Any]:
    """What an answer with an error status said."""
    assert answer.header("content-type") == "application/json"
    assert answer.header("content-length") == str(len(answer.body))
    assert answer.is_complete
    error: dict[str, Any] = answer.json()["error"]
    assert all(isinstance(error[name], str) and error[name] for name in ("message", "type", "code"))
    return error


def key(name: str, secret: str, *models: str) -> KeySettings:
    """A client's key."""
    return KeySettings(name, hashlib.sha256(secret.encode()).digest(), models or ("*",))
