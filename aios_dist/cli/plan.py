"""``aios-dist plan show``, and files of agents and plans as people write them.

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

A file is checked whole: a mistake is named with its place in it.
"""

from __future__ import annotations

import json
import tomllib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

import click
import msgspec

from aios_dist.cli import ctrl_c_at_once
from aios_dist.cli.entry import Commands
from aios_dist.cli.options import as_json_option
from aios_dist.cli.output import plain, print_json
from aios_dist.cli.session import on_journal
from aios_dist.config import PromptsConfig, fault_of, nearest, tables
from aios_dist.config.files import read_text
from aios_dist.errors import InvalidInput
from aios_dist.model import specs
from aios_dist.model.plans import Plan, agent_first, fifo, fixed
from aios_dist.model.specs import Budget, JobSpec
from aios_dist.program.agents import PromptsAgent

if TYPE_CHECKING:
    from aios_dist.cli.submit import Agents
    from aios_dist.journal import JobView, Journal, PlanView

plan = Commands("plan")

MOST_PARKED = 10
"""Parked members that are named."""


@plan.command()
@click.argument("id")
@as_json_option
def show(id: str, as_json: bool) -> None:
    """One plan: its state, and how many of its jobs were admitted, have ended, or were dropped."""

    async def look(journal: Journal) -> tuple[PlanView, list[JobView]]:
        view = await journal.plan(id)
        if view.state != "running":
            return view, []
        return view, await journal.find_jobs(Wanted(states=("parked",), plan=id), MOST_PARKED)

    with ctrl_c_at_once():
        from aios_dist.journal import Wanted

    view, parked = on_journal(look)
    if as_json:
        print_json({**msgspec.to_builtins(view), "parked": [job.id for job in parked]})
        return
    so_far = ""
    if view.jobs is not None:
        so_far = f": of {view.jobs:,} jobs {view.admitted:,} admitted, {view.ended:,} ended"
        so_far += f", {view.dropped:,} dropped after a failure" if view.dropped else ""
    print(f"{view.id} is {view.state}{so_far}{' (at work)' if view.at_work else ''}")
    for job in parked:
        print(plain(f"{job.id} is parked: {job.why}"))


# Files: the format ----------------------------------------------------------------------------------------


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


# Files: the plan of one --------------------------------------------------------------------------------


class Order(NamedTuple):
    """What makes a plan of that order, and its ``on_failure`` when it is left out: as in Python."""

    make: Callable[..., Plan]
    on_failure: str


ORDERS = {
    "fifo": Order(fifo, "continue"),
    "fixed": Order(fixed, "stop"),
    "hybrid": Order(fixed, "stop"),  # of groups
    "agent-first": Order(agent_first, "continue"),
}

DEEPEST = 32
"""Plans in plans."""


def plan_of(file: PlanFile, agents: Agents, source: str) -> Plan:
    """The file's plan.

    Args:
        file: as read; it has a plan.
        agents: where its agents are found.
        source: the file's name, for errors.

    Raises:
        InvalidInput: one sentence that names the file, the place and what to write instead.
    """
    group = GroupEntry(order=file.order, jobs=file.jobs or [], on_failure=file.on_failure)
    with place(repr(source)):
        return _Members(agents).plan(group, depth=1)


class _Members:
    """The jobs and groups of one file, which share one set of ids."""

    def __init__(self, agents: Agents) -> None:
        self._agents = agents
        self._ids: set[str] = set()

    def plan(self, group: GroupEntry, depth: int) -> Plan:
        if group.order is None:
            orders = 'order = "fifo" (all at once), "fixed" (one after another), "hybrid" or "agent-first"'
            raise InvalidInput(f"a plan needs {orders}.")
        if group.order not in ORDERS:
            raise InvalidInput(f"there is no order {group.order!r}; {nearest(group.order, ORDERS)}")
        if not group.jobs:
            raise InvalidInput("a plan needs at least one job; so does each group of it.")
        if depth > DEEPEST:
            raise InvalidInput(f"plans in plans go {DEEPEST} deep at the most.")
        order = ORDERS[group.order]
        group = msgspec.structs.replace(group, on_failure=group.on_failure or order.on_failure)
        # A generator: on_failure is looked at before the members are.
        members = (self._member(number, entry, group, depth) for number, entry in enumerate(group.jobs))
        return order.make(members, on_failure=group.on_failure)

    def _member(self, number: int, entry: Any, around: GroupEntry, depth: int) -> JobSpec | Plan:
        with place(f"jobs[{number}]"):
            group = _group_in(entry, around)
            return self._job(record(entry, JobEntry)) if group is None else self.plan(group, depth + 1)

    def _job(self, entry: JobEntry) -> JobSpec:
        if entry.id in self._ids:
            raise InvalidInput(f"the id {entry.id!r} stands in this plan already; ids are unique.")
        if entry.id is not None:
            self._ids.add(entry.id)
        budget = None if entry.budget is None else Budget(**msgspec.structs.asdict(entry.budget))
        return self._spec(entry).within(
            deadline=entry.deadline,
            budget=budget,
            priority=entry.priority,
            expected_steps=entry.expected_steps,
        )

    def _spec(self, entry: JobEntry) -> JobSpec:
        definition = entry.definition()
        if definition is not None:
            named = PromptsAgent(entry.agent or "prompts", definition)
            return named.job(entry.input, id=entry.id, tenant=entry.tenant)
        if entry.agent is None:
            raise InvalidInput('it needs agent = "NAME", or prompts = ["…"].')
        if any(v is not None for v in (entry.model, entry.system, entry.temperature, entry.max_tokens)):
            raise InvalidInput("model, system, temperature and max_tokens go with prompts = […] only.")
        return self._agents.job(entry.agent, entry.input, id=entry.id, tenant=entry.tenant)


def _group_in(entry: Any, around: GroupEntry) -> GroupEntry | None:
    """The group that stands in the place of a job, if one does."""
    if isinstance(entry, list):
        return GroupEntry(order="fifo", jobs=entry, on_failure=around.on_failure)
    if isinstance(entry, dict) and ("jobs" in entry or "order" in entry):
        group = record(entry, GroupEntry)
        if around.order != "hybrid":
            return group
        return msgspec.structs.replace(
            group, order=group.order or "fifo", on_failure=group.on_failure or around.on_failure
        )
    if around.order == "hybrid":
        raise InvalidInput('a hybrid plan is made of groups: [{agent = "NAME"}] is one with one job.')
    return None
