"""Paths with gaps: `/chat/{team}/{model}` takes one segment for each name.

A path is cut at its slashes as it came, and each segment is decoded after that, once: `%2F` is a slash within a value and never
cuts, and `%2e%2e` is two dots that walk nowhere.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from urllib.parse import unquote_to_bytes

from trio_ai_proxy.errors import InvalidRequest

_GAP = re.compile(r"\{([A-Za-z_][A-Za-z0-9_]*)\}")
_WRONG_ESCAPE = re.compile(rb"%(?![0-9A-Fa-f]{2})")


class WrongPattern(Exception):
    """The path is none. The message goes on after the name of the key."""


@dataclass(frozen=True, slots=True)
class PathPattern:
    """A path of a route.

    segments  what each must be, None where it is a gap
    names     of the gaps, in order; none if the path is a plain one
    """

    segments: tuple[bytes | None, ...]
    names: tuple[str, ...]

    @classmethod
    def parse(cls, path: str) -> PathPattern:
        """Raises `WrongPattern`. `path` begins with a slash and is visible ASCII."""
        segments: list[bytes | None] = []
        names: list[str] = []
        for segment in path.split("/"):
            gap = _GAP.fullmatch(segment)
            if gap is None and ("{" in segment or "}" in segment):
                raise WrongPattern(
                    "has braces that are not all of a segment; write /{name}/ with letters, digits and _"
                )
            if gap is not None and gap[1] in names:
                raise WrongPattern(f"has {{{gap[1]}}} twice")
            if gap is not None:
                names.append(gap[1])
            segments.append(segment.encode("ascii") if gap is None else None)
        return cls(tuple(segments), tuple(names))

    def match(self, path: bytes) -> dict[str, str] | None:
        """What the gaps take from `path`; None if it is another path. A gap takes at least one character. Raises
        `InvalidRequest` for what is no percent-encoded UTF-8."""
        given = path.split(b"/")
        if len(given) != len(self.segments):
            return None
        values = []
        for segment, wanted in zip(given, self.segments, strict=True):
            if wanted is None and segment:
                values.append(segment)
            elif segment != wanted:
                return None
        return {name: _decoded(name, value) for name, value in zip(self.names, values, strict=True)}


def _decoded(name: str, segment: bytes) -> str:
    try:
        if _WRONG_ESCAPE.search(segment) is None:
            return unquote_to_bytes(segment).decode("utf-8")
    except UnicodeDecodeError:
        pass
    raise InvalidRequest(
        f'The path\'s value for "{name}" is not percent-encoded UTF-8.',
        param=f"uri_captures.{name}",
        code="invalid_value",
    )
