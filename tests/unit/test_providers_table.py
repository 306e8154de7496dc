from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import pytest

from trio_ai_proxy.dialects.table import DIALECTS
from trio_ai_proxy.errors import ConfigError
from trio_ai_proxy.providers.table import KINDS, build_provider
from trio_ai_proxy.settings import ProviderSettings, Secret

if TYPE_CHECKING:
    from trio_ai_proxy.providers.kind import Kind

ROWS = list(KINDS.values())

# What an account of these kinds needs beside an address.
PLACES: dict[str, dict[str, Any]] = {
    "vertex": {"project": "p", "location": "europe-west4"},
    "bedrock": {"region": "eu-central-1"},
}


@pytest.mark.parametrize("kind", ROWS, ids=lambda kind: kind.name)
class TestEveryRow:
    def test_has_a_plain_name(self, kind: Kind) -> None:
        assert re.fullmatch(r"[a-z][a-z0-9_]*", kind.name)
        assert KINDS[kind.name] is kind

    def test_says_where_it_is_from(self, kind: Kind) -> None:
        assert len(kind.source) > 20
        assert "https://" in kind.source or kind.name == "demo"

    def test_serves_what_some_dialect_asks_for(self, kind: Kind) -> None:
        assert kind.capabilities.operations
        ours = {"moderations"}  # which the gateway itself asks for, on behalf of guards
        assert kind.capabilities.operations <= {dialect.operation for dialect in DIALECTS.values()} | ours

    def test_sends_keys_over_tls_only(self, kind: Kind) -> None:
        if kind.needs_key and kind.default_base_url is not None:
            assert urlsplit(kind.default_base_url).scheme == "https"

    def test_address_can_be_extended(self, kind: Kind) -> None:
        if kind.default_base_url is not None:
            assert not kind.default_base_url.endswith("/")
            assert urlsplit(kind.default_base_url).hostname

    def test_can_be_built(self, kind: Kind) -> None:
        settings = ProviderSettings(
            name="mine", kind=kind.name, base_url=kind.default_base_url or "http://127.0.0.1:1/v1",
            api_key=Secret("sk-1234567890", "a test") if kind.needs_key else None,
            **PLACES.get(kind.name, {}),
        )  # fmt: skip
        provider = build_provider(settings)
        assert (provider.name, provider.kind, provider.wire) == ("mine", kind.name, kind.wire)
        assert provider.capabilities == kind.capabilities


def test_table_cannot_be_changed() -> None:
    with pytest.raises(TypeError):
        KINDS["x"] = ROWS[0]  # type: ignore[index]


def test_unknown_kind_is_named_with_those_that_there_are() -> None:
    with pytest.raises(ConfigError, match=r"no kind 'opnai'.*openai"):
        build_provider(ProviderSettings(name="mine", kind="opnai"))


def test_no_server_of_ones_own_is_looked_for_where_the_gateway_listens() -> None:
    assert not [kind.name for kind in ROWS if kind.default_base_url and urlsplit(kind.default_base_url).port == 8000]
