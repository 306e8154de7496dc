"""Guards, judges and answers for tests of guarded exchanges."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from support.exchanges import DONE, ROLE, SERVER_ERROR, STOP, delta, said, stream, terminals, text, usage
from support.failover import Relay, ids

from trio_ai_proxy.settings.guards import GuardSettings, PatternSettings
from trio_ai_proxy.testing import openai_answer

if TYPE_CHECKING:
    from collections.abc import Callable

    import httpx
    from support.exchanges import Bench

    from trio_ai_proxy.accounting.record import ExchangeRecord
    from trio_ai_proxy.testing import ClientAnswer, Script
    from trio_ai_proxy.upstream.script import Ending

PIECES = ["My mail", " is anna@exa", "mple.org, and", " that is all."]
REDACTED = "My mail is [email], and that is all."

# How a provider may break off, for `part`.
BREAKS: dict[str, Any] = {
    "cut": {"ending": "cut"},
    "closed": {"ending": "close"},
    "silent": {"ending": "stall"},
    "error": {"last": SERVER_ERROR},
    "error with text": {"last": delta("mple") + SERVER_ERROR},
    "garbage": {"last": b"data: {nothing\n\n"},
}


def redact(**more: Any) -> GuardSettings:
    return GuardSettings(
        **{"name": "no-mail", "kind": "redact", "on": ("response",), "patterns": (PatternSettings("email"),), **more}
    )


def watch(**more: Any) -> GuardSettings:
    return GuardSettings(
        **{
            "name": "watch",
            "kind": "moderate",
            "model": "judge",
            "uses": "chat",
            "on": ("response",),
            "window": 8,
            "timeout": 2500.0,
            **more,
        }
    )


def both(answer: Callable[[], Script], judge: Callable[[str], Script]) -> Callable[[httpx.Request], Script]:
    """A provider of two models: "judge", which is given what it is shown, and all others."""

    def play(request: httpx.Request) -> Script:
        fields = json.loads(request.content)
        if fields["model"] != "judge":
            return answer()
        return judge(json.loads(fields["messages"][-1]["content"])["text"])

    return play


def verdict(word: str, after: float = 0.0) -> Script:
    return openai_answer(json.dumps({"verdict": word, "reason": "it says so"}), head_pause=after)


def told(*pieces: str, pause: float = 0.0) -> Script:
    """All of an answer."""
    return stream(delta(ROLE), *((pause, delta(one)) for one in pieces), STOP, usage(7, 11), DONE)


def mine(bench: Bench) -> ExchangeRecord:
    [record] = [record for record in bench.records if record.parent is None]
    return record


def children(bench: Bench) -> list[ExchangeRecord]:
    return [record for record in bench.records if record.parent is not None]


def reasons(answer: ClientAnswer) -> list[tuple[int, str]]:
    """The ends of choices, in their order."""
    return [
        (choice["index"], choice["finish_reason"])
        for one in said(answer)
        if isinstance(one.payload, dict)
        for choice in one.payload.get("choices", ())
        if choice.get("finish_reason")
    ]


def assert_legal(bench: Bench) -> None:
    assert bench.log("illegal stream") == []
    assert bench.log("bug") == []


def shown(fields: dict[str, Any]) -> str:
    """What a judge is shown."""
    found: str = json.loads(fields["messages"][-1]["content"])["text"]
    return found


def splice(**playing: Any) -> Relay:
    model = {"continuation": "splice", "retries": 0, **playing.pop("model", {})}
    return Relay(model=model, server={"validate_streams": True}, **playing)


def hold(**playing: Any) -> Relay:
    model = {"hold_for": 10.0, "hold_bytes": 2**20, "continuation": "hold", **playing.pop("model", {})}
    return splice(model=model, **playing)


def part(*pieces: str, pause: float = 0.0, ending: Ending = "cut", last: bytes = b"") -> Script:
    """The beginning of one."""
    steps: list[Any] = [delta(ROLE), *((pause, delta(one)) for one in pieces), *([last] if last else [])]
    return stream(*steps, ending=ending)


def assert_whole(bench: Bench, got: ClientAnswer, whole: str = REDACTED) -> None:
    assert (got.status, text(got), terminals(got)) == (200, whole, ["[DONE]"])
    assert len(ids(got)) == 1
    assert_legal(bench)
