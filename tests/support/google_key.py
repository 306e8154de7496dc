"""A service account's key as Google gives it out, of no account."""

from __future__ import annotations

import json
from functools import cache

from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey, generate_private_key
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from trio_ai_proxy.settings import Secret


@cache
def private_key() -> RSAPrivateKey:
    """The one key of this run."""
    return generate_private_key(public_exponent=65537, key_size=2048)


def pem() -> str:
    """The same as text."""
    return private_key().private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()


def service_account(token_uri: str, /, **changes: object) -> Secret:
    """The JSON document. `changes` replace its members; None takes one away."""
    document = {
        "type": "service_account",
        "project_id": "key-project",
        "private_key_id": "k1",
        "private_key": pem(),
        "client_email": "robot@key-project.iam.gserviceaccount.com",
        "client_id": "1",
        "token_uri": token_uri,
        **changes,
    }
    return Secret(json.dumps({name: value for name, value in document.items() if value is not None}), "a test")
