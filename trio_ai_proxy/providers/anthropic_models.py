"""What each model behind the Messages API takes and what it answers with a 400, as far as a request has to know.

A model is known by a part of its name, so that the names that other platforms give it are known as well
(`claude-opus-4-6@default`, `us.anthropic.claude-opus-4-6-v1`). One that is not known is taken for a new one.

Sources: https://platform.claude.com/docs/en/build-with-claude/thinking-troubleshooting (which `thinking` a model takes),
…/effort, …/structured-outputs, …/mid-conversation-system-messages (each with its list of models).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Thinks = Literal["never", "budget", "off", "on", "always"]


@dataclass(frozen=True, slots=True)
class Abilities:
    """What a model takes.

    thinks         never; by a budget of tokens (off unless asked for); as it sees fit, guided by an effort: off unless asked
                   for, on unless refused, or always
    xhigh          the effort of that name, above high
    schemas        `output_config.format` and `strict` tools
    inline_system  system messages between the others
    """

    thinks: Thinks
    xhigh: bool = True
    schemas: bool = True
    inline_system: bool = False


_NEW = Abilities("always")
_WITHOUT_THOUGHT = Abilities("never", schemas=False)
_FIRST_TO_THINK = Abilities("budget", schemas=False)
_INLINE = Abilities("always", inline_system=True)

# The first that fits decides: a longer name stands before the one that it begins with.
_ROWS: tuple[tuple[str, Abilities], ...] = (
    ("claude-instant", _WITHOUT_THOUGHT),
    ("claude-2", _WITHOUT_THOUGHT),
    ("claude-3-7", _FIRST_TO_THINK),
    ("claude-3", _WITHOUT_THOUGHT),
    ("claude-4-", _FIRST_TO_THINK),
    ("opus-4-5", Abilities("budget")),
    ("sonnet-4-5", Abilities("budget")),
    ("haiku-4-5", Abilities("budget")),
    ("opus-4-6", Abilities("off", xhigh=False)),
    ("sonnet-4-6", Abilities("off", xhigh=False)),
    ("opus-4-7", Abilities("off")),
    ("opus-4-8", Abilities("off", inline_system=True)),
    ("opus-4", _FIRST_TO_THINK),
    ("sonnet-4", _FIRST_TO_THINK),
    ("opus-5-5", _INLINE),
    ("opus-5", Abilities("on", inline_system=True)),
    ("sonnet-5-5", _INLINE),
    ("sonnet-5", Abilities("on")),
    ("haiku-5-5", _INLINE),
    ("fable-5", _INLINE),
    ("mythos-5", _INLINE),
)


def abilities(model: str) -> Abilities:
    """What the model of that name takes."""
    name = model.lower()
    return next((known for part, known in _ROWS if part in name), _NEW)
