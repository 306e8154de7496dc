"""What the parts of the file mean together: which names must exist, which keys go together, what is not built yet.

Each rule adds its fault and goes on, so that one run finds everything. A key that could not be decoded has been
reported already; no rule speaks of it a second time.
"""

from __future__ import annotations

import hashlib
import re
from typing import TYPE_CHECKING

from trio_ai_proxy.config.decode import Faults, Table, nearest, table_name
from trio_ai_proxy.config.fields import ALTERNATIVES
from trio_ai_proxy.config.headers import check_header
from trio_ai_proxy.config.kinds import check_kind_keys
from trio_ai_proxy.config.ports import port_faults
from trio_ai_proxy.config.routes import check_model_placeholders, check_provider_placeholders, check_routes
from trio_ai_proxy.config.semantic import check_semantic
from trio_ai_proxy.config.targets import check_targets
from trio_ai_proxy.config.values import Rejected, check_base_url, shown
from trio_ai_proxy.settings import AdminSettings, KeySettings, ProviderSettings, ServerSettings

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from trio_ai_proxy.config.kinds import Kind

_OPTIONS_WITH_A_KEY = {"model": "`targets` names the model", "stream": "`response_streaming` decides that"}


def check(document: Table, kinds: Mapping[str, Kind], faults: Faults) -> list[str]:
    """Add every broken rule to `faults`. Returns notes: what is odd and yet no fault."""
    providers, models = _names(document, "providers"), _names(document, "models")
    used: set[str] = set()
    for table in document.values.get("providers", {}).values():
        _check_provider(table, kinds, faults, has_keys=bool(document.raw.get("keys")))
        check_provider_placeholders(table, faults)
    captured = check_routes(document.values.get("routes", []), models, faults)
    for table in document.values.get("models", {}).values():
        used |= _check_model(table, providers, faults)
        check_model_placeholders(table, captured, faults)
        check_targets(table, document.values.get("keys", []), faults)
        check_semantic(table, models, faults)
    _check_guards(document, faults)
    _check_keys(document.values.get("keys", []), faults)
    notes = _check_ports(document, faults) + _check_unresolved(faults, used)
    if not models:
        notes.append("no model is configured, so every request will be told that its model is unknown.")
    return notes


def _check_guards(document: Table, faults: Faults) -> None:
    models = document.values.get("models", {}).values()
    if "guards" not in document.raw and not any("guards" in model.raw for model in models):
        return  # and so RE2 need not be loaded
    from trio_ai_proxy.config.guards import check_guards, check_model_guards

    for model in models:
        check_model_guards(model, document, faults)
    check_guards(document, faults)


def _names(document: Table, section: str) -> dict[str, object]:
    """What the blocks of a section are called, also those with faults."""
    raw = document.raw.get(section, {})
    return raw if isinstance(raw, dict) else {}


def _check_unresolved(faults: Faults, used: set[str]) -> list[str]:
    """What a provider refers to must be there if a model uses it; otherwise the provider is left out, with a note."""
    notes = []
    for provider, things in faults.unresolved.items():
        for path, missing in things:
            if provider in used:
                faults.add_missing(path, missing, remedy=" or remove the models that use this provider")
            else:
                place = f"({faults.where(path)})"
                notes.append(
                    f'provider "{provider}" is left out: {missing.what} {missing.why} {place}, and no model uses it.'
                )
    return notes


def _check_provider(table: Table, kinds: Mapping[str, Kind], faults: Faults, *, has_keys: bool) -> None:
    values, raw = table.values, table.raw
    kind: Kind | None = None
    if "kind" in values:
        name, kind = values["kind"], kinds.get(values["kind"])
        if kind is None:
            hint = nearest(name, kinds, quote='"', otherwise="there are")
            faults.reject(table, "kind", f"is {shown(name)}, which is not in the provider table; {hint}")
        else:
            _check_needs(table, kind, faults)
            _check_credentials(table, kind, faults)
            check_kind_keys(table, ProviderSettings, name, "provider", faults)
    _check_value(faults, table, "base_url", check_base_url)
    _check_value(faults, table, "instance", _check_instance)
    _check_value(faults, table, "proxy", _check_proxy)
    if values.get("transport", "own") == "own":
        for name in ("proxy", "http2"):
            if values.get(name):
                faults.reject(table, name, 'needs `transport = "httpx"`')
    if isinstance(raw.get("headers"), dict):
        headers = Table(table.at("headers"), raw["headers"], values.get("headers", {}))
        for name, value in headers.values.items():
            check_header(faults, headers, name, name, value)
            if name.lower() == "authorization":
                faults.reject(headers, name, "belongs in `api_key` or `auth`, where it is kept secret")
    if "auth" in values:
        _check_auth(values["auth"], faults)
        _check_override(values["auth"], kind, faults, has_keys=has_keys)


def _check_needs(table: Table, kind: Kind, faults: Faults) -> None:
    """What a provider of this kind cannot do without."""
    raw = table.raw
    if kind.default_base_url is None and not any(key in raw for key in ("base_url", *kind.place_keys)):
        keys = " or ".join(f"`{key}`" for key in (*kind.place_keys, "base_url"))
        faults.add(table.path, f'{table_name(table.path)} needs {keys}; kind "{kind.name}" has no default for it')
    own = "api_keys" if "api_keys" in raw else "api_key"
    given = [key for key in (own, "auth", *kind.credential_keys) if raw.get(key, False) is not False]
    if kind.needs_key and not given:
        keys = " or ".join(f"`{key}`" for key in ("api_key", "auth", *kind.credential_keys))
        faults.add(table.path, f'{table_name(table.path)} needs {keys}; kind "{kind.name}" asks for one')
    if len(given) > 1 and set(given) & set(kind.credential_keys):
        faults.reject(table, given[1], f"cannot stand beside `{given[0]}`: each is a credential; keep one")
    places = [key for key in ("base_url", *kind.place_keys) if key in raw]
    if kind.default_base_url is None and len(places) > 1 and "instance" in places:
        faults.reject(table, "instance", "cannot stand beside `base_url`: each says where it is; keep one")


def _check_credentials(table: Table, kind: Kind, faults: Faults) -> None:
    """Several credentials of one account."""
    raw, auth = table.raw, table.raw.get("auth")
    if "api_keys" not in raw:
        return
    if kind.embedded:
        faults.reject(table, "api_keys", f'is of no use: kind "{kind.name}" has no credential')
    elif "api_key" in raw:
        faults.reject(table, "api_keys", "cannot stand beside `api_key`: give one credential, or a list of them")
    elif isinstance(auth, dict) and "header_name" in auth:
        faults.reject(
            table, "api_keys", "cannot stand beside the header of `auth`, which takes the place of all of them"
        )
    elif raw["api_keys"] == []:
        faults.reject(table, "api_keys", "must name a credential")
    else:
        secrets = table.values.get("api_keys", [])
        if len(set(secrets)) < len(secrets):
            faults.reject(table, "api_keys", "has one credential twice; name each once")


def _check_instance(name: str) -> None:
    if not re.fullmatch(r"[A-Za-z0-9](?:[A-Za-z0-9-]{0,62}[A-Za-z0-9])?", name):
        raise Rejected("must be the name of a resource: letters, digits and hyphens; an address goes into `base_url`")


def _check_proxy(url: str) -> None:
    if not re.match(r"(https?|socks5h?)://[^/\s]", url):
        raise Rejected('must be the URL of a proxy, such as "http://proxy.example.com:3128"')


def _check_auth(auth: Table, faults: Faults) -> None:
    values, raw = auth.values, auth.raw
    for group in (("header_name", "header_value"), ("param_name", "param_value", "param_location")):
        given = [name for name in group if name in raw]
        lacking = [name for name in group if name not in raw]
        if given and lacking:
            faults.reject(auth, given[0], f"needs {' and '.join(f'`{name}`' for name in lacking)} beside it")
    if "header_name" not in raw and "param_name" not in raw and not {"header_value", "param_value"} & raw.keys():
        faults.add(
            auth.path, f"{table_name(auth.path)} needs `header_name` and `header_value`, or the three `param_…` keys"
        )
    if "header_name" in values:
        check_header(faults, auth, "header_name", values["header_name"], "")


def _check_override(auth: Table, kind: Kind | None, faults: Faults, *, has_keys: bool) -> None:
    if not auth.values.get("allow_override"):
        return
    if kind is not None and kind.signs:
        faults.reject(
            auth, "allow_override", f'cannot be true: the requests of kind "{kind.name}" are signed or carry a token'
        )
    elif has_keys and str(auth.values.get("header_name", "")).lower() == "authorization":
        text = "cannot be true for the header authorization: it is where clients send their `[[keys]]` of this gateway"
        faults.reject(auth, "allow_override", text)


def _check_model(model: Table, providers: Mapping[str, object], faults: Faults) -> set[str]:
    """Returns the names of the providers that it refers to."""
    used: set[str] = set()
    if model.raw.get("targets") == []:
        faults.reject(model, "targets", "must name a target")
    for target in model.values.get("targets", []):
        name = target.values.get("provider")
        if name is None:
            continue
        used.add(name)
        if name not in providers:
            hint = nearest(name, providers, quote='"', otherwise="there are")
            subject = f"model {shown(model.path[-1])} refers to the provider {shown(name)}"
            faults.add(target.at("provider"), f"{subject}, which is not configured; {hint}")
    options = Table(model.at("options"), model.raw.get("options", {}), model.values.get("options", {}))
    for name, value in options.values.items():
        if name in _OPTIONS_WITH_A_KEY:
            faults.reject(options, name, f"cannot be an option: {_OPTIONS_WITH_A_KEY[name]}")
        elif name == "force" and not isinstance(value, bool):
            faults.reject(options, name, f"must be true or false, not {shown(value)}")
    return used


def _check_keys(keys: list[Table], faults: Faults) -> None:
    names: dict[str, Table] = {}
    digests: dict[bytes, Table] = {}
    for key in keys:
        if (name := key.values.get("name")) in names:
            line = faults.line(names[name].path)
            faults.reject(key, "name", f"is {shown(name)}, like that of the key on line {line}; each needs its own")
        elif name is not None:
            names[name] = key
        given = [name for name in ALTERNATIVES[KeySettings] if name in key.raw]
        if len(given) != 1:
            faults.add(
                key.path, f"[[keys]] needs exactly one of `sha256` and `secret`, not {'both' if given else 'none'}"
            )
        elif given[0] in key.values:
            digest = key_digest(key)
            if digest in digests:
                line = faults.line(digests[digest].path)
                faults.reject(key, given[0], f"is the same key as the one on line {line}; each client needs its own")
            digests.setdefault(digest, key)
        if key.raw.get("models") == []:
            faults.reject(key, "models", 'must name a model, or "*" for all')


def key_digest(key: Table) -> bytes:
    """The SHA-256 of the client's key that a sound `[[keys]]` table describes."""
    if "sha256" in key.values:
        digest: bytes = key.values["sha256"]
        return digest
    return hashlib.sha256(key.values["secret"].reveal().encode()).digest()


def _check_ports(document: Table, faults: Faults) -> list[str]:
    server: Table = document.values.get("server") or Table(("server",), {}, {})
    admin: Table = document.values.get("admin") or Table(("admin",), {}, {})
    for origin in server.values.get("cors_origins", []):
        if origin != "*" and not re.fullmatch(r"[a-z][a-z0-9+.-]*://[^\s/?#@]+", origin):
            text = f'has {shown(origin)}, which is no origin; write "*" or one such as "https://app.example.com"'
            faults.reject(server, "cors_origins", text)
    data_bind = _bind(server, ServerSettings().bind)
    admin_bind = _bind(admin, AdminSettings().bind)
    # An `allow_anonymous` that could not be read has been reported; that it is not `true` need not be said as well.
    is_closed = bool(document.raw.get("keys") or server.raw.get("allow_anonymous"))
    port_problems, admin_is_exposed = port_faults(
        data_bind, admin_bind, is_closed=is_closed, workers=server.values.get("workers", 1)
    )
    for section, text in port_problems:
        faults.reject(server if section == "server" else admin, "bind", text)
    if admin_is_exposed:
        return [f"the admin port {admin_bind} can be reached by other machines, and it asks for no key."]
    return []


def _bind(table: Table, default: str) -> str | None:
    """What the table's `bind` is; None if it could not be read."""
    bind: str | None = table.values.get("bind", None if "bind" in table.raw else default)
    return bind


def _check_value(faults: Faults, table: Table, name: str, check_text: Callable[[str], None]) -> None:
    """Apply a rule that concerns this one value, if it is there."""
    if name not in table.values:
        return
    try:
        check_text(table.values[name])
    except Rejected as rejected:
        faults.reject(table, name, str(rejected))
