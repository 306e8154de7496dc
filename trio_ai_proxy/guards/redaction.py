"""What is done about what is found in one request, or in one answer. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from trio_ai_proxy.errors import GuardBlocked
from trio_ai_proxy.guards.matcher import Found, Matcher

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from trio_ai_proxy.guards.matcher import Patterns, Piece
    from trio_ai_proxy.guards.patterns import Pattern

    Substitute = Callable[[Pattern, str], str | None]
    """What stands in place of a match, or None where a match ends everything."""

_SAID = {
    "request": ("The request was refused", "it holds"),
    "answer": ("The answer ends here", "what follows holds"),
}


class Redaction:
    """Makes the matchers of one request or answer, and puts together what comes out of them.

    blocked  what ends it, None while it may go on; what is written after that is nothing
    hits     how often something was found
    finds    the same, with what does not count as a hit, and with each piece of a match that comes in pieces
    """

    def __init__(
        self,
        guard: str,
        patterns: Patterns,
        substitute: Substitute,
        *,
        window: int,
        on_overflow: Literal["block", "release"],
        of: Literal["request", "answer"],
        accepts: Callable[[Pattern, str], bool] | None = None,
        uncounted: Pattern | None = None,
    ) -> None:
        """`uncounted` is a pattern whose matches are no hits."""
        self.blocked: GuardBlocked | None = None
        self.hits = 0
        self.finds = 0
        self.window = window
        self._guard = guard
        self._patterns = patterns
        self._substitute = substitute
        self._on_overflow = on_overflow
        self._of: Literal["request", "answer"] = of
        self._accepts = accepts
        self._uncounted = uncounted

    def matcher(self) -> Matcher:
        """One for one text. In a request, which is there as a whole, matches are told whole."""
        return Matcher(
            self._patterns,
            window=self.window,
            on_overflow=self._on_overflow,
            accepts=self._accepts,
            joins_tails=self._of == "request",
        )

    def write(self, piece: Piece) -> str:
        """What leaves for `piece`."""
        if self.blocked is not None:
            return ""
        if isinstance(piece, str):
            return piece
        self.finds += 1
        if not isinstance(piece, Found):
            self._block(f"something that may be `{piece.pattern.name}`, and is longer than {self.window} characters")
            return ""
        if piece.goes_on:
            return ""
        if piece.pattern is not self._uncounted:
            self.hits += 1
        text = self._substitute(piece.pattern, piece.text)
        if text is None:
            self._block(f"`{piece.pattern.name}`, which this gateway does not let through")
            return ""
        return text

    def join(self, pieces: Sequence[Piece]) -> str:
        """What leaves for `pieces`."""
        if len(pieces) == 1:
            return self.write(pieces[0])
        return "".join([self.write(piece) for piece in pieces])

    def whole(self, text: str) -> str:
        """What leaves of a text that is complete."""
        matcher = self.matcher()
        return self.join(matcher.feed(text)) + self.join(matcher.close())

    def _block(self, what: str) -> None:
        done, holds = _SAID[self._of]
        self.blocked = GuardBlocked(f"{done}: {holds} {what}.", guard=self._guard)


class PlainText:
    """One text in pieces; `feed`, `settle` and `close` return what leaves of it. See `Matcher` for these."""

    def __init__(self, redaction: Redaction) -> None:
        self._redaction = redaction
        self._matcher = redaction.matcher()

    @property
    def held(self) -> int:
        """Characters that are held back now."""
        return self._matcher.held

    def feed(self, text: str) -> str:
        return self._redaction.join(self._matcher.feed(text))

    def settle(self) -> str:
        return self._redaction.join(self._matcher.settle())

    def close(self) -> str:
        return self._redaction.join(self._matcher.close())
