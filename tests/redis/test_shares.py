"""Fair share between tenants, and their caps."""

from __future__ import annotations

from aios_dist.calls import Usage
from aios_dist.jobs import JobState
from aios_dist.policies import Rank
from tests.redis.conftest import Hand, decides, ranked


async def test_a_tenant_with_many_steps_lets_one_with_few_go_between(hand: Hand) -> None:
    await hand.journal.set_lane("llm", fair="tenant")
    await hand.submit(*(ranked(f"flood{n}", Rank(), tenant="flood", tokens=10) for n in range(4)))
    await hand.submit(*(ranked(f"small{n}", Rank(), tenant="small", tokens=10) for n in range(2)))
    assert await hand.order() == ["flood0", "small0", "flood1", "small1", "flood2", "flood3"]


async def test_shares_hold_among_steps_that_a_limit_of_their_model_holds(hand: Hand) -> None:
    """Most fleets are limited by their provider, not by slots: then all waiting is done as held."""
    await hand.limit("small", flight=1)
    await hand.journal.set_lane("llm", fair="tenant")
    await hand.submit(*(ranked(f"flood{n}", Rank(), tenant="the-flood", tokens=10) for n in range(5)))
    running = await hand.claim()
    assert await hand.journal.claim("llm", "w1") is None  # all of the flood is held now
    await hand.submit(*(ranked(f"small{n}", Rank(), tenant="small", tokens=10) for n in range(2)))
    ran = []
    for _ in range(6):
        await hand.commit(running, usage=Usage(0, 5, 1), decision=decides(1, 1, ends=JobState.DONE))
        running = await hand.claim()
        ran.append(running.job)
        await hand.look()
    assert ran == ["small0", "flood1", "small1", "flood2", "flood3", "flood4"]


async def test_what_a_call_took_counts_and_not_what_was_guessed(hand: Hand) -> None:
    await hand.journal.set_lane("llm", fair="tenant")
    for n in range(3):
        await hand.submit(*(ranked(f"{t}{n}", Rank(), tenant=t, tokens=10) for t in ("a", "b")))
    claims = [await hand.claim(), await hand.claim()]
    assert [claim.job for claim in claims] == ["a0", "b0"]
    for claim, tokens in zip(claims, (500, 5), strict=True):
        await hand.commit(claim, usage=Usage(0, tokens, 1), decision=decides(1, 1, ends=JobState.DONE))
    assert await hand.order() == ["b1", "b2", "a1", "a2"]


async def test_a_call_that_failed_or_was_given_back_costs_its_tenant_nothing(hand: Hand) -> None:
    await hand.journal.set_lane("llm", fair="tenant")
    await hand.submit(ranked("a", Rank(), tenant="acme", tokens=10))
    claim = await hand.claim()
    await hand.journal.release(claim, "shutdown")
    [view] = await hand.journal.tenant_views(["acme"], ["llm"])
    assert view.counters == {"llm": 0.0}


async def test_a_cap_of_a_tenant_blocks_nobody_else_and_is_never_exceeded(hand: Hand) -> None:
    await hand.journal.set_tenant("capped", max_in_flight=2)
    await hand.submit(*(ranked(f"capped{n}", Rank(), tenant="capped") for n in range(4)))
    await hand.submit(ranked("other", Rank(), tenant="other"))
    claims = await hand.drain()
    assert [claim.job for claim in claims] == ["capped0", "capped1", "other"]
    done = await hand.finish(claims[0])
    assert [ticket.job for ticket in done.tickets] == ["capped2"], "its place is free: somebody has to know"
    assert await hand.order() == ["capped2"]
    [view] = await hand.journal.tenant_views(["capped"], ["llm"])
    assert (view.max_in_flight, view.in_flight, view.held) == (2, 2, 1)
    await hand.journal.set_tenant("capped", max_in_flight=0)
    await hand.ring()
    await hand.reap()
    assert await hand.order() == ["capped3"]


async def test_a_place_of_a_capped_tenant_goes_to_a_step_that_can_use_it(hand: Hand) -> None:
    """The tenant's next step waits for its model: the one after it has another, and runs."""
    await hand.journal.set_tenant("acme", max_in_flight=1)
    await hand.limit("small", flight=1)
    await hand.submit(ranked("other", Rank(), tenant="other"))
    await hand.claim()  # the model is full
    await hand.submit(ranked("one", Rank(), tenant="acme", model="big"))
    one = await hand.claim()
    await hand.submit(
        ranked("two", Rank(), tenant="acme"), ranked("three", Rank(), tenant="acme", model="big")
    )
    assert await hand.drain() == []
    await hand.finish(one)
    assert await hand.order() == ["three"]
    await hand.look()


async def test_what_waits_is_counted_also_by_tenant(hand: Hand) -> None:
    await hand.journal.set_lane("llm", fair="tenant")
    await hand.submit(*(ranked(f"a{n}", Rank(), tenant="acme") for n in range(3)))
    await hand.submit(ranked("b", Rank(), tenant="beta"))
    count = (await hand.journal.waiting(["llm"]))["llm"]
    assert (count.ready, count.tenants) == (4, {"acme": 3, "beta": 1})
    assert (await hand.reap()).ready["llm"] == 4
