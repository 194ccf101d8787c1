"""The simulator: orders, conservation, bounds, figures by hand."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aios_dist import policies
from aios_dist.errors import ConfigError, InvalidInput
from aios_dist.model.plans import Plan, agent_first, fifo, fixed, hybrid
from aios_dist.model.specs import JobSpec
from aios_dist.policies import Past, Policy, Rank, Waiting
from aios_dist.simulate import ORACLE, Run, SimulatedJob, bound, figures, simulate
from aios_dist.simulate.pasts import MOST, Pasts

SEED = [SimulatedJob("A", (1.0, 1.0, 1.0)), SimulatedJob("B", (1.0, 1.0)), SimulatedJob("C", (1.0, 1.0))]
WORKING = [*SEED[:2], SimulatedJob("C", (1.0, 1.0), gaps=(0.0, 2.5))]
"""The seed's three agents, and the same with C working between its calls."""


def order(run: Run) -> str:
    return " ".join(dispatch.label for dispatch in run.log)


def specs(jobs: Sequence[SimulatedJob]) -> list[JobSpec]:
    return [job.spec() for job in jobs]


# The orders of the seed ------------------------------------------------------------------------------------


def test_fifo_interleaves_the_agents_in_the_order_of_becoming_ready() -> None:
    assert order(simulate(SEED, 1)) == "A1 B1 C1 A2 B2 C2 A3"
    assert order(simulate(WORKING, 1)) == "A1 B1 C1 A2 B2 A3 C2"


def test_fixed_order_runs_agent_after_agent() -> None:
    for jobs in (SEED, WORKING):
        assert order(simulate(jobs, 1, plan=fixed(specs(jobs)))) == "A1 A2 A3 B1 B2 C1 C2"
    assert figures(simulate(WORKING, 8, plan=fixed(specs(WORKING))))["makespan_s"] == 9.5


def test_a_hybrid_keeps_its_groups_apart_and_is_fifo_inside() -> None:
    a, b, c = specs(SEED)
    assert order(simulate(SEED, 1, plan=hybrid([[a, b], [c]]))) == "A1 B1 A2 B2 A3 C1 C2"


def test_agent_first_keeps_the_order_of_the_plan_and_leaves_no_slot_idle() -> None:
    assert order(simulate(WORKING[::-1], 1, plan=agent_first(specs(WORKING[::-1])))) == "C1 B1 B2 A1 C2 A2 A3"
    strict = figures(simulate(WORKING, 2, plan=fixed(specs(WORKING))))
    conserving = figures(simulate(WORKING, 2, plan=agent_first(specs(WORKING))))
    assert strict["idle_while_ready_s"] > 0 == conserving["idle_while_ready_s"]
    assert conserving["makespan_s"] < strict["makespan_s"]


def test_a_fixed_order_in_an_agent_first_plan_stays_strict() -> None:
    a, b, c = specs(SEED)
    run = simulate(SEED, 2, plan=agent_first([fixed([a, b]), c]))
    assert order(run) == "A1 C1 A2 C2 A3 B1 B2"


@pytest.mark.parametrize(("on_failure", "ends"), [("stop", [1.0, None, None]), ("continue", [1.0, 2.0, 3.0])])
def test_a_member_that_fails_stops_a_fixed_order_or_not(on_failure: Any, ends: list[float | None]) -> None:
    jobs = [SimulatedJob("a", (1.0,), fails=True), SimulatedJob("b", (1.0,)), SimulatedJob("c", (1.0,))]
    run = simulate(jobs, 1, plan=fixed(specs(jobs), on_failure=on_failure))
    assert list(run.ends) == ends
    assert run.idle_while_ready == 0


def test_a_failure_is_heard_by_the_plans_around() -> None:
    jobs = [
        SimulatedJob("a", (1.0,)),
        SimulatedJob("b", (2.0,), fails=True),
        SimulatedJob("c", (1.0,)),
        SimulatedJob("d", (1.0,)),
    ]
    a, b, c, d = specs(jobs)
    inner = fifo([a, b], on_failure="stop")
    assert list(simulate(jobs, 4, plan=fixed([inner, fixed([c, d])])).ends) == [1.0, 2.0, None, None]
    run = simulate(jobs, 4, plan=fixed([inner, fixed([c, d])], on_failure="continue"))
    assert list(run.ends) == [1.0, 2.0, 3.0, 4.0]


def test_a_plan_waits_for_a_job_that_has_not_arrived() -> None:
    jobs = [SimulatedJob("a", (1.0,)), SimulatedJob("late", (1.0,), arrival=5.0), SimulatedJob("c", (1.0,))]
    run = simulate(jobs, 3, plan=fixed(specs(jobs)))
    assert list(run.ends) == [1.0, 6.0, 7.0]
    assert run.wait_max == 6.0  # c, which the plan kept back
    assert run.idle_while_ready == 6.0  # one step of one job, all the time


def test_members_of_a_plan_without_ids_are_the_jobs_in_their_order() -> None:
    nameless = [JobSpec(agent="a", input={}) for _ in SEED]
    assert order(simulate(SEED, 1, plan=fixed(nameless))) == "A1 A2 A3 B1 B2 C1 C2"


# Agents ----------------------------------------------------------------------------------------------------


def test_calls_that_are_gathered_run_side_by_side_and_are_waited_for() -> None:
    job = SimulatedJob("g", (1.0, 2.0, 3.0, 1.0), after=(0, 1, 1, 3), gaps=(0.0, 0.5, 0.0, 0.0))
    run = simulate([job], 4)
    assert [(d.step, d.start, d.end) for d in run.log] == [(0, 0, 1), (2, 1, 4), (1, 1.5, 3.5), (3, 4, 5)]
    assert job.alone == run.ends[0] == 5.0


def test_slots_are_taken_from_the_lowest() -> None:
    run = simulate([SimulatedJob("a", (1.0, 1.0)), SimulatedJob("b", (3.0,))], 4)
    assert [(d.label, d.slot) for d in run.log] == [("a1", 0), ("b1", 1), ("a2", 0)]


# Policies --------------------------------------------------------------------------------------------------


def test_the_policies_are_those_of_the_fleet() -> None:
    ends = {}
    jobs = [
        SimulatedJob("old", (2.0,) * 6),
        SimulatedJob("urgent", (2.0,), arrival=1.0, priority=9),
        SimulatedJob("due", (2.0,), arrival=1.0, deadline=4.0),
        SimulatedJob("short", (2.0,), arrival=1.0, expected_steps=1),
    ]
    for name in ("deadline", "fifo", "las", ORACLE, "priority", "remaining", "round-robin"):
        run = simulate(
            jobs, 1, name, oldest_every=0, pasts={"due": Past((50.0,), 1), "urgent": Past((60.0,), 1)}
        )
        ends[name] = [d.job for d in run.log][1]
    assert ends == {
        "deadline": "due",
        "fifo": "urgent",
        "las": "urgent",
        "oracle": "urgent",
        "priority": "urgent",
        "remaining": "short",
        "round-robin": "urgent",
    }


@pytest.mark.parametrize("looks_back", [True, False])
def test_a_policy_is_told_what_the_fleet_would_tell_it(
    monkeypatch: pytest.MonkeyPatch, looks_back: bool
) -> None:
    """The estimates of its calls, and not what they truly cost; earlier runs where it looks back."""
    seen: list[Waiting] = []

    def watching(step: Waiting) -> Rank:
        seen.append(step)
        return Rank()

    newcomer = Policy("newcomer", watching, starves=True, looks_back=looks_back, source="")
    monkeypatch.setitem(policies._POLICIES, "newcomer", newcomer)
    past = Past((3.0, 9.0), 4)
    told = {"agent": "trip", "tenant": "acme", "expected_steps": 7, "deadline": 60.0}
    guessed = SimulatedJob("a", (2.5, 1.0), costs=(70.0, 80.0), estimates=(50.0, 60.0), **told)  # type: ignore[arg-type]
    simulate([guessed, SimulatedJob("b", (1.0,), costs=(70.0,))], 1, "newcomer", pasts={"trip": past})
    facts = (7, 60.0, past if looks_back else Past())
    assert [step for step in seen if step.agent == "trip"] == [
        Waiting("trip", "acme", 0, 0.0, *facts, 50.0),
        Waiting("trip", "acme", 1, 2.5, *facts, 60.0),
    ]
    assert [step.cost for step in seen if step.agent == "b"] == [0.0]


def test_remaining_learns_from_the_jobs_that_have_ended_and_not_from_those_to_come() -> None:
    def jobs(*later: SimulatedJob) -> list[SimulatedJob]:
        first = [SimulatedJob("1", (1.0,), agent="short"), SimulatedJob("2", (9.0,), agent="long")]
        return [*first, SimulatedJob("hold", (1.0,), arrival=10.0), *later]

    later = [
        SimulatedJob("3", (9.0,), arrival=10.5, agent="long"),
        SimulatedJob("4", (1.0,), arrival=10.6, agent="short"),
    ]
    assert [d.job for d in simulate(jobs(*later), 1, "remaining").log][-2:] == ["4", "3"]
    unknown = [
        SimulatedJob("3", (9.0,), arrival=10.5, agent="new"),
        SimulatedJob("4", (1.0,), arrival=10.6, agent="newer"),
    ]
    assert [d.job for d in simulate(jobs(*unknown), 1, "remaining").log][-2:] == ["3", "4"]


def test_a_program_remembers_its_last_runs_that_succeeded() -> None:
    pasts = Pasts({"known": Past((1.0,), 1)})
    for total in range(MOST + 5):
        pasts.add("p", float(total), 2)
    assert pasts.of("p") == Past(tuple(float(total) for total in range(5, MOST + 5)), 2 * MOST)
    pasts.add("known", 9.0, 1)
    assert pasts.of("known") == Past((1.0,), 1)
    assert pasts.of("stranger") == Past()
    assert set(pasts.known()) == {"p", "known"}


def test_a_run_that_failed_teaches_nothing() -> None:
    jobs = [SimulatedJob("f", (1.0,), agent="x", fails=True), SimulatedJob("hold", (3.0,), arrival=2.0)]
    after = [
        SimulatedJob("other", (1.0,), arrival=3.0, agent="y"),
        SimulatedJob("x2", (1.0,), arrival=3.1, agent="x"),
    ]
    assert [d.job for d in simulate([*jobs, *after], 1, "remaining").log][-2:] == ["other", "x2"]


def test_fair_share_gives_the_small_tenant_its_turn_and_charges_what_was_taken() -> None:
    flood = [SimulatedJob(f"f{n}", (1.0,), tenant="flood") for n in range(20)]
    small = [SimulatedJob("s", (1.0, 1.0), arrival=0.5, tenant="small")]
    unfair = simulate([*flood, *small], 1)
    fair = simulate([*flood, *small], 1, fair=True)
    assert [d.job for d in unfair.log].index("s") == 20
    assert [d.label for d in fair.log][:5] == ["f01", "f11", "s1", "f21", "s2"]
    dear = [SimulatedJob(f"f{n}", (1.0,), tenant="flood", costs=(9.0,), estimates=(1.0,)) for n in range(20)]
    many = [SimulatedJob(f"s{n}", (1.0,), tenant="small", costs=(1.0,), estimates=(1.0,)) for n in range(9)]
    ran = [d.job[0] for d in simulate([*dear, *many], 1, fair=True).log]
    assert "".join(ran[:11]) == "fsssssssssf"


def test_weights_and_caps_are_kept() -> None:
    jobs = [SimulatedJob(f"{t}{n}", (1.0,), tenant=t) for n in range(12) for t in "ab"]
    ran = "".join(d.job[0] for d in simulate(jobs, 1, fair=True, weights={"a": 3.0}).log)
    assert ran[:8].count("a") == 6
    run = simulate(jobs, 4, caps={"a": 1})
    times = sorted((d.start, d.end) for d in run.log if d.job[0] == "a")
    assert all(before[1] <= after[0] for before, after in pairwise(times))
    assert run.idle_while_ready > 0


# What always holds -----------------------------------------------------------------------------------------

seconds = st.sampled_from([0.25, 0.5, 1.0, 2.0, 7.0])


@st.composite
def some_jobs(draw: st.DrawFn, most: int = 8, gaps: bool = True, arrivals: bool = True) -> list[SimulatedJob]:
    found = []
    for number in range(draw(st.integers(1, most))):
        steps = tuple(draw(st.lists(seconds, min_size=1, max_size=5)))
        found.append(
            SimulatedJob(
                str(number),
                steps,
                gaps=tuple(draw(st.sampled_from([0.0, 0.5, 3.0])) for _ in steps) if gaps else (),
                after=tuple(draw(st.integers(0, 1)) * k for k in range(2))
                if gaps and len(steps) == 2
                else (),
                arrival=draw(st.sampled_from([0.0, 0.5, 4.0])) if arrivals else 0.0,
                agent=draw(st.sampled_from("xyz")),
                tenant=draw(st.sampled_from("tu")),
                priority=draw(st.integers(0, 9)),
                deadline=draw(st.sampled_from([None, 1.0, 20.0])),
            )
        )
    return found


every_policy = st.sampled_from([*policies.names(), ORACLE])


@given(some_jobs(), every_policy, st.integers(1, 4), st.booleans(), st.sampled_from([None, 0, 3]))
def test_no_slot_is_idle_while_a_step_is_ready(
    jobs: list[SimulatedJob], policy: str, slots: int, fair: bool, every: int | None
) -> None:
    run = simulate(jobs, slots, policy, fair=fair, oldest_every=every)
    assert run.idle_while_ready == 0
    times = sorted({t for d in run.log for t in (d.start, d.end)})
    for at, then in pairwise(times):
        middle = (at + then) / 2
        running = sum(d.start < middle < d.end for d in run.log)
        waiting = sum(d.ready < middle < d.start for d in run.log)
        assert running <= slots
        assert running == slots or not waiting


@given(some_jobs(), every_policy, st.integers(1, 4), st.booleans())
def test_every_call_runs_once_for_its_time_and_in_its_jobs_order(
    jobs: list[SimulatedJob], policy: str, slots: int, fair: bool
) -> None:
    run = simulate(jobs, slots, policy, fair=fair)
    by_name = {job.name: job for job in jobs}
    assert sorted((d.job, d.step) for d in run.log) == sorted(
        (job.name, k) for job in jobs for k in range(len(job.steps))
    )
    assert all(d.end - d.start == by_name[d.job].steps[d.step] for d in run.log)
    assert run.busy == sum(job.service for job in jobs)
    for job, end in zip(jobs, run.ends, strict=True):
        own = [d for d in run.log if d.job == job.name]
        assert end == max(d.end for d in own)
        assert min(d.ready for d in own) >= job.arrival
        if not job.after:
            own.sort(key=lambda d: d.step)
            gaps = job.gaps or (0.0,) * len(own)
            assert all(b.ready == a.end + gap for (a, b), gap in zip(pairwise(own), gaps[1:], strict=True))
    for slot in range(slots):
        there = sorted((d.start, d.end) for d in run.log if d.slot == slot)
        assert all(before[1] <= after[0] for before, after in pairwise(there))


@given(some_jobs(), every_policy, st.integers(1, 4))
def test_nothing_beats_the_bound_and_the_same_is_the_same_again(
    jobs: list[SimulatedJob], policy: str, slots: int
) -> None:
    run = simulate(jobs, slots, policy)
    found = figures(run)
    assert found["bound_s"] <= found["makespan_s"] + 1e-9
    assert found["slowdown_mean"] >= 1 - 1e-9
    assert 0 < found["jain_agents"] <= 1 + 1e-9
    assert simulate(jobs, slots, policy) == run


@given(some_jobs(gaps=False, arrivals=False), every_policy)
def test_on_one_slot_nobody_has_a_shorter_mean_turnaround_than_the_oracle(
    jobs: list[SimulatedJob], policy: str
) -> None:
    best = figures(simulate(jobs, 1, ORACLE))["turnaround_mean_s"]
    assert best <= figures(simulate(jobs, 1, policy))["turnaround_mean_s"] + 1e-9


@st.composite
def some_plan(draw: st.DrawFn, members: list[JobSpec]) -> Plan:
    """Any nesting of the members, in their order."""
    if len(members) > 1 and draw(st.booleans()):
        cut = draw(st.integers(1, len(members) - 1))
        parts: list[Any] = [draw(some_plan(part)) for part in (members[:cut], members[cut:])]
    else:
        parts = list(members)
    make = draw(st.sampled_from([fifo, fixed, agent_first]))
    return make(parts, on_failure="continue")


@settings(max_examples=60)
@given(st.data(), some_jobs(), st.integers(1, 3))
def test_under_any_plan_every_job_comes_to_its_end(data: Any, jobs: list[SimulatedJob], slots: int) -> None:
    run = simulate(jobs, slots, plan=data.draw(some_plan(specs(jobs))))
    assert None not in run.ends
    assert len(run.log) == sum(len(job.steps) for job in jobs)
    assert bound(jobs, slots) <= figures(run)["makespan_s"] + 1e-9


# Figures ---------------------------------------------------------------------------------------------------


def test_figures_of_two_jobs_by_hand() -> None:
    jobs = [
        SimulatedJob("a", (2.0, 1.0), agent="x", tenant="t", deadline=3.0),
        SimulatedJob("b", (1.0,), arrival=1.0, agent="y", tenant="u", deadline=3.0, priority=5),
    ]  # one slot: a 0-2, b 2-3, a 3-4
    found = figures(simulate(jobs, 1))
    assert found == {
        "makespan_s": 4.0,
        "bound_s": 4.0,
        "turnaround_mean_s": 3.0,
        "turnaround_p50_s": 2.0,
        "turnaround_p95_s": 4.0,
        "turnaround_p99_s": 4.0,
        "slowdown_mean": pytest.approx((4 / 3 + 2) / 2),
        "slowdown_p95": 2.0,
        "wait_max_s": 1.0,
        "slot_use": 1.0,
        "idle_while_ready_s": 0.0,
        "jain_agents": pytest.approx((3 / 4 + 1 / 2) ** 2 / (2 * (9 / 16 + 1 / 4))),
        "jain_tenants": pytest.approx((3 / 4 + 1 / 2) ** 2 / (2 * (9 / 16 + 1 / 4))),
        "late": 0.5,
        "slowdown_by_tenant": {"t": pytest.approx(4 / 3), "u": 2.0},
        "slowdown_by_priority": {"0": pytest.approx(4 / 3), "5": 2.0},
    }


def test_the_bound_knows_of_work_that_arrives_late_and_of_long_chains() -> None:
    late = [SimulatedJob(str(n), (1.0,), arrival=10.0) for n in range(4)]
    assert bound([SimulatedJob("first", (1.0,)), *late], 2) == 12.0
    assert bound([SimulatedJob("chain", (1.0, 1.0), gaps=(0.0, 5.0)), SimulatedJob("b", (1.0,))], 2) == 7.0


def test_what_a_plan_cancels_is_in_no_figure() -> None:
    jobs = [SimulatedJob("a", (1.0,), fails=True), SimulatedJob("b", (50.0,))]
    found = figures(simulate(jobs, 1, plan=fixed(specs(jobs))))
    assert (found["makespan_s"], found["turnaround_mean_s"], found["late"]) == (1.0, 1.0, None)


# Bad input -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        ({"steps": ()}, "has no steps"),
        ({"steps": (1.0,), "gaps": (0.0, 0.0)}, "1 steps, but other than that many gaps"),
        ({"steps": (-1.0,)}, "below 0"),
        ({"steps": (float("nan"),)}, "no number"),
        ({"steps": (1.0,), "arrival": float("inf")}, "no number"),
        ({"steps": (1.0, 1.0), "after": (0, 2)}, "its number at the most"),
        ({"steps": (1.0, 1.0, 1.0), "after": (0, 1, 0)}, "never fewer"),
    ],
)
def test_a_job_that_cannot_be_is_refused(fields: dict[str, Any], text: str) -> None:
    with pytest.raises(InvalidInput, match=text):
        SimulatedJob("j", **fields)


def test_a_simulation_that_cannot_be_is_refused() -> None:
    with pytest.raises(InvalidInput, match="no jobs"):
        simulate([], 1)
    with pytest.raises(InvalidInput, match="at least one slot, not 0"):
        simulate(SEED, 0)
    with pytest.raises(InvalidInput, match="same name"):
        simulate([SEED[0], SEED[0]], 1)
    with pytest.raises(ConfigError, match="no policy 'lifo'"):
        simulate(SEED, 1, "lifo")
    for plan in (fixed(specs(SEED[:2])), fixed([*specs(SEED[:2]), JobSpec(agent="a", input={}, id="D")])):
        with pytest.raises(InvalidInput, match="other jobs"):
            simulate(SEED, 1, plan=plan)
