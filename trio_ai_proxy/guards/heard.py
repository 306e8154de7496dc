"""The texts of a request with their places, for a guard that may put others there. Pure.

They are the words of `guards.words`, no more and no fewer.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from trio_ai_proxy.guards.words import WORDS, WordsInNumbers, role_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from trio_ai_proxy.chat.request import ChatRequest
    from trio_ai_proxy.settings.guards import Role

Path = tuple[str | int, ...]


@dataclass(frozen=True, slots=True)
class Heard:
    """One text of a request. `path` says where in its fields, `role` whose it is."""

    text: str
    path: Path
    role: Role


def texts_in(request: ChatRequest, roles: Sequence[Role], *, last_only: bool = False) -> list[Heard]:
    """What `roles` say in `request`, in order; with `last_only`, in the last of their messages alone. Raises
    `WordsInNumbers`."""
    fields = request.fields
    if request.operation != "chat":
        return _prompt(request) if "user" in roles else []
    messages = fields.get("messages")
    heard = [
        [Heard(text, ("messages", place, *path), role) for path, text in _message(message)]
        for place, message in enumerate(messages if isinstance(messages, list) else [])
        if isinstance(message, dict) and (role := role_of(message)) in roles
    ]
    return [text for message in (heard[-1:] if last_only else heard) for text in message]


def with_texts(request: ChatRequest, heard: Iterable[Heard], texts: Iterable[str]) -> ChatRequest:
    """`request` with each of `texts` in the place of the one of `heard` that it belongs to; itself if all are the same."""
    changed = [(one.path, text) for one, text in zip(heard, texts, strict=True) if text != one.text]
    fields = request.fields
    for path, text in changed:
        fields = _put(fields, path, text)
    return replace(request, fields=fields) if changed else request


def _put(value: Any, path: Path, text: str) -> Any:
    """A copy of `value` with `text` at `path`; what is not on the way to it is shared."""
    if not path:
        return text
    copy = value.copy()
    copy[path[0]] = _put(value[path[0]], path[1:], text)
    return copy


def _prompt(request: ChatRequest) -> list[Heard]:
    name = "prompt" if request.operation == "completions" else "input"
    prompt = request.fields.get(name)
    if any(isinstance(item, int | list) for item in (prompt if isinstance(prompt, list) else [prompt])):
        raise WordsInNumbers(name)
    found = [*_texts(prompt, (name,)), *_texts(request.fields.get("suffix"), ("suffix",))]
    return [Heard(text, path, "user") for path, text in found]


def _message(message: dict[str, Any]) -> Iterator[tuple[Path, str]]:
    for name in ("content", "refusal", "reasoning_content"):
        yield from _texts(message.get(name), (name,))
    calls = message.get("tool_calls")
    places: list[tuple[Path, Any]] = [
        (("tool_calls", place, name), part)
        for place, call in enumerate(calls if isinstance(calls, list) else [])
        if isinstance(call, dict)
        for name, part in call.items()
    ]
    for path, part in [*places, (("function_call",), message.get("function_call"))]:
        if isinstance(part, dict):
            for name in ("arguments", "input"):
                yield from _texts(part.get(name), (*path, name))


def _texts(content: Any, path: Path) -> Iterator[tuple[Path, str]]:
    if isinstance(content, str):
        if content:
            yield path, content
    elif isinstance(content, list):
        for place, part in enumerate(content):
            yield from _texts(part, (*path, place))
    elif isinstance(content, dict):
        for name in WORDS:
            yield from _texts(content.get(name), (*path, name))
