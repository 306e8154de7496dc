"""Whether the models that guards ask can do what they are asked for: known only when it is known what each target does."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from trio_ai_proxy.settings import Settings


def guard_problems(settings: Settings, operations: Mapping[tuple[str, str], Collection[str]]) -> list[str]:
    """Each guard that asks a model for what no target of it does, a sentence each. `operations` has what each target does, by
    its provider and its model."""
    problems = []
    for guard in settings.guards.values():
        model = settings.models.get(guard.model or "")
        needed = "moderations" if guard.kind == "moderate" and guard.uses == "moderation" else "chat"
        if model is not None and not any(needed in operations[each.provider, each.model] for each in model.targets):
            hint = '; `uses = "chat"` asks any chat model' if needed == "moderations" else ""
            problems.append(
                f'guard "{guard.name}" asks the model "{model.name}" for {needed}, which it does not serve{hint}.'
            )
    return problems
