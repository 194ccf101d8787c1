"""What every policy keeps to: pure, total, exact enough for Redis, fair to age, and never idle.

A new policy joins by being in ``aios_dist.policies``. Bounds on waiting are each policy's own: see PROMISES.
"""

from __future__ import annotations

import ast
import inspect
import math
import random
from collections.abc import Callable, Mapping
from types import ModuleType
from typing import NamedTuple

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aios_dist import policies
from aios_dist.policies import Past, Rank, Waiting
from aios_dist.simulate.ready import ReadySet

NAMES = policies.names()
EACH = pytest.mark.parametrize("name", NAMES)

LONGEST_S = 3.2e8
"""Ten years: the longest deadline that can be given, and more than a job is ever served."""
YEAR_2023_US, YEAR_2041_US = 1.67e15, 2.24e15
MIDST_US = 1.9e15  # the year 2030
LAST_ROUND = 2**40

seconds = st.floats(0.0, LONGEST_S, allow_subnormal=False)
pasts = st.builds(
    lambda totals: Past(tuple(sorted(totals)), 3 * len(totals)), st.lists(st.floats(0.001, 1e6), max_size=8)
)
steps = st.builds(
    Waiting,
    agent=st.sampled_from(["trip", "story", "a", "ä b/{c}"]),
    tenant=st.text(min_size=1, max_size=8),
    number=st.integers(0, 10**6),
    served=seconds,
    expected_steps=st.none() | st.integers(1, 10**6 - 1),
    deadline=st.none() | st.floats(0.001, LONGEST_S),
    past=pasts,
)
times = st.integers(int(YEAR_2023_US), int(YEAR_2041_US)).map(float)


def number(rank: Rank, ready: float, submitted: float = MIDST_US, priority: int = 0, round: int = 0) -> float:
    return rank.value(ready=ready, submitted=submitted, round=float(round), priority=priority)


# The form -----------------------------------------------------------------------------------------------


def home(name: str) -> ModuleType:
    module = inspect.getmodule(policies.find(name))
    assert module is not None
    return module


@EACH
def test_a_policy_lives_in_a_short_file_of_its_name_that_names_its_source(name: str) -> None:
    module = home(name)
    assert module.__name__ == f"aios_dist.policies.{name.replace('-', '_')}"
    assert len(inspect.getsource(module).splitlines()) < 100
    assert inspect.getdoc(policies.find(name))
    said = module.__doc__ or ""
    assert any(str(year) in said for year in range(1950, 2030)) or "AIOS" in said, "a paper, or AIOS itself"


def imported(module: ModuleType) -> set[str]:
    tree = ast.parse(inspect.getsource(module))
    plain = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    return plain | {node.module or "" for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}


@EACH
def test_a_policy_has_no_clock_no_chance_no_io_and_no_memory(name: str) -> None:
    module = home(name)
    outside = {word for word in imported(module) if not word.startswith("aios_dist.policies.")}
    assert outside <= {"__future__", "bisect", "math", "typing"}
    tree = ast.parse(inspect.getsource(module))
    assert not [node for node in ast.walk(tree) if isinstance(node, (ast.Global, ast.Nonlocal, ast.Await))]
    called = {ast.unparse(node.func) for node in ast.walk(tree) if isinstance(node, ast.Call)}
    assert not called & {"open", "print", "input", "eval", "exec", "__import__", "hash", "id"}
    kept = [
        word
        for word, value in vars(module).items()
        if isinstance(value, (list, dict, set)) and word[0] != "_"
    ]
    assert not kept, "what can be changed is memory"


@EACH
@given(step=steps, other=steps)
def test_the_same_facts_give_the_same_rank_whatever_came_between(
    name: str, step: Waiting, other: Waiting
) -> None:
    policy = policies.find(name)
    before = policy(step)
    policy(other)
    assert policy(Waiting(*step)) == before


# The order ----------------------------------------------------------------------------------------------


@EACH
@given(step=steps, ready=times, submitted=times, priority=st.integers(0, 9), round=st.integers(0, LAST_ROUND))
def test_a_rank_is_a_finite_number_that_redis_keeps_exactly_enough(
    name: str, step: Waiting, ready: float, submitted: float, priority: int, round: int
) -> None:
    rank = policies.find(name)(step)
    assert isinstance(rank, Rank)
    assert all(math.isfinite(value) for value in (rank.base, rank.per_priority))
    value = number(rank, ready, submitted=submitted, priority=priority, round=round)
    assert math.isfinite(value)
    assert abs(value) < 2**53, "Redis keeps scores as doubles: beyond this, two whole µs become one"


@EACH
@given(step=steps, ready=times, priority=st.integers(0, 9))
def test_a_microsecond_between_two_ready_times_is_never_lost(
    name: str, step: Waiting, ready: float, priority: int
) -> None:
    rank = policies.find(name)(step)
    earlier, later = (number(rank, at, priority=priority) for at in (ready, ready + 1))
    if rank.since == "ready":
        assert earlier < later
    assert earlier <= later


@EACH
@pytest.mark.parametrize("ready", [MIDST_US, YEAR_2041_US])
def test_it_is_not_lost_either_where_the_base_is_the_largest(name: str, ready: float) -> None:
    """The worst facts for every policy: served for ever, everything still to come, no deadline."""
    worst = [
        Waiting("a", served=LONGEST_S),
        Waiting("a", served=LONGEST_S, number=1, expected_steps=10**6 - 1),
        Waiting("a", past=Past((LONGEST_S,), 1)),
        *(Waiting("a", past=Past((29_000.0 + n * 3.7e-12,), 1)) for n in range(16)),  # halves of a µs
    ]
    for step in worst:
        rank = policies.find(name)(step)
        if rank.since == "ready":
            ranks = [number(rank, ready + us) for us in range(1000)]
            assert len(set(ranks)) == len(ranks)
            assert ranks == sorted(ranks)


@EACH
@given(step=steps, ready=times, gap=st.integers(1, 10**12), priority=st.integers(0, 9))
def test_of_two_steps_alike_the_one_that_was_ready_earlier_never_goes_after(
    name: str, step: Waiting, ready: float, gap: int, priority: int
) -> None:
    """Steps are named in the order of becoming ready: that decides between equal ranks (of one deadline)."""
    rank = policies.find(name)(step)
    ready_set: ReadySet[int] = ReadySet()
    ranks = [
        ready_set.add(nth, rank, ready=at, submitted=MIDST_US, priority=priority)
        for nth, at in enumerate((ready, ready + gap))
    ]
    assert ranks == sorted(ranks)
    assert [ready_set.pop(), ready_set.pop()] == [0, 1]


# Work conservation --------------------------------------------------------------------------------------

moves = st.lists(st.none() | st.tuples(steps, st.integers(0, 9)), max_size=60)


@EACH
@pytest.mark.parametrize("every", [None, 2])
@pytest.mark.parametrize("fair", [False, True])
@settings(max_examples=25)
@given(moves=moves)
def test_a_slot_that_is_free_gets_a_step_as_long_as_one_waits(
    name: str, every: int | None, fair: bool, moves: list[tuple[Waiting, int] | None]
) -> None:
    """None in the moves: a slot asks."""
    ready_set: ReadySet[int] = ReadySet(oldest_every=policies.oldest_every(name, every), fair=fair)
    added: set[int] = set()
    dispatched: list[int] = []
    for at, move in enumerate([*moves, *[None] * len(moves)]):
        if move is not None:
            step, priority = move
            rank = policies.find(name)(step)
            ready_set.add(
                at, rank, ready=MIDST_US + at, submitted=MIDST_US, priority=priority, tenant=step.tenant
            )
            added.add(at)
        elif (found := ready_set.pop()) is not None:
            dispatched.append(found)
        else:
            assert len(dispatched) == len(added), "nobody gets nothing while something waits"
    assert sorted(dispatched) == sorted(added)
    assert not len(ready_set)


# Starvation ---------------------------------------------------------------------------------------------


class Wait(NamedTuple):
    """What a step saw: how many waited already, dispatches until its own, steps that passed it by."""

    step: int
    older: int
    dispatches: int
    passed_by: list[int]


def busy_lane(name: str, every: int, seed: int) -> list[Wait]:
    """Three steps become ready, two run, again and again; then all that wait run. Steps are numbered in the
    order of becoming ready, a second apart."""
    chance, policy = random.Random(seed), policies.find(name)
    ready_set: ReadySet[int] = ReadySet(oldest_every=every)
    order: list[int] = []
    seen: list[tuple[int, int]] = []  # waiting and dispatched when it became ready
    for turn in range(300):
        for nth in range(3 * turn, 3 * turn + 3) if turn < 150 else ():
            step = Waiting(
                chance.choice("abcd"),
                number=chance.randrange(9),
                served=chance.choice([0.0, 10.0, 1000.0]),
                deadline=chance.choice([None, 60.0, 6000.0]),
                expected_steps=chance.choice([None, 1, 100]),
            )
            seen.append((len(ready_set), len(order)))
            ready, level = MIDST_US + nth * 1e6, chance.randrange(10)
            ready_set.add(nth, policy(step), ready=ready, submitted=ready, priority=level)
        order += [step for step in (ready_set.pop(), ready_set.pop()) if step is not None]
    assert sorted(order) == list(range(len(seen)))
    return [
        Wait(step, seen[step][0], at + 1 - seen[step][1], [other for other in order[:at] if other > step])
        for at, step in enumerate(order)
    ]


def by_nobody(wait: Wait) -> bool:
    return not wait.passed_by


def by_nobody_nine_minutes_younger(wait: Wait) -> bool:
    return all(other - wait.step <= 9 * 60 for other in wait.passed_by)


PROMISES: Mapping[str, Callable[[Wait], bool]] = {
    "fifo": by_nobody,
    "priority": by_nobody_nine_minutes_younger,
}
COUNTS_AGENTS = {"round-robin"}  # its bound is in tests/unit/test_policies.py
MAY_STARVE = sorted(set(NAMES) - set(PROMISES) - COUNTS_AGENTS)


def test_every_policy_promises_a_bound_or_has_the_oldest_go_first_now_and_then() -> None:
    assert [name for name in NAMES if policies.oldest_every(name)] == MAY_STARVE


@pytest.mark.parametrize("name", PROMISES)
@pytest.mark.parametrize("seed", range(3))
def test_a_policy_that_promises_that_nobody_starves_keeps_it(name: str, seed: int) -> None:
    for wait in busy_lane(name, 0, seed):
        assert PROMISES[name](wait), wait


@EACH
@pytest.mark.parametrize("every", [2, 10])
@pytest.mark.parametrize("seed", range(2))
def test_with_oldest_every_a_step_waits_for_the_older_ones_and_for_no_more_dispatches_than_stated(
    name: str, every: int, seed: int
) -> None:
    for wait in busy_lane(name, every, seed):
        assert wait.dispatches <= every * (wait.older + 1), wait


@pytest.mark.parametrize("name", MAY_STARVE)
def test_a_policy_with_the_oldest_first_now_and_then_would_starve_a_step_without(name: str) -> None:
    """The other half of the promise: the default of ten is not there for nothing."""

    def flood(every: int) -> int:
        ready_set: ReadySet[int] = ReadySet(oldest_every=every)
        last = Waiting("slow", served=1000.0, expected_steps=1000, number=1)
        ready_set.add(0, policies.find(name)(last), ready=MIDST_US)
        for at in range(1, 1001):
            quick = Waiting("quick", served=0.0, expected_steps=1, deadline=1.0, past=Past((1.0,), 1))
            ready_set.add(at, policies.find(name)(quick), ready=MIDST_US + at, submitted=MIDST_US + at)
            if ready_set.pop() == 0:
                return at
        return 0

    assert flood(0) == 0
    assert flood(policies.oldest_every(name)) == policies.OLDEST_EVERY
