"""A language model made here, of random weights: a real engine can run it, and nothing is downloaded.

Only whole words can be sampled, never an end-of-sequence or a raw byte, so an answer always runs to `max_tokens`.
"""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import Any, Literal

import gguf
import numpy as np

Size = Literal["tiny", "mid"]

# (width, layers, context). "tiny" is as quick as the server around it; "mid" is slow enough to watch.
_SHAPES: dict[Size, tuple[int, int, int]] = {"tiny": (64, 2, 4096), "mid": (768, 12, 8192)}
_HEADS = 4
_WORDS = [
    *("▁the", "▁of", "▁and", "▁to", "▁stream", "▁token", "▁gate", "▁cloud", "▁river", "▁stone", "▁blue", "▁fast"),
    *("▁one", "▁two", "ing", "ed", "ly", "s", ",", ".", "▁日本", "▁café", "▁🙂", "▁naïve", "▁data", "▁time"),
]
_CHAT_TEMPLATE = "{% for m in messages %}{{ m['role'] }}: {{ m['content'] }}\n{% endfor %}assistant:"


def cached_model(size: Size = "tiny") -> Path:
    """The file of a model of that size, built on first use and kept in the temporary folder."""
    width, layers, context = _SHAPES[size]
    path = Path(tempfile.gettempdir()) / f"trio-ai-proxy-{size}-{width}-{layers}-{context}.gguf"
    if not path.exists():
        building = path.with_suffix(f".{os.getpid()}")
        build_model(building, size)
        building.replace(path)
    return path


def build_model(path: Path, size: Size = "tiny") -> None:
    """Write a random Llama in GGUF format. The same size gives the same model."""
    width, layers, context = _SHAPES[size]
    feed_forward = 2 * width
    rng = np.random.default_rng(7)

    def random(*shape: int, scale: float = 1.0) -> np.ndarray[Any, np.dtype[np.float32]]:
        return rng.standard_normal(shape, dtype=np.float32) * np.float32(scale / np.sqrt(shape[-1]))

    tokens, first_word = _tokens()
    writer = gguf.GGUFWriter(str(path), "llama")
    writer.add_name(f"{size}-random")
    writer.add_context_length(context)
    writer.add_embedding_length(width)
    writer.add_block_count(layers)
    writer.add_feed_forward_length(feed_forward)
    writer.add_head_count(_HEADS)
    writer.add_head_count_kv(_HEADS)
    writer.add_rope_dimension_count(width // _HEADS)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_vocab_size(len(tokens))
    writer.add_file_type(gguf.LlamaFileType.ALL_F32)
    writer.add_tokenizer_model("llama")
    writer.add_token_list([token for token, _, _ in tokens])
    writer.add_token_types([int(kind) for _, kind, _ in tokens])
    writer.add_token_scores([score for _, _, score in tokens])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_unk_token_id(0)
    writer.add_add_bos_token(True)
    writer.add_chat_template(_CHAT_TEMPLATE)

    embedding = random(len(tokens), width, scale=float(np.sqrt(width)))
    embedding[:, 0] = 3.0  # dimension 0 is a constant that no layer writes to …
    output = random(len(tokens), width, scale=1.5)
    output[:, 0] = -20.0  # … so that the last matrix can veto every token that is not a word
    output[first_word : first_word + len(_WORDS), 0] = 0.0
    ones = np.ones(width, dtype=np.float32)
    writer.add_tensor("token_embd.weight", embedding)
    writer.add_tensor("output_norm.weight", ones)
    writer.add_tensor("output.weight", output)
    for layer in range(layers):
        attention_out, feed_forward_out = random(width, width), random(width, feed_forward)
        attention_out[0] = 0
        feed_forward_out[0] = 0
        for name, tensor in {
            "attn_norm": ones,
            "attn_q": random(width, width),
            "attn_k": random(width, width),
            "attn_v": random(width, width),
            "attn_output": attention_out,
            "ffn_norm": ones,
            "ffn_gate": random(feed_forward, width),
            "ffn_up": random(feed_forward, width),
            "ffn_down": feed_forward_out,
        }.items():
            writer.add_tensor(f"blk.{layer}.{name}.weight", tensor)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _tokens() -> tuple[list[tuple[bytes, gguf.TokenType, float]], int]:
    """The vocabulary as (token, type, score), and the number of its first word."""
    kind = gguf.TokenType
    tokens = [(b"<unk>", kind.UNKNOWN, 0.0), (b"<s>", kind.CONTROL, 0.0), (b"</s>", kind.CONTROL, 0.0)]
    tokens += [(b"<0x%02X>" % byte, kind.BYTE, 0.0) for byte in range(256)]
    first_word = len(tokens)
    # The engine aborts at a token that it has seen before, so letters that are words already are left out.
    letters = [letter for letter in [*map(chr, range(ord("a"), ord("z") + 1)), "▁"] if letter not in _WORDS]
    tokens += [(text.encode(), kind.NORMAL, -float(rank)) for rank, text in enumerate(_WORDS + letters)]
    return tokens, first_word
