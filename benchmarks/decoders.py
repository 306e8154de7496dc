"""What it costs to understand a provider: CPU time per frame of more text, for each wire, from its recordings.

python benchmarks/decoders.py            print the table
python benchmarks/decoders.py --quick    a tenth of the repeats
python benchmarks/decoders.py --write    and put it into docs/performance.md
"""

from __future__ import annotations

import argparse
import gc
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

from support.accounts import WIRES, account, media_type_of  # noqa: E402
from support.recordings import recordings  # noqa: E402

from trio_ai_proxy.chat.events import TextDelta  # noqa: E402
from trio_ai_proxy.chat.request import ChatRequest  # noqa: E402
from trio_ai_proxy.dialects.table import DIALECTS  # noqa: E402
from trio_ai_proxy.errors import UpstreamError  # noqa: E402
from trio_ai_proxy.relay.passthrough import PassThrough  # noqa: E402
from trio_ai_proxy.relay.translation import Names, Translation  # noqa: E402

if TYPE_CHECKING:
    from collections.abc import Callable

    from trio_ai_proxy.framing.frame import Frame
    from trio_ai_proxy.providers.base import Provider

FRAMES = 2_000
ROUNDS = 30
MAX_RATIO = 10.0  # a decoder that costs more than so many times OpenAI's has lost its way
BEGIN, END = "<!-- decoders: written by benchmarks/decoders.py -->", "<!-- decoders: end -->"
REQUEST = ChatRequest(
    "chat", "m", stream=True, include_usage=False, fields={"messages": [{"role": "user", "content": "hi"}]}
)
NAMES = Names(id="made-up", model=None, asked="asked", created=17)


@dataclass(frozen=True)
class Sample:
    """A stream that has begun, and a frame of it that brings more text."""

    wire: str
    provider: Provider
    media_type: str
    before: list[Frame]
    more: Frame


def find_sample(wire: str) -> Sample:
    """The first recording of `wire` in which a frame, said twice, brings text twice and nothing else."""
    provider = account(wire)
    for recording in sorted(recordings(wire), key=lambda one: one.name not in ("text", "chat_text", "chat")):
        if recording.operation != "chat":
            continue
        media_type = media_type_of(provider, recording.response)
        framer, decoder = provider.framer(media_type), provider.decoder(REQUEST)
        before: list[Frame] = []
        try:
            for frame in framer.feed(recording.response):
                events = decoder.feed(frame)
                if len(events) == 1 and type(events[0]) is TextDelta:
                    again = decoder.feed(frame)
                    if len(again) == 1 and type(again[0]) is TextDelta:
                        return Sample(wire, provider, media_type, [*before, frame], frame)
                before.append(frame)
        except UpstreamError:
            continue
    raise LookupError(f"no recording of {wire} has a frame of more text")


def cost(prepare: Callable[[], Callable[[], None]], rounds: int) -> float:
    """Microseconds of CPU per frame: the best of `rounds`, each on a stream of its own."""
    best = float("inf")
    for _ in range(rounds):
        run = prepare()
        gc.disable()
        began = time.process_time_ns()
        run()
        spent = time.process_time_ns() - began
        gc.enable()
        best = min(best, spent / FRAMES / 1000)
    return best


def decoding(sample: Sample) -> Callable[[], None]:
    decoder = sample.provider.decoder(REQUEST)
    for frame in sample.before:
        decoder.feed(frame)
    feed, more = decoder.feed, sample.more

    def run() -> None:
        for _ in range(FRAMES):
            feed(more)

    return run


def framing(sample: Sample) -> Callable[[], None]:
    framer = sample.provider.framer(sample.media_type)
    for frame in sample.before:
        framer.feed(frame.raw)
    feed, raw = framer.feed, sample.more.raw

    def run() -> None:
        for _ in range(FRAMES):
            feed(raw)

    return run


def passing(sample: Sample) -> Callable[[], None]:
    """All of it: cut, read, and written for the client; each frame comes alone."""
    framer, decoder = sample.provider.framer(sample.media_type), sample.provider.decoder(REQUEST)
    dialect = DIALECTS["llm/v1/chat"]
    path: PassThrough | Translation
    if sample.provider.wire == dialect.wire:
        path = PassThrough(framer, decoder, client_model="asked", hide_usage=True)
    else:
        path = Translation(framer, decoder, dialect, NAMES, REQUEST)
    for frame in sample.before:
        path.feed(frame.raw)
    feed, raw = path.feed, sample.more.raw
    assert feed(raw).out, sample.wire

    def run() -> None:
        for _ in range(FRAMES):
            feed(raw)

    return run


def measure(rounds: int) -> tuple[str, bool]:
    """The table, and whether every decoder is within bounds."""
    rows = [
        "| wire | bytes a frame | cut, µs | read, µs | × openai | all, µs |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    samples = sorted((find_sample(wire) for wire in WIRES), key=lambda sample: sample.wire != "openai")
    base = 0.0
    sound = True
    for sample in samples:
        cut, read, whole = (
            cost(lambda sample=sample, part=part: part(sample), rounds) for part in (framing, decoding, passing)
        )
        base = base or read
        sound = sound and read <= MAX_RATIO * base
        rows.append(
            f"| {sample.wire} | {len(sample.more.raw)} | {cut:.2f} | {read:.2f} | {read / base:.1f} | {whole:.2f} |"
        )
    return "\n".join(rows), sound


def main() -> int:
    """Exit code: 0 if no decoder costs more than ten times OpenAI's."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--write", action="store_true")
    options = parser.parse_args()
    table, sound = measure(ROUNDS // 10 if options.quick else ROUNDS)
    print(table)
    if options.write:
        page = ROOT / "docs" / "performance.md"
        before, _, rest = page.read_text(encoding="utf-8").partition(BEGIN)
        _, _, after = rest.partition(END)
        page.write_text(f"{before}{BEGIN}\n{table}\n{END}{after}", encoding="utf-8")
    return 0 if sound else 1


if __name__ == "__main__":
    raise SystemExit(main())
