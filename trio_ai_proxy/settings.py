"""What the parts are built from: plain frozen values, already checked. `config` makes them from TOML.

Times are seconds, sizes are bytes. The field names are the keys of the file, and the metadata of the fields drives the
decoder, the configuration reference and the editors' schema alike:

    doc       one line that says what the key means; a field without it is no key of the file
    unit      "duration" (seconds in here), "size" (bytes in here), "count", "share" (above 0, at most 1)
    zero      True: a duration may be zero, a count may be zero
    empty     True: the text may be empty
    kinds     the kinds of provider that have this key
    required  True: the file must give it although the type has a default
    not_built words of the contract that are still refused
"""

from __future__ import annotations

from collections.abc import Mapping  # noqa: TC003  the decoder resolves the annotations at run time
from dataclasses import dataclass, field
from typing import Any, Literal

ResponseStreaming = Literal["allow", "deny", "always"]
OnDisconnect = Literal["auto", "cancel", "drain", "grace"]
RouteType = Literal["llm/v1/chat", "llm/v1/completions", "llm/v1/embeddings"]
Unsupported = Literal["auto", "drop", "error"]
Balance = Literal["weighted", "least_in_flight", "lowest_latency", "lowest_usage", "consistent_hash", "semantic"]
Continuation = Literal["off", "splice", "hold"]
HedgeAfter = float | Literal["p95"]


class Secret:
    """A credential. It shows itself to no one but `reveal`: not to `repr`, not to a log, not to an exception's text."""

    __slots__ = ("_value", "source")

    def __init__(self, value: str, source: str) -> None:
        """`source` says where it came from, for people: "environment variable OPENAI_API_KEY", "file /run/key",
        "config.toml:12"."""
        self._value = value
        self.source = source

    def reveal(self) -> str:
        return self._value

    def __repr__(self) -> str:  # type: ignore[explicit-override]  # typing.override needs 3.12
        return f"Secret(from {self.source})"

    def __eq__(self, other: object) -> bool:  # type: ignore[explicit-override]  # as above
        return isinstance(other, Secret) and other._value == self._value

    def __hash__(self) -> int:  # type: ignore[explicit-override]  # as above
        return hash(self._value)


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


@dataclass(frozen=True, slots=True)
class AuthSettings:
    """How a provider wants its credential where its kind's own way does not fit (Kong's `auth`)."""

    header_name: str | None = field(default=None, metadata={"doc": "Header that carries the credential."})
    header_value: Secret | None = field(default=None, metadata={"doc": "Its whole value."})
    param_name: str | None = field(default=None, metadata={"doc": "Parameter that carries the credential."})
    param_value: Secret | None = field(default=None, metadata={"doc": "Its value."})
    param_location: Literal["query", "body"] | None = field(default=None, metadata={"doc": "Where the parameter goes."})
    allow_override: bool = field(
        default=False,
        metadata={"doc": "What a client sends itself in that header or parameter goes out in place of ours."},
    )


@dataclass(frozen=True, slots=True)
class EntraSettings:
    """An application's identity in Microsoft Entra ID."""

    tenant_id: str = field(metadata={"doc": "The directory (tenant)."})
    client_id: str = field(metadata={"doc": "The application."})
    client_secret: Secret | None = field(
        default=None,
        metadata={
            "doc": "Its secret. Absent: workload identity, by the token file that AZURE_FEDERATED_TOKEN_FILE names."
        },
    )
    scope: str | None = field(
        default=None, metadata={"doc": "What tokens are for; absent: `https://cognitiveservices.azure.com/.default`."}
    )


@dataclass(frozen=True, slots=True)
class ProviderSettings:
    """One account at one service.

    environment  the environment's variables that this kind reads beside its keys, by name (see `config`)
    """

    name: str
    kind: str = field(metadata={"doc": "An entry of the provider table."})
    base_url: str | None = field(
        default=None,
        metadata={"doc": "Where it is, if not where the kind says; for openai kinds it ends in the version (`…/v1`)."},
    )
    api_key: Secret | None = field(default=None, metadata={"doc": "Its credential."})
    auth: AuthSettings | None = field(default=None, metadata={"doc": "Another way to present the credential."})
    headers: Mapping[str, str] = field(
        default_factory=dict, metadata={"doc": "Headers sent with every request (an organisation, a project)."}
    )
    max_in_flight: int = field(
        default=1000,
        metadata={"doc": "Exchanges with this provider at one time; more wait in a fair queue.", "unit": "count"},
    )
    transport: Literal["own", "httpx"] = field(
        default="own", metadata={"doc": "`httpx`: the stock transport, for HTTP/2 upstreams and proxies."}
    )
    proxy: str | None = field(default=None, metadata={"doc": 'URL of a forward proxy; needs `transport = "httpx"`.'})
    http2: bool = field(default=False, metadata={"doc": 'Speak HTTP/2 to it; needs `transport = "httpx"`.'})
    ca_file: str | None = field(
        default=None, metadata={"doc": "PEM file of authorities to trust in place of the system's."}
    )
    instance: str | None = field(
        default=None,
        metadata={
            "doc": "Name of the resource: `https://NAME.openai.azure.com`, in place of base_url.",
            "kinds": ("azure",),
        },
    )
    deployment: str | None = field(
        default=None, metadata={"doc": "Deployment; absent: the target's model.", "kinds": ("azure",)}
    )
    api_version: str | None = field(
        default=None,
        metadata={
            "doc": "Version of the service's interface: a date, with the deployment in the path; absent or a word: v1.",
            "kinds": ("azure",),
        },
    )
    entra: EntraSettings | None = field(
        default=None, metadata={"doc": "Identity in Microsoft Entra ID, in place of a key.", "kinds": ("azure",)}
    )
    managed_identity: bool = field(
        default=False, metadata={"doc": "Use the identity of the machine that this runs on.", "kinds": ("azure",)}
    )
    version: str | None = field(
        default=None, metadata={"doc": "Value of the header `anthropic-version`.", "kinds": ("anthropic", "vertex")}
    )
    beta: tuple[str, ...] = field(
        default=(), metadata={"doc": "Values of the header `anthropic-beta`.", "kinds": ("anthropic",)}
    )
    project: str | None = field(default=None, metadata={"doc": "Google Cloud project.", "kinds": ("vertex",)})
    location: str | None = field(default=None, metadata={"doc": "Region, or `global`.", "kinds": ("vertex",)})
    service_account: Secret | None = field(
        default=None,
        metadata={"doc": "Key of a service account, JSON; absent: the machine's own account.", "kinds": ("vertex",)},
    )
    region: str | None = field(default=None, metadata={"doc": "AWS region; absent: AWS_REGION.", "kinds": ("bedrock",)})
    access_key_id: str | None = field(
        default=None, metadata={"doc": "Absent, with the secret: as the AWS SDKs find them.", "kinds": ("bedrock",)}
    )
    secret_access_key: Secret | None = field(
        default=None, metadata={"doc": "The secret of the access key.", "kinds": ("bedrock",)}
    )
    session_token: Secret | None = field(
        default=None, metadata={"doc": "For temporary access keys.", "kinds": ("bedrock",)}
    )
    profile: str | None = field(
        default=None, metadata={"doc": "Profile of the shared credentials file.", "kinds": ("bedrock",)}
    )
    role_arn: str | None = field(
        default=None, metadata={"doc": "Role to assume with those credentials.", "kinds": ("bedrock",)}
    )
    format: Literal["raw", "openai", "ollama"] | None = field(
        default=None,
        metadata={
            "doc": "What the server speaks (Kong's `llama2_format` and `mistral_format`).",
            "kinds": ("llama2", "mistral"),
        },
    )
    use_cache: bool | None = field(
        default=None, metadata={"doc": "May the service answer from its cache.", "kinds": ("huggingface",)}
    )
    wait_for_model: bool | None = field(
        default=None, metadata={"doc": "Wait while the model is loaded, or fail.", "kinds": ("huggingface",)}
    )
    environment: Mapping[str, str] = field(default_factory=dict)


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
class ModelSettings:
    """A name that clients ask for. `timeouts` and `breaker` are complete: defaults, then the model's, are already merged."""

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
            "weight, the quickest, the one with the fewest tokens for its weight in the last minute, or always the same for "
            "the same `hash_on`.",
            "not_built": ("semantic",),
        },
    )
    hash_on: str | None = field(
        default=None,
        metadata={
            "doc": "What `consistent_hash` keeps together: `key` (the client), `prefix` (the conversation, so that the "
            "provider's cache is met again), or the name of a header."
        },
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
            "attempt goes on where it stopped.",
            "not_built": ("hold",),
        },
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
    models: Mapping[str, ModelSettings] = field(
        default_factory=dict, metadata={"doc": "Models, by the name clients ask for."}
    )
    keys: tuple[KeySettings, ...] = field(default=(), metadata={"doc": "Clients; none: open, on loopback only."})
    routes: tuple[RouteSettings, ...] = field(default=(), metadata={"doc": "Paths with a fixed meaning."})
    pass_through: str | None = None
