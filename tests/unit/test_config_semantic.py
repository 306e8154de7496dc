"""`balance = "semantic"` has what it needs, or a sentence says what it lacks."""

from __future__ import annotations

import pytest
from support.config_file import load, problems

from trio_ai_proxy.settings import SemanticSettings

HEAD = """\
[providers.a]
kind = 'demo'
[models.vectors]
targets = [{ provider = 'a', model = 'v' }]
[models.m]
balance = 'semantic'
"""
CODE = "{ provider = 'a', model = 'c', description = 'code' }"
LAW = "{ provider = 'a', model = 'l', description = 'law' }"
REST = "{ provider = 'a', model = 'r' }"
AFTER = "{ provider = 'a', model = 'r', priority = 1 }"


def test_what_is_said_arrives() -> None:
    text = f"{HEAD}semantic = {{ model = 'vectors', threshold = 0.7, timeout = '300ms' }}\ntargets = [{CODE}, {LAW}, {REST}]\n"
    settings, notes = load(text)
    assert settings.models["m"].semantic == SemanticSettings("vectors", threshold=0.7, timeout=0.3)
    assert settings.models["vectors"].semantic is None
    assert notes == []


def test_what_is_not_said_has_its_default() -> None:
    settings, _ = load(f"{HEAD}semantic = {{ model = 'vectors' }}\ntargets = [{CODE}, {REST}, {AFTER}]\n")
    assert settings.models["m"].semantic == SemanticSettings("vectors", threshold=0.5, timeout=1.0)


@pytest.mark.parametrize(
    ("semantic", "problem"),
    [
        ("{ model = 'vector' }", '`model` in [models.m.semantic] refers to the model "vector", which is not configured; did you '
         'mean "vectors"?'),
        ("{ model = 'x' }", '`model` in [models.m.semantic] refers to the model "x", which is not configured; there are '
         '"vectors", "m".'),
        ("{ model = 'm' }", '`model` in [models.m.semantic] is "m" itself; name a model that makes embeddings.'),
        ("{}", "[models.m.semantic] needs `model`."),
        ("{ model = 'vectors', threshold = 1.1 }", "`threshold` in [models.m.semantic] must be a number above 0 and at most 1, "
         "not 1.1."),
        ("{ model = 'vectors', timeout = 0 }", "`timeout` in [models.m.semantic] must be more than zero and finite, not 0."),
        ("{ model = 'vectors', treshold = 1 }", "`treshold` is not a key of [models.m.semantic]; did you mean `threshold`?"),
    ],
)  # fmt: skip
def test_what_cannot_work_is_refused(semantic: str, problem: str) -> None:
    assert problems(f"{HEAD}semantic = {semantic}\ntargets = [{CODE}, {REST}]\n") == [f"config.toml:7: {problem}"]


def test_only_one_target_of_a_priority_may_be_for_everything_else() -> None:
    head = f"{HEAD}semantic = {{ model = 'vectors' }}\n"
    text = f"{head}targets = [\n  {CODE},\n  {REST},\n  {AFTER},\n  {REST},\n]\n"
    assert problems(text) == [
        'config.toml:12: this target needs `description`: `balance = "semantic"`, and the target on line 10 has none either.'
    ]
