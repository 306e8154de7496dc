from __future__ import annotations

import json
from typing import Any

import pytest

from trio_ai_proxy.errors import InvalidRequest, UpstreamError
from trio_ai_proxy.providers.base import UpstreamRequest
from trio_ai_proxy.relay.override import MAX_CREDENTIAL_CHARACTERS, Override, find_override, without_credential
from trio_ai_proxy.routing.caller import Caller
from trio_ai_proxy.settings import AuthSettings, Secret

OURS = Secret("our-own-credential", "a test")
HEADER = AuthSettings(header_name="X-Api-Key", header_value=OURS, allow_override=True)
QUERY = AuthSettings(param_name="my key", param_value=OURS, param_location="query", allow_override=True)
BODY = AuthSettings(param_name="token", param_value=OURS, param_location="body", allow_override=True)
REQUEST = UpstreamRequest(
    "POST", "https://h/p?a=1&my%20key=our-own-credential", ((b"x-api-key", b"our-own-credential"), (b"accept", b"x")),
    b'{"model":"m","token":"our-own-credential"}', stream=True,
)  # fmt: skip


def find(
    auth: AuthSettings | None, caller: Caller, fields: dict[str, Any] | None = None, *, keys: bool = False
) -> Override:
    found = find_override(auth, caller, fields or {}, keys=keys)
    assert found is not None
    return found


def finds_nothing(
    auth: AuthSettings | None, caller: Caller, fields: dict[str, Any] | None = None, keys: bool = False
) -> bool:
    return find_override(auth, caller, fields or {}, keys=keys) is None


class TestHeader:
    def test_of_the_client_takes_our_place(self) -> None:
        sent = find(HEADER, Caller(headers={b"x-api-key": b" theirs "})).apply(REQUEST)
        assert dict(sent.headers) == {b"x-api-key": b"theirs", b"accept": b"x"}
        assert (sent.url, sent.body) == (REQUEST.url, REQUEST.body)

    def test_that_is_missing_or_empty_leaves_ours(self) -> None:
        assert finds_nothing(HEADER, Caller())
        assert finds_nothing(HEADER, Caller(headers={b"x-api-key": b" "}))

    def test_is_not_taken_where_that_is_not_allowed(self) -> None:
        caller = Caller(headers={b"x-api-key": b"theirs", b"authorization": b"Bearer theirs"})
        closed = AuthSettings(header_name="X-Api-Key", header_value=OURS)
        assert finds_nothing(closed, caller)
        assert finds_nothing(None, caller)
        assert finds_nothing(AuthSettings(header_name="y", header_value=OURS, allow_override=True), caller)

    def test_that_holds_a_key_of_the_gateway_never_goes_out(self) -> None:
        auth = AuthSettings(header_name="Authorization", header_value=OURS, allow_override=True)
        caller = Caller(headers={b"authorization": b"Bearer gateway-key"})
        assert finds_nothing(auth, caller, keys=True)
        assert find(auth, caller).header == "Bearer gateway-key"

    @pytest.mark.parametrize(
        "value", [b"a\r\nb: c", b"a\x00b", b"a\tb", b"\xe9", b"a\x7f", b"x" * (MAX_CREDENTIAL_CHARACTERS + 1)]
    )
    def test_that_no_header_can_carry_is_refused_without_being_shown(self, value: bytes) -> None:
        with pytest.raises(InvalidRequest) as caught:
            find_override(HEADER, Caller(headers={b"x-api-key": value}), {}, keys=False)
        assert value.decode("latin-1") not in caught.value.message
        assert caught.value.param == "headers.X-Api-Key"


class TestParameter:
    def test_of_the_query_takes_our_place(self) -> None:
        sent = find(QUERY, Caller(query=b"x=1&my+key=a%26b%3D%2F")).apply(REQUEST)
        assert sent.url == "https://h/p?a=1&my%20key=a%26b%3D%2F"
        assert (sent.headers, sent.body) == (REQUEST.headers, REQUEST.body)

    def test_of_the_query_must_be_there_once(self) -> None:
        assert finds_nothing(QUERY, Caller(query=b"x=1"))
        with pytest.raises(InvalidRequest):
            find_override(QUERY, Caller(query=b"my+key=1&my%20key=2"), {}, keys=False)

    def test_of_the_body_takes_our_place(self) -> None:
        fields = {"model": "m", "token": "theirs"}
        sent = find(BODY, Caller(), fields).apply(REQUEST)
        assert json.loads(sent.body) == {"model": "m", "token": "theirs"}
        assert without_credential(BODY, fields) == {"model": "m"}
        assert fields == {"model": "m", "token": "theirs"}

    def test_of_the_body_must_be_a_text(self) -> None:
        assert finds_nothing(BODY, Caller(), {"token": ""})
        assert finds_nothing(BODY, Caller(), {"token": None})
        with pytest.raises(InvalidRequest):
            find_override(BODY, Caller(), {"token": 1}, keys=False)

    def test_of_the_body_stays_a_field_where_nothing_may_be_overridden(self) -> None:
        fields = {"token": "theirs"}
        closed = AuthSettings(param_name="token", param_value=OURS, param_location="body")
        assert without_credential(closed, fields) is fields
        assert without_credential(None, fields) is fields
        assert without_credential(BODY, {"model": "m"}) == {"model": "m"}


class TestSecrecy:
    OVERRIDE = Override(HEADER, "Bearer theirs-123456", "other-secret")

    def test_is_in_no_repr(self) -> None:
        assert "theirs" not in repr(self.OVERRIDE)
        assert "other-secret" not in repr(self.OVERRIDE)

    def test_is_taken_out_of_errors(self) -> None:
        error = UpstreamError("bad Bearer theirs-123456, theirs-123456", code="other-secret", param="x other-secret")
        error.type = "theirs-123456"
        error.details = {"innererror": {"a": ["theirs-123456", 1]}}
        self.OVERRIDE.scrub(error)
        assert (error.message, error.code, error.type, error.param) == ("bad ***, ***", "***", "***", "x ***")
        assert error.details == {"innererror": {"a": ["***", 1]}}
        assert str(error) == "bad ***, ***"

    def test_is_taken_out_where_a_text_was_cut_in_the_middle_of_it(self) -> None:
        error = UpstreamError("x" * 50 + " theirs-12")
        self.OVERRIDE.scrub(error)
        assert error.message == "x" * 50 + " ***"
