"""Durations sorted into buckets: plain integers, cheap enough for every chunk of every stream."""

from __future__ import annotations

from bisect import bisect_left


class Histogram:
    """Counts of values by upper bound, and their sum.

    bounds  upper bounds, ascending, each inclusive (Prometheus' `le`)
    counts  how many values fell into each bucket; one more than bounds, the last for what is above all of them
    sum     of all values
    """

    __slots__ = ("bounds", "counts", "sum")

    def __init__(self, bounds: tuple[float, ...]) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.sum = 0.0

    def observe(self, value: float) -> None:
        self.counts[bisect_left(self.bounds, value)] += 1
        self.sum += value

    def add(self, other: Histogram) -> None:
        """Take over the counts of another one with the same bounds."""
        for place, count in enumerate(other.counts):
            self.counts[place] += count
        self.sum += other.sum

    @property
    def count(self) -> int:
        return sum(self.counts)
