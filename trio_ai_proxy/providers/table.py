"""Which providers there are: one row each. A service that speaks a wire we know is a row and nothing else; those of OpenAI's
wire are in `services`.
"""

from __future__ import annotations

from dataclasses import replace
from pkgutil import resolve_name
from types import MappingProxyType
from typing import TYPE_CHECKING

from trio_ai_proxy.errors import ConfigError
from trio_ai_proxy.providers.base import Capabilities
from trio_ai_proxy.providers.kind import Kind
from trio_ai_proxy.providers.services import SERVERS, SERVICES, hosted

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from trio_ai_proxy.chat.request import Operation
    from trio_ai_proxy.providers.base import Provider
    from trio_ai_proxy.settings import ProviderSettings

_ALL: frozenset[Operation] = frozenset({"chat", "completions", "embeddings"})
_ALL_AND_JUDGES: frozenset[Operation] = _ALL | {"moderations"}

_ROWS = (
    Kind(
        "demo",
        "openai",
        "demo://embedded/v1",
        False,
        Capabilities(streams_only=True),
        "part of this project: a scripted upstream in memory that needs no account",
        embedded=True,
    ),
    hosted(
        "openai",
        "https://api.openai.com/v1",
        "OpenAI, API reference: https://platform.openai.com/docs/api-reference/chat",
        "OPENAI_API_KEY",
        Capabilities(operations=_ALL_AND_JUDGES),
    ),
    # -- services with a wire of their own --------------------------------------------------------------------------
    Kind(
        "azure",
        "openai",
        None,
        True,
        Capabilities(operations=_ALL),
        "Azure OpenAI in Microsoft Foundry, REST API: https://learn.microsoft.com/azure/ai-foundry/openai/reference",
        "AZURE_OPENAI_API_KEY",
        place_keys=("instance",),
        credential_keys=("entra", "managed_identity"),
        environment=(
            "AZURE_TENANT_ID",
            "AZURE_CLIENT_ID",
            "AZURE_FEDERATED_TOKEN_FILE",
            "AZURE_AUTHORITY_HOST",
            "AZURE_POD_IDENTITY_AUTHORITY_HOST",
            "IDENTITY_ENDPOINT",
            "IDENTITY_HEADER",
        ),
    ),
    Kind(
        "anthropic",
        "anthropic",
        "https://api.anthropic.com",
        True,
        Capabilities(reasoning=True),  # no prefill: Claude 4.6 and later refuse it
        "Anthropic, Messages API: https://platform.claude.com/docs/en/api/messages/create",
        "ANTHROPIC_API_KEY",
    ),
    Kind(
        "gemini",
        "gemini",
        "https://generativelanguage.googleapis.com",
        True,
        Capabilities(bills_after_abort=True, operations=_ALL, reasoning=True),
        "Gemini API, generating content: https://ai.google.dev/api/generate-content",
        "GEMINI_API_KEY",
    ),
    Kind(
        "vertex",
        "gemini",
        None,
        False,
        Capabilities(bills_after_abort=True, operations=_ALL, reasoning=True),
        "Vertex AI, generative AI REST reference: https://cloud.google.com/vertex-ai/generative-ai/docs/model-reference/inference",
        place_keys=("location",),
        environment=("GOOGLE_CLOUD_PROJECT", "GCE_METADATA_HOST"),
        signs=True,
    ),
    Kind(
        "bedrock",
        "bedrock",
        None,
        False,
        Capabilities(bills_after_abort=True, operations=_ALL, reasoning=True),
        "Amazon Bedrock, Converse: https://docs.aws.amazon.com/bedrock/latest/APIReference/API_runtime_ConverseStream.html",
        place_keys=("region",),
        environment=(
            "AWS_REGION",
            "AWS_DEFAULT_REGION",
            "AWS_ACCESS_KEY_ID",
            "AWS_SECRET_ACCESS_KEY",
            "AWS_SESSION_TOKEN",
            "AWS_PROFILE",
            "AWS_SHARED_CREDENTIALS_FILE",
            "AWS_CONFIG_FILE",
            "AWS_ROLE_ARN",
            "AWS_ROLE_SESSION_NAME",
            "AWS_ENDPOINT_URL_STS",
            "AWS_WEB_IDENTITY_TOKEN_FILE",
            "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI",
            "AWS_CONTAINER_CREDENTIALS_FULL_URI",
            "AWS_CONTAINER_AUTHORIZATION_TOKEN",
            "AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE",
            "AWS_EC2_METADATA_DISABLED",
            "AWS_EC2_METADATA_SERVICE_ENDPOINT",
            "AWS_BEARER_TOKEN_BEDROCK",
            "HOME",
        ),
        signs=True,
    ),
    Kind(
        "cohere",
        "cohere",
        "https://api.cohere.com",
        True,
        Capabilities(operations=_ALL, reasoning=True),
        "Cohere, Chat API v2: https://docs.cohere.com/reference/chat",
        "CO_API_KEY",
    ),
    Kind(
        "mistral",
        "mistral",
        "https://api.mistral.ai/v1",
        True,
        Capabilities(operations=_ALL_AND_JUDGES, reasoning=True, prefill=True, bills_after_abort=True),
        "Mistral, chat completion: https://docs.mistral.ai/api/endpoint/chat; bills after an abort: "
        "https://openrouter.ai/docs/api-reference/streaming",
        "MISTRAL_API_KEY",
    ),
    Kind(
        "huggingface",
        "huggingface",
        "https://router.huggingface.co",
        True,
        Capabilities(bills_after_abort=True, operations=_ALL),
        "Hugging Face, Inference Providers: https://huggingface.co/docs/inference-providers/tasks/chat-completion",
        "HF_TOKEN",
    ),
    Kind(
        "ollama",
        "ollama",
        "http://127.0.0.1:11434",
        False,
        Capabilities(operations=_ALL, reasoning=True),
        "Ollama, API: https://docs.ollama.com/api/chat",
    ),
    Kind(
        "llama2",
        "llama2",
        None,
        False,
        Capabilities(
            never_streams=True, tools=False, images=False, json_schema=False, prefill=True, usage_reported=False
        ),
        "a server that takes a bare prompt (Kong's `llama2_format`): https://developer.konghq.com/plugins/ai-proxy/",
    ),
    *SERVERS,
    *SERVICES,
)

KINDS: Mapping[str, Kind] = MappingProxyType({kind.name: kind for kind in _ROWS})
"""Every kind of provider, by name."""


# Which class speaks a wire; a kind that speaks it in its own way has a class of its own. Modules are loaded when they are
# first used: a gateway pays for the wires of its own accounts alone.
_BY_WIRE: Mapping[str, str] = {
    "openai": "openai:OpenAIProvider",
    "anthropic": "anthropic:AnthropicProvider",
    "gemini": "gemini:GeminiProvider",
    "bedrock": "bedrock:BedrockProvider",
    "cohere": "cohere:CohereProvider",
    "mistral": "mistral:MistralProvider",
    "huggingface": "huggingface:HuggingFaceProvider",
    "ollama": "ollama:OllamaProvider",
    "llama2": "llama2:Llama2Provider",
}
_BY_KIND: Mapping[str, str] = {
    "demo": "demo:DemoProvider",
    "azure": "azure:AzureProvider",
    "vertex": "vertex:VertexProvider",
}
# A server that speaks what `format` says, in place of the kind's own wire.
_BY_FORMAT: Mapping[str, Mapping[str, str]] = {
    "mistral": {"openai": _BY_WIRE["openai"], "ollama": _BY_WIRE["ollama"]},
    "llama2": {"raw": _BY_WIRE["llama2"], "openai": _BY_WIRE["openai"], "ollama": _BY_WIRE["ollama"]},
}


# … and what it does then, where that differs.
_DOES_BY_FORMAT: Mapping[tuple[str, str | None], Capabilities] = {
    ("mistral", "openai"): Capabilities(operations=_ALL, developer_role=False),
    ("mistral", "ollama"): Capabilities(operations=_ALL, reasoning=True),
    ("llama2", "openai"): Capabilities(operations=_ALL, developer_role=False),
    ("llama2", "ollama"): Capabilities(operations=_ALL, reasoning=True),
}


def class_of(settings: ProviderSettings, kind: Kind) -> str:
    """Which class speaks to the account that `settings` describe, as `module:Class`. Raises `ConfigError` for a `format` that
    there is not, and for one that needs an address of its own and has none."""
    own = _BY_KIND.get(kind.name) or _BY_WIRE[kind.wire]
    if settings.format is None:
        return own
    formats = _BY_FORMAT.get(kind.name, {})
    if settings.format not in formats:
        there_are = f"there are {', '.join(formats)}" if formats else "this kind has none"
        raise ConfigError([f"provider '{settings.name}': there is no format '{settings.format}'; {there_are}"])
    if settings.base_url is None and kind.default_base_url is not None:
        if settings.format == "ollama":
            raise ConfigError([f"provider '{settings.name}' of format 'ollama' needs a base_url"])
        return own  # the service itself, which speaks OpenAI's wire in its own way
    return formats[settings.format]


def build_provider(settings: ProviderSettings, credential: int = 0) -> Provider:
    """The provider that `settings` describe, with the one at the place `credential` where they give several. Raises
    `ConfigError` if there is no such kind or it lacks something."""
    if settings.api_keys:
        settings = replace(settings, api_key=settings.api_keys[credential])
    kind = KINDS.get(settings.kind)
    if kind is None:
        known = ", ".join(KINDS)
        raise ConfigError([f"provider '{settings.name}': there is no kind '{settings.kind}'; there are {known}"])
    build: Callable[[ProviderSettings, Kind], Provider] = resolve_name(
        f"trio_ai_proxy.providers.{class_of(settings, kind)}"
    )
    # Without an address of its own it is the service itself, whatever the format.
    is_elsewhere = settings.base_url is not None or kind.default_base_url is None
    does = _DOES_BY_FORMAT.get((kind.name, settings.format)) if is_elsewhere else None
    return build(settings, kind if does is None else replace(kind, capabilities=does))
