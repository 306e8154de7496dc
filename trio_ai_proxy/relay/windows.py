"""Where a judge's window ends: text in pieces → the same text in windows.

Pure. Where a window ends depends on the text alone, and never on the pieces in which it came: so a verdict can be told again.
A window ends as soon as it is known to, which is with the character that fills it, or with the blank after a sentence.
"""

from __future__ import annotations

# One window of more is not judged at once, whatever the configuration says: it is held in memory while it grows.
MAX_WINDOW_CHARACTERS = 2**18

# What ends a sentence where a blank follows (a "." alone may stand in a number, an address or a name), and what does without:
# the scripts that these are from have no blanks between sentences.
_ENDS = frozenset(".!?…‥؟۔।॥")
_WIDE_ENDS = frozenset("。！？｡．")
# What may stand between the end of a sentence and the blank: quotes and brackets that close, and Markdown's emphasis.
_CLOSERS = frozenset("\"'”’»›)]}」』）】》〉*_")


class Cutter:
    """The windows of one part of an answer, one after the other. `open` characters of the last one are there."""

    __slots__ = ("_after_end", "_by_sentence", "_is_blank", "_size", "open")

    def __init__(self, size: int, *, by_sentence: bool) -> None:
        """A window has `size` characters at most, and at least one."""
        self._size = min(size, MAX_WINDOW_CHARACTERS)
        self._by_sentence = by_sentence
        self.close()

    def feed(self, text: str) -> list[str]:
        """`text` cut where a window ends: all pieces but the last end one, and the last does not (it may be empty)."""
        pieces: list[str] = []
        start = 0
        for end in self._ends_by_sentence(text) if self._by_sentence else self._ends_by_size(text):
            pieces.append(text[start:end])
            start = end
        return [*pieces, text[start:]]

    def close(self) -> None:
        """The window ends here, whatever is in it."""
        self.open = 0
        self._is_blank = True
        self._after_end: frozenset[str] | None = None  # a sentence has ended, by a character of this set

    def _ends_by_size(self, text: str) -> list[int]:
        first = self._size - self.open
        ends = list(range(first, len(text) + 1, self._size))
        self.open = len(text) - ends[-1] if ends else self.open + len(text)
        return ends

    def _ends_by_sentence(self, text: str) -> list[int]:
        ends: list[int] = []
        for place, character in enumerate(text):
            if self._after_end is _WIDE_ENDS and not _may_follow(character):
                ends.append(place)
                self.close()
            self.open += 1
            is_blank = character.isspace()
            # Blanks alone are no sentence: an empty line goes with what follows it.
            if not is_blank:
                self._is_blank = False
                if character in _WIDE_ENDS:
                    self._after_end = _WIDE_ENDS
                elif self._after_end is not _WIDE_ENDS and character in _ENDS:
                    self._after_end = _ENDS
                elif character not in _CLOSERS and character not in _ENDS:
                    self._after_end = None
            if self.open == self._size or (
                is_blank and not self._is_blank and (character == "\n" or self._after_end is not None)
            ):
                ends.append(place + 1)
                self.close()
        return ends


def _may_follow(character: str) -> bool:
    """Whether what follows the wide end of a sentence still belongs to it: another mark, a bracket that closes, a blank."""
    return character in _WIDE_ENDS or character in _ENDS or character in _CLOSERS or character.isspace()
