"""A sound file becomes exactly these settings."""

from __future__ import annotations

import hashlib

import pytest
from support.config_file import DEMO, KINDS, load

from trio_ai_proxy.config import DEMO_MODELS, default_settings, init_file
from trio_ai_proxy.errors import ConfigError
from trio_ai_proxy.settings import (
    AdminSettings,
    AuthSettings,
    KeySettings,
    ModelSettings,
    ProviderSettings,
    RouteSettings,
    Secret,
    ServerSettings,
    Settings,
    TargetSettings,
    Timeouts,
    TokenSettings,
)

NO_MODEL = "no model is configured, so every request will be told that its model is unknown."

WHOLE = """\
[server]
bind = "0.0.0.0:80"
workers = 1
drain = 0
max_body = "64kB"
record_log = "${LOGS}/records"
allow_anonymous = false
cors_origins = ["https://${DOMAIN}", "*"]
h2c = "ignore"
[admin]
bind = ""
[tokens]
ranks_dir = "/ranks"
load_timeout = "1m"
[timeouts]
connect = 1
total = "1h30m"
[providers.openai]
kind = "openai"
base_url = "https://proxy.example.com/v1/"
api_key = "${OPENAI_API_KEY}"
headers = { OpenAI-Organization = "org-${DOMAIN}" }
max_in_flight = 200
transport = "httpx"
proxy = "http://proxy:3128"
http2 = true
ca_file = "/ca.pem"
[providers.company]
kind = "compatible"
base_url = "http://10.0.0.1:8080"
auth.header_name = "x-key"
auth.header_value = "Key ${DOMAIN} ${OPENAI_API_KEY}"
auth.allow_override = false
[providers.legacy]
kind = "openai"
auth = { param_name = "key", param_value = "file:/run/${DOMAIN}", param_location = "query" }
[models."gpt-4.1"]
response_streaming = "always"
on_disconnect = "grace"
grace = "2s"
keep_alive = 15
options = { temperature = 0.2, force = true, stop = ["${DOMAIN}"], nested = { a = [1, true, { b = "x" }] } }
timeouts = { idle = 10 }
[[models."gpt-4.1".targets]]
provider = "openai"
model = "gpt-4.1-2025"
priority = 2
weight = 3
timeouts = { first_token = "500ms" }
[models.plain]
targets = [{ provider = "company", model = "m" }]
[[keys]]
name = "team-a"
secret = "sesame"
models = ["gpt*", "plain"]
[[keys]]
name = "team-b"
sha256 = "9F86D081884C7D659A2FEAA0C55AD015A3BF4F1B2B0B822CD15D6C15B0F00A08"
[[routes]]
path = "/my-chat"
route_type = "llm/v1/chat"
model = "plain"
[[routes]]
path = "/text"
route_type = "llm/v1/completions"
"""


def test_every_key_of_the_file_arrives() -> None:
    environ = {"LOGS": "/var/log", "DOMAIN": "example.org", "OPENAI_API_KEY": "sk-1\n"}
    settings, notes = load(WHOLE, environ, {"/run/example.org": "  s3\n"})
    timeouts = Timeouts(connect=1.0, total=5400.0)
    model_timeouts = Timeouts(connect=1.0, total=5400.0, idle=10.0)
    assert settings == Settings(
        server=ServerSettings(
            bind="0.0.0.0:80",
            drain=0.0,
            max_body=64000,
            record_log="/var/log/records",
            cors_origins=("https://example.org", "*"),
            h2c="ignore",
        ),
        admin=AdminSettings(bind=""),
        tokens=TokenSettings(ranks_dir="/ranks", load_timeout=60.0),
        timeouts=timeouts,
        providers={
            "openai": ProviderSettings(
                name="openai",
                kind="openai",
                base_url="https://proxy.example.com/v1",
                api_key=Secret("sk-1", ""),
                headers={"OpenAI-Organization": "org-example.org"},
                max_in_flight=200,
                transport="httpx",
                proxy="http://proxy:3128",
                http2=True,
                ca_file="/ca.pem",
            ),
            "company": ProviderSettings(
                name="company",
                kind="compatible",
                base_url="http://10.0.0.1:8080",
                auth=AuthSettings(header_name="x-key", header_value=Secret("Key example.org sk-1", "")),
            ),
            "legacy": ProviderSettings(
                name="legacy",
                kind="openai",
                auth=AuthSettings(param_name="key", param_value=Secret("s3", ""), param_location="query"),
            ),
        },
        models={
            "gpt-4.1": ModelSettings(
                name="gpt-4.1",
                targets=(
                    TargetSettings(
                        provider="openai",
                        model="gpt-4.1-2025",
                        priority=2,
                        weight=3,
                        timeouts=Timeouts(connect=1.0, total=5400.0, idle=10.0, first_token=0.5),
                    ),
                ),
                response_streaming="always",
                on_disconnect="grace",
                grace=2.0,
                keep_alive=15.0,
                options={"temperature": 0.2, "stop": ["example.org"], "nested": {"a": [1, True, {"b": "x"}]}},
                force_options=True,
                timeouts=model_timeouts,
            ),
            "plain": ModelSettings(
                name="plain", targets=(TargetSettings(provider="company", model="m"),), timeouts=timeouts
            ),
        },
        keys=(
            KeySettings(name="team-a", sha256=hashlib.sha256(b"sesame").digest(), models=("gpt*", "plain")),
            KeySettings(name="team-b", sha256=hashlib.sha256(b"test").digest(), models=("*",)),
        ),
        routes=(
            RouteSettings(path="/my-chat", route_type="llm/v1/chat", model="plain"),
            RouteSettings(path="/text", route_type="llm/v1/completions"),
        ),
    )
    assert notes == []


def test_an_empty_file_is_all_defaults_and_a_note() -> None:
    assert load("") == (Settings(), [NO_MODEL])


def test_a_byte_order_mark_is_no_part_of_the_file() -> None:
    assert load("\ufeff" + DEMO) == load(DEMO)


def test_a_file_with_carriage_returns_is_the_same_file() -> None:
    assert load(DEMO.replace("\n", "\r\n")) == load(DEMO)


@pytest.mark.parametrize(
    ("written", "source"),
    [
        ("${A}", "environment variable A"),
        ("x${A}y${B}", "environment variables A and B"),
        ("file:/run/key", "file /run/key"),
        ("file:${DIR}/key", "file /run/key"),
        ("literal", "config.toml:6"),
    ],
)
def test_a_secret_knows_where_it_came_from(written: str, source: str) -> None:
    text = f'{DEMO}[providers.x]\napi_key = "{written}"\nkind = "openai"\n'
    settings, _ = load(text, {"A": "1", "B": "2", "DIR": "/run"}, {"/run/key": "3"})
    secret = settings.providers["x"].api_key
    assert secret is not None
    assert secret.source == source
    assert repr(secret) == f"Secret(from {source})"


def test_what_a_variable_holds_is_never_read_as_a_file() -> None:
    settings, _ = load(
        '[providers.x]\nkind = "openai"\napi_key = "${A}"\n', {"A": "file:/etc/passwd"}, {"/etc/passwd": "x"}
    )
    secret = settings.providers["x"].api_key
    assert secret is not None
    assert secret.reveal() == "file:/etc/passwd"


def test_a_provider_that_no_model_uses_is_left_out_while_its_secret_is_missing() -> None:
    text = DEMO + '[providers.azure]\nkind = "openai"\napi_key = "${AZURE_KEY}"\n'
    settings, notes = load(text)
    assert list(settings.providers) == ["demo"]
    assert notes == [
        'provider "azure" is left out: environment variable AZURE_KEY is not set (config.toml:7), and no model uses it.'
    ]
    settings, notes = load(text, {"AZURE_KEY": "k"})
    assert list(settings.providers) == ["demo", "azure"]
    assert notes == []


def test_an_admin_port_for_other_machines_gets_a_note() -> None:
    _, notes = load(DEMO + '[admin]\nbind = "0.0.0.0:9000"\n')
    assert notes == ["the admin port 0.0.0.0:9000 can be reached by other machines, and it asks for no key."]


@pytest.mark.parametrize("more", ["allow_anonymous = true", '[[keys]]\nname = "a"\nsecret = "s"'])
def test_another_address_is_served_with_keys_or_on_demand_without(more: str) -> None:
    settings, _ = load(f'[server]\nbind = "0.0.0.0:8000"\n{more}\n')
    assert settings.server.bind == "0.0.0.0:8000"


def test_without_a_file_the_demo_runs() -> None:
    settings = default_settings({}, KINDS)
    assert list(settings.models) == list(DEMO_MODELS)
    assert settings.models["demo-cut"] == ModelSettings(name="demo-cut", targets=(TargetSettings("demo", "demo-cut"),))
    assert settings.providers == {"demo": ProviderSettings(name="demo", kind="demo")}
    assert settings.pass_through is None
    assert settings.server == ServerSettings()
    assert default_settings({"OPENAI_API_KEY": " "}, KINDS) == settings


def test_without_a_file_a_key_in_the_environment_makes_openai_the_place_for_every_other_name() -> None:
    settings = default_settings({"OPENAI_API_KEY": "sk-1\n"}, KINDS)
    assert settings.pass_through == "openai"
    assert settings.providers["openai"] == ProviderSettings(name="openai", kind="openai", api_key=Secret("sk-1", ""))
    assert list(settings.models) == list(DEMO_MODELS)
    with pytest.raises(ConfigError, match="environment variable OPENAI_API_KEY must hold printable ASCII") as raised:
        default_settings({"OPENAI_API_KEY": "schlüssel"}, KINDS)
    assert "schlüssel" not in str(raised.value)


def test_the_first_file_is_short_and_runs_with_no_account() -> None:
    assert len(init_file().splitlines()) <= 20
    settings, _ = load(init_file())
    assert list(settings.models) == ["demo"]
    uncommented = "\n".join(
        line.removeprefix("#") if line[:2] in ("#[", "#t") else line for line in init_file().splitlines()
    )
    settings, notes = load(uncommented, {"OPENAI_API_KEY": "k"})
    assert list(settings.models) == ["demo", "gpt-4o"]
    assert notes == []
