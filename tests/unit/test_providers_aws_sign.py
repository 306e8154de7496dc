"""botocore, which AWS itself maintains, is the witness: the same request signed by it has the same headers."""

from __future__ import annotations

import datetime
import random
from unittest.mock import patch
from urllib.parse import quote

import pytest
from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials

from trio_ai_proxy.providers.aws_sign import Credential, sign
from trio_ai_proxy.providers.base import UpstreamRequest

MODELS = [
    "anthropic.claude-3-5-sonnet-20241022-v2:0",
    "arn:aws:bedrock:us-east-1:123456789012:application-inference-profile/abc123",
    "us.amazon.nova-lite-v1:0",
    "größe 模型/~%2F",
    "a+b=c&d;e,f",
]
HOSTS = [
    "https://bedrock-runtime.eu-west-1.amazonaws.com",
    "https://bedrock-runtime.eu-west-1.amazonaws.com:443/prefix",
    "http://127.0.0.1:8123",
    "https://example.com:8443/a%20b",
    "http://[::1]:99",
]


def escaped(text: str) -> str:
    return quote(text, safe="")


def a_request(chance: random.Random) -> UpstreamRequest:
    path = (
        f"/model/{quote(chance.choice(MODELS), safe='')}/{chance.choice(['converse', 'converse-stream', 'invoke', ''])}"
    )
    names, values = ["b", "a", "A", "Grüße", "x-y"], ["", "1", "a b", "/", "%é"]
    pairs = [f"{escaped(chance.choice(names))}={escaped(chance.choice(values))}" for _ in range(chance.randint(0, 4))]
    headers = [(b"Content-Type", b"application/json"), (b"accept-encoding", b"identity"), (b"User-Agent", b"us/1")]
    for name in (b"X-Amz-Target", b"accept", b"x-own"):
        value = chance.choice([b"a", b"  two   spaces ", b"\xe9t\xe9", b"", None])
        headers += [] if value is None else [(name, value)]
    chance.shuffle(headers)
    body = chance.randbytes(chance.randint(0, 200))
    url = chance.choice(HOSTS) + path + ("?" + "&".join(pairs) if pairs else "")
    return UpstreamRequest(chance.choice(["POST", "GET", "PUT"]), url, tuple(headers), body, stream=False)


def signed_by_botocore(
    request: UpstreamRequest, credential: Credential, region: str, service: str, now: float
) -> dict[str, str]:
    headers = {
        name.decode(): value.decode("latin-1") for name, value in request.headers if name.lower() != b"accept-encoding"
    }
    theirs = AWSRequest(request.method, request.url, headers, request.body)
    key = Credentials(credential.access_key_id, credential.secret_access_key, credential.session_token or None)
    moment = datetime.datetime.fromtimestamp(now, datetime.UTC)
    with patch("botocore.auth.get_current_datetime", lambda *_: moment):
        SigV4Auth(key, service, region).add_auth(theirs)
    return {name.lower(): value for name, value in theirs.headers.items()}


@pytest.mark.parametrize("seed", range(200))
def test_is_what_botocore_signs(seed: int) -> None:
    chance = random.Random(seed)
    request = a_request(chance)
    token = chance.choice(["", "IQoJb3JpZ2luX2VjE+/=="])
    credential = Credential("AKIDEXAMPLE", "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY", token)
    region, service = chance.choice([("us-east-1", "bedrock"), ("eu-west-1", "sts")])
    now = chance.uniform(1_000_000_000, 2_000_000_000)
    ours = {
        name.decode().lower(): value.decode("latin-1")
        for name, value in sign(request, credential, region=region, service=service, now=now).headers
    }
    theirs = signed_by_botocore(request, credential, region, service, now)
    for name in ("authorization", "x-amz-date", "x-amz-security-token"):
        assert ours.get(name) == theirs.get(name)


def test_signing_again_takes_the_place_of_the_first_time() -> None:
    request = UpstreamRequest("POST", "https://h.invalid/", ((b"accept", b"*/*"),), b"{}", stream=True, dropped=("x",))
    first = sign(request, Credential("A", "first", "token"), region="r", service="s", now=1e9)
    second = sign(first, Credential("B", "second"), region="r", service="s", now=1.1e9)
    assert second == sign(request, Credential("B", "second"), region="r", service="s", now=1.1e9)
    assert (second.body, second.stream, second.dropped, second.url) == (b"{}", True, ("x",), request.url)


def test_secrets_do_not_show_in_the_repr() -> None:
    assert "secret" not in repr(Credential("A", "the-secret", "the-secret-token"))
