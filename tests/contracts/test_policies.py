"""What every policy keeps to: pure, total, and of a rank that Redis can hold exactly enough."""

from __future__ import annotations

import inspect
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aios_dist import policies
from aios_dist.policies import Policy, Rank, Waiting

NAMES = sorted(policies._POLICIES)
READY_US = 1.8e15
"""A time of becoming ready, µs since the epoch, in the year 2027."""

waiting = st.builds(
    Waiting,
    agent=st.text(min_size=1, max_size=128),
    tenant=st.text(min_size=1, max_size=128),
    number=st.integers(0, 10**6),
)


@pytest.fixture(params=NAMES)
def policy(request: pytest.FixtureRequest) -> Policy:
    return policies.find(str(request.param))


def test_there_is_a_policy() -> None:
    assert "fifo" in NAMES


@pytest.mark.parametrize("name", NAMES)
def test_a_policy_lives_in_a_file_of_its_name_and_says_what_it_does(name: str) -> None:
    policy = policies.find(name)
    home = inspect.getmodule(policy)
    assert home is not None
    assert home.__name__ == f"aios_dist.policies.{name.replace('-', '_')}"
    assert home.__doc__
    assert inspect.getdoc(policy)
    assert len(inspect.getsource(home).splitlines()) < 100


@pytest.mark.parametrize("name", NAMES)
@given(step=waiting)
def test_a_rank_is_a_finite_number_for_every_step(name: str, step: Waiting) -> None:
    rank = policies.find(name)(step)
    assert isinstance(rank, Rank)
    assert math.isfinite(rank.base)
    assert isinstance(rank.from_ready, bool)
    whole = rank.base + rank.from_ready * READY_US
    assert abs(whole) < 2**53, "Redis keeps scores as doubles: beyond this, two ready times become one"


@pytest.mark.parametrize("name", NAMES)
@given(step=waiting)
def test_the_same_step_has_the_same_rank_on_every_machine(name: str, step: Waiting) -> None:
    policy = policies.find(name)
    assert policy(step) == policy(Waiting(*step))


@pytest.mark.parametrize("name", NAMES)
@given(step=waiting, other=waiting)
def test_no_step_changes_the_rank_of_another(name: str, step: Waiting, other: Waiting) -> None:
    policy = policies.find(name)
    before = policy(step)
    policy(other)
    assert policy(step) == before


@given(st.lists(st.tuples(waiting, st.integers(0, 10**12)), max_size=10, unique_by=lambda pair: pair[1]))
def test_under_fifo_the_order_is_that_of_becoming_ready(steps: list[tuple[Waiting, int]]) -> None:
    policy = policies.find("fifo")

    def rank(pair: tuple[Waiting, int]) -> float:
        made = policy(pair[0])
        return made.base + made.from_ready * (READY_US + pair[1])

    assert sorted(steps, key=rank) == sorted(steps, key=lambda pair: pair[1])
