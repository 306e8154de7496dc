"""Several targets of a model: how it chooses among them is read whole, and what cannot work is refused with a sentence."""

from __future__ import annotations

import pytest
from support.config_file import load, problems

from trio_ai_proxy.settings import BreakerSettings, CapabilitySettings, MatchSettings

PROVIDERS = "[providers.a]\nkind = 'demo'\n[providers.b]\nkind = 'demo'\n"
KEYS = "[[keys]]\nname = 'team-a'\nsecret = 's'\n"
TWO = "targets = [{ provider = 'a', model = 'm' }, { provider = 'b', model = 'm' }]"
ONE = "targets = [{ provider = 'a', model = 'm' }]"


def test_everything_that_can_be_said_of_targets_arrives() -> None:
    settings, notes = load(
        PROVIDERS
        + KEYS
        + """\
[breaker]
failures = 3
open = "1m"
[models.m]
balance = "consistent_hash"
hash_on = "x-session"
retries = 0
hedge_after = "1500ms"
hedge_budget = 0.25
continuation = "splice"
malformed_limit = 0
breaker = { rate = 1, window = 10 }
[[models.m.targets]]
provider = "a"
model = "big"
priority = 1
weight = 5
description = "long texts"
max_context = 200_000
match = { headers = { X-Tier = "gold" }, keys = ["team-*"] }
capabilities = { tools = false, prefill = true }
[[models.m.targets]]
provider = "b"
model = "small"
[models.n]
hedge_after = "p95"
"""
        + TWO
    )
    assert notes == []
    model = settings.models["m"]
    assert (model.balance, model.hash_on, model.retries) == ("consistent_hash", "x-session", 0)
    assert (model.hedge_after, model.hedge_budget) == (1.5, 0.25)
    assert (model.continuation, model.malformed_limit) == ("splice", 0)
    assert model.breaker == BreakerSettings(failures=3, rate=1.0, window=10.0, open=60.0)
    big, small = model.targets
    assert (big.priority, big.weight, big.description, big.max_context) == (1, 5, "long texts", 200_000)
    assert big.match == MatchSettings(headers={"X-Tier": "gold"}, keys=("team-*",))
    assert big.capabilities == CapabilitySettings(tools=False, prefill=True)
    assert (small.match, small.capabilities, small.max_context) == (None, None, None)
    assert settings.models["n"].hedge_after == "p95"
    assert settings.models["n"].breaker == settings.breaker == BreakerSettings(failures=3, open=60.0)


def test_what_nobody_says_has_its_default() -> None:
    settings, _ = load(PROVIDERS + "[models.m]\n" + TWO)
    model = settings.models["m"]
    assert (model.balance, model.retries, model.hedge_after, model.hedge_budget) == ("weighted", 1, None, 0.1)
    assert (model.continuation, model.hash_on, model.malformed_limit) == ("off", None, 3)
    assert (model.hold_bytes, model.hold_for) == (4096, 2.0)
    assert model.breaker == BreakerSettings(failures=5, rate=0.5, window=30.0, open=15.0)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("hedge_after = 3", "`hedge_after` in [models.m] needs a second target to ask; this model has one."),
        ("hedge_budget = 0.1", "`hedge_budget` in [models.m] needs `hedge_after` beside it."),
        (
            'balance = "consistent_hash"',
            '`balance` in [models.m] = "consistent_hash" needs `hash_on` beside it: "key", "prefix" or the name of a header.',
        ),
        ('hash_on = "prefix"', '`hash_on` in [models.m] needs `balance = "consistent_hash"`.'),
        (
            'balance = "semantic"',
            '`balance` in [models.m] = "semantic" needs `semantic = { model = "…" }` beside it, which makes embeddings.',
        ),
        ("semantic = { model = 'v' }", '`semantic` in [models.m] needs `balance = "semantic"`.'),
        ("hold_for = 1", '`hold_for` in [models.m] needs `continuation = "hold"`.'),
        ('hold_bytes = 1\ncontinuation = "splice"', '`hold_bytes` in [models.m] needs `continuation = "hold"`.'),
        ('hold_bytes = 0\ncontinuation = "hold"', "`hold_bytes` in [models.m] must be more than zero, not 0."),
        (
            'balance = "round"',
            '`balance` in [models.m] must be "weighted", "least_in_flight", "lowest_latency", "lowest_usage", '
            '"consistent_hash" or "semantic", not "round".',
        ),
        ("retries = -1", "`retries` in [models.m] must be a whole number of at least 0, not -1."),
        ("breaker = { rate = 0 }", "`rate` in [models.m.breaker] must be a number above 0 and at most 1, not 0."),
        ("breaker = { rate = true }", "`rate` in [models.m.breaker] must be a number above 0 and at most 1, not true."),
        (
            "breaker = { failures = 0 }",
            "`failures` in [models.m.breaker] must be a whole number of at least 1, not 0.",
        ),
        ("breaker = { open = 0 }", "`open` in [models.m.breaker] must be more than zero and finite, not 0."),
        ("breaker = { opne = 1 }", "`opne` is not a key of [models.m.breaker]; did you mean `open`?"),
    ],
)
def test_what_cannot_work_for_a_model_is_refused(text: str, problem: str) -> None:
    assert problems(f"{PROVIDERS}[models.m]\n{ONE}\n{text}\n") == [f"config.toml:7: {problem}"]


@pytest.mark.parametrize(
    ("value", "problem"),
    [
        (
            "'soon'",
            'must be seconds (30 or 0.5) or text such as "10m", "60s", "500ms" or "1h30m", or "p95", not "soon".',
        ),
        ("0", 'must be more than zero and finite, or "p95", not 0.'),
        (
            "['p95']",
            'must be seconds (30 or 0.5) or text such as "10m", "60s", "500ms" or "1h30m", or "p95", not an array.',
        ),
    ],
)
def test_the_time_of_a_hedge_is_a_duration_or_the_word(value: str, problem: str) -> None:
    text = f"{PROVIDERS}[models.m]\n{TWO}\nhedge_after = {value}\n"
    assert problems(text) == [f"config.toml:7: `hedge_after` in [models.m] {problem}"]


@pytest.mark.parametrize(
    ("keys", "text", "problem"),
    [
        (
            "",
            'hash_on = "key"',
            '`hash_on` in [models.m] = "key" needs `[[keys]]`: without them all requests are of the same client.',
        ),
        (
            KEYS,
            'hash_on = "x session"',
            '`hash_on` in [models.m] must be "key", "prefix" or the name of a header, not "x session".',
        ),
    ],
)
def test_what_a_hash_is_made_of_must_be_there(keys: str, text: str, problem: str) -> None:
    found = problems(f"{PROVIDERS}[models.m]\n{TWO}\nbalance = 'consistent_hash'\n{text}\n{keys}")
    assert found == [f"config.toml:8: {problem}"]


@pytest.mark.parametrize("hash_on", ["key", "prefix", "X-Session"])
def test_a_hash_is_made_of_the_key_the_conversation_or_a_header(hash_on: str) -> None:
    text = f"{PROVIDERS}{KEYS}[models.m]\n{TWO}\nbalance = 'consistent_hash'\nhash_on = '{hash_on}'\n"
    assert load(text)[0].models["m"].hash_on == hash_on


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("match = {}", "[models.m.targets.match] needs `headers` or `keys`."),
        ("match = { keys = [] }", "[models.m.targets.match] needs `headers` or `keys`."),
        ("match = { headers = { 'a b' = 'c' } }", '"a b" is not a name that a header can have.'),
        (
            "match = { keys = ['team-b'] }",
            '`keys` in [models.m.targets.match] has "team-b", which no client of [[keys]] is called; did you mean "team-a"?',
        ),
        (
            "match = { keys = ['*x'] }",
            '`keys` in [models.m.targets.match] has "*x", which no client of [[keys]] is called; there are "team-a".',
        ),
        (
            "capabilities = {}",
            "`capabilities` in [[models.m.targets]] must name one; leave it out if nothing differs from the provider.",
        ),
        (
            "capabilities = { tools = 1 }",
            "`tools` in [models.m.targets.capabilities] must be true or false, not 1.",
        ),
        ("max_context = 0", "`max_context` in [[models.m.targets]] must be a whole number of at least 1, not 0."),
        ("weight = 0", "`weight` in [[models.m.targets]] must be a whole number of at least 1, not 0."),
    ],
)
def test_what_cannot_work_for_a_target_is_refused(text: str, problem: str) -> None:
    file = f"{PROVIDERS}{KEYS}[[models.m.targets]]\nprovider = 'a'\nmodel = 'm'\n{text}\n"
    assert problems(file) == [f"config.toml:11: {problem}"]


def test_a_target_for_clients_that_nobody_has_configured_is_refused() -> None:
    (problem,) = problems(f"{PROVIDERS}[[models.m.targets]]\nprovider = 'a'\nmodel = 'm'\nmatch = {{ keys = ['x'] }}\n")
    assert problem.endswith('has "x", which no client of [[keys]] is called; there are none.')


def test_a_fault_of_a_value_is_not_said_twice() -> None:
    text = f"{PROVIDERS}[models.m]\n{TWO}\nbalance = 'round'\nhash_on = 'prefix'\nsemantic = {{ model = 'v' }}\n"
    [problem] = problems(text)
    assert problem.startswith("config.toml:7: `balance` in [models.m] must be ")
