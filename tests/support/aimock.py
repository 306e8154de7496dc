"""A third party's simulator of many providers (npm: @copilotkit/aimock) in a process of its own: the witness that what we send
them is what they take, and that what they say is what our clients are told.

It is installed by npm, once, into a cache folder of the user.
"""

from __future__ import annotations

import functools
import json
import os
import shutil
import subprocess
import tempfile
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import trio

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

VERSION = "1.43.0"
_INSTALL_SECONDS = 180
_START_SECONDS = 60


def _folder() -> Path:
    cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(cache) / "trio-ai-proxy-tests" / f"aimock-{VERSION}"


@functools.cache
def installed() -> Path:
    """Its program, installed first if need be. Where that cannot be, the test is skipped with the reason; under CI it fails."""
    program = _folder() / "node_modules" / "@copilotkit" / "aimock" / "dist" / "cli.js"
    if not shutil.which("node"):
        _unavailable("there is no node on this machine")
    if program.exists():
        return program
    if not shutil.which("npm"):
        _unavailable("there is no npm on this machine")
    _folder().parent.mkdir(parents=True, exist_ok=True)
    fresh = Path(tempfile.mkdtemp(prefix="aimock-", dir=_folder().parent))
    command = ["npm", "install", "--no-audit", "--no-fund", "--ignore-scripts", "--prefix", str(fresh)]
    try:
        done = subprocess.run(
            [*command, f"@copilotkit/aimock@{VERSION}"],
            capture_output=True, timeout=_INSTALL_SECONDS, check=False, text=True,
        )  # fmt: skip
        if done.returncode != 0:
            _unavailable(f"npm could not install it: {done.stderr.strip()[-300:]}")
        try:
            fresh.rename(_folder())  # whole or not at all, also when two runs install it at once
        except OSError:
            pass
    except subprocess.TimeoutExpired:
        _unavailable(f"npm did not install it within {_INSTALL_SECONDS} s")
    finally:
        shutil.rmtree(fresh, ignore_errors=True)
    return program


def _unavailable(reason: str) -> None:
    if os.environ.get("CI") == "true":
        pytest.fail(f"the simulator of providers is needed: {reason}")
    pytest.skip(f"the simulator of providers cannot be had: {reason}")


@asynccontextmanager
async def start_aimock(fixtures: list[dict[str, Any]]) -> AsyncIterator[str]:
    """Serve `fixtures` (its own JSON) on a free port of the loopback interface, and stop when the block is left. Gives the
    origin."""
    program = installed()
    with tempfile.TemporaryDirectory(prefix="aimock-") as folder:
        _write(folder, fixtures)
        async with trio.open_nursery() as nursery:
            process: trio.Process = await nursery.start(
                functools.partial(trio.run_process, check=False, stdout=subprocess.PIPE, stderr=subprocess.STDOUT),
                ["node", str(program), "-p", "0", "-f", folder],
            )
            assert process.stdout is not None
            with trio.fail_after(_START_SECONDS):
                origin = await _read_address(process.stdout)
            nursery.start_soon(_drain, process.stdout)
            yield origin
            nursery.cancel_scope.cancel()


def _write(folder: str, fixtures: list[dict[str, Any]]) -> None:
    Path(folder, "fixtures.json").write_text(json.dumps({"fixtures": fixtures}), encoding="utf-8")


async def _read_address(stdout: trio.abc.ReceiveStream) -> str:
    said = b""
    while b"listening on " not in said or not said.endswith(b"\n"):
        chunk = await stdout.receive_some()
        assert chunk, f"the simulator ended; it had said {said!r}"
        said += chunk
    return said.rpartition(b"listening on ")[2].split()[0].decode()


async def _drain(stdout: trio.abc.ReceiveStream) -> None:
    """A pipe that nobody reads would stop it."""
    while await stdout.receive_some():
        pass
