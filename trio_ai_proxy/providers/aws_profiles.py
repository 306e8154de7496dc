"""What the shared files of the AWS tools say: `~/.aws/credentials` and `~/.aws/config`, as profiles by name.

Source: https://docs.aws.amazon.com/sdkref/latest/guide/file-format.html
"""

from __future__ import annotations

from configparser import Error, RawConfigParser
from typing import TYPE_CHECKING

from trio_ai_proxy.errors import UpstreamRefused

if TYPE_CHECKING:
    from collections.abc import Mapping

Profile = dict[str, str]

# Ways to a credential that need a program, a browser or a person.
_NOT_SPOKEN = {
    "credential_process": "has a program print the credential, and this gateway runs no programs",
    "sso_session": "signs in through IAM Identity Center, which this gateway does not do",
    "sso_start_url": "signs in through IAM Identity Center, which this gateway does not do",
    "login_session": "signs in through a browser, which this gateway does not do",
    "mfa_serial": "asks a person for a code",
}


def read_profiles(credentials: bytes, config: bytes) -> dict[str, Profile]:
    """The profiles of both files; of a key that is in both, the credentials file's value counts. Raises `UpstreamRefused`,
    which shows nothing of what they hold."""
    profiles: dict[str, Profile] = {}
    for name, values in _sections(config, "config").items():
        kind, _, rest = name.partition(" ")
        if name == "default" or kind == "profile":
            profiles.setdefault("default" if name == "default" else rest.strip(), {}).update(values)
    for name, values in _sections(credentials, "credentials").items():
        profiles.setdefault(name.strip(), {}).update(values)
    return profiles


def _sections(data: bytes, what: str) -> dict[str, Profile]:
    parser = RawConfigParser(
        default_section="\0", strict=False, delimiters=("=",), comment_prefixes=("#", ";"), allow_no_value=True
    )
    try:
        parser.read_string(data.decode("utf-8-sig"))
    except (Error, UnicodeDecodeError):
        # Without `from`: the cause quotes the line.
        raise UpstreamRefused(f"The shared AWS {what} file cannot be read as profiles.") from None
    return {name: {key: value or "" for key, value in parser.items(name)} for name in parser.sections()}


def why_not(profile: Mapping[str, str]) -> str:
    """Why a profile that holds no key gives none: the way that it names and that is not gone here, or nothing."""
    return next((reason for key, reason in _NOT_SPOKEN.items() if key in profile), "")
