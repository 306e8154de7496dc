"""Prompts with gaps: how a request names one, and how its gaps are filled (Kong's prompt templates).

A request says `"{template://name}"` in place of its messages or of its prompt, and `properties` beside it. Named gaps are all
there is: no expressions, no loops, no second round. A value is put into a text that exists, so it can end neither the text
nor the message, whatever its characters; what is written as JSON later is escaped there.

Source: https://developer.konghq.com/plugins/ai-prompt-template/
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from trio_ai_proxy.errors import InvalidRequest

if TYPE_CHECKING:
    from collections.abc import Mapping

    from trio_ai_proxy.chat.request import ChatRequest

_REFERENCE = re.compile(r"\{template://([^{}]+)\}")
GAP = re.compile(r"\{\{ *([A-Za-z0-9_-]+) *\}\}")
PROPERTIES = "properties"
"""The field of a request that holds the values."""


def name_in(value: Any) -> str | None:
    """The name in a reference to a template; None if `value` is none."""
    found = _REFERENCE.fullmatch(value) if isinstance(value, str) else None
    return found[1] if found is not None else None


def gaps_in(text: str) -> list[str]:
    """The names of the gaps in `text`, as often as they stand there."""
    return GAP.findall(text)


def fill(text: str, values: Mapping[str, str]) -> str:
    """`text` with its gaps filled, in one pass: what a value says is never read as a gap. `values` must have them all."""
    return GAP.sub(lambda gap: values[gap[1]], text)


def check_untemplated(request: ChatRequest) -> None:
    """Raises `InvalidRequest` for a chat that names a template in place of its messages: there is nobody to fill one. A prompt
    that looks like a reference is a text like any other."""
    if request.operation == "chat" and name_in(request.fields.get("messages")) is not None:
        raise InvalidRequest(
            '"messages" must be a list of at least one message: this model has no templates.', param="messages"
        )
