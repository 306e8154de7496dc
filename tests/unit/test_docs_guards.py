"""docs/guards.md says what is so: its examples load, and it has a chapter for every kind and a row for every pattern."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import get_args

import pytest
from support.entering import entered

from trio_ai_proxy.config import load_settings
from trio_ai_proxy.dialects.table import DIALECTS
from trio_ai_proxy.guards.build import build_guards
from trio_ai_proxy.guards.patterns import NAMED
from trio_ai_proxy.providers.table import KINDS
from trio_ai_proxy.settings import GuardKind, Settings

PAGE = (Path(__file__).parents[2] / "docs/guards.md").read_text(encoding="utf-8")
FROM_KONG = (Path(__file__).parents[2] / "docs/from-kong.md").read_text(encoding="utf-8")
EXAMPLES = re.findall(r"```toml\n(.*?)```", PAGE, re.DOTALL)
AROUND = """\
[providers.openai]
kind = "openai"
api_key = "k"
[models.small]
targets = [{ provider = "openai", model = "small" }]
[models.omni-moderation]
targets = [{ provider = "openai", model = "omni-moderation-latest" }]
"""


def loaded(example: str) -> Settings:
    environ = {"GUARD_TOKEN": "t"}
    settings, notes = load_settings(
        AROUND + example, file="c.toml", environ=environ, read_file=lambda _: "", kinds=KINDS
    )
    assert notes == []
    return settings


@pytest.mark.parametrize("example", EXAMPLES)
def test_the_examples_load_and_can_be_built(example: str) -> None:
    settings = loaded(example)
    assert settings.guards
    assert list(build_guards(settings)) == list(settings.guards)


def test_the_example_for_those_who_come_from_kong_loads() -> None:
    [example] = re.findall(r"```toml\n(.*?)```", FROM_KONG.partition("## Prompts and answers")[2], re.DOTALL)
    settings = loaded(example)
    # The template goes first, wherever it stands.
    assert settings.models["gpt-4o"].guards == ("prompts", "house-style")


def test_there_is_an_example_and_a_chapter_for_every_kind() -> None:
    kinds = {guard.kind for example in EXAMPLES for guard in loaded(example).guards.values()}
    assert kinds == set(get_args(GuardKind))
    assert re.findall(r"^## `(\w+)`$", PAGE, re.MULTILINE) == re.findall(r"^\| \[`(\w+)`\]", PAGE, re.MULTILINE)
    assert set(re.findall(r"^## `(\w+)`$", PAGE, re.MULTILINE)) == kinds


def test_every_pattern_that_is_built_in_has_a_row() -> None:
    assert re.findall(r"^\| `(\w+)` \|", PAGE.partition("| pattern |")[2].partition("\n\n")[0], re.MULTILINE) == list(
        NAMED
    )


def test_the_request_in_the_chapter_on_templates_gets_the_template_beside_it() -> None:
    [body] = re.findall(r"```json\n(.*?)```", PAGE, re.DOTALL)
    [example] = [example for example in EXAMPLES if "template" in example]
    guard = build_guards(loaded(example))["prompts"].on_request
    assert guard is not None
    request = entered(guard, DIALECTS["llm/v1/chat"].parse_request(body.encode()))
    assert json.loads(json.dumps(request.fields)) == {
        "model": "reviews",
        "messages": [
            {"role": "system", "content": "You review Python code. Say what is wrong and nothing else."},
            {"role": "user", "content": "x = = 1"},
        ],
    }
