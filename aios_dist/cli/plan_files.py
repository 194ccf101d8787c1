"""Files of agents and plans, as people write them: the format, and reading it.

A file holds agents, a plan, or both, in TOML or JSON::

    order = "fixed"                      # fifo, fixed, hybrid or agent-first
    on_failure = "continue"              # or "stop"; what the order's own default is when left out
    id = "monday"                        # of the plan, may be left out

    [agents.greet]                       # as in aios.toml
    prompts = ["Greet {input}.", "Say this in French: {previous}"]

    [[jobs]]
    agent = "greet"                      # from this file, aios.toml, Python, or known to workers
    input = "Ada"
    id = "greet-ada"
    deadline = 3600                      # seconds from the submission
    budget = {tokens = 20000}            # or money = 0.5; on_budget = "fail" instead of "pause"
    priority = 7                         # 0 to 9, where the lane's policy looks at it
    expected_steps = 2                   # for the policy "remaining"

    [[jobs]]                             # a group: a plan in the plan
    order = "fifo"
    on_failure = "stop"
    jobs = [{agent = "greet", input = "Bo"}, {prompts = ["A joke about {input}"], input = "cats"}]

A list in the place of a job is a fifo group in short, with the ``on_failure`` of the plan around it. The
members of a hybrid plan are groups: such lists, or tables, which are fifo when they name no order::

    order = "hybrid"
    jobs = [
      [{agent = "greet", input = "Ada"}, {agent = "greet", input = "Bo"}],
      {on_failure = "continue", jobs = [{agent = "greet", input = "Cy"}]},
    ]

:mod:`aios_dist.cli.plan_of_file` makes the plan of it.
"""

from __future__ import annotations

import json
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import msgspec

from aios_dist.config import PromptsConfig, fault_of, tables
from aios_dist.config.files import read_text
from aios_dist.errors import InvalidInput
from aios_dist.model import specs


class BudgetEntry(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """``budget = {tokens = 20000}`` of a job."""

    tokens: specs.BudgetTokens | None = None
    money: specs.BudgetMoney | None = None
    on_budget: specs.OnBudget = "pause"


class JobEntry(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One job of a plan file: an agent by name, or its prompts right here."""

    agent: str | None = None
    input: Any = None
    id: str | None = None
    tenant: str = "default"
    prompts: tables.Prompts | None = None
    model: tables.PromptsModel | None = None
    system: tables.System | None = None
    temperature: tables.Temperature | None = None
    max_tokens: tables.MaxTokens | None = None
    deadline: specs.Deadline | None = None
    budget: BudgetEntry | None = None
    priority: specs.Priority | None = None
    expected_steps: specs.ExpectedSteps | None = None

    def definition(self) -> PromptsConfig | None:
        """The agent that is written down in the entry itself, if one is."""
        if self.prompts is None:
            return None
        return PromptsConfig(self.prompts, self.model, self.system, self.temperature, self.max_tokens)


class GroupEntry(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A plan, or a plan in a plan."""

    order: str | None = None
    jobs: list[Any] = []
    on_failure: str | None = None


class PlanFile(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A whole file."""

    agents: dict[str, PromptsConfig] = {}
    order: str | None = None
    jobs: list[Any] | None = None
    on_failure: str | None = None
    id: str | None = None


@contextmanager
def place(where: str) -> Iterator[None]:
    """Says in errors where in the file they are."""
    try:
        yield
    except InvalidInput as exc:
        raise InvalidInput(f"{where}: {exc}") from None


def read_file(path: str) -> PlanFile:
    """Read a file of agents, of a plan, or of both.

    Raises:
        InvalidInput: one sentence that names the file, the place and what to write instead.
    """
    try:
        text = read_text(path)
        data = json.loads(text) if path.endswith(".json") else tomllib.loads(text)
    except InvalidInput:
        raise
    except OSError as exc:
        raise InvalidInput(f"{path!r} cannot be read: {exc.strerror}.") from None
    except RecursionError:
        raise InvalidInput(f"{path!r} is nested too deeply.") from None
    except ValueError as exc:
        kind = "JSON" if path.endswith(".json") else "TOML"
        raise InvalidInput(f"{path!r} is not {kind}: {exc}.") from None
    with place(repr(path)):
        file = record(data, PlanFile)
    if file.jobs is None and (file.order or file.on_failure or file.id):
        raise InvalidInput(f"{path!r} has no jobs = […] to go with order, on_failure or id.")
    if file.jobs is None and not file.agents:
        raise InvalidInput(f'{path!r} has neither a plan (order = "fifo", jobs = […]) nor [agents.NAME].')
    return file


T = TypeVar("T", bound=msgspec.Struct)


def record(data: Any, kind: type[T]) -> T:
    """Plain data as a record of the format.

    Raises:
        InvalidInput: it is none; names the field, and the nearest right spelling.
    """
    if found := fault_of(kind, data):
        raise InvalidInput(found)
    return msgspec.convert(data, kind)
