from __future__ import annotations

import json
from typing import Any

import pytest

from trio_ai_proxy.providers.error_words import scrubber, status_error, stream_error


def message_of(body: bytes, **headers: str) -> str:
    return status_error(400, headers, body, str).message


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ({"error": {"message": "m", "type": "t"}}, "m"),
        ({"error": "m"}, "m"),
        ({"error": "m", "error_type": "validation"}, "m"),
        ({"object": "error", "message": "m"}, "m"),
        ({"message": "m"}, "m"),
        ({"error": True, "message": "m"}, "m"),
        ({"detail": "m"}, "m"),
        ({"detail": [{"loc": ["body", "messages", 0], "msg": "gone"}, {"msg": "no"}]}, "body.messages.0: gone; no"),
        ({"detail": [1]}, "[1]"),
        ({"why": "x"}, '{"why":"x"}'),
        ("m", "m"),
        ([], "The provider answered with status 400."),
        ({}, "The provider answered with status 400."),
        (None, "The provider answered with status 400."),
    ],
)  # fmt: skip
def test_message_is_found_in_every_known_shape(body: Any, message: str) -> None:
    assert message_of(json.dumps(body).encode()) == message


def test_plain_text_is_the_message() -> None:
    assert message_of(b" no healthy upstream\n") == "no healthy upstream"
    assert message_of(b"\xff bad") == "\ufffd bad"
    assert message_of(b"") == "The provider answered with status 400."


@pytest.mark.parametrize("body", [b"<!DOCTYPE html><p>x", b"  <html><body>x", b"<HTML>"])
def test_page_is_not_shown(body: bytes) -> None:
    assert message_of(body) == "The provider answered with an HTML page."


def test_page_is_known_by_its_type() -> None:
    assert (
        message_of(b"<p>x", **{"Content-Type": "text/html; charset=utf-8"})
        == "The provider answered with an HTML page."
    )


def test_words_of_the_provider_are_kept() -> None:
    body = {"error": {"message": "m", "type": "rate_limit_error", "code": "rate_limit_exceeded", "param": "model"}}
    error = status_error(429, {}, json.dumps(body).encode(), str)
    assert (error.status, error.upstream_status, error.type, error.code, error.param) == (
        429, 429, "rate_limit_error", "rate_limit_exceeded", "model",
    )  # fmt: skip


def test_words_that_are_no_words_are_left_out() -> None:
    body = {"error": {"message": "m", "type": None, "code": 400, "param": ["x"]}}
    error = status_error(400, {}, json.dumps(body).encode(), str)
    assert (error.type, error.code, error.param) == ("upstream_error", "400", None)


def test_status_of_the_answer_counts_and_not_that_in_its_body() -> None:
    assert status_error(503, {}, b'{"error":{"message":"m","code":400}}', str).upstream_status == 503


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({}, None),
        ({"retry-after": "7"}, 7.0),
        ({"Retry-After": "0.5"}, 0.5),
        ({"retry-after-ms": "250", "retry-after": "1"}, 0.25),
        ({"retry-after": "Wed, 21 Oct 2026 07:28:00 GMT"}, None),
        ({"retry-after": "-1"}, None),
        ({"retry-after": "nan"}, None),
        ({"retry-after": "inf"}, None),
    ],
)
def test_retry_after_is_read_in_seconds(headers: dict[str, str], seconds: float | None) -> None:
    assert status_error(429, headers, b"{}", str).retry_after == seconds


def test_message_is_cut() -> None:
    assert len(message_of(b"x" * 10_000)) == 2_000


class TestCredentials:
    def test_are_taken_out_wherever_they_stand(self) -> None:
        scrub = scrubber(["sk-1234567890", "a+b/c=d&e"])
        assert scrub("key sk-1234567890, url ?key=a%2Bb%2Fc%3Dd%26e or a+b/c=d&e.") == "key ***, url ?key=*** or ***."

    def test_one_that_holds_another_goes_first(self) -> None:
        assert scrubber(["abcdef", "Bearer abcdef"])("Bearer abcdef") == "***"

    def test_stand_ins_for_no_credential_are_words(self) -> None:
        assert scrubber(["none", "", "EMPTY"])("none is EMPTY") == "none is EMPTY"

    def test_are_taken_out_before_the_message_is_cut(self) -> None:
        key = "sk-" + "k" * 40
        error = status_error(400, {}, b"x" * 1_980 + key.encode(), scrubber([key]))
        assert error.message.endswith("x***")

    def test_are_taken_out_of_every_word(self) -> None:
        key = "sk-1234567890"
        body = {"error": {"message": key, "type": key, "code": key, "param": key}}
        for error in (
            status_error(400, {}, json.dumps(body).encode(), scrubber([key])),
            stream_error(body, scrubber([key])),
        ):
            assert {error.message, error.type, error.code, error.param} == {"***"}
