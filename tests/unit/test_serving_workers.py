"""When a worker that died is started again, and what it is told when it starts."""

from __future__ import annotations

import pickle

import pytest
from support.config_file import DEMO, load

from trio_ai_proxy.serving.lifeline import Job
from trio_ai_proxy.serving.workers import AT_ONCE, FIRST_PAUSE, LONGEST_PAUSE, MOST_IN_SUCCESSION, Restarts
from trio_ai_proxy.settings import AdminSettings

LONG_LIFE = 3600.0


def test_deaths_in_succession_make_the_pause_grow_to_a_bound() -> None:
    restarts = Restarts()
    pauses = [restarts.after(AT_ONCE) for _ in range(100)]
    assert pauses[:4] == [FIRST_PAUSE, 2 * FIRST_PAUSE, 4 * FIRST_PAUSE, 8 * FIRST_PAUSE]
    assert pauses[-1] == LONGEST_PAUSE


def test_a_long_life_is_a_new_beginning() -> None:
    restarts = Restarts()
    for _ in range(3):
        restarts.after(AT_ONCE)
    assert restarts.after(LONG_LIFE) == FIRST_PAUSE


def test_a_worker_that_dies_at_once_several_times_in_succession_is_given_up() -> None:
    restarts = Restarts()
    assert None not in [restarts.after(0.0) for _ in range(MOST_IN_SUCCESSION - 1)]
    assert restarts.after(AT_ONCE / 2) is None


def test_a_death_that_was_not_at_once_breaks_the_succession() -> None:
    restarts = Restarts()
    for _ in range(3):
        for _ in range(MOST_IN_SUCCESSION - 1):
            assert restarts.after(0.0) is not None
        assert restarts.after(LONG_LIFE) is not None


def test_a_worker_gets_the_settings_that_its_owner_has_checked_credentials_and_all() -> None:
    text = (
        DEMO + '[providers.openai]\nkind = "openai"\napi_key = "sk-marker-2112"\n[[keys]]\nname = "a"\nsecret = "k"\n'
    )
    settings, _ = load(text)
    data = Job(worker=1, settings=settings, listener=5, admin=None).encode()
    assert int.from_bytes(data[:4], "big") == len(data) - 4
    job = pickle.loads(data[4:])
    assert job == Job(worker=1, settings=settings, listener=5, admin=None)
    assert job.settings.providers["openai"].api_key.reveal() == "sk-marker-2112"


@pytest.mark.parametrize(
    ("bind", "worker", "expected"),
    [
        ("127.0.0.1:8001", 0, "127.0.0.1:8001"),
        ("127.0.0.1:8001", 2, "127.0.0.1:8003"),
        ("[::1]:8001", 1, "[::1]:8002"),
        ("127.0.0.1:0", 1, "127.0.0.1:0"),
        ("", 1, ""),
    ],
)
def test_admin_ports_are_consecutive(bind: str, worker: int, expected: str) -> None:
    assert AdminSettings(bind=bind).bind_of(worker) == expected
