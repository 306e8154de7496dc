from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trio_ai_proxy.errors import InvalidRequest
from trio_ai_proxy.routing.caller import NOBODY, Caller
from trio_ai_proxy.routing.placeholders import (
    MAX_MODEL_CHARACTERS,
    Placeholder,
    WrongPlaceholder,
    fill_model,
    fill_options,
    has_placeholders,
    pieces_of,
    placeholders_in,
)

CALLER = Caller(
    headers={b"x-model": b" gpt-4o ", b"x-empty": b"", b"x-bad": b"a b"},
    query=b"tier=mini&q=a%2Fb&plus=a+b&empty=&twice=1&twice=2&latin=%ff&n%61me=v",
    captures={"team": "blue", "deployment": "org/model"},
)


class TestText:
    def test_is_cut_into_its_pieces(self) -> None:
        assert pieces_of("a-$(headers.x-m)$(uri_captures.t)z") == (
            "a-", Placeholder("headers", "x-m"), Placeholder("uri_captures", "t"), "z",
        )  # fmt: skip
        assert pieces_of("plain $ (x) )") == ("plain $ (x) )",)
        assert pieces_of("") == ()

    @pytest.mark.parametrize(
        "text",
        ["$(", "a$(b", "$()", "$(headers)", "$(headers.)", "$(body.x)", "$(Headers.x)", "$(headers.a b)", "$($(headers.a))",
         "$(headers.é)", "$(headers.a)$("],
    )  # fmt: skip
    def test_with_an_opening_that_is_none_is_refused(self, text: str) -> None:
        with pytest.raises(WrongPlaceholder):
            pieces_of(text)

    def test_within_a_value_is_found_wherever_it_is(self) -> None:
        value = {"a": [1, {"b": "$(headers.x)"}], "c": ("$(query_params.y)", None)}
        assert has_placeholders(value)
        assert [str(one) for one in placeholders_in(value)] == ["headers.x", "query_params.y"]
        assert not has_placeholders({"$(headers.x)": "a", "b": 1})


class TestModel:
    @pytest.mark.parametrize(
        ("text", "name"),
        [
            ("gpt-4o", "gpt-4o"),
            ("$(headers.x-model)", "gpt-4o"),
            ("$(headers.X-Model)", "gpt-4o"),
            ("west-$(headers.x-model)-$(query_params.tier)", "west-gpt-4o-mini"),
            ("$(query_params.q)", "a/b"),
            ("$(uri_captures.team)/$(uri_captures.deployment)", "blue/org/model"),
            ("$(query_params.name)", "v"),
        ],
    )
    def test_is_what_the_request_says(self, text: str, name: str) -> None:
        assert fill_model(text, CALLER) == name

    @pytest.mark.parametrize(
        ("text", "param", "words"),
        [
            ("$(headers.x-none)", "headers.x-none", 'the header "x-none"'),
            ("$(headers.x-empty)", "headers.x-empty", 'the header "x-empty"'),
            ("$(query_params.none)", "query_params.none", 'the query parameter "none"'),
            ("$(query_params.empty)", "query_params.empty", 'the query parameter "empty"'),
            ("$(uri_captures.none)", "uri_captures.none", 'in its path a value for "none"'),
        ],
    )
    def test_that_is_not_said_is_asked_for_by_name(self, text: str, param: str, words: str) -> None:
        for caller in (CALLER, NOBODY):
            with pytest.raises(InvalidRequest) as caught:
                fill_model(text, caller)
            error = caught.value
            assert (error.status, error.param, error.code) == (400, param, "missing_value")
            assert words in error.message

    @pytest.mark.parametrize(
        "value",
        ["..", ".", "a/..", "../a", "a//b", "/a", "a/", "a/./b", "a b", "a\\b", "a?b", "a#b", "a%2e", "a\x00b", "é", "a\nb",
         "$(x)", "a{b", "a" * (MAX_MODEL_CHARACTERS + 1), "a" * 5000, "a;b", "a&b", '"a"', "<a>"],
    )  # fmt: skip
    def test_that_could_be_a_path_or_is_no_name_is_refused(self, value: str) -> None:
        with pytest.raises(InvalidRequest) as caught:
            fill_model(
                "x-$(uri_captures.m)" if value.startswith("a") else "$(uri_captures.m)", Caller(captures={"m": value})
            )
        assert caught.value.code == "invalid_value"
        assert caught.value.param == "uri_captures.m"
        assert len(value) < 2 or value not in caught.value.message

    def test_that_becomes_a_path_by_being_joined_is_refused(self) -> None:
        with pytest.raises(InvalidRequest):
            fill_model("a/$(uri_captures.m)$(uri_captures.n)/b", Caller(captures={"m": ".", "n": "."}))

    @given(st.text(max_size=30))
    def test_never_walks(self, value: str) -> None:
        try:
            name = fill_model("m/$(uri_captures.m)", Caller(captures={"m": value}))
        except InvalidRequest:
            return
        assert name == f"m/{value}"
        assert name.isascii()
        assert all(segment not in ("", ".", "..") for segment in name.split("/"))
        assert not set(name) & set("?#%\\ \r\n")

    @pytest.mark.parametrize("name", ["twice", "latin"])
    def test_of_a_query_that_means_two_things_is_refused(self, name: str) -> None:
        with pytest.raises(InvalidRequest) as caught:
            fill_model(f"$(query_params.{name})", CALLER)
        assert caught.value.code == "invalid_value"

    def test_of_a_query_without_end_is_refused(self) -> None:
        with pytest.raises(InvalidRequest):
            fill_model("$(query_params.a)", Caller(query=b"&" * 300))

    @pytest.mark.parametrize(
        "name",
        ["anthropic.claude-3-5-sonnet-20241022-v2:0", "publishers/google/models/gemini@001", "ft:gpt-4o:my-org::abc",
         "arn:aws:bedrock:us-east-1:123456789012:inference-profile/us.x", "meta-llama/Llama-3.3-70B-Instruct", "qwen2.5:7b~x"],
    )  # fmt: skip
    def test_can_be_any_that_a_provider_has(self, name: str) -> None:
        assert fill_model("$(uri_captures.m)", Caller(captures={"m": name})) == name


class TestOptions:
    def test_are_filled_at_any_depth_and_other_values_stay(self) -> None:
        options: dict[str, Any] = {
            "user": "$(headers.x-model)", "temperature": 0.5, "metadata": {"a": ["$(query_params.plus)", 1, None]},
        }  # fmt: skip
        assert fill_options(options, CALLER) == {
            "user": "gpt-4o", "temperature": 0.5, "metadata": {"a": ["a b", 1, None]},
        }  # fmt: skip
        assert options["metadata"]["a"][0] == "$(query_params.plus)"

    @pytest.mark.parametrize("value", ["a\nb", "a\x00", "x" * 2000, "\u2028"])
    def test_take_printable_text_of_some_length(self, value: str) -> None:
        with pytest.raises(InvalidRequest):
            fill_options({"user": "$(uri_captures.u)"}, Caller(captures={"u": value}))
