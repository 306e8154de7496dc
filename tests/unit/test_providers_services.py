"""What a row says of a service is what goes to it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from trio_ai_proxy.chat.request import ChatRequest
from trio_ai_proxy.providers.base import Capabilities
from trio_ai_proxy.providers.services import SERVERS, SERVICES
from trio_ai_proxy.providers.table import KINDS, build_provider
from trio_ai_proxy.settings import ProviderSettings

ROWS = {kind.name: kind for kind in (*SERVERS, *SERVICES)}


def sent(kind: str, fields: dict[str, Any], *, stream: bool = False) -> dict[str, Any]:
    provider = build_provider(ProviderSettings(name="p", kind=kind, base_url="http://h/v1"))
    request = ChatRequest("chat", "m", stream, False, {"messages": [{"role": "user", "content": "x"}], **fields})
    return json.loads(provider.prepare(request, model="m", stream=stream).body)


def those(**does: Any) -> list[str]:
    return [
        name
        for name, kind in ROWS.items()
        if all(getattr(kind.capabilities, key) == value for key, value in does.items())
    ]


def test_names_are_in_order_so_that_one_is_found() -> None:
    names = [kind.name for kind in SERVICES]
    assert names == sorted(names)
    assert all(KINDS[name] is kind for name, kind in ROWS.items())


@pytest.mark.parametrize("kind", those(max_tokens_only=True))
def test_limit_is_said_in_the_older_word_where_that_is_the_only_one(kind: str) -> None:
    body = sent(kind, {"max_completion_tokens": 5, "max_tokens": 9})
    assert body["max_tokens"] == 5
    assert "max_completion_tokens" not in body
    assert sent(kind, {"max_tokens": 9})["max_tokens"] == 9
    assert "max_tokens" not in sent(kind, {"max_completion_tokens": None})


@pytest.mark.parametrize("kind", those(max_tokens_only=False))
def test_limit_is_the_clients_elsewhere(kind: str) -> None:
    assert sent(kind, {"max_completion_tokens": 5})["max_completion_tokens"] == 5


@pytest.mark.parametrize("kind", list(ROWS))
def test_developer_is_the_system_where_that_is_not_known(kind: str) -> None:
    messages = [{"role": "developer", "content": "a", "name": "n"}, {"role": "user", "content": "developer"}]
    role = "developer" if ROWS[kind].capabilities.developer_role else "system"
    assert sent(kind, {"messages": messages})["messages"] == [{**messages[0], "role": role}, messages[1]]
    assert messages[0]["role"] == "developer"


@pytest.mark.parametrize("kind", list(ROWS))
def test_usage_is_asked_for_where_that_can_be_asked(kind: str) -> None:
    body = sent(kind, {"stream_options": {"include_usage": False}}, stream=True)
    asked = {"include_usage": True} if ROWS[kind].capabilities.stream_usage else None
    assert body.get("stream_options") == asked


def test_openai_itself_is_sent_what_the_client_said() -> None:
    fields = {"messages": [{"role": "developer", "content": "a"}], "max_completion_tokens": 5}
    assert KINDS["openai"].capabilities == Capabilities(operations=KINDS["openai"].capabilities.operations)
    assert sent("openai", fields) == {**fields, "model": "m"}


def test_messages_that_are_no_objects_are_the_services_to_refuse() -> None:
    assert sent("deepseek", {"messages": ["x", None]})["messages"] == ["x", None]


def test_every_row_stands_in_the_documentation_as_it_is() -> None:
    page = (Path(__file__).parents[2] / "docs/providers/openai-compatible.md").read_text(encoding="utf-8")
    lines = {line.split("|")[1].strip(" `"): line for line in page.splitlines() if line.startswith("| `")}
    for name, kind in ROWS.items():
        _, _, place, variable, operations, differently, _ = lines[name].split("|")
        does = kind.capabilities
        assert place.strip(" `") == (kind.default_base_url or "needed")
        assert variable.strip(" `") == (kind.env or "–")
        assert set(operations.replace(" ", "").split(",")) == does.operations
        assert ("max_tokens" in differently, "system" in differently) == (does.max_tokens_only, not does.developer_role)
        assert ("stream_options" in differently, "bills on" in differently) == (
            not does.stream_usage, does.bills_after_abort,
        )  # fmt: skip
