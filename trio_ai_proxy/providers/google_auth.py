"""Access tokens of Google Cloud: of a service account, whose key signs a statement that is exchanged for a token, and of the
machine that this runs on, whose metadata server hands them out. See `Authority`; no I/O here.

A token is fetched anew a minute before it expires. What is under way with the old one goes on.
Source: https://developers.google.com/identity/protocols/oauth2/service-account#httprest and
https://cloud.google.com/compute/docs/access/authenticate-workloads#applications
"""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from base64 import urlsafe_b64encode
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, urlencode

import msgspec
from msgspec.structs import replace
from typing_extensions import override

from trio_ai_proxy import __version__
from trio_ai_proxy.errors import ConfigError, UpstreamRefused
from trio_ai_proxy.providers.base import UpstreamRequest
from trio_ai_proxy.providers.loose import a_text, count, read_object
from trio_ai_proxy.settings import Secret

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

SCOPE = "https://www.googleapis.com/auth/cloud-platform"
METADATA_HOST = "metadata.google.internal"

_TOKEN_URL = "https://oauth2.googleapis.com/token"  # noqa: S105  an address
_GRANT = "urn:ietf:params:oauth:grant-type:jwt-bearer"
_STATEMENT_SECONDS = 3600
_EARLY_SECONDS = 60.0
_LAST_SECONDS = 5.0  # a token that dies sooner may do so on its way
_PUT_OFF_SECONDS = 10.0
_YOUNG_SECONDS = 30.0
_MAX_WORDS = 300
_MIN_TOKEN = 6
_TOKEN = re.compile(r"[\x21-\x7e]+")


class GoogleAuthority(ABC):
    """What the two have in common: a token, how long it is good, and how it is presented. `name` is the provider's."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._token = ""
        self._before = ""  # the token before: a request that went out with it may still be answered
        self._came_at = self._fresh_until = self._dies_at = self._signed_at = 0.0

    def step(self, now: float) -> UpstreamRequest | None:
        """See `Authority.step`."""
        return None if self._token and now < self._fresh_until else self._ask(now)

    def accept(self, status: int, headers: Mapping[str, str], body: bytes, now: float) -> None:
        """See `Authority.accept`. Raises `UpstreamRefused`, but for one that comes while the token before is still good:
        that goes on for as long as it lives, and asking is put off a little."""
        said = read_object(body) or {}
        token, lifetime = said.get("access_token"), float(count(said.get("expires_in")))
        if status != 200 or not isinstance(token, str) or not _TOKEN.fullmatch(token) or not lifetime:
            if not self._token or now >= self._dies_at - _LAST_SECONDS:
                raise UpstreamRefused(self._refusal(status, said))
            self._fresh_until = min(now + _PUT_OFF_SECONDS, self._dies_at - _LAST_SECONDS)
            return
        self._before, self._token = self._token or self._before, token
        self._came_at, self._dies_at = now, now + lifetime
        # Of a token that hardly lives any longer (a machine's may come from a cache), half its life is used.
        self._fresh_until = self._dies_at - min(_EARLY_SECONDS, lifetime / 2)

    def sign(self, request: UpstreamRequest, now: float) -> UpstreamRequest:
        """See `Authority.sign`."""
        self._signed_at = now
        kept = tuple(header for header in request.headers if header[0] != b"authorization")
        return replace(request, headers=(*kept, (b"authorization", b"Bearer " + self._token.encode("ascii"))))

    def reject(self) -> None:
        """See `Authority.reject`. One that has only just come is kept: what was refused may have been the one before, or the
        account, and then the next token would fare no better."""
        if self._signed_at - self._came_at >= _YOUNG_SECONDS:
            self._before, self._token = self._token or self._before, ""

    def scrub(self, text: str) -> str:
        """`text` without the tokens."""
        for token in (self._token, self._before):
            if len(token) >= _MIN_TOKEN:
                text = text.replace(token, "***")
        return text

    @abstractmethod
    def _ask(self, now: float) -> UpstreamRequest:
        """The request for a token."""

    def _refusal(self, status: int, said: Mapping[str, Any]) -> str:
        """What went wrong, in the words of whoever was asked, without anything that looks like a credential."""
        words = ": ".join(word for word in (a_text(said.get("error")), a_text(said.get("error_description"))) if word)
        words = re.sub(r"[A-Za-z0-9_\-.+/=]{40,}", "***", words)[:_MAX_WORDS]
        what = f"Google gave no access token for provider '{self._name}' (status {status})"
        return f"{what}: {words}" if words else f"{what}."


class ServiceAccount(GoogleAuthority):
    """The tokens of a service account. `secret` is its key as Google gives it out: a JSON document.

    `project` is the project that it belongs to, "" if it does not say.

    Raises `ConfigError`, without a word of the key, if it is none, or if the package `cryptography` is missing.
    """

    def __init__(self, name: str, secret: Secret) -> None:
        super().__init__(name)
        key = read_object(secret.reveal().encode("utf-8", "replace")) or {}
        self._email, pem = a_text(key.get("client_email")), a_text(key.get("private_key"))
        if key.get("type") != "service_account" or not self._email or not pem:
            raise ConfigError(
                [f"provider '{name}': service_account is not the JSON key of a service account (from {secret.source})"]
            )
        self.project = a_text(key.get("project_id"))
        self._key_id = a_text(key.get("private_key_id"))
        self._url = a_text(key.get("token_uri")) or _TOKEN_URL
        if not re.match(r"https?://[^/\s]+", self._url):
            raise ConfigError([f"provider '{name}': token_uri of the service account is no address"])
        self._sign = _signer(name, pem)

    @override
    def _ask(self, now: float) -> UpstreamRequest:
        head = {"alg": "RS256", "typ": "JWT", **({"kid": self._key_id} if self._key_id else {})}
        issued = int(now)
        claims = {
            "iss": self._email,
            "scope": SCOPE,
            "aud": self._url,
            "iat": issued,
            "exp": issued + _STATEMENT_SECONDS,
        }
        statement = b".".join(_base64url(msgspec.json.encode(part)) for part in (head, claims))
        assertion = b".".join((statement, _base64url(self._sign(statement))))
        body = urlencode({"grant_type": _GRANT, "assertion": assertion.decode("ascii")}).encode("ascii")
        headers = (
            (b"content-type", b"application/x-www-form-urlencoded"),
            (b"accept", b"application/json"),
            (b"accept-encoding", b"identity"),
            (b"user-agent", f"trio-ai-proxy/{__version__}".encode("ascii")),
        )
        return UpstreamRequest("POST", self._url, headers, body, stream=False)


class MachineAccount(GoogleAuthority):
    """The tokens of the account that the machine runs as. `host` is the metadata server's, with a port if it has one."""

    def __init__(self, name: str, host: str = METADATA_HOST) -> None:
        super().__init__(name)
        if not re.fullmatch(r"[A-Za-z0-9.\-]+(:\d+)?|\[[0-9A-Fa-f:]+\](:\d+)?", host):
            raise ConfigError([f"provider '{name}': GCE_METADATA_HOST is no host"])
        path = "/computeMetadata/v1/instance/service-accounts/default/token"
        headers = (
            (b"metadata-flavor", b"Google"),
            (b"accept-encoding", b"identity"),
            (b"user-agent", f"trio-ai-proxy/{__version__}".encode("ascii")),
        )
        url = f"http://{host}{path}?scopes={quote(SCOPE, safe='')}"
        self._request = UpstreamRequest("GET", url, headers, b"", stream=False)

    @override
    def _ask(self, now: float) -> UpstreamRequest:
        return self._request


def private_key_of(secret: Secret | None) -> Secret | None:
    """The part of a service account's key that nobody may see."""
    if secret is None:
        return None
    key = read_object(secret.reveal().encode("utf-8", "replace")) or {}
    return Secret(a_text(key.get("private_key")), secret.source)


def _base64url(data: bytes) -> bytes:
    return urlsafe_b64encode(data).rstrip(b"=")


def _signer(name: str, pem: str) -> Callable[[bytes], bytes]:
    """What signs with RS256. Only gateways that have a service account pay for the package, and need it."""
    try:
        from cryptography.exceptions import UnsupportedAlgorithm
        from cryptography.hazmat.primitives.asymmetric.padding import PKCS1v15
        from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey
        from cryptography.hazmat.primitives.hashes import SHA256
        from cryptography.hazmat.primitives.serialization import load_pem_private_key
    except ImportError:
        raise ConfigError(
            [f"provider '{name}': a service account needs the package `cryptography`; install trio-ai-proxy[vertex]"]
        ) from None
    try:
        key = load_pem_private_key(pem.encode("utf-8"), password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm, UnicodeEncodeError):
        key = None
    if not isinstance(key, RSAPrivateKey):
        # Without `from`: the cause might show the key.
        raise ConfigError([f"provider '{name}': private_key of the service account is no RSA key"]) from None
    return lambda statement: key.sign(statement, PKCS1v15(), SHA256())
