"""A real inference engine (llama.cpp's own server) in a process of its own: the witness that generation really stops.

Run as a program it is that process: `python engine.py MODEL.gguf` prints its address and serves until it is terminated.
"""

from __future__ import annotations

import functools
import re
import subprocess
import sys
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import httpx
import trio

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path


class Engine:
    """A running engine. `base_url` is the origin; the OpenAI API is at `base_url + "/v1"`."""

    def __init__(self, base_url: str) -> None:
        self.base_url = base_url

    async def tokens_predicted(self) -> int:
        """How many tokens the engine has generated since it started, of finished and cancelled answers.

        The engine adds an answer's tokens when it ends: while one is being generated the count stands still.
        """
        return int(await self._metric("tokens_predicted_total"))

    async def requests_processing(self) -> int:
        """How many answers it is generating at this moment."""
        return int(await self._metric("requests_processing"))

    async def _metric(self, name: str) -> float:
        async with httpx.AsyncClient(trust_env=False) as client:
            text = (await client.get(f"{self.base_url}/metrics")).raise_for_status().text
        match = re.search(rf"^llamacpp:{name} (\S+)$", text, re.MULTILINE)
        assert match is not None, f"no {name} in: {text}"
        return float(match[1])


@asynccontextmanager
async def start_engine(model_path: Path) -> AsyncIterator[Engine]:
    """Serve the model on a free port of the loopback interface, and stop when the block is left."""
    async with trio.open_nursery() as nursery:
        process: trio.Process = await nursery.start(
            functools.partial(trio.run_process, check=False, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL),
            [sys.executable, __file__, str(model_path)],
        )
        assert process.stdout is not None
        with trio.fail_after(60):
            base_url = await _read_address(process.stdout)
            await _wait_until_loaded(base_url)
        yield Engine(base_url)
        nursery.cancel_scope.cancel()


async def _read_address(stdout: trio.abc.ReceiveStream) -> str:
    line = b""
    while not line.endswith(b"\n"):
        chunk = await stdout.receive_some()
        assert chunk, f"the engine ended; it had said {line!r}"
        line += chunk
    return line.decode().split()[-1]


async def _wait_until_loaded(base_url: str) -> None:
    async with httpx.AsyncClient(trust_env=False) as client:
        while True:
            try:
                if (await client.get(f"{base_url}/health")).status_code == 200:
                    return
            except httpx.TransportError:
                pass
            await trio.sleep(0.02)


def _serve(model_path: str) -> None:
    import signal

    import xllamacpp

    params = xllamacpp.CommonParams()
    params.model.path = model_path
    params.hostnames = ["127.0.0.1"]
    params.port = 0
    params.n_ctx = 4096
    params.n_parallel = 2
    params.cpuparams.n_threads = 1
    params.endpoint_metrics = True
    params.endpoint_slots = True
    params.warmup = False
    server = xllamacpp.Server(params)
    sys.stdout.write(f"{server.listening_address}\n")
    sys.stdout.flush()
    signal.pause()
    del server


if __name__ == "__main__":
    _serve(sys.argv[1])
