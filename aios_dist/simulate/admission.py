"""Which jobs a plan lets run: what the journal's ``_plan.lua`` does, as a plain object."""

from __future__ import annotations

from collections.abc import Sequence

from aios_dist.errors import InvalidInput
from aios_dist.model.plans import Plan, shape
from aios_dist.simulate.agent_first import agent_first


class _Node:
    """A plan, or a plan in a plan."""

    __slots__ = ("admitted", "children", "ended", "failed", "mode", "parent", "stops")

    def __init__(self, mode: str, parent: int, children: int, on_failure: str) -> None:
        self.mode = mode
        self.parent = parent
        self.stops = on_failure == "stop"
        self.children = [""] * children
        self.admitted = 0
        self.ended = 0
        self.failed = False


class Admission:
    """A plan that runs.

    Args:
        plan: the plan. Its jobs are found by id among the names; where none has an id, in their order.
        names: of the jobs, which are called by their numbers from here on.

    Attributes:
        kept_back: jobs that have arrived and may not begin yet.

    Raises:
        InvalidInput: the plan has other jobs.
    """

    def __init__(self, plan: Plan, names: Sequence[str]) -> None:
        specs = list(plan.jobs())
        ids = [spec.id for spec in specs] if any(spec.id for spec in specs) else list(names)
        if len(ids) != len(specs) or set(ids) != set(names):
            raise InvalidInput("The plan has other jobs than the simulation; they have to be the same.")
        numbers = {name: number for number, name in enumerate(names)}
        jobs = [numbers[str(id)] for id in ids]
        layout, owners = shape(plan, "", [str(job) for job in jobs])
        self._owners = dict(zip(jobs, owners, strict=True))
        self._places = dict(zip(jobs, layout.places, strict=True))
        self._nodes = [_Node(*node) for node in layout.nodes]
        for number, place, child in layout.links:
            self._nodes[number].children[place] = child
        self._first_ready: dict[int, float] = {}  # of each agent-first node
        self._ready: dict[tuple[int, int], int] = {}  # steps of each place so far
        self._arrived: set[int] = set()
        self._dropped: set[int] = set()
        self.kept_back: set[int] = set()
        self._may = set(self._admit(0))

    def arrive(self, job: int) -> bool:
        """A job has arrived; gives whether it may begin."""
        self._arrived.add(job)
        if job in self._may:
            return True
        if job not in self._dropped:
            self.kept_back.add(job)
        return False

    def ended(self, job: int, *, failed: bool) -> list[int]:
        """An admitted job has ended: the jobs that begin now."""
        admitted = self._count_end(self._owners[job], failed)
        self._may.update(admitted)
        self.kept_back.difference_update(admitted)
        return [job for job in admitted if job in self._arrived]

    def rank(self, job: int, ready: float) -> float | None:
        """The rank of the job's next step that becomes ready at ``ready`` (µs), if its place gives it one."""
        found = self._places[job]
        if found is None:
            return None
        node, place, places, jobs = found
        admitted = self._first_ready.setdefault(node, ready)
        nth = self._ready.get((node, place), 0)
        self._ready[node, place] = nth + 1
        return agent_first(admitted, place, places, nth, jobs)

    def _count_end(self, number: int, failed: bool) -> list[int]:
        """One more member of a node has ended, and upwards as far as nodes end with it."""
        while number >= 0:
            node = self._nodes[number]
            node.ended += 1
            if failed and node.stops:
                node.failed = True
                if node.mode == "fixed":
                    for child in node.children[node.admitted :]:
                        self._drop(child)
                    node.admitted = node.ended = len(node.children)
            if node.ended < len(node.children):
                return self._admit(number)
            number, failed = node.parent, node.failed
        return []

    def _admit(self, number: int) -> list[int]:
        """Admit the members of a node whose turn it is."""
        node = self._nodes[number]
        found: list[int] = []
        while node.admitted < len(node.children) and (node.mode != "fixed" or node.ended == node.admitted):
            child = node.children[node.admitted]
            node.admitted += 1
            found += [int(child[1:])] if child[0] == "j" else self._admit(int(child[1:]))
        return found

    def _drop(self, child: str) -> None:
        """The jobs below will never run."""
        if child[0] == "j":
            self._dropped.add(int(child[1:]))
            self.kept_back.discard(int(child[1:]))
            return
        for below in self._nodes[int(child[1:])].children:
            self._drop(below)
