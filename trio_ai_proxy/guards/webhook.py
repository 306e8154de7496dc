"""Asks a web service about what is asked and what is answered: one POST, one verdict. `docs/guards.md` has the contract."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated, Any, Literal

import msgspec

from trio_ai_proxy.errors import GuardBlocked
from trio_ai_proxy.guards.asked import CANNOT, Asked, Unusable, refusal
from trio_ai_proxy.guards.base import Block, Pass, Replace
from trio_ai_proxy.guards.heard import texts_in, with_texts

if TYPE_CHECKING:
    from trio_ai_proxy.chat.request import ChatRequest
    from trio_ai_proxy.guards.base import Desk, Judge, Verdict, Window
    from trio_ai_proxy.settings.guards import GuardSettings


class _Answer(msgspec.Struct):
    """What the service says. Members that are not listed are passed over: it may say more for others."""

    action: Literal["pass", "replace", "block"]
    text: str | None = None
    texts: list[str] | None = None
    reason: Annotated[str, msgspec.Meta(max_length=500)] | None = None


_decode = msgspec.json.Decoder(_Answer).decode


class Webhook:
    """The guard `webhook`, for both sides."""

    def __init__(self, settings: GuardSettings) -> None:
        self._settings = settings
        self._url = settings.url or ""
        self._headers = {name: value.reveal() for name, value in settings.headers.items()}

    async def enter(self, request: ChatRequest, desk: Desk) -> ChatRequest:
        """See `RequestGuard.enter`. Raises `GuardFailed` too."""
        settings = self._settings
        try:
            heard = texts_in(request, settings.roles, last_only=settings.last_only)
            if not heard:
                return request
            texts = [one.text for one in heard]
            asked = {
                "guard": settings.name,
                "side": "request",
                "model": request.model,
                "part": "text",
                "index": 0,
                "text": "\n\n".join(texts),
                "context": "",
                "is_last": True,
                "texts": texts,
                "roles": [one.role for one in heard],
            }
            answer = await self._post(asked, desk)
            if answer.action == "block":
                raise GuardBlocked(self._reason(answer), guard=settings.name)
            if answer.action == "pass":
                return request
            new = answer.texts if answer.texts is not None else [answer.text] if answer.text is not None else []
            if len(new) != len(texts):
                raise Unusable(f"it replaced {len(texts)} texts by {len(new)}")
            return with_texts(request, heard, new)
        except GuardBlocked:
            raise
        except CANNOT as error:
            if settings.on_failure == "open":
                return request
            raise refusal(settings, error) from error

    def judge_for(self, request: ChatRequest) -> Judge:
        """See `JudgingGuard.judge_for`."""
        model = request.model

        async def ask(window: Window, desk: Desk) -> Verdict:
            asked = {
                "guard": self._settings.name,
                "side": "response",
                "model": model,
                "part": window.part,
                "index": window.index,
                "text": window.new,
                "context": window.context,
                "is_last": window.is_last,
            }
            if window.part == "arguments":
                asked["call"] = window.call
            answer = await self._post(asked, desk)
            match answer.action:
                case "pass":
                    return Pass()
                case "block":
                    return Block(self._reason(answer))
                case "replace":
                    if answer.text is None:
                        raise Unusable("it replaced a text by none")
                    return Replace(answer.text)

        return Asked(self._settings, ask)

    async def _post(self, asked: dict[str, Any], desk: Desk) -> _Answer:
        settings = self._settings
        # ASCII alone: half a surrogate pair, which a model may write, has no other form.
        body = json.dumps(asked, separators=(",", ":")).encode()
        status, said = await desk.post(settings.name, self._url, self._headers, body, seconds=settings.timeout)
        if not 200 <= status <= 299:
            raise Unusable(f"the web service answered with status {status}")
        try:
            return _decode(said)
        except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as error:
            raise Unusable("the web service's verdict cannot be read") from error

    def _reason(self, answer: _Answer) -> str:
        return answer.reason or f"Stopped by the guard '{self._settings.name}'."
