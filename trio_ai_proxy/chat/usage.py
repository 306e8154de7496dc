"""How many tokens, and who says so."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

UsageSource = Literal["provider", "counted", "estimated"]


@dataclass(frozen=True, slots=True)
class TokenUsage:
    """Token counts of one exchange.

    prompt_tokens      everything that was sent, cached part included
    completion_tokens  everything that was generated, reasoning included
    total_tokens       the provider's own total where it sent one, else the sum of the two
    cached_tokens      the part of `prompt_tokens` that the provider read from its cache
    reasoning_tokens   the part of `completion_tokens` that the client does not see as text
    cache_write_tokens the part of `prompt_tokens` that the provider wrote into its cache
    """

    prompt_tokens: int = 0
    completion_tokens: int = 0
    total_tokens: int = 0
    cached_tokens: int = 0
    reasoning_tokens: int = 0
    cache_write_tokens: int = 0
