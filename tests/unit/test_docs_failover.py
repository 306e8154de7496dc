"""docs/failover.md is true: its table says what `step_for` says, and its examples are configurations that load."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from trio_ai_proxy.config import load_settings
from trio_ai_proxy.errors import (
    Crowded,
    InvalidRequest,
    Overloaded,
    ProxyError,
    TruncatedStream,
    UpstreamError,
    UpstreamProtocolError,
    UpstreamRefused,
    UpstreamStatus,
    UpstreamTimeout,
)
from trio_ai_proxy.providers.table import KINDS
from trio_ai_proxy.routing.steps import step_for

if TYPE_CHECKING:
    from trio_ai_proxy.routing.steps import Step

PAGE = (Path(__file__).parents[2] / "docs/failover.md").read_text(encoding="utf-8")
PROVIDERS = """
[providers.openai]
kind = "openai"
api_key = "k"
[providers.azure]
kind = "azure"
instance = "mine"
api_key = "k"
[providers.local]
kind = "openai_compatible"
base_url = "http://127.0.0.1:9/v1"
[[keys]]
name = "team-a"
secret = "a long enough secret of team a"
"""


def table_after(heading: str) -> dict[str, str]:
    """The first table under a heading, by its first column."""
    section = PAGE.split(f"\n## {heading}\n")[1].split("\n## ")[0]
    rows = [line.strip("|").split("|") for line in section.splitlines() if line.startswith("|")]
    return {first.strip(): rest.strip() for first, rest in rows[2:]}


STEPS = table_after("Before the first token")
STATUSES = {outcome: step for outcome, step in STEPS.items() if outcome.startswith("status ")}


def said(message: str, code: str = "") -> UpstreamError:
    """An error inside a 200."""
    return UpstreamError(message, code=code or None)


def status(number: int, message: str = "It failed.", code: str | None = None) -> UpstreamStatus:
    return UpstreamStatus(message, upstream_status=number, code=code)


TOO_LONG = "This model's maximum context length is 8192 tokens."
TOO_MUCH = "Request too large for gpt-4o on tokens per min (TPM): Limit 30000, Requested 40000."

# Every row but those of statuses: the errors that it is about, and how often the target has failed.
OUTCOMES: dict[str, tuple[list[ProxyError], int]] = {
    "no connection, or it is lost before an answer: the first time": ([UpstreamRefused("")], 1),
    "the same: the second time": ([UpstreamRefused("")], 2),
    "no connection within `connect`": ([UpstreamTimeout("connect", 5, "")], 1),
    "no token within `first_token`, or silence for `idle` before there was one": (
        [UpstreamTimeout("first_token", 5, ""), UpstreamTimeout("idle", 5, "")],
        1,
    ),
    "the answer breaks off before a token": ([TruncatedStream("")], 1),
    "a page, a redirect, another protocol": ([UpstreamProtocolError("")], 1),
    "an error inside a 200 that says nothing more": ([said("Oh dear.")], 1),
    "the context is too long, in any provider's words": (
        [status(400, code="context_length_exceeded"), status(400, TOO_LONG), said(TOO_LONG)],
        1,
    ),
    "a policy on content refuses it, in any provider's words": (
        [
            status(400, code="content_policy_violation"),
            status(400, code="content_filter"),
            status(500, code="content_filter"),
        ],
        1,
    ),
    "a 429 or 413 for one request that is larger than the rate allows": (
        [status(429, TOO_MUCH), status(413, TOO_MUCH)],
        1,
    ),
    "the account is used up, or the key is wrong, whatever the status": (
        [
            status(429, code="insufficient_quota"),
            status(400, "Your credit balance is too low."),
            status(400, code="API_KEY_INVALID"),
        ],
        1,
    ),
    "no slot of ours within `queue`, or a full queue": ([Overloaded(""), Crowded("")], 1),
    "a field that this provider has no word for": ([InvalidRequest("")], 1),
    "`total` is over": ([UpstreamTimeout("total", 5, "")], 1),
}
AS_STATUS = "an error inside a 200, with a code that stands for a status"


def step_of_status(number: int) -> str:
    """What the table says of a status."""
    for outcome, step in STATUSES.items():
        if str(number) in re.findall(r"`(\d+)`", outcome):
            return step
    [step] = [step for outcome, step in STATUSES.items() if f"any other `{number // 100}xx`" in outcome]
    return step


@pytest.mark.parametrize("number", range(400, 600))
def test_the_table_says_what_follows_a_status(number: int) -> None:
    assert step_for(status(number)) == step_of_status(number)


def test_every_row_of_the_table_is_checked_here() -> None:
    assert set(STEPS) == {*STATUSES, *OUTCOMES, AS_STATUS}


@pytest.mark.parametrize("outcome", OUTCOMES)
def test_the_table_says_what_follows_an_outcome(outcome: str) -> None:
    errors, failures = OUTCOMES[outcome]
    steps: set[Step] = {step_for(error, failures=failures) for error in errors}
    assert steps == {STEPS[outcome]}


@pytest.mark.parametrize(
    ("code", "number"),
    [("rate_limit_exceeded", 429), ("invalid_api_key", 401), ("server_error", 500), ("NOT_FOUND", 404)],
)
def test_an_error_inside_a_200_is_taken_as_the_status_that_it_stands_for(code: str, number: int) -> None:
    assert STEPS[AS_STATUS] == "as that status"
    assert step_for(said("It failed.", code)) == step_of_status(number)


@pytest.mark.parametrize("example", re.findall(r"```toml\n(.*?)```", PAGE, re.DOTALL))
def test_the_examples_load(example: str) -> None:
    settings, notes = load_settings(PROVIDERS + example, file="c.toml", environ={}, read_file=lambda _: "", kinds=KINDS)
    assert settings.models
    assert not notes


def test_all_sixteen_scenarios_are_there_and_their_results() -> None:
    found = re.findall(r"^\| (S\d\d) \|", PAGE, re.MULTILINE)
    assert found == [f"S{number:02}" for number in range(1, 17)]
    results = re.findall(r"^\| (S\d\d) [^|]+\| pass", PAGE, re.MULTILINE)
    assert results == found
