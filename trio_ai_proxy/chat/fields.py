"""What can stand in an OpenAI request, and what becomes of each field where a provider has no word for it.

A field is never lost in silence. What changes the meaning of the answer is refused by name; what does not (who the user is,
where the provider keeps its logs) is left out, and the answer's head says so. A model's `unsupported` decides otherwise:
"drop" leaves out everything that can be left out, "error" refuses everything.

Source: https://platform.openai.com/docs/api-reference/chat/create, …/completions/create, …/embeddings/create and
…/moderations/create
"""

from __future__ import annotations

from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Literal

from trio_ai_proxy.errors import InvalidRequest

if TYPE_CHECKING:
    from collections.abc import Mapping

    from trio_ai_proxy.chat.request import ChatRequest, Operation

Fate = Literal["translated", "passed", "emulated", "unsupported"]
"""What a provider does with a field: says it in its own words; hands it on as it is (an extra of its own that the client
speaks); reaches the effect by other means; has nothing for it."""


@dataclass(frozen=True, slots=True)
class Field:
    """One field of a request.

    changes_meaning  whether an answer made without it is not the answer that was asked for
    neutral          values that say the same as leaving it out, beside null
    """

    changes_meaning: bool
    neutral: tuple[Any, ...] = ()


_MATTERS = Field(changes_meaning=True)
_ASIDE = Field(changes_meaning=False)

_SAMPLING: dict[str, Field] = {
    "temperature": _MATTERS,
    "top_p": _MATTERS,
    "frequency_penalty": Field(True, (0,)),
    "presence_penalty": Field(True, (0,)),
    "logit_bias": Field(True, ({},)),
    "n": Field(True, (1,)),
    "stop": Field(True, ("", [])),
    "max_tokens": _MATTERS,
    "seed": _ASIDE,  # "best effort" by OpenAI's own words
    "user": _ASIDE,
}

CHAT_FIELDS: Mapping[str, Field] = MappingProxyType(
    {
        "messages": _MATTERS,
        **_SAMPLING,
        "max_completion_tokens": _MATTERS,
        "tools": Field(True, ([],)),
        "tool_choice": Field(True, ("none",)),
        "functions": Field(True, ([],)),
        "function_call": Field(True, ("none",)),
        "parallel_tool_calls": Field(True, (True,)),
        "response_format": Field(True, ({"type": "text"},)),
        "reasoning_effort": _ASIDE,
        "verbosity": _ASIDE,
        "logprobs": Field(True, (False,)),
        "top_logprobs": Field(True, (0,)),
        "modalities": Field(True, (["text"],)),
        "audio": _MATTERS,
        "web_search_options": _MATTERS,
        "prediction": _ASIDE,
        "metadata": _ASIDE,
        "store": _ASIDE,
        "service_tier": _ASIDE,
        "safety_identifier": _ASIDE,
        "prompt_cache_key": _ASIDE,
        "prompt_cache_retention": _ASIDE,
    }
)
"""The fields of a chat completion but for those that are the gateway's own (`OURS`)."""

TEXT_FIELDS: Mapping[str, Field] = MappingProxyType(
    {
        "prompt": _MATTERS,
        **_SAMPLING,
        "best_of": Field(True, (1,)),
        "echo": Field(True, (False,)),
        "suffix": Field(True, ("",)),
        "logprobs": _MATTERS,  # 0 too: it asks for the probability of each token that was chosen
    }
)
"""The fields of a completion."""

EMBEDDING_FIELDS: Mapping[str, Field] = MappingProxyType(
    {"input": _MATTERS, "dimensions": _MATTERS, "encoding_format": _MATTERS, "user": _ASIDE}
)
"""The fields of a request for embeddings."""

MODERATION_FIELDS: Mapping[str, Field] = MappingProxyType({"input": _MATTERS})
"""The fields of a request for a judgement."""

OURS = frozenset({"model", "stream", "stream_options"})
"""What the gateway decides, whatever the provider."""

FIELDS: Mapping[Operation, Mapping[str, Field]] = MappingProxyType(
    {"chat": CHAT_FIELDS, "completions": TEXT_FIELDS, "embeddings": EMBEDDING_FIELDS, "moderations": MODERATION_FIELDS}
)


def settle_fields(request: ChatRequest, fates: Mapping[str, Fate], *, provider: str) -> tuple[str, ...]:
    """Check the fields of `request` against what a provider does with each (`fates`; a field that is not in it is
    unsupported). Returns the names of those that are left out.

    Raises `InvalidRequest`, naming the field, for one that cannot be left out.
    """
    known = FIELDS[request.operation]
    dropped = []
    for name, value in request.fields.items():
        if name in OURS or value is None or fates.get(name, "unsupported") != "unsupported":
            continue
        field = known.get(name)
        if field is not None and any(_same(value, neutral) for neutral in field.neutral):
            continue
        # What OpenAI does not know either may mean anything.
        matters = field is None or field.changes_meaning
        if request.unsupported == "error" or (matters and request.unsupported == "auto"):
            raise unsupported(name, provider)
        dropped.append(name)
    return tuple(dropped)


def unsupported(name: str, provider: str, why: str = "") -> InvalidRequest:
    """The error for a field, or a part of one (`messages.3.content.1`), that `provider` has no word for."""
    reason = f": {why}" if why else ""
    return InvalidRequest(
        f'The provider of this model ({provider}) does not support "{name}"{reason}.',
        param=name,
        code="unsupported_parameter",
    )


def _same(value: Any, neutral: Any) -> bool:
    return (type(value) is type(neutral) and bool(value == neutral)) or (
        isinstance(value, float) and type(neutral) is int and value == neutral
    )
