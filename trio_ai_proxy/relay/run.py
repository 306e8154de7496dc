"""The nursery of one exchange: the reader as a task, the writer in the request's own, a channel without slots between.

Exactly one outcome, whatever happens: settled by the reader, by the writer, by whoever interrupted it, or here, if the
writer had a bug.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import trio

from trio_ai_proxy.accounting.outcome import Cause
from trio_ai_proxy.relay.feed import Feed
from trio_ai_proxy.relay.reader import read_upstream
from trio_ai_proxy.relay.writer import conclude, write_client

if TYPE_CHECKING:
    from collections.abc import Callable

    from trio_ai_proxy.relay.client import Client
    from trio_ai_proxy.relay.exchange import Exchange, Plan


async def run_exchange(
    exchange: Exchange, plan: Plan, client: Client, report_bug: Callable[[Exchange, BaseException], None]
) -> None:
    """Relay one answer from the provider to the client, at the pace of the slower of the two. Raises nothing but
    cancellation; `report_bug` gets what else went wrong."""
    to_writer, from_reader = trio.open_memory_channel[bytes](0)
    feed = Feed(to_writer, client)
    try:
        async with trio.open_nursery() as pair:
            pair.start_soon(read_upstream, exchange, plan, feed, report_bug)
            try:
                await write_client(exchange, plan, feed, from_reader, client)
            except Exception as error:
                exchange.settle(Cause.BUG, detail=repr(error))  # before the nursery cancels the reader for it
                raise
    except Exception as error:  # noqa: BLE001  # the edge where a bug becomes one 500 and one log line
        report_bug(exchange, error)
        await conclude(exchange, client)
