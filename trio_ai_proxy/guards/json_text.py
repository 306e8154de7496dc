r"""JSON in fragments, such as the arguments of a tool call: what is looked for is in what it says.

Pure. Matches are looked for in the decoded text of each string, names of members included, for `\u0041` and `\/` say something
else than they show; and in numbers. What is no match leaves as it was written; what stands in place of one is written as JSON,
as a string where it was a number. So JSON remains JSON.

Models also write what is none. Where it cannot be JSON any more, all that stands outside of strings is taken as text, and is
replaced as text; strings are still decoded.
"""

from __future__ import annotations

import json
import re
from collections import deque
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from trio_ai_proxy.guards.matcher import Piece
    from trio_ai_proxy.guards.redaction import Redaction

# Fixed expressions of one class of characters each, so it does not matter whose engine runs them.
_SPECIAL = re.compile(r'["\\]')
_SPACE = " \t\r\n"
_STRUCTURE = re.compile(r"[ \t\r\n{}\[\],:]*")
_VALUE = re.compile(r'[^{}\[\],:"]*')
_NUMBER = re.compile(r"-?[0-9][0-9.eE+-]*|-")

_ESCAPED = {'"': '"', "\\": "\\", "/": "/", "b": "\b", "f": "\f", "n": "\n", "r": "\r", "t": "\t"}
_HEX = frozenset("0123456789abcdefABCDEF")
_WORDS = ("true", "false", "null")


class JSONText:
    """One JSON text in fragments; `feed` and `close` return what may leave of it, as it is to be written."""

    def __init__(self, redaction: Redaction) -> None:
        self._redaction = redaction
        self._matcher = redaction.matcher()
        self._where: Literal["structure", "string", "value", "text"] = "structure"
        self._is_json = True
        self._value = ""  # a number or a word, with the blanks behind it
        self._cut = ""  # an escape sequence without its end
        # Of the string that is read: how far it has been told to the matcher and how far it has left, and between the two the
        # characters that were not written as themselves.
        self._told = 0
        self._left = 0
        self._escapes: deque[tuple[int, str]] = deque()

    @property
    def held(self) -> int:
        """Characters that are held back now."""
        return self._matcher.held + len(self._value) + len(self._cut)

    def feed(self, fragment: str) -> str:
        """More of it."""
        text = self._cut + fragment
        self._cut = ""
        out: list[str] = []
        at = 0
        while at < len(text) and self._redaction.blocked is None:
            match self._where:
                case "structure":
                    at = self._structure(text, at, out)
                case "value":
                    at = self._read_value(text, at, out)
                case "text":
                    at = self._plain(text, at, out)
                case "string":
                    at = self._string(text, at, out)
        return "".join(out)

    def close(self) -> str:
        """There is no more of it."""
        out: list[str] = []
        if self._where == "string":
            cut, self._cut = self._cut, ""
            self._tell(cut, out)
        elif self._where == "value":
            self._end_value(out)
        self._end(out)
        return "".join(out)

    def _structure(self, text: str, at: int, out: list[str]) -> int:
        found = _STRUCTURE.match(text, at)
        end = found.end() if found is not None else at
        out.append(text[at:end])
        if text[end : end + 1] == '"':
            out.append('"')
            self._where = "string"
            return end + 1
        if end < len(text):
            self._where = "value" if self._is_json else "text"
        return end

    def _read_value(self, text: str, at: int, out: list[str]) -> int:
        found = _VALUE.match(text, at)
        end = found.end() if found is not None else at
        self._value += text[at:end]
        if not _may_be_value(self._value) or len(self._value.rstrip(_SPACE)) > self._redaction.window:
            value, self._value = self._value, ""
            self._is_json = False
            self._where = "text"
            self._tell(value, out)
        elif end < len(text) or len(self._value) > self._redaction.window:
            self._end_value(out)
            self._where = "structure"
        return end

    def _end_value(self, out: list[str]) -> None:
        """The number or word is whole. It leaves as it is, or as a string."""
        value = self._value.rstrip(_SPACE)
        blanks, self._value = self._value[len(value) :], ""
        pieces = [*self._matcher.feed(value), *self._matcher.close()]
        if all(isinstance(piece, str) for piece in pieces):
            out += [value, blanks]
            return
        written = self._redaction.join(pieces)
        if self._redaction.blocked is None:
            out += ['"', _as_json(written), '"', blanks]

    def _plain(self, text: str, at: int, out: list[str]) -> int:
        """What is no JSON, up to the next string."""
        end = text.find('"', at)
        self._tell(text[at:] if end < 0 else text[at:end], out)
        if end < 0:
            return len(text)
        self._end(out)
        if self._redaction.blocked is None:
            out.append('"')
        self._where = "string"
        return end + 1

    def _string(self, text: str, at: int, out: list[str]) -> int:
        said: list[str] = []
        told = self._told
        ends = False
        while at < len(text) and not ends:
            found = _SPECIAL.search(text, at)
            end = len(text) if found is None else found.start()
            if end > at:
                said.append(text[at:end])
                told += end - at
            at = end
            if found is None:
                break
            ends = text[at] == '"'
            if ends:
                at += 1
                continue
            character, width = _unescape(text, at)
            if width == 0:
                self._cut, at = text[at:], len(text)
                break
            if width > 1:
                self._escapes.append((told, text[at : at + width]))
            said.append(character)
            told += 1
            at += width
        self._tell("".join(said), out)
        if ends:
            self._end(out)
            if self._redaction.blocked is None:
                out.append('"')
            self._where = "structure" if self._is_json else "text"
        return at

    def _tell(self, said: str, out: list[str]) -> None:
        if said:
            self._told += len(said)
            self._write(self._matcher.feed(said), out)

    def _end(self, out: list[str]) -> None:
        """The string, or the text, is over; the next one has nothing to do with it."""
        self._write(self._matcher.close(), out)
        self._told = self._left = 0
        self._escapes.clear()

    def _write(self, pieces: list[Piece], out: list[str]) -> None:
        for piece in pieces:
            if isinstance(piece, str):
                out.append(self._redaction.write(self._as_it_was_written(piece)))
                continue
            written = self._redaction.write(piece)
            out.append(_as_json(written) if self._where == "string" else written)
            self._left += len(getattr(piece, "text", ""))
            while self._escapes and self._escapes[0][0] < self._left:
                self._escapes.popleft()

    def _as_it_was_written(self, said: str) -> str:
        """The next characters that leave, with their escape sequences."""
        start, self._left = self._left, self._left + len(said)
        if not self._escapes or self._escapes[0][0] >= self._left:
            return said
        out = []
        at = 0
        while self._escapes and self._escapes[0][0] < self._left:
            place, written = self._escapes.popleft()
            out += [said[at : place - start], written]
            at = place - start + 1
        return "".join([*out, said[at:]])


def _may_be_value(value: str) -> bool:
    """Whether `value` is a number or a word of JSON, or the beginning of one. Blanks may follow."""
    core = value.rstrip(_SPACE)
    return _NUMBER.fullmatch(core) is not None or any(word.startswith(core) for word in _WORDS)


def _unescape(text: str, at: int) -> tuple[str, int]:
    """The character that the escape sequence at `at` stands for, and how long the sequence is: 0 if its end is missing, 1 if it
    is none, for then the backslash stands for itself."""
    kind = text[at + 1 : at + 2]
    if kind != "u":
        return (_ESCAPED[kind], 2) if kind in _ESCAPED else ("\\", 1 if kind else 0)
    first = _code(text, at)
    if first is None or first < 0:
        return "\\", 0 if first is None else 1
    if 0xD800 <= first < 0xDC00:
        second = _code(text, at + 6) if text[at + 6 : at + 8] in ("", "\\", "\\u") else -1
        if second is None:
            return "", 0
        if 0xDC00 <= second < 0xE000:
            return chr(0x10000 + ((first - 0xD800) << 10) + (second - 0xDC00)), 12
    return chr(first), 6


def _code(text: str, at: int) -> int | None:
    r"""The number that stands behind the `\u` at `at`, in four digits; None if its end is missing, -1 if it is none."""
    digits = text[at + 2 : at + 6]
    if not _HEX.issuperset(digits):
        return -1
    return int(digits, 16) if len(digits) == 4 else None


def _as_json(text: str) -> str:
    """`text` as it is written within a JSON string."""
    return json.dumps(text, ensure_ascii=False)[1:-1]


__all__ = ["JSONText"]
