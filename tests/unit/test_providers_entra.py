"""Tokens of Microsoft Entra ID, on a clock that the test holds."""

from __future__ import annotations

import json
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest

from trio_ai_proxy.errors import ConfigError, UpstreamError, UpstreamRefused
from trio_ai_proxy.providers.base import FileStep, UpstreamRequest
from trio_ai_proxy.providers.entra import EntraAuthority, build_authority
from trio_ai_proxy.settings import EntraSettings, ProviderSettings, Secret

SECRET = Secret("s3cr3t~&=value", "a test")
TENANT = "11111111-2222-3333-4444-555555555555"
PLAIN = UpstreamRequest("POST", "https://x/", ((b"accept", b"*/*"),), b"", stream=False)
NOW = 1_800_000_000.0


def authority(environ: dict[str, str] | None = None, **keys: Any) -> EntraAuthority:
    if not keys:
        keys = {"entra": EntraSettings(TENANT, "app", SECRET)}
    made = build_authority(ProviderSettings(name="az", kind="azure", environment=environ or {}, **keys))
    assert made is not None
    return made


def request(made: EntraAuthority, now: float = NOW) -> UpstreamRequest:
    step = made.step(now)
    assert isinstance(step, UpstreamRequest)
    return step


def form(step: UpstreamRequest) -> dict[str, str]:
    return {name: value for name, [value] in parse_qs(step.body.decode(), strict_parsing=True).items()}


def token(word: str = "tok-aaaaaaaa", **facts: Any) -> bytes:
    return json.dumps({"token_type": "Bearer", "access_token": word, **(facts or {"expires_in": 3600})}).encode()


def bearer(made: EntraAuthority, now: float = NOW) -> bytes:
    return dict(made.sign(PLAIN, now).headers)[b"authorization"]


def test_an_account_with_a_key_has_none() -> None:
    assert build_authority(ProviderSettings(name="az", kind="azure", environment={"AZURE_AUTHORITY_HOST": "?"})) is None


class TestWhatIsAsked:
    def test_with_a_secret(self) -> None:
        step = request(authority())
        assert (step.method, step.url) == ("POST", f"https://login.microsoftonline.com/{TENANT}/oauth2/v2.0/token")
        assert form(step) == {
            "grant_type": "client_credentials",
            "client_id": "app",
            "client_secret": SECRET.reveal(),
            "scope": "https://cognitiveservices.azure.com/.default",
        }
        assert dict(step.headers)[b"content-type"] == b"application/x-www-form-urlencoded"

    def test_for_another_scope(self) -> None:
        entra = EntraSettings(TENANT, "app", SECRET, "https://ai.azure.com/.default")
        assert form(request(authority(entra=entra)))["scope"] == "https://ai.azure.com/.default"

    @pytest.mark.parametrize(
        ("host", "url", "scope"),
        [
            ("login.microsoftonline.us", "https://login.microsoftonline.us", "https://cognitiveservices.azure.us"),
            ("https://login.chinacloudapi.cn/", "https://login.chinacloudapi.cn", "https://cognitiveservices.azure.cn"),
            ("https://login.example:8443/x/", "https://login.example:8443/x", "https://cognitiveservices.azure.com"),
        ],
    )
    def test_in_another_cloud(self, host: str, url: str, scope: str) -> None:
        step = request(authority({"AZURE_AUTHORITY_HOST": host}))
        assert step.url == f"{url}/{TENANT}/oauth2/v2.0/token"
        assert form(step)["scope"] == f"{scope}/.default"

    def test_with_a_federated_token_that_is_read_each_time(self) -> None:
        made = authority({"AZURE_FEDERATED_TOKEN_FILE": "/var/token"}, entra=EntraSettings(TENANT, "app"))
        for number, now in enumerate((NOW, NOW + 3600)):
            assert made.step(now) == FileStep("/var/token", optional=True)
            made.accept(200, {}, b" assertion-%d\n" % number, now)
            asked = form(request(made, now))
            assert asked["client_assertion"] == f"assertion-{number}"
            assert asked["client_assertion_type"] == "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"
            assert "client_secret" not in asked
            made.accept(200, {}, token(), now)
            assert made.step(now) is None

    def test_of_a_machine(self) -> None:
        step = request(authority(managed_identity=True))
        address, _, query = step.url.partition("?")
        assert (step.method, address) == ("GET", "http://169.254.169.254/metadata/identity/oauth2/token")
        assert parse_qs(query) == {"api-version": ["2018-02-01"], "resource": ["https://cognitiveservices.azure.com"]}
        assert dict(step.headers)[b"metadata"] == b"true"

    def test_of_a_machine_with_several_identities(self) -> None:
        step = request(authority({"AZURE_CLIENT_ID": "user assigned"}, managed_identity=True))
        assert parse_qs(urlsplit(step.url).query)["client_id"] == ["user assigned"]

    def test_of_an_app_service(self) -> None:
        environ = {"IDENTITY_ENDPOINT": "http://127.0.0.1:41/msi/token", "IDENTITY_HEADER": "0123-header"}
        step = request(authority(environ, managed_identity=True))
        address, _, query = step.url.partition("?")
        assert address == "http://127.0.0.1:41/msi/token"
        assert parse_qs(query) == {"api-version": ["2019-08-01"], "resource": ["https://cognitiveservices.azure.com"]}
        assert dict(step.headers)[b"x-identity-header"] == b"0123-header"

    def test_of_a_pod_is_its_own_identity_and_not_the_nodes(self) -> None:
        environ = {"AZURE_TENANT_ID": TENANT, "AZURE_CLIENT_ID": "pod", "AZURE_FEDERATED_TOKEN_FILE": "/var/token"}
        made = authority(environ, managed_identity=True)
        assert made.step(NOW) == FileStep("/var/token", optional=True)
        made.accept(200, {}, b"assertion", NOW)
        assert form(request(made))["client_id"] == "pod"


@pytest.mark.parametrize(
    ("environ", "keys", "problem"),
    [
        ({}, {"entra": EntraSettings(TENANT, "app")}, "AZURE_FEDERATED_TOKEN_FILE"),
        ({}, {"entra": EntraSettings("a/b", "app", SECRET)}, "tenant_id"),
        ({"AZURE_AUTHORITY_HOST": "http://login.example"}, {}, "must be an https address"),
        ({"AZURE_AUTHORITY_HOST": "ftp://login.example"}, {}, "AZURE_AUTHORITY_HOST"),
        ({"AZURE_AUTHORITY_HOST": "https://[::1"}, {}, "AZURE_AUTHORITY_HOST"),
        ({"AZURE_AUTHORITY_HOST": "https://a@b"}, {}, "AZURE_AUTHORITY_HOST"),
        ({"IDENTITY_ENDPOINT": "http://127.0.0.1:40342/x"}, {"managed_identity": True}, "Azure Arc"),
        ({"IDENTITY_ENDPOINT": "x", "IDENTITY_HEADER": "y"}, {"managed_identity": True}, "identity service"),
        ({"IDENTITY_ENDPOINT": "http://h", "IDENTITY_HEADER": "y\r\nz"}, {"managed_identity": True}, "IDENTITY_HEADER"),
    ],
)
def test_what_cannot_work_is_a_fault_of_the_configuration(
    environ: dict[str, str], keys: dict[str, Any], problem: str
) -> None:
    with pytest.raises(ConfigError, match=problem) as caught:
        authority(environ, **keys)
    assert SECRET.reveal() not in str(caught.value)


class TestLife:
    def test_token_is_asked_for_again_a_minute_before_its_end(self) -> None:
        made = authority()
        made.accept(200, {}, token(), NOW)
        assert bearer(made) == b"Bearer tok-aaaaaaaa"
        assert made.step(NOW + 3539.9) is None
        assert made.step(NOW + 3540) is not None

    @pytest.mark.parametrize(
        "facts",
        [
            {"expires_in": "600"},
            {"expires_in": 600.0},
            {"expires_on": str(int(NOW + 600))},
            {"expires_on": NOW + 600},
            {"expires_in": "soon", "expires_on": NOW + 600},
        ],
    )
    def test_end_is_told_in_several_ways(self, facts: dict[str, Any]) -> None:
        made = authority()
        made.accept(200, {}, token(**facts), NOW)
        assert made.step(NOW + 539) is None
        assert made.step(NOW + 541) is not None

    def test_token_with_little_life_left_is_used_for_half_of_it(self) -> None:
        made = authority()
        made.accept(200, {}, token(expires_in=40), NOW)
        assert made.step(NOW + 19) is None
        assert made.step(NOW + 21) is not None

    @pytest.mark.parametrize("status", [0, 400, 429, 500, 503])
    def test_good_token_outlives_a_failure_to_replace_it(self, status: int) -> None:
        made = authority()
        made.accept(200, {}, token(), NOW)
        made.accept(status, {}, b"", NOW + 3541)
        assert made.step(NOW + 3542) is None  # put off
        assert bearer(made, NOW + 3542) == b"Bearer tok-aaaaaaaa"
        assert made.step(NOW + 3552) is not None
        made.accept(status, {}, b"", NOW + 3590)
        assert made.step(NOW + 3594) is None
        assert made.step(NOW + 3596) is not None
        with pytest.raises(UpstreamRefused):
            made.accept(status, {}, b"", NOW + 3596)

    def test_unreadable_file_is_no_matter_while_the_token_is_good(self) -> None:
        made = authority({"AZURE_FEDERATED_TOKEN_FILE": "/var/token"}, entra=EntraSettings(TENANT, "app"))
        made.accept(200, {}, b"assertion", NOW)
        made.accept(200, {}, token(), NOW)
        assert made.step(NOW + 3541) == FileStep("/var/token", optional=True)
        made.accept(404, {}, b"", NOW + 3541)
        assert made.step(NOW + 3542) is None

    def test_refused_token_is_not_used_again(self) -> None:
        made = authority()
        made.accept(200, {}, token(), NOW)
        made.sign(PLAIN, NOW + 100)
        made.reject()
        assert made.step(NOW + 100) is not None
        with pytest.raises(UpstreamRefused):
            made.sign(PLAIN, NOW + 100)

    def test_fresh_token_is_kept_for_it_was_refused_for_what_it_may_do(self) -> None:
        made = authority()
        made.accept(200, {}, token(), NOW)
        made.sign(PLAIN, NOW + 1)
        made.reject()
        assert made.step(NOW + 1) is None

    def test_other_headers_stay(self) -> None:
        made = authority()
        made.accept(200, {}, token(), NOW)
        signed = made.sign(PLAIN, NOW)
        assert signed.headers[:1] == PLAIN.headers
        assert (signed.url, signed.body) == (PLAIN.url, PLAIN.body)


class TestRefusals:
    def test_say_the_code_and_no_name(self) -> None:
        words = {
            "error": "invalid_client",
            "error_description": f"AADSTS7000215: Invalid client secret '{SECRET.reveal()}' for app 'app-of-ours'.\r\nTrace",
        }
        with pytest.raises(UpstreamRefused) as caught:
            authority().accept(401, {}, json.dumps(words).encode(), NOW)
        error = caught.value
        assert error.status == 502
        assert error.message == (
            "Microsoft Entra ID gave no token for provider 'az' (status 401: invalid_client, AADSTS7000215)."
        )

    def test_of_a_machine_keep_its_words(self) -> None:
        made = authority(managed_identity=True)
        body = b'{"error":"invalid_request","error_description":"Identity not found"}'
        with pytest.raises(UpstreamRefused, match=r"status 400: invalid_request, Identity not found"):
            made.accept(400, {}, body, NOW)

    @pytest.mark.parametrize(
        "body",
        [
            b"", b"[]", b"<html>", b"{}", token(""), token("a b"), token("a\r\nb: c"), token("\u00e9"),
            b'{"access_token":1,"expires_in":3600}', b'{"access_token":"abc"}', token(expires_in=-1), token(expires_in=0),
            token(expires_in=True), token(expires_in=None), token(expires_on="1"), token(expires_in="NaN"),
            token(expires_in=[1]), token("x" * 70_000), b'{"access_token":"abc","expires_in":1e999}', b"\xff" * 9,
        ],
    )  # fmt: skip
    def test_of_what_is_no_token(self, body: bytes) -> None:
        made = authority()
        with pytest.raises(UpstreamError):
            made.accept(200, {}, body, NOW)
        assert made.step(NOW) is not None

    @pytest.mark.parametrize("body", [b"", b" \n", b"a b", b"\xff", b"x" * 70_000])
    def test_of_a_file_that_holds_no_token(self, body: bytes) -> None:
        made = authority({"AZURE_FEDERATED_TOKEN_FILE": "/var/token"}, entra=EntraSettings(TENANT, "app"))
        assert made.step(NOW) == FileStep("/var/token", optional=True)
        with pytest.raises(UpstreamRefused, match="holds no token"):
            made.accept(200, {}, body, NOW)
        assert made.step(NOW) == FileStep("/var/token", optional=True)

    def test_do_not_repeat_a_token(self) -> None:
        made = authority({"AZURE_FEDERATED_TOKEN_FILE": "/var/token"}, entra=EntraSettings(TENANT, "app"))
        made.accept(200, {}, b"assertion-secret", NOW)
        assert made.scrub("x assertion-secret y") == "x *** y"
        body = b'{"error":"bad assertion-secret"}'
        with pytest.raises(UpstreamRefused) as caught:
            made.accept(400, {}, body, NOW)
        assert "assertion-secret" not in caught.value.message

    def test_old_and_new_token_are_taken_out_of_a_text(self) -> None:
        made = authority()
        made.accept(200, {}, token("tok-11111111"), NOW)
        made.accept(200, {}, token("tok-22222222"), NOW + 3541)
        assert made.scrub("tok-11111111 tok-22222222") == "*** ***"
