"""What an error means for the next step: each provider's own error bodies, read by the provider that gets them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from support.accounts import account
from support.decoding import decode_all

from trio_ai_proxy.chat.events import Failed
from trio_ai_proxy.chat.request import ChatRequest
from trio_ai_proxy.errors import (
    InternalError,
    Interrupted,
    InvalidRequest,
    Overloaded,
    TruncatedStream,
    UnknownModel,
    UpstreamError,
    UpstreamProtocolError,
    UpstreamRefused,
    UpstreamStatus,
    UpstreamTimeout,
)
from trio_ai_proxy.routing.steps import is_key_dead, status_meant, step_for

if TYPE_CHECKING:
    from trio_ai_proxy.errors import ProxyError
    from trio_ai_proxy.routing.steps import Step

RECORDINGS = Path(__file__).parents[1] / "recordings"
REQUEST = ChatRequest("chat", "m", True, True, {"messages": [{"role": "user", "content": "Hi"}]})


def openai(message: str, type: str | None, code: str | None) -> dict[str, Any]:
    return {"error": {"message": message, "type": type, "param": None, "code": code}}


def anthropic(type: str, message: str) -> dict[str, Any]:
    return {"type": "error", "error": {"type": type, "message": message}, "request_id": "req_1"}


def google(code: int, status: str, message: str, **detail: str) -> dict[str, Any]:
    details = [{"@type": "type.googleapis.com/google.rpc.ErrorInfo", **detail}] if detail else []
    return {"error": {"code": code, "message": message, "status": status, "details": details}}


INVALID = "invalid_request_error"

# (kind of provider, status, headers, body, step)
ANSWERS: list[tuple[str, int, dict[str, str], object, Step]] = [
    # -- the context is too long
    ("openai", 400, {}, openai(
        "This model's maximum context length is 8192 tokens. However, your messages resulted in 9000 tokens. Please "
        "reduce the length of the messages.", INVALID, "context_length_exceeded"), "larger"),
    ("openai", 400, {}, openai(
        "Your input exceeds the context window of this model. Please adjust your input and try again.", INVALID,
        "context_length_exceeded"), "larger"),
    ("openai", 400, {}, openai(
        "Input tokens exceed the configured limit of 272000 tokens. Your messages resulted in 509178 tokens.", INVALID,
        None), "larger"),
    ("azure", 400, {}, openai(
        "This model's maximum context length is 4097 tokens, however you requested 5346 tokens (346 in your prompt; "
        "5000 for the completion).", INVALID, None), "larger"),
    ("anthropic", 400, {}, anthropic(INVALID, "prompt is too long: 209353 tokens > 199999 maximum"), "larger"),
    ("anthropic", 400, {}, anthropic(
        INVALID, "input length and `max_tokens` exceed context limit: 190000 + 20000 > 200000"), "larger"),
    ("gemini", 400, {}, google(
        400, "INVALID_ARGUMENT",
        "The input token count (1196265) exceeds the maximum number of tokens allowed (1048575)."), "larger"),
    ("bedrock", 400, {"x-amzn-errortype": "ValidationException"},
     {"message": "The model returned the following errors: Input is too long for requested model."}, "larger"),
    ("bedrock", 400, {"x-amzn-errortype": "ValidationException:http://internal.amazon.com/coral/"},
     {"message": "The model returned the following errors: prompt is too long: 227255 tokens > 200000 maximum"}, "larger"),
    ("mistral", 400, {}, {
        "object": "error", "type": "invalid_request_error", "param": None, "code": "3051",
        "message": "Prompt contains 65673 tokens and 0 draft tokens, too large for model with 32768 maximum context "
        "length"}, "larger"),
    ("cohere", 400, {}, {
        "message": "too many tokens: total number of tokens in the prompt cannot exceed 4081 - received 5000. Try using "
        "a shorter prompt."}, "larger"),
    ("huggingface", 422, {}, {
        "error": "Input validation error: `inputs` tokens + `max_new_tokens` must be <= 2048. Given: 3474 `inputs` tokens",
        "error_type": "validation"}, "larger"),
    ("openai", 400, {}, {"error": {
        "code": 400, "message": "request (9000 tokens) exceeds the available context size (4096 tokens)",
        "type": "exceed_context_size_error", "n_prompt_tokens": 9000, "n_ctx": 4096}}, "larger"),
    # -- the content is not wanted
    ("openai", 400, {}, openai(
        "Your request was rejected as a result of our safety system.", INVALID, "content_policy_violation"), "stop"),
    ("openai", 400, {}, openai(
        "Invalid prompt: your prompt was flagged as potentially violating our usage policy. Please try again with a "
        "different prompt.", INVALID, "invalid_prompt"), "stop"),
    ("azure", 400, {}, {"error": {
        "message": "The response was filtered due to the prompt triggering Azure OpenAI's content management policy.",
        "type": None, "param": "prompt", "code": "content_filter", "status": 400,
        "innererror": {"code": "ResponsibleAIPolicyViolation"}}}, "stop"),
    ("anthropic", 400, {}, anthropic(INVALID, "Output blocked by content filtering policy"), "stop"),
    ("bedrock", 400, {"x-amzn-errortype": "ValidationException"},
     {"message": "This request has been blocked by our content filters."}, "stop"),
    ("openai", 403, {}, {"error": {
        "code": 403, "message": "openai/gpt-4 requires moderation on OpenRouter. Your input was flagged for \"hate\".",
        "metadata": {"reasons": ["hate"]}}}, "stop"),
    ("openai", 403, {}, {"code": "The caller does not have permission", "error": "Content violates usage guidelines."},
     "stop"),
    # -- the rate, and what looks like it
    ("openai", 429, {"retry-after": "2"}, openai(
        "Rate limit reached for gpt-4o in organization org-x on tokens per min (TPM)", "tokens", "rate_limit_exceeded"),
     "again"),
    ("openai", 429, {}, openai(
        "Request too large for gpt-4o in organization org-x on tokens per min (TPM): Limit 30000, Requested 40000.",
        "tokens", "rate_limit_exceeded"), "next"),
    ("openai", 413, {}, openai(
        "Request too large for model `llama-3.1-8b-instant` on tokens per minute (TPM): Limit 6000, Requested 9000",
        "tokens", "rate_limit_exceeded"), "next"),
    ("openai", 429, {}, openai(
        "You exceeded your current quota, please check your plan and billing details.", "insufficient_quota",
        "insufficient_quota"), "next"),
    ("anthropic", 429, {"retry-after": "30"}, anthropic("rate_limit_error", "This would exceed your rate limit."), "again"),
    ("gemini", 429, {}, google(
        429, "RESOURCE_EXHAUSTED", "You exceeded your current quota, please check your plan and billing details."), "again"),
    ("bedrock", 429, {"x-amzn-errortype": "ThrottlingException"},
     {"message": "Too many tokens, please wait before trying again."}, "again"),
    ("bedrock", 429, {"x-amzn-errortype": "ModelNotReadyException"}, {"message": "The model is not ready."}, "again"),
    ("mistral", 429, {}, {"object": "error", "message": "Service tier capacity exceeded for this model.",
                          "type": "service_tier_capacity_exceeded", "code": "3505"}, "again"),
    ("cohere", 429, {}, {"message": "You are using a Trial key, which is limited to 20 API calls / minute."}, "again"),
    # -- the account
    ("openai", 401, {}, openai("Incorrect API key provided: sk-***.", INVALID, "invalid_api_key"), "next"),
    ("openai", 402, {}, openai("Insufficient Balance", "unknown_error", "invalid_request_error"), "next"),
    ("azure", 403, {}, openai("Access denied due to Virtual Network/Firewall rules.", None, "AccessDenied"), "next"),
    ("anthropic", 401, {}, anthropic("authentication_error", "invalid x-api-key"), "next"),
    ("anthropic", 400, {}, anthropic(
        INVALID, "Your credit balance is too low to access the Anthropic API."), "next"),
    ("gemini", 400, {}, google(
        400, "INVALID_ARGUMENT", "API key not valid. Please pass a valid API key.", reason="API_KEY_INVALID",
        domain="googleapis.com"), "next"),
    ("gemini", 403, {}, google(403, "PERMISSION_DENIED", "Your API key was reported as leaked."), "next"),
    ("bedrock", 403, {"x-amzn-errortype": "AccessDeniedException"},
     {"message": "You don't have access to the model with the specified model ID."}, "next"),
    ("cohere", 401, {}, {"message": "invalid api token"}, "next"),
    # -- the request
    ("openai", 400, {}, openai("Invalid value for 'temperature'.", INVALID, None), "stop"),
    ("openai", 404, {}, openai("The model `gpt-9` does not exist.", INVALID, "model_not_found"), "stop"),
    ("anthropic", 413, {}, anthropic("request_too_large", "Request exceeds the maximum size"), "stop"),
    ("gemini", 404, {}, google(404, "NOT_FOUND", "models/x is not found for API version v1beta."), "stop"),
    ("bedrock", 400, {"x-amzn-errortype": "ValidationException"},
     {"message": "The provided model identifier is invalid."}, "stop"),
    ("mistral", 422, {}, {"object": "error", "message": {"detail": [
        {"type": "extra_forbidden", "loc": ["body", "x"], "msg": "Extra inputs are not permitted"}]}}, "stop"),
    ("cohere", 422, {}, {"message": "no valid response generated"}, "stop"),
    # -- the provider
    ("openai", 500, {}, openai("The server had an error while processing your request.", "server_error", None), "again"),
    ("openai", 503, {}, openai("The engine is currently overloaded.", "server_error", None), "again"),
    ("anthropic", 529, {}, anthropic("overloaded_error", "Overloaded"), "again"),
    ("gemini", 503, {}, google(503, "UNAVAILABLE", "The model is overloaded."), "again"),
    ("gemini", 499, {}, google(499, "CANCELLED", "The operation was cancelled."), "again"),
    ("bedrock", 424, {"x-amzn-errortype": "ModelErrorException"}, {"message": "The model failed."}, "again"),
    ("bedrock", 408, {"x-amzn-errortype": "ModelTimeoutException"}, {"message": "Took too long."}, "again"),
    ("openai", 502, {"content-type": "text/html"}, "<html>Bad gateway</html>", "again"),
    ("openai", 501, {}, openai("Not implemented", None, None), "next"),
]  # fmt: skip


def read(kind: str, status: int, headers: dict[str, str], body: object) -> UpstreamStatus:
    data = body if isinstance(body, str) else json.dumps(body)
    return account(kind).read_error(status, headers, data.encode())


@pytest.mark.parametrize(("kind", "status", "headers", "body", "step"), ANSWERS)
def test_an_error_answer_means_its_step(
    kind: str, status: int, headers: dict[str, str], body: object, step: Step
) -> None:
    assert step_for(read(kind, status, headers, body)) == step


@pytest.mark.parametrize(
    ("recording", "step"),
    [
        ("anthropic/error_first", "again"),
        ("anthropic/error_overloaded", "again"),
        ("azure/error", "again"),
        ("azure/filter_error", "stop"),
        ("bedrock/exception_throttling", "again"),
        ("bedrock/exception_validation", "stop"),
        ("bedrock/exception_internal", "again"),
        ("bedrock/exception_model", "again"),
        ("cohere/error_in_the_stream", "again"),
        ("gemini/error_in_the_stream", "again"),
        ("mistral/error_in_the_stream", "again"),
        ("ollama/chat_error_first", "again"),
        ("openai/openrouter_error", "again"),
        ("openai/vllm_error", "again"),
    ],
)
def test_an_error_within_a_successful_answer_means_its_step(recording: str, step: Step) -> None:
    kind, _, _ = recording.partition("/")
    events, _ = decode_all(account(kind), REQUEST, (RECORDINGS / recording / "response.bin").read_bytes())
    (failed,) = [event for event in events if isinstance(event, Failed)]
    assert step_for(failed.error) == step


@pytest.mark.parametrize(
    ("status", "step"),
    [
        *((status, "stop") for status in (400, 404, 405, 406, 410, 411, 413, 414, 415, 422, 431, 451)),
        *((status, "next") for status in (401, 402, 403, 407, 501, 505)),
        *((status, "again") for status in (408, 409, 424, 425, 429, 499, 500, 502, 503, 504, 520, 529, 599)),
    ],
)
def test_a_status_without_words_means_its_step(status: int, step: Step) -> None:
    assert step_for(UpstreamStatus("It failed.", upstream_status=status)) == step


@pytest.mark.parametrize("status", [401, 402, 403, 429])
def test_with_another_credential_the_same_target_is_asked_with_that(status: int) -> None:
    error = UpstreamStatus("It failed.", upstream_status=status)
    assert step_for(error, keys_left=True) == "key"
    assert is_key_dead(error) == (status != 429)


@pytest.mark.parametrize("status", [400, 404, 408, 500, 503])
def test_another_credential_helps_with_nothing_else(status: int) -> None:
    error = UpstreamStatus("It failed.", upstream_status=status)
    assert step_for(error, keys_left=True) == step_for(error)
    assert not is_key_dead(error)


def test_an_account_that_is_used_up_is_no_rate_limit_and_takes_its_credential_out() -> None:
    error = UpstreamStatus("Quota.", upstream_status=429, type="insufficient_quota", code="insufficient_quota")
    assert status_meant(error) == 402
    assert is_key_dead(error)
    assert step_for(error, keys_left=True) == "key"


def test_content_that_is_refused_with_a_403_costs_no_credential() -> None:
    error = UpstreamStatus("Content violates usage guidelines.", upstream_status=403)
    assert step_for(error, keys_left=True) == "stop"
    assert not is_key_dead(error)
    assert not is_key_dead(InvalidRequest("No."))


@pytest.mark.parametrize(
    ("error", "step"),
    [
        (UpstreamTimeout("connect", 5, "No connection."), "next"),
        (UpstreamTimeout("first_token", 5, "No token."), "next"),
        (UpstreamTimeout("idle", 5, "Silence."), "next"),
        (UpstreamTimeout("total", 5, "Too long."), "stop"),
        (TruncatedStream("Cut."), "again"),
        (UpstreamProtocolError("An HTML page."), "next"),
        (UpstreamError("It said so in a 200."), "again"),
        (Overloaded("No slot of ours."), "next"),
        (InvalidRequest("No word for this field.", param="n"), "next"),
        (UnknownModel("Nobody."), "stop"),
        (Interrupted("Shutdown."), "stop"),
        (InternalError("A bug."), "stop"),
    ],
)
def test_our_own_errors_mean_their_step(error: ProxyError, step: Step) -> None:
    assert step_for(error) == step


def test_a_connection_that_is_refused_is_tried_once_more_and_not_twice() -> None:
    error = UpstreamRefused("Refused.")
    assert [step_for(error, failures=failures) for failures in (1, 2, 3)] == ["again", "next", "next"]


@pytest.mark.parametrize(
    ("type", "code", "step"),
    [
        ("rate_limit_error", "x", "again"),
        ("api_error", "x", "again"),
        ("invalid_request_error", "x", "stop"),
        ("authentication_error", "x", "next"),
        ("x", "UNAVAILABLE", "again"),
        ("x", "PERMISSION_DENIED", "next"),
        ("x", "UNIMPLEMENTED", "next"),
        ("invalid_request_error", "context_length_exceeded", "larger"),
        ("invalid_request_error", "rate_limit_exceeded", "again"),
        ("throttlingException", "x", "again"),
        ("accessDeniedException", "x", "next"),
        ("nobody", "knows", "again"),
    ],
)
def test_where_no_status_came_the_words_stand_for_one(type: str, code: str, step: Step) -> None:
    error = UpstreamError("It failed.", code=code)
    error.type = type
    assert step_for(error) == step
