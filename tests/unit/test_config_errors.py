"""What a file with faults gets: every one of them at once, each with its line, its key and what would be right."""

from __future__ import annotations

import pytest
from support.config_file import DEMO, problems

from trio_ai_proxy.config import check_bind
from trio_ai_proxy.config.fields import NOT_BUILT
from trio_ai_proxy.errors import ConfigError
from trio_ai_proxy.settings import (
    AdminSettings,
    KeySettings,
    ModelSettings,
    ProviderSettings,
    ServerSettings,
    Settings,
    TargetSettings,
)

OPENAI = '[providers.openai]\nkind = "openai"\napi_key = "k"\n'


def test_all_errors_come_at_once_in_the_order_of_the_file() -> None:
    text = """\
sever = 1
[server]
bind = "0.0.0.0:8000"
workers = 4
drian = 3
[timeouts]
connect = -1
[providers.openai]
kind = "opnai"
api_key = "${NOPE}"
[models."gpt-4.1"]
guards = 3
response_streaming = "alow"
targets = [{ provider = "opena", model = "x" }, { provider = "openai", model = "" }]
[[keys]]
name = "a"
[[routes]]
path = "/v1/models"
route_type = "preserve"
model = "gpt-4"
"""
    text = text.replace("[[keys]]", "[[keys]]\nlimits = []")
    assert problems(text) == [
        "config.toml:1: `sever` is not a key of the file; did you mean `server`?",
        "config.toml:5: `drian` is not a key of [server]; did you mean `drain`?",
        "config.toml:7: `connect` in [timeouts] must be more than zero and finite, not -1.",
        'config.toml:9: `kind` in [providers.openai] is "opnai", which is not in the provider table; '
        'did you mean "openai"?',
        'config.toml:10: environment variable NOPE, which provider "openai" needs for `api_key`, is not set; '
        "set it before the start (export NOPE=…) or remove the models that use this provider.",
        'config.toml:12: `guards` in [models."gpt-4.1"] must be an array, not a whole number.',
        'config.toml:13: `response_streaming` in [models."gpt-4.1"] must be "allow", "deny" or "always", not "alow".',
        'config.toml:14: `model` in [[models."gpt-4.1".targets]] must not be empty.',
        'config.toml:14: model "gpt-4.1" refers to the provider "opena", which is not configured; '
        'did you mean "openai"?',
        "config.toml:15: [[keys]] needs exactly one of `sha256` and `secret`, not none.",
        "config.toml:16: `limits` is not built yet; remove it.",
        'config.toml:19: `path` in [[routes]] is "/v1/models", which the gateway serves already; choose another.',
        'config.toml:20: `route_type` in [[routes]] = "preserve" is not built yet; choose another.',
        'config.toml:21: `model` in [[routes]] is "gpt-4", which is not configured; did you mean "gpt-4.1"?',
    ]


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("a = ", 1),
        ("a = 1\n\n[b\n", 3),
        ("a = 1\na = 2\n", 2),
        ("[a]\n[b]\n[a]\n", 3),
        ("a = 1\nb = { x = 1, x = 2 }\n", 2),
        ("a = '''\n\n", 3),
        ("a = " + "9" * 5000, 1),
    ],
)
def test_a_syntax_error_has_its_line_too(text: str, line: int) -> None:
    (problem,) = problems(text)  # the words after this are tomllib's own
    assert problem.startswith(f"config.toml:{line}: the file is not valid TOML: ")


def test_nesting_without_end_is_refused() -> None:
    assert problems("a = " + "[" * 20_000) == ["config.toml:1: arrays or tables are nested too deeply."]


def test_an_unknown_key_with_no_near_one_gets_the_list() -> None:
    assert problems("[admin]\nzzz = 1\n") == ["config.toml:2: `zzz` is not a key of [admin]; its keys are `bind`."]


@pytest.mark.parametrize("settings_type", NOT_BUILT)
def test_every_key_that_is_still_to_come_says_so(settings_type: type) -> None:
    headers = {
        Settings: "",
        ModelSettings: DEMO + '[models.x]\ntargets = [{ provider = "demo", model = "demo" }]\n',
        ProviderSettings: OPENAI,
        KeySettings: '[[keys]]\nname = "a"\nsecret = "s"\n',
        TargetSettings: DEMO + '[[models.x.targets]]\nprovider = "demo"\nmodel = "demo"\n',
    }
    for name in NOT_BUILT[settings_type]:
        text = f"{headers[settings_type]}{name} = 1\n"
        assert problems(text) == [f"config.toml:{text.count(chr(10))}: `{name}` is not built yet; remove it."]


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("server = 3", "1: `server` must be a table, not a whole number."),
        ("providers = 3", "1: `providers` must be a table, not a whole number."),
        ("models = []", "1: `models` must be a table, not an array."),
        ("[providers]\nx = 1.5", "2: `x` in [providers] must be a table, not a decimal number."),
        ("keys = 1", "1: `keys` must be an array, not a whole number."),
        ("keys = [\n 1]", "2: an entry of `keys` must be a table, not a whole number."),
        ("[server]\nbind = 8000", "2: `bind` in [server] must be text, not a whole number."),
        ("[server]\nbind = ''", "2: `bind` in [server] must not be empty."),
        ("[server]\nallow_anonymous = 'yes'", '2: `allow_anonymous` in [server] must be true or false, not "yes".'),
        ("[server]\nworkers = 0", "2: `workers` in [server] must be a whole number of at least 1, not 0."),
        ("[server]\nworkers = true", "2: `workers` in [server] must be a whole number of at least 1, not true."),
        ("[server]\nworkers = 1.0", "2: `workers` in [server] must be a whole number of at least 1, not 1.0."),
        ("[server]\nmax_body = 0", "2: `max_body` in [server] must be more than zero, not 0."),
        (
            "[server]\nmax_body = '10 apples'",
            '2: `max_body` in [server] must be bytes (65536) or text such as "64kB" or "10MiB", not "10 apples".',
        ),
        ("[server]\ndrain = -1", "2: `drain` in [server] must be zero or more and finite, not -1."),
        ("[server]\nh2c = 1", '2: `h2c` in [server] must be "refuse" or "ignore", not 1.'),
        (
            "[timeouts]\nidle = 2020-01-01",
            "2: `idle` in [timeouts] must be seconds (30 or 0.5) or text such as "
            '"10m", "60s", "500ms" or "1h30m", not a date or time.',
        ),
        ("[timeouts]\nidle = nan", "2: `idle` in [timeouts] must be more than zero and finite, not nan."),
        (
            "[server]\ncors_origins = ['*',\n1]",
            "3: an entry of `cors_origins` in [server] must be text, not a whole number.",
        ),
        (
            "[server]\ncors_origins = ['https://a.b/path']",
            '2: `cors_origins` in [server] has "https://a.b/path", which is no origin; '
            'write "*" or one such as "https://app.example.com".',
        ),
        (
            "[server]\nrecord_log = 'x${'",
            "2: `record_log` in [server] has a ${ that names no environment variable; write ${NAME}.",
        ),
        (
            "[server]\nrecord_log = '${X}'",
            "2: environment variable X, which [server] needs for `record_log`, is not set; "
            "set it before the start (export X=…).",
        ),
    ],
)
def test_a_value_of_the_wrong_type_or_range_says_what_would_be_right(text: str, problem: str) -> None:
    assert problems(text) == [f"config.toml:{problem}"]


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        (
            '[server]\nbind = "0.0.0.0:8000"',
            '2: `bind` in [server] is "0.0.0.0:8000", which other machines can reach, '
            "so it needs [[keys]] or `allow_anonymous = true`.",
        ),
        (
            '[server]\nbind = "8000"',
            '2: `bind` in [server] must be an address and a port such as "127.0.0.1:8000" or "[::1]:8000".',
        ),
        (
            '[admin]\nbind = "x"',
            '2: `bind` in [admin] must be an address and a port such as "127.0.0.1:8000" or "[::1]:8000".',
        ),
        (
            '[admin]\nbind = "localhost:8000"',
            '2: `bind` in [admin] is "localhost:8000", but the admin port is never on the data port.',
        ),
        (
            '[server]\nbind = "127.0.0.1:8001"',
            '1: `bind` in [admin] is "127.0.0.1:8001", but the admin port is never on the data port.',
        ),
        (
            '[server]\nbind = "127.0.0.1:8003"\nworkers = 3\n[admin]\nbind = "127.0.0.1:8001"',
            '5: `bind` in [admin] is "127.0.0.1:8001", from where 3 `workers` want a port each, and one is the data port.',
        ),
        (
            '[server]\nworkers = 3\n[admin]\nbind = "127.0.0.1:65534"',
            '4: `bind` in [admin] is "127.0.0.1:65534", from where 3 `workers` want a port each, and 65535 is the last '
            "there is.",
        ),
        (
            '[server]\nbind = "0.0.0.0:8000"\nallow_anonymous = 1',
            "3: `allow_anonymous` in [server] must be true or false, not 1.",
        ),
    ],
)
def test_the_two_ports_are_apart_and_the_outer_one_asks_for_keys(text: str, problem: str) -> None:
    assert problems(text) == [f"config.toml:{problem}"]


def test_an_address_from_the_command_line_obeys_the_same_rules() -> None:
    check_bind(Settings())
    check_bind(Settings(admin=AdminSettings(bind="")))
    check_bind(Settings(server=ServerSettings(bind="0.0.0.0:8000", allow_anonymous=True)))
    check_bind(Settings(server=ServerSettings(bind="0.0.0.0:8000"), keys=(KeySettings(name="a", sha256=bytes(32)),)))
    with pytest.raises(ConfigError) as raised:
        check_bind(Settings(server=ServerSettings(bind="0.0.0.0:8001")))
    assert raised.value.problems == [
        '`bind` in [server] is "0.0.0.0:8001", which other machines can reach, '
        "so it needs [[keys]] or `allow_anonymous = true`.",
        '`bind` in [admin] is "127.0.0.1:8001", but the admin port is never on the data port.',
    ]


def test_no_credential_is_ever_repeated() -> None:
    secret = "sk-very-secret"
    text = f"""\
[server]
bind = "${{KEY}}"
[timeouts]
idle = "${{KEY}}"
[providers.x]
kind = "compatible"
base_url = "https://me:{secret}@host"
api_key = "é{secret}"
proxy = "{secret}"
headers = {{ Authorization = "{secret}", Host = "{secret}" }}
auth = {{ header_name = "h h", header_value = "{secret}\\n{secret}", param_value = "{secret}" }}
[[keys]]
name = "a"
sha256 = "{secret}"
[[keys]]
name = "b"
secret = "é{secret}"
"""
    found = problems(text, {"KEY": secret})
    assert len(found) >= 10
    assert [problem for problem in found if secret in problem] == []
