"""Fair share between tenants, and their caps."""

from __future__ import annotations

import pytest

from aios_dist.model.calls import Usage
from aios_dist.model.jobs import JobState
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


async def test_a_call_that_was_given_back_costs_its_tenant_next_to_nothing(hand: Hand) -> None:
    await hand.journal.set_lane("llm", fair="tenant")
    await hand.submit(ranked("a", Rank(), tenant="acme", tokens=10))
    claim = await hand.claim()
    await hand.journal.release(claim, "shutdown")
    [view] = await hand.journal.tenant_views(["acme"], ["llm"])
    assert view.counters == {"llm": 1.0}


@pytest.mark.parametrize("how", ["given back", "lost"])
async def test_a_tenant_whose_call_was_given_back_or_lost_has_not_been_away(hand: Hand, how: str) -> None:
    await hand.journal.set_lane("llm", fair="tenant")
    await hand.submit(ranked("z", Rank(), tenant="z", tokens=10))
    claim = await hand.claim()
    await hand.submit(*(ranked(f"b{n}", Rank(), tenant="busy", tokens=10) for n in range(5)))
    for _ in range(3):
        await hand.claim()
    await (hand.lose(claim) if how == "lost" else hand.journal.release(claim, "shutdown"))
    assert (await hand.order())[0] == "z"


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


async def test_among_equals_the_name_does_not_decide_for_ever(hand: Hand) -> None:
    """Tools, and calls whose provider reports no usage, cost something too."""
    await hand.journal.set_lane("llm", fair="tenant")
    for n in range(3):
        await hand.submit(*(ranked(f"{t}{n}", Rank(), tenant=t) for t in ("a", "z")))
    ran = []
    for _ in range(6):
        claim = await hand.claim()
        ran.append(claim.job)
        await hand.commit(claim, usage=Usage(), decision=decides(1, 1, ends=JobState.DONE))
    assert ran == ["a0", "z0", "a1", "z1", "a2", "z2"]


@pytest.mark.parametrize("how", ["resumed", "ranked anew"])
async def test_a_tenant_that_was_away_has_saved_nothing_up(hand: Hand, how: str) -> None:
    """Wherever its steps come back from."""
    await hand.journal.set_lane("llm", fair="tenant")
    await hand.submit(*(ranked(f"away{n}", Rank(), "fifo", tenant="z-away", tokens=10) for n in range(3)))
    for n in range(3):
        await hand.journal.pause(f"away{n}")
    await hand.submit(*(ranked(f"b{n}", Rank(), "fifo", tenant="busy", tokens=10) for n in range(9)))
    for _ in range(4):
        await hand.claim()
    for n in range(3):
        await hand.journal.resume(f"away{n}")
    if how == "ranked anew":
        await hand.journal.set_lane("llm", policy="las")
        await hand.rank_anew("las", Rank())
    order = await hand.order()
    assert [name[0] for name in order] == ["b", "a", "b", "a", "b", "a", "b", "b"]


async def test_what_a_limit_held_before_shares_were_switched_on_is_not_forgotten(hand: Hand) -> None:
    await hand.limit("small", flight=1)
    await hand.submit(*(ranked(f"j{n}", Rank(), "fifo", tenant="old") for n in range(3)))
    running = await hand.claim()
    assert await hand.drain() == []  # held
    await hand.journal.set_lane("llm", fair="tenant")
    await hand.submit(*(ranked(f"k{n}", Rank(), "fifo", tenant="new") for n in range(8)))
    ran = []
    for _ in range(5):
        await hand.commit(running, usage=Usage(0, 5, 1), decision=decides(1, 1, ends=JobState.DONE))
        running = await hand.claim()
        ran.append(running.job)
    assert {"j1", "j2"} < set(ran)


async def test_a_cap_that_stops_a_step_that_was_let_in_lets_another_in(hand: Hand) -> None:
    """The model's room is not the tenant's: it goes to who can use it."""
    await hand.limit("small", flight=1)
    await hand.submit(ranked("first", Rank(), tenant="other"))
    first = await hand.claim()
    await hand.submit(ranked("a", Rank(), tenant="acme"), ranked("b", Rank(), tenant="other"))
    assert await hand.drain() == []
    await hand.journal.set_tenant("acme", max_in_flight=1)
    await hand.submit(ranked("c", Rank(), tenant="acme", model="big"))
    assert (await hand.claim()).job == "c"  # the tenant is at its cap
    await hand.finish(first)
    assert await hand.order() == ["b"]


async def test_a_tenant_at_its_cap_pulls_no_newcomer_down(hand: Hand) -> None:
    await hand.journal.set_lane("llm", fair="tenant")
    await hand.journal.set_tenant("beta", max_in_flight=1)
    for n in range(60):
        for tenant in ("acme", "beta"):
            await hand.submit(ranked(f"{tenant}{n:02}", Rank(), tenant=tenant, tokens=10))
    claims = [await hand.claim() for _ in range(42)]
    beta = next(claim for claim in claims if claim.record.tenant == "beta")
    await hand.commit(beta, usage=Usage(10, 0, 1), decision=decides(1, 1, ends=JobState.DONE))
    await hand.submit(*(ranked(f"corp{n:02}", Rank(), tenant="corp", tokens=10) for n in range(40)))
    got = [(await hand.claim()).record.tenant for _ in range(30)]
    assert (got.count("acme"), got.count("beta"), got.count("corp")) in ((15, 1, 14), (14, 1, 15))


async def test_a_small_call_does_not_pass_its_tenants_large_one_for_ever_among_equals(hand: Hand) -> None:
    """Another tenant that has had as much, and stands before it by name, hides no order."""
    await hand.journal.set_lane("llm", fair="tenant")
    await hand.limit(tpm=1000)
    await hand.submit(ranked("first", Rank(), tenant="m", tokens=600))
    assert [c.job for c in await hand.drain()] == ["first"]
    await hand.submit(ranked("a", Rank(), tenant="a", tokens=600))
    await hand.submit(ranked("z-large", Rank(), tenant="z", tokens=500))
    for large in ("a", "z-large"):
        await hand.passed_long_ago(large)
    await hand.submit(ranked("z-small", Rank(), tenant="z", tokens=1))
    assert await hand.drain() == []
    await hand.minute()
    assert [c.job for c in await hand.drain()] == ["a"]
