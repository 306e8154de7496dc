"""What Mistral's chunks and answers mean: what OpenAI's mean, with Mistral's own in them.

- The content can be a list: text, thoughts, and where the text is from.
- `model_length` is the length of the model's context; it means `length`.
- An answer that goes on from the assistant's last message begins with that message; it is taken off again.
- A call's id can be the word "null".

Source: https://docs.mistral.ai/api/endpoint/chat and https://docs.mistral.ai/capabilities/reasoning
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from trio_ai_proxy.chat.events import (
    Cited,
    Ended,
    Event,
    Failed,
    Finished,
    ReasoningDelta,
    ReasoningSealed,
    Started,
    TextDelta,
    ToolCallDelta,
    UsageReported,
)
from trio_ai_proxy.errors import UpstreamProtocolError
from trio_ai_proxy.providers.loose import a_dict, a_list, a_text, text_of
from trio_ai_proxy.providers.mistral_request import SEAL, begun_text, call_id
from trio_ai_proxy.providers.openai_stream import OpenAIDecoder
from trio_ai_proxy.providers.openai_stream import read_answer as read_openai_answer
from trio_ai_proxy.providers.openai_wire import read

if TYPE_CHECKING:
    from trio_ai_proxy.chat.request import ChatRequest
    from trio_ai_proxy.framing.frame import Frame
    from trio_ai_proxy.providers.error_words import Scrub

_LIST = re.compile(rb'"content"\s*:\s*\[')
_FINISHES = {"model_length": "length"}


class MistralDecoder:
    """A stage from frames to events, for one streamed answer to `request`."""

    def __init__(self, request: ChatRequest, scrub: Scrub) -> None:
        self._openai = OpenAIDecoder("chat", scrub)  # also for completions, which are chats here
        self._own = _Own(request)

    def feed(self, item: Frame) -> list[Event]:
        if self._own.is_over:
            return []
        events = self._openai.feed(item)
        is_text = len(events) == 1 and type(events[0]) is TextDelta
        if is_text and self._own.lets_text_pass and _LIST.search(item.data or b"") is None:
            return events
        return self._own.apply(events, item.data)

    def close(self) -> list[Event]:
        return self._openai.close()


def read_answer(request: ChatRequest, body: bytes, scrub: Scrub) -> list[Event]:
    """What a whole answer to `request` means. Raises `UpstreamProtocolError` if it is none."""
    if request.operation in ("embeddings", "moderations"):
        return read_openai_answer(request.operation, body, scrub)
    return _Own(request).apply(read_openai_answer("chat", body, scrub), body)


class _Own:
    """Puts what is Mistral's own into events that were read as OpenAI's."""

    def __init__(self, request: ChatRequest) -> None:
        self._begun = begun_text(request)
        self._to_come: dict[int, str] = {}  # by choice: what is still to come of the text that was begun
        turns = request.fields.get("messages")
        self._turns = len(turns) if isinstance(turns, list) else 0
        self._finished: set[int] = set()
        self.lets_text_pass = not self._begun
        self.is_over = False

    def apply(self, events: list[Event], data: bytes | None) -> list[Event]:
        """`events`, which the frame or document `data` was read as, in Mistral's sense."""
        if data is not None and _LIST.search(data) is not None:
            events = _with_parts(events, data, self._finished)
        out: list[Event] = []
        for event in events:
            match event:
                case TextDelta() if self._begun:
                    text = self._without_begun(event)
                    if text:
                        out.append(TextDelta(text, event.index))
                case ToolCallDelta(id="null"):
                    # The same conversation gives the same ids, and no turn gives those of another.
                    made_up = call_id(f"{self._turns}.{event.index}.{event.call}")
                    out.append(ToolCallDelta(event.call, made_up, event.name, event.arguments, event.index))
                case Finished():
                    self._finished.add(event.index)
                    out += self._held_back(event.index)
                    out.append(Finished(_FINISHES.get(event.reason, event.reason), event.index))
                case _:
                    self.is_over = self.is_over or isinstance(event, Ended | Failed)
                    out.append(event)
        return out

    def _without_begun(self, event: TextDelta) -> str:
        left = self._to_come.get(event.index, self._begun)
        text = event.text
        if left and left.startswith(text) and left != text:
            self._to_come[event.index] = left[len(text) :]
            return ""
        self._to_come[event.index] = ""
        if text.startswith(left):
            return text[len(left) :]
        # It was another text after all: nothing of it is lost.
        return self._begun[: len(self._begun) - len(left)] + text

    def _held_back(self, index: int) -> list[Event]:
        """What was taken for the beginning of the text that was begun, and broke off within it."""
        left = self._to_come.pop(index, "")
        text = self._begun[: len(self._begun) - len(left)] if left else ""
        return [TextDelta(text, index)] if text else []


def _with_parts(events: list[Event], data: bytes, finished: set[int]) -> list[Event]:
    """`events` with the parts of a content in place of its text alone, but for choices that are over."""
    try:
        choices = read(data).choices or ()
    except UpstreamProtocolError:
        return events  # it has been read as something else
    parts: dict[int, list[Event]] = {}
    for position, choice in enumerate(choices):
        said = choice.delta or choice.message
        if said is not None and isinstance(said.content, list):
            index = (0 if choice.message is None else position) if choice.index is None else choice.index
            if index not in finished:
                parts[index] = _parts(said.content, index)
    replaced = set(parts)
    out: list[Event] = []
    for event in events:
        choice_of = None if isinstance(event, Started | UsageReported | Failed | Ended) else event.index
        if choice_of is not None:
            out += parts.pop(choice_of, [])
        elif not isinstance(event, Started):
            out += [part for rest in parts.values() for part in rest]
            parts.clear()
        if choice_of not in replaced or not isinstance(event, TextDelta):
            out.append(event)
    return out + [part for rest in parts.values() for part in rest]


def _parts(content: list[Any], index: int) -> list[Event]:
    events: list[Event] = []
    for part in content:
        facts = a_dict(part)
        match facts.get("type"):
            case "thinking":
                thought = facts.get("thinking")
                text = thought if isinstance(thought, str) else text_of(thought)
                if text:
                    events.append(ReasoningDelta(text, index))
                signature = a_text(facts.get("signature"))
                if signature:
                    events.append(ReasoningSealed(SEAL + signature, index=index))
            case "reference":
                events += [Cited(source=str(name), index=index) for name in a_list(facts.get("reference_ids"))]
            case "tool_reference":
                url, title = a_text(facts.get("url")), a_text(facts.get("title"))
                if url:
                    events.append(Cited(url=url, title=title, index=index))
            case _:
                text = part if isinstance(part, str) else a_text(facts.get("text"))
                if text:
                    events.append(TextDelta(text, index))
    return events
