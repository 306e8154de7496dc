"""An OpenAI request in Gemini's words.

Schemas go out as the client wrote them, in the fields that take JSON Schema (`parametersJsonSchema`,
`responseJsonSchema`): the older fields take a subset of OpenAPI's, and refuse the whole request for one keyword beside it.
Source: https://ai.google.dev/api/generate-content#v1beta.GenerationConfig, https://ai.google.dev/api/caching#Tool and, for
the effort of thinking, https://ai.google.dev/gemini-api/docs/openai#thinking
"""

from __future__ import annotations

import re
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from trio_ai_proxy.chat.fields import Fate, settle_fields, unsupported
from trio_ai_proxy.chat.reading import read_prompt
from trio_ai_proxy.errors import InvalidRequest
from trio_ai_proxy.providers.gemini_turns import Flavour, contents
from trio_ai_proxy.providers.loose import a_dict

if TYPE_CHECKING:
    from collections.abc import Mapping

    from trio_ai_proxy.chat.prompt import Prompt
    from trio_ai_proxy.chat.request import ChatRequest

_SAMPLING: dict[str, Fate] = {
    "temperature": "translated",
    "top_p": "translated",
    "frequency_penalty": "translated",
    "presence_penalty": "translated",
    "n": "translated",
    "stop": "translated",
    "max_tokens": "translated",
    "seed": "translated",
    # What Google's own endpoint of OpenAI's wire takes beside it, and what LiteLLM's clients send.
    "top_k": "passed",
    "safety_settings": "passed",
    "cached_content": "passed",
    "thinking_config": "passed",
    "extra_body": "passed",
    "thinking": "translated",
}

FATES: Mapping[str, Fate] = MappingProxyType(
    {
        "messages": "translated",
        **_SAMPLING,
        "max_completion_tokens": "translated",
        "tools": "translated",
        "tool_choice": "translated",
        "functions": "translated",
        "function_call": "translated",
        "response_format": "translated",
        "reasoning_effort": "translated",
        "logprobs": "translated",
        "top_logprobs": "translated",
        "web_search_options": "translated",
        "service_tier": "translated",
    }
)
"""What becomes of the fields of a chat."""

VERTEX_FATES: Mapping[str, Fate] = MappingProxyType({**FATES, "service_tier": "unsupported"})
"""The same at Vertex AI, which buys its tiers otherwise."""

TEXT_FATES: Mapping[str, Fate] = MappingProxyType({"prompt": "translated", **_SAMPLING})
"""What becomes of the fields of a completion, whose prompt is one message of the user."""

_SEED_BITS = 0x7FFFFFFF  # Gemini's seed has 32 bits and a sign
_TIERS = {"default": "standard", "flex": "flex", "priority": "priority"}
_BUDGETS = {"none": 0, "minimal": 1024, "low": 1024, "medium": 8192, "high": 24576, "xhigh": 24576}
_LEVELS = {"none": "MINIMAL", "minimal": "MINIMAL", "low": "LOW", "medium": "MEDIUM", "high": "HIGH", "xhigh": "HIGH"}


def generate_body(request: ChatRequest, flavour: Flavour, *, model: str) -> tuple[dict[str, Any], tuple[str, ...]]:
    """The body of `generateContent` for `request` to Gemini's `model`, and the names of the fields that are not said in it.
    Raises `InvalidRequest`."""
    prompt = read_prompt(request)
    fates = TEXT_FATES if request.operation == "completions" else FATES if flavour.service_tier else VERTEX_FATES
    dropped = list(settle_fields(request, fates, provider=flavour.kind))
    said, system = contents(prompt, flavour, model=model)
    _check_extra_body(request, flavour, dropped)
    body: dict[str, Any] = {"contents": said}
    if system is not None:
        body["systemInstruction"] = system
    _add_tools(body, request, prompt, flavour, dropped)
    config = _config(request, prompt)
    thinking = _thinking(request, prompt, model, flavour, dropped)
    if thinking:
        config["thinkingConfig"] = thinking
    if config:
        body["generationConfig"] = config
    google = _google(request)
    for name, native in (("safety_settings", "safetySettings"), ("cached_content", "cachedContent")):
        value = request.fields.get(name) or google.get(name)
        if value:
            body[native] = value
    if (
        flavour.service_tier
        and request.operation == "chat"
        and request.fields.get("service_tier") not in (None, "auto")
    ):
        tier = _TIERS.get(str(request.fields["service_tier"]))
        if tier is None:
            dropped.append("service_tier")
        else:
            body["serviceTier"] = tier
    return body, tuple(dropped)


def _config(request: ChatRequest, prompt: Prompt) -> dict[str, Any]:
    config: dict[str, Any] = {
        "temperature": prompt.temperature,
        "topP": prompt.top_p,
        "topK": request.fields.get("top_k"),
        "maxOutputTokens": prompt.max_tokens,
        "stopSequences": list(prompt.stop) or None,
        "candidateCount": prompt.n if prompt.n != 1 else None,
        "presencePenalty": prompt.presence_penalty,
        "frequencyPenalty": prompt.frequency_penalty,
        # Which numbers they are is of no account; that the same one is the same is.
        "seed": prompt.seed
        if prompt.seed is None or -_SEED_BITS <= prompt.seed <= _SEED_BITS
        else prompt.seed & _SEED_BITS,
    }
    if prompt.response is not None:
        config["responseMimeType"] = "application/json"
        config["responseJsonSchema"] = prompt.response.schema
    if prompt.logprobs and request.operation == "chat":
        config["responseLogprobs"] = True
        config["logprobs"] = prompt.top_logprobs
    return {name: value for name, value in config.items() if value is not None}


def _add_tools(
    body: dict[str, Any], request: ChatRequest, prompt: Prompt, flavour: Flavour, dropped: list[str]
) -> None:
    tools: list[dict[str, Any]] = []
    choice = prompt.tool_choice
    if prompt.tools:
        declarations = []
        for tool in prompt.tools:
            declaration: dict[str, Any] = {"name": tool.name}
            if tool.description:
                declaration["description"] = tool.description
            if tool.parameters is not None:
                declaration["parametersJsonSchema"] = tool.parameters
            declarations.append(declaration)
        tools.append({"functionDeclarations": declarations})
    elif choice is not None and choice.mode in ("required", "named"):
        raise InvalidRequest('"tool_choice" asks for a call, and there are no "tools".', param="tool_choice")
    search = request.fields.get("web_search_options") if request.operation == "chat" else None
    if isinstance(search, dict):
        for name, value in search.items():
            place = f"web_search_options.{name}"
            if value is None:
                continue
            if request.unsupported == "error" or (request.unsupported == "auto" and name != "search_context_size"):
                raise unsupported(place, flavour.kind)
            dropped.append(place)
        tools.append({"googleSearch": {}})
    if tools:
        body["tools"] = tools
    if prompt.tools and choice is not None and choice.mode != "auto":
        calling: dict[str, Any] = {"mode": "NONE" if choice.mode == "none" else "ANY"}
        if choice.mode == "named":
            calling["allowedFunctionNames"] = [choice.name]
        body["toolConfig"] = {"functionCallingConfig": calling}


def _thinking(request: ChatRequest, prompt: Prompt, model: str, flavour: Flavour, dropped: list[str]) -> dict[str, Any]:
    """`thinkingConfig`: the client's own, or what its effort means. Whoever asks for thought is shown it."""
    fields = request.fields
    given = a_dict(fields.get("thinking_config") or _google(request).get("thinking_config"))
    if given:
        return {re.sub(r"_([a-z])", lambda found: found.group(1).upper(), name): value for name, value in given.items()}
    thinking = fields.get("thinking")
    if isinstance(thinking, dict):  # Anthropic's form
        if thinking.get("type") == "disabled":
            return {"thinkingBudget": 0}
        budget = thinking.get("budget_tokens")
        return {"includeThoughts": True, **({"thinkingBudget": budget} if isinstance(budget, int) else {})}
    effort = prompt.reasoning_effort
    if effort is None:
        return {}
    shown = {"includeThoughts": True} if effort != "none" else {}
    if re.match(r"gemini-2\.5", model):
        return {**shown, "thinkingBudget": _BUDGETS[effort]}
    if re.match(r"gemini-[12](\D|$)|gemma|learnlm", model):
        if request.unsupported == "error":
            raise unsupported("reasoning_effort", flavour.kind, "this model does not think")
        dropped.append("reasoning_effort")
        return {}
    level = _LEVELS[effort]
    # Gemini 3 cannot do without thinking, and its larger models not with the least of it.
    return {**shown, "thinkingLevel": "LOW" if level == "MINIMAL" and "pro" in model else level}


def _google(request: ChatRequest) -> dict[str, Any]:
    """Where Google's own endpoint of OpenAI's wire has what OpenAI has no field for."""
    return a_dict(a_dict(request.fields.get("extra_body")).get("google"))


def _check_extra_body(request: ChatRequest, flavour: Flavour, dropped: list[str]) -> None:
    """See that nothing in there is lost in silence."""
    given = request.fields.get("extra_body")
    strange = [f"extra_body.{name}" for name in a_dict(given) if name != "google"]
    known = ("thinking_config", "safety_settings", "cached_content")
    strange += [f"extra_body.google.{name}" for name in _google(request) if name not in known]
    if strange and request.unsupported != "drop":
        raise unsupported(strange[0], flavour.kind)
    dropped += strange
