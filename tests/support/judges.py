"""Judges and a desk that do as they are told, at the time that they are told: the bench of the tests of judging."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

import trio

from trio_ai_proxy.chat.fold import Answer, Choice
from trio_ai_proxy.guards.base import Pass

if TYPE_CHECKING:
    from trio_ai_proxy.guards.base import Desk, Mode, Part, Verdict, Window

ALL: frozenset[Part] = frozenset({"text", "reasoning", "refusal", "arguments"})

Answers = Callable[..., Any]


@dataclass
class ScriptedJudge:
    """Answers by `say`: a window → seconds, and the verdict after them."""

    say: Callable[[Window], tuple[float, Verdict]] = lambda window: (0.0, Pass())
    mode: Mode = "hold"
    window: int = 10
    overlap: int = 4
    by_sentence: bool = False
    parts: frozenset[Part] = ALL
    failures: int = 0
    shown: list[Window] = field(default_factory=list)
    most_at_once: int = 0
    cancelled: int = 0
    _at_once: int = 0

    async def judge(self, window: Window, desk: Desk) -> Verdict:
        self.shown.append(window)
        self._at_once += 1
        self.most_at_once = max(self.most_at_once, self._at_once)
        seconds, verdict = self.say(window)
        try:
            await trio.sleep(seconds)
        except trio.Cancelled:
            self.cancelled += 1
            raise
        finally:
            self._at_once -= 1
        return verdict


@dataclass(frozen=True)
class Errand:
    """Something that a guard has asked for."""

    what: Literal["ask", "moderate", "post"]
    guard: str
    where: str  # the model or the address
    said: Any  # fields, text or body
    seconds: float
    headers: Mapping[str, str] = field(default_factory=dict)


class ScriptedDesk:
    """A `Desk` whose answers are `answer(errand)`: what that method of the desk returns, or an exception, which it raises."""

    def __init__(self, answer: Callable[[Errand], Any] | Any, *, pause: float = 0.0) -> None:
        self._answer = answer
        self._pause = pause
        self.errands: list[Errand] = []

    async def ask(self, guard: str, model: str, fields: Mapping[str, Any], *, seconds: float) -> Answer:
        said = await self._run(Errand("ask", guard, model, fields, seconds))
        return said if isinstance(said, Answer) else spoken(said)

    async def moderate(self, guard: str, model: str, text: str, *, seconds: float) -> Mapping[str, Any]:
        found: Mapping[str, Any] = await self._run(Errand("moderate", guard, model, text, seconds))
        return found

    async def post(
        self, guard: str, url: str, headers: Mapping[str, str], body: bytes, *, seconds: float
    ) -> tuple[int, bytes]:
        said = await self._run(Errand("post", guard, url, body, seconds, headers))
        return said if isinstance(said, tuple) else (200, said)

    def _run(self, errand: Errand) -> Awaitable[Any]:
        self.errands.append(errand)
        return self._say(errand)

    async def _say(self, errand: Errand) -> Any:
        await trio.sleep(self._pause)
        said = self._answer(errand) if callable(self._answer) else self._answer
        if isinstance(said, Exception):
            raise said
        return said


def spoken(text: str, reason: str | None = "stop") -> Answer:
    """A model's answer of one choice."""
    return Answer("chatcmpl-1", "m", choices=[Choice(0, text=text, finish_reason=reason)])
