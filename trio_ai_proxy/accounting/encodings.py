"""Which encoding counts for a model: a table with a default, and what is known of each rank file.

Source: tiktoken's own model table (`tiktoken/model.py`) and the constants of `tiktoken_ext/openai_public.py`.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class RankFile:
    """What a rank file is known by.

    sha256      of its content, as tiktoken itself demands it
    cache_name  its name in a cache folder of tiktoken: the SHA-1 of the address that tiktoken downloads it from
    """

    sha256: str
    cache_name: str


RANK_FILES = {
    "o200k_base": RankFile(
        sha256="446a9538cb6c348e3516120d7c08b09f57c36495e2acfffe59a5bf8b0cfb1a2d",
        cache_name="fb374d419588a4632f3f557e76b4b70aebbca790",
    ),
    "cl100k_base": RankFile(
        sha256="223921b76ee99bde995b7ff738513eef100fb51d18c93597a113bcffe865b2a7",
        cache_name="9b5ad71b2ce5302211f9c61530b329a4922fc6a4",
    ),
}

# Everything since gpt-4o (gpt-4.1, gpt-4.5, gpt-5, chatgpt-4o, o1, o3, o4, gpt-oss) counts in o200k_base, so that is
# the guess for a name that nobody has heard of, and the nearest of the two for models of other makers. What is left
# are the families before it. A row stands for the name itself and for the name with a suffix ("gpt-4-32k", "gpt-4:ft").
DEFAULT_ENCODING = "o200k_base"
OLDER_FAMILIES = {
    "gpt-4": "cl100k_base",
    "gpt-3.5": "cl100k_base",
    "gpt-35": "cl100k_base",  # as deployments on Azure are commonly called
    "davinci-002": "cl100k_base",
    "babbage-002": "cl100k_base",
}


def encoding_for(model: str) -> str:
    """The name of the encoding that counts for `model`, however the name is dressed.

    A maker's prefix ("openai/gpt-4o") and the "ft:" of a fine-tuned model are looked through.
    """
    plain = model.rpartition("/")[2].removeprefix("ft:")
    for family, encoding in OLDER_FAMILIES.items():
        if plain == family or plain.startswith((f"{family}-", f"{family}:")):
            return encoding
    return DEFAULT_ENCODING
