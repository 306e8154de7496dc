"""`balance = "semantic"`: the target whose description is nearest to what is asked answers, and nothing that goes wrong with the
vectors is an error for the client. On a virtual clock."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

import pytest
import trio
from support.exchanges import LONGEST, QUESTION
from support.failover import answer, text
from support.semantic import Meant, documented, embedded, vectors_of, whole

from trio_ai_proxy.errors import ConfigError
from trio_ai_proxy.gateway import Gateway
from trio_ai_proxy.settings import Secret
from trio_ai_proxy.testing import Script, openai_error

if TYPE_CHECKING:
    from trio.testing import MockClock

LAW, POEM, REST = whole("the law"), whole("a poem"), whole("whatever")
THREE: dict[str, Any] = {"law": LAW, "poem": POEM, "rest": REST}


async def test_the_nearest_description_answers_and_what_is_near_to_none_goes_to_who_has_none(
    autojump_clock: MockClock,
) -> None:
    async with Meant(**THREE) as bench:
        assert [await bench.who(text) for text in ("a poem", "code", "law law poem", "sea")] == [
            "poem", "rest", "law", "rest",
        ]  # fmt: skip


async def test_without_one_for_the_rest_the_nearest_answers_however_far_it_is(autojump_clock: MockClock) -> None:
    async with Meant(semantic={"threshold": 0.9}, law=LAW, poem=POEM) as bench:
        assert await bench.who("code code code poem") == "poem"
        assert await bench.who("code code code law") == "law"


async def test_descriptions_are_asked_about_once_and_the_same_text_is_not_asked_about_again(
    autojump_clock: MockClock,
) -> None:
    async with Meant(**THREE) as bench:
        for text in ("a poem", "a law", "a poem"):
            await bench.say(text)
        assert bench.asked_about == [["law", "poem"], "a poem", "a law"]
        assert bench.counted() == {"asked": 2.0, "remembered": 1.0}


async def test_the_books_have_each_question_as_an_exchange_of_its_own(autojump_clock: MockClock) -> None:
    async with Meant(**THREE) as bench:
        await bench.say("a poem", headers=[("x-request-id", "mine")])
        first, second = bench.children
        [own] = bench.clients
        assert [child.request_id for child in (first, second)] == ["mine-g1", "mine-g2"]
        for child in (first, second):
            assert (child.parent, child.guard, child.dialect, child.model) == ("mine", "semantic", "gateway", "vectors")
            assert (child.outcome, child.phase, child.status, child.provider) == ("completed", "done", 200, "embed")
            assert (child.bytes_out, child.stream, child.usage_source) == (0, False, "provider")
        assert (first.prompt_tokens, second.prompt_tokens) == (4, 2)
        assert (own.request_id, own.parent, own.guard, own.total_tokens) == ("mine", None, None, 4)
        page = bench.gateway.metrics.render()[0].decode()
        assert 'trio_ai_proxy_children_total{guard="semantic",outcome="completed"} 2.0' in page


async def test_an_ill_target_is_passed_over_for_the_next_in_nearness(autojump_clock: MockClock) -> None:
    down = openai_error(503)
    targets: dict[str, Any] = {**THREE, "code": whole("code"), "poem": down}
    async with Meant(semantic={"threshold": 0.3}, model={"retries": 0}, **targets) as bench:
        assert await bench.who("poem poem poem code code law") == "code"
        [record] = bench.clients
        assert [row.provider for row in record.attempts] == ["poem", "code"]


async def test_what_a_target_cannot_do_it_is_not_asked_however_near_it_is(autojump_clock: MockClock) -> None:
    async with Meant(targets={"poem": {"max_context": 1}}, **THREE) as bench:
        assert await bench.who("a poem") == "rest"


async def test_only_targets_of_one_priority_are_compared(autojump_clock: MockClock) -> None:
    async with Meant(targets={"poem": {"priority": 1}}, **THREE) as bench:
        assert await bench.who("a poem") == "rest"


async def test_a_question_without_words_is_for_who_has_no_description_and_nobody_is_asked(
    autojump_clock: MockClock,
) -> None:
    image = [{"type": "image_url", "image_url": {"url": "https://pictures.invalid/poem.png"}}]
    async with Meant(**THREE) as bench:
        answer = await bench.say(image)
        assert answer.header("x-llm-provider") == "rest"
        assert bench.played["embed"].exchanges == []
        assert bench.counted() == {"no_text": 1.0}


async def test_streams_go_by_meaning_too(autojump_clock: MockClock) -> None:
    async with Meant(law=answer(["Law"]), poem=answer(["Poem"])) as bench:
        asked = {**QUESTION, "messages": [{"role": "user", "content": "poem"}], "stream": True}
        got = await bench.ask(json=asked)
        assert text(got) == "Poem"


# -- when the vectors cannot be had ------------------------------------------------------------------------------------


async def test_a_slow_model_is_waited_for_a_second_and_then_targets_take_turns(autojump_clock: MockClock) -> None:
    async with Meant(embed=partial(vectors_of, head_pause=30.0), **THREE) as bench:
        assert (await bench.say("a poem")).header("x-llm-provider") == "law"
        assert trio.current_time() == 1.0
        [child] = bench.children
        assert (child.outcome, child.phase, child.duration_ms) == ("timeout_total", "first_token", 1000.0)
        assert bench.released("embed") == [1.0]
        [line] = bench.log("semantic balance failed, targets take turns")
        assert (line["model"], line["reason"]) == ("gpt-4o", "The exchange was not over within 1 s.")
        assert [await bench.who("a poem") for _ in range(2)] == ["poem", "rest"]
        assert trio.current_time() == 1.0
        assert bench.counted() == {"failed": 1.0, "resting": 2.0}


async def test_after_a_rest_that_grows_it_is_asked_again(autojump_clock: MockClock) -> None:
    failing = openai_error(500)
    async with Meant(embed=[failing, failing, failing, vectors_of({"input": ["law", "poem"]})], **THREE) as bench:
        for now in (0.0, 0.9, 1.0, 2.9, 3.0, 6.9):
            await trio.sleep_until(now)
            assert (await bench.say("a poem")).status == 200
        assert bench.times("embed") == [0.0, 1.0, 3.0]
        assert bench.counted() == {"failed": 3.0, "resting": 3.0}


async def test_a_text_that_is_refused_says_nothing_of_the_next(autojump_clock: MockClock) -> None:
    def embed(fields: dict[str, Any]) -> Script:
        too_bad = openai_error(400, "No such words.", type="invalid_request_error")
        return too_bad if fields["input"] == "bad poem" else vectors_of(fields)

    async with Meant(embed=embed, **THREE) as bench:
        assert [await bench.who(text) for text in ("poem", "bad poem", "a poem")] == ["poem", "law", "poem"]
        assert bench.counted() == {"asked": 2.0, "failed": 1.0}


@pytest.mark.parametrize(
    ("script", "reason"),
    [
        (embedded([[1.0, 0.0, 0.0]]), "The model `vectors` gave 1 vectors for 2 texts."),
        (embedded([[1.0], [1.0, 2.0]]), "the descriptions' vectors have not the same number of dimensions."),
        (documented({"object": "list"}), "The provider's answer has no embeddings."),
        (Script(refuse=True), "Provider 'embed' cannot be reached."),
    ],
)
async def test_vectors_that_are_no_use_are_a_failure_and_no_error(
    autojump_clock: MockClock, script: Script, reason: str
) -> None:
    async with Meant(embed=script, **THREE) as bench:
        assert (await bench.say("a poem")).status == 200
        [line] = bench.log("semantic balance failed, targets take turns")
        assert line["reason"] == reason


async def test_vectors_of_another_model_than_the_descriptions_are_a_failure(autojump_clock: MockClock) -> None:
    async with Meant(embed=[embedded([[1.0, 0.0], [0.0, 1.0]]), embedded([[1.0]])], **THREE) as bench:
        assert (await bench.say("a poem")).status == 200
        [line] = bench.log("semantic balance failed, targets take turns")
        assert line["reason"] == "the text's vector has 1 dimensions, and the descriptions' have 2."


async def test_a_model_that_takes_one_text_a_request_gets_the_descriptions_one_by_one(
    autojump_clock: MockClock,
) -> None:
    def embed(fields: dict[str, Any]) -> Script:
        text = fields["inputText"]
        return documented(
            {"embedding": [float(text.count("law")), float(text.count("poem"))], "inputTextTokenCount": 1}
        )

    account = {
        "kind": "bedrock", "base_url": None, "api_key": None, "region": "us-east-1",
        "access_key_id": "AK", "secret_access_key": Secret("sk", "a test"),
    }  # fmt: skip
    one_text = {"target": "amazon.titan-embed-text-v2:0"}
    async with Meant(embed=embed, account=account, vectors=one_text, **THREE) as bench:
        assert await bench.who("a poem") == "poem"
        assert [fields["inputText"] for fields in bench.asked("embed")] == ["law", "poem", "a poem"]
        assert [child.outcome for child in bench.children] == ["refused", "completed", "completed", "completed"]


def test_a_model_that_makes_no_embeddings_is_refused_at_the_start() -> None:
    bench = Meant(account={"kind": "anthropic"}, **THREE)
    with pytest.raises(
        ConfigError, match=r"\[models\.gpt-4o\] semantic: no target of the model 'vectors' makes embeddings"
    ):
        Gateway(bench.settings)


# -- who waits, and who leaves -----------------------------------------------------------------------------------------


async def test_who_leaves_while_it_is_asked_leaves_nothing(autojump_clock: MockClock) -> None:
    async with Meant(embed=partial(vectors_of, head_pause=0.5), **THREE) as bench:
        await bench.say("a poem", leave_after=0.2)
        assert bench.released("embed") == [0.2]
        [child], [own] = bench.children, bench.clients
        assert (child.outcome, child.detail, child.duration_ms) == ("client_gone", "with its parent", 200.0)
        assert (own.outcome, own.phase, own.provider) == ("client_gone", "prepare", None)
        assert [len(bench.played[name].exchanges) for name in THREE] == [0, 0, 0]
        assert bench.counted() == {}


async def test_two_at_once_ask_about_the_descriptions_once(autojump_clock: MockClock) -> None:
    async with Meant(embed=partial(vectors_of, head_pause=0.4), **THREE) as bench, trio.open_nursery() as nursery:
        for text in ("a poem", "a law"):
            nursery.start_soon(bench.say, text)
    assert [fields for fields in bench.asked_about if isinstance(fields, list)] == [["law", "poem"]]
    assert sorted(record.provider or "" for record in bench.clients) == ["law", "poem"]
    assert {record.duration_ms for record in bench.clients} == {800.0}


async def test_when_the_one_leaves_who_has_asked_about_the_descriptions_the_next_asks(
    autojump_clock: MockClock,
) -> None:
    async with Meant(embed=partial(vectors_of, head_pause=0.4), **THREE) as bench:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(partial(bench.say, "a law", leave_after=0.1))
            await trio.sleep(0.05)
            assert await bench.who("a poem") == "poem"
        assert bench.times("embed") == [0.0, 0.1, 0.5]


async def test_who_waits_for_anothers_question_waits_no_longer_than_for_its_own(autojump_clock: MockClock) -> None:
    async with Meant(embed=partial(vectors_of, head_pause=30.0), semantic={"timeout": 2.0}, **THREE) as bench:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(bench.say, "a law")
            nursery.start_soon(bench.say, "a poem")
        assert trio.current_time() == 2.0
        assert {record.outcome for record in bench.clients} == {"completed"}
        assert len(bench.children) == 1


async def test_who_waits_for_a_question_that_fails_does_not_ask_it_again(autojump_clock: MockClock) -> None:
    async with Meant(embed=openai_error(500, head_pause=0.3), **THREE) as bench:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(bench.say, "a law")
            nursery.start_soon(bench.say, "a poem")
        assert trio.current_time() == 0.3
        assert (len(bench.children), bench.counted()) == (1, {"failed": 1.0, "resting": 1.0})


async def test_where_there_is_nothing_to_compare_nobody_is_asked(autojump_clock: MockClock) -> None:
    async with Meant(targets={"law": {"priority": 1}}, poem=POEM, law=LAW) as bench:
        assert await bench.who("law") == "poem"
        assert bench.children == []


async def test_total_holds_for_the_question_too(autojump_clock: MockClock) -> None:
    slow = partial(vectors_of, head_pause=30.0)
    async with Meant(embed=slow, semantic={"timeout": 20.0}, timeouts={"total": 5.0}, **THREE) as bench:
        answer = await bench.say("a poem")
        assert (answer.status, trio.current_time()) == (504, 5.0)
        assert [record.outcome for record in bench.records] == ["timeout_total", "timeout_total"]
        assert bench.released("embed") == [5.0]


async def test_an_operator_sees_the_question_and_can_end_it_alone(autojump_clock: MockClock) -> None:
    async with Meant(embed=partial(vectors_of, head_pause=0.9), **THREE) as bench, trio.open_nursery() as nursery:
        nursery.start_soon(partial(bench.say, "a poem", headers=[("x-request-id", "mine")]))
        await trio.sleep(0.3)
        rows = [(row["id"], row["parent"], row["guard"], row["phase"]) for row in await bench.rows()]
        assert rows == [("mine", None, None, "prepare"), ("mine-g1", "mine", "semantic", "first_token")]
        assert (await bench.cancel("mine-g1")).status == 200
        await trio.testing.wait_all_tasks_blocked()
        assert [(record.request_id, record.outcome) for record in bench.records] == [
            ("mine-g1", "cancelled"), ("mine", "completed"),
        ]  # fmt: skip


async def test_an_operator_who_ends_the_exchange_ends_the_question_with_it(autojump_clock: MockClock) -> None:
    async with Meant(embed=partial(vectors_of, head_pause=0.9), **THREE) as bench:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(partial(bench.say, "a poem", headers=[("x-request-id", "mine")]))
            await trio.sleep(0.3)
            await bench.cancel("mine")
        assert trio.current_time() == 0.3
        assert [(record.request_id, record.outcome) for record in bench.records] == [
            ("mine-g1", "cancelled"), ("mine", "cancelled"),
        ]  # fmt: skip


async def test_a_hundred_questions_that_are_left_at_any_moment_leave_nothing(autojump_clock: MockClock) -> None:
    with trio.fail_after(LONGEST):
        async with Meant(embed=partial(vectors_of, head_pause=0.05), semantic={"timeout": 0.4}, **THREE) as bench:
            async with trio.open_nursery() as nursery:
                for number in range(100):
                    nursery.start_soon(partial(bench.say, f"a poem {number}", leave_after=number * 0.003))
            assert len(bench.clients) == 100
            parents = {record.request_id for record in bench.clients}
            assert {child.parent for child in bench.children} <= parents
