"""The ready set: held against a list that is sorted each time; its bounds on waiting and on shares."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import combinations
from typing import Any, NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aios_dist.policies import Rank
from aios_dist.simulate.ready import ReadySet
from aios_dist.simulate.scores import SPARE, Scores

TENANTS = ("acme", "beta", "corp")
WEIGHTS = {"acme": 2.0, "beta": 1.0, "corp": 0.5}


# Names by score -----------------------------------------------------------------------------------------


@given(st.lists(st.tuples(st.integers(0, 5), st.none() | st.integers(0, 3))))
def test_the_lowest_score_is_first_and_of_equals_the_lowest_name(moves: list[tuple[int, int | None]]) -> None:
    """A score to put, None to discard."""
    scores: Scores[int] = Scores()
    plain: dict[int, float] = {}
    for name, score in moves:
        if score is None:
            scores.discard(name)
            plain.pop(name, None)
        else:
            scores.put(name, score)
            plain[name] = score
        assert scores.first() == min(((score, name) for name, score in plain.items()), default=None)
        assert len(scores) == len(plain)
        assert all((name in scores) == (name in plain) for name in range(6))


def test_scores_that_change_for_ever_take_no_more_room() -> None:
    scores: Scores[str] = Scores()
    for n in range(10_000):
        scores.put("first", -1.0)
        scores.put("moves", float(n))
        scores.put(f"passes{n}", 2.0)
        scores.discard(f"passes{n}")
        assert len(scores._heap) <= 2 * 3 + SPARE
    assert scores.first() == (-1.0, "first")


# The same as a list that is sorted each time ------------------------------------------------------------


class Known(NamedTuple):
    step: int
    rank: float
    ready: float
    tenant: str
    cost: float
    round: float | None


class Naive:
    """What a ready set does, in the plainest words and in O(n) a move."""

    def __init__(self, oldest_every: int, fair: bool, caps: dict[str, int]) -> None:
        self.oldest_every, self.fair, self.caps = oldest_every, fair, caps
        self.waiting: list[Known] = []
        self.in_flight = dict.fromkeys(TENANTS, 0)
        self.counters = dict.fromkeys(TENANTS, 0.0)
        self.last = ""
        self.taking_part: set[str] = set()
        self.dispatched: dict[str, int] = {}
        self.round: dict[str, float] = {}
        self.rounds: dict[tuple[str, str], float] = {}

    def able(self) -> list[Known]:
        """Those whose tenant is not at its cap."""
        return [k for k in self.waiting if not self.at_cap(k.tenant)]

    def at_cap(self, tenant: str) -> bool:
        return self.in_flight[tenant] >= (self.caps.get(tenant) or 99)

    def join(self, tenant: str) -> None:
        """A tenant that was away begins with the least of those who were not."""
        if self.at_cap(tenant) or tenant in self.taking_part:
            return
        if any(k.tenant == tenant for k in self.waiting):
            idle = self.counters.get(self.last, 0.0)
            floor = min((self.counters[other] for other in self.taking_part), default=idle)
            self.counters[tenant] = max(self.counters[tenant], floor)
            self.taking_part.add(tenant)

    def add(self, step: int, rank: Rank | float, ready: float, tenant: str, cost: float) -> None:
        self.remove(step)
        turn = None
        if isinstance(rank, Rank):
            order = tenant if self.fair else ""
            turn = max(self.round.get(order, 0.0), self.rounds.get((order, rank.group), -1.0) + 1)
            self.rounds[order, rank.group] = turn
            rank = turn
        self.waiting.append(Known(step, rank, ready, tenant, cost, turn))
        self.join(tenant)

    def remove(self, step: int) -> None:
        self.waiting = [k for k in self.waiting if k.step != step]
        self.taking_part &= {k.tenant for k in self.waiting}

    def rerank(self, step: int, rank: float) -> None:
        self.waiting = [k._replace(rank=rank) if k.step == step else k for k in self.waiting]

    def pop(self) -> int | None:
        able, order = self.able(), ""
        if self.fair:
            order = min(self.taking_part, key=lambda tenant: (self.counters[tenant], tenant), default="")
            able = [k for k in able if k.tenant == order]
        if not able:
            return None
        self.dispatched[order] = nth = self.dispatched.get(order, 0) + 1
        of_age = self.oldest_every > 0 and nth % self.oldest_every == 0
        best = min(able, key=lambda k: (k.ready if of_age else k.rank, k.step))
        self.remove(best.step)
        if best.round is not None and not of_age:
            self.round[order] = max(self.round.get(order, 0.0), best.round)
        self.in_flight[best.tenant] += 1
        self.taking_part -= {tenant for tenant in TENANTS if self.at_cap(tenant)}
        self.counters[best.tenant] += best.cost / WEIGHTS[best.tenant]
        self.last = best.tenant
        return best.step

    def settle(self, tenant: str, difference: float) -> None:
        self.in_flight[tenant] -= 1
        self.counters[tenant] += difference / WEIGHTS[tenant]
        self.join(tenant)


names = st.integers(0, 9)
numbers = st.sampled_from([0.0, 1.0, 2.0, 3.0])
tenants = st.sampled_from(TENANTS)
turns = st.sampled_from("xyz").map(lambda group: Rank(since="round", group=group))
costs = st.sampled_from([1.0, 2.0, 8.0])


def moves(ranks: st.SearchStrategy[Any]) -> st.SearchStrategy[list[tuple[Any, ...]]]:
    return st.lists(
        st.tuples(st.just("add"), names, ranks, numbers, tenants, costs)
        | st.tuples(st.just("pop"))
        | st.tuples(st.just("settle"), st.integers(0, 9), st.sampled_from([-1.0, 0.0, 3.0]))
        | st.tuples(st.just("rerank"), names, numbers)
        | st.tuples(st.just("remove"), names),
        max_size=60,
    )


@pytest.mark.parametrize("fair", [False, True])
@pytest.mark.parametrize("oldest_every", [0, 1, 3])
@given(made=moves(numbers) | moves(turns), caps=st.dictionaries(tenants, st.integers(0, 2)))
def test_a_ready_set_is_a_list_sorted_each_time(
    oldest_every: int, fair: bool, made: list[tuple[Any, ...]], caps: dict[str, int]
) -> None:
    naive = Naive(oldest_every, fair, caps)
    ready_set: ReadySet[int] = ReadySet(oldest_every=oldest_every, fair=fair, weights=WEIGHTS, caps=caps)
    in_flight: list[str] = []
    for what, *facts in [*made, *[("pop",), ("settle", 0, 0.0)] * 12]:
        if what == "add":
            step, rank, ready, tenant, cost = facts
            naive.add(step, rank, ready, tenant, cost)
            ready_set.add(step, rank, ready=ready, tenant=tenant, cost=cost)
        elif what == "pop":
            owners = {k.step: k.tenant for k in naive.waiting}
            found = ready_set.pop()
            assert found == naive.pop()
            if found is not None:
                in_flight.append(owners[found])
        elif what == "settle":
            if in_flight:
                tenant = in_flight.pop(facts[0] % len(in_flight))
                naive.settle(tenant, facts[1])
                ready_set.settle(tenant, facts[1])
        else:
            getattr(naive, what)(*facts)
            getattr(ready_set, what)(*facts)
        assert len(ready_set) == len(naive.waiting)
        assert all((step in ready_set) == any(k.step == step for k in naive.waiting) for step in range(10))
        if fair:
            assert {t: ready_set.counters.get(t, 0.0) for t in TENANTS} == pytest.approx(naive.counters)


def test_an_empty_set_has_nothing_and_unknown_steps_are_passed_over() -> None:
    for fair in (False, True):
        ready_set: ReadySet[str] = ReadySet(oldest_every=2, fair=fair, caps={"acme": 1})
        ready_set.remove("a")
        ready_set.rerank("a", 1.0)
        assert (ready_set.pop(), len(ready_set), "a" in ready_set) == (None, 0, False)


def test_a_step_gets_the_number_that_its_policy_and_its_job_come_to() -> None:
    ready_set: ReadySet[str] = ReadySet()
    rank = Rank(base=5.0, since="submitted", per_priority=10.0)
    assert ready_set.add("a", rank, ready=1000.0, submitted=100.0, priority=2) == 85.0
    assert ready_set.add("b", 7.0, ready=1000.0) == 7.0
    assert [ready_set.pop(), ready_set.pop()] == ["b", "a"]


def test_another_priority_moves_a_step_that_waits() -> None:
    ready_set: ReadySet[str] = ReadySet()
    for name in ("a", "b", "c"):
        number = ready_set.add(name, Rank(per_priority=60e6), ready=1e6)
    ready_set.rerank("c", number - 9 * 60e6)
    assert [ready_set.pop() for _ in range(4)] == ["c", "a", "b", None]


# Every Nth to the oldest --------------------------------------------------------------------------------


def drained(ready_set: ReadySet[Any]) -> Iterator[Any]:
    while (step := ready_set.pop()) is not None:
        yield step


def test_every_third_dispatch_goes_to_the_step_that_has_waited_longest() -> None:
    ready_set: ReadySet[str] = ReadySet(oldest_every=3)
    for ready, name in enumerate("abcdefgh"):
        ready_set.add(name, 10.0 - ready, ready=float(ready))
    assert "".join(drained(ready_set)) == "hgafebdc"


def test_a_tenant_with_a_share_of_its_own_counts_its_own_dispatches() -> None:
    ready_set: ReadySet[str] = ReadySet(oldest_every=3, fair=True)
    for ready, name in enumerate("abcd"):
        for tenant in ("1", "2"):
            ready_set.add(tenant + name, 10.0 - ready, ready=float(ready), tenant=tenant)
    assert list(drained(ready_set)) == ["1d", "2d", "1c", "2c", "1a", "2a", "1b", "2b"]


def test_a_cap_does_not_use_up_the_turn_of_the_oldest() -> None:
    """The lane counts all its dispatches; the oldest step that may run has the turn."""
    ready_set: ReadySet[str] = ReadySet(oldest_every=2, caps={"capped": 1})
    for ready, name in enumerate("abcde"):
        tenant = "capped" if name in "ab" else "free"
        ready_set.add(name, 10.0 - ready, ready=float(ready), tenant=tenant)
    assert [ready_set.pop() for _ in range(5)] == ["e", "a", "d", "c", None]
    ready_set.settle("capped", 0.0)
    assert ready_set.pop() == "b"


@given(
    every=st.integers(1, 5),
    before=st.integers(0, 7),
    older=st.lists(st.integers(0, 9), max_size=6),
    later=st.lists(st.integers(-9, 9), max_size=80),
)
def test_a_step_that_n_have_waited_longer_than_runs_within_that_many_times_n_plus_one_dispatches(
    every: int, before: int, older: list[int], later: list[int]
) -> None:
    """The worst case: all others go before it by rank, and one becomes ready before each dispatch."""
    ready_set: ReadySet[int] = ReadySet(oldest_every=every)
    for step in range(before):  # the count of dispatches may stand anywhere
        ready_set.add(step, 0.0, ready=0.0)
        ready_set.pop()
    for step, rank in enumerate(older, start=1000):
        ready_set.add(step, float(rank), ready=1.0)
    ready_set.add(9999, 1e9, ready=2.0)
    dispatches = 0
    for step, rank in enumerate([*later, *[0] * 50], start=2000):
        ready_set.add(step, float(rank), ready=3.0)
        dispatches += 1
        if ready_set.pop() == 9999:
            break
    assert dispatches <= every * (len(older) + 1)


# Shares -------------------------------------------------------------------------------------------------


class Shared:
    """A fair lane with a plain account beside it.

    Attributes:
        had: what each tenant got by its weight: what its dispatched steps cost, once settled what they took.
    """

    def __init__(self, **rules: Any) -> None:
        self.lane: ReadySet[int] = ReadySet(fair=True, weights=WEIGHTS, **rules)
        self.had = dict.fromkeys(TENANTS, 0.0)
        self.waiting = dict.fromkeys(TENANTS, 0)
        self.in_flight: list[tuple[str, float]] = []
        self._facts: dict[int, tuple[str, float]] = {}

    def add(self, tenant: str, cost: float) -> None:
        step = len(self._facts)
        self._facts[step] = tenant, cost
        self.lane.add(step, float(step), ready=0.0, tenant=tenant, cost=cost)
        self.waiting[tenant] += 1

    def pop(self) -> str | None:
        step = self.lane.pop()
        if step is None:
            return None
        tenant, cost = self._facts[step]
        self.waiting[tenant] -= 1
        self.in_flight.append((tenant, cost))
        self.had[tenant] += cost / WEIGHTS[tenant]
        return tenant

    def settle(self, which: int, taken: float | None = None) -> None:
        """One of the steps in flight has ended; it took what it cost, or so many times as much."""
        tenant, cost = self.in_flight.pop(which % len(self.in_flight))
        difference = 0.0 if taken is None else (taken - 1.0) * cost
        self.had[tenant] += difference / WEIGHTS[tenant]
        self.lane.settle(tenant, difference)


COSTS = [1.0, 2.0, 10.0]
MOST = max(COSTS) / min(WEIGHTS.values())
"""U: the most that a step costs by its tenant's weight."""

arrivals_and_asks = st.lists(
    st.tuples(tenants, st.sampled_from(COSTS), st.integers(1, 12)) | st.integers(1, 6), max_size=40
)
"""A tenant's steps become ready, so many of one cost; or so many slots ask."""


@given(arrivals_and_asks)
def test_while_two_tenants_wait_what_they_get_differs_by_two_steps_at_the_most(
    made: list[tuple[str, float, int] | int],
) -> None:
    """VTC's bound for backlogged clients: |W_f - W_g| <= 2 U in every interval, whatever came before it."""
    shared = Shared()
    since: dict[tuple[str, str], tuple[float, float]] = {}

    def look() -> None:
        for pair in combinations(TENANTS, 2):
            if not all(shared.waiting[tenant] for tenant in pair):
                since.pop(pair, None)
                continue
            had = shared.had[pair[0]], shared.had[pair[1]]
            start = since.setdefault(pair, had)
            assert abs((had[0] - start[0]) - (had[1] - start[1])) <= 2 * MOST + 1e-9
            assert abs(shared.lane.counters[pair[0]] - shared.lane.counters[pair[1]]) <= MOST + 1e-9

    for move in made:
        if isinstance(move, tuple):
            tenant, cost, count = move
            for _ in range(count):
                shared.add(tenant, cost)
                look()
        else:
            for _ in range(move):
                shared.pop()
                look()


SLOTS = 4


@given(
    st.lists(
        st.tuples(tenants, st.sampled_from(COSTS), st.integers(1, 6)) | st.tuples(names, st.floats(0, 2))
    )
)
def test_what_is_settled_later_comes_on_top_of_the_bound_as_far_as_it_was_open(
    made: list[tuple[str, float, int] | tuple[int, float]],
) -> None:
    """Steps take nothing to twice their cost. At most SLOTS of them are open, each off by at most U."""
    shared = Shared()
    since: dict[tuple[str, str], float] = {}

    def look() -> None:
        for pair in combinations(TENANTS, 2):
            if not all(shared.waiting[tenant] for tenant in pair):
                since.pop(pair, None)
                continue
            apart = abs(shared.lane.counters[pair[0]] - shared.lane.counters[pair[1]])
            assert apart <= max(since.setdefault(pair, apart), MOST) + SLOTS * MOST + 1e-9

    for move in made:
        if len(move) == 3:
            tenant, cost, count = move
            for _ in range(count):
                shared.add(tenant, cost)
        elif shared.in_flight:
            shared.settle(*move)
        look()
        while len(shared.in_flight) < SLOTS and shared.pop() is not None:
            look()


def backlog(shared: Shared, *tenants: str, count: int = 100, cost: float = 10.0) -> None:
    for _ in range(count):
        for tenant in tenants:
            shared.add(tenant, cost)


def test_twice_the_weight_is_twice_the_service() -> None:
    shared = Shared()
    backlog(shared, "acme", "beta", "corp")
    counts = [shared.pop() for _ in range(70)]
    assert [counts.count(tenant) for tenant in TENANTS] == [40, 20, 10]


def test_shares_are_of_cost_and_not_of_steps() -> None:
    shared = Shared()
    backlog(shared, "acme", cost=40.0)
    backlog(shared, "beta", cost=2.0)
    counts = [shared.pop() for _ in range(55)]
    assert [counts.count("acme"), counts.count("beta")] == [5, 50], "40 at twice the weight is ten times 2"


def test_a_tenant_that_comes_back_has_saved_nothing_up() -> None:
    shared = Shared()
    backlog(shared, "beta", count=1)
    backlog(shared, "acme")
    for _ in range(61):
        shared.pop()
    backlog(shared, "beta")
    counts = [shared.pop() for _ in range(30)]
    assert (counts.count("acme"), counts.count("beta")) == (20, 10), "as if both had just begun"


def test_nor_is_a_tenant_punished_for_what_it_had_while_nobody_else_waited() -> None:
    shared = Shared()
    backlog(shared, "beta")
    for _ in range(90):
        shared.pop()
    backlog(shared, "acme")
    counts = [shared.pop() for _ in range(15)]
    assert (counts.count("acme"), counts.count("beta")) == (10, 5)


def test_where_nobody_waits_a_newcomer_begins_where_the_last_one_stood() -> None:
    shared = Shared()
    backlog(shared, "beta", count=3)
    while shared.pop():
        pass
    backlog(shared, "acme", "beta", count=1)
    assert shared.lane.counters == {"beta": 30.0, "acme": 30.0}
    assert [shared.pop(), shared.pop()] == ["acme", "beta"]


@pytest.mark.parametrize(("taken", "counter"), [(0.2, 2.0), (1.0, 10.0), (3.0, 30.0)])
def test_what_a_call_took_counts_and_not_what_was_guessed(taken: float, counter: float) -> None:
    shared = Shared()
    backlog(shared, "beta", count=1)
    shared.pop()
    assert shared.lane.counters["beta"] == 10.0
    shared.settle(0, taken)
    assert shared.lane.counters["beta"] == counter


def test_what_was_settled_decides_who_goes_next() -> None:
    for taken, following in ((0.5, "beta"), (1.5, "corp")):
        lane: ReadySet[int] = ReadySet(fair=True)
        for step, tenant in enumerate(["beta", "beta", "corp", "corp"]):
            lane.add(step, float(step), ready=0.0, tenant=tenant, cost=10.0)
        assert [lane.pop(), lane.pop()] == [0, 2]
        lane.settle("beta", (taken - 1.0) * 10.0)
        assert lane.pop() == {"beta": 1, "corp": 3}[following]


def test_thousands_of_tenants_come_and_go() -> None:
    lane: ReadySet[int] = ReadySet(fair=True, oldest_every=10)
    for step in range(20_000):
        lane.add(step, float(step), ready=float(step), tenant=f"t{step % 7000}")
        if step % 3:
            assert lane.pop() is not None
    assert sum(1 for _ in drained(lane)) == 20_000 - 13_333


# Caps ---------------------------------------------------------------------------------------------------

CAPS = {"acme": 2, "beta": 1}


@pytest.mark.parametrize("fair", [False, True])
@pytest.mark.parametrize("oldest_every", [0, 2])
@given(st.lists(tenants | st.integers(0, 9) | st.none()))
def test_a_cap_is_never_exceeded_and_never_keeps_another_tenant_from_a_slot(
    fair: bool, oldest_every: int, made: list[str | int | None]
) -> None:
    """A tenant's step becomes ready, one of those in flight ends (a number), or a slot asks (None)."""
    lane: ReadySet[int] = ReadySet(fair=fair, oldest_every=oldest_every, caps=CAPS)
    owners: dict[int, str] = {}
    waiting: set[int] = set()
    in_flight: list[str] = []
    for step, move in enumerate(made):
        if isinstance(move, str):
            lane.add(step, float(-step), ready=float(step), tenant=move)
            owners[step] = move
            waiting.add(step)
        elif isinstance(move, int):
            if in_flight:
                lane.settle(in_flight.pop(move % len(in_flight)), 0.0)
        else:
            may = {s for s in waiting if in_flight.count(owners[s]) < CAPS.get(owners[s], 99)}
            found = lane.pop()
            assert (found in may) if may else (found is None)
            if found is not None:
                waiting.remove(found)
                in_flight.append(owners[found])


def test_no_cap_is_zero_or_none_at_all() -> None:
    lane: ReadySet[int] = ReadySet(caps={"acme": 0})
    for step in range(5):
        lane.add(step, 0.0, ready=0.0, tenant="acme")
    assert list(drained(lane)) == [0, 1, 2, 3, 4]


def test_ranks_hold_across_tenants_with_and_without_a_cap() -> None:
    lane: ReadySet[str] = ReadySet(caps={"acme": 1, "beta": 1})
    for name, tenant in [("d", "acme"), ("b", "acme"), ("c", "beta"), ("a", "corp"), ("e", "corp")]:
        lane.add(name, float(ord(name)), ready=0.0, tenant=tenant)
    assert [lane.pop() for _ in range(5)] == ["a", "b", "c", "e", None]
    lane.settle("acme", 0.0)
    assert lane.pop() == "d"


def test_rounds_are_the_lanes_also_for_tenants_with_a_cap() -> None:
    lane: ReadySet[str] = ReadySet(caps={"capped": 5})
    for n in range(6):
        lane.add(f"a{n}", Rank(since="round", group="a"), ready=0.0)
    assert [lane.pop() for _ in range(3)] == ["a0", "a1", "a2"]
    for n in range(3):
        lane.add(f"b{n}", Rank(since="round", group="b"), ready=0.0, tenant="capped")
    assert list(drained(lane)) == ["b0", "a3", "b1", "a4", "b2", "a5"]


def test_a_tenant_at_its_cap_saves_nothing_up_and_pulls_no_newcomer_down() -> None:
    """Beta could run once at a time; what it might have had without its cap is not owed to it."""
    shared = Shared(caps={"beta": 1})
    backlog(shared, "beta", "acme", cost=1.0)
    assert shared.pop() == "acme"
    assert shared.pop() == "beta"
    assert [shared.pop() for _ in range(40)] == ["acme"] * 40
    shared.settle(1)
    backlog(shared, "corp", count=40, cost=1.0)
    least = shared.lane.counters["acme"]
    assert shared.lane.counters["beta"] == shared.lane.counters["corp"] == least
    counts = [shared.pop() for _ in range(30)]
    assert (counts.count("acme"), counts.count("corp"), counts.count("beta")) == (23, 6, 1)


def test_a_cap_that_keeps_nobody_waiting_changes_no_share() -> None:
    """With one slot a tenant is at its cap whenever it runs; but no slot ever passes it over for that."""
    shared = Shared(caps={"acme": 1, "beta": 1, "corp": 1})
    backlog(shared, "acme", "beta", "corp")
    counts = []
    for _ in range(70):
        counts.append(shared.pop())
        shared.settle(0)
    assert [counts.count(tenant) for tenant in TENANTS] == [40, 20, 10]
