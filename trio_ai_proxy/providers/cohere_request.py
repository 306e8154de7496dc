"""A request in Cohere's words: version 2 of its chat, and its embeddings.

A completion is asked for as a chat of one user's message. What the two services have no word for is said by `FATES`,
`TEXT_FATES` and `EMBEDDING_FATES`, from which the documentation is made.

Source: https://docs.cohere.com/reference/chat and https://docs.cohere.com/reference/embed
"""

from __future__ import annotations

from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from trio_ai_proxy.chat.fields import settle_fields, unsupported
from trio_ai_proxy.chat.prompt import AudioPart, FilePart, ImagePart, TextPart
from trio_ai_proxy.chat.reading import read_inputs, read_prompt
from trio_ai_proxy.errors import InvalidRequest

if TYPE_CHECKING:
    from collections.abc import Mapping

    from trio_ai_proxy.chat.fields import Fate
    from trio_ai_proxy.chat.prompt import Part, Prompt, Tool, Turn
    from trio_ai_proxy.chat.request import ChatRequest

Body = dict[str, Any]

# Cohere's own fields of a chat, which stand beside OpenAI's and mean the same to whoever sends them.
_CHAT_EXTRAS = (
    "documents", "citation_options", "safety_mode", "k", "p", "stop_sequences", "thinking", "strict_tools", "priority",
)  # fmt: skip
_EMBEDDING_EXTRAS = ("input_type", "truncate", "priority")

_SHARED: dict[str, Fate] = {
    "temperature": "translated",
    "top_p": "translated",
    "frequency_penalty": "translated",
    "presence_penalty": "translated",
    "max_tokens": "translated",
    "stop": "translated",
    "seed": "translated",
    **dict.fromkeys(_CHAT_EXTRAS, "passed"),
}

FATES: Mapping[str, Fate] = MappingProxyType(
    {
        "messages": "translated",
        **_SHARED,
        "max_completion_tokens": "translated",
        "tools": "translated",
        "functions": "translated",
        "tool_choice": "translated",
        "function_call": "translated",
        "response_format": "translated",
        "reasoning_effort": "translated",
        "logprobs": "translated",
    }
)
"""What becomes of a chat's fields."""

TEXT_FATES: Mapping[str, Fate] = MappingProxyType({"prompt": "emulated", **_SHARED})
"""What becomes of a completion's fields."""

EMBEDDING_FATES: Mapping[str, Fate] = MappingProxyType(
    {
        "input": "translated",
        "dimensions": "translated",
        "encoding_format": "emulated",
        **dict.fromkeys(_EMBEDDING_EXTRAS, "passed"),
    }
)
"""What becomes of the fields of a request for embeddings. Numbers are asked for; base64 is made of them here."""


def chat_body(request: ChatRequest, *, model: str, stream: bool, provider: str) -> tuple[Body, tuple[str, ...]]:
    """The body for `/v2/chat`, and the names of the fields that it does not say. Raises `InvalidRequest`."""
    prompt = read_prompt(request)
    dropped = settle_fields(request, _fates(request, prompt), provider=provider)
    tools, tool_choice = _tools(prompt)
    body: Body = {
        "model": model,
        "messages": [_message(turn, provider) for turn in prompt.turns],
        "stream": stream,
        "temperature": prompt.temperature,
        "p": prompt.top_p,
        "frequency_penalty": prompt.frequency_penalty,
        "presence_penalty": prompt.presence_penalty,
        "max_tokens": prompt.max_tokens,
        "stop_sequences": list(prompt.stop) or None,
        "seed": prompt.seed,
        "tools": [_tool(tool) for tool in tools] or None,
        "tool_choice": tool_choice,
        "strict_tools": True if any(tool.strict for tool in tools) else None,
        "response_format": _response_format(prompt),
        "thinking": _THINKING.get(prompt.reasoning_effort or ""),
        "logprobs": prompt.logprobs or None if request.operation == "chat" else None,
    }
    return _with_extras(body, request, _CHAT_EXTRAS), dropped


def embedding_body(request: ChatRequest, *, model: str, provider: str) -> tuple[Body, tuple[str, ...]]:
    """The body for `/v2/embed`, and the names of the fields that it does not say. Raises `InvalidRequest`."""
    dropped = settle_fields(request, EMBEDDING_FATES, provider=provider)
    dimensions = request.fields.get("dimensions")
    if dimensions is not None and (isinstance(dimensions, bool) or not isinstance(dimensions, int)):
        raise InvalidRequest('"dimensions" must be a whole number.', param="dimensions")
    body: Body = {
        "model": model,
        "texts": list(read_inputs(request)),
        # The field is demanded, and OpenAI has no word for it. Documents are what is embedded most.
        "input_type": "search_document",
        "embedding_types": ["float"],
        "output_dimension": dimensions,
    }
    return _with_extras(body, request, _EMBEDDING_EXTRAS), dropped


def _fates(request: ChatRequest, prompt: Prompt) -> Mapping[str, Fate]:
    if request.operation == "completions":
        return TEXT_FATES
    if prompt.reasoning_effort is None or prompt.reasoning_effort in _THINKING:
        return FATES
    return {**FATES, "reasoning_effort": "unsupported"}  # it thinks, or it does not: there are no degrees


# The two degrees that Cohere's own OpenAI-compatible endpoint knows.
# Source: https://docs.cohere.com/docs/compatibility-api
_THINKING: Mapping[str, Body] = {"none": {"type": "disabled"}, "high": {"type": "enabled"}}


def _with_extras(body: Body, request: ChatRequest, names: tuple[str, ...]) -> Body:
    said = {name: value for name in names if (value := request.fields.get(name)) is not None}
    return {**{name: value for name, value in body.items() if value is not None}, **said}


def _message(turn: Turn, provider: str) -> Body:
    if turn.role == "tool":
        return {"role": "tool", "tool_call_id": turn.call_id, "content": _text_content(turn, provider)}
    if turn.role != "assistant":
        content = _content(turn, provider) if turn.role == "user" else _text_content(turn, provider)
        return {"role": turn.role, "content": content}
    message: Body = {"role": "assistant"}
    if turn.parts or turn.refusal:
        message["content"] = _text_content(turn, provider) if turn.parts else turn.refusal
    if turn.calls:
        plan = "".join(thought.text for thought in turn.thoughts)
        if plan:
            message["tool_plan"] = plan
        message["tool_calls"] = [
            {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": call.arguments or "{}"}}
            for call in turn.calls
        ]
    elif "content" not in message:
        message["content"] = ""
    return message


def _content(turn: Turn, provider: str) -> str | list[Body]:
    if all(isinstance(part, TextPart) for part in turn.parts):
        return _text_content(turn, provider)
    return [_part(part, provider) for part in turn.parts]


def _text_content(turn: Turn, provider: str) -> str | list[Body]:
    """One text as it is; several as blocks, so that what stood apart still stands apart."""
    if len(turn.parts) < 2 and all(isinstance(part, TextPart) for part in turn.parts):
        return turn.text()
    for part in turn.parts:
        if not isinstance(part, TextPart):
            raise unsupported(part.place, provider, f"a message of role {turn.role} takes text alone there")
    return [_part(part, provider) for part in turn.parts]


def _part(part: Part, provider: str) -> Body:
    match part:
        case TextPart():
            return {"type": "text", "text": part.text}
        case ImagePart():
            image: Body = {"url": part.url or f"data:{part.media_type};base64,{part.data}"}
            if part.detail:
                image["detail"] = part.detail
            return {"type": "image_url", "image_url": image}
        case AudioPart():
            raise unsupported(part.place, provider, "it does not hear")
        case FilePart():
            raise unsupported(part.place, provider, 'it takes documents as text, in "documents"')


def _tool(tool: Tool) -> Body:
    function: Body = {"name": tool.name, "parameters": tool.parameters or {"type": "object", "properties": {}}}
    if tool.description:
        function["description"] = tool.description
    return {"type": "function", "function": function}


def _tools(prompt: Prompt) -> tuple[tuple[Tool, ...], str | None]:
    """The tools to offer, and how much the model must use them. To name one is to offer no other and to demand a call."""
    choice = prompt.tool_choice
    if choice is None or choice.mode == "auto":
        return prompt.tools, None
    if choice.mode == "none":
        return prompt.tools, "NONE" if prompt.tools else None
    if choice.mode == "required":
        return prompt.tools, "REQUIRED"
    named = tuple(tool for tool in prompt.tools if tool.name == choice.name)
    if not named:
        raise InvalidRequest('"tool_choice" names a function that is not among the tools.', param="tool_choice")
    return named, "REQUIRED"


def _response_format(prompt: Prompt) -> Body | None:
    if prompt.response is None:
        return None
    if prompt.response.schema is None:
        return {"type": "json_object"}
    return {"type": "json_object", "json_schema": prompt.response.schema}
