"""A histogram's buckets hold what Prometheus expects of them."""

from __future__ import annotations

from trio_ai_proxy.accounting.histogram import Histogram


def test_a_bound_is_inclusive_and_what_is_above_all_bounds_is_kept() -> None:
    histogram = Histogram((0.1, 1.0))
    for value in (0.0, 0.1, 0.11, 1.0, 1.01, 50.0):
        histogram.observe(value)
    assert histogram.counts == [2, 2, 2]
    assert histogram.count == 6
    assert round(histogram.sum, 6) == 52.22


def test_histograms_of_the_same_bounds_add_up() -> None:
    one, other = Histogram((1.0,)), Histogram((1.0,))
    one.observe(0.5)
    other.observe(0.25)
    other.observe(2.0)
    one.add(other)
    assert (one.counts, one.sum) == ([2, 1], 2.75)
