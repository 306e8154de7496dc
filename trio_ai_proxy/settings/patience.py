"""How long is waited, and when a target is left alone."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Timeouts:
    """Deadlines in seconds. A model or a target may override any of them."""

    connect: float = field(
        default=5.0, metadata={"doc": "To have a connection to the provider, TLS included.", "unit": "duration"}
    )
    first_token: float = field(
        default=120.0, metadata={"doc": "From sending the request to the first generated token.", "unit": "duration"}
    )
    idle: float = field(
        default=60.0,
        metadata={"doc": "Between two events of the provider; comments count as signs of life.", "unit": "duration"},
    )
    total: float = field(
        default=900.0,
        metadata={"doc": "The whole exchange, from the request's last byte to the answer's.", "unit": "duration"},
    )
    queue: float = field(
        default=10.0, metadata={"doc": "Waiting for a free slot of the provider (`max_in_flight`).", "unit": "duration"}
    )
    body: float = field(default=30.0, metadata={"doc": "For the client to send its whole body.", "unit": "duration"})
    stall: float = field(
        default=30.0, metadata={"doc": "A client that takes no byte for so long is disconnected.", "unit": "duration"}
    )
    abandoned: float = field(
        default=30.0,
        metadata={
            "doc": "How long a stream whose client has left may be read on, for `on_disconnect` = drain and grace.",
            "unit": "duration",
        },
    )


@dataclass(frozen=True, slots=True)
class BreakerSettings:
    """When a target that fails is left alone, and for how long. A model may override any of them."""

    failures: int = field(
        default=5, metadata={"doc": "Failures one after another that take a target out.", "unit": "count"}
    )
    rate: float = field(
        default=0.5,
        metadata={"doc": "Share of failures and of status 429 within `window` that takes it out.", "unit": "share"},
    )
    window: float = field(default=30.0, metadata={"doc": "What `rate` looks back on.", "unit": "duration"})
    open: float = field(
        default=15.0,
        metadata={
            "doc": "The longest time between two probes of a target that is out: the first comes after an eighth of it, and "
            "each that fails doubles the pause.",
            "unit": "duration",
        },
    )
