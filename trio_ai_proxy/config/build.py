"""A document without faults → `Settings`: defaults filled in, deadlines merged. Nothing is checked here."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from trio_ai_proxy.config.rules import key_digest
from trio_ai_proxy.settings import (
    AdminSettings,
    AuthSettings,
    KeySettings,
    ModelSettings,
    ProviderSettings,
    RouteSettings,
    ServerSettings,
    Settings,
    TargetSettings,
    Timeouts,
    TokenSettings,
)

if TYPE_CHECKING:
    from collections.abc import Collection

    from trio_ai_proxy.config.decode import Table


def build(document: Table, *, without: Collection[str]) -> Settings:
    """The settings that `document` describes, but for the providers named in `without`."""
    values = document.values
    timeouts = _timeouts(document, Timeouts())
    tokens, server, admin = (values[name].values if name in values else {} for name in ("tokens", "server", "admin"))
    if "cors_origins" in server:
        server["cors_origins"] = tuple(server["cors_origins"])
    providers: dict[str, Table] = values.get("providers", {})
    models: dict[str, Table] = values.get("models", {})
    return Settings(
        server=ServerSettings(**server),
        admin=AdminSettings(**admin),
        tokens=TokenSettings(**tokens),
        timeouts=timeouts,
        providers={name: _provider(name, table) for name, table in providers.items() if name not in without},
        models={name: _model(name, table, timeouts) for name, table in models.items()},
        keys=tuple(_key(table) for table in values.get("keys", [])),
        routes=tuple(RouteSettings(**table.values) for table in values.get("routes", [])),
    )


def _timeouts(owner: Table, defaults: Timeouts) -> Timeouts:
    return replace(defaults, **owner.values["timeouts"].values) if "timeouts" in owner.values else defaults


def _provider(name: str, table: Table) -> ProviderSettings:
    values = dict(table.values)
    if "auth" in values:
        auth = dict(values["auth"].values)
        auth.pop("allow_override", None)  # only `false` gets here, and that is what there is
        values["auth"] = AuthSettings(**auth)
    if "base_url" in values:
        values["base_url"] = values["base_url"].rstrip("/")  # a path is added to it, and every path begins with one
    return ProviderSettings(name=name, **values)


def _model(name: str, table: Table, defaults: Timeouts) -> ModelSettings:
    timeouts = _timeouts(table, defaults)
    options = dict(table.values.get("options", {}))
    force = options.pop("force", False)
    values = table.values | {
        "targets": tuple(_target(target, timeouts) for target in table.values["targets"]),
        "timeouts": timeouts,
        "options": options,
        "force_options": force,
    }
    return ModelSettings(name=name, **values)


def _target(table: Table, defaults: Timeouts) -> TargetSettings:
    timeouts = _timeouts(table, defaults) if "timeouts" in table.values else None
    return TargetSettings(**(table.values | {"timeouts": timeouts}))


def _key(table: Table) -> KeySettings:
    models = table.values.get("models")
    settings = KeySettings(name=table.values["name"], sha256=key_digest(table))
    return settings if models is None else replace(settings, models=tuple(models))
