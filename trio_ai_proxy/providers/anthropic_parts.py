"""A conversation in blocks, as the Messages API wants it: the turns of one side that follow one another are one message; the
results of tools come first in theirs; an assistant's thoughts stand before what it said.

Where system messages stand: those at the beginning are the request's `system`. A later one keeps its place where the model
takes it there (at the end of a user's turn; the API allows no other); else it joins `system`, which is what Anthropic's own
endpoint for OpenAI clients does with all of them.

Source: https://platform.claude.com/docs/en/build-with-claude/working-with-messages, …/mid-conversation-system-messages and
https://platform.claude.com/docs/en/agents-and-tools/tool-use/handle-tool-calls
"""

from __future__ import annotations

import re
from base64 import b64decode
from typing import TYPE_CHECKING, Any, assert_never

from trio_ai_proxy.chat.fields import unsupported
from trio_ai_proxy.chat.prompt import AudioPart, FilePart, ImagePart, TextPart
from trio_ai_proxy.errors import InvalidRequest

if TYPE_CHECKING:
    from collections.abc import Iterable

    from trio_ai_proxy.chat.prompt import Part, Turn

_IMAGES = frozenset({"image/jpeg", "image/png", "image/gif", "image/webp"})
_NO_ID_CHARACTER = re.compile(r"[^a-zA-Z0-9_-]")

BlockFields = dict[str, Any]


class Conversation:
    """What `turns` come to.

    system    blocks of the request's `system`
    messages  the messages, never two of the same side in a row

    Raises `InvalidRequest` for a part that the API does not take, and where nobody says anything.
    """

    def __init__(self, turns: Iterable[Turn], *, inline_system: bool, provider: str) -> None:
        self.system: list[BlockFields] = []
        self.messages: list[dict[str, Any]] = []
        self._inline_system = inline_system
        self._provider = provider
        self._ids = _CallIds()
        self._results: list[BlockFields] = []
        self._said: list[BlockFields] = []
        self._notes: list[BlockFields] = []
        for turn in turns:
            self._add(turn)
        self._end_user_turn()
        if not self.messages:
            raise InvalidRequest('"messages" must hold one of the user, with something in it.', param="messages")

    def _add(self, turn: Turn) -> None:
        match turn.role:
            case "system":
                blocks = [self._text_only(part) for part in turn.parts]
                started = self.messages or self._said or self._results
                (self._notes if started else self.system).extend(blocks)
            case "user":
                self._said += (self._block(part) for part in turn.parts)
            case "tool":
                self._results.append(self._result(turn))
            case "assistant":
                blocks = _thoughts(turn)
                blocks += (self._text_only(part) for part in turn.parts)
                if turn.refusal:
                    blocks.append({"type": "text", "text": turn.refusal})
                for call in turn.calls:
                    fields = {"type": "tool_use", "id": self._ids.open(call.id), "name": call.name}
                    blocks.append({**fields, "input": call.argument_object()})
                if blocks:
                    self._end_user_turn()
                    self._say("assistant", blocks)
            case _:
                assert_never(turn.role)

    def _end_user_turn(self) -> None:
        spoke = bool(self._results or self._said)
        if spoke:
            self._say("user", self._results + self._said)
        if self._notes:
            if self._inline_system and spoke:
                self._say("system", self._notes)
            else:
                self.system += self._notes
        self._results, self._said, self._notes = [], [], []

    def _say(self, role: str, blocks: list[BlockFields]) -> None:
        if self.messages and self.messages[-1]["role"] == role:
            self.messages[-1]["content"] += blocks
        else:
            self.messages.append({"role": role, "content": blocks})

    def _result(self, turn: Turn) -> BlockFields:
        blocks = [self._block(part) for part in turn.parts]
        result: BlockFields = {"type": "tool_result", "tool_use_id": self._ids.answered(turn.call_id)}
        # The result itself carries the mark for the cache, not what is in it.
        marks = [block.pop("cache_control") for block in blocks if "cache_control" in block]
        if len(blocks) == 1 and blocks[0]["type"] == "text":
            result["content"] = blocks[0]["text"]
        elif blocks:
            result["content"] = blocks
        if marks:
            result["cache_control"] = marks[-1]
        return result

    # -- parts ----------------------------------------------------------------------------------------------------------

    def _text_only(self, part: Part) -> BlockFields:
        if not isinstance(part, TextPart):
            raise unsupported(part.place, self._provider, "only a user's message and a tool's result can hold it")
        return _marked({"type": "text", "text": part.text}, part.cache)

    def _block(self, part: Part) -> BlockFields:
        match part:
            case TextPart():
                return self._text_only(part)
            case ImagePart():
                return _marked({"type": "image", "source": self._image(part)}, part.cache)
            case FilePart():
                return _marked(self._file(part), part.cache)
            case AudioPart():
                raise unsupported(part.place, self._provider, "it takes no sound")
            case _:
                assert_never(part)

    def _image(self, part: ImagePart) -> BlockFields:
        if part.url:
            return {"type": "url", "url": part.url}
        return self._bytes(part.media_type, part.data, part.place)

    def _bytes(self, media_type: str, data: str, place: str) -> BlockFields:
        media_type = "image/jpeg" if media_type == "image/jpg" else media_type
        if media_type not in _IMAGES:
            raise unsupported(place, self._provider, f"an image must be one of {', '.join(sorted(_IMAGES))}")
        return {"type": "base64", "media_type": media_type, "data": data}

    def _file(self, part: FilePart) -> BlockFields:
        if part.file_id:
            return _document({"type": "file", "file_id": part.file_id}, part)
        if part.url:
            return _document({"type": "url", "url": part.url}, part)
        if part.media_type == "application/pdf":
            return _document({"type": "base64", "media_type": part.media_type, "data": part.data}, part)
        if part.media_type.startswith("image/"):
            return {"type": "image", "source": self._bytes(part.media_type, part.data, part.place)}
        if part.media_type.startswith("text/") or part.media_type == "application/json":
            try:
                text = b64decode(part.data).decode()
            except UnicodeDecodeError:
                raise unsupported(part.place, self._provider, "a text must be UTF-8") from None
            return _document({"type": "text", "media_type": "text/plain", "data": text}, part)
        raise unsupported(part.place, self._provider, "a file must be a PDF, a text or an image")


class _CallIds:
    """Ids of calls in the characters that the API allows, each once: other services' ids have others, and OpenAI's older
    calls had none of their own."""

    def __init__(self) -> None:
        self._taken: set[str] = set()
        self._latest: dict[str, str] = {}

    def open(self, call_id: str) -> str:
        plain = _plain(call_id)
        fresh, number = plain, 1
        while fresh in self._taken:
            number += 1
            fresh = f"{plain}_{number}"
        self._taken.add(fresh)
        self._latest[call_id] = fresh
        return fresh

    def answered(self, call_id: str) -> str:
        return self._latest.get(call_id) or _plain(call_id)


def _plain(call_id: str) -> str:
    return _NO_ID_CHARACTER.sub("_", call_id)


def _thoughts(turn: Turn) -> list[BlockFields]:
    """The thoughts that the API would know again: without its signature it would know none. A client that gathered a stream
    may have the text of the only one beside it."""
    blocks: list[BlockFields] = []
    signed = sum(1 for thought in turn.thoughts if thought.signature)
    for thought in turn.thoughts:
        if thought.redacted:
            blocks.append({"type": "redacted_thinking", "data": thought.redacted})
        elif thought.signature:
            text = thought.text or (turn.reasoning if signed == 1 else "")
            blocks.append({"type": "thinking", "thinking": text, "signature": thought.signature})
    return blocks


def _document(source: BlockFields, part: FilePart) -> BlockFields:
    document: BlockFields = {"type": "document", "source": source}
    if part.filename:
        document["title"] = part.filename
    return document


def _marked(block: BlockFields, cache: dict[str, Any] | None) -> BlockFields:
    if cache is not None:
        block["cache_control"] = cache
    return block
