from __future__ import annotations

import json
from typing import Any

import pytest
from support.bedrock import ARN, CALLED, CLAUDE, HELLO, LLAMA, NOVA, OPUS, OSS, RESULT, WEATHER, prepare

from trio_ai_proxy.providers.bedrock_models import Model, model_of


class TestThinking:
    def said(self, model: str, **fields: Any) -> tuple[Any, tuple[str, ...]]:
        sent = prepare(model=model, **fields)
        return json.loads(sent.body).get("additionalModelRequestFields"), sent.dropped

    @pytest.mark.parametrize(
        ("model", "effort", "expected"),
        [
            (CLAUDE, "low", {"thinking": {"type": "enabled", "budget_tokens": 2048}}),
            (CLAUDE, "none", None),
            (
                OPUS,
                "xhigh",
                {"thinking": {"type": "adaptive", "display": "summarized"}, "output_config": {"effort": "xhigh"}},
            ),
            (
                "anthropic.claude-opus-4-6-v1",
                "xhigh",
                {"thinking": {"type": "adaptive"}, "output_config": {"effort": "high"}},
            ),
            (NOVA, "minimal", {"reasoningConfig": {"type": "enabled", "maxReasoningEffort": "low"}}),
            (NOVA, "none", None),
            (OSS, "xhigh", {"reasoning_effort": "high"}),
        ],
    )
    def test_is_said_in_the_model_s_words(self, model: str, effort: str, expected: Any) -> None:
        assert self.said(model, reasoning_effort=effort) == (expected, ())

    @pytest.mark.parametrize(
        ("model", "effort"),
        [
            (LLAMA, "low"),
            ("anthropic.claude-3-haiku-20240307-v1:0", "low"),
            (OSS, "none"),
            ("amazon.nova-pro-v1:0", "low"),
        ],
    )
    def test_is_left_out_and_named_where_there_is_no_word(self, model: str, effort: str) -> None:
        assert self.said(model, reasoning_effort=effort) == (None, ("reasoning_effort",))

    def test_leaves_room_for_the_answer(self) -> None:
        thinking = {"thinking": {"type": "enabled", "budget_tokens": 1500}}
        assert self.said(CLAUDE, reasoning_effort="high", max_tokens=2000) == (thinking, ())
        assert self.said(CLAUDE, reasoning_effort="high", max_tokens=1000) == (None, ("reasoning_effort",))

    def test_own_words_of_the_client_go_first(self) -> None:
        thinking = {"type": "enabled", "budget_tokens": 4000}
        assert self.said(CLAUDE, reasoning_effort="high", thinking=thinking) == ({"thinking": thinking}, ())

    def test_is_left_out_where_a_tool_must_be_called(self) -> None:
        given = self.said(CLAUDE, reasoning_effort="low", tools=[WEATHER], tool_choice="required")
        assert given == (None, ("reasoning_effort",))
        given = self.said(OPUS, reasoning_effort="low", tools=[WEATHER], tool_choice="required")
        assert given == ({"output_config": {"effort": "low"}}, ())

    @pytest.mark.parametrize("sampling", [{"temperature": 0.5}, {"top_p": 0.5}, {"top_k": 3}])
    def test_is_left_out_beside_most_ways_to_sample(self, sampling: dict[str, Any]) -> None:
        given, dropped = self.said(CLAUDE, reasoning_effort="low", **sampling)
        assert "thinking" not in (given or {})
        assert dropped == ("reasoning_effort",)
        assert self.said(CLAUDE, reasoning_effort="low", temperature=1)[1] == ()
        assert "thinking" not in self.said(OPUS, reasoning_effort="low", **sampling)[0]

    def test_is_left_out_where_the_thoughts_before_a_call_are_lost(self) -> None:
        told = {"messages": [*HELLO, CALLED, RESULT], "tools": [WEATHER], "reasoning_effort": "low"}
        assert self.said(CLAUDE, **told) == (None, ("reasoning_effort",))
        assert self.said(OPUS, **told)[1] == ()
        prefill = {"messages": [*HELLO, {"role": "assistant", "content": "a"}], "reasoning_effort": "low"}
        assert self.said(CLAUDE, **prefill) == (None, ("reasoning_effort",))
        block = {"type": "thinking", "thinking": "hm", "signature": "sig"}
        told["messages"] = [*HELLO, {**CALLED, "thinking_blocks": [block]}, RESULT]
        assert self.said(CLAUDE, **told)[1] == ()


class TestModels:
    @pytest.mark.parametrize(
        ("name", "expected"),
        [
            ("anthropic.claude-3-5-sonnet-20241022-v2:0", Model("claude", (3, 5))),
            ("anthropic.claude-3-haiku-20240307-v1:0", Model("claude", (3, 0))),
            ("us.anthropic.claude-sonnet-4-20250514-v1:0", Model("claude", (4, 0))),
            ("anthropic.claude-opus-4-1-20250805-v1:0", Model("claude", (4, 1))),
            ("global.anthropic.claude-haiku-4-5-20251001-v1:0", Model("claude", (4, 5))),
            ("anthropic.claude-opus-4-6-v1", Model("claude", (4, 6))),
            ("anthropic.claude-mythos-5", Model("claude", (5, 0))),
            ("anthropic.claude-mythos-preview", Model("claude", (99, 0))),
            ("anthropic.claude-v2:1", Model("claude", (2, 0))),
            ("anthropic.claude-instant-v1", Model("claude", (2, 0))),
            ("amazon.nova-pro-v1:0", Model("nova", (1, 0))),
            (NOVA, Model("nova", (2, 0))),
            (OSS, Model("gpt-oss")),
            (LLAMA, Model("other")),
            (ARN, Model("unknown")),
            ("arn:aws:bedrock:us-east-1::foundation-model/" + LLAMA, Model("other")),
            ("arn:aws:bedrock:us-east-1:1:inference-profile/" + OPUS, Model("claude", (4, 7))),
        ],
    )  # fmt: skip
    def test_are_known_by_their_names(self, name: str, expected: Model) -> None:
        assert model_of(name) == expected
