"""Where each key stands: every key path of a TOML document → its line. tomllib reads the values and gives no positions.

The document must be one that `tomllib` accepts; what is wrong with it is not found here a second time.
Grammar: https://toml.io/en/v1.0.0.
"""

from __future__ import annotations

import re
import tomllib
from bisect import bisect_left

Path = tuple[str | int, ...]
"""Names of keys and numbers of array elements, outermost first: ("models", "gpt-4o", "targets", 0, "provider")."""

_BLANK = re.compile(r"(?:[ \t\n]|#[^\n]*)*+")
_KEY = re.compile(r"""[A-Za-z0-9_-]++|"(?:[^"\\]|\\.)*+"|'[^']*+'""")
# Three quotes close a multi-line string, and one or two more before them belong to its content.
_STRING = re.compile(
    r'"""(?:[^"\\]|\\.|"{1,2}(?!"))*+"{3,5}'
    r"|'''(?:[^']|'{1,2}(?!'))*+'{3,5}"
    r'|"(?:[^"\\]|\\.)*+"'
    r"|'[^']*+'",
    re.DOTALL,
)
_OTHER_VALUE = re.compile(r"[^,\]}#\n]++")  # numbers, booleans, dates


def line_map(text: str) -> dict[Path, int]:
    """The line (from 1) of every table, key and array element in `text`.

    A table that has a header of its own stands there; one that is only implied stands where it is first named. Raises
    `ValueError` where `text` is not TOML at all.
    """
    scanner = _Scanner(text.replace("\r\n", "\n"))
    scanner.scan()
    return scanner.lines


class _Scanner:
    def __init__(self, text: str) -> None:
        self.lines: dict[Path, int] = {(): 1}
        self._text = text
        self._at = 0
        self._line_ends = [match.start() for match in re.finditer("\n", text)]
        self._array_lengths: dict[Path, int] = {}

    def scan(self) -> None:
        table: Path = ()
        self._take(_BLANK)
        while self._at < len(self._text):
            if self._text[self._at] == "[":
                table = self._header()
            else:
                self._pair(table)
            self._take(_BLANK)

    def _line(self) -> int:
        return bisect_left(self._line_ends, self._at) + 1

    def _take(self, pattern: re.Pattern[str]) -> str:
        match = pattern.match(self._text, self._at)
        if match is None:
            raise ValueError(f"this is not TOML (at line {self._line()}, column 1)")
        self._at = match.end()
        return match.group()

    def _skip_mark(self, mark: str) -> bool:
        """Step over `mark` if it comes next, blanks aside."""
        self._take(_BLANK)
        if not self._text.startswith(mark, self._at):
            return False
        self._at += len(mark)
        return True

    def _header(self) -> Path:
        line = self._line()
        is_array = self._skip_mark("[[")
        if not is_array:
            self._skip_mark("[")
        *parents, last = self._dotted_key()
        self._skip_mark("]]" if is_array else "]")
        path: Path = ()
        for name in parents:
            path = self._last_element((*path, name))
            self.lines.setdefault(path, line)
        path = (*path, last)
        if is_array:
            self._array_lengths[path] = self._array_lengths.get(path, 0) + 1
            self.lines.setdefault(path, line)
            path = self._last_element(path)
        self.lines[path] = line
        return path

    def _last_element(self, path: Path) -> Path:
        """A header that goes through an array of tables means the array's latest element."""
        if path not in self._array_lengths:
            return path
        return (*path, self._array_lengths[path] - 1)

    def _dotted_key(self) -> list[str]:
        names = []
        while True:
            self._take(_BLANK)
            token = self._take(_KEY)
            names.append(next(iter(tomllib.loads(f"{token} = 0"))) if token[0] in "\"'" else token)
            if not self._skip_mark("."):
                return names

    def _pair(self, path: Path) -> None:
        line = self._line()
        for name in self._dotted_key():
            path = (*path, name)
            self.lines.setdefault(path, line)
        self._skip_mark("=")
        self._value(path)

    def _value(self, path: Path) -> None:
        self._take(_BLANK)
        if self._text.startswith(('"', "'"), self._at):
            self._take(_STRING)
        elif self._skip_mark("["):
            self._array(path)
        elif self._skip_mark("{"):
            self._inline_table(path)
        else:
            self._take(_OTHER_VALUE)

    def _array(self, path: Path) -> None:
        number = 0
        while not self._skip_mark("]"):
            element = (*path, number)
            self.lines[element] = self._line()
            self._value(element)
            self._skip_mark(",")
            number += 1

    def _inline_table(self, path: Path) -> None:
        while not self._skip_mark("}"):
            self._pair(path)
            self._skip_mark(",")
