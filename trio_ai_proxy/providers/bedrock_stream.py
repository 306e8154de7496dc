"""What Converse's events and answers mean. A stream and a whole answer are told by the same `_Teller`, so that they mean the
same.

The stream's own terminal is `messageStop`, after which only `metadata` comes, with the usage. What Bedrock reports inside a
stream that has begun well (`:message-type` exception) fails with the status that it would have had before.
"""

from __future__ import annotations

from base64 import b64decode, b64encode
from binascii import Error as Base64Error
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
from trio_ai_proxy.errors import TruncatedStream, UpstreamError, UpstreamProtocolError, UpstreamStatus
from trio_ai_proxy.providers import bedrock_wire as wire
from trio_ai_proxy.providers.error_words import Scrub, stream_error
from trio_ai_proxy.providers.loose import a_dict, a_list, a_text, json_text, read_object

if TYPE_CHECKING:
    from trio_ai_proxy.framing.frame import Frame

_REASONS = {
    "end_turn": "stop",
    "stop_sequence": "stop",
    "tool_use": "tool_calls",
    "max_tokens": "length",
    "model_context_window_exceeded": "length",
    "guardrail_intervened": "content_filter",
    "content_filtered": "content_filter",
}

# The statuses that the documentation gives to what can come inside a stream.
_STATUSES = {
    "throttlingexception": 429,
    "validationexception": 400,
    "modelstreamerrorexception": 424,
    "modeltimeoutexception": 408,
    "internalserverexception": 500,
    "serviceunavailableexception": 503,
    "accessdeniedexception": 403,
    "resourcenotfoundexception": 404,
}

_read_block_start = wire.Reader(wire.BlockStart)
_read_block_delta = wire.Reader(wire.BlockDelta)
_read_block_stop = wire.Reader(wire.BlockStop)
_read_message_stop = wire.Reader(wire.MessageStop)
_read_metadata = wire.Reader(wire.Metadata)
_read_answer = wire.Reader(wire.Answer)


class _Block:
    """One content block that is being told."""

    __slots__ = ("call", "citations", "has_input", "is_hidden", "is_text", "redacted", "signature", "text_start")

    def __init__(self, text_start: int) -> None:
        self.text_start = text_start
        self.call: int | None = None
        self.is_text = False  # the answer's text, by way of a tool
        self.is_hidden = False
        self.has_input = False
        self.signature = ""
        self.redacted: list[str] = []
        self.citations: list[Any] = []


class _Teller:
    """Turns the parts of one message into events. `answer_tool` is the name of the tool whose input is the answer's text,
    "" if there is none."""

    def __init__(self, answer_tool: str) -> None:
        self._answer_tool = answer_tool
        self._has_started = False
        self._blocks: dict[int, _Block] = {}
        self._calls = 0
        self._characters = 0
        self._has_answered_by_tool = False
        self.events: list[Event] = []

    def take(self) -> list[Event]:
        """What has been told since the last time."""
        events, self.events = self.events, []
        return events

    def start(self) -> None:
        if not self._has_started:
            self._has_started = True
            self.events.append(Started("", ""))  # Converse gives an answer no id, and the model's name only in the path

    def text(self, index: int, text: Any) -> None:
        block = self._block(index)
        if text and isinstance(text, str) and not block.is_hidden:
            self._characters += len(text)
            self.events.append(TextDelta(text))

    def tool(self, index: int, tool: wire.ToolStart | wire.ToolUse) -> None:
        self.stop(index)  # where the end of the block before was not said
        block = self._block(index)
        name = a_text(tool.name)
        answers = bool(self._answer_tool) and name == self._answer_tool
        if tool.type == "server_tool_use" or (answers and self._has_answered_by_tool):
            block.is_hidden = True  # Bedrock runs it itself; or it answers once more
        elif answers:
            block.is_text = self._has_answered_by_tool = True
        else:
            block.call = self._calls
            self._calls += 1
            self.events.append(ToolCallDelta(block.call, a_text(tool.tool_use_id) or f"call_{block.call}", name))

    def arguments(self, index: int, fragment: Any) -> None:
        block = self._block(index)
        if not fragment or not isinstance(fragment, str):
            return
        block.has_input = True
        if block.is_text:
            self._characters += len(fragment)
            self.events.append(TextDelta(fragment))
        elif block.call is not None:
            self.events.append(ToolCallDelta(block.call, arguments=fragment))

    def reasoning(self, index: int, reasoning: wire.Reasoning) -> None:
        block = self._block(index)
        if reasoning.text and isinstance(reasoning.text, str):
            self.events.append(ReasoningDelta(reasoning.text))
        block.signature += a_text(reasoning.signature)
        if redacted := a_text(reasoning.redacted_content):
            block.redacted.append(redacted)

    def citation(self, index: int, citation: Any) -> None:
        self._block(index).citations.append(citation)

    def stop(self, index: int) -> None:
        block = self._blocks.pop(index, None)
        if block is None:
            return
        if block.signature:
            self.events.append(ReasoningSealed(block.signature))
        if block.redacted:
            self.events.append(ReasoningSealed(redacted=_joined(block.redacted)))
        if not block.has_input:
            if block.is_text:
                self.events.append(TextDelta("{}"))
            elif block.call is not None:
                self.events.append(ToolCallDelta(block.call, arguments="{}"))
        self.events += (_cited(citation, block.text_start, self._characters) for citation in block.citations)

    def finish(self, reason: Any) -> None:
        self.start()
        for index in list(self._blocks):
            self.stop(index)
        if not reason or not isinstance(reason, str):
            return
        if reason == "tool_use" and self._has_answered_by_tool and not self._calls:
            reason = "end_turn"
        self.events.append(Finished(_REASONS.get(reason, reason)))

    def usage(self, usage: wire.Usage | None) -> None:
        counted = wire.token_usage(usage) if usage is not None else None
        if counted is not None:
            self.events.append(UsageReported(counted))

    def _block(self, index: int) -> _Block:
        block = self._blocks.get(index)
        if block is None:
            self.start()
            block = self._blocks[index] = _Block(self._characters)
        return block


class BedrockDecoder:
    """A stage from frames to events, for one streamed answer of ConverseStream."""

    def __init__(self, answer_tool: str, scrub: Scrub) -> None:
        self._teller = _Teller(answer_tool)
        self._scrub = scrub
        self._has_stopped = False
        self._is_over = False

    def feed(self, item: Frame) -> list[Event]:
        if self._is_over:
            return []
        if not item.whole:
            raise TruncatedStream("The provider's stream stopped in the middle of an event.")
        if item.data is None or (self._has_stopped and item.event.startswith("contentBlock")):
            return []
        if item.event == "contentBlockDelta":
            self._delta(_read_block_delta(item.data))
        else:
            self._other(item.event, item.data)
        return self._teller.take()

    def close(self) -> list[Event]:
        if self._is_over:
            return []
        self._is_over = True
        if not self._has_stopped:
            raise TruncatedStream("The provider's stream stopped before the answer was finished.")
        return [Ended()]

    def _delta(self, event: wire.BlockDelta) -> None:
        teller, delta, index = self._teller, event.delta, _index(event.content_block_index)
        if delta is None:
            return
        if delta.text is not None:
            teller.text(index, delta.text)
        if delta.tool_use is not None:
            teller.arguments(index, delta.tool_use.input)
        if delta.reasoning_content is not None:
            teller.reasoning(index, delta.reasoning_content)
        if delta.citation is not None:
            teller.citation(index, delta.citation)

    def _other(self, event: str, data: bytes) -> None:
        teller = self._teller
        match event:
            case "messageStart":
                teller.start()
            case "contentBlockStart":
                started = _read_block_start(data)
                if started.start is not None and started.start.tool_use is not None:
                    teller.tool(_index(started.content_block_index), started.start.tool_use)
            case "contentBlockStop":
                teller.stop(_index(_read_block_stop(data).content_block_index))
            case "messageStop":
                reason = _read_message_stop(data).stop_reason
                if not self._has_stopped:
                    self._has_stopped = True
                    teller.finish(reason)
            case "metadata":
                teller.usage(_read_metadata(data).usage)
                if self._has_stopped:
                    self._is_over = True
                    teller.events.append(Ended())
            case _ if ":" in event or event.endswith("Exception"):  # … where `:message-type` was forgotten
                self._is_over = True
                teller.events.append(Failed(_error(event, data, self._scrub)))
            case _:
                pass  # an event that we do not know says nothing that we need


def read_converse(body: bytes, answer_tool: str, scrub: Scrub) -> list[Event]:
    """What a whole answer of Converse means. Raises `UpstreamProtocolError` if it is none."""
    answer = _read_answer(body)
    message = answer.output.message if answer.output is not None else None
    if message is None:
        kind = a_text(a_dict(answer.refused).get("__type")).rpartition("#")[2]
        if kind or answer.message:
            return [Failed(stream_error({"message": answer.message or f"AWS answered {kind}.", "type": kind}, scrub))]
        raise UpstreamProtocolError("The provider's answer holds no message.")
    teller = _Teller(answer_tool)
    teller.start()
    for index, block in enumerate(message.content or ()):
        _tell(teller, index, block)
        teller.stop(index)
    teller.finish(answer.stop_reason)
    teller.usage(answer.usage)
    return [*teller.take(), Ended()]


def _tell(teller: _Teller, index: int, block: wire.Block) -> None:
    if block.text is not None:
        teller.text(index, block.text)
    if block.tool_use is not None:
        teller.tool(index, block.tool_use)
        if block.tool_use.input:
            teller.arguments(index, json_text(block.tool_use.input))
    if block.reasoning_content is not None:
        said = block.reasoning_content.reasoning_text or wire.Reasoning()
        said.redacted_content = block.reasoning_content.redacted_content
        teller.reasoning(index, said)
    if block.citations_content is not None:
        for part in a_list(block.citations_content.content):
            teller.text(index, a_dict(part).get("text"))
        for citation in a_list(block.citations_content.citations):
            teller.citation(index, citation)


def _index(value: Any) -> int:
    return value if isinstance(value, int) else 0


def _joined(pieces: list[str]) -> str:
    """Pieces of base64 as one: each piece may have been padded for itself."""
    if len(pieces) == 1:
        return pieces[0]
    try:
        return b64encode(b"".join(b64decode(piece) for piece in pieces)).decode("ascii")
    except (Base64Error, ValueError):
        return "".join(pieces)


def _cited(citation: Any, start: int, end: int) -> Cited:
    """A citation belongs to the whole text of its block."""
    fields = a_dict(citation)
    location = a_dict(fields.get("location"))
    quote = "".join(a_text(a_dict(part).get("text")) for part in a_list(fields.get("sourceContent")))
    source = a_text(fields.get("source"))
    for place in location.values():
        for name in ("documentIndex", "searchResultIndex"):
            number = a_dict(place).get(name)
            if not source and isinstance(number, int):
                source = str(number)
    url = a_text(a_dict(location.get("web")).get("url"))
    return Cited(url, a_text(fields.get("title")), source, quote, start, end)


def _error(event: str, data: bytes, scrub: Scrub) -> UpstreamError:
    """The error that a message of the type "exception" or "error" tells; `event` is that type, a colon and the error's name."""
    name = event.rpartition(":")[2]
    fields = read_object(data)
    words: Any = data.decode("utf-8", "replace")
    if fields is not None:
        words = fields.get("originalMessage") or fields.get("message") or fields.get("Message")
    told = stream_error({"message": words or f"The provider reported {name or 'an error'}.", "type": name}, scrub)
    status = _STATUSES.get(name.lower())
    if status is None:
        return told
    return UpstreamStatus(told.message, upstream_status=status, type=told.type)
