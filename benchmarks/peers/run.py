"""The gateway beside its peers, on equal work in one run: nginx, LiteLLM, Portkey.

python benchmarks/peers/run.py                        all of it, about 20 minutes; writes docs/performance.md and its plots
python benchmarks/peers/run.py --quick --check        nginx and the gateway, under a minute; exit code 1 on a gross regression
python benchmarks/peers/run.py --only gateway,costs   some targets and some workloads (those not named: all); writes nothing

What is missing is installed: nginx-light and gcc by apt-get (as root), LiteLLM by pip and Portkey by npm under --cache.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import signal
import sys
import tempfile
from collections import defaultdict
from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

import workloads
from processes import CORES, NotStarted, Provider, now, others_cpu, pause
from report import write
from targets import REPOSITORY, TARGETS, Place, Target, Unavailable, compile_programs

if TYPE_CHECKING:
    from collections.abc import Callable

# A gross regression: the gateway's figure is more than so many times nginx's in the same run. Wide on purpose: machines
# that run this in common have noisy neighbours, and a cost that has doubled is for a person to look at.
LIMITS = {
    "short_ms": (60, "short stream"),
    "json_ms": (60, "JSON request"),
    "burst_us": (6, "chunk in a burst"),
    "lone_50_us": (12, "lone chunk"),
}
WORKLOADS = ("costs", "latency", "departures", "open", "clean", "pair")  # the first three are the quick ones
PLAIN = "gateway-plain"
SLOW_REPETITIONS = 2
Medians = dict[str, dict[str, float]]


class Run:
    """All repetitions of one run, and what they gave."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.quick: bool = options.quick
        self.cache = Path(options.cache).resolve()
        self.programs = compile_programs(self.cache)
        named = set(filter(None, options.only.split(",")))
        known = {target.name for target in TARGETS}
        if unknown := named - known - set(WORKLOADS):
            raise SystemExit(
                f"unknown: {', '.join(sorted(unknown))}; there are {', '.join((*sorted(known), *WORKLOADS))}"
            )
        usual = {"nginx", "gateway"} if self.quick else known
        self.workloads = named & set(WORKLOADS) or (set(WORKLOADS[:3]) if self.quick else set(WORKLOADS))
        self.repetitions = options.repetitions or (1 if self.quick else 5)
        self.versions: dict[str, str] = {}
        self.missing: dict[str, str] = {}
        self.targets = [
            target for target in TARGETS if target.name in (named & known or usual) and self._installs(target)
        ]
        self.seen: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
        self.folder = Path(tempfile.mkdtemp(prefix="peers-"))

    def _installs(self, target: Target) -> bool:
        try:
            self.versions[target.name] = target.install(self.cache)
        except Unavailable as reason:
            self.missing[target.name] = str(reason)
            print(f"skipped: {target.label}: {reason}", flush=True)
            return False
        return True

    def go(self) -> Medians:
        """Each repetition visits every target once, so that what disturbs the machine disturbs all of them."""
        self.provider = Provider(self.programs, self.folder)
        try:
            for repetition in range(self.repetitions):
                self._direct()
                for target in self.targets:
                    self._try(target, self._visit, target, repetition)
            if "clean" in self.workloads:
                for target in self.targets:
                    if target.name != PLAIN:
                        self._try(target, self._climb, target)
            if "pair" in self.workloads:
                for target in self.targets:
                    if target.name == "gateway":
                        for _ in range(min(3, self.repetitions)):
                            self._try(target, self._pair, target)
        finally:
            self.provider.stop()
        return {
            name: {figure: sum(each) if figure == "faults" else median(each) for figure, each in seen.items()}
            for name, seen in self.seen.items()
        }

    def _try(self, target: Target, part: Callable[..., None], *arguments: object) -> None:
        """A target that does not start costs its own figures, not the run."""
        try:
            part(*arguments)
        except NotStarted as error:
            self.missing[target.name] = f"once or more it did not start: {str(error).splitlines()[0]}"
            print(f"{target.name}: {error}", flush=True)

    def _note(self, name: str, figures: workloads.Figures) -> None:
        for figure, value in figures.items():
            self.seen[name][figure].append(value)
        shown = " ".join(f"{figure}={value:.4g}" for figure, value in figures.items())
        print(f"{name}: {shown}", flush=True)

    def _direct(self) -> None:
        lab = workloads.Lab(self.programs, self.provider, self.provider.port, (), None, 1.0, self.quick)
        for name, workload in (("latency", workloads.latency), ("departures", workloads.departures)):
            if name in self.workloads:
                self._note("direct", workload(lab))

    def _start(self, target: Target, workers: int = 1) -> workloads.Lab:
        core = 0 if workers == 1 else None
        place = Place(self.provider.port, self.folder, self.cache, core, workers)
        started = target.start(place)
        return workloads.Lab(
            self.programs, self.provider, place.port, target.headers(place), started, target.pace, self.quick
        )

    def _visit(self, target: Target, repetition: int) -> None:
        lab = self._start(target)
        assert lab.started is not None
        try:
            pause(1.0)
            if not self.quick:
                self._note(
                    target.name, {"idle_mib": lab.started.kib() / 1024, "idle_rss_mib": lab.started.kib("Rss") / 1024}
                )
            workloads.warm_up(lab)
            if "costs" in self.workloads:
                self._note(target.name, workloads.costs(lab))
            if target.is_slow and repetition >= SLOW_REPETITIONS:
                return
            if "latency" in self.workloads:
                self._note(target.name, workloads.latency(lab))
            if "departures" in self.workloads and target.name != PLAIN:
                self._note(target.name, workloads.departures(lab))
        finally:
            lab.started.stop()
        # Holding streams is measured on a process that has held none: what it keeps of the last time would be counted as free.
        if "open" in self.workloads and target.name != PLAIN:
            for streams in workloads.HELD[: target.holds]:
                lab = self._start(target)
                assert lab.started is not None
                try:
                    workloads.warm_up(lab)
                    self._note(target.name, workloads.held(lab, streams))
                finally:
                    lab.started.stop()

    def _climb(self, target: Target) -> None:
        lab = self._start(target)
        assert lab.started is not None
        try:
            workloads.warm_up(lab)
            self._note(target.name, {"clean": workloads.clean_streams(lab, min(3, self.repetitions))})
        finally:
            lab.started.stop()

    def _pair(self, target: Target) -> None:
        for processes in (1, 2):
            lab = self._start(target, processes)
            assert lab.started is not None
            try:
                workloads.warm_up(lab)
                self._note("pair", workloads.pair(lab, processes))
            finally:
                lab.started.stop()


def check(medians: Medians, why: str) -> int:
    """Print each figure that has a limit; 1 if one is beyond it or an exchange failed, else 0. `why` nginx is missing, if
    it is."""
    nginx, gateway = medians.get("nginx"), medians.get("gateway")
    if gateway is None:
        print("FAILED the gateway was not measured")
        return 1
    failed = gateway["faults"] > 0
    print(f"{'FAILED' if failed else 'ok    '} faults of the gateway: {gateway['faults']:g}")
    if nginx is None:
        print(f"LEFT OUT the ratios to nginx: {why}")
        return int(failed)
    for figure, (limit, label) in LIMITS.items():
        # A cost below the clock's tick cannot be divided by.
        ratio = gateway[figure] / max(nginx[figure], 1e-9)
        failed |= ratio > limit
        print(f"{'FAILED' if ratio > limit else 'ok    '} {label}: {ratio:.1f} x nginx, limit {limit}")
    return int(failed)


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


def _machine(run: Run, begun: float, before: tuple[float, float], load: tuple[float, ...]) -> dict[str, Any]:
    took = now() - begun
    return {
        "taken": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "minutes": took / 60,
        "processor": _processor(),
        "cores": len(CORES),
        "kernel": platform.release(),
        "repetitions": run.repetitions,
        "load_before": load,
        "load_after": os.getloadavg(),
        "others_cores": max(0.0, others_cpu(before)[0] / took),  # the clocks tick apart
        "versions": run.versions,
        "missing": run.missing,
        "has_ranks": bool(os.environ.get("TRIO_AI_PROXY_RANKS_DIR")),
    }


def main() -> int:
    """Exit code: 0, or 1 if --check finds a gross regression."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="nginx and the gateway, once, the short workloads")
    parser.add_argument("--check", action="store_true", help="exit code 1 on a gross regression")
    parser.add_argument("--only", default="", metavar="NAMES", help="targets and workloads, with commas between")
    parser.add_argument("--repetitions", type=int, help="5; with --quick 1")
    parser.add_argument(
        "--cache", default=str(Path(tempfile.gettempdir()) / "trio-ai-proxy-peers"), help="folder of what is installed"
    )
    parser.add_argument(
        "--write", metavar="FOLDER", help="where performance.md and its plots go (docs, if the run is a whole one)"
    )
    parser.add_argument(
        "--rewrite", action="store_true", help="measure nothing; write the last whole run's figures anew"
    )
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # so that what was started is stopped
    kept = Path(options.cache) / "figures.json"
    folder = Path(options.write or REPOSITORY / "docs")
    if options.rewrite:
        last = json.loads(kept.read_text())
        write(folder, last["medians"], last["machine"], last["all"])
        return 0
    if len(CORES) < 2:
        print("one core only: target and load disturb one another, the figures are of no use", flush=True)
        if options.check:
            print("LEFT OUT the check for gross regressions: it needs two cores", flush=True)
            return 0
    load, before, begun = os.getloadavg(), others_cpu(), now()
    try:
        run = Run(options)
    except Unavailable as reason:
        if options.check:
            print(f"LEFT OUT the check for gross regressions: {reason}", flush=True)
            return 0
        raise SystemExit(f"cannot measure: {reason}") from reason
    begun, before = now(), others_cpu()
    medians = run.go()
    machine = _machine(run, begun, before, load)
    print(f"others used {machine['others_cores']:.2f} cores meanwhile; load average before {load[0]:.2f}", flush=True)
    if not options.quick and (options.write or not options.only):
        kept.write_text(json.dumps({"medians": medians, "machine": machine, "all": run.seen}, indent=1))
        write(folder, medians, machine, run.seen)
    if not options.check:
        return 0
    why = run.missing.get("nginx", "it was not asked for")
    failed = check(medians, why)
    if failed and options.quick:
        # A neighbour's burst of work looks like a regression, but does not come back.
        print("once more, before it is called a regression", flush=True)
        run.seen.clear()
        failed = check(run.go(), run.missing.get("nginx", why))
    return failed


if __name__ == "__main__":
    raise SystemExit(main())
