"""What a request says: the values that providers translate into their own words. `chat.reading` makes them of OpenAI's fields.

What a provider has no word for is refused by the provider, with `chat.fields.unsupported` and the value's place
(`messages.3.content.1`).

Source: https://platform.openai.com/docs/api-reference/chat/create
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

import msgspec

from trio_ai_proxy.errors import InvalidRequest

Effort = Literal["none", "minimal", "low", "medium", "high", "xhigh"]


@dataclass(frozen=True, slots=True)
class TextPart:
    """Text. `cache` is `cache_control` of the part (Anthropic's form, which several gateways take), None where there is none."""

    text: str
    place: str = ""
    cache: dict[str, Any] | None = None


@dataclass(frozen=True, slots=True)
class ImagePart:
    """An image: by address, or with its bytes in base64 (`data`, `media_type` such as "image/png"). One of `url` and `data`
    is ""."""

    url: str = ""
    data: str = ""
    media_type: str = ""
    detail: str = ""
    place: str = ""
    cache: dict[str, Any] | None = None


@dataclass(frozen=True, slots=True)
class AudioPart:
    """Sound in base64; `format` is "wav" or "mp3"."""

    data: str
    format: str
    place: str = ""


@dataclass(frozen=True, slots=True)
class FilePart:
    """A document: by its id at the provider, or with its bytes in base64. One of `file_id`, `url` and `data` is not ""."""

    file_id: str = ""
    url: str = ""
    data: str = ""
    media_type: str = ""
    filename: str = ""
    place: str = ""
    cache: dict[str, Any] | None = None


Part = TextPart | ImagePart | AudioPart | FilePart


@dataclass(frozen=True, slots=True)
class Thought:
    """A block of an earlier answer's thinking, to be given back unchanged: its text and signature, or `redacted` alone."""

    text: str = ""
    signature: str = ""
    redacted: str = ""


@dataclass(frozen=True, slots=True)
class Call:
    """A tool call of an earlier answer. `arguments` is JSON as the model wrote it."""

    id: str
    name: str
    arguments: str
    signature: str = ""
    place: str = ""

    def argument_object(self) -> dict[str, Any]:
        """`arguments` as an object; empty text is one without members. Raises `InvalidRequest` if it is none."""
        if not self.arguments.strip():
            return {}
        try:
            value = msgspec.json.decode(self.arguments)
        except (msgspec.DecodeError, RecursionError, UnicodeError):
            value = None
        if not isinstance(value, dict):
            raise InvalidRequest(
                f'"{self.place}.function.arguments" must be a JSON object, written as text.',
                param=f"{self.place}.function.arguments",
            )
        return value


@dataclass(frozen=True, slots=True)
class Turn:
    """One message.

    role     "system" (a developer's message too), "user", "assistant" or "tool"
    parts    what it holds, in order
    calls    of an assistant: the tools that it called
    thoughts of an assistant: what it thought, for providers that want it back
    call_id  of a tool: which call this answers; `name` is the function's, as far as the messages tell
    refusal  of an assistant: the text in which it declined
    reasoning of an assistant: what it thought, where the client gives it back as text alone (`reasoning_content`)
    """

    role: Literal["system", "user", "assistant", "tool"]
    parts: tuple[Part, ...] = ()
    calls: tuple[Call, ...] = ()
    thoughts: tuple[Thought, ...] = ()
    call_id: str = ""
    name: str = ""
    refusal: str = ""
    place: str = ""
    reasoning: str = ""

    def text(self) -> str:
        """Its text parts, joined."""
        return "".join(part.text for part in self.parts if isinstance(part, TextPart))


@dataclass(frozen=True, slots=True)
class Tool:
    """A function that the model may call. `parameters` is a JSON schema, None if none was given."""

    name: str
    description: str = ""
    parameters: dict[str, Any] | None = None
    strict: bool | None = None
    place: str = ""
    cache: dict[str, Any] | None = None


@dataclass(frozen=True, slots=True)
class ToolChoice:
    """Which tools the model shall call: "auto", "none", "required" (any), or "named": the one called `name`."""

    mode: Literal["auto", "none", "required", "named"]
    name: str = ""


@dataclass(frozen=True, slots=True)
class Schema:
    """What the answer's text shall be: any JSON object (`schema` None), or one by this JSON schema."""

    schema: dict[str, Any] | None = None
    name: str = ""
    description: str = ""
    strict: bool | None = None


@dataclass(frozen=True, slots=True)
class Prompt:
    """A whole request. What was not said is None or empty.

    turns              in order; system messages stand where the client put them
    tool_choice        None: not said
    response           None: plain text
    max_tokens         `max_completion_tokens`, else `max_tokens`
    """

    turns: tuple[Turn, ...]
    tools: tuple[Tool, ...] = ()
    tool_choice: ToolChoice | None = None
    parallel_tool_calls: bool | None = None
    response: Schema | None = None
    max_tokens: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    frequency_penalty: float | None = None
    presence_penalty: float | None = None
    stop: tuple[str, ...] = ()
    seed: int | None = None
    n: int = 1
    logprobs: bool = False
    top_logprobs: int | None = None
    reasoning_effort: Effort | None = None
    user: str = ""
    metadata: dict[str, str] = field(default_factory=dict)

    def system_text(self) -> str:
        """All system messages, a blank line between, for providers that have one place for them."""
        texts = (turn.text() for turn in self.turns if turn.role == "system")
        return "\n\n".join(text for text in texts if text)

    def spoken(self) -> tuple[Turn, ...]:
        """The turns that are no system messages."""
        return tuple(turn for turn in self.turns if turn.role != "system")
