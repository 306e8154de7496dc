"""What Prometheus can ask. Totals are plain numbers, updated once an exchange; families are built when somebody asks.

Labels are bounded: providers, configured models and their targets come from the configuration. Other model names are the
clients' choice: they become `other` after the first two hundred, and as targets from the beginning.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

import trio
from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.exposition import choose_encoder
from prometheus_client.process_collector import ProcessCollector
from prometheus_client.registry import Collector

from trio_ai_proxy.accounting.histogram import Histogram
from trio_ai_proxy.accounting.meter import INTER_TOKEN_BUCKETS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from prometheus_client.metrics_core import Metric

    from trio_ai_proxy.accounting.record import Attempt, ExchangeRecord, GuardUse

PREFIX = "trio_ai_proxy_"
# A scrape runs on the event loop and takes 0.4 ms for each model, for the sake of its three histograms.
MAX_MODELS = 200
MAX_MODEL_LENGTH = 200
OTHER_MODEL = "other"
LOOP_LAG_INTERVAL = 0.5
_AT_ONCE = 64

# Upper bounds in seconds. The first two begin with those of OpenTelemetry's gen_ai conventions (time_to_first_token,
# operation.duration) and go on to the default deadlines.
TTFT_BUCKETS = (
    0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0, 30.0, 60.0, 120.0,
)  # fmt: skip
DURATION_BUCKETS = (
    0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 1.28, 2.56, 5.12, 10.24, 20.48, 40.96, 81.92, 163.84, 327.68, 900.0,
)  # fmt: skip
RELEASE_BUCKETS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0)
LOOP_LAG_BUCKETS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5)

# What can be watched: name → description. A name of `_WATCHED_COUNTERS` only ever grows.
_WATCHED = {
    "exchanges_in_flight": "Exchanges that have begun and not ended.",
    "client_connections": "Open connections of clients.",
    "slots_in_use": "Exchanges that hold one of the provider's slots (max_in_flight).",
    "slots_waiting": "Exchanges that wait for one of the provider's slots.",
    "queue_refused": "Attempts that got no slot: not in time, for a full queue, or for one full of the same client's (crowded).",
    "upstream_connections": "Open connections to the provider, idle ones included.",
    "breaker_state": "Of one target: 0 closed, 1 half open (it is probed), 2 open (it is left alone).",
    "target_in_flight": "Attempts at one target that have begun and not ended.",
    "credentials_usable": "Of a provider with several credentials: how many are neither out nor resting.",
    "records_dropped": "Exchange records that could not be written.",
    "log_lines_dropped": "Log lines that could not be written.",
}
_WATCHED_COUNTERS = frozenset({"records_dropped", "log_lines_dropped", "queue_refused"})

Labels = tuple[str, ...]


class Metrics(Collector):
    """The totals of one gateway. `models` are the configured names, and `targets` the providers and models that they go to:
    these keep their own labels."""

    def __init__(self, models: Iterable[str] = (), targets: Iterable[tuple[str, str]] = ()) -> None:
        self.loop_lag = Histogram(LOOP_LAG_BUCKETS)
        self._configured = frozenset(models)
        self._models: set[str] = set()
        self._targets = frozenset(targets)
        self._attempts: Counter[Labels] = Counter()
        self._retries: Counter[Labels] = Counter()
        self._hedges: Counter[Labels] = Counter()
        self._continuations: Counter[Labels] = Counter()
        self._malformed: Counter[Labels] = Counter()
        self._guards: Counter[Labels] = Counter()
        self._held: dict[Labels, Histogram] = {}
        self._exchanges: Counter[Labels] = Counter()
        self._tokens: Counter[Labels] = Counter()
        self._violations: Counter[Labels] = Counter()
        self._children: Counter[Labels] = Counter()
        self._meanings: Counter[Labels] = Counter()
        self._credentials_out: Counter[Labels] = Counter()
        self._ttft: dict[Labels, Histogram] = {}
        self._gaps: dict[Labels, Histogram] = {}
        self._duration: dict[Labels, Histogram] = {}
        self._release = Histogram(RELEASE_BUCKETS)
        self._uncounted: list[tuple[ExchangeRecord, Histogram | None]] = []
        self._watched: dict[str, list[tuple[dict[str, str], Callable[[], float]]]] = {}
        self._registry = CollectorRegistry(auto_describe=False)
        self._registry.register(self)
        ProcessCollector(registry=self._registry)

    def watch(self, name: str, read: Callable[[], float], **labels: str) -> None:
        """Ask `read` for the value of `name` (with `labels`) whenever somebody asks us. All of one name have the same
        label names."""
        self._watched.setdefault(name, []).append((labels, read))

    def record(self, record: ExchangeRecord, gaps: Histogram | None = None) -> None:
        """Count one ended exchange. `gaps` are the seconds between its chunks (`Meter.gaps`), which grow no more."""
        self._uncounted.append((record, gaps))
        if len(self._uncounted) >= _AT_ONCE:
            self._count_all()

    def _count_all(self) -> None:
        # Many at once: what this needs has then to come into the processor's caches but once.
        uncounted, self._uncounted = self._uncounted, []
        for record, gaps in uncounted:
            self._count_exchange(record, gaps)

    def _count_exchange(self, record: ExchangeRecord, gaps: Histogram | None) -> None:
        target = (self._model_label(record), record.provider or "")
        self._exchanges[(record.outcome, *target, "true" if record.stream else "false")] += 1
        for kind, tokens in (
            ("prompt", record.prompt_tokens),
            ("completion", record.completion_tokens),
            ("cached", record.cached_tokens),
            ("reasoning", record.reasoning_tokens),
        ):
            if tokens:
                self._tokens[(kind, record.usage_source, *target)] += tokens
        _of(self._duration, target, DURATION_BUCKETS).observe(record.duration_ms / 1000)
        if record.ttft_ms is not None:
            _of(self._ttft, target, TTFT_BUCKETS).observe(record.ttft_ms / 1000)
        if gaps is not None:
            _of(self._gaps, target, INTER_TOKEN_BUCKETS).add(gaps)
        if record.upstream_released_ms is not None:
            self._release.observe(record.upstream_released_ms / 1000)
        if record.guard is not None:
            self._children[record.guard, record.outcome] += 1
        for attempt in record.attempts:
            self._count(attempt)
        for use in record.guards:
            self._count_guard(use)
        if record.malformed_events:
            self._malformed[(record.provider or "",)] += record.malformed_events

    def _count_guard(self, use: GuardUse) -> None:
        if use.request is not None:
            self._guards[use.name, use.kind, "request", use.request] += 1
        for verdict, count in use.verdicts.items():
            self._guards[use.name, use.kind, "response", verdict] += count
        if use.hits:
            self._guards[use.name, use.kind, "response", "hit"] += use.hits
        if use.held_ms:
            _of(self._held, (use.name,), RELEASE_BUCKETS).observe(use.held_ms / 1000)

    def _count(self, attempt: Attempt) -> None:
        known = (attempt.provider, attempt.model) in self._targets
        target = (attempt.provider, attempt.model if known else OTHER_MODEL)
        self._attempts[(attempt.outcome, *target)] += 1
        if attempt.kind == "retry":
            self._retries[target] += 1
        elif attempt.kind == "hedge":
            self._hedges[("won" if attempt.answered else "lost", *target)] += 1
        elif attempt.kind == "continuation":
            self._continuations[(attempt.outcome, *target)] += 1

    def meaning(self, model: str, result: str) -> None:
        """Count one request of a model with `balance = "semantic"`, by what became of finding out what it is about."""
        self._meanings[model, result] += 1

    def violation(self, side: str, provider: str) -> None:
        """Count one stream that was not what a stream must be (`validate_streams`)."""
        self._violations[side, provider] += 1

    def credential_out(self, provider: str, credential: int, reason: str) -> None:
        """Count that one of several credentials was taken out, by the status `reason`."""
        self._credentials_out[provider, str(credential), reason] += 1

    def render(self, accept: str = "") -> tuple[bytes, str]:
        """All metrics, and their content type: Prometheus' text, or OpenMetrics if the header `accept` wants it."""
        encode, content_type = choose_encoder(accept)
        return encode(self._registry), content_type

    def describe(self) -> Iterable[Metric]:
        """Nothing: asked at registration, when there is nothing to say yet."""
        return []

    def collect(self) -> Iterator[Metric]:  # type: ignore[explicit-override]  # typing.override needs 3.12
        """The families, as Prometheus' client library wants them."""
        self._count_all()
        target = ("model", "provider")
        yield _counter("exchanges", "Exchanges that ended.", ("outcome", *target, "stream"), self._exchanges)
        yield _counter(
            "tokens",
            "Tokens of exchanges that ended. Cached ones are part of prompt, reasoning ones of completion.",
            ("kind", "source", *target),
            self._tokens,
        )
        yield _counter(
            "stream_violations",
            "Streams that broke the grammar of a stream: as the provider told it, or as the client was sent it.",
            ("side", "provider"),
            self._violations,
        )
        yield _counter(
            "children",
            "Exchanges that the gateway has made itself, by what for: a guard's name, or `semantic`. `exchanges` has them too.",
            ("guard", "outcome"),
            self._children,
        )
        yield _counter(
            "semantic",
            'Requests of models with `balance = "semantic"`. Where it failed, and while it rests after that, targets take turns.',
            ("model", "result"),
            self._meanings,
        )
        yield from self._failover()
        yield _counter(
            "guard_verdicts",
            "What guards have said: of requests (passed, changed, blocked, failed), and of answers (pass, replace, block, late "
            "for each window, hit for each thing found).",
            ("guard", "kind", "side", "verdict"),
            self._guards,
        )
        yield _histogram(
            "guard_held_seconds", "How long a guard held back something of an answer.", ("guard",), self._held
        )
        yield _histogram(
            "ttft_seconds", "From the request's acceptance to the first generated token.", target, self._ttft
        )
        yield _histogram("inter_token_seconds", "From one generated chunk to the next.", target, self._gaps)
        yield _histogram("duration_seconds", "From the request's acceptance to its end.", target, self._duration)
        yield _histogram(
            "upstream_release_seconds",
            "From the moment an exchange's end was settled until its upstream was released.",
            (),
            {(): self._release},
        )
        yield _histogram("loop_lag_seconds", "How late a timer of the event loop went off.", (), {(): self.loop_lag})
        for name, readings in self._watched.items():
            yield _watched(name, readings)

    def _failover(self) -> Iterator[Metric]:
        at = ("provider", "target")
        yield _counter(
            "attempts",
            "Attempts that ended, as the records' rows say. `beaten`: another one was quicker.",
            ("outcome", *at),
            self._attempts,
        )
        yield _counter("retries", "Attempts at a target that had failed in the same exchange.", at, self._retries)
        yield _counter(
            "hedges",
            "Attempts beside a slow one, by what became of them: won, they answered; lost, they did not.",
            ("result", *at),
            self._hedges,
        )
        yield _counter(
            "continuations",
            "Attempts to go on with an answer that had broken off, by how they ended.",
            ("outcome", *at),
            self._continuations,
        )
        yield _counter(
            "credentials_out",
            "Credentials, by their places, that a provider did not take any more, by the status that said so.",
            ("provider", "credential", "reason"),
            self._credentials_out,
        )
        yield _counter(
            "malformed_events",
            "Events of streams that made no sense and were left out.",
            ("provider",),
            self._malformed,
        )

    def _model_label(self, record: ExchangeRecord) -> str:
        model = record.model.encode("utf-8", "replace").decode()[:MAX_MODEL_LENGTH]
        if model in self._configured or model in self._models:
            return model
        # A name that was never sent anywhere is a name that anybody may have made up.
        if record.provider is None or len(self._models) >= MAX_MODELS:
            return OTHER_MODEL
        self._models.add(model)
        return model


async def loop_lag(metrics: Metrics) -> None:
    """Measure, twice a second and for ever, how late Trio wakes a task whose time has come."""
    while True:
        due = trio.current_time() + LOOP_LAG_INTERVAL
        await trio.sleep_until(due)
        metrics.loop_lag.observe(max(0.0, trio.current_time() - due))


def _of(histograms: dict[Labels, Histogram], labels: Labels, bounds: tuple[float, ...]) -> Histogram:
    histogram = histograms.get(labels)
    if histogram is None:
        histogram = histograms[labels] = Histogram(bounds)
    return histogram


def _counter(name: str, description: str, labels: Labels, values: Counter[Labels]) -> Metric:
    family = CounterMetricFamily(PREFIX + name, description, labels=labels)
    for key, value in values.items():
        family.add_metric(key, value)
    return family


def _histogram(name: str, description: str, labels: Labels, values: dict[Labels, Histogram]) -> Metric:
    family = HistogramMetricFamily(PREFIX + name, description, labels=labels)
    for key, histogram in values.items():
        buckets = []
        below = 0
        for bound, count in zip((*map(repr, histogram.bounds), "+Inf"), histogram.counts, strict=True):
            below += count
            buckets.append((bound, float(below)))
        family.add_metric(key, buckets, histogram.sum)
    return family


def _watched(name: str, readings: list[tuple[dict[str, str], Callable[[], float]]]) -> Metric:
    kind = CounterMetricFamily if name in _WATCHED_COUNTERS else GaugeMetricFamily
    description = _WATCHED.get(name, name.replace("_", " "))
    family = kind(PREFIX + name, description, labels=tuple(readings[0][0]))
    for labels, read in readings:
        try:
            value = float(read())
        except Exception:  # noqa: BLE001, S112 - one value that cannot be had must not hide all the others
            continue
        family.add_metric(tuple(labels.values()), value)
    return family
