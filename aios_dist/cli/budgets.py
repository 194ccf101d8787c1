"""Budgets as options: what a job may cost, on ``submit`` and on ``job resume``."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

from aios_dist.cli.setting_options import setting_option
from aios_dist.errors import InvalidInput
from aios_dist.model.specs import Budget

on_budget_option = setting_option(Budget, "on_budget", left_out="pause")
"""At the submission only: the job keeps it."""


def budget_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """``--budget-tokens`` and ``--budget-money``."""
    for name in ("money", "tokens"):
        command = setting_option(Budget, name, flag=f"--budget-{name}")(command)
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
