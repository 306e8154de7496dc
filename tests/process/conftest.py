"""Fixtures of the tests on real sockets."""

from __future__ import annotations

import pytest
import trustme
from support.short_path import count_passed


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    """Who signs certificates that are good here and nowhere else."""
    return trustme.CA()


@pytest.fixture
def passed(monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
    """What has gone the short path since the test began."""
    return count_passed(monkeypatch)
