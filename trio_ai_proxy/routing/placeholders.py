"""Kong's placeholders: `$(headers.NAME)`, `$(query_params.NAME)` and `$(uri_captures.NAME)` in a model's name or in an option
are what the request says there.

A value that is missing, too long or of other characters than a model's name can have is the client's fault and named. A model's
name cannot be made into a path: no segment of it is empty, "." or "..", and no character of it has a meaning in an address.
Source: https://developer.konghq.com/plugins/ai-proxy/#templating
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from typing_extensions import override

from trio_ai_proxy.errors import InvalidRequest

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from trio_ai_proxy.routing.caller import Caller

OPENING = "$("
MAX_MODEL_CHARACTERS = 256
MAX_VALUE_CHARACTERS = 1024

# What stands for each source where a message names it.
_SOURCES = {
    "headers": "the header",
    "query_params": "the query parameter",
    "uri_captures": "in its path a value for",
}
_SHAPE = re.compile(r"\$\(([^()$]*)\)")
_MODEL_CHARACTERS = re.compile(r"[A-Za-z0-9._:@/+=,~-]+")


@dataclass(frozen=True, slots=True)
class Placeholder:
    """One of them: where from, and which."""

    source: str
    name: str

    @override
    def __str__(self) -> str:
        return f"{self.source}.{self.name}"


class WrongPlaceholder(Exception):
    """A text has `$(` and no placeholder there. The message goes on after the name of the key."""


@lru_cache(maxsize=1024)
def pieces_of(text: str) -> tuple[str | Placeholder, ...]:
    """`text` in its pieces: what stands as it is, and placeholders. Raises `WrongPlaceholder`."""
    pieces: list[str | Placeholder] = []
    end = 0
    for match in _SHAPE.finditer(text):
        pieces += _plain(text[end : match.start()])
        source, dot, name = match[1].partition(".")
        if source not in _SOURCES or not dot or not re.fullmatch(r"[!-~]+", name):
            raise WrongPlaceholder(_HINT)
        pieces.append(Placeholder(source, name))
        end = match.end()
    pieces += _plain(text[end:])
    return tuple(pieces)


_HINT = "has a $( that begins no placeholder; write $(headers.NAME), $(query_params.NAME) or $(uri_captures.NAME)"


def _plain(text: str) -> list[str]:
    if OPENING in text:
        raise WrongPlaceholder(_HINT)
    return [text] if text else []


def has_placeholders(value: Any) -> bool:
    """Whether there is one in a text, or in any text within a value of JSON."""
    return any(OPENING in text for text in _texts(value))


def placeholders_in(value: Any) -> Iterator[Placeholder]:
    """All of them. Raises `WrongPlaceholder`."""
    for text in _texts(value):
        yield from (piece for piece in pieces_of(text) if isinstance(piece, Placeholder))


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for inner in value.values():
            yield from _texts(inner)
    elif isinstance(value, list | tuple):
        for inner in value:
            yield from _texts(inner)


def fill_model(text: str, caller: Caller) -> str:
    """The model's name that `text` comes to for this request. Raises `InvalidRequest`."""
    if OPENING not in text:
        return text
    name = "".join(piece if isinstance(piece, str) else _model_value(piece, caller) for piece in pieces_of(text))
    if len(name) > MAX_MODEL_CHARACTERS or any(segment in ("", ".", "..") for segment in name.split("/")):
        given = ", ".join(str(piece) for piece in pieces_of(text) if isinstance(piece, Placeholder))
        raise _invalid(given, f"does not make a model's name of at most {MAX_MODEL_CHARACTERS} characters")
    return name


def fill_options(options: Mapping[str, Any], caller: Caller) -> dict[str, Any]:
    """`options` with each placeholder filled in. Raises `InvalidRequest`."""
    return {name: _fill(value, caller) for name, value in options.items()}


def _fill(value: Any, caller: Caller) -> Any:
    if isinstance(value, str):
        if OPENING not in value:
            return value
        return "".join(piece if isinstance(piece, str) else _value(piece, caller) for piece in pieces_of(value))
    if isinstance(value, dict):
        return {name: _fill(inner, caller) for name, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_fill(inner, caller) for inner in value]
    return value


def _model_value(placeholder: Placeholder, caller: Caller) -> str:
    value = _value(placeholder, caller)
    if not _MODEL_CHARACTERS.fullmatch(value):
        raise _invalid(str(placeholder), "has a character that no model's name can have")
    return value


def _value(placeholder: Placeholder, caller: Caller) -> str:
    match placeholder.source:
        case "headers":
            value = caller.header(placeholder.name)
        case "query_params":
            value = caller.parameter(placeholder.name)
        case _:
            value = caller.captures.get(placeholder.name)
    if value is None:
        raise InvalidRequest(
            f'This request needs {_SOURCES[placeholder.source]} "{placeholder.name}".',
            param=str(placeholder),
            code="missing_value",
        )
    if len(value) > MAX_VALUE_CHARACTERS or not value.isprintable():
        raise _invalid(str(placeholder), f"must be at most {MAX_VALUE_CHARACTERS} printable characters")
    return value


def _invalid(what: str, why: str) -> InvalidRequest:
    return InvalidRequest(f'What this request says for "{what}" {why}.', param=what, code="invalid_value")
