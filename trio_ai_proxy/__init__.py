"""An LLM gateway where nothing outlives its owner.

`app` is the application for Hypercorn: `hypercorn -k trio trio_ai_proxy:app`, configured by the file that
TRIO_AI_PROXY_CONFIG names. Importing the package starts nothing and loads nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

__version__ = "0.1.0"


class _App:
    """Loads the gateway when it is first called."""

    def __init__(self) -> None:
        self._hosted: Any = None

    @property
    def guard(self) -> Any:
        return self._hosted.guard if self._hosted is not None else None

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if self._hosted is None:
            # By name: the package would otherwise be said to import what is above everything in it.
            self._hosted = import_module("trio_ai_proxy.server").HostedApp()
        await self._hosted(scope, receive, send)


app = _App()
