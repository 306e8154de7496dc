"""What several targets of a model mean together: what needs a second one, what `balance` needs, and whom a target is for."""

from __future__ import annotations

from typing import TYPE_CHECKING

from trio_ai_proxy.config.decode import Faults, Table, nearest, table_name
from trio_ai_proxy.config.headers import HEADER_NAME
from trio_ai_proxy.config.values import shown
from trio_ai_proxy.routing.patterns import one_of

if TYPE_CHECKING:
    from collections.abc import Collection


def check_targets(model: Table, keys: list[Table], faults: Faults) -> None:
    """Add what is wrong with how `model` chooses among its targets. `keys` are the tables of `[[keys]]`."""
    values, raw = model.values, model.raw
    targets = raw.get("targets")
    if "hedge_after" in raw and isinstance(targets, list) and len(targets) == 1:
        faults.reject(model, "hedge_after", "needs a second target to ask; this model has one")
    if "hedge_budget" in raw and "hedge_after" not in raw:
        faults.reject(model, "hedge_budget", "needs `hedge_after` beside it")
    balance = values.get("balance", None if "balance" in raw else "weighted")
    if balance == "consistent_hash" and "hash_on" not in raw:
        text = 'needs `hash_on` beside it: "key", "prefix" or the name of a header'
        faults.reject(model, "balance", f"= {shown(balance)} {text}")
    elif balance not in ("consistent_hash", None) and "hash_on" in raw:
        faults.reject(model, "hash_on", 'needs `balance = "consistent_hash"`')
    if "hash_on" in values:
        _check_hash_on(model, keys, faults)
    continuation = values.get("continuation", None if "continuation" in raw else "off")
    for name in ("hold_bytes", "hold_for"):
        if name in raw and continuation not in ("hold", None):
            faults.reject(model, name, 'needs `continuation = "hold"`')
    names = [key.values["name"] for key in keys if "name" in key.values]
    for target in values.get("targets", []):
        if "match" in target.values:
            _check_match(target.values["match"], names, faults)
        if "capabilities" in target.raw and target.raw["capabilities"] == {}:
            faults.reject(target, "capabilities", "must name one; leave it out if nothing differs from the provider")


def _check_hash_on(model: Table, keys: list[Table], faults: Faults) -> None:
    value = model.values["hash_on"]
    if not HEADER_NAME.fullmatch(value):
        faults.reject(model, "hash_on", f'must be "key", "prefix" or the name of a header, not {shown(value)}')
    elif value == "key" and not keys:
        faults.reject(model, "hash_on", '= "key" needs `[[keys]]`: without them all requests are of the same client')


def _check_match(match: Table, names: Collection[str], faults: Faults) -> None:
    if not any(match.raw.get(name) for name in ("headers", "keys")):
        faults.add(match.path, f"{table_name(match.path)} needs `headers` or `keys`")
    headers = match.values.get("headers", {})
    for name in headers:
        if not HEADER_NAME.fullmatch(name):
            faults.add((*match.at("headers"), name), f"{shown(name)} is not a name that a header can have")
    for pattern in match.values.get("keys", ()):
        if not any(one_of((pattern,)).fullmatch(name) for name in names):
            known = dict.fromkeys(names)
            hint = nearest(pattern, known, quote='"', otherwise="there are") if known else "there are none"
            faults.reject(match, "keys", f"has {shown(pattern)}, which no client of [[keys]] is called; {hint}")
