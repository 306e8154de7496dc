"""What runs when there is no file, and what a first file looks like."""

from __future__ import annotations

from typing import TYPE_CHECKING

from trio_ai_proxy.errors import ConfigError
from trio_ai_proxy.providers.demo_script import DEMO_MODELS
from trio_ai_proxy.settings import ModelSettings, ProviderSettings, Secret, Settings, TargetSettings

if TYPE_CHECKING:
    from collections.abc import Mapping

    from trio_ai_proxy.config.kinds import Kind


def default_settings(environ: Mapping[str, str], kinds: Mapping[str, Kind]) -> Settings:
    """The settings without a file, on loopback: the demo models, and every other name goes to OpenAI if the environment
    has `OPENAI_API_KEY`. Raises `ConfigError` if that cannot be a key."""
    providers = {"demo": ProviderSettings(name="demo", kind=kinds["demo"].name)}
    pass_through = None
    key = environ.get("OPENAI_API_KEY", "").strip()
    if key:
        if not key.isascii() or not key.isprintable():
            raise ConfigError(["environment variable OPENAI_API_KEY must hold printable ASCII characters."])
        secret = Secret(key, "environment variable OPENAI_API_KEY")
        account = ProviderSettings(name="openai", kind=kinds["openai"].name, api_key=secret)
        providers[account.name] = account
        pass_through = account.name
    models = {
        name: ModelSettings(name=name, targets=(TargetSettings(provider="demo", model=name),)) for name in DEMO_MODELS
    }
    return Settings(providers=providers, models=models, pass_through=pass_through)


def init_file() -> str:
    """The text of a first configuration file. It runs with no account."""
    return _FIRST_FILE


_FIRST_FILE = """\
# Configuration of trio-ai-proxy. Every key and its default: docs/configuration.md

[server]
bind = "127.0.0.1:8000"        # another address needs [[keys]]

[providers.demo]               # embedded: answers without an account
kind = "demo"

[models.demo]                  # the name that clients ask for
targets = [{ provider = "demo", model = "demo" }]

[providers.openai]             # left out while no model uses it
kind = "openai"
api_key = "${OPENAI_API_KEY}"  # an environment variable; or "file:/run/secrets/openai"

# With the key in the environment, remove the "#" from these two lines:
#[models."gpt-4o"]
#targets = [{ provider = "openai", model = "gpt-4o" }]
"""
