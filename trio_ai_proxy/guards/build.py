"""What is configured → guards that can be run: for each kind, what it does on the way in and on the way out."""

from __future__ import annotations

from typing import TYPE_CHECKING, assert_never

from trio_ai_proxy.guards.base import Guard
from trio_ai_proxy.guards.decorate import Decorate
from trio_ai_proxy.guards.moderate import Moderate
from trio_ai_proxy.guards.patterns import NAMED, own_pattern
from trio_ai_proxy.guards.prompt_guard import PromptGuard
from trio_ai_proxy.guards.redact import Redact
from trio_ai_proxy.guards.reshape import Reshape
from trio_ai_proxy.guards.rewrite import RequestTransformer, ResponseTransformer
from trio_ai_proxy.guards.template import Template
from trio_ai_proxy.guards.webhook import Webhook

if TYPE_CHECKING:
    from collections.abc import Mapping

    from trio_ai_proxy.guards.patterns import Pattern
    from trio_ai_proxy.settings import GuardSettings, Settings


def build_guards(settings: Settings) -> Mapping[str, Guard]:
    """Every configured guard, by its name."""
    return {name: build_guard(guard) for name, guard in settings.guards.items()}


def build_guard(settings: GuardSettings) -> Guard:
    """The guard that `settings`, which are sound, describe."""
    name, kind = settings.name, settings.kind
    enters, leaves = "request" in settings.on, "response" in settings.on
    match kind:
        case "decorate":
            return Guard(name, kind, on_request=Decorate(name, settings.prepend, settings.append))
        case "template":
            return Guard(name, kind, on_request=Template(name, settings.templates, settings.allow_untemplated))
        case "prompt_guard":
            return Guard(name, kind, on_request=PromptGuard(settings))
        case "request_transformer":
            return Guard(name, kind, on_request=RequestTransformer(settings))
        case "response_transformer" if settings.model is None:
            return Guard(name, kind, reshaping=Reshape(settings.response_headers, settings.json))
        case "response_transformer":
            return Guard(name, kind, judging=ResponseTransformer(settings), on_block=settings.on_block)
        case "redact":
            redact = _redact(settings)
            return Guard(
                name,
                kind,
                on_request=redact if enters else None,
                on_response=redact if leaves or settings.reversible else None,
                on_block=settings.on_block,
            )
        case "moderate" | "webhook":
            judge = Moderate(settings) if kind == "moderate" else Webhook(settings)
            return Guard(
                name,
                kind,
                on_request=judge if enters else None,
                judging=judge if leaves else None,
                on_block=settings.on_block,
            )
        case _:
            assert_never(kind)


def _redact(settings: GuardSettings) -> Redact:
    patterns: list[Pattern] = []
    for each in settings.patterns:
        patterns += NAMED[each.name] if each.regex is None else [own_pattern(each.name, each.regex)]
    return Redact(
        settings.name,
        patterns=patterns,
        replace=settings.replace if settings.action == "replace" else None,
        action=settings.action,
        window=settings.window,
        on_overflow=settings.on_overflow,
        reversible=settings.reversible,
        redacts_answers="response" in settings.on,
    )
