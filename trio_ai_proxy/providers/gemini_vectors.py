"""Embeddings of Google's models: the batch of the Gemini API, and the prediction and the single embedding of Vertex AI.

Source: https://ai.google.dev/api/embeddings and
https://cloud.google.com/vertex-ai/generative-ai/docs/model-reference/text-embeddings-api
"""

from __future__ import annotations

from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from trio_ai_proxy.chat.events import Embedded, Ended, Event, Started, UsageReported
from trio_ai_proxy.chat.fields import Fate, settle_fields, unsupported
from trio_ai_proxy.chat.reading import read_inputs
from trio_ai_proxy.chat.usage import TokenUsage
from trio_ai_proxy.errors import InvalidRequest, UpstreamProtocolError
from trio_ai_proxy.providers.loose import a_dict, a_list, count, read_object

if TYPE_CHECKING:
    from collections.abc import Mapping

    from trio_ai_proxy.chat.request import ChatRequest

EMBEDDING_FATES: Mapping[str, Fate] = MappingProxyType(
    {
        "input": "translated",
        "dimensions": "translated",
        "encoding_format": "emulated",  # Google sends numbers; the client's form is made of them
        "task_type": "passed",
        "title": "passed",
    }
)
"""What becomes of the fields of a request for embeddings."""

_EXTRAS = ("task_type", "title")


def batch_body(request: ChatRequest, *, name: str, kind: str) -> tuple[dict[str, Any], tuple[str, ...]]:
    """The body of `batchEmbedContents` to the model with the full name `name` ("models/…"), and what is not said in it."""
    dropped = settle_fields(request, EMBEDDING_FATES, provider=kind)
    options = _options(request, {"task_type": "taskType", "title": "title"}, size="outputDimensionality")
    requests = [{"model": name, "content": {"parts": [{"text": text}]}, **options} for text in read_inputs(request)]
    return {"requests": requests}, dropped


def vertex_body(request: ChatRequest, *, model: str, kind: str) -> tuple[str, dict[str, Any], tuple[str, ...]]:
    """The method of Vertex AI that embeds with `model`, its body, and what is not said in it."""
    dropped = settle_fields(request, EMBEDDING_FATES, provider=kind)
    texts = read_inputs(request)
    is_gemini = model.startswith("gemini-embedding")
    if is_gemini and len(texts) > 1:
        raise unsupported("input", kind, "this model embeds one text at a time")
    if is_gemini and not model.startswith(("gemini-embedding-001", "gemini-embedding-exp")):
        options = _options(request, {"task_type": "taskType", "title": "title"}, size="outputDimensionality")
        config = {**options, "autoTruncate": False}
        return "embedContent", {"content": {"parts": [{"text": texts[0]}]}, "embedContentConfig": config}, dropped
    extras = _options(request, {name: name for name in _EXTRAS}, size="")
    # Left alone, a text that is too long is cut in silence; OpenAI refuses it, and so shall this.
    parameters = {"autoTruncate": False, **_options(request, {}, size="outputDimensionality")}
    instances = [{"content": text, **extras} for text in texts]
    return "predict", {"instances": instances, "parameters": parameters}, dropped


def read_vectors(body: bytes) -> list[Event]:
    """What any of the three answers means. Raises `UpstreamProtocolError` if it is none."""
    answer = read_object(body)
    if answer is None:
        raise UpstreamProtocolError("The provider's answer is not a JSON object.")
    found = a_list(answer.get("embeddings")) or [
        a_dict(one).get("embeddings") for one in a_list(answer.get("predictions"))
    ]
    if not found and isinstance(answer.get("embedding"), dict):
        found = [answer["embedding"]]
    events: list[Event] = [Started("", "")]
    tokens = 0
    for index, one in enumerate(map(a_dict, found)):
        vector = one.get("values")
        if not isinstance(vector, list) or not all(isinstance(number, int | float) for number in vector) or not vector:
            raise UpstreamProtocolError("The provider's answer has an embedding without numbers.")
        statistics = a_dict(one.get("statistics"))
        tokens += count(statistics.get("token_count")) or count(statistics.get("tokenCount"))
        events.append(Embedded(vector, index))
    if not found:
        raise UpstreamProtocolError("The provider's answer has no embeddings.")
    tokens = tokens or count(a_dict(answer.get("usageMetadata")).get("promptTokenCount"))
    if tokens:
        events.append(UsageReported(TokenUsage(prompt_tokens=tokens, total_tokens=tokens)))
    events.append(Ended())
    return events


def _options(request: ChatRequest, names: Mapping[str, str], *, size: str) -> dict[str, Any]:
    options = {ours: request.fields[name] for name, ours in names.items() if request.fields.get(name) is not None}
    dimensions = request.fields.get("dimensions")
    if size and dimensions is not None:
        if isinstance(dimensions, bool) or not isinstance(dimensions, int):
            raise InvalidRequest('"dimensions" must be a whole number.', param="dimensions")
        options[size] = dimensions
    return options
