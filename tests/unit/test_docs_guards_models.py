"""docs/guards-models.md is true: its example is a configuration that loads, and its numbers are those of the code."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from trio_ai_proxy.config import load_settings
from trio_ai_proxy.guards.moderate import Moderate
from trio_ai_proxy.guards.rewrite import RequestTransformer, ResponseTransformer
from trio_ai_proxy.guards.webhook import Webhook, _decode
from trio_ai_proxy.providers.table import KINDS as PROVIDER_KINDS
from trio_ai_proxy.relay.judging import MAX_HELD_CHARACTERS, MAX_IN_FLIGHT
from trio_ai_proxy.relay.windows import MAX_WINDOW_CHARACTERS

PAGE = (Path(__file__).parents[2] / "docs/guards-models.md").read_text(encoding="utf-8")
MODELS = """
[providers.openai]
kind = "openai"
api_key = "k"
[models."omni-moderation-latest"]
targets = [{ provider = "openai", model = "omni-moderation-latest" }]
[models."gpt-4o-mini"]
targets = [{ provider = "openai", model = "gpt-4o-mini" }]
guards = ["safe", "house-rules", "in-german", "plain", "office"]
"""
KINDS = {
    "moderate": Moderate,
    "webhook": Webhook,
    "request_transformer": RequestTransformer,
    "response_transformer": ResponseTransformer,
}


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", PAGE, re.DOTALL)


def test_example_loads_and_each_of_its_guards_can_be_made() -> None:
    [example] = blocks("toml")
    settings, notes = load_settings(
        MODELS + example, file="c.toml", environ={}, read_file=lambda _: "s3cret", kinds=PROVIDER_KINDS
    )
    assert notes == []
    assert {guard.kind for guard in settings.guards.values()} == set(KINDS)
    for guard in settings.guards.values():
        KINDS[guard.kind](guard)


def test_numbers_are_those_of_the_code() -> None:
    assert MAX_IN_FLIGHT == 4
    assert "Four windows of an answer" in PAGE
    assert f"{MAX_HELD_CHARACTERS:,} characters" in PAGE
    assert f"{MAX_WINDOW_CHARACTERS:,}\n  characters" in PAGE


@pytest.mark.parametrize("verdict", blocks("json")[1].splitlines())
def test_verdicts_of_the_page_can_be_read(verdict: str) -> None:
    assert _decode(verdict.encode()).action == json.loads(verdict)["action"]
