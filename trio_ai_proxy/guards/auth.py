"""Who asks: before a byte of the body is read, and in the same time whoever it is."""

from __future__ import annotations

import hashlib
import hmac
from typing import TYPE_CHECKING

from trio_ai_proxy.errors import Unauthenticated

if TYPE_CHECKING:
    from trio_ai_proxy.settings import KeySettings

_HINT = "Send it as `Authorization: Bearer <key>`."


class Keyring:
    """The keys that clients have been given."""

    def __init__(self, keys: tuple[KeySettings, ...]) -> None:
        self._keys = keys

    def identify(self, authorization: bytes | None) -> KeySettings | None:
        """The key that the value of an `Authorization` header presents; None where the gateway is open.

        Raises `Unauthenticated`. Every configured digest is compared, in constant time, whether or not one has matched.
        """
        if not self._keys:
            return None
        if authorization is None:
            raise Unauthenticated(f"No API key was sent. {_HINT}", code="missing_api_key")
        scheme, _, presented = authorization.strip().partition(b" ")
        if scheme.lower() != b"bearer" or not presented.strip():
            raise Unauthenticated(f"The Authorization header holds no bearer key. {_HINT}", code="missing_api_key")
        digest = hashlib.sha256(presented.strip()).digest()
        found: KeySettings | None = None
        for key in self._keys:
            if hmac.compare_digest(key.sha256, digest):
                found = key
        if found is None:
            raise Unauthenticated("The API key is not one of this gateway's.")
        return found
