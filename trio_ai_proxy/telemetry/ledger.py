"""The exchange records: each is put once, and nothing that goes wrong with one reaches an exchange."""

from __future__ import annotations

from typing import TYPE_CHECKING

from trio_ai_proxy.accounting.record import encode_record

if TYPE_CHECKING:
    from trio_ai_proxy.accounting.record import ExchangeRecord
    from trio_ai_proxy.telemetry.lines import LineSink


class Ledger:
    """Writes records into a sink, which is run by someone else."""

    def __init__(self, sink: LineSink) -> None:
        self._sink = sink
        self._unwritable = 0

    @property
    def dropped(self) -> int:
        """How many records were lost: no room in the sink, a write that failed, or a record that is no JSON."""
        return self._sink.dropped + self._unwritable

    def put(self, record: ExchangeRecord) -> bool:
        """Write `record`. Returns whether it was taken. Never blocks and never raises."""
        try:
            return self._sink.put(encode_record(record))
        except Exception:  # noqa: BLE001 - the books are no reason to fail an exchange; the counter tells
            self._unwritable += 1
            return False
