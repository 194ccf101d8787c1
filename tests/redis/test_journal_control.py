"""Pause and resume in every state of a job's steps; sleeps and signals."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from aios_dist.config import Config
from aios_dist.errors import InvalidInput
from aios_dist.model.jobs import JobState, Outcome
from aios_dist.producer.fleet import AsyncFleet
from tests.redis.conftest import decides, starts

if TYPE_CHECKING:
    from tests.redis.conftest import Hand


async def resume(hand: Hand, job: str = "j") -> list[str]:
    status, tickets = await hand.journal.resume(job)
    assert status == "running"
    await hand.look()
    return [f"{t.job}/{t.step}" for t in tickets]


# Pause -------------------------------------------------------------------------------------------------


async def test_a_paused_job_has_nothing_ready_and_comes_back_with_its_old_rank(hand: Hand) -> None:
    await hand.submit(starts("j", "x", "y"), starts("k", "x"))
    assert await hand.journal.pause("j", "lunch") == "paused"
    assert await hand.names() == ["k/0"]
    assert (await hand.journal.load("j")).view.why == "lunch"
    await hand.look()
    assert await resume(hand) == ["j/0", "j/1"]
    assert await hand.names() == ["j/0", "j/1", "k/0"]
    assert (await hand.journal.load("j")).view.why == ""


async def test_pausing_and_resuming_twice_is_doing_it_once(hand: Hand) -> None:
    await hand.submit(starts("j", "x"))
    assert [await hand.journal.pause("j") for _ in range(2)] == ["paused", "paused"]
    before = await hand.whole()
    await hand.journal.pause("j", "other")
    assert await hand.whole() == before
    assert await resume(hand) == ["j/0"]
    assert await resume(hand) == []


@pytest.mark.parametrize("state", ["waiting", "done", "failed", "cancelled", "unknown"])
async def test_what_does_not_run_cannot_be_paused_or_resumed(hand: Hand, state: str) -> None:
    if state == "waiting":
        await hand.plan("p", ("fixed", "stop", "first", "j"))
    elif state in ("done", "failed"):
        await hand.submit(starts("j", ends=JobState(state)))
    elif state == "cancelled":
        await hand.submit(starts("j", "x"))
        await hand.journal.cancel("j")
    before = await hand.whole()
    assert await hand.journal.pause("j") == state
    assert (await hand.journal.resume("j"))[0] == state
    assert await hand.whole() == before


async def test_a_call_in_flight_ends_and_its_answer_waits_for_the_end_of_the_pause(hand: Hand) -> None:
    await hand.submit(starts("j", "x"))
    claim = await hand.claim()
    await hand.journal.pause("j")
    await hand.look()
    done = await hand.commit(claim, decision=decides(1, 1, "y"))
    assert (done.status, done.tickets) == ("paused", [])
    assert (await hand.journal.load("j")).view.steps == 1, "the turn is not run yet"
    assert await resume(hand) == ["j/t"]


async def test_a_lost_call_of_a_paused_job_is_put_aside(hand: Hand) -> None:
    await hand.submit(starts("j", "x"))
    claim = await hand.claim()
    await hand.journal.pause("j")
    await hand.lose(claim)
    await hand.look()
    assert await hand.names() == []
    assert (await hand.commit(claim, decision=decides(1, 1, "y"))).status == "paused", "late, and kept"
    assert await resume(hand) == ["j/t"]


async def test_a_lost_call_of_a_paused_job_is_made_again_after_it(hand: Hand) -> None:
    await hand.submit(starts("j", "x"))
    claim = await hand.claim()
    await hand.journal.pause("j")
    await hand.lose(claim)
    assert await resume(hand) == ["j/0"]


async def test_a_call_handed_back_during_a_pause_is_put_aside(hand: Hand) -> None:
    await hand.submit(starts("j", "x"))
    claim = await hand.claim()
    await hand.journal.pause("j")
    assert await hand.journal.release(claim, "shutdown") == []
    await hand.look()
    assert await resume(hand) == ["j/0"]


async def test_a_turn_that_waits_is_put_aside(hand: Hand) -> None:
    await hand.submit(starts("j"))
    await hand.journal.pause("j")
    assert await hand.names("turns") == []
    await hand.look()
    assert await resume(hand) == ["j/t"]
    assert await resume(hand) == []


@pytest.mark.parametrize("how", ["writes", "is lost", "is handed back"])
async def test_a_turn_that_runs_is_run_again_after_the_pause(hand: Hand, how: str) -> None:
    await hand.submit(starts("j"))
    turn = await hand.claim("turns")
    await hand.journal.pause("j")
    if how == "writes":
        done = await hand.journal.advance("j", decides(0, 0, "x"), token=turn.token)
        assert done.status == "ended"
    elif how == "is lost":
        await hand.lose(turn)
    else:
        await hand.journal.release(turn, "no code", after=1)
    await hand.look()
    assert await hand.members(hand.keys.leases) == set()
    assert await resume(hand) == ["j/t"]


async def test_a_turn_that_was_due_and_never_run_is_run_after_the_pause(hand: Hand) -> None:
    await hand.submit(starts("j", "x", "signal:go"))
    assert (await hand.commit(await hand.claim())).status == "turn"  # and the worker dies
    await hand.journal.pause("j")
    await hand.look()
    assert await resume(hand) == ["j/t"], "one branch waits for a human, the other has its answer"


async def test_a_back_off_ends_with_a_pause(hand: Hand) -> None:
    await hand.submit(starts("j", "x"))
    await hand.fail(await hand.claim(), after=60)
    await hand.journal.pause("j")
    assert await hand.members(hand.keys.timers) == set()
    await hand.look()
    assert await resume(hand) == ["j/0"]


async def test_a_held_step_is_put_aside_and_held_again(hand: Hand) -> None:
    await hand.limit(flight=1)
    await hand.submit(starts("a", "x"), starts("j", "x"))
    (flying,) = await hand.drain()
    await hand.journal.pause("j")
    await hand.look()
    assert await hand.by_model("held") == {}
    assert await resume(hand) == [], "it is held: nobody need look"
    assert await hand.drain() == []
    await hand.finish(flying)
    assert (await hand.claim()).job == "j"


async def test_a_paused_job_can_be_cancelled_and_its_plan_goes_on(hand: Hand) -> None:
    await hand.plan("p", ("fixed", "continue", "j", "k"))
    await hand.journal.pause("j")
    await hand.look()
    assert await hand.drain() == [], "a fixed order waits for the paused one"
    assert (await hand.journal.cancel("j"))[0] == "cancelled"
    assert await hand.names() == ["k/0"]


async def test_a_job_may_be_paused_for_longer_than_any_lease(hand: Hand) -> None:
    await hand.submit(starts("j", "x"))
    await hand.journal.pause("j")
    for _ in range(3):
        await hand.ring()
        await hand.lapse()
        await hand.reap()
        await hand.look()
    assert await hand.state("j") == "paused"
    assert await hand.redis("PTTL", hand.keys.job("j")) == -1


# Sleep ---------------------------------------------------------------------------------------------------


async def test_a_sleep_takes_no_slot_and_ends_by_time(hand: Hand) -> None:
    await hand.submit(starts("j", "sleep:3600"))
    assert await hand.names("turns") == []
    assert (await hand.reap()).moved == 0
    await hand.look()
    await hand.ring()
    assert (await hand.reap()).moved == 1
    assert await hand.names("turns") == ["j/t"]
    (step,) = (await hand.journal.load("j")).steps
    assert step.outcome == Outcome()
    assert (await hand.reap()).moved == 0, "once"


async def test_the_reconciler_is_told_when_the_first_sleep_ends(hand: Hand) -> None:
    await hand.submit(starts("j", "sleep:3600"), starts("k", "sleep:30"))
    next_s = (await hand.reap()).next_s
    assert next_s is not None
    assert 25 < next_s - await hand.journal.now() <= 30


async def test_a_sleep_that_ends_during_a_pause_is_over(hand: Hand) -> None:
    await hand.submit(starts("j", "sleep:60"))
    await hand.journal.pause("j")
    await hand.look()
    await hand.ring()
    await hand.reap()
    await hand.look()
    assert await hand.names("turns") == []
    assert await resume(hand) == ["j/t"]


async def test_a_sleep_of_a_job_that_was_cancelled_never_ends(hand: Hand) -> None:
    await hand.submit(starts("j", "sleep:60"))
    await hand.journal.cancel("j")
    assert await hand.members(hand.keys.timers) == set()


async def test_a_sleep_of_a_member_begins_when_its_turn_comes(hand: Hand) -> None:
    await hand.plan("p", ("fixed", "stop", "a", "j"), [starts("j", "sleep:60")])
    assert await hand.members(hand.keys.timers) == set()
    await hand.finish(await hand.claim())
    assert await hand.members(hand.keys.timers) == {"j/0"}


# Signals -------------------------------------------------------------------------------------------------


async def send(hand: Hand, value: object = None, name: str = "go", job: str = "j") -> str:
    return (await hand.journal.signal(job, name, Outcome(value=value)))[0]


async def values(hand: Hand) -> list[object]:
    return [s.outcome and s.outcome.value for s in (await hand.journal.load("j")).steps]


async def test_a_signal_answers_the_step_that_waits_for_it(hand: Hand) -> None:
    await hand.submit(starts("j", "signal:go", "signal:other"))
    await hand.look()
    status, tickets = await hand.journal.signal("j", "go", Outcome(value=7))
    assert (status, [(t.lane, t.step) for t in tickets]) == ("delivered", [("turns", "t")])
    assert await values(hand) == [7, None]


async def test_a_signal_that_comes_before_is_kept_for_the_first_who_waits(hand: Hand) -> None:
    await hand.submit(starts("j", "x"))
    assert [await send(hand, 1), await send(hand, 2), await send(hand, 3, "other")] == ["kept"] * 3
    claim = await hand.claim()
    done = await hand.commit(claim, decision=decides(1, 1, "signal:go", "signal:go", "signal:go"))
    assert done.status == "advanced"
    assert [t.step for t in done.tickets] == ["t"]
    assert (await values(hand))[1:] == [1, 2, None]
    assert await send(hand, 4) == "delivered"
    assert (await values(hand))[1:] == [1, 2, 4]


async def test_each_signal_answers_one_wait(hand: Hand) -> None:
    await hand.submit(starts("j", "signal:go", "signal:go"))
    assert [await send(hand, i) for i in range(3)] == ["delivered", "delivered", "kept"]
    assert await values(hand) == [0, 1]


@pytest.mark.parametrize("waits", [True, False])
async def test_a_signal_that_is_sent_again_is_not_the_next_answer(hand: Hand, waits: bool) -> None:
    """Its sender was not told, and sends it again under its id."""
    await hand.submit(starts("j", *(["signal:go", "signal:go"] if waits else ["x"])))
    value = Outcome(value="yes")
    told = [(await hand.journal.signal("j", "go", value, "once"))[0] for _ in range(2)]
    assert told == ["delivered" if waits else "kept"] * 2
    history = await hand.journal.load("j")
    assert history.view.outcomes == int(waits)
    assert await hand.redis("HGET", hand.keys.job("j"), "g|go") == (None if waits else b"0|1")


async def test_a_signal_over_the_limit_is_refused_before_it_is_sent(hand: Hand) -> None:
    await hand.submit(starts("j", "signal:go"))
    fleet = AsyncFleet(Config(fleet=hand.config))
    with pytest.raises(InvalidInput, match="more than input_limit"):
        await fleet.job("j").signal("go", "x" * (hand.config.input_limit + 1))
    await fleet.close()
    assert (await hand.journal.load("j")).view.outcomes == 0


async def test_a_signal_of_turn_0_is_answered_at_once_where_it_came_before_admission(hand: Hand) -> None:
    await hand.plan("p", ("fixed", "stop", "a", "j"), [starts("j", "signal:go")])
    assert await send(hand, 1) == "kept"
    await hand.look()
    await hand.finish(await hand.claim())
    assert await values(hand) == [1]
    assert await hand.names("turns") == ["j/t"]


async def test_a_signal_for_a_paused_job_is_delivered_and_the_turn_waits(hand: Hand) -> None:
    await hand.submit(starts("j", "signal:go"))
    await hand.journal.pause("j")
    assert await send(hand, 1) == "delivered"
    await hand.look()
    assert await hand.names("turns") == []
    assert await resume(hand) == ["j/t"]


async def test_a_signal_for_a_job_that_has_ended_or_never_was_says_so(hand: Hand) -> None:
    await hand.submit(starts("j", ends=JobState.DONE))
    before = await hand.whole()
    assert await send(hand) == "ended"
    assert await send(hand, job="nobody") == "unknown"
    assert await hand.whole() == before


async def test_a_job_that_waits_for_a_signal_outlives_every_reconciler(hand: Hand) -> None:
    await hand.submit(starts("j", "signal:go"))
    for _ in range(3):
        await hand.ring()
        assert (await hand.reap()).moved == 0
    assert await hand.redis("PTTL", hand.keys.job("j")) == -1
