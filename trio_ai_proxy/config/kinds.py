"""What configuration needs to know of a kind of provider, which the provider table has; and which keys are of which kind."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from trio_ai_proxy.config.fields import keys_of
from trio_ai_proxy.config.values import listed

if TYPE_CHECKING:
    from trio_ai_proxy.config.decode import Faults, Table


def check_kind_keys(table: Table, settings_type: type, kind: str, owner: str, faults: Faults) -> None:
    """Add each key that is in `table` and not for its `kind`. `owner` is what the table describes."""
    for key in keys_of(settings_type).values():
        if key.kinds and kind not in key.kinds and key.name in table.raw:
            of = listed(key.kinds, '"')
            faults.reject(table, key.name, f'is a key of kind {of}, and this {owner} is of kind "{kind}"')


class Kind(Protocol):
    """One entry of the provider table.

    default_base_url  where the service is; None if every account has a place of its own
    needs_key         whether an account without a credential cannot work
    source            where this is written down, for people
    place_keys        keys that say where it is, in place of `base_url`
    credential_keys   keys that give a credential, in place of `api_key`
    environment       the environment's variables that it reads beside its keys
    signs             its requests are signed or carry a token that is fetched: there is no place for a client's credential
    embedded          whether the gateway plays it itself, and no credential goes anywhere
    """

    @property
    def name(self) -> str: ...

    @property
    def default_base_url(self) -> str | None: ...

    @property
    def needs_key(self) -> bool: ...

    @property
    def source(self) -> str: ...

    @property
    def place_keys(self) -> tuple[str, ...]: ...

    @property
    def credential_keys(self) -> tuple[str, ...]: ...

    @property
    def environment(self) -> tuple[str, ...]: ...

    @property
    def signs(self) -> bool: ...

    @property
    def embedded(self) -> bool: ...
