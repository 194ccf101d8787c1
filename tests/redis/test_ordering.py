"""Who goes first: Redis orders as the policies' plain objects do."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from aios_dist.journal import Claim
from aios_dist.model.calls import Usage
from aios_dist.model.jobs import JobState
from aios_dist.policies import Rank
from aios_dist.simulate.ready import ReadySet
from tests.redis.conftest import Hand, decides, ranked

MINUTE_US = 6e7


async def facts(hand: Hand, id: str) -> tuple[float, float]:
    """When a job was submitted, and its step 0 ready: µs."""
    step = (await hand.journal.load(id)).steps[0]
    return int((await hand.hash(hand.keys.job(id)))["t0"]), step.ready_at * 1e6


# The rank as a number --------------------------------------------------------------------------------


@pytest.mark.parametrize("since", ["ready", "submitted"])
@pytest.mark.parametrize("priority", [0, 7])
async def test_redis_comes_to_the_number_that_the_policies_say(hand: Hand, since: Any, priority: int) -> None:
    rank = Rank(base=12.5e6, since=since, per_priority=MINUTE_US)
    await hand.submit(ranked("j", rank, priority=priority))
    submitted, ready = await facts(hand, "j")
    [number] = [step.rank for step in (await hand.journal.load("j")).steps]
    assert number == rank.value(ready=ready, submitted=submitted, priority=priority)


async def test_rounds_go_by_group_and_a_newcomer_begins_with_the_round_of_now(hand: Hand) -> None:
    for id in ("a1", "a2", "a3", "b1"):
        await hand.submit(ranked(id, Rank(since="round", group=id[0])))
    assert [(await hand.claim()).job for _ in range(3)] == ["a1", "b1", "a2"]
    await hand.submit(ranked("c1", Rank(since="round", group="c")))
    await hand.submit(ranked("c2", Rank(since="round", group="c")))
    assert await hand.order() == ["c1", "a3", "c2"]


# The same order as the plain object ------------------------------------------------------------------


moves = st.lists(
    st.tuples(
        st.sampled_from(["add", "add", "add", "pop", "pop", "settle", "settle", "weigh"]),
        st.sampled_from(["acme", "beta", "corp"]),
        st.integers(0, 3),  # which rank, which cost
    ),
    min_size=5,
    max_size=40,
)
LANES = itertools.count()
WEIGHTS = {"acme": 2.0, "beta": 1.0, "corp": 0.5}
RANKS = [Rank(), Rank(base=1e12), Rank(since="round", group="x"), Rank(since="round", group="y")]


@settings(
    max_examples=25,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(
    moves=moves,
    oldest=st.sampled_from([0, 2, 3]),
    fair=st.booleans(),
    rounds=st.booleans(),
    caps=st.sampled_from([{}, {"acme": 1}, {"acme": 2, "corp": 1}]),
)
async def test_redis_dispatches_as_the_plain_ready_set_does(
    hand: Hand,
    moves: list[tuple[str, str, int]],
    oldest: int,
    fair: bool,
    rounds: bool,
    caps: dict[str, int],
) -> None:
    if not fair and oldest and caps:  # which of a capped tenant's steps is let in is decided beforehand there
        oldest = 0
    lane = f"lane-{next(LANES)}"  # of this example's own
    for tenant, weight in WEIGHTS.items():
        await hand.journal.set_tenant(tenant, weight=1.0)
        await hand.journal.set_tenant(tenant, weight=weight, max_in_flight=caps.get(tenant, 0))
    await hand.journal.set_lane(lane, policy="fifo", oldest_every=oldest, fair="tenant" if fair else "")
    plain: ReadySet[str] = ReadySet(oldest_every=oldest, fair=fair, weights=WEIGHTS, caps=caps)
    running: list[tuple[Claim, int]] = []
    costs: dict[str, int] = {}
    for what, tenant, size in moves:
        if what == "add":
            id, cost = f"{lane}-{len(costs):03}-{tenant}", max(1, 10 * size)
            rank = RANKS[2 * rounds + size % 2]
            await hand.submit(ranked(id, rank, "fifo", tenant=tenant, tokens=cost, lane=lane))
            submitted, ready = await facts(hand, id)
            plain.add(f"{id}/0", rank, ready=ready, submitted=submitted, tenant=tenant, cost=cost)
            costs[id] = cost
        elif what == "pop":
            claim = await hand.journal.claim(lane, "w1")
            assert (claim and f"{claim.job}/{claim.step}") == plain.pop()
            if claim is not None:
                running.append((claim, costs[claim.job]))
        elif what == "weigh":
            await hand.journal.set_tenant(tenant, weight=2.0**size / 2)
            plain.weigh(tenant, 2.0**size / 2)
        elif running:
            claim, cost = running.pop(size % len(running))
            end = decides(1, 1, ends=JobState.DONE)
            await hand.commit(claim, usage=Usage(5, 10 * size, 1), decision=end)
            plain.settle(claim.record.tenant, 5 + 2 * 10 * size - cost)
    for _ in range(len(costs) + 1):  # the rest, one after the other where there are caps
        for claim in await hand.drain(lane):
            assert f"{claim.job}/{claim.step}" == plain.pop()
            running.append((claim, costs[claim.job]))
        assert plain.pop() is None
        if not running:
            break
        claim, cost = running.pop(0)
        await hand.commit(claim, usage=Usage(5, 0, 1), decision=decides(1, 1, ends=JobState.DONE))
        plain.settle(claim.record.tenant, 5 - cost)
    assert len(plain) == 0
    shares = await hand.hash(hand.keys.share(lane))
    charged = {tenant: float(had) for tenant, had in shares.items() if tenant not in ("!", "!m")}
    assert charged == pytest.approx(plain.counters if fair else {}), "what each has been charged"


# Every Nth to the oldest -----------------------------------------------------------------------------


async def test_every_nth_dispatch_goes_to_the_step_that_has_waited_longest(hand: Hand) -> None:
    await hand.journal.set_lane("llm", policy="las", oldest_every=3)
    await hand.submit(ranked("long", Rank(base=1e14), "las"))
    await hand.submit(*(ranked(f"short{n}", Rank(), "las") for n in range(4)))
    assert await hand.order() == ["short0", "short1", "long", "short2", "short3"]


async def test_a_step_that_a_limit_holds_does_not_use_up_the_turn_of_the_oldest(hand: Hand) -> None:
    await hand.limit("small", flight=1)
    await hand.journal.set_lane("llm", policy="las", oldest_every=2)
    first, second = ranked("a", Rank(), "las"), ranked("b", Rank(base=1e14), "las")
    await hand.submit(first, second, *(ranked(f"c{n}", Rank(), "las", model="big") for n in range(3)))
    assert (await hand.claim()).job == "a"
    assert (await hand.claim()).job == "c0"  # the second dispatch: b is older, and its model is full
    assert await hand.order() == ["c1", "c2"]


async def test_every_nth_goes_to_the_oldest_also_among_what_a_limit_holds(hand: Hand) -> None:
    """Most fleets wait for their provider, not for slots: a bound that ends there is none."""
    await hand.limit("small", flight=1)
    await hand.journal.set_lane("llm", policy="las", oldest_every=3)
    await hand.submit(ranked("first", Rank(), "las"))
    running = await hand.claim()
    await hand.submit(ranked("long", Rank(base=1e14), "las"))
    await hand.submit(*(ranked(f"short{n}", Rank(), "las") for n in range(6)))
    assert await hand.drain() == []
    ran = []
    for _ in range(7):
        await hand.finish(running)
        running = await hand.claim()
        ran.append(running.job)
        await hand.look()
    assert ran.index("long") <= 3
