"""The scripted client in memory: times are virtual and exact, and the application sees what a server would show it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import trio

from trio_ai_proxy.testing import open_client

if TYPE_CHECKING:
    from trio.testing import MockClock


class Counting:
    """An application that sends a chunk a second; it notes what it is told, and when it was cancelled or returned."""

    def __init__(self, chunks: int = 5) -> None:
        self.chunks = chunks
        self.lifespan: list[str] = []
        self.body = b""
        self.gone_at: float | None = None
        self.sent = 0

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "lifespan":
            for name in ("startup", "shutdown"):
                assert (await receive())["type"] == f"lifespan.{name}"
                self.lifespan.append(name)
                await send({"type": f"lifespan.{name}.complete"})
            return
        self.scope = scope
        while True:
            message = await receive()
            self.body += message["body"]
            if not message["more_body"]:
                break
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._watch, receive, nursery.cancel_scope)
            await trio.sleep(1)
            await send({"type": "http.response.start", "status": 200, "headers": [(b"x-a", b"b")]})
            for number in range(self.chunks):
                await trio.sleep(1)
                await send({"type": "http.response.body", "body": b"%d" % number, "more_body": True})
                self.sent += 1
            await send({"type": "http.response.body"})
            nursery.cancel_scope.cancel()

    async def _watch(self, receive: Any, scope: trio.CancelScope) -> None:
        assert (await receive()) == {"type": "http.disconnect"}
        self.gone_at = trio.current_time()
        scope.cancel()


async def test_a_client_that_stays_sees_each_chunk_when_it_was_sent(autojump_clock: MockClock) -> None:
    app = Counting(3)
    async with open_client(app) as client:
        start = trio.current_time()
        answer = await client.post("/x?a=1", json={"k": 1}, headers=[("X-Key", "v")])
    assert answer.status == 200
    assert answer.header("X-A") == "b"
    assert [(at - start, chunk) for at, chunk in answer.chunks] == [(2, b"0"), (3, b"1"), (4, b"2")]
    assert answer.is_complete
    assert answer.left_at is None
    assert app.body == b'{"k": 1}'
    assert app.scope["raw_path"] == b"/x"
    assert app.scope["query_string"] == b"a=1"
    assert (b"x-key", b"v") in app.scope["headers"]
    assert app.lifespan == ["startup", "shutdown"]


@pytest.mark.parametrize(
    ("manner", "left_at", "chunks"),
    [
        ({"leave_after": 0.5}, 0.5, 0),
        ({"leave_after": 3.5}, 3.5, 2),
        ({"leave_on": "body-sent"}, 0, 0),
        ({"leave_on": "start"}, 1, 0),
        ({"leave_on": "first-chunk"}, 2, 1),
        ({"leave_on": 3}, 4, 3),
    ],
)
async def test_a_client_leaves_when_it_was_told_to(
    autojump_clock: MockClock, manner: Any, left_at: float, chunks: int
) -> None:
    app = Counting()
    async with open_client(app) as client:
        start = trio.current_time()
        answer = await client.post("/", **manner)
    assert answer.left_at is not None
    assert answer.left_at - start == left_at
    assert app.gone_at == answer.left_at
    assert answer.returned_at == answer.left_at
    assert len(answer.chunks) == chunks
    assert not answer.is_complete


async def test_a_body_comes_in_pieces_at_its_pace(autojump_clock: MockClock) -> None:
    app = Counting(1)
    async with open_client(app) as client:
        start = trio.current_time()
        answer = await client.post("/", body=[b"ab", b"c", b"d"], body_pause=2)
    assert app.body == b"abcd"
    assert answer.sent_at is not None
    assert answer.sent_at - start == 4
    assert (b"content-length", b"4") in app.scope["headers"]


async def test_a_client_that_stops_reading_blocks_send_until_it_leaves(autojump_clock: MockClock) -> None:
    app = Counting()
    async with open_client(app) as client:
        answer = await client.get("/", stop_reading_after=2, leave_after=100)
    assert len(answer.chunks) == 2
    assert app.sent < app.chunks
    assert answer.left_at == answer.returned_at


async def test_a_slow_client_slows_send_down(autojump_clock: MockClock) -> None:
    app = Counting(3)
    async with open_client(app) as client:
        start = trio.current_time()
        answer = await client.get("/", read_pause=10)
    assert [at - start for at, _ in answer.chunks] == [12, 23, 34]


async def test_send_does_nothing_once_the_client_is_gone(autojump_clock: MockClock) -> None:
    async def stubborn(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        for _ in range(10):
            await trio.sleep(1)
            await send({"type": "http.response.body", "body": b"x", "more_body": True})

    async with open_client(stubborn, lifespan=False) as client:
        answer = await client.get("/", leave_after=3.5)
    assert answer.body == b"xxx"
    assert answer.returned_at is not None
    assert answer.left_at is not None
    assert answer.returned_at - answer.left_at == 6.5


async def test_what_the_application_raises_comes_out_as_it_is(autojump_clock: MockClock) -> None:
    async def broken(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        raise LookupError("broken")

    async with open_client(broken, lifespan=False) as client:
        with pytest.raises(LookupError, match="broken"):
            await client.get("/")


async def test_an_application_that_fails_to_start_says_so(autojump_clock: MockClock) -> None:
    async def failing(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        await send({"type": "lifespan.startup.failed", "message": "no disk"})

    with pytest.RaisesGroup(pytest.RaisesExc(RuntimeError, match="no disk")):
        async with open_client(failing):
            pytest.fail("it did not start")


async def test_a_failing_test_does_not_wait_for_the_application(autojump_clock: MockClock) -> None:
    with pytest.raises(ZeroDivisionError):
        async with open_client(Counting()):
            raise ZeroDivisionError


async def test_two_requests_at_once_do_not_mix(autojump_clock: MockClock) -> None:
    async with open_client(Counting(2)) as client, trio.open_nursery() as nursery:
        nursery.start_soon(client.get, "/a")
        answer = await client.get("/b", leave_after=2.5)
    assert answer.body == b"0"
