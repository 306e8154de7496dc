"""One gateway process with a model for each guard that is proved from outside, before a provider and a web service that each
test plays anew.
"""

from __future__ import annotations

import json
from contextlib import asynccontextmanager, closing, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import trio
from support.standing import HeldPort, idle, standing

from trio_ai_proxy.testing import Script, ScriptedServer, Step

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator

    from support.command import Command

    from trio_ai_proxy.testing import ReceivedRequest

SOON = 1.0  # seconds: a bound for a machine that has other things to do; what was measured is a property of the test

CONFIG = """
[timeouts]
connect = 2
first_token = 10
idle = 10
total = 30

[guards.secrets]
kind = "redact"
on = ["response"]
patterns = [{{ name = "key", regex = 'sk-[A-Za-z0-9]{{37}}' }}]

[guards.cut-finish]
kind = "redact"
on = ["response"]
patterns = [{{ name = "key", regex = 'sk-[A-Za-z0-9]{{37}}' }}]
action = "block"

[guards.cut-error]
kind = "redact"
on = ["response"]
patterns = [{{ name = "key", regex = 'sk-[A-Za-z0-9]{{37}}' }}]
action = "block"
on_block = "error"

[guards.translate]
kind = "request_transformer"
model = "small"
prompt = "TRANSLATE"

[guards.form]
kind = "response_transformer"
[guards.form.json]
add = {{ served_by = "us" }}
remove = ["system_fingerprint"]
[guards.form.response_headers]
add = {{ x-served-by = "us" }}

[guards.louder]
kind = "response_transformer"
model = "small"
prompt = "LOUDER"

[guards.office]
kind = "webhook"
url = "{hook}/judge"
headers = {{ authorization = "Bearer office-token" }}
window = 16

[guards.office-answers]
kind = "webhook"
url = "{hook}/judge"
on = ["response"]
window = 16
timeout = "300ms"

[guards.office-open]
kind = "webhook"
url = "{hook}/judge"
window = 16
timeout = "300ms"
on_failure = "open"

[guards.office-closed]
kind = "webhook"
url = "{hook}/judge"
window = 16
timeout = "300ms"

[providers.scripted]
kind = "openai_compatible"
base_url = "{provider}/v1"
api_key = "sk-upstream"

[models.small]
targets = [{{ provider = "scripted", model = "small" }}]
"""
MODELS = {
    "secrets": ("secrets",),
    "cut-finish": ("cut-finish",),
    "cut-error": ("cut-error",),
    "transformed": ("translate", "louder", "form"),
    "office": ("office",),
    "office-answers": ("office-answers",),
    "office-open": ("office-open",),
    "office-closed": ("office-closed",),
}


@dataclass(frozen=True)
class House:
    gateway: Command
    provider: HeldPort
    hook: HeldPort


@contextmanager
def guarded_house() -> Iterator[House]:
    """For a fixture of module scope."""
    provider, hook = HeldPort(), HeldPort()
    config = CONFIG.format(provider=provider.url, hook=hook.url)
    for name, guards in MODELS.items():
        config += f"[models.{name}]\nguards = {json.dumps(guards)}\nretries = 0\n"
        config += f'targets = [{{ provider = "scripted", model = "{name}" }}]\n'
    with closing(provider), closing(hook), standing(config, server="validate_streams = true") as gateway:
        yield House(gateway, provider, hook)


async def check_clean(house: House) -> None:
    """Nothing is left, and nothing went wrong that no client saw."""
    with trio.fail_after(20):
        await idle(house.gateway)
    for word in ('"bug"', "Traceback", "illegal stream"):
        assert word not in house.gateway.log


@asynccontextmanager
async def serving(
    port: HeldPort, answer: Callable[[ReceivedRequest], Script] | Script
) -> AsyncIterator[ScriptedServer]:
    server = ScriptedServer(answer)
    server.port = port.number
    with trio.fail_after(60):
        async with server:
            yield server


def streamed(*chunks: bytes, pause: float = 0.0) -> Script:
    """These chunks, one write each."""
    return Script(steps=lambda: iter([Step(pause if number else 0.0, chunk) for number, chunk in enumerate(chunks)]))
