"""What one value of the file means: times, sizes, environment variables, addresses, URLs. It says what must be, never
what was written where that could be a credential.

Every reader raises `Rejected` with the rest of a sentence whose subject is the key ("must be …").
"""

from __future__ import annotations

import ipaddress
import json
import math
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence


class Rejected(Exception):
    """The value cannot be used. The text goes on after the name of the key."""


class WrongValue(Rejected):
    """The same, where what the file says may be shown after the text: ", not …"."""


@dataclass(frozen=True, slots=True)
class Missing:
    """Something outside the file that it counts on: "environment variable X" · "is not set" · how to mend it."""

    what: str
    why: str
    remedy: str


class Unresolved(Exception):
    """The value depends on things that are not there."""

    def __init__(self, missing: list[Missing]) -> None:
        super().__init__("; ".join(f"{each.what} {each.why}" for each in missing))
        self.missing = missing


DURATION_PATTERN = (
    r"(?=\d)(?:(\d+(?:\.\d+)?)d)?(?:(\d+(?:\.\d+)?)h)?(?:(\d+(?:\.\d+)?)m(?!s))?"
    r"(?:(\d+(?:\.\d+)?)s)?(?:(\d+(?:\.\d+)?)ms)?"
)
_DURATION_UNITS = (("d", 86400.0), ("h", 3600.0), ("m", 60.0), ("s", 1.0), ("ms", 0.001))
SIZE_PATTERN = r"(\d{1,15}(?:\.\d{1,15})?) ?(B|kB|KB|MB|GB|KiB|MiB|GiB)"
_SIZE_UNITS = {
    "B": 1,
    "kB": 1000,
    "KB": 1000,
    "MB": 1000**2,
    "GB": 1000**3,
    "KiB": 2**10,
    "MiB": 2**20,
    "GiB": 2**30,
}
_REFERENCE = re.compile(r"\$\{(?:([A-Za-z_][A-Za-z0-9_]*)\})?")


def read_duration(value: object, *, zero: bool = False) -> float:
    """Seconds, from a number of seconds or from text such as "1h30m" (largest unit first)."""
    seconds = math.nan
    if isinstance(value, int | float) and not isinstance(value, bool):
        seconds = value if abs(value) < 1e12 else math.inf  # an int of any length must not overflow below
    elif isinstance(value, str) and (match := re.fullmatch(DURATION_PATTERN, value, re.ASCII)):
        pairs = zip(match.groups(), _DURATION_UNITS, strict=True)
        seconds = sum(float(number) * unit for number, (_, unit) in pairs if number)
    else:
        raise WrongValue('must be seconds (30 or 0.5) or text such as "10m", "60s", "500ms" or "1h30m"')
    if not math.isfinite(seconds) or seconds < 0 or (seconds == 0 and not zero):
        raise WrongValue(f"must be {'zero or more' if zero else 'more than zero'} and finite")
    return float(seconds)


def read_size(value: object) -> int:
    """Bytes, from a number of bytes or from text such as "10MiB"."""
    if isinstance(value, int) and not isinstance(value, bool):
        size = value
    elif isinstance(value, str) and (match := re.fullmatch(SIZE_PATTERN, value, re.ASCII)):
        size = int(float(match[1]) * _SIZE_UNITS[match[2]])
    else:
        raise WrongValue('must be bytes (65536) or text such as "64kB" or "10MiB"')
    if size <= 0:
        raise WrongValue("must be more than zero")
    return size


def read_share(value: object) -> float:
    """A number above 0 and at most 1."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value <= 1:
        raise WrongValue("must be a number above 0 and at most 1")
    return float(value)


def format_duration(seconds: float) -> str:
    """The way one would write it: 900.0 → "15m", 5400.0 → "1h30m", 0.25 → "250ms"."""
    milliseconds = round(seconds * 1000)
    parts = []
    for unit, length in (("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1000), ("ms", 1)):
        count, milliseconds = divmod(milliseconds, length)
        if count:
            parts.append(f"{count}{unit}")
    return "".join(parts) or "0s"


def format_size(size: int) -> str:
    """The way one would write it: 10485760 → "10MiB"."""
    for unit in ("GiB", "MiB", "KiB"):
        if size % _SIZE_UNITS[unit] == 0:
            return f"{size // _SIZE_UNITS[unit]}{unit}"
    return f"{size}B"


def expand(text: str, environ: Mapping[str, str], *, may_be_empty: bool = True) -> str:
    """`text` with every `${NAME}` replaced by that variable; what a variable holds is not expanded again.

    Raises `Unresolved` with every variable that is not set (or is empty, where that cannot be meant).
    """
    missing = []

    def value_of(match: re.Match[str]) -> str:
        name = match[1]
        if name is None:
            raise Rejected("has a ${ that names no environment variable; write ${NAME}")
        value = environ.get(name)
        if value is None or (not value and not may_be_empty):
            why = "is not set" if value is None else "is empty"
            missing.append(Missing(f"environment variable {name}", why, f"set it before the start (export {name}=…)"))
        return value or ""

    expanded = _REFERENCE.sub(value_of, text)
    if missing:
        raise Unresolved(missing)
    return expanded


def variables_in(text: str) -> list[str]:
    """The names of the environment variables that `text` refers to."""
    return [name for name in _REFERENCE.findall(text) if name]


def type_name(value: object) -> str:
    """What TOML calls it, for people."""
    match value:
        case bool():
            return "true or false"
        case int():
            return "a whole number"
        case float():
            return "a decimal number"
        case str():
            return "text"
        case list():
            return "an array"
        case dict():
            return "a table"
        case _:
            return "a date or time"


def shown(value: object) -> str:
    """A value as the file may have it, for an error; never called with what could be a credential."""
    match value:
        case str():
            return json.dumps(value if len(value) <= 60 else value[:59] + "…", ensure_ascii=False)
        case bool():
            return str(value).lower()
        case int() | float() if abs(value) < 1e60 or value != value:
            return str(value)
        case _:
            return type_name(value)


def listed(names: Sequence[str], quote: str) -> str:
    """Names for people, each in quotes: "a", "b" and "c"."""
    quoted = [f"{quote}{name}{quote}" for name in names]
    return " and ".join(filter(None, [", ".join(quoted[:-1]), *quoted[-1:]]))


@dataclass(frozen=True, slots=True)
class Address:
    """A host and a port to listen on."""

    host: str
    port: int

    @property
    def is_loopback(self) -> bool:
        """Whether only this machine can reach it."""
        ip = _ip(self.host)
        return ip.is_loopback if ip is not None else self.host == "localhost"

    def overlaps(self, other: Address) -> bool:
        """Whether the two cannot both be listened on. Port 0 is a free port each time."""
        if self.port != other.port or self.port == 0:
            return False
        if "localhost" in (self.host, other.host) and self.is_loopback and other.is_loopback:
            return True  # it stands for 127.0.0.1, ::1 or both
        ours, theirs = _ip(self.host), _ip(other.host)
        if ours is None or theirs is None:
            return self.host == other.host or any(ip is not None and ip.is_unspecified for ip in (ours, theirs))
        return ours == theirs or ours.is_unspecified or theirs.is_unspecified


def _ip(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(host)
    except ValueError:
        return None


def read_address(text: str) -> Address:
    """HOST:PORT, with an IPv6 host in brackets."""
    match = re.fullmatch(r"(?:\[([0-9a-fA-F:.]+)\]|([A-Za-z0-9._-]+)):(\d{1,5})", text, re.ASCII)
    if match is None or int(match[3]) > 65535 or (match[1] and _ip(match[1]) is None):
        raise WrongValue('must be an address and a port such as "127.0.0.1:8000" or "[::1]:8000"')
    return Address(host=match[1] or match[2].lower(), port=int(match[3]))


def check_base_url(text: str) -> None:
    """An absolute http or https URL of host, port and path alone. No error repeats it: it may hold a password."""
    check_url(text, "a credential goes into `api_key` or `auth`")
    if "?" in text or "#" in text:
        raise Rejected("must not have a query or a fragment; a query parameter goes into `auth`")


def check_url(text: str, elsewhere: str) -> None:
    """An absolute http or https URL without a user and a password; `elsewhere` says where those go."""
    if not text.isascii() or not text.isprintable() or " " in text or "\\" in text:
        raise Rejected("must be a URL of printable ASCII characters without spaces")
    try:
        parts = urlsplit(text)
        has_port = parts.port is None or parts.port > 0
    except ValueError:
        raise Rejected("must be a URL with a valid host and port") from None
    if parts.scheme not in ("http", "https") or not parts.hostname or not has_port:
        raise Rejected('must be an http or https URL with a host, such as "https://api.example.com/v1"')
    if parts.username is not None or parts.password is not None:
        raise Rejected(f"must not hold a user name or password; {elsewhere}")
