"""From what stands in a plan file to a plan, checked whole: a mistake is named with its place in the file."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import msgspec

from aios_dist.cli.agents_by_name import Agents
from aios_dist.cli.plan_files import GroupEntry, JobEntry, PlanFile, place, record
from aios_dist.config import nearest
from aios_dist.errors import InvalidInput
from aios_dist.model.plans import Plan, agent_first, fifo, fixed
from aios_dist.model.specs import Budget, JobSpec
from aios_dist.program.agents import PromptsAgent


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
