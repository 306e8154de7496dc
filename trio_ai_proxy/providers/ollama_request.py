"""An OpenAI request in Ollama's words: `/api/chat`, `/api/generate` for a completion, `/api/embed`.

Sampling goes into `options`, as do Ollama's own options where a client sends them beside OpenAI's fields. What was not said
is not sent: then the model's own defaults hold.

Source: https://docs.ollama.com/api/chat, https://docs.ollama.com/modelfile#valid-parameters-and-values, and for what OpenAI's
efforts are in Ollama's levels the server's own OpenAI endpoint: https://github.com/ollama/ollama/blob/main/openai/openai.go
"""

from __future__ import annotations

from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from trio_ai_proxy.chat.fields import Fate, settle_fields, unsupported
from trio_ai_proxy.chat.prompt import Call, ImagePart, Prompt, TextPart, Tool, Turn
from trio_ai_proxy.chat.reading import read_inputs, read_prompt
from trio_ai_proxy.errors import InvalidRequest

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from trio_ai_proxy.chat.request import ChatRequest

# Ollama's own options that clients may send beside OpenAI's fields; the rest they can put into `options`.
_OPTIONS = (
    "top_k", "min_p", "typical_p", "repeat_penalty", "repeat_last_n", "num_ctx", "num_keep", "num_batch", "num_gpu",
    "num_thread", "main_gpu", "use_mmap",
)  # fmt: skip
_ON_TOP = ("keep_alive", "truncate", "think", "format")
_ON_TOP_OF_CHAT = (*_ON_TOP, "shift")
_ON_TOP_OF_TEXT = (*_ON_TOP_OF_CHAT, "system", "template", "raw", "context", "images")
_ON_TOP_OF_EMBEDDINGS = ("keep_alive", "truncate")


def _fates(translated: tuple[str, ...], passed: tuple[str, ...], **others: Fate) -> Mapping[str, Fate]:
    fates: dict[str, Fate] = dict.fromkeys(translated, "translated")
    return MappingProxyType({**fates, **dict.fromkeys((*passed, "options", *_OPTIONS), "passed"), **others})


_SAMPLING = (
    "temperature", "top_p", "frequency_penalty", "presence_penalty", "stop", "seed", "max_tokens",
)  # fmt: skip

FATES: Mapping[str, Fate] = _fates(
    (
        "messages", *_SAMPLING, "max_completion_tokens", "tools", "functions", "response_format", "reasoning_effort",
        "logprobs", "top_logprobs",
    ),
    _ON_TOP_OF_CHAT,
    tool_choice="emulated",
    function_call="emulated",
)  # fmt: skip
"""What becomes of the fields of a chat. `tool_choice`: "auto" is what Ollama does, "none" leaves the tools out, and any other
is unsupported."""

TEXT_FATES: Mapping[str, Fate] = _fates(("prompt", *_SAMPLING, "suffix"), _ON_TOP_OF_TEXT)
"""What becomes of the fields of a completion."""

EMBEDDING_FATES: Mapping[str, Fate] = _fates(("input", "dimensions"), _ON_TOP_OF_EMBEDDINGS, encoding_format="emulated")
"""What becomes of the fields of a request for embeddings."""

_THINK: Mapping[str, bool | str] = {
    "none": False, "minimal": "low", "low": "low", "medium": "medium", "high": "high", "xhigh": "max",
}  # fmt: skip


def chat_body(request: ChatRequest, kind: str) -> tuple[dict[str, Any], tuple[str, ...]]:
    """The body for `/api/chat`, without `model` and `stream`; and the names of the fields that are not said in it.

    Raises `InvalidRequest`.
    """
    prompt = read_prompt(request)
    choice = prompt.tool_choice
    fates = FATES
    if choice is not None and choice.mode in ("required", "named"):
        fates = {name: fate for name, fate in FATES.items() if name not in ("tool_choice", "function_call")}
    dropped = settle_fields(request, fates, provider=kind)
    body: dict[str, Any] = {"messages": [_message(turn, kind) for turn in prompt.turns]}
    if prompt.tools and not (choice is not None and choice.mode == "none"):
        body["tools"] = [_tool(tool) for tool in prompt.tools]
    if prompt.response is not None:
        body["format"] = "json" if prompt.response.schema is None else prompt.response.schema
    if prompt.reasoning_effort is not None:
        body["think"] = _THINK[prompt.reasoning_effort]
    if prompt.logprobs:
        body["logprobs"] = True
        if prompt.top_logprobs:
            body["top_logprobs"] = prompt.top_logprobs
    return _complete(body, request, prompt, _ON_TOP_OF_CHAT), dropped


def text_body(request: ChatRequest, kind: str) -> tuple[dict[str, Any], tuple[str, ...]]:
    """The same for a completion, for `/api/generate`."""
    prompt = read_prompt(request)
    dropped = settle_fields(request, TEXT_FATES, provider=kind)
    body: dict[str, Any] = {"prompt": prompt.turns[0].text()}
    suffix = request.fields.get("suffix")
    if suffix is not None and not isinstance(suffix, str):
        raise InvalidRequest('"suffix" must be a text.', param="suffix")
    if suffix:
        body["suffix"] = suffix
    return _complete(body, request, prompt, _ON_TOP_OF_TEXT), dropped


def embeddings_body(request: ChatRequest, kind: str) -> tuple[dict[str, Any], tuple[str, ...]]:
    """The same for embeddings, for `/api/embed`."""
    inputs = read_inputs(request)
    dropped = settle_fields(request, EMBEDDING_FATES, provider=kind)
    body: dict[str, Any] = {"input": list(inputs)}
    dimensions = request.fields.get("dimensions")
    if dimensions is not None:
        if isinstance(dimensions, bool) or not isinstance(dimensions, int):
            raise InvalidRequest('"dimensions" must be a whole number.', param="dimensions")
        body["dimensions"] = dimensions
    return _complete(body, request, None, _ON_TOP_OF_EMBEDDINGS), dropped


def _complete(
    body: dict[str, Any], request: ChatRequest, prompt: Prompt | None, on_top: tuple[str, ...]
) -> dict[str, Any]:
    """`body` with the options, and with what the client says in Ollama's own words, which win over ours."""
    fields = request.fields
    given = fields.get("options")
    if given is not None and not isinstance(given, dict):
        raise InvalidRequest('"options" must be an object.', param="options")
    options = {name: fields[name] for name in _OPTIONS if fields.get(name) is not None}
    if prompt is not None:
        options |= dict(_sampling(prompt))
    options |= given or {}
    if options:
        body["options"] = options
    body.update((name, fields[name]) for name in on_top if fields.get(name) is not None)
    return body


def _sampling(prompt: Prompt) -> Iterator[tuple[str, Any]]:
    for name in ("temperature", "top_p", "frequency_penalty", "presence_penalty", "seed"):
        value = getattr(prompt, name)
        if value is not None:
            yield name, value
    if prompt.max_tokens is not None:
        yield "num_predict", prompt.max_tokens
    if prompt.stop:
        yield "stop", list(prompt.stop)


def _message(turn: Turn, kind: str) -> dict[str, Any]:
    """One message. Its images stand beside its text, not in it: Ollama has no word for their place."""
    message: dict[str, Any] = {"role": turn.role, "content": turn.text() or turn.refusal}
    images = []
    for part in turn.parts:
        if isinstance(part, TextPart):
            continue
        if not isinstance(part, ImagePart):
            raise unsupported(part.place, kind, "it takes text and images")
        if not part.data:
            raise unsupported(part.place, kind, "it takes images as base64 (a data URL), not by address")
        images.append(part.data)
    if images:
        message["images"] = images
    thinking = turn.reasoning or "".join(thought.text for thought in turn.thoughts)
    if thinking:
        message["thinking"] = thinking
    if turn.calls:
        message["tool_calls"] = [_call(call) for call in turn.calls]
    if turn.role == "tool":
        message["tool_call_id"] = turn.call_id
        if turn.name:
            message["tool_name"] = turn.name
    return message


def _call(call: Call) -> dict[str, Any]:
    return {"id": call.id, "function": {"name": call.name, "arguments": call.argument_object()}}


def _tool(tool: Tool) -> dict[str, Any]:
    function: dict[str, Any] = {"name": tool.name}
    if tool.description:
        function["description"] = tool.description
    function["parameters"] = tool.parameters or {"type": "object", "properties": {}}
    return {"type": "function", "function": function}
