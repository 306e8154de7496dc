"""How many tokens a text or a prompt has: counted with an encoding, estimated without one, and never an exception.

Pure and synchronous. An encoding works at about 0.2 µs a token: what is longer than a few 10 kB is counted in a worker
thread by those who have one (see docs/tokens.md).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from trio_ai_proxy.accounting.encodings import encoding_for
from trio_ai_proxy.accounting.estimate import estimate_tokens
from trio_ai_proxy.accounting.ranks import default_ranks_dir, install_ranks, load_encoding

if TYPE_CHECKING:
    from tiktoken import Encoding

    from trio_ai_proxy.chat.request import Operation
    from trio_ai_proxy.chat.usage import UsageSource

__all__ = [
    "CompletionCounter",
    "Tokenizers",
    "count_prompt",
    "count_text",
    "default_ranks_dir",  # this and the next two: so that callers of this folder need to know one module
    "install_ranks",
    "load_encoding",
]

# tiktoken's regular expressions overflow their stack at about 1,000,000 blanks; a slice is a tenth of that. What a cut
# adds is at most a few tokens in 25,000.
MAX_SLICE = 100_000

# Text is gathered up to this length and then encoded once: often enough to bound memory, and about 100 µs at a time.
GATHER = 2_048
# … and cut where no token can reach across, if there is such a place; a text without one (base64) is cut here anyway.
GATHER_AT_MOST = 4 * GATHER

# OpenAI's documented overhead ("How to count tokens with tiktoken", OpenAI Cookbook): each message, each name in one,
# and the words that prime the answer; then the frame of function definitions, which are rewritten in another syntax.
PER_MESSAGE = 3
PER_NAME = 1
PRIMING = 3
FUNCTIONS_END = 12
PER_FUNCTION = {"o200k_base": 7, "cl100k_base": 10}
PER_PROPERTIES = 3
PER_PROPERTY = 3
PER_ENUM = -3
PER_ENUM_ITEM = 3

# OpenAI's documented price of a picture for gpt-4o: 85 for low detail; else 85 and 170 for each tile of 512 pixels.
# Its size is not looked at: 1024 × 1024, four tiles, stands for all.
IMAGE_LOW = 85
IMAGE_HIGH = 85 + 4 * 170

# Schemas refer to themselves by "$ref", never by nesting; what is deeper than this was written to be deep.
MAX_SCHEMA_DEPTH = 16


class _PanicsAreErrors:
    """Turns a panic of tiktoken's Rust code into an ordinary error. It arrives as `pyo3_runtime.PanicException`, which
    is a BaseException, cannot be imported, and would end the process."""

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _trace: object) -> None:
        if kind is not None and kind.__name__ == "PanicException":
            raise RuntimeError("the tokenizer panicked") from error


_PANICS_ARE_ERRORS = _PanicsAreErrors()


def count_text(encoding: Encoding | None, text: str) -> tuple[float, bool]:
    """The tokens of `text`, and whether they were counted (a whole number) or had to be estimated (a fraction)."""
    if encoding is None:
        return estimate_tokens(text), False
    tokens = 0.0
    counted = True
    for start in range(0, len(text), MAX_SLICE):
        piece = text[start : start + MAX_SLICE] if start or len(text) > MAX_SLICE else text
        try:
            with _PANICS_ARE_ERRORS:
                tokens += len(encoding.encode_ordinary(piece))
        except Exception:  # noqa: BLE001 - whatever a tokenizer dislikes in a text, the text has been sent and costs
            tokens += estimate_tokens(piece)
            counted = False
    return tokens, counted


class CompletionCounter:
    """Counts a text that arrives in deltas, each character once, in bounded memory.

    The text is cut only where none of the two encodings has a token that reaches across, so the total is that of the
    whole text; the exception are stretches of `GATHER_AT_MOST` characters with no such place, which cost a token or two
    each.
    """

    __slots__ = ("_counted", "_due", "_encoding", "_gathered", "_pending", "_rest", "_tokens")

    def __init__(self, encoding: Encoding | None) -> None:
        self._encoding = encoding
        self._pending: list[str] = []
        self._gathered = 0
        self._due = GATHER  # how much must be gathered before the next look for a seam
        self._tokens = 0.0
        self._rest: float | None = None  # the tokens of what is pending, once somebody has asked
        self._counted = encoding is not None

    def add(self, text: str) -> None:
        """Take the next piece of the text."""
        self._rest = None
        self._gathered += len(text)
        self._pending.append(text)
        if self._gathered >= self._due:
            self._encode_gathered()

    def cut(self) -> None:
        """What comes next is another text: no token reaches from here into it."""
        if self._pending:
            self._encode("".join(self._pending))
            self._keep("")

    @property
    def total(self) -> int:
        """The tokens of all that was added so far. Asking changes nothing; it costs the encoding of the rest, once."""
        if self._rest is None:
            self._rest, _ = count_text(self._encoding, "".join(self._pending))
        return math.ceil(self._tokens + self._rest)

    @property
    def source(self) -> UsageSource:
        """Whether `total` is counted or, in part or in whole, estimated."""
        return "counted" if self._counted else "estimated"

    def _encode_gathered(self) -> None:
        text = "".join(self._pending)
        start = 0
        while len(text) - start >= GATHER:
            stop = _last_seam(text, start, min(len(text), start + MAX_SLICE))
            if stop is None:
                if len(text) - start < GATHER_AT_MOST:
                    break
                stop = min(len(text), start + GATHER_AT_MOST)
            self._encode(text[start:stop])
            start = stop
        self._keep(text[start:])

    def _encode(self, text: str) -> None:
        tokens, counted = count_text(self._encoding, text)
        self._tokens += tokens
        self._counted = self._counted and counted

    def _keep(self, text: str) -> None:
        self._rest = None
        self._pending = [text] if text else []
        self._gathered = len(text)
        # What is kept has no seam, so it is not searched again until there is as much again to search.
        self._due = self._gathered + GATHER if self._gathered >= GATHER else GATHER


# Signs after which, in Chinese and Japanese, a new stretch begins, and before which a stretch of letters ends.
_CJK_SIGNS = frozenset("，。、；：！？")


def _last_seam(text: str, start: int, stop: int) -> int | None:
    """The last place in `text[start:stop]`, not at its ends, that no token spans; None if there is none nearby.

    Both encodings split a text by a regular expression before they merge, and no merge crosses a split. Each of them
    splits before a single space between two characters that are not blank, and between a letter and a CJK sign.
    """
    for place in range(stop - 2, max(start, stop - GATHER_AT_MOST), -1):
        sign = text[place]
        if sign == " ":
            if not text[place - 1].isspace() and not text[place + 1].isspace():
                return place
        elif sign in _CJK_SIGNS and text[place - 1].isalpha():
            return place
    return None


def count_prompt(fields: Mapping[str, Any], operation: Operation, encoding: Encoding | None) -> int:
    """The tokens of a request's prompt: messages and tools of a chat, the prompt of a completion, or what is to be
    embedded or judged.

    `fields` is the client's JSON object; what is of another shape than documented counts nothing and raises nothing.
    """
    tally = _Tally(encoding)
    if operation == "completions":
        tally.prompt(fields.get("prompt"))
        tally.text(fields.get("suffix"))
    elif operation in ("embeddings", "moderations"):
        tally.prompt(fields.get("input"))
    else:
        for message in _list(fields.get("messages")):
            if isinstance(message, Mapping):
                tally.message(message)
        tally.tokens += PRIMING
        tally.functions(fields)
    return math.ceil(tally.tokens)


class _Tally:
    """The running sum of one prompt."""

    def __init__(self, encoding: Encoding | None) -> None:
        self.tokens = 0.0
        self._encoding = encoding
        self._per_function = PER_FUNCTION.get(encoding.name if encoding else "", PER_FUNCTION["o200k_base"])

    def text(self, value: object) -> None:
        if isinstance(value, str) and value:
            tokens, _ = count_text(self._encoding, value)
            self.tokens += tokens

    def prompt(self, prompt: object) -> None:
        """A text, token ids, or a list of several of either."""
        self.text(prompt)
        for item in _list(prompt):
            if _is_token(item):
                self.tokens += 1
            else:
                self.text(item)
                self.tokens += sum(map(_is_token, _list(item)))

    def message(self, message: Mapping[str, Any]) -> None:
        self.tokens += PER_MESSAGE
        for key in ("role", "content", "name", "refusal"):
            self.text(message.get(key))
        if isinstance(message.get("name"), str):
            self.tokens += PER_NAME
        for part in _list(message.get("content")):
            if isinstance(part, Mapping):
                self.part(part)
        for call in (*_list(message.get("tool_calls")), message):
            self.call(call)

    def part(self, part: Mapping[str, Any]) -> None:
        if "image_url" in part:
            image = part["image_url"]
            low = isinstance(image, Mapping) and image.get("detail") == "low"
            self.tokens += IMAGE_LOW if low else IMAGE_HIGH
            return
        self.text(part.get("text"))
        self.text(part.get("refusal"))

    def call(self, call: object) -> None:
        """A tool call, or a message with the older `function_call`."""
        if not isinstance(call, Mapping):
            return
        for key in ("function", "custom", "function_call"):
            made = call.get(key)
            if isinstance(made, Mapping):
                self.text(made.get("name"))
                self.text(made.get("arguments"))
                self.text(made.get("input"))

    def functions(self, fields: Mapping[str, Any]) -> None:
        """The definitions in `tools`, and those in the older `functions`."""
        wrapped = [tool.get("function") for tool in _list(fields.get("tools")) if isinstance(tool, Mapping)]
        functions = [it for it in (*wrapped, *_list(fields.get("functions"))) if isinstance(it, Mapping)]
        for function in functions:
            self.tokens += self._per_function
            self.text(f"{_word(function.get('name'))}:{_sentence(function.get('description'))}")
            self.properties(function.get("parameters"), MAX_SCHEMA_DEPTH)
        if functions:
            self.tokens += FUNCTIONS_END

    def properties(self, schema: object, depth: int) -> None:
        properties = schema.get("properties") if isinstance(schema, Mapping) else None
        if not isinstance(properties, Mapping) or not properties or depth == 0:
            return
        self.tokens += PER_PROPERTIES
        for name, entry in properties.items():
            self.tokens += PER_PROPERTY
            field = entry if isinstance(entry, Mapping) else {}
            choices = _list(field.get("enum"))
            if choices:
                self.tokens += PER_ENUM
            for choice in choices:
                self.tokens += PER_ENUM_ITEM
                self.text(_word(choice))
            self.text(f"{_word(name)}:{_word(field.get('type'))}:{_sentence(field.get('description'))}")
            # The Cookbook stops at the first level; deeper ones are written in the same way.
            self.properties(field, depth - 1)
            self.properties(field.get("items"), depth - 1)


def _list(value: object) -> list[Any]:
    return value if isinstance(value, list) else []


def _is_token(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _word(value: object) -> str:
    """A short JSON value as it would be written. An integer too long for Python to print is not short."""
    if isinstance(value, str):
        return value
    if isinstance(value, list):
        return "|".join(item for item in value if isinstance(item, str))
    if isinstance(value, bool | float) or (isinstance(value, int) and value.bit_length() <= 64):
        return str(value)
    return ""


def _sentence(value: object) -> str:
    return value.removesuffix(".") if isinstance(value, str) else ""


class Tokenizers:
    """The encodings that are loaded. Filled at start-up by whoever has a thread and a deadline."""

    def __init__(self) -> None:
        self._encodings: dict[str, Encoding] = {}

    def for_model(self, model: str) -> Encoding | None:
        """The encoding that counts for `model`, None if it is not loaded: then counts are estimates."""
        return self._encodings.get(encoding_for(model))

    def install(self, name: str, encoding: Encoding) -> None:
        """Keep `encoding`, which is called `name`."""
        self._encodings[name] = encoding

    def needed(self, models: Iterable[str]) -> set[str]:
        """The names of the encodings that count for `models` and are not loaded yet."""
        return {encoding_for(model) for model in models} - self._encodings.keys()
