"""Accounts at providers."""

from __future__ import annotations

from collections.abc import Mapping  # noqa: TC003  the decoder resolves the annotations at run time
from dataclasses import dataclass, field
from typing import Literal

from trio_ai_proxy.settings.secret import Secret  # noqa: TC001  as above


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
    api_keys: tuple[Secret, ...] = field(
        default=(),
        metadata={"doc": "Several credentials, in place of `api_key`: they take turns, see `docs/failover.md`."},
    )
    auth: AuthSettings | None = field(default=None, metadata={"doc": "Another way to present the credential."})
    headers: Mapping[str, str] = field(
        default_factory=dict, metadata={"doc": "Headers sent with every request (an organisation, a project)."}
    )
    max_in_flight: int = field(
        default=1000,
        metadata={"doc": "Exchanges with this provider at one time; more wait in a fair queue.", "unit": "count"},
    )
    max_queued: int = field(
        default=1000,
        metadata={
            "doc": "Exchanges that may wait for that; one more takes a place of the key that has the most, or is refused.",
            "unit": "count",
            "zero": True,
        },
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
