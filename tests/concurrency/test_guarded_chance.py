"""Guarded exchanges by chance: providers that break off anywhere, judges that take their time, clients that leave or do not read.
Whatever happens, what is told as whole is whole, and no match leaves."""

from __future__ import annotations

import json
import random
from typing import TYPE_CHECKING, Any

import pytest
import trio
from support.exchanges import DONE, QUESTION, ROLE, SERVER_ERROR, STOP, delta, said, stream, terminals, usage
from support.failover import Relay, text

from trio_ai_proxy.settings.guards import GuardSettings, PatternSettings
from trio_ai_proxy.testing import Script, openai_answer, openai_error

if TYPE_CHECKING:
    from trio.testing import MockClock

SAID = "My mail is anna@example.org, his is bob@example.com; and 4 more words. The end, anna@example.org"
TOLD = "My mail is [email], his is [email]; and 4 more words. The end, [email]"
HARM = "more words"
PAUSES = (0.0, 0.0, 0.0, 0.5, 1.0, 2.0)
ROUNDS = 12


class Chance:
    """One exchange, made of what a seed gives."""

    def __init__(self, seed: int) -> None:
        self.random = draw = random.Random(seed)  # it is a test
        self.redacts = draw.random() < 0.8
        self.blocks = self.redacts and draw.random() < 0.2
        self.harms = draw.random() < 0.3
        self.fails = draw.choice(("open", "closed")) if draw.random() < 0.2 else None
        self.judges = draw.randrange(3)
        guards = []
        if self.redacts:
            action = "block" if self.blocks else "replace"
            where = draw.choice(("finish", "error"))
            guards.append(
                GuardSettings(
                    name="no-mail",
                    kind="redact",
                    on=("response",),
                    patterns=(PatternSettings("email"),),
                    action=action,  # type: ignore[arg-type]
                    on_block=where,  # type: ignore[arg-type]
                )
            )
        guards += [self._judge(f"watch-{number}") for number in range(self.judges)]
        draw.shuffle(guards)
        self.guards = tuple(guards) or (GuardSettings(name="no", kind="prompt_guard", deny=("never",)),)
        self.model = {
            "retries": draw.randrange(2),
            "continuation": draw.choice(("off", "splice", "hold")),
            "hold_for": draw.choice((0.5, 1.0, 2.0, 5.0)),
            "hold_bytes": draw.choice((100, 2**20)),
            "on_disconnect": draw.choice(("cancel", "drain", "grace", "auto")),
            "grace": 3.0,
            "keep_alive": draw.choice((None, 1.0, 3.0)),
            "hedge_after": draw.choice((None, None, 1.0)),
            "hedge_budget": 1.0,
        }
        self.timeouts = {"idle": draw.choice((5.0, 3000.0)), "total": draw.choice((20.0, 3000.0)), "stall": 3000.0}
        self.streams = draw.random() < 0.85
        self.targets = {name: self._playing() for name in "abc"[: draw.randrange(1, 4)]}
        manner: dict[str, Any] = {}
        if draw.random() < 0.3:
            manner["leave_after"] = draw.choice((0.5, 1.0, 2.0, 3.5, 7.0))
        if draw.random() < 0.4:
            manner["read_pause"] = draw.choice((0.5, 1.0, 3.0))
        if draw.random() < 0.1:
            manner |= {"stop_reading_after": draw.randrange(4), "leave_after": 40.0}
        self.manner = manner
        self.cancels_at = draw.choice((1.0, 3.0)) if draw.random() < 0.1 else None

    def _judge(self, name: str) -> GuardSettings:
        draw = self.random
        return GuardSettings(
            name=name,
            kind="moderate",
            model="judge",
            uses="chat",
            on=("response",),
            mode=draw.choice(("hold", "beside")),
            window=draw.choice((4, 16, 64)),
            overlap=32 if self.harms else draw.choice((0, 32)),
            whole=draw.random() < 0.2,
            timeout=2500.0,
            on_failure=self.fails or "closed",  # type: ignore[arg-type]
            on_block=draw.choice(("finish", "error")),
        )

    def judge(self, fields: dict[str, Any]) -> Script:
        draw = self.random
        pause = draw.choice((0.0, 0.5, 1.0, 4.0))
        if self.fails and draw.random() < 0.3:
            return openai_error(500)
        shown = json.loads(fields["messages"][-1]["content"])
        word = "block" if self.harms and HARM in shown["context"] + shown["text"] else "pass"
        return openai_answer(json.dumps({"verdict": word, "reason": "harm"}), head_pause=pause)

    def _pieces(self) -> list[str]:
        size = self.random.choice((1, 3, 7, 20, 1000))
        return [SAID[start : start + size] for start in range(0, len(SAID), size)]

    def _playing(self) -> Any:
        return [self._script() for _ in range(3)]

    def _script(self) -> Script:
        draw = self.random
        if not self.streams:
            return openai_answer(SAID) if draw.random() < 0.7 else openai_error(500)
        if draw.random() < 0.15:
            return openai_error(draw.choice((429, 500, 503)))
        pieces = [(draw.choice(PAUSES) if len(SAID) > 40 else 0.0, delta(piece)) for piece in self._pieces()]
        if draw.random() < 0.5:
            return stream(delta(ROLE), *pieces, STOP, usage(7, 11), DONE)
        pieces = pieces[: draw.randrange(len(pieces) + 1)]
        last = draw.choice(([], [], [SERVER_ERROR], [b"data: {no\n\n"], [delta("Else") + SERVER_ERROR]))
        return stream(delta(ROLE), *pieces, *last, ending=draw.choice(("close", "cut", "stall")))

    async def run(self) -> None:
        bench = Relay(
            guards=self.guards,
            judge=self.judge,
            model=self.model,
            timeouts=self.timeouts,
            server={"validate_streams": True},
            **self.targets,
        )
        async with bench:
            async with trio.open_nursery() as nursery:
                if self.cancels_at is not None:
                    nursery.start_soon(self._cancel, bench, self.cancels_at)
                got = await bench.ask(json={**QUESTION, "stream": self.streams}, **self.manner)
                nursery.cancel_scope.cancel()
            await bench.gateway.live.empty.wait()
            assert bench.log("bug") == []
            assert bench.log("illegal stream") == []
        if self.redacts:
            assert b"anna@example.org" not in got.body
            assert b"bob@example.com" not in got.body
        [record] = [one for one in bench.records if one.parent is None]
        whole = TOLD if self.redacts else SAID
        if got.status is None or got.left_at is not None:
            return
        if not self.streams or got.status != 200:
            assert got.is_complete
            assert (record.outcome == "completed") is (got.status == 200)
            if got.status == 200:
                assert got.json()["choices"][0]["message"]["content"] == whole
            return
        ends = [
            choice["finish_reason"]
            for one in said(got)
            if isinstance(one.payload, dict)
            for choice in one.payload.get("choices", ())
            if choice["finish_reason"]
        ]
        assert len(terminals(got)) == 1
        assert len(ends) <= 1
        if terminals(got) == ["[DONE]"]:
            assert record.outcome == ("guard" if ends == ["content_filter"] else "completed")
        else:
            assert record.outcome != "completed"
        if record.outcome == "completed":
            assert ends == ["stop"]
            assert text(got) == whole
            assert not self.blocks
            assert not (self.harms and self.judges and not self.fails)
        assert "stop" not in ends or text(got) == whole

    async def _cancel(self, bench: Relay, seconds: float) -> None:
        await trio.sleep(seconds)
        for row in await bench.rows():
            if row["parent"] is None:
                await bench.cancel(row["id"])


@pytest.mark.parametrize("seed", range(40))
async def test_whatever_happens_the_truth_is_told(autojump_clock: MockClock, seed: int) -> None:
    for number in range(ROUNDS):
        await Chance(seed * 1000 + number).run()
