from __future__ import annotations

from trio_ai_proxy.accounting.outcome import Cause, Outcome
from trio_ai_proxy.errors import UpstreamTimeout


def test_the_first_to_settle_is_right_and_later_ones_change_nothing() -> None:
    outcome = Outcome()
    error = UpstreamTimeout("idle", 60.0, "silent")
    assert outcome.settle(Cause.TIMEOUT_IDLE, error)
    assert not outcome.settle(Cause.CLIENT_GONE, detail="left")
    assert outcome.cause is Cause.TIMEOUT_IDLE
    assert outcome.error is error
    assert outcome.detail == "silent"


def test_the_detail_is_the_errors_message_unless_another_is_given() -> None:
    outcome = Outcome()
    outcome.settle(Cause.BUG, UpstreamTimeout("idle", 1.0, "silent"), "what it really was")
    assert outcome.detail == "what it really was"


def test_an_open_outcome_says_nothing() -> None:
    outcome = Outcome()
    assert outcome.cause is None
    assert outcome.error is None
    assert outcome.detail is None


def test_every_deadline_has_its_cause() -> None:
    for deadline in ("connect", "first_token", "idle", "total", "queue", "body"):
        assert Cause(f"timeout_{deadline}").value == f"timeout_{deadline}"
