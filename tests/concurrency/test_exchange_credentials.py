"""Several credentials of one provider: who is asked with which, when, and what is said of it. Chance always says one half."""

from __future__ import annotations

import json
import random
from collections import Counter
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
import trio
from support.credentials import (
    FORBIDDEN,
    GOOGLES,
    INVALID,
    KEYS,
    QUOTA,
    USED_UP,
    WELL,
    WHOLE_ANSWER,
    Accounts,
    bench_of,
    known,
    limited,
    rows,
    sample,
    states,
)
from support.exchanges import DONE, STOP, delta, error_of, frame, in_band_error, stream, text
from support.failover import WHOLE, WORDS, Relay, answer, broken

from trio_ai_proxy.relay.probe import probe
from trio_ai_proxy.settings import AuthSettings, Secret, TargetSettings
from trio_ai_proxy.testing import Script, ScriptedTransport, openai_error

if TYPE_CHECKING:
    from trio.testing import MockClock

    from trio_ai_proxy.testing import ClientAnswer


@pytest.fixture(autouse=True)
def _chance(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(random, "random", lambda: 0.5)


class TestRefused:
    @pytest.mark.parametrize(
        ("refusal", "reason"),
        [(INVALID, "401"), (USED_UP, "402"), (FORBIDDEN, "403"), (QUOTA, "402"), (GOOGLES, "401")],
    )
    @pytest.mark.parametrize("streamed", [True, False])
    async def test_next_credential_answers_at_once(
        self, autojump_clock: MockClock, streamed: bool, refusal: Script, reason: str
    ) -> None:
        accounts = Accounts(refusal, WELL if streamed else WHOLE_ANSWER)
        async with bench_of(accounts) as bench:
            got = await (bench.ask_stream() if streamed else bench.ask())
            assert got.status == 200
            said = text(got) if streamed else got.json()["choices"][0]["message"]["content"]
            assert said == "The sea"
            assert got.header("x-llm-attempts") == "2"
            assert (accounts.asked, accounts.times) == ([0, 1], [0.0, 0.0])
            assert rows(bench) == [(0, "first", "upstream_error"), (1, "retry", "completed")]
            [out, well] = await known(bench)
            assert (out["state"], out["reason"], well["state"], well["reason"]) == ("out", reason, "usable", None)
            assert await sample(bench, 'credentials_usable{provider="scripted"}') == 1
            labels = f'{{credential="0",provider="scripted",reason="{reason}"}}'
            assert await sample(bench, f"credentials_out_total{labels}") == 1
            [line] = bench.log("credential out")
            assert (line["provider"], line["credential"], line["reason"]) == ("scripted", 0, reason)

    async def test_who_is_out_is_left_alone(self, autojump_clock: MockClock) -> None:
        accounts = Accounts(INVALID, WELL, WELL)
        async with bench_of(accounts) as bench:
            for _ in range(21):
                assert (await bench.ask_stream()).status == 200
            assert Counter(accounts.asked) == {0: 1, 1: 11, 2: 10}
            assert len(bench.log("credential out")) == 1

    async def test_error_inside_a_stream_that_says_the_same_is_the_same(self, autojump_clock: MockClock) -> None:
        in_band = stream(
            frame({"error": {"message": "No.", "type": "authentication_error", "code": "invalid_api_key"}})
        )
        accounts = Accounts(in_band, WELL)
        async with bench_of(accounts) as bench:
            assert text(await bench.ask_stream()) == "The sea"
            assert await states(bench) == ["out", "usable"]

    async def test_policy_on_content_is_no_refusal_of_the_credential(self, autojump_clock: MockClock) -> None:
        policy = openai_error(403, "Content violates usage guidelines.", code="content_filter")
        accounts = Accounts(policy, WELL)
        async with bench_of(accounts) as bench:
            assert (await bench.ask_stream()).status == 502
            assert (accounts.asked, await states(bench)) == ([0], ["usable", "usable"])

    async def test_other_errors_stay_with_the_credential(self, autojump_clock: MockClock) -> None:
        accounts = Accounts(openai_error(503), WELL)
        async with bench_of(accounts) as bench:
            assert (await bench.ask_stream()).status == 503
            assert (accounts.asked, await states(bench)) == ([0], ["usable", "usable"])


class TestAllOut:
    @pytest.mark.parametrize("streamed", [True, False])
    async def test_the_provider_s_own_error_is_told(self, autojump_clock: MockClock, streamed: bool) -> None:
        accounts = Accounts(INVALID, INVALID, INVALID)
        async with bench_of(accounts, model={"retries": 5}) as bench:
            got = await (bench.ask_stream() if streamed else bench.ask())
            assert got.status == 502
            assert error_of(got)["code"] == "invalid_api_key"
            assert got.header("x-llm-attempts") == "3"
            assert accounts.asked == [0, 1, 2]
            assert await sample(bench, 'credentials_usable{provider="scripted"}') == 0

    async def test_one_is_tried_all_the_same_in_turn(self, autojump_clock: MockClock) -> None:
        accounts = Accounts([INVALID, INVALID, WELL], INVALID)
        async with bench_of(accounts) as bench:
            assert [(await bench.ask_stream()).status for _ in range(5)] == [502, 502, 502, 200, 200]
            assert accounts.asked == [0, 1, 0, 1, 0, 0]
            [back] = bench.log("credential in again")
            assert (back["provider"], back["credential"]) == ("scripted", 0)

    async def test_next_target_is_asked_after_all_credentials_of_the_first(self, autojump_clock: MockClock) -> None:
        accounts = Accounts(INVALID, USED_UP)
        relay = Relay(a=Script(), b=answer(), providers={"a": accounts.provider})
        relay.transports["a"] = ScriptedTransport(accounts)
        async with relay as bench:
            got = await bench.ask_stream()
            assert (text(got), got.header("x-llm-provider"), got.header("x-llm-attempts")) == (WHOLE, "b", "3")
            assert rows(bench) == [
                (0, "first", "upstream_error"), (1, "retry", "upstream_error"), (None, "next", "completed"),
            ]  # fmt: skip


class TestRecovery:
    async def test_a_probe_brings_it_back(self, autojump_clock: MockClock) -> None:
        accounts = Accounts([INVALID, WELL], WELL)
        async with bench_of(accounts) as bench:
            await bench.ask_stream()
            await trio.sleep(299)
            assert (await known(bench))[0] == {
                "credential": 0, "state": "out", "reason": "401", "out_for_seconds": 299.0, "ready_in_seconds": 1.0,
            }  # fmt: skip
            await bench.ask_stream()
            assert accounts.asked == [0, 1, 1]
            await trio.sleep(1)
            got = await bench.ask_stream()
            assert (got.header("x-llm-attempts"), accounts.asked) == ("1", [0, 1, 1, 0])
            assert await states(bench) == ["usable", "usable"]
            assert len(bench.log("credential in again")) == 1
            assert await sample(bench, 'credentials_usable{provider="scripted"}') == 2

    async def test_a_probe_that_fails_costs_the_client_an_attempt_and_no_answer(
        self, autojump_clock: MockClock
    ) -> None:
        accounts = Accounts(INVALID, WELL)
        async with bench_of(accounts) as bench:
            await bench.ask_stream()
            await trio.sleep(300)
            got = await bench.ask_stream()
            assert (text(got), got.header("x-llm-attempts")) == ("The sea", "2")
            assert (await known(bench))[0]["ready_in_seconds"] == 600.0
            assert len(bench.log("credential out")) == 1

    async def test_one_shot_answer_is_an_answer(self, autojump_clock: MockClock) -> None:
        accounts = Accounts([INVALID, WHOLE_ANSWER], WHOLE_ANSWER)
        async with bench_of(accounts) as bench:
            await bench.ask()
            await trio.sleep(300)
            await bench.ask()
            assert await states(bench) == ["usable", "usable"]

    async def test_first_token_is_enough(self, autojump_clock: MockClock) -> None:
        slow = stream(delta("The"), (50, delta(" sea")), STOP, DONE)
        accounts = Accounts([INVALID, slow], WELL)
        async with bench_of(accounts) as bench, trio.open_nursery() as nursery:
            await bench.ask_stream()
            await trio.sleep(300)
            nursery.start_soon(bench.ask_stream)
            await trio.sleep(1)
            assert await states(bench) == ["usable", "usable"]

    async def test_answer_that_began_before_it_went_out_says_nothing(self, autojump_clock: MockClock) -> None:
        slow = stream((10, delta("The")), delta(" sea"), STOP, DONE)
        accounts = Accounts([slow, INVALID], WELL)
        async with bench_of(accounts) as bench, trio.open_nursery() as nursery:
            nursery.start_soon(bench.ask_stream)
            await trio.sleep(1)
            await bench.ask_stream()
            await bench.ask_stream()
            assert await states(bench) == ["out", "usable"]
            await trio.sleep(20)
            assert await states(bench) == ["out", "usable"]


class TestLimited:
    @pytest.mark.parametrize("streamed", [True, False])
    async def test_next_credential_is_asked_at_once(self, autojump_clock: MockClock, streamed: bool) -> None:
        accounts = Accounts(limited(30), WELL if streamed else WHOLE_ANSWER)
        async with bench_of(accounts, model={"retries": 1}) as bench:
            got = await (bench.ask_stream() if streamed else bench.ask())
            assert (got.status, got.header("x-llm-attempts")) == (200, "2")
            assert (accounts.asked, accounts.times) == ([0, 1], [0.0, 0.0])
            assert (await known(bench))[0] == {
                "credential": 0, "state": "resting", "reason": None, "out_for_seconds": None, "ready_in_seconds": 30.0,
            }  # fmt: skip
            assert bench.log("credential out") == []
            await trio.sleep(29)
            await bench.ask_stream()
            await trio.sleep(1)
            await bench.ask_stream()
            assert accounts.asked[2:4] == [1, 0]

    async def test_when_all_rest_the_first_that_may_is_waited_for(self, autojump_clock: MockClock) -> None:
        accounts = Accounts([limited(3), WELL], limited(50))
        async with bench_of(accounts, model={"retries": 1}) as bench:
            got = await bench.ask_stream()
            assert (text(got), got.header("x-llm-attempts")) == ("The sea", "3")
            assert (accounts.asked, accounts.times) == ([0, 1, 0], [0.0, 0.0, 3.125])

    async def test_after_a_pause_it_is_the_turn_of_whoever_is_usable_by_then(self, autojump_clock: MockClock) -> None:
        down = openai_error(503, headers=[("retry-after", "10")])
        accounts = Accounts([WELL, down, WELL], [limited(5), WELL])
        async with bench_of(accounts, model={"retries": 1}) as bench:
            for _ in range(2):
                assert (await bench.ask_stream()).status == 200
            assert (accounts.asked, accounts.times) == ([0, 1, 0, 1], [0.0, 0.0, 0.0, 10.125])

    async def test_no_credential_is_asked_twice_at_once_in_one_exchange(self, autojump_clock: MockClock) -> None:
        """The rest of the first one, which another request has brought about, is over when this one is told to wait."""
        accounts = Accounts([replace(limited(), head_pause=6.0), limited()], WELL)
        async with bench_of(accounts) as bench, trio.open_nursery() as nursery:
            nursery.start_soon(bench.ask_stream)
            await trio.sleep(0.5)
            await bench.ask_stream()
            await bench.ask_stream()
            assert (accounts.asked, await states(bench)) == ([0, 1, 0, 1], ["resting", "usable"])
            await trio.sleep(5.4)
            assert await states(bench) == ["usable", "usable"]
            await trio.sleep(1)
            assert accounts.asked[4:] == [1]

    async def test_without_retry_after_the_pause_is_the_usual_one(self, autojump_clock: MockClock) -> None:
        accounts = Accounts([limited(), WELL], limited())
        async with bench_of(accounts, model={"retries": 1}) as bench:
            assert text(await bench.ask_stream()) == "The sea"
            assert accounts.times == [0.0, 0.0, 0.125]

    async def test_one_that_only_rests_is_waited_for_when_the_other_is_refused(self, autojump_clock: MockClock) -> None:
        accounts = Accounts([limited(3), WELL], INVALID)
        async with bench_of(accounts, model={"retries": 1}) as bench:
            assert text(await bench.ask_stream()) == "The sea"
            assert (accounts.asked, accounts.times) == ([0, 1, 0], [0.0, 0.0, 3.125])

    async def test_all_limited_is_the_provider_s_429_with_its_retry_after(self, autojump_clock: MockClock) -> None:
        accounts = Accounts(limited(7), limited(7))
        async with bench_of(accounts) as bench:
            got = await bench.ask_stream()
            assert (got.status, got.header("retry-after"), accounts.asked) == (429, "7", [0, 1])

    async def test_request_that_is_larger_than_the_rate_is_not_the_credential_s(
        self, autojump_clock: MockClock
    ) -> None:
        large = openai_error(
            429, "Request too large for gpt-4o on tokens per min (TPM): Limit 3, Requested 4.", type="tokens"
        )
        accounts = Accounts(large, WELL)
        async with bench_of(accounts) as bench:
            assert (await bench.ask_stream()).status == 429
            assert (accounts.asked, await states(bench)) == ([0], ["usable", "usable"])


class TestTarget:
    @pytest.mark.parametrize(("failing", "times"), [(limited(1), 15), (INVALID, 1)])
    async def test_is_not_blamed_while_another_credential_works(
        self, autojump_clock: MockClock, failing: Script, times: int
    ) -> None:
        accounts = Accounts(failing, WELL)
        async with bench_of(accounts, model={"retries": 3}) as bench:
            for _ in range(30):
                assert (await bench.ask_stream()).status == 200
                await trio.sleep(0.6)
            [model] = (await bench.admin.get("/targets")).json()["models"]
            [target] = model["targets"]
            assert (target["breaker"], target["failure_rate"], target["consecutive_failures"]) == ("closed", 0.0, 0)
            assert target["retries_left"] == 10.0
            assert Counter(accounts.asked) == {0: times, 1: 30}

    async def test_another_credential_neither_spends_nor_earns_a_retry(self, autojump_clock: MockClock) -> None:
        accounts = Accounts(limited(), WELL)
        async with bench_of(accounts) as bench:
            [(_, [health], _)] = bench.gateway.known_targets()
            while health.budget.spend(trio.current_time()):
                pass
            assert (await bench.ask_stream()).header("x-llm-attempts") == "2"
            assert health.budget.held == pytest.approx(0.2)  # of the first attempt

    async def test_is_blamed_when_none_works(self, autojump_clock: MockClock) -> None:
        accounts = Accounts(limited(), limited())
        async with bench_of(accounts, model={"retries": 0}) as bench:
            for _ in range(12):
                await bench.ask_stream()
            [model] = (await bench.admin.get("/targets")).json()["models"]
            assert model["targets"][0]["breaker"] == "open"

    async def test_share_is_even(self, autojump_clock: MockClock) -> None:
        accounts = Accounts(WELL, WELL, WELL)
        async with bench_of(accounts) as bench:
            for _ in range(30):
                await bench.ask_stream()
            assert Counter(accounts.asked) == {0: 10, 1: 10, 2: 10}
            assert [record.attempts[0].credential for record in bench.records[:4]] == [0, 1, 2, 0]

    async def test_two_models_of_one_account_share_its_credentials(self, autojump_clock: MockClock) -> None:
        accounts = Accounts(limited(30), WELL)
        targets = tuple(TargetSettings("scripted", name, priority=at) for at, name in enumerate(("one", "two")))
        async with bench_of(accounts, model={"targets": targets}) as bench:
            for _ in range(3):
                assert (await bench.ask_stream()).status == 200
            assert accounts.asked == [0, 1, 1, 1]

    async def test_check_asks_with_each(self, autojump_clock: MockClock) -> None:
        accounts = Accounts(INVALID, WHOLE_ANSWER)
        async with bench_of(accounts) as bench:
            found = {name: await probe(target) for name, target in bench.gateway.targets()}
        assert found == {"gpt-4o, credential 0": "Incorrect API key provided.", "gpt-4o, credential 1": None}


class TestStreams:
    async def test_stream_that_broke_off_says_nothing_of_its_credential(self, autojump_clock: MockClock) -> None:
        accounts = Accounts(stream(delta("The"), ending="cut"), WELL)
        async with bench_of(accounts) as bench:
            assert in_band_error(await bench.ask_stream())[1]["code"] == "upstream_truncated"
            assert (accounts.asked, await states(bench)) == ([0], ["usable", "usable"])

    async def test_limit_in_mid_answer_is_told_and_the_credential_rests(self, autojump_clock: MockClock) -> None:
        error = frame({"error": {"message": "Slow down.", "type": "rate_limit_error", "code": "rate_limit_exceeded"}})
        accounts = Accounts(stream(delta("The"), error), WELL)
        async with bench_of(accounts, model={"continuation": "splice", "retries": 0}) as bench:
            assert in_band_error(await bench.ask_stream())[1]["code"] == "rate_limit_exceeded"
            assert (accounts.asked, await states(bench)) == ([0], ["resting", "usable"])

    async def test_continuation_is_made_with_another_credential_where_the_first_is_refused(
        self, autojump_clock: MockClock
    ) -> None:
        accounts = Accounts(INVALID, answer())
        relay = Relay(a=broken(20), b=Script(), providers={"b": accounts.provider}, model={"continuation": "splice"})
        relay.transports["b"] = ScriptedTransport(accounts)
        async with relay as bench:
            assert text(await bench.ask_stream()) == WHOLE
            assert accounts.asked == [0, 1]
            assert [row[:2] for row in rows(bench)] == [(None, "first"), (0, "continuation"), (1, "continuation")]

    async def test_restart_at_the_same_target_goes_out_with_the_credential_whose_turn_it_is(
        self, autojump_clock: MockClock
    ) -> None:
        accounts = Accounts(broken(20), answer())
        async with bench_of(accounts, model={"continuation": "splice", "retries": 1}) as bench:
            assert text(await bench.ask_stream()) == WHOLE
            assert accounts.asked == [0, 1]

    async def test_restart_after_a_beginning_of_its_own_is_made_with_another_credential(
        self, autojump_clock: MockClock
    ) -> None:
        """The second target says something else, then goes on from the beginning, breaks off, and is asked for all again."""
        accounts = Accounts([answer(["Something", " else."]), broken(5, words=WORDS[20:]), INVALID], answer())
        relay = Relay(
            a=broken(20), b=Script(), providers={"b": accounts.provider}, targets={"b": {"prefill": True}},
            model={"continuation": "splice", "retries": 1},
        )  # fmt: skip
        relay.transports["b"] = ScriptedTransport(accounts)
        async with relay as bench:
            assert text(await bench.ask_stream()) == WHOLE
            assert accounts.asked == [0, 0, 1]

    async def test_hedged_call_is_made_with_another_credential(self, autojump_clock: MockClock) -> None:
        accounts = Accounts(INVALID, answer())
        relay = Relay(
            a=Script(),
            b=answer(before=100),
            providers={"a": accounts.provider},
            model={"hedge_after": 5.0, "retries": 0},
        )
        relay.transports["a"] = ScriptedTransport(accounts)
        async with relay as bench:
            assert text(await bench.ask_stream()) == WHOLE
            assert accounts.asked == [0, 1]
            assert bench.times("b") == []

    async def test_client_that_leaves_says_nothing_of_the_credential(self, autojump_clock: MockClock) -> None:
        accounts = Accounts(replace(WELL, head_pause=50.0), WELL)
        async with bench_of(accounts) as bench:
            with trio.move_on_after(1):
                await bench.ask_stream()
            assert await states(bench) == ["usable", "usable"]


class TestOwn:
    async def test_one_credential_of_a_list_is_as_api_key(self, autojump_clock: MockClock) -> None:
        accounts = Accounts(INVALID)
        async with bench_of(accounts, model={"retries": 3}) as bench:
            assert (await bench.ask_stream()).status == 502
            assert (accounts.asked, bench.record.attempts[0].credential) == ([0], None)
            assert (await bench.admin.get("/targets")).json()["credentials"] == {}
            assert "credentials_usable{" not in (await bench.admin.get("/metrics")).body.decode()

    async def test_client_s_own_is_never_rotated(self, autojump_clock: MockClock) -> None:
        auth = AuthSettings(
            param_name="key", param_value=Secret("ours", "a test"), param_location="query", allow_override=True
        )
        accounts = Accounts(INVALID, WELL)
        async with bench_of(accounts, {"auth": auth}) as bench:
            got = await bench.client.post(
                "/v1/chat/completions?key=theirs",
                json={"model": "gpt-4o", "stream": True, "messages": [{"role": "user"}]},
            )
            assert (got.status, got.header("x-llm-attempts")) == (502, "1")
            assert await states(bench) == ["usable", "usable"]
            assert bench.record.attempts[0].credential is None

    async def test_no_credential_is_shown_anywhere(self, autojump_clock: MockClock) -> None:
        """The provider repeats all of them in its errors."""
        telling = " ".join(KEYS)
        accounts = Accounts(openai_error(401, f"Wrong: {telling}", code=KEYS[0]), openai_error(403, f"No: {telling}"))
        seen: list[ClientAnswer] = []
        async with bench_of(accounts) as bench:
            seen += [await bench.ask_stream(), await bench.ask()]
            bench.gateway._report("slip", said=telling)  # a bug would write one, and the log would not
            seen += [await bench.admin.get(path) for path in ("/targets", "/metrics", "/exchanges")]
            written = json.dumps([str(record) for record in bench.records]) + "".join(map(str, bench._lines))
            assert len(bench.log("credential out")) == 2
            shown = b"".join(answer.body for answer in seen).decode() + written + repr(bench.settings)
        for secret in KEYS[:2]:
            assert secret not in shown
