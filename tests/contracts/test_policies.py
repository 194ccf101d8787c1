"""What every policy keeps to: pure, total, exact enough for Redis, fair to age, and never idle.

A new policy joins by being a file in ``aios_dist/policies``. What it says of itself is held against what it
does; a bound on waiting that is its own can be added to PROMISES.
"""

from __future__ import annotations

import ast
import inspect
import itertools
import math
import random
import re
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from types import ModuleType
from typing import NamedTuple

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aios_dist import policies
from aios_dist.policies import Past, Policy, Rank, Waiting
from aios_dist.simulate.ready import ReadySet

GUIDE = Path(__file__).parents[2] / "docs/policies.md"
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
    cost=st.floats(0.0, 1e12),
)
times = st.integers(int(YEAR_2023_US), int(YEAR_2041_US)).map(float)


def number(rank: Rank, ready: float, submitted: float = MIDST_US, priority: int = 0, round: int = 0) -> float:
    return rank.value(ready=ready, submitted=submitted, round=float(round), priority=priority)


# The form -----------------------------------------------------------------------------------------------


def home(name: str) -> ModuleType:
    module = inspect.getmodule(policies.find(name).rank)
    assert module is not None
    return module


@EACH
def test_a_policy_lives_in_a_short_file_of_its_name_that_names_its_source(name: str) -> None:
    module, policy = home(name), policies.find(name)
    assert policy.name == name
    assert re.fullmatch("[a-z][a-z-]*", name)
    assert module.__name__ == f"aios_dist.policies.{name.replace('-', '_')}"
    assert len(inspect.getsource(module).splitlines()) < 100
    assert inspect.getdoc(policy.rank)
    first, blank, *more = (inspect.getdoc(module) or "").splitlines()
    assert first.endswith("."), "who goes first, in a line: docs/policies.md has it in a table"
    assert not blank
    assert more, "what it is good for, and what it costs"
    assert re.search(r"\b(19[5-9]|20[0-2])\d\b|AIOS", policy.source), "a paper, or AIOS itself"


NEWCOMER = """
from aios_dist.policies.rank import Policy, Rank, Waiting

def rank(step: Waiting) -> Rank:
    return Rank(base=step.cost)

POLICY = Policy({name!r}, rank, starves=True, looks_back=False, source="nobody, 2020")
"""


def in_folder_with(folder: Path, patch: pytest.MonkeyPatch, file: str, text: str) -> dict[str, Policy]:
    """What there is where one more file lies in the folder of the policies."""
    (folder / f"{file}.py").write_text(text, "utf-8")
    with patch.context() as there:
        there.setattr(policies, "__path__", [*policies.__path__, str(folder)])
        try:
            return policies.in_folder()
        finally:
            sys.modules.pop(f"aios_dist.policies.{file}", None)
            vars(policies).pop(file, None)


def test_a_file_in_the_folder_is_a_policy_and_nothing_else_names_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = in_folder_with(tmp_path, monkeypatch, "late_comer", NEWCOMER.format(name="late-comer"))
    assert list(found) == sorted([*NAMES, "late-comer"])
    assert found["late-comer"].of(Waiting("a", cost=7.0)) == Rank(base=7.0)
    assert list(policies.in_folder()) == NAMES, "and gone again"


def test_the_policy_that_the_guide_shows_is_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    [shown] = re.findall(r"```python\n(.*?)```", GUIDE.read_text("utf-8"), re.DOTALL)
    policy = in_folder_with(tmp_path, monkeypatch, "shortest", shown)["shortest"]
    assert sorted([9.0, 1.0, 2e6, 1e6], key=lambda cost: policy.of(Waiting("a", cost=cost))) == [
        *(1.0, 9.0),
        *(2e6, 1e6),  # as long as can be told: by the time of becoming ready
    ]


@pytest.mark.parametrize("text", ["", "POLICY = None", NEWCOMER.format(name="other")])
def test_a_file_in_the_folder_that_is_no_policy_of_its_name_stops_everything(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str
) -> None:
    with pytest.raises(
        ImportError, match=r"^aios_dist\.policies\.late_comer has no POLICY of that name; see"
    ):
        in_folder_with(tmp_path, monkeypatch, "late_comer", text)


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
    rank = policies.find(name).rank
    before = rank(step)
    rank(other)
    assert rank(Waiting(*step)) == before


# The order ----------------------------------------------------------------------------------------------


@EACH
@given(step=steps, ready=times, submitted=times, priority=st.integers(0, 9), round=st.integers(0, LAST_ROUND))
def test_a_rank_is_a_finite_number_that_redis_keeps_exactly_enough(
    name: str, step: Waiting, ready: float, submitted: float, priority: int, round: int
) -> None:
    rank = policies.find(name).rank(step)
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
    rank = policies.find(name).rank(step)
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
        rank = policies.find(name).rank(step)
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
    rank = policies.find(name).rank(step)
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
            rank = policies.find(name).rank(step)
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
            ready_set.add(nth, policy.rank(step), ready=ready, submitted=ready, priority=level)
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
"""Bounds in numbers of some policies' own; round-robin's is in tests/unit/test_policies.py."""


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


# What it says of itself -----------------------------------------------------------------------------------

SHORT, LONG = Past((1.0,), 1), Past((1000.0,) * 9, 9)
SOME = [
    Waiting("a", number=number, served=served, expected_steps=told, deadline=deadline, cost=cost)
    for number, served, told, deadline, cost in itertools.product(
        (0, 9), (0.0, 3.0, 1000.0), (None, 1, 1000), (None, 1.0, 1e6), (0.0, 1e6)
    )
]
"""Steps that differ in all that a policy may look at, but for the past."""


@EACH
def test_a_policy_says_rightly_whether_it_looks_at_earlier_runs(name: str) -> None:
    """Where it does not say so, the fleet would never fetch them."""
    policy = policies.find(name)
    differs = any(len({policy.rank(s._replace(past=p)) for p in (Past(), SHORT, LONG)}) > 1 for s in SOME)
    tree = ast.walk(ast.parse(inspect.getsource(home(name))))
    reads = any(isinstance(node, ast.Attribute) and node.attr == "past" for node in tree)
    assert (differs, reads) == (policy.looks_back, policy.looks_back)


@EACH
def test_earlier_runs_are_shown_to_a_policy_that_looks_back_and_to_no_other(name: str) -> None:
    policy = policies.find(name)
    for step in SOME:
        seen = step._replace(past=LONG) if policy.looks_back else step
        assert policy.of(step, LONG) == policy.rank(seen)
        assert policy.of(step) == policy.rank(step)


def flood(name: str, every: int) -> int:
    """The dispatch at which the step that ranks last of all goes, while such as rank first come one an hour
    for six weeks; 0 where it never does."""
    policy = policies.find(name)

    def value(step: tuple[Waiting, int]) -> float:
        return number(policy.rank(step[0]), MIDST_US, priority=step[1])

    facts = [s._replace(past=past) for s in SOME for past in (Past(), SHORT, LONG)]
    waiting = sorted(itertools.product(facts, (0, 9)), key=value)
    (quick, high), (slow, low) = waiting[0], waiting[-1]
    ready_set: ReadySet[int] = ReadySet(oldest_every=every)
    ready_set.add(0, policy.rank(slow), ready=MIDST_US, submitted=MIDST_US, priority=low)
    for at in range(1, 1001):
        now = MIDST_US + at * 3.6e9
        other = policy.rank(quick._replace(agent="b"))
        ready_set.add(at, other, ready=now, submitted=now, priority=high)
        if ready_set.pop() == 0:
            return at
    return 0


@EACH
def test_a_policy_says_rightly_whether_it_can_starve_a_step(name: str) -> None:
    """Where it can, one dispatch in ten goes to the oldest: and that is not there for nothing."""
    starves = policies.find(name).starves
    assert (flood(name, 0) == 0) == starves
    if starves:
        assert policies.oldest_every(name) == policies.OLDEST_EVERY
        assert flood(name, policies.OLDEST_EVERY) == policies.OLDEST_EVERY
    else:
        assert policies.oldest_every(name) == 0
