"""The guard `response_transformer` where it asks nobody: fields and headers of an answer are taken out, renamed, replaced, added
and appended to (Kong's response transformer), in one answer as in each event of a stream. Pure.

Source: https://developer.konghq.com/plugins/response-transformer/
"""

from __future__ import annotations

import re
from copy import deepcopy
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from trio_ai_proxy.settings import HeaderChanges, JSONChanges

JSONPath = tuple[str, ...]
"""Where a field is: names of fields, numbers of elements, or `*` for all of either."""

_Container = dict[str, Any] | list[Any]
_ALL = "*"
_BRACKETS = re.compile(r"\[(\d+|\*)\]")


def parse_path(text: str) -> JSONPath:
    """`choices.0.delta.content`, `choices[0].delta.content` or `choices[*].delta.content`. Raises `ValueError` with the rest of a
    sentence about it."""
    dotted = _BRACKETS.sub(r".\1", text)
    path = tuple(dotted.split("."))
    if not all(path) or "[" in dotted or "]" in dotted:
        raise ValueError('is no path of a field, such as "choices[*].delta.content" or "choices.0.delta.content"')
    return path


class Reshape:
    """See `Reshaper`. A path that leads nowhere changes nothing: an event of a stream has other fields than a whole answer."""

    def __init__(self, headers: HeaderChanges | None, json: JSONChanges | None) -> None:
        self._headers = headers
        self._steps: list[tuple[JSONPath, Callable[[_Container, str], None]]] = []
        if json is not None:
            self._steps = [
                *((parse_path(path), _remove) for path in json.remove),
                *((parse_path(path), _renamer(name)) for path, name in json.rename.items()),
                *((parse_path(path), _replacer(value)) for path, value in json.replace.items()),
                *((parse_path(path), _adder(value)) for path, value in json.add.items()),
                *((parse_path(path), _appender(value)) for path, value in json.append.items()),
            ]

    def headers(self, headers: list[tuple[bytes, bytes]]) -> list[tuple[bytes, bytes]]:
        """`headers` as they shall be, in a new list."""
        changes = self._headers
        if changes is None:
            return headers
        removed = {_name(name) for name in changes.remove}
        renamed = {_name(old): _name(new) for old, new in changes.rename.items()}
        headers = [(renamed.get(name, name), value) for name, value in headers if name not in removed]
        for name, value in _encoded(changes.replace):
            headers = _set(headers, name, value) if _has(headers, name) else headers
        for name, value in _encoded(changes.add):
            headers = headers if _has(headers, name) else [*headers, (name, value)]
        return [*headers, *_encoded(changes.append)]

    def document(self, document: dict[str, Any]) -> dict[str, Any]:
        """`document` itself, changed."""
        for path, change in self._steps:
            for container in _reached(document, path[:-1]):
                for key in _keys(container, path[-1]):
                    change(container, key)
        return document


def _name(name: str) -> bytes:
    return name.lower().encode("ascii")


def _encoded(values: Any) -> list[tuple[bytes, bytes]]:
    return [(_name(name), value.encode("ascii")) for name, value in values.items()]


def _has(headers: list[tuple[bytes, bytes]], name: bytes) -> bool:
    return any(each == name for each, _ in headers)


def _set(headers: list[tuple[bytes, bytes]], name: bytes, value: bytes) -> list[tuple[bytes, bytes]]:
    """`headers` with this one value for `name`, where the first one was."""
    first = next(index for index, (each, _) in enumerate(headers) if each == name)
    return [
        (name, value) if index == first else header
        for index, header in enumerate(headers)
        if index == first or header[0] != name
    ]


def _reached(value: Any, path: JSONPath) -> Iterator[_Container]:
    """Every object and array at the end of `path`."""
    if not path:
        if isinstance(value, dict | list):
            yield value
        return
    if isinstance(value, dict | list):
        for key in _keys(value, path[0]):
            if _is_in(value, key):
                yield from _reached(_get(value, key), path[1:])


def _keys(container: _Container, key: str) -> list[str]:
    """What `key` stands for here; the last first, so that what is taken out moves nothing that is still to come."""
    if key != _ALL:
        return [key]
    return list(container) if isinstance(container, dict) else [str(index) for index in reversed(range(len(container)))]


def _is_in(container: _Container, key: str) -> bool:
    if isinstance(container, dict):
        return key in container
    return key.isdecimal() and int(key) < len(container)


def _get(container: _Container, key: str) -> Any:
    return container[key] if isinstance(container, dict) else container[int(key)]


def _put(container: _Container, key: str, value: Any) -> None:
    if isinstance(container, dict):
        container[key] = value
    else:
        container[int(key)] = value


def _remove(container: _Container, key: str) -> None:
    if not _is_in(container, key):
        return
    if isinstance(container, dict):
        del container[key]
    else:
        del container[int(key)]


def _renamer(name: str) -> Callable[[_Container, str], None]:
    def rename(container: _Container, key: str) -> None:
        if isinstance(container, dict) and key in container and key != name:
            container.pop(name, None)
            items = [(name if each == key else each, value) for each, value in container.items()]
            container.clear()
            container.update(items)

    return rename


def _replacer(value: Any) -> Callable[[_Container, str], None]:
    def replace(container: _Container, key: str) -> None:
        if _is_in(container, key):
            _put(container, key, deepcopy(value))

    return replace


def _adder(value: Any) -> Callable[[_Container, str], None]:
    def add(container: _Container, key: str) -> None:
        if isinstance(container, dict) and key not in container:
            container[key] = deepcopy(value)

    return add


def _appender(value: Any) -> Callable[[_Container, str], None]:
    def append(container: _Container, key: str) -> None:
        if _is_in(container, key):
            there = _get(container, key)
            _put(container, key, [*(there if isinstance(there, list) else [there]), deepcopy(value)])
        elif isinstance(container, dict):
            container[key] = [deepcopy(value)]

    return append
