"""How an exchange ended: one cell, and the first who settles it is right."""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from trio_ai_proxy.errors import ProxyError


class Cause(StrEnum):
    """The one reason for which an exchange ended. The values are the `outcome` of records and metrics: an interface."""

    COMPLETED = "completed"
    CLIENT_GONE = "client_gone"
    UPSTREAM_ERROR = "upstream_error"
    UPSTREAM_TRUNCATED = "upstream_truncated"
    TIMEOUT_CONNECT = "timeout_connect"
    TIMEOUT_FIRST_TOKEN = "timeout_first_token"  # noqa: S105  # no password
    TIMEOUT_IDLE = "timeout_idle"
    TIMEOUT_TOTAL = "timeout_total"
    TIMEOUT_QUEUE = "timeout_queue"
    TIMEOUT_BODY = "timeout_body"
    REFUSED = "refused"
    LIMIT = "limit"
    GUARD = "guard"
    CANCELLED = "cancelled"
    SHUTDOWN = "shutdown"
    BUG = "bug"


class Outcome:
    """One cell. Five different causes all look like a cancellation from inside a task, so whoever ends an exchange
    settles it *before* cancelling anything, and everyone else reads it here."""

    __slots__ = ("cause", "detail", "error")

    def __init__(self) -> None:
        self.cause: Cause | None = None
        self.error: ProxyError | None = None
        self.detail: str | None = None

    def settle(self, cause: Cause, error: ProxyError | None = None, detail: str | None = None) -> bool:
        """Say how it ended. Returns whether this was the first to say so; a later one changes nothing.

        error   what the client is to be told, where it can still be told anything
        detail  one line for the record, where the cause alone does not say enough
        """
        if self.cause is not None:
            return False
        self.cause = cause
        self.error = error
        self.detail = detail if detail is not None else (error.message if error is not None else None)
        return True
