"""What is submitted: an agent with its input, what it may cost, and how soon it is wanted."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any, Literal

import msgspec

from aios_dist.config import FOREVER, PromptsConfig
from aios_dist.errors import InvalidInput
from aios_dist.model.given import short

Program = Callable[[], Coroutine[Any, Any, Any]]
"""An agent with its input bound: each call starts the program anew."""


class Budget(msgspec.Struct, frozen=True, kw_only=True):
    """What a job may cost, in tokens (prompt and output together) or in money; calls in flight are paid out.

    Attributes:
        tokens, money: the most; money in the currency of the models' prices.
        on_budget: ``pause`` the job, which ``job.resume(budget=…)`` lets go on, or ``fail`` it.
    """

    tokens: int | None = None
    money: float | None = None
    on_budget: Literal["pause", "fail"] = "pause"

    def __post_init__(self) -> None:
        if self.tokens is None and self.money is None:
            raise InvalidInput("A budget is in tokens or in money: Budget(tokens=…) or Budget(money=…).")
        number = self.money is None or isinstance(self.money, (int, float))
        if not number or isinstance(self.money, bool) or type(self.tokens) not in (int, type(None)):
            raise InvalidInput(
                "A budget's tokens are a whole number and its money a number, "
                f"not {short(self.tokens)} and {short(self.money)}."
            )
        if not 0 <= (self.tokens or 0) < 2**53 or not 0 <= (self.money or 0) < FOREVER:
            raise InvalidInput("A budget cannot be less than nothing, nor without end.")
        if not isinstance(self.on_budget, str) or self.on_budget not in ("pause", "fail"):
            raise InvalidInput(f"on_budget is 'pause' or 'fail', not {short(self.on_budget)}.")


PRIORITIES = range(10)


def checked_priority(priority: int) -> int:
    """The priority, if it is one.

    Raises:
        InvalidInput: it is not a whole number from 0 to 9.
    """
    if type(priority) is not int or priority not in PRIORITIES:
        raise InvalidInput(f"A priority is a whole number from 0 to 9 (9 runs first), not {short(priority)}.")
    return priority


class JobSpec(msgspec.Struct, frozen=True, kw_only=True):
    """An agent with its input: what is submitted, and what plans are made of.

    Attributes:
        agent: the agent's name.
        input: its arguments, JSON values by name.
        id: the job's id; one is made up when None.
        tenant: on whose behalf it runs.
        prompts: the definition, for an agent that is data.
        defaults: of the arguments that were not given, as far as they are JSON: a job keeps those that it was
            submitted with.
        program: starts the agent, where the submitting process has its code.
        deadline: seconds from the submission; then the job fails with ``DeadlineExceeded``.
        budget: what it may cost; see :class:`Budget`.
        priority: 0 to 9, where the lane's policy looks at it; can be changed while the job runs.
        expected_steps: how many steps it will have, for the policy ``remaining``.
    """

    agent: str
    input: dict[str, Any]
    id: str | None = None
    tenant: str = "default"
    prompts: PromptsConfig | None = None
    program: Program | None = None
    deadline: float | None = None
    budget: Budget | None = None
    priority: int = 0
    expected_steps: int | None = None
    defaults: dict[str, Any] = {}

    def __post_init__(self) -> None:
        if type(self.input) is not dict:
            raise InvalidInput(f"A job's input is a dict of its arguments, not {short(self.input)}.")
        if self.program is not None and not callable(self.program):
            raise InvalidInput(
                f"A job's program is made by its agent, agent.job(…), and not {short(self.program)}."
            )
        number = isinstance(self.deadline, (int, float)) and not isinstance(self.deadline, bool)
        if self.deadline is not None and not (number and 0 < self.deadline <= 3.2e8):
            raise InvalidInput(
                f"A deadline is seconds from the submission, more than 0, not {short(self.deadline)}."
            )
        if self.budget is not None and not isinstance(self.budget, Budget):
            raise InvalidInput(
                f"A budget is a Budget(tokens=…) or Budget(money=…), not {short(self.budget)}."
            )
        checked_priority(self.priority)
        steps = self.expected_steps
        if steps is not None and (type(steps) is not int or not 0 < steps < 10**6):
            raise InvalidInput(f"expected_steps is a whole number from 1 to 999,999, not {short(steps)}.")

    def named(self, id: str) -> JobSpec:
        """The same job under that id: submitted again under it, it is one job."""
        return msgspec.structs.replace(self, id=id)

    def within(
        self,
        *,
        deadline: float | None = None,
        budget: Budget | None = None,
        priority: int | None = None,
        expected_steps: int | None = None,
    ) -> JobSpec:
        """The same job with a deadline (seconds from the submission), a budget, a priority (0 to 9), or what
        is expected of it; None leaves each as it is.

        Raises:
            InvalidInput: a deadline that is not in the future, a priority out of range, no steps expected.
        """
        bounds: dict[str, Any] = {
            "deadline": deadline,
            "budget": budget,
            "priority": priority,
            "expected_steps": expected_steps,
        }
        return msgspec.structs.replace(self, **{k: v for k, v in bounds.items() if v is not None})
