"""One account at one service: where it is, how its credential is presented, and what must never be shown of it.

Settled when a provider is built. A configured header takes the place of ours of the same name; the credential takes the
place of both.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from trio_ai_proxy import __version__
from trio_ai_proxy.errors import ConfigError
from trio_ai_proxy.providers.error_words import scrubber

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from trio_ai_proxy.providers.kind import Kind
    from trio_ai_proxy.settings import ProviderSettings, Secret

Headers = tuple[tuple[bytes, bytes], ...]

_MIN_SECRET_HEADER = 16  # a configured header's value of this length may be a credential, and is taken out of errors


class Account:
    """What every provider needs of its block in the configuration.

    name, kind       as configured
    base_url         without a slash at its end; where the settings have none, the kind's, else `default_base_url`
    scrub            takes this account's credentials out of a text
    body_credential  fields to put into every request's body (`auth` with `param_location = "body"`), mostly none

    Raises `ConfigError` if there is no base URL.
    """

    def __init__(
        self,
        settings: ProviderSettings,
        kind: Kind,
        *,
        default_base_url: str | None = None,
        key_header: str = "authorization",
        key_prefix: str = "Bearer ",
        headers: Mapping[str, str] | None = None,
        secrets: tuple[Secret | None, ...] = (),
    ) -> None:
        """`key_header` and `key_prefix` say how `api_key` is presented; `headers` are the kind's own; `secrets` are
        credentials beside `api_key` and `auth`, which errors must not show either."""
        base_url = settings.base_url or kind.default_base_url or default_base_url
        if base_url is None:
            raise ConfigError([f"provider '{settings.name}' of kind '{kind.name}' needs a base_url"])
        self.name = settings.name
        self.kind = kind.name
        base, _, query = base_url.partition("?")
        self.base_url = base.rstrip("/")
        self._query = [query] if query else []
        self.scrub = scrubber(_credentials(settings, secrets))
        self.body_credential: dict[str, Any] = {}
        auth = settings.auth
        self._own_credential: dict[str, str] = {}
        if auth is not None and auth.param_name and auth.param_value is not None:
            if auth.param_location == "query":
                self._query.append(f"{quote(auth.param_name, safe='')}={quote(auth.param_value.reveal(), safe='')}")
            elif auth.param_location == "body":
                self.body_credential = {auth.param_name: auth.param_value.reveal()}
        if auth is not None and auth.header_name and auth.header_value is not None:
            self._own_credential = {auth.header_name.lower(): auth.header_value.reveal()}
        elif settings.api_key is not None:
            self._own_credential = {key_header: key_prefix + settings.api_key.reveal()}
        self._headers = {name.lower(): value for name, value in (headers or {}).items()}
        self._configured = {name.lower(): value for name, value in settings.headers.items()}

    def url(self, path: str, **query: str) -> str:
        """The address of `path` (from its first slash on, already escaped), with the configured and the given query."""
        parameters = [*self._query, *(f"{name}={quote(value, safe='')}" for name, value in query.items())]
        return self.base_url + path + ("?" + "&".join(parameters) if parameters else "")

    def headers(self, accept: str) -> Headers:
        """The head of every request that wants an answer of the media type `accept`. Raises `ConfigError` for what no
        header can carry."""
        headers = {
            "content-type": "application/json",
            "accept": accept,
            "accept-encoding": "identity",  # a compressed stream would have to be taken apart to be read
            "user-agent": f"trio-ai-proxy/{__version__}",
            **self._headers,
            **self._configured,
            **self._own_credential,
        }
        try:
            return tuple((name.encode("ascii"), value.encode("latin-1")) for name, value in headers.items())
        except UnicodeEncodeError:
            # Without `from`: the cause would carry the credential.
            raise ConfigError([f"provider '{self.name}': a header or credential is not Latin-1 text"]) from None


def _credentials(settings: ProviderSettings, secrets: tuple[Secret | None, ...]) -> Iterator[str]:
    auth = settings.auth
    given = (settings.api_key, *settings.api_keys, *secrets)
    if auth is not None:
        given += (auth.header_value, auth.param_value)
    for secret in dict.fromkeys(given):
        if secret is not None:
            yield secret.reveal()
            yield from secret.reveal().split()  # "Bearer …": an error may show the second word alone
    yield from (value for value in settings.headers.values() if len(value) >= _MIN_SECRET_HEADER)
