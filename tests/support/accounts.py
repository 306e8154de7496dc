"""One account of every kind of provider, and which of them speaks which wire of the recordings."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from trio_ai_proxy.providers.base import EVENT_STREAM
from trio_ai_proxy.providers.table import KINDS, build_provider
from trio_ai_proxy.settings import ProviderSettings, Secret

if TYPE_CHECKING:
    from trio_ai_proxy.providers.base import Provider

# What accounts of these kinds need beside an address and a key.
PLACES: dict[str, dict[str, Any]] = {
    "vertex": {"project": "p", "location": "europe-west4"},
    "bedrock": {"region": "eu-central-1"},
}

# Folders of recordings whose name is no kind's: none so far. A wire is recorded under the kind that gave it its name.
WIRES = ("anthropic", "azure", "bedrock", "cohere", "gemini", "huggingface", "mistral", "ollama", "openai")


def account(kind: str, **settings: Any) -> Provider:
    """An account of `kind` at an address where nothing is; `settings` as in `ProviderSettings`."""
    given: dict[str, Any] = {
        "base_url": KINDS[kind].default_base_url or "http://127.0.0.1:1/v1",
        "api_key": Secret("sk-1234567890", "a test"),
        **PLACES.get(kind, {}),
    }
    return build_provider(ProviderSettings(name="mine", kind=kind, **(given | settings)))


def media_type_of(provider: Provider, data: bytes) -> str:
    """The media type under which `provider` would have sent the stream `data`, as far as its first byte tells."""
    first = data.lstrip()[:1]
    if first == b"[":
        return "application/json"
    if first == b"{":
        return next((found for found in provider.stream_types if found != EVENT_STREAM), EVENT_STREAM)
    if data[:1] == b"\0":
        return "application/vnd.amazon.eventstream"
    return provider.stream_types[0] if EVENT_STREAM not in provider.stream_types else EVENT_STREAM
