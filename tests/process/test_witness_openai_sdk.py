"""The official OpenAI SDK as a client of the real command: what it reads through the gateway is what the engine said, and
a failure is the exception that the SDK has for it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

import openai
import pytest
import trio
from support.command import Command, openai_provider
from support.witness import ENGINE_MODEL, Said, SdkClient, ask, close, engine_and_gateway, sdk

from trio_ai_proxy.testing import ScriptedServer, WireScript, openai_error, openai_stream

if TYPE_CHECKING:
    from collections.abc import Callable

pytestmark = [
    pytest.mark.witness,
    pytest.mark.process,
    # The SDK leaves its generators to the collector once it has seen [DONE] or an error; they are not ours.
    pytest.mark.filterwarnings(r"ignore:Async generator '(openai|httpx2|httpcore2)\.:ResourceWarning"),
]

Kind = Literal["sync", "async"]
KINDS = pytest.mark.parametrize("kind", ["sync", "async"])
# The engine takes what it has read before from a cache, and then rounds differently: not while texts are compared.
EXACT: dict[str, Any] = {"max_tokens": 60, "temperature": 0, "seed": 7, "extra_body": {"cache_prompt": False}}
WITH_USAGE: dict[str, Any] = {"stream": True, "stream_options": {"include_usage": True}}

DEMO = "[tokens]\nload_timeout = 0.1\n[providers.demo]\nkind = 'demo'\n" + "".join(
    f"[models.{name}]\ntargets = [{{ provider = 'demo', model = '{name}' }}]\n"
    for name in ("demo-fast", "demo-cut", "demo-429", "demo-error-in-200")
)


@KINDS
async def test_the_sdk_reads_through_the_gateway_what_the_engine_says(kind: Kind) -> None:
    with trio.fail_after(60):
        async with engine_and_gateway() as (engine, gateway):
            direct, through = sdk(kind, engine.base_url), sdk(kind, gateway.url)
            for operation in ("chat", "completions"):
                for fields in ({}, {"stream": True}, WITH_USAGE):
                    expected = await ask(direct, operation, **EXACT, **fields)
                    said = await ask(through, operation, **EXACT, **fields)
                    assert len(expected.text) > 60
                    assert said.text == expected.text
                    assert said.finish_reason == expected.finish_reason == "length"
                    assert said.usages == expected.usages
                    assert said.models == {ENGINE_MODEL}, "the gateway shows the name that was asked for"
            await close(direct)
            await close(through)


@KINDS
async def test_usage_is_seen_by_those_who_ask_and_recorded_for_all(kind: Kind) -> None:
    with trio.fail_after(60):
        async with engine_and_gateway() as (_, gateway):
            client = sdk(kind, gateway.url)
            whole = await ask(client, "chat", **EXACT)
            asked = await ask(client, "chat", **EXACT, **WITH_USAGE)
            unasked = await ask(client, "chat", **EXACT, stream=True)
            await close(client)
            [usage] = whole.usages
            assert usage[1:] == (60, usage[0] + 60)
            assert asked.usages == (usage,)
            assert unasked.usages == ()
            while len(gateway.records()) < 3:
                await trio.sleep(0.02)
            for record in gateway.records():
                assert record["usage_source"] == "provider"
                assert (record["prompt_tokens"], record["completion_tokens"], record["total_tokens"]) == usage


async def raised_by(call: Callable[[], Any], expected: type[openai.APIError]) -> Any:
    """The SDK's exception, which must be of exactly this class."""
    with pytest.raises(expected) as caught:
        await call()
    assert type(caught.value) is expected
    return caught.value


@KINDS
async def test_a_failure_is_the_exception_that_the_sdk_has_for_it(kind: Kind) -> None:
    with trio.fail_after(60):
        async with Command(f"{DEMO}\n[[keys]]\nname = 'us'\nsecret = 'sk-right'\n") as gateway:
            client = sdk(kind, gateway.url, key="sk-right")
            await _check_refusals(client, stream=False)
            await _check_refusals(client, stream=True)
            stranger = sdk(kind, gateway.url, key="sk-wrong")
            error = await raised_by(lambda: ask(stranger, "chat", model="demo-fast"), openai.AuthenticationError)
            assert (error.status_code, error.code) == (401, "invalid_api_key")
            said: Said = await ask(client, "chat", model="demo-fast", max_tokens=5)
            assert said.text
            await close(stranger)
            await close(client)


async def _check_refusals(client: SdkClient, *, stream: bool) -> None:
    fields: dict[str, Any] = {"stream": stream}
    error = await raised_by(lambda: ask(client, "chat", model="nobody", **fields), openai.NotFoundError)
    assert (error.code, error.param, error.type) == ("model_not_found", "model", "invalid_request_error")
    assert "nobody" in error.message
    assert error.request_id
    error = await raised_by(lambda: ask(client, "chat", model="demo-429", **fields), openai.RateLimitError)
    assert (error.response.headers["retry-after"], error.code) == ("7", "rate_limit_exceeded")
    error = await raised_by(
        lambda: ask(client, "chat", model="demo-fast", messages=[], **fields), openai.BadRequestError
    )
    assert error.status_code == 400
    # It failed before its first token, so there is a status to say so with.
    error = await raised_by(
        lambda: ask(client, "chat", model="demo-error-in-200", **fields), openai.InternalServerError
    )
    assert error.status_code == 502


@KINDS
async def test_a_demo_that_is_cut_in_mid_stream_is_no_whole_answer(kind: Kind) -> None:
    with trio.fail_after(60):
        async with Command(DEMO) as gateway:
            client = sdk(kind, gateway.url)
            for operation in ("chat", "completions"):
                error = await raised_by(
                    lambda operation=operation: ask(client, operation, model="demo-cut", stream=True), openai.APIError
                )
                assert error.code == "upstream_truncated"
                error = await raised_by(
                    lambda operation=operation: ask(client, operation, model="demo-cut"), openai.InternalServerError
                )
                assert (error.status_code, error.code) == (502, "upstream_truncated")
            await close(client)


@KINDS
@pytest.mark.parametrize("cut", ["fin", "rst"])
@pytest.mark.parametrize("inside", [True, False])
async def test_a_connection_that_breaks_in_mid_stream_is_an_error(
    kind: Kind, cut: Literal["fin", "rst"], inside: bool
) -> None:
    begun = openai_stream(["so", " far"], ends=False)
    script = WireScript(steps=begun.steps, ending="cut", cut=cut, cut_inside=inside)
    with trio.fail_after(60):
        async with ScriptedServer(script) as server, Command(openai_provider(f"{server.url}/v1")) as gateway:
            client = sdk(kind, gateway.url)
            error = await raised_by(lambda: ask(client, "chat", model="scripted", stream=True), openai.APIError)
            assert error.code == "upstream_truncated"
            await close(client)


@KINDS
async def test_a_providers_rate_limit_keeps_its_words_and_its_patience(kind: Kind) -> None:
    limited = openai_error(
        429, "Slow down.", type="tokens", code="rate_limit_exceeded", headers=[("retry-after", "13")]
    )
    with trio.fail_after(60):
        async with ScriptedServer(limited) as server, Command(openai_provider(f"{server.url}/v1")) as gateway:
            client = sdk(kind, gateway.url)
            for stream in (False, True):
                error = await raised_by(
                    lambda stream=stream: ask(client, "chat", model="scripted", stream=stream), openai.RateLimitError
                )
                assert error.response.headers["retry-after"] == "13"
                assert (error.type, error.code) == ("tokens", "rate_limit_exceeded")
                assert "Slow down." in error.message
            assert len(server.exchanges) == 2, "nobody tried again"
            await close(client)
