"""What a call cost, from its usage: the model's own prices, or else what `genai-prices` knows.

https://pypi.org/project/genai-prices/ (pydantic): an extra, since it brings its own table of prices along.
"""

from __future__ import annotations

import functools
from typing import Any

from aios_dist.calls import Usage
from aios_dist.config import ModelConfig

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
    prices = _known(model.model or name, model.provider)
    return (usage.prompt_tokens * prices[0] + usage.output_tokens * prices[1]) / MILLION


@functools.cache
def _known(model: str, provider: str) -> tuple[float, float]:
    """Money for a million prompt and output tokens, by the list; looked up once a model."""
    try:
        import genai_prices
    except ModuleNotFoundError:
        return 0.0, 0.0

    def price(**usage: Any) -> float:
        try:
            found = genai_prices.calc_price(
                genai_prices.Usage(**usage), model_ref=model, provider_id=provider
            )
        except LookupError:
            return 0.0
        return float(found.total_price)

    return price(input_tokens=MILLION), price(output_tokens=MILLION)
