"""Sums over the last so many seconds: in cells, so that both adding and asking cost the same whatever the traffic."""

from __future__ import annotations

_CELLS = 10


class SlidingSum:
    """What was added in the last `seconds`, to within a tenth of them."""

    __slots__ = ("_cells", "_latest", "_span", "_total")

    def __init__(self, seconds: float) -> None:
        self._span = seconds / _CELLS
        self._cells = [0] * _CELLS
        self._latest = 0
        self._total = 0

    def add(self, amount: int, now: float) -> None:
        self._turn(now)
        self._cells[self._latest % _CELLS] += amount
        self._total += amount

    def total(self, now: float) -> int:
        self._turn(now)
        return self._total

    def clear(self) -> None:
        self._cells = [0] * _CELLS
        self._total = 0

    def _turn(self, now: float) -> None:
        """Forget the cells that have gone by. A clock that goes back changes nothing."""
        cell = int(now // self._span)
        if cell <= self._latest:
            return
        for number in range(max(self._latest + 1, cell - _CELLS + 1), cell + 1):
            place = number % _CELLS
            self._total -= self._cells[place]
            self._cells[place] = 0
        self._latest = cell
