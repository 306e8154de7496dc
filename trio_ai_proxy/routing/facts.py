"""What a request needs of a target, and what a target can do: everything by which targets are told apart, and nothing else of
the request."""

from __future__ import annotations

from dataclasses import dataclass, field
from hashlib import blake2b
from typing import TYPE_CHECKING, Any, Literal

import msgspec

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from trio_ai_proxy.chat.request import ChatRequest, Operation
    from trio_ai_proxy.providers.base import Capabilities
    from trio_ai_proxy.routing.caller import Caller
    from trio_ai_proxy.settings import ModelSettings, TargetSettings

Ability = Literal["tools", "images", "json_schema"]
ABILITIES: tuple[Ability, ...] = ("tools", "images", "json_schema")

_IMAGE_PARTS = frozenset({"image_url", "input_image", "image"})
_PROMPT_PREFIX = 256


@dataclass(frozen=True, slots=True)
class Facts:
    """Of one request.

    tools, images, json_schema  it has tools or speaks of tool calls; has images; asks for an answer by a schema
    tokens        what it needs of a window, its answer included; 0 is unknown, and fits everywhere
    key           name of the client's key, None in an open gateway
    headers       those that a rule of the model asks for, names in lower case
    hash_value    what `consistent_hash` keeps together, None where the request has nothing of it
    similarities  of the prompt to each target's description, from -1 to 1; none where nobody has asked
    """

    operation: Operation = "chat"
    tools: bool = False
    images: bool = False
    json_schema: bool = False
    tokens: int = 0
    key: str | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    hash_value: str | None = None
    similarities: Sequence[float] = ()


@dataclass(frozen=True, slots=True)
class TargetFacts:
    """Of one target.

    lacks        abilities that it does not have
    ruled_out    those of them that the configuration says, not only the kind of provider
    max_context  tokens of a request and its answer together, None where nobody knows
    """

    operations: frozenset[Operation] = frozenset({"chat", "completions"})
    lacks: frozenset[Ability] = frozenset()
    ruled_out: frozenset[Ability] = frozenset()
    prefill: bool = False
    max_context: int | None = None


def target_facts(target: TargetSettings, capabilities: Capabilities) -> TargetFacts:
    """What `target` can do: as its provider does, but for what its own block says."""
    own = target.capabilities
    said: dict[Ability, bool | None] = {name: getattr(own, name, None) for name in ABILITIES}
    lacks = {name for name, able in said.items() if able is False or (able is None and not getattr(capabilities, name))}
    prefill = capabilities.prefill if own is None or own.prefill is None else own.prefill
    return TargetFacts(
        operations=capabilities.operations,
        lacks=frozenset(lacks),
        ruled_out=frozenset(name for name, able in said.items() if able is False),
        prefill=prefill,
        max_context=capabilities.context_window if target.max_context is None else target.max_context,
    )


def facts_of(
    request: ChatRequest,
    model: ModelSettings,
    caller: Caller,
    *,
    key: str | None,
    tokens: int = 0,
    similarities: Sequence[float] = (),
) -> Facts:
    """What `request` needs. `tokens` is how long its prompt is, as far as one can tell; the limit that it sets to its answer is
    added here."""
    fields = request.fields
    tools, images = _tools_and_images(fields)
    shape = fields.get("response_format")
    return Facts(
        operation=request.operation,
        tools=tools,
        images=images,
        json_schema=isinstance(shape, dict) and shape.get("type") == "json_schema",
        tokens=tokens + _limit(fields) if tokens else 0,
        key=key,
        headers=_headers(model, caller),
        hash_value=_hash_value(request, model, caller, key),
        similarities=similarities,
    )


def _tools_and_images(fields: Mapping[str, Any]) -> tuple[bool, bool]:
    tools = bool(fields.get("tools") or fields.get("functions"))
    images = False
    messages = fields.get("messages")
    for message in messages if isinstance(messages, list) else ():
        if not isinstance(message, dict):
            continue
        if message.get("tool_calls") or message.get("role") == "tool":
            tools = True
        content = message.get("content")
        if isinstance(content, list):
            images = images or any(isinstance(part, dict) and part.get("type") in _IMAGE_PARTS for part in content)
    return tools, images


def _limit(fields: Mapping[str, Any]) -> int:
    limit = fields.get("max_completion_tokens") or fields.get("max_tokens")
    return limit if isinstance(limit, int) and limit > 0 else 0


def _headers(model: ModelSettings, caller: Caller) -> dict[str, str]:
    wanted = {name.lower() for target in model.targets if target.match is not None for name in target.match.headers}
    found = {name: caller.header(name) for name in wanted}
    return {name: value for name, value in found.items() if value is not None}


def _hash_value(request: ChatRequest, model: ModelSettings, caller: Caller, key: str | None) -> str | None:
    if model.balance != "consistent_hash" or model.hash_on is None:
        return None
    match model.hash_on:
        case "key":
            return key
        case "prefix":
            return conversation_of(request.fields)
        case header:
            return caller.header(header)


def conversation_of(fields: Mapping[str, Any]) -> str | None:
    """A digest that all turns of a conversation share, and other conversations do not: of the tools and of the messages up to
    the first of the user, or of a prompt's beginning. None where there is no such thing."""
    messages, prompt = fields.get("messages"), fields.get("prompt")
    beginning: list[Any] = []
    if isinstance(messages, list):
        for message in messages:
            beginning.append(message)
            if isinstance(message, dict) and message.get("role") == "user":
                break
    elif isinstance(prompt, str):
        beginning.append(prompt[:_PROMPT_PREFIX])
    if not beginning:
        return None
    try:
        text = msgspec.json.encode([fields.get("tools"), beginning])
    except (RecursionError, UnicodeEncodeError):  # nested beyond reason, or half a surrogate pair
        return None
    return blake2b(text, digest_size=16).hexdigest()
