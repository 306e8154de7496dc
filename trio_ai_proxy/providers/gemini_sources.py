"""Where the text of a Gemini answer is from, and how probable its tokens were: what Google tells beside the text, in our
words. Nothing here raises: what makes no sense is left out.

Places are told in bytes of UTF-8, ours are characters. Source: https://ai.google.dev/api/generate-content#GroundingMetadata
"""

from __future__ import annotations

from typing import Any

from trio_ai_proxy.chat.events import Cited
from trio_ai_proxy.providers.loose import a_dict, a_list, a_text, count


class Sources:
    """The sources of one candidate, gathered over its chunks."""

    __slots__ = ("_chunks", "_citations", "_supports")

    def __init__(self) -> None:
        self._chunks: list[Any] = []
        self._supports: list[Any] = []
        self._citations: list[Any] = []

    def add_grounding(self, metadata: Any) -> None:
        """`groundingMetadata` of one chunk. It may repeat what came before, or go on from there."""
        found = a_dict(metadata)
        self._chunks = _joined(self._chunks, a_list(found.get("groundingChunks")))
        self._supports = _joined(self._supports, a_list(found.get("groundingSupports")))

    def add_citations(self, metadata: Any) -> None:
        """`citationMetadata` of one chunk; its list has another name at each of Google's two services."""
        found = a_dict(metadata)
        given = a_list(found.get("citationSources")) or a_list(found.get("citations"))
        self._citations = _joined(self._citations, given)

    def cited(self, text: str, index: int) -> list[Cited]:
        """All sources that can be named, for choice `index`, whose whole text is `text`."""
        if not self._chunks and not self._citations:
            return []
        in_bytes = text.encode("utf-8", "replace")
        events = []
        chunks = [_source(chunk) for chunk in self._chunks]
        used = False
        for support in map(a_dict, self._supports):
            place = _place(a_dict(support.get("segment")), text, in_bytes)
            for position in a_list(support.get("groundingChunkIndices")):
                if isinstance(position, int) and 0 <= position < len(chunks) and chunks[position] is not None:
                    used = True
                    events.append(_event(chunks[position], place, index))
        if not used:
            events += [_event(chunk, (0, 0), index) for chunk in chunks if chunk is not None]
        for citation in map(a_dict, self._citations):
            url = a_text(citation.get("uri"))
            if url:
                place = _place(citation, text, in_bytes)
                events.append(_event((url, a_text(citation.get("title")), "", ""), place, index))
        return events


def log_probabilities(result: Any) -> list[dict[str, Any]]:
    """`logprobsResult` in OpenAI's form."""
    found = a_dict(result)
    chosen, top = a_list(found.get("chosenCandidates")), a_list(found.get("topCandidates"))
    tokens = []
    for position, one in enumerate(chosen):
        token = _token(one)
        others = a_list(a_dict(top[position]).get("candidates")) if position < len(top) else []
        token["top_logprobs"] = [_token(other) for other in others]
        tokens.append(token)
    return tokens


def _token(value: Any) -> dict[str, Any]:
    found = a_dict(value)
    token, probability = a_text(found.get("token")), found.get("logProbability")
    if isinstance(probability, bool) or not isinstance(probability, int | float) or probability != probability:
        probability = 0.0  # what is 0 is left out in Google's JSON
    return {"token": token, "logprob": probability, "bytes": list(token.encode("utf-8", "replace"))}


def _joined(known: list[Any], more: list[Any]) -> list[Any]:
    return more if more[: len(known)] == known else known + more


def _source(chunk: Any) -> tuple[str, str, str, str] | None:
    """Address, title, id and words of a source; None for one that cannot be named."""
    found = a_dict(chunk)
    for kind in ("web", "retrievedContext", "maps"):
        said = a_dict(found.get(kind))
        if not said:
            continue
        url, title = a_text(said.get("uri")), a_text(said.get("title"))
        document = a_text(said.get("documentName"))
        if url or title or document:
            # The words of a place on the map are the model's, not the source's.
            return url, title, document, a_text(said.get("text")) if kind == "retrievedContext" else ""
    return None


def _event(source: tuple[str, str, str, str] | None, place: tuple[int, int], index: int) -> Cited:
    url, title, document, quote = source or ("", "", "", "")
    return Cited(url, title, document, quote, place[0], place[1], index)


def _place(segment: dict[str, Any], text: str, in_bytes: bytes) -> tuple[int, int]:
    """The characters of `text` that a segment speaks of; both 0 if they are not to be found.

    Its bytes count from the start of its part, and parts are joined in ours: its own words, where it has them, decide.
    """
    begin, end = count(segment.get("startIndex")), count(segment.get("endIndex"))
    words = a_text(segment.get("text"))
    if begin < end <= len(in_bytes):
        start = len(in_bytes[:begin].decode("utf-8", "ignore"))
        length = len(in_bytes[begin:end].decode("utf-8", "ignore"))
        if not words or text[start : start + length] == words:
            return start, start + length
    start = text.find(words) if words else -1
    return (start, start + len(words)) if start >= 0 else (0, 0)
