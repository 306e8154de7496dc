"""What the import contracts cannot say."""

from __future__ import annotations

import ast
from pathlib import Path
from typing import TYPE_CHECKING, get_args

import pytest

import trio_ai_proxy
from trio_ai_proxy.dialects import table as dialect_table
from trio_ai_proxy.dialects.table import DIALECTS
from trio_ai_proxy.providers.table import KINDS
from trio_ai_proxy.settings import RouteType

if TYPE_CHECKING:
    from collections.abc import Iterator

PACKAGE = Path(trio_ai_proxy.__file__).parent
MODULES = sorted(PACKAGE.rglob("*.py"))
DIALECT_NAMES = {dialect.name for dialect in DIALECTS.values()}


def named(path: Path) -> str:
    return str(path.relative_to(PACKAGE))


def texts_compared(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """(line, text) of each text that something is compared with: `x == "…"`, `x in ("…",)`, `case "…":`."""
    for node in ast.walk(tree):
        sides: list[ast.AST] = []
        if isinstance(node, ast.Compare):
            sides = [node.left, *node.comparators]
        elif isinstance(node, ast.MatchValue):
            sides = [node.value]
        for side in sides:
            items = side.elts if isinstance(side, ast.Tuple | ast.List | ast.Set) else [side]
            for item in items:
                if isinstance(item, ast.Constant) and isinstance(item.value, str):
                    yield item.lineno, item.value


@pytest.mark.parametrize("path", [path for path in MODULES if "providers" not in path.parts], ids=named)
def test_no_kind_of_provider_is_asked_for_by_name_outside_its_folder(path: Path) -> None:
    """What a service does differently is a value in its row, not an `if` somewhere else."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    assert [(line, text) for line, text in texts_compared(tree) if text in KINDS] == []


@pytest.mark.parametrize("path", [path for path in MODULES if "dialects" not in path.parts], ids=named)
def test_no_dialect_is_asked_for_by_name_outside_its_folder(path: Path) -> None:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    assert [(line, text) for line, text in texts_compared(tree) if text in DIALECT_NAMES] == []


def test_every_kind_of_provider_says_where_its_row_is_from() -> None:
    assert [kind.name for kind in KINDS.values() if not kind.source] == []


def test_every_dialect_is_in_the_table() -> None:
    files = {path.stem for path in (PACKAGE / "dialects").glob("*.py")}
    described = {
        path.stem
        for path in (PACKAGE / "dialects").glob("*.py")
        if any(
            isinstance(node, ast.ClassDef) and any(getattr(item, "name", "") == "parse_request" for item in node.body)
            for node in ast.parse(path.read_text(encoding="utf-8")).body
        )
    }
    assert described - {"base"} == DIALECT_NAMES & files
    assert len(DIALECT_NAMES) == len(DIALECTS)


def test_every_route_type_has_a_dialect() -> None:
    assert set(DIALECTS) == set(get_args(RouteType))
    assert dialect_table.__doc__


@pytest.mark.parametrize("path", MODULES, ids=named)
def test_every_module_opens_with_the_rule_it_keeps(path: Path) -> None:
    assert ast.get_docstring(ast.parse(path.read_text(encoding="utf-8")))
