"""docs/providers.md is what the table of kinds and the providers' modules say, and what it says is shown."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from support.recordings import Recording, recordings

from trio_ai_proxy.chat.events import (
    Cited,
    Ended,
    Finished,
    LogProbabilities,
    ReasoningDelta,
    ReasoningSealed,
    TextDelta,
    ToolCallDelta,
    UsageReported,
)
from trio_ai_proxy.chat.fields import FIELDS
from trio_ai_proxy.cli import main
from trio_ai_proxy.providers.reference import (
    COLUMNS,
    OWN_WIRES,
    PROOFS,
    RECORDED_AS,
    fates_of,
    proof_path,
    providers_markdown,
)
from trio_ai_proxy.providers.table import KINDS

if TYPE_CHECKING:
    from collections.abc import Callable

ROOT = Path(__file__).parents[2]


def has(*kinds: type, where: Callable[[Any], bool] = lambda _event: True) -> Callable[[Recording], bool]:
    return lambda one: any(isinstance(event, kinds) and where(event) for event in one.events)


# What a recording must hold to show a capability.
SHOWS: dict[str, Callable[[Recording], bool]] = {
    "text": lambda one: has(TextDelta)(one) and has(Ended)(one),
    "tools": has(ToolCallDelta),
    "parallel": has(ToolCallDelta, where=lambda event: event.call > 0),
    "thoughts": has(ReasoningDelta),
    "sealed": has(ReasoningSealed),
    "citations": has(Cited),
    "probabilities": has(LogProbabilities),
    "usage": has(UsageReported),
    "length": has(Finished, where=lambda event: event.reason == "length"),
    "filter": has(Finished, where=lambda event: event.reason == "content_filter"),
    "error": has(dict),
    "cut": lambda one: one.raises == "TruncatedStream",
}
EVERY = [(kind, column, proof) for kind, proofs in PROOFS.items() for column, proof in proofs.items()]


def test_the_committed_page_is_the_generated_one() -> None:
    page = (ROOT / "docs/providers.md").read_text(encoding="utf-8")
    assert page == providers_markdown(), (
        "the providers have changed: run `trio-ai-proxy docs` to rewrite docs/providers.md"
    )


@pytest.mark.parametrize(("kind", "column", "proof"), EVERY, ids=lambda value: value.replace("::", "."))
def test_what_the_page_says_is_shown_where_it_says_so(kind: str, column: str, proof: str) -> None:
    assert column in COLUMNS
    path = ROOT / proof_path(kind, proof)
    _, separator, name = proof.partition("::")
    if separator:
        assert re.search(rf"^\s*(?:def|class|async def) {name}\b", path.read_text(encoding="utf-8"), re.MULTILINE), (
            proof
        )
        return
    [recording] = [one for one in recordings(RECORDED_AS.get(kind, kind)) if one.name == proof]
    assert SHOWS[column](recording)


@pytest.mark.parametrize("kind", OWN_WIRES)
def test_what_the_table_says_of_a_kind_is_on_the_page(kind: str) -> None:
    can, shown = KINDS[kind].capabilities, PROOFS[kind]
    for operation in ("embeddings", "moderations"):
        assert (operation in can.operations) == (operation in shown)
    assert can.prefill == ("prefill" in shown)
    for word, column in (("tools", "tools"), ("images", "images"), ("json_schema", "schema")):
        assert getattr(can, word) == (column in shown), word
    if can.reasoning:
        assert "thoughts" in shown


@pytest.mark.parametrize("kind", OWN_WIRES)
def test_every_kind_that_is_translated_says_what_becomes_of_each_field(kind: str) -> None:
    if kind == "openai":
        return
    for operation in KINDS[kind].capabilities.operations:
        fates = fates_of(kind, operation)
        assert fates is not None
        known = FIELDS[operation].keys() | FIELDS["chat"].keys() | FIELDS["completions"].keys()
        assert fates.keys() & known
        assert set(fates.values()) <= {"translated", "passed", "emulated", "unsupported"}


def test_every_kind_of_the_page_has_a_page_of_its_own() -> None:
    for kind in OWN_WIRES:
        assert kind == "openai" or (ROOT / f"docs/providers/{kind}.md").exists()


def test_the_docs_command_writes_the_page(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["docs", str(tmp_path)]) == 0
    assert (tmp_path / "providers.md").read_text(encoding="utf-8") == providers_markdown()
    assert str(tmp_path / "providers.md") in capsys.readouterr().out
