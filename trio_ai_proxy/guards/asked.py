"""What the guards that ask somebody have in common: which windows they want, and what it means when nobody answers."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from trio_ai_proxy.errors import GuardBlocked, GuardFailed, ProxyError
from trio_ai_proxy.guards.base import Block, Pass
from trio_ai_proxy.guards.words import WordsInNumbers

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from trio_ai_proxy.chat.fold import Answer
    from trio_ai_proxy.guards.base import Desk, Mode, Part, Verdict, Window
    from trio_ai_proxy.settings.guards import GuardSettings

_UNFINISHED = ("length", "content_filter", "tool_calls", "function_call")

ALL_PARTS: tuple[Part, ...] = ("text", "reasoning", "refusal", "arguments")


class Unusable(Exception):
    """There was an answer, and nothing can be made of it. The text says why."""


CANNOT = (ProxyError, WordsInNumbers, Unusable)
"""What can keep a guard from its judgement."""


class Asked:
    """A judge that asks with `ask`; what keeps it from its verdict is settled by `on_failure`.

    failures  how many windows nobody has judged
    """

    def __init__(
        self,
        settings: GuardSettings,
        ask: Callable[[Window, Desk], Awaitable[Verdict]],
        *,
        parts: tuple[Part, ...] = ALL_PARTS,
        by_sentence: bool = False,
    ) -> None:
        """`parts` are those that it judges where the configuration names none."""
        self.mode: Mode = settings.mode
        self.window = sys.maxsize if settings.whole else settings.window
        self.overlap = settings.overlap
        self.by_sentence = by_sentence and not settings.whole
        self.parts = frozenset(settings.parts or parts)
        self.failures = 0
        self._settings = settings
        self._ask = ask

    async def judge(self, window: Window, desk: Desk) -> Verdict:
        """See `Judge.judge`."""
        try:
            return await self._ask(window, desk)
        except CANNOT:  # the child exchange has its own record, which says what it was
            self.failures += 1
            if self._settings.on_failure == "open":
                return Pass()
            return Block(f"The guard '{self._settings.name}' could not judge the answer, so it ends here.")


def refusal(settings: GuardSettings, error: Exception) -> ProxyError:
    """What the client is told of a request that a guard could not judge and does not let pass unjudged.

    It is not the client's fault, so the status tells it to come again, by the cause: 503 or 504, else 502. Only what the
    guard cannot read by its nature is the client's to change.
    """
    if isinstance(error, WordsInNumbers):
        message = f'"{error.field}" must be text here, not token numbers: this gateway has to read it.'
        return GuardBlocked(message, guard=settings.name, code="unreadable_prompt", param=error.field)
    status = error.status if isinstance(error, ProxyError) and error.status in (503, 504) else 502
    retry_after = error.retry_after if isinstance(error, ProxyError) else None
    message = f"The guard '{settings.name}' could not be asked about this request, and lets none pass without."
    return GuardFailed(message, guard=settings.name, status=status, retry_after=retry_after)


def text_of(answer: Answer) -> str:
    """What a model has answered, whole. Raises `Unusable`."""
    if not answer.choices:
        raise Unusable("the model's answer has no choice")
    choice = answer.choices[0]
    if choice.finish_reason in _UNFINISHED:
        raise Unusable(f"the model's answer ended with {choice.finish_reason}")
    if not choice.text.strip():
        raise Unusable("the model answered with no text")
    return choice.text


def without_fence(text: str) -> str:
    """A document without blanks and without Markdown's fence around it, which many models cannot help."""
    text = text.strip()
    if len(text) >= 6 and text.startswith("```") and text.endswith("```"):
        text = text[3:-3].removeprefix("json").strip()
    return text
