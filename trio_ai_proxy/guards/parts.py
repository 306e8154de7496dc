"""An answer in events, of which nothing may leave that is looked for.

Pure. Each part is one text: the text, the reasoning and the refusal of a choice, and the arguments of each call. Arguments are
read as JSON, and so is the text where the client has asked for JSON. What is held of a part leaves at the latest before the
`Finished` of its choice; no part waits for another.

- A `ReasoningSealed` says that a block of thought is complete, so what is held of it leaves before. It stays in sight: what
  would make a match of it later does not leave. The signature of a thought that was changed proves nothing any more, and is
  left out; the seal remains, for it says where the block ends.
- `LogProbabilities` tell the tokens of text, also of text that is held or replaced: they are left out.
- The places of a `Cited` are counted in the text as the provider wrote it; once that was changed, they are left out.
- What is in the provider's own encoding passes: `ReasoningSealed.redacted`, the signature of a call.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

from trio_ai_proxy.chat.events import (
    Cited,
    Ended,
    Failed,
    Finished,
    LogProbabilities,
    ReasoningDelta,
    ReasoningSealed,
    RefusalDelta,
    TextDelta,
    ToolCallDelta,
)
from trio_ai_proxy.guards.json_text import JSONText
from trio_ai_proxy.guards.redaction import PlainText

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from trio_ai_proxy.chat.events import Event
    from trio_ai_proxy.errors import GuardBlocked
    from trio_ai_proxy.guards.redaction import Redaction

Delta = TextDelta | ReasoningDelta | RefusalDelta


class PassingFilter:
    """A `Filter` for an answer in which nothing is looked for."""

    def __init__(self) -> None:
        self.blocked: GuardBlocked | None = None
        self.held = 0
        self.hits = 0

    def feed(self, events: Sequence[Event]) -> list[Event]:
        return list(events)

    def close(self) -> list[Event]:
        return []


class RedactingFilter:
    """A `Filter` that looks into every part of one answer."""

    def __init__(self, redaction: Redaction, *, text_is_json: bool = False) -> None:
        """`text_is_json`: the client has asked for a text that is JSON."""
        self.blocked: GuardBlocked | None = None
        self.held = 0
        self.hits = 0
        self._redaction = redaction
        self._text_is_json = text_is_json
        self._spoken: dict[tuple[type[Delta], int], _Spoken] = {}
        self._called: dict[tuple[int, int], JSONText] = {}

    def feed(self, events: Sequence[Event]) -> list[Event]:
        """See `Filter`."""
        out: list[Event] = []
        for event in events:
            if self.blocked is not None:
                break
            take = _TAKE.get(type(event))
            if take is None:
                out.append(event)
                continue
            take(self, event, out)
            self._take_stock()
        return out

    def close(self) -> list[Event]:
        """See `Filter`."""
        out: list[Event] = []
        if self.blocked is None:
            self._release(out)
            self._take_stock()
        return out

    def _take_stock(self) -> None:
        self.hits = self._redaction.hits
        self.blocked = self._redaction.blocked
        held = 0
        for spoken in self._spoken.values():
            held += spoken.held
        for called in self._called.values():
            held += called.held
        self.held = held

    def _said(self, event: Delta, out: list[Event]) -> None:
        kind, index = type(event), event.index
        spoken = self._spoken.get((kind, index))
        if spoken is None:
            is_json = self._text_is_json and kind is TextDelta
            spoken = self._spoken[kind, index] = _Spoken(self._redaction, is_json=is_json)
        text = spoken.feed(event.text) if event.text else ""
        if text == event.text:
            out.append(event)
        elif text:
            out.append(kind(text, index))

    def _call(self, event: ToolCallDelta, out: list[Event]) -> None:
        key = (event.index, event.call)
        called = self._called.get(key)
        if called is None:
            called = self._called[key] = JSONText(self._redaction)
        name = self._redaction.whole(event.name) if event.name else ""
        if self._redaction.blocked is not None:
            return
        arguments = called.feed(event.arguments)
        if event.id or name or arguments or event.signature or not event.arguments:
            same = name == event.name and arguments == event.arguments
            out.append(event if same else msgspec.structs.replace(event, name=name, arguments=arguments))

    def _sealed(self, event: ReasoningSealed, out: list[Event]) -> None:
        spoken = self._spoken.get((ReasoningDelta, event.index))
        if spoken is None or event.redacted:
            out.append(event)
            return
        text = spoken.settle()
        if text:
            out.append(ReasoningDelta(text, event.index))
        if self._redaction.blocked is None:
            out.append(ReasoningSealed(index=event.index) if spoken.block_has_changed else event)
            spoken.block_has_changed = False

    def _cited(self, event: Cited, out: list[Event]) -> None:
        whole = self._redaction.whole
        cited = Cited(
            whole(event.url), whole(event.title), event.source, whole(event.quote), event.start, event.end, event.index
        )
        if self._redaction.blocked is not None:
            return
        spoken = self._spoken.get((TextDelta, event.index))
        if spoken is not None and spoken.has_changed:
            cited = msgspec.structs.replace(cited, start=0, end=0)
        out.append(cited)

    def _probabilities(self, event: LogProbabilities, out: list[Event]) -> None:
        """They do not leave."""

    def _finished(self, event: Finished, out: list[Event]) -> None:
        self._release(out, event.index)
        if self._redaction.blocked is None:
            out.append(event)

    def _over(self, event: Ended | Failed, out: list[Event]) -> None:
        self._release(out)
        if self._redaction.blocked is None:
            out.append(event)

    def _release(self, out: list[Event], index: int | None = None) -> None:
        """Let go of what is held of choice `index`, or of all of them."""
        for (kind, choice), spoken in self._spoken.items():
            if index in (None, choice) and (text := spoken.close()):
                out.append(kind(text, choice))
        for (choice, call), called in self._called.items():
            if index in (None, choice) and (arguments := called.close()):
                out.append(ToolCallDelta(call, arguments=arguments, index=choice))


class _Spoken:
    """One part that is spoken.

    has_changed        whether something else has left than came
    block_has_changed  the same, since the last seal
    """

    __slots__ = ("_redaction", "_text", "block_has_changed", "has_changed", "held")

    def __init__(self, redaction: Redaction, *, is_json: bool) -> None:
        self._redaction = redaction
        self._text: JSONText | PlainText = JSONText(redaction) if is_json else PlainText(redaction)
        self.has_changed = False
        self.block_has_changed = False
        self.held = 0

    def feed(self, text: str) -> str:
        return self._after(self._redaction.finds, self._text.feed(text))

    def settle(self) -> str:
        """JSON has blocks of its own, and is no thought."""
        return self._after(self._redaction.finds, self._text.settle()) if isinstance(self._text, PlainText) else ""

    def close(self) -> str:
        return self._after(self._redaction.finds, self._text.close())

    def _after(self, finds: int, text: str) -> str:
        """`text`, which has come of what was told last; before that there were so many `finds`."""
        self.held = self._text.held
        if self._redaction.finds != finds:
            self.has_changed = self.block_has_changed = True
        return text


_TAKE: dict[type, Callable[[RedactingFilter, Any, list[Event]], None]] = {
    TextDelta: RedactingFilter._said,  # noqa: SLF001
    ReasoningDelta: RedactingFilter._said,  # noqa: SLF001
    RefusalDelta: RedactingFilter._said,  # noqa: SLF001
    ToolCallDelta: RedactingFilter._call,  # noqa: SLF001
    ReasoningSealed: RedactingFilter._sealed,  # noqa: SLF001
    Cited: RedactingFilter._cited,  # noqa: SLF001
    LogProbabilities: RedactingFilter._probabilities,  # noqa: SLF001
    Finished: RedactingFilter._finished,  # noqa: SLF001
    Ended: RedactingFilter._over,  # noqa: SLF001
    Failed: RedactingFilter._over,  # noqa: SLF001
}
