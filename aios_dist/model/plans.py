"""Plans: jobs submitted together, and the order between them.

``fifo`` admits all its members at once: their steps interleave, in the order of becoming ready. ``fixed``
admits one member at a time, the next when the one before has ended. Members are jobs or plans, so a hybrid
is a fixed order of fifo groups. ``agent-first`` is the work-conserving form of both: all is admitted, and
what stands earlier in the plan goes first.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Literal

import msgspec

from aios_dist.errors import InvalidInput
from aios_dist.model.given import short
from aios_dist.model.specs import JobSpec

OnFailure = Literal["stop", "continue"]
Mode = Literal["fifo", "fixed", "agent-first"]


class Plan(msgspec.Struct, frozen=True):
    """An order between jobs. Made by :func:`fifo`, :func:`fixed`, :func:`hybrid` or :func:`agent_first`."""

    mode: Mode
    members: tuple[JobSpec | Plan, ...]
    on_failure: OnFailure

    def jobs(self) -> Iterator[JobSpec]:
        """All jobs, in the order in which they are written down."""
        for member in self.members:
            if isinstance(member, Plan):
                yield from member.jobs()
            else:
                yield member


class Shape(msgspec.Struct, frozen=True):
    """A plan without its jobs, as the journal takes it.

    Attributes:
        id: the plan's id.
        nodes: ``(mode, parent or -1, members, on_failure)``; node 0 is the root.
        links: ``(node, place, "n" + node or "j" + job id)``.
        places: of each job, in the order of :meth:`Plan.jobs`: ``(agent-first node, place, how many places
            and jobs that node has)``; None outside of such.
    """

    id: str
    nodes: list[tuple[str, int, int, str]]
    links: list[tuple[int, int, str]]
    places: list[tuple[int, int, int, int] | None] = []

    def plain_nodes(self) -> list[dict[str, Any]]:
        """The nodes as the journal's verbs take them."""
        return [
            {"mode": mode, "parent": parent, "children": count, "on_failure": on_failure}
            for mode, parent, count, on_failure in self.nodes
        ]

    def plain_places(self) -> list[int]:
        """Of an agent-first root: how many places and jobs it has; else empty."""
        return list(self.places[0][2:]) if self.places and self.places[0] else []

    def plain_links(self) -> list[dict[str, Any]]:
        """The links likewise."""
        return [{"node": node, "k": place, "child": child} for node, place, child in self.links]


def fifo(jobs: Iterable[JobSpec | Plan], *, on_failure: OnFailure = "continue") -> Plan:
    """All at once; steps run in the order in which they become ready (request granularity).

    Args:
        jobs: jobs (``agent.job(…)``) or plans.
        on_failure: ``stop``: a failed member makes this group count as failed in the plan around it.
    """
    return _plan("fifo", jobs, on_failure)


def fixed(jobs: Iterable[JobSpec | Plan], *, on_failure: OnFailure = "stop") -> Plan:
    """One after another, each when the one before has ended (agent granularity).

    Args:
        jobs: jobs (``agent.job(…)``) or plans.
        on_failure: ``stop``: after a failed member the rest is cancelled; ``continue``: the next runs.
    """
    return _plan("fixed", jobs, on_failure)


def hybrid(groups: Iterable[Iterable[JobSpec | Plan]], *, on_failure: OnFailure = "stop") -> Plan:
    """Groups in fixed order, FIFO inside a group; a group begins when all of the one before has ended."""
    if isinstance(groups, (JobSpec, Plan)) or not isinstance(groups, Iterable):
        raise InvalidInput(f"A hybrid plan takes a list of lists of jobs, not {short(groups)}.")
    return fixed([fifo(group, on_failure=on_failure) for group in groups], on_failure=on_failure)


def agent_first(jobs: Iterable[JobSpec | Plan], *, on_failure: OnFailure = "continue") -> Plan:
    """Fixed order without idle slots: all are admitted, an earlier member's steps go before a later one's.

    Args:
        jobs: jobs, or groups (``fifo([…])``), whose jobs share a place: then it is the work-conserving form
            of a hybrid plan.
        on_failure: ``stop``: a failed member makes this group count as failed in the plan around it.
    """
    return _plan("agent-first", jobs, on_failure)


def _plan(mode: Mode, jobs: Iterable[JobSpec | Plan], on_failure: OnFailure) -> Plan:
    if not isinstance(on_failure, str) or on_failure not in ("stop", "continue"):
        raise InvalidInput(f"on_failure is 'stop' or 'continue', not {short(on_failure)}.")
    what = f"An {mode} plan" if mode == "agent-first" else f"A {mode} plan"
    if isinstance(jobs, (JobSpec, Plan)) or not isinstance(jobs, Iterable):
        raise InvalidInput(f"{what} takes a list of jobs and plans, not one {type(jobs).__name__}.")
    members = tuple(jobs)
    if not members:
        raise InvalidInput(f"{what} needs at least one job; a group of it may not be empty either.")
    for member in members:
        if not isinstance(member, (JobSpec, Plan)):
            raise InvalidInput(
                f"A plan is made of jobs (agent.job(…)) and plans, not of {type(member).__name__} objects."
            )
    return Plan(mode, members, on_failure)


def shape(plan: Plan, id: str, ids: Sequence[str]) -> tuple[Shape, list[int]]:
    """A plan as the journal takes it.

    Args:
        plan: the plan.
        id: its id.
        ids: the ids of its jobs, in the order of :meth:`Plan.jobs`.

    Returns:
        The shape, and for each job the node that it belongs to.

    Raises:
        InvalidInput: an id comes twice.
    """
    seen: set[str] = set()
    for job in ids:
        if job in seen:
            raise InvalidInput(f"The plan has the job id {job!r} twice; ids are unique.")
        seen.add(job)
    nodes: list[tuple[str, int, int, str]] = []
    links: list[tuple[int, int, str]] = []
    owners: list[int] = []
    found: list[tuple[int, int] | None] = []
    counts: dict[int, int] = {}  # places of each outermost agent-first node
    rest = iter(ids)

    def take(node: int) -> tuple[int, int]:
        counts[node] += 1
        return node, counts[node] - 1

    def walk(part: Plan, parent: int, first: int | None, place: tuple[int, int] | None) -> int:
        number = len(nodes)
        nodes.append((part.mode, parent, len(part.members), part.on_failure))
        if part.mode == "agent-first" and first is None:
            first = number
            counts[number] = 0
        for k, member in enumerate(part.members):
            own = place
            # A fifo group shares one place; a group with an order of its own has one for each of its members.
            splits = isinstance(member, Plan) and member.mode != "fifo"
            if first is not None and own is None and not splits:
                own = take(first)
            if isinstance(member, Plan):
                links.append((number, k, f"n{walk(member, number, first, own)}"))
            else:
                owners.append(number)
                found.append(own)
                links.append((number, k, f"j{next(rest)}"))
        return number

    walk(plan, -1, None, None)
    jobs = Counter(p[0] for p in found if p is not None)
    places = [None if p is None else (*p, counts[p[0]], jobs[p[0]]) for p in found]
    return Shape(id, nodes, links, places), owners
