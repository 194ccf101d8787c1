"""Cancelling: nothing of the job starts any more; calls in flight are told, and their answers kept."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec
import pytest

from aios_dist.journal.connection import open_client
from aios_dist.model.calls import Usage
from aios_dist.model.jobs import JobState, StepState
from tests.redis.conftest import decides, starts

if TYPE_CHECKING:
    from tests.redis.conftest import Hand


async def step_states(hand: Hand, job: str) -> list[str]:
    return [s.state.value for s in (await hand.journal.load(job)).steps]


async def test_cancelling_meets_steps_in_every_state(hand: Hand) -> None:
    await hand.submit(starts("j", "0", "1", "2", "3", "4"))
    done, failed, leased, timed = [await hand.claim() for _ in range(4)]
    await hand.commit(done)
    await hand.commit(failed, ok=False)
    await hand.journal.release(timed, "429", after=60)
    assert (await hand.journal.cancel("j"))[0] == "cancelled"
    assert await step_states(hand, "j") == ["done", "failed", "leased", "dropped", "dropped"]
    assert await hand.journal.claim("llm", "w") is None
    await hand.look()
    await hand.lapse(leased)
    await hand.ring()
    await hand.reap()
    assert await step_states(hand, "j") == ["done", "failed", "dropped", "dropped", "dropped"]
    assert await hand.journal.claim("llm", "w") is None
    assert await hand.journal.claim("turns", "w") is None


async def test_cancelling_a_waiting_job_drops_its_pending_steps(hand: Hand) -> None:
    await hand.plan("p", ("fixed", "stop", "a", "b"))
    assert await step_states(hand, "b") == ["pending"]
    assert (await hand.journal.cancel("b"))[0] == "cancelled"
    assert await step_states(hand, "b") == ["dropped"]


async def test_cancelling_drops_a_turn_that_waits(hand: Hand) -> None:
    await hand.submit(starts("j"), starts("k"))
    await hand.journal.release(await hand.claim("turns"), "no code", after=60)
    await hand.journal.cancel("j")
    await hand.journal.cancel("k")
    assert await hand.names("turns") == []
    assert await hand.members(hand.keys.timers) == set()


async def test_the_worker_that_calls_is_told(hand: Hand) -> None:
    await hand.submit(starts("j", "one", "two", "three"))
    one = await hand.claim(worker="w1")
    await hand.claim(worker="w2")
    client = open_client(hand.config.redis_url)
    try:
        async with client.pubsub(ignore_subscribe_messages=True) as news:
            await news.subscribe(hand.keys.control)
            assert await news.get_message(timeout=5) is None  # subscribed
            await hand.journal.cancel("j")
            told = []
            while len(told) < 2:
                message = await news.get_message(timeout=5)
                assert message is not None
                told.append(msgspec.msgpack.decode(message["data"]))
    finally:
        await client.aclose()
    assert told == [["drop", "j", "0", "w1"], ["drop", "j", "1", "w2"]]
    assert one.step == "0"


@pytest.mark.parametrize("noticed", [False, True])
async def test_the_late_answer_of_a_cancelled_job_is_kept_because_it_is_paid_for(
    hand: Hand, noticed: bool
) -> None:
    await hand.submit(starts("j", "one"))
    claim = await hand.claim()
    await hand.journal.cancel("j")
    if noticed:
        await hand.lose(claim)
    late = await hand.commit(claim, "late", decision=decides(1, 1, "two"))
    assert (late.status, late.version, late.tickets) == ("ended", 1, [])
    history = await hand.journal.load("j")
    assert (history.view.state, history.view.usage) == (JobState.CANCELLED, Usage(3, 2, 1))
    assert history.view.steps == 1
    assert history.steps[0].state is StepState.DONE
    assert (await hand.commit(claim)).status == "mine"
    assert await hand.names() == []


async def test_a_call_of_a_cancelled_job_that_is_given_back_is_not_tried_again(hand: Hand) -> None:
    await hand.submit(starts("j", "one", "two"))
    one, two = await hand.claim(), await hand.claim()
    await hand.journal.cancel("j")
    assert await hand.journal.release(one, "job ended") == []
    assert await hand.journal.release(two, "429", after=60) == []
    assert await step_states(hand, "j") == ["dropped", "dropped"]
    assert await hand.names() == []


async def test_calls_that_a_job_left_behind_when_it_ended_are_dropped_or_kept(hand: Hand) -> None:
    await hand.submit(starts("j", "one", "two", "three"))
    one, two = await hand.claim(), await hand.claim()
    # The program did not wait for all of its branches.
    assert (await hand.commit(one, decision=decides(1, 3, ends=JobState.DONE))).status == "advanced"
    assert await step_states(hand, "j") == ["done", "leased", "dropped"]
    assert (await hand.commit(two)).status == "ended"
    assert await step_states(hand, "j") == ["done", "done", "dropped"]


async def test_cancelling_what_has_ended_changes_nothing_and_says_so(hand: Hand) -> None:
    await hand.submit(starts("j", "one"), starts("k", "one"))
    await hand.finish(await hand.claim())
    assert await hand.journal.cancel("j") == ("ended", [])
    assert await hand.state("j") == "done"
    assert (await hand.journal.cancel("k"))[0] == "cancelled"
    before = await hand.whole()
    assert await hand.journal.cancel("k") == ("ended", [])
    assert await hand.journal.cancel("nobody") == ("unknown", [])
    assert await hand.whole() == before


async def test_the_end_is_written_once_whoever_comes_first(hand: Hand) -> None:
    await hand.submit(starts("j", "one"))
    claim = await hand.claim()
    await hand.journal.cancel("j")
    assert (await hand.commit(claim, decision=decides(1, 1, ends=JobState.DONE))).status == "ended"
    assert await hand.state("j") == "cancelled"
    assert [e.what for e in await hand.journal.events("j")].count("cancelled") == 1
