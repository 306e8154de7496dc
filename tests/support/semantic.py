"""A gateway whose model "gpt-4o" goes by meaning: its targets have descriptions, and a scripted provider makes vectors of words.

    async with Meant(law=whole("law"), poem=whole("poem"), rest=whole("rest")) as bench:

A target's description is its name, but for "rest", which has none.
"""

from __future__ import annotations

import json
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from support.exchanges import QUESTION
from support.failover import Relay, _player

from trio_ai_proxy.settings import ModelSettings, ProviderSettings, Secret, SemanticSettings, TargetSettings
from trio_ai_proxy.testing import Script, ScriptedTransport, Step, openai_answer

if TYPE_CHECKING:
    from support.failover import Playing

    from trio_ai_proxy.accounting.record import ExchangeRecord
    from trio_ai_proxy.testing import ClientAnswer

WORDS = ("law", "poem", "code")


class Meant(Relay):
    """See the module.

    embed     what the embeddings provider plays; it gives vectors of words
    semantic  fields of `SemanticSettings`, but for the model
    vectors   fields of the embeddings model's settings; `target` is the provider's name for it
    account   fields of the embeddings provider's settings
    The rest is as in `Relay`; all targets have one priority unless `targets` says otherwise.
    """

    def __init__(
        self,
        *,
        embed: Playing | None = None,
        semantic: dict[str, Any] | None = None,
        vectors: dict[str, Any] | None = None,
        account: dict[str, Any] | None = None,
        model: dict[str, Any] | None = None,
        targets: dict[str, dict[str, Any]] | None = None,
        timeouts: dict[str, float] | None = None,
        **playing: Playing,
    ) -> None:
        by_meaning = {"balance": "semantic", "semantic": SemanticSettings("vectors", **(semantic or {}))}
        described = {
            name: {"priority": 0, "description": None if name == "rest" else name, **(targets or {}).get(name, {})}
            for name in playing
        }
        super().__init__(timeouts=timeouts, model={**by_meaning, **(model or {})}, targets=described, **playing)
        fields = {"target": "embed-1", "retries": 0, "timeouts": self.settings.timeouts, **(vectors or {})}
        target = TargetSettings("embed", fields.pop("target"))
        given = {"kind": "openai", "base_url": "http://embed.invalid/v1", "api_key": Secret("sk-embed", "a test")}
        self.settings = replace(
            self.settings,
            providers={**self.settings.providers, "embed": ProviderSettings("embed", **{**given, **(account or {})})},
            models={**self.settings.models, "vectors": ModelSettings("vectors", (target,), **fields)},
        )
        self.played["embed"] = ScriptedTransport(_player(vectors_of if embed is None else embed))
        self.transports = dict(self.played)

    async def say(self, text: str | list[dict[str, Any]], **manner: Any) -> ClientAnswer:
        """Ask for a whole answer about `text`."""
        question = {**QUESTION, "messages": [{"role": "user", "content": text}]}
        return await self.ask(json=question, **manner)

    async def who(self, text: str) -> str:
        """Who answers a question about `text`."""
        return (await self.say(text)).header("x-llm-provider") or ""

    @property
    def asked_about(self) -> list[Any]:
        """The inputs of the requests for vectors."""
        return [fields["input"] for fields in self.asked("embed")]

    @property
    def children(self) -> list[ExchangeRecord]:
        """The records of exchanges that the gateway has made itself."""
        return [record for record in self.records if record.parent is not None]

    @property
    def clients(self) -> list[ExchangeRecord]:
        """The records of the others."""
        return [record for record in self.records if record.parent is None]

    def counted(self) -> dict[str, float]:
        """What became of finding out what requests are about, as the metrics say."""
        page = self.gateway.metrics.render()[0].decode()
        head = 'trio_ai_proxy_semantic_total{model="gpt-4o",result="'
        lines = [line.removeprefix(head).split('"} ') for line in page.splitlines() if line.startswith(head)]
        return {result: float(value) for result, value in lines}


def whole(text: str) -> Script:
    """A whole answer that says `text`."""
    return openai_answer(text, usage=(3, 1))


def vectors_of(fields: dict[str, Any], *, head_pause: float = 0.0) -> Script:
    """The answer to one request for embeddings: how often each of the words is in each text."""
    texts = [fields["input"]] if isinstance(fields["input"], str) else fields["input"]
    return embedded([[float(text.count(word)) for word in WORDS] for text in texts], head_pause=head_pause)


def embedded(vectors: list[list[float]], *, head_pause: float = 0.0) -> Script:
    """An answer with these vectors."""
    data = [{"object": "embedding", "index": place, "embedding": vector} for place, vector in enumerate(vectors)]
    usage = {"prompt_tokens": 2 * len(vectors), "total_tokens": 2 * len(vectors)}
    return documented({"object": "list", "data": data, "model": "embed-1", "usage": usage}, head_pause=head_pause)


def documented(document: dict[str, Any], *, head_pause: float = 0.0, pause: float = 0.0) -> Script:
    """A JSON document, `pause` seconds after the head."""
    body = json.dumps(document).encode()
    return Script(
        headers=(("content-type", "application/json"),),
        steps=lambda: iter([Step(0.0, body[:1]), Step(pause, body[1:])]),
        head_pause=head_pause,
    )
