"""Guards: what a request may say, and what an answer may say. One type for all kinds; each key says which kinds have it."""

from __future__ import annotations

from collections.abc import Mapping  # noqa: TC003  the decoder resolves the annotations at run time
from dataclasses import dataclass, field
from typing import Any, Literal

from trio_ai_proxy.settings.secret import Secret  # noqa: TC001  as above

GuardKind = Literal[
    "decorate",
    "template",
    "prompt_guard",
    "redact",
    "request_transformer",
    "response_transformer",
    "moderate",
    "webhook",
]
GuardedSide = Literal["request", "response"]
GuardedPart = Literal["text", "reasoning", "refusal", "arguments"]
Role = Literal["system", "user", "assistant", "tool"]


@dataclass(frozen=True, slots=True)
class PatternSettings:
    """Something that is looked for in text. Without `regex` the name is that of a pattern that is built in."""

    name: str = field(
        metadata={"doc": "A built-in pattern (see `docs/guards.md`); with `regex`, what it shall be called."}
    )
    regex: str | None = field(default=None, metadata={"doc": "What it looks like, in RE2's syntax."})


@dataclass(frozen=True, slots=True)
class MessageSettings:
    """One message of a conversation."""

    role: Literal["system", "developer", "user", "assistant"] = field(metadata={"doc": "Who says it."})
    content: str = field(metadata={"doc": "What is said."})


@dataclass(frozen=True, slots=True)
class TemplateSettings:
    """A prompt with gaps. `messages` or `prompt` is given; the other is empty."""

    messages: tuple[MessageSettings, ...] = field(
        default=(), metadata={"doc": "For chat. `{{name}}` in a `content` is the property of that name."}
    )
    prompt: str | None = field(
        default=None, metadata={"doc": "For completions. `{{name}}` is the property of that name."}
    )


@dataclass(frozen=True, slots=True)
class HeaderChanges:
    """What is done to the headers of an answer, in this order: remove, rename, replace, add, append."""

    remove: tuple[str, ...] = field(default=(), metadata={"doc": "Headers that do not leave."})
    rename: Mapping[str, str] = field(default_factory=dict, metadata={"doc": "New names of headers, by the old ones."})
    replace: Mapping[str, str] = field(default_factory=dict, metadata={"doc": "Values for headers that are there."})
    add: Mapping[str, str] = field(default_factory=dict, metadata={"doc": "Values for headers that are not there."})
    append: Mapping[str, str] = field(default_factory=dict, metadata={"doc": "Values beside those that are there."})


@dataclass(frozen=True, slots=True)
class JSONChanges:
    """What is done to the JSON of an answer and of each event, in this order: remove, rename, replace, add, append."""

    remove: tuple[str, ...] = field(
        default=(),
        metadata={
            "doc": "Fields that do not leave, by path: names with dots between them, a number for an element of an array, "
            "`*` for all."
        },
    )
    rename: Mapping[str, str] = field(default_factory=dict, metadata={"doc": "New names of fields, by their paths."})
    replace: Mapping[str, Any] = field(
        default_factory=dict, metadata={"doc": "Values for fields that are there, by path."}
    )
    add: Mapping[str, Any] = field(
        default_factory=dict, metadata={"doc": "Values for fields that are not there, by path."}
    )
    append: Mapping[str, Any] = field(
        default_factory=dict,
        metadata={"doc": "Values that go to the end of a list, by path; a value that is no list becomes one."},
    )


_ASKS_A_MODEL = ("request_transformer", "response_transformer", "moderate")
_ASKS = (*_ASKS_A_MODEL, "webhook")
_JUDGES = ("response_transformer", "moderate", "webhook")


@dataclass(frozen=True, slots=True)
class GuardSettings:
    """One guard. Regular expressions are sound, and models exist; what a kind does not have is at its default."""

    name: str
    kind: GuardKind = field(metadata={"doc": "What it does: see `docs/guards.md`."})
    all_models: bool = field(
        default=False,
        metadata={"doc": "It runs for every model, before the model's own guards, in the order of the file."},
    )
    on: tuple[GuardedSide, ...] = field(
        default=("request", "response"),
        metadata={"doc": "Where it stands: on the way in, on the way out.", "kinds": ("redact", "moderate", "webhook")},
    )
    on_block: Literal["finish", "error"] = field(
        default="finish",
        metadata={
            "doc": 'How an answer ends that it cuts: finish: with `finish_reason = "content_filter"`; error: with an error in '
            "the stream.",
            "kinds": ("redact", *_JUDGES),
        },
    )

    prepend: tuple[MessageSettings, ...] = field(
        default=(), metadata={"doc": "Messages before those of the request.", "kinds": ("decorate",)}
    )
    append: tuple[MessageSettings, ...] = field(
        default=(), metadata={"doc": "Messages after those of the request.", "kinds": ("decorate",)}
    )

    templates: Mapping[str, TemplateSettings] = field(
        default_factory=dict,
        metadata={"doc": "Templates, by name; a text alone is a `prompt`.", "kinds": ("template",), "short": "prompt"},
    )
    allow_untemplated: bool = field(
        default=True,
        metadata={
            "doc": "Requests without a template pass (Kong's `allow_untemplated_requests`).",
            "kinds": ("template",),
        },
    )

    deny: tuple[str, ...] = field(
        default=(),
        metadata={
            "doc": "Regular expressions (RE2); a request in which one is found is refused.",
            "kinds": ("prompt_guard",),
        },
    )
    allow: tuple[str, ...] = field(
        default=(),
        metadata={
            "doc": "Regular expressions (RE2); a request in which none is found is refused. Empty: none is needed.",
            "kinds": ("prompt_guard",),
        },
    )
    roles: tuple[Role, ...] = field(
        default=("user",),
        metadata={
            "doc": "Whose messages are looked at. `system` is `developer` too, `tool` is `function` too, and a role that nobody "
            "knows is `user`.",
            "kinds": ("prompt_guard", "moderate", "webhook"),
        },
    )
    last_only: bool = field(
        default=False,
        metadata={
            "doc": "Only the last of these messages is looked at (Kong's `allow_all_conversation_history`).",
            "kinds": ("prompt_guard", "moderate", "webhook"),
        },
    )
    max_characters: int | None = field(
        default=None,
        metadata={
            "doc": "Most characters that the messages looked at may have together.",
            "unit": "count",
            "kinds": ("prompt_guard",),
        },
    )
    max_messages: int | None = field(
        default=None,
        metadata={"doc": "Most messages that a request may have.", "unit": "count", "kinds": ("prompt_guard",)},
    )

    patterns: tuple[PatternSettings, ...] = field(
        default=(),
        metadata={
            "doc": "What is looked for. A text alone is the name of a built-in pattern.",
            "kinds": ("redact",),
            "short": "name",
        },
    )
    action: Literal["replace", "block"] = field(
        default="replace",
        metadata={
            "doc": "What follows a match: something else stands in its place, or the request or answer ends.",
            "kinds": ("redact",),
        },
    )
    replace: str = field(
        default="[{name}]",
        metadata={
            "doc": "What stands in place of a match; `{name}` is the pattern's name.",
            "kinds": ("redact",),
            "empty": True,
        },
    )
    on_overflow: Literal["block", "release"] = field(
        default="block",
        metadata={
            "doc": "When a match in the making has grown beyond `window`: the answer ends, or the text goes out as it is.",
            "kinds": ("redact",),
        },
    )
    reversible: bool = field(
        default=False,
        metadata={
            "doc": "What was replaced in the request is put back in the answer, so that the provider alone never sees it.",
            "kinds": ("redact",),
        },
    )

    model: str | None = field(
        default=None, metadata={"doc": "The model that is asked: one of `[models]`.", "kinds": _ASKS_A_MODEL}
    )
    uses: Literal["moderation", "chat"] = field(
        default="moderation",
        metadata={
            "doc": "What is asked of the model: a judgement of its moderation interface, or an answer to `prompt`.",
            "kinds": ("moderate",),
        },
    )
    prompt: str | None = field(default=None, metadata={"doc": "What the model is told to do.", "kinds": _ASKS_A_MODEL})
    extract: str | None = field(
        default=None,
        metadata={
            "doc": "Regular expression (RE2) for the part of the model's answer that counts: its group, or all of the match. "
            "Absent: the whole answer.",
            "kinds": ("request_transformer", "response_transformer"),
        },
    )
    categories: tuple[str, ...] = field(
        default=(), metadata={"doc": "Categories that block; empty: every one that is flagged.", "kinds": ("moderate",)}
    )
    thresholds: Mapping[str, float] = field(
        default_factory=dict,
        metadata={
            "doc": "Scores from which a category blocks, whether or not it is flagged.",
            "unit": "share",
            "kinds": ("moderate",),
        },
    )

    url: str | None = field(
        default=None, metadata={"doc": "Address that is sent a POST for each judgement.", "kinds": ("webhook",)}
    )
    headers: Mapping[str, Secret] = field(
        default_factory=dict, metadata={"doc": "Headers sent to `url`.", "kinds": ("webhook",)}
    )

    mode: Literal["hold", "beside"] = field(
        default="hold",
        metadata={
            "doc": "hold: nothing leaves before it is judged; beside: all leaves at once, and a judgement against it cuts.",
            "kinds": ("moderate", "webhook"),
        },
    )
    window: int = field(
        default=256,
        metadata={
            "doc": "Characters: for `redact`, held back at most; for the others, that are judged or rewritten at one time.",
            "unit": "count",
            "kinds": ("redact", *_JUDGES),
        },
    )
    overlap: int = field(
        default=128,
        metadata={
            "doc": "Characters before a window that are shown with it.",
            "unit": "count",
            "zero": True,
            "kinds": _JUDGES,
        },
    )
    by_sentence: bool = field(
        default=True,
        metadata={"doc": "The end of a sentence closes a window early.", "kinds": ("response_transformer",)},
    )
    whole: bool = field(
        default=False,
        metadata={
            "doc": "Each part of an answer is one window, judged or rewritten when all of it is there.",
            "kinds": _JUDGES,
        },
    )
    parts: tuple[GuardedPart, ...] = field(
        default=(),
        metadata={
            "doc": "Which parts of an answer are judged or rewritten: its text, what the model thinks, the words in which it "
            "declines, the arguments of its calls of tools. Empty: all; for `response_transformer`, the text.",
            "kinds": _JUDGES,
        },
    )
    timeout: float = field(
        default=10.0,
        metadata={
            "doc": "How long it may take each time, within the `total` of the exchange.",
            "unit": "duration",
            "kinds": _ASKS,
        },
    )
    on_failure: Literal["open", "closed"] = field(
        default="closed",
        metadata={
            "doc": "When it cannot be asked, fails or takes too long. open: as if it had had nothing to say; closed: the request "
            "is refused, or the answer ends.",
            "kinds": _ASKS,
        },
    )

    response_headers: HeaderChanges | None = field(
        default=None,
        metadata={"doc": "What is done to the headers of the answer.", "kinds": ("response_transformer",)},
    )
    json: JSONChanges | None = field(
        default=None,
        metadata={
            "doc": "What is done to the JSON of the answer, and to that of each event of a stream.",
            "kinds": ("response_transformer",),
        },
    )
