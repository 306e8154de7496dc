"""What a head may look like before its body counts as an answer."""

from __future__ import annotations

import pytest

from trio_ai_proxy.errors import UpstreamProtocolError
from trio_ai_proxy.upstream.attempt import judge_answer, judge_stream

STREAM = {"content-type": "text/event-stream"}
JSON = {"content-type": "application/json"}
HTML = {"content-type": "text/html; charset=utf-8"}


@pytest.mark.parametrize("status", [200, 201])
@pytest.mark.parametrize("value", ["text/event-stream", "Text/Event-Stream; charset=UTF-8", "text/event-stream ;x=y"])
def test_an_event_stream_is_a_stream_whatever_its_parameters(status: int, value: str) -> None:
    assert judge_stream(status, {"content-type": value, "content-encoding": "identity"}) == "stream"


def test_another_stream_can_be_asked_for() -> None:
    binary = "application/vnd.amazon.eventstream"
    assert judge_stream(200, {"content-type": f"{binary}; x=y"}, media_types=("text/event-stream", binary)) == "stream"


@pytest.mark.parametrize("value", ["application/json", "application/json; charset=utf-8", "application/problem+json"])
def test_json_is_read_whichever_was_asked_for(value: str) -> None:
    assert judge_stream(200, {"content-type": value}) == "answer"
    assert judge_answer(200, {"content-type": value}) == "answer"


def test_a_document_without_a_content_type_is_judged_by_its_bytes() -> None:
    assert judge_answer(200, {}) == "answer"
    with pytest.raises(UpstreamProtocolError, match="no content type"):
        judge_stream(200, {})


@pytest.mark.parametrize("status", [400, 401, 404, 429, 500, 503, 529])
@pytest.mark.parametrize("headers", [{}, STREAM, JSON, HTML, {"content-encoding": "gzip"}])
def test_from_400_up_it_is_an_error_whatever_it_looks_like(status: int, headers: dict[str, str]) -> None:
    assert judge_stream(status, headers) == judge_answer(status, headers) == "error"


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_a_redirect_is_not_followed(status: int) -> None:
    for judge in (judge_stream, judge_answer):
        with pytest.raises(UpstreamProtocolError, match=r"redirect.*not followed"):
            judge(status, {"location": "https://elsewhere.example/", **STREAM})


@pytest.mark.parametrize("status", [202, 204, 206, 299])
def test_another_good_status_is_no_answer(status: int) -> None:
    for judge, headers in ((judge_stream, STREAM), (judge_answer, JSON)):
        with pytest.raises(UpstreamProtocolError, match=str(status)):
            judge(status, headers)


@pytest.mark.parametrize("coding", ["gzip", "br", "GZIP", "identity, gzip", "zstd"])
def test_a_compressed_answer_is_refused(coding: str) -> None:
    for judge, headers in ((judge_stream, STREAM), (judge_answer, JSON)):
        with pytest.raises(UpstreamProtocolError, match="compressed"):
            judge(200, {**headers, "content-encoding": coding})


def test_a_page_is_refused_by_name() -> None:
    for judge in (judge_stream, judge_answer):
        with pytest.raises(UpstreamProtocolError, match="answered with an HTML page"):
            judge(200, HTML)


def test_another_type_is_named_and_never_at_length() -> None:
    with pytest.raises(UpstreamProtocolError, match="'text/event-stream'"):
        judge_answer(200, STREAM)
    with pytest.raises(UpstreamProtocolError) as caught:
        judge_stream(200, {"content-type": "x/" + "y" * 5000})
    assert len(caught.value.message) < 250
