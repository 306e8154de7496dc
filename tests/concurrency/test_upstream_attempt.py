"""A refusal is told in the provider's words, within a bound of bytes and of time."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING

import pytest
import trio

from trio_ai_proxy.errors import UpstreamProtocolError, UpstreamStatus
from trio_ai_proxy.providers.base import Capabilities, UpstreamRequest
from trio_ai_proxy.settings import ProviderSettings
from trio_ai_proxy.upstream.attempt import ERROR_SECONDS, MAX_ERROR_BYTES, check_answer, check_stream
from trio_ai_proxy.upstream.client import UpstreamClient
from trio_ai_proxy.upstream.script import Script, ScriptedTransport, Step

if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

    from trio.testing import MockClock

JSON = (("content-type", "application/json"),)
ERROR = b'{"error":{"message":"too fast"}}'


class Words:
    """A provider that repeats what it was given."""

    name = kind = wire = "words"
    capabilities = Capabilities()
    stream_types = ("text/event-stream",)

    def read_error(self, status: int, headers: Mapping[str, str], body: bytes) -> UpstreamStatus:
        return UpstreamStatus(body.decode(), upstream_status=status)

    def __getattr__(self, name: str) -> Any:
        raise AssertionError(f"a check has no business with {name}")


async def check(script: Script, *, stream: bool) -> None:
    transport = ScriptedTransport(lambda request: script)
    async with UpstreamClient(ProviderSettings("words", "words"), transport) as client:
        request = UpstreamRequest("POST", "http://words.invalid/", (), b"{}", stream)
        async with await client.open(request, connect=1) as response:
            await (check_stream if stream else check_answer)(response, Words())
    assert transport.open_responses == 0


def said(*chunks: bytes, status: int = 200, **more: Any) -> Script:
    return Script(status=status, steps=lambda: (Step(0.0, chunk) for chunk in chunks), **more)


@pytest.mark.parametrize("stream", [True, False])
async def test_a_good_head_passes(stream: bool) -> None:
    await check(Script() if stream else Script(headers=JSON), stream=stream)


@pytest.mark.parametrize("stream", [True, False])
async def test_an_error_status_carries_the_words_of_its_body(stream: bool) -> None:
    with pytest.raises(UpstreamStatus) as caught:
        await check(said(ERROR[:9], ERROR[9:], status=429, headers=JSON), stream=stream)
    assert (caught.value.upstream_status, caught.value.message) == (429, ERROR.decode())


async def test_an_error_document_in_a_200_is_an_error_where_a_stream_was_asked_for() -> None:
    with pytest.raises(UpstreamStatus) as caught:
        await check(said(ERROR, headers=JSON), stream=True)
    assert (caught.value.upstream_status, caught.value.status, caught.value.message) == (200, 502, ERROR.decode())


@pytest.mark.parametrize("body", [b'{"choices":[]}', b"[1]", b'{"error":null}', b"", b"{", b"[" * 100_000])
async def test_another_document_is_not_passed_off_as_a_stream(body: bytes) -> None:
    with pytest.raises(UpstreamProtocolError, match="one JSON document"):
        await check(said(body, headers=JSON), stream=True)


async def test_an_explanation_that_does_not_end_is_bounded_in_bytes() -> None:
    endless = Script(status=500, steps=lambda: (Step(0.0, b"x" * 1000) for _ in itertools.count()))
    with pytest.raises(UpstreamStatus) as caught:
        await check(endless, stream=True)
    assert caught.value.message == "x" * MAX_ERROR_BYTES


async def test_an_explanation_that_does_not_come_is_bounded_in_time(autojump_clock: MockClock) -> None:
    began = trio.current_time()
    with pytest.raises(UpstreamStatus) as caught:
        await check(said(b"half", status=503, ending="stall"), stream=False)
    assert caught.value.message == "half"
    assert trio.current_time() - began == ERROR_SECONDS


async def test_an_explanation_that_is_cut_is_kept_as_far_as_it_came() -> None:
    with pytest.raises(UpstreamStatus) as caught:
        await check(said(b"half", status=500, ending="cut"), stream=True)
    assert caught.value.message == "half"


async def test_a_compressed_explanation_is_left_unread() -> None:
    with pytest.raises(UpstreamStatus) as caught:
        await check(said(b"\x1f\x8b", status=500, headers=(("content-encoding", "gzip"),)), stream=True)
    assert caught.value.message == ""
