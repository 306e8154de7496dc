"""Services and servers that speak OpenAI's wire: one row each, and nothing else. What one of them does differently is a value
in its `Capabilities`, and the rest of its extras reach it as the client sends them.

A default URL stands here only where the service's own documentation gives it. vLLM has none although it has a usual
port: that is 8000, which is ours as well, and a gateway that calls itself is a bad first day.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from trio_ai_proxy.providers.base import Capabilities
from trio_ai_proxy.providers.kind import Kind

if TYPE_CHECKING:
    from trio_ai_proxy.chat.request import Operation

_CHAT: frozenset[Operation] = frozenset({"chat"})
_NO_VECTORS: frozenset[Operation] = frozenset({"chat", "completions"})
_NO_TEXT: frozenset[Operation] = frozenset({"chat", "embeddings"})
_ALL: frozenset[Operation] = frozenset({"chat", "completions", "embeddings"})
_ALL_AND_JUDGES: frozenset[Operation] = _ALL | {"moderations"}

# Which services go on generating, and charging, after the connection is closed: OpenRouter's list under "Stream
# Cancellation", "not currently supported". OpenRouter itself passes a cancellation on, so it depends on who serves.
_BILLS_ON = "; bills after an abort: https://openrouter.ai/docs/api-reference/streaming"


def hosted(name: str, url: str | None, source: str, env: str, capabilities: Capabilities) -> Kind:
    """A service that wants a key. Without `url`, every account has a place of its own."""
    return Kind(name, "openai", url, True, capabilities, source, env)


def self_hosted(
    name: str, url: str | None, source: str, capabilities: Capabilities | None = None, env: str | None = None
) -> Kind:
    """A server that one runs oneself. The templates of the models know the roles that they were made with, and `developer`
    is seldom one of them."""
    return Kind(name, "openai", url, False, capabilities or Capabilities(_ALL, developer_role=False), source, env)


SERVERS: tuple[Kind, ...] = (
    self_hosted(
        "openai_compatible",
        None,
        "any other service of OpenAI's wire: https://platform.openai.com/docs/api-reference/chat",
        Capabilities(_ALL_AND_JUDGES),
    ),
    self_hosted(
        "jan",
        "http://127.0.0.1:1337/v1",
        "Jan, local API server: https://jan.ai/docs/desktop/api-preference",
        Capabilities(_CHAT, developer_role=False),
    ),
    self_hosted(
        "litellm",
        "http://127.0.0.1:4000/v1",
        "LiteLLM, proxy server: https://docs.litellm.ai/docs/proxy/quick_start",
        Capabilities(_ALL_AND_JUDGES),
    ),
    self_hosted(
        "llamacpp",
        "http://127.0.0.1:8080/v1",
        "llama.cpp, HTTP server: https://github.com/ggml-org/llama.cpp/blob/master/tools/server/README.md",
        env="LLAMA_API_KEY",
    ),
    self_hosted(
        "llamafile",
        "http://127.0.0.1:8080/v1",
        "llamafile, HTTP server: https://github.com/mozilla-ai/llamafile/blob/main/README.md",
    ),
    self_hosted(
        "lmdeploy",
        "http://127.0.0.1:23333/v1",
        "LMDeploy, OpenAI-compatible server: https://lmdeploy.readthedocs.io/en/latest/llm/api_server.html",
        Capabilities(_NO_VECTORS, developer_role=False),
    ),
    self_hosted(
        "lmstudio",
        "http://127.0.0.1:1234/v1",
        "LM Studio, OpenAI compatibility endpoints: https://lmstudio.ai/docs/app/api/endpoints/openai",
    ),
    self_hosted(
        "localai",
        "http://127.0.0.1:8080/v1",
        "LocalAI, overview: https://localai.io/docs/overview/",
        Capabilities(_ALL_AND_JUDGES, developer_role=False),
    ),
    self_hosted(
        "mlx",
        "http://127.0.0.1:8080/v1",
        "MLX LM, HTTP server: https://github.com/ml-explore/mlx-lm/blob/main/mlx_lm/SERVER.md",
        Capabilities(_NO_VECTORS, developer_role=False),
    ),
    self_hosted(
        "ollama_openai",
        "http://127.0.0.1:11434/v1",
        "Ollama, OpenAI compatibility: https://docs.ollama.com/api/openai-compatibility",
        Capabilities(_ALL, reasoning=True, max_tokens_only=True, developer_role=False),
    ),
    self_hosted(
        "sglang",
        "http://127.0.0.1:30000/v1",
        "SGLang, OpenAI APIs: https://docs.sglang.ai/basic_usage/openai_api_completions.html",
    ),
    self_hosted(
        "tgi",
        None,
        "Text Generation Inference, messages API: https://huggingface.co/docs/text-generation-inference/messages_api",
        Capabilities(_NO_VECTORS, max_tokens_only=True, developer_role=False),
    ),
    self_hosted(
        "triton",
        "http://127.0.0.1:9000/v1",
        "Triton Inference Server, OpenAI-compatible frontend: "
        "https://docs.nvidia.com/deeplearning/triton-inference-server/user-guide/docs/client_guide/openai_readme.html",
    ),
    self_hosted(
        "vllm",
        None,
        "vLLM, OpenAI-compatible server: https://docs.vllm.ai/en/latest/serving/openai_compatible_server.html",
        env="VLLM_API_KEY",
    ),
    self_hosted(
        "xinference",
        "http://127.0.0.1:9997/v1",
        "Xinference, using it with the OpenAI client: https://inference.readthedocs.io/en/latest/index.html",
    ),
)
"""Servers that one runs oneself."""

SERVICES: tuple[Kind, ...] = (
    hosted(
        "ai21",
        "https://api.ai21.com/studio/v1",
        "AI21, Jamba chat completions: https://docs.ai21.com/reference/jamba-1-6-api-ref" + _BILLS_ON,
        "AI21_API_KEY",
        Capabilities(_CHAT, stream_usage=False, bills_after_abort=True, images=False, max_tokens_only=True),
    ),
    hosted(
        "baseten",
        "https://inference.baseten.co/v1",
        "Baseten, Model APIs, chat completions: https://docs.baseten.co/reference/inference-api/chat-completions",
        "BASETEN_API_KEY",
        Capabilities(_CHAT, reasoning=True),
    ),
    hosted(
        "cerebras",
        "https://api.cerebras.ai/v1",
        "Cerebras, OpenAI compatibility: https://inference-docs.cerebras.ai/resources/openai",
        "CEREBRAS_API_KEY",
        Capabilities(_NO_VECTORS, reasoning=True, images=False, developer_role=False),
    ),
    hosted(
        "cloudflare",
        None,
        "Cloudflare Workers AI, base_url = https://api.cloudflare.com/client/v4/accounts/ACCOUNT/ai/v1: "
        "https://developers.cloudflare.com/workers-ai/configuration/open-ai-compatibility/",
        "CLOUDFLARE_API_KEY",
        Capabilities(_NO_TEXT, developer_role=False),
    ),
    hosted(
        "dashscope",
        "https://dashscope-intl.aliyuncs.com/compatible-mode/v1",
        "Alibaba Cloud Model Studio, OpenAI compatibility (accounts in China: "
        "https://dashscope.aliyuncs.com/compatible-mode/v1; workspaces have addresses of their own): "
        "https://www.alibabacloud.com/help/en/model-studio/compatibility-of-openai-with-dashscope" + _BILLS_ON,
        "DASHSCOPE_API_KEY",
        Capabilities(_NO_TEXT, bills_after_abort=True, reasoning=True, developer_role=False),
    ),
    hosted(
        "databricks",
        None,
        "Databricks, querying foundation models, base_url = https://WORKSPACE/serving-endpoints: "
        "https://docs.databricks.com/machine-learning/model-serving/score-foundation-models.html",
        "DATABRICKS_TOKEN",
        # Kong's changelog says of it that it takes no stream_options (AI Gateway 3.14.0.5).
        Capabilities(_ALL, stream_usage=False, max_tokens_only=True, developer_role=False),
    ),
    hosted(
        "deepinfra",
        "https://api.deepinfra.com/v1/openai",
        "DeepInfra, OpenAI API: https://deepinfra.com/docs/openai_api",
        "DEEPINFRA_API_KEY",
        Capabilities(_ALL),
    ),
    hosted(
        "deepseek",
        "https://api.deepseek.com/v1",
        "DeepSeek, chat completion (text completions are under another address): "
        "https://api-docs.deepseek.com/api/create-chat-completion",
        "DEEPSEEK_API_KEY",
        Capabilities(_CHAT, reasoning=True, images=False, max_tokens_only=True, developer_role=False),
    ),
    hosted(
        "featherless",
        "https://api.featherless.ai/v1",
        "Featherless, API overview: https://featherless.ai/docs/api-overview-and-common-options" + _BILLS_ON,
        "FEATHERLESS_API_KEY",
        Capabilities(bills_after_abort=True),
    ),
    hosted(
        "fireworks",
        "https://api.fireworks.ai/inference/v1",
        "Fireworks, OpenAI compatibility: https://docs.fireworks.ai/tools-sdks/openai-compatibility",
        "FIREWORKS_API_KEY",
        Capabilities(_ALL, reasoning=True),
    ),
    hosted(
        "groq",
        "https://api.groq.com/openai/v1",
        "Groq, OpenAI compatibility: https://console.groq.com/docs/openai" + _BILLS_ON,
        "GROQ_API_KEY",
        Capabilities(_CHAT, bills_after_abort=True, reasoning=True),
    ),
    hosted(
        "hyperbolic",
        "https://api.hyperbolic.xyz/v1",
        "Hyperbolic, inference API: https://docs.hyperbolic.xyz/docs/rest-api",
        "HYPERBOLIC_API_KEY",
        Capabilities(_NO_VECTORS),
    ),
    hosted(
        "inception",
        "https://api.inceptionlabs.ai/v1",
        "Inception, Mercury: https://docs.inceptionlabs.ai/",
        "INCEPTION_API_KEY",
        Capabilities(_CHAT, images=False),
    ),
    hosted(
        "minimax",
        "https://api.minimax.io/v1",
        "MiniMax, OpenAI API: https://platform.minimax.io/docs/api-reference/text-openai-api" + _BILLS_ON,
        "MINIMAX_API_KEY",
        Capabilities(_CHAT, bills_after_abort=True, reasoning=True),
    ),
    hosted(
        "moonshot",
        "https://api.moonshot.ai/v1",
        "Moonshot, API overview (accounts in China: https://api.moonshot.cn/v1): https://platform.moonshot.ai/docs",
        "MOONSHOT_API_KEY",
        Capabilities(_CHAT, reasoning=True, developer_role=False),
    ),
    hosted(
        "nebius",
        "https://api.tokenfactory.nebius.com/v1",
        "Nebius Token Factory, API introduction: https://docs.tokenfactory.nebius.com/api-reference/introduction"
        + _BILLS_ON,
        "NEBIUS_API_KEY",
        Capabilities(_NO_TEXT, bills_after_abort=True, reasoning=True),
    ),
    hosted(
        "novita",
        "https://api.novita.ai/openai/v1",
        "Novita, LLM API: https://novita.ai/docs/guides/llm-api",
        "NOVITA_API_KEY",
        Capabilities(_ALL),
    ),
    hosted(
        "nvidia",
        "https://integrate.api.nvidia.com/v1",
        "NVIDIA NIM, LLM APIs: https://docs.api.nvidia.com/nim/reference/llm-apis",
        "NVIDIA_API_KEY",
        Capabilities(_NO_TEXT),
    ),
    hosted(
        "openrouter",
        "https://openrouter.ai/api/v1",
        "OpenRouter, API reference: https://openrouter.ai/docs/api-reference/overview, and "
        "https://openrouter.ai/docs/api_reference/embeddings",
        "OPENROUTER_API_KEY",
        Capabilities(_ALL, reasoning=True),
    ),
    hosted(
        "qianfan",
        "https://qianfan.baidubce.com/v2",
        "Baidu Qianfan, inference API V2: https://cloud.baidu.com/doc/qianfan/s/qmh4sv5vi",
        "QIANFAN_API_KEY",
        Capabilities(_NO_TEXT, developer_role=False),
    ),
    hosted(
        "sambanova",
        "https://api.sambanova.ai/v1",
        "SambaNova, OpenAI compatibility: https://docs.sambanova.ai/docs/en/features/openai-compatibility" + _BILLS_ON,
        "SAMBANOVA_API_KEY",
        Capabilities(_ALL, bills_after_abort=True),
    ),
    hosted(
        "siliconflow",
        "https://api.siliconflow.com/v1",
        "SiliconFlow, chat completions (accounts in China: https://api.siliconflow.cn/v1): "
        "https://docs.siliconflow.com/en/api-reference/chat-completions/chat-completions",
        "SILICONFLOW_API_KEY",
        Capabilities(_NO_TEXT, reasoning=True, max_tokens_only=True),
    ),
    hosted(
        "together",
        "https://api.together.xyz/v1",
        "Together, OpenAI compatibility: https://docs.together.ai/docs/openai-api-compatibility",
        "TOGETHER_API_KEY",
        Capabilities(_ALL, reasoning=True),
    ),
    hosted(
        "upstage",
        "https://api.upstage.ai/v1",
        "Upstage, chat: https://developers.upstage.ai/docs/apis/chat, and the console's own example: "
        "https://console.upstage.ai/api-keys?api=chat-reasoning",
        "UPSTAGE_API_KEY",
        Capabilities(_NO_TEXT),
    ),
    hosted(
        "vercel",
        "https://ai-gateway.vercel.sh/v1",
        "Vercel AI Gateway: https://vercel.com/docs/ai-gateway/sdks-and-apis/openai-chat-completions",
        "AI_GATEWAY_API_KEY",
        Capabilities(_NO_TEXT, reasoning=True),
    ),
    hosted(
        "volcengine",
        "https://ark.cn-beijing.volces.com/api/v3",
        "Volcengine Ark: https://www.volcengine.com/docs/82379/1330310",
        "ARK_API_KEY",
        Capabilities(_NO_TEXT, reasoning=True, developer_role=False),
    ),
    hosted(
        "xai",
        "https://api.x.ai/v1",
        "xAI, REST API reference: https://docs.x.ai/developers/rest-api-reference",
        "XAI_API_KEY",
        Capabilities(_CHAT, reasoning=True),
    ),
    hosted(
        "zai",
        "https://api.z.ai/api/paas/v4",
        "Z.AI, chat completion: https://docs.z.ai/api-reference/llm/chat-completion",
        "ZAI_API_KEY",
        Capabilities(_CHAT, reasoning=True, max_tokens_only=True, developer_role=False),
    ),
    hosted(
        "zhipu",
        "https://open.bigmodel.cn/api/paas/v4",
        "Zhipu (BigModel), chat completion: https://docs.bigmodel.cn/api-reference",
        "ZHIPUAI_API_KEY",
        Capabilities(_NO_TEXT, reasoning=True, max_tokens_only=True, developer_role=False),
    ),
)
"""Services that someone else runs."""
