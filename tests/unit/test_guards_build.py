"""What is configured becomes guards that stand where they should."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, get_args

import pytest
from support.config_file import DEMO, load
from support.entering import asked, entered, user

from trio_ai_proxy.chat.events import Finished, TextDelta
from trio_ai_proxy.guards.build import build_guard, build_guards
from trio_ai_proxy.settings import (
    GuardKind,
    GuardSettings,
    JSONChanges,
    MessageSettings,
    PatternSettings,
    Settings,
    TemplateSettings,
)

if TYPE_CHECKING:
    from trio_ai_proxy.guards.base import Guard

LEAST: dict[str, dict[str, Any]] = {
    "decorate": {"prepend": (MessageSettings("system", "x"),)},
    "template": {"templates": {"t": TemplateSettings(prompt="x")}},
    "prompt_guard": {"deny": ("x",)},
    "redact": {"patterns": (PatternSettings("email"), PatternSettings("staff", "E[0-9]{6}"))},
    "request_transformer": {"model": "m", "prompt": "x"},
    "response_transformer": {"model": "m", "prompt": "x"},
    "moderate": {"model": "m"},
    "webhook": {"url": "https://guard.example.com"},
}
SIDES = ("on_request", "on_response", "judging", "reshaping")


def built(kind: GuardKind, **more: Any) -> Guard:
    return build_guard(GuardSettings("g", kind, **{**LEAST[kind], **more}))


def sides(guard: Guard) -> set[str]:
    return {side for side in SIDES if getattr(guard, side) is not None}


def test_every_kind_can_be_built() -> None:
    guards = {kind: GuardSettings(kind, kind, **LEAST[kind]) for kind in get_args(GuardKind)}
    found = build_guards(Settings(guards=guards))
    assert [(name, guard.name, guard.kind) for name, guard in found.items()] == [(kind, kind, kind) for kind in guards]


@pytest.mark.parametrize(
    ("kind", "more", "expected"),
    [
        ("decorate", {}, {"on_request"}),
        ("template", {}, {"on_request"}),
        ("prompt_guard", {}, {"on_request"}),
        ("request_transformer", {}, {"on_request"}),
        ("response_transformer", {}, {"judging"}),
        ("response_transformer", {"model": None, "json": JSONChanges(remove=("a",))}, {"reshaping"}),
        ("redact", {}, {"on_request", "on_response"}),
        ("redact", {"on": ("request",)}, {"on_request"}),
        ("redact", {"on": ("request",), "reversible": True}, {"on_request", "on_response"}),
        ("redact", {"on": ("response",)}, {"on_response"}),
        ("moderate", {}, {"on_request", "judging"}),
        ("moderate", {"on": ("request",)}, {"on_request"}),
        ("moderate", {"on": ("response",)}, {"judging"}),
        ("webhook", {"on": ("response",)}, {"judging"}),
        ("webhook", {"on": ("request",)}, {"on_request"}),
    ],
)
def test_a_guard_stands_where_its_kind_and_its_settings_say(
    kind: GuardKind, more: dict[str, Any], expected: set[str]
) -> None:
    assert sides(built(kind, **more)) == expected


@pytest.mark.parametrize("kind", ["redact", "response_transformer", "moderate", "webhook"])
def test_how_it_blocks_is_as_configured(kind: GuardKind) -> None:
    assert built(kind).on_block == "finish"
    assert built(kind, on_block="error").on_block == "error"


def test_what_is_redacted_is_what_is_configured() -> None:
    text = """\
guards = ["g"]
[guards.g]
kind = "redact"
patterns = ["email", { name = "staff", regex = "E[0-9]{6}" }]
replace = "<{name}>"
"""
    settings, _ = load(DEMO + text)
    guard = build_guards(settings)["g"]
    assert guard.on_request is not None
    assert guard.on_response is not None
    request = entered(guard.on_request, asked(user("E123456 is jane@example.com")))
    assert request.fields["messages"] == user("<staff> is <email>")
    it = guard.on_response.filter(request)
    out = [
        *it.feed([TextDelta("E12"), TextDelta("3456, jane@exam"), TextDelta("ple.com!"), Finished("stop")]),
        *it.close(),
    ]
    assert "".join(event.text for event in out if isinstance(event, TextDelta)) == "<staff>, <email>!"
