"""Invariants 4, 6 and 7: something moves every unfinished job, whatever crashed between two verbs."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from aios_dist.errors import WorkerLost
from aios_dist.model.jobs import JobState, Kind, Outcome, decode
from tests.redis.conftest import decides, starts

if TYPE_CHECKING:
    from tests.redis.conftest import Hand


# Turns that are steps of their own ---------------------------------------------------------------


async def test_a_job_without_turn_0_gets_a_turn_on_the_lane_of_turns(hand: Hand) -> None:
    done = await hand.journal.submit([starts("j")])
    assert [(t.lane, t.job, t.step) for t in done.tickets] == [("turns", "j", "t")]
    turn = await hand.claim("turns")
    assert (turn.kind, turn.is_turn, turn.version) == (Kind.TURN, True, 0)
    assert turn.record.agent == "a"
    advance = await hand.journal.advance("j", decides(0, 0, "one"), token=turn.token)
    assert advance.status == "advanced"
    assert await hand.names() == ["j/0"]
    assert await hand.members(hand.keys.leases) == set()
    assert (await hand.reap()).moved == 0


async def test_a_commit_by_a_worker_without_the_agents_code_calls_for_a_turn(hand: Hand) -> None:
    await hand.submit(starts("j", "one"))
    done = await hand.commit(await hand.claim(), turn_here=False)
    assert done.status == "turn"
    assert [(t.lane, t.step) for t in done.tickets] == [("turns", "t")]
    turn = await hand.claim("turns")
    assert turn.version == 1


async def test_a_job_needs_one_turn_at_a_time_however_many_outcomes_come(hand: Hand) -> None:
    await hand.submit(starts("j", "one", "two", "three"))
    claims = [await hand.claim() for _ in range(3)]
    first = await hand.commit(claims[0], turn_here=False)
    second = await hand.commit(claims[1], turn_here=False)
    assert (len(first.tickets), len(second.tickets)) == (1, 0)
    turn = await hand.claim("turns")
    assert (await hand.commit(claims[2], turn_here=False)).tickets == []
    assert await hand.names("turns") == []
    # The turn that runs has seen less than there is: it must look again before it may write.
    stale = await hand.journal.advance("j", decides(2, 3, "four"), token=turn.token)
    assert (stale.status, stale.version) == ("stale", 3)
    assert await hand.members(hand.keys.leases) == {turn.lease}
    done = await hand.journal.advance("j", decides(3, 3, "four"), token=turn.token)
    assert done.status == "advanced"
    assert await hand.names() == ["j/3"]


async def test_a_turn_whose_worker_died_is_run_again(hand: Hand) -> None:
    await hand.submit(starts("j"))
    lost = await hand.claim("turns", "w1")
    await hand.lose(lost)
    again = await hand.claim("turns", "w2")
    assert again.attempt == lost.attempt + 1
    await hand.look()
    assert (await hand.journal.advance("j", decides(0, 0, "one"), token=again.token)).status == "advanced"
    assert (await hand.journal.advance("j", decides(0, 0, "one"), token=lost.token)).status == "stale"
    assert (await hand.journal.load("j")).view.steps == 1


async def test_a_late_turn_is_written_and_takes_its_step_off_the_lane(hand: Hand) -> None:
    await hand.submit(starts("j"))
    late = await hand.claim("turns")
    await hand.lose(late)
    assert await hand.names("turns") == ["j/t"]
    assert (await hand.journal.advance("j", decides(0, 0, "one"), token=late.token)).status == "advanced"
    assert await hand.names("turns") == []
    await hand.look()


async def test_a_late_turn_does_not_end_the_lease_of_the_next(hand: Hand) -> None:
    await hand.submit(starts("j"))
    late = await hand.claim("turns")
    await hand.lose(late)
    now = await hand.claim("turns")
    assert (await hand.journal.advance("j", decides(0, 0, "one"), token=late.token)).status == "advanced"
    assert await hand.members(hand.keys.leases) == {now.lease}
    same = await hand.journal.advance("j", decides(0, 0, "one"), token=now.token)
    assert (same.status, same.tickets) == ("stale", []), (
        "it replays, and sees that nothing is left to ask for"
    )
    same = await hand.journal.advance("j", decides(0, 1), token=now.token)
    assert (same.status, same.tickets) == ("advanced", [])
    assert await hand.members(hand.keys.leases) == set()


async def test_a_job_whose_turn_kills_every_worker_fails(hand: Hand) -> None:
    await hand.submit(starts("j"))
    for _ in range(hand.config.attempts):
        await hand.look()
        await hand.lose(await hand.claim("turns"))
    state, result = await hand.journal.state("j")
    assert state is JobState.FAILED
    with pytest.raises(WorkerLost):
        decode(result, Outcome).result()


async def test_a_turn_handed_back_with_a_delay_waits_without_a_slot(hand: Hand) -> None:
    await hand.submit(starts("j"))
    await hand.journal.release(await hand.claim("turns"), "no code for this agent", after=60)
    assert await hand.names("turns") == []
    await hand.ring()
    await hand.reap()
    assert await hand.names("turns") == ["j/t"]


# Gathering ---------------------------------------------------------------------------------------


async def test_of_two_commits_that_saw_the_same_journal_the_second_is_told_to_look_again(hand: Hand) -> None:
    await hand.submit(starts("j", "one", "two"))
    one, two = await hand.claim(), await hand.claim()
    assert (await hand.commit(one, decision=decides(1, 2))).status == "advanced"
    stale = await hand.commit(two, decision=decides(1, 2, "three"))
    assert (stale.status, stale.version) == ("turn", 2)
    assert (await hand.journal.load("j")).view.steps == 2
    assert await hand.members(hand.keys.due) == {"j"}
    await hand.look()
    assert (await hand.journal.advance("j", decides(2, 2, "three"))).status == "advanced"
    assert await hand.members(hand.keys.due) == set()


async def test_a_decision_that_knew_fewer_steps_is_not_written(hand: Hand) -> None:
    await hand.submit(starts("j", "one"))
    done = await hand.commit(await hand.claim(), decision=decides(1, 0, "one", "two"))
    assert done.status == "turn"
    assert (await hand.journal.load("j")).view.steps == 1


async def test_outcomes_are_numbered_in_the_order_of_writing(hand: Hand) -> None:
    await hand.submit(starts("j", "a", "b", "c"))
    claims = {c.step: c for c in [await hand.claim() for _ in range(3)]}
    for step in ("2", "0", "1"):
        await hand.commit(claims[step], f"answer {step}")
    outcomes = (await hand.journal.load("j")).outcomes()
    assert [(n, o.result().text) for n, o in outcomes] == [(2, "answer 2"), (0, "answer 0"), (1, "answer 1")]


# Advancing ---------------------------------------------------------------------------------------


async def test_the_same_turn_written_twice_is_written_once(hand: Hand) -> None:
    await hand.submit(starts("j", "one"))
    await hand.commit(await hand.claim())
    assert len((await hand.journal.advance("j", decides(1, 1, "two", "three"))).tickets) == 2
    before = await hand.whole()
    again = await hand.journal.advance("j", decides(1, 1, "two", "three"))
    assert (again.status, again.version, again.tickets) == ("stale", 1, [])
    assert await hand.whole() == before


async def test_a_turn_that_saw_too_little_writes_nothing(hand: Hand) -> None:
    await hand.submit(starts("j", "one"))
    await hand.commit(await hand.claim())
    before = await hand.whole()
    assert (await hand.journal.advance("j", decides(0, 1, "two"))).status == "stale"
    assert await hand.whole() == before


async def test_a_turn_of_a_job_that_has_ended_writes_nothing(hand: Hand) -> None:
    await hand.submit(starts("j", "one"))
    await hand.commit(await hand.claim())
    await hand.journal.advance("j", decides(1, 1, ends=JobState.DONE))
    before = await hand.whole()
    assert (await hand.journal.advance("j", decides(1, 1, ends=JobState.FAILED))).status == "ended"
    assert (await hand.journal.advance("j", decides(1, 1, "two"))).status == "ended"
    assert await hand.whole() == before


async def test_a_turn_of_an_unknown_job_writes_nothing(hand: Hand) -> None:
    assert (await hand.journal.advance("nobody", decides(0, 0, "one"), token="x")).status == "gone"
    assert await hand.whole() == {}


async def test_a_turn_frees_its_lease_where_the_job_has_ended(hand: Hand) -> None:
    await hand.submit(starts("j"))
    turn = await hand.claim("turns")
    await hand.journal.cancel("j")
    assert (await hand.journal.advance("j", decides(0, 0), token=turn.token)).status == "ended"
    assert await hand.members(hand.keys.leases) == set()


# Crashes between two writes ----------------------------------------------------------------------


async def test_a_crash_after_claiming_costs_nothing_but_the_attempt(hand: Hand) -> None:
    await hand.submit(starts("j", "one"), starts("k", "one"))
    before = (await hand.journal.load("j")).steps[0]
    await hand.lose(await hand.claim())
    after = (await hand.journal.load("j")).steps[0]
    assert (after.rank, after.ready_at, after.attempt) == (before.rank, before.ready_at, 1)
    assert await hand.names() == ["j/0", "k/0"]


async def test_a_crash_between_a_commit_and_its_turn_is_made_good_by_time(hand: Hand) -> None:
    await hand.submit(starts("j", "one"))
    assert (await hand.commit(await hand.claim(), turn_here=True)).tickets == []
    assert (await hand.reap()).moved == 0  # the worker still has its time
    await hand.ring()
    assert (await hand.reap()).moved == 1
    assert await hand.names("turns") == ["j/t"]


async def test_a_crash_between_the_reconcilers_turn_and_its_writing_is_made_good_again(hand: Hand) -> None:
    await hand.submit(starts("j", "one"))
    await hand.commit(await hand.claim())
    await hand.ring()
    await hand.reap()
    await hand.lose(await hand.claim("turns"))
    turn = await hand.claim("turns")
    assert (await hand.journal.advance("j", decides(1, 1, "two"), token=turn.token)).status == "advanced"
    await hand.ring()
    assert (await hand.reap()).moved == 0
    assert await hand.names("turns") == []


async def test_a_crash_between_a_stale_turn_and_the_next_try_is_made_good(hand: Hand) -> None:
    await hand.submit(starts("j", "one", "two"))
    one, two = await hand.claim(), await hand.claim()
    await hand.commit(one)
    await hand.commit(two)
    assert (await hand.journal.advance("j", decides(1, 2))).status == "stale"
    await hand.look()
    await hand.ring()
    await hand.reap()
    assert await hand.names("turns") == ["j/t"]


async def test_a_running_job_that_nothing_would_move_gets_a_turn(hand: Hand) -> None:
    await hand.submit(starts("j", "one"))
    await hand.commit(await hand.claim())
    await hand.redis("DEL", hand.keys.due)  # what no verb does: found all the same
    assert (await hand.reap()).moved == 1
    assert await hand.names("turns") == ["j/t"]
    assert (await hand.reap()).moved == 0


async def test_a_step_that_every_worker_was_lost_over_ends_as_an_error_that_the_agent_sees(
    hand: Hand,
) -> None:
    await hand.submit(starts("j", "one", "two"))
    for _ in range(hand.config.attempts):
        claim = await hand.claim()
        assert claim.step == "0"
        await hand.lose(claim)
    await hand.look()
    assert await hand.names() == ["j/1"]
    assert await hand.names("turns") == ["j/t"]
    history = await hand.journal.load("j")
    assert history.view.state is JobState.RUNNING
    assert history.view.outcomes == 1
    [(number, outcome)] = history.outcomes()
    assert number == 0
    with pytest.raises(WorkerLost):
        outcome.result()
    assert (await hand.commit(claim, "late")).status == "written"
    turn = await hand.claim("turns")
    assert (await hand.journal.advance("j", decides(1, 2, "three"), token=turn.token)).status == "advanced"
    assert await hand.names() == ["j/1", "j/2"]


async def test_steps_given_back_do_not_count_as_lost_workers(hand: Hand) -> None:
    await hand.submit(starts("j", "one"))
    for _ in range(2 * hand.config.attempts):
        await hand.journal.release(await hand.claim(), "429")
    assert await hand.names() == ["j/0"]
    await hand.lose(await hand.claim())
    assert await hand.names() == ["j/0"]


async def test_a_step_that_waits_for_time_holds_no_slot_and_comes_back_with_its_old_rank(hand: Hand) -> None:
    await hand.submit(starts("a", "x"), starts("b", "x"), starts("c", "x"))
    first = await hand.claim()
    assert await hand.journal.release(first, "429", after=60) == []
    assert await hand.members(hand.keys.leases) == set()
    assert await hand.names() == ["b/0", "c/0"]
    assert (await hand.reap()).moved == 0
    await hand.ring()
    assert (await hand.reap()).moved == 1
    assert await hand.names() == ["a/0", "b/0", "c/0"]
    assert (await hand.claim()).attempt == 2


async def test_the_reconciler_is_told_when_the_next_timer_or_lease_ends(hand: Hand) -> None:
    await hand.submit(starts("a", "x"), starts("b", "x"))
    assert (await hand.reap()).next_s is None
    first = await hand.claim()
    await hand.claim()
    lease_end = (await hand.reap()).next_s
    assert lease_end is not None
    await hand.journal.release(first, "429", after=30)
    timer = (await hand.reap()).next_s
    assert timer is not None
    assert timer < lease_end
    assert abs(timer - (await hand.journal.now() + 30)) < 10


async def test_a_pass_of_the_reconciler_is_bounded_and_the_next_goes_on(hand: Hand) -> None:
    await hand.submit(*(starts(f"j{i:02}", "x") for i in range(25)))
    for _ in range(25):
        await hand.claim()
    await hand.lapse()
    moved = [(await hand.reap(page=10)).moved for _ in range(4)]
    assert moved == [10, 10, 5, 0]
    assert len(await hand.names()) == 25


async def test_the_reconcilers_look_at_open_jobs_goes_page_by_page_and_begins_again(hand: Hand) -> None:
    await hand.submit(*(starts(f"j{i:02}", "x") for i in range(25)))
    stuck = []
    for _ in range(25):
        claim = await hand.claim()
        await hand.commit(claim)
        stuck.append(claim.job)
    await hand.redis("DEL", hand.keys.due)
    cursor, found = "0", []
    for _ in range(3):
        reaped = await hand.reap(cursor=cursor, page=10)
        cursor = reaped.cursor
        found.append(reaped.moved)
    assert found == [10, 10, 5]
    assert cursor == "0"
    assert await hand.names("turns") == [f"{job}/t" for job in stuck]


async def test_many_due_turns_are_found_over_several_passes(hand: Hand) -> None:
    await hand.submit(*(starts(f"j{i:02}", "x") for i in range(25)))
    for _ in range(25):
        await hand.commit(await hand.claim())
    await hand.ring()
    for _ in range(3):
        await hand.reap(page=10)
    assert len(await hand.names("turns")) == 25
