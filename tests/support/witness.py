"""A gateway process before a real engine, and the official SDK's two clients asked in one way."""

from __future__ import annotations

from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import openai
import trio
from support.command import Command
from support.engine import Engine, start_engine
from support.tiny_model import Size, cached_model

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterable

ENGINE_MODEL = "witness"
SdkClient = openai.OpenAI | openai.AsyncOpenAI


@asynccontextmanager
async def engine_and_gateway(
    size: Size = "tiny", *, hypercorn: bool = False, extra: str = ""
) -> AsyncIterator[tuple[Engine, Command]]:
    """An engine, and a gateway whose model `witness` it is. `extra` is further TOML."""
    async with start_engine(cached_model(size)) as engine:
        config = f"""
[tokens]
load_timeout = 0.1
[providers.engine]
kind = "llamacpp"
base_url = "{engine.base_url}/v1"
[models.{ENGINE_MODEL}]
targets = [{{ provider = "engine", model = "any" }}]
{extra}
"""
        async with Command(config, hypercorn=hypercorn) as gateway:
            yield engine, gateway


@dataclass(frozen=True, slots=True)
class Said:
    """What the SDK made of one answer. `usages` holds one for each chunk (or whole answer) that carried any."""

    text: str
    finish_reason: str | None
    models: frozenset[str]
    usages: tuple[tuple[int, int, int], ...]


def sdk(kind: Literal["sync", "async"], url: str, *, key: str = "sk-unused") -> SdkClient:
    """The SDK's client for the API at `url`, with its retries switched off: what happened is what is seen."""
    make: type[SdkClient] = openai.OpenAI if kind == "sync" else openai.AsyncOpenAI
    return make(base_url=f"{url}/v1", api_key=key, max_retries=0, timeout=30)


async def close(client: SdkClient) -> None:
    """Close a client of either sort."""
    if isinstance(client, openai.OpenAI):
        client.close()
    else:
        await client.close()


async def ask(client: SdkClient, operation: Literal["chat", "completions"], **fields: Any) -> Said:
    """Ask and read to the end; the synchronous client does so in a worker thread. Raises what the SDK raises."""
    fields = _defaults(operation) | fields
    if isinstance(client, openai.OpenAI):
        return await trio.to_thread.run_sync(_ask_sync, client, operation, fields)
    # The overloads of `create` do not know a `stream` that is decided at run time.
    create: Any = client.chat.completions.create if operation == "chat" else client.completions.create
    answer = await create(**fields)
    return _folded([chunk async for chunk in answer] if fields.get("stream") else [answer])


def _ask_sync(client: openai.OpenAI, operation: str, fields: dict[str, Any]) -> Said:
    create: Any = client.chat.completions.create if operation == "chat" else client.completions.create
    answer = create(**fields)
    return _folded(list(answer) if fields.get("stream") else [answer])


def _defaults(operation: str) -> dict[str, Any]:
    if operation == "chat":
        return {"model": ENGINE_MODEL, "messages": [{"role": "user", "content": "the river"}]}
    return {"model": ENGINE_MODEL, "prompt": "the river"}


def _folded(chunks: Iterable[Any]) -> Said:
    text, finish_reason = [], None
    models, usages = set(), []
    for chunk in chunks:
        models.add(chunk.model)
        for choice in chunk.choices:
            said = getattr(choice, "delta", None) or getattr(choice, "message", None)
            text.append((said.content if said is not None else getattr(choice, "text", None)) or "")
            finish_reason = choice.finish_reason or finish_reason
        if chunk.usage is not None:
            usages.append((chunk.usage.prompt_tokens, chunk.usage.completion_tokens, chunk.usage.total_tokens))
    return Said("".join(text), finish_reason, frozenset(models), tuple(usages))
