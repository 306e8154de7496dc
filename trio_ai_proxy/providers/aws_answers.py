"""What the services that give out AWS keys answer, read without ever quoting it: an answer may hold the key itself.

Sources: https://docs.aws.amazon.com/STS/latest/APIReference/API_AssumeRole.html,
https://docs.aws.amazon.com/AWSEC2/latest/UserGuide/instance-metadata-security-credentials.html and
https://docs.aws.amazon.com/sdkref/latest/guide/feature-container-credentials.html
"""

from __future__ import annotations

import math
import re
from datetime import UTC, datetime
from html import unescape
from typing import NamedTuple
from urllib.parse import urlencode

from trio_ai_proxy.errors import UpstreamRefused
from trio_ai_proxy.providers.aws_sign import Credential
from trio_ai_proxy.providers.base import UpstreamRequest
from trio_ai_proxy.providers.loose import a_text, read_object

_STS_VERSION = "2011-06-15"
_OUR_SESSION = "trio-ai-proxy"
_FORM = (
    (b"content-type", b"application/x-www-form-urlencoded; charset=utf-8"),
    (b"accept", b"text/xml"),
)
_CODE = re.compile(r"<Code>(\w{1,64})</Code>")
_NOT_IN_A_SESSION = re.compile(r"[^\w+=,.@-]", re.ASCII)


class Reply(NamedTuple):
    """The answer to one step, and when it came (seconds since the epoch)."""

    status: int
    body: bytes
    now: float


def sts_request(base: str, action: str, fields: dict[str, str]) -> UpstreamRequest:
    """A call of the Security Token Service at `base`, not signed."""
    body = urlencode({"Action": action, "Version": _STS_VERSION, **fields}).encode()
    return UpstreamRequest("POST", base.rstrip("/") + "/", _FORM, body, stream=False)


def session_of(name: str) -> str:
    """`name` with what a session's name may hold; ours if there is none."""
    return _NOT_IN_A_SESSION.sub("-", name)[:64] or _OUR_SESSION


def read_sts_key(reply: Reply, action: str) -> Credential:
    """The key in an answer of STS. Raises `UpstreamRefused`, with the service's code for what is wrong."""
    text = reply.body.decode("utf-8", "replace")
    if reply.status != 200:
        code = _CODE.search(text)
        said = f" ({code[1]})" if code else ""
        raise UpstreamRefused(f"AWS STS refused {action} with status {reply.status}{said}.")
    credential = _credential(
        _element(text, "AccessKeyId"),
        _element(text, "SecretAccessKey"),
        _element(text, "SessionToken"),
        _element(text, "Expiration"),
    )
    if credential is None:
        raise UpstreamRefused(f"AWS STS answered {action} without a key.")
    return credential


def read_key(reply: Reply, source: str) -> Credential:
    """The key in a JSON answer of `source`. Raises `UpstreamRefused`."""
    fields = read_object(words_of(reply, source).encode())
    credential = None
    if fields is not None and fields.get("Code", "Success") == "Success":
        credential = _credential(
            *(a_text(fields.get(name)) for name in ("AccessKeyId", "SecretAccessKey", "Token", "Expiration"))
        )
    if credential is None:
        raise UpstreamRefused(f"No AWS key could be had from {source}: the answer holds none.")
    return credential


def words_of(reply: Reply, source: str) -> str:
    """The text of a good answer of `source`. Raises `UpstreamRefused`."""
    text = reply.body.decode("utf-8", "replace").strip()
    if reply.status != 200 or not text:
        raise UpstreamRefused(f"No AWS key could be had from {source}: it answered with status {reply.status}.")
    return text


def _credential(key: str, secret: str, token: str, expiration: str) -> Credential | None:
    if not key or not secret or not (key + secret + token).isascii() or not (key + secret + token).isprintable():
        return None
    expires_at = math.inf
    if expiration:
        try:
            moment = datetime.fromisoformat(expiration)
        except ValueError:
            return None
        expires_at = (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()
    return Credential(key, secret, token, expires_at)


def _element(text: str, name: str) -> str:
    found = re.search(rf"<{name}>([^<]*)</{name}>", text)
    return unescape(found[1]).strip() if found else ""
