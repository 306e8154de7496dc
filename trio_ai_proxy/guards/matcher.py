"""Finding patterns in a text that comes in pieces.

Pure. What is found does not depend on how the text was cut. These are the rules, and they speak of the whole text:

- The leftmost match counts; at one place, the pattern that was named first.
- A match that its check refuses is none, and an empty one is none either: then the next pattern at that place is asked, and
  then the search goes on one character further. After a match it goes on behind it.
- Of a match in the making, `window` characters and one more are looked at. If more text could still complete, lengthen or undo
  it then, it is too long: with `on_overflow = "block"` the text ends before it, with "release" the pattern is not looked for in
  these characters; the others are.

What is held is the text from the first place on where a match is in the making. Everything before it leaves at once, and a
pause changes nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from trio_ai_proxy.guards.prefixes import MARK, compile_search, open_ended, plain

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from trio_ai_proxy.guards.patterns import Pattern

# Half a surrogate pair, which an answer in JSON can hold, is no UTF-8; RE2 sees three bytes that are one character to it.
_ENCODING = ("utf-8", "surrogatepass")


@dataclass(frozen=True, slots=True)
class Found:
    """A match. `goes_on`: `text` is more of the match before it, by the pattern's `tail`."""

    pattern: Pattern
    text: str
    goes_on: bool = False


@dataclass(frozen=True, slots=True)
class TooLong:
    """A match in the making is longer than the window, and nothing may follow."""

    pattern: Pattern


Piece = str | Found | TooLong
"""Text that may leave as it is, or what has been found between two such texts."""


class Patterns:
    """Patterns, ready to be looked for. They are compiled once, and any number of matchers share them.

    Raises `UnreadableRegex`.
    """

    def __init__(self, patterns: Sequence[Pattern]) -> None:
        self.patterns = tuple(patterns)
        opened = [open_ended(pattern.regex) for pattern in patterns]
        closed = [plain(pattern.regex) for pattern in patterns]
        # First of all of them at once, then of each: for a text that goes on, and for one that has ended.
        self.going_on = (compile_search(*opened), [compile_search(regex) for regex in opened])
        self.ended = (compile_search(*closed), [compile_search(regex) for regex in closed])


class Matcher:
    """Looks for `patterns` in one text; `feed` and `close` return what may leave.

    accepts      asked about each match beside its pattern's own check, None: all are accepted
    joins_tails  whether a match is told once it is whole, its tail included, and not at once with its tail in pieces behind it;
                 a tail may be as long as the text
    """

    def __init__(
        self,
        patterns: Patterns,
        *,
        window: int,
        on_overflow: Literal["block", "release"],
        accepts: Callable[[Pattern, str], bool] | None = None,
        joins_tails: bool = False,
    ) -> None:
        self._patterns = patterns
        self._window = window
        self._blocks = on_overflow == "block"
        self._accepts = accepts
        self._joins_tails = joins_tails
        self._is_over = False
        self._reset()

    def _reset(self) -> None:
        self._before = ""  # the character before what is held: `\b` and `^` ask for it
        self._held = ""
        self._gone = 0  # how many characters of what is held have left all the same
        self._tail: Pattern | None = None  # whose match goes on for as long as its tail does
        self._waiting: list[str] = []  # that match so far, if it is told once it is whole
        # For each pattern, how many characters from the beginning of what is held on it is not looked for in.
        self._blind = [0] * len(self._patterns.patterns)
        self._is_blind = False

    @property
    def held(self) -> int:
        """Characters that are held back now."""
        return len(self._held) - self._gone

    def feed(self, text: str) -> list[Piece]:
        """More of the text."""
        return self._run(self._held + text, is_whole=False)

    def close(self) -> list[Piece]:
        """The text has ended. The next one may begin, and knows nothing of this one."""
        pieces = self._run(self._held, is_whole=True)
        self._tell(pieces)
        self._reset()
        return pieces

    def settle(self) -> list[Piece]:
        """What is held has to leave although the text may go on. It stays in sight: should it turn out to have been the beginning
        of a match, then what follows of that match does not leave."""
        held, before, blind = self._held, self._before, self._blind
        pieces = self._run(held, is_whole=True)
        ghost = held
        if any(isinstance(piece, Found) for piece in pieces):
            ghost = pieces[-1] if isinstance(pieces[-1], str) else ""
        since = len(held) - len(ghost)
        self._before = held[since - 1] if since else before
        self._held, self._gone = ghost, len(ghost)
        self._set_blind([places - since for places in blind])
        return pieces

    def _run(self, text: str, *, is_whole: bool) -> list[Piece]:
        if self._is_over:
            return []
        pieces: list[Piece] = []
        left = self._gone  # up to here it has left, or is in `pieces`
        at = 0
        while at < len(text):
            if self._tail is not None:
                at = self._follow_tail(text, at, pieces)
                left = max(left, at)
                continue
            view = text[at : at + self._window + 1]
            offset, which, length = self._look(view, text[at - 1] if at else self._before, at, is_whole)
            if which < 0:
                is_last = at + len(view) == len(text)
                at += offset
                if is_last:
                    break
                continue
            if length == 0 and not self._blocks:
                self._blind[which] = at + len(view)
                self._is_blind = True
                continue
            at += offset
            if at > left:
                pieces.append(text[left:at])
                left = at
            pattern = self._patterns.patterns[which]
            if length == 0:
                pieces.append(TooLong(pattern))
                self._is_over = True
                self._held, self._gone = "", 0
                return pieces
            if pattern.tail:
                self._tail = pattern
            if at + length > left:
                self._add(pieces, Found(pattern, text[at : at + length]))
                left = at + length
            at += length
        if left < at:
            pieces.append(text[left:at])
            left = at
        if at:
            self._before = text[at - 1]
            if self._is_blind:
                self._set_blind([places - at for places in self._blind])
        self._held = text[at:]
        self._gone = max(0, left - at)
        return pieces

    def _look(self, view: str, before: str, at: int, is_whole: bool) -> tuple[int, int, int]:
        """What stands first in `view`, which begins at character `at` of the text: (where, which pattern, how long).

        A match has a length; a match in the making has the pattern -1, or its own and no length if it is too long. Nothing is a
        match in the making at the end of the view.
        """
        head, body = before.encode(*_ENCODING), view.encode(*_ENCODING)
        first, end = len(head), len(head) + len(body)
        data = head + body if is_whole else head + body + MARK
        search, each = self._patterns.ended if is_whole else self._patterns.going_on
        is_full = len(view) > self._window
        blind = self._blind_bytes(view, at, first) if self._is_blind else None
        place = first
        while True:
            span = _leftmost(search, data, place) if blind is None else _leftmost_apart(each, data, place, blind)
            if span is None or span[0] >= end:
                return len(view), -1, 0
            place, stop = span
            offset = place - first if len(body) == len(view) else len(body[: place - first].decode(*_ENCODING))
            if stop > end and not (is_full and offset == 0):
                return offset, -1, 0
            for which, one in enumerate(each):
                if blind is not None and blind[which] > place:
                    continue
                found = one.match(data, place)
                if found is None:
                    continue
                stop = found.end()
                if stop > end:
                    return offset, which if is_full and offset == 0 else -1, 0
                length = self._accepted(which, data[place:stop].decode(*_ENCODING))
                if length:
                    return offset, which, length
            place += _width(data[place])

    def _accepted(self, which: int, text: str) -> int:
        """How many characters of the match `text` count."""
        pattern = self._patterns.patterns[which]
        length = len(text) if pattern.check is None else pattern.check(text)
        return length if self._accepts is None or self._accepts(pattern, text[:length]) else 0

    def _follow_tail(self, text: str, at: int, pieces: list[Piece]) -> int:
        """Where the tail of the match that ends at `at` has ended, or the text has."""
        pattern = self._tail
        assert pattern is not None  # noqa: S101  who calls has seen to it
        view = text[at : at + self._window]
        rest = view.lstrip(pattern.tail)
        length = len(view) - len(rest)
        if length:
            self._add(pieces, Found(pattern, view[:length], goes_on=True))
        if rest:
            self._tell(pieces)
            self._tail = None
        return at + length

    def _add(self, pieces: list[Piece], found: Found) -> None:
        if self._joins_tails and self._tail is not None:
            self._waiting.append(found.text)
        else:
            pieces.append(found)

    def _tell(self, pieces: list[Piece]) -> None:
        """The match that was waited for is whole, if there is one."""
        if self._waiting and self._tail is not None:
            pieces.append(Found(self._tail, "".join(self._waiting)))
            self._waiting.clear()

    def _set_blind(self, blind: list[int]) -> None:
        self._blind = [max(0, places) for places in blind]
        self._is_blind = any(self._blind)

    def _blind_bytes(self, view: str, at: int, first: int) -> list[int]:
        """For each pattern, the byte from which on it is looked for."""
        return [first + len(view[: max(0, places - at)].encode(*_ENCODING)) for places in self._blind]


def _leftmost(search: Any, data: bytes, place: int) -> tuple[int, int] | None:
    found = search.search(data, place)
    return None if found is None else found.span()


def _leftmost_apart(each: Sequence[Any], data: bytes, place: int, blind: Sequence[int]) -> tuple[int, int] | None:
    """As one search for all would find it, were every pattern looked for from its own place on."""
    spans = [_leftmost(one, data, max(place, start)) for one, start in zip(each, blind, strict=True)]
    return min((span for span in spans if span is not None), key=lambda span: span[0], default=None)


def _width(first: int) -> int:
    """How many bytes the character has that begins with the byte `first`."""
    return 1 if first < 0x80 else 2 if first < 0xE0 else 3 if first < 0xF0 else 4
