"""Keys that expire, over real sockets: one local server is STS, the container's agent, the instance's metadata and Bedrock."""

from __future__ import annotations

import json
import time
from contextlib import AsyncExitStack
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any
from unittest.mock import patch
from urllib.parse import parse_qs

import pytest
import trio
from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials

from trio_ai_proxy.settings import ModelSettings, ProviderSettings, Settings, TargetSettings, TokenSettings
from trio_ai_proxy.testing import ScriptedServer, Step, WireScript, open_gateway

if TYPE_CHECKING:
    from collections.abc import Callable

    from trio_ai_proxy.testing import ClientAnswer, ReceivedRequest, Script
    from trio_ai_proxy.testing.in_memory import OpenGateway

RECORDED = (Path(__file__).parent.parent / "recordings" / "bedrock" / "text" / "response.bin").read_bytes()
MODEL = "arn:aws:bedrock:us-east-1:123456789012:application-inference-profile/abc123"
ROLE = "arn:aws:iam::123456789012:role/gateway"
PATHS = (
    "/model/arn%3Aaws%3Abedrock%3Aus-east-1%3A123456789012%3Aapplication-inference-profile%2Fabc123/converse-stream",
)
LONGEST = 20.0


def answer_of(body: str | dict[str, Any], *, status: int = 200, pause: float = 0.0) -> WireScript:
    text = json.dumps(body) if isinstance(body, dict) else body
    kind = "application/json" if isinstance(body, dict) else "text/plain"
    return WireScript(
        status=status,
        headers=(("content-type", kind),),
        steps=lambda: iter([Step(0.0, text.encode())]),
        head_pause=pause,
        framing="length",
    )


def model_answer(pause: float = 0.0) -> WireScript:
    """The recorded text, with a pause before its last event."""
    steps = [Step(0.0, RECORDED[:150]), Step(0.0, RECORDED[150:400]), Step(pause, RECORDED[400:])]
    return WireScript(headers=(("content-type", "application/vnd.amazon.eventstream"),), steps=lambda: iter(steps))


def key(name: str, lifetime: float) -> dict[str, Any]:
    expiration = datetime.fromtimestamp(time.time() + lifetime, UTC).isoformat().replace("+00:00", "Z")
    return {
        "AccessKeyId": name,
        "SecretAccessKey": f"secret-{name}",
        "Token": f"token-{name}",
        "Expiration": expiration,
        "Code": "Success",
    }


def sts_key(name: str, action: str) -> str:
    given = key(name, 3600)
    fields = "".join(
        f"<{tag}>{given[source]}</{tag}>"
        for tag, source in (
            ("AccessKeyId", "AccessKeyId"),
            ("SecretAccessKey", "SecretAccessKey"),
            ("SessionToken", "Token"),
            ("Expiration", "Expiration"),
        )
    )
    return f"<{action}Response><{action}Result><Credentials>{fields}</Credentials></{action}Result></{action}Response>"


def settings(server: ScriptedServer, environment: dict[str, str], **more: Any) -> Settings:
    account = ProviderSettings(
        name="aws", kind="bedrock", base_url=server.url, region="us-east-1", environment=environment, **more
    )
    model = ModelSettings(name="m", targets=(TargetSettings(provider="aws", model=MODEL),), retries=0)
    return Settings(tokens=TokenSettings(load_timeout=0), providers={"aws": account}, models={"m": model})


async def ask(opened: OpenGateway) -> ClientAnswer:
    question = {"model": "m", "messages": [{"role": "user", "content": "What is the sea?"}], "stream": True}
    return await opened.client.post("/v1/chat/completions", json=question)


def assert_whole(answer: ClientAnswer) -> None:
    assert answer.status == 200
    assert b"The sea" in answer.body
    assert answer.body.endswith(b"data: [DONE]\n\n")


class Bedrock:
    """The local server and what it was asked. `answers` gives the answer for a path; models answer on all others."""

    def __init__(self, answers: Callable[[ReceivedRequest], Script | None], *, pause: float = 0.0) -> None:
        self._answers = answers
        self._pause = pause
        self.asked: list[ReceivedRequest] = []
        self.signed_with: list[str] = []
        self.server = ScriptedServer(self._answer)

    def _answer(self, request: ReceivedRequest) -> Script:
        if request.path not in PATHS:
            self.asked.append(request)
            return self._answers(request) or answer_of("no such place", status=404)
        self.signed_with.append(signer_of(request, self.server.url))
        return model_answer(self._pause)


def signer_of(request: ReceivedRequest, origin: str) -> str:
    """Whose key signed a request. botocore has signed it again, as it came over the wire, and comes to the same."""
    said = request.header("authorization") or ""
    name = said.partition("Credential=")[2].partition("/")[0]
    signed = said.partition("SignedHeaders=")[2].partition(",")[0].split(";")
    assert {"host", "content-type", "x-amz-date"} <= set(signed)
    headers = {header: request.header(header) for header in signed if not header.startswith("x-amz-")}
    secret, token = ("s", None) if name.startswith("AK") else (f"secret-{name}", f"token-{name}")
    again = AWSRequest(request.method, origin + request.path, headers, request.body)
    moment = datetime.strptime(request.header("x-amz-date") or "", "%Y%m%dT%H%M%SZ").replace(tzinfo=UTC)
    with patch("botocore.auth.get_current_datetime", lambda *_: moment):
        SigV4Auth(Credentials(name, secret, token), "bedrock", "us-east-1").add_auth(again)
    assert said == again.headers["Authorization"]
    return name


@pytest.mark.parametrize("transport", ["own", "httpx"])
async def test_path_of_an_arn_goes_out_as_it_was_signed_and_keys_of_a_container_are_fetched_once_for_all(
    transport: str,
) -> None:
    bedrock = Bedrock(lambda _: answer_of(key("ASIA1", 3600), pause=0.2))
    with trio.fail_after(LONGEST):
        async with AsyncExitStack() as stack:
            server = await stack.enter_async_context(bedrock.server)
            environment = {
                "AWS_CONTAINER_CREDENTIALS_FULL_URI": f"{server.url}/creds",
                "AWS_CONTAINER_AUTHORIZATION_TOKEN": "agent-token",
            }
            chosen = settings(server, environment, transport=transport)
            opened = await stack.enter_async_context(open_gateway(chosen))
            answers = []

            async def one() -> None:
                answers.append(await ask(opened))

            async with trio.open_nursery() as nursery:
                for _ in range(20):
                    nursery.start_soon(one)
            for answer in answers:
                assert_whole(answer)
    assert len(answers) == 20
    assert [(request.path, request.header("authorization")) for request in bedrock.asked] == [("/creds", "agent-token")]
    assert bedrock.signed_with == ["ASIA1"] * 20


async def test_key_that_ends_in_the_middle_of_a_stream_is_replaced_for_the_next_request() -> None:
    keys = iter((("ASIA1", 1.0), ("ASIA2", 3600.0)))
    bedrock = Bedrock(lambda _: answer_of(key(*next(keys))), pause=1.5)
    with trio.fail_after(LONGEST):
        async with AsyncExitStack() as stack:
            server = await stack.enter_async_context(bedrock.server)
            environment = {"AWS_CONTAINER_CREDENTIALS_FULL_URI": f"{server.url}/creds"}
            opened = await stack.enter_async_context(open_gateway(settings(server, environment)))
            answers = []

            async def one() -> None:
                answers.append(await ask(opened))

            async with trio.open_nursery() as nursery:
                nursery.start_soon(one)
                while not bedrock.signed_with:
                    await trio.sleep(0.01)
                await trio.sleep(1.1)  # the wall clock of the key's own end
                assert not answers
                nursery.start_soon(one)
            for answer in answers:
                assert_whole(answer)
    assert len(answers) == 2
    assert bedrock.signed_with == ["ASIA1", "ASIA2"]


async def test_instance_s_metadata_is_asked_with_a_token() -> None:
    def metadata(request: ReceivedRequest) -> Script | None:
        if request.method == "PUT" and request.path == "/latest/api/token":
            return answer_of("imds-token")
        if request.header("x-aws-ec2-metadata-token") != "imds-token":
            return answer_of("", status=401)
        if request.path.endswith("/security-credentials/"):
            return answer_of("the-role")
        return answer_of(key("ASIAEC2", 3600)) if request.path.endswith("/the-role") else None

    bedrock = Bedrock(metadata)
    with trio.fail_after(LONGEST):
        async with AsyncExitStack() as stack:
            server = await stack.enter_async_context(bedrock.server)
            environment = {"AWS_EC2_METADATA_SERVICE_ENDPOINT": server.url}
            opened = await stack.enter_async_context(open_gateway(settings(server, environment)))
            assert_whole(await ask(opened))
            assert_whole(await ask(opened))
    assert [request.method for request in bedrock.asked] == ["PUT", "GET", "GET"]
    assert bedrock.signed_with == ["ASIAEC2", "ASIAEC2"]


async def test_web_identity_and_then_the_role_of_the_block_are_assumed(tmp_path: Path) -> None:
    token = tmp_path / "token"
    token.write_text("jwt-1\n")

    def sts(request: ReceivedRequest) -> Script:
        action = parse_qs(request.body.decode())["Action"][0]
        return answer_of(sts_key("ASIAWEB" if action == "AssumeRoleWithWebIdentity" else "ASIAROLE", action))

    bedrock = Bedrock(sts)
    with trio.fail_after(LONGEST):
        async with AsyncExitStack() as stack:
            server = await stack.enter_async_context(bedrock.server)
            environment = {
                "AWS_ROLE_ARN": ROLE,
                "AWS_WEB_IDENTITY_TOKEN_FILE": str(token),
                "AWS_ENDPOINT_URL_STS": server.url,
            }
            opened = await stack.enter_async_context(open_gateway(settings(server, environment, role_arn=ROLE + "-2")))
            assert_whole(await ask(opened))
    first, second = bedrock.asked
    assert parse_qs(first.body.decode())["WebIdentityToken"] == ["jwt-1"]
    assert first.header("authorization") is None
    assert parse_qs(second.body.decode())["RoleArn"] == [ROLE + "-2"]
    assert "Credential=ASIAWEB/" in (second.header("authorization") or "")
    assert bedrock.signed_with == ["ASIAROLE"]


async def test_shared_file_is_read_and_one_that_is_not_there_is_no_matter(tmp_path: Path) -> None:
    (tmp_path / "keys").write_text("[team]\naws_access_key_id = AKFILE\naws_secret_access_key = s\n")
    bedrock = Bedrock(lambda _: None)
    with trio.fail_after(LONGEST):
        async with AsyncExitStack() as stack:
            server = await stack.enter_async_context(bedrock.server)
            environment = {
                "AWS_SHARED_CREDENTIALS_FILE": str(tmp_path / "keys"),
                "AWS_CONFIG_FILE": str(tmp_path / "none"),
            }
            opened = await stack.enter_async_context(open_gateway(settings(server, environment, profile="team")))
            assert_whole(await ask(opened))
    assert (bedrock.asked, bedrock.signed_with) == ([], ["AKFILE"])


async def test_key_that_cannot_be_had_is_said_without_what_was_answered_and_the_next_request_tries_again() -> None:
    answers = iter((answer_of("secret words", status=500), answer_of(key("ASIA1", 3600))))
    bedrock = Bedrock(lambda _: next(answers))
    with trio.fail_after(LONGEST):
        async with AsyncExitStack() as stack:
            server = await stack.enter_async_context(bedrock.server)
            environment = {"AWS_CONTAINER_CREDENTIALS_FULL_URI": f"{server.url}/creds"}
            opened = await stack.enter_async_context(open_gateway(settings(server, environment)))
            refused = await ask(opened)
            assert refused.status == 502
            message = refused.json()["error"]["message"]
            assert message == "No AWS key could be had from the container's credentials: it answered with status 500."
            assert_whole(await ask(opened))
    assert bedrock.signed_with == ["ASIA1"]


async def test_place_of_the_key_that_cannot_be_reached_is_not_taken_for_the_provider() -> None:
    bedrock = Bedrock(lambda _: None)
    with trio.fail_after(LONGEST):
        async with AsyncExitStack() as stack:
            server = await stack.enter_async_context(bedrock.server)
            environment = {"AWS_CONTAINER_CREDENTIALS_FULL_URI": "http://127.0.0.1:1/creds"}
            opened = await stack.enter_async_context(open_gateway(settings(server, environment)))
            refused = await ask(opened)
            assert refused.status == 502
            assert refused.json()["error"]["message"].startswith(
                "The credential of provider 'aws' could not be fetched"
            )
    assert bedrock.signed_with == []
