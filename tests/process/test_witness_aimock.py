"""Every kind of provider that a third party's simulator plays, behind the real command, for the official OpenAI SDK: text, tools
and errors, streamed and not, are the same whoever answers.
"""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING, Any

import openai
import pytest
import trio
from support.aimock import installed, start_aimock
from support.command import Command
from support.witness import SdkClient, close, sdk

if TYPE_CHECKING:
    from collections.abc import Callable

pytestmark = [
    pytest.mark.witness,
    pytest.mark.process,
    # The SDK leaves its generators to the collector once it has seen [DONE] or an error; they are not ours.
    pytest.mark.filterwarnings(r"ignore:Async generator '(openai|httpx2|httpcore2)\.:ResourceWarning"),
]

TEXT = "Hi there! How can I help? 🙂 \u2028 ok"
TOOL = {"name": "get_weather", "arguments": '{"city":"Paris","days":[1,2]}'}
OTHER = {"name": "get_time", "arguments": "{}"}
LONG = "one two three four five six seven eight nine ten"
FIXTURES: list[dict[str, Any]] = [
    {
        "match": {"userMessage": "ratelimit"},
        "response": {
            "error": {"message": "Rate limit reached", "type": "rate_limit_error", "code": "rate_limit_exceeded"},
            "status": 429,
        },
    },
    {
        "match": {"userMessage": "overloaded"},
        "response": {"error": {"message": "Come back later", "type": "server_error", "code": "busy"}, "status": 503},
    },
    {"match": {"userMessage": "twotools"}, "response": {"toolCalls": [TOOL, OTHER]}},
    {"match": {"userMessage": "onetool"}, "response": {"toolCalls": [TOOL]}},
    {
        "match": {"userMessage": "dropped"},
        "response": {"content": LONG},
        "disconnectAfterMs": 300,
        "latency": 60,
        "chunkSize": 4,
    },
    {"match": {"userMessage": "hello"}, "response": {"content": TEXT}, "chunkSize": 5},
]

# kind → (path of its base URL, further lines of its block)
PLAYED: dict[str, tuple[str, str]] = {
    "openai": ("/v1", ""),
    "openai_compatible": ("/v1", ""),
    "azure": ("", 'api_version = "2024-10-21"'),
    "anthropic": ("", ""),
    "gemini": ("", ""),
    "vertex": ("", 'project = "p"\nlocation = "us-central1"'),
    "cohere": ("", ""),
    "mistral": ("/v1", ""),
    "ollama": ("", ""),
    "huggingface": ("", ""),
    "bedrock": ("", 'region = "eu-central-1"'),
}
TOOLS: list[dict[str, Any]] = [
    {
        "type": "function",
        "function": {"name": name, "description": "d", "parameters": {"type": "object", "properties": {}}},
    }
    for name in ("get_weather", "get_time")
]


def config(origin: str) -> str:
    blocks = ["[tokens]\nload_timeout = 0.1"]
    for kind, (path, more) in PLAYED.items():
        blocks.append(f'[providers.{kind}]\nkind = "{kind}"\nbase_url = "{origin}{path}"\napi_key = "sk-test"\n{more}')
        blocks.append(f'[models.{kind}]\ntargets = [{{ provider = "{kind}", model = "{MODELS.get(kind, "m")}" }}]')
    return "\n".join(blocks)


MODELS = {"gemini": "gemini-2.0-flash", "vertex": "gemini-2.0-flash", "anthropic": "claude-sonnet-4-5"}


class Heard:
    """What the SDK made of one answer."""

    def __init__(self) -> None:
        self.text = ""
        self.calls: dict[int, dict[str, str]] = {}
        self.reason: str | None = None
        self.roles: set[str] = set()

    def whole(self, answer: Any) -> None:
        [choice] = answer.choices
        self.reason = choice.finish_reason
        self._said(choice.message)

    def chunk(self, chunk: Any) -> None:
        for choice in chunk.choices:
            assert self.reason is None, "nothing follows the reason"
            self.reason = choice.finish_reason
            self._said(choice.delta)

    def _said(self, said: Any) -> None:
        if said.role:
            self.roles.add(said.role)
        self.text += said.content or ""
        for position, call in enumerate(said.tool_calls or ()):
            known = self.calls.setdefault(getattr(call, "index", position), {"id": "", "name": "", "arguments": ""})
            known["id"] += call.id or ""
            known["name"] += call.function.name or ""
            known["arguments"] += call.function.arguments or ""


async def hear(client: SdkClient, model: str, words: str, *, stream: bool, tools: bool = False) -> Heard:
    fields: dict[str, Any] = {
        "model": model,
        "messages": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": words}],
        "stream": stream,
        **({"tools": TOOLS, "tool_choice": "auto"} if tools else {}),
    }
    heard = Heard()

    def read(answer: Any) -> None:
        for chunk in answer if stream else ():
            heard.chunk(chunk)
        if not stream:
            heard.whole(answer)

    if isinstance(client, openai.OpenAI):
        await trio.to_thread.run_sync(lambda: read(client.chat.completions.create(**fields)))
        return heard
    answer: Any = await client.chat.completions.create(**fields)
    if stream:
        async for chunk in answer:
            heard.chunk(chunk)
    else:
        heard.whole(answer)
    return heard


async def text(client: SdkClient, model: str, stream: bool) -> None:
    heard = await hear(client, model, "hello", stream=stream)
    assert (heard.text, heard.reason, heard.calls) == (TEXT, "stop", {})
    assert heard.roles == {"assistant"}


async def one_tool(client: SdkClient, model: str, stream: bool) -> None:
    await _tools(client, model, stream, "onetool", [TOOL])


async def two_tools(client: SdkClient, model: str, stream: bool) -> None:
    await _tools(client, model, stream, "twotools", [TOOL, OTHER])


async def _tools(client: SdkClient, model: str, stream: bool, words: str, expected: list[dict[str, str]]) -> None:
    heard = await hear(client, model, words, stream=stream, tools=True)
    assert heard.reason == "tool_calls"
    assert sorted(heard.calls) == list(range(len(expected)))
    assert [(call["name"], json.loads(call["arguments"])) for call in heard.calls.values()] == [
        (call["name"], json.loads(call["arguments"])) for call in expected
    ]
    ids = [call["id"] for call in heard.calls.values()]
    assert all(ids)
    assert len(set(ids)) == len(ids)


async def rate_limit(client: SdkClient, model: str, stream: bool) -> None:
    with pytest.raises(openai.RateLimitError) as caught:
        await hear(client, model, "ratelimit", stream=stream)
    assert "Rate limit reached" in caught.value.message


async def overload(client: SdkClient, model: str, stream: bool) -> None:
    with pytest.raises(openai.APIStatusError) as caught:
        await hear(client, model, "overloaded", stream=stream)
    assert caught.value.status_code >= 500
    assert "Come back later" in caught.value.message


async def cut(client: SdkClient, model: str, stream: bool) -> None:
    if stream:  # a whole answer comes at once here, and cannot be cut
        with pytest.raises(openai.APIError):
            await hear(client, model, "dropped", stream=True)


async def vectors(client: SdkClient, model: str, stream: bool) -> None:
    if stream or model not in EMBEDDERS:
        return
    fields: dict[str, Any] = {"model": model, "input": ["hello", "there"]}
    if isinstance(client, openai.OpenAI):
        answer: Any = await trio.to_thread.run_sync(lambda: client.embeddings.create(**fields))
    else:
        answer = await client.embeddings.create(**fields)
    assert [one.index for one in answer.data] == [0, 1]
    assert all(len(one.embedding) > 8 and all(-1 <= number <= 1 for number in one.embedding) for one in answer.data)
    assert answer.data[0].embedding != answer.data[1].embedding


EMBEDDERS = ("openai", "openai_compatible", "azure", "mistral", "cohere")
CASES: tuple[Callable[[SdkClient, str, bool], Any], ...] = (
    text,
    one_tool,
    two_tools,
    rate_limit,
    overload,
    cut,
    vectors,
)


@pytest.fixture(scope="module", autouse=True)
def simulator() -> None:
    """Outside of any event loop, where the reason of a skip is not lost in a group of exceptions."""
    installed()


async def test_every_kind_says_the_same_to_the_sdk(capsys: pytest.CaptureFixture[str]) -> None:
    passed, failed = [], {}
    with trio.fail_after(200):
        async with (
            start_aimock(FIXTURES) as origin,
            Command(config(origin), server="validate_streams = true") as gateway,
        ):
            clients = [sdk("sync", gateway.url), sdk("async", gateway.url)]
            for kind in PLAYED:
                for case in CASES:
                    for stream in (False, True):
                        for client in clients:
                            way = f"{kind} {case.__name__} {'streamed' if stream else 'whole'} {type(client).__name__}"
                            try:
                                await case(client, kind, stream)
                                passed.append(way)
                            except (AssertionError, pytest.fail.Exception, openai.APIError) as error:
                                failed[way] = repr(error)[:500]
            for client in clients:
                await close(client)
            log = gateway.log
    with capsys.disabled():
        sys.stdout.write(f"\naimock: {len(passed)} of {len(passed) + len(failed)} pairs of provider and way passed\n")
    assert not failed, "\n".join(f"{way}: {why}" for way, why in failed.items())
    assert "illegal stream" not in log
    assert '"bug"' not in log
