"""What the guards of one exchange may ask for, and what the gateway asks for by itself: see `guards.base.Desk`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from trio_ai_proxy.errors import UpstreamProtocolError
from trio_ai_proxy.relay.child import ask_child

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from trio_ai_proxy.chat.fold import Answer
    from trio_ai_proxy.relay.child import Home
    from trio_ai_proxy.relay.exchange import Exchange
    from trio_ai_proxy.upstream.webhook import Webhooks


class ExchangeDesk:
    """The `Desk` of one exchange. Whoever asks waits in its own task: cancelling that cancels what was asked, and an answer is
    never waited for longer than the exchange itself may take."""

    __slots__ = ("_exchange", "_home", "_webhooks")

    def __init__(self, home: Home, exchange: Exchange, webhooks: Webhooks) -> None:
        self._home = home
        self._exchange = exchange
        self._webhooks = webhooks

    async def ask(self, guard: str, model: str, fields: Mapping[str, Any], *, seconds: float) -> Answer:
        """See `Desk.ask`."""
        return await ask_child(self._home, self._exchange, guard, "chat", model, fields, seconds=seconds)

    async def moderate(self, guard: str, model: str, text: str, *, seconds: float) -> Mapping[str, Any]:
        """See `Desk.moderate`."""
        answer = await ask_child(
            self._home, self._exchange, guard, "moderations", model, {"input": text}, seconds=seconds
        )
        return answer.moderations[0]

    async def post(
        self, guard: str, url: str, headers: Mapping[str, str], body: bytes, *, seconds: float
    ) -> tuple[int, bytes]:
        """See `Desk.post`."""
        return await self._webhooks.post(guard, url, headers, body, seconds=seconds)

    async def embed(self, purpose: str, model: str, texts: Sequence[str], *, seconds: float) -> list[list[float]]:
        """The vectors of `texts`, none of which is empty, by the configured embeddings `model`. Raises `ProxyError` where there
        were none within `seconds`, or not as many."""
        single = len(texts) == 1  # some models take one text a request, and no list
        fields = {"input": texts[0] if single else list(texts)}
        answer = await ask_child(self._home, self._exchange, purpose, "embeddings", model, fields, seconds=seconds)
        vectors = [vector for vector in answer.embeddings if isinstance(vector, list)]
        if len(vectors) != len(texts):
            raise UpstreamProtocolError(f"The model `{model}` gave {len(vectors)} vectors for {len(texts)} texts.")
        return vectors
