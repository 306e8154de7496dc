"""Loose JSON: what providers write where their documentation promises something else. Nothing here raises for a wrong type;
what makes no sense is nothing.
"""

from __future__ import annotations

import json
from typing import Any

import msgspec


def text_of(value: Any) -> str:
    """`content` as text: a text, or the text of a list of parts (Mistral, and some who follow it)."""
    if isinstance(value, str):
        return value
    if not isinstance(value, list):
        return ""
    texts = (part if isinstance(part, str) else part.get("text") for part in value if isinstance(part, str | dict))
    return "".join(text for text in texts if isinstance(text, str))


def json_text(value: Any) -> str:
    """`value` as JSON, or nothing if it is nested too deeply to be written."""
    try:
        return msgspec.json.encode(value).decode()
    except RecursionError:
        return ""


def count(value: Any) -> int:
    """A number that is not negative, whatever the service made of it; 0 if it is none."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return 0
    return max(0, int(value)) if value == value and abs(value) < 2**63 else 0  # NaN is not itself


def read_leniently(data: bytes) -> Any:
    """The JSON document `data`, with what strict readers refuse and real services send: half a surrogate pair (a character
    of two UTF-16 units cut at a token's end), bytes that are not UTF-8, NaN among the log probabilities. Raises `ValueError`
    or `RecursionError`."""
    text = json.dumps(json.loads(data.decode("utf-8", "replace")), ensure_ascii=False)
    whole = text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")  # half a pair becomes U+FFFD
    return json.loads(whole)


def read_object(data: bytes) -> dict[str, Any] | None:
    """The JSON object `data`, read strictly where that is possible and leniently where not; None if it is none."""
    try:
        value = _decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        try:
            value = read_leniently(data)
        except (ValueError, RecursionError):
            return None
    return value if isinstance(value, dict) else None


def a_dict(value: Any) -> dict[str, Any]:
    """`value` if it is an object, else an empty one."""
    return value if isinstance(value, dict) else {}


def a_list(value: Any) -> list[Any]:
    """`value` if it is a list, else an empty one."""
    return value if isinstance(value, list) else []


def a_text(value: Any) -> str:
    """`value` if it is a text, else an empty one."""
    return value if isinstance(value, str) else ""


_decode = msgspec.json.Decoder().decode
