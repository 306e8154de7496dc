"""What a client may be sent as a stream of OpenAI's wire, and what not."""

from __future__ import annotations

import json
from typing import Any

import pytest

from trio_ai_proxy.chat.grammar import IllegalSequence
from trio_ai_proxy.dialects.table import DIALECTS

DONE = b"data: [DONE]\n\n"
COUNTS = {"prompt_tokens": 1, "completion_tokens": 2, "total_tokens": 3}
ERROR = {"error": {"message": "m", "type": "t", "code": "c", "param": None}}
HEADS = {"chat": {"id": "i", "object": "chat.completion.chunk", "created": 1, "model": "m"}}
HEADS["completions"] = {**HEADS["chat"], "object": "text_completion"}
ROLE = {"role": "assistant", "content": ""}
CALL = {"index": 0, "id": "c", "type": "function", "function": {"name": "f", "arguments": ""}}
MORE = {"index": 0, "function": {"arguments": "{}"}}


def frame(payload: Any) -> bytes:
    return b"data: " + json.dumps(payload).encode() + b"\n\n"


def chunk(delta: Any = None, finish: Any = None, index: Any = 0, **more: Any) -> bytes:
    choice = {"index": index, "delta": delta if delta is not None else {}, "logprobs": None, "finish_reason": finish}
    return frame({**HEADS["chat"], "choices": [choice], **more})


def text(said: Any, finish: Any = None) -> bytes:
    return frame({**HEADS["completions"], "choices": [{"index": 0, "text": said, "finish_reason": finish}]})


def usage(**more: Any) -> bytes:
    return frame({**HEADS["chat"], "choices": [], "usage": COUNTS, **more})


def look(*pieces: bytes, own: bool = True, include_usage: bool = True, dialect: str = "chat") -> None:
    grammar = DIALECTS[f"llm/v1/{dialect}"].grammar(include_usage=include_usage, own=own)
    for piece in pieces:
        grammar.feed(piece)
    grammar.close()


BEGUN, STOP = chunk(ROLE), chunk({}, "stop")


@pytest.mark.parametrize("own", [True, False])
@pytest.mark.parametrize(
    "pieces",
    [
        [BEGUN, chunk({"content": "a"}), STOP, DONE],
        [BEGUN + chunk({"content": "a"}) + STOP, usage(), DONE],
        [b": keep-alive\n\n", BEGUN, b": keep-alive\n\n", STOP, DONE],
        [BEGUN, chunk({"tool_calls": [CALL]}), chunk({"tool_calls": [MORE]}), STOP, DONE],
        [BEGUN, chunk(ROLE, index=1), chunk({}, "stop", 1), STOP, DONE],
        [BEGUN, chunk({"content": "a"}), frame(ERROR)],
        [frame(ERROR)],
        [DONE],
    ],
)
def test_legal(pieces: list[bytes], own: bool) -> None:
    look(*pieces, own=own)


def test_legal_completions() -> None:
    look(
        text("a"),
        text("", "stop"),
        frame({**HEADS["completions"], "choices": [], "usage": COUNTS}),
        DONE,
        dialect="completions",
    )


@pytest.mark.parametrize("own", [True, False])
@pytest.mark.parametrize(
    ("pieces", "why"),
    [
        ([], r"without \[DONE\]"),
        ([BEGUN, STOP], r"without \[DONE\]"),
        ([BEGUN, STOP, DONE, DONE], r"a frame after \[DONE\]"),
        ([BEGUN, STOP, DONE, b": hi\n\n"], r"a comment after \[DONE\]"),
        ([BEGUN, frame(ERROR), DONE], "a frame after an error"),
        ([BEGUN, STOP, chunk({"content": "a"}), DONE], "choice 0 goes on after"),
        ([BEGUN[:-1], STOP, DONE], "middle of a frame"),
        ([b"data: {\n\n"], "not JSON"),
        ([b"data: [1]\n\n"], "no object"),
        ([frame({**HEADS["chat"], "choices": 1})], "list of choices"),
        ([frame({**HEADS["chat"], "choices": [1]})], "list of choices"),
        ([chunk(ROLE, index="0")], "without an index"),
        ([chunk(ROLE, index=-1)], "without an index"),
        ([chunk("a")], "has no delta"),
        ([chunk({"role": "assistant", "tool_calls": 1})], "a list that is none"),
        ([BEGUN, chunk({}, 1)], "finish_reason that is no word"),
        ([frame({"error": "text"})], "an error without message"),
        ([frame({"error": {"message": "m", "type": "t", "code": 429}})], "an error without message"),
        ([BEGUN, STOP, usage(usage={"prompt_tokens": 1}), DONE], "without its three counts"),
    ],
)
def test_illegal(pieces: list[bytes], why: str, own: bool) -> None:
    with pytest.raises(IllegalSequence, match=why):
        look(*pieces, own=own)


@pytest.mark.parametrize(
    ("pieces", "why"),
    [
        ([BEGUN, DONE], "choice 0 has no finish_reason"),
        ([BEGUN, chunk(ROLE)], "its role in another chunk"),
        ([chunk({"content": "a"})], "its role in another chunk"),
        ([chunk({"role": "user"})], "not the assistant's"),
        ([BEGUN, STOP, chunk({})], "goes on after"),
        ([BEGUN, chunk({"content": 1})], "a text that is none"),
        ([BEGUN, chunk({}, "")], "no word"),
        ([BEGUN, chunk({}, id="j")], "with another id"),
        ([BEGUN, chunk({}, model="n", created=2)], "with another created, model"),
        ([BEGUN, chunk({}, system_fingerprint="f")], "with another system_fingerprint"),
        ([chunk(ROLE, id="")], "without id"),
        ([chunk(ROLE, created=None)], "without id, object, created"),
        ([text("a")], "without id, object"),
        ([b"event: x\n" + BEGUN], "an event's name"),
        ([BEGUN, STOP, usage(), usage()], "usage for the second time"),
        ([BEGUN, usage(), STOP], "a choice after the usage"),
        ([BEGUN, chunk({"tool_calls": [MORE]})], "begins without its id"),
        ([BEGUN, chunk({"tool_calls": [{**CALL, "index": 1}]})], "out of its order"),
        ([BEGUN, chunk({"tool_calls": [CALL]}), chunk({"tool_calls": [CALL]})], "twice"),
        ([BEGUN, chunk({"tool_calls": [{**MORE, "function": {}}]})], "without arguments"),
        ([BEGUN, chunk({"tool_calls": [1]})], "without arguments"),
    ],
)
def test_illegal_where_every_frame_is_ours(pieces: list[bytes], why: str) -> None:
    with pytest.raises(IllegalSequence, match=why):
        look(*pieces)
    look(*(piece for piece in pieces if piece != DONE), DONE, own=False)


@pytest.mark.parametrize(("own", "said"), [(True, None), (True, 1), (False, 1)])
def test_a_completion_without_text_is_none(own: bool, said: Any) -> None:
    with pytest.raises(IllegalSequence, match="has no text"):
        look(text(said), own=own, dialect="completions")


def test_a_completion_that_goes_on_after_its_end_is_none() -> None:
    for own in (True, False):
        with pytest.raises(IllegalSequence, match="goes on"):
            look(text("a", "stop"), text("b"), own=own, dialect="completions")


def test_usage_is_for_those_who_asked() -> None:
    with pytest.raises(IllegalSequence, match="nobody asked"):
        look(BEGUN, STOP, usage(), DONE, include_usage=False)


def test_what_a_provider_leaves_out_is_no_fault_of_ours() -> None:
    odd = [frame({"id": "x"}), frame({"choices": [{"delta": None}]}), frame({"choices": [{"delta": {"content": "a"}}]})]
    look(*odd, b"event: ping\ndata: {}\n\n", DONE, own=False)
