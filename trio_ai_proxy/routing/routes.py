"""Which model a name means, and who may use it. Decides, and does nothing else."""

from __future__ import annotations

from typing import TYPE_CHECKING

from trio_ai_proxy.errors import UnknownModel
from trio_ai_proxy.routing.patterns import one_of
from trio_ai_proxy.settings import ModelSettings, TargetSettings

if TYPE_CHECKING:
    from trio_ai_proxy.settings import KeySettings, Settings


class Routes:
    """The configured models and the keys' rights to them."""

    def __init__(self, settings: Settings) -> None:
        self._models = settings.models
        self._pass_through = settings.pass_through
        self._timeouts = settings.timeouts
        self._breaker = settings.breaker

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
        return ModelSettings(name=model, targets=(target,), timeouts=self._timeouts, breaker=self._breaker)

    def allowed(self, key: KeySettings | None, model: str) -> bool:
        """Whether `key` may use `model`. None is the caller of an open gateway, who may use all."""
        if key is None:
            return True
        return one_of(key.models).fullmatch(model) is not None

    def visible(self, key: KeySettings | None) -> list[str]:
        """The configured models that `key` may use, in the order of the file."""
        return [name for name in self._models if self.allowed(key, name)]
