"""How long a client is willing to wait: it may ask for less time than the model allows it, never for more."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from trio_ai_proxy.errors import InvalidRequest

if TYPE_CHECKING:
    from trio_ai_proxy.routing.caller import Caller

HEADER = "x-request-timeout"
_SECONDS = re.compile(r"(\d{1,9}(?:\.\d{1,9})?)(ms|s)?", re.ASCII)


def total_for(caller: Caller, total: float) -> float:
    """Seconds that all of an exchange may take: `total`, or what `caller` asks for where that is less. Raises `InvalidRequest`
    for what is no time."""
    asked = caller.header(HEADER)
    if asked is None:
        return total
    found = _SECONDS.fullmatch(asked)
    seconds = float(found[1]) / (1000 if found[2] == "ms" else 1) if found is not None else 0.0
    if not seconds:
        raise InvalidRequest(
            f'The header {HEADER} must be a time above zero: seconds (30, 1.5) or text such as "1500ms" or "2s".',
            param=HEADER,
            code="invalid_value",
        )
    return min(seconds, total)
