"""What a response's head must be before its body counts as an answer. A page, a redirect, a compressed stream or an
error never passes for one.

`judge_stream` and `judge_answer` only look; `check_stream` and `check_answer` also read the provider's words where it
refused, and raise.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import msgspec
import trio

from trio_ai_proxy.errors import UpstreamError, UpstreamProtocolError, UpstreamStatus

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from trio_ai_proxy.providers.base import Provider
    from trio_ai_proxy.upstream.client import UpstreamResponse

MAX_ERROR_BYTES = 64 * 1024
ERROR_SECONDS = 5.0

EVENT_STREAM = "text/event-stream"

# The content types that an error names. Any other text there is the provider's own, and could be our key said back.
_NAMED = frozenset(
    {
        EVENT_STREAM, "application/json", "application/octet-stream", "application/vnd.amazon.eventstream",
        "application/x-ndjson", "application/xml", "text/plain", "text/xml",
    }
)  # fmt: skip


def judge_stream(
    status: int, headers: Mapping[str, str], *, media_types: Collection[str] = (EVENT_STREAM,)
) -> Literal["stream", "answer", "error"]:
    """What the body is where a stream was asked for: one of those `media_types`; one JSON document (perhaps an error that
    came with a good status); or the explanation of a status from 400 up. `headers` have lower-case names.

    Raises `UpstreamProtocolError` for everything else.
    """
    if status >= 400:
        return "error"
    _check_head(status, headers)
    found = media_type_of(headers)
    if found in media_types:
        return "stream"
    if _is_json(found):
        return "answer"
    raise _wrong_type(found, "a stream of events")


def judge_answer(status: int, headers: Mapping[str, str]) -> Literal["answer", "error"]:
    """What the body is where one JSON document was asked for. A missing content type is no fault: the bytes will tell.

    Raises `UpstreamProtocolError` for what is neither a document nor an error.
    """
    if status >= 400:
        return "error"
    _check_head(status, headers)
    found = media_type_of(headers)
    if not found or _is_json(found):
        return "answer"
    raise _wrong_type(found, "a JSON document")


async def check_stream(response: UpstreamResponse, provider: Provider) -> None:
    """Return if the body is the stream that was asked for. Else raise `UpstreamStatus` with the provider's words, or
    `UpstreamProtocolError`. The caller closes the response."""
    match judge_stream(response.status, response.headers, media_types=provider.stream_types):
        case "stream":
            return
        case "error":
            raise await read_error(response, provider)
        case "answer":
            body = await _read_some(response)
            if _holds_error(body):
                raise provider.read_error(response.status, response.headers, body)
            raise UpstreamProtocolError("The provider answered with one JSON document where a stream was asked for.")


async def check_answer(response: UpstreamResponse, provider: Provider) -> None:
    """Return if the body can be the document that was asked for. Else raise as `check_stream` does."""
    if judge_answer(response.status, response.headers) == "error":
        raise await read_error(response, provider)


async def read_error(response: UpstreamResponse, provider: Provider) -> UpstreamStatus:
    """The error that the provider explains in the body: of at most 64 KiB, in at most 5 seconds, and with what has come
    by then if it breaks off."""
    return provider.read_error(response.status, response.headers, await _read_some(response))


async def _read_some(response: UpstreamResponse) -> bytes:
    if _is_encoded(response.headers):
        return b""  # compressed although identity was asked for: the status must speak for itself
    body = b""
    with trio.move_on_after(ERROR_SECONDS):
        try:
            while len(body) < MAX_ERROR_BYTES and (chunk := await response.read()):
                body += chunk
        except UpstreamError:
            pass  # what there is will do: it is already an error that is being explained
    return body[:MAX_ERROR_BYTES]


def _check_head(status: int, headers: Mapping[str, str]) -> None:
    if 300 <= status < 400:
        raise UpstreamProtocolError(f"The provider answered with a redirect ({status}), which is not followed.")
    if status not in (200, 201):
        raise UpstreamProtocolError(f"The provider answered with status {status}, which is no answer to this request.")
    if _is_encoded(headers):
        raise UpstreamProtocolError("The provider compressed its answer although that was not asked for.")


def _is_encoded(headers: Mapping[str, str]) -> bool:
    return headers.get("content-encoding", "").strip().lower() not in ("", "identity")


def media_type_of(headers: Mapping[str, str]) -> str:
    """The type that a response says its body has, without parameters, in lower case; "" if it says none."""
    return headers.get("content-type", "").partition(";")[0].strip().lower()


def _is_json(media_type: str) -> bool:
    return media_type == "application/json" or (media_type.startswith("application/") and media_type.endswith("+json"))


def _wrong_type(found: str, wanted: str) -> UpstreamProtocolError:
    if found in ("text/html", "application/xhtml+xml"):
        return UpstreamProtocolError(f"The provider answered with an HTML page where {wanted} was asked for.")
    said = (
        (f"the content type {found!r}" if found in _NAMED else "another content type") if found else "no content type"
    )
    return UpstreamProtocolError(f"The provider answered with {said} where {wanted} was asked for.")


def _holds_error(body: bytes) -> bool:
    try:
        document = msgspec.json.decode(body)
    except (msgspec.DecodeError, RecursionError):  # RecursionError: nested beyond reason
        return False
    return isinstance(document, dict) and bool(document.get("error"))
