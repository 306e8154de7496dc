"""What one choice of an OpenAI-compatible answer says, whether it comes in deltas or as a whole message: text, thoughts,
where it is from, and calls of tools, counted as they appear whatever the service counts.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from trio_ai_proxy.chat.events import (
    Cited,
    Event,
    Finished,
    LogProbabilities,
    ReasoningDelta,
    ReasoningSealed,
    RefusalDelta,
    TextDelta,
    ToolCallDelta,
)
from trio_ai_proxy.providers.loose import a_dict, a_list, a_text, count, json_text, text_of

if TYPE_CHECKING:
    from trio_ai_proxy.providers.openai_wire import Function, Said, ToolCall

_CUT_SHORT = ("length", "content_filter")


class Speech:
    """Turns what is said into events, for all choices of one answer. `answer_id` goes into the ids of calls that have none."""

    def __init__(self) -> None:
        self.answer_id = ""
        self._calls: dict[tuple[int, int], _Call] = {}
        self._numbers: dict[int, int] = {}  # choice → how many of its calls have been told

    def add(self, events: list[Event], said: Said, index: int) -> None:
        """Add to `events` what a delta, or a whole message, of choice `index` says."""
        reasoning = a_text(said.reasoning_content) or a_text(said.reasoning)
        if said.thinking_blocks:
            _add_thoughts(events, reasoning, said.thinking_blocks, index)
        elif reasoning:
            events.append(ReasoningDelta(reasoning, index))
        add_text(events, said.content, index)
        if said.refusal and isinstance(said.refusal, str):
            events.append(RefusalDelta(said.refusal, index))
        for annotation in a_list(said.annotations):
            _add_citation(events, annotation, index)
        for position, call in enumerate(said.tool_calls or ()):
            self._add_call(events, call, position if call.index is None else call.index, index)
        if said.function_call is not None:
            self._add_fragment(events, (index, 0), "", said.function_call, "", is_older=True)

    def finish(self, events: list[Event], reason: str, index: int) -> None:
        """Add what ends choice `index`. A call that has been told no arguments has an object without members."""
        if reason not in _CUT_SHORT:
            for (choice, _), call in self._calls.items():
                if choice == index and call.number is not None and not call.has_arguments:
                    events.append(ToolCallDelta(call.number, arguments="{}", index=index))
        events.append(Finished(reason, index))

    def _add_call(self, events: list[Event], call: ToolCall, place: int, index: int) -> None:
        key = (index, place)
        known = self._calls.get(key)
        if call.id is None and call.extra_content is None and known is not None and known.number is not None:
            more = call.function.arguments if call.function is not None else None
            if isinstance(more, str):  # as nearly every fragment is
                if more:
                    known.has_arguments = True
                    events.append(ToolCallDelta(known.number, "", "", more, index))
                return
        call_id = "" if call.id is None else str(call.id)
        if known is not None and call_id and known.id != call_id and call.function is not None and call.function.name:
            del self._calls[key]  # Google's endpoint counts every one of parallel calls as number 0
            self._calls[index, -1 - len(self._calls)] = known
        google = a_dict(a_dict(call.extra_content).get("google")) if call.extra_content else {}
        self._add_fragment(events, key, call_id, call.function, a_text(google.get("thought_signature")))

    def _add_fragment(
        self,
        events: list[Event],
        key: tuple[int, int],
        call_id: str,
        function: Function | None,
        signature: str,
        *,
        is_older: bool = False,
    ) -> None:
        index = key[0]
        arguments = function.arguments if function is not None else None
        if arguments is None:
            arguments = ""
        elif not isinstance(arguments, str):
            arguments = json_text(arguments)
        call = self._calls.get(key)
        if call is None:
            call = self._calls[key] = _Call()
        if arguments:
            call.has_arguments = True
        if call.number is not None:
            if arguments or signature:
                events.append(ToolCallDelta(call.number, "", "", arguments, index, signature))
            return
        # Nothing is told of a call before its name is known: nobody could act on it.
        call.id = call.id or call_id
        call.arguments += arguments
        call.signature = call.signature or signature
        if function is None or not function.name:
            return
        call.number = self._numbers.get(index, 0)
        self._numbers[index] = call.number + 1
        told = call.id or ("" if is_older else f"call_{self.answer_id}_{index}_{call.number}")
        events.append(ToolCallDelta(call.number, told, str(function.name), call.arguments, index, call.signature))
        call.arguments = ""


class _Call:
    """One call under way. `number` is None until its name is known; what came before that is kept."""

    __slots__ = ("arguments", "has_arguments", "id", "number", "signature")

    def __init__(self) -> None:
        self.number: int | None = None
        self.id = ""
        self.arguments = ""
        self.signature = ""
        self.has_arguments = False


def add_text(events: list[Event], content: Any, index: int) -> None:
    """Add to `events` the text that `content` is or holds, if there is any."""
    if not content:
        return
    text = text_of(content)
    if text:
        events.append(TextDelta(text, index))


def add_probabilities(events: list[Event], logprobs: Any, index: int) -> None:
    """Add to `events` the probabilities of a chat's tokens: those of its text, else those of its refusal."""
    probabilities = a_dict(logprobs)
    tokens = a_list(probabilities.get("content")) or a_list(probabilities.get("refusal"))
    tokens = [token for token in tokens if isinstance(token, dict) and isinstance(token.get("token"), str)]
    if tokens:
        events.append(LogProbabilities(tokens, index))


def _add_thoughts(events: list[Event], reasoning: str, blocks: Any, index: int) -> None:
    """Thoughts in blocks, each of which the provider wants back. In a stream the blocks' text came before, as reasoning; a
    whole message has it in both places."""
    for block in a_list(blocks):
        block = a_dict(block)
        signature, redacted = a_text(block.get("signature")), a_text(block.get("data"))
        text = a_text(block.get("thinking"))
        if reasoning.startswith(text):
            reasoning = reasoning[len(text) :]
            if text:
                events.append(ReasoningDelta(text, index))
        if redacted:
            events.append(ReasoningSealed(redacted=redacted, index=index))
        elif signature:
            events.append(ReasoningSealed(signature, index=index))
    if reasoning:
        events.append(ReasoningDelta(reasoning, index))


def _add_citation(events: list[Event], annotation: Any, index: int) -> None:
    annotation = a_dict(annotation)
    page, document = a_dict(annotation.get("url_citation")), a_dict(annotation.get("file_citation"))
    if page.get("url"):
        start, end = count(page.get("start_index")), count(page.get("end_index"))
        cited = Cited(a_text(page.get("url")), a_text(page.get("title")), start=start, end=max(start, end), index=index)
        events.append(cited)
    elif document:
        source, title, quote = (a_text(document.get(name)) for name in ("file_id", "filename", "quote"))
        if source or title or quote:
            events.append(Cited("", title, source, quote, end=count(document.get("index")), index=index))
