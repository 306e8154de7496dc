"""All the text of a request, in groups that a model reads as one, and a copy of the request with other texts in their places.

Pure. Beside the words of `guards.words`: thoughts that are given back, who the user is, metadata, predictions, and what tools and
schemas say of themselves. Not: names of tools and of participants, which have to be the same wherever they stand; addresses and
the bytes of images, sounds and files.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import msgspec

from trio_ai_proxy.guards.words import WORDS, WordsInNumbers

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from trio_ai_proxy.chat.request import ChatRequest

Path = tuple[str | int, ...]

_PROMPT = {"completions": "prompt", "embeddings": "input", "moderations": "input"}
_BESIDE = (
    "suffix",
    "system",
    "instructions",
    "user",
    "safety_identifier",
    "prompt_cache_key",
    "metadata",
    "prediction",
)
_SCHEMAS = ("tools", "functions", "response_format")
# What a schema says to its reader; all else in it has a meaning to programs. (JSON Schema, sections 6 and 9.)
_ANNOTATIONS = frozenset({"description", "title", "enum", "const", "default", "examples"})


@dataclass(frozen=True, slots=True)
class Said:
    """One text. `path` says where in the request's fields it is; `is_json`: what is looked for is in what it says as JSON."""

    path: Path
    text: str
    is_json: bool = False


def groups_in(request: ChatRequest) -> Iterator[list[Said]]:
    """The texts of `request`; those of a group follow one another without anything between them. Raises `WordsInNumbers`."""
    fields = request.fields
    if request.operation == "chat":
        for place, message in enumerate(_listed(fields.get("messages"))):
            if isinstance(message, dict):
                yield from _message(message, ("messages", place))
    else:
        name = _PROMPT[request.operation]
        prompt = fields.get(name)
        items = prompt if isinstance(prompt, list) else [prompt]
        if any(isinstance(item, int | list) for item in items):
            raise WordsInNumbers(name)
        yield from _apart(_texts(prompt, (name,)))
    for name in _BESIDE:
        yield from _together(_texts(fields.get(name), (name,)))
    yield from _apart(_leaves(fields.get("metadata"), ("metadata",)))
    for name in _SCHEMAS:
        yield from _apart(_annotations(fields.get(name), (name,)))


def with_changes(fields: Mapping[str, Any], changes: Mapping[Path, str]) -> dict[str, Any]:
    """A copy of `fields` with other texts at some places. What has not changed is shared with it.

    A part of a content of which nothing is left goes, unless it is the only one; so does the signature of a thought that is no
    longer what was signed.
    """
    edits: dict[Path, str | None] = dict(changes)
    for path, text in changes.items():
        if path[-1] == "thinking":
            edits[*path[:-1], "signature"] = None
        elif not text and (part := _emptied(path)) is not None:
            del edits[path]
            edits[part] = None
    copy = _edited(fields, list(edits.items()))
    assert isinstance(copy, dict)  # noqa: S101  as `fields` is
    return copy


def _emptied(path: Path) -> Path | None:
    """The part of a message's content whose only text is at `path`."""
    if path[0] != "messages":
        return None
    if isinstance(path[-1], int):
        return path
    return path[:-1] if path[-1] == "text" and isinstance(path[-2], int) else None


def _edited(value: Any, edits: Sequence[tuple[Path, str | None]]) -> Any:
    copy: Any = dict(value) if isinstance(value, dict) else list(value)
    inner: dict[str | int, list[tuple[Path, str | None]]] = {}
    gone: list[Any] = []
    for path, text in edits:
        if len(path) > 1:
            inner.setdefault(path[0], []).append((path[1:], text))
        elif text is None:
            gone.append(path[0])
        else:
            copy[path[0]] = text
    for name, below in inner.items():
        copy[name] = _edited(value[name], below)
    if isinstance(copy, dict):
        return {name: kept for name, kept in copy.items() if name not in gone}
    if len(gone) == len(copy):
        first = copy[0]
        return [{**first, "text": ""} if isinstance(first, dict) else ""]
    return [kept for place, kept in enumerate(copy) if place not in gone]


def _message(message: dict[str, Any], at: Path) -> Iterator[list[Said]]:
    content = list(_texts(message.get("content"), (*at, "content")))
    if message.get("role") in ("tool", "function"):
        results = [_as_json(one) for one in content]
        has_json = any(one.is_json for one in results)
        yield from _apart(iter(results)) if has_json else _together(iter(results))
    else:
        yield from _apart(one for one in content if one.path[-1] == "thinking")
        yield from _together(one for one in content if one.path[-1] != "thinking")
    for name in ("refusal", "reasoning_content", "reasoning"):
        yield from _together(_texts(message.get(name), (*at, name)))
    yield from _apart(_texts(message.get("thinking_blocks"), (*at, "thinking_blocks")))
    calls = [(("tool_calls", place), call) for place, call in enumerate(_listed(message.get("tool_calls")))]
    for path, call in [*calls, ((), {"function_call": message.get("function_call")})]:
        for name, part in call.items() if isinstance(call, dict) else ():
            if isinstance(part, dict):
                yield from _call(part, (*at, *path, name))


def _call(call: dict[str, Any], at: Path) -> Iterator[list[Said]]:
    arguments, free = call.get("arguments"), call.get("input")
    if isinstance(arguments, str) and arguments:
        yield [Said((*at, "arguments"), arguments, is_json=True)]
    yield from _together(_texts(free, (*at, "input")))


def _as_json(said: Said) -> Said:
    """Results of tools are often JSON, where a line's end is written as `\\n`, and hides the beginning of the next word."""
    if said.text.lstrip()[:1] not in ("{", "["):
        return said
    try:
        msgspec.json.decode(said.text)
    except (msgspec.DecodeError, RecursionError, UnicodeError):
        return said
    return Said(said.path, said.text, is_json=True)


def _texts(content: Any, at: Path) -> Iterator[Said]:
    """The texts in a content: itself, or those of its parts, which may have parts in turn."""
    if isinstance(content, str):
        if content:
            yield Said(at, content)
    elif isinstance(content, list):
        for place, part in enumerate(content):
            yield from _texts(part, (*at, place))
    elif isinstance(content, dict):
        for name in WORDS:
            yield from _texts(content.get(name), (*at, name))


def _leaves(value: Any, at: Path) -> Iterator[Said]:
    """Every text in a JSON value."""
    if isinstance(value, str):
        if value:
            yield Said(at, value)
    elif isinstance(value, list):
        for place, item in enumerate(value):
            yield from _leaves(item, (*at, place))
    elif isinstance(value, dict):
        for name, item in value.items():
            yield from _leaves(item, (*at, name))


def _annotations(schema: Any, at: Path) -> Iterator[Said]:
    if isinstance(schema, list):
        for place, item in enumerate(schema):
            yield from _annotations(item, (*at, place))
    elif isinstance(schema, dict):
        for name, item in schema.items():
            if name in _ANNOTATIONS and not isinstance(item, dict):
                yield from _leaves(item, (*at, name))
            else:
                yield from _annotations(item, (*at, name))


def _apart(said: Iterator[Said]) -> Iterator[list[Said]]:
    for one in said:
        yield [one]


def _together(said: Iterator[Said]) -> Iterator[list[Said]]:
    group = list(said)
    if group:
        yield group


def _listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []
