"""The ready steps of one lane, in the order in which they will run: what Redis keeps, as a plain object.

The simulator runs on it, and the tests hold the journal's Lua against it. Pure: times come in as arguments.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from typing import Generic, NamedTuple, TypeVar

from aios_dist.policies.rank import Rank
from aios_dist.simulate.scores import Scores

S = TypeVar("S", str, int)

DEFAULT_WEIGHT = 1.0


class _Step(NamedTuple):
    tenant: str
    cost: float
    round: float | None  # where that is what its rank counts from


class _Line(Generic[S]):
    """Steps that may run or may not run together: those of a tenant with a cap, or all others."""

    __slots__ = ("by_age", "by_rank")

    def __init__(self) -> None:
        self.by_rank: Scores[S] = Scores()
        self.by_age: Scores[S] = Scores()


class _Order(Generic[S]):
    """Steps that compete by rank, and what has gone before: the lane's, or with fair share one tenant's."""

    __slots__ = ("dispatched", "last", "lines", "round")

    def __init__(self) -> None:
        self.lines: defaultdict[str, _Line[S]] = defaultdict(_Line)  # by tenant with a cap; "" all others
        self.dispatched = 0
        self.round = 0.0
        self.last: dict[str, float] = {}  # round of each group

    def next_round(self, group: str) -> float:
        """The round after the group's last one, but none that has passed."""
        self.last[group] = max(self.round, self.last.get(group, -1.0) + 1.0)
        return self.last[group]


class ReadySet(Generic[S]):
    """The ready steps of a lane. Methods take O(log n), amortised; without ``fair``, caps cost O(caps) more.

    Args:
        oldest_every: every Nth dispatch (of a tenant, with ``fair``) goes to the step that has waited
            longest; 0 for never.
        fair: share by tenant with virtual token counters (VTC; Sheng et al., "Fairness in Serving Large
            Language Models", OSDI 2024): the tenant that has been charged least goes first, and one that
            comes back is lifted to the least of those who wait (to the last one dispatched, if none do).
        weights: tenants' shares, more than 0; 1 for those not named.
        caps: the most steps of a tenant that may be dispatched and not yet settled; 0 or absent for no cap.
            A tenant that is at its cap is away until one of them ends, and saves nothing up.

    Attributes:
        counters: what each tenant has been charged, by its weight.

    With ``oldest_every=N``, a step that n steps have waited longer than is dispatched within N × (n + 1)
    dispatches. Those count that compete with it: of the lane, or with ``fair`` of its tenant. A step whose
    tenant is at its cap does not compete.

    With ``fair``, the counters of tenants that wait are at most U apart, the most that a step costs by its
    tenant's weight. So while two tenants wait, what they get by their weights differs by 2 U at the most (the
    paper's bound for two backlogged clients). Differences that are settled later come on top, as far as they
    were open: those of the one's steps in flight that went up, and of the other's that went down.
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
        self._caps = {tenant: cap for tenant, cap in (caps or {}).items() if cap}
        self._in_flight = dict.fromkeys(self._caps, 0)
        self._steps: dict[S, _Step] = {}
        self._orders: defaultdict[str, _Order[S]] = defaultdict(_Order)
        self._turns: Scores[str] = Scores()  # with fair share: tenants that take part, by counter
        self._last = ""  # the tenant that was last dispatched
        self.counters: dict[str, float] = {}

    def __len__(self) -> int:
        return len(self._steps)

    def __contains__(self, step: S) -> bool:
        return step in self._steps

    def add(
        self,
        step: S,
        rank: Rank | float,
        *,
        ready: float,
        submitted: float = 0.0,
        priority: int = 0,
        tenant: str = "default",
        cost: float = 1.0,
    ) -> float:
        """A step waits from now on; one that waited already does so anew.

        Args:
            step: its name; between equal ranks the lower name goes first, as in Redis.
            rank: what the policy said, or a number.
            ready, submitted: µs.
            priority: of the job.
            tenant: of the job.
            cost: what its tenant is charged when it is dispatched, more than 0; see :meth:`settle`.

        Returns:
            The rank as a number.
        """
        self.remove(step)
        turn = None
        if isinstance(rank, Rank):
            if rank.since == "round":
                turn = self._order(tenant).next_round(rank.group)
            rank = rank.value(ready=ready, submitted=submitted, round=turn or 0.0, priority=priority)
        self._steps[step] = _Step(tenant, cost, turn)
        line = self._line(tenant)
        line.by_rank.put(step, rank)
        if self._oldest_every:
            line.by_age.put(step, ready)
        self._take_turns(tenant)
        return rank

    def rerank(self, step: S, rank: float) -> None:
        """Another rank for a step that waits; unknown steps are passed over."""
        if step in self._steps:
            self._line(self._steps[step].tenant).by_rank.put(step, rank)

    def remove(self, step: S) -> None:
        """A step waits no longer; unknown steps are passed over."""
        if step in self._steps:
            self._take(step)

    def pop(self) -> S | None:
        """The step that runs now, or None where none may. Its tenant is charged."""
        name = ""
        if self._fair:
            if (least := self._turns.first()) is None:
                return None
            name = least[1]
        order = self._orders[name]
        lines = [line for tenant, line in order.lines.items() if line.by_rank and self._may(tenant)]
        if not lines:
            return None
        order.dispatched += 1
        of_age = self._oldest_every > 0 and order.dispatched % self._oldest_every == 0
        tops = ((line.by_age if of_age else line.by_rank).first() for line in lines)
        step = min(top for top in tops if top is not None)[1]
        tenant, cost, turn = self._take(step)
        if turn is not None and not of_age:  # one that went out of turn does not take the others' with it
            order.round = max(order.round, turn)
        if tenant in self._caps:
            self._in_flight[tenant] += 1
        if not self._may(tenant):
            self._turns.discard(tenant)
        if self._fair:
            self._charge(tenant, cost)
            self._last = tenant
        return step

    def weigh(self, tenant: str, weight: float) -> None:
        """Another weight for a tenant, more than 0: what it is ahead of the least of the others by (of the
        one last dispatched, where none take part) becomes what it is by the new one."""
        old, self._weights[tenant] = self._weights.get(tenant, DEFAULT_WEIGHT), weight
        least = self._turns.first()
        other = self._last if least is None else least[1]
        now, floor = self.counters.get(tenant, 0.0), self.counters.get(other, 0.0)
        if other and other != tenant and now > floor:
            self.counters[tenant] = floor + (now - floor) * old / weight
            if tenant in self._turns:
                self._turns.put(tenant, self.counters[tenant])

    def settle(self, tenant: str, difference: float) -> None:
        """A dispatched step of the tenant has ended; it took so much more (or less) than its cost."""
        if tenant in self._caps:
            self._in_flight[tenant] -= 1
        if self._fair:
            self._charge(tenant, difference)
        self._take_turns(tenant)

    def _order(self, tenant: str) -> _Order[S]:
        return self._orders[tenant if self._fair else ""]

    def _line(self, tenant: str) -> _Line[S]:
        return self._order(tenant).lines[tenant if tenant in self._caps else ""]

    def _may(self, tenant: str) -> bool:
        return tenant not in self._caps or self._in_flight[tenant] < self._caps[tenant]

    def _take(self, step: S) -> _Step:
        taken = self._steps.pop(step)
        line = self._line(taken.tenant)
        line.by_rank.discard(step)
        line.by_age.discard(step)
        if not line.by_rank:
            self._turns.discard(taken.tenant)
        return taken

    def _charge(self, tenant: str, amount: float) -> None:
        counter = self.counters.get(tenant, 0.0) + amount / self._weights.get(tenant, DEFAULT_WEIGHT)
        self.counters[tenant] = counter
        if tenant in self._turns:
            self._turns.put(tenant, counter)

    def _take_turns(self, tenant: str) -> None:
        """With fair share, a tenant takes part from its first step on; lifted, where it was away."""
        if not self._fair or tenant in self._turns or not self._line(tenant).by_rank or not self._may(tenant):
            return
        least = self._turns.first()
        floor = self.counters.get(self._last, 0.0) if least is None else least[0]
        self.counters[tenant] = max(self.counters.get(tenant, 0.0), floor)
        self._turns.put(tenant, self.counters[tenant])
