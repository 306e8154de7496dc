"""The exchange record: one JSON object per exchange, whatever ended it. The field names are an interface."""

from __future__ import annotations

from typing import Any

import msgspec

from trio_ai_proxy.chat.usage import UsageSource  # noqa: TC001 - msgspec reads it when a record is decoded


class Attempt(msgspec.Struct, frozen=True):
    """One try at one target: how it ended ("beaten": another was quicker), how long it took, and the tokens that it is known to
    have cost.

    kind      why it was made: first · retry (the same target again) · next (another one) · hedge (beside a slow one) ·
              continuation (of an answer that broke off)
    answered  whether the client was given any of what it generated
    """

    provider: str
    model: str
    outcome: str
    milliseconds: float
    prompt_tokens: int = 0
    completion_tokens: int = 0
    kind: str = "first"
    answered: bool = False


class ExchangeRecord(msgspec.Struct, frozen=True, kw_only=True):
    """Everything about one exchange that the books need; never a credential, never a prompt.

    time      when it ended, RFC 3339, UTC
    key       name of the client's key, None if the gateway is open
    phase     how far it had come when it ended: accepted · body · queue · connect · first_token · streaming · done
    status    the HTTP status that the client was sent, None if it left before one was
    detail    one line on the cause, where the outcome alone does not say enough
    cost      None until prices are configured
    """

    time: str
    request_id: str
    key: str | None
    dialect: str
    model: str
    provider: str | None
    target_model: str | None
    stream: bool
    outcome: str
    detail: str | None
    phase: str
    status: int | None
    attempts: list[Attempt]
    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    cached_tokens: int
    reasoning_tokens: int
    cache_write_tokens: int
    usage_source: UsageSource
    cost: float | None
    ttft_ms: float | None
    duration_ms: float
    upstream_released_ms: float | None
    bytes_out: int
    chunks_out: int
    malformed_events: int = 0


_encoder = msgspec.json.Encoder()


def encode_record(record: ExchangeRecord) -> bytes:
    """The record as one line of JSON, line feed included. Half a surrogate pair, which UTF-8 cannot say, is `?`."""
    try:
        return _encoder.encode(record) + b"\n"
    except UnicodeEncodeError:
        return _encoder.encode(_printable(msgspec.to_builtins(record))) + b"\n"


def _printable(value: Any) -> Any:
    if isinstance(value, str):
        return value.encode("utf-8", "replace").decode()
    if isinstance(value, dict):
        return {key: _printable(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_printable(item) for item in value]
    return value
