"""What is submitted: an agent with its input, what it may cost, and how soon it is wanted."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from aios_dist.config import FOREVER, PromptsConfig, fault, fault_of, says, settings_of
from aios_dist.errors import InvalidInput
from aios_dist.model.given import LONGEST_S, short

Program = Callable[[], Coroutine[Any, Any, Any]]
"""An agent with its input bound: each call starts the program anew."""


# fmt: off
Deadline = Annotated[float, Meta(gt=0, le=LONGEST_S), says(
    "seconds from the submission; then the job fails with `DeadlineExceeded`, wherever it stands",
    unit="seconds")]
Priority = Annotated[int, Meta(ge=0, le=9), says(
    "0 to 9, 9 runs first, on lanes whose policy looks at it; can be changed while the job runs")]
ExpectedSteps = Annotated[int, Meta(ge=1, le=10**6 - 1), says(
    "how many steps it will have, for lanes of policy `remaining`", unit="steps")]
BudgetTokens = Annotated[int, Meta(ge=0, lt=2**53), says(
    "the most tokens, prompt and output, over the whole life of the job", unit="tokens")]
BudgetMoney = Annotated[float, Meta(ge=0, lt=FOREVER), says(
    "the most money, in the currency of the models' prices, over the whole life of the job", unit="money")]
OnBudget = Annotated[Literal["pause", "fail"], says("what becomes of the job when its budget is used up")]
# fmt: on


class Budget(msgspec.Struct, frozen=True, kw_only=True):
    """What a job may cost, in tokens (prompt and output together) or in money; calls in flight are paid out.

    ``on_budget="pause"`` lets ``job.resume(budget=…)`` let it go on.
    """

    tokens: BudgetTokens | None = None
    money: BudgetMoney | None = None
    on_budget: OnBudget = "pause"

    def __post_init__(self) -> None:
        if self.tokens is None and self.money is None:
            raise InvalidInput("A budget is in tokens or in money: Budget(tokens=…) or Budget(money=…).")
        if found := fault_of(Budget, self, short):
            raise InvalidInput(f"A budget's {found}")


def checked_priority(priority: int) -> int:
    """The priority, if it is one.

    Raises:
        InvalidInput: it is not a whole number from 0 to 9.
    """
    _check("priority", priority)
    return priority


def _check(name: str, value: Any) -> None:
    """Raises InvalidInput: that cannot be this setting of a job."""
    if found := fault(settings_of(JobSpec)[name], value, short):
        raise InvalidInput(f"A job's {found}")


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
        budget: what it may cost; see :class:`Budget`.
        deadline, priority, expected_steps: see :data:`Deadline`, :data:`Priority`, :data:`ExpectedSteps`.
    """

    agent: str
    input: dict[str, Any]
    id: str | None = None
    tenant: str = "default"
    prompts: PromptsConfig | None = None
    program: Program | None = None
    deadline: Deadline | None = None
    budget: Budget | None = None
    priority: Priority = 0
    expected_steps: ExpectedSteps | None = None
    defaults: dict[str, Any] = {}

    def __post_init__(self) -> None:
        if type(self.input) is not dict:
            raise InvalidInput(f"A job's input is a dict of its arguments, not {short(self.input)}.")
        if self.program is not None and not callable(self.program):
            raise InvalidInput(
                f"A job's program is made by its agent, agent.job(…), and not {short(self.program)}."
            )
        if self.budget is not None and not isinstance(self.budget, Budget):
            raise InvalidInput(
                f"A budget is a Budget(tokens=…) or Budget(money=…), not {short(self.budget)}."
            )
        if type(self.priority) is not int or self.priority:  # the usual one costs no look at what is declared
            _check("priority", self.priority)
        for name in ("deadline", "expected_steps"):
            if (value := getattr(self, name)) is not None:
                _check(name, value)

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
