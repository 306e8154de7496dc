"""The exchange record: one JSON object per exchange, whatever ended it. The field names are an interface."""

from __future__ import annotations

from typing import Any

import msgspec

from trio_ai_proxy.chat.usage import UsageSource  # noqa: TC001 - msgspec reads it when a record is decoded


class Attempt(msgspec.Struct, frozen=True):
    """One try at one target: how it ended ("beaten": another was quicker), how long it took, and the tokens that it is known to
    have cost.

    kind        why it was made: first · retry (the same target again) · next (another one) · hedge (beside a slow one) ·
                continuation (of an answer that broke off)
    answered    whether the client was given any of what it generated
    credential  place of the provider's credential that went out, from 0; None where it has not several
    """

    provider: str
    model: str
    outcome: str
    milliseconds: float
    prompt_tokens: int = 0
    completion_tokens: int = 0
    kind: str = "first"
    answered: bool = False
    credential: int | None = None


class GuardUse(msgspec.Struct):
    """What one guard did in one exchange.

    request      what became of the request: passed · changed · blocked · failed (it could not be asked); None: it has not looked
    request_ms   how long that took
    windows      pieces of the answer that it had judged
    verdicts     how often it said what: pass · replace · block · late (a replacement for what had left already); and `failed`:
                 how often it could not be asked, which is then a pass or a block, as configured
    hits         how often it found what it looks for
    held_ms      how long it held back something of the answer
    calls        exchanges that it has had made, and the `tokens` that they cost
    """

    name: str
    kind: str
    request: str | None = None
    request_ms: float | None = None
    windows: int = 0
    verdicts: dict[str, int] = {}
    hits: int = 0
    held_ms: float = 0.0
    calls: int = 0
    tokens: int = 0


class ExchangeRecord(msgspec.Struct, frozen=True, kw_only=True):
    """Everything about one exchange that the books need; never a credential, never a prompt.

    time      when it ended, RFC 3339, UTC
    key       name of the client's key, None if the gateway is open
    phase     how far it had come when it ended: accepted · body · prepare · queue · connect · first_token · streaming ·
              done
    status    the HTTP status that the client was sent, None if it left before one was
    detail    one line on the cause, where the outcome alone does not say enough
    cost      None until prices are configured
    parent    the request id of the exchange that this one was made for by the gateway itself, None for a client's
    guard     what the gateway made it for: a guard's name, or `semantic`, the balance
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
    parent: str | None = None
    guard: str | None = None
    guards: list[GuardUse] = []


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
