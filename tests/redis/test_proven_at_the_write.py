"""What a worker holds is proven at the write: numbers come again, tokens and bases do not."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec
import pytest

from aios_dist.journal import RankedStep
from aios_dist.model.calls import LLMResponse, ToolRequest, Usage
from aios_dist.model.jobs import JobState, Kind, NewStep, Outcome, encode
from aios_dist.policies import Rank
from tests.redis.conftest import USED, decides, starts

if TYPE_CHECKING:
    from tests.redis.conftest import Hand

FAILED = encode(Outcome.failed(ValueError("no")))


async def expire(hand: Hand, job: str) -> None:
    """The job's retention is over."""
    await hand.redis("UNLINK", hand.keys.job(job), hand.keys.events(job))


async def put_back(hand: Hand, before: dict[bytes, bytes]) -> None:
    """Redis as it was: a power loss, a failover to a replica that lagged."""
    for key in await hand.redis("KEYS", hand.keys.prefix + "*"):
        await hand.redis("UNLINK", key)
    for key, value in before.items():
        await hand.redis("RESTORE", key, 0, value)


async def dump(hand: Hand) -> dict[bytes, bytes]:
    keys = await hand.redis("KEYS", hand.keys.prefix + "*")
    return {key: await hand.redis("DUMP", key) for key in keys}


async def test_an_answer_to_another_life_of_an_id_is_refused(hand: Hand) -> None:
    await hand.submit(starts("j", "one", tenant="acme"))
    first = await hand.claim()
    await hand.journal.cancel("j")
    await expire(hand, "j")
    await hand.lapse(first)
    await hand.reap()
    await hand.submit(starts("j", "one", tenant="beta"))
    assert (await hand.commit(first, "of acme")).status == "fenced"
    assert (await hand.journal.regain([first])) == [first]
    second = await hand.claim()
    assert second.attempt == first.attempt, "the numbers are the same again"
    assert second.lease != first.lease
    assert (await hand.commit(first, "of acme")).status == "fenced"
    assert await hand.journal.release(first, "shutdown") == []
    assert (await hand.commit(second, "of beta")).status == "turn"


async def test_an_answer_to_another_request_is_refused_where_redis_was_put_back(hand: Hand) -> None:
    await hand.submit(starts("j", "one"))
    before = await dump(hand)
    await hand.commit(await hand.claim(), decision=decides(1, 1, "two"))
    late = await hand.claim()
    await put_back(hand, before)
    await hand.commit(await hand.claim(), "another answer", decision=decides(1, 1, "something else"))
    assert late.step == "1"
    assert (await hand.commit(late, "to: two")).status == "fenced"
    assert await hand.names() == ["j/1"]


async def test_a_tools_result_is_no_call_where_redis_was_put_back_and_a_call_stands_there_now(
    hand: Hand,
) -> None:
    await hand.submit(starts("j", "one"))
    before = await dump(hand)
    first = await hand.claim()
    tool = RankedStep(NewStep(Kind.TOOL, "llm", encode(ToolRequest("t", [], {})), "d-tool", "tool"), Rank())
    await hand.commit(first, decision=msgspec.structs.replace(decides(1, 1), steps=[tool]))
    held = await hand.claim()
    await put_back(hand, before)
    await hand.commit(await hand.claim(), decision=decides(1, 1, "a call"))
    assert held.step == "1"
    assert (await hand.commit(held, usage=Usage())).status == "fenced"
    view = (await hand.journal.load("j")).view
    assert view.usage.calls == 1, "the first step's"


async def test_a_claim_that_redis_has_forgotten_goes_on_and_its_answer_counts(hand: Hand) -> None:
    await hand.submit(starts("j", "one"))
    before = await dump(hand)
    claim = await hand.claim()
    await put_back(hand, before)
    assert await hand.names() == ["j/0"]
    assert await hand.renew(claim) == []
    assert await hand.names() == [], "nobody else calls for it"
    assert await hand.members(hand.keys.leases) == {claim.lease}
    assert (await hand.commit(claim)).status == "turn"


async def test_two_claims_of_one_number_are_two_leases(hand: Hand) -> None:
    await hand.submit(starts("j", "one"))
    before = await dump(hand)
    a = await hand.claim(worker="wa")
    await put_back(hand, before)
    b = await hand.claim(worker="wb")
    assert (a.attempt, b.attempt) == (1, 1)
    assert await hand.renew(a) == [a]
    assert await hand.journal.release(a, "shutdown") == []
    assert await hand.journal.claim("llm", "wc") is None, "wb has it"
    assert (await hand.commit(a)).status == "fenced"
    assert (await hand.commit(b)).status == "turn"


async def test_a_failure_from_before_a_retry_is_not_the_retried_steps(hand: Hand) -> None:
    await hand.submit(starts("j", "one", "two"))
    late, other = await hand.drain()
    await hand.commit(other, ok=False)
    await hand.lose(late)
    again = await hand.claim()
    await hand.commit(again, ok=False)
    await hand.journal.cancel("j")
    basis = (await hand.journal.load("j")).basis
    await hand.journal.retry("j", basis=basis, undone=[0, 1])
    done = await hand.journal.commit(late, FAILED, ok=False)
    assert done.status == "fenced"
    # An answer is another matter: the same request of the same submission, and paid for.
    answer = encode(Outcome(response=LLMResponse("late")))
    assert (await hand.journal.commit(late, answer, ok=True, usage=USED)).status == "turn"


async def test_no_decision_holds_while_a_retry_is_to_be_judged(hand: Hand) -> None:
    await hand.submit(starts("j", "one", "two"))
    one, two = await hand.drain()
    await hand.commit(one, ok=False)
    await hand.journal.cancel("j")
    await hand.journal.retry("j")
    right = msgspec.structs.replace(decides(2, 2, "three"), basis=(await hand.journal.load("j")).basis)
    assert (await hand.commit(two, decision=right)).status == "turn"
    assert (await hand.journal.load("j")).view.steps == 2


@pytest.mark.parametrize("write", ["another outcome", "steps", "a retry"])
async def test_a_decision_made_elsewhere_in_the_history_does_not_hold(hand: Hand, write: str) -> None:
    await hand.submit(starts("j", "one", "two", "three"))
    one, two, three = await hand.drain()
    seen = (await hand.journal.load("j")).basis
    if write == "another outcome":
        await hand.commit(two)
    elif write == "steps":
        await hand.journal.advance("j", decides(0, 3, "four"))
    else:
        await hand.journal.cancel("j")
        await hand.journal.retry("j", basis=seen, undone=[])
    facts = await hand.hash(hand.keys.job("j"))
    stale = decides(int(facts.get("v", 0)) + 1, int(facts["n"]), ends=JobState.DONE)
    done = await hand.commit(one, decision=msgspec.structs.replace(stale, basis=seen))
    assert done.status == "turn"
    assert await hand.state("j") == "running"
    assert (await hand.commit(three)).status == "turn"


async def test_a_turn_that_is_over_is_not_taken_up_again_as_the_next(hand: Hand) -> None:
    """Also by a worker that comes back from a stall and has not heard that its turn is over."""
    await hand.submit(starts("j"))
    over = await hand.claim("turns")
    await hand.journal.advance("j", decides(0, 0, "x"), token=over.token)
    assert (await hand.commit(await hand.claim(), turn_here=False)).status == "turn"
    assert await hand.names("turns") == ["j/t"]
    assert await hand.journal.regain([over]) == [over]
