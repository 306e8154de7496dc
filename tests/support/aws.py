"""An `AwsAuthority` without a network: what it asks for, and the answers that it gets."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any
from urllib.parse import parse_qs

from trio_ai_proxy.providers.aws_credentials import AwsAuthority
from trio_ai_proxy.providers.base import FileStep, UpstreamRequest
from trio_ai_proxy.settings import ProviderSettings

NOW = 1_800_000_000.0
REQUEST = UpstreamRequest(
    "POST", "https://bedrock-runtime.us-east-1.amazonaws.com/model/m/converse", (), b"{}", stream=False
)
ROLE = "arn:aws:iam::123456789012:role/gateway"
KEYS = {"AWS_ACCESS_KEY_ID": "AKENV", "AWS_SECRET_ACCESS_KEY": "s"}
WEB = {"AWS_ROLE_ARN": ROLE, "AWS_WEB_IDENTITY_TOKEN_FILE": "/token"}
CONTAINER = {"AWS_CONTAINER_CREDENTIALS_RELATIVE_URI": "/creds"}


def iso(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def authority(environment: dict[str, str] | None = None, **settings: Any) -> AwsAuthority:
    given = ProviderSettings(name="aws", kind="bedrock", environment=environment or {}, **settings)
    return AwsAuthority(given, region="us-east-1", service="bedrock")


def sts_answer(key: str, *, expires: float = NOW + 3600, action: str = "AssumeRole") -> bytes:
    return (
        f'<{action}Response xmlns="https://sts.amazonaws.com/doc/2011-06-15/"><{action}Result><Credentials>'
        f"<AccessKeyId>{key}</AccessKeyId><SecretAccessKey>secret/{key}+=</SecretAccessKey>"
        f"<SessionToken>token-{key}==</SessionToken><Expiration>{iso(expires)}</Expiration>"
        f"</Credentials></{action}Result></{action}Response>"
    ).encode()


def json_answer(key: str, *, expires: float = NOW + 3600, **more: Any) -> bytes:
    fields = {
        "AccessKeyId": key,
        "SecretAccessKey": f"secret/{key}",
        "Token": f"token-{key}",
        "Expiration": iso(expires),
    }
    return json.dumps({**fields, **more}).encode()


def answer(subject: AwsAuthority, body: bytes, *, status: int = 200, now: float = NOW) -> None:
    subject.accept(status, {}, body, now)


def asked(subject: AwsAuthority, now: float = NOW) -> UpstreamRequest:
    step = subject.step(now)
    assert isinstance(step, UpstreamRequest)
    return step


def form(request: UpstreamRequest) -> dict[str, str]:
    return {name: values[0] for name, values in parse_qs(request.body.decode()).items()}


def head(request: UpstreamRequest, name: str) -> str:
    return next((value.decode() for key, value in request.headers if key.decode().lower() == name), "")


def key_of(subject: AwsAuthority, now: float = NOW) -> str:
    """The key with which a request is signed at `now`, for which nothing must have to be fetched."""
    assert subject.step(now) is None
    return head(subject.sign(REQUEST, now), "authorization").partition("Credential=")[2].partition("/")[0]


def read_files(subject: AwsAuthority, credentials: str | None = None, config: str | None = None) -> None:
    for path, text in (("/h/.aws/credentials", credentials), ("/h/.aws/config", config)):
        assert subject.step(NOW) == FileStep(path, optional=True)
        answer(subject, (text or "").encode(), status=404 if text is None else 200)
