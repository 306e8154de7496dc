"""The bench with several targets: one model "gpt-4o", and for each target a scripted provider of its own.

    async with Relay(a=[openai_error(503)], b=answer()) as bench:

The first has priority 0, the next 1, and so on. A list is played one script after the other, its last one for ever.
"""

from __future__ import annotations

import contextlib
import json
from typing import TYPE_CHECKING, Any

import httpx
import trio
from support.exchanges import DONE, ROLE, Bench, delta, said, stream, text, usage

from trio_ai_proxy.settings import CapabilitySettings, GuardSettings, ProviderSettings, Secret, Settings, TargetSettings
from trio_ai_proxy.testing import Script, ScriptedTransport
from trio_ai_proxy.upstream.transport import CLOSE, READ

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from trio_ai_proxy.testing import ClientAnswer

    Playing = Script | list[Script] | Callable[[dict[str, Any]], Script]

WORDS = (
    "Trust", " is", " not", " what", " a", " gateway", " says", " while", " the", " sun", " shines:", " it", " is", " what",
    " remains", " of", " an", " answer", " when", " the", " line", " was", " cut", " at", " the", " fortieth", " word,", " at",
    " the", " twentieth,", " or", " before", " the", " first;", " whether", " the", " reader", " was", " given", " all",
    " of", " it,", " once,", " in", " order,", " under", " one", " name,", " and", " was", " told", " the", " truth",
    " about", " who", " had", " spoken,", " and", " at", " cost.",
)  # fmt: skip
WHOLE = "".join(WORDS)


class Relay(Bench):
    """`async with Relay(a=…, b=…) as bench:`; see the module.

    timeouts, model  as in `Bench`
    providers        target → fields of its provider's settings; `kind` is "openai" unless it is said here
    targets          target → fields of its settings; `prefill` in it stands for the capability
    guards           as in `Bench`; `judge` is what the model "judge" plays, which they may ask
    """

    def __init__(
        self,
        *,
        timeouts: dict[str, float] | None = None,
        model: dict[str, Any] | None = None,
        server: dict[str, Any] | None = None,
        providers: dict[str, dict[str, Any]] | None = None,
        targets: dict[str, dict[str, Any]] | None = None,
        guards: tuple[GuardSettings, ...] = (),
        judge: Playing | None = None,
        **playing: Playing,
    ) -> None:
        chosen = tuple(_target(name, place, (targets or {}).get(name, {})) for place, name in enumerate(playing))
        fields = {**(model or {}), "targets": chosen}
        super().__init__(Script(), timeouts=timeouts, server=server, model=fields, guards=guards)
        if guards:
            playing["scripted"] = judge if judge is not None else Script()  # whom the model "judge" goes to
        accounts = {
            name: ProviderSettings(
                **{
                    "name": name,
                    "kind": "openai",
                    "base_url": f"http://{name}.invalid/v1",
                    "api_key": Secret(f"sk-{name}", "a test"),
                    **(providers or {}).get(name, {}),
                }
            )
            for name in playing
        }
        self.settings = Settings(
            server=self.settings.server,
            tokens=self.settings.tokens,
            timeouts=self.settings.timeouts,
            providers=accounts,
            models=self.settings.models,
            guards=self.settings.guards,
        )
        self.played = {name: ScriptedTransport(_player(script)) for name, script in playing.items()}
        self.transports = dict(self.played)

    def times(self, name: str) -> list[float]:
        """When that target was asked."""
        return [exchange.opened_at for exchange in self.played[name].exchanges]

    def released(self, name: str) -> list[float | None]:
        """When its connections were let go of."""
        return [exchange.released_at for exchange in self.played[name].exchanges]

    def asked(self, name: str) -> list[dict[str, Any]]:
        """The bodies of its requests."""
        return [json.loads(exchange.request.content) for exchange in self.played[name].exchanges]

    @property
    def rows_of_record(self) -> list[tuple[str, str, str]]:
        """Of the only record: each attempt's target, kind and outcome."""
        return [(row.provider, row.kind, row.outcome) for row in self.record.attempts]


class Awaited(httpx.AsyncBaseTransport):
    """A provider that says its first pieces at once, and each further one when `more` is called. It answers once; later requests
    are refused."""

    def __init__(self, *pieces: bytes, at_once: int) -> None:
        self._pieces = pieces
        self._at_once = at_once
        self._is_asked = False
        self._send, self._receive = trio.open_memory_channel[bytes](len(pieces))

    def more(self) -> None:
        with contextlib.suppress(trio.BrokenResourceError):  # nobody listens any more
            self._send.send_nowait(self._pieces[self._at_once])
        self._at_once += 1

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        await trio.lowlevel.checkpoint()
        if self._is_asked:
            raise httpx.ConnectError("it has answered")
        self._is_asked = True
        for piece in self._pieces[: self._at_once]:
            self._send.send_nowait(piece)
        headers = [("content-type", "text/event-stream")]
        return httpx.Response(
            200, headers=headers, extensions={READ: self._receive.receive, CLOSE: self._receive.close}
        )


def _target(name: str, place: int, fields: dict[str, Any]) -> TargetSettings:
    fields = dict(fields)
    prefill = fields.pop("prefill", None)
    if prefill is not None:
        fields["capabilities"] = CapabilitySettings(prefill=prefill)
    return TargetSettings(**{"provider": name, "model": f"model-{name}", "priority": place, **fields})


def _player(playing: Playing) -> Callable[[httpx.Request], Script]:
    if isinstance(playing, Script):
        return lambda _request: playing
    if isinstance(playing, list):
        left = list(playing)
        return lambda _request: left.pop(0) if len(left) > 1 else left[0]
    return lambda request: playing(json.loads(request.content))


def answer(
    words: Iterable[str] = WORDS, *, model: str = "scripted", pause: float = 0.015, before: float = 0.0,
    count: tuple[int, int] | None = (7, 60), finish: str = "stop", done: bool = True, head_pause: float = 0.0,
) -> Script:  # fmt: skip
    """A whole streamed answer of `words`; the first comes after `before` seconds."""
    parts: list[tuple[float, bytes] | bytes] = [(before, delta(ROLE, model=model))]
    parts += [(pause, delta(word, model=model)) for word in words]
    parts += [delta({}, finish=finish, model=model)]
    parts += [usage(*count, model=model)] if count is not None else []
    parts += [DONE] if done else []
    return stream(*parts, head_pause=head_pause)


def broken(after: int, *, words: Iterable[str] = WORDS, ending: Any = "cut", pause: float = 0.015) -> Script:
    """The same, which ends after so many words."""
    parts = [(pause, delta(word)) for word in list(words)[:after]]
    return stream(delta(ROLE), *parts, ending=ending)


def models(answer: ClientAnswer) -> set[str]:
    """The names that the stream gave for its model."""
    return {one.payload["model"] for one in said(answer) if isinstance(one.payload, dict) and "model" in one.payload}


def ids(answer: ClientAnswer) -> set[str]:
    """… and for itself."""
    return {one.payload["id"] for one in said(answer) if isinstance(one.payload, dict) and "id" in one.payload}


def counted(answer: ClientAnswer) -> dict[str, Any]:
    """The usage of the stream's usage chunk, with the model that the chunk names."""
    [chunk] = [one.payload for one in said(answer) if isinstance(one.payload, dict) and one.payload.get("usage")]
    return {**chunk["usage"], "model": chunk["model"]}


__all__ = ["WHOLE", "WORDS", "Awaited", "Relay", "answer", "broken", "counted", "ids", "models", "text"]
