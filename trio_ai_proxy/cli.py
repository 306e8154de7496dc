"""The command `trio-ai-proxy`: serve, check, explain, guard, init, tokens, drill, docs.

A configuration that cannot be used is sentences on standard error and exit code 2, never a traceback.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from trio_ai_proxy import __version__
from trio_ai_proxy.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from trio_ai_proxy.settings import Settings

_CONFIG_HELP = "TOML file; default: $TRIO_AI_PROXY_CONFIG, else config.toml, else built-in defaults"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command. Returns the exit code: 0 done, 1 something was found wrong, 2 a configuration or usage error."""
    options = _parser().parse_args(arguments)
    # The same command once more, as it was given: by that name, with those options of the interpreter.
    own = sys.orig_argv[1:] if arguments is None else ["-m", "trio_ai_proxy", *arguments]
    options.command = [sys.executable, *own]
    try:
        return int(options.run(options))
    except ConfigError as error:
        for problem in error.problems:
            print(problem, file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="trio-ai-proxy", description="An LLM gateway where nothing outlives its owner."
    )
    parser.add_argument("--version", action="version", version=__version__)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    serve = commands.add_parser("serve", help="serve until SIGTERM or SIGINT")
    serve.add_argument("--config", metavar="FILE", help=_CONFIG_HELP)
    serve.add_argument("--bind", metavar="HOST:PORT", help="address of the data port, in place of the configured one")
    serve.add_argument("--worker", type=int, help=argparse.SUPPRESS)  # given by `serve` itself: see serving/workers.py
    serve.set_defaults(run=_serve)

    check = commands.add_parser("check", help="validate a configuration and show what it means")
    check.add_argument("--config", metavar="FILE", help=_CONFIG_HELP)
    check.add_argument("--live", action="store_true", help="also make one one-token call per target")
    check.set_defaults(run=_check)

    explain = commands.add_parser("explain", help="show which targets a request goes to, in what order, and why")
    explain.add_argument("--config", metavar="FILE", help=_CONFIG_HELP)
    explain.add_argument("--model", metavar="NAME", help="the model that is asked for; default: the request's own")
    explain.add_argument(
        "--request", metavar="FILE", help="an OpenAI request, JSON; -: from stdin; default: a short chat"
    )
    explain.add_argument("--key", metavar="NAME", help="the client: a name of [[keys]]")
    explain.add_argument(
        "--header",
        metavar="'NAME: VALUE'",
        action="append",
        default=[],
        help="a header of the request; may be repeated",
    )
    explain.set_defaults(run=_explain)

    guard = commands.add_parser("guard", help="try a guard of the configuration")
    trial = guard.add_subparsers(required=True, metavar="COMMAND").add_parser(
        "test", help="have one look at a text, as a request and as an answer that is cut at every position"
    )
    trial.add_argument("name", metavar="NAME", help="a block of [guards]")
    trial.add_argument(
        "file", nargs="?", default="-", metavar="FILE", help="a text, or an OpenAI request, JSON; default: stdin"
    )
    trial.add_argument("--config", metavar="FILE", help=_CONFIG_HELP)
    trial.set_defaults(run=_test_guard)

    init = commands.add_parser("init", help="write a short, commented configuration")
    init.add_argument("file", nargs="?", default="config.toml", metavar="FILE")
    init.set_defaults(run=_init)

    tokens = commands.add_parser("tokens", help="token encodings for machines without a network")
    install = tokens.add_subparsers(required=True, metavar="COMMAND").add_parser(
        "install", help="check the SHA-256 sums of rank files and put them where the gateway finds them"
    )
    install.add_argument("files", nargs="*", metavar="FILE", help="rank files; none: those of tiktoken's own cache")
    install.add_argument("--ranks-dir", metavar="FOLDER", help="where to put them; default: the user's data folder")
    install.set_defaults(run=_install_tokens)

    drill = commands.add_parser(
        "drill", help="try departures and faults against a gateway, and show what was left behind"
    )
    drill.add_argument(
        "--config", metavar="FILE", help="start a gateway with this file; default: one that serves the demo"
    )
    drill.add_argument("--url", metavar="URL", help="drill a running gateway through its demo models instead")
    drill.add_argument("--admin-url", metavar="URL", help="its admin port, to see exchanges and records")
    drill.add_argument("--key", metavar="KEY", help="a client key for it; default: $TRIO_AI_PROXY_KEY")
    drill.set_defaults(run=_drill)

    docs = commands.add_parser(
        "docs", help="write the configuration reference, the editors' schema and the page of providers"
    )
    docs.add_argument("folder", nargs="?", default="docs", metavar="FOLDER")
    docs.set_defaults(run=_docs)
    return parser


def _serve(options: argparse.Namespace) -> int:
    from dataclasses import replace

    from trio_ai_proxy.config import check_bind
    from trio_ai_proxy.server import read_settings, run, run_worker

    if options.worker is not None:
        return run_worker(options.worker)
    settings, notes = read_settings(options.config, os.environ)
    if options.bind:
        settings = replace(settings, server=replace(settings.server, bind=options.bind))
        check_bind(settings)
    for note in notes:
        print(note, file=sys.stderr)

    def announce(address: str) -> None:
        print(welcome(settings, address), flush=True)

    return run(settings, announce, options.command)


def welcome(settings: Settings, address: str) -> str:
    """What a newcomer is told: where it is, what it serves, and two lines to try."""
    names = list(settings.models)
    model = names[0] if names else "gpt-4o-mini"
    base = f"http://{address}/v1"
    key = "$KEY" if settings.keys else "none"
    shown = ", ".join(names[:12]) + (f" and {len(names) - 12} more" if len(names) > 12 else "")
    lines = [f"Serving on {base}"]
    if shown:
        lines.append(f"Models     {shown}")
    if settings.pass_through is not None:
        lines.append(f"           every other model name goes to provider '{settings.pass_through}'")
    if settings.admin.bind:
        lines.append(f"Admin      http://{settings.admin.bind}/exchanges  /metrics  /healthz  /readyz")
        if settings.server.workers > 1:
            last = settings.admin.bind_of(settings.server.workers - 1)
            lines.append(f"           of the first of {settings.server.workers} workers; the last one's: http://{last}")
    auth = f" -H 'authorization: Bearer {key}'" if settings.keys else ""
    body = json.dumps({"model": model, "stream": True, "messages": [{"role": "user", "content": "Hello"}]})
    lines.append(f"curl       curl -N {base}/chat/completions{auth} -H 'content-type: application/json' -d '{body}'")
    lines.append(f"Python     openai.OpenAI(base_url='{base}', api_key='{key}')")
    return "\n".join(lines)


def _check(options: argparse.Namespace) -> int:
    from trio_ai_proxy.config import describe
    from trio_ai_proxy.providers.table import KINDS
    from trio_ai_proxy.server import read_settings

    settings, notes = read_settings(options.config, os.environ)
    print(describe(settings, KINDS))
    for note in notes:
        print(note)
    if not options.live:
        return 0
    import trio

    from trio_ai_proxy.server import probe_targets

    problems = trio.run(probe_targets, settings)
    for model, problem in problems.items():
        print(f"live {model}: {problem or 'ok'}")
    return 1 if any(problems.values()) else 0


def _explain(options: argparse.Namespace) -> int:
    from trio_ai_proxy.server import explain_request, read_settings

    settings, notes = read_settings(options.config, os.environ)
    for note in notes:
        print(note, file=sys.stderr)
    explanation = explain_request(
        settings, model=options.model, file=options.request, key=options.key, headers=options.header
    )
    print(explanation.text, end="")
    return 1 if explanation.is_refused else 0


def _test_guard(options: argparse.Namespace) -> int:
    from trio_ai_proxy.server import read_settings
    from trio_ai_proxy.testing.guard_trial import try_guard

    settings, _ = read_settings(options.config, os.environ)
    try:
        content = sys.stdin.buffer.read() if options.file == "-" else Path(options.file).read_bytes()
        text = content.decode("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError([f"{options.file}: cannot be read: {error}."]) from error
    trial = try_guard(settings, options.name, text)
    print(trial.report, end="")
    return 0 if trial.agrees else 1


def _init(options: argparse.Namespace) -> int:
    from trio_ai_proxy.config import init_file

    target = Path(options.file)
    try:
        with target.open("x", encoding="utf-8") as file:
            file.write(init_file())
    except FileExistsError:
        raise ConfigError([f"{target}: exists already; name another file."]) from None
    except OSError as error:
        raise ConfigError([f"{target}: cannot be written: {error.strerror}."]) from error
    print(f"Wrote {target}. Next: trio-ai-proxy check --config {target}")
    return 0


def _install_tokens(options: argparse.Namespace) -> int:
    from trio_ai_proxy.accounting.tokens import default_ranks_dir, install_ranks

    folder = options.ranks_dir or default_ranks_dir(os.environ)
    for line in install_ranks(options.files, folder):
        print(line)
    return 0


def _drill(options: argparse.Namespace) -> int:
    import trio

    from trio_ai_proxy.testing.drill import drill

    key = options.key or os.environ.get("TRIO_AI_PROXY_KEY")
    report, clean = trio.run(drill, options.config, options.url, options.admin_url, key)
    print(report)
    return 0 if clean else 1


def _docs(options: argparse.Namespace) -> int:
    from trio_ai_proxy.config import write_docs
    from trio_ai_proxy.providers.reference import providers_markdown

    for path in write_docs(options.folder):
        print(path)
    page = Path(options.folder, "providers.md")
    page.write_text(providers_markdown(), encoding="utf-8", newline="\n")
    print(page)
    return 0
