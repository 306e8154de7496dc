"""Models that clients ask for, and where they go."""

from __future__ import annotations

from collections.abc import Mapping  # noqa: TC003  the decoder resolves the annotations at run time
from dataclasses import dataclass, field
from typing import Any, Literal

from trio_ai_proxy.settings.patience import BreakerSettings, Timeouts

ResponseStreaming = Literal["allow", "deny", "always"]
OnDisconnect = Literal["auto", "cancel", "drain", "grace"]
Unsupported = Literal["auto", "drop", "error"]
Balance = Literal["weighted", "least_in_flight", "lowest_latency", "lowest_usage", "consistent_hash", "semantic"]
Continuation = Literal["off", "splice", "hold"]
HedgeAfter = float | Literal["p95"]


@dataclass(frozen=True, slots=True)
class MatchSettings:
    """Which requests a target is for. All that is given must hold."""

    headers: Mapping[str, str] = field(
        default_factory=dict,
        metadata={"doc": "What headers of the request must say; `*` stands for any run of characters."},
    )
    keys: tuple[str, ...] = field(
        default=(), metadata={"doc": "Names of `[[keys]]`; `*` stands for any run of characters."}
    )


@dataclass(frozen=True, slots=True)
class CapabilitySettings:
    """What a target can do, where it differs from what its kind of provider can. Absent: as the kind."""

    tools: bool | None = field(default=None, metadata={"doc": "It calls tools."})
    images: bool | None = field(default=None, metadata={"doc": "It sees images."})
    json_schema: bool | None = field(default=None, metadata={"doc": "It keeps to a JSON schema."})
    prefill: bool | None = field(
        default=None, metadata={"doc": "It goes on from an assistant's last message as if it were its own beginning."}
    )


@dataclass(frozen=True, slots=True)
class TargetSettings:
    """One provider and its own name for a model."""

    provider: str = field(metadata={"doc": "A block of `[providers]`."})
    model: str = field(metadata={"doc": "The provider's name for the model; may hold placeholders."})
    priority: int = field(
        default=0,
        metadata={
            "doc": "Lower goes first; a higher one is for when no target of a lower one can be had.",
            "unit": "count",
            "zero": True,
        },
    )
    weight: int = field(default=1, metadata={"doc": "Share among targets of equal priority.", "unit": "count"})
    description: str | None = field(
        default=None, metadata={"doc": "What it is good at, for people and for `semantic`."}
    )
    max_context: int | None = field(
        default=None,
        metadata={
            "doc": "Tokens that a request and its answer can have together; absent: as the provider says, if it does.",
            "unit": "count",
        },
    )
    match: MatchSettings | None = field(default=None, metadata={"doc": "Which requests it is for; absent: all."})
    capabilities: CapabilitySettings | None = field(
        default=None, metadata={"doc": "What it can do, where that differs from its provider."}
    )
    timeouts: Timeouts | None = field(default=None, metadata={"doc": "Deadlines of this target alone."})


@dataclass(frozen=True, slots=True)
class SemanticSettings:
    """How `balance = "semantic"` finds out what a request is about."""

    model: str = field(metadata={"doc": "A block of `[models]` that makes embeddings."})
    threshold: float = field(
        default=0.5,
        metadata={
            "doc": "How near a description must be (cosine similarity); below it the target without a description answers.",
            "unit": "share",
        },
    )
    timeout: float = field(
        default=1.0,
        metadata={"doc": "How long that may take; after it the targets take turns by weight.", "unit": "duration"},
    )


@dataclass(frozen=True, slots=True)
class ModelSettings:
    """A name that clients ask for. `timeouts` and `breaker` are complete: defaults, then the model's, are already merged; so are
    `guards`: those of all models, then the model's own."""

    name: str
    targets: tuple[TargetSettings, ...] = field(default=(), metadata={"doc": "Who answers.", "required": True})
    response_streaming: ResponseStreaming = field(
        default="allow", metadata={"doc": "allow: as the client asks; deny: never; always: always."}
    )
    on_disconnect: OnDisconnect = field(
        default="auto",
        metadata={
            "doc": "When the client leaves: cancel, read on (drain), wait (grace), or what the provider's billing "
            "suggests (auto)."
        },
    )
    grace: float = field(default=5.0, metadata={"doc": 'How long `on_disconnect = "grace"` waits.', "unit": "duration"})
    keep_alive: float | None = field(
        default=None,
        metadata={
            "doc": "Silence after which the client gets a comment line; commits the status early. Absent: off.",
            "unit": "duration",
        },
    )
    options: Mapping[str, Any] = field(
        default_factory=dict,
        metadata={
            "doc": "Defaults for fields that the request leaves out; `force = true`: they win. Texts may hold placeholders."
        },
    )
    force_options: bool = False
    guards: tuple[str, ...] = field(
        default=(),
        metadata={"doc": "Blocks of `[guards]`, in the order in which they run; those for all models run before them."},
    )
    unsupported: Unsupported = field(
        default="auto",
        metadata={
            "doc": "A field that the provider has no word for. auto: refused if it changes the answer, else left out and named "
            "in `x-llm-dropped`; drop: left out; error: refused."
        },
    )
    balance: Balance = field(
        default="weighted",
        metadata={
            "doc": "Who goes first among targets of equal priority: by weight in turn, the one with the fewest exchanges for its "
            "weight, the quickest, the one with the fewest tokens for its weight in the last minute, always the same for "
            "the same `hash_on`, or the one whose `description` is nearest to what is asked.",
        },
    )
    hash_on: str | None = field(
        default=None,
        metadata={
            "doc": "What `consistent_hash` keeps together: `key` (the client), `prefix` (the conversation, so that the "
            "provider's cache is met again), or the name of a header."
        },
    )
    semantic: SemanticSettings | None = field(
        default=None, metadata={"doc": 'How `balance = "semantic"` finds out what a request is about.'}
    )
    retries: int = field(
        default=1,
        metadata={
            "doc": "Further attempts on one target, before the first token only; all in all at most about a fifth of its calls.",
            "unit": "count",
            "zero": True,
        },
    )
    hedge_after: HedgeAfter | None = field(
        default=None,
        metadata={
            "doc": 'Without a token after so long the next target is asked as well, and the first to answer wins; `"p95"`: '
            "after the target's own 95th percentile. Absent: off.",
            "unit": "duration",
        },
    )
    hedge_budget: float = field(
        default=0.1, metadata={"doc": "Extra calls that `hedge_after` may make, as a share of all.", "unit": "share"}
    )
    continuation: Continuation = field(
        default="off",
        metadata={
            "doc": "After an answer was cut, stalled or went wrong in the middle. off: an error in the stream; splice: another "
            "attempt goes on where it stopped; hold: the same, and the beginning is held back, so that what goes wrong within it "
            "is made again unseen.",
        },
    )
    hold_bytes: int = field(
        default=4096,
        metadata={"doc": 'How much of the client\'s stream `continuation = "hold"` holds back.', "unit": "size"},
    )
    hold_for: float = field(
        default=2.0,
        metadata={"doc": "How long it does, from the first token on; whichever comes first.", "unit": "duration"},
    )
    malformed_limit: int = field(
        default=3,
        metadata={
            "doc": "Events of a stream that may be no JSON and are left out; one more ends it.",
            "unit": "count",
            "zero": True,
        },
    )
    timeouts: Timeouts = field(default_factory=Timeouts, metadata={"doc": "Deadlines of this model."})
    breaker: BreakerSettings = field(
        default_factory=BreakerSettings, metadata={"doc": "When a target of this model is left alone."}
    )
