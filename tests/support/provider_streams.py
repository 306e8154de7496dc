"""Plays streams and documents to a provider's readers, as the relay would."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from hypothesis import strategies as st
from support.decoding import decode_all

from trio_ai_proxy.chat.events import Ended, Event, Failed, TextDelta, ToolCallDelta
from trio_ai_proxy.chat.fold import Answer, Fold
from trio_ai_proxy.chat.request import ChatRequest, Operation
from trio_ai_proxy.errors import UpstreamError
from trio_ai_proxy.providers.base import EVENT_STREAM
from trio_ai_proxy.providers.table import build_provider
from trio_ai_proxy.settings import ProviderSettings, Secret

if TYPE_CHECKING:
    from collections.abc import Iterable

    from support.recordings import Recording

    from trio_ai_proxy.providers.base import Provider

KEY = Secret("sk-1234567890", "a test")
ASKED: dict[Operation, dict[str, Any]] = {
    "chat": {"messages": [{"role": "user", "content": "hi"}]},
    "completions": {"prompt": "hi"},
    "embeddings": {"input": ["hi"]},
    "moderations": {"input": "hi"},
}


def provider(kind: str, **settings: Any) -> Provider:
    """An account of that kind."""
    return build_provider(ProviderSettings(**{"name": "p", "kind": kind, "api_key": KEY, **settings}))


def asked(operation: Operation = "chat", *, stream: bool = True, **fields: Any) -> ChatRequest:
    """A request for `operation` with `fields` beside those that every one has."""
    return ChatRequest(operation, "asked", stream, False, {"model": "asked", **ASKED[operation], **fields})


def play(
    provider: Provider, request: ChatRequest, pieces: list[bytes], media_type: str = EVENT_STREAM
) -> tuple[list[Event], str | None]:
    """What a stream that comes in `pieces` means, and the name of the error at which it ends, if it does. Its events must be
    the story of an answer; a server that gives no finish reason may leave it out."""
    return decode_all(provider, request, pieces, media_type, reasons_required=False)


def fold(events: list[Event]) -> Answer:
    """`events`, gathered."""
    gathered = Fold()
    for event in events:
        gathered.add(event)
    return gathered.answer()


def assert_only_whole_streams_end(provider: Provider, recording: Recording, terminals: tuple[bytes, ...]) -> None:
    """Whatever is cut off the end of a recording, the rest is called whole only if one of `terminals` is in it."""
    request = asked(recording.operation)
    for length in range(len(recording.response)):
        cut = recording.response[:length]
        events, raised = play(provider, request, [cut])
        if any(isinstance(event, Failed) for event in events):
            continue
        assert (raised is None) == (Ended() in events)
        if raised is None:
            assert any(terminal in cut for terminal in terminals)
        # A call is never told by halves of its head.
        calls = [event for event in events if isinstance(event, ToolCallDelta)]
        told = {event.call for event in calls if event.name}
        assert all(event.call in told for event in calls)
        assert all(event.text for event in events if isinstance(event, TextDelta))


def play_nonsense(provider: Provider, request: ChatRequest, stream: bytes) -> None:
    """Play a stream that need not make sense. Raises what is no error of ours."""
    framer, decoder = provider.framer(), provider.decoder(request)
    try:
        for frame in [*framer.feed(stream), *framer.close()]:
            decoder.feed(frame)
        decoder.close()
    except UpstreamError:
        pass


def anything(names: Iterable[str]) -> st.SearchStrategy[Any]:
    """JSON of any shape, in which the keys are some of `names`."""
    plain = st.none() | st.booleans() | st.integers(-(10**30), 10**30) | st.floats() | st.text(max_size=3)
    keys = st.sampled_from(sorted(names))
    return st.recursive(
        plain, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(keys, inner, max_size=4), max_leaves=8
    )
