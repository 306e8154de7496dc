"""Embeddings at Bedrock: InvokeModel in the words of each model, for Converse has none.

Sources: https://docs.aws.amazon.com/bedrock/latest/userguide/model-parameters-titan-embed-text.html and
https://docs.aws.amazon.com/bedrock/latest/userguide/model-parameters-embed.html
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from trio_ai_proxy.chat.events import Embedded, Ended, Event, Failed, Started, UsageReported
from trio_ai_proxy.chat.fields import settle_fields
from trio_ai_proxy.chat.reading import read_inputs
from trio_ai_proxy.chat.usage import TokenUsage
from trio_ai_proxy.errors import InvalidRequest, UpstreamProtocolError
from trio_ai_proxy.providers.base import encode_body
from trio_ai_proxy.providers.error_words import Scrub, stream_error
from trio_ai_proxy.providers.loose import a_dict, a_list, a_text, count, read_object

if TYPE_CHECKING:
    from collections.abc import Mapping

    from trio_ai_proxy.chat.fields import Fate
    from trio_ai_proxy.chat.request import ChatRequest

EMBEDDING_FATES: Mapping[str, Fate] = {
    "input": "translated",
    "dimensions": "translated",
    "encoding_format": "emulated",
    "normalize": "passed",
    "input_type": "passed",
    "truncate": "passed",
}
"""What becomes of the fields of a request for embeddings. `dimensions` has words at Titan v2 and Cohere v4 only; `normalize`
is Titan's, `input_type` and `truncate` are Cohere's."""

_OF_TITAN = {"normalize"}
_OF_COHERE = {"input_type", "truncate"}


def invoke(request: ChatRequest, model: str, *, kind: str) -> tuple[bytes, tuple[str, ...]]:
    """The body for a request, and the names of the fields that are not said in it. Raises `InvalidRequest`."""
    texts = read_inputs(request)
    if "titan-embed" in model:
        has_sizes, wordless = "-v1" not in model, _OF_COHERE
    elif "cohere.embed" in model:
        has_sizes, wordless = "-v3" not in model, _OF_TITAN
    else:
        raise InvalidRequest(
            f"The model `{request.model}` does not serve embeddings here: Titan and Cohere models do.", param="model"
        )
    wordless = wordless if has_sizes else wordless | {"dimensions"}
    fates = {name: fate for name, fate in EMBEDDING_FATES.items() if name not in wordless}
    dropped = settle_fields(request, fates, provider=kind)
    fields = request.fields
    size = fields.get("dimensions") if has_sizes else None
    if size is not None and (isinstance(size, bool) or not isinstance(size, int)):
        raise InvalidRequest('"dimensions" must be a whole number.', param="dimensions")
    body = _titan(texts, size) if "titan-embed" in model else _cohere(texts, size)
    body |= {name: fields[name] for name, fate in fates.items() if fate == "passed" and fields.get(name) is not None}
    return encode_body(body), dropped


def _titan(texts: tuple[str, ...], size: int | None) -> dict[str, Any]:
    if len(texts) > 1:
        raise InvalidRequest('This model takes one text a request: "input" must be a single text.', param="input")
    return {"inputText": texts[0], **({} if size is None else {"dimensions": size})}


def _cohere(texts: tuple[str, ...], size: int | None) -> dict[str, Any]:
    body: dict[str, Any] = {"texts": list(texts), "input_type": "search_document", "embedding_types": ["float"]}
    return body if size is None else {**body, "output_dimension": size}


def read_embeddings(body: bytes, scrub: Scrub) -> list[Event]:
    """What an answer of either model means. Raises `UpstreamProtocolError` if it is none."""
    answer = read_object(body)
    if answer is None:
        raise UpstreamProtocolError("The provider's answer is not a JSON object.")
    vectors = answer.get("embeddings")
    if vectors is None:
        vectors = [answer["embedding"]] if "embedding" in answer else None
    elif isinstance(vectors, dict):
        vectors = vectors.get("float")
    if vectors is None:
        kind = a_text(a_dict(answer.get("Output")).get("__type")).rpartition("#")[2]
        if kind or answer.get("message"):
            return [
                Failed(stream_error({"message": answer.get("message") or f"AWS answered {kind}.", "type": kind}, scrub))
            ]
    events: list[Event] = [Started(a_text(answer.get("id")), "")]
    for index, vector in enumerate(a_list(vectors)):
        if not isinstance(vector, list) or not all(type(number) in (int, float) for number in vector):
            raise UpstreamProtocolError("The provider's answer holds an embedding that is no list of numbers.")
        events.append(Embedded(vector, index))
    if len(events) == 1:
        raise UpstreamProtocolError("The provider's answer holds no embeddings.")
    if "inputTextTokenCount" in answer:  # Cohere's count stands in a header of the answer, which is not at hand here
        tokens = count(answer["inputTextTokenCount"])
        events.append(UsageReported(TokenUsage(prompt_tokens=tokens, total_tokens=tokens)))
    return [*events, Ended()]
