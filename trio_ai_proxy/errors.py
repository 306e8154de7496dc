"""What can go wrong, and whose fault it is.

    ProxyError                      status · code · type · message · param · retry_after
    ├─ ConfigError                  names the file, the line, the key and the reason; the process does not start
    ├─ ClientError                  the caller's fault
    │  ├─ InvalidRequest 400 · Unauthenticated 401 · Forbidden 403 · UnknownModel 404 · UnknownPath 404
    │  ├─ MethodNotAllowed 405 · BodyTimeout 408 · BodyTooLarge 413 · UnsupportedMediaType 415 · HeadersTooLarge 431
    │  └─ GuardBlocked 400          a guard has stopped the request, or the answer
    ├─ Overloaded 503               ours: shed before any work begins (queue full, draining)
    │  └─ Crowded 429               … because of the caller's own crowd: a ClientError too
    ├─ Interrupted 503              ours: an operator or a shutdown ended the exchange
    ├─ GuardFailed 502              a guard could not be asked, and lets nothing pass without
    ├─ InternalError 500            ours: a bug
    └─ UpstreamError                the provider's fault
       ├─ UpstreamRefused 502       no connection, no TLS, connection lost
       ├─ UpstreamTimeout 504       says which deadline: connect · first_token · idle · total
       ├─ UpstreamStatus            the provider answered with an error; its words, type, code and Retry-After kept
       └─ UpstreamProtocolError 502 its bytes are wrong
          └─ TruncatedStream 502    … or stop before the end

An error is a value: inside an exchange it travels to the one place that decides what the client sees.
"""

from __future__ import annotations


class ProxyError(Exception):
    """The base. `message` is for the client and never holds a credential.

    status      HTTP status that the client sees while no byte of the answer has left
    type, code  the two words of OpenAI's error object: the class of error and the exact one
    param       the request field at fault, or None
    retry_after seconds after which trying again makes sense, or None
    details     what else the provider said of it, under the provider's own names (Azure's `innererror`), or None
    """

    status = 500
    type = "internal_error"
    code = "internal_error"
    details: dict[str, object] | None = None

    def __init__(
        self,
        message: str,
        *,
        code: str | None = None,
        param: str | None = None,
        retry_after: float | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.param = param
        self.retry_after = retry_after
        if code is not None:
            self.code = code


class ConfigError(ProxyError):
    """The configuration cannot be used. `problems` holds every fault found, one sentence each."""

    code = "invalid_config"
    type = "config_error"

    def __init__(self, problems: list[str]) -> None:
        super().__init__("\n".join(problems))
        self.problems = problems


class ClientError(ProxyError):
    """The caller's fault."""

    status = 400
    type = "invalid_request_error"
    code = "invalid_request"


class InvalidRequest(ClientError):
    """The body or a field of it cannot be used."""


class Unauthenticated(ClientError):
    """No key, or a key that nobody has been given."""

    status = 401
    type = "authentication_error"
    code = "invalid_api_key"


class Forbidden(ClientError):
    """The key is good, but not for this."""

    status = 403
    type = "permission_error"
    code = "model_not_allowed"


class UnknownModel(ClientError):
    """No model of that name is configured."""

    status = 404
    code = "model_not_found"


class UnknownPath(ClientError):
    """Nothing is served there."""

    status = 404
    code = "unknown_path"


class MethodNotAllowed(ClientError):
    """The path exists; this method does not. `allow` lists those that do."""

    status = 405
    code = "method_not_allowed"

    def __init__(self, message: str, *, allow: str) -> None:
        super().__init__(message)
        self.allow = allow


class BodyTimeout(ClientError):
    """The request body did not arrive in time."""

    status = 408
    type = "timeout_error"
    code = "timeout_body"


class BodyTooLarge(ClientError):
    """The request body is larger than the limit."""

    status = 413
    code = "body_too_large"


class UnsupportedMediaType(ClientError):
    """The request body is not JSON."""

    status = 415
    code = "unsupported_media_type"


class HeadersTooLarge(ClientError):
    """The request head is larger than the limit."""

    status = 431
    code = "headers_too_large"


class GuardBlocked(ClientError):
    """A guard has stopped the request, or the answer to it. `guard` is its name."""

    code = "content_blocked"

    def __init__(self, message: str, *, guard: str, code: str | None = None, param: str | None = None) -> None:
        super().__init__(message, code=code, param=param)
        self.guard = guard


class Overloaded(ProxyError):
    """Shed before any work began: no slot in time, or the gateway is draining."""

    status = 503
    type = "overloaded_error"
    code = "overloaded"


class Crowded(Overloaded, ClientError):
    """Shed from a full queue in which the caller itself has the most places."""

    status = 429
    type = "rate_limit_error"
    code = "queue_crowded"


class Interrupted(ProxyError):
    """The gateway ended the exchange on purpose: a shutdown, or an operator."""

    status = 503
    type = "interrupted_error"
    code = "shutdown"


class GuardFailed(ProxyError):
    """A guard could not be asked about the request, and lets none pass without. `guard` is its name."""

    status = 502
    type = "guard_error"
    code = "guard_failed"

    def __init__(self, message: str, *, guard: str, status: int = 502, retry_after: float | None = None) -> None:
        super().__init__(message, retry_after=retry_after)
        self.guard = guard
        self.status = status


class InternalError(ProxyError):
    """A bug. The details are in the log under the request id, not in the answer."""


class UpstreamError(ProxyError):
    """The provider's fault."""

    status = 502
    type = "upstream_error"
    code = "upstream_error"


class UpstreamRefused(UpstreamError):
    """No connection could be had, or it was lost."""

    code = "upstream_refused"


class UpstreamTimeout(UpstreamError):
    """A deadline passed while we waited for the provider; `deadline` names it, `seconds` is its length."""

    status = 504
    type = "timeout_error"

    def __init__(self, deadline: str, seconds: float, message: str) -> None:
        super().__init__(message, code=f"timeout_{deadline}")
        self.deadline = deadline
        self.seconds = seconds


class UpstreamStatus(UpstreamError):
    """The provider answered with an error.

    upstream_status  what it answered; `status` is what our client is told
    type, code       the provider's own words where it sent some
    """

    def __init__(
        self,
        message: str,
        *,
        upstream_status: int,
        type: str | None = None,
        code: str | None = None,
        param: str | None = None,
        retry_after: float | None = None,
    ) -> None:
        super().__init__(message, code=code or "upstream_status", param=param, retry_after=retry_after)
        self.upstream_status = upstream_status
        self.status = client_status(upstream_status)
        if type:
            self.type = type


class UpstreamProtocolError(UpstreamError):
    """The provider's bytes are not what its protocol says."""

    code = "upstream_protocol_error"


class TruncatedStream(UpstreamProtocolError):
    """The stream stopped before its end."""

    code = "upstream_truncated"


# The provider's status → ours. 401, 402 and 403 speak of *our* account, so the caller must not read them as its own; a
# redirect is never followed (it would carry our key to another host). Everything below 500 that is not listed is the
# caller's own doing (a bad field, a too long prompt, a rate limit) and passes.
_CLIENT_STATUS = {
    401: 502,
    402: 502,
    403: 502,
    407: 502,
    408: 504,
    500: 502,
    501: 502,
    502: 502,
    503: 503,
    504: 504,
    529: 529,
}


def client_status(upstream_status: int) -> int:
    """The HTTP status that our client sees for the provider's `upstream_status`."""
    if upstream_status in _CLIENT_STATUS:
        return _CLIENT_STATUS[upstream_status]
    return upstream_status if 400 <= upstream_status < 500 else 502
