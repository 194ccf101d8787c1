"""Invariants 1 to 3: an outcome is written once, an answered step is never called again, one valid lease."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import msgspec
import pytest

from aios_dist.model.calls import LLMResponse, Usage
from aios_dist.model.jobs import JobState, Outcome, StepState, encode
from tests.redis.conftest import decides, starts

if TYPE_CHECKING:
    from tests.redis.conftest import Hand


async def test_a_second_commit_by_the_same_attempt_changes_nothing_and_is_told_so(hand: Hand) -> None:
    await hand.submit(starts("j", "one"))
    claim = await hand.claim()
    more = decides(1, 1, "two")
    assert (await hand.commit(claim, "first", decision=more)).status == "advanced"
    before = await hand.whole()
    again = await hand.commit(claim, "second", decision=more)
    assert (again.status, again.version, again.tickets) == ("mine", 1, [])
    assert await hand.whole() == before
    history = await hand.journal.load("j")
    assert history.steps[0].outcome is not None
    assert history.steps[0].outcome.result().text == "first"
    assert history.view.usage == Usage(3, 2, 1)
    assert history.view.steps == 2


async def test_a_second_commit_with_an_error_does_not_undo_an_answer(hand: Hand) -> None:
    await hand.submit(starts("j", "one"))
    claim = await hand.claim()
    await hand.commit(claim)
    before = await hand.whole()
    assert (await hand.commit(claim, "oops", ok=False)).status == "mine"
    assert await hand.whole() == before


async def test_a_second_commit_that_would_end_the_job_does_not(hand: Hand) -> None:
    await hand.submit(starts("j", "one"))
    claim = await hand.claim()
    await hand.commit(claim, decision=decides(1, 1, "two"))
    assert (await hand.commit(claim, decision=decides(1, 1, ends=JobState.DONE))).status == "mine"
    assert await hand.state("j") == "running"


async def test_another_attempt_is_told_that_the_outcome_is_written(hand: Hand) -> None:
    await hand.submit(starts("j", "one"))
    late = await hand.claim(worker="w1")
    await hand.lose(late)
    await hand.commit(await hand.claim(worker="w2"), "of w2")
    assert (await hand.commit(late, "of w1")).status == "written"
    before = await hand.whole()
    assert (await hand.commit(late, "of w1")).status == "written"
    assert await hand.whole() == before
    assert (await hand.journal.load("j")).outcomes()[0][1].response == LLMResponse("of w2")


@pytest.mark.parametrize("ok", [True, False])
async def test_a_step_with_an_outcome_is_never_claimed_again(hand: Hand, ok: bool) -> None:
    await hand.submit(starts("j", "one"))
    claim = await hand.claim()
    await hand.commit(claim, ok=ok, decision=decides(1, 1, "two", lane="other"))
    # Whatever a crash, a spare ticket or a bug may do to the ready set: the head decides.
    await hand.redis("ZADD", hand.keys.ready("llm"), 1, "j/0")
    assert await hand.journal.claim("llm", "w2") is None
    await hand.redis("ZADD", hand.keys.leases, 1, claim.lease)
    await hand.redis("ZADD", hand.keys.timers, 1, "j/0")
    await hand.reap()
    assert await hand.journal.claim("llm", "w2") is None


async def test_a_leased_step_cannot_be_claimed_by_anybody_else(hand: Hand) -> None:
    await hand.submit(starts("j", "one"))
    await hand.claim()
    await hand.redis("ZADD", hand.keys.ready("llm"), 1, "j/0")
    assert await hand.journal.claim("llm", "w2") is None


async def test_once_somebody_else_has_the_step_the_late_answer_is_fenced(hand: Hand) -> None:
    await hand.submit(starts("j", "one"))
    late = await hand.claim(worker="w1")
    await hand.lose(late)
    now = await hand.claim(worker="w2")
    assert now.attempt == late.attempt + 1
    before = await hand.whole()
    free = await hand.commit(late, "late", usage=Usage(), ok=False)
    assert free.status == "fenced"
    assert await hand.whole() == before, "nothing was paid"
    fenced = await hand.commit(late, "late", decision=decides(1, 1, "two"))
    assert (fenced.status, fenced.version, fenced.tickets) == ("fenced", 0, [])
    before = await hand.whole()
    assert (await hand.commit(late, "late")).status == "fenced"
    assert await hand.whole() == before, "what it cost has counted (tests/redis/test_journal_usage.py)"
    assert (await hand.commit(now)).status == "turn"


async def test_a_late_answer_is_kept_while_nobody_has_noticed_that_the_lease_ended(hand: Hand) -> None:
    await hand.submit(starts("j", "one"))
    claim = await hand.claim()
    await hand.lapse(claim)
    assert (await hand.commit(claim, decision=decides(1, 1, "two"))).status == "advanced"
    assert (await hand.reap()).moved == 0
    assert await hand.names() == ["j/1"]


async def test_a_late_answer_is_kept_and_takes_the_step_off_its_lane(hand: Hand) -> None:
    await hand.submit(starts("j", "one"))
    claim = await hand.claim()
    await hand.lose(claim)
    assert await hand.names() == ["j/0"]
    assert (await hand.commit(claim, "late", decision=decides(1, 1, "two"))).status == "advanced"
    assert await hand.names() == ["j/1"]
    step = (await hand.journal.load("j")).steps[0]
    assert (step.state, step.attempt, step.order) == (StepState.DONE, 1, 1)


async def test_a_late_answer_of_a_step_given_back_is_kept(hand: Hand) -> None:
    await hand.submit(starts("j", "one"))
    claim = await hand.claim()
    await hand.journal.release(claim, "shutdown")
    assert (await hand.commit(claim, decision=decides(1, 1, "two"))).status == "advanced"
    assert await hand.names() == ["j/1"]


async def test_a_late_answer_of_a_step_that_waits_on_a_timer_stops_the_timer(hand: Hand) -> None:
    await hand.submit(starts("j", "one"))
    claim = await hand.claim()
    await hand.journal.release(claim, "429", after=60)
    assert (await hand.commit(claim, decision=decides(1, 1, "two"))).status == "advanced"
    assert await hand.members(hand.keys.timers) == set()
    await hand.ring()
    await hand.reap()
    assert await hand.names() == ["j/1"]


async def test_a_late_answer_is_kept_also_where_a_second_worker_gave_the_step_back(hand: Hand) -> None:
    await hand.submit(starts("j", "one"))
    first = await hand.claim()
    await hand.lose(first)
    second = await hand.claim()
    await hand.journal.release(second, "429", after=60)
    assert (await hand.commit(first)).status == "turn", "nobody has the step, and it is paid for"
    assert (await hand.commit(second)).status == "written"


async def test_a_worker_whose_lease_ended_cannot_give_the_step_back(hand: Hand) -> None:
    await hand.submit(starts("j", "one"))
    late = await hand.claim()
    await hand.lose(late)
    now = await hand.claim()
    before = await hand.whole()
    assert await hand.journal.release(late, "shutdown") == []
    assert await hand.whole() == before
    assert await hand.journal.renew([now.lease]) == set()


async def test_giving_back_twice_gives_back_once(hand: Hand) -> None:
    await hand.submit(starts("j", "one"))
    claim = await hand.claim()
    assert len(await hand.journal.release(claim, "shutdown")) == 1
    before = await hand.whole()
    assert await hand.journal.release(claim, "shutdown") == []
    assert await hand.whole() == before


async def test_all_leases_of_a_worker_are_renewed_in_one_call_and_lost_ones_come_back(hand: Hand) -> None:
    await hand.submit(*(starts(f"j{i}", "one") for i in range(5)))
    claims = [await hand.claim() for _ in range(5)]
    await hand.lapse(*claims)
    assert await hand.journal.renew(c.lease for c in claims[1:]) == set()
    await hand.reap()
    assert await hand.names() == ["j0/0"]
    again = await hand.claim()
    assert await hand.journal.renew(c.lease for c in claims) == {claims[0].lease}
    assert await hand.members(hand.keys.leases) == {again.lease, *(c.lease for c in claims[1:])}


async def test_a_lease_that_ended_is_taken_up_again_while_nobody_has_the_step(hand: Hand) -> None:
    await hand.submit(starts("j", "one"), starts("k", "one"))
    stalled, given_back = await hand.claim(), await hand.claim()
    await hand.lapse(stalled)
    await hand.reap()
    await hand.journal.release(given_back, "shutdown")
    assert await hand.renew(stalled, given_back) == [given_back]
    assert await hand.names() == ["k/0"]
    assert (await hand.commit(stalled)).status in ("advanced", "turn")


async def test_a_renewed_lease_outlives_any_run_time(hand: Hand) -> None:
    await hand.submit(starts("j", "one"))
    claim = await hand.claim()
    for _ in range(5):
        await hand.lapse(claim)
        await hand.journal.renew([claim.lease])
        assert (await hand.reap()).moved == 0
    assert (await hand.finish(claim)).status == "advanced"


async def test_leases_end_by_the_clock_even_where_the_order_runs_ahead_of_it(hand: Hand) -> None:
    # Redis' clock was set back, or a replica with a slower one took over: stamps go on from the last one.
    ahead = int((await hand.journal.now() + 3600) * 1e6)
    await hand.redis("SET", hand.keys.prefix + "clock", ahead)
    await hand.submit(starts("j", "one"), starts("k", "one"))
    claim = await hand.claim()
    other = await hand.claim()
    await hand.journal.release(other, "429", after=5)
    end = float(await hand.redis("ZSCORE", hand.keys.leases, claim.lease)) / 1e6
    assert end <= await hand.journal.now() + hand.config.lease
    rings = float(await hand.redis("ZSCORE", hand.keys.timers, "k/0")) / 1e6
    assert rings <= await hand.journal.now() + 5


async def test_of_many_commits_at_once_one_writes(hand: Hand) -> None:
    await hand.submit(starts("j", "one"))
    claim = await hand.claim()
    done = await asyncio.gather(*(hand.commit(claim, f"answer {i}") for i in range(20)))
    assert sorted(d.status for d in done) == ["mine"] * 19 + ["turn"]
    view = (await hand.journal.load("j")).view
    assert (view.outcomes, view.usage) == (1, Usage(3, 2, 1))


async def test_of_many_claims_at_once_each_step_goes_to_one(hand: Hand) -> None:
    await hand.submit(*(starts(f"j{i}", "one") for i in range(10)))
    got = await asyncio.gather(*(hand.journal.claim("llm", f"w{i}") for i in range(30)))
    claims = [c for c in got if c is not None]
    assert sorted(c.job for c in claims) == sorted(f"j{i}" for i in range(10))


async def test_a_commit_of_a_job_that_is_gone_writes_nothing(hand: Hand) -> None:
    await hand.submit(starts("j", "one"))
    claim = await hand.claim()
    await hand.journal.cancel("j")
    await hand.redis("UNLINK", hand.keys.job("j"), hand.keys.events("j"))  # its retention is over
    before = await hand.whole()
    assert (await hand.commit(claim)).status == "gone"
    unknown = msgspec.structs.replace(claim, step="7")
    assert (await hand.commit(unknown)).status == "gone"
    assert await hand.whole() == before
    await hand.lapse(claim)
    await hand.reap()


async def test_a_commit_of_a_step_that_does_not_exist_writes_nothing(hand: Hand) -> None:
    await hand.submit(starts("j", "one"))
    claim = await hand.claim()
    before = await hand.whole()
    assert (await hand.commit(msgspec.structs.replace(claim, step="1"))).status == "gone"
    assert await hand.whole() == before


async def test_any_bytes_come_back_as_they_were_written(hand: Hand) -> None:
    text = "\x00\xff é 漢字 🚀 \u2028 " + "long " * 1000
    await hand.submit(starts("j", text))
    claim = await hand.claim()
    await hand.journal.commit(claim, encode(Outcome(value=[text, 2**53 + 1, -0.5, None])), ok=True)
    step = (await hand.journal.load("j")).steps[0]
    assert step.request is not None
    assert step.request.messages[0]["content"] == text  # type: ignore[union-attr]
    assert step.outcome is not None
    assert step.outcome.value == [text, 2**53 + 1, -0.5, None]


async def test_usage_adds_up_over_the_steps(hand: Hand) -> None:
    await hand.submit(starts("j", "one", "two"))
    for tokens in (10**11, 10**11 + 1):
        claim = await hand.claim()
        await hand.journal.commit(
            claim, encode(Outcome(value=1)), ok=True, usage=Usage(tokens, 1, 1), decision=None
        )
    usage = (await hand.journal.load("j")).view.usage
    assert usage == Usage(2 * 10**11 + 1, 2, 2)


@pytest.mark.parametrize("tokens", [-5, 2**53 + 1, 10**18, 2**63 - 1, 2**64, 2**80])
async def test_a_provider_that_counts_nonsense_does_not_stop_the_job(hand: Hand, tokens: int) -> None:
    await hand.submit(starts("j", "one", "two"))
    claim = await hand.claim()
    usage = Usage(tokens, tokens, 1)
    done = await hand.journal.commit(
        claim, encode(Outcome(value=1)), ok=True, usage=usage, decision=decides(1, 2, "three")
    )
    assert done.status == "advanced"
    done = await hand.journal.commit(await hand.claim(), encode(Outcome(value=1)), ok=True, usage=usage)
    assert done.status == "turn"
