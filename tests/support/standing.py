"""One gateway process for all tests of a module, in front of ports that each test serves anew.

A process takes a second to start and a fault a few milliseconds to play, so the process is shared; whoever plays a fault
proves afterwards that it still serves.
"""

from __future__ import annotations

import json
import socket
import uuid
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import trio
from support.command import Command

from trio_ai_proxy.testing import RawClient, Script, ScriptedServer, WireScript, openai_answer, openai_stream
from trio_ai_proxy.testing.raw import BodyCut

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterable, Iterator

    from trio_ai_proxy.testing import ReceivedRequest

DONE = b"[DONE]"


class HeldPort:
    """A port that nobody listens on and that the system gives to nobody: a test may listen there whenever it likes."""

    def __init__(self) -> None:
        self._socket = socket.socket()
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self._socket.bind(("127.0.0.1", 0))
        self.number: int = self._socket.getsockname()[1]

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.number}"

    def close(self) -> None:
        self._socket.close()


@contextmanager
def standing(config: str = "", *, server: str = "", env: dict[str, str] | None = None) -> Iterator[Command]:
    """A `Command` for a fixture of module scope, which cannot be asynchronous."""
    command = Command(config, server=server, env=env)
    trio.run(command.__aenter__)
    try:
        yield command
    finally:
        trio.run(command.__aexit__, None, None, None)


@asynccontextmanager
async def upstream(port: HeldPort, script: Script | None = None) -> AsyncIterator[ScriptedServer]:
    """A provider at `port`. It plays `script` for a request that has the word "fault" in it, and is well otherwise."""

    def answer(request: ReceivedRequest) -> Script:
        if script is not None and b"fault" in request.body:
            return script
        return well(request)

    server = ScriptedServer(answer)
    server.port = port.number
    async with server:
        yield server


def well(request: ReceivedRequest) -> Script:
    """What a healthy provider answers."""
    words = ["Hello", ", ", "world", "."]
    if request.json().get("stream"):
        return openai_stream(words, usage=(3, 4))
    return openai_answer("".join(words), usage=(3, 4))


def wire(script: Script, **laid: Any) -> WireScript:
    """`script`, laid on the wire as `WireScript` says."""
    return WireScript(
        **{
            "status": script.status, "headers": script.headers, "steps": script.steps,
            "head_pause": script.head_pause, "ending": script.ending, **laid,
        }
    )  # fmt: skip


@dataclass(frozen=True)
class Answer:
    """What a client got: a whole HTTP answer."""

    request_id: str
    status: int
    headers: tuple[tuple[str, str], ...]
    body: bytes
    seconds: float

    def header(self, name: str) -> str | None:
        return next((value for key, value in self.headers if key == name), None)

    @property
    def data(self) -> list[bytes]:
        """The payloads of the events of a stream."""
        return data_of(self.body)

    @property
    def text(self) -> str:
        """What the model has said in a stream."""
        return text_of(self.body)

    @property
    def error(self) -> dict[str, Any]:
        """The one error of this answer, alone or as the last event of a stream without `[DONE]`."""
        if self.status != 200:
            assert self.header("content-type") == "application/json"
            return openai_error(self.body)
        assert DONE not in self.data
        errors = [payload for payload in self.data if b'"error"' in payload]
        assert errors == self.data[-1:], self.data[-3:]
        return openai_error(errors[0])


def openai_error(body: bytes) -> dict[str, Any]:
    """The error in `body`, which has OpenAI's shape."""
    document = json.loads(body)
    assert set(document) == {"error"}, document
    error = document["error"]
    assert set(error) == {"message", "type", "param", "code"}, error
    assert [type(error[name]) for name in ("message", "type", "code")] == [str] * 3, error
    assert error["message"], error
    assert error["param"] is None or isinstance(error["param"], str), error
    assert "Traceback" not in error["message"]
    found: dict[str, Any] = error
    return found


def data_of(body: bytes) -> list[bytes]:
    events = body.split(b"\n\n")
    assert events.pop() == b"", "a stream ends with a whole event"
    return [event.removeprefix(b"data: ") for event in events if not event.startswith(b":")]


def text_of(body: bytes) -> str:
    chunks = [json.loads(payload) for payload in data_of(body) if payload != DONE]
    return "".join(choice["delta"].get("content") or "" for chunk in chunks for choice in chunk.get("choices", []))


def chat(content: Any = "hello", *, model: str = "scripted", stream: bool = True, **fields: Any) -> dict[str, Any]:
    """A chat request's JSON object."""
    return {"model": model, "stream": stream, "messages": [{"role": "user", "content": content}], **fields}


async def ask(
    gateway: Command, fields: dict[str, Any] | None = None, *, path: str = "/v1/chat/completions",
    headers: Iterable[tuple[str, str]] = (), seconds: float = 20,
) -> Answer:  # fmt: skip
    """Send one request and read its whole answer. Raises `BodyCut` if it is none."""
    request_id = uuid.uuid4().hex
    began = trio.current_time()
    with trio.fail_after(seconds):
        async with RawClient("127.0.0.1", gateway.port) as client:
            await client.post(
                path, json=chat() if fields is None else fields, headers=[("x-request-id", request_id), *headers]
            )
            head = await client.read_head()
            body = b"".join(chunk.data for chunk in await client.read_body())
    return Answer(request_id, head.status, head.headers, body, trio.current_time() - began)


async def get(gateway: Command, path: str, *, admin: bool = False, headers: Iterable[tuple[str, str]] = ()) -> Answer:
    """A GET of the data port, or of the admin port."""
    began = trio.current_time()
    with trio.fail_after(20):
        async with RawClient("127.0.0.1", gateway.admin_port if admin else gateway.port) as client:
            await client.get(path, headers=headers)
            head = await client.read_head()
            body = b"".join(chunk.data for chunk in await client.read_body())
    return Answer("", head.status, head.headers, body, trio.current_time() - began)


async def send_raw(gateway: Command, *pieces: bytes, seconds: float = 10) -> bytes:
    """Send `pieces` as they are, and whatever the gateway answers until it closes. It must close within `seconds`."""
    received = b""
    with trio.fail_after(seconds):
        stream = await trio.open_tcp_stream("127.0.0.1", gateway.port)
        async with stream, trio.open_nursery() as nursery:
            nursery.start_soon(_send, stream, pieces)
            try:
                while data := await stream.receive_some():
                    received += data
            finally:
                nursery.cancel_scope.cancel()
    return received


async def _send(stream: trio.SocketStream, pieces: Iterable[bytes]) -> None:
    try:
        for piece in pieces:
            await stream.send_all(piece)
    except trio.BrokenResourceError:
        pass  # the gateway has said all that it has to say


async def serves(gateway: Command) -> None:
    """It answers a plain request, as a stream and in one piece."""
    answer = await ask(gateway)
    assert (answer.status, answer.text, answer.data[-1]) == (200, "Hello, world.", DONE), answer
    answer = await ask(gateway, chat(stream=False))
    assert json.loads(answer.body)["choices"][0]["message"]["content"] == "Hello, world."


async def idle(gateway: Command, *, seconds: float = 5) -> None:
    """No exchange lives and no slot is held, soon."""

    async def is_idle() -> bool:
        if json.loads((await get(gateway, "/exchanges", admin=True)).body)["exchanges"]:
            return False
        return all(value == 0 for name, value in (await metrics(gateway)).items() if "slots_" in name)

    await eventually(is_idle, seconds=seconds)


async def metrics(gateway: Command) -> dict[str, float]:
    """The samples of /metrics, by name and labels as they are written."""
    text = (await get(gateway, "/metrics", admin=True)).body.decode()
    lines = [line.rpartition(" ") for line in text.splitlines() if not line.startswith("#")]
    return {name: float(value) for name, _, value in lines}


async def eventually(condition: Callable[[], Any], *, seconds: float = 5) -> None:
    """`condition`, a function or an asynchronous one, becomes true within `seconds`."""
    with trio.fail_after(seconds):
        while True:
            found = condition()
            if hasattr(found, "__await__"):
                found = await found
            if found:
                return
            await trio.sleep(0.01)


__all__ = [
    "DONE", "Answer", "BodyCut", "HeldPort", "ask", "chat", "data_of", "eventually", "get", "idle", "metrics",
    "openai_error", "send_raw", "serves", "standing", "text_of", "upstream", "well", "wire",
]  # fmt: skip
