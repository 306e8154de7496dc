from __future__ import annotations

from time import process_time

import pytest

from trio_ai_proxy.errors import UnknownModel
from trio_ai_proxy.routing.routes import Routes
from trio_ai_proxy.settings import KeySettings, ModelSettings, ProviderSettings, Settings, TargetSettings, Timeouts

MODELS = {
    name: ModelSettings(name=name, targets=(TargetSettings("p", name),)) for name in ("gpt-4o", "gpt-4o-mini", "llama")
}


def key(*models: str) -> KeySettings:
    return KeySettings(name="k", sha256=bytes(32), models=models)


def routes(*keys: KeySettings, pass_through: str | None = None) -> Routes:
    return Routes(
        Settings(
            providers={"p": ProviderSettings("p", "openai")},
            models=MODELS,
            keys=keys,
            pass_through=pass_through,
            timeouts=Timeouts(idle=7),
        )
    )


def test_configured_model_is_found_by_its_exact_name() -> None:
    assert routes().resolve("gpt-4o") is MODELS["gpt-4o"]


@pytest.mark.parametrize("name", ["gpt-4", "GPT-4o", "gpt-4o ", "*", ""])
def test_no_other_name_is_known(name: str) -> None:
    with pytest.raises(UnknownModel) as caught:
        routes().resolve(name)
    error = caught.value
    assert error.message == f"The model `{name}` does not exist or you do not have access to it."
    assert (error.status, error.code, error.param) == (404, "model_not_found", "model")


def test_other_names_pass_to_the_provider_that_takes_them() -> None:
    model = routes(pass_through="p").resolve("o9-large")
    assert model == ModelSettings(
        name="o9-large", targets=(TargetSettings("p", "o9-large"),), timeouts=Timeouts(idle=7)
    )
    assert routes(pass_through="p").resolve("gpt-4o") is MODELS["gpt-4o"]


@pytest.mark.parametrize(
    ("patterns", "name", "may"),
    [
        (("*",), "anything/at all\n", True),
        (("gpt-4o",), "gpt-4o", True),
        (("gpt-4o",), "gpt-4o-mini", False),
        (("gpt-4o",), "xgpt-4o", False),
        (("gpt-*",), "gpt-4o-mini", True),
        (("gpt-*",), "gpt-", True),
        (("*-mini",), "gpt-4o-mini", True),
        (("*-mini",), "gpt-4o-mini-x", False),
        (("g*4*i",), "gpt-4o-mini", True),
        (("g*4*x",), "gpt-4o-mini", False),
        (("a*a",), "a", False),
        (("*ab*ab",), "xabab", True),
        (("*ab*ab",), "xab", False),
        (("**",), "x", True),
        (("gpt.4o",), "gpt-4o", False),
        (("gpt-[45]o",), "gpt-4o", False),
        (("gpt-?o",), "gpt-4o", False),
        (("(a|b)+",), "(a|b)+", True),
        (("a", "b*"), "b1", True),
        (("a", "b*"), "c", False),
        ((), "x", False),
        (("",), "x", False),
    ],
)
def test_star_is_any_run_of_characters_and_all_else_is_itself(patterns: tuple[str, ...], name: str, may: bool) -> None:
    one = key(*patterns)
    assert routes(one).allowed(one, name) is may
    assert routes().allowed(one, name) is may


def test_many_stars_cost_no_time() -> None:
    one = key("*a" * 40 + "*b")
    began = process_time()
    assert not routes(one).allowed(one, "a" * 256)
    assert process_time() - began < 1


def test_an_open_gateway_lets_everyone_use_everything() -> None:
    assert routes().allowed(None, "gpt-4o")
    assert routes().visible(None) == ["gpt-4o", "gpt-4o-mini", "llama"]


def test_key_sees_what_it_may_use_in_the_order_of_the_file() -> None:
    one, none = key("llama", "gpt-4o*"), key("x")
    assert routes(one, none).visible(one) == ["gpt-4o", "gpt-4o-mini", "llama"]
    assert routes(one, none).visible(none) == []
