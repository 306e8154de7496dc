"""The guards of a configuration: what they are built to, and what cannot work, each fault in one sentence with its line."""

from __future__ import annotations

from dataclasses import fields, replace
from typing import TYPE_CHECKING, get_args

import pytest
from support.config_file import DEMO, KINDS, load, problems

from trio_ai_proxy.config import describe, guard_problems
from trio_ai_proxy.settings import (
    GuardKind,
    GuardSettings,
    HeaderChanges,
    JSONChanges,
    MessageSettings,
    PatternSettings,
    TemplateSettings,
)

if TYPE_CHECKING:
    from collections.abc import Mapping

    from trio_ai_proxy.settings import Settings

# What a guard of each kind cannot do without.
LEAST: dict[str, str] = {
    "decorate": "prepend = [{ role = 'system', content = 'x' }]",
    "template": "templates = { t = 'x' }",
    "prompt_guard": "deny = ['x']",
    "redact": "patterns = ['email']",
    "request_transformer": "model = 'demo'\nprompt = 'x'",
    "response_transformer": "model = 'demo'\nprompt = 'x'",
    "moderate": "model = 'demo'",
    "webhook": "url = 'https://guard.example.com'",
}


def guards(text: str, environ: Mapping[str, str] | None = None) -> Mapping[str, GuardSettings]:
    settings, notes = load(DEMO + text, environ)
    assert notes == []
    return settings.guards


def guard(kind: str, text: str = "", *, least: bool = True) -> GuardSettings:
    more = f"{LEAST[kind]}\n" if least else ""
    return guards(f"[guards.g]\nkind = '{kind}'\n{more}{text}")["g"]


def fault(kind: str, text: str, *, least: bool = True) -> list[str]:
    """What is wrong, without the name of the file. The guard's own table begins on line 5."""
    more = f"{LEAST[kind]}\n" if least else ""
    found = problems(f"{DEMO}[guards.g]\nkind = '{kind}'\n{text}\n{more}")
    return [problem.removeprefix("config.toml:") for problem in found]


def test_the_example_of_the_contract() -> None:
    text = """\
[guards.no-secrets]
kind = "redact"
on = ["request", "response"]
patterns = ["email", "card", "iban", "phone", "ip", "api_key", { name = "employee", regex = "E[0-9]{6}" }]
replace = "[{name}]"
window = 256
[guards.house-style]
kind = "decorate"
prepend = [{ role = "system", content = "Be brief." }]
[guards.moderate]
kind = "moderate"
model = "demo"
[models."gpt-4o"]
targets = [{ provider = "demo", model = "demo" }]
guards = ["no-secrets", "house-style", "moderate"]
"""
    settings, _ = load(DEMO + text)
    assert settings.guards["no-secrets"] == GuardSettings(
        name="no-secrets",
        kind="redact",
        patterns=(
            *(PatternSettings(name) for name in ("email", "card", "iban", "phone", "ip", "api_key")),
            PatternSettings("employee", "E[0-9]{6}"),
        ),
    )
    assert settings.models["gpt-4o"].guards == ("no-secrets", "house-style", "moderate")
    assert settings.models["demo"].guards == ()


@pytest.mark.parametrize("kind", get_args(GuardKind))
def test_every_kind_can_be_configured_with_what_it_needs(kind: str) -> None:
    assert guard(kind).kind == kind


def test_messages_templates_and_patterns_arrive_in_both_of_their_forms() -> None:
    text = """
append = [{ role = "developer", content = "y" }]
"""
    assert guard("decorate", text).append == (MessageSettings("developer", "y"),)
    text = """
allow_untemplated = false
[guards.g.templates]
a = "x {{y}}"
b = { prompt = "x" }
[guards.g.templates.c]
messages = [{ role = "user", content = "y" }]
"""
    found = guard("template", text, least=False)
    assert found.allow_untemplated is False
    assert found.templates == {
        "a": TemplateSettings(prompt="x {{y}}"),
        "b": TemplateSettings(prompt="x"),
        "c": TemplateSettings(messages=(MessageSettings("user", "y"),)),
    }
    found = guard("redact", "patterns = ['ip', { name = 'card' }, { name = 'a', regex = 'b' }]", least=False)
    assert found.patterns == (PatternSettings("ip"), PatternSettings("card"), PatternSettings("a", "b"))


def test_lists_tables_and_durations_arrive() -> None:
    found = guard(
        "prompt_guard",
        "allow = ['a']\nroles = ['user', 'tool']\nmax_characters = 5\nmax_messages = 6\nlast_only = true",
    )
    assert (found.deny, found.allow, found.roles) == (("x",), ("a",), ("user", "tool"))
    assert (found.max_characters, found.max_messages, found.last_only) == (5, 6, True)
    found = guard(
        "moderate", "categories = ['hate']\nthresholds = { violence = 0.5 }\ntimeout = '500ms'\nparts = ['text']"
    )
    assert (found.categories, found.thresholds, found.timeout, found.parts) == (
        ("hate",),
        {"violence": 0.5},
        0.5,
        ("text",),
    )
    found = guard("redact", "on = ['response']\non_block = 'error'")
    assert (found.on, found.on_block) == (("response",), "error")


def test_changes_of_an_answer_arrive() -> None:
    text = """
[guards.g.json]
remove = ["a.b"]
rename = { "choices[*].x" = "y" }
replace = { model = "m" }
add = { n = 1, o = { p = [true] } }
append = { tags = "t" }
[guards.g.response_headers]
remove = ["x-a"]
rename = { x-b = "x-c" }
replace = { x-d = "1" }
add = { x-e = "2" }
append = { vary = "accept" }
"""
    found = guard("response_transformer", text, least=False)
    assert found.json == JSONChanges(
        remove=("a.b",),
        rename={"choices[*].x": "y"},
        replace={"model": "m"},
        add={"n": 1, "o": {"p": [True]}},
        append={"tags": "t"},
    )
    assert found.response_headers == HeaderChanges(
        remove=("x-a",), rename={"x-b": "x-c"}, replace={"x-d": "1"}, add={"x-e": "2"}, append={"vary": "accept"}
    )


def test_the_headers_of_a_web_service_are_secrets() -> None:
    text = f"[guards.g]\nkind = 'webhook'\n{LEAST['webhook']}\nheaders = {{ authorization = 'Bearer ${{TOKEN}}' }}"
    found = guards(text, {"TOKEN": "hush"})["g"]
    assert found.headers["authorization"].reveal() == "Bearer hush"
    assert "hush" not in repr(found)
    assert problems(DEMO + text) == [
        "config.toml:8: environment variable TOKEN, which [guards.g.headers] needs for `authorization`, is not set; "
        "set it before the start (export TOKEN=…)."
    ]


def test_guards_of_all_models_run_before_the_models_own_in_the_order_of_the_file() -> None:
    text = "".join(
        f"[guards.{name}]\nkind = 'prompt_guard'\ndeny = ['x']\nall_models = {'true' if name in 'bd' else 'false'}\n"
        for name in "abcd"
    )
    settings, _ = load(f"{DEMO}guards = ['c', 'a']\n{text}[models.x]\ntargets = [{{ provider = 'demo', model = 'x' }}]")
    assert settings.models["demo"].guards == ("b", "d", "c", "a")
    assert settings.models["x"].guards == ("b", "d")


def test_a_template_is_filled_before_any_other_guard_looks() -> None:
    text = f"""\
guards = ["look", "t"]
[guards.style]
kind = "decorate"
all_models = true
{LEAST["decorate"]}
[guards.look]
kind = "prompt_guard"
{LEAST["prompt_guard"]}
[guards.t]
kind = "template"
{LEAST["template"]}
"""
    settings, _ = load(DEMO + text)
    assert settings.models["demo"].guards == ("t", "style", "look")


@pytest.mark.parametrize(
    ("kind", "problem"),
    [
        ("decorate", "needs `prepend` or `append`"),
        ("template", "needs `templates`"),
        ("prompt_guard", "needs `deny` or `allow` or `max_characters` or `max_messages`"),
        ("redact", "needs `patterns`"),
        ("request_transformer", "needs `model`"),
        ("response_transformer", "needs `model` or `response_headers` or `json`"),
        ("moderate", "needs `model`"),
        ("webhook", "needs `url`"),
    ],
)
def test_a_guard_that_would_do_nothing_is_refused(kind: str, problem: str) -> None:
    found = fault(kind, "", least=False)
    assert found[0] == f'5: [guards.g] {problem}; kind "{kind}" does nothing without.'
    assert len(found) == (2 if kind == "request_transformer" else 1)


@pytest.mark.parametrize("kind", get_args(GuardKind))
def test_a_key_of_other_kinds_is_refused(kind: str) -> None:
    given = {"deny": "['x']", "patterns": "['email']", "url": "'http://x'", "prepend": "[]", "templates": "{ t = 'x' }"}
    for field in fields(GuardSettings):
        kinds = field.metadata.get("kinds", ())
        if field.name in given and kind not in kinds:
            [problem] = fault(kind, f"{field.name} = {given[field.name]}")
            assert problem.startswith(f"7: `{field.name}` in [guards.g] is a key of kind ")
            assert problem.endswith(f', and this guard is of kind "{kind}".')


@pytest.mark.parametrize(
    ("kind", "text", "problem"),
    [
        ("decorate", "append = []", "7: `append` in [guards.g] must not be empty."),
        (
            "decorate",
            "append = [{ role = 'tool', content = 'x' }]",
            '7: `role` in [[guards.g.append]] must be "system", "developer", "user" or "assistant", not "tool".',
        ),
        (
            "prompt_guard",
            "allow = ['fine',\n'(?!x)']",
            '8: `allow` in [guards.g] has "(?!x)", which cannot be used: invalid perl operator at character 1, `(?!`; '
            "RE2 has no look-around and no back-references.",
        ),
        ("prompt_guard", "roles = []", "7: `roles` in [guards.g] must name a role."),
        (
            "prompt_guard",
            "max_characters = 0",
            "7: `max_characters` in [guards.g] must be a whole number of at least 1, not 0.",
        ),
        (
            "redact",
            "on = []",
            '7: `on` in [guards.g] must name "request", "response" or both.',
        ),
        (
            "redact",
            "on = ['request']\nwindow = 5",
            '8: `window` in [guards.g] is about answers, and `on` has no "response".',
        ),
        (
            "moderate",
            "on = ['response']\nroles = ['user']",
            '8: `roles` in [guards.g] is about requests, and `on` has no "request".',
        ),
        ("redact", "window = 70000", "7: `window` in [guards.g] must be at most 65536, not 70000."),
        ("redact", "action = 'block'\nreplace = ''", '8: `replace` in [guards.g] needs `action = "replace"`.'),
        (
            "redact",
            "reversible = true\non = ['response']",
            '7: `reversible` in [guards.g] is about what requests lose, and `on` has no "request".',
        ),
        (
            "redact",
            "reversible = true\nreplace = 'x'",
            "8: `replace` in [guards.g] needs `{name}` in it beside `reversible = true`: values are told apart by it.",
        ),
        (
            "request_transformer",
            "extract = '(a)(b)'",
            "7: `extract` in [guards.g] must have one group at most, the part that counts, not 2.",
        ),
        (
            "response_transformer",
            "json = { remove = ['a'] }",
            "7: `json` in [guards.g] cannot stand beside `model`: make two guards of it.",
        ),
        (
            "moderate",
            "prompt = 'x'",
            '7: `prompt` in [guards.g] needs `uses = "chat"`: a moderation interface takes none.',
        ),
        (
            "moderate",
            "uses = 'chat'\ncategories = ['hate']",
            '8: `categories` in [guards.g] needs `uses = "moderation"`: a chat model judges by `prompt`.',
        ),
        (
            "moderate",
            "thresholds = { hate = 2 }",
            "7: `hate` in [guards.g.thresholds] must be a number above 0 and at most 1, not 2.",
        ),
        ("moderate", "whole = true\nwindow = 5", "8: `window` in [guards.g] has no meaning beside `whole = true`."),
        (
            "webhook",
            "headers = { host = 'x' }",
            "7: `host` in [guards.g.headers] cannot be set: the gateway writes the header host itself.",
        ),
        (
            "webhook",
            "headers = { 'a b' = 'x' }",
            "7: `a b` in [guards.g.headers] is not a name that a header can have.",
        ),
    ],
)
def test_what_cannot_work_is_said_with_its_line(kind: str, text: str, problem: str) -> None:
    assert fault(kind, text) == [problem]


@pytest.mark.parametrize(
    ("kind", "text", "problem"),
    [
        (
            "redact",
            "patterns = ['emial']",
            '7: `patterns` in [guards.g] has "emial", which is no pattern that is built in; did you mean "email"?',
        ),
        (
            "redact",
            "patterns = ['email',\n{ name = 'a', regex = 'x(' }]",
            '8: `regex` in [[guards.g.patterns]] is "x(", which cannot be used: '
            "missing ): the parenthesis at character 2 stands alone.",
        ),
        (
            "redact",
            "patterns = [{ name = 'a', regex = 'x*' }]",
            '7: `regex` in [[guards.g.patterns]] is "x*", which cannot be used: '
            "it matches the empty text, which is everywhere.",
        ),
        ("redact", "patterns = ['ip', { name = 'ip', regex = 'x' }]", '7: [guards.g] has two patterns called "ip".'),
        ("redact", "patterns = [{ regex = 'x' }]", "7: [[guards.g.patterns]] needs `name`."),
        ("redact", "patterns = [1]", "7: an entry of `patterns` in [guards.g] must be a table, not a whole number."),
        ("template", "templates = {}", "7: `templates` in [guards.g] must not be empty."),
        (
            "template",
            "templates = { t = {} }",
            "7: [guards.g.templates.t] needs exactly one of `messages` and `prompt`, not none.",
        ),
        (
            "template",
            "templates = { t = { messages = [] } }",
            "7: `messages` in [guards.g.templates.t] must have a message.",
        ),
        (
            "template",
            "templates = { t = { messages = [{ role = 'user', content = 'x' }], prompt = 'x' } }",
            "7: [guards.g.templates.t] needs exactly one of `messages` and `prompt`, not both.",
        ),
        (
            "template",
            "templates = { t = 'a {{b.c}}' }",
            '7: [guards.g.templates.t] has "{{b.c}}", which is no gap: a name of letters, digits, `_` and `-` stands in it.',
        ),
        (
            "template",
            "templates = { 't}' = 'x' }",
            '7: "t}" is not a name that a template can have: no braces, and not empty.',
        ),
        (
            "response_transformer",
            "json = { remove = ['a..b'] }",
            '7: `remove` in [guards.g.json] has "a..b", which is no path of a field, '
            'such as "choices[*].delta.content" or "choices.0.delta.content".',
        ),
        (
            "response_transformer",
            "json = { rename = { 'a.*' = 'x' } }",
            '7: `rename` in [guards.g.json] has "a.*": all fields cannot have one name.',
        ),
        ("response_transformer", "json = {}", "7: `json` in [guards.g] must not be empty."),
        (
            "response_transformer",
            "response_headers = { add = { content-length = '1' } }",
            "7: `content-length` in [guards.g.response_headers.add] cannot be set: "
            "the gateway writes the header content-length itself.",
        ),
        (
            "response_transformer",
            "response_headers = { rename = { x-a = 'te' } }",
            "7: `x-a` in [guards.g.response_headers.rename] cannot be set: the gateway writes the header te itself.",
        ),
        (
            "response_transformer",
            'response_headers = { append = { x-a = "b\\r\\nc: d" } }',
            "7: `x-a` in [guards.g.response_headers.append] must be printable ASCII characters.",
        ),
        (
            "response_transformer",
            "response_headers = { remove = ['a b'] }",
            "7: `remove` in [guards.g.response_headers] is not a name that a header can have.",
        ),
        (
            "response_transformer",
            "json = { remove = ['a'] }\nprompt = 'x'",
            "8: `prompt` in [guards.g] needs `model` beside it.",
        ),
        ("response_transformer", "model = 'demo'", "7: `model` in [guards.g] needs `prompt` beside it."),
        (
            "moderate",
            "model = 'dmo'",
            '7: guard "g" refers to the model "dmo", which is not configured; did you mean "demo"?',
        ),
        (
            "webhook",
            "url = 'ftp://x'",
            '7: `url` in [guards.g] must be an http or https URL with a host, such as "https://api.example.com/v1".',
        ),
        (
            "webhook",
            "url = 'http://me:pw@x'",
            "7: `url` in [guards.g] must not hold a user name or password; a credential goes into `headers`.",
        ),
        ("webhook", "url = 'http://x/#a'", "7: `url` in [guards.g] must not have a fragment."),
    ],
)
def test_what_a_kind_needs_must_be_sound(kind: str, text: str, problem: str) -> None:
    assert fault(kind, text, least=False) == [problem]


@pytest.mark.parametrize(
    ("text", "found"),
    [
        (
            "guards = ['a',\n'x']",
            ['6: model "demo" refers to the guard "x", which is not configured; there are "a", "all", "t", "u".'],
        ),
        ("guards = ['a', 'a']", ['5: model "demo" names the guard "a" twice; it runs once.']),
        ("guards = ['all']", ['5: model "demo" names the guard "all", which runs for all models already.']),
        (
            "guards = ['t', 'u']",
            ['3: [models.demo] has several guards of kind "template" ("t" and "u"); make them one.'],
        ),
        ("guards = [1]", ["5: an entry of `guards` in [models.demo] must be text, not a whole number."]),
    ],
)
def test_what_cannot_work_in_a_models_list_is_said_with_its_line(text: str, found: list[str]) -> None:
    blocks = "".join(
        f"[guards.{name}]\nkind = '{kind}'\n{LEAST[kind]}\n{more}\n"
        for name, kind, more in (
            ("a", "redact", ""),
            ("all", "redact", "all_models = true"),
            ("t", "template", ""),
            ("u", "template", ""),
        )
    )
    assert problems(f"{DEMO}{text}\n{blocks}") == [f"config.toml:{problem}" for problem in found]


def test_a_kind_that_there_is_not_is_refused_once() -> None:
    [problem] = fault("redakt", "patterns = ['email']\ndeny = ['x']", least=False)
    assert problem.startswith('6: `kind` in [guards.g] must be "decorate", ')


def test_a_guards_model_must_serve_what_it_is_asked_for() -> None:
    text = f"""\
[guards.m]
kind = "moderate"
model = "demo"
[guards.c]
kind = "moderate"
model = "demo"
uses = "chat"
[guards.r]
kind = "request_transformer"
{LEAST["request_transformer"]}
[guards.p]
kind = "prompt_guard"
{LEAST["prompt_guard"]}
"""
    settings, _ = load(DEMO + text)
    key = ("demo", "demo")
    assert guard_problems(settings, {key: {"chat", "moderations"}}) == []
    assert guard_problems(settings, {key: {"chat", "embeddings"}}) == [
        'guard "m" asks the model "demo" for moderations, which it does not serve; `uses = "chat"` asks any chat model.'
    ]
    assert guard_problems(settings, {key: {"moderations"}}) == [
        'guard "c" asks the model "demo" for chat, which it does not serve.',
        'guard "r" asks the model "demo" for chat, which it does not serve.',
    ]


def described(settings: Settings) -> list[str]:
    return describe(settings, KINDS).splitlines()


def test_the_check_shows_each_models_guards_in_the_order_in_which_they_run() -> None:
    text = f"""\
guards = ["secrets", "prompts"]
[guards.secrets]
kind = "redact"
on = ["response"]
patterns = ["email", {{ name = "staff", regex = "E[0-9]+" }}]
[guards.prompts]
kind = "template"
{LEAST["template"]}
[guards.judge]
kind = "moderate"
model = "demo"
all_models = true
[guards.hook]
kind = "webhook"
url = "https://guard.example.com/v1?token=hush"
headers = {{ x-key = "${{HOOK}}" }}
"""
    settings, _ = load(DEMO + text, {"HOOK": "hush"})
    lines = described(settings)
    assert "  guards              prompts (template), judge (moderate), secrets (redact)" in lines
    assert "guard secrets: redact on response, patterns email, staff" in lines
    assert "guard prompts: template, templates t" in lines
    assert "guard judge: moderate on request and response, by the model demo, for all models" in lines
    assert (
        "guard hook: webhook on request and response, by https://guard.example.com/v1, "
        "header x-key from environment variable HOOK" in lines
    )
    assert 'note: guard "hook" is used by no model.' in lines
    assert "hush" not in "\n".join(lines)


def test_without_guards_nothing_is_said_of_them() -> None:
    settings, _ = load(DEMO)
    assert "guard" not in describe(settings, KINDS)
    assert "guard" not in describe(replace(settings, models={}), KINDS)


def test_patterns_that_are_too_large_together_are_refused() -> None:
    patterns = ", ".join(f"{{ name = 'p{number}', regex = '(?:é|ü|[^a-z])\\pL{{100}}' }}" for number in range(60))
    assert fault("redact", f"patterns = [{patterns}]", least=False) == [
        "7: `patterns` in [guards.g] cannot be looked for together: "
        "it becomes too large to be looked for in a stream (pattern too large - compile failed)."
    ]
