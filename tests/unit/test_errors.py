from __future__ import annotations

import pytest

from trio_ai_proxy import errors
from trio_ai_proxy.errors import (
    ClientError,
    ConfigError,
    InvalidRequest,
    MethodNotAllowed,
    ProxyError,
    TruncatedStream,
    UpstreamError,
    UpstreamProtocolError,
    UpstreamStatus,
    UpstreamTimeout,
    client_status,
)

CLASSES = [cls for cls in vars(errors).values() if isinstance(cls, type) and issubclass(cls, ProxyError)]


@pytest.mark.parametrize(
    ("upstream", "ours"),
    [
        # About our account: the caller's own key is fine, so it must not be told otherwise.
        (401, 502), (402, 502), (403, 502), (407, 502),
        # The caller's doing.
        (400, 400), (404, 404), (409, 409), (413, 413), (415, 415), (422, 422), (429, 429), (451, 451), (499, 499),
        # The provider's.
        (408, 504), (500, 502), (501, 502), (502, 502), (503, 503), (504, 504), (505, 502), (520, 502), (529, 529),
        (599, 502),
        # Not an error, and no answer either: a redirect is not followed, a 1xx or 2xx in this place is out of order.
        (101, 502), (200, 502), (204, 502), (206, 502), (301, 502), (302, 502), (307, 502), (600, 502), (0, 502),
    ],
)  # fmt: skip
def test_providers_status_becomes_the_clients(upstream: int, ours: int) -> None:
    assert client_status(upstream) == ours
    assert UpstreamStatus("m", upstream_status=upstream).status == ours


@pytest.mark.parametrize("cls", CLASSES, ids=lambda cls: cls.__name__)
def test_every_error_has_a_status_a_type_and_a_code_of_its_own_words(cls: type[ProxyError]) -> None:
    assert 400 <= cls.status <= 599
    for word in (cls.type, cls.code):
        assert word
        assert word.replace("_", "").isalpha()
        assert word == word.lower()
    assert cls.__doc__


@pytest.mark.parametrize("cls", CLASSES, ids=lambda cls: cls.__name__)
def test_status_says_whose_fault_it_is(cls: type[ProxyError]) -> None:
    if issubclass(cls, ClientError):
        assert cls.status < 500
    else:
        assert cls.status >= 500


def test_tree_at_the_top_of_the_module_names_every_class() -> None:
    assert errors.__doc__ is not None
    assert [cls.__name__ for cls in CLASSES if cls.__name__ not in errors.__doc__] == []


def test_facts_are_carried() -> None:
    error = InvalidRequest("m", param="p", code="c", retry_after=1.5)
    assert (str(error), error.message, error.param, error.code, error.retry_after) == ("m", "m", "p", "c", 1.5)
    assert InvalidRequest("m").code == "invalid_request"
    assert MethodNotAllowed("m", allow="GET").allow == "GET"
    assert ConfigError(["a", "b"]).problems == ["a", "b"]


def test_deadline_that_passed_is_in_the_code() -> None:
    error = UpstreamTimeout("idle", 30, "m")
    assert (error.code, error.type, error.status, error.deadline, error.seconds) == (
        "timeout_idle",
        "timeout_error",
        504,
        "idle",
        30,
    )


def test_providers_own_words_are_kept_where_there_are_some() -> None:
    error = UpstreamStatus("m", upstream_status=429, type="rate_limit_error", code="slow_down", retry_after=2)
    assert (error.type, error.code, error.upstream_status, error.retry_after) == (
        "rate_limit_error",
        "slow_down",
        429,
        2,
    )
    plain = UpstreamStatus("m", upstream_status=429)
    assert (plain.type, plain.code) == ("upstream_error", "upstream_status")
    assert UpstreamError.type == "upstream_error", "an instance's words are its own"


def test_a_cut_is_a_breach_of_protocol_and_one_can_tell_them_apart() -> None:
    assert issubclass(TruncatedStream, UpstreamProtocolError)
    assert TruncatedStream("m").code != UpstreamProtocolError("m").code
