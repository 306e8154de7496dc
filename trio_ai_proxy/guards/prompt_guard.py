"""The guard `prompt_guard`: what a request may say, by regular expressions and by size (Kong's prompt guard). Pure.

First sizes, then what is denied, then what is allowed. What is denied is looked for in all that was said together and in each
message alone, so that neither a text cut into parts nor an anchor (`^`, `$`) makes a difference; of what is allowed, something
must be found in all of it together, as at Kong.

Source: https://developer.konghq.com/plugins/ai-prompt-guard/
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from trio_ai_proxy.errors import GuardBlocked
from trio_ai_proxy.guards.regex import compile_regex
from trio_ai_proxy.guards.words import Message, WordsInNumbers, messages_in

if TYPE_CHECKING:
    from trio_ai_proxy.chat.request import ChatRequest
    from trio_ai_proxy.guards.base import Desk
    from trio_ai_proxy.settings import GuardSettings

_FIELD = {"chat": "messages", "completions": "prompt"}


class PromptGuard:
    """See `RequestGuard`."""

    def __init__(self, settings: GuardSettings) -> None:
        self._settings = settings
        self._deny = [compile_regex(pattern) for pattern in settings.deny]
        self._allow = [compile_regex(pattern) for pattern in settings.allow]

    async def enter(self, request: ChatRequest, desk: Desk) -> ChatRequest:
        """`request` as it is. Raises `GuardBlocked`; nothing in it says which rule it was."""
        settings = self._settings
        field = _FIELD.get(request.operation, "input")
        try:
            said = messages_in(request)
        except WordsInNumbers as error:
            message = f'"{error.field}" must be text here, not token numbers: this gateway has to read it.'
            raise self._refused(message, error.field, "unreadable_prompt") from None
        if request.operation == "chat" and settings.max_messages is not None and len(said) > settings.max_messages:
            message = f"The request has {len(said)} messages; {settings.max_messages} are allowed."
            raise self._refused(message, field, "too_many_messages")
        said = [one for one in said if one.role in settings.roles]
        if settings.last_only:
            said = said[-1:]
        characters = sum(len(part) for one in said for part in one.parts)
        if settings.max_characters is not None and characters > settings.max_characters:
            message = f"The request says {characters} characters; {settings.max_characters} are allowed."
            raise self._refused(message, field, "prompt_too_long")
        if not self._passes(said):
            raise self._refused("The request says something that this gateway does not let through.", field, None)
        return request

    def _passes(self, said: list[Message]) -> bool:
        whole = _readable("\n".join(part for one in said for part in one.parts))
        texts = dict.fromkeys([whole, *(_readable("".join(one.parts)) for one in said)])
        if any(regex.search(text) is not None for regex in self._deny for text in texts):
            return False
        return not self._allow or any(regex.search(whole) is not None for regex in self._allow)

    def _refused(self, message: str, param: str, code: str | None) -> GuardBlocked:
        return GuardBlocked(message, guard=self._settings.name, code=code, param=param)


def _readable(text: str) -> str:
    """Without halves of surrogate pairs, which a model that rewrote the request may have left: RE2 reads UTF-8."""
    return text.encode("utf-8", "replace").decode()
