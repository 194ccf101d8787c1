"""Retry, fork and dead letters: what is answered stays answered and is not paid again."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec
import pytest

from aios_dist.journal.heads import unpack_head
from aios_dist.model.calls import LLMResponse, Usage
from aios_dist.model.jobs import JobState, Outcome
from aios_dist.model.specs import Budget
from tests.redis.conftest import USED, decides, starts

if TYPE_CHECKING:
    from aios_dist.journal import Advance, Claim
    from tests.redis.conftest import Hand


async def answer(
    hand: Hand, claim: Claim, *more: str, ends: str = "", ok: bool = True, **also: Any
) -> Advance:
    """Commit a step and what the program then asks for, or its end."""
    view = (await hand.journal.load(claim.job)).view
    end = JobState(ends) if ends else None
    decision = decides(view.outcomes + 1, view.steps, *more, ends=end, **also)
    return await hand.commit(claim, f"{claim.step}", ok=ok, decision=decision)


async def retry(hand: Hand, *undone: int, job: str = "j") -> list[str]:
    """A program that has been replayed says what to run again."""
    basis = (await hand.journal.load(job)).basis
    status, tickets = await hand.journal.retry(job, basis=basis, undone=undone)
    assert status == "running"
    await hand.look()
    return sorted(f"{t.job}/{t.step}" for t in tickets if t.step != "t")


def failure(text: str) -> Outcome:
    return Outcome.failed(ValueError(text))


# Retry -------------------------------------------------------------------------------------------------


async def test_a_failed_job_goes_on_from_the_step_that_failed(hand: Hand) -> None:
    await hand.submit(starts("j", "x"))
    await answer(hand, await hand.claim(), "y")
    await answer(hand, await hand.claim(), ends="failed", ok=False)
    assert await hand.state("j") == "failed"
    await hand.look()
    assert await retry(hand, 1) == ["j/1"]
    history = await hand.journal.load("j")
    assert [n for n, _ in history.outcomes()] == [0]
    claim = await hand.claim()
    assert (claim.step, claim.tries) == ("1", 0)
    await answer(hand, claim, ends="done")
    assert await hand.state("j") == "done"
    assert [n for n, _ in (await hand.journal.load("j")).outcomes()] == [0, 1]


async def test_a_retry_asked_for_twice_is_one(hand: Hand) -> None:
    await hand.submit(starts("j", "x"))
    await answer(hand, await hand.claim(), ends="failed", ok=False)
    await retry(hand, 0)
    before = await hand.whole()
    assert await hand.journal.retry("j") == ("running", [])
    assert await hand.whole() == before


async def test_a_failure_reported_again_after_a_retry_is_not_written_again(hand: Hand) -> None:
    await hand.submit(starts("j", "x"))
    claim = await hand.claim()
    await answer(hand, claim, ends="failed", ok=False)
    await retry(hand, 0)
    again = await hand.claim()
    assert (await hand.commit(claim, ok=False)).status == "fenced", "the answer to the first was lost"
    assert (again.birth, again.incarnation) != (claim.birth, claim.incarnation)
    assert again.birth == claim.birth


async def test_a_claim_whose_failure_was_undone_is_not_regained_by_a_redis_that_was_put_back_meanwhile(
    hand: Hand,
) -> None:
    """It knew nothing of the claim, took its answer all the same, and so counts fewer attempts."""
    await hand.submit(starts("j", "x"))
    claim = await hand.claim()
    await answer(hand, claim, ends="failed", ok=False)
    await retry(hand, 0)
    head = unpack_head(await hand.redis("HGET", hand.keys.job("j"), "h0"))
    head = msgspec.structs.replace(head, attempt=0)
    await hand.redis("HSET", hand.keys.job("j"), "h0", msgspec.msgpack.encode(head))
    assert await hand.journal.regain([claim]) == [claim]
    assert (await hand.claim()).lease != claim.lease


@pytest.mark.parametrize("state", ["running", "paused", "done", "waiting", "unknown"])
async def test_only_what_failed_or_was_cancelled_is_retried(hand: Hand, state: str) -> None:
    if state == "done":
        await hand.submit(starts("j", ends=JobState.DONE))
    elif state == "waiting":
        await hand.plan("p", ("fixed", "stop", "a", "j"))
    elif state != "unknown":
        await hand.submit(starts("j", "x"))
        if state == "paused":
            await hand.journal.pause("j")
    before = await hand.whole()
    assert (await hand.journal.retry("j"))[0] == state
    assert await hand.whole() == before


async def test_a_failure_that_the_program_went_on_from_stays_in_its_history(hand: Hand) -> None:
    await hand.submit(starts("j", "x"))
    await answer(hand, await hand.claim(), "y", ok=False)  # caught
    await answer(hand, await hand.claim(), ends="failed")  # and then the program raises on its own
    assert await retry(hand) == []
    assert await hand.names("turns") == ["j/t"], "run again: its code may be another now"
    assert [n for n, _ in (await hand.journal.load("j")).outcomes()] == [0, 1]


async def test_only_the_failure_at_the_end_is_undone(hand: Hand) -> None:
    await hand.submit(starts("j", "x"))
    await answer(hand, await hand.claim(), "y", ok=False)  # caught
    await answer(hand, await hand.claim(), ends="failed", ok=False)
    assert await retry(hand, 1) == ["j/1"]
    assert [n for n, _ in (await hand.journal.load("j")).outcomes()] == [0]


async def test_all_failed_branches_of_a_gather_are_tried_again_and_no_other(hand: Hand) -> None:
    await hand.submit(starts("j", "x", "y", "z"))
    one, two, three = await hand.drain()
    await hand.commit(two, ok=False)
    await hand.commit(one)
    await answer(hand, three, ends="failed", ok=False)
    assert await retry(hand, 1, 2) == ["j/1", "j/2"]
    history = await hand.journal.load("j")
    assert [(n, o.response) for n, o in history.outcomes()] == [(0, LLMResponse("answer"))]


async def test_a_branch_that_failed_while_others_went_on_is_tried_again(hand: Hand) -> None:
    await hand.submit(starts("j", "x", "y"))
    one, two = await hand.drain()
    await hand.commit(one, "the reason", ok=False, decision=decides(1, 2))
    await answer(hand, two, "z")  # the other branch goes on, and its end is the gather's
    last = await hand.claim()
    await answer(hand, last, ends="failed", result=failure("the reason"))
    assert await retry(hand, 0) == ["j/0"]
    assert [n for n, _ in (await hand.journal.load("j")).outcomes()] == [1, 2]
    await answer(hand, await hand.claim(), ends="done")
    assert [n for n, _ in (await hand.journal.load("j")).outcomes()] == [1, 2, 0]


async def test_a_failure_raised_again_after_cleaning_up_stays_in_the_history(hand: Hand) -> None:
    await hand.submit(starts("j", "x"))
    claim = await hand.claim()
    await hand.commit(claim, "the reason", ok=False, decision=decides(1, 1, "clean up"))
    await answer(hand, await hand.claim(), ends="failed", result=failure("the reason"))
    assert await retry(hand) == []
    assert [n for n, _ in (await hand.journal.load("j")).outcomes()] == [0, 1]


async def test_a_cancelled_job_goes_on_with_what_was_dropped(hand: Hand) -> None:
    await hand.submit(starts("j", "x", "y", "sleep:60", "signal:go"))
    await answer(hand, await hand.claim())
    await hand.journal.cancel("j")
    await hand.look()
    assert await retry(hand) == ["j/1"]
    assert await hand.members(hand.keys.timers) == {"j/2"}
    assert (await hand.journal.signal("j", "go", Outcome()))[0] == "delivered"


async def test_outcomes_that_no_turn_has_seen_are_seen_after_a_retry(hand: Hand) -> None:
    await hand.submit(starts("j", "x", "signal:go"))
    assert (await hand.commit(await hand.claim())).status == "turn"  # and the worker dies
    await hand.journal.cancel("j")
    await retry(hand)
    assert await hand.names("turns") == ["j/t"]


async def test_a_call_in_flight_over_cancel_and_retry_is_not_called_again(hand: Hand) -> None:
    await hand.submit(starts("j", "x"))
    claim = await hand.claim()
    await hand.journal.cancel("j")
    assert await retry(hand) == []
    assert await hand.names() == []
    assert (await answer(hand, claim, ends="done")).status == "advanced"


async def test_an_answer_between_cancel_and_retry_is_kept(hand: Hand) -> None:
    await hand.submit(starts("j", "x"))
    claim = await hand.claim()
    await hand.journal.cancel("j")
    assert (await hand.commit(claim)).status == "ended"
    assert await retry(hand) == []
    assert await hand.names("turns") == ["j/t"]


async def test_a_call_lost_over_cancel_and_retry_is_made_again(hand: Hand) -> None:
    await hand.submit(starts("j", "x"))
    claim = await hand.claim()
    await hand.journal.cancel("j")
    await retry(hand)
    await hand.lose(claim)
    assert await hand.names() == ["j/0"]


async def test_a_member_that_is_retried_is_its_own_job_and_its_plan_stays_as_it_ended(hand: Hand) -> None:
    await hand.plan("p", ("fixed", "stop", "j", "k"))
    await answer(hand, await hand.claim(), ends="failed", ok=False)
    assert (await hand.journal.plan("p")).state == "failed"
    assert await retry(hand, 0) == ["j/0"]
    await hand.finish(await hand.claim())
    assert await hand.states("j", "k") == ["done", "cancelled"]
    assert (await hand.journal.plan("p")).state == "failed"


async def test_a_member_retried_before_its_turn_is_not_dropped_with_those_that_wait(hand: Hand) -> None:
    await hand.plan("p", ("fixed", "stop", "a", "b", "c"))
    await hand.journal.cancel("b")
    assert await retry(hand, job="b") == ["b/0"]
    claims = {c.job: c for c in await hand.drain()}
    await answer(hand, claims["a"], ends="failed", ok=False)
    assert await hand.states("a", "b", "c") == ["failed", "running", "cancelled"]
    await hand.finish(claims["b"])


async def test_a_retried_job_lives_until_it_ends_again(hand: Hand) -> None:
    await hand.submit(starts("j", "x"))
    await answer(hand, await hand.claim(), ends="failed", ok=False)
    assert await hand.redis("PTTL", hand.keys.job("j")) > 0
    await retry(hand, 0)
    assert await hand.redis("PTTL", hand.keys.job("j")) == -1
    assert await hand.members(hand.keys.ended) == set()
    await hand.finish(await hand.claim())
    assert await hand.redis("PTTL", hand.keys.job("j")) > 0


async def test_who_cannot_replay_lets_a_worker_say_what_is_run_again(hand: Hand) -> None:
    await hand.submit(starts("j", "x", "y", "z"))
    one, two, _three = await hand.drain()
    await hand.commit(one, ok=False)
    await hand.commit(two, ok=False)
    await hand.journal.cancel("j")
    await hand.journal.retry("j")
    await hand.look()
    turn = await hand.claim("turns")
    history = await hand.journal.load("j")
    assert history.retried
    assert history.outcomes() != []
    assert (await hand.journal.advance("j", decides(2, 3, "w"))).status == "stale", (
        "nothing before that is said"
    )
    assert (await hand.journal.redo("j", "another", [1]))[0] == "stale"
    status, tickets = await hand.journal.redo("j", history.basis, [1])
    assert (status, [t.step for t in tickets]) == ("redone", ["1"])
    assert await hand.journal.redo("j", history.basis, [1]) == ("redone", []), "said again, it is one"
    await hand.look()
    after = await hand.journal.load("j")
    assert [n for n, _ in after.outcomes()] == [0]
    assert not after.retried
    done = await hand.journal.advance("j", decides(1, 3), token=turn.token)
    assert done.status == "advanced"


async def test_a_decision_of_before_a_retry_does_not_hold_after_it(hand: Hand) -> None:
    """The numbers are the same again: three steps, and two outcomes after the next."""
    await hand.submit(starts("j", "x", "y", "z"))
    one, two, three = await hand.drain()
    await hand.commit(one, ok=False)
    seen = (await hand.journal.load("j")).basis
    await hand.journal.cancel("j")
    await retry(hand, 0)
    await hand.commit(two)
    assert (await hand.journal.load("j")).view.outcomes == 1
    stale = msgspec.structs.replace(decides(2, 3, "w"), basis=seen)
    assert (await hand.commit(three, decision=stale)).status == "turn"


# Dead letters ------------------------------------------------------------------------------------------


async def kill(hand: Hand, lane: str = "llm") -> None:
    for _ in range(hand.config.attempts):
        await hand.lose(await hand.claim(lane))


async def test_a_step_that_loses_every_worker_is_a_dead_letter_until_its_job_is_retried(hand: Hand) -> None:
    await hand.submit(starts("j", "x"))
    await kill(hand)
    (letter,) = await hand.journal.dead_letters()
    assert (letter.job, letter.step) == ("j", "0")
    turn = await hand.claim("turns")
    end = decides(1, 1, ends=JobState.FAILED)
    await hand.journal.advance("j", end, token=turn.token)
    assert await retry(hand, 0) == ["j/0"]
    assert await hand.journal.dead_letters() == []
    await kill(hand)
    assert len(await hand.journal.dead_letters()) == 1, "its lost workers were counted anew"


async def test_a_turn_that_loses_every_worker_is_a_dead_letter_and_can_be_retried(hand: Hand) -> None:
    await hand.submit(starts("j"))
    await kill(hand, "turns")
    assert [d.step for d in await hand.journal.dead_letters()] == ["t"]
    await retry(hand)
    assert await hand.journal.dead_letters() == []
    assert await hand.names("turns") == ["j/t"]


async def test_dead_letters_of_one_job_can_be_dropped(hand: Hand) -> None:
    for job in "jk":
        await hand.submit(starts(job, "x"))
        await kill(hand)
    assert [d.job for d in await hand.journal.dead_letters()] == ["k", "j"], "newest first"
    assert await hand.journal.drop_dead("j") == 1
    assert await hand.journal.drop_dead("j") == 0
    assert [d.job for d in await hand.journal.dead_letters()] == ["k"]


# Fork --------------------------------------------------------------------------------------------------


async def three(hand: Hand, end: str = "done") -> None:
    await hand.submit(starts("j", "x", tenant="acme"))
    await answer(hand, await hand.claim(), "y")
    await answer(hand, await hand.claim(), "z")
    if end:
        await answer(hand, await hand.claim(), ends=end)


@pytest.mark.parametrize("end", ["done", "failed", ""])
@pytest.mark.parametrize("step", [0, 1, 2, 3])
async def test_a_fork_has_the_history_before_its_step_and_pays_nothing_for_it(
    hand: Hand, step: int, end: str
) -> None:
    await three(hand, end)
    before = (await hand.journal.load("j")).steps
    status, tickets = await hand.journal.fork("j", "f", step)
    assert (status, [t.step for t in tickets if t.lane == "turns"]) == ("new", ["t"])
    await hand.look()
    fork = await hand.journal.load("f")
    assert fork.view.state is JobState.RUNNING
    assert (fork.view.usage, fork.view.money, fork.view.steps) == (Usage(), 0.0, step)
    assert fork.record == (await hand.journal.load("j")).record
    for mine, other in zip(fork.steps, before, strict=False):
        assert (mine.request, mine.digest, mine.outcome) == (other.request, other.digest, other.outcome)
    turn = await hand.claim("turns")
    assert turn.version == sum(s.outcome is not None for s in before[:step])


async def test_a_fork_of_half_a_gather_asks_again_only_for_what_has_no_answer(hand: Hand) -> None:
    await hand.submit(starts("j", "x", "y", "z"))
    _, two, three_ = await hand.drain()
    await hand.commit(three_, "third")
    await hand.commit(two, "second")
    _, tickets = await hand.journal.fork("j", "f", 3)
    assert sorted(t.step for t in tickets) == ["0", "t"]
    await hand.look()
    fork = await hand.journal.load("f")
    assert [n for n, _ in fork.outcomes()] == [2, 1], "in the order in which they were written"
    claim = await hand.claim()
    assert (claim.job, claim.step, claim.attempt, claim.tries) == ("f", "0", 1, 0)
    await hand.finish(claim)
    assert await hand.state("j") == "running"


async def test_a_fork_below_a_later_outcome_numbers_its_outcomes_anew(hand: Hand) -> None:
    await hand.submit(starts("j", "x", "y"))
    one, two = await hand.drain()
    await hand.commit(two)
    await hand.commit(one)
    await hand.journal.fork("j", "f", 1)
    await hand.look()
    assert [n for n, _ in (await hand.journal.load("f")).outcomes()] == [0]


async def test_a_fork_that_cannot_be_says_why(hand: Hand) -> None:
    await three(hand)
    await hand.submit(starts("taken", "x"))
    before = await hand.whole()
    for job, new, step, expected in (
        ("nobody", "f", 0, "unknown"),
        ("j", "taken", 0, "conflict"),
        ("j", "j", 0, "conflict"),
        ("j", "f", 4, "beyond"),
    ):
        assert await hand.journal.fork(job, new, step) == (expected, [])
    assert await hand.whole() == before


async def test_a_fork_asked_for_twice_is_one_but_another_is_a_conflict(hand: Hand) -> None:
    await three(hand)
    await hand.journal.fork("j", "f", 2)
    before = await hand.whole()
    assert await hand.journal.fork("j", "f", 2) == ("new", [])
    assert await hand.journal.fork("j", "f", 1) == ("conflict", [])
    assert await hand.whole() == before


async def test_a_fork_of_what_waits_begins_the_wait_anew(hand: Hand) -> None:
    await hand.submit(starts("j", "sleep:60", "signal:go", "x"))
    await hand.fail(await hand.claim(), after=60)
    _, tickets = await hand.journal.fork("j", "f", 3)
    assert sorted(t.step for t in tickets) == ["2", "t"]
    await hand.look()
    assert {"f/0", "j/0", "j/2"} == await hand.members(hand.keys.timers)
    assert (await hand.journal.signal("f", "go", Outcome()))[0] == "delivered"
    assert [s.outcome for s in (await hand.journal.load("j")).steps] == [None] * 3


async def test_a_fork_of_a_member_runs_beside_the_plan(hand: Hand) -> None:
    await hand.plan("p", ("fixed", "stop", "a", "b"))
    await hand.journal.fork("b", "f", 1)
    await hand.look()
    claims = await hand.drain()
    assert [c.job for c in claims] == ["a", "f"]
    for claim in claims:
        await hand.finish(claim)
    assert (await hand.journal.load("f")).view.plan is None
    assert (await hand.journal.load("f")).view.usage == USED


async def test_a_fork_of_a_call_that_counts_against_a_limit_counts_for_itself(hand: Hand) -> None:
    await hand.limit(flight=1)
    await hand.submit(starts("j", "x"))
    flying = await hand.claim()
    await hand.journal.fork("j", "f", 1)
    assert await hand.drain() == []
    await hand.look()
    await hand.finish(flying)
    assert (await hand.claim()).job == "f"


async def test_a_fork_has_the_limits_of_its_job_anew(hand: Hand) -> None:
    job = starts("j", "x", "y", "z", budget=Budget(tokens=8, money=2.0, on_budget="fail"), deadline=60.0)
    record = msgspec.structs.replace(job.record, expected_steps=7)
    await hand.submit(msgspec.structs.replace(job, record=record))
    for claim in await hand.drain():
        await hand.commit(claim)
    await hand.journal.fork("j", "f", 3)
    await hand.journal.fork("j", "g", 0)
    whole, *forks = [await hand.hash(hand.keys.job(id)) for id in "jfg"]
    for name in ("bt", "bm", "ob", "dl", "xs"):
        assert [facts[name] for facts in forks] == [whole[name]] * 2
    assert "f" in await hand.members(hand.keys.deadlines)
    turn = next(c for c in await hand.drain("turns") if c.job == "g")
    for step in range(2):  # 5 tokens each: the second is the last that it may make
        await hand.journal.advance("g", decides(step, step, "w"), token=turn.token)
        await hand.commit(await hand.claim())
    await hand.journal.advance("g", decides(2, 2, "w"), token=turn.token)
    assert await hand.drain() == []
    assert await hand.states("g", "j") == ["failed", "running"]
