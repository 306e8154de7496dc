"""Every exception that httpx has is one of our errors, and no message repeats a text that may hold a credential."""

from __future__ import annotations

import inspect

import httpx
import pytest

from trio_ai_proxy.errors import (
    TruncatedStream,
    UpstreamError,
    UpstreamProtocolError,
    UpstreamRefused,
    UpstreamTimeout,
)
from trio_ai_proxy.upstream.client import HTTPX_ERRORS, upstream_error
from trio_ai_proxy.upstream.http1 import PrematureEnd, ResponseFault

SECRET = "https://user:sk-secret@host/?key=sk-secret"


def httpx_exceptions() -> list[type[Exception]]:
    found = [item for _, item in inspect.getmembers(httpx, inspect.isclass) if issubclass(item, Exception)]
    assert len(found) > 20
    return found


def make(kind: type[Exception]) -> Exception:
    if issubclass(kind, httpx.HTTPStatusError):
        request = httpx.Request("GET", SECRET)
        return kind(SECRET, request=request, response=httpx.Response(500, request=request))  # type: ignore[call-arg]
    if issubclass(kind, httpx.StreamError) and kind is not httpx.StreamError:
        return kind()
    return kind(SECRET)


@pytest.mark.parametrize("kind", httpx_exceptions())
def test_every_exception_of_httpx_is_caught_and_becomes_ours(kind: type[Exception]) -> None:
    assert issubclass(kind, HTTPX_ERRORS)
    error = upstream_error(make(kind), "Provider 'acme'", deadline="idle", waited=1.5)
    assert isinstance(error, UpstreamError)
    assert "acme" in error.message
    assert "secret" not in error.message
    assert "host" not in error.message
    if issubclass(kind, httpx.TimeoutException):
        assert isinstance(error, UpstreamTimeout)
        assert error.seconds == 1.5


@pytest.mark.parametrize(
    ("error", "expected", "message"),
    [
        (httpx.ConnectError("x"), UpstreamRefused, "Provider 'acme' cannot be reached."),
        (httpx.ReadError("x"), UpstreamRefused, "Provider 'acme' broke the connection off."),
        (
            PrematureEnd("the end is missing"),
            TruncatedStream,
            "Provider 'acme' stopped before the end: the end is missing.",
        ),
        (
            httpx.RemoteProtocolError("peer closed connection without sending complete message body"),
            TruncatedStream,
            "Provider 'acme' stopped before the end: the connection was closed.",
        ),
        (ResponseFault("not HTTP"), UpstreamProtocolError, "Provider 'acme' sent a wrong response: not HTTP."),
        (httpx.PoolTimeout("x"), UpstreamTimeout, "Provider 'acme' could not be connected to within 1.5 s."),
        (httpx.ReadTimeout("x"), UpstreamTimeout, "Provider 'acme' did not go on within 1.5 s."),
    ],
)
def test_what_each_becomes(error: Exception, expected: type[UpstreamError], message: str) -> None:
    ours = upstream_error(error, "Provider 'acme'", deadline="idle", waited=1.5)
    assert type(ours) is expected
    assert ours.message == message
