"""Shares stay fair while limits bind: caps, limits and holds of models, other lanes, other weights."""

from __future__ import annotations

from collections import Counter

from aios_dist.errors import ProviderBusy
from aios_dist.journal import Claim
from aios_dist.model.calls import Usage
from aios_dist.model.jobs import JobState
from aios_dist.policies import Rank
from tests.redis.conftest import Hand, decides, ranked


async def ends(hand: Hand, claim: Claim, tokens: int = 10) -> None:
    """A call that took so many tokens, the last of its job."""
    await hand.commit(claim, usage=Usage(tokens, 0, 1), decision=decides(1, 1, ends=JobState.DONE))


async def run(hand: Hand, count: int, lane: str = "llm", tokens: int = 10) -> list[str]:
    """So many calls, one after the other: whose they were, by the first letter of their job."""
    ran = []
    for _ in range(count):
        claim = await hand.claim(lane)
        ran.append(claim.job[0])
        await ends(hand, claim, tokens)
    return ran


# Tenants at their cap --------------------------------------------------------------------------------


async def test_on_a_shared_lane_the_turn_of_the_oldest_comes_also_to_what_a_cap_holds(hand: Hand) -> None:
    """By the tenant's own dispatches: those of the lane are not counted there."""
    await hand.journal.set_lane("llm", policy="las", fair="tenant", oldest_every=2)
    await hand.journal.set_tenant("t", max_in_flight=1)
    await hand.submit(ranked("old", Rank(base=1e15), "las", tenant="t"))
    await hand.submit(*(ranked(f"new{n}", Rank(), "las", tenant="t") for n in range(5)))
    ran = []
    for n in range(5, 11):
        claim = await hand.claim()
        ran.append(claim.job)
        await hand.submit(ranked(f"new{n}", Rank(), "las", tenant="t"))
        assert await hand.journal.claim("llm", "w2") is None  # a second free slot looks
        await ends(hand, claim)
    assert ran.index("old") < 2


async def test_a_flood_at_its_cap_costs_a_free_slot_no_claim(hand: Hand) -> None:
    await hand.journal.set_tenant("flood", max_in_flight=2)
    await hand.submit(*(ranked(f"flood{n:03}", Rank(), tenant="flood") for n in range(300)))
    await hand.submit(ranked("small", Rank(), tenant="small"))
    assert len(await hand.waiting()) == 3, "what cannot run does not stand on the lane"
    assert await hand.order() == ["flood000", "flood001", "small"]
    assert await hand.waiting() == []


async def test_a_flood_of_a_limited_model_costs_a_free_slot_no_claim(hand: Hand) -> None:
    await hand.limit("small", flight=2)
    await hand.submit(*(ranked(f"flood{n:03}", Rank()) for n in range(300)))
    await hand.submit(ranked("other", Rank(), model="big"))
    claims = await hand.drain()
    assert [claim.job for claim in claims] == ["flood000", "flood001", "other"]
    done = await hand.finish(claims[1])
    assert [ticket.job for ticket in done.tickets] == ["flood002"]
    await hand.limit("small", flight=0)
    await hand.ring()
    await hand.reap()
    assert 0 < len(await hand.waiting()) <= 40, "no more than some in one verb"
    assert await hand.order() == [f"flood{n:03}" for n in range(2, 300)]


async def test_what_a_cap_held_goes_before_what_came_later_also_when_it_is_taken_away(hand: Hand) -> None:
    await hand.journal.set_tenant("t", max_in_flight=1)
    await hand.submit(*(ranked(f"old{n:03}", Rank(), tenant="t") for n in range(250)))
    await hand.claim()
    await hand.journal.set_tenant("t", max_in_flight=0)
    await hand.submit(*(ranked(f"new{n}", Rank(), tenant="t") for n in range(5)))
    assert await hand.order() == [*(f"old{n:03}" for n in range(1, 250)), *(f"new{n}" for n in range(5))]


async def test_a_better_step_takes_the_place_of_one_that_was_let_in(hand: Hand) -> None:
    """Else it would wait behind others' steps that stand between the two."""
    await hand.journal.set_tenant("t", max_in_flight=1)
    await hand.submit(ranked("worse", Rank(base=2e15), tenant="t"), ranked("between", Rank(base=1e15)))
    await hand.submit(ranked("better", Rank(), tenant="t"))
    claims = await hand.drain()
    assert [claim.job for claim in claims] == ["better", "between"]
    await hand.finish(claims[0])
    assert await hand.order() == ["worse"]


async def test_a_lane_that_nobody_serves_keeps_no_place_of_a_cap_from_another(hand: Hand) -> None:
    await hand.journal.set_tenant("t", max_in_flight=1)
    await hand.submit(*(ranked(f"far{n}", Rank(), tenant="t", lane="far", model="big") for n in range(30)))
    await hand.submit(*(ranked(f"near{n}", Rank(), tenant="t") for n in range(3)))
    for n in range(3):
        claim = await hand.claim()
        assert claim.job == f"near{n}"
        assert await hand.drain("far") == []
        await hand.finish(claim)
    assert (await hand.claim("far")).job == "far0"


# Many tenants ----------------------------------------------------------------------------------------


async def test_what_waits_is_counted_without_a_look_at_each_tenant(hand: Hand) -> None:
    await hand.journal.set_lane("llm", fair="tenant")
    await hand.submit(*(ranked(f"j{n}", Rank(), tenant=f"t{n:03}") for n in range(300)))
    away = hand.keys.ready("llm|t007"), f"{hand.keys.prefix}away"
    await hand.redis("RENAME", *away)
    assert (await hand.reap()).ready["llm"] == 300, "nobody looks there"
    await hand.redis("RENAME", *reversed(away))
    first, rest = [
        (await hand.journal.waiting(["llm"], first=at, most=most))["llm"] for at, most in ((0, 2), (298, 100))
    ]
    assert (first.ready, first.tenants, first.tenant_count) == (300, {"t000": 1, "t001": 1}, 300)
    assert len(rest.tenants) == 2


async def test_counts_that_are_wrong_are_put_right(hand: Hand) -> None:
    """By the walk; and where there are none yet, after an update."""
    await hand.journal.set_lane("llm", fair="tenant")
    await hand.submit(*(ranked(f"j{n}", Rank(), tenant=f"t{n}") for n in range(5)))
    await hand.redis("HSET", hand.keys.waits, "ready:llm", 7)
    await hand.reap()
    assert ("ready:llm", "counted 7 steps, there wait 5") in (await hand.journal.walk("/")).found
    assert (await hand.reap()).ready["llm"] == 5
    await hand.redis("DEL", hand.keys.waits)
    assert (await hand.reap()).ready["llm"] == 5
    await hand.submit(ranked("j5", Rank(), tenant="t5"))
    assert (await hand.reap()).ready["llm"] == 6
    await hand.claim()
    assert (await hand.reap()).ready["llm"] == 5


async def test_a_tenant_that_has_had_nothing_for_the_retention_is_forgotten(hand: Hand) -> None:
    await hand.journal.set_lane("llm", policy="round-robin", fair="tenant", oldest_every=2)
    await hand.journal.set_tenant("kept", weight=2.0)
    rank = Rank(since="round", group="a")
    for tenant in ("gone", "kept", "waits"):
        await hand.submit(*(ranked(f"{tenant}{n}", rank, "round-robin", tenant=tenant) for n in range(2)))
    claims = [await hand.claim() for _ in range(5)]
    assert {claim.record.tenant for claim in claims[3:]} == {"gone", "kept"}
    for claim in claims:
        await hand.finish(claim)
    used = f"{hand.keys.prefix}used"
    for name in await hand.redis("ZRANGE", used, 0, -1):
        await hand.redis("ZADD", used, 1, name)
    await hand.journal.walk("/")
    assert await hand.members(used) == {"llm|waits"}
    share, lane = await hand.hash(hand.keys.share("llm")), await hand.hash(hand.keys.lane("llm"))
    assert [t for t in share if t in ("gone", "kept", "waits")] == ["waits"]
    assert {f for f in lane if f.startswith("n|")} == {"n|waits"}
    assert await hand.redis("EXISTS", hand.keys.rounds("llm|gone")) == 0
    assert "kept" in await hand.journal.tenant_names(["llm"])


# A lane that is another ------------------------------------------------------------------------------


async def test_a_step_that_goes_to_another_lane_is_in_that_lanes_round(hand: Hand) -> None:
    rounds = {agent: Rank(since="round", group=agent) for agent in "abc"}
    for lane in ("llm", "far"):
        await hand.journal.set_lane(lane, policy="round-robin")
    for n in range(30):  # the one lane is at round 30
        await hand.submit(ranked(f"a{n}", rounds["a"], "round-robin"))
        await ends(hand, await hand.claim())
    await hand.submit(ranked("x", rounds["a"], "round-robin"))
    x = await hand.claim()
    for n in range(3):  # and the other one at round 3
        await hand.submit(ranked(f"b{n}", rounds["b"], "round-robin", lane="far"))
        await ends(hand, await hand.claim("far"))
    await hand.submit(*(ranked(f"c{n}", rounds["c"], "round-robin", lane="far") for n in range(4)))
    await hand.journal.release(x, "next", error=ProviderBusy("x"), to=("big", "far"))
    assert (await run(hand, 5, "far")).index("x") <= 1
    [step] = (await hand.journal.load("x")).steps
    assert step.rank < 10


async def test_a_step_under_rules_that_its_new_lane_does_not_have_waits_by_its_time_and_is_ranked(
    hand: Hand,
) -> None:
    await hand.journal.set_lane("llm", policy="round-robin")
    await hand.submit(ranked("x", Rank(since="round", group="a"), "round-robin"))
    x = await hand.claim()
    await hand.submit(ranked("before", Rank(), "fifo", lane="far"))
    await hand.journal.set_lane("far", policy="las")
    await hand.journal.release(x, "next", error=ProviderBusy("x"), to=("big", "far"))
    assert (await hand.by_model("stray"))["far"] == ["x/0", "before/0"]  # x was ready before


async def test_a_tenant_whose_steps_go_to_another_lane_does_not_take_that_over(hand: Hand) -> None:
    for lane in ("llm", "far"):
        await hand.journal.set_lane(lane, fair="tenant")
    for n in range(20):
        await hand.submit(ranked(f"own{n}", Rank(), tenant="own", lane="far", tokens=10))
        await ends(hand, await hand.claim("far"))
    await hand.submit(
        *(ranked(f"own{n}", Rank(), tenant="own", lane="far", tokens=10) for n in range(20, 40))
    )
    for n, after in enumerate((0.0, 0.001) * 10):  # at once, and after a pause
        await hand.submit(ranked(f"x{n}", Rank(), tenant="other", tokens=10))
        claim = await hand.claim()
        await hand.journal.release(claim, "next", after, error=ProviderBusy("x"), to=("big", "far"))
    await hand.ring()
    await hand.reap()
    ran = await run(hand, 30, "far")
    assert Counter(ran) == {"o": 15, "x": 15}


# What a model holds ----------------------------------------------------------------------------------


async def test_a_newcomer_among_what_a_limit_holds_begins_with_the_least_of_them(hand: Hand) -> None:
    await hand.journal.set_lane("llm", fair="tenant")
    await hand.limit("small", rpm=2)
    await hand.submit(*(ranked(f"small{n}", Rank(), tenant="small", tokens=10) for n in range(40)))
    first = await hand.claim()
    await hand.submit(*(ranked(f"big{n}", Rank(), tenant="big", tokens=10) for n in range(3)))
    second = await hand.claim()
    assert second.job == "big0"
    assert await hand.drain() == []
    await ends(hand, second, 9000)
    await ends(hand, first)
    await hand.submit(*(ranked(f"new{n}", Rank(), tenant="new", tokens=10) for n in range(40)))
    assert await hand.drain() == []
    await hand.limit("small")
    await hand.minute()
    ran = []
    for _ in range(20):
        ran += await run(hand, 1)
    assert Counter(ran) in ({"s": 10, "n": 10}, {"s": 9, "n": 11}, {"s": 11, "n": 9})


async def hold(hand: Hand, *tenants: str, count: int = 12) -> None:
    """Tenants with so many steps of a model that is on hold."""
    await hand.limit("small", flight=1000)
    await hand.submit(ranked("held", Rank(), tenant=tenants[0], tokens=10))
    claim = await hand.claim()
    await hand.refuse(claim)
    for tenant in tenants:
        await hand.submit(*(ranked(f"{tenant}{n}", Rank(), tenant=tenant, tokens=10) for n in range(count)))
    assert await hand.drain() == []


async def test_a_hold_saves_nothing_up_against_those_who_work_meanwhile(hand: Hand) -> None:
    await hand.journal.set_lane("llm", fair="tenant")
    await hold(hand, "t", count=40)
    await hand.submit(*(ranked(f"u{n}", Rank(), tenant="u", tokens=10, model="big") for n in range(90)))
    assert set(await run(hand, 50)) == {"u"}
    await hand.end_hold()
    ran = await run(hand, 40)
    assert abs(ran.count("u") - 20) <= 1


async def test_two_that_a_hold_has_held_alike_have_saved_nothing_up_either(hand: Hand) -> None:
    """Neither is a floor for the other; and what the one was ahead of the other by stays."""
    await hand.journal.set_lane("llm", fair="tenant")
    await hand.journal.set_tenant("s", weight=2.0)
    await hold(hand, "t", "s", count=40)
    await hand.submit(*(ranked(f"u{n}", Rank(), tenant="u", tokens=10, model="big") for n in range(90)))
    assert set(await run(hand, 50)) == {"u"}
    await hand.end_hold()
    ran = Counter(await run(hand, 40))
    assert abs(ran["u"] - 10) <= 2
    assert abs(ran["s"] - 2 * ran["t"]) <= 3


async def test_under_a_limit_tenants_share_by_weight_beside_one_that_it_does_not_hold(hand: Hand) -> None:
    """The one is far ahead: it works with another model. That levels nothing among those that are held."""
    await hand.journal.set_lane("llm", fair="tenant")
    await hand.limit("small", flight=1)
    await hand.journal.set_tenant("s", weight=2.0)
    for tenant, model in (("s", "small"), ("t", "small"), ("u", "big")):
        await hand.submit(
            *(ranked(f"{tenant}{n:02}", Rank(), tenant=tenant, tokens=10, model=model) for n in range(60))
        )
    ran: Counter[str] = Counter()
    for _ in range(24):
        claims = [c for c in [await hand.journal.claim("llm", "w") for _ in range(4)] if c]
        ran.update(claim.job[0] for claim in claims)
        for claim in claims:
            await ends(hand, claim)
    assert abs(ran["s"] - 2 * ran["t"]) <= 3, ran


# Weights ---------------------------------------------------------------------------------------------


async def test_a_weight_that_is_raised_helps_what_waits_already(hand: Hand) -> None:
    await hand.journal.set_lane("llm", fair="tenant")
    await hand.journal.set_tenant("low", weight=0.001)
    await hand.submit(*(ranked(f"l{n}", Rank(), tenant="low", tokens=10) for n in range(5)))
    await hand.submit(*(ranked(f"u{n}", Rank(), tenant="u", tokens=10) for n in range(40)))
    assert "l" in await run(hand, 2)
    await hand.journal.set_tenant("low", weight=1.0)
    assert (await run(hand, 3)).count("l") >= 1
    await hand.journal.set_tenant("low", weight=1.0)  # said again: nothing changes
    assert (await run(hand, 2)).count("l") == 1


async def test_a_weight_that_is_raised_helps_what_a_limit_holds(hand: Hand) -> None:
    await hand.journal.set_lane("llm", fair="tenant")
    await hand.limit("small", flight=1)
    await hand.journal.set_tenant("low", weight=0.001)
    await hand.submit(*(ranked(f"l{n}", Rank(), tenant="low", tokens=10) for n in range(5)))
    await hand.submit(*(ranked(f"u{n}", Rank(), tenant="u", tokens=10) for n in range(40)))
    running = await hand.claim()
    assert await hand.drain() == []
    ran = []
    for nth in range(8):
        await ends(hand, running)
        if nth == 4:
            await hand.journal.set_tenant("low", weight=1.0)
        running = await hand.claim()
        ran.append(running.job[0])
    assert ran[5:].count("l") >= 1


def test_the_plain_set_is_taught_in_the_same_words() -> None:
    """(What it says of caps and weights is held against Redis in test_ordering.)"""
    from aios_dist.simulate.ready import ReadySet

    ready: ReadySet[str] = ReadySet(fair=True, weights={"low": 0.001})
    for n in range(3):
        ready.add(f"l{n}", n, ready=n, tenant="low")
        ready.add(f"u{n}", n, ready=n, tenant="u")
    assert [ready.pop(), ready.pop()] == ["l0", "u0"]
    ready.weigh("low", 1.0)
    assert {ready.pop(), ready.pop()} == {"l1", "u1"}
