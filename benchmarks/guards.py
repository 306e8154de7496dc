"""What guards cost: a row for each kind, and one for all eight together, beside the same gateway without any.

    delay     a chunk every few milliseconds: TTFT, gaps between chunks, and how late a word is
    cpu       processor time of the gateway for a chunk, where chunks come alone and where they come in bursts
    memory    resident memory of an open stream, each kind in a fresh process
    release   from the chunk that a guard cuts at until the provider is released

All four, or those that are named on the command line. The provider, the models and the web service that guards ask are
played in the benchmark's own process; those that are asked answer after 20 ms, which no gateway can save.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections import defaultdict
from dataclasses import dataclass, field
from itertools import accumulate, pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import trio
from lab import PATH, Command, Report, percentile, raise_file_limit

from trio_ai_proxy.testing import RawClient, Script, ScriptedServer, Step, openai_answer, openai_stream

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator, Mapping

    from trio_ai_proxy.testing import ReceivedRequest
    from trio_ai_proxy.testing.raw import TimedChunk

THINKING = 0.020  # seconds after which a model or a web service that is asked has answered
PACE = 0.005
WINDOW = 64
SECRET = "sk-9fQ2xLm7RbTz4WcKpN8vYhJ3dGsE6uAo1Xi5t"
TICKS = os.sysconf("SC_CLK_TCK")
PATIENCE = 120.0
WORDS_BEFORE = 40  # so that something has left before a guard cuts
RELEASE_SECONDS = 0.010  # beyond what is waited for a verdict

GUARDS = """
[guards.decorate]
kind = "decorate"
prepend = [{{ role = "system", content = "Answer in the language of the question." }}]
[guards.template]
kind = "template"
[guards.template.templates.tell]
messages = [{{ role = "user", content = "Tell me about {{{{what}}}}." }}]
[guards.prompt_guard]
kind = "prompt_guard"
deny = ['(?i)ignore (all|the) previous instructions', '(?i)\\bpassword\\b']
[guards.redact]
kind = "redact"
patterns = ["email", "card", "iban", "phone", "ip", "api_key", {{ name = "employee", regex = 'E[0-9]{{6}}' }}]
[guards.request_transformer]
kind = "request_transformer"
model = "small"
prompt = "ASK"
[guards.fields]
kind = "response_transformer"
json = {{ add = {{ served_by = "us" }}, remove = ["system_fingerprint"] }}
response_headers = {{ add = {{ x-served-by = "us" }} }}
[guards.response_transformer]
kind = "response_transformer"
model = "small"
prompt = "ANSWER"
[guards.moderate]
kind = "moderate"
model = "moderation"
window = {window}
[guards.beside]
kind = "moderate"
model = "moderation"
window = {window}
mode = "beside"
[guards.webhook]
kind = "webhook"
url = "{url}/judge"
window = {window}
[guards.block]
kind = "redact"
patterns = ["api_key"]
action = "block"
"""
# name in the table: the guards of that model
KINDS: dict[str, tuple[str, ...]] = {
    "none": (),
    "decorate": ("decorate",),
    "template": ("template",),
    "prompt_guard": ("prompt_guard",),
    "redact": ("redact",),
    "request_transformer": ("request_transformer",),
    "response_transformer, fields": ("fields",),
    "response_transformer, model": ("response_transformer",),
    "moderate, hold": ("moderate",),
    "moderate, beside": ("beside",),
    "webhook, hold": ("webhook",),
    "all eight": (
        *("template", "decorate", "prompt_guard", "redact", "request_transformer", "response_transformer"),
        *("moderate", "webhook"),
    ),
}
CUTTING = {
    "redact": ("block",),
    "moderate, hold": ("moderate",),
    "moderate, beside": ("beside",),
    "webhook, hold": ("webhook",),
}


def words(count: int) -> list[str]:
    """What the provider says: a sentence is twelve words."""
    return [f" word{number}{'.' if number % 12 == 11 else ''}" for number in range(count)]


def show(report: Report) -> int:
    """Print it all, in Markdown; the exit code."""
    print(f"\n{report.title}\n")
    for line in (report.columns, ["---"] + ["---:"] * (len(report.columns) - 1), *report.rows):
        print(f"| {' | '.join(line)} |")
    print()
    for holds, claim in report.checks:
        print(f"{'ok    ' if holds else 'FAILED'} {claim}")
    sys.stdout.flush()
    return 0 if all(holds for holds, _ in report.checks) else 1


@dataclass
class House:
    """The provider, and those that are asked. `sent` says when each word of a stream was on its way, by the stream's number."""

    count: int
    pause: float
    ending: Any = "close"
    offends_at: int | None = None
    sent: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))

    def answer(self, request: ReceivedRequest) -> Script:
        fields = request.json()
        if request.path.endswith("/judge"):
            bad = SECRET in fields["context"] + fields["text"]
            return _json({"action": "block", "reason": "a key"} if bad else {"action": "pass"})
        if request.path.endswith("/moderations"):
            bad = SECRET in str(fields["input"])
            found = {"flagged": bad, "categories": {"keys": bad}, "category_scores": {"keys": float(bad)}}
            return _json({"id": "modr-1", "model": "moderation", "results": [found]})
        if fields["model"] == "small":
            told, shown = fields["messages"][0]["content"], json.loads(fields["messages"][-1]["content"])
            text = shown["messages"][-1]["content"] if told.startswith("ASK") else shown["text"]
            return openai_answer(text, usage=(1, 1), head_pause=THINKING)
        return Script(steps=lambda: self._steps(fields["user"]), ending=self.ending)

    def _steps(self, user: str) -> Iterator[Step]:
        role, *others = openai_stream(words(self.count), usage=(8, self.count)).steps()
        yield role
        times = self.sent[user]
        for number, step in enumerate(others[: self.count]):
            if number == self.offends_at:
                [_, bad] = list(openai_stream([f" {SECRET} "], ends=False).steps())
                yield Step(self.pause, b"")
                times.append(trio.current_time())
                yield Step(0.0, bad.chunk)
                yield Step(0.0, step.chunk * 20)  # the window that it is in becomes full
                while True:
                    yield Step(1.0, step.chunk)
            yield Step(self.pause, step.chunk)
            # Asked for the next one when this one has been written.
            times.append(trio.current_time())
        if self.ending == "close":
            yield from others[self.count :]


def _json(document: object) -> Script:
    body = json.dumps(document).encode()
    return Script(
        headers=(("content-type", "application/json"),), steps=lambda: iter([Step(0.0, body)]), head_pause=THINKING
    )


def config(url: str, kinds: Mapping[str, tuple[str, ...]]) -> str:
    """TOML: the guards, and a model for each of `kinds`."""
    text = f'[tokens]\nload_timeout = 0.1\n[providers.played]\nkind = "openai"\nbase_url = "{url}/v1"\napi_key = "x"\n'
    text += "max_in_flight = 100000\n[timeouts]\nidle = 600\ntotal = 3600\nabandoned = 600\n" + GUARDS.format(
        url=url, window=WINDOW
    )
    for name, guards in {**kinds, "small": (), "moderation": ()}.items():
        model = "omni-moderation-latest" if name == "moderation" else "small" if name == "small" else "m"
        text += f'[models."{name}"]\nretries = 0\nguards = {json.dumps(guards)}\n'
        text += f'targets = [{{ provider = "played", model = "{model}" }}]\n'
    return text


@dataclass
class Seen:
    """What one client saw: when it asked, the chunks, and what is wrong with the answer."""

    user: str
    asked_at: float
    chunks: list[TimedChunk] = field(default_factory=list)
    error: str | None = None

    def progress(self) -> list[tuple[float, int]]:
        """When text came, and how many characters there were by then."""
        found: list[tuple[float, int]] = []
        characters, pending = 0, b""
        for chunk in self.chunks:
            *events, pending = (pending + chunk.data).split(b"\n\n")
            before = characters
            for event in events:
                if event.startswith(b"data: {"):
                    document = msgspec.json.decode(event[6:])
                    said = [choice["delta"].get("content") or "" for choice in document.get("choices", ())]
                    characters += len("".join(said))
            if characters > before:
                found.append((chunk.at, characters))
        return found

    @property
    def body(self) -> bytes:
        return b"".join(chunk.data for chunk in self.chunks)


def asking(name: str, user: str) -> dict[str, Any]:
    fields: dict[str, Any] = {"model": name, "stream": True, "user": user}
    if "template" in KINDS.get(name, ()):
        return {**fields, "messages": "{template://tell}", "properties": {"what": "the river"}}
    return {**fields, "messages": [{"role": "user", "content": "Tell me about the river."}]}


async def ask(gateway: Command, name: str, user: str, *, count: int | None) -> Seen:
    """One stream, read to its end; of `count` words where that is given, and then to the letter."""
    seen = Seen(user, trio.current_time())
    with trio.fail_after(PATIENCE):
        async with RawClient("127.0.0.1", gateway.port) as client:
            await client.post(PATH, json=asking(name, user))
            head = await client.read_head()
            seen.chunks = await client.read_body()
    if head.status != 200:
        seen.error = f"status {head.status}: {seen.body[:200]!r}"
    elif not seen.body.endswith(b"data: [DONE]\n\n"):
        seen.error = f"no [DONE]: {seen.body[-200:]!r}"
    elif count is not None and (seen.progress() or [(0.0, 0)])[-1][1] != len("".join(words(count))):
        seen.error = "another text"
    return seen


async def several(
    gateway: Command, name: str, streams: int, *, count: int | None, at_a_time: int, label: str
) -> list[Seen]:
    """So many streams, some at a time."""
    found: list[Seen] = []
    limit = trio.CapacityLimiter(at_a_time)

    async def one(number: int) -> None:
        async with limit:
            found.append(await ask(gateway, name, f"{name} {label} {number}", count=count))

    async with trio.open_nursery() as nursery:
        for number in range(streams):
            nursery.start_soon(one, number)
    return found


def check_all(report: Report, name: str, seen: list[Seen]) -> None:
    faults = sorted({one.error for one in seen if one.error is not None})
    if faults:
        report.check(False, f"{name}: {faults[0]}")


# ── delay ────────────────────────────────────────────────────────────────────────────────────────────────────────────


async def delay(options: argparse.Namespace) -> Report:
    rounds, streams, count = (2, 8, 60) if options.quick else (5, 20, 120)
    report = Report(
        f"delay: {rounds * streams} streams of {count} words, one every {PACE * 1000:g} ms, 4 at a time; milliseconds. "
        "*Late* is from the provider's write of a word to the client's read of all of it. *Unavoidable* is what of that is "
        "waiting for the blank behind a word (`redact`), for the end of a sentence or window, and "
        f"{THINKING * 1000:g} ms a verdict; *own* is the rest.",
        ("guards", "TTFT p50", "p99", "gap p50", "p99", "late p50", "p99", "unavoidable p50", "own p50", "p99"),
    )
    house = House(count, PACE)
    all_seen: dict[str, list[Seen]] = {name: [] for name in KINDS}
    async with ScriptedServer(house.answer) as server, Command(config(server.url, KINDS)) as gateway:
        for name in KINDS:  # code is loaded and connections are open
            check_all(report, name, await several(gateway, name, 4, count=count, at_a_time=4, label="warm"))
        for turn in range(rounds):  # by turns, so that all meet the same neighbours
            for name, seen in all_seen.items():
                seen += await several(gateway, name, streams, count=count, at_a_time=4, label=str(turn))
    ends = list(accumulate(map(len, words(count))))
    for name, seen in all_seen.items():
        check_all(report, name, seen)
        ttfts, gaps, late, bound, own = [], [], [], [], []
        for one in seen:
            progress = one.progress()
            ttfts += [(progress[0][0] - one.asked_at) * 1000] if progress else []
            gaps += [(after[0] - before[0]) * 1000 for before, after in pairwise(progress)]
            left = iter(progress)
            at, there = next(left, (0.0, 0))
            times = house.sent[one.user]
            for end, sent, least in zip(ends, times, earliest(name, count, times), strict=True):
                while there < end:
                    at, there = next(left, (at, sys.maxsize))
                late.append((at - sent) * 1000)
                bound.append((least - sent) * 1000)
                own.append((at - least) * 1000)
        figures = [percentile(values, share) for values in (ttfts, gaps, late) for share in (0.5, 0.99)]
        report.row(name, *figures, percentile(bound, 0.5), percentile(own, 0.5), percentile(own, 0.99))
    asked = [one for seen in all_seen.values() for one in seen]
    whole = sum(one.error is None for one in asked)
    report.check(whole == len(asked), f"{whole} of {len(asked)} answers were whole, to the letter")
    return report


def earliest(name: str, count: int, sent: list[float]) -> list[float]:
    """When each word could be with the client if nothing took time but what guards wait for: the blank behind a word, the end
    of a sentence or window, a verdict. `sent` says when the words were written."""
    said = words(count)
    text = "".join(said)
    at = [written for word, written in zip(said, sent, strict=True) for _ in word]
    for guard in KINDS[name]:
        out, shut = list(at), at[-1]
        for place in range(len(text) - 1, -1, -1):
            if guard == "redact":
                if text[place] == " ":
                    shut = at[place]
                else:
                    out[place] = shut
            elif guard == "response_transformer":
                out[place] = shut + THINKING
                if text[max(place - 1, 0)] == ".":  # this is the blank behind the sentence before
                    shut = at[place]
            elif guard in ("moderate", "webhook"):
                if (place + 1) % WINDOW == 0:
                    shut = at[place]
                out[place] = shut + THINKING
        at = out
    ends = accumulate(map(len, said))
    return [at[end - 1] for end in ends]


# ── cpu ──────────────────────────────────────────────────────────────────────────────────────────────────────────────


def cpu_seconds(pid: int) -> float:
    """Processor time of a process so far."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICKS


async def cpu(options: argparse.Namespace) -> Report:
    rounds, streams, count = (2, 8, 250) if options.quick else (5, 16, 500)
    report = Report(
        "cpu: microseconds of the gateway's processor time for a chunk of one word, a stream's own share in it; "
        f"{rounds} rounds of {streams} streams of {count} chunks, 8 at a time. *none* is the byte path.",
        ("guards", "alone (2 ms apart)", "of none", "in bursts", "of none"),
    )
    spent: dict[tuple[str, float], float] = defaultdict(float)
    for pause in (0.002, 0.0):
        house = House(count, pause)
        async with ScriptedServer(house.answer) as server, Command(config(server.url, KINDS)) as gateway:
            for name in KINDS:
                await several(gateway, name, 4, count=count, at_a_time=4, label="warm")
            for turn in range(rounds):
                for name in KINDS:
                    began = cpu_seconds(gateway.worker_pid)
                    seen = await several(gateway, name, streams, count=count, at_a_time=8, label=str(turn))
                    spent[name, pause] += cpu_seconds(gateway.worker_pid) - began
                    check_all(report, name, seen)
    for name in KINDS:
        cells: list[object] = []
        for pause in (0.002, 0.0):
            each = spent[name, pause] / rounds / streams / count * 1e6
            first = spent["none", pause] / rounds / streams / count * 1e6
            cells += [f"{each:,.0f}", f"{each / first:.1f}"]
        report.row(name, *cells)
    return report


# ── memory ───────────────────────────────────────────────────────────────────────────────────────────────────────────


async def memory(options: argparse.Namespace) -> Report:
    streams = 200 if options.quick else 1000
    raise_file_limit()
    report = Report(
        f"memory: KiB of resident memory for each of {streams} open streams that have had thirty words and wait; "
        "a fresh process each.",
        ("guards", "KiB a stream", "more than none"),
    )
    base = 0.0
    for name in ("none", "redact", "response_transformer, fields", "moderate, hold", "webhook, hold", "all eight"):
        house = House(30, 0.0, ending="stall")
        async with (
            ScriptedServer(house.answer) as server,
            Command(config(server.url, {name: KINDS[name]})) as gateway,
        ):
            waiting = Waiting(gateway, name)
            await waiting.hold(10)
            before = gateway.rss_kib()
            opened = await waiting.hold(streams)
            each = opened and (gateway.rss_kib() - before) / streams
        base = each if name == "none" else base
        report.row(name, each, "" if name == "none" else each - base)
        report.check(opened == streams, f"{name}: {opened} of {streams} streams were open")
    return report


class Waiting:
    """Clients that have what there is to have, and wait. They stay until the gateway ends."""

    def __init__(self, gateway: Command, name: str) -> None:
        self._gateway = gateway
        self._name = name
        self._clients: list[RawClient] = []

    async def hold(self, count: int) -> int:
        """Open `count` more streams; how many of them have begun to speak, when all is quiet."""
        opened = 0
        limit = trio.CapacityLimiter(20)

        async def one(number: int) -> None:
            nonlocal opened
            async with limit:
                client = RawClient("127.0.0.1", self._gateway.port)
                self._clients.append(await client.__aenter__())
                await client.post(PATH, json=asking(self._name, f"waits {number}"))
                head = await client.read_head()
                opened += head.status == 200 and await client.read_chunk() is not None

        with trio.fail_after(PATIENCE):
            async with trio.open_nursery() as nursery:
                for number in range(count):
                    nursery.start_soon(one, number)
            await trio.sleep(0.5)
        return opened


# ── release ──────────────────────────────────────────────────────────────────────────────────────────────────────────


async def release(options: argparse.Namespace) -> Report:
    streams = 25 if options.quick else 100
    report = Report(
        "release: milliseconds from the write of a chunk at which a guard cuts to the end of the provider's connection; "
        f"{streams} streams, one at a time. A verdict takes {THINKING * 1000:g} ms.",
        ("guards", "p50", "p99", "max", "max without the verdict"),
    )
    house = House(WORDS_BEFORE + 1, PACE, offends_at=WORDS_BEFORE)
    async with ScriptedServer(house.answer) as server, Command(config(server.url, CUTTING)) as gateway:
        for name in CUTTING:
            took = []
            for number in range(streams + 3):
                seen = await ask(gateway, name, f"{name} {number}", count=None)
                exchange = next(one for one in server.exchanges[::-1] if b'"stream":true' in one.request.body)
                with trio.fail_after(PATIENCE):
                    await exchange.over.wait()
                bound = exchange.released_at
                if number >= 3 and bound is not None:
                    took.append((bound - house.sent[seen.user][WORDS_BEFORE]) * 1000)
                report.checks += [(False, f"{name}: {seen.error}")] if seen.error else []
                if SECRET.encode() in seen.body and name != "moderate, beside":
                    report.check(False, f"{name}: what it cuts at has left")
            unavoidable = 0.0 if name == "redact" else THINKING * 1000
            worst = max(took, default=float("nan"))
            report.row(name, percentile(took, 0.5), percentile(took, 0.99), worst, worst - unavoidable)
            report.check(len(took) == streams, f"{name}: {len(took)} of {streams} were released in mid-stream")
            typical = percentile(took, 0.5) - unavoidable
            report.check(typical < RELEASE_SECONDS * 1000, f"{name}: mostly within {typical:.1f} ms of the verdict")
    return report


PARTS: dict[str, Callable[[argparse.Namespace], Awaitable[Report]]] = {
    "delay": delay,
    "cpu": cpu,
    "memory": memory,
    "release": release,
}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", choices=[[], *PARTS], help="which; none: all")
    parser.add_argument("--quick", action="store_true", help="a smaller number of everything")
    parser.add_argument("--seed", type=int, default=1, help="for benchmarks/run.py; nothing is chosen at random here")
    options = parser.parse_args()
    codes = []
    for part in options.parts or PARTS:
        report: Report = trio.run(PARTS[part], options)
        codes.append(show(report))
    return max(codes)


if __name__ == "__main__":
    sys.exit(main())
