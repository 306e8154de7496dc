from __future__ import annotations

import pytest
from support.aws import (
    CONTAINER,
    KEYS,
    NOW,
    REQUEST,
    ROLE,
    WEB,
    answer,
    asked,
    authority,
    form,
    head,
    json_answer,
    key_of,
    read_files,
    sts_answer,
)

from trio_ai_proxy.errors import UpstreamRefused
from trio_ai_proxy.providers.aws_credentials import AwsAuthority
from trio_ai_proxy.providers.base import FileStep
from trio_ai_proxy.settings import ProviderSettings, Secret


class TestOrder:
    def test_own_keys_come_first(self) -> None:
        everything = {**KEYS, **WEB, **CONTAINER, "HOME": "/h"}
        own = {"access_key_id": "AKOWN", "secret_access_key": Secret("s", "t"), "profile": "p"}
        assert key_of(authority(everything, **own)) == "AKOWN"

    def test_then_the_profile_of_the_block(self) -> None:
        subject = authority({**KEYS, "HOME": "/h"}, profile="team")
        read_files(subject, "[team]\naws_access_key_id = AKFILE\naws_secret_access_key = s\n")
        assert key_of(subject) == "AKFILE"

    def test_then_the_environment(self) -> None:
        subject = authority({**KEYS, **WEB, **CONTAINER, "HOME": "/h", "AWS_SESSION_TOKEN": "tok"})
        assert key_of(subject) == "AKENV"
        assert head(subject.sign(REQUEST, NOW), "x-amz-security-token") == "tok"

    def test_then_web_identity(self) -> None:
        subject = authority({**WEB, **CONTAINER, "HOME": "/h"})
        assert subject.step(NOW) == FileStep("/token")

    def test_then_the_shared_files(self) -> None:
        subject = authority({**CONTAINER, "HOME": "/h"})
        read_files(subject, "[default]\naws_access_key_id=AKDEFAULT\naws_secret_access_key=s")
        assert key_of(subject) == "AKDEFAULT"

    @pytest.mark.parametrize("config", [None, "[default]\nregion = eu-west-1\n", "[profile other]\nx = y\n"])
    def test_then_the_container(self, config: str | None) -> None:
        subject = authority({**CONTAINER, "HOME": "/h"})
        read_files(subject, None, config)
        assert asked(subject).url == "http://169.254.170.2/creds"

    def test_then_the_instance(self) -> None:
        subject = authority()
        assert asked(subject).url == "http://169.254.169.254/latest/api/token"

    def test_and_then_it_says_that_there_is_none(self) -> None:
        subject = authority({"AWS_EC2_METADATA_DISABLED": "TRUE"})
        with pytest.raises(UpstreamRefused, match="There is no AWS credential"):
            subject.step(NOW)

    def test_nothing_is_signed_without_one(self) -> None:
        with pytest.raises(UpstreamRefused, match="no AWS credential to sign with"):
            authority().sign(REQUEST, NOW)


class TestInstance:
    def test_token_role_and_key_are_asked_for_in_turn(self) -> None:
        subject = authority({"AWS_EC2_METADATA_SERVICE_ENDPOINT": "http://imds.invalid/"})
        first = asked(subject)
        assert (first.method, first.url) == ("PUT", "http://imds.invalid/latest/api/token")
        assert head(first, "x-aws-ec2-metadata-token-ttl-seconds") == "21600"
        answer(subject, b"imds-token\n")
        second = asked(subject)
        assert (second.method, second.url) == (
            "GET",
            "http://imds.invalid/latest/meta-data/iam/security-credentials/",
        )
        assert head(second, "x-aws-ec2-metadata-token") == "imds-token"
        answer(subject, b"the-role\n")
        assert asked(subject).url.endswith("/security-credentials/the-role")
        answer(subject, json_answer("ASIA1", Code="Success"))
        assert key_of(subject) == "ASIA1"

    @pytest.mark.parametrize(
        ("status", "body"),
        [(404, b"secret-words"), (200, b""), (200, b"../../secret-words"), (200, b"{"), (200, b"[]")],
    )
    def test_no_use_begins_at_the_beginning_and_says_nothing_of_the_answer(self, status: int, body: bytes) -> None:
        subject = authority()
        begin = asked(subject)
        answer(subject, b"token")
        with pytest.raises(UpstreamRefused) as caught:
            answer(subject, body, status=status)
        assert "secret-words" not in caught.value.message
        assert asked(subject) == begin

    @pytest.mark.parametrize(
        "body",
        [b"{}", b"[1]", b"", json_answer("K", Code="Failed"), b'{"AccessKeyId":1,"SecretAccessKey":null}',
         json_answer("K").replace(b"2027", b"soon"), json_answer("K\n")],
    )  # fmt: skip
    def test_answer_without_a_key_is_refused(self, body: bytes) -> None:
        subject = authority()
        for reply in (b"token", b"role"):
            asked(subject)
            answer(subject, reply)
        with pytest.raises(UpstreamRefused, match="No AWS key could be had from the instance's metadata"):
            answer(subject, body)


class TestContainer:
    def test_full_address_and_token_are_used(self) -> None:
        url = "http://127.0.0.1:9000/creds"
        subject = authority(
            {"AWS_CONTAINER_CREDENTIALS_FULL_URI": url, "AWS_CONTAINER_AUTHORIZATION_TOKEN": "Basic abc"}
        )
        assert (asked(subject).url, head(asked(subject), "authorization")) == (url, "Basic abc")
        answer(subject, json_answer("ASIA2"))
        assert key_of(subject) == "ASIA2"

    def test_token_file_is_read_each_time(self) -> None:
        subject = authority(
            {
                "AWS_CONTAINER_CREDENTIALS_FULL_URI": "http://169.254.170.23/v1/credentials",
                "AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE": "/var/run/token",
            }
        )
        for number in (1, 2):
            now = NOW + number * 10_000
            assert subject.step(now) == FileStep("/var/run/token")
            answer(subject, f"jwt-{number}\n".encode(), now=now)
            assert head(asked(subject, now), "authorization") == f"jwt-{number}"
            answer(subject, json_answer(f"ASIA{number}", expires=now + 3600), now=now)
            assert key_of(subject, now) == f"ASIA{number}"

    @pytest.mark.parametrize("url", ["http://evil.example/", "http://169.254.170.2.evil.example/", "ftp://127.0.0.1/"])
    def test_token_is_not_carried_to_anyone(self, url: str) -> None:
        subject = authority({"AWS_CONTAINER_CREDENTIALS_FULL_URI": url, "AWS_CONTAINER_AUTHORIZATION_TOKEN": "t"})
        with pytest.raises(UpstreamRefused, match="must be https"):
            subject.step(NOW)

    def test_token_of_two_lines_is_refused(self) -> None:
        environment = {"AWS_CONTAINER_CREDENTIALS_RELATIVE_URI": "/", "AWS_CONTAINER_AUTHORIZATION_TOKEN": "a\r\nb"}
        with pytest.raises(UpstreamRefused, match="one line"):
            authority(environment).step(NOW)


class TestSts:
    def test_role_of_the_block_is_assumed_with_what_was_found(self) -> None:
        subject = authority(KEYS, role_arn=ROLE)
        request = asked(subject)
        assert request.url == "https://sts.us-east-1.amazonaws.com/"
        assert form(request) == {
            "Action": "AssumeRole", "Version": "2011-06-15", "RoleArn": ROLE, "RoleSessionName": "trio-ai-proxy",
        }  # fmt: skip
        assert "Credential=AKENV/20270115/us-east-1/sts/aws4_request" in head(request, "authorization")
        answer(subject, sts_answer("ASIAROLE"))
        assert key_of(subject) == "ASIAROLE"
        assert head(subject.sign(REQUEST, NOW), "x-amz-security-token") == "token-ASIAROLE=="

    def test_step_that_is_asked_again_later_is_signed_anew(self) -> None:
        subject = authority(KEYS, role_arn=ROLE)
        assert head(asked(subject, NOW), "x-amz-date") != head(asked(subject, NOW + 600), "x-amz-date")

    def test_web_identity_is_not_signed_and_its_file_is_read_each_time(self) -> None:
        subject = authority({**WEB, "AWS_ROLE_SESSION_NAME": "my session", "AWS_ENDPOINT_URL_STS": "http://sts/"})
        for number in (1, 2):
            now = NOW + 10_000 * number
            assert subject.step(now) == FileStep("/token")
            answer(subject, f"jwt{number}\n".encode(), now=now)
            request = asked(subject, now)
            assert request.url == "http://sts/"
            assert head(request, "authorization") == ""
            assert form(request) == {
                "Action": "AssumeRoleWithWebIdentity", "Version": "2011-06-15", "RoleArn": ROLE,
                "RoleSessionName": "my-session", "WebIdentityToken": f"jwt{number}",
            }  # fmt: skip
            answer(subject, sts_answer(f"ASIA{number}", expires=now + 3600), now=now)
            assert key_of(subject, now) == f"ASIA{number}"

    def test_empty_token_file_is_refused(self) -> None:
        subject = authority(WEB)
        subject.step(NOW)
        with pytest.raises(UpstreamRefused, match="empty"):
            answer(subject, b" \n")

    def test_refusal_names_the_code_alone(self) -> None:
        subject = authority(KEYS, role_arn=ROLE)
        asked(subject)
        body = b"<ErrorResponse><Error><Code>AccessDenied</Code><Message>User AKENV may not</Message></Error></ErrorResponse>"
        with pytest.raises(UpstreamRefused) as caught:
            answer(subject, body, status=403)
        assert caught.value.message == "AWS STS refused AssumeRole with status 403 (AccessDenied)."

    @pytest.mark.parametrize("body", [b"", b"<AccessKeyId>only</AccessKeyId>", b"\xff"])
    def test_answer_without_a_key_is_refused(self, body: bytes) -> None:
        subject = authority(KEYS, role_arn=ROLE)
        asked(subject)
        with pytest.raises(UpstreamRefused, match="without a key"):
            answer(subject, body)

    def test_china_has_its_own_service(self) -> None:
        settings = ProviderSettings(name="aws", kind="bedrock", environment=KEYS, role_arn=ROLE)
        subject = AwsAuthority(settings, region="cn-north-1", service="bedrock")
        assert asked(subject).url == "https://sts.cn-north-1.amazonaws.com.cn/"


class TestLife:
    def fetched(self, lifetime: float) -> AwsAuthority:
        subject = authority(CONTAINER)
        asked(subject)
        answer(subject, json_answer("ASIA1", expires=NOW + lifetime))
        return subject

    def test_is_fetched_anew_five_minutes_before_its_end(self) -> None:
        subject = self.fetched(3600)
        assert subject.step(NOW + 3299) is None
        assert asked(subject, NOW + 3301).url == "http://169.254.170.2/creds"

    def test_short_one_is_used_for_half_its_life(self) -> None:
        subject = self.fetched(60)
        assert subject.step(NOW + 29) is None
        assert subject.step(NOW + 31) is not None

    def test_expired_one_is_used_for_a_minute(self) -> None:
        subject = self.fetched(-10)
        assert subject.step(NOW + 59) is None
        assert subject.step(NOW + 61) is not None

    @pytest.mark.parametrize("status", [0, 500])
    def test_one_that_cannot_be_replaced_yet_is_used_on(self, status: int) -> None:
        subject = self.fetched(3600)
        asked(subject, NOW + 3400)
        answer(subject, b"", status=status, now=NOW + 3400)
        assert key_of(subject, NOW + 3429) == "ASIA1"
        asked(subject, NOW + 3431)
        with pytest.raises(UpstreamRefused):
            answer(subject, b"", status=status, now=NOW + 3601)

    def test_one_without_an_end_is_never_fetched_again(self) -> None:
        assert key_of(authority(KEYS), NOW + 1e9) == "AKENV"

    def test_rejected_one_is_not_used_again(self) -> None:
        subject = self.fetched(3600)
        subject.reject()
        assert subject.step(NOW) is not None

    def test_step_does_not_change_until_it_is_answered(self) -> None:
        subject = authority(CONTAINER)
        assert asked(subject) == asked(subject)

    def test_answer_to_nothing_is_nothing(self) -> None:
        subject = self.fetched(3600)
        answer(subject, b"{}")
        assert key_of(subject) == "ASIA1"

    def test_keys_do_not_show_in_errors(self) -> None:
        subject = self.fetched(-10)
        asked(subject, NOW + 100)
        answer(subject, json_answer("ASIA2"), now=NOW + 100)
        said = subject.scrub("secret/ASIA1 token-ASIA1 secret/ASIA2 token-ASIA2 ASIA1xxx")
        assert said == "*** *** *** *** ASIA1xxx"
