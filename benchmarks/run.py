"""Run all benchmarks, one after the other, each in a process of its own, and print their tables.

python benchmarks/run.py --quick    six minutes
python benchmarks/run.py --full     half an hour, ten of it for memory.py
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

BENCHMARKS = ("departures", "churn", "slow_clients", "failover", "guards", "memory", "decoders")


def main() -> int:
    """Exit code: 0 if each of them has found its conditions kept."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    profile = parser.add_mutually_exclusive_group(required=True)
    profile.add_argument("--quick", action="store_true")
    profile.add_argument("--full", action="store_true")
    options = ["--quick"] if parser.parse_args().quick else []
    folder = Path(__file__).resolve().parent
    failed = [
        name
        for name in BENCHMARKS
        if subprocess.run([sys.executable, str(folder / f"{name}.py"), *options], check=False).returncode
    ]
    print(f"\n{len(BENCHMARKS) - len(failed)} of {len(BENCHMARKS)} kept their conditions", *failed)
    return 1 if failed else 0


if __name__ == "__main__":
    raise SystemExit(main())
