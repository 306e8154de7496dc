from __future__ import annotations

import copy
import json
from typing import TYPE_CHECKING, Any, get_args

import pytest
from support.provider_streams import asked, provider

from trio_ai_proxy.chat.fields import CHAT_FIELDS, FIELDS, Fate
from trio_ai_proxy.chat.request import ChatRequest
from trio_ai_proxy.errors import InvalidRequest
from trio_ai_proxy.providers.huggingface_request import EMBEDDING_FATES, FATES, TEXT_FATES
from trio_ai_proxy.settings import AuthSettings, Secret

if TYPE_CHECKING:
    from trio_ai_proxy.providers.base import UpstreamRequest

OWN = {"base_url": "http://127.0.0.1:8081/"}


def prepare(
    operation: Any = "chat", *, model: str = "org/name", stream: bool = False, settings: Any = None, **fields: Any
) -> UpstreamRequest:
    request = asked(operation, **fields)
    return provider("huggingface", **(settings or {})).prepare(request, model=model, stream=stream)


def sent(operation: Any = "chat", **manner: Any) -> dict[str, Any]:
    return json.loads(prepare(operation, **manner).body)


class TestAddress:
    @pytest.mark.parametrize(
        ("operation", "stream", "at_the_router", "at_ones_own"),
        [("chat", True, "/v1/chat/completions", "/v1/chat/completions"),
         ("completions", True, "/hf-inference/models/org/name", "/generate_stream"),
         ("completions", False, "/hf-inference/models/org/name", "/generate"),
         ("embeddings", False, "/hf-inference/models/org/name/pipeline/feature-extraction", "/")],
    )  # fmt: skip
    def test_follows_the_operation(self, operation: Any, stream: bool, at_the_router: str, at_ones_own: str) -> None:
        assert prepare(operation, stream=stream).url == f"https://router.huggingface.co{at_the_router}"
        same = {"base_url": "https://router.huggingface.co/"}
        assert prepare(operation, stream=stream, settings=same).url == f"https://router.huggingface.co{at_the_router}"
        assert prepare(operation, stream=stream, settings=OWN).url == f"http://127.0.0.1:8081{at_ones_own}"

    def test_of_a_model_is_escaped(self) -> None:
        assert prepare("completions", model="o/é?x#y z%2e").url.endswith("/models/o/%C3%A9%3Fx%23y%20z%252e")

    @pytest.mark.parametrize("model", ["../../x", "o/../x", "o//x", "/o", "o/.", ""])
    @pytest.mark.parametrize("operation", ["completions", "embeddings"])
    def test_is_not_for_a_models_name_to_choose(self, operation: Any, model: str) -> None:
        with pytest.raises(InvalidRequest, match="no model of that name"):
            prepare(operation, model=model)


class TestHead:
    def test_carries_the_key(self) -> None:
        headers = dict(prepare(stream=True).headers)
        assert (headers[b"authorization"], headers[b"accept"]) == (b"Bearer sk-1234567890", b"text/event-stream")
        assert not [name for name in headers if name.startswith(b"x-")]

    def test_and_body_say_what_kong_s_options_say(self) -> None:
        settings = {"use_cache": False, "wait_for_model": True}
        for operation in ("chat", "completions", "embeddings"):
            headers = dict(prepare(operation, settings=settings).headers)
            assert (headers[b"x-use-cache"], headers[b"x-wait-for-model"]) == (b"false", b"true")
        assert sent("completions", settings=settings)["options"] == settings
        assert sent("embeddings", settings={"use_cache": True})["options"] == {"use_cache": True}
        assert "options" not in sent("chat", settings=settings)
        assert "options" not in sent("completions")

    def test_credential_can_be_in_the_body(self) -> None:
        auth = AuthSettings(param_name="token", param_value=Secret("abcdef", "a test"), param_location="body")
        assert sent("completions", settings={"auth": auth})["token"] == "abcdef"


class TestChat:
    def test_goes_on_as_it_is_with_the_targets_model(self) -> None:
        own = {"top_k": 3, "temperature": 0.5, "n": 2, "new": {"a": [None]}}
        assert sent(**own) == {
            "model": "org/name",
            "messages": [{"role": "user", "content": "hi"}],
            "stream": False,
            **own,
        }

    def test_asks_for_the_usage_of_a_stream(self) -> None:
        assert sent(stream=True, stream_options={"x": 1})["stream_options"] == {"x": 1, "include_usage": True}
        assert "stream_options" not in sent(stream_options={"include_usage": True})

    def test_has_one_limit_and_no_developer(self) -> None:
        body = sent(
            max_completion_tokens=7, max_tokens=9, messages=[{"role": "developer", "content": "a", "name": "n"}]
        )
        assert (body["max_tokens"], "max_completion_tokens" in body) == (7, False)
        assert body["messages"] == [{"role": "system", "content": "a", "name": "n"}]

    def test_leaves_the_clients_fields_as_they_were(self) -> None:
        fields = {"model": "m", "messages": [{"role": "developer", "content": "a"}], "max_completion_tokens": 1,
                  "stream_options": {}}  # fmt: skip
        before = copy.deepcopy(fields)
        provider("huggingface").prepare(ChatRequest("chat", "m", True, False, fields), model="x", stream=True)
        assert fields == before


class TestText:
    def test_parameters_stand_apart(self) -> None:
        assert sent(
            "completions", prompt="Once", stream=True, max_tokens=5, temperature=0.5, top_p=0.9, frequency_penalty=0.1, stop="x",
            seed=1, user="u", top_k=4, typical_p=0.3,
        ) == {
            "inputs": "Once", "stream": True,
            "parameters": {
                "max_new_tokens": 5, "temperature": 0.5, "top_p": 0.9, "frequency_penalty": 0.1, "stop": ["x"], "seed": 1,
                "top_k": 4, "typical_p": 0.3, "details": True, "return_full_text": False,
            },
        }  # fmt: skip
        assert prepare("completions", user="u").dropped == ("user",)

    def test_what_the_server_refuses_is_said_in_another_way(self) -> None:
        parameters = sent("completions", temperature=0, top_p=1)["parameters"]
        assert parameters == {"do_sample": False, "details": True, "return_full_text": False}

    @pytest.mark.parametrize(
        "field",
        [{"prompt": ["a", "b"]}, {"prompt": [1]}, {"echo": True}, {"best_of": 2}, {"n": 2}, {"logprobs": 1}, {"suffix": "x"},
         {"presence_penalty": 0.5}, {"logit_bias": {"1": 1}}, {"new": 1}],
    )  # fmt: skip
    def test_what_it_cannot_do_is_refused(self, field: Any) -> None:
        with pytest.raises(InvalidRequest):
            prepare("completions", **field)


class TestEmbeddings:
    def test_inputs(self) -> None:
        assert sent("embeddings", input="a", encoding_format="base64", normalize=True) == {
            "inputs": ["a"],
            "normalize": True,
        }

    @pytest.mark.parametrize("field", [{"input": [1]}, {"dimensions": 3}, {"new": 1}])
    def test_what_cannot_be_said_is_refused(self, field: Any) -> None:
        with pytest.raises(InvalidRequest):
            prepare("embeddings", **field)


@pytest.mark.parametrize(
    ("fates", "operation"), [(FATES, "chat"), (TEXT_FATES, "completions"), (EMBEDDING_FATES, "embeddings")]
)
def test_fates_are_known_ones_and_all_but_extras_are_openais(fates: Any, operation: Any) -> None:
    assert set(fates.values()) <= set(get_args(Fate))
    assert {name for name, fate in fates.items() if fate != "passed"} <= set(FIELDS[operation])
    assert set(FATES) == set(CHAT_FIELDS)
