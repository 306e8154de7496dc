"""What the operator sets for a model, put into what the client asks for."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

# Two spellings of one limit. With both in one request OpenAI answers 400.
_TWINS: Mapping[str, str] = {"max_tokens": "max_completion_tokens", "max_completion_tokens": "max_tokens"}

# What makes the request the client's own; no default may stand in for it.
_NOT_OPTIONS = frozenset({"model", "messages", "prompt", "stream", "stream_options"})


def with_options(fields: Mapping[str, Any], options: Mapping[str, Any], force: bool = False) -> dict[str, Any]:
    """A copy of `fields` in which `options` fill what is absent or null; with `force`, they replace what is there."""
    filled = dict(fields)
    for name, value in options.items():
        if name in _NOT_OPTIONS:
            continue
        twin = _TWINS.get(name)
        if force:
            if twin is not None and twin not in options:
                filled.pop(twin, None)
        elif filled.get(name) is not None or (twin is not None and filled.get(twin) is not None):
            continue
        filled[name] = value
    return filled
