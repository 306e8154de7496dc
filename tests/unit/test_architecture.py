"""What the import contracts cannot say."""

from __future__ import annotations

import ast
from fnmatch import fnmatchcase
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


# What every provider stands on, and what knows them all.
FOUNDATION = {"account", "base", "error_words", "kind", "loose"}
TABLE = {"reference", "services", "table"}
# What a family takes of another, and why; a family is the files whose names begin with the same word.
BORROWED = {
    "azure": {"openai", "entra"},  # OpenAI's models at another address, with Microsoft's tokens
    "bedrock": {"aws_credentials"},  # AWS's credentials and signatures
    "demo": {"openai"},  # a service of OpenAI's wire, in memory
    "huggingface": {"openai_stream"},  # its router speaks OpenAI's wire beside its own
    "mistral": {"openai_stream", "openai_wire"},  # OpenAI's wire with additions
    # Google sells the models of others at its own address, each on its maker's wire.
    "vertex": {"google_auth", "gemini_*", "anthropic_*", "mistral_*", "openai_stream"},
}
PROVIDER_FILES = sorted(path for path in (PACKAGE / "providers").glob("*.py") if path.stem != "__init__")


def neighbours(path: Path) -> set[str]:
    """The files of its folder that a provider's file imports, be it for a type alone."""
    folder = f"{PACKAGE.name}.providers"
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        names: list[str] = []
        if isinstance(node, ast.ImportFrom) and node.module:
            names = [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        found |= {name.removeprefix(f"{folder}.").split(".")[0] for name in names if name.startswith(f"{folder}.")}
    return found


def family(stem: str) -> str:
    return stem if stem in FOUNDATION | TABLE else stem.split("_")[0]


def borrowed(path: Path) -> set[str]:
    return {name for name in neighbours(path) - FOUNDATION if family(name) != family(path.stem)}


@pytest.mark.parametrize("path", PROVIDER_FILES, ids=named)
def test_a_providers_files_keep_to_their_family(path: Path) -> None:
    if path.stem in FOUNDATION:
        assert neighbours(path) <= FOUNDATION
    elif path.stem in TABLE:
        assert neighbours(path) <= FOUNDATION | TABLE, "a row names its class, which is imported when it is wanted"
    else:
        allowed = BORROWED.get(family(path.stem), set())
        assert {name for name in borrowed(path) if not any(fnmatchcase(name, one) for one in allowed)} == set()


def test_every_loan_between_families_is_in_use() -> None:
    taken = {(family(path.stem), name) for path in PROVIDER_FILES for name in borrowed(path)}
    allowed = [(taker, one) for taker, loans in BORROWED.items() for one in sorted(loans)]
    assert [
        (taker, one)
        for taker, one in allowed
        if not any(taker == other and fnmatchcase(name, one) for other, name in taken)
    ] == []


@pytest.mark.parametrize("path", MODULES, ids=named)
def test_every_module_opens_with_the_rule_it_keeps(path: Path) -> None:
    assert ast.get_docstring(ast.parse(path.read_text(encoding="utf-8")))
