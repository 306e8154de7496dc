"""What the name of a model at Bedrock says about it: whose it is, and which of the words beside Converse's own it takes.

Converse is one wire for all models, but thinking, tools that must be called and exact schemas are not the same in all of
them. A name that says nothing (the ARN of a profile of one's own) is of no known family.
Sources: https://docs.aws.amazon.com/bedrock/latest/userguide/claude-messages-adaptive-thinking.html,
https://docs.aws.amazon.com/bedrock/latest/userguide/structured-output.html and
https://docs.aws.amazon.com/bedrock/latest/APIReference/API_runtime_ToolChoice.html
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from trio_ai_proxy.chat.prompt import Effort

Family = Literal["claude", "nova", "gpt-oss", "other", "unknown"]

_NEWER_CLAUDE = re.compile(r"claude-[a-z]+-(\d{1,2})(?:-(\d{1,2}))?(?!\d)").search
_OLDER_CLAUDE = re.compile(r"claude-(\d)(?:-(\d))?-[a-z]").search
_NEWEST = (99, 0)

# Tokens of thought for models that want a number. 1024 is the least that they take.
_BUDGETS: dict[Effort, int] = {"minimal": 1024, "low": 2048, "medium": 8192, "high": 16384, "xhigh": 32768}
_LEAST_BUDGET = 1024


@dataclass(frozen=True, slots=True)
class Model:
    """`version` is Claude's and Nova's, (0, 0) for others."""

    family: Family
    version: tuple[int, int] = (0, 0)

    @property
    def forces_tools(self) -> bool:
        """Whether it can be made to call one certain tool. Of the unknown we hope so: most profiles are of Claude or Nova."""
        return self.family in ("claude", "nova", "unknown")

    @property
    def keeps_to_schemas(self) -> bool:
        """Whether it has `strict` tools."""
        return self.family in ("gpt-oss", "other") or (self.family == "claude" and self.version >= (4, 5))

    @property
    def adapts_its_thinking(self) -> bool:
        """Whether it is told how hard to think, and not how many tokens to spend."""
        return self.family == "claude" and self.version >= (4, 6)

    def thinking(self, effort: Effort, max_tokens: int | None) -> dict[str, object] | None:
        """`additionalModelRequestFields` for `effort`; None if it has no word for it."""
        match self.family:
            case "claude":
                return self._claude_thinking(effort, max_tokens)
            case "nova" if self.version >= (2, 0):
                if effort == "none":
                    return {}
                named = {"minimal": "low", "xhigh": "high"}.get(effort, effort)
                return {"reasoningConfig": {"type": "enabled", "maxReasoningEffort": named}}
            case "gpt-oss" if effort != "none":
                return {"reasoning_effort": {"minimal": "low", "xhigh": "high"}.get(effort, effort)}
        return None

    def _claude_thinking(self, effort: Effort, max_tokens: int | None) -> dict[str, object] | None:
        if effort == "none":
            return {}
        if self.adapts_its_thinking:
            has_steps = self.version >= (4, 7)
            named = "low" if effort == "minimal" else "high" if effort == "xhigh" and not has_steps else effort
            shown = {"display": "summarized"} if has_steps else {}  # which is what the older ones do unasked
            return {"thinking": {"type": "adaptive", **shown}, "output_config": {"effort": named}}
        if self.version < (3, 7):
            return None
        # The limit holds for thoughts and answer together, and the answer wants a part of it.
        budget = _BUDGETS[effort] if max_tokens is None else min(_BUDGETS[effort], max_tokens * 3 // 4)
        return {"thinking": {"type": "enabled", "budget_tokens": budget}} if budget >= _LEAST_BUDGET else None


@lru_cache(maxsize=256)
def model_of(name: str) -> Model:
    """What `name` (an id, an inference profile's id, or an ARN) says."""
    if "anthropic.claude" in name:
        if found := _NEWER_CLAUDE(name):
            return Model("claude", (int(found[1]), int(found[2] or 0)))
        if found := _OLDER_CLAUDE(name):
            return Model("claude", (int(found[1]), int(found[2] or 0)))
        return Model("claude", (2, 0) if re.search(r"claude-(v\d|instant)", name) else _NEWEST)
    if "amazon.nova-" in name:
        found = re.search(r"amazon\.nova-(\d)", name)
        return Model("nova", (int(found[1]), 0) if found else (1, 0))
    if "openai.gpt-oss" in name:
        return Model("gpt-oss")
    if name.startswith("arn:") and "foundation-model/" not in name and ":inference-profile/" not in name:
        return Model("unknown")
    return Model("other")
