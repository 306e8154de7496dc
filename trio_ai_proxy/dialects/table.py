"""Which dialects there are, by the route type that asks for them; and what goes with all of them."""

from __future__ import annotations

from types import MappingProxyType
from typing import TYPE_CHECKING

from trio_ai_proxy.dialects.openai_chat import OpenAIChat
from trio_ai_proxy.dialects.openai_embeddings import OpenAIEmbeddings
from trio_ai_proxy.dialects.openai_text import OpenAIText
from trio_ai_proxy.dialects.options import with_options

if TYPE_CHECKING:
    from collections.abc import Mapping

    from trio_ai_proxy.dialects.base import Dialect

__all__ = ["DIALECTS", "with_options"]

DIALECTS: Mapping[str, Dialect] = MappingProxyType(
    {"llm/v1/chat": OpenAIChat(), "llm/v1/completions": OpenAIText(), "llm/v1/embeddings": OpenAIEmbeddings()}
)
