"""Whose turn it is: a queue in which clients take turns, so that a crowd of one delays another by no more than one turn.

Pure, and every operation takes the same time however many wait.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Generic, TypeVar

T = TypeVar("T")

_SPAN = 5.0


class Turns(Generic[T]):
    """What waits, in lines: one for each key. `next` goes round the lines; within a line, first come first served."""

    def __init__(self) -> None:
        # Linked lists: of a plain dict, taking from the front again and again would walk over what was there before.
        self._lines: OrderedDict[str | None, OrderedDict[T, None]] = OrderedDict()  # in the order of their turns
        self._of_length: dict[int, OrderedDict[str | None, None]] = {}
        self._count = 0
        self.longest = 0  # how many wait in the longest line

    def __len__(self) -> int:
        return self._count

    def waiting(self, key: str | None) -> int:
        """How many wait in the line of `key`."""
        return len(self._lines.get(key, ()))

    def add(self, key: str | None, item: T) -> None:
        """`item` waits from now on. A key that had nobody waiting has its turn after all the others."""
        line = self._lines.setdefault(key, OrderedDict())
        line[item] = None
        self._moved(key, len(line) - 1, len(line))

    def next(self) -> T:
        """Who goes next, and waits no longer. There must be one."""
        key, line = next(iter(self._lines.items()))
        item, _ = line.popitem(last=False)
        self._lines.move_to_end(key)
        self._left(key, line)
        return item

    def remove(self, key: str | None, item: T) -> None:
        """`item` waits no longer. The turn of its key stays where it was."""
        line = self._lines[key]
        del line[item]
        self._left(key, line)

    def shed(self) -> T:
        """The last one of the longest line, which waits no longer. There must be one."""
        key = next(reversed(self._of_length[self.longest]))
        line = self._lines[key]
        item, _ = line.popitem()
        self._left(key, line)
        return item

    def _left(self, key: str | None, line: OrderedDict[T, None]) -> None:
        if not line:
            del self._lines[key]
        self._moved(key, len(line) + 1, len(line))

    def _moved(self, key: str | None, before: int, after: int) -> None:
        """The line of `key` has become one longer or shorter."""
        self._count += after - before
        if before:
            peers = self._of_length[before]
            del peers[key]
            if not peers:
                del self._of_length[before]
        if after:
            self._of_length.setdefault(after, OrderedDict())[key] = None
        if after > self.longest or (before == self.longest and before not in self._of_length):
            self.longest = after


class Pace:
    """How quickly a queue has moved of late: over five to ten seconds, in which somebody waited."""

    def __init__(self) -> None:
        self._moves = 0
        self._older = self._newer = (0.0, 0)  # a time, and how many moves there had been

    def begin(self, now: float) -> None:
        """Somebody waits, and nobody did before."""
        if now - self._newer[0] > 2 * _SPAN:
            self._older = self._newer = (now, self._moves)

    def move(self, now: float) -> None:
        """Somebody waits no longer."""
        self._moves += 1
        if now - self._newer[0] > _SPAN:
            self._older, self._newer = self._newer, (now, self._moves)

    def seconds_for(self, moves: int, now: float, *, most: float) -> float:
        """How long so many moves take at this pace, `most` where it is not known or slower than that."""
        since, before = self._older
        seen = self._moves - before
        return min(most, moves * (now - since) / seen) if seen else most
