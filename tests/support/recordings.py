"""Recorded answers of providers: what came over the wire, and what it means."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trio_ai_proxy.chat import events as vocabulary
from trio_ai_proxy.chat.usage import TokenUsage

if TYPE_CHECKING:
    from collections.abc import Iterator

    from trio_ai_proxy.chat.events import Event
    from trio_ai_proxy.chat.request import Operation

_ROOT = Path(__file__).parent.parent / "recordings"


@dataclass(frozen=True)
class Recording:
    """One streamed answer.

    events  what it means: events as they are, but for `Failed`, of which the error's facts are given as a dict
    raises  the name of the error at which it ends, or None
    """

    name: str
    operation: Operation
    response: bytes
    events: list[Event | dict[str, Any]]
    raises: str | None


def recordings(wire: str) -> list[Recording]:
    """All recordings of one wire format."""
    return [_load(folder) for folder in sorted((_ROOT / wire).iterdir())]


def _load(folder: Path) -> Recording:
    assert (folder / "SOURCE").read_text().strip(), f"{folder.name} does not say where it is from"
    expected = json.loads((folder / "events.json").read_text(encoding="utf-8"))
    return Recording(
        name=folder.name,
        operation=expected["operation"],
        response=(folder / "response.bin").read_bytes(),
        events=[_event(*item.popitem()) for item in expected["events"]],
        raises=expected["raises"],
    )


def _event(name: str, facts: dict[str, Any]) -> Event | dict[str, Any]:
    if name == "Failed":
        return facts
    if name == "UsageReported":
        facts = {"usage": TokenUsage(**facts["usage"])}
    return getattr(vocabulary, name)(**facts)


def comparable(events: list[Event]) -> list[Event | dict[str, Any]]:
    """Events in the form in which a recording gives them: errors do not compare, their facts do."""
    return [_facts(event) if isinstance(event, vocabulary.Failed) else event for event in events]


def _facts(event: vocabulary.Failed) -> dict[str, Any]:
    error = event.error
    return {
        "error": type(error).__name__,
        "message": error.message,
        "type": error.type,
        "code": error.code,
        "status": error.status,
    }


def ways_to_cut(data: bytes) -> Iterator[list[bytes]]:
    """`data` as a network may give it: whole, byte by byte, in small pieces, and each end of a line apart."""
    yield [data]
    yield [data[i : i + 1] for i in range(len(data))]
    yield [data[i : i + 7] for i in range(0, len(data), 7)]
    yield data.splitlines(keepends=True)
