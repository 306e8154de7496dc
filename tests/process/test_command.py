"""The command itself, as a process: what it prints, with which code it ends, and what it refuses."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
from contextlib import asynccontextmanager, closing
from typing import TYPE_CHECKING

import pytest
import trio
from support.command import Command, free_port, openai_provider
from support.ranks import ranks_folder
from support.standing import HeldPort, ask, chat, get, upstream

from trio_ai_proxy import __version__
from trio_ai_proxy.testing import Script, openai_error

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

pytestmark = pytest.mark.process

KEY = "sk-upstream-marker-2112"


def run(
    *arguments: str, cwd: Path, env: dict[str, str] | None = None, module: str = "trio_ai_proxy"
) -> subprocess.CompletedProcess[str]:
    """Run the command to its end, in `cwd`, with no key in the environment but those of `env`."""
    clean = {
        name: value for name, value in os.environ.items() if name not in ("OPENAI_API_KEY", "TRIO_AI_PROXY_CONFIG")
    }
    return subprocess.run(
        [sys.executable, "-m", module, *arguments],
        cwd=cwd, env={**clean, **(env or {})}, capture_output=True, text=True, timeout=30, check=False,
    )  # fmt: skip


@asynccontextmanager
async def served(*arguments: str, cwd: Path, env: dict[str, str] | None = None) -> AsyncIterator[str]:
    """Serve until the block is left, which happens as soon as it has said where; yields what it has printed."""
    clean = {name: value for name, value in os.environ.items() if name != "OPENAI_API_KEY"}
    process = await trio.lowlevel.open_process(
        [sys.executable, "-m", "trio_ai_proxy", "serve", *arguments],
        cwd=cwd, env={**clean, "PYTHONUNBUFFERED": "1", **(env or {})}, stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        assert process.stdout is not None
        printed = b""
        with trio.fail_after(20):
            while b"Python " not in printed:
                data = await process.stdout.receive_some()
                assert data, printed
                printed += data
        yield printed.decode()
        process.send_signal(signal.SIGTERM)
        with trio.fail_after(10):
            assert await process.wait() == 0
    finally:
        if process.returncode is None:
            process.kill()
        with trio.move_on_after(2, shield=True):
            await process.wait()
            assert process.stdout is not None
            await process.stdout.aclose()


def config(base_url: str = "http://127.0.0.1:9/v1", key: str = "${SOME_KEY}") -> str:
    return f"""
[admin]
bind = ""
[providers.scripted]
kind = "openai"
base_url = "{base_url}"
api_key = "{key}"
[models.gpt]
targets = [{{ provider = "scripted", model = "gpt-4o", timeouts = {{ first_token = 7 }} }}]
"""


def sentences(result: subprocess.CompletedProcess[str]) -> list[str]:
    """What a command that failed has said: sentences, and no traceback."""
    assert "Traceback" not in result.stderr
    return [line for line in result.stderr.splitlines() if line]


# ── small things ─────────────────────────────────────────────────────────────────────────────────────────────────────


def test_it_says_its_version_and_how_to_use_it(tmp_path: Path) -> None:
    result = run("--version", cwd=tmp_path)
    assert (result.returncode, result.stdout) == (0, f"{__version__}\n")
    result = run("--help", cwd=tmp_path)
    assert result.returncode == 0
    for command in ("serve", "check", "explain", "init", "tokens", "drill", "docs"):
        assert command in result.stdout
    for wrong in ((), ("unknown",), ("serve", "--unknown")):
        result = run(*wrong, cwd=tmp_path)
        assert result.returncode == 2
        assert result.stderr.startswith("usage: ")


def test_init_writes_a_file_that_checks_and_never_writes_over_one(tmp_path: Path) -> None:
    result = run("init", cwd=tmp_path)
    assert (result.returncode, result.stderr) == (0, "")
    written = (tmp_path / "config.toml").read_text()
    assert "trio-ai-proxy check --config config.toml" in result.stdout
    assert run("check", "--config", "config.toml", cwd=tmp_path).returncode == 0
    (tmp_path / "config.toml").write_text(written + "# mine\n")
    result = run("init", cwd=tmp_path)
    assert result.returncode == 2
    assert sentences(result) == ["config.toml: exists already; name another file."]
    assert (tmp_path / "config.toml").read_text() == written + "# mine\n"
    result = run("init", "nowhere/config.toml", cwd=tmp_path)
    assert result.returncode == 2
    assert len(sentences(result)) == 1


# ── check ────────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_check_shows_targets_deadlines_and_where_secrets_come_from_and_never_what_they_are(tmp_path: Path) -> None:
    (tmp_path / "key").write_text(KEY + "-file\n")
    (tmp_path / "c.toml").write_text(
        config()
        + f"""
[providers.second]
kind = "openai"
base_url = "http://127.0.0.1:9/v1"
auth = {{ header_name = "x-key", header_value = "file:{tmp_path}/key" }}
[models.other]
targets = [{{ provider = "second", model = "m" }}]
[[keys]]
name = "team-a"
secret = "${{TEAM_KEY}}"
[[routes]]
path = "/my-chat"
route_type = "llm/v1/chat"
model = "gpt"
"""
    )
    env = {"SOME_KEY": KEY, "TEAM_KEY": "team-marker-2112"}
    result = run("check", "--config", "c.toml", cwd=tmp_path, env=env)
    assert (result.returncode, result.stderr) == (0, "")
    for said in (
        "model gpt", "scripted (kind openai) at http://127.0.0.1:9/v1, as gpt-4o", "first_token 7s", "idle 1m", "SOME_KEY",
        "x-key", f"{tmp_path}/key", "key team-a", "route /my-chat", "for those with a key",
    ):  # fmt: skip
        assert said in result.stdout, said
    assert "marker" not in result.stdout


async def test_check_live_asks_each_target_for_one_token(tmp_path: Path) -> None:
    with closing(HeldPort()) as port:
        (tmp_path / "c.toml").write_text(config(f"{port.url}/v1"))

        async def check() -> subprocess.CompletedProcess[str]:
            with trio.fail_after(30):
                return await trio.to_thread.run_sync(
                    lambda: run("check", "--live", "--config", "c.toml", cwd=tmp_path, env={"SOME_KEY": KEY})
                )

        async with upstream(port) as server:
            result = await check()
            assert result.returncode == 0
            assert "live gpt: ok" in result.stdout
            [exchange] = server.exchanges
            assert exchange.request.json()["max_tokens"] == 1
            assert exchange.request.header("authorization") == f"Bearer {KEY}"

        refusal = openai_error(401, f"Incorrect API key provided: {KEY}")
        async with upstream(port, Script(refuse=True)) as server:
            server._answer = lambda _: refusal
            result = await check()
        assert result.returncode == 1
        assert "live gpt: Incorrect API key provided: ***" in result.stdout
        assert KEY not in result.stdout + result.stderr
        result = await check()  # nobody listens
        assert result.returncode == 1
        assert "refused" in result.stdout
        assert sentences(result) == []


# ── explain ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_explain_shows_the_order_of_targets_without_asking_any_of_them(tmp_path: Path) -> None:
    (tmp_path / "c.toml").write_text(
        config()
        + """
[[models.two.targets]]
provider = "scripted"
model = "second"
priority = 1
[[models.two.targets]]
provider = "scripted"
model = "first"
capabilities = { tools = false }
"""
    )
    (tmp_path / "request.json").write_text(json.dumps(chat(model="two", tools=[{"type": "function"}])))
    env = {"SOME_KEY": KEY}
    result = run("explain", "--config", "c.toml", "--model", "two", cwd=tmp_path, env=env)
    assert (result.returncode, result.stderr) == (0, "")
    assert re.findall(r"^ +(\S) +scripted/(\w+)", result.stdout, re.MULTILINE) == [("1", "first"), ("2", "second")]
    assert KEY not in result.stdout
    result = run("explain", "--config", "c.toml", "--request", "request.json", cwd=tmp_path, env=env)
    assert re.findall(r"^ +(\S) +scripted/(\w+)", result.stdout, re.MULTILINE) == [("1", "second"), ("-", "first")]
    assert "no tools" in result.stdout


@pytest.mark.parametrize(
    "arguments",
    [
        ["--model", "nothing"],
        ["--request", "nowhere.json"],
        ["--model", "gpt", "--key", "nobody"],
        ["--model", "gpt", "--header", "none"],
        [],
    ],
)
def test_a_question_without_sense_is_one_sentence_and_code_2(tmp_path: Path, arguments: list[str]) -> None:
    (tmp_path / "c.toml").write_text(config())
    result = run("explain", "--config", "c.toml", *arguments, cwd=tmp_path, env={"SOME_KEY": KEY})
    assert result.returncode == 2
    assert len(sentences(result)) == 1


# ── a configuration that cannot be used ──────────────────────────────────────────────────────────────────────────────

BROKEN: dict[str, tuple[str, list[str]]] = {
    "no TOML": ("[server\n", ["c.toml:1"]),
    "an unknown key": ('[server]\nbnid = "127.0.0.1:1"\n', ["c.toml:2", "bnid", "bind"]),
    "a missing variable": (config(), ["SOME_KEY", "scripted"]),
    "an unknown provider": ('[models.x]\ntargets = [{ provider = "y", model = "z" }]\n', ["c.toml:2", "y"]),
    "open to all": ('[server]\nbind = "0.0.0.0:8000"\n', ["c.toml:2", "[[keys]]"]),
    "several": ('[server]\nbnid = 1\ndrain = "soon"\nworkers = "x"\n', ["c.toml:2", "c.toml:3", "c.toml:4"]),
}


@pytest.mark.parametrize(
    ("name", "how"), [*((name, "serve") for name in BROKEN), ("several", "check"), ("several", "hypercorn")]
)
def test_a_configuration_that_cannot_be_used_is_sentences_and_code_2(tmp_path: Path, name: str, how: str) -> None:
    text, said = BROKEN[name]
    (tmp_path / "c.toml").write_text(text)
    result = _start(how, tmp_path)
    lines = sentences(result)
    assert result.returncode == 2, result
    for word in said:
        assert any(word in line for line in lines), (word, lines)
    assert all(line.endswith((".", "?")) for line in lines if "c.toml" in line), lines


def _start(how: str, folder: Path) -> subprocess.CompletedProcess[str]:
    if how == "hypercorn":
        # `-w 0` is one process. With a master in front, Hypercorn 0.18 loses the code of its only worker and says 0.
        return _hypercorn(folder, "-w", "0")
    return run(how, "--config", "c.toml", cwd=folder)


def _hypercorn(folder: Path, *more: str) -> subprocess.CompletedProcess[str]:
    bind = f"127.0.0.1:{free_port()}"
    env = {"TRIO_AI_PROXY_CONFIG": "c.toml"}
    return run("-k", "trio", "-b", bind, *more, "trio_ai_proxy:app", cwd=folder, env=env, module="hypercorn")


def test_with_hypercorns_master_in_front_it_is_the_same_sentences_and_an_end(tmp_path: Path) -> None:
    (tmp_path / "c.toml").write_text("[server]\nbind = 1\n")
    lines = sentences(_hypercorn(tmp_path))
    assert len(lines) == 1
    assert lines[0].startswith("c.toml:2: ")


@pytest.mark.parametrize("how", ["serve", "check", "hypercorn"])
def test_a_file_that_is_not_there_is_one_sentence(tmp_path: Path, how: str) -> None:
    result = _start(how, tmp_path)
    assert result.returncode == 2
    assert "c.toml: there is no such file." in sentences(result)


def test_a_bind_option_that_opens_the_port_to_all_is_refused(tmp_path: Path) -> None:
    result = run("serve", "--bind", "0.0.0.0:0", cwd=tmp_path)
    assert result.returncode == 2
    assert "[[keys]]" in sentences(result)[0]
    for wrong in ("8000", "127.0.0.1:x", "nowhere:80:80"):
        result = run("serve", "--bind", wrong, cwd=tmp_path, env={"TRIO_AI_PROXY_CONFIG": str(_quiet(tmp_path))})
        assert (wrong, result.returncode, len(sentences(result))) == (wrong, 2, 1)


def _quiet(folder: Path) -> Path:
    file = folder / "quiet.toml"
    file.write_text(
        '[admin]\nbind = ""\n[providers.demo]\nkind = "demo"\n[models.demo]\ntargets = [{ provider = "demo", model = "demo" }]\n'
    )
    return file


@pytest.mark.parametrize("which", ["server", "admin"])
def test_a_port_that_is_taken_is_one_sentence(tmp_path: Path, which: str) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        binds = {"server": "127.0.0.1:0", "admin": "127.0.0.1:0"} | {which: f"127.0.0.1:{taken.getsockname()[1]}"}
        text = "".join(f'[{name}]\nbind = "{bind}"\n' for name, bind in binds.items())
        (tmp_path / "c.toml").write_text(text + config().split('bind = ""')[1])
        result = run("serve", "--config", "c.toml", cwd=tmp_path, env={"SOME_KEY": KEY})
        assert result.returncode == 2
        assert sentences(result) == [f"Cannot listen on {binds[which]}: Address already in use."]


# ── serve ────────────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_serve_without_a_configuration_says_where_what_and_how(tmp_path: Path) -> None:
    environment = {"TRIO_AI_PROXY_CONFIG": str(_quiet(tmp_path))}
    async with served("--bind", "127.0.0.1:0", cwd=tmp_path, env=environment) as printed:
        port = int(re.search(r"Serving on http://127\.0\.0\.1:(\d+)/v1\n", printed).group(1))  # type: ignore[union-attr]
        assert "Models     demo" in printed
        assert f"openai.OpenAI(base_url='http://127.0.0.1:{port}/v1', api_key='none')" in printed
        [curl] = re.findall(r"^curl +(curl .*)$", printed, re.MULTILINE)
        with trio.fail_after(20):
            command = ["bash", "-c", curl.replace("curl -N", "curl -N --max-time 1")]
            done = await trio.run_process(command, capture_stdout=True, capture_stderr=True, check=False)
        assert done.stdout.startswith(b'data: {"id":'), "the line that it prints works"


def test_without_a_file_it_is_the_demo_and_with_a_key_everything_else_goes_to_openai(tmp_path: Path) -> None:
    result = run("check", cwd=tmp_path)
    assert result.returncode == 0
    assert "model demo" in result.stdout
    assert "any other model" not in result.stdout
    result = run("check", cwd=tmp_path, env={"OPENAI_API_KEY": KEY})
    assert result.returncode == 0
    assert "any other model" in result.stdout
    assert "openai (kind openai) at https://api.openai.com/v1, under the same name" in result.stdout
    assert "api_key from environment variable OPENAI_API_KEY" in result.stdout
    assert KEY not in result.stdout


async def test_hypercorn_serves_the_same_application(tmp_path: Path) -> None:
    with trio.fail_after(40), closing(HeldPort()) as port:
        async with upstream(port), Command(openai_provider(f"{port.url}/v1"), hypercorn=True) as gateway:
            answer = await ask(gateway, chat())
            assert answer.text == "Hello, world."
            assert [card["id"] for card in json.loads((await get(gateway, "/v1/models")).body)["data"]] == ["scripted"]
            assert (await get(gateway, "/readyz", admin=True)).status == 200


# ── tokens ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_tokens_install_takes_good_files_and_refuses_others(tmp_path: Path) -> None:
    ranks = ranks_folder()
    good = [str(ranks / f"{name}.tiktoken") for name in ("o200k_base", "cl100k_base")]
    target = tmp_path / "installed"
    result = run("tokens", "install", "--ranks-dir", str(target), *good, cwd=tmp_path)
    assert (result.returncode, result.stderr) == (0, "")
    assert sorted(file.name for file in target.iterdir()) == ["cl100k_base.tiktoken", "o200k_base.tiktoken"]
    before = {file.name: file.stat().st_size for file in target.iterdir()}

    bad = tmp_path / "o200k_base.tiktoken"
    bad.write_bytes((ranks / "o200k_base.tiktoken").read_bytes()[:-1] + b"x")
    for wrong in (str(bad), str(tmp_path / "nowhere.tiktoken"), str(tmp_path)):
        result = run("tokens", "install", "--ranks-dir", str(target), wrong, cwd=tmp_path)
        assert result.returncode == 2, result
        assert sentences(result)
        assert {file.name: file.stat().st_size for file in target.iterdir()} == before
