"""The committed files are what the settings types say: the reference, the editors' schema, the shipped config.toml."""

from __future__ import annotations

import json
import re
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

import pytest
from support.config_file import load

from trio_ai_proxy.config import (
    DEMO_MODELS,
    default_settings,
    describe,
    init_file,
    json_schema,
    load_settings,
    reference_markdown,
    write_docs,
)
from trio_ai_proxy.config.fields import NOT_BUILT, Block, Key, Listing, Named, Shape, keys_of, shape_of
from trio_ai_proxy.providers.table import KINDS as PROVIDER_TABLE
from trio_ai_proxy.settings import AdminSettings, GuardKind, ServerSettings, Settings, Timeouts, TokenSettings

if TYPE_CHECKING:
    from collections.abc import Collection

ROOT = Path(__file__).parents[2]
STALE = "the settings types have changed: run `trio-ai-proxy docs` to rewrite docs/configuration.md and the schema"


def test_the_committed_reference_is_the_generated_one() -> None:
    assert (ROOT / "docs/configuration.md").read_text(encoding="utf-8") == reference_markdown(), STALE


def test_the_committed_schema_is_the_generated_one() -> None:
    assert (ROOT / "docs/config.schema.json").read_text(encoding="utf-8") == json_schema(), STALE


def test_the_docs_command_writes_both(tmp_path: Path) -> None:
    assert write_docs(tmp_path) == [tmp_path / "configuration.md", tmp_path / "config.schema.json"]
    assert (tmp_path / "configuration.md").read_text(encoding="utf-8") == reference_markdown()
    assert (tmp_path / "config.schema.json").read_text(encoding="utf-8") == json_schema()


def inner_type(shape: Shape) -> type | None:
    match shape:
        case Block():
            return shape.type
        case Named() | Listing():
            return inner_type(shape.of)
        case _:
            return None


def every_key(*, of_all_kinds: bool = False) -> list[tuple[str, Key]]:
    """Each key of the file once, with the name of its settings type; or those alone that no kind has for itself."""
    found: dict[type, None] = {Settings: None}
    waiting: list[type] = [Settings]
    while waiting:
        for key in keys_of(waiting.pop()).values():
            if of_all_kinds and key.kinds:
                continue
            inner = inner_type(key.shape)
            if inner is not None and inner not in found:
                found[inner] = None
                waiting.append(inner)
    return [
        (settings_type.__name__, key)
        for settings_type in found
        for key in keys_of(settings_type).values()
        if not (of_all_kinds and key.kinds)
    ]


def test_every_key_is_in_the_reference_and_every_key_to_come_is_listed_as_such() -> None:
    page = reference_markdown()
    for settings_type, key in every_key():
        if settings_type != "Settings":
            assert f"| `{key.name}` |" in page
    for names in NOT_BUILT.values():
        for name in names:
            assert f"`{name}`" in page.partition("## Not built yet")[2]


def test_a_key_of_some_kinds_names_them_in_the_reference_and_in_the_schema() -> None:
    page = reference_markdown()
    definitions = json.loads(json_schema())["definitions"]
    known: dict[str, Collection[str]] = {"ProviderSettings": PROVIDER_TABLE, "GuardSettings": get_args(GuardKind)}
    for settings_type, key in every_key():
        if key.kinds:
            assert set(key.kinds) <= set(known[settings_type])
            rows = [line for line in page.splitlines() if line.startswith(f"| `{key.name}` |") and " Kind `" in line]
            assert len(rows) == 1
            for kind in key.kinds:
                assert f"`{kind}`" in rows[0]
                assert kind in definitions[settings_type]["properties"][key.name]["description"]


def test_every_key_has_a_line_of_documentation_that_fits_a_table() -> None:
    for _, key in every_key():
        assert key.doc.endswith(".")
        assert "|" not in key.doc
        assert "\n" not in key.doc


def test_no_key_is_both_built_and_still_to_come() -> None:
    for settings_type, names in NOT_BUILT.items():
        assert set(names) & keys_of(settings_type).keys() == set()


def accepts(schema: dict[str, Any], value: object, root: dict[str, Any]) -> bool:
    """Whether a value fits, by the part of JSON Schema that we use; an unknown keyword is an error here."""
    for word, rule in schema.items():
        match word:
            case "$ref":
                fits = accepts(root["definitions"][rule.rsplit("/", 1)[1]], value, root)
            case "allOf":
                fits = all(accepts(each, value, root) for each in rule)
            case "anyOf":
                fits = any(accepts(each, value, root) for each in rule)
            case "oneOf":
                fits = [accepts(each, value, root) for each in rule].count(True) == 1
            case "type":
                is_bool = isinstance(value, bool)
                types = {"object": dict, "array": list, "string": str, "boolean": bool, "integer": int}
                if rule == "number":
                    fits = isinstance(value, int | float) and not is_bool
                else:
                    fits = isinstance(value, types[rule]) and (rule == "boolean" or not is_bool)
            case "enum":
                fits = value in rule
            case "pattern":
                fits = isinstance(value, str) and re.search(rule, value) is not None
            case "minLength":
                fits = isinstance(value, str) and len(value) >= rule
            case "minimum":
                fits = isinstance(value, int | float) and value >= rule
            case "exclusiveMinimum":
                fits = isinstance(value, int | float) and value > rule
            case "maximum":
                fits = isinstance(value, int | float) and value <= rule
            case "required":
                fits = isinstance(value, dict) and set(rule) <= value.keys()
            case "items":
                fits = isinstance(value, list) and all(accepts(rule, each, root) for each in value)
            case "properties":
                fits = isinstance(value, dict) and all(
                    accepts(rule[n], value[n], root) for n in rule.keys() & value.keys()
                )
            case "additionalProperties":
                others = [each for n, each in dict(value).items() if n not in schema.get("properties", {})]  # type: ignore[call-overload]
                fits = not others if rule is False else all(accepts(rule, each, root) for each in others)
            case "$schema" | "title" | "description" | "definitions":
                fits = True
            case _:
                raise AssertionError(f"unknown keyword {word}")
        if not fits:
            return False
    return True


def shipped() -> str:
    return (ROOT / "config.toml").read_text(encoding="utf-8")


def switched_on(text: str) -> str:
    """The file with every setting that it only mentions switched on: those after a "#" without a space."""
    return re.sub(r"(?m)^#(?=[\[a-z])", "", text)


@pytest.mark.parametrize("text", [shipped(), init_file(), switched_on(init_file())])
def test_the_schema_accepts_what_the_loader_accepts(text: str) -> None:
    schema = json.loads(json_schema())
    assert accepts(schema, tomllib.loads(text), schema)


@pytest.mark.parametrize(
    "text",
    [
        "sever = {}",
        "[server]\nbind = ''",
        "[server]\nworkers = 0",
        "[server]\nh2c = 'x'",
        "[server]\nmax_body = '10 apples'",
        "[timeouts]\nidle = 0",
        "[timeouts]\nidle = '10'",
        "[timeouts]\nidle = true",
        "[models.x]",
        "[models.x]\ntargets = [{ provider = 'a' }]",
        "[models.x]\nguards = 1\ntargets = []",
        "[models.x]\nhedge_after = 'p96'\ntargets = []",
        "[models.x]\nhedge_budget = 1.5\ntargets = []",
        "[models.x]\nsemantic = {}\ntargets = []",
        "[models.x]\nsemantic = { model = 'v', threshold = 2 }\ntargets = []",
        "[models.x]\ncontinuation = 'keep'\ntargets = []",
        "[breaker]\nrate = 0",
        "[[keys]]\nname = 'a'",
        "[[keys]]\nname = 'a'\nsecret = 's'\nsha256 = '" + "0" * 64 + "'",
        "[[keys]]\nname = 'a'\nsha256 = 'x'",
        "[providers.x]",
        "[[routes]]\npath = '/x'\nroute_type = 'preserve'",
        "[guards.x]",
        "[guards.x]\nkind = 'redakt'",
        "[guards.x]\nkind = 'redact'\npatterns = [{ regex = 'x' }]",
        "[guards.x]\nkind = 'template'\ntemplates = { a = { prompt = 'x', messages = [] } }",
        "[guards.x]\nkind = 'decorate'\nprepend = [{ role = 'tool', content = 'x' }]",
    ],
)
def test_the_schema_refuses_what_the_loader_refuses(text: str) -> None:
    schema = json.loads(json_schema())
    assert not accepts(schema, tomllib.loads(text), schema)


@pytest.mark.parametrize(
    "text",
    [
        "[models.x]\ntargets = []\nhedge_after = 'p95'\nhedge_budget = 1",
        "[models.x]\ntargets = []\nhedge_after = '1500ms'",
        "[timeouts]\nidle = '${IDLE}'",
        "[server]\ndrain = 0\nh2c = '${H2C}'",
        "[admin]\nbind = ''",
        "[guards.x]\nkind = 'redact'\npatterns = ['email', { name = 'a', regex = 'x' }, '${P}']",
        "[guards.x]\nkind = 'template'\ntemplates = { a = 'x {{y}}', b = { prompt = 'x' } }",
    ],
)
def test_the_schema_accepts_variables(text: str) -> None:
    schema = json.loads(json_schema())
    assert accepts(schema, tomllib.loads(text), schema)


def test_the_shipped_file_runs_with_no_account_and_lists_the_demo_models() -> None:
    settings, notes = load(shipped())
    assert list(settings.models) == list(DEMO_MODELS)
    assert list(settings.providers) == ["demo"]
    assert len(notes) == 1
    assert notes[0].startswith('provider "openai" is left out: environment variable OPENAI_API_KEY is not set')


def test_the_shipped_files_and_the_defaults_fit_the_real_provider_table() -> None:
    environ = {"OPENAI_API_KEY": "k", "COMPANY_KEY": "k", "TEAM_A_KEY": "k"}
    for text in (shipped(), init_file(), switched_on(init_file())):
        settings, _ = load_settings(text, file="config.toml", environ=environ, read_file=str, kinds=PROVIDER_TABLE)
        assert "openai (kind openai)" in describe(settings, PROVIDER_TABLE) or "gpt-4o" not in settings.models
    assert set(default_settings(environ, PROVIDER_TABLE).providers) == {"demo", "openai"}


def test_the_shipped_file_shows_the_defaults() -> None:
    settings, _ = load(shipped(), {"OPENAI_API_KEY": "k"})
    assert settings.server == ServerSettings()
    assert settings.admin == AdminSettings()
    assert settings.tokens == TokenSettings()
    assert settings.timeouts == Timeouts()
    document = tomllib.loads(shipped())
    tables = [("ServerSettings", document["server"]), ("Timeouts", document["timeouts"])]
    for name, table in tables:
        assert list(table) == [key.name for settings_type, key in every_key() if settings_type == name]


def test_what_the_shipped_file_mentions_works_when_it_is_switched_on() -> None:
    text = switched_on(shipped())
    text = text.replace('transport = "own"', 'transport = "httpx"')  # which a proxy needs
    several = {"OPENAI_KEY_A": "a", "OPENAI_KEY_B": "b"}
    settings, notes = load(text, {"OPENAI_API_KEY": "k", "COMPANY_KEY": "k", "TEAM_A_KEY": "k", **several})
    assert notes == []
    assert [key.name for key in settings.keys] == ["team-a", "team-b"]
    assert [route.path for route in settings.routes] == ["/my-chat"]
    assert settings.models["gpt-4o"].options == {"temperature": 0.2, "max_tokens": 1024}
    assert settings.models["demo"].keep_alive == 15.0


def test_the_shipped_file_mentions_every_key_that_all_kinds_of_provider_have() -> None:
    """The others are for the pages of their kinds."""
    for settings_type, key in every_key(of_all_kinds=True):
        assert re.search(rf"\b{key.name}\b( = |\.|\])", switched_on(shipped())), f"{key.name} of {settings_type}"


@dataclass(frozen=True)
class Odd:
    number: float = 0.0


def test_a_field_of_a_type_that_nobody_reads_is_found_at_once() -> None:
    with pytest.raises(TypeError, match="no shape for a field of type <class 'float'> with the unit None"):
        shape_of(float, {})
    assert keys_of(Odd) == {}


def test_only_a_duration_may_be_a_word_instead() -> None:
    with pytest.raises(TypeError, match="only a duration may be a word instead"):
        shape_of(int | Literal["many"] | None, {"unit": "count"})
