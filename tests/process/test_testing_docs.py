"""Every example of docs/testing.md runs as it stands."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import trio

_PAGE = Path(__file__).parents[2] / "docs" / "testing.md"


async def test_the_examples_of_the_page_run(tmp_path: Path) -> None:
    examples = re.findall(r"^```python\n(.*?)^```$", _PAGE.read_text(), re.MULTILINE | re.DOTALL)
    conftest, *tests = examples
    (tmp_path / "conftest.py").write_text(conftest)
    (tmp_path / "pytest.ini").write_text("[pytest]\ntrio_mode = true\nfilterwarnings = error\n")
    for number, example in enumerate(tests):
        (tmp_path / f"test_{number}.py").write_text(example)
    with trio.fail_after(120):
        command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(tmp_path)]
        run = await trio.run_process(command, capture_stdout=True, stderr=subprocess.STDOUT, check=False)
    assert run.returncode == 0, run.stdout.decode()
    assert f"{sum(example.count('async def test_') for example in tests)} passed" in run.stdout.decode()
