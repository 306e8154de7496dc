"""Events → chunks of OpenAI's streamed chat completion.

What all chunks share is written once. A choice opens with its role, together with the first thing that it says, so that no
chunk leaves before there is one. Source: https://platform.openai.com/docs/api-reference/chat/streaming
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from trio_ai_proxy.chat.events import (
    Cited,
    Finished,
    LogProbabilities,
    ReasoningDelta,
    ReasoningSealed,
    RefusalDelta,
    TextDelta,
    ToolCallDelta,
)
from trio_ai_proxy.chat.fold import Thought
from trio_ai_proxy.dialects import openai_shape
from trio_ai_proxy.dialects.openai_shape import encode

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from trio_ai_proxy.chat.events import Event, Started

_ROLE = b'{"role":"assistant","content":""}'
_TAIL = b',"logprobs":null,"finish_reason":null}]}\n\n'


class ChatEncoder:
    """A `StreamEncoder`. `older_calls`: the client knows OpenAI's older form of a call alone; then it is told of the first."""

    def __init__(self, started: Started, *, older_calls: bool = False) -> None:
        self._older_calls = older_calls
        self._head = openai_shape.chunk_head(started, "chat.completion.chunk")
        self._opened: set[int] = set()
        self._called: dict[tuple[int, int], bool] = {}  # choice and call → whether it has an id
        self._thoughts: dict[int, list[str]] = {}  # of each choice, since its last seal

    def feed(self, events: Sequence[Event]) -> bytes:
        out = []
        for event in events:
            write = _WRITE.get(type(event))
            if write is None:
                continue
            index: int = event.index  # type: ignore[union-attr]  # every event that has a writer has one
            if index not in self._opened:
                self._opened.add(index)
                out.append(b'%b{"index":%d,"delta":%b%b' % (self._head, index, _ROLE, _TAIL))
            out.append(write(self, event))
        return b"".join(out)

    def _delta(self, index: int, delta: bytes) -> bytes:
        return b'%b{"index":%d,"delta":%b%b' % (self._head, index, delta, _TAIL)

    def _text(self, event: TextDelta) -> bytes:
        return self._delta(event.index, b'{"content":%b}' % encode(event.text))

    def _reasoning(self, event: ReasoningDelta) -> bytes:
        self._thoughts.setdefault(event.index, []).append(event.text)
        return self._delta(event.index, b'{"reasoning_content":%b}' % encode(event.text))

    def _refusal(self, event: RefusalDelta) -> bytes:
        return self._delta(event.index, b'{"refusal":%b}' % encode(event.text))

    def _sealed(self, event: ReasoningSealed) -> bytes:
        # The block is whole although its text has been told in deltas: what a client gives back must be what was signed.
        text = "" if event.redacted else "".join(self._thoughts.pop(event.index, ()))
        block = openai_shape.thinking_block(Thought(text, event.signature, event.redacted))
        return self._delta(event.index, encode({"thinking_blocks": [block]}))

    def _call(self, event: ToolCallDelta) -> bytes:
        call: dict[str, Any] = {"index": event.call}
        function: dict[str, str] = {"arguments": event.arguments}
        key = (event.index, event.call)
        has_id = self._called.get(key)
        if has_id is None:
            has_id = self._called[key] = bool(event.id)
            call |= {"id": event.id, "type": "function"}
            function = {"name": event.name, "arguments": event.arguments}
        if self._older_calls or not has_id:  # OpenAI's older form: one call, without an id
            return b"" if event.call else self._delta(event.index, encode({"function_call": function}))
        call["function"] = function
        call |= openai_shape.extra_content(event.signature)
        return self._delta(event.index, encode({"tool_calls": [call]}))

    def _cited(self, event: Cited) -> bytes:
        return self._delta(event.index, encode({"annotations": [openai_shape.annotation(event)]}))

    def _probabilities(self, event: LogProbabilities) -> bytes:
        tokens = encode({"content": event.tokens, "refusal": None})
        return b'%b{"index":%d,"delta":{},"logprobs":%b,"finish_reason":null}]}\n\n' % (self._head, event.index, tokens)

    def _finished(self, event: Finished) -> bytes:
        is_older = self._older_calls and event.reason == "tool_calls"
        reason = encode("function_call" if is_older else event.reason)
        tail = b',"delta":{},"logprobs":null,"finish_reason":%b}]}\n\n' % reason
        return b'%b{"index":%d%b' % (self._head, event.index, tail)


_WRITE: dict[type, Callable[[ChatEncoder, Any], bytes]] = {
    TextDelta: ChatEncoder._text,  # noqa: SLF001
    ReasoningDelta: ChatEncoder._reasoning,  # noqa: SLF001
    ReasoningSealed: ChatEncoder._sealed,  # noqa: SLF001
    RefusalDelta: ChatEncoder._refusal,  # noqa: SLF001
    ToolCallDelta: ChatEncoder._call,  # noqa: SLF001
    Cited: ChatEncoder._cited,  # noqa: SLF001
    LogProbabilities: ChatEncoder._probabilities,  # noqa: SLF001
    Finished: ChatEncoder._finished,  # noqa: SLF001
}
