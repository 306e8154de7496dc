"""What a stream of OpenAI's wire must be as a client gets it: chunks, perhaps one with usage, then `[DONE]`; or an error as the
last frame. Looks on, and never changes what it sees; its sentences never repeat what was said.

Of a stream that passes from a provider untouched the order is looked at, and what every client's library relies upon. One
that the gateway has written is held to all that OpenAI documents.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

from trio_ai_proxy.chat.grammar import IllegalSequence
from trio_ai_proxy.framing.sse import SSEFramer

if TYPE_CHECKING:
    from collections.abc import Mapping

    from trio_ai_proxy.chat.request import Operation
    from trio_ai_proxy.framing.frame import Frame

_OBJECTS: Mapping[Operation, str] = {"chat": "chat.completion.chunk", "completions": "text_completion"}
_HEAD = ("id", "object", "created", "model", "system_fingerprint")
_TEXTS = ("content", "reasoning_content", "refusal")
_LISTS = ("tool_calls", "thinking_blocks", "annotations")
_ERROR_WORDS = ("message", "type", "code")


class OpenAIGrammar:
    """A validator of one streamed answer.

    include_usage  whether the client asked for the chunk with usage
    own            whether the gateway wrote every frame, none being a provider's
    """

    def __init__(self, operation: Operation, *, include_usage: bool, own: bool) -> None:
        self._operation: Operation = operation
        self._include_usage = include_usage
        self._own = own
        self._framer = SSEFramer()
        self._last: str | None = None
        self._head: dict[str, Any] | None = None
        self._usage_seen = False
        self._choices: dict[int, _Choice] = {}

    def feed(self, data: bytes) -> None:
        """Take what is sent in one piece, which must be whole frames. Raises `IllegalSequence`."""
        for frame in self._framer.feed(data):
            self._frame(frame)
        if self._framer.close():
            raise IllegalSequence("a piece that stops in the middle of a frame")
        self._framer = SSEFramer()

    def close(self) -> None:
        """The stream is over. Raises `IllegalSequence` if it ends without an end, or with one that says too much."""
        if self._last is None:
            raise IllegalSequence("the stream stops without [DONE] or an error")
        if self._last == "[DONE]" and self._own:
            for index, choice in self._choices.items():
                choice.end(index)

    def _frame(self, frame: Frame) -> None:
        if frame.data is None:
            if self._last is not None:
                raise IllegalSequence(f"a comment after {self._last}")
            return
        if self._last is not None:
            raise IllegalSequence(f"a frame after {self._last}")
        if frame.data == b"[DONE]":
            self._last = "[DONE]"
            return
        if self._own and frame.event:
            raise IllegalSequence("a frame with an event's name")
        try:
            chunk = msgspec.json.decode(frame.data)
        except (msgspec.DecodeError, UnicodeError, RecursionError):
            raise IllegalSequence("a frame that is not JSON") from None
        if not isinstance(chunk, dict):
            raise IllegalSequence("a frame that is no object")
        if chunk.get("error"):
            self._error(chunk["error"])
        else:
            self._chunk(chunk)

    def _error(self, error: Any) -> None:
        self._last = "an error"
        if not isinstance(error, dict) or not all(
            isinstance(error.get(word), str) and error[word] for word in _ERROR_WORDS
        ):
            raise IllegalSequence("an error without message, type and code as texts")

    def _chunk(self, chunk: dict[str, Any]) -> None:
        choices = chunk.get("choices")
        if choices is None and not self._own:
            choices = []
        if not isinstance(choices, list) or not all(isinstance(choice, dict) for choice in choices):
            raise IllegalSequence("a chunk without a list of choices")
        is_usage = isinstance(chunk.get("usage"), dict) and not choices
        if self._own:
            self._check_head(chunk, is_usage=is_usage)
        if is_usage:
            self._usage(chunk["usage"])
            return
        if choices and self._usage_seen and self._own:
            raise IllegalSequence("a choice after the usage")
        for choice in choices:
            index = choice.get("index")
            if index is None and not self._own:
                index = 0
            if type(index) is not int or index < 0:
                raise IllegalSequence("a choice without an index")
            known = self._choices.get(index)
            if known is None:
                known = self._choices[index] = _Choice(own=self._own)
            if self._operation == "chat":
                known.take_delta(index, choice)
            else:
                known.take_text(index, choice)

    def _check_head(self, chunk: dict[str, Any], *, is_usage: bool) -> None:
        head = {name: chunk.get(name) for name in _HEAD}
        if self._head is None:
            texts = all(isinstance(head[name], str) and head[name] for name in ("id", "model"))
            if not texts or head["object"] != _OBJECTS[self._operation] or type(head["created"]) is not int:
                raise IllegalSequence("a chunk without id, object, created or model")
            self._head = head
            return
        if is_usage:
            head["model"] = self._head["model"]  # whoever has made the rest of a continued answer
        if head != self._head:
            changed = ", ".join(name for name in _HEAD if head[name] != self._head[name])
            raise IllegalSequence(f"a chunk with another {changed} than the first")

    def _usage(self, usage: dict[str, Any]) -> None:
        if not self._include_usage:
            raise IllegalSequence("usage that nobody asked for")
        if self._usage_seen and self._own:
            raise IllegalSequence("usage for the second time")
        self._usage_seen = True
        counts = [usage.get(name) for name in ("prompt_tokens", "completion_tokens", "total_tokens")]
        if not all(type(count) is int and count >= 0 for count in counts):
            raise IllegalSequence("usage without its three counts")


class _Choice:
    """What has been sent of one choice."""

    __slots__ = ("_own", "calls", "has_begun", "is_finished")

    def __init__(self, *, own: bool) -> None:
        self._own = own
        self.has_begun = False
        self.is_finished = False
        self.calls: dict[int, list[str]] = {}

    def take_delta(self, index: int, choice: dict[str, Any]) -> None:
        delta = choice.get("delta")
        if delta is None and not self._own:
            delta = {}
        if not isinstance(delta, dict):
            raise _wrong(index, "has no delta")
        says = [name for name, value in delta.items() if value and name != "role"]
        if self.is_finished and (says or self._own):
            raise _wrong(index, "goes on after its finish_reason")
        if self._own:
            if self.has_begun == ("role" in delta):
                raise _wrong(index, "has its role in another chunk than the first")
            if not self.has_begun and delta["role"] != "assistant":
                raise _wrong(index, "is not the assistant's")
        self.has_begun = True
        if any(not isinstance(delta.get(name), str | None) for name in _TEXTS) and self._own:
            raise _wrong(index, "has a text that is none")
        if any(not isinstance(delta.get(name), list | None) for name in _LISTS):
            raise _wrong(index, "has a list that is none")
        for call in delta.get("tool_calls") or ():
            self._take_call(index, call)
        self._take_reason(index, choice)

    def take_text(self, index: int, choice: dict[str, Any]) -> None:
        if self.is_finished and (choice.get("text") or self._own):
            raise _wrong(index, "goes on after its finish_reason")
        if not isinstance(choice.get("text"), str) and (self._own or choice.get("text") is not None):
            raise _wrong(index, "has no text")
        self._take_reason(index, choice)

    def _take_reason(self, index: int, choice: dict[str, Any]) -> None:
        reason = choice.get("finish_reason")
        if not isinstance(reason, str | None) or (reason == "" and self._own):
            raise _wrong(index, "has a finish_reason that is no word")
        if reason:
            self.is_finished = True

    def _take_call(self, index: int, call: Any) -> None:
        if not self._own:
            return
        function = call.get("function") if isinstance(call, dict) else None
        if not isinstance(function, dict) or not isinstance(function.get("arguments"), str):
            raise _wrong(index, "has a call without arguments")
        number = call.get("index")
        if number == len(self.calls) and type(number) is int:
            if not call.get("id") or call.get("type") != "function" or not function.get("name"):
                raise _wrong(index, "has a call that begins without its id, type and name")
            self.calls[number] = []
        elif number not in self.calls:
            raise _wrong(index, "has a call out of its order")
        elif "id" in call or "type" in call or "name" in function:
            raise _wrong(index, "says a call's id, type or name twice")
        self.calls[number].append(function["arguments"])

    def end(self, index: int) -> None:
        """The stream is over, and whole."""
        if not self.is_finished:
            raise _wrong(index, "has no finish_reason")


def _wrong(index: int, what: str) -> IllegalSequence:
    return IllegalSequence(f"choice {index} {what}")
