"""What an error means for the next step of an exchange: a table, and the words with which providers say the same thing.

The status decides, unless a provider's own words say something else or nothing came with a status (an error within a
successful answer). What the words are is public: each row names whose they are.

Source: https://platform.openai.com/docs/guides/error-codes ·
https://learn.microsoft.com/azure/ai-foundry/openai/concepts/content-filter · https://platform.claude.com/docs/en/api/errors ·
https://ai.google.dev/gemini-api/docs/troubleshooting ·
https://docs.aws.amazon.com/bedrock/latest/userguide/troubleshooting-api-error-codes.html · https://docs.mistral.ai/api ·
https://docs.cohere.com/reference/errors
"""

from __future__ import annotations

import re
from typing import Literal

from trio_ai_proxy.errors import (
    InvalidRequest,
    Overloaded,
    ProxyError,
    TruncatedStream,
    UpstreamError,
    UpstreamProtocolError,
    UpstreamRefused,
    UpstreamStatus,
    UpstreamTimeout,
)

Step = Literal["again", "next", "larger", "key", "stop"]
"""again   the same target may be tried again, after a pause
next    not this target again in this exchange
larger  only a target with a larger window
key     the same target with another credential, at once
stop    the error is the answer"""

# Without an entry: 4xx is the caller's own doing and propagates; 5xx may pass.
_STEP_OF_STATUS: dict[int, Step] = {
    401: "next",
    402: "next",
    403: "next",
    407: "next",
    408: "again",
    409: "again",
    424: "again",  # Bedrock: the model failed while it processed the request
    425: "again",
    429: "again",
    499: "again",  # Google: CANCELLED, and not by us
    501: "next",
    505: "next",
}
_STEP_OF_DEADLINE: dict[str, Step] = {"connect": "next", "first_token": "next", "idle": "next"}
_KEY_STATUS = frozenset({401, 402, 403})
_REFUSED_TWICE = 2

# Words that stand for a status where none came, in small letters and without what is between them.
_STATUS_OF_WORD = {
    # OpenAI, Azure and those who follow them
    "invalidrequesterror": 400,
    "invalidapikey": 401,
    "authenticationerror": 401,
    "insufficientquota": 402,
    "billinghardlimitreached": 402,
    "permissionerror": 403,
    "notfounderror": 404,
    "modelnotfound": 404,
    "deploymentnotfound": 404,
    "ratelimitexceeded": 429,
    "servererror": 500,
    "internalservererror": 500,
    "serviceunavailable": 503,
    "serviceunavailableerror": 503,
    # Anthropic
    "billingerror": 402,
    "requesttoolarge": 413,
    "ratelimiterror": 429,
    "apierror": 500,
    "timeouterror": 504,
    "overloadederror": 529,
    # Google
    "invalidargument": 400,
    "failedprecondition": 400,
    "outofrange": 400,
    "apikeyinvalid": 401,
    "apikeyserviceblocked": 403,
    "unauthenticated": 401,
    "permissiondenied": 403,
    "notfound": 404,
    "resourceexhausted": 429,
    "cancelled": 499,
    "unknown": 500,
    "internal": 500,
    "unimplemented": 501,
    "unavailable": 503,
    "deadlineexceeded": 504,
    # AWS
    "validationexception": 400,
    "unrecognizedclientexception": 401,
    "expiredtokenexception": 401,
    "invalidsignatureexception": 401,
    "accessdeniedexception": 403,
    "resourcenotfoundexception": 404,
    "modeltimeoutexception": 408,
    "modelerrorexception": 424,
    "modelstreamerrorexception": 424,
    "throttlingexception": 429,
    "toomanyrequestsexception": 429,
    "modelnotreadyexception": 429,
    "servicequotaexceededexception": 429,
    "internalserverexception": 500,
    "serviceunavailableexception": 503,
}

# Said with another status than what they mean: an account that is used up comes as 429 (OpenAI) or 400 (Anthropic), a
# wrong key as 400 (Google).
_ACCOUNT_WORDS = frozenset({"insufficientquota", "billinghardlimitreached", "billingerror"})
_KEY_WORDS = frozenset({"apikeyinvalid", "invalidapikey"})
# OpenAI's "exceeded your current quota" is not among them: Google says the same of a limit that passes within the minute.
_ACCOUNT_PHRASES = re.compile(r"credit balance is too low", re.IGNORECASE)

_CONTEXT_WORDS = frozenset(
    {
        "contextlengthexceeded",  # OpenAI, Azure, Groq, DeepSeek, OpenRouter
        "contextwindowexceeded",
        "modelcontextwindowexceeded",  # Z.ai
        "exceedcontextsizeerror",  # llama.cpp
        "tokenslimitreached",  # GitHub Models
    }
)
_CONTEXT_PHRASES = re.compile(
    "|".join(
        (
            r"maximum context length",  # OpenAI, Mistral, vLLM, DeepSeek, OpenRouter
            r"(?:exceeds?|exceeded) the (?:model's )?context window",  # OpenAI's Responses
            r"input tokens exceed the configured limit",  # OpenAI, Azure
            r"prompt is too long",  # Anthropic, and on Bedrock
            r"exceed context limit",  # Anthropic: input length and `max_tokens`
            r"exceeds the maximum number of tokens allowed",  # Google
            r"input is too long for requested model",  # Bedrock
            r"too many input tokens",  # Bedrock
            r"too many tokens: ",  # Cohere
            r"maximum prompt length is \d",  # xAI
            r"exceeds the available context size",  # llama.cpp
            r"exceeded (?:max )?context length",  # Ollama
            r"`inputs` tokens \+ `max_new_tokens` must be",  # Hugging Face's TGI
            r"`inputs` must have less than \d+ tokens",  # the same
            r"longer than the model's context length",  # SGLang
        )
    ),
    re.IGNORECASE,
)

_POLICY_WORDS = frozenset(
    {
        "contentfilter",  # Azure
        "contentpolicyviolation",  # OpenAI
        "responsibleaipolicyviolation",  # Azure
        "moderationblocked",  # OpenAI
        "invalidprompt",  # OpenAI: flagged before a reasoning model sees it
        "safetyviolation",
        "prohibitedcontent",  # Google
        "datainspectionfailed",  # Alibaba
    }
)
_POLICY_PHRASES = re.compile(
    "|".join(
        (
            r"content management policy",  # Azure
            r"content filtering policy",  # Anthropic
            r"usage polic(?:y|ies)",  # OpenAI, Anthropic
            r"as a result of our safety system",  # OpenAI
            r"blocked by our content filters",  # Bedrock
            r"requires moderation on .*flagged",  # OpenRouter
            r"violates usage guidelines",  # xAI
        )
    ),
    re.IGNORECASE,
)
# One request that is larger than all that the account may send in a minute: waiting does not help, another target does.
_OVER_THE_RATE = re.compile(r"request too large for .*(?:per min|\b[TR]PM\b)", re.IGNORECASE | re.DOTALL)


def step_for(error: ProxyError, *, failures: int = 1, keys_left: bool = False) -> Step:
    """What to do after `error`, before anything of the answer has reached the client.

    failures   how often this target has failed in this exchange, this time included
    keys_left  the provider has a credential that has not been tried in this exchange
    """
    if isinstance(error, Overloaded | InvalidRequest):
        # No slot of ours, or a field for which this provider has no word: another target may have both.
        return "next"
    if not isinstance(error, UpstreamError):
        return "stop"
    if isinstance(error, UpstreamTimeout):
        return _STEP_OF_DEADLINE.get(error.deadline, "stop")
    if isinstance(error, UpstreamRefused):
        return "again" if failures < _REFUSED_TWICE else "next"
    if isinstance(error, TruncatedStream):
        return "again"
    if isinstance(error, UpstreamProtocolError):
        return "next"  # a page, a redirect, another protocol: the next answer would be no better
    return _step_of_words(error, keys_left=keys_left)


def _step_of_words(error: UpstreamError, *, keys_left: bool) -> Step:
    words, status = _words(error), status_meant(error)
    if words & _POLICY_WORDS or _POLICY_PHRASES.search(error.message):
        return "stop"
    if status in (413, 429) and _OVER_THE_RATE.search(error.message):
        return "next"
    # "Too many tokens" with status 429 is a rate.
    if status != 429 and (words & _CONTEXT_WORDS or _CONTEXT_PHRASES.search(error.message)):
        return "larger"
    if status is None:
        return "again"  # an error within a successful answer that says nothing more
    if keys_left and (status in _KEY_STATUS or status == 429):
        return "key"
    return _STEP_OF_STATUS.get(status, "stop" if status < 500 else "again")


def status_meant(error: UpstreamError) -> int | None:
    """The HTTP status that `error` stands for: what its words mean where they say more than its own status, which it may have
    none of. None where nothing tells."""
    words = _words(error)
    if words & _ACCOUNT_WORDS or _ACCOUNT_PHRASES.search(error.message):
        return 402
    if words & _KEY_WORDS:
        return 401
    if isinstance(error, UpstreamStatus):
        return error.upstream_status
    return next((_STATUS_OF_WORD[word] for word in _words_in_order(error) if word in _STATUS_OF_WORD), None)


def is_key_dead(error: ProxyError) -> bool:
    """Whether the credential is of no more use: unknown, used up or not allowed. A refusal of the content is none of these."""
    return (
        isinstance(error, UpstreamError)
        and status_meant(error) in _KEY_STATUS
        and _step_of_words(error, keys_left=False) != "stop"
    )


def _words_in_order(error: UpstreamError) -> tuple[str, str]:
    """Code and type, the exact one first, so that `invalid_request_error` with a code of its own is that code."""
    return _bare(error.code), _bare(error.type)


def _words(error: UpstreamError) -> frozenset[str]:
    return frozenset(_words_in_order(error))


def _bare(word: str) -> str:
    return re.sub(r"[^a-z0-9]", "", word.lower())
