"""Who chooses among the targets of each model, and what is known of them: made when a model is first asked for, and kept for as
long as the server runs.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import trio

from trio_ai_proxy.routing.backoff import Budget
from trio_ai_proxy.routing.facts import target_facts
from trio_ai_proxy.routing.health import Health
from trio_ai_proxy.routing.router import Router

if TYPE_CHECKING:
    from collections.abc import Mapping

    from trio_ai_proxy.relay.accounts import Account
    from trio_ai_proxy.settings import ModelSettings


class Known(NamedTuple):
    """Of one model.

    router   chooses among its targets
    healths  what is known of each of them, in their order
    hedges   what is left for calls beside slow ones
    """

    router: Router
    healths: list[Health]
    hedges: Budget


class Routers:
    """Those of all models.

    known  what has been asked for, by the model's name
    """

    def __init__(self, models: Mapping[str, ModelSettings], accounts: Mapping[str, Account]) -> None:
        self._models = models
        self._accounts = accounts
        self.known: dict[str, Known] = {}

    def of(self, model: ModelSettings) -> Known:
        """What is known of `model`. Names that nobody has configured, which all go to one account, share theirs, under the
        name ''."""
        name = model.name if model.name in self._models else ""
        found = self.known.get(name)
        if found is None:
            now = trio.current_time()
            healths = [Health(model.breaker, now=now) for _ in model.targets]
            facts = [
                target_facts(target, self._accounts[target.provider].provider.for_model(target.model).capabilities)
                for target in model.targets
            ]
            hedges = Budget(model.hedge_budget, per_second=0.0, now=now)
            found = self.known[name] = Known(Router(model, healths, facts), healths, hedges)
        return found
