"""What configuration needs to know of a kind of provider; the provider table has it."""

from __future__ import annotations

from typing import Protocol


class Kind(Protocol):
    """One entry of the provider table.

    default_base_url  where the service is; None if every account has a place of its own
    needs_key         whether an account without a credential cannot work
    source            where this is written down, for people
    place_keys        keys that say where it is, in place of `base_url`
    credential_keys   keys that give a credential, in place of `api_key`
    environment       the environment's variables that it reads beside its keys
    signs             its requests are signed or carry a token that is fetched: there is no place for a client's credential
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
