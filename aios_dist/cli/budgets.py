"""Budgets as options: what a job may cost, on ``submit`` and on ``job resume``."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import click

from aios_dist.errors import InvalidInput
from aios_dist.model.specs import Budget

on_budget_option = click.option(
    "--on-budget",
    type=click.Choice(["pause", "fail"]),
    help="What becomes of the job when its budget is used up  [default: pause]",
)
"""At the submission only: the job keeps it."""


def budget_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """``--budget-tokens`` and ``--budget-money``."""
    for option in (
        click.option(
            "--budget-money",
            metavar="X",
            type=click.FloatRange(min=0),
            help="The most money, in the currency of the models' prices, over the whole life of the job.",
        ),
        click.option(
            "--budget-tokens",
            metavar="N",
            type=click.IntRange(min=0),
            help="The most tokens, prompt and output, over the whole life of the job.",
        ),
    ):
        command = option(command)
    return command


def budget_of(
    tokens: int | None, money: float | None, on_budget: Literal["pause", "fail"] | None = None
) -> Budget | None:
    """What the options say; None when they say nothing.

    Raises:
        InvalidInput: ``--on-budget`` without a budget.
    """
    if tokens is None and money is None:
        if on_budget is not None:
            raise InvalidInput("--on-budget goes with --budget-tokens or --budget-money.")
        return None
    return Budget(tokens=tokens, money=money, on_budget=on_budget or "pause")
