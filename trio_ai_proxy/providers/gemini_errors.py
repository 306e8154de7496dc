"""Google's errors, as all of its services give them: `{"error": {code, message, status, details}}`, alone or in an array with
nothing else. The class of the error is `status`, the exact one is the `reason` among the details.

Source: https://cloud.google.com/apis/design/errors and https://github.com/googleapis/googleapis/blob/master/google/rpc/error_details.proto
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

from trio_ai_proxy.providers.error_words import Scrub, status_error, stream_error
from trio_ai_proxy.providers.loose import a_dict, a_list, a_text

if TYPE_CHECKING:
    from collections.abc import Mapping

    from trio_ai_proxy.errors import UpstreamError, UpstreamStatus

# Said with status 400 although it speaks of our account and not of the request.
_OUR_ACCOUNT = frozenset(
    {"API_KEY_INVALID", "API_KEY_SERVICE_BLOCKED", "API_KEY_HTTP_REFERRER_BLOCKED", "API_KEY_IP_ADDRESS_BLOCKED"}
)


def read_error(status: int, headers: Mapping[str, str], body: bytes, scrub: Scrub) -> UpstreamStatus:
    """An answer with an error status as our error."""
    try:
        document = msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return status_error(status, headers, body, scrub)
    said = _of_google(document)
    if said is None:
        return status_error(status, headers, body, scrub)
    words, delay = said
    if delay is not None and not any(name.lower() in ("retry-after", "retry-after-ms") for name in headers):
        headers = {**headers, "retry-after": delay}
    error = status_error(status, headers, msgspec.json.encode({"error": words}), scrub)
    if words.get("code") in _OUR_ACCOUNT:
        error.status = 502
    return error


def failed(payload: Any, scrub: Scrub) -> UpstreamError:
    """What a provider said in the middle of a successful answer; `payload` is the value of `error`."""
    said = _of_google({"error": payload})
    return stream_error({"error": said[0] if said is not None else payload}, scrub)


def _of_google(document: Any) -> tuple[dict[str, Any], str | None] | None:
    """The error in OpenAI's words, and the seconds after which to try again; None if it is not of Google's shape."""
    if isinstance(document, list) and len(document) == 1:
        document = document[0]
    error = a_dict(a_dict(document).get("error"))
    status = a_text(error.get("status"))
    if not status and not isinstance(error.get("details"), list):
        return None
    reason = field = ""
    delay = None
    for detail in a_list(error.get("details")):
        kind = a_text(a_dict(detail).get("@type")).rpartition(".")[2]
        if kind == "ErrorInfo":
            reason = reason or a_text(detail.get("reason"))
        elif kind == "RetryInfo":
            delay = a_text(detail.get("retryDelay")).removesuffix("s") or None
        elif kind == "BadRequest":
            violations = [a_text(a_dict(one).get("field")) for one in a_list(detail.get("fieldViolations"))]
            field = field or next((one for one in violations if one), "")
    words = {
        "message": a_text(error.get("message")),
        "type": status or None,
        "code": reason or status or None,
        "param": field or None,
        "status_code": error.get("code"),
    }
    return words, delay
