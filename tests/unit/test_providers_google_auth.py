from __future__ import annotations

import json
import sys
from base64 import urlsafe_b64decode
from typing import Any
from urllib.parse import parse_qs

import pytest
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1
from cryptography.hazmat.primitives.asymmetric.ec import generate_private_key as generate_curve
from cryptography.hazmat.primitives.asymmetric.padding import PKCS1v15
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from support.google_key import pem, private_key, service_account

from trio_ai_proxy.errors import ConfigError, UpstreamRefused
from trio_ai_proxy.providers.base import UpstreamRequest
from trio_ai_proxy.providers.google_auth import MachineAccount, ServiceAccount
from trio_ai_proxy.settings import Secret

TOKENS = "https://oauth2.googleapis.com/token"
NOW = 1_700_000_000.5
OUT = UpstreamRequest("POST", "https://h/", ((b"accept", b"x"), (b"authorization", b"old")), b"", stream=False)


def token(value: str = "ya29.first", expires_in: Any = 3599) -> bytes:
    return json.dumps({"access_token": value, "expires_in": expires_in, "token_type": "Bearer"}).encode()


def decoded(part: str) -> Any:
    return json.loads(urlsafe_b64decode(part + "=" * (-len(part) % 4)))


class TestServiceAccount:
    def test_asks_with_a_statement_that_its_key_has_signed(self) -> None:
        step = ServiceAccount("v", service_account(TOKENS)).step(NOW)
        assert step is not None
        assert (step.method, step.url, step.stream) == ("POST", TOKENS, False)
        assert dict(step.headers)[b"content-type"] == b"application/x-www-form-urlencoded"
        form = parse_qs(step.body.decode(), strict_parsing=True)
        assert form["grant_type"] == ["urn:ietf:params:oauth:grant-type:jwt-bearer"]
        head, claims, signature = form["assertion"][0].split(".")
        assert decoded(head) == {"alg": "RS256", "typ": "JWT", "kid": "k1"}
        assert decoded(claims) == {
            "iss": "robot@key-project.iam.gserviceaccount.com",
            "scope": "https://www.googleapis.com/auth/cloud-platform",
            "aud": TOKENS,
            "iat": 1_700_000_000,
            "exp": 1_700_003_600,
        }
        signed = urlsafe_b64decode(signature + "=" * (-len(signature) % 4))
        private_key().public_key().verify(signed, f"{head}.{claims}".encode(), PKCS1v15(), SHA256())

    def test_token_is_good_until_a_minute_before_its_end(self) -> None:
        account = ServiceAccount("v", service_account(TOKENS))
        account.accept(200, {}, token(), NOW)
        assert account.step(NOW + 3538) is None
        assert account.step(NOW + 3539) is not None

    def test_token_that_hardly_lives_is_used_for_half_its_life(self) -> None:
        account = ServiceAccount("v", service_account(TOKENS))
        account.accept(200, {}, token(expires_in=40), NOW)
        assert account.step(NOW + 19) is None
        assert account.step(NOW + 20) is not None

    def test_signs_with_the_token_in_place_of_whatever_was_there(self) -> None:
        account = ServiceAccount("v", service_account(TOKENS))
        account.accept(200, {}, token(), NOW)
        assert account.sign(OUT, NOW).headers == ((b"accept", b"x"), (b"authorization", b"Bearer ya29.first"))

    def test_rejected_token_is_not_used_again_and_not_shown_either(self) -> None:
        account = ServiceAccount("v", service_account(TOKENS))
        account.accept(200, {}, token("ya29.first"), NOW)
        account.sign(OUT, NOW + 100)
        account.reject()
        assert account.step(NOW + 100) is not None
        account.accept(200, {}, token("ya29.second"), NOW + 100)
        assert account.step(NOW + 100) is None
        assert account.scrub("ya29.first and ya29.second") == "*** and ***"

    def test_token_that_has_only_just_come_is_not_asked_for_again(self) -> None:
        account = ServiceAccount("v", service_account(TOKENS))
        account.accept(200, {}, token(), NOW)
        account.sign(OUT, NOW + 1)
        account.reject()
        assert account.step(NOW + 1) is None

    @pytest.mark.parametrize(("status", "body"), [(503, b""), (0, b""), (200, b"{}")])
    def test_good_token_goes_on_while_no_other_is_to_be_had(self, status: int, body: bytes) -> None:
        account = ServiceAccount("v", service_account(TOKENS))
        account.accept(200, {}, token(expires_in=300), NOW)
        assert account.step(NOW + 240) is not None
        account.accept(status, {}, body, NOW + 240)
        assert account.step(NOW + 249) is None
        assert account.step(NOW + 250) is not None
        with pytest.raises(UpstreamRefused):
            account.accept(status, {}, body, NOW + 295)

    @pytest.mark.parametrize(
        ("status", "body", "words"),
        [
            (400, b'{"error":"invalid_grant","error_description":"Invalid JWT Signature."}',
             "(status 400): invalid_grant: Invalid JWT Signature."),
            (503, b"<html>", "(status 503)."),
            (200, b"", "(status 200)."),
            (200, b'{"access_token":""}', "(status 200)."),
            (200, b'{"access_token":"a\\nb","expires_in":9}', "(status 200)."),
            (200, b'{"access_token":"abcdef"}', "(status 200)."),
            (200, b'{"access_token":"abcdef","expires_in":-1}', "(status 200)."),
            (200, b'{"id_token":"abcdef","expires_in":"soon"}', "(status 200)."),
        ],
    )  # fmt: skip
    def test_answer_that_is_no_token_is_refused_in_clear_words(self, status: int, body: bytes, words: str) -> None:
        account = ServiceAccount("v", service_account(TOKENS))
        with pytest.raises(UpstreamRefused) as caught:
            account.accept(status, {}, body, NOW)
        assert caught.value.message == f"Google gave no access token for provider 'v' {words}"
        assert caught.value.status == 502
        assert account.step(NOW) is not None

    def test_statement_that_is_said_back_is_not_shown(self) -> None:
        account = ServiceAccount("v", service_account(TOKENS))
        step = account.step(NOW)
        assert step is not None
        assertion = parse_qs(step.body.decode())["assertion"][0]
        with pytest.raises(UpstreamRefused) as caught:
            account.accept(400, {}, json.dumps({"error": "bad", "error_description": f"got {assertion}"}).encode(), NOW)
        assert caught.value.message.endswith("bad: got ***")

    @pytest.mark.parametrize(
        ("changes", "what"),
        [
            ({"type": "authorized_user"}, "not the JSON key of a service account"),
            ({"client_email": None}, "not the JSON key of a service account"),
            ({"private_key": None}, "not the JSON key of a service account"),
            ({"private_key": "-----BEGIN PRIVATE KEY-----\nhush\n-----END PRIVATE KEY-----"}, "no RSA key"),
            ({"private_key": "\ud800"}, "no"),
            ({"token_uri": "ftp://h"}, "token_uri"),
        ],
    )
    def test_key_that_is_none_is_refused_at_the_start_without_a_word_of_it(
        self, changes: dict[str, Any], what: str
    ) -> None:
        with pytest.raises(ConfigError, match=what) as caught:
            ServiceAccount("v", service_account(TOKENS, **changes))
        assert "hush" not in str(caught.value)
        assert caught.value.__cause__ is None

    def test_key_of_another_kind_is_refused(self) -> None:
        other = generate_curve(SECP256R1()).private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()
        with pytest.raises(ConfigError, match="no RSA key"):
            ServiceAccount("v", service_account(TOKENS, private_key=other))

    @pytest.mark.parametrize("text", ["", "{", "[]", "/etc/key.json"])
    def test_text_that_is_no_key_is_refused(self, text: str) -> None:
        with pytest.raises(ConfigError, match="not the JSON key"):
            ServiceAccount("v", Secret(text, "a test"))

    def test_missing_package_is_named(self, monkeypatch: pytest.MonkeyPatch) -> None:
        secret = service_account(TOKENS)
        monkeypatch.setitem(sys.modules, "cryptography.hazmat.primitives.serialization", None)
        with pytest.raises(ConfigError, match=r"trio-ai-proxy\[vertex\]"):
            ServiceAccount("v", secret)

    def test_shows_nothing_of_itself(self) -> None:
        assert pem().split("\n")[1] not in repr(vars(ServiceAccount("v", service_account(TOKENS))))


class TestMachineAccount:
    def test_asks_the_metadata_server_in_its_manner(self) -> None:
        step = MachineAccount("v").step(NOW)
        assert step is not None
        assert (step.method, step.body) == ("GET", b"")
        assert step.url == (
            "http://metadata.google.internal/computeMetadata/v1/instance/service-accounts/default/token"
            "?scopes=https%3A%2F%2Fwww.googleapis.com%2Fauth%2Fcloud-platform"
        )
        assert dict(step.headers)[b"metadata-flavor"] == b"Google"

    @pytest.mark.parametrize("host", ["169.254.169.254", "localhost:8080", "[fd00::1]:80"])
    def test_host_can_be_another(self, host: str) -> None:
        step = MachineAccount("v", host).step(NOW)
        assert step is not None
        assert step.url.startswith(f"http://{host}/computeMetadata/")

    @pytest.mark.parametrize("host", ["", "a/b", "http://h", "a b", "h:x"])
    def test_host_that_is_none_is_refused(self, host: str) -> None:
        with pytest.raises(ConfigError, match="GCE_METADATA_HOST"):
            MachineAccount("v", host)
