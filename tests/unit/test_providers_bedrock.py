from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
from support.bedrock import ARN, asked, prepare, provider

from trio_ai_proxy.errors import ConfigError, InvalidRequest
from trio_ai_proxy.framing.event_stream import EventStreamFramer
from trio_ai_proxy.providers.table import KINDS
from trio_ai_proxy.settings import AuthSettings, Secret

if TYPE_CHECKING:
    from trio_ai_proxy.providers.bedrock import BedrockProvider


class TestPlace:
    def test_model_is_one_segment_of_the_path(self) -> None:
        base = "https://bedrock-runtime.us-east-1.amazonaws.com/model/"
        assert prepare().url == base + "anthropic.claude-3-7-sonnet-20250219-v1%3A0/converse"
        assert prepare(stream=True).url == base + "anthropic.claude-3-7-sonnet-20250219-v1%3A0/converse-stream"
        assert prepare(model=ARN).url == (
            base + "arn%3Aaws%3Abedrock%3Aus-east-1%3A123456789012%3Aapplication-inference-profile%2Fabc123/converse"
        )
        assert prepare(model="../../x?y#z").url == base + "..%2F..%2Fx%3Fy%23z/converse"

    @pytest.mark.parametrize("name", [".", "..", "..."])
    def test_model_of_dots_is_refused(self, name: str) -> None:
        with pytest.raises(InvalidRequest):
            prepare(model=name)

    @pytest.mark.parametrize(
        ("settings", "environment", "expected"),
        [
            ({"region": "eu-west-1"}, {"AWS_REGION": "x"}, "https://bedrock-runtime.eu-west-1.amazonaws.com"),
            ({"region": None}, {"AWS_REGION": "eu-a"}, "https://bedrock-runtime.eu-a.amazonaws.com"),
            ({"region": None}, {"AWS_DEFAULT_REGION": "eu-b"}, "https://bedrock-runtime.eu-b.amazonaws.com"),
            ({"region": "cn-north-1"}, {}, "https://bedrock-runtime.cn-north-1.amazonaws.com.cn"),
            ({"base_url": "http://127.0.0.1:9/x/"}, {}, "http://127.0.0.1:9/x"),
        ],
    )
    def test_is_where_settings_and_environment_say(
        self, settings: dict[str, Any], environment: dict[str, str], expected: str
    ) -> None:
        url = provider(environment, **settings).prepare(asked(), model="m", stream=False).url
        assert url == f"{expected}/model/m/converse"

    def test_region_is_read_from_the_address(self) -> None:
        made = provider(region=None, base_url="https://bedrock-runtime-fips.us-gov-west-1.amazonaws.com")
        assert made.authority is not None
        made.authority.step(0)
        signed = made.authority.sign(made.prepare(asked(), model="m", stream=False), 1e9)
        assert b"/us-gov-west-1/bedrock/" in dict(signed.headers)[b"authorization"]

    def test_nobody_says_a_region(self) -> None:
        with pytest.raises(ConfigError, match="needs a base_url"):
            provider(region=None)
        with pytest.raises(ConfigError, match="needs a region"):
            provider(region=None, base_url="http://127.0.0.1:1")

    def test_region_cannot_name_another_host(self) -> None:
        with pytest.raises(ConfigError, match="no AWS region"):
            provider(region="evil.example/")

    def test_what_is_accepted_is_what_comes(self) -> None:
        made = provider()
        assert dict(made.prepare(asked(), model="m", stream=True).headers)[b"accept"] == made.stream_types[0].encode()
        assert dict(made.prepare(asked(), model="m", stream=False).headers)[b"accept"] == b"application/json"
        assert isinstance(made.framer(made.stream_types[0]), EventStreamFramer)
        assert made.for_model("x") is made


class TestCredential:
    def head(self, made: BedrockProvider) -> str:
        request = made.prepare(asked(), model="m", stream=False)
        if made.authority is not None:
            assert made.authority.step(0) is None
            request = made.authority.sign(request, 1e9)
        return dict(request.headers).get(b"authorization", b"").decode()

    def test_keys_sign(self) -> None:
        assert self.head(provider()).startswith(
            "AWS4-HMAC-SHA256 Credential=AKIDEXAMPLE/20010909/us-east-1/bedrock/aws4_request, SignedHeaders=accept;"
        )

    @pytest.mark.parametrize(
        ("settings", "environment", "expected"),
        [
            ({"api_key": Secret("bk-1", "t")}, {}, "Bearer bk-1"),
            ({"api_key": Secret("bk-1", "t")}, {"AWS_BEARER_TOKEN_BEDROCK": "bk-2"}, "Bearer bk-1"),
            ({"access_key_id": None, "secret_access_key": None}, {"AWS_BEARER_TOKEN_BEDROCK": "bk-2"}, "Bearer bk-2"),
            ({"auth": AuthSettings(header_name="authorization", header_value=Secret("X y", "t"))}, {}, "X y"),
        ],
    )
    def test_bearer_token_is_presented_and_nothing_is_signed(
        self, settings: dict[str, Any], environment: dict[str, str], expected: str
    ) -> None:
        made = provider(environment, **settings)
        assert made.authority is None
        assert self.head(made) == expected

    def test_configured_keys_go_before_a_token_of_the_environment(self) -> None:
        assert self.head(provider({"AWS_BEARER_TOKEN_BEDROCK": "bk-2"})).startswith("AWS4")

    def test_field_of_auth_goes_into_the_body(self) -> None:
        auth = AuthSettings(param_name="key", param_value=Secret("v", "t"), param_location="body")
        made = provider(auth=auth)
        assert json.loads(made.prepare(asked(), model="m", stream=False).body)["key"] == "v"

    def test_no_credential_shows_in_errors(self) -> None:
        """AWS says the canonical request back where a signature is wrong, session token included."""
        made = provider(session_token=Secret("IQoJb3JpZ2lu", "t"))
        assert made.authority is not None
        made.authority.step(0)
        told = json.dumps(
            {"message": "should have been x-amz-security-token:IQoJb3JpZ2lu AKIDEXAMPLE wJalrXUtnFEMI"}
        ).encode()
        error = made.read_error(403, {"x-amzn-errortype": "InvalidSignatureException"}, told)
        assert error.message == "should have been x-amz-security-token:*** *** ***"
        assert (error.status, error.upstream_status) == (502, 403)

    def test_key_that_was_fetched_does_not_show_either(self) -> None:
        environment = {
            "AWS_ACCESS_KEY_ID": "AKENVIRON",
            "AWS_SECRET_ACCESS_KEY": "fetched-secret",
            "AWS_SESSION_TOKEN": "fetched-token",
        }
        made = provider(environment, access_key_id=None, secret_access_key=None)
        assert made.authority is not None
        made.authority.step(0)
        error = made.read_error(403, {}, b'{"message":"fetched-token and fetched-secret"}')
        assert error.message == "*** and ***"


class TestErrors:
    @pytest.mark.parametrize(
        ("headers", "told", "facts"),
        [
            ({"X-Amzn-ErrorType": "ThrottlingException:http://x/"}, b'{"message":"m"}', ("m", "ThrottlingException")),
            ({}, b'{"__type":"com.amazon.coral#ValidationException","Message":"m"}', ("m", "ValidationException")),
            ({}, b'{"message":"m","code":"AccessDenied"}', ("m", "AccessDenied")),
            ({}, b'{"originalMessage":"m"}', ("m", "upstream_error")),
            ({}, b"gone", ("gone", "upstream_error")),
            ({}, b"", ("The provider answered with status 429.", "upstream_error")),
            ({}, b"{}", ("The provider answered with status 429.", "upstream_error")),
            ({"content-type": "text/html"}, b"<html>", ("The provider answered with an HTML page.", "upstream_error")),
        ],
    )  # fmt: skip
    def test_keep_words_and_name(self, headers: dict[str, str], told: bytes, facts: tuple[str, str]) -> None:
        error = provider().read_error(429, {**headers, "retry-after": "7"}, told)
        assert (error.message, error.type) == facts
        assert (error.status, error.retry_after) == (429, 7.0)

    @pytest.mark.parametrize(("name", "is_kept"), [("ExpiredTokenException", False), ("ThrottlingException", True)])
    def test_key_that_has_expired_is_not_used_again(self, name: str, is_kept: bool) -> None:
        made = provider({"AWS_CONTAINER_CREDENTIALS_RELATIVE_URI": "/"}, access_key_id=None, secret_access_key=None)
        assert made.authority is not None
        made.authority.step(0)
        made.authority.accept(200, {}, b'{"AccessKeyId":"A","SecretAccessKey":"secret-of-a"}', 0)
        made.read_error(403, {"x-amzn-errortype": name}, b'{"message":"The security token is expired"}')
        assert (made.authority.step(0) is None) is is_kept


def test_row_of_the_table_is_complete() -> None:
    kind = KINDS["bedrock"]
    assert (kind.wire, kind.needs_key) == ("bedrock", False)
    assert {"AWS_CONFIG_FILE", "AWS_ENDPOINT_URL_STS"} <= set(kind.environment)
