"""The several credentials of one provider, as exchanges use them: what speaks with each, and what is learnt of it.

A provider with a single credential has none of this, and a client's own credential never comes here.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from trio_ai_proxy.errors import UpstreamError
from trio_ai_proxy.routing.credentials import Ring
from trio_ai_proxy.routing.steps import status_meant, step_for

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Sequence

    from trio_ai_proxy.errors import ProxyError
    from trio_ai_proxy.providers.base import Provider
    from trio_ai_proxy.routing.credentials import Turn


def is_about_the_credential(error: ProxyError) -> bool:
    """Whether `error` speaks of the credential alone, so that another one of the same provider may have an answer."""
    return step_for(error, keys_left=True) == "key"


class Credentials:
    """Those of one provider.

    ring  whose turn it is
    """

    def __init__(self, providers: Sequence[Provider], report: Callable[[int, str | None], None]) -> None:
        """`providers` are the same account with one credential each. `report` is told the place of one that goes out and the
        status that took it out, or that it is in again, and None."""
        self.ring = Ring(len(providers))
        self._providers = providers
        self._report = report

    def __len__(self) -> int:
        return len(self._providers)

    def take(self, now: float) -> Credential:
        """The one whose turn it is."""
        return Credential(self, self.ring.take(now))

    def take_usable(self, now: float, tried: Collection[int]) -> Credential | None:
        """The one whose turn it is among those that are usable and not `tried`; None if there is none."""
        turn = self.ring.take_usable(now, tried)
        return None if turn is None else Credential(self, turn)

    def provider(self, index: int, model: str) -> Provider:
        """What speaks with that credential for `model`."""
        return self._providers[index].for_model(model)

    def answered(self, turn: Turn, now: float) -> None:
        """The provider has taken the credential."""
        if self.ring.answered(turn, now):
            self._report(turn.index, None)

    def failed(self, turn: Turn, error: UpstreamError, now: float) -> None:
        """The provider has not, as `error` says, which is about the credential."""
        status = status_meant(error)
        if status == 429:
            self.ring.limited(turn, error.retry_after, now)
        elif self.ring.refused(turn, str(status), now):
            self._report(turn.index, str(status))


@dataclass(frozen=True, slots=True)
class Credential:
    """The one of several that a leg goes out with."""

    of: Credentials
    turn: Turn

    @property
    def index(self) -> int:
        """Its place in the configuration, from 0."""
        return self.turn.index

    def answered(self, now: float) -> None:
        """See `Credentials.answered`."""
        self.of.answered(self.turn, now)

    def ended(self, error: ProxyError | None, now: float) -> bool:
        """A call with it is over. Returns whether `error` is this credential's own failure, of which the target knows nothing:
        others of the provider are usable."""
        if error is None:
            self.answered(now)
            return False
        if not isinstance(error, UpstreamError) or not is_about_the_credential(error):
            return False
        self.of.failed(self.turn, error, now)
        return self.of.ring.usable(now) > 0
