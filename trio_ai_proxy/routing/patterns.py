"""Names with stars: `*` is any run of characters, everything else is itself."""

from __future__ import annotations

import re
from functools import lru_cache


@lru_cache(maxsize=1024)
def one_of(patterns: tuple[str, ...]) -> re.Pattern[str]:
    """One expression for all patterns, to be matched in full; no pattern matches nothing."""
    return re.compile("|".join(f"(?:{_expression(pattern)})" for pattern in patterns) or "(?!)", re.DOTALL)


def _expression(pattern: str) -> str:
    first, *others = (re.escape(piece) for piece in re.split(r"\*+", pattern))
    if not others:
        return first
    *middle, last = others
    # Atomic groups: the first place where a piece fits is as good as any later one, and trying those as well would take
    # time without end for a pattern of many stars.
    return first + "".join(f"(?>.*?{piece})" for piece in middle) + ".*" + last
