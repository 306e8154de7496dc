"""Names with stars."""

from __future__ import annotations

import pytest

from trio_ai_proxy.routing.patterns import one_of


@pytest.mark.parametrize(
    ("patterns", "name", "fits"),
    [
        (("gold",), "gold", True),
        (("gold",), "golden", False),
        (("gold*",), "golden", True),
        (("*",), "", True),
        (("a*b*c",), "a--b--c", True),
        (("a*b*c",), "a--c--b", False),
        (("x", "y*"), "yes", True),
        (("a.c",), "abc", False),
        ((), "", False),
    ],
)
def test_a_star_is_any_run_and_all_else_is_itself(patterns: tuple[str, ...], name: str, fits: bool) -> None:
    assert (one_of(patterns).fullmatch(name) is not None) == fits


def test_a_pattern_of_many_stars_takes_no_time() -> None:
    assert one_of(("*a" * 40 + "b",)).fullmatch("a" * 5000) is None
