"""What the blocks of `[guards]` mean: which keys a kind needs, which go together, which names must exist.

A rule adds its fault and goes on, as in `rules`. What is checked of a key that could not be decoded has been reported already.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from trio_ai_proxy.chat.templates import name_in
from trio_ai_proxy.config.decode import Faults, Table, nearest, table_name
from trio_ai_proxy.config.headers import check_header
from trio_ai_proxy.config.kinds import check_kind_keys
from trio_ai_proxy.config.values import Rejected, check_url, listed, shown
from trio_ai_proxy.guards.matcher import Patterns
from trio_ai_proxy.guards.patterns import NAMED, own_pattern
from trio_ai_proxy.guards.regex import UnreadableRegex, compile_regex
from trio_ai_proxy.guards.reshape import parse_path
from trio_ai_proxy.settings import GuardSettings

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from trio_ai_proxy.config.lines import Path
    from trio_ai_proxy.guards.patterns import Pattern

MOST_CHARACTERS = 65_536
"""Of a window, and of what is shown before it."""

# What each kind cannot do without: one key of every group.
_NEEDS: Mapping[str, tuple[tuple[str, ...], ...]] = {
    "decorate": (("prepend", "append"),),
    "template": (("templates",),),
    "prompt_guard": (("deny", "allow", "max_characters", "max_messages"),),
    "redact": (("patterns",),),
    "request_transformer": (("model",), ("prompt",)),
    "response_transformer": (("model", "response_headers", "json"),),
    "moderate": (("model",),),
    "webhook": (("url",),),
}
_ONLY_WITH_A_MODEL = (
    *("prompt", "extract", "on_block", "window", "overlap", "by_sentence", "whole", "parts", "timeout", "on_failure"),
)
_ONLY_FOR_ANSWERS = ("on_block", "mode", "window", "overlap", "whole", "parts", "on_overflow")
_ONLY_FOR_REQUESTS = ("roles", "last_only")


def check_guards(document: Table, faults: Faults) -> None:
    """Add what is wrong with the guards."""
    models = _section(document, "models")
    for table in document.values.get("guards", {}).values():
        kind = table.values.get("kind")
        if kind is not None:
            check_kind_keys(table, GuardSettings, kind, "guard", faults)
            _check_needs(table, kind, faults)
            _CHECKS.get(kind, _nothing)(table, faults)
        _check_sides(table, faults)
        if table.raw.get("roles") == []:
            faults.reject(table, "roles", "must name a role")
        for name in ("window", "by_sentence"):
            if table.values.get("whole") and name in table.raw:
                faults.reject(table, name, "has no meaning beside `whole = true`")
        for name in ("window", "overlap"):
            if table.values.get(name, 0) > MOST_CHARACTERS:
                faults.reject(table, name, f"must be at most {MOST_CHARACTERS}, not {table.values[name]}")
        name = table.values.get("model")
        if name is not None and name not in models:
            hint = nearest(name, models, quote='"', otherwise="there are")
            subject = f"guard {shown(table.path[-1])} refers to the model {shown(name)}"
            faults.add(table.at("model"), f"{subject}, which is not configured; {hint}")


def check_model_guards(model: Table, document: Table, faults: Faults) -> None:
    """Add what is wrong with the guards that `model` names."""
    guards, decoded = _section(document, "guards"), document.values.get("guards", {})
    names = model.values.get("guards", [])
    seen: set[str] = set()
    for number, name in enumerate(names):
        path = (*model.at("guards"), number)
        subject = f"model {shown(model.path[-1])}"
        if name not in guards:
            hint = nearest(name, guards, quote='"', otherwise="there are")
            faults.add(path, f"{subject} refers to the guard {shown(name)}, which is not configured; {hint}")
        elif name in seen:
            faults.add(path, f"{subject} names the guard {shown(name)} twice; it runs once")
        elif name in decoded and decoded[name].values.get("all_models"):
            faults.add(path, f"{subject} names the guard {shown(name)}, which runs for all models already")
        seen.add(name)
    everywhere = [name for name, table in decoded.items() if table.values.get("all_models")]
    templates = [
        name
        for name in dict.fromkeys([*everywhere, *names])
        if name in decoded and decoded[name].values.get("kind") == "template"
    ]
    if len(templates) > 1:
        said = listed(templates, '"')
        faults.add(
            model.path, f'{table_name(model.path)} has several guards of kind "template" ({said}); make them one'
        )


def _section(document: Table, name: str) -> dict[str, object]:
    raw = document.raw.get(name, {})
    return raw if isinstance(raw, dict) else {}


def _check_needs(table: Table, kind: str, faults: Faults) -> None:
    for names in _NEEDS[kind]:
        given = [name for name in names if name in table.raw]
        if not given:
            keys = " or ".join(f"`{name}`" for name in names)
            faults.add(table.path, f'{table_name(table.path)} needs {keys}; kind "{kind}" does nothing without')
        for name in given:
            if table.raw[name] in ([], {}):
                faults.reject(table, name, "must not be empty")


def _check_sides(table: Table, faults: Faults) -> None:
    sides = table.values.get("on")
    if sides is None or "on" not in table.raw:
        return
    if not table.raw["on"]:
        faults.reject(table, "on", 'must name "request", "response" or both')
        return
    if table.values.get("reversible"):
        sides = ("request", "response")  # what was replaced in the one is put back in the other
    for side, names, what in (("response", _ONLY_FOR_ANSWERS, "answers"), ("request", _ONLY_FOR_REQUESTS, "requests")):
        for name in names if side not in sides else ():
            if name in table.raw:
                faults.reject(table, name, f'is about {what}, and `on` has no "{side}"')


def _check_template(table: Table, faults: Faults) -> None:
    for name, template in table.values.get("templates", {}).items():
        if name_in(f"{{template://{name}}}") is None:
            faults.add(template.path, f"{shown(name)} is not a name that a template can have: no braces, and not empty")
        given = [key for key in ("messages", "prompt") if key in template.raw]
        if len(given) != 1:
            what = "both" if given else "none"
            faults.add(
                template.path, f"{table_name(template.path)} needs exactly one of `messages` and `prompt`, not {what}"
            )
        elif template.raw[given[0]] == []:
            faults.reject(template, "messages", "must have a message")
        texts = [template.values.get("prompt", "")]
        texts += [message.values.get("content", "") for message in template.values.get("messages", [])]
        for text in texts:
            # Kong leaves these as they are, and nobody notices.
            wrong = re.search(r"\{\{(?! *[A-Za-z0-9_-]+ *\}\})[^}]*\}\}", text)
            if wrong is not None:
                said = f"has {shown(wrong[0])}, which is no gap: a name of letters, digits, `_` and `-` stands in it"
                faults.add(template.path, f"{table_name(template.path)} {said}")


def _check_prompt_guard(table: Table, faults: Faults) -> None:
    for name in ("deny", "allow"):
        for number, pattern in enumerate(table.values.get(name, [])):
            _check_regex(faults, table, name, pattern, path=(*table.at(name), number))


def _check_redact(table: Table, faults: Faults) -> None:
    values, raw = table.values, table.raw
    if values.get("action") == "block":
        for name in ("replace", "reversible"):
            if name in raw:
                faults.reject(table, name, 'needs `action = "replace"`')
    elif values.get("reversible"):
        if "request" not in values.get("on", ("request",)):
            faults.reject(table, "reversible", 'is about what requests lose, and `on` has no "request"')
        if "{name}" not in values.get("replace", "{name}"):
            faults.reject(
                table, "replace", "needs `{name}` in it beside `reversible = true`: values are told apart by it"
            )
    sound: list[Pattern] = []
    seen: set[str] = set()
    for pattern in values.get("patterns", []):
        name = pattern.values.get("name")
        if name in seen:
            faults.add(pattern.path, f"{table_name(table.path)} has two patterns called {shown(name)}")
        if name is not None:
            seen.add(name)
            sound += _patterns(table, pattern, faults)
    try:
        Patterns(sound)
    except UnreadableRegex as error:
        faults.reject(table, "patterns", f"cannot be looked for together: {error}")


def _patterns(table: Table, pattern: Table, faults: Faults) -> Sequence[Pattern]:
    """What one entry of `patterns` stands for; nothing, and a fault, where that cannot be looked for."""
    name, regex = pattern.values["name"], pattern.values.get("regex")
    if regex is not None:
        try:
            return (own_pattern(name, regex),)
        except UnreadableRegex as error:
            faults.reject(pattern, "regex", f"is {shown(regex)}, which cannot be used: {error}")
    elif name in NAMED:
        return NAMED[name]
    elif "regex" not in pattern.raw:
        hint = nearest(name, NAMED, quote='"', otherwise="there are")
        what = f"has {shown(name)}, which is no pattern that is built in; {hint}"
        faults.add(pattern.path, f"`patterns` in {table_name(table.path)} {what}")
    return ()


def _check_extract(table: Table, faults: Faults) -> None:
    if "extract" in table.values:
        _check_regex(faults, table, "extract", table.values["extract"], most_groups=1)


def _check_response_transformer(table: Table, faults: Faults) -> None:
    values, raw = table.values, table.raw
    _check_extract(table, faults)
    if "model" in raw:
        if "prompt" not in raw:
            faults.reject(table, "model", "needs `prompt` beside it")
        for name in ("response_headers", "json"):
            if name in raw:
                faults.reject(table, name, "cannot stand beside `model`: make two guards of it")
    else:
        for name in _ONLY_WITH_A_MODEL:
            if name in raw:
                faults.reject(table, name, "needs `model` beside it")
    if "response_headers" in values:
        _check_header_changes(values["response_headers"], faults)
    if "json" in values:
        _check_json_changes(values["json"], faults)


def _check_header_changes(changes: Table, faults: Faults) -> None:
    for name in changes.values.get("remove", []):
        check_header(faults, changes, "remove", name, "")
    for old, new in changes.values.get("rename", {}).items():
        named = _inner(changes, "rename")
        check_header(faults, named, old, old, "")
        check_header(faults, named, old, new, "")
    for what in ("replace", "add", "append"):
        for name, value in changes.values.get(what, {}).items():
            check_header(faults, _inner(changes, what), name, name, value)


def _check_json_changes(changes: Table, faults: Faults) -> None:
    for what in ("remove", "rename", "replace", "add", "append"):
        given = changes.values.get(what, {})
        for path in given:
            try:
                last = parse_path(path)[-1]
            except ValueError as error:
                faults.reject(changes, what, f"has {shown(path)}, which {error}")
                continue
            if what == "rename" and last == "*":
                faults.reject(changes, what, f"has {shown(path)}: all fields cannot have one name")


def _inner(table: Table, name: str) -> Table:
    """A table of names in `table`, as one to point at."""
    return Table(table.at(name), table.raw[name], table.values[name])


def _check_moderate(table: Table, faults: Faults) -> None:
    values, raw = table.values, table.raw
    uses = values.get("uses", None if "uses" in raw else "moderation")
    if uses == "moderation" and "prompt" in raw:
        faults.reject(table, "prompt", 'needs `uses = "chat"`: a moderation interface takes none')
    elif uses == "chat":
        for name in ("categories", "thresholds"):
            if name in raw:
                faults.reject(table, name, 'needs `uses = "moderation"`: a chat model judges by `prompt`')


def _check_webhook(table: Table, faults: Faults) -> None:
    if "url" in table.values:
        try:
            check_url(table.values["url"], "a credential goes into `headers`")
        except Rejected as rejected:
            faults.reject(table, "url", str(rejected))
        else:
            if "#" in table.values["url"]:
                faults.reject(table, "url", "must not have a fragment")
    headers = table.values.get("headers", {})
    for name in headers:
        check_header(faults, _inner(table, "headers"), name, name, "")


def _check_regex(
    faults: Faults, table: Table, name: str, pattern: str, *, path: Path | None = None, most_groups: int | None = None
) -> None:
    """Add what is wrong with a regular expression of the key `name`, which stands at `path` if not at the key itself."""
    path = path if path is not None else table.at(name)
    subject = f"`{name}` in {table_name(table.path)}"
    try:
        regex = compile_regex(pattern)
    except UnreadableRegex as error:
        faults.add(path, f"{subject} has {shown(pattern)}, which cannot be used: {error}")
        return
    if most_groups is not None and regex.groups > most_groups:
        faults.add(path, f"{subject} must have one group at most, the part that counts, not {regex.groups}")


def _nothing(table: Table, faults: Faults) -> None:
    """There is no rule for this kind alone."""


_CHECKS: Mapping[str, Callable[[Table, Faults], None]] = {
    "template": _check_template,
    "prompt_guard": _check_prompt_guard,
    "redact": _check_redact,
    "request_transformer": _check_extract,
    "response_transformer": _check_response_transformer,
    "moderate": _check_moderate,
    "webhook": _check_webhook,
}
