"""What is nearest to what is asked: by the angle between two vectors of an embeddings model. Decides, never asks anybody: the
vectors and the time are arguments.
"""

from __future__ import annotations

from collections import OrderedDict
from hashlib import blake2b
from math import isfinite, sqrt
from operator import mul
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from trio_ai_proxy.chat.request import ChatRequest

MAX_CHARACTERS = (
    8_000  # about 2,000 tokens: any embeddings model takes so many, and what a text is about is said by then
)
MAX_REMEMBERED = 1_024
FIRST_PAUSE = 1.0
LONGEST_PAUSE = 60.0


def text_of(request: ChatRequest) -> str:
    """What is asked: the text of the user's last message, or the prompt, or what is to be embedded; at most 8,000 characters of
    it. "" where there is no text."""
    fields = request.fields
    if request.operation != "chat":
        return _joined(fields.get("prompt" if request.operation == "completions" else "input"))
    messages = fields.get("messages")
    for message in reversed(messages) if isinstance(messages, list) else ():
        if isinstance(message, dict) and message.get("role") == "user":
            return _joined(_texts(message))
    return ""


def _texts(message: Mapping[str, Any]) -> object:
    content = message.get("content")
    if not isinstance(content, list):
        return content
    return [part.get("text") for part in content if isinstance(part, dict)]


def _joined(value: object) -> str:
    texts = [text for text in value if isinstance(text, str)] if isinstance(value, list) else [value]
    text = "\n".join(text for text in texts if isinstance(text, str)).strip()[:MAX_CHARACTERS]
    return text.encode("utf-8", "replace").decode()  # half a surrogate pair cannot be asked about


class Directions:
    """What the targets of one model are for, as vectors of length 1.

    Raises `ValueError` for vectors that do not have the same number of dimensions, which several models give.
    """

    def __init__(self, vectors: Sequence[Sequence[float] | None]) -> None:
        """`vectors` are those of the targets' descriptions, in their order; None for a target without one."""
        self._units = [None if vector is None else _unit(vector) for vector in vectors]
        if len({len(unit) for unit in self._units if unit is not None}) > 1:
            raise ValueError("the descriptions' vectors have not the same number of dimensions")

    def similarities(self, vector: Sequence[float]) -> tuple[float, ...]:
        """The cosine of the angle between `vector` and each target's, from -1 to 1; 0 where a target has none."""
        asked = _unit(vector)
        for unit in self._units:
            if unit is not None and len(unit) != len(asked):
                raise ValueError(
                    f"the text's vector has {len(asked)} dimensions, and the descriptions' have {len(unit)}"
                )
        return tuple(0.0 if unit is None else sum(map(mul, unit, asked)) for unit in self._units)


def _unit(vector: Sequence[float]) -> list[float]:
    """`vector` at length 1; one without a direction stays without."""
    if not all(map(isfinite, vector)):
        raise ValueError("a vector has numbers that are none")
    largest = max(map(abs, vector), default=0.0)
    if not largest:
        return [0.0] * len(vector)
    scaled = [number / largest for number in vector]  # so that no square is beyond what a number can be
    length = sqrt(sum(map(mul, scaled, scaled)))
    return [number / length for number in scaled]


class Remembered:
    """What was found for the last texts, by their digests: a text itself is not kept."""

    def __init__(self, size: int = MAX_REMEMBERED) -> None:
        self._size = size
        self._found: OrderedDict[bytes, tuple[float, ...]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._found)

    def get(self, text: str) -> tuple[float, ...] | None:
        """What was found for `text`, None if nobody has asked lately."""
        key = _digest(text)
        found = self._found.get(key)
        if found is not None:
            self._found.move_to_end(key)
        return found

    def put(self, text: str, found: tuple[float, ...]) -> None:
        """Keep `found`; what was not asked for the longest goes."""
        self._found[_digest(text)] = found
        if len(self._found) > self._size:
            self._found.popitem(last=False)


def _digest(text: str) -> bytes:
    return blake2b(text.encode(), digest_size=16).digest()


class Rest:
    """After a failure nobody is asked for a while: a second, then two, four, up to a minute."""

    def __init__(self) -> None:
        self._failures = 0
        self._until = float("-inf")

    def is_over(self, now: float) -> bool:
        """Whether one may ask."""
        return now >= self._until

    def failed(self, now: float) -> None:
        """It went wrong. Of several that were under way together the first counts."""
        if self.is_over(now):
            self._until = now + min(LONGEST_PAUSE, FIRST_PAUSE * 2.0 ** min(self._failures, 16))
            self._failures += 1

    def worked(self) -> None:
        """It is well again."""
        self._failures = 0
