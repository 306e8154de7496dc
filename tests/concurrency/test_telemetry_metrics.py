"""Metrics say what the records say, under a bounded number of labels."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import pytest
import trio
from prometheus_client.parser import text_string_to_metric_families
from support.records import record

from trio_ai_proxy.accounting.meter import Meter
from trio_ai_proxy.accounting.record import Attempt
from trio_ai_proxy.chat.events import TextDelta
from trio_ai_proxy.telemetry.metrics import MAX_MODELS, Metrics, loop_lag

if TYPE_CHECKING:
    from trio.testing import MockClock


ORDER = ["outcome", "result", "kind", "source", "model", "provider", "target", "stream", "le"]


def samples(metrics: Metrics) -> dict[tuple[str, tuple[str, ...]], float]:
    """What a scrape reads: (name, label values in the order above) → value."""
    body, content_type = metrics.render()
    assert content_type.startswith("text/plain")
    families = text_string_to_metric_families(body.decode())
    return {
        (it.name, tuple(it.labels[name] for name in ORDER if name in it.labels)): it.value
        for family in families
        for it in family.samples
    }


def of(metrics: Metrics, name: str) -> dict[tuple[str, ...], float]:
    return {labels: value for (sample, labels), value in samples(metrics).items() if sample == f"trio_ai_proxy_{name}"}


def test_an_exchange_is_counted_under_its_outcome_with_its_tokens_and_times() -> None:
    metrics = Metrics()
    meter = Meter(accepted_at=0.0, encoding=None)
    for now in (0.15, 0.16, 0.36):
        meter.observe([TextDelta("word")], now)
    metrics.record(record(), meter.gaps)
    metrics.record(record(outcome="client_gone", usage_source="counted", ttft_ms=None, upstream_released_ms=None))
    target = ("gpt-4o", "openai")
    assert of(metrics, "exchanges_total") == {
        ("completed", *target, "true"): 1.0,
        ("client_gone", *target, "true"): 1.0,
    }
    tokens = of(metrics, "tokens_total")
    assert tokens[("prompt", "provider", *target)] == 10.0
    assert tokens[("completion", "counted", *target)] == 20.0
    assert tokens[("cached", "provider", *target)] == 4.0
    assert not any(labels[0] == "reasoning" for labels in tokens)
    assert of(metrics, "ttft_seconds_count") == {target: 1.0}
    assert of(metrics, "ttft_seconds_sum") == {target: 0.15}
    assert of(metrics, "duration_seconds_count") == {target: 2.0}
    assert of(metrics, "inter_token_seconds_count") == {target: 2.0}
    assert of(metrics, "upstream_release_seconds_count") == {(): 1.0}


def attempt(kind: str, outcome: str = "completed", *, model: str = "small", answered: bool = True) -> Attempt:
    return Attempt(provider="a", model=model, outcome=outcome, milliseconds=1.0, kind=kind, answered=answered)


def test_attempts_are_counted_by_what_they_were_for_and_how_they_ended() -> None:
    metrics = Metrics(models=["m"], targets=[("a", "small"), ("a", "large")])
    metrics.record(
        record(attempts=[attempt("first", "upstream_error"), attempt("retry"), attempt("next", model="large")])
    )
    metrics.record(record(attempts=[attempt("first"), attempt("hedge", "beaten", model="large", answered=False)]))
    metrics.record(record(attempts=[attempt("first", "beaten", answered=False), attempt("hedge", model="large")]))
    rows = [attempt("first", "timeout_idle"), attempt("continuation", "upstream_error"), attempt("continuation")]
    metrics.record(record(attempts=rows, malformed_events=2))
    small, large = ("a", "small"), ("a", "large")
    assert of(metrics, "attempts_total") == {
        ("upstream_error", *small): 2.0,
        ("timeout_idle", *small): 1.0,
        ("completed", *small): 3.0,
        ("beaten", *small): 1.0,
        ("completed", *large): 2.0,
        ("beaten", *large): 1.0,
    }
    assert of(metrics, "retries_total") == {small: 1.0}
    assert of(metrics, "hedges_total") == {("lost", *large): 1.0, ("won", *large): 1.0}
    assert of(metrics, "continuations_total") == {("upstream_error", *small): 1.0, ("completed", *small): 1.0}
    assert of(metrics, "malformed_events_total") == {("openai",): 2.0}


def test_a_target_whose_name_is_in_no_configuration_shares_one_label() -> None:
    metrics = Metrics(models=["m"], targets=[("a", "small")])
    for number in range(100):
        metrics.record(record(attempts=[attempt("first", model=f"made-up-{number}")]))
    assert of(metrics, "attempts_total") == {("completed", "a", "other"): 100.0}


def test_the_buckets_of_a_histogram_are_cumulative_and_end_with_the_count() -> None:
    metrics = Metrics()
    for ttft in (10.0, 150.0, 10_000_000.0):
        metrics.record(record(ttft_ms=ttft))
    buckets = {labels[2]: value for labels, value in of(metrics, "ttft_seconds_bucket").items()}
    assert (buckets["0.01"], buckets["0.1"], buckets["0.25"], buckets["120.0"], buckets["+Inf"]) == (1, 1, 2, 2, 3)


def test_names_that_clients_make_up_do_not_multiply_labels() -> None:
    metrics = Metrics(models=["configured"])
    for number in range(MAX_MODELS + 500):
        metrics.record(record(model=f"made-up-{number}"))
    metrics.record(record(model="configured"))
    metrics.record(record(model="never sent", provider=None, outcome="refused"))
    exchanges = of(metrics, "exchanges_total")
    assert len({labels[1] for labels in exchanges}) == MAX_MODELS + 2
    assert exchanges[("completed", "other", "openai", "true")] == 500.0
    assert exchanges[("completed", "configured", "openai", "true")] == 1.0
    assert exchanges[("refused", "other", "", "true")] == 1.0


def test_a_model_name_cannot_break_the_exposition() -> None:
    metrics = Metrics()
    metrics.record(record(model='a"b\\c\n# HELP\ud800' + "x" * 10_000))
    ((_, model, _, _),) = of(metrics, "exchanges_total")
    assert model.startswith('a"b\\c\n# HELP?')
    assert len(model) == 200


def test_what_is_watched_is_asked_at_each_scrape_and_one_failure_hides_nothing_else() -> None:
    metrics = Metrics()
    value = 3

    def fail() -> float:
        raise ZeroDivisionError

    metrics.watch("exchanges_in_flight", lambda: value)
    metrics.watch("slots_in_use", lambda: 1, provider="a")
    metrics.watch("slots_in_use", fail, provider="b")
    metrics.watch("records_dropped", lambda: 7)
    assert of(metrics, "exchanges_in_flight") == {(): 3.0}
    value = 4
    assert of(metrics, "exchanges_in_flight") == {(): 4.0}
    assert of(metrics, "slots_in_use") == {("a",): 1.0}
    assert of(metrics, "records_dropped_total") == {(): 7.0}


def test_a_gateway_that_did_nothing_can_be_scraped_in_both_formats() -> None:
    metrics = Metrics()
    assert ("trio_ai_proxy_loop_lag_seconds_count", ()) in samples(metrics)
    body, content_type = metrics.render("application/openmetrics-text; version=1.0.0")
    assert content_type.startswith("application/openmetrics-text")
    assert body.endswith(b"# EOF\n")


async def test_a_loop_that_is_on_time_has_no_lag(autojump_clock: MockClock) -> None:
    metrics = Metrics()
    with trio.move_on_after(10.2):
        await loop_lag(metrics)
    assert metrics.loop_lag.count == 20
    assert metrics.loop_lag.sum == pytest.approx(0.0, abs=1e-6)


async def test_a_task_that_does_not_let_go_shows_as_lag(nursery: trio.Nursery) -> None:
    metrics = Metrics()
    nursery.start_soon(loop_lag, metrics)
    await trio.sleep(0.4)
    hold: Any = time.sleep  # noqa: TID251 - the fault itself
    hold(0.3)
    await trio.sleep(0.3)
    assert metrics.loop_lag.sum > 0.1
    nursery.cancel_scope.cancel()
