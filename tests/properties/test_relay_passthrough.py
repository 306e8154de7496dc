from __future__ import annotations

import json
from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from trio_ai_proxy.chat.events import Ended, TextDelta
from trio_ai_proxy.framing.sse import SSEFramer
from trio_ai_proxy.providers.openai_stream import OpenAIDecoder
from trio_ai_proxy.relay.passthrough import PassThrough

_TEXTS = st.lists(st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=20), min_size=1, max_size=6)


def stream_of(texts: list[str], line_end: str, *, ascii_only: bool) -> bytes:
    frames = []
    for text in texts:
        chunk = {"model": "real", "choices": [{"index": 0, "delta": {"content": text}}]}
        frames.append(f"data: {json.dumps(chunk, ensure_ascii=ascii_only)}{line_end}{line_end}")
    frames.append(f'data: {{"choices":[{{"index":0,"delta":{{}},"finish_reason":"stop"}}]}}{line_end}{line_end}')
    frames.append(f"data: [DONE]{line_end}{line_end}")
    return "".join(frames).encode()


@given(
    _TEXTS, st.sampled_from(["\n", "\r\n"]), st.booleans(), st.lists(st.integers(0, 2_000), max_size=6), st.booleans()
)
def test_every_text_arrives_whole_however_the_stream_is_cut(
    texts: list[str], line_end: str, ascii_only: bool, cuts: list[int], rename: bool
) -> None:
    stream = stream_of(texts, line_end, ascii_only=ascii_only)
    places = sorted({0, len(stream), *(cut for cut in cuts if cut < len(stream))})
    path = PassThrough(
        SSEFramer(), OpenAIDecoder("chat", str), client_model='as"ked' if rename else None, hide_usage=True
    )
    batches = [path.feed(stream[start:stop]) for start, stop in pairwise(places)]
    batches.append(path.close())
    events = [event for batch in batches for event in batch.events]
    assert [event.text for event in events if isinstance(event, TextDelta)] == texts
    assert events[-1] == Ended()

    # What the client reads, with a reader of its own.
    out = b"".join(batch.out for batch in batches)
    frames = [json.loads(line[6:]) for line in out.decode().split(line_end * 2) if line]
    assert [frame["choices"][0]["delta"].get("content") for frame in frames] == [*texts, None]
    assert {frame.get("model") for frame in frames[:-1]} == {'as"ked' if rename else "real"}


@given(st.binary(max_size=300), st.lists(st.integers(0, 300), max_size=4))
def test_no_bytes_of_a_provider_make_it_raise(noise: bytes, cuts: list[int]) -> None:
    stream = stream_of(["a"], "\n", ascii_only=True)[:60] + noise
    places = sorted({0, len(stream), *(cut for cut in cuts if cut < len(stream))})
    path = PassThrough(SSEFramer(), OpenAIDecoder("chat", str), client_model="m", hide_usage=True)
    batches = [path.feed(stream[start:stop]) for start, stop in pairwise(places)]
    batches.append(path.close())
    assert sum(batch.ended or batch.error is not None for batch in batches) == 1
