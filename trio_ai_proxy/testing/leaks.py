"""Nothing outlives its owner, as an assertion: after a block there are no more tasks and files than before it."""

from __future__ import annotations

import os
from collections import Counter
from typing import TYPE_CHECKING

import trio

if TYPE_CHECKING:
    from collections.abc import Awaitable
    from types import TracebackType

_FD_DIRECTORY = "/proc/self/fd"


class LeftBehind(AssertionError):
    """Something outlived the block; the message names each task and file descriptor."""


class no_leaks:  # noqa: N801 - reads as a statement: `async with no_leaks():`
    """`async with no_leaks():` raises `LeftBehind` if after the block there are more tasks or file descriptors.

    within  seconds that endings may take to come through after the block (of Trio's clock)
    File descriptors are counted where the system shows them under /proc; elsewhere tasks only. A block that raises is
    not judged. On a `MockClock` that does not jump by itself, use `within=0`.
    """

    def __init__(self, *, within: float = 1.0) -> None:
        self._within = within

    async def __aenter__(self) -> None:
        self._tasks = _living_tasks()
        self._files = _open_files()

    def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> Awaitable[None]:
        return self._judge(block_failed=error is not None)

    async def _judge(self, *, block_failed: bool) -> None:
        deadline = trio.current_time() + self._within
        while not block_failed and (problem := self._left_behind()):
            if trio.current_time() >= deadline:
                raise LeftBehind(problem)
            await trio.sleep(self._within / 20)

    def _left_behind(self) -> str:
        tasks, files = _living_tasks(), _open_files()
        problems = []
        if len(tasks) > len(self._tasks):
            names = Counter(task.name for task in tasks - self._tasks)
            listed = ", ".join(f"{name} × {count}" if count > 1 else name for name, count in sorted(names.items()))
            problems.append(f"{len(tasks) - len(self._tasks)} more tasks than before: {listed}")
        if len(files) > len(self._files):
            listed = ", ".join(f"{number} → {files[number]}" for number in sorted(files.keys() - self._files.keys()))
            problems.append(f"{len(files) - len(self._files)} more file descriptors than before: {listed}")
        return "; ".join(problems)


def _living_tasks() -> set[trio.lowlevel.Task]:
    root = trio.lowlevel.current_root_task()
    found = {root} if root is not None else set()
    unvisited = list(found)
    while unvisited:
        for nursery in unvisited.pop().child_nurseries:
            found |= nursery.child_tasks
            unvisited.extend(nursery.child_tasks)
    return found


def _open_files() -> dict[int, str]:
    try:
        numbers = [int(name) for name in os.listdir(_FD_DIRECTORY)]
    except OSError:
        return {}
    files = {}
    for number in numbers:
        try:
            files[number] = os.readlink(f"{_FD_DIRECTORY}/{number}")
        except OSError:  # the one that listed the directory is closed again
            continue
    return files
