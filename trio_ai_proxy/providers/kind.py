"""What a row of the provider table holds."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from trio_ai_proxy.providers.base import Capabilities


@dataclass(frozen=True, slots=True)
class Kind:
    """One row.

    name              what `kind` says in the configuration
    wire              the format it speaks; equal to a dialect's wire, frames pass untouched
    default_base_url  where it is, up to and including the version; None if every account has a place of its own
    needs_key         whether an account without a credential cannot work
    capabilities      what it does and does not do
    source            the pages of the service's documentation that this row is from
    env               the environment variable in which its key is usually kept, or None
    embedded          whether the gateway plays it itself, in memory: nothing is sent anywhere
    place_keys        keys of its block that say where it is, in place of `base_url`
    credential_keys   keys of its block that give a credential, in place of `api_key`
    environment       the environment's variables that it reads beside its keys
    signs             its requests are signed or carry a token that is fetched: there is no place for a client's credential
    """

    name: str
    wire: str
    default_base_url: str | None
    needs_key: bool
    capabilities: Capabilities
    source: str
    env: str | None = None
    embedded: bool = False
    place_keys: tuple[str, ...] = ()
    credential_keys: tuple[str, ...] = ()
    environment: tuple[str, ...] = ()
    signs: bool = False
