"""Situations in which each verb has much to write: for tests that break it behind one of its writes."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import msgspec

from aios_dist.errors import ProviderBusy
from aios_dist.journal import Decision, LaneRules, Limits, NewJob, Refusal, Said, TenantRules
from aios_dist.journal.records import Parking
from aios_dist.model.calls import Usage
from aios_dist.model.jobs import JobState, Outcome
from aios_dist.model.specs import Budget
from aios_dist.policies import Rank
from tests.driver.sending import send_extension, send_plan
from tests.redis.conftest import Hand, decides, plan_of, starts

Verb = Callable[[], Awaitable[Any]]
RULES = Said(
    models={"small": Limits(2, 5, 100), "big": Limits(1)},
    tenants={"t2": TenantRules(1000, 2.5, 2.0, 1), "default": TenantRules(weight=0.5)},
    lanes={"llm": LaneRules("las", 3, "tenant"), "turns": LaneRules()},
)
OTHER_RULES = Said(
    models={"small": Limits(), "big": Limits(1)},
    tenants={"t2": TenantRules(0, 2.5, 1.0, 0)},
    lanes={"llm": LaneRules("fifo", 0, "")},
)
NESTED = ("fixed", "stop", "a", ("fifo", "stop", "b", "c"), "d")


async def submit(h: Hand) -> Verb:
    jobs = [starts("j", "a", "b", "sleep:60", "signal:go"), starts("k", "x"), starts("d", ends=JobState.DONE)]
    return lambda: h.journal.submit(jobs)


async def submit_a_plan(h: Hand) -> Verb:
    shape, owners = plan_of("p", NESTED)
    jobs = [msgspec.structs.replace(starts(id, id), node=n) for id, n in owners.items()]
    return lambda: h.journal.submit(jobs, shape)


async def submit_a_plan_in_slices(h: Hand) -> Verb:
    shape, owners = plan_of("p", NESTED)
    jobs = [msgspec.structs.replace(starts(id, id), node=n) for id, n in owners.items()]
    return lambda: send_plan(h.journal, jobs, shape)


async def submit_a_plan_in_slices_that_is_refused(h: Hand) -> Verb:
    await h.submit(starts("c", "other", agent="b"))
    return await submit_a_plan_in_slices(h)


async def extend_in_slices(h: Hand) -> Verb:
    await h.plan("p", ("fixed", "continue", "a"))
    await h.finish(await h.claim())
    return lambda: send_extension(h.journal, "p", [starts(id, "x1") for id in "xyz"])


async def extend(h: Hand) -> Verb:
    await h.plan("p", ("fixed", "stop", "a"))
    await h.finish(await h.claim())
    return lambda: h.journal.extend("p", [starts("x", "x1", "x2"), starts("y", "y1")])


async def extend_one_that_runs(h: Hand) -> Verb:
    await h.plan("p", ("fifo", "continue", "a"))
    return lambda: h.journal.extend("p", [starts("x", "x1", "x2"), starts("y")])


async def go_on_with_a_plan(h: Hand) -> Verb:
    shape, owners = plan_of("p", ("fifo", "stop", ("fixed", "stop", "a", *(f"f{n}" for n in range(28))), "z"))
    jobs = [
        starts(id, ends=JobState.FAILED) if id == "f24" else starts(id, ends=JobState.DONE) for id in owners
    ]
    jobs = [msgspec.structs.replace(job, node=owners[job.id]) for job in jobs if job.id != "a"]
    await h.journal.submit([msgspec.structs.replace(starts("a", "x"), node=1), *jobs], shape)
    await h.finish(await h.claim())
    return lambda: h.journal.go_on("p")


async def claim(h: Hand) -> Verb:
    await h.submit(starts("j", "a", "b"))
    return lambda: h.journal.claim("llm", "w")


async def claim_under_every_limit(h: Hand) -> Verb:
    await h.submit(*_two_tenants())  # they stand on the lane
    await _limits(h)
    await h.journal.set_tenant("default", max_in_flight=2)
    await h.claim()
    return lambda: h.journal.claim("llm", "w")


async def claim_over_budget(h: Hand) -> Verb:
    await h.plan("p", ("fixed", "continue", "a", "b"), [starts("a", "1", "2", budget=Budget(tokens=0))])
    return lambda: h.journal.claim("llm", "w")


async def claim_what_others_serve(h: Hand) -> Verb:
    await h.submit(starts("j", "a", "b"), starts("k", "c"))
    return lambda: h.journal.take("llm", "w", "token", models=["other"], agents=[])


async def claim_what_others_could_not(h: Hand) -> Verb:
    await h.submit(starts("j", "a", "b"), starts("k", "c"))
    await h.journal.take("llm", "w", "token", models=["other"], agents=[])
    return lambda: h.journal.claim("llm", "w")


async def commit_with_new_steps(h: Hand) -> Verb:
    await _limits(h)
    await h.submit(*_two_tenants())
    got = await h.claim()
    await h.journal.claim("llm", "w")
    new = decides(1, 2, "y", "sleep:60", "signal:go", "z", tokens=4)
    return lambda: h.commit(got, decision=new)


async def commit_an_end_in_a_plan(h: Hand) -> Verb:
    await h.plan("p", NESTED)
    got = await h.claim()
    return lambda: h.commit(got, decision=decides(1, 1, ends=JobState.DONE))


async def commit_a_failure_in_a_plan(h: Hand) -> Verb:
    await h.plan("p", NESTED)
    got = await h.claim()
    return lambda: h.commit(got, ok=False, decision=decides(1, 1, ends=JobState.FAILED))


async def commit_late(h: Hand) -> Verb:
    await h.limit(flight=1)
    await h.submit(starts("j", "a"), starts("k", "b"))
    got = await h.claim()
    await h.lose(got)
    return lambda: h.commit(got)


async def commit_too_late(h: Hand) -> Verb:
    await h.journal.set_tenant("default", tokens_per_day=10**6)
    await h.submit(starts("j", "a", tokens=50))
    late = await h.claim()
    await h.lose(late)
    await h.claim()
    return lambda: h.commit(late, usage=Usage(0, 0, 1), money=3e-7)


async def commit_a_failure_that_holds_its_model(h: Hand) -> Verb:
    await _with_a_fallback(h)
    got = await h.claim()
    return lambda: h.commit(got, ok=False, refusal=Refusal(90.0, 1))


async def release_one_that_goes_elsewhere(h: Hand) -> Verb:
    await _with_a_fallback(h)
    got = await h.claim()
    return lambda: h.journal.release(got, "x", 60, error=ProviderBusy("x"), refusal=Refusal(90.0, 1))


async def reap_what_a_long_hold_keeps_waiting(h: Hand) -> Verb:
    await _with_a_fallback(h)
    await h.limit(flight=1)
    got = await h.claim()
    assert await h.drain() == []
    await h.commit(got, ok=False, refusal=Refusal(90.0))
    return lambda: h.reap()


async def _with_a_fallback(h: Hand) -> None:
    until = (await h.journal.now() + 3600) * 1e6
    await h.redis("ZADD", h.keys.serving, f"{until:.0f}", "model/big")
    await h.journal.say(Said(models={"small": Limits(fallback=(("llm", "big"),))}), "file")
    await h.submit(starts("j", "a", "b"), starts("k", "x", tenant="t2"))


async def commit_for_a_signal_that_came(h: Hand) -> Verb:
    await h.submit(starts("j", "a"))
    got = await h.claim()
    await h.journal.signal("j", "go", Outcome(value=1), "one")
    return lambda: h.commit(got, decision=decides(1, 1, "signal:go"))


async def advance(h: Hand) -> Verb:
    await h.submit(starts("j"))
    turn = await h.claim("turns")
    return lambda: h.journal.advance("j", decides(0, 0, "a", "b", "sleep:3"), token=turn.token)


async def release_at_once(h: Hand) -> Verb:
    await h.limit(flight=1)
    await h.submit(starts("j", "a"), starts("k", "b"))
    got = await h.claim()
    await h.journal.claim("llm", "w")
    return lambda: h.journal.release(got, "x", error=ProviderBusy("x"))


async def release_for_later(h: Hand) -> Verb:
    await h.submit(starts("j", "a"))
    got = await h.claim()
    return lambda: h.journal.release(got, "x", 60, error=ProviderBusy("x"), to=("big", "llm"))


async def release_the_last_time(h: Hand) -> Verb:
    await h.submit(starts("j", "a"))
    for _ in range(19):
        await h.journal.release(await h.claim(), "x", counted=True)
    got = await h.claim()
    return lambda: h.journal.release(got, "x", counted=True)


async def hold_a_model(h: Hand) -> Verb:
    await h.submit(starts("j", "a"), starts("k", "b"))
    got = await h.claim()
    return lambda: h.refuse(got)


async def regain(h: Hand) -> Verb:
    await h.limit(flight=2, rpm=5)
    await h.submit(starts("j", "a"))
    got = await h.claim()
    await h.lose(got)
    return lambda: h.renew(got)


async def cancel_a_member(h: Hand) -> Verb:
    await h.limit(flight=1)
    await h.plan("p", ("fixed", "continue", "a", "b"))
    return lambda: h.journal.cancel("a")


async def cancel(h: Hand) -> Verb:
    await h.limit(flight=1)
    await h.submit(starts("j", "a", "b", "sleep:60", "signal:go"), starts("k", "b"))
    await h.claim()
    await h.journal.claim("llm", "w")
    return lambda: h.journal.cancel("j")


async def pause(h: Hand) -> Verb:
    await h.submit(starts("j", "a", "b", "sleep:60"))
    await h.claim()
    return lambda: h.journal.pause("j")


async def resume(h: Hand) -> Verb:
    await h.submit(starts("j", "a", "b", "sleep:60"))
    got = await h.claim()
    await h.journal.pause("j")
    await h.commit(got)
    return lambda: h.journal.resume("j", Budget(tokens=100))


PARKS = Parking("code changed: step 0 was 'x'", "code changed, at step 0")
"""Why a job is parked."""


def parks(version: int, first: int) -> Decision:
    """What a turn came to whose program does not repeat what the journal holds."""
    return msgspec.structs.replace(decides(version, first), parks=PARKS, code="new")


def begun(id: str, *prompts: str) -> NewJob:
    """A job whose turn 0 ran with the code ``old``."""
    job = starts(id, *prompts)
    assert job.decision is not None
    return msgspec.structs.replace(job, decision=msgspec.structs.replace(job.decision, code="old"))


async def park(h: Hand) -> Verb:
    await h.submit(begun("j", "a", "b", "sleep:60"))
    await h.claim()
    return lambda: h.journal.advance("j", parks(0, 3))


async def park_with_a_commit(h: Hand) -> Verb:
    await h.submit(begun("j", "a", "b", "sleep:60", "signal:go"))
    claim = await h.claim()
    return lambda: h.commit(claim, decision=parks(1, 4))


async def resume_what_is_parked(h: Hand) -> Verb:
    await (await park_with_a_commit(h))()
    return lambda: h.journal.resume("j")


async def unpark(h: Hand) -> Verb:
    await h.submit(begun("k", "x"))
    await h.journal.advance("k", parks(0, 1))
    await (await park_with_a_commit(h))()
    await h.redis("ZADD", h.keys.serving, 4e15, "has/a@old")
    return h.journal.unpark


async def pause_what_is_parked(h: Hand) -> Verb:
    await (await park_with_a_commit(h))()
    return lambda: h.journal.pause("j")


async def park_a_member_of_a_plan(h: Hand) -> Verb:
    members = [msgspec.structs.replace(begun(id, "x"), node=0) for id in "ab"]
    await h.plan("p", ("fixed", "continue", "a", "b"), members)
    return lambda: h.journal.advance("a", parks(0, 1))


async def resume_a_member_of_a_plan(h: Hand) -> Verb:
    await (await park_a_member_of_a_plan(h))()
    return lambda: h.journal.resume("a")


async def cancel_what_is_parked(h: Hand) -> Verb:
    await (await park_with_a_commit(h))()
    return lambda: h.journal.cancel("j")


async def rewind(h: Hand) -> Verb:
    await h.submit(begun("j", "a", "b", "c", "sleep:60", "signal:go"))
    await h.commit(await h.claim())
    await h.commit(await h.claim(), ok=False)
    await h.journal.advance("j", parks(2, 5))
    return lambda: h.journal.rewind("j", 1, salt="s")


async def rewind_a_wide_one(h: Hand) -> Verb:
    await h.submit(begun("j", *(f"a{n}" for n in range(40))))
    await h.commit(await h.claim())
    await h.commit(await h.claim())
    await h.journal.pause("j")
    return lambda: h.journal.rewind("j", 1, salt="s")


async def claim_what_other_code_serves(h: Hand) -> Verb:
    await h.submit(begun("j", "a"))
    await h.commit(await h.claim(), turn_here=False)
    await h.redis("ZADD", h.keys.serving, 4e15, "has/a@old")
    return lambda: h.journal.take("turns", "w", "token", models=[], agents=["a"], codes={"a": "new"})


async def claim_what_other_code_served(h: Hand) -> Verb:
    await (await claim_what_other_code_serves(h))()
    await h.redis("DEL", h.keys.serving)
    return lambda: h.journal.take("turns", "w", "token", models=[], agents=["a"], codes={"a": "new"})


async def signal(h: Hand) -> Verb:
    await h.submit(starts("j", "signal:go", "a"))
    return lambda: h.journal.signal("j", "go", Outcome(value=1), "one")


async def signal_before_it_is_waited_for(h: Hand) -> Verb:
    await h.submit(starts("j", "a"))
    return lambda: h.journal.signal("j", "go", Outcome(value=1), "one")


async def retry(h: Hand) -> Verb:
    await _failed(h)
    return lambda: h.journal.retry("j")


async def retry_with_what_is_undone(h: Hand) -> Verb:
    await _failed(h)
    basis = (await h.journal.load("j")).basis
    return lambda: h.journal.retry("j", basis=basis, undone=[1])


async def redo(h: Hand) -> Verb:
    await _failed(h)
    await h.journal.retry("j")
    basis = (await h.journal.load("j")).basis
    return lambda: h.journal.redo("j", basis, [1])


async def fork(h: Hand) -> Verb:
    limits: dict[str, Any] = {"deadline": 100.0, "budget": Budget(tokens=50)}
    await h.submit(starts("j", "a", "b", "sleep:60", "signal:go", **limits))
    await h.commit(await h.claim())
    return lambda: h.journal.fork("j", "f", 4)


async def reap(h: Hand) -> Verb:
    await h.limit(flight=1)
    await h.submit(starts("j", "a", "sleep:60"), starts("k", "b"), starts("q", "c", deadline=1000.0))
    await h.claim()
    await h.journal.claim("llm", "w")
    await h.lapse()
    await h.ring()
    await h.redis("ZADD", h.keys.deadlines, 1, "q")
    return h.reap


async def rerank(h: Hand) -> Verb:
    await h.journal.set_lane("llm", policy="priority")
    await h.submit(starts("j", "a", "b", rank=Rank(per_priority=6e7), policy="priority"))
    return lambda: h.journal.rerank("j", 5)


async def set_a_lane(h: Hand) -> Verb:
    await h.journal.set_lane("llm", fair="tenant")
    await h.limit(flight=1)
    await h.submit(starts("j", "a", "b"), starts("k", "b", tenant="t2"))
    await h.drain()
    return lambda: h.journal.set_lane("llm", policy="las", oldest_every=3)


async def gather_what_waits(h: Hand) -> Verb:
    await h.journal.set_lane("llm", fair="tenant", oldest_every=2)
    await h.submit(starts("j", "a", "b"), starts("k", "b", tenant="t2"))
    await _told(h, "las|3|")
    return lambda: h.journal.gather()


async def gather_what_is_held(h: Hand) -> Verb:
    await h.journal.set_lane("llm", fair="tenant")
    await h.limit(flight=1)
    await h.journal.set_tenant("t2", max_in_flight=1)
    await h.submit(starts("j", "a", "b", "c"), starts("k", "a", "b", tenant="t2", model="other"))
    await h.drain()
    await _told(h, "las|3|tenant")
    return lambda: h.journal.gather(["llm"])


async def take_rules_back(h: Hand) -> Verb:
    await gather_what_waits(h)
    return lambda: h.journal.set_lane("llm", policy="fifo", fair="tenant", oldest_every=4)


async def _told(h: Hand, rules: str) -> None:
    """Other rules for the lane were said, and who said so is gone."""
    now = (await h.journal.lane_rules(["llm"]))["llm"]
    over = f"{now.policy}|{now.oldest_every}|{now.fair}"
    await h.redis("HSET", h.keys.lane("llm"), "next", rules, "over", over)


async def say_the_rules(h: Hand) -> Verb:
    await h.limit(flight=1)
    await h.submit(starts("j", "a", "b"), starts("k", "b", tenant="t2"))
    await h.drain()
    return lambda: h.journal.say(RULES, "file")


async def say_other_rules(h: Hand) -> Verb:
    await h.journal.say(RULES, "file")
    await h.submit(starts("j", "a", "b", tokens=30), starts("k", "b", tenant="t2", tokens=30))
    await h.drain()
    return lambda: h.journal.say(OTHER_RULES, "file")


async def rank_strays(h: Hand) -> Verb:
    await h.submit(starts("j", "a", "b", policy="fifo"))
    await h.journal.set_lane("llm", policy="las")
    return lambda: h.rank_anew("las", Rank(1e14))


async def _limits(h: Hand) -> None:
    await h.limit(flight=1, rpm=5, tpm=100)
    await h.journal.set_lane("llm", fair="tenant", oldest_every=2)


def _two_tenants() -> list[NewJob]:
    return [starts("j", "a", "b", tokens=5), starts("k", "x", tenant="t2", tokens=5)]


async def _failed(h: Hand) -> None:
    await h.submit(starts("j", "a", "b", "c", "sleep:60"))
    await h.commit(await h.claim())
    await h.commit(await h.claim(), ok=False)
    await h.journal.cancel("j")


SITUATIONS: dict[str, Callable[[Hand], Awaitable[Verb]]] = {
    build.__name__: build
    for build in (
        *(submit, submit_a_plan, extend, extend_one_that_runs),
        *(
            claim,
            claim_under_every_limit,
            claim_over_budget,
            claim_what_others_serve,
            claim_what_others_could_not,
        ),
        *(commit_with_new_steps, commit_an_end_in_a_plan, commit_a_failure_in_a_plan, commit_late),
        *(commit_too_late, commit_a_failure_that_holds_its_model, reap_what_a_long_hold_keeps_waiting),
        release_one_that_goes_elsewhere,
        *(commit_for_a_signal_that_came, advance, release_at_once, release_for_later, release_the_last_time),
        *(
            hold_a_model,
            regain,
            cancel_a_member,
            cancel,
            pause,
            resume,
            park,
            park_with_a_commit,
            resume_what_is_parked,
            unpark,
            cancel_what_is_parked,
            pause_what_is_parked,
            park_a_member_of_a_plan,
            resume_a_member_of_a_plan,
            rewind,
            rewind_a_wide_one,
            claim_what_other_code_serves,
            claim_what_other_code_served,
            signal,
            signal_before_it_is_waited_for,
        ),
        *(retry, retry_with_what_is_undone, redo, fork, reap, rerank, set_a_lane, rank_strays),
        *(
            go_on_with_a_plan,
            submit_a_plan_in_slices,
            submit_a_plan_in_slices_that_is_refused,
            extend_in_slices,
        ),
        *(say_the_rules, say_other_rules),
        *(gather_what_waits, gather_what_is_held, take_rules_back),
    )
}
