"""From medians to docs/performance.md: what stands between its two marks is written anew, the prose around it stays."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from charts import dots, lines, number
from targets import TARGETS
from workloads import HELD, RUNGS, STREAMS

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

START, END = "<!-- figures: written by benchmarks/peers/run.py -->", "<!-- figures: end -->"
LABELS = {"direct": "no proxy"} | {target.name: target.label for target in TARGETS}
SHORT = LABELS | {"nginx": "nginx", "portkey": "Portkey", "gateway-plain": "features off"}
OURS, PLAIN = "gateway", "gateway-plain"
COSTS = (
    ("short_ms", "short stream, 1 chunk (ms)"),
    ("json_ms", "JSON request (ms)"),
    ("burst_us", "chunk in a burst of 100 (µs)"),
    ("lone_50_us", "lone chunk, 50 streams (µs)"),
    ("lone_200_us", "lone chunk, 200 streams (µs)"),
)
Medians = dict[str, dict[str, float]]


@dataclass(frozen=True)
class Want:
    """A target we have set ourselves: a figure that should be at most (or at least) so much."""

    label: str
    value: Callable[[Medians], float]
    bound: float
    at_least: bool = False
    unit: str = ""


def _to(figure: str, other: str, *, inverse: bool = False) -> Callable[[Medians], float]:
    def ratio(all_: Medians) -> float:
        mine, theirs = all_[OURS][figure], all_[other][figure]
        return theirs / mine if inverse else mine / theirs

    return ratio


def _added(all_: Medians, figure: str) -> float:
    return all_[OURS][figure] - all_["direct"][figure]


def _own(figure: str, scale: float = 1.0) -> Callable[[Medians], float]:
    return lambda all_: all_[OURS][figure] * scale


WANTS = (
    Want("short stream, CPU, to nginx", _to("short_ms", "nginx"), 20, unit="×"),
    Want("short stream, times cheaper than Portkey", _to("short_ms", "portkey", inverse=True), 4, True, "×"),
    Want("short stream, times cheaper than LiteLLM", _to("short_ms", "litellm", inverse=True), 35, True, "×"),
    Want("JSON request, CPU, to nginx", _to("json_ms", "nginx"), 20, unit="×"),
    Want("lone chunk (50 streams), CPU, to nginx", _to("lone_50_us", "nginx"), 2.5, unit="×"),
    Want("lone chunk, times cheaper than Portkey", _to("lone_50_us", "portkey", inverse=True), 2, True, "×"),
    Want("chunk in a burst, CPU, to nginx", _to("burst_us", "nginx"), 1.5, unit="×"),
    Want("clean streams on one core", _own("clean"), 192, True),
    Want("TTFT added, one stream, p50", lambda all_: _added(all_, "ttft_1_p50_ms"), 0.6, unit=" ms"),
    Want("client leaves → upstream closed, idle, p50", _own("leave_idle_p50_ms"), 0.4, unit=" ms"),
    Want("the same, 50 streams, p50", _own("leave_loaded_p50_ms"), 2, unit=" ms"),
    Want("the same, 50 streams, p99", _own("leave_loaded_p99_ms"), 15, unit=" ms"),
    Want("opening 2,000 streams, CPU", _own("open_2000_cpu_s"), 3, unit=" s"),
    Want("opening 2,000 streams, TTFT p99", _own("open_2000_ttft_p99_ms"), 150, unit=" ms"),
    Want("memory of an open stream (of 2,000)", _own("stream_2000_kib"), 24, unit=" KiB"),
    Want("idle resident memory, without rank files", lambda all_: all_[PLAIN]["idle_rss_mib"], 60, unit=" MiB"),
    Want(
        "all features on against off, dearest of the four costs",
        lambda all_: (max(all_[OURS][name] / all_[PLAIN][name] for name, _ in COSTS[:4]) - 1) * 100,
        15,
        unit=" %",
    ),
)  # fmt: skip


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    body = [f"| {' | '.join(cells)} |" for cells in (head, ["---"] + ["---:"] * (len(head) - 1), *rows)]
    return "\n".join(body) + "\n"


def _cell(figures: dict[str, float], name: str, reference: dict[str, float] | None = None) -> str:
    if name not in figures:
        return "–"
    text = number(figures[name])
    return f"{text} ({number(figures[name] / reference[name])})" if reference and reference.get(name) else text


def _costs(medians: Medians) -> str:
    nginx = medians.get("nginx")
    rows = [[LABELS[name], *(_cell(medians[name], figure, nginx) for figure, _ in COSTS)] for name in _present(medians)]
    ours = medians.get(OURS, {})
    for other in ("portkey", "litellm"):
        if other in medians:
            cells = [number(medians[other][figure] / ours[figure]) if ours.get(figure) and figure in medians[other] else "–"
                     for figure, _ in COSTS]  # fmt: skip
            rows.append([f"*times cheaper than {SHORT[other]}*", *cells])
    table = _table(["CPU (× nginx)", *(label for _, label in COSTS)], rows)
    rate = ("short_a_second", "json_a_second", "burst_chunks_a_second")
    rates = [[LABELS[name], *(_cell(medians[name], figure) for figure in rate)] for name in _present(medians)]
    return (
        table
        + "\nWhat one core did a second, 32 in flight:\n\n"
        + _table(["", "short streams", "JSON requests", "chunks in bursts"], rates)
    )


def _spread(seen: dict[str, dict[str, list[float]]]) -> str:
    rows = []
    for name in LABELS:
        if name in seen and name != "direct":
            values = [seen[name].get(figure) for figure, _ in COSTS]
            rows.append(
                [LABELS[name], *(f"{number(min(each))} – {number(max(each))}" if each else "–" for each in values)]
            )
    return "\nLeast and most of the repetitions:\n\n" + _table(["CPU", *(label for _, label in COSTS)], rows)


def _present(medians: Medians, *, plain: bool = True, direct: bool = False) -> list[str]:
    return [name for name in LABELS if name in medians and (plain or name != PLAIN) and (direct or name != "direct")]


def _latency(medians: Medians) -> str:
    parts = []
    for kind, said in (
        ("ttft", "Time to the first token"),
        ("delay", "Delay of a chunk, provider's write to client's read"),
    ):
        rows = [
            [
                LABELS[name],
                *(
                    f"{_cell(medians[name], f'{kind}_{n}_p50_ms')} / {_cell(medians[name], f'{kind}_{n}_p99_ms')}"
                    for n in STREAMS
                ),
            ]
            for name in _present(medians, plain=False, direct=True)
        ]
        parts.append(
            f"{said}, ms, p50 / p99:\n\n" + _table(["", *(f"{n} stream{'s' * (n > 1)}" for n in STREAMS)], rows)
        )
    return "\n".join(parts)


def _leaving(medians: Medians) -> str:
    rows = []
    for name in _present(medians, plain=False, direct=True):
        cells = []
        for kind in ("idle", "loaded"):
            seen = medians[name].get(f"leave_{kind}_seen", 0)
            took = " / ".join(_cell(medians[name], f"leave_{kind}_{each}_ms") for each in ("p50", "p99"))
            share = "" if seen > 0.995 else f"{seen:.0%} within 2 s"
            cells.append("; ".join(part for part in (took if seen > 0.5 else "", share) if part))
        rows.append([LABELS[name], *cells])
    return _table(["p50 / p99, ms", "one stream at a time", "50 streams × 50 chunks/s"], rows)


def _held(medians: Medians) -> str:
    head = [
        "streams",
        "",
        "CPU to open (s)",
        "TTFT p99 (ms)",
        "KiB a stream",
        "share of a core, held",
        "mass close seen, p50 (ms)",
    ]
    rows = []
    for streams in HELD:
        for name in _present(medians, plain=False):
            figures = medians[name]
            if f"open_{streams}_cpu_s" not in figures:
                continue
            seen = figures.get(f"close_{streams}_seen", 0)
            close = _cell(figures, f"close_{streams}_p50_ms") + ("" if seen > 0.995 else f" ({seen:.0%} within 2 s)")
            share = f"{figures[f'hold_{streams}_share']:.1%}" if f"hold_{streams}_share" in figures else "–"
            figure = (f"open_{streams}_cpu_s", f"open_{streams}_ttft_p99_ms", f"stream_{streams}_kib")
            rows.append([f"{streams:,}", LABELS[name], *(_cell(figures, each) for each in figure), share, close])
    return _table(head, rows)


def _standing(medians: Medians) -> str:
    rows = []
    for name in _present(medians):
        figures = medians[name]
        clean = (
            "–"
            if "clean" not in figures
            else f"≥ {RUNGS[-1]}"
            if figures["clean"] == RUNGS[-1]
            else number(figures["clean"])
        )
        rows.append(
            [
                LABELS[name],
                clean,
                _cell(figures, "idle_mib"),
                _cell(figures, "idle_rss_mib"),
                number(figures.get("faults", 0)),
            ]
        )
    return _table(["", "clean streams on one core", "idle, PSS (MiB)", "idle, RSS (MiB)", "faults"], rows)


def _pair(medians: Medians) -> str:
    pair = medians.get("pair")
    if not pair:
        return ""
    rows = [
        [label, *(number(pair[f"{name}_{count}_{kind}"]) for count in (1, 2) for kind in ("us", "a_second"))]
        for name, label in (("short", "short streams"), ("burst", "chunks in bursts"))
    ]
    one, two = (
        f"PSS {number(pair[f'pss_{count}_mib'])} MiB, RSS {number(pair[f'rss_{count}_mib'])} MiB" for count in (1, 2)
    )
    memory = f"Memory: one process {one}; two, with the process that owns them, {two}.\n"
    return (
        _table(["", "one: CPU µs each", "one: a second", "two: CPU µs each", "two: a second, together"], rows)
        + "\n"
        + memory
    )


def _wants(medians: Medians) -> str:
    rows = []
    for want in WANTS:
        try:
            value = want.value(medians)
        except KeyError:
            continue
        reached = value >= want.bound if want.at_least else value <= want.bound
        bound = f"{'≥' if want.at_least else '≤'} {number(want.bound)}{want.unit}"
        rows.append([want.label, bound, f"{number(value)}{want.unit}", "yes" if reached else "**no**"])
    return _table(["figure", "wanted", "measured", "reached"], rows)


def _machine(machine: dict[str, Any]) -> str:
    versions = ", ".join(f"{LABELS[name]} {version}" for name, version in machine["versions"].items() if name != PLAIN)
    before, after = (" ".join(f"{each:.2f}" for each in machine[f"load_{when}"]) for when in ("before", "after"))
    text = (
        f"Taken {machine['taken']}, in {machine['minutes']:.0f} minutes: {machine['cores']} cores of {machine['processor']}, "
        f"Linux {machine['kernel']}; {versions}. Medians of {machine['repetitions']} repetitions. Other work on the machine used "
        f"{machine['others_cores']:.2f} cores meanwhile (load average before: {before}; after, our own load included: {after}). "
        f"Rank files for exact token counts: {'loaded' if machine['has_ranks'] else 'none'}.\n"
    )
    return text + "".join(f"\nNot measured: {LABELS[name]}: {reason}.\n" for name, reason in machine["missing"].items())


def _plots(medians: Medians) -> dict[str, str]:
    def curves(kind: str, marks: Sequence[int], *, direct: bool) -> dict[str, list[tuple[float, float]]]:
        found = {name: [(float(mark), medians[name][kind.format(mark)]) for mark in marks if kind.format(mark) in medians[name]]
                 for name in _present(medians, plain=False, direct=direct)}  # fmt: skip
        return {name: curve for name, curve in found.items() if curve}

    costs = [(label, {name: medians[name][figure] for name in _present(medians) if figure in medians[name]})
             for figure, label in COSTS[:4]]  # fmt: skip
    clean = {name: medians[name]["clean"] for name in _present(medians) if "clean" in medians[name]}
    idle = {name: medians[name]["idle_mib"] for name in _present(medians) if "idle_mib" in medians[name]}
    plots = {}
    if all(values for _, values in costs):
        plots["costs"] = dots("CPU per unit of work (logarithmic; less is better)", costs, SHORT)
    if clean and idle:
        panels = [
            ("clean streams on one core (more is better; 512 is the end)", clean),
            ("idle memory, MiB (less is better)", idle),
        ]
        plots["standing"] = dots("What a core holds", panels, SHORT)
    latency = [(said, curves(kind, STREAMS, direct=True)) for kind, said in (
        ("ttft_{}_p50_ms", "time to first token, p50, ms"), ("ttft_{}_p99_ms", "time to first token, p99, ms"),
        ("delay_{}_p50_ms", "delay of a chunk, p50, ms"), ("delay_{}_p99_ms", "delay of a chunk, p99, ms"),
    )]  # fmt: skip
    plots["latency"] = lines("Latency as the number of streams grows", "streams", latency, SHORT)
    held = [(said, curves(kind, HELD, direct=False)) for kind, said in (
        ("open_{}_cpu_s", "CPU to open them, s"), ("open_{}_ttft_p99_ms", "time to first token, p99, ms"),
    )]  # fmt: skip
    plots["open"] = lines("Opening many streams", "streams opened", held, SHORT)
    return plots


def write(folder: Path, medians: Medians, machine: dict[str, Any], seen: dict[str, dict[str, list[float]]]) -> None:
    """Put the figures into `folder`/performance.md between the marks (or make it), and the plots beside it. `seen` has the
    values of every repetition."""
    plots = _plots(medians)
    (folder / "performance").mkdir(parents=True, exist_ok=True)
    for name, svg in plots.items():
        (folder / "performance" / f"{name}.svg").write_text(svg)

    def plot(name: str, said: str) -> str:
        return f"\n![{said}](performance/{name}.svg)\n" if name in plots else ""

    sections = (
        ("The run", _machine(machine)),
        ("Cost", _costs(medians) + _spread(seen) + plot("costs", "CPU per unit of work")),
        ("Latency", _latency(medians) + plot("latency", "Latency by number of streams")),
        (
            "A client leaves",
            "From the client's `close()` to the provider's seeing its connection closed:\n\n" + _leaving(medians),
        ),
        ("Many open streams", _held(medians) + plot("open", "Opening many streams")),
        ("Clean streams, memory", _standing(medians) + plot("standing", "Clean streams and idle memory")),
        ("Two processes on one port, a core each", _pair(medians)),
        ("Reached, and not", _wants(medians)),
    )
    figures = "\n".join(f"## {title}\n\n{text}" for title, text in sections if text)
    page = folder / "performance.md"
    old = page.read_text() if page.exists() else f"# Performance\n\n{START}\n{END}\n"
    before, _, rest = old.partition(START)
    page.write_text(f"{before}{START}\n\n{figures}\n{END}{rest.partition(END)[2]}")
