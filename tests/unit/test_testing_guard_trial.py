"""`trio-ai-proxy guard test`: what one guard makes of a text, as a request and as an answer that is cut everywhere."""

from __future__ import annotations

import io
from types import SimpleNamespace
from typing import TYPE_CHECKING

import pytest
from support.config_file import load
from support.entering import asked

from trio_ai_proxy.chat.events import TextDelta
from trio_ai_proxy.cli import main
from trio_ai_proxy.errors import ConfigError
from trio_ai_proxy.testing.guard_trial import MOST_CUTS, Trial, answer_trial, try_guard

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from trio_ai_proxy.chat.events import Event
    from trio_ai_proxy.chat.request import ChatRequest
    from trio_ai_proxy.errors import GuardBlocked
    from trio_ai_proxy.guards.base import Filter

CONFIG = """\
[providers.demo]
kind = "demo"
[models.demo]
targets = [{ provider = "demo", model = "demo" }]
[guards.clean]
kind = "prompt_guard"
deny = ["bomb"]
[guards.style]
kind = "decorate"
prepend = [{ role = "system", content = "Be brief." }]
[guards.prompts]
kind = "template"
templates = { hi = { messages = [{ role = "user", content = "Hi {{who}}" }] }, haiku = "On {{what}}:" }
[guards.plain]
kind = "response_transformer"
json = { add = { by = "us", "choices[*].delta.x" = 1 }, remove = ["created"] }
response_headers = { remove = ["x-llm-provider"] }
[guards.judge]
kind = "moderate"
model = "demo"
uses = "chat"
[guards.hook]
kind = "webhook"
url = "https://guard.example.com"
[guards.secrets]
kind = "redact"
patterns = ["email"]
[guards.strict]
kind = "redact"
on = ["response"]
patterns = ["email"]
action = "block"
"""


def tried(name: str, text: str) -> Trial:
    settings, _ = load(CONFIG)
    return try_guard(settings, name, text)


def test_a_request_that_is_refused_is_shown_with_its_status() -> None:
    trial = tried("clean", "a bomb")
    assert trial.agrees
    assert trial.report.splitlines() == [
        "guard clean (prompt_guard)",
        "",
        "as a request",
        "  result  refused with 400 (content_blocked): The request says something that this gateway does not let through.",
    ]
    assert tried("clean", "a bom b").report.endswith("as a request\n  result  passes as it is\n")


def test_a_request_that_is_changed_is_shown_as_it_goes_on() -> None:
    report = tried("style", "Hello").report
    assert '"content": "Be brief."' in report
    assert report.index("Be brief.") < report.index('"content": "Hello"')


@pytest.mark.parametrize(
    ("text", "result"),
    [
        ('{"messages": "{template://hi}", "properties": {"who": "you"}}', '"content": "Hi you"'),
        ('{"prompt": "{template://haiku}", "properties": {"what": "rain"}}', '"prompt": "On rain:"'),
        ('{"prompt": "{template://haiku}"}', "refused with 400 (missing_value)"),
        ('{"hello": 1}', "passes as it is"),
    ],
)
def test_a_text_that_is_a_request_is_taken_for_one(text: str, result: str) -> None:
    assert result in tried("prompts", text).report


def test_a_request_that_is_none_says_why() -> None:
    with pytest.raises(ConfigError, match=r"this is no request: .*messages"):
        tried("prompts", '{"messages": []}')


def test_changes_of_an_answer_are_shown_on_the_whole_and_on_an_event() -> None:
    report = tried("plain", "Hello").report
    whole, event = report.split("an event of a stream goes out as")
    assert "x-llm-provider" not in whole
    assert '"x": 1' not in whole
    assert '"x": 1' in event
    for document in (whole, event):
        assert '"by": "us"' in document
        assert '"content": "Hello"' in document
        assert "created" not in document


def test_guards_that_ask_somebody_need_a_gateway() -> None:
    for name, who in (("judge", 'the model "demo"'), ("hook", "a web service")):
        with pytest.raises(ConfigError, match=f"it asks {who}, and needs a running gateway"):
            tried(name, "x")


def test_a_guard_that_there_is_not_is_named_with_those_that_there_are() -> None:
    with pytest.raises(ConfigError, match="guard test nope: there is no such guard; there are: clean, style, "):
        tried("nope", "x")


def test_an_answer_is_cut_everywhere_and_all_cuts_agree() -> None:
    trial = tried("secrets", "To jane@example.com, and x@y.")
    assert trial.agrees
    request, answer = trial.report.split("as an answer\n")
    assert '"content": "To [email], and x@y."' in request
    lines = answer.splitlines()
    assert lines[:3] == ["  result  goes out as", "    To [email], and x@y.", "  found   1"]
    assert lines[3].startswith("  held    at most ")
    assert int(lines[3].split()[3]) >= len("jane@example.com")
    assert lines[4] == "  cuts    at every position, and at all of them at once: all come to the same"


def test_an_answer_that_a_guard_cuts_says_so() -> None:
    trial = tried("strict", "To jane@example.com, and more")
    assert trial.agrees
    assert "as a request" not in trial.report
    assert "  result  ends early: " in trial.report
    assert "    To \n" in trial.report
    assert "and more" not in trial.report.partition("  found")[0].partition("ends early")[2].partition("\n")[2]


def test_a_long_text_is_cut_at_places_spread_over_it() -> None:
    trial = tried("secrets", "word " * (MOST_CUTS // 5 + 1))
    assert trial.agrees
    assert "  cuts    at every 2nd position, and at all of them at once" in trial.report


class Hasty:
    """A filter that looks at each piece alone: it misses what is cut in two."""

    blocked: GuardBlocked | None = None
    held = 0
    hits = 0

    def feed(self, events: Sequence[Event]) -> list[Event]:
        return [TextDelta(event.text.replace("ab", "*")) if isinstance(event, TextDelta) else event for event in events]

    def close(self) -> list[Event]:
        return []


def test_cuts_that_disagree_are_found() -> None:
    def a_filter(request: ChatRequest) -> Filter:
        return Hasty()

    agrees, lines = answer_trial(SimpleNamespace(filter=a_filter), asked("x"), "xxabyy")
    assert not agrees
    assert lines[1] == "    xx*yy"
    assert lines[-2:] == ["  cuts    cut after 3 characters, it comes to something else:", "    xxabyy"]


@pytest.fixture
def config(tmp_path: Path) -> str:
    path = tmp_path / "config.toml"
    path.write_text(CONFIG, encoding="utf-8")
    return str(path)


def test_the_command_reads_a_file_or_what_is_piped_in(
    config: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    text = tmp_path / "text"
    text.write_text("a bomb", encoding="utf-8")
    assert main(["guard", "test", "clean", str(text), "--config", config]) == 0
    from_file = capsys.readouterr().out
    assert "refused with 400" in from_file
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(b"a bomb")))
    assert main(["guard", "test", "clean", "--config", config]) == 0
    assert capsys.readouterr().out == from_file


def test_a_guards_model_that_cannot_do_it_stops_every_command(config: str, capsys: pytest.CaptureFixture[str]) -> None:
    with open(config, "a", encoding="utf-8") as file:
        file.write("[guards.wrong]\nkind = 'moderate'\nmodel = 'demo'\n")
    assert main(["check", "--config", config]) == 2
    assert capsys.readouterr().err == (
        f'{config}: guard "wrong" asks the model "demo" for moderations, which it does not serve; '
        '`uses = "chat"` asks any chat model.\n'
    )


def test_what_cannot_be_tried_is_a_sentence_and_exit_code_2(
    config: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    binary = tmp_path / "binary"
    binary.write_bytes(b"\xff\xfe")
    for name, file in (("judge", str(binary)), ("clean", str(binary)), ("clean", str(tmp_path / "none"))):
        assert main(["guard", "test", name, file, "--config", config]) == 2
        told = capsys.readouterr()
        assert told.out == ""
        assert told.err.count("\n") == 1
