"""What the routes' paths mean together, and where a placeholder may stand: in a model's name and in its options, and never in
what says where a request goes or with which credential.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from trio_ai_proxy.config.decode import Faults, Table, key_name, nearest
from trio_ai_proxy.config.values import Rejected, shown
from trio_ai_proxy.routing.paths import PathPattern, WrongPattern
from trio_ai_proxy.routing.placeholders import WrongPlaceholder, has_placeholders, placeholders_in

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Mapping

    from trio_ai_proxy.config.lines import Path

BUILT_IN_PATHS = (
    "/v1/chat/completions",
    "/v1/completions",
    "/v1/embeddings",
    "/v1/models",
    "/healthz",
    "/readyz",
)
_MODEL_PREFIX = "/v1/models/"
_PLACEHOLDER = re.compile(r"\$\((headers|query_params|uri_captures)\.")


def check_routes(routes: list[Table], models: Mapping[str, object], faults: Faults) -> frozenset[str]:
    """Add what is wrong with the routes. Returns the names that their paths capture."""
    paths: dict[str, Table] = {}
    captured: set[str] = set()
    for route in routes:
        pattern = _pattern(route, faults)
        names = pattern.names if pattern is not None else ()
        captured.update(names)
        path = route.values.get("path")
        shape = (
            "/".join("{}" if segment is None else segment.decode() for segment in pattern.segments) if pattern else path
        )
        if shape in paths:
            line = faults.line(paths[shape].path)
            faults.reject(route, "path", f"is {shown(path)}, like that of the route on line {line}; each needs its own")
        elif shape is not None:
            paths[shape] = route
        _check_model(route, models, names, faults)
    return frozenset(captured)


def _pattern(route: Table, faults: Faults) -> PathPattern | None:
    """The route's path; None if there is none or it cannot be one."""
    path = route.values.get("path")
    if path is None:
        return None
    try:
        _check_path(path)
        pattern = PathPattern.parse(path)
        if pattern.names and path.startswith(_MODEL_PREFIX):
            raise Rejected(f"is {shown(path)}, and what begins with {_MODEL_PREFIX} the gateway serves already")
    except (Rejected, WrongPattern) as wrong:
        faults.reject(route, "path", str(wrong))
        return None
    return pattern


def _check_path(path: str) -> None:
    if not path.startswith("/") or not re.fullmatch(r"[!-~]+", path) or "?" in path or "#" in path:
        raise Rejected(f'must begin with "/" and hold only visible ASCII characters without ? and #, not {shown(path)}')
    if path in BUILT_IN_PATHS:
        raise Rejected(f"is {shown(path)}, which the gateway serves already; choose another")


def _check_model(route: Table, models: Mapping[str, object], captured: Collection[str], faults: Faults) -> None:
    model = route.values.get("model")
    if model is None:
        return
    if has_placeholders(model):
        _check_placeholders(route, "model", model, captured, "the route's path has no {{{}}}", faults)
    elif model not in models:
        hint = nearest(model, models, quote='"', otherwise="there are")
        faults.reject(route, "model", f"is {shown(model)}, which is not configured; {hint}")


def check_model_placeholders(model: Table, captured: Collection[str], faults: Faults) -> None:
    """Add what is wrong with the placeholders in a model's targets and options. `captured` are the names that some route's
    path captures."""
    no_route = "no route's path has {{{}}}"
    for target in model.values.get("targets", []):
        _check_placeholders(target, "model", target.values.get("model"), captured, no_route, faults)
    options = Table(model.at("options"), model.raw.get("options", {}), model.values.get("options", {}))
    for name, value in options.values.items():
        _check_placeholders(options, name, value, captured, no_route, faults)


def _check_placeholders(
    table: Table, name: str, value: Any, captured: Collection[str], lacking: str, faults: Faults
) -> None:
    try:
        for placeholder in placeholders_in(value):
            if placeholder.source == "uri_captures" and placeholder.name not in captured:
                faults.reject(table, name, f"refers to $({placeholder}), and {lacking.format(placeholder.name)}")
    except WrongPlaceholder as wrong:
        faults.reject(table, name, str(wrong))


def check_provider_placeholders(provider: Table, faults: Faults) -> None:
    """Refuse every placeholder in an account: what a request says picks no host, no path and no credential. The faults do not
    repeat the value, which may be a secret."""
    for path, text in _texts(provider.path, provider.raw):
        if _PLACEHOLDER.search(text):
            why = "nothing in a request picks a host, a path, a header or a credential"
            if path[-1] == "deployment":
                why = "leave it out and write the placeholder as the target's `model`, which is then the deployment"
            faults.add(path, f"{key_name(path)} cannot hold a placeholder: {why}")


def _texts(path: Path, value: Any) -> Iterator[tuple[Path, str]]:
    if isinstance(value, str):
        yield path, value
    elif isinstance(value, dict):
        for name, inner in value.items():
            yield from _texts((*path, name), inner)
    elif isinstance(value, list):
        for number, inner in enumerate(value):
            yield from _texts((*path, number), inner)
