"""Whatever happens, and however much of it at once: one outcome, one record, at most one terminal, and nothing left."""

from __future__ import annotations

import itertools
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest
import trio
import trio.testing
from support.exchanges import (
    DONE,
    ROLE,
    SERVER_ERROR,
    STOP,
    Bench,
    delta,
    error_of,
    frame,
    in_band_error,
    stream,
    terminals,
    text,
)  # fmt: skip

from trio_ai_proxy.providers.openai_stream import OpenAIDecoder
from trio_ai_proxy.testing import Script, Step, openai_answer, openai_error

if TYPE_CHECKING:
    import httpx
    from trio.testing import MockClock

    from trio_ai_proxy.testing import ClientAnswer

AT = 5.0
CAUSES = {
    "leave": "client_gone",
    "idle": "timeout_idle",
    "total": "timeout_total",
    "end": "completed",
    "error": "upstream_error",
    "cut": "upstream_truncated",
    "operator": "cancelled",
    "shutdown": "shutdown",
}
CODES = {
    "timeout_idle": "timeout_idle",
    "timeout_total": "timeout_total",
    "upstream_error": "boom",
    "upstream_truncated": "upstream_truncated",
    "cancelled": "cancelled",
    "shutdown": "shutdown",
    "completed": "[DONE]",
}
UPSTREAM = {"end": STOP + DONE, "error": SERVER_ERROR}


async def collide(pair: tuple[str, str], *, as_stream: bool, kind: str) -> tuple[ClientAnswer, Bench]:
    """One exchange to which both things happen at second 5, in the order of the pair where there is one."""
    last = b"".join(UPSTREAM[name] for name in pair if name in UPSTREAM)
    steps = [(0.0, delta(ROLE)), (0.0, delta("sea"))]
    if last or "cut" in pair:
        steps.append((AT, last))
    ending: Any = "cut" if "cut" in pair else "close" if last else "stall"
    deadlines = {name: AT for name in ("idle", "total") if name in pair}
    server = {"drain": AT} if "shutdown" in pair else {}
    bench = Bench(stream(*steps, ending=ending), timeouts=deadlines, server=server, provider={"kind": kind})
    answers: list[ClientAnswer] = []

    async def ask() -> None:
        leaving: Any = {"leave_after": AT} if "leave" in pair else {}
        one = bench.ask_stream if as_stream else bench.ask
        answers.append(await one(headers=[("x-request-id", "r")], **leaving))

    async def cancel() -> None:
        await trio.sleep_until(began + AT)
        await bench.cancel("r")

    began = trio.current_time()
    async with bench, trio.open_nursery() as nursery:
        tasks = [cancel] if "operator" in pair else []
        # Who begins to wait first wakes first, or last: Trio does not say, and so both are tried.
        for task in [*tasks, ask] if pair[0] == "operator" else [ask, *tasks]:
            nursery.start_soon(task)
        await trio.testing.wait_all_tasks_blocked()
        if "shutdown" in pair:
            bench.gateway.begin_drain()
    return answers[0], bench


@pytest.mark.parametrize("way", ["stream", "folded"])
@pytest.mark.parametrize("pair", list(itertools.permutations(CAUSES, 2)), ids="-".join)
async def test_of_two_causes_in_one_instant_one_is_the_outcome(
    autojump_clock: MockClock, pair: tuple[str, str], way: str
) -> None:
    for _ in range(6):
        began = trio.current_time()
        answer, bench = await collide(pair, as_stream=way == "stream", kind="openai" if way == "stream" else "demo")
        record = bench.record
        assert record.outcome in {CAUSES[name] for name in pair}
        assert record.bytes_out == len(answer.body) or record.outcome == "client_gone" or "leave" in pair
        assert [attempt.outcome for attempt in record.attempts] in ([record.outcome], ["completed"])
        assert began + AT <= (bench.released_at or 0) <= began + AT + 0.25
        if way == "stream":
            assert text(answer) == "sea"
            found = terminals(answer)
            expected = CODES.get(record.outcome)
            if "leave" in pair:  # it may have gone before it was told
                assert found in ([], [expected])
            else:
                assert found == [expected]
                assert answer.is_complete
        elif answer.status is not None and answer.is_complete:
            if record.outcome == "completed":
                assert answer.status == 200
                assert answer.json()["choices"][0]["message"]["content"] == "sea"
            else:
                assert error_of(answer)["code"] == CODES[record.outcome]
        else:
            assert "leave" in pair


class TestUpstreamFails:
    async def test_before_a_token_the_status_is_true(self, autojump_clock: MockClock) -> None:
        script = openai_error(429, "Slow down.", type="rate_limit_error", code="rate", headers=[("retry-after", "7")])
        for ask in ("ask_stream", "ask"):
            async with Bench(script) as bench:
                answer = await getattr(bench, ask)()
                error = error_of(answer)
                assert (answer.status, answer.header("retry-after")) == (429, "7")
                assert (error["message"], error["type"], error["code"]) == ("Slow down.", "rate_limit_error", "rate")
            assert (bench.record.outcome, bench.record.status) == ("upstream_error", 429)

    @pytest.mark.parametrize("before", [b"", delta(ROLE), b": processing\n\n" + delta(ROLE)])
    async def test_inside_a_good_answer_but_before_a_token_the_status_is_true(
        self, autojump_clock: MockClock, before: bytes
    ) -> None:
        last = frame({"error": {"message": "No.", "type": "server_error", "code": 503}})
        async with Bench(stream(before, last, DONE)) as bench:
            answer = await bench.ask_stream()
            assert (answer.status, error_of(answer)["code"]) == (503, "503")
        assert (bench.record.outcome, bench.record.status) == ("upstream_error", 503)

    @pytest.mark.parametrize("in_one_chunk", [True, False])
    async def test_after_a_token_it_is_told_in_band(self, autojump_clock: MockClock, in_one_chunk: bool) -> None:
        pieces = [delta(ROLE) + delta("The sea") + SERVER_ERROR] if in_one_chunk else [
            delta(ROLE), delta("The sea"), SERVER_ERROR,
        ]  # fmt: skip
        async with Bench(stream(*pieces, delta("too late"), DONE)) as bench:
            answer = await bench.ask_stream()
            _, error = in_band_error(answer)
            assert (error["message"], error["type"], error["code"]) == (
                "The server had an error.",
                "server_error",
                "boom",
            )
            assert text(answer) == "The sea"
        assert (bench.record.outcome, bench.record.status) == ("upstream_error", 200)

    async def test_refused_connection_is_a_502(self, autojump_clock: MockClock) -> None:
        async with Bench(Script(refuse=True)) as bench:
            answer = await bench.ask_stream()
            assert (answer.status, error_of(answer)["code"]) == (502, "upstream_refused")
        assert (bench.record.outcome, bench.record.phase) == ("upstream_error", "connect")

    @pytest.mark.parametrize("ending", ["cut", "close"])
    async def test_cut_stream_never_looks_whole(self, autojump_clock: MockClock, ending: Any) -> None:
        async with Bench(stream(delta(ROLE), delta("The sea"), delta(" is")[:-9], ending=ending)) as bench:
            answer = await bench.ask_stream()
            _, error = in_band_error(answer)
            assert error["code"] == "upstream_truncated"
            assert text(answer) == "The sea"
        assert bench.record.outcome == "upstream_truncated"

    @pytest.mark.parametrize("ending", ["cut", "close"])
    async def test_cut_stream_is_no_whole_answer(self, autojump_clock: MockClock, ending: Any) -> None:
        async with Bench(stream(delta("The sea"), ending=ending), provider={"kind": "demo"}) as bench:
            answer = await bench.ask()
            assert (answer.status, error_of(answer)["code"]) == (502, "upstream_truncated")
        assert bench.record.outcome == "upstream_truncated"

    async def test_cut_one_shot_answer_is_a_502(self, autojump_clock: MockClock) -> None:
        script = Script(
            headers=(("content-type", "application/json"),), steps=lambda: iter([Step(0, b'{"id"')]), ending="cut"
        )
        async with Bench(script) as bench:
            answer = await bench.ask()
            assert (answer.status, error_of(answer)["code"]) == (502, "upstream_truncated")
        assert bench.record.outcome == "upstream_truncated"

    async def test_page_of_a_proxy_is_no_answer(self, autojump_clock: MockClock) -> None:
        page = Script(headers=(("content-type", "text/html"),), steps=lambda: iter([Step(0, b"<html>")]))
        for ask in ("ask_stream", "ask"):
            async with Bench(page) as bench:
                answer = await getattr(bench, ask)()
                assert (answer.status, error_of(answer)["code"]) == (502, "upstream_protocol_error")
            assert bench.record.outcome == "upstream_error"

    async def test_credential_is_in_no_answer_and_no_record(self, autojump_clock: MockClock) -> None:
        async with Bench(openai_error(401, "Incorrect API key provided: sk-upstream.")) as bench:
            answer = await bench.ask()
            assert answer.status == 502
            assert b"sk-upstream" not in answer.body
        assert "sk-upstream" not in repr(bench.record)


class TestBug:
    @staticmethod
    def _break(monkeypatch: pytest.MonkeyPatch, at: int) -> None:
        """The decoder fails at its frame number `at`."""
        original = OpenAIDecoder.feed
        count = itertools.count()

        def feed(self: OpenAIDecoder, item: Any) -> Any:
            if next(count) == at:
                raise RuntimeError("a secret of the house")
            return original(self, item)

        monkeypatch.setattr(OpenAIDecoder, "feed", feed)

    @pytest.mark.parametrize("ask", ["ask_stream", "ask"])
    async def test_before_a_token_is_one_500_and_one_log_line(
        self, autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch, ask: str
    ) -> None:
        self._break(monkeypatch, 0)
        kind = "openai" if ask == "ask_stream" else "demo"
        async with Bench(stream(delta(ROLE), delta("sea"), STOP, DONE), provider={"kind": kind}) as bench:
            answer = await getattr(bench, ask)(headers=[("x-request-id", "r-1")])
            error = error_of(answer)
            assert (answer.status, error["type"], error["code"]) == (500, "internal_error", "internal_error")
            assert b"secret of the house" not in answer.body
            assert b"Traceback" not in answer.body
        assert (bench.record.outcome, bench.record.status) == ("bug", 500)
        [line] = bench.log("bug")
        assert line["request_id"] == "r-1"
        assert "secret of the house" in line["exception"]

    @pytest.mark.parametrize("pause", [0.0, 1.0])
    async def test_in_mid_stream_is_one_error_in_band(
        self, autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch, pause: float
    ) -> None:
        for at in range(1, 5):
            with monkeypatch.context() as patch:
                self._break(patch, at)
                script = stream(*((pause, delta(f" {number}")) for number in range(8)), STOP, DONE)
                async with Bench(script) as bench:
                    answer = await bench.ask_stream()
                    _, error = in_band_error(answer)
                    assert error["code"] == "internal_error"
                    assert text(answer) == "".join(f" {number}" for number in range(at))
                    assert b"secret of the house" not in answer.body
                assert (bench.record.outcome, bench.record.status) == ("bug", 200)
            assert len(bench.log("bug")) == 1

    async def test_while_the_client_does_not_read_lets_go_of_the_upstream(
        self, autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        self._break(monkeypatch, 2)
        script = stream(delta("a"), delta("b"), (1, delta("c")), STOP, DONE)
        async with Bench(script) as bench:
            await bench.ask_stream(stop_reading_after=1, leave_after=9)
            assert bench.released_at == 1.0
        assert bench.record.outcome == "bug"

    async def test_of_a_transport_is_one_500(self, autojump_clock: MockClock) -> None:
        def fail(_request: httpx.Request) -> Script:
            raise RuntimeError("a secret of the house")

        async with Bench(fail) as bench:
            answer = await bench.ask_stream()
            assert (answer.status, error_of(answer)["code"]) == (500, "internal_error")
        assert bench.record.outcome == "bug"
        assert len(bench.log("bug")) == 1


class TestRefused:
    @pytest.mark.parametrize(
        ("body", "status", "code"),
        [
            (b"{", 400, "invalid_json"),
            (b'{"messages": [{"role": "user"}]}', 400, "missing_model"),
            (b'{"model": "unknown", "messages": [{"role": "user"}]}', 404, "model_not_found"),
            (b'{"model": "gpt-4o", "messages": []}', 400, "invalid_request"),
            (b'{"model": "gpt-4o", "messages": [{"role": "user"}], "stream": "yes"}', 400, "invalid_request"),
            (b'{"model": "gpt-4o", "messages": [{"role": "user"}], "stream": 1}', 400, "invalid_request"),
        ],
    )
    async def test_leaves_a_record_and_asks_no_provider(
        self, autojump_clock: MockClock, body: bytes, status: int, code: str
    ) -> None:
        async with Bench(openai_answer("sea")) as bench:
            answer = await bench.client.post("/v1/chat/completions", body=body)
            assert (answer.status, error_of(answer)["code"]) == (status, code)
            assert bench.transport.exchanges == []
        assert (bench.record.outcome, bench.record.status) == ("refused", status)
        assert bench.record.attempts == []


async def test_the_server_s_own_cancellation_leaves_one_true_record(autojump_clock: MockClock) -> None:
    async with Bench(stream(delta("sea"), ending="stall")) as bench:
        with trio.move_on_after(3):
            await bench.ask_stream()
        assert bench.released_at == 3.0
    assert bench.record.outcome == "shutdown"
    assert [attempt.outcome for attempt in bench.record.attempts] == ["shutdown"]


async def test_many_at_once_each_have_their_own_record(autojump_clock: MockClock) -> None:
    async with Bench(stream(delta("sea"), (1, STOP), DONE)) as bench, trio.open_nursery() as nursery:
        for number in range(50):
            leaving: Any = {"leave_after": 0.5} if number % 2 else {}
            nursery.start_soon(partial(bench.ask_stream, headers=[("x-request-id", f"r-{number}")], **leaving))
    assert len({record.request_id for record in bench.records}) == 50
    for record in bench.records:
        odd = int(record.request_id.removeprefix("r-")) % 2
        assert record.outcome == ("client_gone" if odd else "completed")
