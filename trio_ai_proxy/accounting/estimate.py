"""How many tokens a text has, roughly, where no encoding is at hand: a weighted sum over kinds of characters.

The weights are a least-squares fit to o200k_base over prose, code, JSON and 27 languages; docs/tokens.md has the
errors. Counting is by the lead bytes of UTF-8, which `bytes.translate` does at about a nanosecond a byte.
"""

from __future__ import annotations

_LETTERS = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
_DIGITS = b"0123456789"
_PUNCTUATION = b"!\"#$%&'()*+,-./:;<=>?@[\\]^_`{|}~"

# Kind of character (by its lead byte) and tokens for each one.
_WEIGHTS = (
    (_LETTERS, 0.195),
    (_DIGITS, 0.45),
    (_PUNCTUATION, 0.6),
    (b"\n", 1.0),
    (bytes(range(0xC2, 0xE0)), 0.32),  # accents, Greek, Cyrillic, Hebrew, Arabic
    (bytes(range(0xE0, 0xE3)), 0.39),  # Indic scripts, Thai, Georgian, typographic signs
    (bytes(range(0xE3, 0xF0)), 0.80),  # Chinese, Japanese, Korean
    (bytes(range(0xF0, 0xF5)), 1.72),  # emoji and what else lies beyond the basic plane
)
_PER_WORD = 0.2


def estimate_tokens(text: str) -> float:
    """About how many tokens `text` has; a fraction, so that estimates of parts add up. 0.0 only for an empty text."""
    if not text:
        return 0.0
    data = text.encode("utf-8", "replace")
    tokens = _PER_WORD * len(data.split())
    for kind, weight in _WEIGHTS:
        tokens += weight * (len(data) - len(data.translate(None, kind)))
    # Blanks cost nothing beside words, but a text of nothing else still is something.
    return tokens or 1.0
