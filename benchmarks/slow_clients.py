"""What a client that does not read, or reads very slowly, costs the others and the provider.

One client never reads, one reads a kilobyte a second, and beside them paced streams run on. The provider sends to the two
as fast as it may. Wanted: it can send each of them less than a mebibyte, the paced streams keep their pace, the first is
thrown out after `stall`, and the second, which makes progress, is not.
"""

from __future__ import annotations

import itertools
import json
import socket
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import trio
from lab import ASK, PATH, Arguments, Command, Report, check_left, holdings, main, percentile, provider

from trio_ai_proxy.testing import RawClient, ReceivedRequest, Script, ScriptedServer, openai_stream

if TYPE_CHECKING:
    from trio_ai_proxy.testing import ServerExchange

STALL = 10.0
PACE, PACED = 0.02, 10
MAX_INTAKE = 2**20
PIECE = "x" * 1000
BYTES_A_SECOND = 1000


@dataclass
class SlowClient:
    """What became of one slow client. `thrown_out_after` is in seconds since its request; None: it was not."""

    began: float = 0.0
    thrown_out_after: float | None = None
    bytes_read: int = 0
    left: trio.Event = field(default_factory=trio.Event)


def answer(request: ReceivedRequest) -> Script:
    if request.json().get("user", "").startswith("slow"):
        return openai_stream(itertools.repeat(PIECE))
    return openai_stream(itertools.repeat(" word"), pause=PACE)


async def connect(gateway: Command) -> trio.SocketStream:
    """A connection with the smallest receive buffer that there is.

    A system tells the sender of new room only when a good part of the buffer is free. At a kilobyte a second that is news
    every six seconds with this buffer, and every 36 with the usual one (measured on Linux 6.18): for that long nobody on
    the other side can tell such a reader from a dead one.
    """
    connection = trio.socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2304)
    await connection.connect(("127.0.0.1", gateway.port))
    return trio.SocketStream(connection)


async def read_slowly(gateway: Command, name: str, seen: SlowClient, rate: int) -> None:
    """Ask for a stream and read `rate` bytes of it a second; 0 reads nothing."""
    body = json.dumps({**ASK, "user": name, "stream": True}).encode()
    head = f"POST {PATH} HTTP/1.1\r\nhost: x\r\nx-request-id: {name}\r\ncontent-type: application/json\r\n"
    async with await connect(gateway) as stream:
        await stream.send_all(f"{head}content-length: {len(body)}\r\n\r\n".encode() + body)
        seen.began = trio.current_time()
        try:
            while not seen.left.is_set():
                with trio.move_on_after(1):
                    await seen.left.wait()
                if rate:
                    chunk = await stream.receive_some(rate)
                    seen.bytes_read += len(chunk)
                    if not chunk:
                        break
        except trio.BrokenResourceError:
            pass
        if not seen.left.is_set():
            seen.thrown_out_after = trio.current_time() - seen.began


async def paced(gateway: Command, gaps: list[float], until: trio.Event) -> None:
    """A stream at the pace of `PACE`: the seconds between its chunks."""
    async with RawClient("127.0.0.1", gateway.port) as client:
        await client.post(PATH, json={**ASK, "stream": True}, headers=[("x-request-id", "paced")])
        await client.read_head()
        last = None
        while not until.is_set() and (chunk := await client.read_chunk()) is not None:
            if last is not None:
                gaps.append(chunk.at - last)
            last = chunk.at


async def pace_for(gateway: Command, seconds: float, gaps: list[float]) -> None:
    """Run the paced streams for so long."""
    until = trio.Event()
    async with trio.open_nursery() as nursery:
        for _ in range(PACED):
            nursery.start_soon(paced, gateway, gaps, until)
        await trio.sleep(seconds)
        until.set()


async def watch_until_ended(gateway: Command, request_id: str, seen: SlowClient, ended: list[float]) -> None:
    """Note how long after its request an exchange is recorded."""
    while not any(record["request_id"] == request_id for record in gateway.records()):  # noqa: ASYNC110 - a file
        await trio.sleep(0.05)
    ended.append(trio.current_time() - seen.began)


async def measure(given: Arguments) -> Report:
    seconds = 20.0 if given.quick else 60.0
    report = Report(f"slow clients: stall {STALL:g} s, {PACED} paced streams beside them for {seconds:g} s")
    deaf, slow = SlowClient(), SlowClient()
    ended: list[float] = []
    alone: list[float] = []
    beside: list[float] = []
    async with (
        ScriptedServer(answer) as server,
        Command(provider(server.url, timeouts=f"stall = {STALL}")) as gateway,
    ):
        await pace_for(gateway, 0.5, [])
        start = await holdings(gateway)
        await pace_for(gateway, seconds / 3, alone)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(read_slowly, gateway, "slow-deaf", deaf, 0)
            nursery.start_soon(read_slowly, gateway, "slow-reader", slow, BYTES_A_SECOND)
            nursery.start_soon(watch_until_ended, gateway, "slow-deaf", deaf, ended)
            await pace_for(gateway, seconds, beside)
            was_thrown_out = slow.thrown_out_after
            of_deaf, of_slow = _intake(server, "slow-deaf"), _intake(server, "slow-reader")
            deaf.left.set()
            slow.left.set()
            nursery.cancel_scope.deadline = trio.current_time() + 3
        await check_left(gateway, report, start)
        records = {record["request_id"]: record for record in gateway.records()}
    for what, exchange in (("never reads", of_deaf), ("1 kB/s", of_slow)):
        report.row(f"{what}: KiB that the provider could send", exchange.bytes_sent / 1024)
        report.check(exchange.bytes_sent < MAX_INTAKE, f"{what}: the provider could send less than 1 MiB")
    report.row("never reads: seconds until its exchange had ended", ended[0] if ended else float("nan"))
    report.row("1 kB/s: bytes it has read", slow.bytes_read)
    report.row("paced, alone: gap p50 / p99 / max, ms", _gaps(alone))
    report.row("paced, beside them: gap p50 / p99 / max, ms", _gaps(beside))
    report.check(
        bool(ended) and STALL <= ended[0] < STALL + 2.5 and of_deaf.released_at is not None,
        "who never reads is thrown out after `stall`, and its provider let go",
    )
    record = records.get("slow-deaf", {})
    report.check(
        (record.get("outcome"), record.get("detail")) == ("client_gone", "the client stopped reading"),
        f"its record says so ({record.get('outcome')}: {record.get('detail')})",
    )
    report.check(was_thrown_out is None, "who reads a kilobyte a second is not thrown out")
    p99 = percentile(beside, 0.99)
    report.check(p99 < 3 * PACE, f"the p99 gap beside them is below three times the pace ({p99 * 1000:.1f} ms)")
    return report


def _intake(server: ScriptedServer, request_id: str) -> ServerExchange:
    return next(one for one in server.exchanges if one.request.json().get("user") == request_id)


def _gaps(gaps: list[float]) -> str:
    return " / ".join(f"{percentile(gaps, share) * 1000:.1f}" for share in (0.5, 0.99, 1.0))


if __name__ == "__main__":
    main(__doc__, measure)
