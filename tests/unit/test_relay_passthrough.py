from __future__ import annotations

import json
from typing import Any

import pytest
from support.recordings import comparable, recordings, ways_to_cut

from trio_ai_proxy.chat.events import Ended, Failed, Finished, Started, TextDelta, UsageReported
from trio_ai_proxy.errors import TruncatedStream, UpstreamProtocolError, UpstreamStatus
from trio_ai_proxy.framing.sse import SSEFramer
from trio_ai_proxy.providers.openai_stream import OpenAIDecoder
from trio_ai_proxy.relay.passthrough import Batch, PassThrough, rename_model

DONE = b"data: [DONE]\n\n"


def passing(
    *, model: str | None = None, hide_usage: bool = False, operation: Any = "chat", max_frame_bytes: int = 10_000
) -> PassThrough:
    framer = SSEFramer(max_frame_bytes=max_frame_bytes)
    return PassThrough(framer, OpenAIDecoder(operation, str), client_model=model, hide_usage=hide_usage)


def frame(delta: Any = None, *, finish: str | None = None, model: str = "real", **more: Any) -> bytes:
    choice = {"index": 0, "delta": delta or {}, "finish_reason": finish}
    return b"data: " + json.dumps({"id": "i", "model": model, "choices": [choice], **more}).encode() + b"\n\n"


def usage_frame() -> bytes:
    return b'data: {"id":"i","model":"real","choices":[],"usage":{"prompt_tokens":1,"completion_tokens":2}}\n\n'


ROLE = frame({"role": "assistant", "content": ""})
TEXT = frame({"content": "a"})
FINISH = frame(finish="stop")


def run(path: PassThrough, pieces: list[bytes]) -> Batch:
    """All batches of a stream as one."""
    total = Batch()
    for batch in [*(path.feed(piece) for piece in pieces), path.close()]:
        assert not ((total.ended or total.error) and batch != Batch()), "something came after the end"
        total.out += batch.out
        total.events += batch.events
        total.ended |= batch.ended
        total.error = total.error or batch.error
    return total


class TestBytes:
    def test_pass_as_they_came(self) -> None:
        odd = b'data:  {"choices" : [ {"delta":\n data: \n: comment\nid: 7\ndata: {"content":"b"} } ] }\r\n\n'
        stream = ROLE + TEXT + odd + FINISH
        path = passing()
        assert path.feed(stream).out == stream

    def test_one_frame_alone_is_not_even_copied(self) -> None:
        path = passing()
        path.feed(TEXT)
        assert path.feed(TEXT).out == TEXT

    def test_frame_passes_when_it_is_whole(self) -> None:
        path = passing()
        assert path.feed(TEXT[:20]) == Batch()
        assert path.feed(TEXT[20:] + TEXT[:5]).out == TEXT

    @pytest.mark.parametrize("recording", recordings("openai"), ids=lambda recording: recording.name)
    def test_of_a_recording_are_the_same_however_it_is_cut(self, recording) -> None:
        whole = run(passing(operation=recording.operation), [recording.response])
        for pieces in ways_to_cut(recording.response):
            cut = run(passing(operation=recording.operation), pieces)
            assert (cut.out, comparable(cut.events), cut.ended) == (whole.out, comparable(whole.events), whole.ended)

    @pytest.mark.parametrize("recording", recordings("openai"), ids=lambda recording: recording.name)
    def test_of_a_recording_mean_what_the_recording_means(self, recording) -> None:
        """What the client gets says the same to it, but for the end, which is the caller's to write."""
        batch = run(passing(operation=recording.operation), [recording.response])
        failed = any(isinstance(event, Failed) for event in batch.events)
        assert batch.ended is (recording.raises is None and not failed)
        if recording.raises is not None:
            assert type(batch.error).__name__ == recording.raises
            assert isinstance(batch.events.pop(), Failed)
        assert comparable(batch.events) == recording.events
        assert b"[DONE]" not in batch.out
        assert b"ping" not in batch.out.replace(b": ping -", b"")
        again = run(passing(operation=recording.operation), [batch.out, DONE])
        spoken = [event for event in batch.events if not isinstance(event, Failed | Ended)]
        assert [event for event in again.events if not isinstance(event, Ended)] == spoken


class TestEnd:
    def test_is_the_callers_to_write(self) -> None:
        batch = passing().feed(TEXT + FINISH + DONE)
        assert batch.out == TEXT + FINISH
        assert batch.ended
        assert batch.events[-1] == Ended()

    def test_nothing_passes_after_it(self) -> None:
        path = passing()
        batch = path.feed(TEXT + DONE + TEXT + DONE)
        assert batch.out == TEXT
        assert batch.events == [Started("i", "real"), TextDelta("a"), Ended()]
        assert path.feed(TEXT) == Batch()
        assert path.close() == Batch()

    def test_by_closing_after_the_finish_is_whole(self) -> None:
        path = passing()
        path.feed(TEXT + FINISH)
        assert path.close() == Batch(b"", [Ended()], True, True)
        assert path.close() == Batch()

    def test_by_closing_before_the_finish_is_an_error(self) -> None:
        path = passing()
        path.feed(TEXT)
        batch = path.close()
        assert isinstance(batch.error, TruncatedStream)
        assert not batch.ended
        assert batch.events == [Failed(batch.error)]
        assert path.close() == Batch()

    def test_last_frame_without_its_blank_line_gets_one(self) -> None:
        path = passing()
        path.feed(TEXT + FINISH.rstrip())
        batch = path.close()
        assert batch.out == FINISH
        assert batch.ended

    def test_half_a_frame_at_the_end_does_not_pass(self) -> None:
        path = passing()
        path.feed(TEXT + FINISH + TEXT[:-20])
        batch = path.close()
        assert (batch.out, type(batch.error)) == (b"", TruncatedStream)

    def test_done_without_its_blank_line_is_the_end(self) -> None:
        path = passing()
        path.feed(TEXT + FINISH + DONE.rstrip())
        assert path.close() == Batch(b"", [Ended()], True, True)


class TestErrors:
    def test_do_not_pass_and_end_the_stream(self) -> None:
        path = passing()
        batch = path.feed(TEXT + b'data: {"error":{"message":"m","code":429}}\n\n' + TEXT + DONE)
        assert batch.out == TEXT
        assert isinstance(batch.error, UpstreamStatus)
        assert batch.events[1:] == [TextDelta("a"), Failed(batch.error)]
        assert path.feed(TEXT) == Batch()
        assert path.close() == Batch()

    @pytest.mark.parametrize("garbage", [b"data: {\n\n", b"data: <html>\n\n"])
    def test_what_came_before_a_broken_frame_is_not_lost(self, garbage: bytes) -> None:
        batch = passing().feed(TEXT + garbage + TEXT)
        assert batch.out == TEXT
        assert isinstance(batch.error, UpstreamProtocolError)
        assert batch.events == [Started("i", "real"), TextDelta("a"), Failed(batch.error)]

    def test_what_came_before_a_frame_too_long_is_not_lost(self) -> None:
        path = passing(max_frame_bytes=500)
        batch = path.feed(TEXT + b"data: " + b"x" * 1_000)
        assert (batch.out, batch.error) == (TEXT, None)
        batch = path.feed(b"x")
        assert isinstance(batch.error, UpstreamProtocolError)
        assert batch.events == [Failed(batch.error)]

    def test_frame_too_long_at_the_end_is_one(self) -> None:
        path = passing(max_frame_bytes=500)
        path.feed(TEXT + b"data: " + b"x" * 1_000)
        assert isinstance(path.close().error, UpstreamProtocolError)


class TestWhatTheClientDoesNotSee:
    def test_pings(self) -> None:
        assert passing().feed(TEXT + b"event: ping\ndata: {}\n\n" + b"event: ping\n\n" + TEXT).out == TEXT + TEXT

    def test_empty_data(self) -> None:
        assert passing().feed(TEXT + b"data:\n\n" + b"data\n\n" + TEXT).out == TEXT + TEXT

    def test_comments_before_generation(self) -> None:
        path = passing()
        batch = path.feed(b": PROCESSING\n\n" + ROLE + b": PROCESSING\n\n")
        assert batch.out == ROLE
        assert batch.alive
        batch = path.feed(b": PROCESSING\n\n")
        assert batch == Batch(b"", [], True)

    def test_comments_after_it_pass(self) -> None:
        assert passing().feed(TEXT + b": PROCESSING\n\n" + TEXT).out == TEXT + b": PROCESSING\n\n" + TEXT

    def test_signs_of_life_are_reported_without_a_frame(self) -> None:
        path = passing()
        assert path.feed(b": pi") == Batch()
        assert path.feed(b"ng\n") == Batch(alive=True)


class TestUsage:
    @pytest.mark.parametrize("hide", [True, False])
    def test_chunk_that_reports_nothing_else_passes_if_it_was_asked_for(self, hide: bool) -> None:
        path = passing(hide_usage=hide)
        batch = path.feed(TEXT + FINISH + usage_frame() + DONE)
        assert batch.out == TEXT + FINISH + (b"" if hide else usage_frame())
        assert any(isinstance(event, UsageReported) for event in batch.events)
        assert path.usage_sent is not hide

    @pytest.mark.parametrize("choices", [b"[]", b"[ ]", b"null"])
    def test_such_a_chunk_has_no_choice_however_that_is_spelt(self, choices: bytes) -> None:
        path = passing(hide_usage=True)
        path.feed(TEXT)
        assert path.feed(usage_frame().replace(b"[]", choices)).out == b""
        assert path.feed(usage_frame().replace(b'"choices":[],', b"")).out == b""

    @pytest.mark.parametrize("last", [{"finish": "stop"}, {"delta": {"content": ""}}, {"delta": {"content": "a"}}])
    def test_on_a_choice_stays(self, last: dict[str, Any]) -> None:
        path = passing(hide_usage=True)
        path.feed(TEXT)
        chunk = frame(**last, usage={"prompt_tokens": 1, "completion_tokens": 2})
        assert path.feed(chunk).out == chunk
        assert path.usage_sent

    def test_before_any_text_is_hidden_as_well(self) -> None:
        batch = passing(hide_usage=True).feed(usage_frame() + TEXT)
        assert batch.out == TEXT
        assert batch.events[0] == Started("i", "real")

    def test_of_nothing_is_not_sent(self) -> None:
        path = passing()
        path.feed(frame({"content": "a"}, usage=None))
        assert not path.usage_sent


class TestModelName:
    def test_is_the_clients_in_every_frame(self) -> None:
        batch = passing(model="asked").feed(ROLE + TEXT + FINISH)
        assert batch.out == (ROLE + TEXT + FINISH).replace(b'"model": "real"', b'"model": "asked"')
        assert batch.events[0] == Started("i", "real"), "the books keep the provider's own name"

    @pytest.mark.parametrize(
        "spelt", ['"model":"real"', '"model" :\t"real"', '"model":"re\\u0061l"', '"model":"a\\"b\\\\"', '"model":""']
    )
    def test_is_found_however_it_is_spelt(self, spelt: str) -> None:
        raw = b'data: {%b,"choices":[{"index":0,"delta":{"content":"a"}}]}\n\n' % spelt.encode()
        for batch in (passing(model="asked").feed(raw), passing(model="asked").feed(TEXT + raw)):
            assert json.loads(batch.out.split(b"\n\n")[-2][6:])["model"] == "asked"

    def test_may_change_within_a_stream(self) -> None:
        batch = passing(model="asked").feed(TEXT + frame({"content": "b"}, model="other") + TEXT)
        assert b"real" not in batch.out
        assert b"other" not in batch.out
        assert batch.out.count(b'"asked"') == 3

    def test_in_a_text_is_text(self) -> None:
        """Inside a JSON string every quote has a backslash before it, so `"model"` with bare quotes is never in one."""
        said = '{"model":"real"} "model": "real" \\"model\\":\\"real\\"'
        for delta in ({"content": said}, {"tool_calls": [{"index": 0, "function": {"arguments": said}}]}):
            path = passing(model="asked")
            path.feed(TEXT)
            raw = frame(delta)
            whole = json.loads(path.feed(raw).out[6:])
            assert whole == {**json.loads(raw[6:]), "model": "asked"}

    def test_in_a_text_before_the_field_is_text(self) -> None:
        raw = b'data: {"choices":[{"index":0,"delta":{"content":"\\"model\\":\\"x\\""}}],"model":"real"}\n\n'
        whole = json.loads(passing(model="asked").feed(raw).out[6:])
        assert whole["model"] == "asked"
        assert whole["choices"][0]["delta"]["content"] == '"model":"x"'

    @pytest.mark.parametrize("name", ['a"b\\c', "модель", "a\\1\\g<0>b"])
    def test_is_encoded(self, name: str) -> None:
        batch = passing(model=name).feed(TEXT + TEXT)
        assert [json.loads(line[6:])["model"] for line in batch.out.split(b"\n\n")[:-1]] == [name, name]

    def test_that_is_nowhere_is_not_added(self) -> None:
        raw = b'data: {"choices":[{"index":0,"delta":{"content":"a"}}]}\n\n'
        assert passing(model="asked").feed(raw).out == raw

    def test_that_is_not_to_change_does_not(self) -> None:
        assert passing(model=None).feed(TEXT).out == TEXT


class TestWholeAnswer:
    def test_is_given_the_clients_name_and_no_other_byte_changes(self) -> None:
        body = b'{ "id": "i",\n "model" : "real", "x": {"model":"other"}, "t": "\\"model\\":\\"real\\"" }'
        assert rename_model(body, "real", "asked") == body.replace(b'"model" : "real"', b'"model" : "asked"')

    def test_name_is_known_by_its_value(self) -> None:
        assert rename_model(b'{"model":"a\\/b"}', "a/b", "c") == b'{"model":"c"}'

    @pytest.mark.parametrize("odd", [b'"\\ud800"', b'"\xff"', b'"\x01"'])
    def test_name_that_cannot_be_read_is_left(self, odd: bytes) -> None:
        assert rename_model(b'{"model":%b}' % odd, "real", "asked") == b'{"model":%b}' % odd

    def test_name_that_is_not_there_changes_nothing(self) -> None:
        assert rename_model(b'{"model":"x"}', "real", "asked") == b'{"model":"x"}'


def test_finish_counts_as_generation() -> None:
    path = passing()
    batch = path.feed(frame(finish="stop") + b": late\n\n")
    assert Finished("stop") in batch.events
    assert batch.out.endswith(b": late\n\n")
