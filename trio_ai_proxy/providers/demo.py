"""A provider that needs no account: OpenAI's wire to the letter, spoken by the gateway itself (`upstream.demo`).

It always answers with a stream, so an answer in one piece is folded from one, and its faults come by the model's name.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from trio_ai_proxy.providers.demo_script import DEMO_MODELS, DemoAnswer, demo_script
from trio_ai_proxy.providers.openai import OpenAIProvider

if TYPE_CHECKING:
    from trio_ai_proxy.providers.kind import Kind
    from trio_ai_proxy.settings import ProviderSettings

__all__ = ["DEMO_MODELS", "DemoAnswer", "DemoProvider", "demo_script"]


class DemoProvider(OpenAIProvider):
    """The embedded service. `DEMO_MODELS` are the models that it has."""

    def __init__(self, settings: ProviderSettings, kind: Kind) -> None:
        super().__init__(settings, kind)
        self.capabilities = replace(self.capabilities, streams_only=True)
