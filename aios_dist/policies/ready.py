"""The ready steps of one lane, in the order in which they will run: what Redis keeps, as a plain object.

The simulator runs on it, and the tests hold the journal's Lua against it. Pure: times come in as arguments.
"""

from __future__ import annotations

from collections.abc import Mapping
from heapq import heappop, heappush
from typing import Generic, NamedTuple, TypeVar

from aios_dist.policies.rank import Rank

S = TypeVar("S", str, int)

DEFAULT_WEIGHT = 1.0


class Entry(NamedTuple):
    """A waiting step, as it was added."""

    rank: float
    ready: float
    tenant: str
    cost: float


class _Group(Generic[S]):
    """Steps that are ordered among each other: the lane's, or with fair share one tenant's."""

    def __init__(self) -> None:
        self.steps: dict[S, Entry] = {}
        self.by_rank: list[tuple[float, S]] = []
        self.by_age: list[tuple[float, S]] = []
        self.dispatched = 0
        self.rounds: dict[str, float] = {}
        self.round = 0.0

    def top(self, heap: list[tuple[float, S]], field: int) -> S:
        while True:
            score, step = heap[0]
            entry = self.steps.get(step)
            if entry is not None and entry[field] == score:
                return step
            heappop(heap)


class ReadySet(Generic[S]):
    """The ready steps of a lane.

    Args:
        oldest_every: every so-manieth dispatch (of a tenant, with ``fair``) goes to the step that has waited
            longest; 0 for never.
        fair: share by tenant with virtual token counters (VTC; Sheng et al., "Fairness in Serving Large
            Language Models", OSDI 2024): the tenant that has been charged least goes first, and one that
            comes back is lifted to the least of those who wait.
        weights: tenants' shares; 1 for those not named.
        caps: the most steps of a tenant that may be dispatched and not yet ended; 0 or absent for no cap.

    The starvation bound of ``oldest_every=N``: a step that n steps of its group have waited longer than is
    dispatched within N × (n + 1) dispatches of the group.
    """

    def __init__(
        self,
        *,
        oldest_every: int = 0,
        fair: bool = False,
        weights: Mapping[str, float] | None = None,
        caps: Mapping[str, int] | None = None,
    ) -> None:
        self._oldest_every = oldest_every
        self._fair = fair
        self._weights = dict(weights or {})
        self._caps = dict(caps or {})
        self._groups: dict[str, _Group[S]] = {}
        self._tenants: dict[S, str] = {}
        self._active: list[tuple[float, str]] = []  # lazy: a counter may have grown since
        self._busy: dict[str, int] = {}
        self._floor = 0.0
        self.counters: dict[str, float] = {}

    def __len__(self) -> int:
        return len(self._tenants)

    def __contains__(self, step: S) -> bool:
        return step in self._tenants

    def add(
        self,
        step: S,
        rank: Rank | float,
        *,
        ready: float,
        submitted: float = 0.0,
        priority: int = 0,
        tenant: str = "default",
        cost: float = 0.0,
    ) -> float:
        """A step waits from now on.

        Args:
            step: its name; between equal ranks the lower name goes first, as in Redis.
            rank: what the policy said, or a number.
            ready, submitted: µs.
            priority: of the job.
            tenant: of the job.
            cost: what its tenant is charged when it is dispatched; see :meth:`settle`.

        Returns:
            The rank as a number.
        """
        name = tenant if self._fair or self._caps.get(tenant) else ""
        group = self._groups.get(name)
        if group is None:
            group = self._groups[name] = _Group()
        if isinstance(rank, Rank):
            turn = 0.0
            if rank.since == "round":
                turn = max(group.round, group.rounds.get(rank.group, -1.0) + 1.0)
                group.rounds[rank.group] = turn
            rank = rank.value(ready=ready, submitted=submitted, round=turn, priority=priority)
        if self._fair and not group.steps:
            self._lift(name)
        group.steps[step] = Entry(rank, ready, tenant, cost)
        self._tenants[step] = name
        heappush(group.by_rank, (rank, step))
        if self._oldest_every:
            heappush(group.by_age, (ready, step))
        return rank

    def _lift(self, tenant: str) -> None:
        waiting = [self.counters[name] for name, group in self._groups.items() if group.steps]
        floor = min(waiting) if waiting else self._floor
        self.counters[tenant] = max(self.counters.get(tenant, 0.0), floor)
        heappush(self._active, (self.counters[tenant], tenant))

    def rerank(self, step: S, rank: float) -> None:
        """Another rank for a step that waits; unknown steps are passed over."""
        name = self._tenants.get(step)
        if name is None:
            return
        group = self._groups[name]
        group.steps[step] = group.steps[step]._replace(rank=rank)
        heappush(group.by_rank, (rank, step))

    def remove(self, step: S) -> None:
        """A step waits no longer; unknown steps are passed over."""
        name = self._tenants.pop(step, None)
        if name is not None:
            del self._groups[name].steps[step]

    def pop(self) -> S | None:
        """The step that runs now, or None where none may. Its tenant is charged."""
        name = self._next_group()
        if name is None:
            return None
        group = self._groups[name]
        if self._oldest_every and (group.dispatched + 1) % self._oldest_every == 0:
            step = group.top(group.by_age, 1)
        else:
            step = group.top(group.by_rank, 0)
        group.dispatched += 1
        entry = group.steps[step]
        if group.rounds:
            group.round = max(group.round, entry.rank)
        self.remove(step)
        if self._fair:
            self._charge(entry.tenant, entry.cost)
            self._floor = self.counters[entry.tenant]
        if self._caps.get(entry.tenant):
            self._busy[entry.tenant] = self._busy.get(entry.tenant, 0) + 1
        return step

    def _next_group(self) -> str | None:
        if self._fair:
            return self._next_tenant()
        if not self._caps:
            group = self._groups.get("")
            return "" if group is not None and group.steps else None
        best: tuple[float, S, str] | None = None
        for name, group in self._groups.items():
            if group.steps and self._may(name):
                step = group.top(group.by_rank, 0)
                key = (group.steps[step].rank, step, name)
                best = key if best is None or key < best else best
        return best[2] if best is not None else None

    def _next_tenant(self) -> str | None:
        capped: dict[str, float] = {}
        found = None
        while self._active:
            counter, tenant = self._active[0]
            if counter == self.counters[tenant] and self._groups[tenant].steps:
                if self._may(tenant):
                    found = tenant
                    break
                capped[tenant] = counter
            heappop(self._active)  # out of date, nothing waiting, or put back below
        for tenant, counter in capped.items():
            heappush(self._active, (counter, tenant))
        return found

    def _may(self, tenant: str) -> bool:
        cap = self._caps.get(tenant, 0)
        return not cap or self._busy.get(tenant, 0) < cap

    def _charge(self, tenant: str, cost: float) -> None:
        self.counters[tenant] = self.counters.get(tenant, 0.0) + cost / self._weights.get(
            tenant, DEFAULT_WEIGHT
        )
        heappush(self._active, (self.counters[tenant], tenant))

    def settle(self, tenant: str, difference: float) -> None:
        """What a step of the tenant took was more (or less) than its cost; its call has ended."""
        if self._caps.get(tenant):
            self._busy[tenant] -= 1
        if self._fair and difference:
            self._charge(tenant, difference)
