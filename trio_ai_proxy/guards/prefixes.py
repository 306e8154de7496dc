r"""What could still become a match: for a regular expression, one that also finds what the end of the text has cut off.

Pure. RE2 cannot say that a match was possible had there been more text, so the expression itself is made to say it. Where it
would look at the next character, it may find the end instead, and once it has found the end, all of its rest is satisfied
with that:

    a      becomes  (?:END|a)
    \b     becomes  (?:END|\b)     nobody knows what the next character is
    END    is       \x00\z|\z      where \x00 is `MARK`, which whoever asks puts after the text

A match that ends after the mark is one that more text may complete, lengthen or undo; any other match stands, whatever
follows. Both are told by one search, in the order of preference of the expression itself: `a+?` has matched "a" for good,
`a+` has not. Groups, alternatives and repetitions stay as they are written, so there is nothing to parse but tokens.

Source: https://github.com/google/re2/wiki/Syntax
"""

from __future__ import annotations

from typing import Any

import re2  # type: ignore[import-untyped]  # it comes without types

from trio_ai_proxy.guards.regex import UnreadableRegex

MARK = b"\x00"
"""What is put after a text that may go on. A text that has this character itself is read rightly: only the last one is it."""

_END = r"\x00\z|\z"

# RE2's own limit, which holds for what it learns from texts too, and one for expressions that do not fit into that: large
# counted repetitions become several times as large here.
_MEMORY = (8 << 20, 64 << 20)

# In RE2's own syntax, and in the order in which RE2 looks for them.
_TOKEN = re2.compile(
    r"""(?s)(?P<quoted>\\Q.*?(?:\\E|\z))"""
    r"""|(?P<assertion>\\[AzbB]|[\^$])"""
    r"""|(?P<any_byte>\\C)"""
    r"""|(?P<atom>\\[pP](?:\{[^}]*\}|.)|\\x(?:\{[0-9A-Fa-f]+\}|[0-9A-Fa-f]{2})|\\[0-7]{1,3}|\\."""
    r"""|\[\^?\]?(?:\[:\^?[a-z]+:\]|\\.|[^\]\\])*\]|\.)"""
    r"""|(?P<flags>\(\?[imsU-]*[:)])"""
    r"""|(?P<group>\((?:\?P?<[^>]*>)?)"""
    r"""|(?P<operator>(?:[*+?]|\{[0-9]+(?:,[0-9]*)?\})\??|[|)])"""
    r"""|(?P<character>.)"""
)


def plain(regex: str) -> str:
    """`regex`, which RE2 can read, without its groups' names and numbers."""
    return _rewrite(regex, "{}")


def open_ended(regex: str) -> str:
    """`regex`, which RE2 can read, as it is for a text that may go on and has `MARK` after it. Raises `UnreadableRegex`."""
    return _rewrite(regex, f"(?:{_END}|{{}})")


def compile_search(*regexes: str) -> Any:
    """RE2's search for any of `regexes`, the first of them preferred. Raises `UnreadableRegex`, if they are too large."""
    said = ""
    for memory in _MEMORY:
        options = re2.Options()
        options.log_errors = False  # RE2 would write them to standard error itself
        options.max_mem = memory
        try:
            return re2.compile("|".join(f"(?:{regex})" for regex in regexes), options)
        except re2.error as error:
            said = error.args[0].decode("utf-8", "replace")
    raise UnreadableRegex(f"it becomes too large to be looked for in a stream ({said})")


def _rewrite(regex: str, form: str) -> str:
    """`regex` with `form` around each thing in it that looks at a character, or between two."""
    written = []
    for token in _TOKEN.finditer(regex):
        kind, text = token.lastgroup, token[0]
        if kind in ("atom", "assertion"):
            written.append(form.format(text))
        elif kind == "character":
            written.append(form.format(re2.escape(text)))
        elif kind == "quoted":
            literal = text.removeprefix("\\Q").removesuffix("\\E")
            written += [form.format(re2.escape(character)) for character in literal]
        elif kind == "group":
            written.append("(?:")
        elif kind == "any_byte":
            raise UnreadableRegex(r"`\C` matches a piece of a character, and streams are cut between characters")
        else:
            written.append(text)
    return "".join(written)
