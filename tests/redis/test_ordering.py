"""Who goes first: Redis orders as the policies' plain objects do, under any rules, and rules may change."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from aios_dist.agents import prompts
from aios_dist.calls import Usage
from aios_dist.errors import ConfigError
from aios_dist.jobs import JobState
from aios_dist.journal import Claim, NewJob, Stray
from aios_dist.plans import agent_first, fifo, fixed, shape
from aios_dist.policies import Past, Rank
from aios_dist.policies.agent_first import agent_first as place_rank
from aios_dist.policies.ready import ReadySet
from tests.redis.conftest import Hand, decides, starts

MINUTE_US = 6e7
PRIORITY = Rank(per_priority=MINUTE_US)


def ranked(id: str, rank: Rank, policy: str = "", **more: Any) -> NewJob:
    """A job with one step of that rank."""
    return starts(id, "x", rank=rank, policy=policy, **more)


async def order(hand: Hand) -> list[str]:
    """The jobs in the order in which their steps are dispatched from now on."""
    return [claim.job for claim in await hand.drain()]


async def facts(hand: Hand, id: str) -> tuple[float, float]:
    """When a job was submitted, and its step 0 ready: µs."""
    step = (await hand.journal.load(id)).steps[0]
    return int((await hand.hash(hand.keys.job(id)))["t0"]), step.ready_at * 1e6


# The rank as a number -----------------------------------------------------------------------------------


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
    assert await order(hand) == ["c1", "a3", "c2"]


# The same order as the plain object ---------------------------------------------------------------------

moves = st.lists(
    st.tuples(
        st.sampled_from(["add", "add", "pop", "settle"]),
        st.sampled_from(["acme", "beta", "corp"]),
        st.integers(0, 3),  # which rank, which cost
    ),
    min_size=5,
    max_size=40,
)
RANKS = [Rank(), Rank(base=1e12), Rank(since="round", group="x"), Rank(since="round", group="y")]


@settings(
    max_examples=25,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(moves=moves, oldest=st.sampled_from([0, 2, 3]), fair=st.booleans(), rounds=st.booleans())
async def test_redis_dispatches_as_the_plain_ready_set_does(
    hand: Hand, moves: list[tuple[str, str, int]], oldest: int, fair: bool, rounds: bool
) -> None:
    """Sets of their own for each example: the lane is a new one."""
    hand.lanes = getattr(hand, "lanes", 0) + 1
    lane = f"lane{hand.lanes}"
    weights = {"acme": 2.0, "beta": 1.0, "corp": 0.5}
    for tenant, weight in weights.items():
        await hand.journal.set_tenant(tenant, weight=weight)
    await hand.journal.set_lane(lane, policy="fifo", oldest_every=oldest, fair="tenant" if fair else "")
    model: ReadySet[str] = ReadySet(oldest_every=oldest, fair=fair, weights=weights)
    held: list[tuple[Claim, str, int]] = []
    born = 0
    for what, tenant, size in moves:
        if what == "add":
            born += 1
            id, cost = f"{lane}-{born:03}-{tenant}", 10 * size
            rank = RANKS[2 + size % 2] if rounds else RANKS[size % 2]
            await hand.submit(ranked(id, rank, "fifo", tenant=tenant, tokens=cost, lane=lane))
            submitted, ready = await facts(hand, id)
            model.add(f"{id}/0", rank, ready=ready, submitted=submitted, tenant=tenant, cost=max(1, cost))
        elif what == "pop":
            claim = await hand.journal.claim(lane, "w1")
            assert (claim and f"{claim.job}/{claim.step}") == model.pop()
            if claim is not None:
                cost = 10 * int((await hand.hash(hand.keys.job(claim.job)))["n"])
                held.append((claim, claim.record.tenant, cost))
        elif held:
            claim, owner, _ = held.pop(size % len(held))
            step = (await hand.journal.load(claim.job)).steps[0]
            assert step.request is not None
            charged = max(1, await cost_of(hand, claim))
            await hand.commit(claim, usage=Usage(5, 10 * size, 1), decision=decides(1, 1, ends=JobState.DONE))
            model.settle(owner, 5 + 2 * 10 * size - charged)
    for claim in await hand.drain(lane):
        assert f"{claim.job}/{claim.step}" == model.pop()
    assert model.pop() is None


async def cost_of(hand: Hand, claim: Claim) -> int:
    head = msgspec.msgpack.decode((await hand.hash(hand.keys.job(claim.job)))[f"h{claim.step}"])
    return int(head[22])


# Every Nth to the oldest --------------------------------------------------------------------------------


async def test_every_nth_dispatch_goes_to_the_step_that_has_waited_longest(hand: Hand) -> None:
    await hand.journal.set_lane("llm", policy="las", oldest_every=3)
    await hand.submit(ranked("long", Rank(base=1e14), "las"))
    await hand.submit(*(ranked(f"short{n}", Rank(), "las") for n in range(4)))
    assert await order(hand) == ["short0", "short1", "long", "short2", "short3"]


async def test_a_step_that_a_limit_holds_does_not_use_up_the_turn_of_the_oldest(hand: Hand) -> None:
    await hand.limit("small", flight=1)
    await hand.journal.set_lane("llm", policy="las", oldest_every=2)
    first, second = ranked("a", Rank(), "las"), ranked("b", Rank(base=1e14), "las")
    await hand.submit(first, second, *(ranked(f"c{n}", Rank(), "las", model="big") for n in range(3)))
    assert (await hand.claim()).job == "a"
    assert (await hand.claim()).job == "c0"  # the second dispatch: b is older, and its model is full
    assert await order(hand) == ["c1", "c2"]


# Fair share ---------------------------------------------------------------------------------------------


async def test_a_tenant_with_many_steps_lets_one_with_few_go_between(hand: Hand) -> None:
    await hand.journal.set_lane("llm", fair="tenant")
    await hand.submit(*(ranked(f"flood{n}", Rank(), tenant="flood", tokens=10) for n in range(4)))
    await hand.submit(*(ranked(f"small{n}", Rank(), tenant="small", tokens=10) for n in range(2)))
    assert await order(hand) == ["flood0", "small0", "flood1", "small1", "flood2", "flood3"]


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
    assert await order(hand) == ["b1", "b2", "a1", "a2"]


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
    assert await order(hand) == ["capped2"]
    [view] = await hand.journal.tenant_views(["capped"], ["llm"])
    assert (view.max_in_flight, view.in_flight, view.held) == (2, 2, 1)
    await hand.journal.set_tenant("capped", max_in_flight=0)
    await hand.ring()
    await hand.reap()
    assert await order(hand) == ["capped3"]


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
    assert await order(hand) == ["three"]
    await hand.look()


async def test_what_waits_is_counted_also_by_tenant(hand: Hand) -> None:
    await hand.journal.set_lane("llm", fair="tenant")
    await hand.submit(*(ranked(f"a{n}", Rank(), tenant="acme") for n in range(3)))
    await hand.submit(ranked("b", Rank(), tenant="beta"))
    count = (await hand.journal.waiting(["llm"]))["llm"]
    assert (count.ready, count.tenants) == (4, {"acme": 3, "beta": 1})
    assert (await hand.reap()).ready["llm"] == 4


# Priorities that change ---------------------------------------------------------------------------------


@pytest.mark.parametrize("where", ["ready", "held", "paused", "leased", "waits for its plan"])
async def test_a_priority_can_be_changed_wherever_the_step_is(hand: Hand, where: str) -> None:
    await hand.journal.set_lane("llm", policy="priority")
    if where == "waits for its plan":
        await hand.plan("p", ("fixed", "stop", "first", "late"), [ranked("late", PRIORITY, "priority")])
        first = await hand.claim()
    else:
        await hand.submit(ranked("late", PRIORITY, "priority"))
    await hand.submit(ranked("soon", PRIORITY, "priority", priority=5))
    if where == "held":
        await hand.limit("small", flight=1)
        await hand.submit(ranked("busy", PRIORITY, "priority", priority=9))
        first = await hand.claim()
        assert await hand.journal.claim("llm", "w1") is None
    if where == "paused":
        await hand.journal.pause("late")
    if where == "leased":
        await hand.submit(ranked("top", PRIORITY, "priority", priority=9))
        assert (await hand.claim()).job == "top"
        assert (await hand.claim()).job == "soon"
        lost = await hand.claim()
    state, _ = await hand.journal.rerank("late", 9)
    assert state in ("running", "paused", "waiting")
    if where in ("held", "waits for its plan"):
        await hand.finish(first)
    if where == "paused":
        await hand.journal.resume("late")
    if where == "leased":
        await hand.submit(ranked("next", PRIORITY, "priority", priority=8))
        await hand.lose(lost)
    await hand.look()
    assert (await hand.claim()).job == "late"


async def test_the_steps_to_come_have_the_new_priority_too(hand: Hand) -> None:
    await hand.journal.set_lane("llm", policy="priority")
    await hand.submit(ranked("j", PRIORITY, "priority"))
    claim = await hand.claim()
    await hand.journal.rerank("j", 9)
    await hand.submit(ranked("other", PRIORITY, "priority", priority=5))
    await hand.commit(claim, decision=decides(1, 1, "y", rank=PRIORITY, policy="priority"))
    assert (await hand.claim()).job == "j"


async def test_a_priority_means_nothing_where_the_policy_does_not_look_at_it(hand: Hand) -> None:
    await hand.submit(ranked("a", Rank()), ranked("b", Rank()))
    assert await hand.journal.rerank("b", 9) == ("running", 0)
    assert await hand.journal.rerank("nobody", 9) == ("unknown", 0)
    assert (await hand.journal.views(["b"]))[0].priority == 9  # type: ignore[union-attr]
    assert await order(hand) == ["a", "b"]


async def test_a_job_that_has_ended_keeps_its_priority(hand: Hand) -> None:
    await hand.submit(ranked("a", PRIORITY))
    await hand.run()
    before = await hand.whole()
    assert await hand.journal.rerank("a", 9) == ("done", 0)
    assert await hand.whole() == before


# Rules that change --------------------------------------------------------------------------------------

BY_NAME = {"fifo": Rank(), "las": Rank(base=1e14), "round-robin": Rank(since="round", group="g")}


async def rank_anew(hand: Hand, policy: str, rank: Rank) -> int:
    async def said(strays: list[Stray]) -> list[tuple[Rank, str]]:
        return [(rank, policy) for _ in strays]

    return await hand.journal.rank_strays("llm", said)


async def test_what_waits_under_old_rules_runs_on_in_its_order_until_it_is_ranked_anew(hand: Hand) -> None:
    await hand.submit(*(ranked(f"j{n}", Rank(), "fifo") for n in range(4)))
    await hand.journal.set_lane("llm", policy="las", oldest_every=10)
    assert (await hand.reap()).astray == ["llm"]
    assert (await hand.claim()).job == "j0"
    assert await rank_anew(hand, "las", Rank(base=1e14)) == 3
    assert (await hand.reap()).astray == []
    await hand.submit(ranked("new", Rank(), "las"))
    await hand.look()
    assert await order(hand) == ["new", "j1", "j2", "j3"]


async def test_a_step_that_a_producer_ranked_by_old_rules_is_ranked_anew(hand: Hand) -> None:
    await hand.journal.set_lane("llm", policy="las", oldest_every=10)
    await hand.submit(ranked("old", Rank(base=-1e15), "priority"), ranked("new", Rank(), "las"))
    assert (await hand.reap()).astray == ["llm"]
    await rank_anew(hand, "las", Rank(base=1e14))
    assert await order(hand) == ["new", "old"]


async def test_strays_come_with_what_a_policy_asks_of_a_step(hand: Hand) -> None:
    await hand.submit(starts("j", "x", rank=Rank(), policy="fifo", agent="planner", tenant="acme"))
    claim = await hand.claim()
    await hand.commit(claim, decision=decides(1, 1, "y", rank=Rank(), policy="fifo"))
    await hand.journal.set_lane("llm", policy="las")
    seen: list[Stray] = []

    async def said(strays: list[Stray]) -> list[tuple[Rank, str]]:
        seen.extend(strays)
        return [(Rank(), "las") for _ in strays]

    await hand.journal.rank_strays("llm", said)
    [stray] = seen
    assert (stray.job, stray.number, stray.record.agent, stray.record.tenant) == ("j", 1, "planner", "acme")
    assert 0 < stray.served < 60


async def test_rules_that_change_while_steps_are_ranked_leave_them_to_those_who_know(hand: Hand) -> None:
    await hand.submit(ranked("j", Rank(), "fifo"))
    await hand.journal.set_lane("llm", policy="las")

    async def said(strays: list[Stray]) -> list[tuple[Rank, str]]:
        await hand.journal.set_lane("llm", policy="deadline")
        return [(Rank(), "las") for _ in strays]

    await hand.journal.rank_strays("llm", said)
    assert (await hand.reap()).astray == ["llm"]
    assert await order(hand) == ["j"]


@pytest.mark.parametrize("count", [3, 1200])
async def test_fair_share_can_be_switched_on_and_off_while_steps_wait(hand: Hand, count: int) -> None:
    await hand.submit(*(ranked(f"flood{n:04}", Rank(), "fifo", tenant="flood") for n in range(count)))
    await hand.submit(ranked("small", Rank(), "fifo", tenant="small"))
    await hand.journal.set_lane("llm", fair="tenant")
    assert await rank_anew(hand, "fifo", Rank()) == count + 1
    first = [(await hand.claim()).job for _ in range(2)]
    assert first == ["flood0000", "small"]
    await hand.journal.set_lane("llm", fair="")
    assert await rank_anew(hand, "fifo", Rank()) == count - 1
    assert await order(hand) == [f"flood{n:04}" for n in range(1, count)]


async def test_aios_toml_counts_when_it_says_something_new_and_a_hand_until_then(hand: Hand) -> None:
    set_lane = hand.journal.set_lane

    async def file(policy: str) -> str:
        rules = await set_lane("llm", policy=policy, oldest_every=0, fair="", source="file")
        return f"{rules.policy} {'by hand' if rules.by_hand else 'by file'}"

    assert await file("fifo") == "fifo by file"
    assert (await set_lane("llm", policy="las")).by_hand
    assert await file("fifo") == "las by hand"
    assert await file("priority") == "priority by file"
    await set_lane("llm", policy="las", oldest_every=5)
    assert (await set_lane("llm", source="reset")).policy == "priority"
    rules = (await hand.journal.lane_rules(["llm"]))["llm"]
    assert (rules.policy, rules.oldest_every, rules.by_hand) == ("priority", 0, False)


# Agent-first plans --------------------------------------------------------------------------------------


async def submit_plan(hand: Hand, plan: Any, **prompts_of: int) -> None:
    ids = [spec.id for spec in plan.jobs()]
    layout, owners = shape(plan, "p", ids)
    jobs = [starts(id, *"xyz"[: prompts_of.get(id, 1)], policy="fifo") for id in ids]
    new = [
        msgspec.structs.replace(job, node=node, place=place)
        for job, node, place in zip(jobs, owners, layout.places, strict=True)
    ]
    assert (await hand.journal.submit(new, layout)).status == "new"


ONE = prompts("one", ["say {input}"], model="small")


def job(id: str) -> Any:
    return ONE.job("x", id=id)


async def test_agent_first_is_the_order_of_the_plan_and_no_slot_stands_idle(hand: Hand) -> None:
    await hand.submit(ranked("before", Rank(), "fifo"))
    await submit_plan(hand, agent_first([job("b"), job("a"), job("c")]), a=2)
    await hand.submit(ranked("after", Rank(), "fifo"))
    first = [await hand.claim() for _ in range(3)]
    assert [claim.job for claim in first] == ["before", "b", "a"]
    await hand.commit(first[1], decision=decides(1, 1, "more", policy="fifo"))
    assert await order(hand) == ["b", "a", "c", "after"]


async def test_groups_of_an_agent_first_plan_share_a_place_and_are_fifo_inside(hand: Hand) -> None:
    await submit_plan(hand, agent_first([fifo([job("b"), job("a")]), fifo([job("d"), job("c")])]))
    claim = await hand.claim()
    assert claim.job == "b"
    await hand.commit(claim, decision=decides(1, 1, "more", policy="fifo"))
    assert await order(hand) == ["a", "b", "d", "c"]


async def test_the_rank_is_that_of_the_plain_function(hand: Hand) -> None:
    await submit_plan(hand, agent_first([job("a"), job("b"), job("c")]))
    admitted = int((await hand.hash(hand.keys.plan("p")))["a0"])
    ranks = [(await hand.journal.load(id)).steps[0].rank for id in "abc"]
    assert ranks == [place_rank(admitted, n, 3, 0) for n in range(3)]


async def test_what_extends_an_agent_first_plan_goes_behind_it(hand: Hand) -> None:
    await submit_plan(hand, agent_first([job("a"), job("b")]), a=2)
    await hand.journal.extend("p", [starts("c", "x", policy="fifo"), starts("d", "x", policy="fifo")])
    await hand.submit(ranked("other", Rank(), "fifo"))
    await hand.look()
    assert (await order(hand))[:3] == ["a", "a", "b"]


async def test_a_strict_order_within_an_agent_first_plan_stays_strict(hand: Hand) -> None:
    await submit_plan(hand, agent_first([fixed([job("a"), job("b")]), job("c")]))
    claims = await hand.drain()
    assert [claim.job for claim in claims] == ["a", "c"]
    await hand.finish(claims[0])
    assert await order(hand) == ["b"]


# What is known of agents --------------------------------------------------------------------------------


async def test_a_run_that_succeeded_is_remembered_of_its_agent(hand: Hand) -> None:
    await hand.submit(starts("good", "x", agent="planner"), starts("bad", "x", agent="planner"))
    good, bad = await hand.claim(), await hand.claim()
    await hand.finish(good)
    await hand.finish(bad, JobState.FAILED)
    past = await hand.journal.pasts(["planner", "stranger"])
    assert past.keys() == {"planner"}
    assert past["planner"].steps == 1
    served = (await hand.journal.load("good")).view.served
    assert past["planner"] == Past((served,), 1)
    assert 0 < served < 60


async def test_only_the_last_runs_are_remembered(hand: Hand) -> None:
    await hand.submit(*(starts(f"j{n}", "x", agent="planner") for n in range(205)))
    await hand.run(most=300)
    assert len((await hand.journal.pasts(["planner"]))["planner"].totals) == 200


# Bad input ----------------------------------------------------------------------------------------------


def test_a_rule_that_cannot_be_is_refused_in_a_sentence() -> None:
    from aios_dist.config import LaneConfig, check_lane

    for rules, words in (
        (LaneConfig("lass"), "no policy 'lass'; did you mean 'las'"),
        (LaneConfig(fair="agent"), "fair is 'tenant'"),
        (LaneConfig(oldest_every=1), "oldest_every"),
    ):
        with pytest.raises(ConfigError, match=words):
            check_lane("Lane 'llm':", rules)
