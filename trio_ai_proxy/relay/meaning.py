"""`balance = "semantic"`: what a request is about, found out by asking an embeddings model before its target is chosen.

Nothing that goes wrong here is an error for the client: without vectors the targets take turns by weight.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Literal

import trio

from trio_ai_proxy.errors import InvalidRequest, ProxyError, UpstreamStatus, UpstreamTimeout
from trio_ai_proxy.routing.semantic import Directions, Remembered, Rest, text_of
from trio_ai_proxy.routing.steps import step_for

if TYPE_CHECKING:
    from collections.abc import Sequence

    from trio_ai_proxy.chat.request import ChatRequest
    from trio_ai_proxy.relay.desk import ExchangeDesk
    from trio_ai_proxy.settings import SemanticSettings

Result = Literal["asked", "remembered", "no_text", "failed", "resting"]
Report = Callable[[Result, str | None], None]

PURPOSE = "semantic"


class Meanings:
    """Of one model: what its targets are for, and what the last requests were about."""

    def __init__(self, settings: SemanticSettings, descriptions: Sequence[str | None], report: Report) -> None:
        """`descriptions` are the targets', in their order. `report` is called once for each request, with what became of it and,
        where it failed, one sentence."""
        self._settings = settings
        self._descriptions = descriptions
        self._report = report
        self._directions: Directions | None = None
        self._asking = trio.Lock()  # the descriptions are asked about once, by the first request; others wait for it
        self._remembered = Remembered()
        self._rest = Rest()

    async def similarities(self, request: ChatRequest, desk: ExchangeDesk) -> Sequence[float]:
        """How near `request` is to each target's description; nothing where that could not be had in time. Raises nothing but
        cancellation."""
        text = text_of(request)
        if not text:
            self._report("no_text", None)
            return (0.0,) * len(self._descriptions) if None in self._descriptions else ()
        found = self._remembered.get(text)
        if found is not None:
            self._report("remembered", None)
            return found
        if not self._rest.is_over(trio.current_time()):
            self._report("resting", None)
            return ()
        until = trio.current_time() + self._settings.timeout
        try:
            directions = self._directions or await self._describe(desk, until)
            if directions is None:
                self._report("resting", None)
                return ()
            [vector] = await self._embed(desk, [text], until)
            found = directions.similarities(vector)
        except (ProxyError, ValueError) as error:
            return self._failed(error)
        self._rest.worked()
        self._remembered.put(text, found)
        self._report("asked", None)
        return found

    async def _describe(self, desk: ExchangeDesk, until: float) -> Directions | None:
        """What the targets are for; None where somebody else has just failed to find out. Whoever asks may be cancelled: then
        the next one does."""
        has_turn = False
        with trio.move_on_at(until):
            await self._asking.acquire()
            has_turn = True
        if not has_turn:
            seconds = self._settings.timeout
            raise UpstreamTimeout("total", seconds, f"The descriptions' vectors were not there within {seconds:g} s.")
        try:
            if self._directions is None:
                if not self._rest.is_over(trio.current_time()):
                    return None
                self._directions = await self._ask_for_descriptions(desk, until)
            return self._directions
        finally:
            self._asking.release()

    async def _ask_for_descriptions(self, desk: ExchangeDesk, until: float) -> Directions:
        texts = [description for description in self._descriptions if description is not None]
        try:
            found = await self._embed(desk, texts, until)
        except InvalidRequest:  # some models take one text a request
            if len(texts) == 1:
                raise
            found = [vector for text in texts for vector in await self._embed(desk, [text], until)]
        vectors = iter(found)
        return Directions([None if description is None else next(vectors) for description in self._descriptions])

    async def _embed(self, desk: ExchangeDesk, texts: Sequence[str], until: float) -> list[list[float]]:
        return await desk.embed(PURPOSE, self._settings.model, texts, seconds=until - trio.current_time())

    def _failed(self, error: ProxyError | ValueError) -> Sequence[float]:
        # What is wrong with one text says nothing of the next.
        refused = isinstance(error, InvalidRequest | UpstreamStatus) and step_for(error) == "stop"
        if self._directions is None or not refused:
            self._rest.failed(trio.current_time())
        self._report("failed", error.message if isinstance(error, ProxyError) else f"{error}.")
        return ()
