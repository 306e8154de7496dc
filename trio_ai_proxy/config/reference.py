"""The configuration reference, for people and for editors: generated from the settings types, never written by hand."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any, assert_never

from trio_ai_proxy.config.fields import (
    ALTERNATIVES,
    NOT_BUILT,
    Anything,
    Block,
    Choice,
    Count,
    Credential,
    Digest,
    Duration,
    Flag,
    Key,
    Listing,
    Named,
    Shape,
    Share,
    Size,
    Text,
    keys_of,
)
from trio_ai_proxy.config.values import DURATION_PATTERN, SIZE_PATTERN, format_duration, format_size, listed
from trio_ai_proxy.settings import Settings

if TYPE_CHECKING:
    from collections.abc import Iterator

_INTRODUCTION = """\
# Configuration

This page is generated from the settings types by `trio-ai-proxy docs`; do not edit it.

One TOML file configures the gateway. It is read strictly: a key that is not on this page is an error, and all errors
are reported at once, each with its line. Editors that know JSON schemas read `docs/config.schema.json`.

| type | what to write |
| --- | --- |
| duration | seconds (`30`, `0.5`) or text with units `d`, `h`, `m`, `s`, `ms`: `"10m"`, `"1h30m"`, `"500ms"` |
| size | bytes (`65536`) or text with a unit: `"64kB"`, `"10MiB"` |
| text | `"${NAME}"` anywhere in it is that environment variable |
| secret | text that is never shown; `"file:/path"` is the content of that file, without blanks around it |

A variable or file that is missing stops the start, unless it belongs to a provider that no model uses: such a
provider is left out.
"""

_NOT_BUILT_YET = """\
## Not built yet

These keys are part of the contract and refused for now, each with an error that says so:
"""


def reference_markdown() -> str:
    """The text of docs/configuration.md."""
    parts = [_INTRODUCTION]
    for settings_type, title in _sections():
        parts.append(f"## {title}\n\n{_first_sentence(settings_type)}\n")
        if settings_type in ALTERNATIVES:
            one, other = ALTERNATIVES[settings_type]
            parts.append(f"Exactly one of `{one}` and `{other}` is given.\n")
        rows = [
            f"| `{key.name}` | {_type(key.shape)} | {_default(key)} | {key.doc}{_kinds(key, '`')} |"
            for key in keys_of(settings_type).values()
        ]
        parts.append("\n".join(["| key | type | default | meaning |", "| --- | --- | --- | --- |", *rows, ""]))
    titles = dict(_sections()) | {Settings: "the top of the file"}
    rows = [f"- {titles[kind]}: {', '.join(f'`{name}`' for name in names)}" for kind, names in NOT_BUILT.items()]
    parts.append("\n".join([_NOT_BUILT_YET, *rows, ""]))
    return "\n".join(parts)


def _sections() -> Iterator[tuple[type, str]]:
    """Each settings type once, with the header under which it stands, in the order of the file."""
    seen: set[type] = set()

    def walk(settings_type: type, header: str, dots: str) -> Iterator[tuple[type, str]]:
        for key in keys_of(settings_type).values():
            path = f"{dots}{key.name}"
            match key.shape:
                case Block(type=inner):
                    title = f"[{path}]"
                case Named(of=Block(type=inner)):
                    path = f"{path}.NAME"
                    title = f"[{path}]"
                case Listing(of=Block(type=inner)):
                    title = f"[[{path}]]"
                case _:
                    continue
            if inner not in seen:
                seen.add(inner)
                yield inner, f"`{title}`"
                yield from walk(inner, title, f"{path}.")

    yield from walk(Settings, "", "")


def _first_sentence(settings_type: type) -> str:
    """The rest of a docstring speaks to developers."""
    return (settings_type.__doc__ or "").split(". ")[0].split("\n")[0].rstrip(".") + "."


def _type(shape: Shape) -> str:
    match shape:
        case Flag():
            return "true or false"
        case Count():
            return f"whole number, at least {shape.minimum}"
        case Duration():
            words = "".join(f', or `"{word}"`' for word in shape.words)
            return ("duration, may be 0" if shape.zero else "duration") + words
        case Share():
            return "number above 0, at most 1"
        case Size():
            return "size"
        case Text():
            return "text"
        case Choice():
            return "one of " + ", ".join(f'`"{word}"`' for word in shape.words)
        case Credential():
            return "secret"
        case Digest():
            return "64 hexadecimal digits"
        case Anything():
            return "any value that JSON has"
        case Block():
            text = "text, or " if shape.short is not None else ""
            return f"{text}table, see {dict(_sections())[shape.type]}"
        case Listing():
            return f"array of: {_type(shape.of)}"
        case Named():
            return f"table of names, each: {_type(shape.of)}"
        case _:
            assert_never(shape)


def _kinds(key: Key, quote: str = "") -> str:
    """The kinds of provider or of guard that have this key, as a sentence; nothing if all do."""
    return f" Kind {listed(key.kinds, quote)}." if key.kinds else ""


def _default(key: Key) -> str:
    if key.required:
        return "required"
    if isinstance(key.shape, Block | Named) or key.default is None:
        return "–"
    match key.shape:
        case Duration():
            return f'`"{format_duration(key.default)}"`'
        case Size():
            return f'`"{format_size(key.default)}"`'
        case _:
            return f"`{json.dumps(key.default)}`"


def json_schema() -> str:
    """The text of docs/config.schema.json: JSON Schema draft 7, the one that TOML editors read."""
    definitions: dict[str, Any] = {
        "reference": {"type": "string", "pattern": r"\$\{[A-Za-z_][A-Za-z0-9_]*\}"},
        "duration": _either({"type": "number", "exclusiveMinimum": 0}, _pattern(DURATION_PATTERN)),
        "durationOrZero": _either({"type": "number", "minimum": 0}, _pattern(DURATION_PATTERN)),
        "size": _either({"type": "integer", "minimum": 1}, _pattern(SIZE_PATTERN)),
        "text": {"type": "string", "minLength": 1},
        "secret": {"type": "string", "minLength": 1},
        "digest": _either(_pattern("[0-9a-fA-F]{64}")),
    }
    for settings_type, _ in _sections():
        definitions[settings_type.__name__] = _table_schema(settings_type)
    schema = {"$schema": "http://json-schema.org/draft-07/schema#", "title": "trio_ai_proxy configuration"}
    return (
        json.dumps(schema | _table_schema(Settings) | {"definitions": definitions}, indent=2, ensure_ascii=False) + "\n"
    )


def _pattern(pattern: str) -> dict[str, Any]:
    return {"type": "string", "pattern": f"^(?:{pattern})$"}


def _either(*schemas: dict[str, Any]) -> dict[str, Any]:
    return {"anyOf": [*schemas, {"$ref": "#/definitions/reference"}]}


def _table_schema(settings_type: type) -> dict[str, Any]:
    keys = keys_of(settings_type).values()
    schema: dict[str, Any] = {
        "type": "object",
        "additionalProperties": False,
        # draft 7 ignores what stands beside "$ref", so the description goes around it
        "properties": {key.name: {"description": key.doc + _kinds(key), "allOf": [_schema(key.shape)]} for key in keys},
    }
    required = [key.name for key in keys if key.required]
    if required:
        schema["required"] = required
    if settings_type in ALTERNATIVES:
        schema["oneOf"] = [{"required": [name]} for name in ALTERNATIVES[settings_type]]
    return schema


def _schema(shape: Shape) -> dict[str, Any]:
    match shape:
        case Flag():
            return {"type": "boolean"}
        case Count():
            return {"type": "integer", "minimum": shape.minimum}
        case Duration():
            named = _named("durationOrZero" if shape.zero else "duration")
            return {"anyOf": [named, {"enum": list(shape.words)}]} if shape.words else named
        case Share():
            return {"type": "number", "exclusiveMinimum": 0, "maximum": 1}
        case Size():
            return _named("size")
        case Text():
            return {"type": "string"} if shape.empty else _named("text")
        case Choice():
            return _either({"enum": list(shape.words)})
        case Credential():
            return _named("secret")
        case Digest():
            return _named("digest")
        case Anything():
            return {}
        case Block():
            table = _named(shape.type.__name__)
            return {"anyOf": [_named("text"), table]} if shape.short is not None else table
        case Listing():
            return {"type": "array", "items": _schema(shape.of)}
        case Named():
            return {"type": "object", "additionalProperties": _schema(shape.of)}
        case _:
            assert_never(shape)


def _named(name: str) -> dict[str, Any]:
    return {"$ref": f"#/definitions/{name}"}


def write_docs(folder: str | Path) -> list[Path]:
    """Write both into `folder` (the project's `docs`). Returns the files written."""
    files = {"configuration.md": reference_markdown(), "config.schema.json": json_schema()}
    for name, text in files.items():
        Path(folder, name).write_text(text, encoding="utf-8", newline="\n")
    return [Path(folder, name) for name in files]
