"""What a request says in the words of Converse, one wire for all models at Bedrock.

Converse wants blocks that are not blank, turns that alternate, and the tools named for as long as the conversation speaks of
any. A schema for the answer is kept by a tool that the model is made to call, whose input is then the answer's text.
Source: https://docs.aws.amazon.com/bedrock/latest/APIReference/API_runtime_Converse.html
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from trio_ai_proxy.chat.fields import settle_fields, unsupported
from trio_ai_proxy.chat.prompt import Tool
from trio_ai_proxy.chat.reading import read_prompt
from trio_ai_proxy.errors import InvalidRequest
from trio_ai_proxy.providers.base import encode_body
from trio_ai_proxy.providers.bedrock_content import cache_point, turns_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from trio_ai_proxy.chat.fields import Fate
    from trio_ai_proxy.chat.prompt import Prompt, Schema, Turn
    from trio_ai_proxy.chat.request import ChatRequest
    from trio_ai_proxy.providers.bedrock_models import Model

# Converse's own fields that clients send beside OpenAI's, and those of single models.
_OF_CONVERSE = (
    "guardrailConfig", "additionalModelResponseFieldPaths", "performanceConfig", "promptVariables", "requestMetadata",
    "serviceTier", "outputConfig",
)  # fmt: skip
_OF_MODELS = ("top_k", "thinking", "output_config", "reasoningConfig", "reasoning_config", "anthropic_beta")
_ADDITIONAL = "additionalModelRequestFields"

FATES: Mapping[str, Fate] = {
    "messages": "translated",
    "prompt": "translated",
    "max_tokens": "translated",
    "max_completion_tokens": "translated",
    "temperature": "translated",
    "top_p": "translated",
    "stop": "translated",
    "tools": "translated",
    "tool_choice": "translated",
    "functions": "translated",
    "function_call": "translated",
    "parallel_tool_calls": "translated",
    "response_format": "emulated",
    "reasoning_effort": "translated",
    "metadata": "translated",
    "service_tier": "translated",
    **dict.fromkeys((*_OF_CONVERSE, *_OF_MODELS, _ADDITIONAL), "passed"),
}
"""What becomes of the fields of a chat completion, or a completion. `parallel_tool_calls` and `reasoning_effort` have words
at some models only, and are unsupported at the others."""

_ANSWER_TOOL = "json_answer"
_JSON_ONLY = "Answer with a single JSON object and nothing else: no prose before or after it, and no code fence."
_TIERS = ("default", "flex", "priority")
_METADATA = re.compile(r"[a-zA-Z0-9\s:_@$#=/+,\-.]{0,256}").fullmatch
_NO_PARAMETERS: dict[str, Any] = {"type": "object", "properties": {}}


def converse(request: ChatRequest, model: Model, *, kind: str) -> tuple[bytes, tuple[str, ...]]:
    """The body for a request, and the names of the fields that are not said in it. Raises `InvalidRequest`."""
    prompt = read_prompt(request)
    fields = request.fields
    thinking = _thinking(prompt, fields, model)
    wordless = set(_wordless(prompt, fields, model, thinking))
    dropped = settle_fields(
        request, {name: fate for name, fate in FATES.items() if name not in wordless}, provider=kind
    )
    loose = tuple(
        f"{tool.place}.function.strict" for tool in prompt.tools if tool.strict and not model.keeps_to_schemas
    )
    if loose and request.unsupported == "error":
        raise unsupported(loose[0], kind, "this model cannot be held to a tool's schema")
    system, messages = turns_of(prompt.turns, kind)
    if not messages:
        raise InvalidRequest("There must be a message that says something.", param="messages")
    answer_tool = answer_tool_of(request) if _wants_tool(prompt, model, thinking) else ""
    if prompt.response is not None and prompt.response.schema is None:
        system.append({"text": _JSON_ONLY})
    body: dict[str, Any] = {
        "messages": messages,
        "system": system,
        "inferenceConfig": _inference(prompt),
        "toolConfig": _tool_config(prompt, model, answer_tool),
        _ADDITIONAL: _additional(prompt, fields, model, thinking),
        **_common(prompt, fields, wordless),
        **{name: fields[name] for name in _OF_CONVERSE if fields.get(name) is not None},
    }
    if (
        prompt.response is not None
        and prompt.response.schema is not None
        and not _asks_by_tool(prompt, model, thinking)
    ):
        body.setdefault("outputConfig", _output_config(prompt.response))
    return encode_body({name: value for name, value in body.items() if value not in ({}, [], None)}), dropped + loose


def answer_tool_of(request: ChatRequest) -> str:
    """The name of the tool whose input is the answer's text, "" where the request has no schema for it. It is none of the
    client's own."""
    form = request.fields.get("response_format")
    if not isinstance(form, dict) or form.get("type") != "json_schema":
        return ""
    tools = request.fields.get("tools")
    functions = (tool.get("function") for tool in tools if isinstance(tool, dict)) if isinstance(tools, list) else ()
    taken = {function.get("name") for function in functions if isinstance(function, dict)}
    name = _ANSWER_TOOL
    while name in taken:
        name += "_"
    return name


# -- what this model has no word for ----------------------------------------------------------------------------------


def _wordless(
    prompt: Prompt, fields: Mapping[str, Any], model: Model, thinking: dict[str, object] | None
) -> Iterable[str]:
    if thinking is None:
        yield "reasoning_effort"
    if prompt.parallel_tool_calls is False and prompt.tools and model.family != "claude":
        yield "parallel_tool_calls"
    tier = fields.get("service_tier")
    if tier not in (*_TIERS, "auto"):
        yield "service_tier"
    if len(prompt.metadata) > 16 or not all(map(_METADATA, (*prompt.metadata, *prompt.metadata.values()))):
        yield "metadata"


def _thinking(prompt: Prompt, fields: Mapping[str, Any], model: Model) -> dict[str, object] | None:
    """What `reasoning_effort` is for this model; {} if there is nothing to say, None if it cannot be said."""
    effort = prompt.reasoning_effort
    if effort is None or any(
        fields.get(name) is not None for name in _OF_MODELS if name not in ("top_k", "anthropic_beta")
    ):
        return {}
    thinking = model.thinking(effort, prompt.max_tokens)
    if thinking and model.family == "claude":
        # Claude does not think when it is made to call a tool, nor beside most ways to sample.
        forbidden = _forces_a_tool(prompt) or _samples(prompt, fields)
        if model.adapts_its_thinking:
            return {"output_config": thinking["output_config"]} if forbidden else thinking
        if forbidden or _goes_on_without_thoughts(prompt.turns):
            return None
    return thinking


def _forces_a_tool(prompt: Prompt) -> bool:
    return prompt.tool_choice is not None and prompt.tool_choice.mode in ("required", "named")


def _samples(prompt: Prompt, fields: Mapping[str, Any]) -> bool:
    return (
        prompt.temperature not in (None, 1)
        or (prompt.top_p is not None and prompt.top_p < 0.95)
        or fields.get("top_k") is not None
    )


def _goes_on_without_thoughts(turns: tuple[Turn, ...]) -> bool:
    """Whether the answer is the rest of a turn that has begun without thinking: a prefill, or calls whose thoughts a client
    that knows OpenAI alone has not kept. With a fixed budget Claude wants them back."""
    last = next((turn for turn in reversed(turns) if turn.role != "tool"), None)
    if last is None or last.role != "assistant":
        return False
    return not any(thought.signature or thought.redacted for thought in last.thoughts)


# -- an answer in a given form ----------------------------------------------------------------------------------------


def _asks_by_tool(prompt: Prompt, model: Model, thinking: dict[str, object] | None) -> bool:
    """Whether the answer's form is kept by a tool. Models that cannot be made to call one, or would not think then, are
    given the schema itself."""
    return model.forces_tools and "thinking" not in (thinking or {})


def _wants_tool(prompt: Prompt, model: Model, thinking: dict[str, object] | None) -> bool:
    if prompt.response is None or prompt.response.schema is None or not _asks_by_tool(prompt, model, thinking):
        return False
    return not _forces_a_tool(prompt)  # who must call one of the client's tools gives no answer in text


def _output_config(schema: Schema) -> dict[str, Any]:
    said = {"schema": encode_body(schema.schema or {}).decode(), "name": schema.name, "description": schema.description}
    structure = {"jsonSchema": {name: value for name, value in said.items() if value}}
    return {"textFormat": {"type": "json_schema", "structure": structure}}


# -- tools ------------------------------------------------------------------------------------------------------------


def _tool_config(prompt: Prompt, model: Model, answer_tool: str) -> dict[str, Any]:
    mode = prompt.tool_choice.mode if prompt.tool_choice is not None else ""
    tools = [] if mode == "none" else [block for tool in prompt.tools for block in _tool(tool, model)]
    choice: dict[str, Any] = {}
    if mode == "named" and prompt.tool_choice is not None:
        choice = {"tool": {"name": prompt.tool_choice.name}}
    elif mode == "required":
        choice = {"any": {}}
    elif mode == "auto" and prompt.parallel_tool_calls is not False:
        choice = {"auto": {}}
    if answer_tool and prompt.response is not None:
        choice = {"any": {}} if tools else {"tool": {"name": answer_tool}}
        tools.append(_answer_tool(answer_tool, prompt.response))
    if not tools:
        # A conversation that speaks of calls is not taken without tools. Converse has no "none": they are there to be read.
        called = {call.name: call for turn in prompt.turns for call in turn.calls}
        known = {tool.name: tool for tool in prompt.tools}
        tools = [block for name in called for block in _tool(known.get(name, Tool(name)), model)]
        choice = {}
    if not tools:
        return {}
    return {"tools": tools, "toolChoice": choice} if choice else {"tools": tools}


def _tool(tool: Tool, model: Model) -> list[dict[str, Any]]:
    spec: dict[str, Any] = {"name": tool.name, "inputSchema": {"json": _parameters(tool.parameters)}}
    if tool.description.strip():
        spec["description"] = tool.description
    if tool.strict and model.keeps_to_schemas:
        spec["strict"] = True
    blocks: list[dict[str, Any]] = [{"toolSpec": spec}]
    if tool.cache is not None:
        blocks.append(cache_point(tool.cache))
    return blocks


def _parameters(schema: dict[str, Any] | None) -> dict[str, Any]:
    if not schema:
        return _NO_PARAMETERS
    return schema if "type" in schema else {"type": "object", **schema}


def _answer_tool(name: str, schema: Schema) -> dict[str, Any]:
    said = schema.description.strip() or "Give the answer."
    return {
        "toolSpec": {
            "name": name,
            "description": f"{said} Call this to answer; the input is the whole answer.",
            "inputSchema": {"json": _parameters(schema.schema)},
        }
    }


# -- everything else --------------------------------------------------------------------------------------------------


def _inference(prompt: Prompt) -> dict[str, Any]:
    said = {
        "maxTokens": prompt.max_tokens,
        "temperature": prompt.temperature,
        "topP": prompt.top_p,
        "stopSequences": [text for text in prompt.stop if text] or None,
    }
    return {name: value for name, value in said.items() if value is not None}


def _additional(
    prompt: Prompt, fields: Mapping[str, Any], model: Model, thinking: dict[str, object] | None
) -> dict[str, Any]:
    given = fields.get(_ADDITIONAL)
    if given is not None and not isinstance(given, dict):
        raise InvalidRequest(f'"{_ADDITIONAL}" must be an object.', param=_ADDITIONAL)
    said: dict[str, Any] = dict(thinking or {})
    for name in _OF_MODELS:
        if fields.get(name) is not None:
            said[name] = fields[name]
    if model.family == "nova" and "top_k" in said:
        said["inferenceConfig"] = {"topK": said.pop("top_k")}
    if prompt.parallel_tool_calls is False and prompt.tools and model.family == "claude":
        forced = _forces_a_tool(prompt)
        # Bedrock puts this together with `toolChoice`; where that is not said, the kind must be.
        said["tool_choice"] = {**({} if forced else {"type": "auto"}), "disable_parallel_tool_use": True}
    return {**said, **(given or {})}


def _common(prompt: Prompt, fields: Mapping[str, Any], wordless: set[str]) -> dict[str, Any]:
    said: dict[str, Any] = {}
    if prompt.metadata and "metadata" not in wordless:
        said["requestMetadata"] = prompt.metadata
    if fields.get("service_tier") in _TIERS:
        said["serviceTier"] = {"type": fields["service_tier"]}
    return said
