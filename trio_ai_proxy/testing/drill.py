"""`trio-ai-proxy drill`: what is promised about disconnects, cuts and stalls, tried on a real gateway and timed.

Each drill takes the gateway through one fault by way of a demo model, and looks at what is left: the exchange must be
gone within `RELEASE_MS`, its record must name the cause, and the client must have seen the truth.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import trio

from trio_ai_proxy.errors import ConfigError
from trio_ai_proxy.testing.drill_gateway import (
    DRAIN_SECONDS,
    EARLY_HEAD_MODEL,
    Address,
    GatewayUnderDrill,
    StartedGateway,
    is_refusing,
    terminate,
)
from trio_ai_proxy.testing.drill_seen import Seen, ask, stay, stay_into
from trio_ai_proxy.testing.raw import BodyCut

RELEASE_MS = 1500.0
_WORDS = 30  # a second of the demo: more than any fault waits for


@dataclass(slots=True)
class DrillResult:
    """What one drill saw.

    passed       None: it could not be judged; `seen` says why
    released_ms  from the client's leaving until the exchange was gone from the admin port
    record       the exchange's record, where it can be read
    """

    name: str
    expected: str
    passed: bool | None
    seen: str
    released_ms: float | None = None
    record: dict[str, Any] | None = None


Drill = Callable[[GatewayUnderDrill], Awaitable[DrillResult]]


async def run_drills(
    url: str | None = None,
    *,
    config: Path | None = None,
    key: str | None = None,
    admin_url: str | None = None,
    report: Callable[[DrillResult], None] = lambda _: None,
) -> list[DrillResult]:
    """Run every drill, one after another, and give what they saw. `report` hears of each result as it comes.

    url        a gateway that runs already (`http://HOST:PORT`), with the demo models; its deadlines must be below 75 s
    admin_url  its admin port; without one, what is left behind cannot be seen
    config     or: the configuration to start one with; neither: one made for drills is started
    key        the client's key, where the gateway wants one
    Raises `ConfigError` for a URL that is not `http://…`, and if a gateway that it starts does not come up.
    """
    if url is not None:
        admin = Address.of_url(admin_url) if admin_url is not None else None
        return await _run(GatewayUnderDrill(Address.of_url(url), admin=admin, key=key), report)
    async with StartedGateway(config, key=key) as gateway:
        return await _run(gateway, report)


async def _run(gateway: GatewayUnderDrill, report: Callable[[DrillResult], None]) -> list[DrillResult]:
    try:
        served = await gateway.models()
        warm_id = f"drill-{uuid.uuid4().hex}"
        await stay(gateway, "demo-fast", warm_id)
    except OSError as error:
        raise ConfigError([f"no gateway answers at {gateway.data.host}:{gateway.data.port}: {error}"]) from error
    results = []
    # The record log is opened for the first record, which must not look like a leak.
    await gateway.record(warm_id)
    files = gateway.open_files()
    for name, model, drill in _DRILLS:
        if served is not None and model not in served:
            result = DrillResult(name, "", None, f"the gateway serves no model {model}")
        else:
            try:
                result = await drill(gateway)
            except (OSError, BodyCut, trio.BrokenResourceError) as error:
                result = DrillResult("", "an answer", False, f"no answer: {error}")
        result.name = name
        results.append(result)
        report(result)
    for last in (await _nothing_left(gateway, files), await _drain(gateway)):
        results.append(last)
        report(last)
    return results


async def drill(
    config: str | None = None, url: str | None = None, admin_url: str | None = None, key: str | None = None
) -> tuple[str, bool]:
    """The command: the table for people, and whether nothing was left behind. Arguments as those of `run_drills`."""
    results = await run_drills(url, config=Path(config) if config else None, key=key, admin_url=admin_url)
    return render(results), not exit_code(results)


def exit_code(results: list[DrillResult]) -> int:
    """1 if anything was left behind or untrue, else 0. A drill that could not be judged does not count."""
    return int(any(result.passed is False for result in results))


def render(results: list[DrillResult]) -> str:
    """The results as a table for people, with what went wrong beneath it."""
    heads = ("drill", "result", "outcome", "released", "tokens", "seen")
    words = {True: "ok", False: "FAILED", None: "-"}
    rows = [heads]
    for result in results:
        record = result.record or {}
        released = f"{result.released_ms:.0f} ms" if result.released_ms is not None else "-"
        tokens = str(record.get("completion_tokens", "-"))
        outcome = str(record.get("outcome", "-"))
        rows.append((result.name, words[result.passed], outcome, released, tokens, result.seen))
    widths = [max(len(row[column]) for row in rows) for column in range(len(heads) - 1)]
    lines = [
        "  ".join([*(cell.ljust(width) for cell, width in zip(row, widths, strict=False)), row[-1]]) for row in rows
    ]
    for result in results:
        if result.passed is False:
            lines += ["", f"{result.name}: expected {result.expected}; seen: {result.seen}"]
            if result.record is not None:
                lines.append(f"  record: {json.dumps(result.record)}")
    failed = sum(result.passed is False for result in results)
    passed = sum(result.passed is True for result in results)
    lines += ["", f"{passed} passed, {failed} failed, {len(results) - passed - failed} could not be judged"]
    return "\n".join(line.rstrip() for line in lines)


# ── The client leaves ────────────────────────────────────────────────────────────────────────────────────────────────


def leaves(model: str, how: Literal["fin", "rst"], *, after_chunks: int | None, stream: bool = True) -> Drill:
    """The client leaves: after so many chunks of the body, or (None) while it waits for the head."""

    async def drill(gateway: GatewayUnderDrill) -> DrillResult:
        request_id = f"drill-{uuid.uuid4().hex}"
        async with gateway.connect() as client:
            await ask(gateway, client, model, request_id, stream=stream)
            was_live = await gateway.until_live(request_id)
            if not stream:
                await trio.sleep(0.3)  # for some tokens to be there that nobody has seen
            if after_chunks is not None:
                await client.read_head()
                for _ in range(after_chunks):
                    await client.read_chunk()
            left_at = trio.current_time()
            await (client.fin() if how == "fin" else client.rst())
        released_ms = await gateway.gone_after(request_id, left_at)
        record = await gateway.record(request_id)
        expected = f"released within {RELEASE_MS:.0f} ms, outcome client_gone"
        if gateway.admin is None:
            return DrillResult("", expected, None, "no admin port to look at", None, record)
        seen = [] if was_live else ["it was never live"]
        if released_ms is None:
            seen.append("still live long after the client had left")
        if record is None and gateway.records is not None:
            seen.append("no record was written")
        if record is not None and (record["outcome"] != "client_gone"):
            seen.append(f"outcome {record['outcome']}")
        passed = not seen and released_ms is not None and released_ms <= RELEASE_MS
        upstream_ms = (record or {}).get("upstream_released_ms")
        told = f"upstream released in {upstream_ms} ms by its record" if upstream_ms is not None else "released"
        return DrillResult("", expected, passed, "; ".join(seen) or told, released_ms, record)

    return drill


# ── The upstream fails ───────────────────────────────────────────────────────────────────────────────────────────────


def _answers(
    model: str, expected: str, judge: Callable[[Seen, dict[str, Any] | None], bool], *, stream: bool = True
) -> Drill:
    """The client stays and sees; `judge` says whether that, and the record, are what they must be."""

    async def drill(gateway: GatewayUnderDrill) -> DrillResult:
        request_id = f"drill-{uuid.uuid4().hex}"
        seen = await stay(gateway, model, request_id, stream=stream, fields={"max_tokens": _WORDS})
        record = await gateway.record(request_id)
        is_recorded = record is not None or gateway.records is None
        told = seen.told() if is_recorded else f"{seen.told()}; no record was written"
        return DrillResult("", expected, is_recorded and judge(seen, record), told, None, record)

    return drill


def _outcome(record: dict[str, Any] | None, *outcomes: str) -> bool:
    return record is None or record["outcome"] in outcomes


def _is_whole(seen: Seen, record: dict[str, Any] | None) -> bool:
    return seen.status == 200 and seen.is_done and seen.ended == "whole" and _outcome(record, "completed")


def _is_one_answer(seen: Seen, record: dict[str, Any] | None) -> bool:
    return (
        seen.status == 200
        and b'"chat.completion"' in seen.body
        and seen.ended == "whole"
        and _outcome(record, "completed")
    )


def _is_stall(seen: Seen, record: dict[str, Any] | None) -> bool:
    return seen.in_band_error == "timeout_idle" and _outcome(record, "timeout_idle")


def _is_cut(seen: Seen, record: dict[str, Any] | None) -> bool:
    return seen.in_band_error is not None and _outcome(record, "upstream_truncated", "upstream_error")


def _is_refusal(seen: Seen, record: dict[str, Any] | None) -> bool:
    is_true = seen.status is not None and seen.status >= 400 and not seen.events and seen.error is not None
    return is_true and _outcome(record, "upstream_error")


def _is_rate_limit(seen: Seen, record: dict[str, Any] | None) -> bool:
    waits = seen.head.header("retry-after") if seen.head is not None else None
    return seen.status == 429 and waits == "7" and _outcome(record, "upstream_error", "limit", "refused")


def _is_counted(seen: Seen, record: dict[str, Any] | None) -> bool:
    is_in_books = record is None or (
        record["usage_source"] in ("counted", "estimated") and record["completion_tokens"] > 0
    )
    return _is_whole(seen, record) and '"usage":{' in "".join(seen.events).replace(" ", "") and is_in_books


_DRILLS: tuple[tuple[str, str, Drill], ...] = (
    ("a stream runs to its end", "demo-fast", _answers("demo-fast", "a whole stream", _is_whole)),
    ("an answer in one piece", "demo-fast", _answers("demo-fast", "one answer", _is_one_answer, stream=False)),
    (
        "client leaves before the head (FIN)",
        "demo-slow-first-token",
        leaves("demo-slow-first-token", "fin", after_chunks=None),
    ),
    (
        "client leaves before the head (RST)",
        "demo-slow-first-token",
        leaves("demo-slow-first-token", "rst", after_chunks=None),
    ),
    ("client leaves before the first token", EARLY_HEAD_MODEL, leaves(EARLY_HEAD_MODEL, "fin", after_chunks=1)),
    ("client leaves in mid-stream (FIN)", "demo-endless", leaves("demo-endless", "fin", after_chunks=5)),
    ("client leaves in mid-stream (RST)", "demo-endless", leaves("demo-endless", "rst", after_chunks=5)),
    (
        "client leaves, not streaming",
        "demo-endless",
        leaves("demo-endless", "fin", after_chunks=None, stream=False),
    ),
    ("upstream falls silent", "demo-stall", _answers("demo-stall", "one error timeout_idle, no [DONE]", _is_stall)),
    ("upstream is cut", "demo-cut", _answers("demo-cut", "one error in band, no [DONE]", _is_cut)),
    ("upstream sends garbage", "demo-garbage", _answers("demo-garbage", "one error in band, no [DONE]", _is_cut)),
    (
        "upstream fails inside a 200",
        "demo-error-in-200",
        _answers("demo-error-in-200", "a true status of 400 or more, no stream", _is_refusal),
    ),
    ("upstream says 429", "demo-429", _answers("demo-429", "429 with Retry-After: 7", _is_rate_limit)),
    (
        "upstream reports no usage",
        "demo-no-usage",
        _answers("demo-no-usage", "a whole stream with usage that the gateway counted", _is_counted),
    ),
)


# ── At the end ───────────────────────────────────────────────────────────────────────────────────────────────────────


async def _nothing_left(gateway: GatewayUnderDrill, files_before: int | None) -> DrillResult:
    name, expected = "nothing is left behind", "no exchange of a drill, no more file descriptors than before"
    live = await gateway.live()
    if live is None:
        return DrillResult(name, expected, None, "no admin port to look at")
    left = sorted(one for one in live if one.startswith("drill-"))
    files = gateway.open_files()
    with trio.move_on_after(2):
        while files is not None and files_before is not None and files > files_before:
            await trio.sleep(0.05)
            files = gateway.open_files()
    grew = files is not None and files_before is not None and files > files_before
    seen = f"{len(left)} exchanges" + (
        f", {files} file descriptors ({files_before} before)" if files is not None else ""
    )
    return DrillResult(name, expected, not left and not grew, seen)


async def _drain(gateway: GatewayUnderDrill) -> DrillResult:
    name = "SIGTERM with streams in flight"
    expected = "the short stream whole, the endless one ended by an error, new work refused, exit code 0"
    process = gateway.process
    if process is None:
        return DrillResult(name, expected, None, "only for a gateway that the drill starts")
    short, endless, endless_id = Seen(), Seen(), f"drill-{uuid.uuid4().hex}"
    refused = False
    code: int | None = None
    with trio.move_on_after(gateway.patience + DRAIN_SECONDS):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(stay_into, short, gateway, "demo", f"drill-{uuid.uuid4().hex}", {"max_tokens": _WORDS})
            nursery.start_soon(stay_into, endless, gateway, "demo-endless", endless_id, {})
            await gateway.until_live(endless_id)
            await trio.sleep(0.3)
            terminate(gateway)
            await trio.sleep(0.1)
            refused = await is_refusing(gateway)
            code = await process.wait()
    record = await gateway.record(endless_id)
    passed = _is_whole(short, None) and endless.in_band_error is not None and refused and code == 0
    passed = passed and _outcome(record, "shutdown")
    late = "refused" if refused else "taken"
    seen = f"short: {short.told()}; endless: {endless.told()}; new work {late}; exit code {code}"
    return DrillResult(name, expected, passed, seen, None, record)
