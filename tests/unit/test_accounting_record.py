"""A record is one line of JSON under names that are an interface, whatever its texts hold."""

from __future__ import annotations

import json

from support.records import record

from trio_ai_proxy.accounting.record import encode_record

FIELDS = [
    "time", "request_id", "key", "dialect", "model", "provider", "target_model", "stream", "outcome", "detail", "phase",
    "status", "attempts", "prompt_tokens", "completion_tokens", "total_tokens", "cached_tokens", "reasoning_tokens",
    "cache_write_tokens", "usage_source", "cost", "ttft_ms", "duration_ms", "upstream_released_ms", "bytes_out", "chunks_out",
    "malformed_events", "parent", "guard", "guards",
]  # fmt: skip
ATTEMPT_FIELDS = [
    "provider", "model", "outcome", "milliseconds", "prompt_tokens", "completion_tokens", "kind", "answered", "credential",
]  # fmt: skip


def test_a_record_is_one_line_of_json_with_the_promised_fields() -> None:
    line = encode_record(record())
    assert line.endswith(b"}\n")
    assert line.count(b"\n") == 1
    assert list(json.loads(line)) == FIELDS
    assert list(json.loads(line)["attempts"][0]) == ATTEMPT_FIELDS


def test_line_breaks_in_a_name_stay_inside_the_line() -> None:
    line = encode_record(record(model='a\r\nb"}\u2028', detail="x\n"))
    assert line.count(b"\n") == 1
    assert json.loads(line)["model"] == 'a\r\nb"}\u2028'


def test_half_a_surrogate_pair_does_not_lose_the_record() -> None:
    line = encode_record(record(model="m\ud800"))
    assert json.loads(line)["model"] == "m?"
    assert json.loads(line)["attempts"][0]["milliseconds"] == 12.5
