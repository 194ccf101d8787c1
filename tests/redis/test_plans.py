"""Plans in the journal: who is admitted when, and what a failure does at each level."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from aios_dist.journal import NewJob
from aios_dist.model.jobs import JobRecord, JobState
from aios_dist.model.plans import fifo, fixed, hybrid, shape
from aios_dist.program.agents import prompts
from tests.redis.conftest import decides, plan_of, starts

if TYPE_CHECKING:
    from tests.redis.conftest import Hand

DONE, FAILED = JobState.DONE, JobState.FAILED


async def plan_state(hand: Hand, id: str = "p") -> str:
    return (await hand.journal.plan(id)).state


async def steps_of(hand: Hand, **counts: int) -> list[str]:
    """Run everything with one slot; each job asks for so many steps, one after the other."""
    order = []
    while (claim := await hand.journal.claim("llm", "w")) is not None:
        number = int(claim.step) + 1
        order.append(f"{claim.job}{number}")
        if number == counts[claim.job]:
            await hand.finish(claim)
        else:
            await hand.commit(claim, decision=decides(number, number, "next"))
        await hand.look()
    return order


# The orders ---------------------------------------------------------------------------------------


async def test_fixed_runs_one_agent_after_the_other_whatever_the_slots(hand: Hand) -> None:
    await hand.plan("p", ("fixed", "stop", "A", "B", "C"))
    assert await hand.states("A", "B", "C") == ["running", "waiting", "waiting"]
    assert " ".join(await steps_of(hand, A=3, B=2, C=2)) == "A1 A2 A3 B1 B2 C1 C2"
    assert await plan_state(hand) == "done"


async def test_fifo_lets_all_agents_in_at_once(hand: Hand) -> None:
    await hand.plan("p", ("fifo", "continue", "A", "B", "C"))
    assert await hand.states("A", "B", "C") == ["running"] * 3
    assert " ".join(await steps_of(hand, A=3, B=2, C=2)) == "A1 B1 C1 A2 B2 C2 A3"
    assert await plan_state(hand) == "done"


async def test_groups_in_fixed_order_run_fifo_inside(hand: Hand) -> None:
    await hand.plan("p", ("fixed", "stop", ("fifo", "stop", "A", "B"), ("fifo", "stop", "C", "D")))
    assert await hand.states("A", "B", "C", "D") == ["running", "running", "waiting", "waiting"]
    assert " ".join(await steps_of(hand, A=2, B=1, C=1, D=2)) == "A1 B1 A2 C1 D1 D2"
    assert await plan_state(hand) == "done"


async def test_fixed_chains_run_beside_each_other_in_a_fifo(hand: Hand) -> None:
    await hand.plan("p", ("fifo", "stop", ("fixed", "stop", "A", "B"), "C", ("fixed", "stop", "D", "E")))
    assert await hand.states("A", "B", "C", "D", "E") == [
        "running",
        "waiting",
        "running",
        "running",
        "waiting",
    ]
    assert " ".join(await steps_of(hand, A=1, B=1, C=1, D=2, E=1)) == "A1 C1 D1 B1 D2 E1"
    assert await plan_state(hand) == "done"


async def test_nesting_may_be_deep(hand: Hand) -> None:
    root: Any = ("fixed", "stop", "last")
    for level in range(60):
        root = (("fixed", "fifo")[level % 2], "stop", root, f"j{level}")
    await hand.plan("p", root)
    ran = await hand.run()
    assert sorted(ran) == sorted(["last", *(f"j{i}" for i in range(60))])
    assert await plan_state(hand) == "done"


async def test_the_commit_that_ends_a_job_hands_out_the_tickets_of_the_next(hand: Hand) -> None:
    await hand.plan("p", ("fixed", "stop", "a", ("fifo", "stop", "b", "c")))
    done = await hand.finish(await hand.claim())
    assert [(t.lane, t.job, t.step) for t in done.tickets] == [("llm", "b", "0"), ("llm", "c", "0")]


async def test_submitting_hands_out_the_tickets_of_what_is_admitted(hand: Hand) -> None:
    layout, owners = plan_of("p", ("fixed", "stop", "a", "b"))
    jobs = [starts(id, "x", "y") for id in owners]
    done = await hand.journal.submit(jobs, layout)
    assert [(t.job, t.step) for t in done.tickets] == [("a", "0"), ("a", "1")]
    assert done.new == [True, True]


async def test_a_member_without_turn_0_gets_its_turn_when_it_is_admitted(hand: Hand) -> None:
    await hand.plan("p", ("fixed", "stop", "a", "b"), [starts("b")])
    assert await hand.names("turns") == []
    done = await hand.finish(await hand.claim())
    assert [(t.lane, t.job, t.step) for t in done.tickets] == [("turns", "b", "t")]


async def test_a_chain_moves_on_when_a_job_ends_in_a_turn_of_its_own(hand: Hand) -> None:
    await hand.plan("p", ("fixed", "stop", "a", "b"))
    await hand.commit(await hand.claim(), turn_here=False)
    turn = await hand.claim("turns")
    done = await hand.journal.advance("a", decides(1, 1, ends=DONE), token=turn.token)
    assert [t.job for t in done.tickets] == ["b"]


async def test_a_step_that_failed_does_not_end_its_job_or_move_the_plan(hand: Hand) -> None:
    await hand.plan("p", ("fixed", "stop", "a", "b"))
    await hand.commit(await hand.claim(), ok=False, decision=decides(1, 1, "again"))
    assert await hand.states("a", "b") == ["running", "waiting"]


async def test_plans_as_users_write_them_run_as_they_read(hand: Hand) -> None:
    agent = prompts("ask", ["{input}"])
    plan = hybrid([[agent.job("1", id="a"), agent.job("2", id="b")], [agent.job("3", id="c")]])
    layout, owners = shape(plan, "p", ["a", "b", "c"])
    jobs = [NewJob(i, JobRecord("ask", {}), decides(0, 0, i), n) for i, n in zip("abc", owners, strict=True)]
    assert (await hand.journal.submit(jobs, layout)).status == "new"
    assert await hand.states("a", "b", "c") == ["running", "running", "waiting"]
    assert await hand.run() == ["a", "b", "c"]
    layout, owners = shape(
        fifo([fixed([agent.job("1"), agent.job("2")]), agent.job("3")]), "q", ["d", "e", "f"]
    )
    assert (layout.nodes, owners) == ([("fifo", -1, 2, "continue"), ("fixed", 0, 2, "stop")], [1, 1, 0])


# Jobs that need no step ---------------------------------------------------------------------------


async def test_members_that_need_no_step_end_when_they_are_admitted(hand: Hand) -> None:
    empty = [starts(id, ends=DONE) for id in ("b", "c")]
    await hand.plan("p", ("fixed", "stop", "a", "b", "c", "d"), empty)
    assert await hand.states("a", "b", "c", "d") == ["running", "waiting", "waiting", "waiting"]
    await hand.finish(await hand.claim())
    assert await hand.states("a", "b", "c", "d") == ["done", "done", "done", "running"]
    _, result = await hand.journal.state("b")
    assert result == decides(0, 0, ends=DONE).result


@pytest.mark.parametrize("mode", ["fixed", "fifo"])
async def test_a_plan_of_jobs_that_need_no_step_is_over_at_once(hand: Hand, mode: str) -> None:
    jobs = [starts(id, ends=DONE) for id in "abc"]
    await hand.plan("p", (mode, "stop", "a", (mode, "stop", "b"), "c"), jobs)
    assert await hand.states("a", "b", "c") == ["done"] * 3
    assert await plan_state(hand) == "done"


async def test_a_first_member_that_fails_at_once_stops_the_plan(hand: Hand) -> None:
    await hand.plan("p", ("fixed", "stop", "a", "b", ("fifo", "stop", "c")), [starts("a", ends=FAILED)])
    assert await hand.states("a", "b", "c") == ["failed", "cancelled", "cancelled"]
    assert await plan_state(hand) == "failed"
    assert await hand.names() == []


async def test_a_first_member_that_fails_at_once_is_passed_over(hand: Hand) -> None:
    await hand.plan("p", ("fixed", "continue", "a", "b"), [starts("a", ends=FAILED)])
    assert await hand.states("a", "b") == ["failed", "running"]
    await hand.run()
    assert await plan_state(hand) == "done"


@pytest.mark.parametrize("end", [DONE, FAILED])
async def test_hundreds_of_jobs_that_need_no_step_fill_no_stack(hand: Hand, end: JobState) -> None:
    ids = [f"j{i}" for i in range(900)]
    layout, owners = plan_of("p", ("fixed", "continue", *ids))
    jobs = [starts(id, ends=end) for id in owners]
    assert (await hand.journal.submit(jobs, layout)).status == "new"
    assert await plan_state(hand) == "done"
    assert set(await hand.states(*ids[:5], *ids[-5:])) == {end.value}


async def test_hundreds_of_jobs_in_one_call_are_admitted_one_by_one(hand: Hand) -> None:
    ids = [f"j{i:04}" for i in range(300)]
    await hand.plan("p", ("fixed", "stop", *ids))
    assert await hand.names() == ["j0000/0"]
    await hand.look()
    assert await hand.run(most=300) == ids
    assert await plan_state(hand) == "done"


async def test_a_thousand_jobs_that_a_failure_cancels(hand: Hand) -> None:
    ids = [f"j{i:04}" for i in range(1000)]
    await hand.plan("p", ("fixed", "stop", "first", ("fifo", "stop", *ids)))
    assert await hand.run(fails=["first"]) == ["first"]
    assert await plan_state(hand) == "running"
    await hand.go_on()
    assert set(await hand.states(*ids[::100])) == {"cancelled"}
    assert await plan_state(hand) == "failed"


# Failures -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("root", "fails", "ran", "end"),
    [
        (("fixed", "stop", "a", "b", "c"), "b", "ab", "failed"),
        (("fixed", "continue", "a", "b", "c"), "b", "abc", "done"),
        (("fixed", "stop", "a", "b", "c"), "c", "abc", "failed"),
        (("fifo", "stop", "a", "b", "c"), "a", "abc", "failed"),
        (("fifo", "continue", "a", "b", "c"), "abc", "abc", "done"),
        # A group that stops fails in the plan around it; one that goes on does not.
        (("fixed", "stop", ("fifo", "stop", "a", "b"), "c"), "a", "ab", "failed"),
        (("fixed", "stop", ("fifo", "continue", "a", "b"), "c"), "a", "abc", "done"),
        (("fixed", "continue", ("fifo", "stop", "a", "b"), "c"), "a", "abc", "done"),
        (("fixed", "stop", ("fixed", "stop", "a", "b"), "c"), "a", "a", "failed"),
        (("fixed", "stop", ("fixed", "continue", "a", "b"), "c"), "a", "abc", "done"),
        (("fixed", "continue", ("fixed", "stop", "a", "b"), "c"), "a", "ac", "done"),
        (("fifo", "stop", ("fixed", "stop", "a", "b"), "c"), "a", "ac", "failed"),
        (("fifo", "continue", ("fixed", "stop", "a", "b"), "c"), "a", "ac", "done"),
        # Three levels: the failure climbs as far as each level lets it.
        (("fixed", "stop", ("fifo", "stop", ("fixed", "stop", "a", "b"), "c"), "d"), "a", "ac", "failed"),
        (("fixed", "stop", ("fifo", "continue", ("fixed", "stop", "a", "b"), "c"), "d"), "a", "acd", "done"),
        (("fixed", "stop", "a", ("fixed", "continue", ("fifo", "stop", "b"), "c")), "b", "abc", "done"),
    ],
)
async def test_a_failure_goes_as_far_as_each_level_lets_it(
    hand: Hand, root: tuple[Any, ...], fails: str, ran: str, end: str
) -> None:
    await hand.plan("p", root)
    assert "".join(await hand.run(fails=list(fails))) == ran
    assert await plan_state(hand) == end
    jobs = plan_of("p", root)[1]
    for job in jobs:
        expected = "cancelled" if job not in ran else "failed" if job in fails else "done"
        assert await hand.state(job) == expected


async def test_a_group_that_fails_lets_those_of_it_that_run_finish(hand: Hand) -> None:
    await hand.plan("p", ("fixed", "stop", ("fifo", "stop", "a", "b"), "c"))
    a, b = await hand.claim(), await hand.claim()
    await hand.finish(a, FAILED)
    assert await hand.states("a", "b", "c") == ["failed", "running", "waiting"]
    assert await plan_state(hand) == "running"
    await hand.look()
    await hand.finish(b)
    assert await hand.states("b", "c") == ["done", "cancelled"]
    assert await plan_state(hand) == "failed"


async def test_a_job_that_its_workers_were_lost_over_stops_the_plan(hand: Hand) -> None:
    await hand.plan("p", ("fixed", "stop", "a", "b"), [starts("a")])
    for _ in range(hand.config.attempts):
        await hand.lose(await hand.claim("turns"))
    assert await hand.states("a", "b") == ["failed", "cancelled"]
    assert await plan_state(hand) == "failed"


# Cancelling ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("on_failure", "states", "plan"),
    [("stop", ["cancelled", "cancelled"], "failed"), ("continue", ["cancelled", "running"], "running")],
)
async def test_cancelling_the_member_that_runs_counts_as_a_failure(
    hand: Hand, on_failure: str, states: list[str], plan: str
) -> None:
    await hand.plan("p", ("fixed", on_failure, "a", "b"))
    status, tickets = await hand.journal.cancel("a")
    assert (status, [t.job for t in tickets]) == ("cancelled", ["b"] if plan == "running" else [])
    assert await hand.states("a", "b") == states
    assert await plan_state(hand) == plan


async def test_cancelling_a_member_that_waits_admits_nobody_before_his_time(hand: Hand) -> None:
    await hand.plan("p", ("fixed", "continue", "a", "b", "c"))
    a = await hand.claim()
    assert await hand.journal.cancel("b") == ("cancelled", [])
    assert await hand.states("a", "b", "c") == ["running", "cancelled", "waiting"]
    await hand.look()
    await hand.finish(a)
    assert await hand.states("a", "b", "c") == ["done", "cancelled", "running"]
    await hand.run()
    assert await plan_state(hand) == "done"


async def test_a_plan_that_stops_does_so_when_it_comes_to_the_cancelled_member(hand: Hand) -> None:
    await hand.plan("p", ("fixed", "stop", "a", "b", "c"))
    await hand.journal.cancel("b")
    assert await hand.states("a", "b", "c") == ["running", "cancelled", "waiting"]
    assert await hand.run() == ["a"]
    assert await hand.states("a", "b", "c") == ["done", "cancelled", "cancelled"]
    assert await plan_state(hand) == "failed"


async def test_cancelling_within_a_group_that_waits_admits_nobody_of_it(hand: Hand) -> None:
    await hand.plan("p", ("fixed", "stop", "a", ("fixed", "continue", "b", "c"), ("fifo", "continue", "d")))
    await hand.journal.cancel("b")
    await hand.journal.cancel("d")
    assert await hand.states("a", "b", "c", "d") == ["running", "cancelled", "waiting", "cancelled"]
    await hand.look()
    assert await hand.run() == ["a", "c"]
    assert await plan_state(hand) == "done"


@pytest.mark.parametrize(("on_failure", "end"), [("stop", "failed"), ("continue", "done")])
async def test_cancelling_the_last_member_leaves_the_plan_to_those_before(
    hand: Hand, on_failure: str, end: str
) -> None:
    await hand.plan("p", ("fixed", on_failure, "a", "b"))
    await hand.journal.cancel("b")
    assert await plan_state(hand) == "running"
    await hand.run()
    assert await plan_state(hand) == end


async def test_cancelling_all_that_waits_and_then_what_runs_ends_the_plan(hand: Hand) -> None:
    await hand.plan("p", ("fixed", "continue", "a", "b", ("fifo", "continue", "c", "d")))
    for job in ("d", "b", "c", "a"):
        await hand.journal.cancel(job)
        await hand.look()
    assert await plan_state(hand) == "done"


async def test_a_cancelled_member_that_has_expired_meanwhile_is_passed_over(hand: Hand) -> None:
    await hand.plan("p", ("fixed", "continue", "a", "b", "c"))
    await hand.journal.cancel("b")
    await hand.redis("UNLINK", hand.keys.job("b"), hand.keys.events("b"))
    assert await hand.run() == ["a", "c"]
    assert await plan_state(hand) == "done"


async def test_a_cancelled_member_of_a_fifo_is_one_less(hand: Hand) -> None:
    await hand.plan("p", ("fifo", "continue", "a", "b"))
    await hand.journal.cancel("a")
    assert await hand.run() == ["b"]
    assert await plan_state(hand) == "done"


async def test_a_late_answer_of_a_cancelled_member_moves_the_plan_no_further(hand: Hand) -> None:
    await hand.plan("p", ("fixed", "continue", "a", "b", "c"))
    claim = await hand.claim()
    await hand.journal.cancel("a")
    assert (await hand.commit(claim, decision=decides(1, 1, ends=DONE))).status == "ended"
    assert await hand.states("a", "b", "c") == ["cancelled", "running", "waiting"]


# Members that were retried -------------------------------------------------------------------------


@pytest.mark.parametrize("retried", ["before its turn", "and done by its turn", "not at all"])
@pytest.mark.parametrize(
    ("on_failure", "last", "plan"), [("stop", "cancelled", "failed"), ("continue", "running", "running")]
)
async def test_a_member_cancelled_before_its_turn_has_failed_whatever_becomes_of_its_retry(
    hand: Hand, on_failure: str, last: str, plan: str, retried: str
) -> None:
    await hand.plan("p", ("fixed", on_failure, "a", "b", "c"))
    await hand.journal.cancel("b")
    a = await hand.claim()
    if retried != "not at all":
        await hand.journal.retry("b")
    if retried == "and done by its turn":
        await hand.journal.redo("b", (await hand.journal.load("b")).basis, [])
        await hand.finish(await hand.claim())
        assert await hand.state("b") == "done"
    await hand.finish(a)
    assert await hand.state("c") == last
    assert await plan_state(hand) == plan


async def test_a_retried_member_is_left_alone_when_its_plan_stops(hand: Hand) -> None:
    await hand.plan("p", ("fixed", "stop", "a", "b", "c"))
    await hand.journal.cancel("c")
    await hand.journal.retry("c")
    await hand.finish(await hand.claim(), FAILED)
    assert await hand.states("a", "b", "c") == ["failed", "cancelled", "running"]
    assert await plan_state(hand) == "failed"
    assert (await hand.journal.load("c")).view.plan is None


async def test_an_id_that_another_plan_has_by_now_is_no_member(hand: Hand) -> None:
    await hand.plan("p", ("fixed", "stop", "a", "b", "c"))
    await hand.journal.cancel("c")
    await hand.redis("UNLINK", hand.keys.job("c"), hand.keys.events("c"))
    await hand.plan("q", ("fixed", "stop", "first", "c"))
    await hand.finish(await hand.claim(), FAILED)
    assert await hand.states("b", "c") == ["cancelled", "waiting"]


@pytest.mark.parametrize("state", ["running", "done"])
async def test_the_same_extension_after_a_retry_is_no_conflict(hand: Hand, state: str) -> None:
    await hand.plan("p", ("fifo", "continue", "a"))
    more = [starts("b", "x")]
    await hand.journal.extend("p", more)
    await hand.journal.cancel("b")
    await hand.journal.retry("b")
    if state == "done":
        await hand.journal.redo("b", (await hand.journal.load("b")).basis, [])
        await hand.run()
    again = await hand.journal.extend("p", more)
    assert (again.status, again.tickets) == ("extended", [])
    assert (await hand.journal.extend("p", [starts("b", "x", agent="other")])).status == "conflict"


# Extending ----------------------------------------------------------------------------------------


async def test_a_fixed_plan_takes_more_at_its_tail_while_it_runs(hand: Hand) -> None:
    await hand.plan("p", ("fixed", "stop", "a"))
    done = await hand.journal.extend("p", [starts("b", "x"), starts("c", "x")])
    assert (done.status, done.tickets) == ("extended", [])
    assert await hand.states("a", "b", "c") == ["running", "waiting", "waiting"]
    await hand.look()
    assert await hand.run() == ["a", "b", "c"]
    assert (await hand.journal.load("b")).view.plan == "p"


async def test_a_fixed_plan_at_rest_takes_the_newcomer_at_once_and_only_one(hand: Hand) -> None:
    await hand.plan("p", ("fixed", "stop", "a"))
    await hand.run()
    assert await plan_state(hand) == "done"
    done = await hand.journal.extend("p", [starts("b", "x"), starts("c", "x")])
    assert [t.job for t in done.tickets] == ["b"]
    assert await plan_state(hand) == "running"
    await hand.look()
    assert await hand.run() == ["b", "c"]
    assert await plan_state(hand) == "done"


@pytest.mark.parametrize("rest", [True, False])
async def test_a_fifo_plan_takes_newcomers_at_once(hand: Hand, rest: bool) -> None:
    await hand.plan("p", ("fifo", "continue", "a"))
    if rest:
        await hand.run()
    await hand.journal.extend("p", [starts("b", "x"), starts("c", "x")])
    assert await hand.states("b", "c") == ["running", "running"]
    assert await plan_state(hand) == "running"
    await hand.run()
    assert await plan_state(hand) == "done"


async def test_an_extended_plan_is_done_only_when_its_last_job_is(hand: Hand) -> None:
    await hand.plan("p", ("fixed", "stop", "a"))
    await hand.run()
    await hand.journal.extend("p", [starts("b", ends=DONE), starts("c", "x"), starts("d", ends=DONE)])
    assert await hand.states("b", "c", "d") == ["done", "running", "waiting"]
    assert await plan_state(hand) == "running"
    await hand.look()
    await hand.run()
    assert await hand.state("d") == "done"
    assert await plan_state(hand) == "done"


async def test_an_extension_that_fails_at_once_stops_what_comes_behind_it(hand: Hand) -> None:
    await hand.plan("p", ("fixed", "stop", "a"))
    await hand.run()
    await hand.journal.extend("p", [starts("b", ends=FAILED), starts("c", "x")])
    assert await hand.states("b", "c") == ["failed", "cancelled"]
    assert await plan_state(hand) == "failed"


async def test_a_plan_that_stopped_takes_no_more(hand: Hand) -> None:
    await hand.plan("p", ("fixed", "stop", "a", "b"))
    await hand.run(fails=["a"])
    before = await hand.whole()
    assert (await hand.journal.extend("p", [starts("c", "x")])).status == "stopped"
    assert await hand.whole() == before


async def test_a_plan_that_goes_on_after_failures_takes_more(hand: Hand) -> None:
    await hand.plan("p", ("fixed", "continue", "a"))
    await hand.run(fails=["a"])
    assert (await hand.journal.extend("p", [starts("c", "x")])).status == "extended"
    assert await hand.run() == ["c"]


async def test_an_extension_sent_twice_is_one(hand: Hand) -> None:
    await hand.plan("p", ("fixed", "stop", "a"))
    more = [starts("b", "x"), starts("c", "x")]
    await hand.journal.extend("p", more)
    before = await hand.whole()
    again = await hand.journal.extend("p", more)
    assert (again.status, again.tickets) == ("extended", [])
    assert await hand.whole() == before
    await hand.run(fails=["a"])
    assert (await hand.journal.extend("p", more)).status == "extended"  # it was, whatever came of it


@pytest.mark.parametrize("case", ["another plan's", "no plan's", "other input", "half of it", "twice"])
async def test_an_extension_with_an_id_that_is_taken_is_refused_whole(hand: Hand, case: str) -> None:
    await hand.plan("p", ("fixed", "stop", "a"))
    more = [starts("b", "x"), starts("c", "x")]
    if case == "another plan's":
        await hand.plan("q", ("fixed", "stop", "c"), [starts("c", "x")])
    elif case == "no plan's":
        await hand.submit(starts("c", "x"))
    elif case == "other input":
        await hand.journal.extend("p", [starts("c", "x", agent="other")])
    elif case == "half of it":
        await hand.journal.extend("p", [starts("c", "x")])
    else:
        more.append(starts("c", "x"))
    before = await hand.whole()
    done = await hand.journal.extend("p", more)
    assert (done.status, done.conflict) == ("conflict", "c")
    assert await hand.whole() == before


async def test_an_unknown_plan_cannot_be_extended(hand: Hand) -> None:
    assert (await hand.journal.extend("nobody", [starts("a", "x")])).status == "unknown"
    assert await hand.whole() == {}


async def test_a_thousand_jobs_extend_a_plan_in_one_call(hand: Hand) -> None:
    await hand.plan("p", ("fixed", "continue", "a"))
    await hand.run()
    ids = [f"j{i:04}" for i in range(1000)]
    await hand.journal.extend("p", [starts(id, ends=FAILED) for id in ids])
    assert set(await hand.states(*ids[::100])) == {"failed"}
    assert await plan_state(hand) == "done"


# Crashes ------------------------------------------------------------------------------------------


async def test_a_crash_at_any_point_of_a_chain_leaves_somebody_to_move_it(hand: Hand) -> None:
    await hand.plan("p", ("fixed", "stop", "a", "b"), [starts("b")])
    await hand.lose(await hand.claim())  # a worker dies over the call,
    await hand.commit(await hand.claim())  # another between commit and turn,
    await hand.look()
    await hand.ring()
    await hand.reap()
    await hand.lose(await hand.claim("turns"))  # a third over the turn;
    turn = await hand.claim("turns")
    await hand.journal.advance("a", decides(1, 1, ends=DONE), token=turn.token)
    assert await hand.states("a", "b") == ["done", "running"]
    turn = await hand.claim("turns")  # its ticket was lost, which nobody here would notice
    await hand.journal.advance("b", decides(0, 0, ends=DONE), token=turn.token)
    assert await plan_state(hand) == "done"
