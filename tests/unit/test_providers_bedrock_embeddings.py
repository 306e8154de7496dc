from __future__ import annotations

import json
from typing import Any

import pytest
from support.bedrock import CLAUDE, asked, provider

from trio_ai_proxy.chat.events import Embedded, Ended, Failed, Started, UsageReported
from trio_ai_proxy.chat.usage import TokenUsage
from trio_ai_proxy.errors import InvalidRequest, UpstreamProtocolError


class TestEmbeddings:
    def sent(self, model: str, **fields: Any) -> tuple[str, dict[str, Any]]:
        request = provider().prepare(asked("embeddings", **fields), model=model, stream=False)
        return request.url.rpartition("/model/")[2], json.loads(request.body)

    def test_titan_takes_one_text(self) -> None:
        assert self.sent("amazon.titan-embed-text-v2:0", input=["a"], dimensions=256, normalize=True, user="u") == (
            "amazon.titan-embed-text-v2%3A0/invoke",
            {"inputText": "a", "dimensions": 256, "normalize": True},
        )
        with pytest.raises(InvalidRequest) as caught:
            self.sent("amazon.titan-embed-text-v1", input=["a", "b"])
        assert (caught.value.param, caught.value.status) == ("input", 400)

    def test_cohere_takes_several(self) -> None:
        assert self.sent("us.cohere.embed-v4:0", input=["a", "b"], dimensions=512, input_type="search_query")[1] == {
            "texts": ["a", "b"], "input_type": "search_query", "embedding_types": ["float"], "output_dimension": 512,
        }  # fmt: skip

    @pytest.mark.parametrize(
        ("model", "field"),
        [
            ("amazon.titan-embed-text-v1", {"dimensions": 256}),
            ("cohere.embed-english-v3", {"dimensions": 256}),
            ("cohere.embed-english-v3", {"normalize": True}),
            ("amazon.titan-embed-text-v2:0", {"truncate": "END"}),
        ],
    )
    def test_what_the_model_has_no_word_for_is_refused(self, model: str, field: dict[str, Any]) -> None:
        with pytest.raises(InvalidRequest) as caught:
            self.sent(model, input="a", **field)
        assert caught.value.param == next(iter(field))

    def test_size_must_be_a_number(self) -> None:
        with pytest.raises(InvalidRequest, match="whole number"):
            self.sent("amazon.titan-embed-text-v2:0", input="a", dimensions="big")

    def test_other_models_do_not_serve_them(self) -> None:
        with pytest.raises(InvalidRequest, match="does not serve embeddings"):
            self.sent(CLAUDE, input="a")

    def read(self, answer: Any) -> list[Any]:
        return provider().read_answer(asked("embeddings", input="a"), json.dumps(answer).encode())

    def test_titan_s_answer_is_read(self) -> None:
        assert self.read({"embedding": [0.1, 2], "inputTextTokenCount": 3, "embeddingsByType": {}}) == [
            Started("", ""),
            Embedded([0.1, 2]),
            UsageReported(TokenUsage(3, 0, 3)),
            Ended(),
        ]

    @pytest.mark.parametrize("vectors", [[[0.5], [1]], {"float": [[0.5], [1]]}])
    def test_cohere_s_answer_is_read(self, vectors: Any) -> None:
        assert self.read({"id": "i", "embeddings": vectors}) == [
            Started("i", ""), Embedded([0.5], 0), Embedded([1], 1), Ended(),
        ]  # fmt: skip

    @pytest.mark.parametrize(
        "answer",
        [
            {},
            [],
            1,
            {"embedding": None},
            {"embedding": "x"},
            {"embedding": ["x"]},
            {"embeddings": []},
            {"embeddings": {}},
        ],
    )
    def test_what_is_none_is_refused(self, answer: Any) -> None:
        with pytest.raises(UpstreamProtocolError):
            self.read(answer)

    def test_refusal_with_a_good_status_is_one(self) -> None:
        [failed] = self.read({"Output": {"__type": "a#UnknownOperationException"}})
        assert isinstance(failed, Failed)
