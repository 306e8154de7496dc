"""What a configuration comes to, for people. It says where each credential came from and never what it is."""

from __future__ import annotations

from dataclasses import fields
from typing import TYPE_CHECKING

from trio_ai_proxy.config.values import format_duration, format_size, read_address

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from trio_ai_proxy.config.kinds import Kind
    from trio_ai_proxy.settings import (
        GuardSettings,
        ModelSettings,
        ProviderSettings,
        Settings,
        TargetSettings,
        Timeouts,
    )

_ON_BOTH_SIDES = ("redact", "moderate", "webhook")


def describe(settings: Settings, kinds: Mapping[str, Kind], notes: Sequence[str] = ()) -> str:
    """Everything that was resolved, as lines of text. `notes` are those of `load_settings`; our own are added."""
    lines = _ports(settings)
    for model in settings.models.values():
        lines += ["", f"model {model.name}", *(f"  {line}" for line in _model(model, settings, kinds))]
    if settings.pass_through is not None:
        lines += ["", "any other model"]
        place = _place(settings.providers[settings.pass_through], kinds)
        lines += [f"  target              {place}, under the same name"]
        lines += [f"  deadlines           {_deadlines(settings.timeouts)}"]
    if settings.providers:
        lines.append("")
    lines += [
        f"provider {provider.name}: {_credentials(provider, kinds[provider.kind])}"
        for provider in settings.providers.values()
    ]
    if settings.guards:
        lines += ["", *(f"guard {guard.name}: {_guard(guard)}" for guard in settings.guards.values())]
    if settings.keys or settings.routes:
        lines.append("")
    lines += [f"key {key.name}: models {', '.join(key.models)}" for key in settings.keys]
    for route in settings.routes:
        model_name = f"model {route.model}" if route.model is not None else "the model that the request names"
        lines.append(f"route {route.path}: {route.route_type}, {model_name}")
    all_notes = [*notes, *_unused(settings), *_shared(settings)]
    if all_notes:
        lines += ["", *(f"note: {note}" for note in all_notes)]
    return "\n".join(lines) + "\n"


def _ports(settings: Settings) -> list[str]:
    server = settings.server
    if settings.keys:
        who = "for those with a key"
    elif read_address(server.bind).is_loopback:
        who = "open to this machine, without keys"
    else:
        who = "open to everyone who can reach it, without keys"
    origins = ", ".join(server.cors_origins) or "none"
    workers = f"workers {server.workers} · " if server.workers > 1 else ""
    return [
        f"data port   {server.bind}, {who}",
        _admin_ports(settings),
        f"server      {workers}drain {format_duration(server.drain)} · max_body {format_size(server.max_body)}"
        f" · record_log {server.record_log} · h2c {server.h2c} · cors_origins {origins}",
    ]


def _admin_ports(settings: Settings) -> str:
    first, last = (settings.admin.bind_of(worker) for worker in (0, settings.server.workers - 1))
    return f"admin port  {first or 'off'}" if first == last else f"admin ports {first} to {last}, one for each worker"


def _model(model: ModelSettings, settings: Settings, kinds: Mapping[str, Kind]) -> list[str]:
    lines = []
    for target in model.targets:
        place = _place(settings.providers[target.provider], kinds)
        lines.append(f"target              {place}, as {target.model}{_rank(target, model)}")
        lines.append(f"deadlines           {_deadlines(target.timeouts or model.timeouts)}")
        lines += _limits(target)
    lines += _failover(model)
    grace = f" of {format_duration(model.grace)}" if model.on_disconnect == "grace" else ""
    keep_alive = "off" if model.keep_alive is None else format_duration(model.keep_alive)
    lines += [
        f"response_streaming  {model.response_streaming}",
        f"on_disconnect       {model.on_disconnect}{grace}",
        f"keep_alive          {keep_alive}",
    ]
    if model.guards:
        names = (f"{name} ({settings.guards[name].kind})" for name in model.guards)
        lines.append(f"guards              {', '.join(names)}")
    if model.options:
        # Names only: an option may hold what came from an environment variable.
        force = " (they win over the request)" if model.force_options else " (where the request leaves them out)"
        lines.append(f"options             {', '.join(model.options)}{force}")
    return lines


def _rank(target: TargetSettings, model: ModelSettings) -> str:
    if len(model.targets) == 1:
        return ""
    return f" (priority {target.priority}, weight {target.weight})"


def _limits(target: TargetSettings) -> list[str]:
    """Which requests a target is for, if not all."""
    said: list[str] = [] if target.max_context is None else [f"up to {target.max_context} tokens"]
    if target.match is not None:
        said += [f"header {name}: {value}" for name, value in target.match.headers.items()]
        said += [f"keys {', '.join(target.match.keys)}"] if target.match.keys else []
    if target.capabilities is not None:
        given = [(key.name, getattr(target.capabilities, key.name)) for key in fields(target.capabilities)]
        said += [name if able else f"no {name}" for name, able in given if able is not None]
    return [f"limits              {', '.join(said)}"] if said else []


def _failover(model: ModelSettings) -> list[str]:
    lines = []
    if len(model.targets) > 1:
        on = f" on {model.hash_on}" if model.hash_on else ""
        lines.append(f"balance             {model.balance}{on}")
    breaker = model.breaker
    hedge = "off"
    if model.hedge_after is not None:
        after = model.hedge_after if isinstance(model.hedge_after, str) else format_duration(model.hedge_after)
        hedge = f"after {after}, at most {model.hedge_budget:.0%} more calls"
    held = ""
    if model.continuation == "hold":
        held = f" ({format_size(model.hold_bytes)} or {format_duration(model.hold_for)})"
    return [
        *lines,
        f"failover            retries {model.retries} · hedge {hedge} · continuation {model.continuation}{held} · "
        f"malformed_limit {model.malformed_limit}",
        f"breaker             {breaker.failures} failures, or {breaker.rate:.0%} within {format_duration(breaker.window)}; "
        f"then a probe at least every {format_duration(breaker.open)}",
    ]


def _place(provider: ProviderSettings, kinds: Mapping[str, Kind]) -> str:
    kind = kinds[provider.kind]
    given = [f"{key} {getattr(provider, key)}" for key in kind.place_keys if getattr(provider, key) is not None]
    address = provider.base_url or kind.default_base_url or ", ".join(given)
    return f"{provider.name} (kind {provider.kind}) at {address or 'no address'}"


def _deadlines(timeouts: Timeouts) -> str:
    return ", ".join(f"{key.name} {format_duration(getattr(timeouts, key.name))}" for key in fields(timeouts))


def _credentials(provider: ProviderSettings, kind: Kind) -> str:
    sources = []
    if provider.api_key is not None:
        sources.append(f"api_key from {provider.api_key.source}")
    if provider.api_keys:
        places = ", ".join(secret.source for secret in provider.api_keys)
        turns = (
            f"{len(provider.api_keys)} credentials that take turns" if len(provider.api_keys) > 1 else "one credential"
        )
        sources.append(f"api_keys: {turns}, from {places}")
    if provider.auth is not None and provider.auth.header_value is not None:
        sources.append(f"header {provider.auth.header_name} from {provider.auth.header_value.source}")
    if provider.auth is not None and provider.auth.param_value is not None:
        where = f"{provider.auth.param_location} parameter {provider.auth.param_name}"
        sources.append(f"{where} from {provider.auth.param_value.source}")
    if provider.auth is not None and provider.auth.allow_override:
        sources.append("where a client sends its own there, that goes out")
    if provider.entra is not None:
        secret = provider.entra.client_secret
        proof = f"secret from {secret.source}" if secret is not None else "a federated token"
        sources.append(f"application {provider.entra.client_id} of tenant {provider.entra.tenant_id}, {proof}")
    for name in ("service_account", "secret_access_key"):
        secret = getattr(provider, name)
        if secret is not None:
            sources.append(f"{name} from {secret.source}")
    names = [name for name in ("profile", "role_arn") if getattr(provider, name) is not None]
    sources += [f"{name} {getattr(provider, name)}" for name in names]
    if not sources and kind.environment and not kind.needs_key:
        sources.append("what this machine is given")
    if provider.managed_identity:
        sources.append("the identity of this machine")
    return ", ".join(sources) or "no credential"


def _guard(guard: GuardSettings) -> str:
    said: list[str] = [guard.kind]
    if guard.kind in _ON_BOTH_SIDES:
        said[0] += f" on {' and '.join(guard.on)}"
    if guard.patterns:
        said.append(f"patterns {', '.join(pattern.name for pattern in guard.patterns)}")
    if guard.templates:
        said.append(f"templates {', '.join(guard.templates)}")
    if guard.model is not None:
        said.append(f"by the model {guard.model}")
    if guard.url is not None:
        said.append(f"by {guard.url.partition('?')[0]}")  # a query may hold what nobody should see
    said += [f"header {name} from {secret.source}" for name, secret in guard.headers.items()]
    if guard.all_models:
        said.append("for all models")
    return ", ".join(said)


def _unused(settings: Settings) -> list[str]:
    used = {target.provider for model in settings.models.values() for target in model.targets} | {settings.pass_through}
    guards = {name for model in settings.models.values() for name in model.guards}
    return [
        *(f'provider "{name}" is used by no model.' for name in settings.providers if name not in used),
        *(f'guard "{name}" is used by no model.' for name in settings.guards if name not in guards),
    ]


def _shared(settings: Settings) -> list[str]:
    """What several workers do not share."""
    workers = settings.server.workers
    if workers == 1:
        return []
    limits = ", ".join(f"{name} {workers} x {one.max_in_flight}" for name, one in settings.providers.items())
    return [
        f"{workers} workers share the data port and nothing else: each has its own metrics and exchanges, its own "
        f"connections, its own embedded demo, and its own limits (max_in_flight: {limits or 'no provider'})."
    ]
