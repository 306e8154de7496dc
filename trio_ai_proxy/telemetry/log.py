"""One JSON object a line: `time`, `level`, `event`, then the facts. Never a credential, a header or a body.

A `Secret` shows as `***` wherever it stands, and so does the text of one that `configure_logging` was told of. Facts
whose name says that they hold what must not be written are masked too: a slip in a call is not a leak.
"""

from __future__ import annotations

import json
import logging
import os
from typing import TYPE_CHECKING, Any

import msgspec
import structlog

from trio_ai_proxy.settings import Secret
from trio_ai_proxy.telemetry.lines import STANDARD_ERROR

if TYPE_CHECKING:
    from collections.abc import Iterable, MutableMapping

    from structlog.typing import FilteringBoundLogger

    from trio_ai_proxy.telemetry.lines import LineSink

MASK = "***"
MASKED_FACTS = frozenset(
    {"authorization", "api_key", "headers", "body", "messages", "prompt", "content", "secret", "password", "token"}
)

# A shorter text could be a word of any line, or of its keys.
_SHORTEST_SECRET = 8


class _Output:
    """Where rendered lines go: into the sink while one is running, else straight to standard error."""

    def __init__(self) -> None:
        self.sink: LineSink | None = None
        self.secrets: tuple[bytes, ...] = ()

    def write(self, line: bytes) -> None:
        for secret in self.secrets:
            line = line.replace(secret, MASK.encode())
        if self.sink is not None and self.sink.is_running:
            self.sink.put(line)
            return
        try:
            os.write(STANDARD_ERROR, line)
        except OSError:
            pass

    debug = info = warning = error = critical = write


def _mask(_logger: Any, _method: str, facts: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    for name in facts:
        if name.lower().replace("-", "_") in MASKED_FACTS:
            facts[name] = MASK
    return facts


def _show(value: object) -> str:
    return MASK if isinstance(value, Secret) else repr(value)


_encoder = msgspec.json.Encoder(enc_hook=_show)


def _render(_logger: Any, _method: str, facts: MutableMapping[str, Any]) -> bytes:
    first = {name: facts.pop(name, None) for name in ("time", "level", "event")}
    try:
        return _encoder.encode({**first, **facts}) + b"\n"
    except Exception:  # noqa: BLE001 - half a surrogate pair, a huge integer, an odd key: the line still is written
        shown = {str(name): value if isinstance(value, str) else repr(value) for name, value in facts.items()}
        return json.dumps({**first, **shown}, default=_show).encode() + b"\n"


_output = _Output()
_logger = structlog.wrap_logger(
    _output,
    processors=[
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True, key="time"),
        structlog.processors.format_exc_info,
        _mask,
        _render,
    ],
    wrapper_class=structlog.make_filtering_bound_logger(logging.INFO),
    context_class=dict,
    cache_logger_on_first_use=False,
)


def get_logger(**facts: Any) -> FilteringBoundLogger:
    """A logger that adds `facts` to each line. Use its plain methods (`info`, `warning`, `error`), which never block
    while a sink is running; the `a…` ones need another event loop. It works before `configure_logging`, too."""
    logger: FilteringBoundLogger = _logger.bind(**facts)
    return logger


def bind_facts(**facts: Any) -> None:
    """Add `facts` to every line that this process logs from now on; to be called before Trio runs."""
    structlog.contextvars.bind_contextvars(**facts)


class _Bridge(logging.Handler):
    """What libraries log in the standard way, as lines like ours."""

    def emit(self, record: logging.LogRecord) -> None:  # type: ignore[explicit-override]  # typing.override needs 3.12
        try:
            message = record.getMessage()
        except Exception:  # noqa: BLE001 - a library's wrong format string
            message = str(record.msg)
        level = (
            "error" if record.levelno >= logging.ERROR else "warning" if record.levelno >= logging.WARNING else "info"
        )
        getattr(_logger, level)(message, logger=record.name, exc_info=record.exc_info)


_bridge = _Bridge()


def configure_logging(sink: LineSink | None, *, secrets: Iterable[Secret] = ()) -> None:
    """Send log lines into `sink` whenever it is running, and take over the standard library's logging from WARNING on.

    `secrets` are the credentials in use: their text is masked in every line, whatever it got into.
    """
    _output.sink = sink
    texts = {secret.reveal() for secret in secrets}
    shown = {_encoder.encode(text)[1:-1] for text in texts if len(text) >= _SHORTEST_SECRET}
    _output.secrets = tuple(sorted(shown, key=len, reverse=True))
    root = logging.getLogger()
    root.setLevel(logging.WARNING)
    if _bridge not in root.handlers:
        root.addHandler(_bridge)
    hypercorn_logger()


def hypercorn_logger() -> logging.Logger:
    """The logger to give Hypercorn as `config.errorlog`; else it installs a handler of its own, with another format."""
    logger = logging.getLogger("hypercorn.error")
    logger.handlers.clear()
    logger.propagate = True
    logger.setLevel(logging.WARNING)
    return logger
