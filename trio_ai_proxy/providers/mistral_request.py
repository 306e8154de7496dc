"""A request in Mistral's words, which are OpenAI's but for some. The service refuses every field that it does not know, so
what goes out is written anew and holds nothing else.

A completion that has text after the gap (`suffix`) is one of fill-in-the-middle; any other is a chat of one user's message.

Source: https://docs.mistral.ai/api/endpoint/chat, …/fim, …/embeddings and …/classifiers
"""

from __future__ import annotations

import re
from hashlib import sha256
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from trio_ai_proxy.chat.fields import settle_fields
from trio_ai_proxy.chat.prompt import AudioPart, FilePart, ImagePart, TextPart
from trio_ai_proxy.chat.reading import read_inputs, read_prompt
from trio_ai_proxy.errors import InvalidRequest

if TYPE_CHECKING:
    from collections.abc import Mapping

    from trio_ai_proxy.chat.fields import Fate
    from trio_ai_proxy.chat.prompt import Call, Part, Prompt, Schema, Thought, Tool, Turn
    from trio_ai_proxy.chat.request import ChatRequest

Body = dict[str, Any]

# Mistral's own fields, which stand beside OpenAI's and mean the same to whoever sends them.
_CHAT_EXTRAS = (
    "random_seed", "safe_prompt", "prompt_mode", "guardrails", "min_tokens", "top_k", "repetition_penalty",
)  # fmt: skip
_FIM_EXTRAS = ("random_seed", "min_tokens")
_EMBEDDING_EXTRAS = ("output_dtype",)

_SHARED: dict[str, Fate] = {
    "temperature": "translated",
    "top_p": "translated",
    "max_tokens": "translated",
    "stop": "translated",
    "seed": "translated",
}

FATES: Mapping[str, Fate] = MappingProxyType(
    {
        "messages": "translated",
        **_SHARED,
        "frequency_penalty": "translated",
        "presence_penalty": "translated",
        "n": "translated",
        "max_completion_tokens": "translated",
        "tools": "translated",
        "functions": "translated",
        "tool_choice": "translated",
        "function_call": "translated",
        "parallel_tool_calls": "translated",
        "response_format": "translated",
        "reasoning_effort": "translated",
        "logprobs": "translated",
        "top_logprobs": "translated",
        "prediction": "translated",
        "metadata": "translated",
        "prompt_cache_key": "translated",
        "service_tier": "translated",
        **dict.fromkeys(_CHAT_EXTRAS, "passed"),
    }
)
"""What becomes of a chat's fields."""

TEXT_FATES: Mapping[str, Fate] = MappingProxyType(
    {
        "prompt": "emulated",
        **_SHARED,
        "frequency_penalty": "translated",
        "presence_penalty": "translated",
        "n": "translated",
        "suffix": "translated",
        **dict.fromkeys(_CHAT_EXTRAS, "passed"),
    }
)
"""What becomes of a completion's fields."""

FIM_FATES: Mapping[str, Fate] = MappingProxyType(
    {"prompt": "translated", "suffix": "translated", **_SHARED, **dict.fromkeys(_FIM_EXTRAS, "passed")}
)
"""The same, for a completion with a `suffix`."""

EMBEDDING_FATES: Mapping[str, Fate] = MappingProxyType(
    {
        "input": "translated",
        "dimensions": "translated",
        "encoding_format": "emulated",
        **dict.fromkeys(_EMBEDDING_EXTRAS, "passed"),
    }
)
"""What becomes of the fields of a request for embeddings. Numbers are asked for; base64 is made of them here."""

MODERATION_FATES: Mapping[str, Fate] = MappingProxyType({"input": "passed"})
"""What becomes of the fields of a request for a judgement."""

_TIERS: Mapping[str, str] = {"auto": "auto", "default": "standard_only", "standard_only": "standard_only"}


def fills_in(request: ChatRequest) -> bool:
    """Whether a completion has a text to end before."""
    return request.operation == "completions" and bool(request.fields.get("suffix"))


def chat_body(request: ChatRequest, *, model: str, stream: bool, provider: str) -> tuple[Body, tuple[str, ...]]:
    """The body for `/chat/completions`, and the names of the fields that it does not say. Raises `InvalidRequest`."""
    prompt = read_prompt(request)
    dropped = settle_fields(request, _fates(request), provider=provider)
    last = len(prompt.turns) - 1
    body: Body = {
        "model": model,
        "messages": [_message(turn, is_last=position == last) for position, turn in enumerate(prompt.turns)],
        "stream": stream,
        **_sampling(prompt),
        "frequency_penalty": prompt.frequency_penalty,
        "presence_penalty": prompt.presence_penalty,
        "n": prompt.n if prompt.n > 1 else None,
    }
    if request.operation == "chat":
        body |= _of_chats_alone(request, prompt)
    return _with_extras(body, request, _CHAT_EXTRAS), dropped


def fim_body(request: ChatRequest, *, model: str, stream: bool, provider: str) -> tuple[Body, tuple[str, ...]]:
    """The body for `/fim/completions`, and the names of the fields that it does not say. Raises `InvalidRequest`."""
    prompt = read_prompt(request)
    dropped = settle_fields(request, FIM_FATES, provider=provider)
    suffix = request.fields["suffix"]
    if not isinstance(suffix, str):
        raise InvalidRequest('"suffix" must be a text.', param="suffix")
    body: Body = {"model": model, "prompt": prompt.turns[0].text(), "suffix": suffix, "stream": stream}
    return _with_extras({**body, **_sampling(prompt)}, request, _FIM_EXTRAS), dropped


def embedding_body(request: ChatRequest, *, model: str, provider: str) -> tuple[Body, tuple[str, ...]]:
    """The body for `/embeddings`, and the names of the fields that it does not say. Raises `InvalidRequest`."""
    dropped = settle_fields(request, EMBEDDING_FATES, provider=provider)
    dimensions = request.fields.get("dimensions")
    if dimensions is not None and (isinstance(dimensions, bool) or not isinstance(dimensions, int)):
        raise InvalidRequest('"dimensions" must be a whole number.', param="dimensions")
    body: Body = {
        "model": model,
        "input": list(read_inputs(request)),
        "encoding_format": "float",
        "output_dimension": dimensions,
    }
    return _with_extras(body, request, _EMBEDDING_EXTRAS), dropped


def moderation_body(request: ChatRequest, *, model: str, provider: str) -> tuple[Body, tuple[str, ...]]:
    """The body for `/moderations`, and the names of the fields that it does not say. Raises `InvalidRequest`."""
    dropped = settle_fields(request, MODERATION_FATES, provider=provider)
    return {"model": model, "input": list(read_inputs(request))}, dropped


def begun_text(request: ChatRequest) -> str:
    """The text with which the answer is to begin, "" if there is none: the assistant's last message, where it is the last of
    all. Mistral says it again at the beginning of its answer."""
    if request.operation != "chat":
        return ""
    turns = read_prompt(request).turns
    return turns[-1].text() if turns and _is_begun(turns[-1]) else ""


def _is_begun(turn: Turn) -> bool:
    return turn.role == "assistant" and not turn.calls and bool(turn.text())


def _fates(request: ChatRequest) -> Mapping[str, Fate]:
    if request.operation == "completions":
        return TEXT_FATES
    if request.fields.get("service_tier") in (None, *_TIERS):
        return FATES
    return {**FATES, "service_tier": "unsupported"}


def _sampling(prompt: Prompt) -> Body:
    return {
        "temperature": prompt.temperature,
        "top_p": prompt.top_p,
        "max_tokens": prompt.max_tokens,
        "stop": list(prompt.stop) or None,
        "random_seed": prompt.seed,
    }


def _of_chats_alone(request: ChatRequest, prompt: Prompt) -> Body:
    prediction, cache_key = request.fields.get("prediction"), request.fields.get("prompt_cache_key")
    tier = request.fields.get("service_tier")
    return {
        "tools": [_tool(tool) for tool in prompt.tools] or None,
        "tool_choice": _tool_choice(prompt),
        "parallel_tool_calls": prompt.parallel_tool_calls if prompt.tools else None,
        "response_format": _response_format(prompt.response) if prompt.response is not None else None,
        "reasoning_effort": prompt.reasoning_effort,
        "logprobs": prompt.logprobs or None,
        "top_logprobs": prompt.top_logprobs,
        "prediction": _prediction(prediction) if prediction is not None else None,
        "metadata": prompt.metadata or None,
        "prompt_cache_key": cache_key,
        "service_tier": _TIERS.get(tier) if isinstance(tier, str) else None,
    }


def _with_extras(body: Body, request: ChatRequest, names: tuple[str, ...]) -> Body:
    said = {name: value for name in names if (value := request.fields.get(name)) is not None}
    return {**{name: value for name, value in body.items() if value is not None}, **said}


# -- messages ---------------------------------------------------------------------------------------------------------


def _message(turn: Turn, *, is_last: bool) -> Body:
    if turn.role == "tool":
        message: Body = {"role": "tool", "tool_call_id": call_id(turn.call_id), "content": _content(turn)}
        if turn.name:
            message["name"] = turn.name
        return message
    if turn.role != "assistant":
        return {"role": turn.role, "content": _content(turn)}
    message = {"role": "assistant", "content": _spoken(turn)}
    if turn.calls:
        message["tool_calls"] = [_call(call) for call in turn.calls]
    if is_last and _is_begun(turn):
        message["prefix"] = True  # otherwise the service refuses to answer an answer
    return message


def _spoken(turn: Turn) -> str | list[Body]:
    thoughts = [_thought(thought) for thought in turn.thoughts if _is_ours(thought)]
    if not thoughts:
        return _content(turn) if turn.parts else turn.refusal
    return thoughts + [_part(part) for part in turn.parts]


# What another provider has sealed is not for this one; a client may have come here from there within a conversation.
SEAL = "mistral:"


def _is_ours(thought: Thought) -> bool:
    return bool(thought.text) and (not thought.signature or thought.signature.startswith(SEAL))


def _thought(thought: Thought) -> Body:
    block: Body = {"type": "thinking", "thinking": [{"type": "text", "text": thought.text}]}
    if thought.signature:
        block["signature"] = thought.signature.removeprefix(SEAL)
    return block


def _content(turn: Turn) -> str | list[Body]:
    if len(turn.parts) < 2 and all(isinstance(part, TextPart) for part in turn.parts):
        return turn.text()
    return [_part(part) for part in turn.parts]


def _part(part: Part) -> Body:
    match part:
        case TextPart():
            return {"type": "text", "text": part.text}
        case ImagePart():
            image: Body = {"url": part.url or f"data:{part.media_type};base64,{part.data}"}
            if part.detail:
                image["detail"] = part.detail
            return {"type": "image_url", "image_url": image}
        case AudioPart():
            return {"type": "input_audio", "input_audio": part.data}
        case FilePart():
            return _file(part)


def _file(part: FilePart) -> Body:
    if part.file_id:
        return {"type": "file", "file_id": part.file_id}
    document: Body = {
        "type": "document_url",
        "document_url": part.url or f"data:{part.media_type};base64,{part.data}",
    }
    if part.filename:
        document["document_name"] = part.filename
    return document


def _call(call: Call) -> Body:
    function = {"name": call.name, "arguments": call.arguments or "{}"}
    return {"id": call_id(call.id), "type": "function", "function": function}


_CALL_ID = re.compile(r"[a-zA-Z0-9]{9}")
_DIGITS = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"


def call_id(name: str) -> str:
    """The id of a call as Mistral wants it, nine letters and digits: its own ids as they are, those of others always the same
    for the same."""
    if _CALL_ID.fullmatch(name):
        return name
    number = int.from_bytes(sha256(name.encode("utf-8", "surrogatepass")).digest()[:8])
    letters = []
    for _ in range(9):
        number, digit = divmod(number, len(_DIGITS))
        letters.append(_DIGITS[digit])
    return "".join(letters)


# -- tools ------------------------------------------------------------------------------------------------------------


def _tool(tool: Tool) -> Body:
    function: Body = {"name": tool.name, "parameters": tool.parameters or {"type": "object", "properties": {}}}
    if tool.description:
        function["description"] = tool.description
    if tool.strict is not None:
        function["strict"] = tool.strict
    return {"type": "function", "function": function}


def _tool_choice(prompt: Prompt) -> str | Body | None:
    choice = prompt.tool_choice
    if choice is None or not prompt.tools:
        return None
    if choice.mode == "named":
        return {"type": "function", "function": {"name": choice.name}}
    return "any" if choice.mode == "required" else choice.mode


def _response_format(schema: Schema) -> Body:
    if schema.schema is None:
        return {"type": "json_object"}
    described: Body = {"name": schema.name or "answer", "schema": schema.schema}
    if schema.description:
        described["description"] = schema.description
    if schema.strict is not None:
        described["strict"] = schema.strict
    return {"type": "json_schema", "json_schema": described}


def _prediction(value: Any) -> Body:
    """OpenAI's prediction is a text or a list of parts; Mistral's is a text."""
    content = value.get("content") if isinstance(value, dict) else None
    if isinstance(content, list):
        content = "".join(str(part.get("text") or "") for part in content if isinstance(part, dict))
    if not isinstance(content, str):
        raise InvalidRequest('"prediction" must be an object with "content".', param="prediction")
    return {"type": "content", "content": content}
