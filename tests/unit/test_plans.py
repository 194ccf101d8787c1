"""Plans: what can be one, and the shape in which the journal takes it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aios_dist.agents import JobSpec
from aios_dist.errors import InvalidInput
from aios_dist.plans import Plan, fifo, fixed, hybrid, shape


def job(id: str | None = None) -> JobSpec:
    return JobSpec(agent="trip", input={}, id=id)


def names(plan: Plan) -> list[str | None]:
    return [spec.id for spec in plan.jobs()]


def test_the_modes_and_what_a_failure_does_by_default() -> None:
    assert (fifo([job()]).mode, fifo([job()]).on_failure) == ("fifo", "continue")
    assert (fixed([job()]).mode, fixed([job()]).on_failure) == ("fixed", "stop")


def test_a_hybrid_is_a_fixed_order_of_fifo_groups() -> None:
    plan = hybrid([[job("a"), job("b")], [job("c")]], on_failure="continue")
    assert (plan.mode, plan.on_failure) == ("fixed", "continue")
    assert [(m.mode, m.on_failure) for m in plan.members if isinstance(m, Plan)] == [("fifo", "continue")] * 2
    assert names(plan) == ["a", "b", "c"]


def test_jobs_may_come_from_a_generator_and_are_kept() -> None:
    plan = fixed(job(str(n)) for n in range(3))
    assert names(plan) == names(plan) == ["0", "1", "2"]
    groups = (iter([job(f"{g}{n}") for n in range(2)]) for g in "ab")
    assert names(hybrid(groups)) == ["a0", "a1", "b0", "b1"]


def test_an_error_of_the_generator_is_its_own() -> None:
    def broken() -> Iterator[JobSpec]:
        yield job()
        raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        fifo(broken())


@pytest.mark.parametrize("make", [fifo, fixed, hybrid])
@pytest.mark.parametrize("jobs", [[], (), iter(())])
def test_an_empty_plan_is_refused(make: Any, jobs: Any) -> None:
    with pytest.raises(InvalidInput, match="at least one job"):
        make(jobs)


def test_an_empty_group_is_refused() -> None:
    with pytest.raises(InvalidInput, match="a group of it may not be empty"):
        hybrid([[job()], []])


@pytest.mark.parametrize(
    "wrong", ["abc", [1], [None], [job(), "b"], [[job()]], {"a": job()}, [lambda: None], [Plan]]
)
@pytest.mark.parametrize("make", [fifo, fixed])
def test_a_plan_is_made_of_jobs_and_plans_only(make: Any, wrong: Any) -> None:
    with pytest.raises(InvalidInput, match="not of"):
        make(wrong)


@pytest.mark.parametrize("alone", [job(), fifo([job()]), 5, None, job])
@pytest.mark.parametrize("make", [fifo, fixed])
def test_one_job_is_not_a_list_of_jobs(make: Any, alone: Any) -> None:
    with pytest.raises(InvalidInput, match="takes a list of jobs and plans"):
        make(alone)
    with pytest.raises(InvalidInput):
        hybrid([alone])


@pytest.mark.parametrize("choice", ["Stop", "", None, True, "ignore"])
def test_what_a_failure_does_is_one_of_two_words(choice: Any) -> None:
    for make in (fifo, fixed):
        with pytest.raises(InvalidInput, match="'stop' or 'continue'"):
            make([job()], on_failure=choice)
    with pytest.raises(InvalidInput, match="'stop' or 'continue'"):
        hybrid([[job()]], on_failure=choice)


def test_a_plan_cannot_come_to_contain_itself() -> None:
    plan = fifo([job()])
    with pytest.raises(AttributeError):
        plan.members = (plan,)  # type: ignore[misc]
    assert isinstance(plan.members, tuple)


def test_the_shape_of_a_nested_plan() -> None:
    plan = fixed([job(), fifo([job(), fixed([job()], on_failure="continue")]), job()])
    layout, owners = shape(plan, "p", ["a", "b", "c", "d"])
    assert layout.nodes == [
        ("fixed", -1, 3, "stop"),
        ("fifo", 0, 2, "continue"),
        ("fixed", 1, 1, "continue"),
    ]
    assert sorted(layout.links) == [
        (0, 0, "ja"),
        (0, 1, "n1"),
        (0, 2, "jd"),
        (1, 0, "jb"),
        (1, 1, "n2"),
        (2, 0, "jc"),
    ]
    assert owners == [0, 1, 2, 0]
    assert layout.plain()["nodes"][1] == {
        "mode": "fifo",
        "parent": 0,
        "children": 2,
        "on_failure": "continue",
    }
    assert layout.plain()["links"][0].keys() == {"node", "k", "child"}


def test_the_same_group_twice_is_two_groups() -> None:
    group = fifo([job()])
    layout, owners = shape(fixed([group, group]), "p", ["a", "b"])
    assert owners == [1, 2]
    assert (1, 0, "ja") in layout.links
    assert (2, 0, "jb") in layout.links


def test_the_same_id_twice_is_refused_and_named() -> None:
    with pytest.raises(InvalidInput, match="job id 'a' twice"):
        shape(fifo([job(), fixed([job(), job()])]), "p", ["a", "b", "a"])


plans: st.SearchStrategy[Plan] = st.recursive(
    st.builds(lambda n: fifo([job()] * n), st.integers(1, 3)),
    lambda inner: st.builds(
        lambda make, members: make(members),
        st.sampled_from([fifo, fixed]),
        st.lists(inner | st.builds(job), min_size=1, max_size=4),
    ),
    max_leaves=10,
)


@given(plans)
def test_every_job_and_every_group_stands_in_one_place(plan: Plan) -> None:
    ids = [f"job-{n}" for n, _ in enumerate(plan.jobs())]
    layout, owners = shape(plan, "p", ids)
    places = [(node, place) for node, place, _ in layout.links]
    assert len(places) == len(set(places))
    children = {child: node for node, _, child in layout.links}
    assert len(children) == len(layout.links)
    for number, (_, parent, count, _) in enumerate(layout.nodes):
        assert sorted(p for n, p in places if n == number) == list(range(count))
        assert parent == (children[f"n{number}"] if number else -1)
        assert parent < number, "a group is described after the one it is in"
    assert [children[f"j{id}"] for id in ids] == owners
    assert len(children) == len(ids) + len(layout.nodes) - 1
