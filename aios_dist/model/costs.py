"""What a call cost, from its usage: the model's own prices, or else what `genai-prices` knows.

https://pypi.org/project/genai-prices/ (pydantic): an extra, since it brings its own table of prices along.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable

from aios_dist.config import ModelConfig
from aios_dist.model.calls import Usage

MILLION = 1_000_000


def money(name: str, model: ModelConfig, usage: Usage) -> float:
    """The price of a call, in the currency of the prices; 0.0 where no price is known.

    Args:
        name: the model's name in aios.toml.
        model: its settings.
        usage: what the provider counted.
    """
    if model.input_price is not None or model.output_price is not None:
        asked = usage.prompt_tokens * (model.input_price or 0.0)
        return (asked + usage.output_tokens * (model.output_price or 0.0)) / MILLION
    if not usage.calls:
        return 0.0
    found = _listed(model.model or name, model.provider)
    return found(usage) if found is not None else 0.0


def known(name: str, model: ModelConfig) -> bool:
    """Whether a call of the model has a price, be it 0: else its calls cost nothing in a budget of money."""
    given = model.input_price is not None or model.output_price is not None
    return given or _listed(model.model or name, model.provider) is not None


def without_price(models: Iterable[str]) -> tuple[str, str]:
    """What is said of models whose calls no budget of money sees (no stop behind it), and what to do."""
    names = ", ".join(sorted(models))
    fix = (
        "Give input_price and output_price in [models.NAME] (0 where they are free), or install the extra "
        "`prices` on the workers."
    )
    return f"No price is known of {names}: in a budget of money such calls cost nothing", fix


@functools.cache
def _listed(model: str, provider: str) -> Callable[[Usage], float] | None:
    """The list's price of a call (some depend on the length of the prompt); None: not in the list."""
    try:
        import genai_prices
    except ModuleNotFoundError:
        return None
    listed = _LISTED_AS.get(provider, provider)

    def price(usage: Usage) -> float:
        tokens = genai_prices.Usage(input_tokens=usage.prompt_tokens, output_tokens=usage.output_tokens)
        return float(genai_prices.calc_price(tokens, model_ref=model, provider_id=listed).total_price)

    try:
        price(Usage(1, 1, 1))
    except LookupError:
        return None
    return price


_LISTED_AS = {"gemini": "google", "openai-responses": "openai"}
"""The list's names of providers that we call by another."""
