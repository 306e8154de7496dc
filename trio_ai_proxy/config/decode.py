"""The file's text → a tree of sound values, or every fault in it. It knows keys and values; what they mean together is
`rules`' business.
"""

from __future__ import annotations

import re
import tomllib
from dataclasses import dataclass
from difflib import get_close_matches
from math import isfinite
from typing import TYPE_CHECKING, Any, assert_never

from trio_ai_proxy.config.fields import (
    NOT_BUILT,
    Anything,
    Block,
    Choice,
    Count,
    Credential,
    Digest,
    Duration,
    Flag,
    Listing,
    Named,
    Shape,
    Share,
    Size,
    Text,
    keys_of,
)
from trio_ai_proxy.config.lines import Path, line_map
from trio_ai_proxy.config.values import (
    Missing,
    Rejected,
    Unresolved,
    WrongValue,
    expand,
    read_duration,
    read_share,
    read_size,
    shown,
    type_name,
    variables_in,
)
from trio_ai_proxy.errors import ConfigError
from trio_ai_proxy.settings import Secret, Settings

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping


@dataclass(frozen=True, slots=True)
class Table:
    """One table of the file.

    path    where it is
    raw     as tomllib gave it: says which keys were given at all
    values  the keys that are sound, decoded
    """

    path: Path
    raw: dict[str, Any]
    values: dict[str, Any]

    def at(self, name: str) -> Path:
        return (*self.path, name)


class Faults:
    """Collects what is wrong, each with the line it is on.

    problems    (line, sentence)
    unresolved  provider name → what its block refers to and is not there: (path of the key, thing)
    """

    def __init__(self, file: str, lines: Mapping[Path, int]) -> None:
        self.file = file
        self.problems: list[tuple[int, str]] = []
        self.unresolved: dict[str, list[tuple[Path, Missing]]] = {}
        self._lines = lines

    def line(self, path: Path) -> int:
        while path not in self._lines:
            path = path[:-1]
        return self._lines[path]

    def where(self, path: Path) -> str:
        return f"{self.file}:{self.line(path)}"

    def add(self, path: Path, sentence: str) -> None:
        stop = "" if sentence.endswith("?") else "."
        self.problems.append((self.line(path), f"{self.where(path)}: {sentence}{stop}"))

    def reject(self, table: Table, name: str, text: str) -> None:
        """Say of the key `name` of `table` what the rest of the sentence `text` says."""
        self.add(table.at(name), f"{key_name(table.at(name))} {text}")

    def add_missing(self, path: Path, missing: Missing, *, remedy: str = "") -> None:
        """Say that the key at `path` counts on something that is not there."""
        owner = f'provider "{path[1]}"' if path[0] == "providers" else table_name(path[:-1])
        self.add(path, f"{missing.what}, which {owner} needs for `{path[-1]}`, {missing.why}; {missing.remedy}{remedy}")

    def finish(self) -> None:
        """Raise `ConfigError` with everything that was found, in the order of the file."""
        if self.problems:
            raise ConfigError([sentence for _, sentence in sorted(self.problems, key=lambda problem: problem[0])])


def parse(text: str, *, file: str) -> tuple[dict[str, Any], Faults]:
    """The document as tomllib gives it. Raises `ConfigError` with its one syntax error."""
    text = text.removeprefix("\ufeff")  # editors on Windows write a byte order mark
    try:
        return tomllib.loads(text), Faults(file, line_map(text))
    except RecursionError:
        raise ConfigError([f"{file}:1: arrays or tables are nested too deeply."]) from None
    except ValueError as error:
        message, _, position = str(error).partition(" (at ")
        found = re.match(r"line (\d+), column (\d+)\)", position)
        line = int(found[1]) if found else text.count("\n") + 1
        raise ConfigError(
            [f"{file}:{line}: the file is not valid TOML: {message[:1].lower()}{message[1:]}."]
        ) from error


class Decoder:
    """Reads the tables of one file."""

    def __init__(self, faults: Faults, environ: Mapping[str, str], read_file: Callable[[str], str]) -> None:
        self._faults = faults
        self._environ = environ
        self._read_file = read_file

    def document(self, raw: dict[str, Any]) -> Table:
        return self._table(Settings, (), raw)

    def _table(self, settings_type: type, path: Path, raw: dict[str, Any]) -> Table:
        keys = keys_of(settings_type)
        table = Table(path, raw, {})
        for name, value in raw.items():
            if name in keys:
                self._key(table, name, keys[name].shape, value)
            elif name in NOT_BUILT.get(settings_type, ()):
                self._faults.add(table.at(name), f"`{name}` is not built yet; remove it")
            else:
                hint = nearest(name, keys, quote="`", otherwise="its keys are")
                self._faults.add(table.at(name), f"`{name}` is not a key of {table_name(path)}; {hint}")
        for key in keys.values():
            if key.required and key.name not in raw:
                self._faults.add(path, f"{table_name(path)} needs `{key.name}`")
        return table

    def _key(self, table: Table, name: str, shape: Shape, value: object) -> None:
        """Decode one key into `table`, or say why it cannot be."""
        path = table.at(name)
        try:
            table.values[name] = self._value(shape, path, value)
        except Rejected as rejected:
            self._faults.reject(table, name, str(rejected))
        except Unresolved as unresolved:
            for missing in unresolved.missing:
                if path[0] == "providers":
                    self._faults.unresolved.setdefault(str(path[1]), []).append((path, missing))
                else:
                    self._faults.add_missing(path, missing)

    def _value(self, shape: Shape, path: Path, raw: object) -> object:
        match shape:
            case Block():
                given = {shape.short: raw} if shape.short is not None and isinstance(raw, str) else raw
                return self._table(shape.type, path, _as_table(given))
            case Named():
                table = Table(path, _as_table(raw), {})
                for name, value in table.raw.items():
                    self._key(table, name, shape.of, value)
                return table.values
            case Listing():
                return self._listing(shape, path, raw)
            case Credential():
                return self._secret(path, raw)
            case Digest():
                return _digest(self._text(raw))
            case Anything():
                return self._json(raw)
            case Flag() | Count() | Duration() | Share() | Size() | Text() | Choice():
                try:
                    return _scalar(shape, self._text(raw) if isinstance(raw, str) else raw)
                except WrongValue as wrong:
                    raise Rejected(f"{wrong}, not {shown(raw)}") from None
            case _:
                assert_never(shape)

    def _listing(self, shape: Listing, path: Path, raw: object) -> list[object]:
        if not isinstance(raw, list):
            raise Rejected(f"must be an array, not {type_name(raw)}")
        elements = []
        missing: list[Missing] = []
        for number, value in enumerate(raw):
            here = (*path, number)
            try:
                elements.append(self._value(shape.of, here, value))
            except Rejected as rejected:
                self._faults.add(here, f"an entry of {key_name(path)} {rejected}")
            except Unresolved as unresolved:
                missing += unresolved.missing
        if missing:
            raise Unresolved(missing)
        return elements

    def _text(self, raw: object) -> str:
        if not isinstance(raw, str):
            raise Rejected(f"must be text, not {type_name(raw)}")
        return expand(raw, self._environ)

    def _json(self, raw: object) -> object:
        """A value that JSON can carry, its texts expanded."""
        match raw:
            case str():
                return expand(raw, self._environ)
            case bool() | int():
                return raw
            case float() if isfinite(raw):
                return raw
            case list():
                return [self._json(value) for value in raw]
            case dict():
                return {name: self._json(value) for name, value in raw.items()}
            case _:
                what = "nan or inf" if isinstance(raw, float) else type_name(raw)
                raise Rejected(f"must be something that JSON has, not {what}")

    def _secret(self, path: Path, raw: object) -> Secret:
        if not isinstance(raw, str):
            raise Rejected(f"must be text, not {type_name(raw)}")
        # Only the file itself may send us to another file: what a variable holds is never read as `file:…`.
        if raw.startswith("file:"):
            name = expand(raw.removeprefix("file:"), self._environ, may_be_empty=False)
            value, source = self._file(name), f"file {name}"
        else:
            value = expand(raw, self._environ, may_be_empty=False).strip()
            names = variables_in(raw)
            source = f"environment variable{'s' if len(names) > 1 else ''} {' and '.join(names)}"
            if not names:
                source = self._faults.where(path)
        if not value:
            raise Rejected("must not be empty")
        if not value.isascii() or not value.isprintable():
            raise Rejected(f"must be printable ASCII characters, and what came from {source} is not")
        return Secret(value, source)

    def _file(self, name: str) -> str:
        try:
            content = self._read_file(name).strip()
        except (OSError, ValueError) as error:
            why = (error.strerror if isinstance(error, OSError) else None) or "it is not text"
            raise Unresolved([Missing(f"file {name}", f"cannot be read ({why})", "put the value there")]) from error
        if not content:
            raise Unresolved([Missing(f"file {name}", "is empty", "put the value there")])
        return content


def _as_table(raw: object) -> dict[str, Any]:
    if not isinstance(raw, dict):
        raise Rejected(f"must be a table, not {type_name(raw)}")
    return raw


def _digest(text: str) -> bytes:
    if not re.fullmatch(r"[0-9a-fA-F]{64}", text):
        raise Rejected("must be a SHA-256: 64 hexadecimal digits")
    return bytes.fromhex(text)


def _scalar(shape: Flag | Count | Duration | Share | Size | Text | Choice, value: object) -> object:
    match shape:
        case Flag():
            if not isinstance(value, bool):
                raise WrongValue("must be true or false")
            return value
        case Count():
            if not isinstance(value, int) or isinstance(value, bool) or value < shape.minimum:
                raise WrongValue(f"must be a whole number of at least {shape.minimum}")
            return value
        case Duration():
            return _duration(shape, value)
        case Share():
            return read_share(value)
        case Size():
            return read_size(value)
        case Text():
            if not isinstance(value, str):
                raise Rejected(f"must be text, not {type_name(value)}")
            if not value and not shape.empty:
                raise Rejected("must not be empty")
            return value
        case Choice():
            if value in shape.not_built:
                raise Rejected(f"= {shown(value)} is not built yet; choose another")
            if value not in shape.words:
                *others, last = (f'"{word}"' for word in shape.words)
                raise WrongValue(f"must be {', '.join(others)} or {last}")
            return value
        case _:
            assert_never(shape)


def _duration(shape: Duration, value: object) -> object:
    if value in shape.words:
        return value
    try:
        return read_duration(value, zero=shape.zero)
    except WrongValue as wrong:
        words = "".join(f', or "{word}"' for word in shape.words)
        raise WrongValue(f"{wrong}{words}") from None


def key_name(path: Path) -> str:
    """A key for people: "`api_key` in [providers.openai]"."""
    return f"`{path[-1]}`" + (f" in {table_name(path[:-1])}" if path[:-1] else "")


def table_name(path: Path) -> str:
    """A table for people, as its header is written: "[providers.openai]", "[[keys]]"."""
    if not path:
        return "the file"
    names = [name for name in path if isinstance(name, str)]
    dotted = ".".join(name if re.fullmatch(r"[A-Za-z0-9_-]+", name) else shown(name) for name in names)
    return f"[[{dotted}]]" if isinstance(path[-1], int) else f"[{dotted}]"


def nearest(name: str, valid: Mapping[str, object], *, quote: str, otherwise: str) -> str:
    """The valid name that is meant, as a question; if none is near, all of them after `otherwise`."""
    close = get_close_matches(name, valid, n=1)
    if close:
        return f"did you mean {quote}{close[0]}{quote}?"
    return f"{otherwise} {', '.join(f'{quote}{each}{quote}' for each in valid) or '(none)'}"
