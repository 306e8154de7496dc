"""Guards from outside: the real command before a provider and a web service on real ports, and what the client really got."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pytest
import trio
from support.exchanges import DONE as DONE_FRAME
from support.exchanges import ROLE, STOP, delta, usage
from support.guarded_house import SOON, House, check_clean, guarded_house, serving, streamed
from support.standing import DONE, Answer, ask, chat
from support.witness import SdkClient, close, sdk

from trio_ai_proxy.testing import Script, Step, openai_answer, openai_error

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterable, Iterator

    from trio_ai_proxy.testing import ReceivedRequest

pytestmark = pytest.mark.process

SECRET = "sk-9fQ2xLm7RbTz4WcKpN8vYhJ3dGsE6uAo1Xi5t"
BEFORE, AFTER = "Größe 秘密 🌊: ", " – ende, 終わり 🏝 é."
MARGIN = 6  # a piece of the secret of that many characters would be a leak
WORDS = [f" word{number}" for number in range(40)]


@pytest.fixture(scope="module")
def house() -> Iterator[House]:
    with guarded_house() as opened:
        yield opened


@pytest.fixture(autouse=True)
async def _afterwards(house: House) -> AsyncIterator[None]:
    yield
    await check_clean(house)


# -- a secret that the network cuts -----------------------------------------------------------------------------------


def tool(arguments: str) -> dict[str, Any]:
    return {"tool_calls": [{"index": 0, "function": {"arguments": arguments}}]}


OPENING = {"tool_calls": [{"index": 0, "id": "call_1", "type": "function", "function": {"name": "f", "arguments": ""}}]}


@dataclass(frozen=True)
class Part:
    """A part of an answer that holds the secret: how a delta says a piece of it, and what comes before the deltas."""

    name: str
    whole: str
    say: Callable[[str], dict[str, Any]]
    before: bytes = b""
    finish: str = "stop"

    def message(self) -> dict[str, Any]:
        """All of it, in an answer in one piece."""
        if self.name != "arguments":
            said = {"role": "assistant", "content": "", **self.say(self.whole)}
        else:
            call = {"id": "call_1", "type": "function", "function": {"name": "f", "arguments": self.whole}}
            said = {"role": "assistant", "content": None, "tool_calls": [call]}
        return {
            "id": "chatcmpl-1", "object": "chat.completion", "created": 1_700_000_000, "model": "m",
            "choices": [{"index": 0, "message": said, "finish_reason": self.finish}],
        }  # fmt: skip

    def joined(self, body: bytes, data: Iterable[bytes]) -> str:
        """What the client makes of this part, be it of a stream or of one piece."""
        documents = [json.loads(payload) for payload in data if payload != DONE] if data else [json.loads(body)]
        found = ""
        for document in documents:
            for choice in document["choices"]:
                said = choice.get("delta") or choice.get("message") or {}
                if self.name == "arguments":
                    found += "".join(call["function"].get("arguments", "") for call in said.get("tool_calls") or ())
                else:
                    found += said.get(self.name) or ""
        return found


PARTS = (
    Part("content", BEFORE + SECRET + AFTER, lambda said: {"content": said}),
    Part("reasoning_content", BEFORE + SECRET + AFTER, lambda said: {"reasoning_content": said}),
    Part(
        "arguments",
        json.dumps({"größe": [BEFORE + SECRET + AFTER, 17]}, ensure_ascii=False),
        tool,
        before=delta(OPENING),
        finish="tool_calls",
    ),
)
EVERY_PART = pytest.mark.parametrize("part", PARTS, ids=lambda part: part.name)


def frames(part: Part, pieces: Iterable[str]) -> list[bytes]:
    said = [delta(part.say(piece)) for piece in pieces]
    return [delta(ROLE) + part.before, *said, delta({}, finish=part.finish), DONE_FRAME]


def pieces_of_secret(body: bytes) -> list[str]:
    """What of the secret is in these bytes."""
    return [piece for at in range(len(SECRET) - MARGIN + 1) if (piece := SECRET[at : at + MARGIN]).encode() in body]


def well_formed(got: Answer) -> None:
    assert (got.status, got.data[-1], got.data.count(DONE)) == (200, DONE, 1)


async def one_shot(house: House, part: Part) -> str:
    """The part of an answer in one piece, of the same model."""
    body = json.dumps(part.message(), ensure_ascii=False).encode()
    whole = Script(headers=(("content-type", "application/json"),), steps=lambda: iter([Step(0.0, body)]))
    async with serving(house.provider, whole):
        got = await ask(house.gateway, chat(model="secrets", stream=False))
    assert got.status == 200
    assert pieces_of_secret(got.body) == []
    return part.joined(got.body, ())


async def cut_ways(house: House, part: Part, ways: list[list[bytes]], *, pause: float) -> None:
    """Each way to send an answer comes to what the same model gives in one piece, and no byte of any of them is a leak."""
    expected = await one_shot(house, part)
    assert part.whole.replace(SECRET, "[key]") == expected
    left = iter(ways)
    async with serving(house.provider, lambda _: streamed(*next(left), pause=pause)):
        for way in ways:
            got = await ask(house.gateway, chat(model="secrets"))
            well_formed(got)
            assert pieces_of_secret(got.body) == [], way
            assert part.joined(got.body, got.data) == expected, way


@EVERY_PART
async def test_secret_cut_at_each_place_by_the_providers_events_never_leaves(house: House, part: Part) -> None:
    assert len(SECRET) == 40
    start = part.whole.index(SECRET)
    ways = [frames(part, (part.whole[:at], part.whole[at:])) for at in range(start, start + len(SECRET) + 1)]
    ways.append(frames(part, part.whole))  # each character alone
    ways.append(frames(part, (part.whole,)))
    await cut_ways(house, part, ways, pause=0.0)


@EVERY_PART
async def test_secret_cut_at_each_place_by_tcp_never_leaves(house: House, part: Part) -> None:
    data = b"".join(frames(part, (part.whole,)))
    start = data.index(BEFORE.encode()[:2])  # from within what stands before it to what stands behind it
    end = data.index(SECRET.encode()) + len(SECRET) + len(AFTER.encode())
    ways = [[data[:at], data[at:]] for at in range(start, end + 1)]
    ways.append([data[at : at + 1] for at in range(len(data))])
    await cut_ways(house, part, ways, pause=0.001)


# -- a block in mid-stream --------------------------------------------------------------------------------------------


@dataclass
class Offending:
    """A provider that speaks on and on, and says the secret after some words. `said_at` is when that was sent."""

    said_at: float | None = None

    def answer(self, _: ReceivedRequest) -> Script:
        return Script(steps=self._steps)

    def _steps(self) -> Iterator[Step]:
        yield Step(0.0, delta(ROLE))
        for word in WORDS[:5]:
            yield Step(0.005, delta(word))
        yield Step(0.005, delta(" the"))
        self.said_at = trio.current_time()
        yield Step(0.0, delta(f" key is {SECRET} "))
        while True:
            yield Step(0.005, delta(" more"))


async def blocked(house: House, model: str, report: Callable[[str, object], None]) -> Answer:
    """The answer of a model whose guard cuts it, and how long the provider was still bound."""
    provider = Offending()
    async with serving(house.provider, provider.answer) as server:
        got = await ask(house.gateway, chat(model=model, stream_options={"include_usage": True}))
        [exchange] = server.exchanges
        with trio.fail_after(SOON):
            await exchange.over.wait()
    assert provider.said_at is not None
    assert exchange.released_at is not None
    took = exchange.released_at - provider.said_at
    report("milliseconds from the offending chunk to the upstream's release", round(took * 1000, 3))
    assert took < SOON
    record = await house.gateway.record(got.request_id)
    assert (record["outcome"], record["attempts"][0]["outcome"]) == ("guard", "guard")
    assert pieces_of_secret(got.body) == []
    return got


SAID = "".join(WORDS[:5]) + " the key is "


async def test_block_in_mid_stream_ends_as_a_filter_of_the_providers_would(
    house: House, record_property: Callable[[str, object], None]
) -> None:
    got = await blocked(house, "cut-finish", record_property)
    well_formed(got)
    documents = [json.loads(payload) for payload in got.data[:-1]]
    assert got.text == SAID
    ends = [one for one in documents if any(choice["finish_reason"] for choice in one["choices"])]
    assert [one["guard"] for one in ends] == ["cut-finish"]
    [choice] = ends[0]["choices"]
    assert (choice["finish_reason"], choice["delta"]) == ("content_filter", {})
    assert all("guard" not in one for one in documents if one is not ends[0])
    assert len({one["id"] for one in documents}) == 1


async def test_block_in_mid_stream_may_end_with_an_error_that_names_the_reason(
    house: House, record_property: Callable[[str, object], None]
) -> None:
    got = await blocked(house, "cut-error", record_property)
    error = got.error
    assert (error["code"], error["param"]) == ("content_blocked", None)
    assert "`key`" in error["message"]
    said = [json.loads(payload) for payload in got.data[:-1]]
    assert "".join(choice["delta"].get("content") or "" for one in said for choice in one["choices"]) == SAID
    assert all(choice["finish_reason"] is None for one in said for choice in one["choices"])


# -- the transformers, with the official SDK --------------------------------------------------------------------------


def transforming(request: ReceivedRequest) -> Script:
    """The provider of all models: "small" does what its instruction says, the other answers in pieces."""
    fields = request.json()
    if fields["model"] != "small":
        asked = fields["messages"][-1]["content"]
        words = ["It was ", "asked: ", asked[:3], asked[3:], " Nothing ", "else. The", " end."]
        return streamed(*map(delta, (ROLE, *words)), STOP, usage(7, 11), DONE_FRAME, pause=0.002)
    told, shown = fields["messages"][0]["content"], json.loads(fields["messages"][-1]["content"])
    if told == "TRANSLATE":
        return openai_answer(f"What is {shown['messages'][-1]['content']}?", usage=(1, 1))
    return openai_answer(shown["text"].upper(), usage=(1, 1), head_pause=0.005)


@pytest.mark.witness
# The SDK leaves its generators to the collector once it has seen [DONE]; they are not ours.
@pytest.mark.filterwarnings(r"ignore:Async generator '(openai|httpx2|httpcore2)\.:ResourceWarning")
@pytest.mark.parametrize("kind", ["sync", "async"])
async def test_three_transformers_serve_one_stream_to_the_official_sdk(house: House, kind: Any) -> None:
    client = sdk(kind, house.gateway.url)
    async with serving(house.provider, transforming) as server:
        headers, chunks = await _stream(client)
        asked = [exchange.request.json() for exchange in server.exchanges]
    await close(client)
    assert headers["x-served-by"] == "us"
    said = [choice.delta.content or "" for chunk in chunks for choice in chunk.choices]
    assert "".join(said) == "IT WAS ASKED: WHAT IS DAS MEER? NOTHING ELSE. THE END."
    assert len([piece for piece in said if piece]) >= 3, "a sentence at a time"
    assert all(chunk.model_extra == {"served_by": "us"} for chunk in chunks), chunks
    assert [choice.finish_reason for chunk in chunks for choice in chunk.choices if choice.finish_reason] == ["stop"]
    assert [chunk.usage.total_tokens for chunk in chunks if chunk.usage] == [18]
    [answered] = [fields for fields in asked if fields["model"] != "small"]
    assert answered["messages"] == [{"role": "user", "content": "What is das Meer?"}]
    assert len(asked) == 5, "one for the request, one for each sentence"


async def _stream(client: SdkClient) -> tuple[Any, list[Any]]:
    """The headers and the chunks of one stream, as the SDK has read them."""
    fields: dict[str, Any] = {
        "model": "transformed",
        "messages": [{"role": "user", "content": "das Meer"}],
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    create: Any = client.chat.completions.with_raw_response.create

    def read() -> tuple[Any, list[Any]]:
        raw = create(**fields)
        return raw.headers, list(raw.parse())

    if type(client).__name__ == "OpenAI":
        return await trio.to_thread.run_sync(read)
    raw = await create(**fields)
    return raw.headers, [chunk async for chunk in raw.parse()]


async def test_judge_that_is_asked_counts_as_the_exchanges_own(house: House) -> None:
    """A provider's fault in what a guard asks closes, and is in the books of both exchanges."""

    def play(request: ReceivedRequest) -> Script:
        return openai_error(500) if request.json()["model"] == "small" else transforming(request)

    async with serving(house.provider, play):
        got = await ask(house.gateway, chat("das Meer", model="transformed"))
        assert (got.status, got.error["code"]) == (502, "guard_failed")
        record = await house.gateway.record(got.request_id)
        assert record["outcome"] != "completed"
        assert any(one.get("parent") == got.request_id for one in house.gateway.records())
