"""The turns of a conversation as Converse's messages: blocks that are not blank, in turns that alternate.

Nothing is fetched: an image or a document is taken with its bytes.
Source: https://docs.aws.amazon.com/bedrock/latest/APIReference/API_runtime_ContentBlock.html
"""

from __future__ import annotations

import re
from hashlib import sha256
from typing import TYPE_CHECKING, Any, assert_never

from trio_ai_proxy.chat.fields import unsupported
from trio_ai_proxy.chat.prompt import AudioPart, FilePart, ImagePart, TextPart

if TYPE_CHECKING:
    from trio_ai_proxy.chat.prompt import Part, Thought, Turn

Block = dict[str, Any]

_IMAGES = {"image/png": "png", "image/jpeg": "jpeg", "image/jpg": "jpeg", "image/gif": "gif", "image/webp": "webp"}
_DOCUMENTS = {
    "application/pdf": "pdf",
    "text/csv": "csv",
    "application/msword": "doc",
    "application/vnd.openxmlformats-officedocument.wordprocessingml.document": "docx",
    "application/vnd.ms-excel": "xls",
    "application/vnd.openxmlformats-officedocument.spreadsheetml.sheet": "xlsx",
    "text/html": "html",
    "text/plain": "txt",
    "text/markdown": "md",
}
_NOT_IN_A_NAME = re.compile(r"[^A-Za-z0-9 \-()\[\]]+")
_CALL_ID = re.compile(r"[a-zA-Z0-9_.:-]{1,64}").fullmatch
_NO_ADDRESS = "only bytes are taken, as a data URL in base64"


def cache_point(cache: dict[str, Any]) -> Block:
    """`cache_control` as the block after what it marks."""
    point: dict[str, Any] = {"type": "default"}
    if cache.get("ttl") in ("5m", "1h"):
        point["ttl"] = cache["ttl"]
    return {"cachePoint": point}


def turns_of(turns: tuple[Turn, ...], kind: str) -> tuple[list[Block], list[Block]]:
    """`system` and `messages`. System messages, wherever they stand, are said first and in order, for Converse has one place
    for them. Raises `InvalidRequest` for a part that Bedrock cannot take."""
    writer = _Writer(kind)
    for turn in turns:
        writer.add(turn)
    return writer.system, writer.messages()


class _Writer:
    def __init__(self, kind: str) -> None:
        self.system: list[Block] = []
        self._kind = kind
        self._messages: list[tuple[str, list[Block]]] = []
        self._names: set[str] = set()

    def add(self, turn: Turn) -> None:
        match turn.role:
            case "system":
                for part in turn.parts:
                    if not isinstance(part, TextPart):
                        raise unsupported(part.place, self._kind, "a system message holds text alone")
                    self.system += self._part(part)
            case "user":
                self._say("user", self._parts(turn.parts))
            case "assistant":
                self._say("assistant", self._assistant(turn))
            case "tool":
                self._say("user", self._result(turn))
            case _:
                assert_never(turn.role)

    def messages(self) -> list[Block]:
        if self._messages and self._messages[-1][0] == "assistant":
            # The beginning of the answer: models do not take one that ends in white space.
            last = self._messages[-1][1][-1]
            if "text" in last:
                last["text"] = last["text"].rstrip()
        return [{"role": role, "content": blocks} for role, blocks in self._messages]

    def _say(self, role: str, blocks: list[Block]) -> None:
        if not blocks:
            return
        if self._messages and self._messages[-1][0] == role:
            self._messages[-1][1].extend(blocks)
        else:
            self._messages.append((role, blocks))

    def _assistant(self, turn: Turn) -> list[Block]:
        blocks = [block for thought in turn.thoughts for block in _thought(thought)]
        blocks += self._parts(turn.parts)
        if turn.refusal.strip():
            blocks.append({"text": turn.refusal})
        for call in turn.calls:
            use = {"toolUseId": _call_id(call.id), "name": call.name, "input": call.argument_object()}
            blocks.append({"toolUse": use})
        return blocks

    def _result(self, turn: Turn) -> list[Block]:
        blocks = [block for part in turn.parts for block in self._part(part, may_be_blank=True)]
        points = [block for block in blocks if "cachePoint" in block]
        content = [block for block in blocks if "cachePoint" not in block]
        # Some models refuse an empty list, none an empty text.
        result = {"toolUseId": _call_id(turn.call_id), "content": content or [{"text": ""}]}
        return [{"toolResult": result}, *points]

    def _parts(self, parts: tuple[Part, ...]) -> list[Block]:
        return [block for part in parts for block in self._part(part)]

    def _part(self, part: Part, *, may_be_blank: bool = False) -> list[Block]:
        match part:
            case TextPart():
                if not part.text.strip() and not may_be_blank:
                    return []
                block: Block = {"text": part.text}
            case ImagePart():
                block = self._image(part)
            case FilePart():
                block = self._document(part)
            case AudioPart():
                return [{"audio": {"format": part.format or "wav", "source": {"bytes": part.data}}}]
            case _:
                assert_never(part)
        return [block] if part.cache is None else [block, cache_point(part.cache)]

    def _image(self, part: ImagePart) -> Block:
        if not part.data:
            raise unsupported(part.place, self._kind, _NO_ADDRESS)
        form = _IMAGES.get(part.media_type)
        if form is None:
            raise unsupported(part.place, self._kind, "an image must be PNG, JPEG, GIF or WebP")
        return {"image": {"format": form, "source": {"bytes": part.data}}}

    def _document(self, part: FilePart) -> Block:
        if not part.data:
            raise unsupported(part.place, self._kind, _NO_ADDRESS)
        stem, _, ending = part.filename.rpartition(".")
        form = _DOCUMENTS.get(part.media_type) or (ending.lower() if ending.lower() in _DOCUMENTS.values() else None)
        if form is None:
            raise unsupported(part.place, self._kind, f"a document must be one of {', '.join(_DOCUMENTS.values())}")
        return {"document": {"format": form, "name": self._name(stem or part.filename), "source": {"bytes": part.data}}}

    def _name(self, filename: str) -> str:
        """A name of the characters that Converse takes, and that no other document of the request has."""
        wanted = " ".join(_NOT_IN_A_NAME.sub("-", filename).split())[:180] or "document"
        name, number = wanted, 1
        while name in self._names:
            number += 1
            name = f"{wanted} ({number})"
        self._names.add(name)
        return name


def _thought(thought: Thought) -> list[Block]:
    if thought.redacted:
        return [{"reasoningContent": {"redactedContent": thought.redacted}}]
    if not thought.signature:
        return []  # it is not taken without its proof, and models that give none do not want it back
    return [{"reasoningContent": {"reasoningText": {"text": thought.text, "signature": thought.signature}}}]


def _call_id(given: str) -> str:
    """The id of a call, which may be another service's: what Converse does not take is replaced by its digest."""
    return given if _CALL_ID(given) else "call_" + sha256(given.encode("utf-8", "surrogatepass")).hexdigest()[:40]
