"""One neutral thing that happened: what every provider's decoder says, and all that accounting and guards need to know.

A stream is `Started`, then deltas, then a `Finished` for each choice, perhaps a `UsageReported`, then `Ended`; or it stops
with `Failed`. `Ended` is said only when the provider's own terminal was seen.

Structs of msgspec: making one costs a third of what a frozen dataclass costs, and one is made for every token.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

import msgspec

if TYPE_CHECKING:
    from trio_ai_proxy.chat.usage import TokenUsage
    from trio_ai_proxy.errors import UpstreamError

FinishReason = Literal["stop", "length", "tool_calls", "content_filter", "function_call"]


class Started(msgspec.Struct, frozen=True, gc=False):
    """The provider has begun to answer. `created` is in seconds since the epoch, 0 if the provider did not say."""

    id: str
    model: str
    created: int = 0
    system_fingerprint: str | None = None


class TextDelta(msgspec.Struct, frozen=True, gc=False):
    """More visible text of choice `index`."""

    text: str
    index: int = 0


class ReasoningDelta(msgspec.Struct, frozen=True, gc=False):
    """More of what the model thinks before it speaks."""

    text: str
    index: int = 0


class ReasoningSealed(msgspec.Struct, frozen=True, gc=False):
    """A block of thought is complete, and the provider wants it back unchanged in the next request.

    signature  what proves the thought that the deltas before it told
    redacted   a thought that is not shown at all, in the provider's own encoding; then there is no signature
    """

    signature: str = ""
    redacted: str = ""
    index: int = 0


class RefusalDelta(msgspec.Struct, frozen=True, gc=False):
    """More of the text in which the model declines."""

    text: str
    index: int = 0


class ToolCallDelta(msgspec.Struct, frozen=True, gc=False):
    """A fragment of tool call number `call`, counted from 0, of choice `index`: the first has `id` and `name`, later ones add
    `arguments`, which joined are JSON. `signature` is what some providers want back with the call (Gemini's thought signature).
    """

    call: int
    id: str = ""
    name: str = ""
    arguments: str = ""
    index: int = 0
    signature: str = ""


class Cited(msgspec.Struct, frozen=True, gc=False):
    """Where a part of the text of choice `index` is from.

    url, title   the page or document; `url` is "" for a document that the request brought along
    source       the document's id or number in the request, "" if there is none
    quote        the words of the source
    start, end   the characters of the answer's text that it belongs to, both 0 if the provider did not say
    """

    url: str = ""
    title: str = ""
    source: str = ""
    quote: str = ""
    start: int = 0
    end: int = 0
    index: int = 0


class LogProbabilities(msgspec.Struct, frozen=True):
    """How probable the tokens of the last text were: `tokens` in OpenAI's form (`token`, `logprob`, `bytes`, `top_logprobs`)."""

    tokens: list[dict[str, Any]]
    index: int = 0


class Embedded(msgspec.Struct, frozen=True):
    """The vector of input number `index`: numbers, or the text in which the provider encodes them (base64)."""

    vector: list[float] | str
    index: int = 0


class Moderated(msgspec.Struct, frozen=True):
    """How input number `index` was judged: `flagged`, `categories` and `category_scores`, in OpenAI's form."""

    result: dict[str, Any]
    index: int = 0


class Finished(msgspec.Struct, frozen=True, gc=False):
    """Choice `index` is complete. `reason` is the provider's word where it is none of the known ones."""

    reason: FinishReason | str
    index: int = 0


class UsageReported(msgspec.Struct, frozen=True, gc=False):
    """The provider's own count. A later report replaces an earlier one. Before the answer it may be of the prompt alone: then
    `completion_tokens` and `total_tokens` are 0, and what is generated is still ours to count."""

    usage: TokenUsage


class Failed(msgspec.Struct, frozen=True):
    """The provider said, inside a successful answer, that it failed."""

    error: UpstreamError


class Ended(msgspec.Struct, frozen=True, gc=False):
    """The provider's own terminal (`[DONE]`, `message_stop`, the last byte of a whole JSON document)."""


Event = (
    Started
    | TextDelta
    | ReasoningDelta
    | ReasoningSealed
    | RefusalDelta
    | ToolCallDelta
    | Cited
    | LogProbabilities
    | Embedded
    | Moderated
    | Finished
    | UsageReported
    | Failed
    | Ended
)

# What opens the first-token gate: real generation, or a final word.
GENERATION = (TextDelta, ReasoningDelta, RefusalDelta, ToolCallDelta, Finished)
