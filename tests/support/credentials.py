"""A provider with several credentials, and a bench in front of it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import trio
from support.exchanges import DONE, STOP, Bench, delta, stream

from trio_ai_proxy.settings import Secret
from trio_ai_proxy.testing import Script, openai_answer, openai_error

if TYPE_CHECKING:
    import httpx

    Playing = Script | list[Script]

KEYS = ("sk-alpha-9471-secret", "sk-beta-5820-secret", "sk-gamma-3316-secret")
WELL = stream(delta("The"), delta(" sea"), STOP, DONE)
WHOLE_ANSWER = openai_answer("The sea", usage=(3, 2))
INVALID = openai_error(401, "Incorrect API key provided.", type="invalid_request_error", code="invalid_api_key")
USED_UP = openai_error(402, "Payment required.")
FORBIDDEN = openai_error(403, "You have no access.")
QUOTA = openai_error(429, "You exceeded your current quota.", type="insufficient_quota", code="insufficient_quota")
GOOGLES = openai_error(400, "API key not valid.", type="INVALID_ARGUMENT", code="API_KEY_INVALID")


def limited(after: int | None = None) -> Script:
    headers = [] if after is None else [("retry-after", str(after))]
    return openai_error(
        429, "Rate limit reached.", type="rate_limit_error", code="rate_limit_exceeded", headers=headers
    )


class Accounts:
    """A provider that plays for each of its first credentials what is given for it, a list one after the other, its last one for
    ever; `asked` are the places of the credentials that it was asked with, `times` when."""

    def __init__(self, *playing: Playing) -> None:
        self._left = [list(one) if isinstance(one, list) else [one] for one in playing]
        self.asked: list[int | None] = []
        self.times: list[float] = []

    @property
    def provider(self) -> dict[str, Any]:
        """Fields of its settings."""
        return {"api_key": None, "api_keys": tuple(Secret(KEYS[place], "a test") for place in range(len(self._left)))}

    def __call__(self, request: httpx.Request) -> Script:
        word = request.headers["authorization"].removeprefix("Bearer ")
        self.times.append(trio.current_time())
        if word not in KEYS:
            self.asked.append(None)
            return INVALID
        place = KEYS.index(word)
        self.asked.append(place)
        left = self._left[place]
        return left.pop(0) if len(left) > 1 else left[0]


def bench_of(accounts: Accounts, provider: dict[str, Any] | None = None, **fields: Any) -> Bench:
    return Bench(accounts, provider={**accounts.provider, **(provider or {})}, **fields)


def rows(bench: Bench) -> list[tuple[int | None, str, str]]:
    return [(row.credential, row.kind, row.outcome) for row in bench.records[-1].attempts]


async def known(bench: Bench, name: str = "scripted") -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = (await bench.admin.get("/targets")).json()["credentials"][name]
    return found


async def states(bench: Bench) -> list[str]:
    return [one["state"] for one in await known(bench)]


async def sample(bench: Bench, name: str) -> float | None:
    lines = (await bench.admin.get("/metrics")).body.decode().splitlines()
    return next((float(line.rpartition(" ")[2]) for line in lines if line.startswith(f"trio_ai_proxy_{name} ")), None)
