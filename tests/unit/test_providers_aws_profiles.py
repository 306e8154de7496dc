from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from support.aws import (
    CONTAINER,
    KEYS,
    NOW,
    REQUEST,
    ROLE,
    answer,
    asked,
    authority,
    form,
    head,
    key_of,
    read_files,
    sts_answer,
)

from trio_ai_proxy.errors import UpstreamRefused
from trio_ai_proxy.providers.base import FileStep

if TYPE_CHECKING:
    from trio_ai_proxy.providers.aws_credentials import AwsAuthority

CIRCLE = f"[profile p]\nrole_arn = {ROLE}\nsource_profile = q\n[profile q]\nrole_arn = {ROLE}\nsource_profile = p\n"


class TestFiles:
    CREDENTIALS = """
# a comment
[default]
aws_access_key_id = AKDEFAULT
aws_secret_access_key = abc=def
s3 =
  max_concurrent_requests = 20
[base]
aws_access_key_id=AKBASE
aws_secret_access_key=s
aws_session_token=tok
"""

    def played(self, name: str, config: str, **environment: str) -> AwsAuthority:
        subject = authority({"HOME": "/h", **environment}, profile=name)
        read_files(subject, self.CREDENTIALS, config)
        return subject

    def test_token_of_a_profile_is_used(self) -> None:
        subject = self.played("base", "")
        assert (key_of(subject), head(subject.sign(REQUEST, NOW), "x-amz-security-token")) == ("AKBASE", "tok")

    def test_profile_of_the_config_file_is_found(self) -> None:
        subject = self.played("own", "[profile own]\naws_access_key_id = AKOWN\naws_secret_access_key = s\n")
        assert key_of(subject) == "AKOWN"

    def test_credentials_file_goes_before_the_config_file(self) -> None:
        subject = self.played("base", "[profile base]\naws_access_key_id = AKCONFIG\n")
        assert key_of(subject) == "AKBASE"

    def test_role_is_assumed_with_the_source_profile(self) -> None:
        config = (
            f"[profile r]\nrole_arn = {ROLE}\nsource_profile = base\nexternal_id = x1\n"
            "role_session_name = me\nduration_seconds = 900\n"
        )
        subject = self.played("r", config)
        request = asked(subject)
        assert "Credential=AKBASE/" in head(request, "authorization")
        assert form(request) == {
            "Action": "AssumeRole", "Version": "2011-06-15", "RoleArn": ROLE, "RoleSessionName": "me",
            "ExternalId": "x1", "DurationSeconds": "900",
        }  # fmt: skip
        answer(subject, sts_answer("ASIAR"))
        assert key_of(subject) == "ASIAR"

    def test_role_may_name_its_own_profile_as_the_source(self) -> None:
        config = f"[profile base]\nrole_arn = {ROLE}\nsource_profile = base\n"
        assert "Credential=AKBASE/" in head(asked(self.played("base", config)), "authorization")

    def test_role_of_a_role_is_assumed_in_turn(self) -> None:
        config = (
            f"[profile a]\nrole_arn = {ROLE}-a\nsource_profile = b\n"
            f"[profile b]\nrole_arn = {ROLE}-b\nsource_profile = base\n"
        )
        subject = self.played("a", config)
        assert form(asked(subject))["RoleArn"] == f"{ROLE}-b"
        answer(subject, sts_answer("ASIAB"))
        assert form(asked(subject))["RoleArn"] == f"{ROLE}-a"
        assert "Credential=ASIAB/" in head(asked(subject), "authorization")

    def test_role_of_a_profile_and_of_the_block_are_both_assumed(self) -> None:
        config = f"[profile r]\nrole_arn = {ROLE}-first\nsource_profile = base\n"
        subject = authority({"HOME": "/h"}, profile="r", role_arn=f"{ROLE}-second")
        read_files(subject, self.CREDENTIALS, config)
        assert form(asked(subject))["RoleArn"] == f"{ROLE}-first"
        answer(subject, sts_answer("ASIA1"))
        assert form(asked(subject))["RoleArn"] == f"{ROLE}-second"

    def test_web_identity_of_a_profile_is_used(self) -> None:
        subject = self.played("w", f"[profile w]\nrole_arn = {ROLE}\nweb_identity_token_file = /jwt\n")
        assert subject.step(NOW) == FileStep("/jwt")

    @pytest.mark.parametrize(
        ("source", "environment", "expected"),
        [
            ("Environment", KEYS, "https://sts.us-east-1.amazonaws.com/"),
            ("Ec2InstanceMetadata", {}, "http://169.254.169.254/latest/api/token"),
            ("EcsContainer", CONTAINER, "http://169.254.170.2/creds"),
        ],
    )
    def test_source_that_is_no_profile_is_used(self, source: str, environment: dict[str, str], expected: str) -> None:
        config = f"[profile r]\nrole_arn = {ROLE}\ncredential_source = {source}\n"
        assert asked(self.played("r", config, **environment)).url == expected

    @pytest.mark.parametrize(
        ("name", "config", "words"),
        [
            ("none", "", "no AWS profile 'none'"),
            ("p", "[profile p]\nregion = x\n", "it holds no key"),
            ("p", "[profile p]\ncredential_process = /bin/x\n", "runs no programs"),
            ("p", "[profile p]\nsso_session = x\n", "IAM Identity Center"),
            ("p", "[profile p]\nsso_start_url = x\n", "IAM Identity Center"),
            ("p", "[profile p]\nlogin_session = x\n", "browser"),
            ("p", f"[profile p]\nrole_arn = {ROLE}\nsource_profile = base\nmfa_serial = x\n", "asks a person"),
            ("p", f"[profile p]\nrole_arn = {ROLE}\n", "with which key"),
            ("p", f"[profile p]\nrole_arn = {ROLE}\ncredential_source = EcsContainer\n", "with which key"),
            ("p", f"[profile p]\nrole_arn = {ROLE}\ncredential_source = Environment\n", "there is none"),
            ("p", CIRCLE, "own source"),
            ("p", "no section = secret-words\n", "cannot be read"),
        ],
    )  # fmt: skip
    def test_what_is_not_spoken_is_said_clearly(self, name: str, config: str, words: str) -> None:
        with pytest.raises(UpstreamRefused, match=words) as caught:
            self.played(name, config)
        assert "secret-words" not in caught.value.message

    def test_bytes_that_are_no_text_are_refused(self) -> None:
        subject = authority({"HOME": "/h"}, profile="p")
        subject.step(NOW)
        answer(subject, b"\xff\xfe")
        with pytest.raises(UpstreamRefused, match="cannot be read"):
            answer(subject, b"")

    def test_places_of_the_environment_are_used(self) -> None:
        environment = {
            "HOME": "/h",
            "AWS_SHARED_CREDENTIALS_FILE": "~/keys",
            "AWS_CONFIG_FILE": "/etc/aws",
            "AWS_PROFILE": "x",
        }
        subject = authority(environment)
        assert subject.step(NOW) == FileStep("/h/keys", optional=True)
        answer(subject, b"[x]\naws_access_key_id=AKX\naws_secret_access_key=s\n")
        assert subject.step(NOW) == FileStep("/etc/aws", optional=True)
        answer(subject, b"", status=404)
        assert key_of(subject) == "AKX"

    def test_named_profile_that_is_not_there_is_no_reason_to_look_elsewhere(self) -> None:
        subject = authority({"HOME": "/h", "AWS_PROFILE": "gone", **CONTAINER})
        with pytest.raises(UpstreamRefused, match="no AWS profile 'gone'"):
            read_files(subject, self.CREDENTIALS, None)
