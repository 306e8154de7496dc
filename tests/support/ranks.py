"""Where the tests find the rank files of tiktoken's encodings, and what they do without them.

Looked for in $TRIO_AI_PROXY_RANKS_DIR, else in a cache folder of the user that `tests/support/fetch_ranks.py` fills.
Without them a test that compares with exact counts is skipped and says why; under CI=true it fails.
"""

from __future__ import annotations

import functools
import os
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from trio_ai_proxy.accounting.encodings import RANK_FILES
from trio_ai_proxy.accounting.ranks import load_encoding

if TYPE_CHECKING:
    from tiktoken import Encoding

MISSING = "rank files missing: run python tests/support/fetch_ranks.py"


def default_folder() -> Path:
    """The folder that is looked at, whether it exists or not."""
    if chosen := os.environ.get("TRIO_AI_PROXY_RANKS_DIR"):
        return Path(chosen)
    cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(cache) / "trio-ai-proxy-tests" / "ranks"


def missing_from(folder: Path) -> list[str]:
    """The encodings whose file `folder` lacks."""
    return [name for name in RANK_FILES if not (folder / f"{name}.tiktoken").is_file()]


def ranks_folder() -> Path:
    """The folder with all rank files; skips the test, or fails it under CI=true, if there is none."""
    folder = default_folder()
    if missing_from(folder):
        if os.environ.get("CI") == "true":
            pytest.fail(MISSING)
        pytest.skip(MISSING)
    return folder


@functools.cache
def _load(name: str, folder: Path) -> Encoding:
    return load_encoding(name, str(folder))


def encoding(name: str = "o200k_base") -> Encoding:
    """The encoding `name`, loaded once a run; skips or fails as `ranks_folder` does."""
    return _load(name, ranks_folder())
