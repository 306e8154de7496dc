"""The guard `redact`: what shall not be said, on the way in and on the way out.

A match is replaced, or ends the request or the answer. With `reversible`, each value in a request has a placeholder of
its own (`[email_1]`), which the provider sees in its stead; where the answer repeats it, the value is put back. What the
model says by itself is redacted as ever.
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from types import MappingProxyType
from typing import TYPE_CHECKING, Literal

import re2  # type: ignore[import-untyped]  # it comes without types
import trio

from trio_ai_proxy.chat.request import ChatRequest
from trio_ai_proxy.errors import GuardBlocked
from trio_ai_proxy.guards.json_text import JSONText
from trio_ai_proxy.guards.matcher import Patterns
from trio_ai_proxy.guards.parts import PassingFilter, RedactingFilter
from trio_ai_proxy.guards.patterns import Pattern
from trio_ai_proxy.guards.prefixes import compile_search
from trio_ai_proxy.guards.redaction import Redaction
from trio_ai_proxy.guards.request_texts import Said, groups_in, with_changes
from trio_ai_proxy.guards.words import WordsInNumbers

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from trio_ai_proxy.guards.base import Desk, Filter
    from trio_ai_proxy.guards.request_texts import Path

_NAME = "{name}"
_AT_ONCE = 64 * 1024  # characters: 3 ms of prose. What is longer is looked through in a thread, beside the streams
_threads = trio.CapacityLimiter(1)


@dataclass(frozen=True, slots=True)
class RedactedRequest(ChatRequest):
    """A request in which placeholders stand for values. `originals` has the values, by guard and placeholder."""

    originals: Mapping[str, Mapping[str, str]] = field(default_factory=dict, repr=False)


class Redact:
    """See `RequestGuard` and `ResponseGuard`."""

    def __init__(
        self,
        name: str,
        *,
        patterns: Sequence[Pattern],
        replace: str | None = "[{name}]",
        action: Literal["replace", "block"] = "replace",
        window: int = 256,
        on_overflow: Literal["block", "release"] = "block",
        reversible: bool = False,
        redacts_answers: bool = True,
    ) -> None:
        """`replace` is not looked at where `action` is "block". Without `redacts_answers` the filter puts values back and does
        nothing else. Raises `UnreadableRegex` if the patterns are too large together, and `ValueError` if values cannot be put
        back because `replace` does not say which they are."""
        self._name = name
        self._template = replace or ""
        self._blocks = action == "block"
        self._window = window
        self._on_overflow: Literal["block", "release"] = on_overflow
        self._reversible = reversible and not self._blocks
        self._redacts_answers = redacts_answers
        if self._reversible and _NAME not in self._template:
            raise ValueError(f"`reversible` needs a `replace` with `{_NAME}` in it, for the values to be told apart")
        self._patterns = Patterns(patterns)
        self._placeholder = _placeholders(self._template, patterns)
        self._looked_for = self._restored = self._patterns
        if self._reversible:
            self._looked_for = Patterns([self._placeholder, *patterns])
            self._restored = self._looked_for if redacts_answers else Patterns([self._placeholder])

    async def enter(self, request: ChatRequest, desk: Desk) -> ChatRequest:
        """`request` without what is looked for; itself where nothing was found. Raises `GuardBlocked`, also for a prompt of token
        numbers, which nobody here can read."""
        if not _is_long(request):
            return self.redact(request)
        return await trio.to_thread.run_sync(self.redact, request, limiter=_threads, abandon_on_cancel=True)

    def redact(self, request: ChatRequest) -> ChatRequest:
        """The same as `enter`, for whoever does not wait. It takes time: 50 ms for 1 MiB of prose, some seconds for as much
        of what looks like nothing but numbers of cards and accounts, and is none."""
        try:
            groups = list(groups_in(request))
        except WordsInNumbers as error:
            message = f'"{error.field}" must be text here, not token numbers: this gateway has to read it.'
            raise GuardBlocked(message, guard=self._name, code="unreadable_prompt", param=error.field) from None
        ledger = _Ledger(self._template, self._placeholder, groups) if self._reversible else None
        changes: dict[Path, str] = {}
        for group in groups:
            redaction = self._redaction("request", ledger, {})
            texts = _rewritten(group, redaction)
            if redaction.blocked is not None:
                redaction.blocked.param = ".".join(str(step) for step in group[0].path)
                raise redaction.blocked
            changes |= {said.path: text for said, text in zip(group, texts, strict=True) if text != said.text}
        if not changes:
            return request
        copied = {one.name: getattr(request, one.name) for one in fields(request)}
        copied["fields"] = with_changes(request.fields, changes)
        if ledger is not None:
            copied["originals"] = {**copied.get("originals", {}), self._name: MappingProxyType(ledger.originals)}
            return RedactedRequest(**copied)
        return type(request)(**copied)

    def filter(self, request: ChatRequest) -> Filter:
        """See `ResponseGuard`. What is put back is what the request holds that this guard has returned, or a copy of it."""
        known = request.originals if isinstance(request, RedactedRequest) else {}
        originals = known.get(self._name, {})
        if not originals and not self._redacts_answers:
            return PassingFilter()
        return RedactingFilter(self._redaction("answer", None, originals), text_is_json=_wants_json(request))

    def _redaction(
        self, of: Literal["request", "answer"], ledger: _Ledger | None, originals: Mapping[str, str]
    ) -> Redaction:
        """`ledger` is where a request's values are noted, `originals` what is put back in an answer."""

        def substitute(pattern: Pattern, text: str) -> str | None:
            if pattern is self._placeholder:
                return originals.get(text, text)
            if self._blocks:
                return None
            return self._template.replace(_NAME, pattern.name) if ledger is None else ledger.note(pattern.name, text)

        def accepts(pattern: Pattern, text: str) -> bool:
            return pattern is not self._placeholder or of == "request" or text in originals

        patterns = self._looked_for if of == "request" else self._restored if originals else self._patterns
        return Redaction(
            self._name,
            patterns,
            substitute,
            window=self._window,
            on_overflow=self._on_overflow,
            of=of,
            accepts=accepts,
            uncounted=self._placeholder,
        )


def _wants_json(request: ChatRequest) -> bool:
    wanted = request.fields.get("response_format")
    return isinstance(wanted, dict) and wanted.get("type") in ("json_object", "json_schema")


class _Ledger:
    """The values of one request, and what stands for each. The same value has the same placeholder wherever it stands, and no
    placeholder is one that the request brought along."""

    def __init__(self, template: str, placeholder: Pattern, groups: Sequence[Sequence[Said]]) -> None:
        self.originals: dict[str, str] = {}
        self._template = template
        self._placeholder = placeholder
        self._groups = groups
        self._noted: dict[tuple[str, str], str] = {}
        self._counts: dict[str, int] = {}
        self._taken: set[str] | None = None

    def note(self, name: str, value: str) -> str:
        """What stands for `value`, a match of the pattern `name`."""
        noted = self._noted.get((name, value))
        if noted is not None:
            return noted
        if self._taken is None:
            search = compile_search(self._placeholder.regex)
            texts = (said.text.encode("utf-8", "replace").decode() for group in self._groups for said in group)
            self._taken = {found[0] for text in texts for found in search.finditer(text)}
        while True:
            count = self._counts[name] = self._counts.get(name, 0) + 1
            placeholder = self._template.replace(_NAME, f"{name}_{count}")
            if placeholder not in self._taken:
                break
        self._noted[name, value] = placeholder
        self.originals[placeholder] = value
        return placeholder


def _placeholders(template: str, patterns: Sequence[Pattern]) -> Pattern:
    """What finds anything that has the form of a placeholder."""
    names = "|".join(re2.escape(name) for name in dict.fromkeys(pattern.name for pattern in patterns))
    around = [re2.escape(text) for text in template.split(_NAME)]
    return Pattern("placeholder", f"(?:{names})_[0-9]{{1,9}}".join(around))


def _rewritten(group: Sequence[Said], redaction: Redaction) -> list[str]:
    """The texts of `group` as they may go on: looked into one by one, for each may be meant alone, and then as the one text that
    they are to a model."""
    texts = []
    for said in group:
        if said.is_json:
            written = JSONText(redaction)
            texts.append(written.feed(said.text) + written.close())
        else:
            texts.append(redaction.whole(said.text))
    return texts if len(texts) == 1 else _joined(texts, redaction)


def _joined(texts: Sequence[str], redaction: Redaction) -> list[str]:
    """`texts` without what only shows where they are joined. What stands for it is in the text in which it begins."""
    matcher = redaction.matcher()
    whole = "".join(texts)
    written: list[list[str]] = [[] for _ in texts]
    part, left = 0, len(texts[0])  # what is being written, and how much of its text is still to come
    for piece in [*matcher.feed(whole), *matcher.close()]:
        text = piece if isinstance(piece, str) else getattr(piece, "text", "")
        is_first = True
        while text:
            while not left:
                part += 1
                left = len(texts[part])
            here, text = text[:left], text[left:]
            left -= len(here)
            if isinstance(piece, str):
                written[part].append(here)
            elif is_first:
                written[part].append(redaction.write(piece))
            is_first = False
        if not isinstance(piece, str) and is_first:
            redaction.write(piece)  # too long a match, which ends it all
    return ["".join(texts) for texts in written]


def _is_long(request: ChatRequest) -> bool:
    try:
        return sum(len(said.text) for group in groups_in(request) for said in group) > _AT_ONCE
    except WordsInNumbers:
        return False  # nothing of it will be read
