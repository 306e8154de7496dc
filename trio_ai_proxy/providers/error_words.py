"""A provider's error in any of the shapes that OpenAI-compatible services give it, as one of ours: its words kept, our
credentials taken out, and nothing longer than a person would read.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any
from urllib.parse import quote

import msgspec

from trio_ai_proxy.errors import UpstreamError, UpstreamStatus
from trio_ai_proxy.providers.loose import json_text

Scrub = Callable[[str], str]

_MAX_MESSAGE = 2_000
_MAX_WORD = 200  # type, code, param
_MAX_DETAILS = 4_000
_MIN_CREDENTIAL = 6  # what is shorter stands in for a key that is not needed ("none", "EMPTY"), and is part of words


def scrubber(credentials: Iterable[str]) -> Scrub:
    """A function that puts `***` where one of the credentials stands, as it is or percent-encoded."""
    forms = {form for value in credentials for form in (value, quote(value, safe="")) if len(value) >= _MIN_CREDENTIAL}
    longest_first = sorted(forms, key=len, reverse=True)

    def scrub(text: str) -> str:
        for form in longest_first:
            text = text.replace(form, "***")
        return text

    return scrub


def stream_error(payload: Any, scrub: Scrub) -> UpstreamError:
    """What a provider said in the middle of a successful answer. `payload` is its JSON, or a text.

    Where it holds the number of an HTTP status (OpenRouter, vLLM and llama.cpp put one into `code`), the client is told
    what it would have been told had the provider answered with that status.
    """
    words = _Words(payload, scrub)
    status = words.status()
    if status is not None:
        return words.as_status(status, None)
    message = words.message or "The provider reported an error in its answer."
    error = UpstreamError(message, code=words.code, param=words.param)
    if words.type:
        error.type = words.type
    error.details = words.details
    return error


def status_error(status: int, headers: Mapping[str, str], body: bytes, scrub: Scrub) -> UpstreamStatus:
    """An answer with an error status. `headers` may be spelt in any case."""
    lowered = {name.lower(): value for name, value in headers.items()}
    return _Words(_payload(lowered, body), scrub).as_status(status, _retry_after(lowered))


def _payload(headers: Mapping[str, str], body: bytes) -> Any:
    try:
        return msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        pass
    text = body.decode("utf-8", "replace").strip()
    start = text[:200].lower()
    if "html" in headers.get("content-type", "") or start.startswith(("<!doctype", "<html")):
        return "The provider answered with an HTML page."
    return text


def _retry_after(headers: Mapping[str, str]) -> float | None:
    """Seconds. A date is passed over: it means nothing without a clock, and no provider in the table sends one."""
    for name, unit in (("retry-after-ms", 0.001), ("retry-after", 1.0)):
        try:
            seconds = float(headers[name]) * unit
        except (KeyError, ValueError):
            continue
        if math.isfinite(seconds) and seconds >= 0:
            return seconds
    return None


class _Words:
    """The message, type, code and param of an error, wherever they stand."""

    def __init__(self, payload: Any, scrub: Scrub) -> None:
        outer = payload if isinstance(payload, dict) else {}
        # {"error": {…}} is OpenAI's; {"error": "text"} is TGI's and Ollama's; {"object": "error", "message": …} is an
        # older vLLM's; {"detail": …} is FastAPI's; a bare text comes from whatever stands in between.
        inner = outer.get("error")
        if not inner or not isinstance(inner, dict | str):
            inner = outer
        self._inner: dict[str, Any] = inner if isinstance(inner, dict) else {}
        said = inner if isinstance(inner, str) else self._inner.get("message") or _detail(outer) or payload
        if not isinstance(said, str):
            said = json_text(said) if said and said is not True else ""
        self.message = scrub(said)[:_MAX_MESSAGE]  # in this order: half a credential would not be known for one
        self.type = _word(self._inner.get("type") or outer.get("error_type"), scrub)
        self.code = _word(self._inner.get("code"), scrub)
        self.param = _word(self._inner.get("param"), scrub)
        self.details = _details(self._inner, scrub)

    def status(self) -> int | None:
        """The HTTP status that the error names, if it names one."""
        for name in ("status", "status_code", "code"):
            number = self._inner.get(name)
            if isinstance(number, str) and number.isascii() and number.isdigit():
                number = int(number[:4])
            if isinstance(number, int) and 400 <= number <= 599:
                return number
        return None

    def as_status(self, status: int, retry_after: float | None) -> UpstreamStatus:
        error = UpstreamStatus(
            self.message or f"The provider answered with status {status}.",
            upstream_status=status,
            type=self.type,
            code=self.code,
            param=self.param,
            retry_after=retry_after,
        )
        error.details = self.details
        return error


def _details(inner: dict[str, Any], scrub: Scrub) -> dict[str, object] | None:
    """Azure's `innererror`, which says what its content filter found. Longer than a person would read, it is left out."""
    text = json_text(inner["innererror"]) if isinstance(inner.get("innererror"), dict) else ""
    if not text or len(text) > _MAX_DETAILS:
        return None
    try:
        return {"innererror": msgspec.json.decode(scrub(text))}
    except msgspec.DecodeError:  # what was taken out was part of the JSON
        return None


def _detail(outer: dict[str, Any]) -> Any:
    """FastAPI's `detail`: a text, or a list of what is wrong with which field."""
    detail = outer.get("detail")
    if not isinstance(detail, list):
        return detail
    sentences = []
    for item in detail:
        if isinstance(item, dict) and isinstance(item.get("msg"), str):
            place = item.get("loc")
            where = ".".join(str(step) for step in place) if isinstance(place, list) else ""
            sentences.append(f"{where}: {item['msg']}" if where else item["msg"])
    return "; ".join(sentences) or detail


def _word(value: Any, scrub: Scrub) -> str | None:
    if isinstance(value, bool) or not isinstance(value, str | int) or value == "":
        return None
    return scrub(str(value))[:_MAX_WORD]
