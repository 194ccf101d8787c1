"""Plans: what can be one, and the shape in which the journal takes it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aios_dist.errors import InvalidInput
from aios_dist.model.plans import Plan, agent_first, fifo, fixed, hybrid, shape
from aios_dist.model.specs import JobSpec


def job(id: str | None = None) -> JobSpec:
    return JobSpec(agent="trip", input={}, id=id)


def names(plan: Plan) -> list[str | None]:
    return [spec.id for spec in plan.jobs()]


def test_the_modes_and_what_a_failure_does_by_default() -> None:
    assert (fifo([job()]).mode, fifo([job()]).on_failure) == ("fifo", "continue")
    assert (fixed([job()]).mode, fixed([job()]).on_failure) == ("fixed", "stop")
    assert (agent_first([job()]).mode, agent_first([job()]).on_failure) == ("agent-first", "continue")


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


@pytest.mark.parametrize("make", [fifo, fixed, hybrid, agent_first])
@pytest.mark.parametrize("jobs", [[], (), iter(())])
def test_an_empty_plan_is_refused(make: Any, jobs: Any) -> None:
    with pytest.raises(InvalidInput, match="at least one job"):
        make(jobs)


def test_an_empty_group_is_refused() -> None:
    with pytest.raises(InvalidInput, match="a group of it may not be empty"):
        hybrid([[job()], []])
    with pytest.raises(InvalidInput, match=r"^A fifo plan needs at least one job"):
        agent_first([job(), fifo([])])
    with pytest.raises(InvalidInput, match=r"^An agent-first plan needs at least one job"):
        fixed([job(), agent_first([])])


@pytest.mark.parametrize(
    "wrong", ["abc", [1], [None], [job(), "b"], [[job()]], {"a": job()}, [lambda: None], [Plan]]
)
@pytest.mark.parametrize("make", [fifo, fixed, agent_first])
def test_a_plan_is_made_of_jobs_and_plans_only(make: Any, wrong: Any) -> None:
    with pytest.raises(InvalidInput, match="not of"):
        make(wrong)


@pytest.mark.parametrize("alone", [job(), fifo([job()]), 5, None, job])
@pytest.mark.parametrize("make", [fifo, fixed, agent_first])
def test_one_job_is_not_a_list_of_jobs(make: Any, alone: Any) -> None:
    with pytest.raises(InvalidInput, match="takes a list of jobs and plans"):
        make(alone)
    with pytest.raises(InvalidInput):
        hybrid([alone])


@pytest.mark.parametrize("choice", ["Stop", "", None, True, "ignore"])
def test_what_a_failure_does_is_one_of_two_words(choice: Any) -> None:
    for make in (fifo, fixed, agent_first):
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
    assert layout.plain_nodes()[1] == {
        "mode": "fifo",
        "parent": 0,
        "children": 2,
        "on_failure": "continue",
    }
    assert layout.plain_links()[0].keys() == {"node", "k", "child"}


def test_the_same_group_twice_is_two_groups() -> None:
    group = fifo([job()])
    layout, owners = shape(fixed([group, group]), "p", ["a", "b"])
    assert owners == [1, 2]
    assert (1, 0, "ja") in layout.links
    assert (2, 0, "jb") in layout.links


def test_the_same_id_twice_is_refused_and_named() -> None:
    with pytest.raises(InvalidInput, match="job id 'a' twice"):
        shape(fifo([job(), fixed([job(), job()])]), "p", ["a", "b", "a"])


# Places in agent-first plans ------------------------------------------------------------------------------


def places(plan: Plan) -> list[tuple[int, ...] | None]:
    """Of each job: the agent-first node, the place, how many places and jobs that node has."""
    layout, _ = shape(plan, "p", [f"job-{n}" for n, _ in enumerate(plan.jobs())])
    return list(layout.places)


def test_each_job_of_an_agent_first_plan_has_a_place() -> None:
    assert places(agent_first([job(), job(), job()])) == [(0, 0, 3, 3), (0, 1, 3, 3), (0, 2, 3, 3)]


@pytest.mark.parametrize("plan", [fifo([job(), fixed([job()])]), hybrid([[job()], [job()]])])
def test_jobs_outside_of_agent_first_plans_have_none(plan: Plan) -> None:
    assert places(plan) == [None, None]
    assert shape(plan, "p", ["a", "b"])[0].plain_places() == []


def test_a_group_shares_a_place_so_that_it_is_a_hybrid_plan_without_idle_slots() -> None:
    groups = agent_first([fifo([job(), job()]), job(), fifo([job(), fifo([job()])])])
    assert places(groups) == [(0, 0, 3, 5), (0, 0, 3, 5), (0, 1, 3, 5), (0, 2, 3, 5), (0, 2, 3, 5)]


@pytest.mark.parametrize("inner", [agent_first, fixed])
def test_a_group_with_an_order_of_its_own_has_a_place_for_each_of_its_members(inner: Any) -> None:
    plan = agent_first([job(), inner([job(), fifo([job(), job()])]), job()])
    assert places(plan) == [(0, 0, 4, 5), (0, 1, 4, 5), (0, 2, 4, 5), (0, 2, 4, 5), (0, 3, 4, 5)]


def test_an_agent_first_group_in_a_strict_one_keeps_its_order() -> None:
    plan = agent_first([fixed([job(), agent_first([job(), job()])]), job()])
    assert places(plan) == [(0, 0, 4, 4), (0, 1, 4, 4), (0, 2, 4, 4), (0, 3, 4, 4)]


def test_inside_a_fifo_group_all_share_its_place() -> None:
    plan = agent_first([fifo([job(), agent_first([job(), job()]), fixed([job()])]), job()])
    assert places(plan) == [(0, 0, 2, 5)] * 4 + [(0, 1, 2, 5)]


def test_agent_first_groups_beside_each_other_count_their_own_places() -> None:
    plan = fixed([agent_first([job(), job()]), job(), agent_first([job()])])
    assert places(plan) == [(1, 0, 2, 2), (1, 1, 2, 2), None, (2, 0, 1, 1)]


def test_the_places_of_the_whole_plan_go_to_the_journal_with_it() -> None:
    plan = agent_first([fifo([job(), job()]), job()])
    assert shape(plan, "p", ["a", "b", "c"])[0].plain_places() == [2, 3]


plans: st.SearchStrategy[Plan] = st.recursive(
    st.builds(lambda n: fifo([job()] * n), st.integers(1, 3)),
    lambda inner: st.builds(
        lambda make, members: make(members),
        st.sampled_from([fifo, fixed, agent_first]),
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


@given(plans)
def test_places_follow_the_order_in_which_the_plan_is_written_down(plan: Plan) -> None:
    found = places(plan)
    for node in {place[0] for place in found if place is not None}:
        own = [place for place in found if place is not None and place[0] == node]
        numbers = [place[1] for place in own]
        assert numbers == sorted(numbers)
        assert set(numbers) == set(range(own[0][2])), "no place is without a job"
        assert {place[2:] for place in own} == {(len(set(numbers)), len(own))}
    assert (None in found) == not_all_in_agent_first(plan)


def not_all_in_agent_first(plan: Plan) -> bool:
    """Whether a job stands outside of all agent-first groups."""
    if plan.mode == "agent-first":
        return False
    return any(not isinstance(member, Plan) or not_all_in_agent_first(member) for member in plan.members)
