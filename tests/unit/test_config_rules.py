"""What the parts of a file mean together: accounts, models, clients and routes that cannot work are refused."""

from __future__ import annotations

import pytest
from support.config_file import DEMO, load, problems

SHA = "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08"


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ('api_key = "k"', "1: [providers.x] needs `kind`."),
        (
            'kind = "zzz"',
            '2: `kind` in [providers.x] is "zzz", which is not in the provider table; '
            'there are "openai", "compatible", "demo", "azure", "signing".',
        ),
        ('kind = "openai"', '1: [providers.x] needs `api_key` or `auth`; kind "openai" asks for one.'),
        ('kind = "compatible"', '1: [providers.x] needs `base_url`; kind "compatible" has no default for it.'),
        (
            'kind = "demo"\nbase_url = "https://me:pw@host/"',
            "3: `base_url` in [providers.x] must not hold a user name or password; "
            "a credential goes into `api_key` or `auth`.",
        ),
        ('kind = "demo"\nproxy = "http://proxy"', '3: `proxy` in [providers.x] needs `transport = "httpx"`.'),
        ('kind = "demo"\nhttp2 = true', '3: `http2` in [providers.x] needs `transport = "httpx"`.'),
        (
            'kind = "demo"\ntransport = "httpx"\nproxy = "me:pw@proxy"',
            '4: `proxy` in [providers.x] must be the URL of a proxy, such as "http://proxy.example.com:3128".',
        ),
        ('kind = "demo"\nheaders = 1', "3: `headers` in [providers.x] must be a table, not a whole number."),
        ('kind = "demo"\nheaders = { x = 1 }', "3: `x` in [providers.x.headers] must be text, not a whole number."),
        (
            'kind = "demo"\n[providers.x.headers]\n"a b" = "c"',
            "4: `a b` in [providers.x.headers] is not a name that a header can have.",
        ),
        (
            'kind = "demo"\nheaders = { Host = "c" }',
            "3: `Host` in [providers.x.headers] cannot be set: the gateway writes the header host itself.",
        ),
        (
            'kind = "demo"\nheaders = { Authorization = "c" }',
            "3: `Authorization` in [providers.x.headers] belongs in `api_key` or `auth`, where it is kept secret.",
        ),
        (
            'kind = "demo"\nheaders = { a = "x\\r\\ny: 1" }',
            "3: `a` in [providers.x.headers] must be printable ASCII characters.",
        ),
        ('kind = "openai"\napi_key = 12345', "3: `api_key` in [providers.x] must be text, not a whole number."),
        ('kind = "openai"\napi_key = " "', "3: `api_key` in [providers.x] must not be empty."),
        (
            'kind = "openai"\napi_key = "schlüssel"',
            "3: `api_key` in [providers.x] must be printable ASCII characters, "
            "and what came from config.toml:3 is not.",
        ),
        (
            'kind = "demo"\nauth = {}',
            "3: [providers.x.auth] needs `header_name` and `header_value`, or the three `param_…` keys.",
        ),
        (
            'kind = "demo"\nauth = { header_name = "x" }',
            "3: `header_name` in [providers.x.auth] needs `header_value` beside it.",
        ),
        (
            'kind = "demo"\nauth = { header_value = "x" }',
            "3: `header_value` in [providers.x.auth] needs `header_name` beside it.",
        ),
        (
            'kind = "demo"\nauth = { param_name = "x" }',
            "3: `param_name` in [providers.x.auth] needs `param_value` and `param_location` beside it.",
        ),
        (
            'kind = "demo"\nauth = { header_name = "a b", header_value = "c" }',
            "3: `header_name` in [providers.x.auth] is not a name that a header can have.",
        ),
        (
            'kind = "signing"\nauth = { header_name = "a", header_value = "c", allow_override = true }',
            "3: `allow_override` in [providers.x.auth] cannot be true: "
            'the requests of kind "signing" are signed or carry a token.',
        ),
        (
            'kind = "azure"\napi_key = "k"\nentra = { tenant_id = "t", client_id = "c" }\ninstance = "i"',
            "4: `entra` in [providers.x] cannot stand beside `api_key`: each is a credential; keep one.",
        ),
        (
            'kind = "azure"\nmanaged_identity = true\nauth = { header_name = "a", header_value = "c" }\ninstance = "i"',
            "3: `managed_identity` in [providers.x] cannot stand beside `auth`: each is a credential; keep one.",
        ),
        (
            'kind = "azure"\nmanaged_identity = false\ninstance = "i"',
            '1: [providers.x] needs `api_key` or `auth` or `entra` or `managed_identity`; kind "azure" asks for one.',
        ),
        (
            'kind = "azure"\napi_key = "k"\ninstance = "i"\nbase_url = "https://h"',
            "4: `instance` in [providers.x] cannot stand beside `base_url`: each says where it is; keep one.",
        ),
        *(
            (
                f'kind = "azure"\napi_key = "k"\ninstance = "{instance}"',
                "4: `instance` in [providers.x] must be the name of a resource: letters, digits and hyphens; "
                "an address goes into `base_url`.",
            )
            for instance in ("evil.example/", "https://x.openai.azure.com", "a.b", "-a", "a#")
        ),
        (
            'kind = "demo"\napi_key = "a$(headers.k)"',
            "3: `api_key` in [providers.x] cannot hold a placeholder: "
            "nothing in a request picks a host, a path, a header or a credential.",
        ),
        (
            'kind = "compatible"\nbase_url = "https://h/$(uri_captures.x)"',
            "3: `base_url` in [providers.x] cannot hold a "
            "placeholder: nothing in a request picks a host, a path, a header or a credential.",
        ),
        (
            'kind = "demo"\nheaders = { x = "$(query_params.k)" }',
            "3: `x` in [providers.x.headers] cannot hold a "
            "placeholder: nothing in a request picks a host, a path, a header or a credential.",
        ),
        (
            'kind = "azure"\napi_key = "k"\ninstance = "i"\ndeployment = "$(headers.d)"',
            "5: `deployment` in [providers.x] "
            "cannot hold a placeholder: leave it out and write the placeholder as the target's `model`, which is then the "
            "deployment.",
        ),
    ],
)
def test_an_account_that_cannot_work_is_refused(text: str, problem: str) -> None:
    assert problems(f"[providers.x]\n{text}\n") == [f"config.toml:{problem}"]


@pytest.mark.parametrize(
    ("environ", "files", "written", "start", "end"),
    [
        ({}, {}, "${KEY}", "environment variable KEY", "is not set; set it before the start (export KEY=…)"),
        (
            {"KEY": ""},
            {},
            "Bearer ${KEY}",
            "environment variable KEY",
            "is empty; set it before the start (export KEY=…)",
        ),
        ({}, {}, "file:/key", "file /key", "cannot be read (No such file or directory); put the value there"),
        ({}, {"/key": "\n"}, "file:/key", "file /key", "is empty; put the value there"),
        (
            {},
            {"/key": ValueError("b'..'")},
            "file:/key",
            "file /key",
            "cannot be read (it is not text); put the value there",
        ),
        ({}, {}, "file:${DIR}/x", "environment variable DIR", "is not set; set it before the start (export DIR=…)"),
    ],
)
def test_a_missing_secret_of_a_provider_in_use_is_one_sentence(
    environ: dict[str, str], files: dict[str, str | Exception], written: str, start: str, end: str
) -> None:
    model = '[models.m]\ntargets = [{ provider = "x", model = "m" }]\n'
    text = f'{model}[providers.x]\nkind = "openai"\napi_key = "{written}"\n'
    assert problems(text, environ, files) == [
        f'config.toml:5: {start}, which provider "x" needs for `api_key`, {end} '
        "or remove the models that use this provider."
    ]


def test_any_missing_variable_of_a_provider_counts() -> None:
    text = (
        '[providers.openai]\nkind = "openai"\napi_key = "k"\n' + 'base_url = "${URL}"\nheaders = { org = "${ORG}" }\n'
    )
    settings, notes = load(text)
    assert settings.providers == {}
    assert notes[:2] == [
        'provider "openai" is left out: environment variable URL is not set (config.toml:4), and no model uses it.',
        'provider "openai" is left out: environment variable ORG is not set (config.toml:5), and no model uses it.',
    ]


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "1: [models.m] needs `targets`."),
        ("targets = []", "2: `targets` in [models.m] must name a target."),
        ("targets = [{ provider = 'demo' }]", "2: [[models.m.targets]] needs `model`."),
        ("targets = [{ model = 'demo' }]", "2: [[models.m.targets]] needs `provider`."),
        (
            "targets = [{ provider = 'x', model = 'x' }]",
            '2: model "m" refers to the provider "x", which is not configured; there are "demo".',
        ),
        (
            "targets = [{ provider = 'demo', model = 'x', prioritty = 1 }]",
            "2: `prioritty` is not a key of [[models.m.targets]]; did you mean `priority`?",
        ),
        (
            "targets = [{ provider = 'demo', model = 'x', priority = -1 }]",
            "2: `priority` in [[models.m.targets]] must be a whole number of at least 0, not -1.",
        ),
        (
            "targets = [{ provider = 'demo', model = 'x', timeouts = { idel = 1 } }]",
            "2: `idel` is not a key of [models.m.targets.timeouts]; did you mean `idle`?",
        ),
    ],
)
def test_a_model_that_nobody_can_answer_is_refused(text: str, problem: str) -> None:
    assert problems(f"[models.m]\n{text}\n[providers.demo]\nkind = 'demo'\n") == [f"config.toml:{problem}"]


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ("force = 1", "`force` in [models.m.options] must be true or false, not 1."),
        ("stream = true", "`stream` in [models.m.options] cannot be an option: `response_streaming` decides that."),
        ("model = 'x'", "`model` in [models.m.options] cannot be an option: `targets` names the model."),
        ("a = 2020-01-01", "`a` in [models.m.options] must be something that JSON has, not a date or time."),
        ("a = [{ b = nan }]", "`a` in [models.m.options] must be something that JSON has, not nan or inf."),
        (
            "a = ['${X}']",
            "environment variable X, which [models.m.options] needs for `a`, is not set; "
            "set it before the start (export X=…).",
        ),
    ],
)
def test_options_are_what_a_request_could_hold(options: str, problem: str) -> None:
    text = f"[models.m]\ntargets = [{{ provider = 'demo', model = 'x' }}]\noptions = {{ {options} }}\n"
    assert problems(f"{text}[providers.demo]\nkind = 'demo'\n") == [f"config.toml:3: {problem}"]


def test_a_model_with_options_of_the_wrong_type_is_refused_once() -> None:
    text = "[models.m]\ntargets = [{ provider = 'demo', model = 'x' }]\noptions = 1\n[providers.demo]\nkind = 'demo'\n"
    assert problems(text) == ["config.toml:3: `options` in [models.m] must be a table, not a whole number."]


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("[[keys]]\nsecret = 's'", "1: [[keys]] needs `name`."),
        (
            f"[[keys]]\nname = 'a'\nsecret = 's'\nsha256 = '{SHA}'",
            "1: [[keys]] needs exactly one of `sha256` and `secret`, not both.",
        ),
        ("[[keys]]\nname = 'a'\nsha256 = 'abc'", "3: `sha256` in [[keys]] must be a SHA-256: 64 hexadecimal digits."),
        ("[[keys]]\nname = 'a'\nsha256 = 1", "3: `sha256` in [[keys]] must be text, not a whole number."),
        (
            "[[keys]]\nname = 'a'\nsecret = 's'\nmodels = []",
            '4: `models` in [[keys]] must name a model, or "*" for all.',
        ),
        ("[[keys]]\nname = 'a'\nsecret = 's'\nmodels = ['']", "4: an entry of `models` in [[keys]] must not be empty."),
        (
            "[[keys]]\nname = 'a'\nsecret = 's'\n[[keys]]\nname = 'a'\nsecret = 't'",
            '5: `name` in [[keys]] is "a", like that of the key on line 1; each needs its own.',
        ),
        (
            f"[[keys]]\nname = 'a'\nsecret = 'test'\n[[keys]]\nname = 'b'\nsha256 = '{SHA}'",
            "6: `sha256` in [[keys]] is the same key as the one on line 1; each client needs its own.",
        ),
        (
            "[[keys]]\nname = 'a'\nsecret = '${KEY}'",
            "3: environment variable KEY, which [[keys]] needs for `secret`, is not set; "
            "set it before the start (export KEY=…).",
        ),
    ],
)
def test_each_client_has_one_name_and_one_key(text: str, problem: str) -> None:
    assert problems(text) == [f"config.toml:{problem}"]


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("path = '/x'", "6: [[routes]] needs `route_type`."),
        ("route_type = 'llm/v1/chat'", "6: [[routes]] needs `path`."),
        (
            "path = 'x'\nroute_type = 'llm/v1/chat'",
            '7: `path` in [[routes]] must begin with "/" and hold only visible ASCII characters '
            'without ? and #, not "x".',
        ),
        *(
            (
                f"path = '{path}'\nroute_type = 'llm/v1/chat'",
                '7: `path` in [[routes]] must begin with "/" and hold only visible ASCII characters '
                f'without ? and #, not "{path}".',
            )
            for path in ("/ü", "/a b", "/a?b", "/a#")
        ),
        *(
            (
                f"path = '{path}'\nroute_type = 'llm/v1/chat'",
                f'7: `path` in [[routes]] is "{path}", which the gateway serves already; choose another.',
            )
            for path in (
                "/v1/chat/completions",
                "/v1/completions",
                "/v1/embeddings",
                "/v1/models",
                "/healthz",
                "/readyz",
            )
        ),
        *(
            (
                f"path = '{path}'\nroute_type = 'llm/v1/chat'",
                "7: `path` in [[routes]] has braces that are not all of a segment; write /{name}/ with letters, digits and _.",
            )
            for path in ("/a{b}", "/{a}b", "/{}", "/{a-b}", "/{1}", "/{", "/}", "/{{a}}")
        ),
        ("path = '/{a}/{a}'\nroute_type = 'llm/v1/chat'", "7: `path` in [[routes]] has {a} twice."),
        (
            "path = '/v1/models/{a}'\nroute_type = 'llm/v1/chat'",
            '7: `path` in [[routes]] is "/v1/models/{a}", and what begins with /v1/models/ the gateway serves already.',
        ),
        (
            "path = '/x/{a}'\nroute_type = 'llm/v1/chat'\n[[routes]]\npath = '/x/{b}'\nroute_type = 'llm/v1/chat'",
            '10: `path` in [[routes]] is "/x/{b}", like that of the route on line 6; each needs its own.',
        ),
        (
            "path = '/x/{a}'\nroute_type = 'llm/v1/chat'\nmodel = '$(uri_captures.b)'",
            "9: `model` in [[routes]] refers to $(uri_captures.b), and the route's path has no {b}.",
        ),
        *(
            (
                f"path = '/x'\nroute_type = 'llm/v1/chat'\nmodel = '{model}'",
                "9: `model` in [[routes]] has a $( that begins no placeholder; write $(headers.NAME), "
                "$(query_params.NAME) or $(uri_captures.NAME).",
            )
            for model in ("$(", "$(x)", "$(headers)", "$(headers.)", "$(body.x)", "$(headers.a b)", "a$(headers.x)$(")
        ),
        (
            "path = '/x'\nroute_type = 'llm/v1/chat'\n[[routes]]\npath = '/x'\nroute_type = 'llm/v1/completions'",
            '10: `path` in [[routes]] is "/x", like that of the route on line 6; each needs its own.',
        ),
        (
            "path = '/x'\nroute_type = 'llm/v1/images'",
            '8: `route_type` in [[routes]] must be "llm/v1/chat", "llm/v1/completions" or "llm/v1/embeddings", '
            'not "llm/v1/images".',
        ),
        (
            "path = '/x'\nroute_type = 'llm/v1/chat'\nmodel = 'dmo'",
            '9: `model` in [[routes]] is "dmo", which is not configured; did you mean "demo"?',
        ),
    ],
)
def test_a_route_has_a_path_of_its_own_and_a_model_that_exists(text: str, problem: str) -> None:
    assert DEMO.count("\n") == 4
    assert problems(f"{DEMO}\n[[routes]]\n{text}\n") == [f"config.toml:{problem}"]


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        (
            "targets = [{ provider = 'demo', model = '$(uri_captures.y)' }]",
            "2: `model` in [[models.m.targets]] refers to $(uri_captures.y), and no route's path has {y}.",
        ),
        (
            "targets = [{ provider = 'demo', model = '$(nothing.y)' }]",
            "2: `model` in [[models.m.targets]] has a $( that begins no placeholder; write $(headers.NAME), "
            "$(query_params.NAME) or $(uri_captures.NAME).",
        ),
        (
            "targets = [{ provider = 'demo', model = 'x' }]\noptions = { metadata = { a = ['$(uri_captures.y)'] } }",
            "3: `metadata` in [models.m.options] refers to $(uri_captures.y), and no route's path has {y}.",
        ),
    ],
)
def test_a_placeholder_refers_to_what_there_can_be(text: str, problem: str) -> None:
    assert problems(f"[models.m]\n{text}\n[providers.demo]\nkind = 'demo'\n") == [f"config.toml:{problem}"]


def test_placeholders_stand_in_models_and_options() -> None:
    settings, _ = load(
        f"{DEMO}\n[models.any]\n"
        "targets = [{ provider = 'demo', model = '$(uri_captures.team)-$(headers.x-model)' }]\n"
        "options = { user = '$(query_params.user)' }\n"
        "[[routes]]\npath = '/{team}/chat'\nroute_type = 'llm/v1/chat'\nmodel = '$(uri_captures.team)'\n"
    )
    assert settings.models["any"].targets[0].model == "$(uri_captures.team)-$(headers.x-model)"
    assert settings.routes[0].path == "/{team}/chat"


def test_clients_cannot_send_a_gateway_key_as_a_providers_credential() -> None:
    auth = 'auth = { header_name = "Authorization", header_value = "Bearer x", allow_override = true }\n'
    text = f'[providers.x]\nkind = "demo"\n{auth}'
    settings, _ = load(text)
    assert settings.providers["x"].auth is not None
    assert settings.providers["x"].auth.allow_override
    assert problems(f"{text}[[keys]]\nname = 'a'\nsecret = 's'\n") == [
        "config.toml:3: `allow_override` in [providers.x.auth] cannot be true for the header authorization: "
        "it is where clients send their `[[keys]]` of this gateway."
    ]
