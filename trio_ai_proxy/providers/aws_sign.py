"""How AWS wants a request signed: Signature Version 4. Pure: `now` is an argument, and what was signed is what goes out.

The path is signed as it stands in the URL and escaped once more, which is what every service but S3 checks.
Source: https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_sigv-create-signed-request.html
"""

from __future__ import annotations

import hmac
import math
from dataclasses import dataclass, field
from datetime import UTC, datetime
from hashlib import sha256
from typing import TYPE_CHECKING
from urllib.parse import SplitResult, quote, urlsplit

from msgspec.structs import replace

if TYPE_CHECKING:
    from trio_ai_proxy.providers.base import UpstreamRequest

_ALGORITHM = "AWS4-HMAC-SHA256"
_PORTS = {"http": 80, "https": 443}

# What transports and proxies on the way may change; AWS's own SDKs leave these names out of a signature, but for
# `accept-encoding`, which our transport writes anew.
_UNSIGNED = frozenset(
    {
        "accept-encoding", "baggage", "connection", "expect", "keep-alive", "proxy-authenticate", "proxy-authorization",
        "te", "traceparent", "tracestate", "trailer", "transfer-encoding", "upgrade", "user-agent", "x-amzn-trace-id",
    }
)  # fmt: skip

_OURS = frozenset({"authorization", "x-amz-date", "x-amz-security-token"})


@dataclass(frozen=True, slots=True)
class Credential:
    """A key of an AWS account. `session_token` goes with a temporary one; `expires_at` is in seconds since the epoch."""

    access_key_id: str
    secret_access_key: str = field(repr=False)
    session_token: str = field(default="", repr=False)
    expires_at: float = math.inf


def sign(request: UpstreamRequest, credential: Credential, *, region: str, service: str, now: float) -> UpstreamRequest:
    """`request` with `authorization`, `x-amz-date` and, for a temporary key, `x-amz-security-token` in its headers."""
    stamp = datetime.fromtimestamp(now, UTC).strftime("%Y%m%dT%H%M%SZ")
    headers = [(name, value) for name, value in request.headers if name.lower().decode("latin-1") not in _OURS]
    headers.append((b"x-amz-date", stamp.encode()))
    if credential.session_token:
        headers.append((b"x-amz-security-token", credential.session_token.encode("latin-1")))
    url = urlsplit(request.url)
    signed = _signed_headers(headers, url)
    names = ";".join(signed)
    canonical = "\n".join(
        (
            request.method.upper(),
            quote(_without_dots(url.path), safe="/~"),
            "&".join(f"{name}={value}" for name, value in sorted(_pairs(url.query))),
            *(f"{name}:{value}" for name, value in signed.items()),
            "",
            names,
            sha256(request.body).hexdigest(),
        )
    )
    scope = f"{stamp[:8]}/{region}/{service}/aws4_request"
    to_sign = "\n".join((_ALGORITHM, stamp, scope, sha256(canonical.encode()).hexdigest()))
    key = b"AWS4" + credential.secret_access_key.encode()
    for part in scope.split("/"):
        key = hmac.digest(key, part.encode(), "sha256")
    signature = hmac.digest(key, to_sign.encode(), "sha256").hex()
    said = f"{_ALGORITHM} Credential={credential.access_key_id}/{scope}, SignedHeaders={names}, Signature={signature}"
    headers.append((b"authorization", said.encode("latin-1")))
    return replace(request, headers=tuple(headers))


def _signed_headers(headers: list[tuple[bytes, bytes]], url: SplitResult) -> dict[str, str]:
    """Names and values in the form and the order in which they are signed."""
    found: dict[str, list[str]] = {}
    for raw_name, raw_value in headers:
        name = raw_name.decode("latin-1").lower()
        if name not in _UNSIGNED:
            found.setdefault(name, []).append(" ".join(raw_value.decode("latin-1").split()))
    if "host" not in found:
        found["host"] = [_host(url)]
    return {name: ",".join(found[name]) for name in sorted(found)}


def _host(url: SplitResult) -> str:
    """What the transport says in its `Host` header: a port only where it is not the scheme's own."""
    host = url.hostname or ""
    if ":" in host:
        host = f"[{host}]"
    return host if url.port in (None, _PORTS.get(url.scheme)) else f"{host}:{url.port}"


def _pairs(query: str) -> list[tuple[str, str]]:
    """The parameters as they stand in the URL, which are escaped already."""
    if not query:
        return []
    return [(name, value) for name, _, value in (pair.partition("=") for pair in query.split("&"))]


def _without_dots(path: str) -> str:
    """`path` without empty, `.` and `..` segments."""
    kept: list[str] = []
    for segment in path.split("/"):
        if segment == "..":
            del kept[-1:]
        elif segment and segment != ".":
            kept.append(segment)
    return "/" + "/".join(kept) + ("/" if kept and path.endswith("/") else "")
