"""Embeddings as a client of OpenAI speaks of them."""

from __future__ import annotations

import base64
import json
import struct
from typing import Any

import pytest

from trio_ai_proxy.chat.events import Started
from trio_ai_proxy.chat.fold import Answer
from trio_ai_proxy.chat.request import ChatRequest
from trio_ai_proxy.chat.usage import TokenUsage
from trio_ai_proxy.dialects.table import DIALECTS
from trio_ai_proxy.errors import InvalidRequest, TruncatedStream, UpstreamProtocolError

EMBEDDINGS = DIALECTS["llm/v1/embeddings"]
PACKED = base64.b64encode(struct.pack("<2f", 0.5, -1.0)).decode()


def body(**fields: Any) -> bytes:
    return json.dumps({"model": "m", "input": "a", **fields}).encode()


def asked(**fields: Any) -> ChatRequest:
    return ChatRequest("embeddings", "m", stream=False, include_usage=False, fields=fields)


def encode(*vectors: Any, form: str | None = None, usage: TokenUsage | None = None) -> Any:
    answer = Answer("i", "m", 5, usage=usage, embeddings=list(vectors))
    return json.loads(EMBEDDINGS.encode_answer(answer, asked(encoding_format=form)))


@pytest.mark.parametrize("value", ["a", ["a", "b"], [1, 2], [[1], [2]]])
def test_request_is_read_and_never_a_stream(value: Any) -> None:
    request = EMBEDDINGS.parse_request(body(input=value, stream=False))
    assert (request.operation, request.model, request.stream) == ("embeddings", "m", False)
    assert request.fields["input"] == value


def test_route_may_fix_the_model() -> None:
    assert EMBEDDINGS.parse_request(b'{"input":"a"}', model="fixed").model == "fixed"


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"stream": True}, "stream"), ({"input": ""}, "input"), ({"input": []}, "input"), ({"input": None}, "input"),
        ({"input": {}}, "input"), ({"encoding_format": "hex"}, "encoding_format"), ({"model": ""}, "model"),
    ],
)  # fmt: skip
def test_request_that_cannot_be_is_refused(fields: dict[str, Any], param: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        EMBEDDINGS.parse_request(body(**fields))
    assert caught.value.param == param


@pytest.mark.parametrize("form", [None, "float"])
@pytest.mark.parametrize("vector", [[0.5, -1.0], PACKED])
def test_numbers_are_numbers_whatever_the_provider_sent(form: str | None, vector: Any) -> None:
    assert encode(vector, form=form)["data"] == [{"object": "embedding", "index": 0, "embedding": [0.5, -1.0]}]


@pytest.mark.parametrize("vector", [[0.5, -1.0], [0.5, -1], PACKED])
def test_text_is_the_base64_of_32_bit_numbers(vector: Any) -> None:
    assert encode(vector, form="base64")["data"][0]["embedding"] == PACKED


def test_answer_has_its_vectors_in_order_and_the_tokens_of_the_inputs() -> None:
    answer = encode([1.0], [2.0], usage=TokenUsage(7, 0, 7))
    assert [one["index"] for one in answer["data"]] == [0, 1]
    assert answer["usage"] == {"prompt_tokens": 7, "total_tokens": 7}
    assert (answer["object"], answer["model"]) == ("list", "m")
    assert encode([1.0])["usage"] == {"prompt_tokens": 0, "total_tokens": 0}


@pytest.mark.parametrize(
    ("vector", "form"), [("%", None), ("AAA=", None), ("AAAA", None), ([1e300], "base64"), (["x"], "base64")]
)
def test_vector_that_is_none_is_the_providers_fault(vector: Any, form: str | None) -> None:
    with pytest.raises(UpstreamProtocolError):
        encode(vector, form=form)


def test_errors_are_openais() -> None:
    error = TruncatedStream("cut")
    assert json.loads(EMBEDDINGS.encode_error(error))["error"]["message"] == "cut"
    assert b'"message":"cut"' in EMBEDDINGS.encode_stream_error(error)


def test_there_is_no_stream() -> None:
    assert EMBEDDINGS.encode_usage(Started("i", "m"), TokenUsage()) == b""
    with pytest.raises(RuntimeError, match="no streams of embeddings"):
        EMBEDDINGS.encoder(Started("i", "m"))
    with pytest.raises(RuntimeError, match="no streams of embeddings"):
        EMBEDDINGS.grammar(include_usage=False, own=True)
