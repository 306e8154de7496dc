"""What a guard is, seen from whoever runs it.

On the way in a guard sees the parsed request, and gives it back as it may go on. On the way out there are two sorts: a
`Filter` decides by itself, synchronously, on events; a `Judge` has to ask somebody (a model, a web service), and is shown
the answer window by window. Who runs them is `relay`: it keeps their order, waits, cancels and keeps their books.

Guards say what they found with values: a request is refused by raising `GuardBlocked`, an answer is cut by a filter's
`blocked` or a judge's `Block`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, Protocol

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from trio_ai_proxy.chat.events import Event
    from trio_ai_proxy.chat.fold import Answer
    from trio_ai_proxy.chat.request import ChatRequest
    from trio_ai_proxy.errors import GuardBlocked

Part = Literal["text", "reasoning", "refusal", "arguments"]
Mode = Literal["hold", "beside"]


class Desk(Protocol):
    """What a guard may do beyond thinking, for one exchange. All of it is cancelled with the exchange, counts against its
    deadlines, and is in its books."""

    async def ask(self, guard: str, model: str, fields: Mapping[str, Any], *, seconds: float) -> Answer:
        """Have the configured `model` answer a chat request with these `fields` (without `model` and `stream`), as an exchange of
        its own, a child of this one, without guards. Raises `ProxyError` where it did not answer within `seconds`."""
        ...

    async def moderate(self, guard: str, model: str, text: str, *, seconds: float) -> Mapping[str, Any]:
        """Have the configured moderation `model` judge `text`. Returns the first result of the provider's answer in OpenAI's form
        (`flagged`, `categories`, `category_scores`). Raises `ProxyError` where there was none within `seconds`."""
        ...

    async def post(
        self, guard: str, url: str, headers: Mapping[str, str], body: bytes, *, seconds: float
    ) -> tuple[int, bytes]:
        """POST `body` (JSON) to a configured web service. Returns its status and its body, of at most 1 MiB. Raises
        `ProxyError` where there was no answer within `seconds`."""
        ...


class RequestGuard(Protocol):
    """Sees a request before it goes anywhere."""

    async def enter(self, request: ChatRequest, desk: Desk) -> ChatRequest:
        """`request` as it may go on; the very same object where nothing is to change. Raises `GuardBlocked`, and `GuardFailed`
        where it could not be asked."""
        ...


class Filter(Protocol):
    """One answer on its way out, as events. One is made for each answer, and nothing of it is shared. Pure.

    blocked  why the answer ends here, None while it may go on. What `feed` returned with it may still leave; nothing after it
    held     characters that are held back now, over all parts
    hits     how often something was found, whatever was done about it
    """

    blocked: GuardBlocked | None
    held: int
    hits: int

    def feed(self, events: Sequence[Event]) -> list[Event]:
        """What may leave of `events` and of what was held before, in order within each part. A part is what the client joins
        together: the text, the reasoning or the refusal of one choice, the arguments of one call. What could still become
        part of a match stays; the rest of a part leaves before the `Finished` of its choice."""
        ...

    def close(self) -> list[Event]:
        """The answer is over, without its `Finished` perhaps: what is left of it."""
        ...


class ResponseGuard(Protocol):
    """A guard with a filter."""

    def filter(self, request: ChatRequest) -> Filter:
        """One for the answer to `request`, as it was when it had gone through this guard."""
        ...


@dataclass(frozen=True, slots=True)
class Window:
    """A piece of one part of an answer, for a judge.

    new      what has not been judged before, and what a replacement replaces
    context  what came before it in the same part, already judged: at most the judge's `overlap` characters
    is_last  nothing follows in this part; of a part that ends just where a window is full, no window says so
    """

    part: Part
    index: int
    call: int
    new: str
    context: str
    is_last: bool


@dataclass(frozen=True, slots=True)
class Pass:
    """It may go out as it is."""


@dataclass(frozen=True, slots=True)
class Replace:
    """This goes out in place of the window's `new`."""

    text: str


@dataclass(frozen=True, slots=True)
class Block:
    """The answer ends here. `reason` is for the client."""

    reason: str


Verdict = Pass | Replace | Block


class Judge(Protocol):
    """Is shown windows of the answer, and asks somebody about each.

    mode     hold: nothing leaves before its verdict; beside: all leaves at once, and a verdict against it cuts (a replacement
             is then too late, and counts as none)
    window   characters that make a window full; a sentence's end closes one earlier where `by_sentence`
    overlap  characters of context before it
    parts    which parts of the answer it is shown; the others pass, in order behind what it is shown
    failures how many windows nobody has judged so far, whatever the configuration then says
    """

    mode: Mode
    window: int
    overlap: int
    by_sentence: bool
    parts: frozenset[Part]
    failures: int

    async def judge(self, window: Window, desk: Desk) -> Verdict:
        """The verdict. What the configuration says of failures (`on_failure`) is already in it. Raises nothing but
        cancellation."""
        ...


class JudgingGuard(Protocol):
    """A guard with a judge."""

    def judge_for(self, request: ChatRequest) -> Judge:
        """One for the answer to `request`."""
        ...


class Reshaper(Protocol):
    """Changes the client's own JSON after it was made: each event of a stream, and a whole answer. Pure."""

    def headers(self, headers: list[tuple[bytes, bytes]]) -> list[tuple[bytes, bytes]]:
        """The answer's headers (lower-case names) as they shall be."""
        ...

    def document(self, document: dict[str, Any]) -> dict[str, Any]:
        """One JSON object as it shall be: a whole answer, or the data of one event of a stream. `document` may be changed."""
        ...


@dataclass(frozen=True, slots=True)
class Guard:
    """A configured guard: what it does where. What it does nothing about is None.

    on_block  how a stream ends that it cuts: with `finish_reason = "content_filter"`, or with an error in the stream
    """

    name: str
    kind: str
    on_request: RequestGuard | None = None
    on_response: ResponseGuard | None = None
    judging: JudgingGuard | None = None
    reshaping: Reshaper | None = None
    on_block: Literal["finish", "error"] = "finish"
