"""What a request says beside its body: headers, query and the pieces of its path. Nothing of it is used but what the
configuration asks for by name.
"""

from __future__ import annotations

from collections.abc import Mapping  # noqa: TC003  the class is built at run time
from urllib.parse import unquote_to_bytes

import msgspec

from trio_ai_proxy.errors import InvalidRequest

_MAX_PARAMETERS = 256


class Caller(msgspec.Struct, frozen=True):
    """One request's head.

    headers   names in lower case
    query     what follows the question mark, as it came
    captures  what a route's path has taken from this one, decoded
    """

    headers: Mapping[bytes, bytes] = {}
    query: bytes = b""
    captures: Mapping[str, str] = {}

    def header(self, name: str) -> str | None:
        """The value of a header, without blanks around it; None if there is none, or nothing in it."""
        value = self.headers.get(name.lower().encode("latin-1", "replace"))
        return None if value is None else value.decode("latin-1").strip() or None

    def parameter(self, name: str) -> str | None:
        """The value of a query parameter, decoded as forms are; None if there is none, or nothing in it. Raises
        `InvalidRequest` where it is there twice, for others may read the other one, or is no UTF-8."""
        if not self.query:
            return None
        pairs = self.query.split(b"&")
        if len(pairs) > _MAX_PARAMETERS:
            raise InvalidRequest(f"The query has more than {_MAX_PARAMETERS} parameters.", code="invalid_value")
        wanted = name.encode()
        found = [value for key, _, value in (pair.partition(b"=") for pair in pairs) if _decoded(key) == wanted]
        if len(found) > 1:
            raise InvalidRequest(
                f'The query has "{name}" more than once.', param=f"query_params.{name}", code="invalid_value"
            )
        try:
            return (_decoded(found[0]).decode("utf-8") or None) if found else None
        except UnicodeDecodeError:
            raise InvalidRequest(
                f'The query parameter "{name}" is not UTF-8.', param=f"query_params.{name}", code="invalid_value"
            ) from None


def _decoded(text: bytes) -> bytes:
    return unquote_to_bytes(text.replace(b"+", b" "))


NOBODY = Caller()
"""Where there is no request: it has nothing."""
