"""A client's own credential in place of ours, where the account's `auth` allows it (Kong's `allow_override`).

Pure. Only what stands in the place that `auth` names is taken, and nothing else of the client's head reaches a provider. The
value is in no log and no record, and is taken out of what the provider says in errors.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import msgspec
from msgspec.structs import replace

from trio_ai_proxy.errors import InvalidRequest
from trio_ai_proxy.providers.base import encode_body
from trio_ai_proxy.providers.error_words import scrubber

if TYPE_CHECKING:
    from collections.abc import Mapping

    from trio_ai_proxy.errors import ProxyError
    from trio_ai_proxy.providers.base import UpstreamRequest
    from trio_ai_proxy.routing.caller import Caller
    from trio_ai_proxy.settings import AuthSettings

MAX_CREDENTIAL_CHARACTERS = 8192
_LEAST_TAIL = 6


@dataclass(frozen=True, slots=True)
class Override:
    """What a client sent in the place of our credential.

    header, parameter  the values, None where it sent none
    auth               the places
    """

    auth: AuthSettings
    header: str | None = field(default=None, repr=False)
    parameter: str | None = field(default=None, repr=False)

    def apply(self, request: UpstreamRequest) -> UpstreamRequest:
        """`request` with the client's credential where ours was. Raises `InvalidRequest` for a body too deep to be written."""
        auth = self.auth
        if self.header is not None and auth.header_name is not None:
            name = auth.header_name.lower().encode("ascii")
            kept = tuple(header for header in request.headers if header[0].lower() != name)
            request = replace(request, headers=(*kept, (name, self.header.encode("ascii"))))
        if self.parameter is None or auth.param_name is None:
            return request
        if auth.param_location == "query":
            return replace(request, url=_with_parameter(request.url, auth.param_name, self.parameter))
        fields: dict[str, Any] = msgspec.json.decode(request.body)
        fields[auth.param_name] = self.parameter
        return replace(request, body=encode_body(fields))

    def scrub(self, error: ProxyError) -> None:
        """Take the credential out of the words of `error`."""
        error.message = self.clean(error.message)
        error.code = self.clean(error.code)
        error.type = self.clean(error.type)
        error.param = self.clean(error.param) if error.param is not None else None
        error.args = (error.message,)
        if error.details is not None:
            error.details = _cleaned(error.details, self)

    def clean(self, text: str) -> str:
        """`text` without the credential, also where it is cut off in the middle of it."""
        given = [value for value in (self.header, self.parameter) if value]
        secrets = [part for value in given for part in (value, *value.split())]
        text = scrubber(secrets)(text)
        for secret in secrets:
            for length in range(min(len(secret), len(text)), _LEAST_TAIL - 1, -1):
                if text.endswith(secret[:length]):
                    return f"{text[:-length]}***"
        return text


def find_override(
    auth: AuthSettings | None, caller: Caller, fields: Mapping[str, Any], *, keys: bool
) -> Override | None:
    """What this request sends in place of the account's credential; None if it sends nothing, or may not.

    keys  whether clients have keys of this gateway: then what `Authorization` holds is one of them, and never goes out

    Raises `InvalidRequest`, which does not say the value, for one that cannot be sent.
    """
    if auth is None or not auth.allow_override:
        return None
    header = parameter = None
    if auth.header_name is not None and not (keys and auth.header_name.lower() == "authorization"):
        header = _checked(caller.header(auth.header_name), f"headers.{auth.header_name}")
    if auth.param_name is not None and auth.param_location == "query":
        parameter = _checked(caller.parameter(auth.param_name), f"query_params.{auth.param_name}")
    elif auth.param_name is not None:
        given = fields.get(auth.param_name)
        if given is not None and not isinstance(given, str):
            raise InvalidRequest(f'"{auth.param_name}" must be a text.', param=auth.param_name)
        parameter = _checked(given or None, auth.param_name)
    return Override(auth, header, parameter) if header is not None or parameter is not None else None


def without_credential(auth: AuthSettings | None, fields: dict[str, Any]) -> dict[str, Any]:
    """The fields of a request without the one in which a client may send its own credential."""
    if auth is None or not auth.allow_override or auth.param_location != "body" or auth.param_name not in fields:
        return fields
    return {name: value for name, value in fields.items() if name != auth.param_name}


def _checked(value: str | None, place: str) -> str | None:
    if value is None:
        return None
    if len(value) > MAX_CREDENTIAL_CHARACTERS or not value.isascii() or not value.isprintable():
        raise InvalidRequest(
            f'What this request says for "{place}" must be at most {MAX_CREDENTIAL_CHARACTERS} printable ASCII characters.',
            param=place,
            code="invalid_value",
        )
    return value


def _with_parameter(url: str, name: str, value: str) -> str:
    address, _, query = url.partition("?")
    name = quote(name, safe="")
    kept = [pair for pair in query.split("&") if pair and pair.partition("=")[0] != name]
    kept.append(f"{name}={quote(value, safe='')}")
    return f"{address}?{'&'.join(kept)}"


def _cleaned(value: Any, override: Override) -> Any:
    if isinstance(value, str):
        return override.clean(value)
    if isinstance(value, dict):
        return {name: _cleaned(inner, override) for name, inner in value.items()}
    return [_cleaned(inner, override) for inner in value] if isinstance(value, list) else value
