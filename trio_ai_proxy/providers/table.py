"""Which providers there are: one row each. A service that speaks a wire we know is a row and nothing else.

A default URL stands here only where the service's own documentation gives it. vLLM has none although it has a usual
port: that is 8000, which is ours as well, and a gateway that calls itself is a bad first day.
"""

from __future__ import annotations

from types import MappingProxyType
from typing import TYPE_CHECKING

from trio_ai_proxy.errors import ConfigError
from trio_ai_proxy.providers.base import Capabilities
from trio_ai_proxy.providers.kind import Kind
from trio_ai_proxy.providers.openai import OpenAIProvider

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from trio_ai_proxy.chat.request import Operation
    from trio_ai_proxy.providers.base import Provider
    from trio_ai_proxy.settings import ProviderSettings

_CHAT_ONLY: frozenset[Operation] = frozenset({"chat"})

# Which services go on generating, and charging, after the connection is closed: OpenRouter's list under "Stream
# Cancellation", "not currently supported". OpenRouter itself passes a cancellation on, so it depends on who serves.
_BILLS_ON = "; bills after an abort: https://openrouter.ai/docs/api-reference/streaming"


def _hosted(name: str, url: str, source: str, env: str, capabilities: Capabilities) -> Kind:
    return Kind(name, "openai", url, True, capabilities, source, env)


def _self_hosted(name: str, url: str | None, source: str, env: str | None = None) -> Kind:
    return Kind(name, "openai", url, False, Capabilities(), source, env)


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
    _hosted(
        "openai",
        "https://api.openai.com/v1",
        "OpenAI, API reference: https://platform.openai.com/docs/api-reference/chat",
        "OPENAI_API_KEY",
        Capabilities(),
    ),
    # -- servers that one runs oneself ------------------------------------------------------------------------------
    _self_hosted(
        "openai_compatible",
        None,
        "any other service of OpenAI's wire: https://platform.openai.com/docs/api-reference/chat",
    ),
    _self_hosted(
        "vllm",
        None,
        "vLLM, OpenAI-compatible server: https://docs.vllm.ai/en/latest/serving/openai_compatible_server.html",
        "VLLM_API_KEY",
    ),
    _self_hosted(
        "sglang",
        "http://127.0.0.1:30000/v1",
        "SGLang, OpenAI APIs: https://docs.sglang.ai/basic_usage/openai_api_completions.html",
    ),
    _self_hosted(
        "tgi",
        None,
        "Text Generation Inference, messages API: https://huggingface.co/docs/text-generation-inference/messages_api",
    ),
    _self_hosted(
        "llamacpp",
        "http://127.0.0.1:8080/v1",
        "llama.cpp, HTTP server: https://github.com/ggml-org/llama.cpp/blob/master/tools/server/README.md",
        "LLAMA_API_KEY",
    ),
    _self_hosted(
        "lmstudio",
        "http://127.0.0.1:1234/v1",
        "LM Studio, OpenAI compatibility endpoints: https://lmstudio.ai/docs/app/api/endpoints/openai",
    ),
    _self_hosted(
        "ollama_openai",
        "http://127.0.0.1:11434/v1",
        "Ollama, OpenAI compatibility: https://docs.ollama.com/api/openai-compatibility",
    ),
    # -- services ---------------------------------------------------------------------------------------------------
    _hosted(
        "cerebras",
        "https://api.cerebras.ai/v1",
        "Cerebras, OpenAI compatibility: https://inference-docs.cerebras.ai/resources/openai",
        "CEREBRAS_API_KEY",
        Capabilities(),
    ),
    _hosted(
        "deepinfra",
        "https://api.deepinfra.com/v1/openai",
        "DeepInfra, OpenAI API: https://deepinfra.com/docs/openai_api",
        "DEEPINFRA_API_KEY",
        Capabilities(),
    ),
    _hosted(
        "deepseek",
        "https://api.deepseek.com/v1",
        "DeepSeek, first API call: https://api-docs.deepseek.com/ (text completions are under another address)",
        "DEEPSEEK_API_KEY",
        Capabilities(operations=_CHAT_ONLY),
    ),
    _hosted(
        "featherless",
        "https://api.featherless.ai/v1",
        "Featherless, API overview: https://featherless.ai/docs/api-overview-and-common-options" + _BILLS_ON,
        "FEATHERLESS_API_KEY",
        Capabilities(bills_after_abort=True),
    ),
    _hosted(
        "fireworks",
        "https://api.fireworks.ai/inference/v1",
        "Fireworks, OpenAI compatibility: https://docs.fireworks.ai/tools-sdks/openai-compatibility",
        "FIREWORKS_API_KEY",
        Capabilities(),
    ),
    _hosted(
        "groq",
        "https://api.groq.com/openai/v1",
        "Groq, OpenAI compatibility: https://console.groq.com/docs/openai" + _BILLS_ON,
        "GROQ_API_KEY",
        Capabilities(operations=_CHAT_ONLY, bills_after_abort=True),
    ),
    _hosted(
        "moonshot",
        "https://api.moonshot.ai/v1",
        "Moonshot, API overview (accounts in China: https://api.moonshot.cn/v1): https://platform.moonshot.ai/docs",
        "MOONSHOT_API_KEY",
        Capabilities(operations=_CHAT_ONLY),
    ),
    _hosted(
        "nvidia",
        "https://integrate.api.nvidia.com/v1",
        "NVIDIA NIM, LLM APIs: https://docs.api.nvidia.com/nim/reference/llm-apis",
        "NVIDIA_API_KEY",
        Capabilities(operations=_CHAT_ONLY),
    ),
    _hosted(
        "openrouter",
        "https://openrouter.ai/api/v1",
        "OpenRouter, API reference: https://openrouter.ai/docs/api-reference/overview",
        "OPENROUTER_API_KEY",
        Capabilities(),
    ),
    _hosted(
        "sambanova",
        "https://api.sambanova.ai/v1",
        "SambaNova, OpenAI compatibility: https://docs.sambanova.ai/cloud/docs/capabilities/openai-compatibility"
        + _BILLS_ON,
        "SAMBANOVA_API_KEY",
        Capabilities(bills_after_abort=True),
    ),
    _hosted(
        "siliconflow",
        "https://api.siliconflow.com/v1",
        "SiliconFlow, chat completions (accounts in China: https://api.siliconflow.cn/v1): "
        "https://docs.siliconflow.com/en/api-reference/chat-completions/chat-completions",
        "SILICONFLOW_API_KEY",
        Capabilities(operations=_CHAT_ONLY),
    ),
    _hosted(
        "together",
        "https://api.together.xyz/v1",
        "Together, OpenAI compatibility: https://docs.together.ai/docs/openai-api-compatibility",
        "TOGETHER_API_KEY",
        Capabilities(),
    ),
    _hosted(
        "xai",
        "https://api.x.ai/v1",
        "xAI, REST API reference: https://docs.x.ai/docs/api-reference",
        "XAI_API_KEY",
        Capabilities(operations=_CHAT_ONLY),
    ),
)

KINDS: Mapping[str, Kind] = MappingProxyType({kind.name: kind for kind in _ROWS})
"""Every kind of provider, by name."""


def _build_openai(settings: ProviderSettings, kind: Kind) -> Provider:
    return OpenAIProvider(settings, kind)


def _build_demo(settings: ProviderSettings, kind: Kind) -> Provider:
    # Loaded when it is used: a gateway with real accounts has no need of the demo's prose.
    from trio_ai_proxy.providers.demo import DemoProvider

    return DemoProvider(settings, kind)


# The class of a kind is that of its wire, unless it has one of its own.
_BY_WIRE: Mapping[str, Callable[[ProviderSettings, Kind], Provider]] = {"openai": _build_openai}
_BY_KIND: Mapping[str, Callable[[ProviderSettings, Kind], Provider]] = {"demo": _build_demo}


def build_provider(settings: ProviderSettings) -> Provider:
    """The provider that `settings` describe. Raises `ConfigError` if there is no such kind or it lacks something."""
    kind = KINDS.get(settings.kind)
    if kind is None:
        known = ", ".join(KINDS)
        raise ConfigError([f"provider '{settings.name}': there is no kind '{settings.kind}'; there are {known}"])
    build = _BY_KIND.get(kind.name) or _BY_WIRE[kind.wire]
    return build(settings, kind)
