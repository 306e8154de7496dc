"""What `explain` prints: every target, in the order in which it would be asked, and why or why not."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from typing import Any

import pytest
from support.accounts import account

from trio_ai_proxy.config import Explanation, explain, load_settings
from trio_ai_proxy.errors import ConfigError
from trio_ai_proxy.providers.table import KINDS, build_provider
from trio_ai_proxy.settings import ModelSettings, ProviderSettings, Settings, TargetSettings

TEXT = """\
[providers.one]
kind = "openai"
base_url = "http://127.0.0.1:9/v1"
api_key = "sk-marker-2112"
[providers.two]
kind = "anthropic"
api_key = "sk-marker-2113"

[[keys]]
name = "team-a"
secret = "a long enough secret of team a"
[[keys]]
name = "guest"
secret = "a long enough secret of a guest"
models = ["plain*"]

[models.plain]
targets = [{ provider = "one", model = "gpt" }]
retries = 0
response_streaming = "deny"

[models.both]
hedge_after = "2s"
continuation = "splice"
[[models.both.targets]]
provider = "two"
model = "claude"
priority = 1
[[models.both.targets]]
provider = "one"
model = "small"
max_context = 100
capabilities = { images = false }
[[models.both.targets]]
provider = "one"
model = "vip"
match = { headers = { x-tier = "gold*" }, keys = ["team-*"] }

[models.wordless]
continuation = "hold"
hold_bytes = "64KiB"
targets = [{ provider = "two", model = "claude" }]

[models.picky]
[[models.picky.targets]]
provider = "one"
model = "gpt"
capabilities = { tools = false }
"""


def ask(fields: dict[str, Any] | bytes | None = None, *, text: str = TEXT, **manner: Any) -> Explanation:
    settings, _ = load_settings(text, file="c.toml", environ={}, read_file=lambda _: "", kinds=KINDS)
    providers = {name: build_provider(provider) for name, provider in settings.providers.items()}
    body = json.dumps(fields).encode() if isinstance(fields, dict) else fields
    return explain(settings, providers, body=body, **manner)


def rows(explanation: Explanation) -> list[tuple[str, str, str]]:
    """Order, name and reasons of each target."""
    found = re.findall(r"^ +(\d+|-)  (\S+) +(.*)$", explanation.text, re.MULTILINE)
    assert found, explanation.text
    return found


def reasons(explanation: Explanation) -> dict[str, str]:
    return {name: why for _, name, why in rows(explanation)}


def messages(content: Any = "Hello") -> list[dict[str, Any]]:
    return [{"role": "user", "content": content}]


def wrong(**manner: Any) -> str:
    with pytest.raises(ConfigError) as raised:
        ask(**manner)
    [problem] = raised.value.problems
    assert problem.endswith(".")
    return problem


def test_targets_come_in_the_order_in_which_they_are_asked_and_the_others_say_why_not() -> None:
    explanation = ask(model="both")
    assert not explanation.is_refused
    assert rows(explanation) == [
        ("1", "one/small", "priority 0, weighted, weight 1"),
        ("2", "two/claude", "priority 1, weighted, weight 1"),
        ("-", "one/vip", "only for header x-tier: gold*, only for keys team-*"),
    ]
    for said in ("model     both", "chat, streamed", "up to 1 retry", "after 2s", "continued", "/targets"):
        assert said in explanation.text
    assert "marker" not in explanation.text
    assert "the answer's first 64KiB or 2s are held back" in ask(model="wordless").text


def test_a_key_and_a_header_open_what_is_meant_for_them() -> None:
    explanation = ask(model="both", key="team-a", headers=["X-Tier:  gold-plus "])
    assert [name for order, name, _ in rows(explanation) if order != "-"] == ["one/small", "one/vip", "two/claude"]
    assert "key team-a" in explanation.text
    assert [row[1] for row in rows(ask(model="both", key="team-a")) if row[0] == "-"] == ["one/vip"]


def test_a_request_that_is_too_long_or_needs_more_passes_a_target_by() -> None:
    long = ask({"model": "both", "messages": messages(), "max_tokens": 200})
    assert rows(long)[0][1] == "two/claude"
    assert "window of 100 tokens, and this needs about 2" in reasons(long)["one/small"]
    image = messages([{"type": "image_url", "image_url": {"url": "data:image/png;base64,AA=="}}])
    seen = ask({"model": "both", "messages": image})
    assert rows(seen)[0][1] == "two/claude"
    assert "no images" in reasons(seen)["one/small"]
    assert "needs images" in seen.text


def test_what_a_provider_has_no_word_for_is_told() -> None:
    explanation = ask({"model": "both", "messages": messages(), "n": 2, "seed": 3})
    by_name = reasons(explanation)
    assert "cannot be asked this: " in by_name["two/claude"]
    assert "cannot" not in by_name["one/small"]


def test_a_request_that_goes_nowhere_says_so_in_the_words_of_its_error() -> None:
    tools = [{"type": "function", "function": {"name": "f"}}]
    for explanation, said in (
        (ask({"model": "picky", "messages": messages(), "tools": tools}), "unsupported_parameter"),
        (ask(model="both", key="guest"), "refused with 403"),
        (ask(model="plain"), "Streaming is not allowed"),
        (ask({"model": "wordless", "messages": messages(), "n": 2}), "refused with 400"),
    ):
        assert explanation.is_refused
        assert said in explanation.text.splitlines()[-1]
    assert not ask({"model": "plain", "messages": messages()}).is_refused
    assert "no retry" in ask({"model": "plain", "messages": messages()}).text


def test_the_name_that_is_given_stands_in_for_the_one_in_the_request() -> None:
    explanation = ask({"model": "something", "prompt": "Once"}, model="plain")
    assert "model     plain" in explanation.text
    assert "completions" in explanation.text


def test_each_question_without_sense_is_one_sentence() -> None:
    assert "there are: plain, both, wordless, picky" in wrong(model="nothing")
    assert "there are: team-a, guest" in wrong(model="plain", key="nobody")
    assert "names no model" in wrong()
    assert "no JSON" in wrong(model="plain", fields=b"{")
    assert "no JSON" in wrong(model="plain", fields=b'{"a": "\xff"}')
    assert "JSON object" in wrong(model="plain", fields=b"[]")
    assert "messages" in wrong(model="plain", fields=b"{}")
    assert "secret" not in wrong(model="plain", headers=["authorization secret"])


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_provider_is_explained_without_a_network(kind: str) -> None:
    model = ModelSettings("m", targets=(TargetSettings("mine", "some-model"),))
    settings = Settings(providers={"mine": ProviderSettings("mine", kind)}, models={"m": model})
    explanation = explain(settings, {"mine": account(kind)}, model="m")
    assert not explanation.is_refused, explanation.text
    assert [row[:2] for row in rows(explanation)] == [("1", "mine/some-model")]


def test_names_that_nobody_has_configured_go_where_they_go() -> None:
    text = '[providers.openai]\nkind = "openai"\napi_key = "k"\n[models.m]\ntargets = [{ provider = "openai", model = "m" }]\n'
    settings, _ = load_settings(text, file="c.toml", environ={}, read_file=lambda _: "", kinds=KINDS)
    settings = replace(settings, pass_through="openai")
    providers = {"openai": build_provider(settings.providers["openai"])}
    assert rows(explain(settings, providers, model="anything"))[0][:2] == ("1", "openai/anything")


def test_a_balance_by_meaning_is_told_and_nobody_is_asked() -> None:
    text = f"""{TEXT}
[models.vectors]
targets = [{{ provider = "one", model = "embed" }}]
[models.team]
balance = "semantic"
semantic = {{ model = "vectors", threshold = 0.4, timeout = "300ms" }}
[[models.team.targets]]
provider = "one"
model = "coder"
description = "programs"
[[models.team.targets]]
provider = "two"
model = "claude"
"""
    explanation = ask(model="team", text=text)
    assert reasons(explanation)["one/coder"].startswith("priority 0, semantic, weight 1")
    for said in (
        "`vectors` embeds the text of the user's last message",
        "at a similarity of 0.4 or more; below that two/claude; the others follow by nearness.",
        'Described: one/coder ("programs").',
        "by weight, as it is where there are no vectors within 300ms.",
    ):
        assert said in explanation.text
    assert "By meaning" not in ask(model="both").text
    nobody = text.replace('[[models.team.targets]]\nprovider = "two"\nmodel = "claude"\n', "")
    assert "or more; below that too; the others follow" in ask(model="team", text=nobody).text
