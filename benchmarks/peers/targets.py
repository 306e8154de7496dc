"""Who is measured: how each is installed, started and asked. All get the same requests and the same provider."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import urllib.request
from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from pathlib import Path

from processes import NotStarted, Started, free_port, free_ports

REPOSITORY = Path(__file__).resolve().parent.parent.parent
LITELLM, PORTKEY, HONO = "1.106.2", "1.15.2", "1.13.8"
_KEY = "sk-bench-0001"


class Unavailable(Exception):
    """A target cannot be installed here, and why."""


@dataclass(frozen=True)
class Place:
    """Where a target runs: its port, the provider's port, a folder for its files, its core (None: one for each of its
    processes, as far as they go), how many processes serve."""

    provider_port: int
    folder: Path
    cache: Path
    core: int | None = 0
    workers: int = 1
    port: int = field(default_factory=free_port)


class Target(ABC):
    """One proxy. `pace` is how much work it gets in comparison with the gateway, so that all take a like time."""

    name = label = ""
    pace = 1.0
    holds = 3  # how many of the numbers of held streams it is put to
    is_slow = False  # whether two repetitions of all but the costs are enough

    @abstractmethod
    def install(self, cache: Path) -> str:
        """Make it startable; its version. Raises `Unavailable`."""

    @abstractmethod
    def start(self, place: Place) -> Started:
        """Run it. Raises `NotStarted`."""

    def headers(self, place: Place) -> list[str]:
        """What its clients send besides."""
        return [f"Authorization: Bearer {_KEY}"]


def _run(argv: list[str], **options: object) -> str:
    try:
        options = {"check": True, "capture_output": True, "text": True, "timeout": 900} | options
        done = subprocess.run(argv, **options)  # type: ignore[call-overload]
    except FileNotFoundError as error:
        raise Unavailable(f"{argv[0]} is missing") from error
    except subprocess.CalledProcessError as error:
        raise Unavailable(f"{' '.join(argv[:4])} … failed: {error.stderr.strip()[-300:]}") from error
    except subprocess.TimeoutExpired as error:
        raise Unavailable(f"{' '.join(argv[:4])} … took too long") from error
    return str(done.stdout + done.stderr)


def apt_install(program: str, package: str) -> str:
    """The path of `program`; from Debian's `package` if it is missing and we may install."""
    found = shutil.which(program)
    if found is None and os.geteuid() == 0 and shutil.which("apt-get"):
        environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
        # A machine without a network is told soon. (A time limit of ours would leave a package half installed.)
        patience = ["-o", "Acquire::Retries=0", "-o", "Acquire::http::Timeout=10", "-o", "Acquire::https::Timeout=10"]
        _run(["apt-get", *patience, "update", "-qq"], env=environment)
        _run(["apt-get", *patience, "install", "-y", "-qq", "--no-install-recommends", package], env=environment)
        found = shutil.which(program)
    if found is None:
        raise Unavailable(f"{program} is missing (Debian package {package}), and installing it needs root and apt-get")
    return found


class Nginx(Target):
    name, label, pace = "nginx", "nginx, buffering off", 8.0

    def install(self, cache: Path) -> str:
        return _run([apt_install("nginx", "nginx-light"), "-v"]).strip().rpartition("/")[2]

    def start(self, place: Place) -> Started:
        temporary = "\n".join(
            f"{kind}_temp_path {place.folder}/nginx-{kind};"
            for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
        )
        config = place.folder / "nginx.conf"
        config.write_text(f"""daemon off;
worker_processes 1;
pid {place.folder}/nginx.pid;
error_log {place.folder}/nginx-error.log warn;
worker_rlimit_nofile 20000;
events {{ worker_connections 16384; }}
http {{
    access_log off;
    {temporary}
    keepalive_requests 1000000000;
    upstream provider {{
        server 127.0.0.1:{place.provider_port};
        keepalive 4096;
        keepalive_requests 1000000000;
    }}
    server {{
        listen 127.0.0.1:{place.port} backlog=4096;
        location / {{
            proxy_pass http://provider;
            proxy_http_version 1.1;
            proxy_set_header Connection "";
            proxy_buffering off;
        }}
    }}
}}
""")
        argv = ["nginx", "-p", str(place.folder), "-c", str(config)]
        return Started(argv, core=place.core, listens=place.port, log=place.folder / "nginx.log")


class Gateway(Target):
    """Ours, with everything on: keys, limiter, deadlines, records in a file, admin port with metrics, token counts."""

    name, label = "gateway", "trio_ai_proxy"
    has_features = True

    def install(self, cache: Path) -> str:
        own = REPOSITORY / ".venv" / "bin" / "python"
        for python in (os.environ.get("GATEWAY_PYTHON"), sys.executable, str(own)):
            if python and Path(python).exists():
                probe = [python, "-c", "import trio_ai_proxy.server; print(trio_ai_proxy.__version__)"]
                done = subprocess.run(probe, capture_output=True, text=True, cwd=REPOSITORY, check=False)
                if done.returncode == 0:
                    self._python = python
                    version = _run([python, "-c", "import platform; print(platform.python_version())"]).strip()
                    return f"{done.stdout.strip()} (Python {version})"
        raise Unavailable("no Python has trio_ai_proxy: set GATEWAY_PYTHON, or make the environment .venv")

    def start(self, place: Place) -> Started:
        ranks = os.environ.get("TRIO_AI_PROXY_RANKS_DIR") if self.has_features else None
        tokens = f"ranks_dir = {json.dumps(ranks)}" if ranks else "load_timeout = 0.1"
        record_log = json.dumps(str(place.folder / "records.jsonl")) if self.has_features else '"-"'
        admin_port = free_ports(place.workers)
        admin = f"127.0.0.1:{admin_port}" if self.has_features else ""
        keys = f'[[keys]]\nname = "bench"\nsecret = "{_KEY}"\nmodels = ["*"]\n' if self.has_features else ""
        config = place.folder / f"{self.name}-{place.port}.toml"
        config.write_text(f"""[server]
bind = "127.0.0.1:{place.port}"
workers = {place.workers}
record_log = {record_log}
[admin]
bind = "{admin}"
[tokens]
{tokens}
[timeouts]
first_token = 60
[providers.bench]
kind = "openai"
base_url = "http://127.0.0.1:{place.provider_port}/v1"
api_key = "sk-upstream"
max_in_flight = 4096
[models.bench]
targets = [{{ provider = "bench", model = "bench" }}]
{keys}""")
        argv = [self._python, "-m", "trio_ai_proxy", "serve", "--config", str(config)]
        log = place.folder / f"{self.name}.log" if self.has_features else Path("/dev/null")
        env = {"PYTHONPATH": str(REPOSITORY)}
        started = Started(argv, core=place.core, listens=place.port, log=log, env=env)
        if place.workers > 1:
            # The port is open before the workers are there; their admin ports answer when they are.
            try:
                for port in range(admin_port, admin_port + place.workers):
                    urllib.request.urlopen(f"http://127.0.0.1:{port}/readyz", timeout=60).close()
            except OSError as error:
                started.stop()
                raise NotStarted(f"a worker does not answer: {error}") from error
            started.spread()
        return started


class PlainGateway(Gateway):
    """Ours without keys, admin port, and with its records thrown away (they cannot be switched off)."""

    name, label, has_features = "gateway-plain", "trio_ai_proxy, features off", False


class Portkey(Target):
    name, label, pace = "portkey", "Portkey gateway", 0.3
    holds = 1

    def install(self, cache: Path) -> str:
        folder = cache / "portkey"
        program = folder / "node_modules" / "@portkey-ai" / "gateway" / "build" / "start-server.js"
        node = shutil.which("node")
        if node is None:
            raise Unavailable("node is missing")
        if not program.exists():
            folder.mkdir(parents=True, exist_ok=True)
            # With later releases of this part every streaming request ends in a 500 ("TypeError: immutable").
            wanted = {
                "name": "peer", "private": True, "dependencies": {"@portkey-ai/gateway": PORTKEY},
                "overrides": {"@hono/node-server": HONO},
            }  # fmt: skip
            (folder / "package.json").write_text(json.dumps(wanted))
            _run(["npm", "install", "--no-audit", "--no-fund", "--ignore-scripts"], cwd=folder)
        self._argv = [node, str(program)]
        package = folder / "node_modules" / "@portkey-ai" / "gateway" / "package.json"
        return f"{json.loads(package.read_text())['version']} (Node {_run([node, '--version']).strip()})"

    def start(self, place: Place) -> Started:
        env = {"TRUSTED_CUSTOM_HOSTS": "127.0.0.1,localhost", "NODE_ENV": "production"}
        argv = [*self._argv, f"--port={place.port}", "--headless"]
        return Started(argv, core=place.core, listens=place.port, log=place.folder / "portkey.log", env=env)

    def headers(self, place: Place) -> list[str]:
        host = f"x-portkey-custom-host: http://127.0.0.1:{place.provider_port}/v1"
        return [*super().headers(place), "x-portkey-provider: openai", host]


class LiteLLM(Target):
    name, label, pace = "litellm", "LiteLLM", 0.04
    holds, is_slow = 1, True

    def install(self, cache: Path) -> str:
        python = cache / "litellm" / "bin" / "python"
        if not python.exists():
            _run([sys.executable, "-m", "venv", str(cache / "litellm")])
            _run([str(python), "-m", "pip", "install", "-q", f"litellm[proxy]=={LITELLM}"])
        # Without bytecode (PYTHONDONTWRITEBYTECODE, or an installer that writes none) the modules that it imports while it
        # serves are compiled at each start, and its requests look dearer by two thirds.
        _run([str(python), "-m", "compileall", "-q", "-j", "0", str(cache / "litellm" / "lib")], check=False)
        self._python = str(python)
        script = "import importlib.metadata as m, platform as p; print(m.version('litellm'), p.python_version())"
        version, _, own = _run([self._python, "-c", script]).strip().partition(" ")
        return f"{version} (Python {own})"

    def start(self, place: Place) -> Started:
        config = place.folder / "litellm.json"  # JSON is YAML
        config.write_text(json.dumps({
            "model_list": [{"model_name": "bench", "litellm_params": {
                "model": "openai/bench", "api_base": f"http://127.0.0.1:{place.provider_port}/v1", "api_key": "sk-upstream",
            }}],
            "litellm_settings": {"telemetry": False},
            "general_settings": {"master_key": _KEY},
        }))  # fmt: skip
        env = {
            "LITELLM_LOCAL_MODEL_COST_MAP": "True", "LITELLM_LOG": "ERROR", "DISABLE_ADMIN_UI": "True",
            "LITELLM_TELEMETRY": "False", "NO_PROXY": "*",
        }  # fmt: skip
        start = "import sys; from litellm import run_server; sys.exit(run_server())"
        argv = [self._python, "-c", start, "--config", str(config), "--host", "127.0.0.1", "--port", str(place.port),
                "--num_workers", "1"]  # fmt: skip
        return Started(
            argv, core=place.core, listens=place.port, log=place.folder / "litellm.log", env=env, seconds=240
        )


TARGETS: tuple[Target, ...] = (Nginx(), Gateway(), PlainGateway(), Portkey(), LiteLLM())


def compile_programs(cache: Path) -> Path:
    """The folder of the two C programs, compiled anew if their source is newer. Raises `Unavailable`."""
    source, folder = Path(__file__).resolve().parent / "native", cache / "bin"
    folder.mkdir(parents=True, exist_ok=True)
    newest = max(path.stat().st_mtime for path in source.iterdir())
    for name in ("provider", "clients"):
        program = folder / name
        if not program.exists() or program.stat().st_mtime < newest:
            compiler = shutil.which("cc") or apt_install("gcc", "gcc")
            _run([compiler, "-O2", "-Wall", "-Wextra", "-o", str(program), str(source / f"{name}.c")])
    return folder
