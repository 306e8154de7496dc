"""What configuration needs to know of a kind of provider; the provider table has it."""

from __future__ import annotations

from typing import Protocol


class Kind(Protocol):
    """One entry of the provider table.

    default_base_url  where the service is; None if every account has a place of its own
    needs_key         whether an account without a credential cannot work
    source            where this is written down, for people
    """

    @property
    def name(self) -> str: ...

    @property
    def default_base_url(self) -> str | None: ...

    @property
    def needs_key(self) -> bool: ...

    @property
    def source(self) -> str: ...
