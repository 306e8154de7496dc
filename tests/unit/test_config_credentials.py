"""`api_keys`: how several credentials of one provider are written, resolved, refused and described."""

from __future__ import annotations

import pytest
from support.config_file import KINDS, load, problems

from trio_ai_proxy.chat.request import ChatRequest
from trio_ai_proxy.config import describe, explain, load_settings
from trio_ai_proxy.providers.table import KINDS as PROVIDER_TABLE
from trio_ai_proxy.providers.table import build_provider
from trio_ai_proxy.settings import ProviderSettings, Secret

MODEL = '\n[models.m]\ntargets = [{ provider = "x", model = "m" }]\n'
THREE = '[providers.x]\nkind = "openai"\napi_keys = ["${A}", "${B}", "file:/run/c"]\n'
REQUEST = ChatRequest("chat", "m", True, False, {"messages": [{"role": "user", "content": "Hi"}]})

# Every kind that has a credential of the form `api_key`, with what its account needs beside it.
ACCOUNTS = {
    name: {"vertex": {"location": "global"}, "bedrock": {"region": "eu-central-1"}}.get(name, {})
    for name, kind in PROVIDER_TABLE.items()
    if not kind.embedded
}


def test_variables_files_and_texts_are_resolved_in_order() -> None:
    settings, notes = load(THREE + MODEL, {"A": "key-a", "B": " key-b\n"}, {"/run/c": "key-c\n"})
    provider = settings.providers["x"]
    assert [(one.reveal(), one.source) for one in provider.api_keys] == [
        ("key-a", "environment variable A"),
        ("key-b", "environment variable B"),
        ("key-c", "file /run/c"),
    ]
    assert provider.api_key is None
    assert notes == []


def test_every_one_that_is_missing_stops_the_start() -> None:
    assert problems(THREE + MODEL, {"B": "key-b"}) == [
        'config.toml:3: environment variable A, which provider "x" needs for `api_keys`, is not set; set it before the start '
        "(export A=…) or remove the models that use this provider.",
        'config.toml:3: file /run/c, which provider "x" needs for `api_keys`, cannot be read (No such file or directory); '
        "put the value there or remove the models that use this provider.",
    ]


def test_provider_that_no_model_uses_is_left_out() -> None:
    settings, notes = load(THREE, {"A": "key-a"}, {"/run/c": "key-c"})
    assert settings.providers == {}
    assert "environment variable B is not set" in notes[0]


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        (
            'kind = "openai"\napi_key = "k"\napi_keys = ["k1", "k2"]',
            "4: `api_keys` in [providers.x] cannot stand beside `api_key`: give one credential, or a list of them.",
        ),
        (
            'kind = "openai"\napi_keys = ["k1"]\nauth = { header_name = "x-key", header_value = "v" }',
            "3: `api_keys` in [providers.x] cannot stand beside the header of `auth`, which takes the place of all of them.",
        ),
        (
            'kind = "azure"\ninstance = "i"\napi_keys = ["k1", "k2"]\nmanaged_identity = true',
            "5: `managed_identity` in [providers.x] cannot stand beside `api_keys`: each is a credential; keep one.",
        ),
        ('kind = "openai"\napi_keys = []', "3: `api_keys` in [providers.x] must name a credential."),
        ('kind = "openai"\napi_keys = "k"', "3: `api_keys` in [providers.x] must be an array, not text."),
        (
            'kind = "openai"\napi_keys = ["k", 7]',
            "3: an entry of `api_keys` in [providers.x] must be text, not a whole number.",
        ),
        ('kind = "openai"\napi_keys = ["k", " "]', "3: an entry of `api_keys` in [providers.x] must not be empty."),
        (
            'kind = "openai"\napi_keys = ["same", "other", "same"]',
            "3: `api_keys` in [providers.x] has one credential twice; name each once.",
        ),
    ],
)
def test_what_cannot_be_meant_is_one_sentence(text: str, sentence: str) -> None:
    assert problems(f"[providers.x]\n{text}\n") == [f"config.toml:{sentence}"]


def test_embedded_kind_has_none() -> None:
    text = '[providers.x]\nkind = "demo"\napi_keys = ["k1", "k2"]\n'
    with pytest.raises(Exception, match=r'`api_keys` in .* is of no use: kind "demo" has no credential') as raised:
        load_settings(text, file="c.toml", environ={}, read_file=lambda _: "", kinds=PROVIDER_TABLE)
    assert "k1" not in str(raised.value)


def test_a_parameter_of_auth_may_stand_beside_them() -> None:
    auth = 'auth = { param_name = "p", param_value = "v", param_location = "query" }'
    settings, _ = load(f'[providers.x]\nkind = "openai"\napi_keys = ["k1", "k2"]\n{auth}\n')
    assert len(settings.providers["x"].api_keys) == 2


def test_a_description_says_how_many_and_where_from() -> None:
    settings, _ = load(THREE + MODEL, {"A": "key-a", "B": "key-b"}, {"/run/c": "key-c"})
    said = describe(settings, KINDS)
    assert (
        "provider x: api_keys: 3 credentials that take turns, from environment variable A, environment variable B, file /run/c\n"
    ) in said
    assert not any(key in said for key in ("key-a", "key-b", "key-c"))


def test_a_list_of_one_is_described_as_one() -> None:
    settings, _ = load('[providers.x]\nkind = "openai"\napi_keys = ["${A}"]\n', {"A": "key-a"})
    assert "provider x: api_keys: one credential, from environment variable A\n" in describe(settings, KINDS)


@pytest.mark.parametrize("kind", ACCOUNTS)
def test_every_kind_sends_the_one_that_it_is_built_with(kind: str) -> None:
    address = PROVIDER_TABLE[kind].default_base_url or "https://llm.example.com/v1"
    keys = tuple(Secret(f"sk-{letter}-0123456789", "a test") for letter in "abc")
    settings = ProviderSettings("x", kind, base_url=address, api_keys=keys, **ACCOUNTS[kind])
    for place, key in enumerate(keys):
        provider = build_provider(settings, place)
        assert provider.authority is None
        sent = repr(provider.prepare(REQUEST, model="m", stream=False))
        assert [other.reveal() in sent for other in keys] == [other is key for other in keys]


@pytest.mark.parametrize("kind", ACCOUNTS)
def test_an_error_shows_none_of_them_whoever_was_asked(kind: str) -> None:
    keys = tuple(Secret(f"sk-{letter}-0123456789", "a test") for letter in "abc")
    address = PROVIDER_TABLE[kind].default_base_url or "https://llm.example.com/v1"
    settings = ProviderSettings("x", kind, base_url=address, api_keys=keys, **ACCOUNTS[kind])
    telling = f"wrong {' '.join(key.reveal() for key in keys)}".encode()
    error = build_provider(settings, 1).read_error(401, {"content-type": "text/plain"}, telling)
    said = f"{error.message} {error.code} {error.type} {error.details}"
    assert not any(key.reveal() in said for key in keys)


def test_an_explanation_says_that_they_take_turns() -> None:
    text = '[providers.x]\nkind = "openai"\napi_keys = ["k-first", "k-second"]\n' + MODEL
    settings, _ = load(text)
    providers = {"x": build_provider(settings.providers["x"])}
    said = explain(settings, providers, model="m").text
    assert "Provider x has 2 credentials that take turns" in said
    assert "k-first" not in said
    single, _ = load(text.replace(', "k-second"', ""))
    assert "take turns" not in explain(single, providers, model="m").text
