"""A request in the words of the Messages API. Pure: where it goes, and what stands in the URL instead of the body, is the
provider's affair, so that Claude on other platforms is asked by the same translation.

Source: https://platform.claude.com/docs/en/api/messages/create
"""

from __future__ import annotations

from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Literal

from trio_ai_proxy.chat.fields import settle_fields, unsupported
from trio_ai_proxy.chat.reading import read_prompt
from trio_ai_proxy.errors import InvalidRequest
from trio_ai_proxy.providers.anthropic_models import abilities
from trio_ai_proxy.providers.anthropic_parts import Conversation
from trio_ai_proxy.providers.anthropic_schema import held_schema
from trio_ai_proxy.providers.anthropic_stream import ANSWER_TOOL
from trio_ai_proxy.providers.loose import a_dict, a_text

if TYPE_CHECKING:
    from collections.abc import Mapping

    from trio_ai_proxy.chat.fields import Fate
    from trio_ai_proxy.chat.prompt import Effort, Schema, Tool, Turn
    from trio_ai_proxy.chat.request import ChatRequest

FATES: Mapping[str, Fate] = MappingProxyType(
    {
        "messages": "translated",
        "prompt": "emulated",  # as a user's only message
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
        "response_format": "translated",  # emulated by a tool where the model, or the schema, allows nothing else
        "reasoning_effort": "translated",
        "web_search_options": "translated",
        "user": "translated",
        "safety_identifier": "translated",
        "service_tier": "translated",
        "top_k": "passed",
        "thinking": "passed",
        "output_config": "passed",
        "context_management": "passed",
        "cache_control": "passed",
    }
)
_PASSED = tuple(name for name, fate in FATES.items() if fate == "passed")
_SAMPLING = frozenset({"temperature", "top_p", "top_k"})
_UNSAMPLED_FATES: Mapping[str, Fate] = MappingProxyType(
    {name: fate for name, fate in FATES.items() if name not in _SAMPLING}
)

DEFAULT_MAX_TOKENS = 4096  # the API wants a number; this one every model takes

# Tokens to think with, where the model wants a number: OpenRouter's and others' tables are of this order; the least that the
# API takes is 1024.
_BUDGETS: Mapping[Effort, int] = {"minimal": 1024, "low": 2048, "medium": 8192, "high": 16384, "xhigh": 24576}
_MIN_BUDGET = 1024
_EFFORTS: Mapping[Effort, str] = {"minimal": "low", "low": "low", "medium": "medium", "high": "high", "xhigh": "xhigh"}
_TIERS: Mapping[str, str] = {"auto": "auto", "default": "standard_only", "standard_only": "standard_only"}

_SEARCH_TOOL = {"type": "web_search_20250305", "name": "web_search"}


def messages_body(
    request: ChatRequest,
    *,
    model: str | None,
    stream: bool,
    provider: str,
    model_name: str = "",
    sampling: bool = True,
) -> tuple[dict[str, Any], tuple[str, ...]]:
    """The request's body, and the names of the fields that are not said in it.

    model       the service's name of the model, None where it does not stand in the body; then `model_name` says it, for
                what is asked depends on it
    sampling    whether this version of the API takes `temperature`, `top_p` and `top_k` at all

    Raises `InvalidRequest`.
    """
    return _Body(request, model or model_name, provider, sampling=sampling).build(model, stream=stream)


class _Body:
    """One body being built."""

    def __init__(self, request: ChatRequest, model_name: str, provider: str, *, sampling: bool) -> None:
        self._request = request
        self._provider = provider
        self._prompt = read_prompt(request)
        self._takes = abilities(model_name)
        self._dropped = list(settle_fields(request, FATES if sampling else _UNSAMPLED_FATES, provider=provider))
        self._sampling = sampling
        self._headroom = 0  # tokens to think with, where the client has not said how many there are in all
        self._fields: dict[str, Any] = {}

    def build(self, model: str | None, *, stream: bool) -> tuple[dict[str, Any], tuple[str, ...]]:
        prompt, takes, fields = self._prompt, self._takes, self._fields
        talk = Conversation(prompt.turns, inline_system=takes.inline_system, provider=self._provider)
        head: dict[str, Any] = {} if model is None else {"model": model}
        if talk.system:
            fields["system"] = talk.system
        fields["messages"] = talk.messages
        for name in _PASSED:
            value = self._request.fields.get(name)
            if value is not None and (self._sampling or name not in _SAMPLING):
                fields[name] = dict(value) if isinstance(value, dict) else value
        if self._sampling:
            self._set("temperature", prompt.temperature)
            self._set("top_p", prompt.top_p)
        self._add_stop()
        self._add_tools()
        self._add_effort()
        self._add_rest()
        head["max_tokens"] = prompt.max_tokens or DEFAULT_MAX_TOKENS + self._headroom
        if stream:
            fields["stream"] = True
        return head | fields, tuple(dict.fromkeys(self._dropped))

    def _set(self, name: str, value: Any) -> None:
        if value is not None:
            self._fields[name] = value

    def _leave_out(self, name: str, why: str, *, matters: bool = False) -> None:
        """Do without the field, or a part of it; refuse where that must not be."""
        unsaid = self._request.unsupported
        if unsaid == "error" or (matters and unsaid == "auto"):
            raise unsupported(name, self._provider, why)
        self._dropped.append(name)

    def _add_stop(self) -> None:
        stop = [text for text in self._prompt.stop if text.strip()]
        if len(stop) < len(self._prompt.stop):
            self._leave_out("stop", "it does not stop at white space alone", matters=True)
        if stop:
            self._fields["stop_sequences"] = stop

    # -- tools, and answers in JSON -------------------------------------------------------------------------------------

    def _add_tools(self) -> None:
        prompt = self._prompt
        tools = [self._tool(tool) for tool in prompt.tools]
        choice: dict[str, Any] | None = None
        if prompt.tool_choice is not None and tools:
            choice = _choice(prompt.tool_choice.mode, prompt.tool_choice.name)
        search = self._request.fields.get("web_search_options")
        if search is not None:
            tools.append(_search(search))
        if prompt.response is not None and not self._holds_to(prompt.response) and not _is_forced(choice):
            may_call = bool(tools) and not _is_none(choice)
            tools.append(_answer_tool(prompt.response))
            # With tools of its own the request is answered by a call of one of them, or by the answer: by "any".
            choice = {"type": "any"} if may_call else {"type": "tool", "name": ANSWER_TOOL}
        if prompt.parallel_tool_calls is False and tools and not _is_none(choice):
            choice = {**(choice or {"type": "auto"}), "disable_parallel_tool_use": True}
        if tools:
            self._fields["tools"] = tools
            self._set("tool_choice", choice)

    def _tool(self, tool: Tool) -> dict[str, Any]:
        schema = {"type": "object", **(tool.parameters or {})}
        if tool.parameters is None:
            schema["properties"] = {}
        fields: dict[str, Any] = {"name": tool.name}
        if tool.description:
            fields["description"] = tool.description
        held = held_schema(schema) if tool.strict and self._takes.schemas else None
        if held is not None:
            fields["strict"] = True
        elif tool.strict and tool.parameters:
            place = f"{tool.place}.function.strict"
            self._leave_out(place, "this model cannot be held to this schema")
        fields["input_schema"] = held or schema
        if tool.cache is not None:
            fields["cache_control"] = tool.cache
        return fields

    def _holds_to(self, response: Schema) -> bool:
        """Whether the API itself holds the model to the schema; then it is said."""
        held = held_schema(response.schema) if response.schema is not None and self._takes.schemas else None
        if held is None:
            return False
        self._configure("format", {"type": "json_schema", "schema": held})
        return True

    def _configure(self, name: str, value: Any) -> None:
        """Say something in `output_config`, of which the client may have said a part itself."""
        self._fields["output_config"] = {name: value, **a_dict(self._fields.get("output_config"))}

    # -- thinking -------------------------------------------------------------------------------------------------------

    def _add_effort(self) -> None:
        effort, takes = self._prompt.reasoning_effort, self._takes
        asked = a_dict(self._fields.get("thinking"))
        if asked:
            budget = asked.get("budget_tokens")
            self._headroom = budget if isinstance(budget, int) and 0 < budget < 2**31 else 0
            if effort is not None:
                self._leave_out("reasoning_effort", '"thinking" says it already')
        elif effort == "none":
            self._refrain()
        elif effort is not None and takes.thinks in ("never", "budget"):
            self._think_within(effort)
        elif effort is not None:
            self._headroom = _BUDGETS[effort]
            self._configure("effort", _EFFORTS[effort] if effort != "xhigh" or takes.xhigh else "high")
            if not self._is_sampled():
                self._fields["thinking"] = {"type": "adaptive", "display": "summarized"}

    def _refrain(self) -> None:
        if self._takes.thinks == "on":
            self._fields["thinking"] = {"type": "disabled"}
        elif self._takes.thinks == "always":
            self._configure("effort", "low")

    def _think_within(self, effort: Effort) -> None:
        """Give a budget, where nothing in the request forbids to think: of the two, the effort means less."""
        budget = _BUDGETS[effort]
        limit = self._prompt.max_tokens
        if limit is not None:
            budget = min(budget, limit * 3 // 4)  # the answer has to fit in as well
        why = ""
        if self._takes.thinks == "never":
            why = "this model does not think"
        elif budget < _MIN_BUDGET:
            why = f'"max_tokens" leaves no {_MIN_BUDGET} tokens to think with'
        elif self._is_sampled():
            why = 'this model does not think at that "temperature" or "top_p"'
        elif _is_forced(self._fields.get("tool_choice")):
            why = "this model does not think before a tool that it must call"
        elif _continues(self._prompt.turns):
            why = "the turn that it goes on with has begun without thinking"
        if why:
            self._leave_out("reasoning_effort", why)
            return
        self._headroom = budget
        self._fields["thinking"] = {"type": "enabled", "budget_tokens": budget}

    def _is_sampled(self) -> bool:
        """Whether the request says how to sample, in a way that no model takes while it thinks."""
        fields = self._fields
        return fields.get("temperature") not in (None, 1) or "top_k" in fields or fields.get("top_p", 1) < 0.95

    # -- the rest -------------------------------------------------------------------------------------------------------

    def _add_rest(self) -> None:
        fields = self._request.fields
        user = self._prompt.user or a_text(fields.get("safety_identifier"))
        if user:
            self._fields["metadata"] = {"user_id": user}
        tier = fields.get("service_tier")
        if tier is not None:
            known = _TIERS.get(a_text(tier))
            if known is None:
                self._leave_out("service_tier", f"it must be one of {', '.join(_TIERS)}")
            self._set("service_tier", known)


def _choice(mode: Literal["auto", "none", "required", "named"], name: str) -> dict[str, Any]:
    match mode:
        case "required":
            return {"type": "any"}
        case "named":
            return {"type": "tool", "name": name}
        case "auto" | "none":
            return {"type": mode}


def _is_forced(choice: dict[str, Any] | None) -> bool:
    return choice is not None and choice["type"] in ("any", "tool")


def _is_none(choice: dict[str, Any] | None) -> bool:
    return choice is not None and choice["type"] == "none"


def _answer_tool(response: Schema) -> dict[str, Any]:
    described = f": {response.description}" if response.description else ""
    return {
        "name": ANSWER_TOOL,
        "description": f"Gives the answer. Its input is the JSON object that was asked for{described}.",
        "input_schema": {"type": "object", **(response.schema or {"additionalProperties": True})},
    }


def _search(options: Any) -> dict[str, Any]:
    """The provider's own search of the web. `search_context_size` has no counterpart, and is a hint by OpenAI's words."""
    if not isinstance(options, dict):
        raise InvalidRequest('"web_search_options" must be an object.', param="web_search_options")
    place = a_dict(options.get("user_location"))
    approximate = a_dict(place.get("approximate"))
    known = {name: approximate[name] for name in ("city", "region", "country", "timezone") if approximate.get(name)}
    return {**_SEARCH_TOOL, "user_location": {"type": "approximate", **known}} if known else dict(_SEARCH_TOOL)


def _continues(turns: tuple[Turn, ...]) -> bool:
    """Whether the answer goes on with an assistant's turn that did not begin with a thought: with its prefill, or with calls
    whose results have come."""
    for turn in reversed(turns):
        if turn.role == "assistant":
            return not any(thought.signature or thought.redacted for thought in turn.thoughts)
        if turn.role == "user":
            return False
    return False


__all__ = ["ANSWER_TOOL", "DEFAULT_MAX_TOKENS", "FATES", "messages_body"]
