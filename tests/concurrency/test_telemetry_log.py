"""A log line is one JSON object that holds its facts and no secret, wherever it comes from."""

from __future__ import annotations

import json
import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pytest
import structlog
import trio

from trio_ai_proxy.settings import Secret
from trio_ai_proxy.telemetry import log
from trio_ai_proxy.telemetry.lines import LineSink
from trio_ai_proxy.telemetry.log import configure_logging, get_logger, hypercorn_logger

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

KEY = 'sk-"planted"-marker-0123456789'


@pytest.fixture(autouse=True)
def _as_before() -> Iterator[None]:
    root = logging.getLogger()
    level = root.level
    yield
    configure_logging(None)
    root.removeHandler(log._bridge)
    root.setLevel(level)


def lines(capfd: pytest.CaptureFixture[str]) -> list[dict[str, Any]]:
    return [json.loads(line) for line in capfd.readouterr().err.split("\n") if line]


def test_a_line_is_one_object_that_begins_with_time_level_and_event(capfd: pytest.CaptureFixture[str]) -> None:
    get_logger(request_id="r1").warning("upstream refused", provider="openai", seconds=0.5)
    (line,) = lines(capfd)
    assert list(line)[:3] == ["time", "level", "event"]
    assert line.pop("time").endswith("Z")
    assert line == {
        "level": "warning", "event": "upstream refused", "request_id": "r1", "provider": "openai", "seconds": 0.5,
    }  # fmt: skip


def test_debugging_lines_are_left_out(capfd: pytest.CaptureFixture[str]) -> None:
    get_logger().debug("detail")
    get_logger().info("fact")
    assert [line["event"] for line in lines(capfd)] == ["fact"]


@dataclass
class Account:
    name: str
    key: Secret


def test_a_secret_is_masked_wherever_it_stands(capfd: pytest.CaptureFixture[str]) -> None:
    secret = Secret(KEY, "file /run/key")
    configure_logging(None, secrets=[secret])
    logger = get_logger()
    logger.info("direct", it=secret, listed=[secret], nested={"a": {"b": secret}}, account=Account("x", secret))
    text = f"in the text: {KEY}"
    logger.info(text, url=f"https://host/?key={KEY}", raw=KEY.encode(), pair={KEY: 1})
    logger.info("by name", Authorization=f"Bearer {KEY}", headers={"x-api-key": KEY}, body=KEY, messages=[KEY])
    try:
        raise ValueError(f"bad key {KEY}")
    except ValueError as error:
        logger.error("bug", exc_info=error)
    logging.getLogger("some.package").warning("sent %s", KEY)
    shown = capfd.readouterr().err
    assert "planted" not in shown
    first, _, third, bug, _ = [json.loads(line) for line in shown.splitlines()]
    assert first["it"] == "***"
    assert (first["listed"], first["nested"], first["account"]) == (
        ["***"],
        {"a": {"b": "***"}},
        {"name": "x", "key": "***"},
    )
    assert third["headers"] == third["body"] == third["messages"] == third["Authorization"] == "***"
    assert "ValueError: bad key ***" in bug["exception"]


def test_a_secret_is_masked_even_when_nobody_told_its_text(capfd: pytest.CaptureFixture[str]) -> None:
    secret = Secret(KEY, "file /run/key")
    text = f"{secret}"
    get_logger().info(text, it=secret, odd={"\ud800": secret})
    assert "planted" not in capfd.readouterr().err


def test_a_line_break_in_a_fact_stays_inside_its_line(capfd: pytest.CaptureFixture[str]) -> None:
    get_logger().info("forged\n{}", model='a\r\n{"event":"b"}\u2028')
    (line,) = lines(capfd)
    assert line["event"] == "forged\n{}"


@pytest.mark.parametrize("value", ["\ud800", 10**30, {1: 2, None: 3}, object(), b"bytes", float("nan"), {(1, 2): 3}])
def test_any_fact_can_be_shown(capfd: pytest.CaptureFixture[str], value: object) -> None:
    get_logger().info("odd", value=value)
    (line,) = lines(capfd)
    assert line["event"] == "odd"
    assert "value" in line


def test_an_error_is_shown_with_its_traceback(capfd: pytest.CaptureFixture[str]) -> None:
    try:
        raise ExceptionGroup("two", [ValueError("one"), KeyError("other")])
    except ExceptionGroup as error:
        get_logger().error("bug", exc_info=error)
    (line,) = lines(capfd)
    assert "ValueError: one" in line["exception"]
    assert "KeyError: 'other'" in line["exception"]
    assert "exc_info" not in line


def test_what_libraries_log_becomes_lines_like_ours_from_warning_on(capfd: pytest.CaptureFixture[str]) -> None:
    configure_logging(None)
    configure_logging(None)
    library = logging.getLogger("some.package")
    library.info("chatter")
    library.warning("%d of %d", 1, 2)
    library.log(35, "between")
    library.critical("worst")
    got = [(line["level"], line["event"], line["logger"]) for line in lines(capfd)]
    assert got == [
        ("warning", "1 of 2", "some.package"),
        ("warning", "between", "some.package"),
        ("error", "worst", "some.package"),
    ]


def test_a_library_with_a_wrong_format_string_is_still_heard(capfd: pytest.CaptureFixture[str]) -> None:
    library = logging.getLogger("some.other.package")
    library.propagate = False  # the handler of pytest would raise the library's error
    library.addHandler(log._bridge)
    library.warning("%d", "text")
    assert [line["event"] for line in lines(capfd)] == ["%d"]


def test_hypercorn_logs_through_us_alone(capfd: pytest.CaptureFixture[str]) -> None:
    logging.getLogger("hypercorn.error").addHandler(logging.StreamHandler())
    configure_logging(None)
    hypercorn_logger().info("Running on http://127.0.0.1:8000 (CTRL + C to quit)")
    hypercorn_logger().error("Error in ASGI Framework")
    assert [(line["event"], line["logger"]) for line in lines(capfd)] == [
        ("Error in ASGI Framework", "hypercorn.error")
    ]


async def test_lines_go_into_the_sink_while_it_runs_and_to_standard_error_otherwise(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    sink = LineSink(str(tmp_path / "log"))
    configure_logging(sink)
    get_logger().info("before")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(sink.run)
        await trio.testing.wait_all_tasks_blocked()
        get_logger().info("during")
        assert await sink.flush(10)
        nursery.cancel_scope.cancel()
    get_logger().info("after")
    assert [line["event"] for line in lines(capfd)] == ["before", "after"]
    assert json.loads((tmp_path / "log").read_bytes())["event"] == "during"


async def test_facts_bound_to_a_task_are_in_its_lines_alone(capfd: pytest.CaptureFixture[str]) -> None:
    async def work(name: str) -> None:
        structlog.contextvars.bind_contextvars(request_id=name)
        await trio.lowlevel.checkpoint()
        get_logger().info("done", name=name)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(work, "a")
        nursery.start_soon(work, "b")
    assert all(line["request_id"] == line["name"] for line in lines(capfd))
