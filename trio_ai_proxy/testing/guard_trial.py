"""What a guard makes of a text, as a request and as an answer that comes in pieces: `trio-ai-proxy guard test`.

An answer may be cut anywhere on its way, so it is cut everywhere here, and every cut must come to the same. Guards that ask
somebody (a model, a web service) cannot be tried so: there is nobody to ask without a gateway that runs.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import msgspec
import trio

from trio_ai_proxy.chat.events import Ended, Finished, Started, TextDelta
from trio_ai_proxy.chat.fold import Answer, Choice
from trio_ai_proxy.dialects.table import DIALECTS
from trio_ai_proxy.errors import ClientError, ConfigError, GuardBlocked
from trio_ai_proxy.guards.build import build_guard

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from trio_ai_proxy.chat.events import Event
    from trio_ai_proxy.chat.request import ChatRequest
    from trio_ai_proxy.guards.base import RequestGuard, Reshaper, ResponseGuard
    from trio_ai_proxy.settings import Settings

MOST_CUTS = 2000
"""A longer text is cut at so many places, evenly spread."""

_MODEL = "any"
_DIALECT_OF_FIELD = {"messages": "llm/v1/chat", "prompt": "llm/v1/completions", "input": "llm/v1/embeddings"}


@dataclass(frozen=True, slots=True)
class Trial:
    """`report` is for people, with a line feed at its end; `agrees` says that every cut came to the same."""

    report: str
    agrees: bool


def try_guard(settings: Settings, name: str, text: str) -> Trial:
    """Have the guard called `name` look at `text`: as what a user says (or as a whole request, if it is one in OpenAI's JSON),
    and as an answer. Raises `ConfigError` for a guard that there is not, or that asks somebody."""
    if name not in settings.guards:
        names = ", ".join(settings.guards) or "none"
        raise ConfigError([f"guard test {name}: there is no such guard; there are: {names}."])
    found = settings.guards[name]
    asks = f'the model "{found.model}"' if found.model is not None else found.url and "a web service"
    if asks:
        raise ConfigError(
            [f"guard test {name}: it asks {asks}, and needs a running gateway for that: send it a request."]
        )
    guard = build_guard(found)
    lines = [f"guard {name} ({guard.kind})"]
    request = _request(text)
    agrees = True
    if guard.on_request is not None:
        request, said = _as_request(guard.on_request, request)
        lines += ["", "as a request", *said]
    if guard.on_response is not None:
        agrees, said = answer_trial(guard.on_response, request, text)
        lines += ["", "as an answer", *said]
    if guard.reshaping is not None:
        lines += ["", "as an answer", *_reshaped(guard.reshaping, request, text)]
    return Trial("\n".join(lines) + "\n", agrees)


def _request(text: str) -> ChatRequest:
    fields: Any = None
    try:
        fields = msgspec.json.decode(text.encode("utf-8", "replace"))
    except (msgspec.DecodeError, RecursionError):
        pass
    if not isinstance(fields, dict) or not _DIALECT_OF_FIELD.keys() & fields.keys():
        fields = {"messages": [{"role": "user", "content": text}]}
    dialect = DIALECTS[next(dialect for field, dialect in _DIALECT_OF_FIELD.items() if field in fields)]
    try:
        return dialect.parse_request(msgspec.json.encode({"model": _MODEL, **fields}))
    except ClientError as error:
        raise ConfigError([f"guard test: this is no request: {error.message}"]) from error


def _as_request(guard: RequestGuard, request: ChatRequest) -> tuple[ChatRequest, list[str]]:
    """The request that goes on, and what became of it, in lines."""
    try:
        behind = trio.run(partial(guard.enter, request, _Nobody()))
    except GuardBlocked as error:
        return request, [f"  result  refused with {error.status} ({error.code}): {error.message}"]
    if behind is request:
        return request, ["  result  passes as it is"]
    fields = {name: value for name, value in behind.fields.items() if name != "model"}
    return behind, ["  result  goes on as", *_indented(_pretty(fields))]


@dataclass(frozen=True, slots=True)
class _Run:
    """One way through the filter: what left, whether and why it ended early, how often something was found, what was held."""

    text: str
    blocked: str | None
    hits: int
    held: int


def answer_trial(guard: ResponseGuard, request: ChatRequest, text: str) -> tuple[bool, list[str]]:
    """Whether all cuts of an answer that says `text` come to the same, and what became of it, in lines."""
    whole = _run(guard, request, [text])
    step = max(1, -(-len(text) // MOST_CUTS))
    places = range(step, len(text), step)
    runs = {place: _run(guard, request, [text[:place], text[place:]]) for place in places}
    letters = _run(guard, request, list(text))
    odd = next((f"cut after {place} characters" for place, run in runs.items() if _differs(run, whole)), None)
    if odd is None and _differs(letters, whole):
        odd = "cut after every character"
    held = max(run.held for run in (whole, letters, *runs.values()))
    where = (
        "every position" if step == 1 else f"every {step}{'nd' if step == 2 else 'rd' if step == 3 else 'th'} position"
    )
    lines = [
        f"  result  {'ends early: ' + whole.blocked if whole.blocked is not None else 'goes out as'}",
        *_indented(whole.text),
        f"  found   {whole.hits}",
        f"  held    at most {held} characters",
    ]
    if odd is None:
        return True, [*lines, f"  cuts    at {where}, and at all of them at once: all come to the same"]
    different = (
        letters if odd.endswith("every character") else next(run for run in runs.values() if _differs(run, whole))
    )
    return False, [*lines, f"  cuts    {odd}, it comes to something else:", *_indented(different.text)]


def _differs(run: _Run, other: _Run) -> bool:
    return (run.text, run.blocked) != (other.text, other.blocked)


def _run(guard: ResponseGuard, request: ChatRequest, pieces: Sequence[str]) -> _Run:
    it = guard.filter(request)
    batches: list[list[Event]] = [
        [Started("", _MODEL)],
        *(_said(piece) for piece in pieces),
        [Finished("stop"), Ended()],
    ]
    out: list[Event] = []
    held = 0
    for batch in batches:
        out += it.feed(batch)
        held = max(held, it.held)
        if it.blocked is not None:
            break
    else:
        out += it.close()
    text = "".join(event.text for event in out if isinstance(event, TextDelta))
    return _Run(text, it.blocked.message if it.blocked is not None else None, it.hits, held)


def _said(text: str) -> list[Event]:
    return [TextDelta(text)]


def _reshaped(reshaper: Reshaper, request: ChatRequest, text: str) -> list[str]:
    """A whole answer and an event of a stream that say `text`, as they leave."""
    chat = DIALECTS["llm/v1/chat"]
    answer = Answer("chatcmpl-1", _MODEL, choices=[Choice(0, text=text, finish_reason="stop")])
    whole = chat.encode_answer(answer, request)
    *_, event, _ = chat.encoder(Started(answer.id, _MODEL), request).feed([TextDelta(text)]).split(b"\n\n")
    headers = [(b"content-type", b"application/json"), (b"x-llm-provider", b"any"), (b"x-llm-model", b"any")]
    documents = [reshaper.document(msgspec.json.decode(each)) for each in (whole, event.removeprefix(b"data: "))]
    said = [f"{name.decode()}: {value.decode()}" for name, value in reshaper.headers(headers)]
    return [
        "  headers go out as",
        *_indented("\n".join(said)),
        "  the whole of it goes out as",
        *_indented(_pretty(documents[0])),
        "  an event of a stream goes out as",
        *_indented(_pretty(documents[1])),
    ]


def _pretty(document: Mapping[str, Any]) -> str:
    return msgspec.json.format(msgspec.json.encode(document), indent=2).decode()


def _indented(text: str) -> list[str]:
    return [f"    {line}" for line in text.splitlines()] or ["    (nothing)"]


class _Nobody:
    """A desk at which nobody sits: the guards that are tried ask nobody."""

    async def ask(self, guard: str, model: str, fields: Mapping[str, Any], *, seconds: float) -> Answer:
        raise RuntimeError(f"the guard '{guard}' asks a model, and was taken for one that asks nobody")

    async def moderate(self, guard: str, model: str, text: str, *, seconds: float) -> Mapping[str, Any]:
        raise RuntimeError(f"the guard '{guard}' asks a model, and was taken for one that asks nobody")

    async def post(
        self, guard: str, url: str, headers: Mapping[str, str], body: bytes, *, seconds: float
    ) -> tuple[int, bytes]:
        raise RuntimeError(f"the guard '{guard}' asks a web service, and was taken for one that asks nobody")
