"""What is looked for: the patterns that have a name, and those of a configuration.

Pure. A regular expression says what a thing may look like, and a check says whether it is one: the check digit of a card or
an account, an address that can exist. Every built-in pattern ends well before 256 characters, so that it fits the default
`window`; what may be longer (a token) is recognised by its beginning, and the rest of it follows as the pattern's `tail`.
"""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass
from functools import cache
from types import MappingProxyType
from typing import TYPE_CHECKING

from stdnum import iban, luhn, numdb

from trio_ai_proxy.guards.prefixes import compile_search, open_ended, plain
from trio_ai_proxy.guards.regex import UnreadableRegex, compile_regex

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping


@dataclass(frozen=True, slots=True)
class Pattern:
    """One thing to look for. Several may have the same name.

    regex  in RE2's syntax
    check  how many of a match's first characters are the thing, 0 if it is none; None: every match is one
    tail   characters that belong to the match for as long as they follow it
    """

    name: str
    regex: str
    check: Callable[[str], int] | None = None
    tail: str = ""


def own_pattern(name: str, regex: str) -> Pattern:
    """A pattern of the configuration. Raises `UnreadableRegex` for what RE2 cannot read, and for what cannot be looked for."""
    compile_regex(regex)
    compile_search(open_ended(regex))
    if compile_search(plain(regex)).fullmatch("") is not None:
        raise UnreadableRegex("it matches the empty text, which is everywhere")
    return Pattern(name, regex)


# Between the digits of one number: a space, a dash, and those that word processors and models write in their places.
_SPACE = r" \x{A0}\x{202F}"
_DASH = r"\x{2010}-\x{2013}\-"
_BETWEEN = f"[{_SPACE}{_DASH}]"

_LETTER = r"A-Za-z0-9\x{C0}-\x{24F}"
_EMAIL = (
    rf"[{_LETTER}_][{_LETTER}._%+'-]{{0,63}}@(?:xn--)?[{_LETTER}](?:(?:\.xn--|[.-])?[{_LETTER}]){{0,79}}"
    r"\.(?:xn--[A-Za-z0-9]{2,20}|[A-Za-z\x{C0}-\x{24F}]{2,24})\b"
)

_CARD = rf"\b[1-9](?:{_BETWEEN}?[0-9]){{12,18}}\b"

_IBAN = rf"\b[A-Za-z]{{2}}[0-9]{{2}}(?:{_BETWEEN}?[A-Za-z0-9]){{11,30}}\b"

_APART = rf"[{_SPACE}{_DASH}./()]"
_HYPHEN = rf"[{_SPACE}{_DASH}.]"
_PHONE = (
    rf"\B\+[1-9](?:{_APART}{{0,3}}[0-9]){{6,14}}\b"
    rf"|\b00[1-9][0-9]{{0,2}}{_HYPHEN}(?:{_APART}{{0,3}}[0-9]){{6,12}}\b"
    rf"|(?:\b1{_HYPHEN})?(?:\([2-9][0-9]{{2}}\){_HYPHEN}?|\b[2-9][0-9]{{2}}{_HYPHEN})[2-9][0-9]{{2}}{_HYPHEN}[0-9]{{4}}\b"
    rf"|\b0[1-9](?:{_HYPHEN}?[0-9]{{2}}){{4}}\b"
    rf"|(?:\(0[1-9][0-9]{{1,4}}\)|\b0[1-9][0-9]{{1,4}})[{_SPACE}{_DASH}/][0-9]{{3,8}}(?:[{_SPACE}{_DASH}][0-9]{{1,6}})?\b"
)

_OCTET = r"(?:25[0-5]|2[0-4][0-9]|1[0-9]{2}|[1-9]?[0-9])"
_IPV4 = rf"\b(?:{_OCTET}\.){{3}}{_OCTET}\b"
_HEX = "[0-9A-Fa-f]"
_IPV6 = rf"\b(?:[23]{_HEX}{{3}}|[Ff][C-Fc-f]{_HEX}{{2}})(?:(?:::?{_HEX}{{1,4}}){{1,7}}\b(?:::)?|::)"

_ALPHANUMERIC = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789"
_WORD = _ALPHANUMERIC + "_-"
_KEY = (
    r"\bsk-[A-Za-z0-9_-]{20}|sk-(?:ant|proj)-[A-Za-z0-9_-]{15}"
    r"|gh[oprsu]_[A-Za-z0-9]{36}|github_pat_[A-Za-z0-9_]{22}"
    r"|glpat-[A-Za-z0-9_-]{20}"
    r"|AIza[A-Za-z0-9_-]{35}"
    r"|xox[abeoprs]-[A-Za-z0-9-]{10}"
    r"|hf_[A-Za-z0-9]{34}"
)
_AWS_KEY = r"(?:AKIA|ASIA)[A-Z2-7]{16}\b"
_JWT = r"\beyJ[A-Za-z0-9_-]{10,200}\.eyJ[A-Za-z0-9_-]{8}"


_DOUBLED = (0, 2, 4, 6, 8, 1, 3, 5, 7, 9)


def _card(text: str) -> int:
    """The longest beginning of `text` that is a card's number: its digits end where no digit follows."""
    digits = ""
    best = odd = even = 0
    for at, character in enumerate(text):
        if not character.isdecimal():
            continue
        digits += character
        # Luhn's sum doubles every second digit from the right. Both sums grow with the digits, so that all beginnings are
        # judged in one go; this is run on whatever looks like a number.
        digit = int(character)
        odd, even = even + digit, odd + _DOUBLED[digit]
        if len(digits) >= 13 and odd % 10 == 0 and not text[at + 1 : at + 2].isdecimal() and luhn.is_valid(digits):
            best = at + 1
    return best


def _iban(text: str) -> int:
    """The beginning of `text` that is as long as its country's accounts are, if its check digits are right."""
    ends = [at + 1 for at, character in enumerate(text) if character.isalnum()]
    length = _iban_length(text[:2].upper())
    if not 0 < length <= len(ends):
        return 0
    end = ends[length - 1]
    if length < len(ends) and ends[length] == end + 1:
        return 0
    return end if iban.is_valid("".join(text[at - 1] for at in ends[:length])) else 0


@cache
def _iban_length(country: str) -> int:
    """How many characters the accounts of `country` have, 0 if it has none. The form of a country is like "8!n10!n"."""
    known = numdb.get("iban").info(country)[0][1].get("bban", "")
    return 4 + sum(int(piece.lstrip("nac")) for piece in known.split("!")[:-1]) if known else 0


def _key(text: str) -> int:
    """A key is random, and a long name in small letters with dashes between (`sk-spinner-double-bounce`) is not."""
    return 0 if text == text.lower() and not any(character.isdecimal() for character in text) else len(text)


def _phone(text: str) -> int:
    """E.164 has at most fifteen digits."""
    return len(text) if 7 <= sum(character.isdecimal() for character in text) <= 15 else 0


def _ipv6(text: str) -> int:
    """The longest beginning of `text` that is an address."""
    while text:
        try:
            ipaddress.IPv6Address(text)
        except ValueError:
            text = text.removesuffix("::") if text.endswith("::") else text[: max(0, text.rfind(":"))].rstrip(":")
        else:
            return len(text)
    return 0


NAMED: Mapping[str, tuple[Pattern, ...]] = MappingProxyType(
    {
        "email": (Pattern("email", _EMAIL),),
        "card": (Pattern("card", _CARD, _card),),
        "iban": (Pattern("iban", _IBAN, _iban),),
        "phone": (Pattern("phone", _PHONE, _phone),),
        "ip": (Pattern("ip", _IPV4), Pattern("ip", _IPV6, _ipv6)),
        "api_key": (
            Pattern("api_key", _KEY, _key, _WORD),
            Pattern("api_key", _AWS_KEY),
            Pattern("api_key", _JWT, tail=_WORD + "."),
        ),
    }
)
"""The built-in patterns, and what each takes.

email    `name@domain.tld`: up to 64 Latin letters (with accents too), digits and `._%+'-` before the @, then up to 80 letters
         and digits with single dots and dashes between, and a top level of two to 24 letters. Not: quoted names, names and
         domains in other scripts, addresses of machines (`a@[10.0.0.1]`), `a at b dot c`.
card     13 to 19 digits whose last is Luhn's check digit, at most one space or dash between any two. One number in ten
         passes that check by chance. Not: numbers that are part of a longer one or of a word.
iban     the accounts of every country in python-stdnum's list, of the right length and form and with the right check digits, at
         most one space or dash between any two characters, in capitals or not.
phone    E.164 (`+`, then seven to fifteen digits) and the same after `00` where a space or dash follows the country; North
         America's ten digits with their area code set apart (`(212) 555-0123`, `212-555-0123`, `1-212-555-0123`); after a
         national `0`, five pairs of digits (France), or an area code set apart (`030 12345678`, `020 7946 0958`,
         `0171/1234567`). Spaces, dashes, dots, slashes and brackets stand between. Not: digits without any of these signs
         (`2125550123`), local numbers without an area code, extensions.
ip       IPv4 (four numbers up to 255, also at the beginning of a longer dotted number), and IPv6 in 2000::/3, fc00::/7,
         fe80::/10 and ff00::/8, which is what networks use. Not: `::`, `::1`, an IPv4 address with zeros before its numbers.
api_key  keys and tokens that their makers have marked: Anthropic and OpenAI (`sk-…`), GitHub (`ghp_…`, `gho_…`, `ghu_…`, `ghs_…`,
         `ghr_…`, `github_pat_…`), GitLab (`glpat-…`), AWS key ids (`AKIA…`, `ASIA…`), Google (`AIza…`), Slack (`xoxb-…` and its
         kin), Hugging Face (`hf_…`), and signed JSON Web Tokens (`eyJ….eyJ…`), with all that follows of their characters; a full
         stop right behind a JSON Web Token goes with it. Not: secrets without a mark, such as AWS' secret keys.

Sources: RFC 5321 (lengths of an address), ISO/IEC 7812-1 (cards), ISO 13616 (IBAN), ITU-T E.164, RFC 4291 (IPv6), RFC 7519 (JWT),
https://docs.github.com/authentication/keeping-your-account-and-data-secure/about-authentication-to-github#githubs-token-formats
https://docs.gitlab.com/security/tokens/#token-prefixes
https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_identifiers.html#identifiers-prefixes
https://api.slack.com/concepts/token-types
"""
