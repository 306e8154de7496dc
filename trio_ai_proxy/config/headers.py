"""Which headers a configuration may set, in what goes out to a provider or a service and in what goes back to a client."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from trio_ai_proxy.config.decode import Faults, Table

# Headers that the gateway writes itself: a second copy could let one message be read as two (RFC 9112, section 11.2).
_OWN_HEADERS = frozenset(
    {
        *("host", "connection", "content-length", "content-type", "transfer-encoding", "te", "trailer", "upgrade"),
        *("expect", "accept-encoding"),
    }
)
HEADER_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")  # RFC 9110, section 5.6.2


def check_header(faults: Faults, table: Table, key: str, name: str, value: str) -> None:
    """Add what is wrong with the header `name`, which the key `key` of `table` sets to `value`."""
    if not HEADER_NAME.fullmatch(name):
        faults.reject(table, key, "is not a name that a header can have")
    elif name.lower() in _OWN_HEADERS:
        faults.reject(table, key, f"cannot be set: the gateway writes the header {name.lower()} itself")
    if not value.isascii() or not value.isprintable():
        faults.reject(table, key, "must be printable ASCII characters")
