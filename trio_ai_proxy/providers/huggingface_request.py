"""A request to a server of Hugging Face's: a chat in OpenAI's words, a completion in those of Text Generation Inference, and
texts for feature extraction.

Source: https://huggingface.co/docs/inference-providers/tasks/chat-completion, …/text-generation and …/feature-extraction
"""

from __future__ import annotations

from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from trio_ai_proxy.chat.fields import CHAT_FIELDS, settle_fields
from trio_ai_proxy.chat.reading import read_inputs, read_prompt

if TYPE_CHECKING:
    from collections.abc import Mapping

    from trio_ai_proxy.chat.fields import Fate
    from trio_ai_proxy.chat.request import ChatRequest

Body = dict[str, Any]

# The server's own parameters, which stand beside OpenAI's and mean the same to whoever sends them.
_TEXT_EXTRAS = (
    "adapter_id", "do_sample", "grammar", "repetition_penalty", "top_k", "truncate", "typical_p", "watermark",
)  # fmt: skip
_EMBEDDING_EXTRAS = ("normalize", "prompt_name", "truncate", "truncation_direction")

FATES: Mapping[str, Fate] = MappingProxyType(
    {**dict.fromkeys(CHAT_FIELDS, "passed"), "messages": "translated", "max_completion_tokens": "translated"}
)
"""What becomes of a chat's fields. They go on as they are, unknown ones as well: which of them are known depends on who serves
the model behind the router."""

TEXT_FATES: Mapping[str, Fate] = MappingProxyType(
    {
        "prompt": "translated",
        "temperature": "translated",
        "top_p": "translated",
        "frequency_penalty": "translated",
        "max_tokens": "translated",
        "stop": "translated",
        "seed": "translated",
        **dict.fromkeys(_TEXT_EXTRAS, "passed"),
    }
)
"""What becomes of a completion's fields."""

EMBEDDING_FATES: Mapping[str, Fate] = MappingProxyType(
    {"input": "translated", "encoding_format": "emulated", **dict.fromkeys(_EMBEDDING_EXTRAS, "passed")}
)
"""What becomes of the fields of a request for embeddings. The service gives numbers; base64 is made of them here."""


def chat_body(request: ChatRequest, *, model: str, stream: bool) -> Body:
    """The body for `/v1/chat/completions`."""
    body = dict(request.fields)
    body["model"] = model
    body["messages"] = [_message(message) for message in request.fields["messages"]]
    options = body.pop("stream_options", None)
    body["stream"] = stream
    if stream:
        body["stream_options"] = {**(options or {}), "include_usage": True}
    limit = body.pop("max_completion_tokens", None)  # which Text Generation Inference does not know
    if limit is not None:
        body["max_tokens"] = limit
    return body


def _message(message: dict[str, Any]) -> dict[str, Any]:
    # The models' own templates know no developer, and refuse one.
    return {**message, "role": "system"} if message.get("role") == "developer" else message


def text_body(request: ChatRequest, *, stream: bool, provider: str) -> tuple[Body, tuple[str, ...]]:
    """The body of a completion, and the names of the fields that it does not say. Raises `InvalidRequest`."""
    prompt = read_prompt(request)
    dropped = settle_fields(request, TEXT_FATES, provider=provider)
    parameters: Body = {
        "max_new_tokens": prompt.max_tokens,
        "temperature": prompt.temperature,
        "top_p": prompt.top_p,
        "frequency_penalty": prompt.frequency_penalty,
        "stop": list(prompt.stop) or None,
        "seed": prompt.seed,
        "details": True,  # without, there is no finish reason and no count of tokens
        "return_full_text": False,
    }
    if prompt.temperature == 0:  # the server takes what is above 0 alone; not to sample is what 0 means
        parameters |= {"temperature": None, "do_sample": False}
    if prompt.top_p is not None and prompt.top_p >= 1:
        parameters["top_p"] = None  # it takes what is below 1 alone; 1 is to leave nothing out
    said = {name: value for name in _TEXT_EXTRAS if (value := request.fields.get(name)) is not None}
    kept = {name: value for name, value in parameters.items() if value is not None}
    return {"inputs": prompt.turns[0].text(), "parameters": {**kept, **said}, "stream": stream}, dropped


def embedding_body(request: ChatRequest, *, provider: str) -> tuple[Body, tuple[str, ...]]:
    """The body for feature extraction, and the names of the fields that it does not say. Raises `InvalidRequest`."""
    dropped = settle_fields(request, EMBEDDING_FATES, provider=provider)
    said = {name: value for name in _EMBEDDING_EXTRAS if (value := request.fields.get(name)) is not None}
    return {"inputs": list(read_inputs(request)), **said}, dropped
