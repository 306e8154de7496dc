"""What the parts are built from: plain frozen values, already checked. `config` makes them from TOML.

Times are seconds, sizes are bytes. The field names are the keys of the file, and the metadata of the fields drives the
decoder, the configuration reference and the editors' schema alike:

    doc       one line that says what the key means; a field without it is no key of the file
    unit      "duration" (seconds in here), "size" (bytes in here), "count", "share" (above 0, at most 1)
    zero      True: a duration may be zero, a count may be zero
    empty     True: the text may be empty
    kinds     the kinds of provider, or of guard, that have this key
    short     the key of the table, or of each table, that a text alone stands for
    required  True: the file must give it although the type has a default
    not_built words of the contract that are still refused
"""

from __future__ import annotations

from collections.abc import Mapping  # noqa: TC003  the decoder resolves the annotations at run time
from dataclasses import dataclass, field
from typing import Literal

from trio_ai_proxy.settings.guards import (
    GuardKind,
    GuardSettings,
    HeaderChanges,
    JSONChanges,
    MessageSettings,
    PatternSettings,
    TemplateSettings,
)
from trio_ai_proxy.settings.models import (
    Balance,
    CapabilitySettings,
    Continuation,
    HedgeAfter,
    MatchSettings,
    ModelSettings,
    OnDisconnect,
    ResponseStreaming,
    SemanticSettings,
    TargetSettings,
    Unsupported,
)
from trio_ai_proxy.settings.patience import BreakerSettings, Timeouts
from trio_ai_proxy.settings.providers import AuthSettings, EntraSettings, ProviderSettings
from trio_ai_proxy.settings.secret import Secret
from trio_ai_proxy.settings.server import AdminSettings, ServerSettings, TokenSettings

__all__ = [
    "AdminSettings", "AuthSettings", "Balance", "BreakerSettings", "CapabilitySettings", "Continuation", "EntraSettings",
    "GuardKind", "GuardSettings", "HeaderChanges", "HedgeAfter", "JSONChanges", "KeySettings", "MatchSettings",
    "MessageSettings", "ModelSettings", "OnDisconnect", "PatternSettings", "ProviderSettings", "ResponseStreaming",
    "RouteSettings", "RouteType", "Secret", "SemanticSettings", "ServerSettings", "Settings", "TargetSettings",
    "TemplateSettings", "Timeouts", "TokenSettings", "Unsupported",
]  # fmt: skip

RouteType = Literal["llm/v1/chat", "llm/v1/completions", "llm/v1/embeddings"]


@dataclass(frozen=True, slots=True)
class KeySettings:
    """A client. `sha256` is the digest (32 bytes) of its bearer key; the key itself is not kept."""

    name: str = field(metadata={"doc": "Its name in records and metrics."})
    sha256: bytes = field(metadata={"doc": "SHA-256 of the key, 64 hexadecimal digits."})
    models: tuple[str, ...] = field(
        default=("*",), metadata={"doc": "Models it may use; `*` stands for any run of characters."}
    )


@dataclass(frozen=True, slots=True)
class RouteSettings:
    """A path with a fixed meaning (Kong's shape)."""

    path: str = field(metadata={"doc": "Path, as it stands on the request line; `{name}` takes one segment of it."})
    route_type: RouteType = field(metadata={"doc": "What is spoken there.", "not_built": ("preserve",)})
    model: str | None = field(
        default=None,
        metadata={
            "doc": "The model that answers; the request may then leave `model` out, and may not name another. May hold "
            "placeholders: `$(headers.NAME)`, `$(query_params.NAME)`, `$(uri_captures.NAME)`."
        },
    )


@dataclass(frozen=True, slots=True)
class Settings:
    """The whole configuration.

    pass_through  name of the provider that gets model names which nobody has configured, or None (set when the gateway
                  runs without a file and an account is known from the environment)
    """

    server: ServerSettings = field(default_factory=ServerSettings, metadata={"doc": "The data port and the process."})
    admin: AdminSettings = field(default_factory=AdminSettings, metadata={"doc": "The admin port."})
    tokens: TokenSettings = field(default_factory=TokenSettings, metadata={"doc": "Counting of tokens."})
    timeouts: Timeouts = field(default_factory=Timeouts, metadata={"doc": "Deadlines of every model."})
    breaker: BreakerSettings = field(
        default_factory=BreakerSettings, metadata={"doc": "When a target of any model is left alone."}
    )
    providers: Mapping[str, ProviderSettings] = field(default_factory=dict, metadata={"doc": "Accounts, by name."})
    guards: Mapping[str, GuardSettings] = field(
        default_factory=dict, metadata={"doc": "What requests and answers go through, by name: see `docs/guards.md`."}
    )
    models: Mapping[str, ModelSettings] = field(
        default_factory=dict, metadata={"doc": "Models, by the name clients ask for."}
    )
    keys: tuple[KeySettings, ...] = field(default=(), metadata={"doc": "Clients; none: open, on loopback only."})
    routes: tuple[RouteSettings, ...] = field(default=(), metadata={"doc": "Paths with a fixed meaning."})
    pass_through: str | None = None
