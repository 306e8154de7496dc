"""Whatever a client puts into the fields, a provider says what it makes of it, or that it is the client's fault."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trio_ai_proxy.chat.fields import CHAT_FIELDS, EMBEDDING_FIELDS, TEXT_FIELDS
from trio_ai_proxy.chat.request import ChatRequest, Operation, Unsupported
from trio_ai_proxy.errors import InvalidRequest
from trio_ai_proxy.providers.table import build_provider
from trio_ai_proxy.settings import ProviderSettings

PROVIDERS = {
    kind: build_provider(ProviderSettings(name="p", kind=kind, base_url="http://h")) for kind in ("ollama", "llama2")
}

_JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**66), 2**66) | st.floats(allow_nan=False) | st.text(max_size=6),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["type", "text", "url", "name", "function", "schema", "data", "x"]), inner, max_size=4
        )
    ),
    max_leaves=6,
)
_PART = st.fixed_dictionaries(
    {"type": st.sampled_from(["text", "image_url", "input_audio", "file", "thinking", "x"]) | _JSON},
    optional={
        "text": _JSON,
        "image_url": st.sampled_from(["data:;base64,AAAA", "data:x", "http://h/a"]) | _JSON,
        "file": _JSON,
        "input_audio": _JSON,
    },
)
_CALL = st.fixed_dictionaries(
    {},
    optional={"id": _JSON, "function": st.fixed_dictionaries({}, optional={"name": _JSON, "arguments": _JSON}) | _JSON},
)
_MESSAGE = st.fixed_dictionaries(
    {"role": st.sampled_from(["system", "developer", "user", "assistant", "tool", "function", "x"])},
    optional={
        "content": st.lists(_PART, max_size=2) | _JSON,
        "tool_calls": st.lists(_CALL, max_size=2) | _JSON,
        **dict.fromkeys(
            ("tool_call_id", "name", "refusal", "reasoning_content", "thinking_blocks", "function_call"), _JSON
        ),
    },
)
_EXTRAS = ("options", "think", "format", "keep_alive", "top_k", "do_sample", "return_full_text", "suffix", "raw")
_FIELDS: dict[Operation, st.SearchStrategy[dict[str, Any]]] = {
    "chat": st.fixed_dictionaries(
        {"messages": st.lists(_MESSAGE, min_size=1, max_size=3)},
        optional=dict.fromkeys((*(name for name in CHAT_FIELDS if name != "messages"), *_EXTRAS), _JSON),
    ),
    "completions": st.fixed_dictionaries(
        {"prompt": st.text(min_size=1, max_size=8) | st.lists(st.integers() | st.text(), max_size=2)},
        optional=dict.fromkeys((*(name for name in TEXT_FIELDS if name != "prompt"), *_EXTRAS), _JSON),
    ),
    "embeddings": st.fixed_dictionaries(
        {"input": st.text(min_size=1, max_size=8) | st.lists(st.integers() | st.text(), max_size=2)},
        optional=dict.fromkeys((*(name for name in EMBEDDING_FIELDS if name != "input"), *_EXTRAS), _JSON),
    ),
}


@pytest.mark.parametrize("kind", list(PROVIDERS))
@pytest.mark.parametrize("operation", list(_FIELDS))
@given(data=st.data(), unsupported=st.sampled_from(["auto", "drop", "error"]))
def test_fields_are_said_or_are_the_clients_fault(
    kind: str, operation: Operation, data: st.DataObject, unsupported: Unsupported
) -> None:
    fields = data.draw(_FIELDS[operation])
    before = json.dumps(fields)
    request = ChatRequest(operation, "m", False, False, fields, unsupported)
    try:
        prepared = PROVIDERS[kind].prepare(request, model="m", stream=False)
    except InvalidRequest:
        pass
    else:
        assert isinstance(json.loads(prepared.body), dict)
        assert prepared.url.startswith("http://h")
        assert set(prepared.dropped) <= fields.keys()
    assert json.dumps(fields) == before
