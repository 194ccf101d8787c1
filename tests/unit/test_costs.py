"""What a call cost: by the model's own prices, else by the list of `genai-prices`, else nothing."""

from __future__ import annotations

import sys
from collections.abc import Iterator

import pytest

from aios_dist.config import ModelConfig
from aios_dist.model import costs
from aios_dist.model.calls import Usage
from aios_dist.model.costs import money


@pytest.fixture(autouse=True)
def fresh() -> Iterator[None]:
    """Nothing remembered from, or for, another test."""
    costs._listed.cache_clear()
    yield
    costs._listed.cache_clear()


def model(provider: str = "openai", **fields: float | str) -> ModelConfig:
    return ModelConfig(provider=provider, **fields)  # type: ignore[arg-type]


def test_own_prices_are_money_for_a_million_tokens() -> None:
    priced = model(input_price=2.0, output_price=10.0)
    assert money("m", priced, Usage(1_000_000, 0, 1)) == 2.0
    assert money("m", priced, Usage(0, 1_000_000, 1)) == 10.0
    assert money("m", priced, Usage(500, 100, 1)) == pytest.approx(0.002)


@pytest.mark.parametrize(("fields", "price"), [({"input_price": 2.0}, 2.0), ({"output_price": 3.0}, 3.0)])
def test_a_price_that_is_left_out_beside_the_other_is_nothing(fields: dict[str, float], price: float) -> None:
    assert money("m", model(**fields), Usage(1_000_000, 1_000_000, 1)) == price


def test_own_prices_of_nothing_win_over_the_list() -> None:
    assert money("gpt-4o", model(input_price=0.0), Usage(1000, 1000, 1)) == 0.0


def test_a_call_that_was_not_billed_costs_nothing() -> None:
    assert money("gpt-4o", model(), Usage()) == 0.0


def test_a_model_that_no_list_knows_costs_nothing() -> None:
    assert money("small", model(), Usage(1000, 1000, 1)) == 0.0
    assert money("gpt-4o", model("no-such-provider"), Usage(1000, 1000, 1)) == 0.0


def test_without_the_list_only_own_prices_count(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "genai_prices", None)
    assert money("gpt-4o", model(), Usage(1000, 1000, 1)) == 0.0
    assert money("gpt-4o", model(input_price=1.0), Usage(1_000_000, 0, 1)) == 1.0


def test_a_price_is_known_where_it_is_given_or_listed_and_nothing_is_a_price(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert costs.known("small", model(input_price=0.0))
    assert not costs.known("small", model())
    monkeypatch.setitem(sys.modules, "genai_prices", None)
    assert not costs.known("gpt-4o", model())


# With the list -----------------------------------------------------------------------------------------


def test_the_list_knows_the_model_by_the_name_that_the_provider_is_called_with() -> None:
    pytest.importorskip("genai_prices")
    named = money("gpt-4o", model(), Usage(1000, 100, 1))
    assert named > 0
    assert money("mine", model(model="gpt-4o"), Usage(1000, 100, 1)) == named
    assert money("gpt-4o", model(), Usage(1000, 200, 1)) > named, (
        "what it says costs as well as what it reads"
    )
    assert money("gpt-4o", model(), Usage(1000, 100, 0)) == 0.0, "nobody was called"


@pytest.mark.parametrize(
    ("name", "provider"), [("gpt-4o", "openai-responses"), ("gemini-2.5-flash", "gemini")]
)
def test_the_list_has_providers_that_it_calls_by_another_name(name: str, provider: str) -> None:
    pytest.importorskip("genai_prices")
    assert money(name, model(provider), Usage(1000, 100, 1)) > 0


@pytest.mark.parametrize("name", ["claude-sonnet-4-5"])
def test_a_short_prompt_is_not_charged_as_a_long_one(name: str) -> None:
    """Some models cost more for a token above so many tokens of a prompt."""
    pytest.importorskip("genai_prices")
    short, long = (money(name, model("anthropic"), Usage(n, 0, 1)) / n for n in (1000, 1_000_000))
    assert 0 < short < long


def test_the_list_is_asked_once_about_a_model_that_it_does_not_have(monkeypatch: pytest.MonkeyPatch) -> None:
    prices = pytest.importorskip("genai_prices")
    asked = []

    def calc_price(*args: object, **kwargs: object) -> object:
        asked.append(kwargs)
        raise LookupError("unknown")

    monkeypatch.setattr(prices, "calc_price", calc_price)
    for _ in range(3):
        assert money("small", model(), Usage(1, 1, 1)) == 0.0
    assert len(asked) == 1
