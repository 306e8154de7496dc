"""An exchange record to start from."""

from __future__ import annotations

from typing import Any

import msgspec

from trio_ai_proxy.accounting.record import Attempt, ExchangeRecord

PLAIN = ExchangeRecord(
    time="2026-01-02T03:04:05.678+00:00",
    request_id="req-1",
    key="team-a",
    dialect="openai_chat",
    model="gpt-4o",
    provider="openai",
    target_model="gpt-4o-2024-11-20",
    stream=True,
    outcome="completed",
    detail=None,
    phase="done",
    status=200,
    attempts=[Attempt(provider="openai", model="gpt-4o-2024-11-20", outcome="completed", milliseconds=12.5)],
    prompt_tokens=10,
    completion_tokens=20,
    total_tokens=30,
    cached_tokens=4,
    reasoning_tokens=0,
    cache_write_tokens=0,
    usage_source="provider",
    cost=None,
    ttft_ms=150.0,
    duration_ms=2000.0,
    upstream_released_ms=0.4,
    bytes_out=1234,
    chunks_out=21,
)


def record(**changes: Any) -> ExchangeRecord:
    """The plain record with `changes`."""
    return msgspec.structs.replace(PLAIN, **changes)
