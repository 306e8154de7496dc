"""Once a run: the rank files that exact token counts need are fetched if they are missing. Tests that lack them all the
same skip, and say so; under CI=true they fail."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from support.ranks import default_folder, missing_from

if TYPE_CHECKING:
    import pytest

_FETCH_SECONDS = 180


# AWS's encoder of event streams is not made for Python 3.11; its tests run where it is.
collect_ignore = ["unit/test_witness_event_stream.py"] if sys.version_info < (3, 12) else []


def pytest_sessionstart(session: pytest.Session) -> None:
    if session.config.option.collectonly or not missing_from(default_folder()):
        return
    script = Path(__file__).parent / "support" / "fetch_ranks.py"
    try:
        subprocess.run([sys.executable, str(script)], capture_output=True, timeout=_FETCH_SECONDS, check=False)
    except subprocess.TimeoutExpired:
        return  # the tests say what is missing
    if not missing_from(default_folder()):
        os.environ.setdefault("TRIO_AI_PROXY_RANKS_DIR", str(default_folder()))
