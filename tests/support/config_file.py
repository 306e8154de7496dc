"""A configuration as the command would read it, with a small provider table of its own."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import pytest

from trio_ai_proxy.config import load_settings
from trio_ai_proxy.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from trio_ai_proxy.settings import Settings


@dataclass(frozen=True)
class KindOfTest:
    """An entry of the provider table, reduced to what configuration asks of it."""

    name: str
    default_base_url: str | None = None
    needs_key: bool = False
    source: str = ""
    place_keys: tuple[str, ...] = ()
    credential_keys: tuple[str, ...] = ()
    environment: tuple[str, ...] = ()
    signs: bool = False
    embedded: bool = False


KINDS = {
    kind.name: kind
    for kind in (
        KindOfTest("openai", default_base_url="https://api.openai.com/v1", needs_key=True),
        KindOfTest("compatible"),
        KindOfTest("demo", default_base_url="http://demo.invalid"),
        KindOfTest("azure", needs_key=True, place_keys=("instance",), credential_keys=("entra", "managed_identity")),
        KindOfTest("signing", default_base_url="http://signing.invalid", signs=True),
    )
}

DEMO = """\
[providers.demo]
kind = "demo"
[models.demo]
targets = [{ provider = "demo", model = "demo" }]
"""


def load(
    text: str, environ: Mapping[str, str] | None = None, files: Mapping[str, str | Exception] | None = None
) -> tuple[Settings, list[str]]:
    """The settings and notes of a file called config.toml. `files` holds what secret files contain, or how they
    fail."""

    def read_file(path: str) -> str:
        content = (files or {}).get(path, FileNotFoundError(2, "No such file or directory"))
        if isinstance(content, Exception):
            raise content
        return content

    return load_settings(text, file="config.toml", environ=environ or {}, read_file=read_file, kinds=KINDS)


def problems(
    text: str, environ: Mapping[str, str] | None = None, files: Mapping[str, str | Exception] | None = None
) -> list[str]:
    """Everything that is wrong with the file."""
    with pytest.raises(ConfigError) as raised:
        load(text, environ, files)
    return raised.value.problems
