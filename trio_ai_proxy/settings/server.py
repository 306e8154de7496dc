"""The process: its ports, its records, its counting."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal


@dataclass(frozen=True, slots=True)
class ServerSettings:
    """The data port and the process."""

    bind: str = field(default="127.0.0.1:8000", metadata={"doc": "Address of the data port."})
    workers: int = field(
        default=1,
        metadata={
            "doc": "Worker processes that share the data port. Each has an admin port of its own (see `[admin] bind`), and "
            "limits hold for each: of `max_in_flight`, a provider may get that many times `workers`.",
            "unit": "count",
        },
    )
    drain: float = field(
        default=60.0, metadata={"doc": "How long streams may finish after SIGTERM.", "unit": "duration", "zero": True}
    )
    max_body: int = field(default=10 * 2**20, metadata={"doc": "Largest request body.", "unit": "size"})
    record_log: str = field(
        default="-", metadata={"doc": "Exchange records, one JSON object a line: `-` is standard error, else a file."}
    )
    allow_anonymous: bool = field(
        default=False, metadata={"doc": "Serve without keys on an address that others can reach."}
    )
    cors_origins: tuple[str, ...] = field(
        default=(), metadata={"doc": "Origins of web pages that may call; `*` is all. Empty: CORS is off."}
    )
    h2c: Literal["refuse", "ignore"] = field(
        default="refuse",
        metadata={
            "doc": "What `Upgrade: h2c` gets on this HTTP/1.1 port: a 400 that says so, or an answer in HTTP/1.1 as if "
            "it were not there."
        },
    )
    validate_streams: bool = field(
        default=False,
        metadata={
            "doc": "Check what providers say, and what is sent to clients, against the grammar of a stream. What breaks it is "
            "logged once an exchange and counted; the stream goes on."
        },
    )


@dataclass(frozen=True, slots=True)
class AdminSettings:
    """The admin port: health, metrics, live exchanges. Never on the data port."""

    bind: str = field(
        default="127.0.0.1:8001",
        metadata={
            "doc": "Address of the admin port; empty switches it off. With `workers` above 1, the first worker's; each "
            "further worker has the next port.",
            "empty": True,
        },
    )

    def bind_of(self, worker: int) -> str:
        """The address of a worker's admin port: the ports of workers 0, 1, 2 … are consecutive. Port 0 is a free port each
        time, and an empty address stays empty."""
        host, _, port = self.bind.rpartition(":")
        return f"{host}:{int(port) + worker}" if port.strip("0") else self.bind


@dataclass(frozen=True, slots=True)
class TokenSettings:
    """Counting of tokens where a provider reports none."""

    ranks_dir: str | None = field(
        default=None, metadata={"doc": "Folder of the rank files that `trio-ai-proxy tokens install` filled."}
    )
    load_timeout: float = field(
        default=20.0,
        metadata={
            "doc": "How long loading an encoding may take at start-up; then counts are estimates.",
            "unit": "duration",
        },
    )
