"""A record is put once and never makes an exchange fail."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, cast

from support.records import record

from trio_ai_proxy.telemetry.ledger import Ledger
from trio_ai_proxy.telemetry.lines import LineSink

if TYPE_CHECKING:
    from pathlib import Path


async def test_each_record_is_one_line_of_the_sink(tmp_path: Path) -> None:
    sink = LineSink(str(tmp_path / "records"))
    ledger = Ledger(sink)
    for number in range(3):
        assert ledger.put(record(request_id=f"r{number}", model="a\nb"))
    assert await sink.flush(10)
    lines = (tmp_path / "records").read_bytes().splitlines()
    assert [json.loads(line)["request_id"] for line in lines] == ["r0", "r1", "r2"]
    assert ledger.dropped == 0


def test_a_record_that_finds_no_room_or_is_no_json_is_counted(tmp_path: Path) -> None:
    sink = LineSink(str(tmp_path / "records"), max_lines=1)
    ledger = Ledger(sink)
    assert ledger.put(record())
    assert not ledger.put(record())
    assert not ledger.put(record(detail=cast("Any", object())))
    assert ledger.dropped == 2
