"""Which keys the file may have: read from the settings types and their metadata, and from nowhere else.

The decoder, the reference page and the editors' schema all walk what `keys_of` gives.
"""

from __future__ import annotations

import dataclasses
import types
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from trio_ai_proxy.settings import (
    KeySettings,
    Secret,
    TargetSettings,
    TemplateSettings,
)


@dataclass(frozen=True, slots=True)
class Flag:
    """true or false."""


@dataclass(frozen=True, slots=True)
class Count:
    """A whole number of at least `minimum`."""

    minimum: int


@dataclass(frozen=True, slots=True)
class Duration:
    """Seconds, or text with units; or one of a few words."""

    zero: bool
    words: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Share:
    """A number above 0 and at most 1."""


@dataclass(frozen=True, slots=True)
class Size:
    """Bytes, or text with a unit."""


@dataclass(frozen=True, slots=True)
class Text:
    """Text, with environment variables expanded."""

    empty: bool


@dataclass(frozen=True, slots=True)
class Choice:
    """One of a few words. Those of `not_built` are refused for now, and say so."""

    words: tuple[str, ...]
    not_built: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Credential:
    """Text that nobody may see; `file:` names a file that holds it."""


@dataclass(frozen=True, slots=True)
class Digest:
    """A SHA-256 in hexadecimal digits."""


@dataclass(frozen=True, slots=True)
class Anything:
    """Any value that JSON can carry."""


@dataclass(frozen=True, slots=True)
class Block:
    """A table with the keys of one settings type. A text in its place is a table with the key `short` alone."""

    type: type
    short: str | None = None


@dataclass(frozen=True, slots=True)
class Listing:
    """An array."""

    of: Shape


@dataclass(frozen=True, slots=True)
class Named:
    """A table whose keys the user chooses."""

    of: Shape


Shape = (
    Flag | Count | Duration | Share | Size | Text | Choice | Credential | Digest | Anything | Block | Listing | Named
)


@dataclass(frozen=True, slots=True)
class Key:
    """One key of a table. `default` is the value in `Settings`, None where absence means something of its own; `kinds` are the
    kinds of provider or of guard that have it, none if all do."""

    name: str
    doc: str
    shape: Shape
    required: bool
    default: Any = None
    kinds: tuple[str, ...] = ()


# Keys of the file that become something else in the settings, or say something that is checked and then forgotten.
_KEYS_WITHOUT_FIELD: Mapping[type, tuple[Key, ...]] = {
    KeySettings: (Key("secret", "The key itself, of which only the SHA-256 is kept.", Credential(), required=False),),
}

# Of each pair exactly one is given.
ALTERNATIVES: Mapping[type, tuple[str, str]] = {
    KeySettings: ("sha256", "secret"),
    TemplateSettings: ("messages", "prompt"),
}

# Parts of the contract that are still to come. A key that is neither here nor in the types is a mistake.
NOT_BUILT: Mapping[type, tuple[str, ...]] = {
    TargetSettings: ("input_cost", "output_cost"),
    KeySettings: ("limits",),
}


@cache
def keys_of(settings_type: type) -> dict[str, Key]:
    """The keys that a table of `settings_type` may have, in the order of the type. Raises `TypeError` for a field whose
    type no shape stands for."""
    hints = get_type_hints(settings_type)
    keys = {}
    for field in dataclasses.fields(settings_type):
        if "doc" not in field.metadata:
            continue
        has_default = field.default is not dataclasses.MISSING or field.default_factory is not dataclasses.MISSING
        keys[field.name] = Key(
            name=field.name,
            doc=field.metadata["doc"],
            shape=shape_of(hints[field.name], field.metadata),
            required=field.metadata.get("required", not has_default)
            and field.name not in ALTERNATIVES.get(settings_type, ()),
            default=_default(field),
            kinds=field.metadata.get("kinds", ()),
        )
    return keys | {key.name: key for key in _KEYS_WITHOUT_FIELD.get(settings_type, ())}


def shape_of(hint: Any, metadata: Mapping[str, Any]) -> Shape:
    """The shape of values of the type `hint`."""
    origin, arguments = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType):
        only, *words = (argument for argument in arguments if argument is not types.NoneType)
        shape = shape_of(only, metadata)
        if not words:
            return shape
        if not isinstance(shape, Duration):
            raise TypeError(f"no shape for a field of type {hint}: only a duration may be a word instead")
        return dataclasses.replace(shape, words=tuple(word for literal in words for word in get_args(literal)))
    if origin is Literal:
        not_built = metadata.get("not_built", ())
        return Choice(tuple(word for word in arguments if word not in not_built), not_built)
    if origin is tuple:
        return Listing(shape_of(arguments[0], metadata))
    if isinstance(origin, type) and issubclass(origin, Mapping):
        return Named(shape_of(arguments[1], metadata))
    if dataclasses.is_dataclass(hint) and isinstance(hint, type):
        return Block(hint, metadata.get("short"))
    zero = metadata.get("zero", False)
    simple: dict[tuple[object, str | None], Shape] = {
        (bool, None): Flag(),
        (int, "count"): Count(minimum=0 if zero else 1),
        (int, "size"): Size(),
        (float, "duration"): Duration(zero=zero),
        (float, "share"): Share(),
        (str, None): Text(empty=metadata.get("empty", False)),
        (bytes, None): Digest(),
        (Secret, None): Credential(),
        (Any, None): Anything(),
    }
    try:
        return simple[hint, metadata.get("unit")]
    except KeyError:
        raise TypeError(f"no shape for a field of type {hint} with the unit {metadata.get('unit')}") from None


def _default(field: dataclasses.Field[Any]) -> Any:
    if field.default is not dataclasses.MISSING:
        return field.default
    if field.default_factory is not dataclasses.MISSING:
        return field.default_factory()
    return None
