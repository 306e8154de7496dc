"""The table of encodings agrees with tiktoken wherever tiktoken has an opinion that we can follow."""

from __future__ import annotations

import pytest
from tiktoken.model import MODEL_PREFIX_TO_ENCODING, MODEL_TO_ENCODING

from trio_ai_proxy.accounting.encodings import DEFAULT_ENCODING, RANK_FILES, encoding_for

# gpt-oss counts in o200k_harmony: the same ranks under other special tokens, which ordinary text has none of.
KNOWN = {
    **{name: encoding for name, encoding in MODEL_TO_ENCODING.items() if not name.startswith("text-embedding")},
    **{f"{prefix}x": encoding for prefix, encoding in MODEL_PREFIX_TO_ENCODING.items() if prefix.endswith("-")},
    "gpt-oss-120b": "o200k_base",
    "gpt-oss-x": "o200k_base",
}


@pytest.mark.parametrize(("model", "encoding"), [pair for pair in KNOWN.items() if pair[1] in RANK_FILES])
def test_a_model_that_tiktoken_knows_counts_in_the_encoding_that_tiktoken_says(model: str, encoding: str) -> None:
    assert encoding_for(model) == encoding


@pytest.mark.parametrize(
    ("model", "encoding"),
    [
        ("openai/gpt-4-turbo", "cl100k_base"),
        ("ft:gpt-3.5-turbo-0125:acme::id", "cl100k_base"),
        ("ft:gpt-4:acme::id", "cl100k_base"),
        ("ft:gpt-4o-mini:acme::id", "o200k_base"),
        ("gpt-4x", "o200k_base"),
        ("gpt-4.1-nano", "o200k_base"),
        ("openai/gpt-4o", "o200k_base"),
        ("claude-sonnet", DEFAULT_ENCODING),
        ("", DEFAULT_ENCODING),
        ("/", DEFAULT_ENCODING),
    ],
)
def test_a_dressed_up_or_unknown_name_finds_its_encoding(model: str, encoding: str) -> None:
    assert encoding_for(model) == encoding
