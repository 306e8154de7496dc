"""Every word that a request says, message by message, for a guard that only reads. Pure.

What a model would read as words counts: a message's content in one piece or in parts, results of tools, refusals, and the
arguments of calls. Images, sounds and files do not; descriptions of tools are not said by anybody.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator

    from trio_ai_proxy.chat.request import ChatRequest
    from trio_ai_proxy.settings.guards import Role

_ROLES: dict[str, Role] = {
    "system": "system",
    "developer": "system",
    "user": "user",
    "assistant": "assistant",
    "tool": "tool",
    "function": "tool",
}
# What holds words in a content part: OpenAI's own kinds, and those that other services take in their place.
WORDS = ("text", "refusal", "thinking", "content", "output")


class WordsInNumbers(Exception):
    """The request says something in token numbers, and nobody here can read those. `field` has them."""

    def __init__(self, field: str) -> None:
        super().__init__(field)
        self.field = field


@dataclass(frozen=True, slots=True)
class Message:
    """One message, or one text of a prompt. The texts of `parts` follow one another without anything between them."""

    role: Role
    parts: tuple[str, ...]


def messages_in(request: ChatRequest) -> list[Message]:
    """All of them, in order. What a completion goes on from, and what is to be embedded or judged, is a user's. Raises
    `WordsInNumbers`."""
    fields = request.fields
    if request.operation == "chat":
        return [_message(message) for message in _listed(fields.get("messages")) if isinstance(message, dict)]
    name = "prompt" if request.operation == "completions" else "input"
    prompt = fields.get(name)
    items = prompt if isinstance(prompt, list) else [prompt]
    if any(isinstance(item, int | list) for item in items):
        raise WordsInNumbers(name)
    said = [tuple(_texts(item)) for item in [*items, fields.get("suffix")]]
    return [Message("user", parts) for parts in said if parts]


def _message(message: dict[str, Any]) -> Message:
    parts = [
        *_texts(message.get("content")),
        *_texts(message.get("refusal")),
        *_texts(message.get("reasoning_content")),
    ]
    for call in [*_listed(message.get("tool_calls")), {"function": message.get("function_call")}]:
        for part in call.values() if isinstance(call, dict) else ():
            if isinstance(part, dict):
                parts += [*_texts(part.get("arguments")), *_texts(part.get("input"))]
    return Message(role_of(message), tuple(parts))


def role_of(message: dict[str, Any]) -> Role:
    """Whose message it is. A role that nobody knows is taken for a user's, whose words are always looked at."""
    return _ROLES.get(str(message.get("role")), "user")


def _texts(content: Any) -> Iterator[str]:
    """The texts in a content: itself, or those of its parts, which may have parts in turn."""
    if isinstance(content, str):
        if content:
            yield content
    elif isinstance(content, list):
        for part in content:
            yield from _texts(part)
    elif isinstance(content, dict):
        for name in WORDS:
            yield from _texts(content.get(name))


def _listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []
