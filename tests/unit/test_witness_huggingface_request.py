"""Hugging Face's own client library as a witness: its types know every word that we send and every frame that we recorded,
and its addresses are ours."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import pytest
from huggingface_hub import (
    ChatCompletionInput,
    ChatCompletionStreamOutput,
    FeatureExtractionInput,
    TextGenerationInput,
    TextGenerationStreamOutput,
)
from huggingface_hub.inference._providers.hf_inference import HFInferenceTask
from support.provider_streams import asked, provider
from support.recordings import Recording, recordings

pytestmark = pytest.mark.witness

HUB = provider("huggingface")


def unknown(value: Any) -> list[str]:
    """The fields that the library has no name for, wherever they stand."""
    if isinstance(value, list):
        return [name for one in value for name in unknown(one)]
    if not dataclasses.is_dataclass(value):
        return []
    names = {field.name for field in dataclasses.fields(value)}
    return [name for name in vars(value) if name not in names] + [
        name for field in names for name in unknown(getattr(value, field))
    ]


def test_chat_is_one_that_the_library_knows() -> None:
    request = asked(
        temperature=0.5, max_completion_tokens=3, stop=["a"], seed=1, top_p=0.5, logprobs=True, n=2,
        tools=[{"type": "function", "function": {"name": "f", "parameters": {}}}], tool_choice="auto",
        messages=[{"role": "developer", "content": "a"}, {"role": "user", "content": [{"type": "text", "text": "b"}]}],
    )  # fmt: skip
    body = json.loads(HUB.prepare(request, model="m", stream=True).body)
    assert unknown(ChatCompletionInput.parse_obj_as_instance(body)) == []


def test_text_is_one_that_the_library_knows() -> None:
    request = asked(
        "completions", temperature=0.5, top_p=0.5, max_tokens=3, stop=["a"], seed=1, frequency_penalty=0.5, top_k=3,
        typical_p=0.5, repetition_penalty=1.5, watermark=True, truncate=5, do_sample=True, adapter_id="a",
        grammar={"type": "regex", "value": "a"},
    )  # fmt: skip
    body = json.loads(HUB.prepare(request, model="m", stream=True).body)
    assert unknown(TextGenerationInput.parse_obj_as_instance(body)) == []


def test_texts_to_embed_are_ones_that_the_library_knows() -> None:
    request = asked("embeddings", normalize=True, prompt_name="query", truncate=True, truncation_direction="left")
    body = json.loads(HUB.prepare(request, model="m", stream=False).body)
    assert unknown(FeatureExtractionInput.parse_obj_as_instance(body)) == []


@pytest.mark.parametrize(
    ("operation", "task"), [("completions", "text-generation"), ("embeddings", "feature-extraction")]
)
def test_address_is_the_librarys(operation: Any, task: str) -> None:
    url = HUB.prepare(asked(operation), model="org/name", stream=False).url
    assert url == HFInferenceTask(task)._prepare_url("key", "org/name")


DOCUMENTED = [one for one in recordings("huggingface") if not one.name.endswith(("_nulls", "_without_details"))]


@pytest.mark.parametrize("recording", DOCUMENTED, ids=lambda recording: recording.name)
def test_recording_holds_the_librarys_frames(recording: Recording) -> None:
    known = ChatCompletionStreamOutput if recording.operation == "chat" else TextGenerationStreamOutput
    for part in recording.response.split(b"\n\n"):
        data = part.removeprefix(b"data:").strip()
        if data.startswith(b"{") and data.endswith(b"}") and b'"error"' not in data:
            known.parse_obj_as_instance(json.loads(data))
