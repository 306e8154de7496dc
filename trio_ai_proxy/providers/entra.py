"""Tokens of Microsoft Entra ID: for an application with a secret or a federated token, and for the identity of a machine.

It does no I/O: `step` says what to ask, `accept` is told the answer. A token is fetched again a minute before it expires; if
that fails while the old one is still good, the old one goes on for as long as it lives, and asking is put off a little.

Sources: https://learn.microsoft.com/entra/identity-platform/v2-oauth2-client-creds-grant-flow
https://learn.microsoft.com/entra/identity/managed-identities-azure-resources/how-to-use-vm-token
https://learn.microsoft.com/azure/app-service/overview-managed-identity#rest-endpoint-reference
https://azure.github.io/azure-workload-identity/docs/ (the variables that a pod is given)
"""

from __future__ import annotations

import math
import re
from typing import TYPE_CHECKING, Any, Literal
from urllib.parse import quote, urlencode, urlsplit

from msgspec.structs import replace

from trio_ai_proxy.errors import ConfigError, UpstreamError, UpstreamRefused
from trio_ai_proxy.providers.base import FileStep, UpstreamRequest
from trio_ai_proxy.providers.error_words import scrubber
from trio_ai_proxy.providers.loose import a_text, read_object

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from trio_ai_proxy.settings import EntraSettings, ProviderSettings

REFRESH_SECONDS = 60.0
_LAST_SECONDS = 5.0  # a token that expires sooner may do so on its way
_PUT_OFF_SECONDS = 10.0
_FRESH_SECONDS = 30.0  # a token refused so soon after it came would be replaced by one like it

_LOGIN = "https://login.microsoftonline.com"
_IMDS = "http://169.254.169.254"
_MAX_TOKEN_CHARACTERS = 64 * 1024
_MAX_WORDS = 200
_TENANT = re.compile(r"[A-Za-z0-9.-]+")
_TOKEN = re.compile(r"[!-~]+")
_AADSTS = re.compile(r"AADSTS\d+")

# The clouds of their own, by the host that gives their tokens.
_RESOURCES = {
    "login.microsoftonline.us": "https://cognitiveservices.azure.us",
    "login.chinacloudapi.cn": "https://cognitiveservices.azure.cn",
    "login.partner.microsoftonline.cn": "https://cognitiveservices.azure.cn",
}
_RESOURCE = "https://cognitiveservices.azure.com"


class EntraAuthority:
    """A token and where it is from; see `Authority`. `provider` is the account's name, for errors.

    ask         the request for a token; it is given the assertion, "" where there is none
    token_file  the file that holds the assertion, read anew for each token, or None
    """

    def __init__(self, provider: str, ask: Callable[[str], UpstreamRequest], token_file: str | None = None) -> None:
        self._provider = provider
        self._ask = ask
        self._token_file = token_file
        self._assertion = ""
        self._token = ""
        self._old_token = ""
        self._refresh_at = -math.inf
        self._expires_at = -math.inf
        self._fetched_at = -math.inf
        self._signed_at = -math.inf

    def step(self, now: float) -> UpstreamRequest | FileStep | None:
        """See `Authority`."""
        if self._token and now < self._refresh_at:
            return None
        if self._token_file is not None and not self._assertion:
            return FileStep(self._token_file, optional=True)  # without it, the token that there is may do
        return self._ask(self._assertion)

    def accept(self, status: int, headers: Mapping[str, str], body: bytes, now: float) -> None:
        """See `Authority`. Status 0 is no answer at all."""
        try:
            if self._token_file is not None and not self._assertion:
                self._assertion = self._read_assertion(status, body)
                return
            token, lifetime = self._read_token(status, body, now)
        except UpstreamError:
            self._assertion = ""
            if not self._token or now >= self._expires_at - _LAST_SECONDS:
                raise
            self._refresh_at = min(now + _PUT_OFF_SECONDS, self._expires_at - _LAST_SECONDS)
            return
        self._assertion = ""
        self._old_token, self._token = self._token, token
        self._fetched_at = now
        self._expires_at = now + lifetime
        # A token may come from a cache with little of its life left; it is then used for half of that.
        self._refresh_at = self._expires_at - min(REFRESH_SECONDS, lifetime / 2)

    def sign(self, request: UpstreamRequest, now: float) -> UpstreamRequest:
        """See `Authority`. Raises `UpstreamRefused` if there is no token."""
        if not self._token:
            raise UpstreamRefused(f"There is no token for provider '{self._provider}'.")
        self._signed_at = now
        return replace(request, headers=(*request.headers, (b"authorization", f"Bearer {self._token}".encode("ascii"))))

    def reject(self) -> None:
        """See `Authority`. A token that has only just come is kept: it was refused for what it may do, and the next one may
        do no more; and what was refused may have been the one before."""
        if self._signed_at - self._fetched_at >= _FRESH_SECONDS:
            self._old_token, self._token = self._token, ""

    def scrub(self, text: str) -> str:
        """`text` without a token."""
        return scrubber(token for token in (self._token, self._old_token, self._assertion) if token)(text)

    def _read_assertion(self, status: int, body: bytes) -> str:
        text = body.decode("latin-1").strip()
        if status == 404:
            raise UpstreamRefused(f"The federated token file of provider '{self._provider}' is not there.")
        if status != 200 or len(text) > _MAX_TOKEN_CHARACTERS or not _TOKEN.fullmatch(text):
            raise UpstreamRefused(f"The federated token file of provider '{self._provider}' holds no token.")
        return text

    def _read_token(self, status: int, body: bytes, now: float) -> tuple[str, float]:
        """The token and how many seconds it lives."""
        answer = read_object(body) or {}
        if status != 200:
            words = self._words(answer)
            what = f"{status}: {words}" if words else str(status)
            raise UpstreamRefused(f"Microsoft Entra ID gave no token for provider '{self._provider}' (status {what}).")
        token = answer.get("access_token")
        lifetime = _lifetime(answer, now)
        if not isinstance(token, str) or len(token) > _MAX_TOKEN_CHARACTERS or not _TOKEN.fullmatch(token):
            raise UpstreamRefused(f"Microsoft Entra ID gave provider '{self._provider}' what is no token.")
        if lifetime is None or lifetime <= _LAST_SECONDS:
            raise UpstreamRefused(f"Microsoft Entra ID gave provider '{self._provider}' a token that has expired.")
        return token, lifetime

    def _words(self, answer: dict[str, Any]) -> str:
        """What a refusal says, without the names of tenants and applications that its longer text holds."""
        description = a_text(answer.get("error_description")) or a_text(answer.get("message"))
        number = _AADSTS.search(description)
        more = number[0] if number is not None else description.partition("\n")[0].strip()
        words = ", ".join(word for word in (a_text(answer.get("error")), more) if word)
        return self.scrub(words)[:_MAX_WORDS]


def _lifetime(answer: dict[str, Any], now: float) -> float | None:
    for name, start in (("expires_in", 0.0), ("expires_on", now)):
        value = answer.get(name)
        try:
            seconds = float(value) - start if not isinstance(value, bool) and value is not None else math.nan
        except (TypeError, ValueError, OverflowError):
            continue
        if math.isfinite(seconds):
            return seconds
    return None


# -- where tokens are from ----------------------------------------------------------------------------------------------


def build_authority(settings: ProviderSettings) -> EntraAuthority | None:
    """Where this account's tokens are from; None if it has a key. Raises `ConfigError` for what cannot work."""
    if settings.entra is None and not settings.managed_identity:
        return None
    environ = settings.environment
    authority_host = _authority_host(settings.name, environ.get("AZURE_AUTHORITY_HOST") or _LOGIN)
    if settings.entra is not None:
        return _application(settings.name, settings.entra, environ, authority_host)
    resource = _RESOURCES.get(urlsplit(authority_host).hostname or "", _RESOURCE)
    client_id = environ.get("AZURE_CLIENT_ID", "")
    tenant_id, token_file = environ.get("AZURE_TENANT_ID", ""), environ.get("AZURE_FEDERATED_TOKEN_FILE", "")
    if tenant_id and client_id and token_file:
        # In a pod that was given an identity, the machine's service would give that of the node.
        ask = _client_credentials(
            settings.name, authority_host, tenant_id, client_id, f"{resource}/.default", secret=None
        )
        return EntraAuthority(settings.name, ask, token_file)
    endpoint, header = environ.get("IDENTITY_ENDPOINT", ""), environ.get("IDENTITY_HEADER", "")
    if bool(endpoint) != bool(header):
        raise ConfigError(
            [
                f"provider '{settings.name}': of IDENTITY_ENDPOINT and IDENTITY_HEADER only one is set; "
                "the identities of Azure Arc and Cloud Shell are not supported"
            ]
        )
    if endpoint:
        version, headers = "2019-08-01", ((b"x-identity-header", _header(settings.name, header)),)
    else:
        endpoint = environ.get("AZURE_POD_IDENTITY_AUTHORITY_HOST", "").rstrip("/") or _IMDS
        endpoint += "/metadata/identity/oauth2/token"
        version, headers = "2018-02-01", ((b"metadata", b"true"),)
    _check_url(settings.name, endpoint, "the address of the machine's identity service")
    query = {"api-version": version, "resource": resource} | ({"client_id": client_id} if client_id else {})
    request = _request("GET", f"{endpoint}?{urlencode(query)}", headers)
    return EntraAuthority(settings.name, lambda _assertion: request)


def _application(
    provider: str, entra: EntraSettings, environ: Mapping[str, str], authority_host: str
) -> EntraAuthority:
    resource = _RESOURCES.get(urlsplit(authority_host).hostname or "", _RESOURCE)
    secret = entra.client_secret.reveal() if entra.client_secret is not None else None
    token_file = None if secret is not None else environ.get("AZURE_FEDERATED_TOKEN_FILE")
    if secret is None and not token_file:
        raise ConfigError(
            [f"provider '{provider}': `entra` needs a client_secret, or AZURE_FEDERATED_TOKEN_FILE in the environment"]
        )
    scope = entra.scope or f"{resource}/.default"
    ask = _client_credentials(provider, authority_host, entra.tenant_id, entra.client_id, scope, secret=secret)
    return EntraAuthority(provider, ask, token_file)


def _client_credentials(
    provider: str, authority_host: str, tenant_id: str, client_id: str, scope: str, *, secret: str | None
) -> Callable[[str], UpstreamRequest]:
    if not _TENANT.fullmatch(tenant_id):
        raise ConfigError([f"provider '{provider}': the tenant_id is not one: a GUID or a domain"])
    url = f"{authority_host}/{quote(tenant_id, safe='')}/oauth2/v2.0/token"
    form = {"grant_type": "client_credentials", "client_id": client_id, "scope": scope}

    def ask(assertion: str) -> UpstreamRequest:
        if secret is not None:
            proof = {"client_secret": secret}
        else:
            kind = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"
            proof = {"client_assertion_type": kind, "client_assertion": assertion}
        headers = ((b"content-type", b"application/x-www-form-urlencoded"),)
        return _request("POST", url, headers, urlencode(form | proof).encode("ascii"))

    return ask


def _request(
    method: Literal["GET", "POST"], url: str, headers: tuple[tuple[bytes, bytes], ...], body: bytes = b""
) -> UpstreamRequest:
    return UpstreamRequest(method, url, (*headers, (b"accept", b"application/json")), body, stream=False)


def _authority_host(provider: str, host: str) -> str:
    url = (host if "://" in host else f"https://{host}").rstrip("/")
    _check_url(provider, url, "AZURE_AUTHORITY_HOST")
    parts = urlsplit(url)
    if parts.scheme != "https" and parts.hostname not in ("127.0.0.1", "::1", "localhost"):
        raise ConfigError([f"provider '{provider}': AZURE_AUTHORITY_HOST must be an https address"])
    return url


def _check_url(provider: str, url: str, what: str) -> None:
    try:
        parts = urlsplit(url)
        is_address = parts.scheme in ("http", "https") and bool(parts.hostname)
        is_plain = (
            _TOKEN.fullmatch(url) is not None and not parts.query and not parts.fragment and "@" not in parts.netloc
        )
    except ValueError:
        is_address = is_plain = False
    if not is_address or not is_plain:
        raise ConfigError([f"provider '{provider}': {what} cannot be used: it is not a plain http or https address"])


def _header(provider: str, value: str) -> bytes:
    if not _TOKEN.fullmatch(value):
        raise ConfigError([f"provider '{provider}': IDENTITY_HEADER is not what a header can carry"])
    return value.encode("ascii")
