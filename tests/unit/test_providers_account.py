"""Where an account is, how its credential is presented, and what is never shown of it."""

from __future__ import annotations

from typing import Any

import pytest

from trio_ai_proxy.errors import ConfigError
from trio_ai_proxy.providers.account import Account
from trio_ai_proxy.providers.table import KINDS
from trio_ai_proxy.settings import AuthSettings, ProviderSettings, Secret

KEY = Secret("sk-1234567890", "a test")


def account(kind: str = "openai", *, settings: dict[str, Any] | None = None, **more: Any) -> Account:
    given = {"api_key": KEY, **(settings or {})}
    return Account(ProviderSettings(name="mine", kind=kind, **given), KINDS[kind], **more)


def headers(made: Account, accept: str = "application/json") -> dict[bytes, bytes]:
    return dict(made.headers(accept))


class TestPlace:
    def test_is_the_configured_one_or_the_kinds_or_the_default(self) -> None:
        assert account(settings={"base_url": "http://h/x/"}, default_base_url="http://d").base_url == "http://h/x"
        assert account(default_base_url="http://d").base_url == "https://api.openai.com/v1"
        assert account("vllm", default_base_url="http://d/").base_url == "http://d"
        with pytest.raises(ConfigError, match="provider 'mine' of kind 'vllm' needs a base_url"):
            account("vllm")

    def test_paths_and_queries_are_added(self) -> None:
        made = account(settings={"base_url": "http://h/v1/?a=1"})
        assert made.url("/x") == "http://h/v1/x?a=1"
        assert made.url("/x%3A1", b="ü &") == "http://h/v1/x%3A1?a=1&b=%C3%BC%20%26"
        assert account().url("/x", alt="sse") == "https://api.openai.com/v1/x?alt=sse"


class TestCredential:
    def test_is_presented_as_the_kind_wants_it(self) -> None:
        assert headers(account())[b"authorization"] == b"Bearer sk-1234567890"
        made = account(key_header="x-api-key", key_prefix="")
        assert headers(made)[b"x-api-key"] == b"sk-1234567890"
        assert b"authorization" not in headers(made)

    def test_wins_over_a_header_of_its_name(self) -> None:
        made = account(
            settings={"headers": {"X-Api-Key": "mine"}}, key_header="x-api-key", headers={"X-API-KEY": "kind"}
        )
        assert headers(made)[b"x-api-key"] == b"Bearer sk-1234567890"

    def test_may_be_a_header_of_another_name(self) -> None:
        auth = AuthSettings(header_name="X-Key", header_value=Secret("abc", "a test"))
        made = headers(account(settings={"auth": auth}))
        assert made[b"x-key"] == b"abc"
        assert b"authorization" not in made

    def test_may_be_a_parameter_or_a_field(self) -> None:
        query = AuthSettings(param_name="k", param_value=Secret("a b", "a test"), param_location="query")
        assert account(settings={"auth": query, "api_key": None}).url("/x").endswith("/x?k=a%20b")
        field = AuthSettings(param_name="k", param_value=Secret("a b", "a test"), param_location="body")
        made = account(settings={"auth": field, "api_key": None})
        assert made.body_credential == {"k": "a b"}
        assert account().body_credential == {}

    def test_that_no_header_can_carry_is_refused_without_being_shown(self) -> None:
        with pytest.raises(ConfigError) as caught:
            account(settings={"api_key": Secret("sk-☃", "a test")}).headers("x")
        assert "☃" not in str(caught.value)
        assert caught.value.__cause__ is None


class TestHeaders:
    def test_configured_ones_win_over_the_kinds_and_those_over_ours(self) -> None:
        made = account(
            settings={"headers": {"User-Agent": "mine", "A": "1"}}, headers={"User-Agent": "kind", "Accept": "b"}
        )
        found = headers(made)
        assert (found[b"user-agent"], found[b"accept"], found[b"a"]) == (b"mine", b"b", b"1")

    def test_ask_for_what_can_be_read(self) -> None:
        found = headers(account(), "text/event-stream")
        assert found[b"accept"] == b"text/event-stream"
        assert found[b"accept-encoding"] == b"identity"


def test_no_credential_comes_back_in_a_text() -> None:
    auth = AuthSettings(
        header_name="a", header_value=Secret("Token abcdef123", "a test"),
        param_name="b", param_value=Secret("param-value/1", "a test"), param_location="query",
    )  # fmt: skip
    made = account(
        settings={"auth": auth, "headers": {"x": "0123456789abcdef"}}, secrets=(Secret("hidden-one", "a test"), None)
    )
    shown = "sk-1234567890 Token abcdef123 abcdef123 param-value/1 param-value%2F1 0123456789abcdef hidden-one"
    assert set(made.scrub(shown).split()) == {"***"}
    assert made.scrub("nothing to hide") == "nothing to hide"
