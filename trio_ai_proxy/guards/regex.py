"""The regular expressions of a configuration: RE2's, whose time grows with the text alone, whatever the expression and whoever
wrote the text. Its price: no look-around and no back-references. Pure.

Source: https://github.com/google/re2/wiki/Syntax
"""

from __future__ import annotations

import re
from typing import Protocol, cast

import re2  # type: ignore[import-untyped]  # it comes without types

# What a parenthesis can hide in: an escape, a class.
_PART = re.compile(r"\\.|\[\^?\]?(?:\\.|[^\]])*\]|[()]", re.DOTALL)
_NOT_IN_RE2 = ("(?=", "(?!", "(?<", "(?>", "\\1", "\\2", "\\3")


class Found(Protocol):
    """One match. Group 0 is all of it; a group that took no part is None."""

    def group(self, number: int = 0, /) -> str | None: ...

    def span(self, number: int = 0, /) -> tuple[int, int]: ...


class Regex(Protocol):
    """A compiled expression. `groups` is the number of its groups."""

    @property
    def groups(self) -> int: ...

    def search(self, text: str, /) -> Found | None: ...

    def fullmatch(self, text: str, /) -> Found | None: ...


class UnreadableRegex(ValueError):
    """It is no expression of RE2. The text says what is wrong with it, and where."""


def compile_regex(pattern: str) -> Regex:
    """The expression. Raises `UnreadableRegex`."""
    options = re2.Options()
    options.log_errors = False  # RE2 would write them to standard error itself
    try:
        return cast("Regex", re2.compile(pattern, options))
    except re2.error as error:
        # RE2 says "what: which piece of the pattern", as bytes.
        said = error.args[0].decode("utf-8", "replace")
        what, _, piece = said.partition(": ")
    if what in ("missing )", "unexpected )"):  # of these RE2 shows the whole pattern
        raise UnreadableRegex(f"{what}: the parenthesis at character {_odd_parenthesis(pattern) + 1} stands alone")
    if not piece or pattern.count(piece) != 1:
        raise UnreadableRegex(said)
    hint = "; RE2 has no look-around and no back-references" if piece.startswith(_NOT_IN_RE2) else ""
    raise UnreadableRegex(f"{what} at character {pattern.index(piece) + 1}, `{piece}`{hint}")


def _odd_parenthesis(pattern: str) -> int:
    """Where the first parenthesis is that closes nothing, or else the last one that nothing closes."""
    opened: list[int] = []
    for part in _PART.finditer(pattern):
        if part[0] == "(":
            opened.append(part.start())
        elif part[0] == ")":
            if not opened:
                return part.start()
            opened.pop()
    return opened[-1] if opened else 0
