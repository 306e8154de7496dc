"""A JSON schema as the Messages API holds models to it: a subset, in which every object is closed.

What the subset cannot hold to (bounds of numbers, lengths, formats of its own) is told to the model in the description
instead, as Anthropic's own SDKs do. A schema with open objects is none of the subset: closing them would forbid what was
asked for.

Source: https://platform.claude.com/docs/en/build-with-claude/structured-outputs#json-schema-limitations
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from trio_ai_proxy.errors import InvalidRequest
from trio_ai_proxy.providers.loose import json_text

if TYPE_CHECKING:
    from collections.abc import Iterator

_KEPT = frozenset({"$ref", "type", "enum", "const", "description", "title", "default", "required", "pattern"})
_OF_SCHEMAS = frozenset({"properties", "$defs", "definitions"})  # name → schema
_LISTS = {"anyOf": "anyOf", "oneOf": "anyOf", "allOf": "allOf"}
_SILENT = frozenset({"$schema", "$id", "$comment", "examples", "readOnly", "writeOnly", "deprecated"})
_FORMATS = frozenset({"date-time", "time", "date", "duration", "email", "hostname", "uri", "ipv4", "ipv6", "uuid"})


def held_schema(schema: dict[str, Any]) -> dict[str, Any] | None:
    """`schema` in the API's subset, None if it has objects that must stay open. Raises `InvalidRequest` for one that is
    nested too deeply."""
    try:
        return None if _has_open_object(schema) else _held(schema)
    except RecursionError as error:
        raise InvalidRequest("The JSON schema is nested too deeply to be passed on.") from error


def _has_open_object(schema: dict[str, Any]) -> bool:
    if schema.get("additionalProperties") not in (None, False) or "patternProperties" in schema:
        return True
    is_object = schema.get("type") == "object"
    if is_object and not schema.get("properties") and schema.get("additionalProperties") is not False:
        return True
    return any(_has_open_object(inner) for inner in _inner(schema))


def _inner(schema: dict[str, Any]) -> Iterator[dict[str, Any]]:
    for name in _OF_SCHEMAS:
        named = schema.get(name)
        if isinstance(named, dict):
            yield from (inner for inner in named.values() if isinstance(inner, dict))
    for name in _LISTS:
        listed = schema.get(name)
        if isinstance(listed, list):
            yield from (inner for inner in listed if isinstance(inner, dict))
    if isinstance(schema.get("items"), dict):
        yield schema["items"]


def _held(schema: dict[str, Any]) -> dict[str, Any]:
    held: dict[str, Any] = {}
    told: list[str] = []
    for name, value in schema.items():
        if name in _KEPT or (name == "format" and value in _FORMATS) or (name == "minItems" and value in (0, 1)):
            held[name] = value
        elif name in _OF_SCHEMAS and isinstance(value, dict):
            held[name] = {key: _held_if_schema(inner) for key, inner in value.items()}
        elif name in _LISTS and isinstance(value, list):
            held[_LISTS[name]] = [_held_if_schema(inner) for inner in value]
        elif name == "items" and isinstance(value, dict):
            held[name] = _held(value)
        elif name != "additionalProperties" and name not in _SILENT:
            told.append(f"{name}: {value if isinstance(value, str) else json_text(value)}")
    if schema.get("type") == "object" or "properties" in schema:
        held["additionalProperties"] = False
    if told:
        held["description"] = "\n\n".join(filter(None, (str(held.get("description") or ""), f"({', '.join(told)})")))
    return held


def _held_if_schema(value: Any) -> Any:
    return _held(value) if isinstance(value, dict) else value
