"""What `balance = "semantic"` needs: a model that makes embeddings, and targets that say what they are for."""

from __future__ import annotations

from typing import TYPE_CHECKING

from trio_ai_proxy.config.decode import Faults, Table, nearest
from trio_ai_proxy.config.values import shown

if TYPE_CHECKING:
    from collections.abc import Mapping


def check_semantic(model: Table, models: Mapping[str, object], faults: Faults) -> None:
    """Add what is wrong with how `model` finds the target that is nearest to a request. `models` are the names that the file
    has."""
    values, raw = model.values, model.raw
    balance = values.get("balance", None if "balance" in raw else "weighted")
    if balance not in ("semantic", None) and "semantic" in raw:
        faults.reject(model, "semantic", 'needs `balance = "semantic"`')
    if balance != "semantic":
        return
    if "semantic" not in raw:
        faults.reject(
            model, "balance", '= "semantic" needs `semantic = { model = "…" }` beside it, which makes embeddings'
        )
    _check_descriptions(model, faults)
    if "semantic" in values:
        _check_model(values["semantic"], model.path[-1], models, faults)


def _check_model(semantic: Table, owner: object, models: Mapping[str, object], faults: Faults) -> None:
    name = semantic.values.get("model")
    if name is None:
        return
    if name == owner:
        faults.reject(semantic, "model", f"is {shown(name)} itself; name a model that makes embeddings")
    elif name not in models:
        hint = nearest(name, models, quote='"', otherwise="there are")
        faults.reject(semantic, "model", f"refers to the model {shown(name)}, which is not configured; {hint}")


def _check_descriptions(model: Table, faults: Faults) -> None:
    """Of targets of equal priority one may be for everything else."""
    lines: dict[int, int] = {}
    for target in model.values.get("targets", []):
        if "description" in target.raw:
            continue
        priority = target.values.get("priority", None if "priority" in target.raw else 0)
        if priority in lines:
            text = (
                f'needs `description`: `balance = "semantic"`, and the target on line {lines[priority]} has none either'
            )
            faults.add(target.path, f"this target {text}")
        elif priority is not None:
            lines[priority] = faults.line(target.path)
