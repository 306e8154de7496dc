"""What `check` prints: everything that was resolved, and where each credential came from, never what it is."""

from __future__ import annotations

from support.config_file import DEMO, KINDS, load

from trio_ai_proxy.config import default_settings, describe, load_settings
from trio_ai_proxy.providers.table import KINDS as PROVIDER_TABLE

TEXT = """\
[server]
cors_origins = ["*"]
[admin]
bind = ""
[providers.openai]
kind = "openai"
api_key = "${OPENAI_API_KEY}"
[providers.company]
kind = "compatible"
base_url = "https://llm.example.com/v1"
auth = { header_name = "x-key", header_value = "file:/run/key" }
[providers.legacy]
kind = "openai"
auth = { param_name = "key", param_value = "topsecret", param_location = "query" }
[models."gpt-4o"]
on_disconnect = "grace"
keep_alive = 15
balance = "consistent_hash"
hash_on = "x-session"
retries = 2
hedge_after = "p95"
continuation = "hold"
hold_for = 0.5
breaker = { rate = 0.25, open = 40 }
options = { temperature = 0.2, user = "${OPENAI_API_KEY}" }
[[models."gpt-4o".targets]]
provider = "openai"
model = "gpt-4o-2024-11-20"
timeouts = { first_token = 30 }
[[models."gpt-4o".targets]]
provider = "company"
model = "m"
priority = 1
weight = 3
max_context = 8000
match = { headers = { x-tier = "gold*" }, keys = ["team-*"] }
capabilities = { tools = false, prefill = true }
[models.forced]
hedge_budget = 0.2
hedge_after = 3
options = { temperature = 0.2, force = true }
targets = [{ provider = "company", model = "m" }, { provider = "company", model = "n", match = { keys = ["team-a"] } }]
[[keys]]
name = "team-a"
secret = "topsecret"
models = ["gpt-*", "forced"]
[[routes]]
path = "/my-chat"
route_type = "llm/v1/chat"
model = "forced"
[[routes]]
path = "/text"
route_type = "llm/v1/completions"
"""

EXPECTED = """\
data port   127.0.0.1:8000, for those with a key
admin port  off
server      drain 1m · max_body 10MiB · record_log - · h2c refuse · cors_origins *

model gpt-4o
  target              openai (kind openai) at https://api.openai.com/v1, as gpt-4o-2024-11-20 (priority 0, weight 1)
  deadlines           connect 5s, first_token 30s, idle 1m, total 15m, queue 10s, body 30s, stall 30s, abandoned 30s
  target              company (kind compatible) at https://llm.example.com/v1, as m (priority 1, weight 3)
  deadlines           connect 5s, first_token 2m, idle 1m, total 15m, queue 10s, body 30s, stall 30s, abandoned 30s
  limits              up to 8000 tokens, header x-tier: gold*, keys team-*, no tools, prefill
  balance             consistent_hash on x-session
  failover            retries 2 · hedge after p95, at most 10% more calls · continuation hold (4KiB or 500ms) · malformed_limit 3
  breaker             5 failures, or 25% within 30s; then a probe at least every 40s
  response_streaming  allow
  on_disconnect       grace of 5s
  keep_alive          15s
  options             temperature, user (where the request leaves them out)

model forced
  target              company (kind compatible) at https://llm.example.com/v1, as m (priority 0, weight 1)
  deadlines           connect 5s, first_token 2m, idle 1m, total 15m, queue 10s, body 30s, stall 30s, abandoned 30s
  target              company (kind compatible) at https://llm.example.com/v1, as n (priority 0, weight 1)
  deadlines           connect 5s, first_token 2m, idle 1m, total 15m, queue 10s, body 30s, stall 30s, abandoned 30s
  limits              keys team-a
  balance             weighted
  failover            retries 1 · hedge after 3s, at most 20% more calls · continuation off · malformed_limit 3
  breaker             5 failures, or 50% within 30s; then a probe at least every 15s
  response_streaming  allow
  on_disconnect       auto
  keep_alive          off
  options             temperature (they win over the request)

provider openai: api_key from environment variable OPENAI_API_KEY
provider company: header x-key from file /run/key
provider legacy: query parameter key from config.toml:14

key team-a: models gpt-*, forced
route /my-chat: llm/v1/chat, model forced
route /text: llm/v1/completions, the model that the request names

note: something odd.
note: provider "legacy" is used by no model.
"""


def test_everything_is_shown_but_the_credentials() -> None:
    settings, notes = load(TEXT, {"OPENAI_API_KEY": "topsecret"}, {"/run/key": "topsecret"})
    assert notes == []
    shown = describe(settings, KINDS, ["something odd."])
    assert shown == EXPECTED
    assert "topsecret" not in shown


def test_without_a_file_it_says_where_every_other_name_goes() -> None:
    shown = describe(default_settings({"OPENAI_API_KEY": "topsecret"}, KINDS), KINDS)
    assert shown.startswith("data port   127.0.0.1:8000, open to this machine, without keys\n")
    target = "openai (kind openai) at https://api.openai.com/v1, under the same name"
    assert f"any other model\n  target              {target}\n" in shown
    assert "provider openai: api_key from environment variable OPENAI_API_KEY\n" in shown
    assert "note:" not in shown


def test_a_gateway_that_is_open_to_others_says_so() -> None:
    settings, _ = load('[server]\nbind = "0.0.0.0:8000"\nallow_anonymous = true\n')
    assert "0.0.0.0:8000, open to everyone who can reach it, without keys" in describe(settings, KINDS)


def test_several_workers_are_said_with_what_they_do_not_share() -> None:
    settings, _ = load("[server]\nworkers = 3\n" + DEMO)
    text = describe(settings, KINDS)
    assert "admin ports 127.0.0.1:8001 to 127.0.0.1:8003, one for each worker\n" in text
    assert "server      workers 3 · drain 1m" in text
    assert "note: 3 workers share the data port and nothing else: " in text
    assert "(max_in_flight: demo 3 x 1000)" in text


def test_an_account_of_azure_says_where_it_is_and_who_it_is() -> None:
    text = (
        "[providers.az]\nkind = 'azure'\ninstance = 'my-resource'\n"
        "entra = { tenant_id = 't', client_id = 'app', client_secret = '${SECRET}' }\n"
        "[models.m]\ntargets = [{ provider = 'az', model = 'dep' }]\n"
    )
    settings, notes = load_settings(
        text, file="f", environ={"SECRET": "not-to-be-seen"}, read_file=lambda name: name, kinds=PROVIDER_TABLE
    )
    lines = describe(settings, PROVIDER_TABLE, notes)
    assert "az (kind azure) at instance my-resource, as dep" in lines
    assert "provider az: application app of tenant t, secret from environment variable SECRET" in lines
    assert "not-to-be-seen" not in lines
