"""Which model a name means, and who may use it. Decides, and does nothing else."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from trio_ai_proxy.errors import UnknownModel
from trio_ai_proxy.settings import ModelSettings, TargetSettings

if TYPE_CHECKING:
    from trio_ai_proxy.settings import KeySettings, Settings


class Routes:
    """The configured models and the keys' rights to them."""

    def __init__(self, settings: Settings) -> None:
        self._models = settings.models
        self._pass_through = settings.pass_through
        self._timeouts = settings.timeouts
        self._rights = {key.models: _compile(key.models) for key in settings.keys}

    def resolve(self, model: str) -> ModelSettings:
        """The settings of the model that clients call `model`.

        Where a provider takes all other names, one that nobody has configured goes there under the same name, with the
        defaults for everything else. Raises `UnknownModel`, in OpenAI's words: they tell nothing about what there is.
        """
        found = self._models.get(model)
        if found is not None:
            return found
        if self._pass_through is None:
            raise UnknownModel(f"The model `{model}` does not exist or you do not have access to it.", param="model")
        target = TargetSettings(provider=self._pass_through, model=model)
        return ModelSettings(name=model, targets=(target,), timeouts=self._timeouts)

    def allowed(self, key: KeySettings | None, model: str) -> bool:
        """Whether `key` may use `model`. None is the caller of an open gateway, who may use all."""
        if key is None:
            return True
        rights = self._rights.get(key.models)
        if rights is None:
            rights = self._rights[key.models] = _compile(key.models)
        return rights.fullmatch(model) is not None

    def visible(self, key: KeySettings | None) -> list[str]:
        """The configured models that `key` may use, in the order of the file."""
        return [name for name in self._models if self.allowed(key, name)]


def _compile(patterns: tuple[str, ...]) -> re.Pattern[str]:
    """One expression for all patterns. `*` is any run of characters, everything else is itself."""
    return re.compile("|".join(f"(?:{_expression(pattern)})" for pattern in patterns) or "(?!)", re.DOTALL)


def _expression(pattern: str) -> str:
    first, *others = (re.escape(piece) for piece in re.split(r"\*+", pattern))
    if not others:
        return first
    *middle, last = others
    # Atomic groups: the first place where a piece fits is as good as any later one, and trying those as well would take
    # time without end for a pattern of many stars.
    return first + "".join(f"(?>.*?{piece})" for piece in middle) + ".*" + last
