"""The demo service as an upstream in memory: it reads what a real one would be sent, and answers on Trio's clock."""

from __future__ import annotations

import json
import time
import uuid
from typing import TYPE_CHECKING

from trio_ai_proxy.providers.demo_script import DemoAnswer, demo_script, error_answer
from trio_ai_proxy.upstream.script import Script, ScriptedTransport, Step

if TYPE_CHECKING:
    import httpx


def demo_transport() -> ScriptedTransport:
    """A transport that answers `…/chat/completions` and `…/completions` as the demo service does."""
    return ScriptedTransport(answer_demo)


def answer_demo(request: httpx.Request) -> Script:
    """The script of the demo service's answer to one request."""
    answer = _answer(request)
    return Script(
        status=answer.status,
        headers=answer.headers,
        steps=lambda: (Step(pause, chunk) for pause, chunk in answer.steps),
        head_pause=answer.head_pause,
        ending=answer.ending,
    )


def _answer(request: httpx.Request) -> DemoAnswer:
    path = request.url.path
    if request.method != "POST" or not path.endswith("/completions"):
        return error_answer(404, f"Invalid URL ({request.method} {path})", type="invalid_request_error")
    try:
        fields = json.loads(request.read())
    except (ValueError, RecursionError):
        fields = None
    if not isinstance(fields, dict):
        return error_answer(400, "We could not parse the JSON body of your request.", type="invalid_request_error")
    return demo_script(
        str(fields.get("model", "")),
        "chat" if path.endswith("/chat/completions") else "completions",
        fields,
        answer_id=uuid.uuid4().hex,
        created=int(time.time()),
    )
