"""TOML → `Settings`, strictly: an unknown key is an error, and all errors come at once, each with its line.

It is pure: the text, the environment and the reader of secret files are arguments.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from trio_ai_proxy.config.asked import guard_problems
from trio_ai_proxy.config.build import build
from trio_ai_proxy.config.decode import Decoder, parse
from trio_ai_proxy.config.defaults import default_settings, init_file
from trio_ai_proxy.config.describe import describe
from trio_ai_proxy.config.explain import Explanation, explain
from trio_ai_proxy.config.kinds import Kind
from trio_ai_proxy.config.ports import check_bind
from trio_ai_proxy.config.reference import json_schema, reference_markdown, write_docs
from trio_ai_proxy.config.rules import check
from trio_ai_proxy.providers.demo_script import DEMO_MODELS

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from trio_ai_proxy.settings import Settings

__all__ = [
    "DEMO_MODELS",
    "Explanation",
    "Kind",
    "check_bind",
    "default_settings",
    "describe",
    "explain",
    "guard_problems",
    "init_file",
    "json_schema",
    "load_settings",
    "reference_markdown",
    "write_docs",
]


def load_settings(
    text: str,
    *,
    file: str,
    environ: Mapping[str, str],
    read_file: Callable[[str], str],
    kinds: Mapping[str, Kind],
) -> tuple[Settings, list[str]]:
    """The settings that `text` describes, and notes: what is odd and yet no fault, one sentence each.

    file       its name, for messages
    environ    the environment variables
    read_file  gives the content of a secret's file; raises `OSError` or `ValueError` where there is none
    kinds      the provider table

    Raises `ConfigError` with every fault; nothing in it, or in the notes, holds a credential.
    """
    raw, faults = parse(text, file=file)
    document = Decoder(faults, environ, read_file).document(raw)
    notes = check(document, kinds, faults)
    faults.finish()
    return build(document, without=faults.unresolved, kinds=kinds, environ=environ), notes
