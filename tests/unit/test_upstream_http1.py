"""HTTP/1.1 in bytes: what is whole, what is refused, and that no split of the input changes either."""

from __future__ import annotations

import itertools

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from trio_ai_proxy.upstream.http1 import (
    MAX_HEAD_BYTES,
    MAX_HEADERS,
    PrematureEnd,
    ResponseParser,
    encode_request,
)

OK = b"HTTP/1.1 200 OK\r\n"
CHUNKED = OK + b"transfer-encoding: chunked\r\n\r\n"
BODY = b"data: one\n\ndata: \xc3\xa9\n\ndata: [DONE]\n\n"
RESPONSES = {
    "chunked": CHUNKED
    + b'a;x="y"\r\n'
    + BODY[:10]
    + b"\r\n%x\r\n" % len(BODY[10:])
    + BODY[10:]
    + b"\r\n0\r\nt: 1\r\n\r\n",
    "with a length": OK + b"Content-Length: %d\r\nx-empty:\r\n\r\n" % len(BODY) + BODY,
    "after interim heads": b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nlink: a\r\n\r\n"
    + OK
    + b"content-length: %d\r\n\r\n" % len(BODY)
    + BODY,
    "up to the close": OK + b"connection: close\r\n\r\n" + BODY,
}


def parse(*chunks: bytes, method: str = "POST", then_close: bool = False) -> tuple[ResponseParser, bytes]:
    parser = ResponseParser(method)
    body = b""
    for chunk in chunks:
        parser.feed(chunk)
        body += parser.take()
    if then_close:
        parser.feed(b"")
    return parser, body


@pytest.mark.parametrize("name", RESPONSES)
def test_every_split_in_two_gives_the_same_body(name: str) -> None:
    response = RESPONSES[name]
    for cut in range(1, len(response)):
        parser, body = parse(response[:cut], response[cut:], then_close=name == "up to the close")
        assert (parser.status, body, parser.is_complete, parser.fault) == (200, BODY, True, None)
        assert parser.is_reusable == (name != "up to the close")
        assert all(header != b"link" for header, _ in parser.headers)


@pytest.mark.parametrize("name", RESPONSES)
def test_byte_by_byte_gives_the_same_body(name: str) -> None:
    parser, body = parse(*(bytes([byte]) for byte in RESPONSES[name]), then_close=True)
    assert (parser.status, body, parser.is_complete, parser.fault) == (200, BODY, True, None)


@given(name=st.sampled_from(sorted(RESPONSES)), cuts=st.lists(st.integers(1, 400)))
def test_any_split_gives_the_same_body(name: str, cuts: list[int]) -> None:
    response = RESPONSES[name]
    at = sorted({0, len(response), *(cut % len(response) for cut in cuts)})
    pieces = [response[a:b] for a, b in itertools.pairwise(at)]
    parser, body = parse(*pieces, then_close=True)
    assert (body, parser.is_complete, parser.fault) == (BODY, True, None)


def test_the_bytes_of_one_read_are_one_item() -> None:
    parser = ResponseParser()
    parser.feed(CHUNKED + b"2\r\nab\r\n2\r\ncd\r\n2\r\nef\r\n")
    assert parser.take() == b"abcdef"
    assert parser.take() == b""


@pytest.mark.parametrize("extra", [b"H", b"XX", RESPONSES["with a length"]])
@pytest.mark.parametrize("name", ["chunked", "with a length"])
def test_bytes_beyond_the_message_make_the_connection_unusable_and_change_nothing_else(name: str, extra: bytes) -> None:
    for chunks in ([RESPONSES[name] + extra], [RESPONSES[name], extra]):
        parser, body = parse(*chunks)
        assert (body, parser.is_complete, parser.is_reusable, parser.fault) == (BODY, True, False, None)


def test_a_connection_that_is_to_be_closed_is_not_reusable() -> None:
    for head in (b"HTTP/1.1 200 OK\r\nconnection: close\r\n", b"HTTP/1.0 200 OK\r\n"):
        parser, body = parse(head + b"content-length: 2\r\n\r\nok")
        assert (body, parser.is_complete, parser.is_reusable) == (b"ok", True, False)


@pytest.mark.parametrize("status", [b"204 No Content", b"304 Not Modified"])
def test_a_status_without_a_body_is_complete_with_its_head(status: bytes) -> None:
    parser, body = parse(b"HTTP/1.1 " + status + b"\r\n\r\n")
    assert (body, parser.is_complete, parser.is_reusable) == (b"", True, True)


def test_the_answer_to_head_has_no_body() -> None:
    parser, _ = parse(OK + b"content-length: 5\r\n\r\n", method="HEAD")
    assert (parser.has_head, parser.is_complete, parser.is_reusable) == (True, True, False)


@pytest.mark.parametrize(
    "response",
    [
        OK + b"content-length: 2\r\ntransfer-encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n",
        OK + b"transfer-encoding: chunked\r\ncontent-length: 2\r\n\r\n2\r\nok\r\n0\r\n\r\n",
        OK + b"content-length: 2\r\ncontent-length: 3\r\n\r\nok",
        OK + b"content-length: 2\r\ncontent-length: 2\r\n\r\nok",
        OK + b"content-length: 2, 2\r\n\r\nok",
        OK + b"content-length: -2\r\n\r\nok",
        OK + b"content-length: 99999999999999999999999\r\n\r\nok",
        OK + b"transfer-encoding: gzip, chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n",
        OK + b"transfer-encoding: chunked\r\ntransfer-encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n",
        OK + b"transfer-encoding: gzip\r\n\r\nok",
        b"HTTP/1.0 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n",
        b"HTTP/1.1 101 Switching Protocols\r\nupgrade: x\r\nconnection: upgrade\r\n\r\nabc",
        b"HTTP/1.1 101 Switching Protocols\r\n\r\nabc",
        b"HTTP/1.1 600 X\r\ncontent-length: 0\r\n\r\n",
        b"HTTP/1.1 999 X\r\ncontent-length: 0\r\n\r\n",
        b"HTTP/1.1 099 X\r\ncontent-length: 0\r\n\r\n",
        b"HTTP/1.1 1000 X\r\ncontent-length: 0\r\n\r\n",
        b"HTTP/2.0 200 OK\r\ncontent-length: 0\r\n\r\n",
        b"HTTP/1.1 200 OK\ncontent-length: 2\n\nok",
        OK + b"a: 1\r\n  2\r\n\r\n",
        OK + b"a : 1\r\n\r\n",
        OK + b"a: 1\x002\r\n\r\n",
        b"SSH-2.0-OpenSSH_9.2\r\n",
        b"\x15\x03\x01\x00\x02\x02\x46",
        OK + b"a: b\r\n" * (MAX_HEADERS + 1) + b"\r\n",
        OK + b"".join(b"a: %s\r\n" % (b"b" * 1000) for _ in range(MAX_HEAD_BYTES // 1000)) + b"\r\n",
        OK + b"a: " + b"b" * MAX_HEAD_BYTES,
    ],
)
def test_a_wrong_head_is_a_fault_however_it_is_split(response: bytes) -> None:
    for chunks in ([response], [response[i : i + 7] for i in range(0, len(response), 7)]):
        parser, _ = parse(*chunks)
        assert not parser.has_head
        assert not parser.is_reusable
        assert isinstance(parser.fault, httpx.RemoteProtocolError)


def test_endless_interim_heads_are_bounded() -> None:
    parser, _ = parse(*[b"HTTP/1.1 103 Early Hints\r\nlink: a\r\n\r\n"] * 5000)
    assert isinstance(parser.fault, httpx.RemoteProtocolError)


@pytest.mark.parametrize("tail", [b"0\r\nx: ", b"5;x="])
def test_an_endless_trailer_or_chunk_extension_is_bounded(tail: bytes) -> None:
    parser, body = parse(CHUNKED + b"2\r\nok\r\n" + tail, *[b"a" * 4096] * 30)
    assert body == b"ok"
    assert isinstance(parser.fault, httpx.RemoteProtocolError)


def test_what_was_good_before_a_wrong_chunk_size_can_be_taken() -> None:
    parser, body = parse(CHUNKED + b"2\r\nok\r\nzz\r\n")
    assert body == b"ok"
    assert isinstance(parser.fault, httpx.RemoteProtocolError)
    assert not isinstance(parser.fault, PrematureEnd)


@pytest.mark.parametrize(
    "response", [b"", b"HTTP/1.1 20", OK + b"content-length: 5\r\n\r\nok", CHUNKED, CHUNKED + b"2\r\nok\r\n0\r\n"]
)
def test_a_connection_that_is_closed_too_early_is_a_premature_end(response: bytes) -> None:
    parser, _ = parse(*([response] if response else []), then_close=True)
    assert isinstance(parser.fault, PrematureEnd)
    assert not parser.is_complete
    assert parser.has_answered == bool(response)


def test_a_request_goes_out_with_its_headers_in_order_and_its_length() -> None:
    request = httpx.Request("POST", "http://h:81/v1/x?a=b c", headers=[(b"X-B", b"1"), (b"x-a", b"2")], content=b"{}")
    assert encode_request(request) == (
        b"POST /v1/x?a=b%20c HTTP/1.1\r\nHost: h:81\r\nX-B: 1\r\nx-a: 2\r\nContent-Length: 2\r\n\r\n{}"
    )


async def test_a_streamed_request_body_goes_out_whole_with_its_length() -> None:
    class Stream(httpx.AsyncByteStream):
        def __init__(self) -> None:
            self._rest = [b"b", b"a"]

        def __aiter__(self) -> Stream:
            return self

        async def __anext__(self) -> bytes:
            if self._rest:
                return self._rest.pop()
            raise StopAsyncIteration

    request = httpx.Request("POST", "http://h/", headers={"transfer-encoding": "chunked"}, stream=Stream())
    await request.aread()
    assert encode_request(request) == b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 2\r\n\r\nab"


@pytest.mark.parametrize(
    ("name", "value"),
    [(b"a", b"1\r\nb: 2"), (b"a", b"1\nb: 2"), (b"a", b"\0"), (b"a\r\nb", b"1"), (b"a b", b"1"), (b"", b"1")],
)
def test_a_header_that_would_break_the_framing_is_not_sent(name: bytes, value: bytes) -> None:
    with pytest.raises(httpx.LocalProtocolError):
        encode_request(httpx.Request("GET", "http://h/", headers=[(name, value)]))


@pytest.mark.parametrize("method", ["CONNECT", "GET /x", "G\r\nT", "É"])
def test_a_method_that_cannot_be_framed_is_not_sent(method: str) -> None:
    with pytest.raises(httpx.LocalProtocolError):
        encode_request(httpx.Request(method, "http://h/"))
