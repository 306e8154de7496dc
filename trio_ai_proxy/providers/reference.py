"""The page docs/providers.md: what each kind of provider does, which test shows it, and what becomes of every field of a request.
Made from the table of kinds and from the `FATES` of the modules, never written by hand.
"""

from __future__ import annotations

from pkgutil import resolve_name
from typing import TYPE_CHECKING

from trio_ai_proxy.chat.fields import FIELDS

if TYPE_CHECKING:
    from collections.abc import Mapping

    from trio_ai_proxy.chat.fields import Fate
    from trio_ai_proxy.chat.request import Operation

OWN_WIRES = (
    "openai", "azure", "anthropic", "gemini", "vertex", "bedrock", "cohere", "mistral", "huggingface", "ollama", "llama2",
)  # fmt: skip
"""The kinds that have more than a row, in the order of the page."""

COLUMNS: Mapping[str, str] = {
    "text": "streamed text",
    "whole": "one answer, which says what the stream says",
    "embeddings": "embeddings",
    "moderations": "judgements of texts (for guards)",
    "tools": "calls of tools",
    "parallel": "several calls at once",
    "images": "images",
    "schema": "an answer in JSON",
    "thoughts": "thoughts",
    "sealed": "thoughts that go back",
    "citations": "citations",
    "probabilities": "probabilities of tokens",
    "prefill": "going on from the assistant's words",
    "usage": "the provider's count of tokens",
    "length": "cut short at the limit",
    "filter": "stopped by a filter",
    "error": "an error inside the stream",
    "cut": "a cut stream is told as one",
}
"""What a kind can do; "yes" is linked to what shows it."""

_UNIT = "tests/unit/test_providers_"
_GEMINI = {
    "text": "text",
    "whole": "gemini_stream::test_whole_answer_folds_to_the_message_of_its_stream",
    "embeddings": "gemini::TestEmbeddings",
    "tools": "tool_without_id",
    "parallel": "tools_parallel",
    "images": "gemini::test_are_bytes_or_addresses",
    "schema": "gemini::test_answer_in_json",
    "thoughts": "thinking",
    "sealed": "thinking",
    "citations": "grounding",
    "probabilities": "log_probabilities",
    "usage": "cached_prompt",
    "length": "length",
    "filter": "safety",
    "error": "error_in_the_stream",
    "cut": "cut_in_a_frame",
}

PROOFS: Mapping[str, Mapping[str, str]] = {
    "openai": {
        "text": "chat_text",
        "whole": "openai_stream::TestWholeAnswers",
        "embeddings": "openai_stream::TestEmbeddings",
        "moderations": "openai_stream::TestModerations",
        "tools": "chat_tool_calls",
        "parallel": "chat_tool_calls",
        "images": "openai::test_has_all_the_clients_fields_and_our_model",
        "schema": "openai::test_has_all_the_clients_fields_and_our_model",
        "thoughts": "deepseek_reasoning",
        "citations": "chat_web_search",
        "probabilities": "chat_logprobs",
        "usage": "chat_text",
        "length": "llamacpp_chat",
        "filter": "chat_content_filter",
        "error": "openrouter_error",
        "cut": "cut_in_a_frame",
    },
    "azure": {
        "text": "text",
        "whole": "azure::test_says_what_the_stream_says",
        "embeddings": "azure::TestEmbeddings",
        "tools": "one_tool",
        "parallel": "tools",
        "images": "openai::test_has_all_the_clients_fields_and_our_model",
        "schema": "openai::test_has_all_the_clients_fields_and_our_model",
        "thoughts": "reasoning",
        "usage": "text",
        "length": "length",
        "filter": "content_filter",
        "error": "error",
        "cut": "cut",
    },
    "anthropic": {
        "text": "text",
        "whole": "anthropic_stream::test_an_answer_at_once_folds_to_what_its_stream_folds_to",
        "tools": "tool_call",
        "parallel": "tool_calls_parallel",
        "images": "anthropic::test_images",
        "schema": "anthropic::TestJson",
        "thoughts": "thinking",
        "sealed": "thinking",
        "citations": "web_search",
        "usage": "usage_cumulative",
        "length": "length",
        "filter": "refusal",
        "error": "error_overloaded",
        "cut": "cut_between_frames",
    },
    "gemini": _GEMINI,
    "vertex": _GEMINI | {"text": "vertex_text", "embeddings": "vertex::TestEmbeddings"},
    "bedrock": {
        "text": "text",
        "whole": "bedrock_stream::test_whole_answer_folds_to_what_its_stream_folds_to",
        "embeddings": "bedrock_embeddings::TestEmbeddings",
        "tools": "tool",
        "parallel": "tools_parallel",
        "images": "bedrock_content::test_image_goes_with_its_bytes",
        "schema": "bedrock_request::test_schema_is_kept_by_a_tool_that_must_be_called",
        "thoughts": "reasoning",
        "sealed": "reasoning_redacted",
        "citations": "citations",
        "usage": "cache_usage",
        "length": "length",
        "filter": "guardrail",
        "error": "exception_throttling",
        "cut": "cut_between_events",
    },
    "cohere": {
        "text": "text",
        "whole": "cohere_stream::TestWholeAnswers",
        "embeddings": "cohere_stream::TestEmbeddings",
        "tools": "tool_call",
        "parallel": "tool_calls_parallel",
        "images": "cohere::test_images_are_an_address_or_a_data_url",
        "schema": "cohere::test_schema_is_a_json_object",
        "thoughts": "thinking",
        "citations": "citations",
        "probabilities": "logprobs",
        "usage": "cached_tokens",
        "length": "length",
        "filter": "content_filter",
        "error": "error_in_the_stream",
        "cut": "cut_between_frames",
    },
    "mistral": {
        "text": "text",
        "whole": "mistral_stream::TestWholeAnswers",
        "embeddings": "mistral_stream::TestEmbeddings",
        "moderations": "mistral_stream::TestModerations",
        "tools": "tool_call",
        "parallel": "tool_calls_parallel",
        "schema": "mistral::test_schema_keeps_its_name_and_strictness",
        "images": "mistral::test_every_part_has_its_own_word",
        "thoughts": "reasoning",
        "sealed": "reasoning_signed",
        "citations": "references",
        "prefill": "mistral::test_last_word_of_the_assistant_is_a_prefix",
        "usage": "text",
        "length": "model_length",
        "error": "error_in_the_stream",
        "cut": "cut_between_frames",
    },
    "huggingface": {
        "text": "chat_text",
        "whole": "huggingface_stream::TestWholeAnswers",
        "embeddings": "huggingface_stream::TestEmbeddings",
        "tools": "chat_tools",
        "images": "huggingface::test_goes_on_as_it_is_with_the_targets_model",
        "schema": "huggingface::test_goes_on_as_it_is_with_the_targets_model",
        "thoughts": "chat_reasoning",
        "usage": "chat_text",
        "length": "text_length",
        "error": "chat_error",
        "cut": "text_cut_between_frames",
    },
    "ollama": {
        "text": "chat",
        "whole": "ollama_stream::test_the_same_answer_at_once_is_the_same_message",
        "embeddings": "ollama_stream::TestEmbeddings",
        "tools": "tools_one",
        "parallel": "tools_parallel",
        "images": "ollama::test_images_are_base64_beside_the_text",
        "schema": "ollama::test_is_json_or_the_schema",
        "thoughts": "chat_thinking",
        "probabilities": "chat_logprobs",
        "usage": "chat_cached_prompt",
        "length": "chat_length",
        "error": "chat_error",
        "cut": "chat_cut",
    },
    "llama2": {"prefill": "llama2::test_stays_open_where_the_assistant_has_begun"},
}
"""For each kind and capability what shows it: a recording by its name, or `module::test` of the unit tests."""

RECORDED_AS: Mapping[str, str] = {"vertex": "gemini"}
"""Kinds whose recordings lie in another's folder."""

_FATES: Mapping[str, Mapping[Operation, str]] = {
    "azure": {"chat": "azure:FATES", "completions": "azure:FATES", "embeddings": "azure:FATES"},
    "anthropic": {"chat": "anthropic_request:FATES", "completions": "anthropic_request:FATES"},
    "gemini": {
        "chat": "gemini_request:FATES",
        "completions": "gemini_request:TEXT_FATES",
        "embeddings": "gemini_vectors:EMBEDDING_FATES",
    },
    "vertex": {
        "chat": "gemini_request:VERTEX_FATES",
        "completions": "gemini_request:TEXT_FATES",
        "embeddings": "gemini_vectors:EMBEDDING_FATES",
    },
    "bedrock": {
        "chat": "bedrock_request:FATES",
        "completions": "bedrock_request:FATES",
        "embeddings": "bedrock_embeddings:EMBEDDING_FATES",
    },
    "cohere": {
        "chat": "cohere_request:FATES",
        "completions": "cohere_request:TEXT_FATES",
        "embeddings": "cohere_request:EMBEDDING_FATES",
    },
    "mistral": {
        "chat": "mistral_request:FATES",
        "completions": "mistral_request:TEXT_FATES",
        "embeddings": "mistral_request:EMBEDDING_FATES",
        "moderations": "mistral_request:MODERATION_FATES",
    },
    "huggingface": {
        "chat": "huggingface_request:FATES",
        "completions": "huggingface_request:TEXT_FATES",
        "embeddings": "huggingface_request:EMBEDDING_FATES",
    },
    "ollama": {
        "chat": "ollama_request:FATES",
        "completions": "ollama_request:TEXT_FATES",
        "embeddings": "ollama_request:EMBEDDING_FATES",
    },
    "llama2": {"chat": "llama2_request:FATES", "completions": "llama2_request:FATES"},
}

_INTRODUCTION = """\
# Providers

This page is made by `trio-ai-proxy docs` from the table of kinds and from the providers' modules; do not edit it. The keys of a
kind's block, and what is particular about it, stand on its own page: {pages}.
All other kinds are services and servers of OpenAI's wire: [openai-compatible](providers/openai-compatible.md).

## What each can do

What a kind does is linked to what shows it: an answer as it comes over the wire, with its meaning beside it, which
`tests/unit/test_every_recording.py` and `tests/concurrency/test_exchange_every_recording.py` take through the provider, the
translation and a whole gateway; or a test by name. An empty field: the service has no such thing, or nothing of the sort is known
of it.
"""

_FIELDS_INTRODUCTION = """\
## What becomes of OpenAI's fields

| word | what it means |
| --- | --- |
| translated | it is said in the provider's own words |
| passed | it goes to the provider as it is |
| emulated | its effect is reached by other means |
| refused | the provider has nothing for it, and the answer would not be what was asked for: a 400 that names the field |
| left out | the provider has nothing for it, and the answer is the same without: the header `x-llm-dropped` names it |

A model's `unsupported = "drop"` leaves out what is refused here, `unsupported = "error"` refuses what is left out. A model of a
provider may know less than the provider: what it refuses then is on the provider's page. `openai` and the services of its wire
get every field as it is.
"""

_TITLES: Mapping[Operation, str] = {"chat": "Chat", "completions": "Completions", "embeddings": "Embeddings"}


def providers_markdown() -> str:
    """The text of docs/providers.md."""
    pages = ", ".join(f"[{kind}](providers/{kind}.md)" for kind in OWN_WIRES if kind != "openai")
    parts = [_INTRODUCTION.format(pages=pages), _table(_capabilities()), _FIELDS_INTRODUCTION]
    for operation, title in _TITLES.items():
        parts += [f"### {title}\n", _table(_fields(operation)), _extras(operation)]
    return "\n".join(part for part in parts if part)


def proof_path(kind: str, proof: str) -> str:
    """Where what `proof` names is, from the project's root."""
    module, separator, _ = proof.partition("::")
    if separator:
        return f"{_UNIT}{module}.py"
    return f"tests/recordings/{RECORDED_AS.get(kind, kind)}/{proof}"


def fates_of(kind: str, operation: Operation) -> Mapping[str, Fate] | None:
    """What `kind` does with the fields of `operation`; None where it does not serve it, or passes everything."""
    place = _FATES.get(kind, {}).get(operation)
    if place is None:
        return None
    fates: Mapping[str, Fate] = resolve_name(f"trio_ai_proxy.providers.{place}")
    return fates


def _capabilities() -> list[list[str]]:
    rows = [["", *OWN_WIRES]]
    for name, title in COLUMNS.items():
        proofs = [(kind, PROOFS[kind].get(name)) for kind in OWN_WIRES]
        rows.append([title, *(_proven(kind, proof) if proof else "" for kind, proof in proofs)])
    return rows


def _proven(kind: str, proof: str) -> str:
    _, separator, name = proof.partition("::")
    test = f' "{name}"' if separator else ""
    return f"[yes](../{proof_path(kind, proof)}{test})"


def _fields(operation: Operation) -> list[list[str]]:
    fates = {kind: fates_of(kind, operation) for kind in OWN_WIRES}
    kinds = [kind for kind, found in fates.items() if found is not None]
    rows = [["field", *kinds]]
    for name, field in FIELDS[operation].items():
        otherwise = "refused" if field.changes_meaning else "left out"
        told = [(fates[kind] or {}).get(name, "unsupported") for kind in kinds]
        rows.append([f"`{name}`", *(otherwise if fate == "unsupported" else fate for fate in told)])
    return rows


def _extras(operation: Operation) -> str:
    """What clients may send beside OpenAI's fields, for each kind."""
    lines = []
    for kind in OWN_WIRES:
        fates = fates_of(kind, operation) or {}
        extras = [f"`{name}`" for name in fates if name not in FIELDS[operation]]
        if extras:
            lines.append(f"- {kind}: {', '.join(extras)}")
    return "\n".join(["Fields of their own that they take beside these:\n", *lines, ""]) if lines else ""


def _table(rows: list[list[str]]) -> str:
    head, *body = (f"| {' | '.join(row)} |" for row in rows)
    return "\n".join([head, f"|{' --- |' * len(rows[0])}", *body, ""])
