"""A value that fits a JSON schema: the same schema and text always give the same value, and no schema raises."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_MAX_DEPTH = 8  # a schema may refer to itself


def example_value(schema: object, *, text: str) -> Any:
    """A value for a tool's parameters.

    schema  a JSON schema (`type`, `enum`, `const`, `default`, `properties`, `items`, `anyOf`, `oneOf`, `allOf`, local
            `$ref`); what is missing or not understood counts as an object without properties
    text    goes where a string is wanted, cut to `maxLength`
    """
    root = schema if isinstance(schema, Mapping) else {}
    return _value({"type": "object", **root} if "$ref" not in root else root, root, text, _MAX_DEPTH)


def _value(schema: object, root: Mapping[str, Any], text: str, depth: int) -> Any:
    if not isinstance(schema, Mapping) or depth == 0:
        return None
    for fixed in ("const", "default"):
        if fixed in schema:
            return schema[fixed]
    if isinstance(choices := schema.get("enum"), list) and choices:
        return choices[0]
    if isinstance(reference := schema.get("$ref"), str):
        return _value(_follow(reference, root), root, text, depth - 1)
    for either in ("anyOf", "oneOf", "allOf"):
        if isinstance(options := schema.get(either), list) and options:
            return _value(options[0], root, text, depth - 1)
    match _type_of(schema):
        case "object":
            properties = schema.get("properties")
            wanted = properties if isinstance(properties, Mapping) else {}
            return {str(name): _value(inner, root, text, depth - 1) for name, inner in wanted.items()}
        case "array":
            return [_value(schema["items"], root, text, depth - 1)] if "items" in schema else []
        case "string":
            longest = schema.get("maxLength")
            return text[:longest] if isinstance(longest, int) else text
        case "integer" | "number":
            return schema.get("minimum", 1)
        case "boolean":
            return True
        case _:
            return None


def _type_of(schema: Mapping[str, Any]) -> object:
    kind = schema.get("type")
    if isinstance(kind, list):
        kind = next((one for one in kind if one != "null"), "null")
    if kind is None:
        return "object" if "properties" in schema else "array" if "items" in schema else None
    return kind


def _follow(reference: str, root: Mapping[str, Any]) -> object:
    """What a local reference (`#/$defs/Name`) points to, or None."""
    found: object = root
    for step in reference.removeprefix("#").split("/"):
        if not step:
            continue
        if not isinstance(found, Mapping):
            return None
        found = found.get(step.replace("~1", "/").replace("~0", "~"))
    return found
