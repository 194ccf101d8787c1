"""What verbs do at their bounds and on the way back: small things that mutants once got away with."""

from __future__ import annotations

from random import Random
from typing import TYPE_CHECKING, Any

import msgspec
import pytest

from aios_dist.config import PromptsConfig
from aios_dist.errors import ProviderBusy
from aios_dist.journal import Claim, Decision, NewJob, Nothing, RankedStep, WorkerInfo, submitting
from aios_dist.journal.records import Said
from aios_dist.journal.views import LaneRules
from aios_dist.model.calls import LLMRequest, Usage
from aios_dist.model.jobs import JobRecord, Kind, NewStep, Outcome, encode
from aios_dist.policies import Rank
from tests.redis.conftest import plan_of, ranked, starts

if TYPE_CHECKING:
    from tests.redis.conftest import Hand

ROUNDS = Rank(since="round", group="g")


def seen(hand: Hand, at: float, **more: Any) -> WorkerInfo:
    return WorkerInfo(
        id="w2", host="h", pid=1, pool="p", lanes=["llm"], slots=1, started_at=at, seen_at=at, **more
    )


async def counters(hand: Hand, *tenants: str) -> dict[str, float]:
    views = await hand.journal.tenant_views(tenants, ["llm"])
    return {view.name: view.counters.get("llm", 0.0) for view in views}


# Claims -----------------------------------------------------------------------------------------------


async def test_a_claim_whose_answer_was_lost_is_none_any_more_once_its_job_has_ended(hand: Hand) -> None:
    await hand.submit(starts("j", "x"))
    first = await hand.journal.take("llm", "w1", "token")
    assert isinstance(first, Claim)
    assert await hand.journal.take("llm", "w1", "token", again=True) == first
    await hand.journal.cancel("j")
    assert isinstance(await hand.journal.take("llm", "w1", "token", again=True), Nothing)


async def test_an_agent_that_is_data_is_served_by_workers_that_have_no_agents(hand: Hand) -> None:
    record = JobRecord("nobody-has-it", {"input": "x"}, prompts=PromptsConfig(prompts=["say {input}"]))
    await hand.submit(NewJob("data", record, None), starts("code", agent="nobody-has-it"))
    got = await hand.journal.take("turns", "w1", "token", models=[], agents=[])
    assert isinstance(got, Claim)
    assert got.job == "data"
    assert isinstance(await hand.journal.take("turns", "w1", "other", models=[], agents=[]), Nothing)
    await hand.journal.cancel("code")


async def test_a_worker_gets_calls_of_its_models_and_no_others(hand: Hand) -> None:
    await hand.submit(starts("big", "x", model="big"), starts("small", "x", model="small"))
    got = await hand.journal.take("llm", "w1", "token", models=["small"])
    assert isinstance(got, Claim)
    assert got.job == "small"
    assert isinstance(await hand.journal.take("llm", "w1", "other", models=["small"]), Nothing)
    assert (await hand.claim()).job == "big"


async def test_what_only_others_can_serve_waits_on_its_lane_also_where_that_is_shared(hand: Hand) -> None:
    await hand.journal.set_lane("llm", fair="tenant")
    await hand.journal.announce(seen(hand, await hand.journal.now(), models=["big"]), {"big": "llm"})
    await hand.submit(starts("a", "x", model="big", tenant="t1"), starts("b", "x", model="big", tenant="t2"))
    got = await hand.journal.take("llm", "w1", "token", models=["small"])
    assert isinstance(got, Nothing)
    assert got.elsewhere
    assert (await hand.reap()).ready["llm"] == 2
    for id in "ab":
        await hand.journal.cancel(id)


async def test_needs_that_nobody_has_served_for_long_are_forgotten(hand: Hand) -> None:
    serving = f"{hand.keys.prefix}serving"
    now = await hand.journal.now()
    await hand.redis(
        "ZADD", serving, f"{(now - 1) * 1e6:.0f}", "model/old", f"{(now + 60) * 1e6:.0f}", "model/new"
    )
    await hand.reap()
    assert await hand.redis("ZRANGE", serving, 0, -1) == [b"model/new"]


# Given back, lost and regained ------------------------------------------------------------------------


async def test_a_failed_try_begins_the_count_of_those_that_came_to_nothing_anew(
    hand: Hand, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("aios_dist.journal.journal.MOST_BACK", 3)
    await hand.submit(starts("j", "x"))
    for error in (None, None, ProviderBusy("503"), None, None):
        await hand.journal.release(await hand.claim(), "why", error=error, counted=True)
    claim = await hand.claim()
    assert (claim.attempt, claim.tries) == (6, 1)
    await hand.journal.release(claim, "why", counted=True)
    assert await hand.names() == []
    assert len(await hand.journal.dead_letters()) == 1


async def test_what_a_worker_still_holds_of_a_paused_job_is_its_own_again(hand: Hand) -> None:
    await hand.submit(starts("j", "x"))
    claim = await hand.claim()
    await hand.journal.pause("j")
    await hand.lose(claim)
    assert await hand.renew(claim) == []
    assert (await hand.commit(claim)).status == "paused"


async def test_another_request_under_the_same_number_is_not_regained(hand: Hand) -> None:
    await hand.submit(starts("j", "x"))
    for odd in ({"digest": "of another"}, {"basis": "canother.1"}):
        known = await hand.claim()
        await hand.journal.release(known, "put back")
        forgotten = msgspec.structs.replace(known, token="forgotten", attempt=9, **odd)
        assert await hand.renew(forgotten) == [forgotten]
    forgotten = msgspec.structs.replace(known, token="forgotten", attempt=9)
    assert await hand.renew(forgotten) == []


async def test_a_lease_that_is_regained_leaves_its_place_on_the_lane_to_the_next(hand: Hand) -> None:
    await hand.limit(rpm=2)
    await hand.submit(starts("a", "x"))
    claim = await hand.claim()
    await hand.lose(claim)
    await hand.submit(starts("b", "x"))
    assert await hand.names() == ["a/0"]
    assert await hand.renew(claim) == []
    assert await hand.names() == ["b/0"]


async def test_of_a_lost_call_its_tenant_keeps_what_it_was_guessed_to_cost(hand: Hand) -> None:
    await hand.journal.set_lane("llm", fair="tenant")
    await hand.submit(starts("a", "x", tenant="t1", tokens=100))
    claim = await hand.claim()
    before = await counters(hand, "t1")
    await hand.lose(claim)
    assert await counters(hand, "t1") == before
    assert before["t1"] >= 100


async def test_a_retried_job_has_no_end_and_no_result(hand: Hand) -> None:
    await hand.submit(starts("j", "x"))
    await hand.journal.cancel("j")
    await hand.journal.retry("j", basis=(await hand.journal.load("j")).basis, undone=[], salt="s")
    assert not {b"res", b"t1"} & set(await hand.redis("HKEYS", hand.keys.job("j")))
    (view,) = await hand.journal.views(["j"])
    assert view is not None
    assert view.ended_at == 0.0


async def test_a_fork_has_the_priority_of_its_job(hand: Hand) -> None:
    await hand.submit(starts("j", "x", priority=7))
    await hand.journal.fork("j", "f", 0)
    (view,) = await hand.journal.views(["f"])
    assert view is not None
    assert view.priority == 7


# Limits and usage -------------------------------------------------------------------------------------


async def test_a_call_from_before_a_hold_is_none_of_those_that_try_the_model_again(hand: Hand) -> None:
    await hand.limit(flight=9)
    await hand.submit(*(starts(id, "x") for id in "abc"))
    refused, _ = await hand.claim(), await hand.claim()
    await hand.refuse(refused)
    await hand.end_hold()
    assert await hand.journal.claim("llm", "w1") is not None


async def test_a_long_hold_of_a_model_with_a_fallback_is_a_reason_to_look_at_once(hand: Hand) -> None:
    await hand.submit(starts("j", "x"))
    await hand.refuse(await hand.claim(), hold=600.0)
    due = await hand.redis("ZSCORE", hand.keys.timers, "model:small/!")
    assert float(due) <= await hand.journal.now() * 1e6


async def test_a_limit_that_is_taken_away_lets_in_however_many_it_held(hand: Hand) -> None:
    await hand.limit(flight=1)
    await hand.submit(*(starts(f"j{n}", "x") for n in range(60)))
    await hand.limit()
    for _ in range(4):
        await hand.reap()
    assert len(await hand.names()) == 60


async def test_a_tenant_spends_what_all_its_calls_took(hand: Hand) -> None:
    await hand.journal.set_tenant("t1", tokens_per_day=100)
    for id in "abc":
        await hand.submit(starts(id, "x", tenant="t1"))
        await hand.commit(await hand.claim(), usage=Usage(3, 2, 1))
    (view,) = await hand.journal.tenant_views(["t1"], ["llm"])
    assert (view.tokens_today, view.tokens_per_day) == (15, 100)


async def test_of_an_estimate_its_output_is_what_its_cost_counts_twice(hand: Hand) -> None:
    request = encode(LLMRequest([{"role": "user", "content": "x"}]))
    step = NewStep(Kind.LLM, "llm", request, "d", "small", estimate=30, cost=50)
    await hand.submit(NewJob("j", JobRecord("a", {}), Decision(0, 0, [RankedStep(step, Rank(), "")])))
    claim = await hand.claim()
    assert claim.estimated == Usage(10, 20, 1)
    await hand.commit(claim, usage=Usage())
    (view,) = await hand.journal.views(["j"])
    assert view is not None
    assert view.usage == Usage(10, 20, 1)


async def test_as_many_signals_are_kept_as_may_be_and_no_more(
    hand: Hand, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("aios_dist.journal.journal.MOST_SIGNALS", 2)
    await hand.submit(starts("j", "x"))
    said = [(await hand.journal.signal("j", "go", Outcome(value=n), f"s{n}"))[0] for n in range(3)]
    assert said == ["kept", "kept", "full"]


# Order ------------------------------------------------------------------------------------------------


async def test_the_round_of_now_is_the_highest_that_was_dispatched(hand: Hand) -> None:
    await hand.submit(*(ranked(f"j{n}", ROUNDS) for n in range(3)))
    first, _ = await hand.claim(), await hand.claim()
    await hand.journal.release(first, "back")
    assert (await hand.claim()).job == first.job
    assert await hand.redis("HGET", hand.keys.rounds("llm"), "!") == b"1"


async def test_the_turn_of_the_oldest_moves_no_round_on(hand: Hand) -> None:
    await hand.journal.set_lane("llm", policy="round-robin", oldest_every=2)
    other = Rank(since="round", group="h")
    await hand.submit(
        *(ranked(f"g{n}", ROUNDS, "round-robin") for n in range(3)), ranked("h0", other, "round-robin")
    )
    assert [(await hand.claim()).job for _ in range(2)] == ["g0", "g1"], "the lowest, then the oldest"
    assert await hand.redis("HGET", hand.keys.rounds("llm"), "!") is None, "round 0 is none that has passed"


async def test_whoever_listens_hears_of_a_lanes_new_rules(hand: Hand, redis_client: Any) -> None:
    with redis_client.pubsub(ignore_subscribe_messages=True) as heard:
        heard.subscribe(hand.keys.control)
        heard.get_message(timeout=5)
        await hand.journal.set_lane("llm", policy="las")
        await hand.journal.set_lane("llm", policy="las")
        await hand.journal.say(Said(lanes={"gpu": LaneRules("fifo", 0, "", False)}), "file")
        first, more = heard.get_message(timeout=5), heard.get_message(timeout=0.2)
    assert first is not None
    assert b"llm" in first["data"]
    assert more is None, "nothing has changed"


async def test_no_beat_of_the_office_comes_again(hand: Hand) -> None:
    beats = [(await hand.journal.office("w1", "take", "")).beat for _ in range(25)]
    assert len(set(beats)) == 25


# Plans and tenants as Python tells them ---------------------------------------------------------------------


async def test_who_wants_no_news_of_a_plan_gets_all_its_tickets_at_the_end(hand: Hand) -> None:
    shape, owners = plan_of("p", ("fifo", "stop", *(f"j{n}" for n in range(60))))
    jobs = [msgspec.structs.replace(starts(id, id), node=node) for id, node in owners.items()]
    done = await hand.journal.submit(jobs, shape)
    assert sorted(ticket.job for ticket in done.tickets) == sorted(owners)


async def test_an_id_twice_in_a_plan_is_refused_however_far_they_stand_apart(
    hand: Hand, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(submitting, "MOST_STEPS", 2)
    shape, owners = plan_of("p", ("fifo", "stop", "a", "b", "c", "d"))
    jobs = [msgspec.structs.replace(starts(id, id), node=owners[id]) for id in "abc"]
    done = await hand.journal.submit([*jobs, jobs[0]], shape)
    assert (done.status, done.conflict) == ("conflict", "a")
    assert await hand.journal.states(["a", "b"]) == [None, None]


async def test_a_slice_of_a_plan_has_no_more_bytes_than_one_may_have(
    hand: Hand, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(submitting, "MOST_BYTES", 3000)
    run, slices = hand.journal._run, list[int]()

    async def counted(verb: str, *then: Any, **fields: Any) -> Any:
        if verb == "submit":
            slices.append(len(fields["jobs"]))
        return await run(verb, *then, **fields)

    hand.journal._run = counted  # type: ignore[method-assign]
    shape, owners = plan_of("p", ("fifo", "stop", "a", "b", "c"))
    jobs = [
        msgspec.structs.replace(starts(id, incompressible(2000)), node=node) for id, node in owners.items()
    ]
    assert (await hand.journal.submit(jobs, shape)).status == "new"
    assert slices == [1, 1, 1]


def incompressible(size: int) -> str:
    return Random(1).randbytes(size).hex()


async def test_what_a_tenant_has_spent_today_is_money_as_it_was_paid(hand: Hand) -> None:
    await hand.journal.set_tenant("t1", money_per_day=2.0)
    await hand.submit(starts("j", "x", tenant="t1"))
    await hand.commit(await hand.claim(), money=0.5)
    (view,) = await hand.journal.tenant_views(["t1"], ["llm"])
    assert (view.money_today, view.money_per_day) == (0.5, 2.0)
