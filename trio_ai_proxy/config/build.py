"""A document without faults → `Settings`: defaults filled in, deadlines merged. Nothing is checked here."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from trio_ai_proxy.config.rules import key_digest
from trio_ai_proxy.settings import (
    AdminSettings,
    AuthSettings,
    BreakerSettings,
    CapabilitySettings,
    EntraSettings,
    GuardSettings,
    HeaderChanges,
    JSONChanges,
    KeySettings,
    MatchSettings,
    MessageSettings,
    ModelSettings,
    PatternSettings,
    ProviderSettings,
    RouteSettings,
    SemanticSettings,
    ServerSettings,
    Settings,
    TargetSettings,
    TemplateSettings,
    Timeouts,
    TokenSettings,
)

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence

    from trio_ai_proxy.config.decode import Table
    from trio_ai_proxy.config.kinds import Kind


def build(
    document: Table, *, without: Collection[str], kinds: Mapping[str, Kind], environ: Mapping[str, str]
) -> Settings:
    """The settings that `document` describes, but for the providers named in `without`."""
    values = document.values
    timeouts = _timeouts(document, Timeouts())
    breaker = _breaker(document, BreakerSettings())
    tokens, server, admin = (values[name].values if name in values else {} for name in ("tokens", "server", "admin"))
    if "cors_origins" in server:
        server["cors_origins"] = tuple(server["cors_origins"])
    providers: dict[str, Table] = values.get("providers", {})
    models: dict[str, Table] = values.get("models", {})
    guards = {name: _guard(name, table) for name, table in values.get("guards", {}).items()}
    for_all = [guard.name for guard in guards.values() if guard.all_models]
    templates = [guard.name for guard in guards.values() if guard.kind == "template"]
    return Settings(
        server=ServerSettings(**server),
        admin=AdminSettings(**admin),
        tokens=TokenSettings(**tokens),
        timeouts=timeouts,
        breaker=breaker,
        providers={
            name: _provider(name, table, kinds, environ) for name, table in providers.items() if name not in without
        },
        guards=guards,
        models={name: _model(name, table, timeouts, breaker, for_all, templates) for name, table in models.items()},
        keys=tuple(_key(table) for table in values.get("keys", [])),
        routes=tuple(RouteSettings(**table.values) for table in values.get("routes", [])),
    )


def _timeouts(owner: Table, defaults: Timeouts) -> Timeouts:
    return replace(defaults, **owner.values["timeouts"].values) if "timeouts" in owner.values else defaults


def _breaker(owner: Table, defaults: BreakerSettings) -> BreakerSettings:
    return replace(defaults, **owner.values["breaker"].values) if "breaker" in owner.values else defaults


def _provider(name: str, table: Table, kinds: Mapping[str, Kind], environ: Mapping[str, str]) -> ProviderSettings:
    values = dict(table.values)
    if "entra" in values:
        values["entra"] = EntraSettings(**values["entra"].values)
    if "api_keys" in values:
        values["api_keys"] = tuple(values["api_keys"])
    if "beta" in values:
        values["beta"] = tuple(values["beta"])
    values["environment"] = {key: environ[key] for key in kinds[values["kind"]].environment if key in environ}
    if "auth" in values:
        values["auth"] = AuthSettings(**values["auth"].values)
    if "base_url" in values:
        values["base_url"] = values["base_url"].rstrip("/")  # a path is added to it, and every path begins with one
    return ProviderSettings(name=name, **values)


def _guard(name: str, table: Table) -> GuardSettings:
    values = dict(table.values)
    for key in ("prepend", "append"):
        if key in values:
            values[key] = _messages(values[key])
    if "templates" in values:
        values["templates"] = {key: _template(template) for key, template in values["templates"].items()}
    if "patterns" in values:
        values["patterns"] = tuple(PatternSettings(**pattern.values) for pattern in values["patterns"])
    for key in ("on", "deny", "allow", "roles", "categories", "parts"):
        if key in values:
            values[key] = tuple(values[key])
    for key, changes in (("response_headers", HeaderChanges), ("json", JSONChanges)):
        if key in values:
            given = values[key].values
            values[key] = changes(**given | {"remove": tuple(given.get("remove", ()))})
    return GuardSettings(name=name, **values)


def _messages(tables: list[Table]) -> tuple[MessageSettings, ...]:
    return tuple(MessageSettings(**table.values) for table in tables)


def _template(table: Table) -> TemplateSettings:
    return TemplateSettings(messages=_messages(table.values.get("messages", [])), prompt=table.values.get("prompt"))


def _in_order(names: list[str], templates: Collection[str]) -> tuple[str, ...]:
    """The guards as they run: templates first, for the others are about what a request says, and with a template it says that."""
    return (*(name for name in names if name in templates), *(name for name in names if name not in templates))


def _model(
    name: str,
    table: Table,
    defaults: Timeouts,
    breaker: BreakerSettings,
    for_all: Sequence[str],
    templates: Collection[str],
) -> ModelSettings:
    timeouts = _timeouts(table, defaults)
    options = dict(table.values.get("options", {}))
    force = options.pop("force", False)
    values = table.values | {
        "targets": tuple(_target(target, timeouts) for target in table.values["targets"]),
        "timeouts": timeouts,
        "breaker": _breaker(table, breaker),
        "options": options,
        "guards": _in_order([*for_all, *table.values.get("guards", ())], templates),
        "force_options": force,
    }
    if "semantic" in values:
        values["semantic"] = SemanticSettings(**values["semantic"].values)
    return ModelSettings(name=name, **values)


def _target(table: Table, defaults: Timeouts) -> TargetSettings:
    values = dict(table.values)
    if "timeouts" in values:
        values["timeouts"] = _timeouts(table, defaults)
    if "match" in values:
        match = values["match"].values
        values["match"] = MatchSettings(headers=match.get("headers", {}), keys=tuple(match.get("keys", ())))
    if "capabilities" in values:
        values["capabilities"] = CapabilitySettings(**values["capabilities"].values)
    return TargetSettings(**values)


def _key(table: Table) -> KeySettings:
    models = table.values.get("models")
    settings = KeySettings(name=table.values["name"], sha256=key_digest(table))
    return settings if models is None else replace(settings, models=tuple(models))
