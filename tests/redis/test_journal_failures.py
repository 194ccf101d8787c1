"""Calls that failed: tries, back-off, another model, holds after a 429, the circuit breaker."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec
import pytest

from aios_dist.errors import ProviderBusy, RateLimited
from aios_dist.journal import Refusal
from aios_dist.journal.heads import Head
from aios_dist.model.jobs import JobState, Outcome, decode
from tests.redis.conftest import decides, starts

if TYPE_CHECKING:
    from aios_dist.journal import Claim
    from tests.redis.conftest import Hand


def name(claim: Claim) -> str:
    return f"{claim.job}/{claim.step}"


# Tries ---------------------------------------------------------------------------------------------


async def test_a_failed_try_is_counted_and_its_error_kept(hand: Hand) -> None:
    await hand.submit(starts("j", "x"))
    for tries in range(3):
        claim = await hand.claim()
        assert claim.tries == tries
        tickets = await hand.fail(claim)
        assert [(t.lane, t.job, t.step) for t in tickets] == [("llm", "j", "0")]
    facts = await hand.hash(hand.keys.job("j"))
    with pytest.raises(ProviderBusy):
        decode(facts["e0"], Outcome).result()
    assert "o0" not in facts


async def test_what_is_handed_back_without_an_error_is_no_try(hand: Hand) -> None:
    await hand.submit(starts("j", "x"))
    await hand.journal.release(await hand.claim(), "shutdown")
    assert (await hand.claim()).tries == 0
    assert "e0" not in await hand.hash(hand.keys.job("j"))


async def test_a_step_that_backs_off_waits_without_a_slot_and_comes_back_with_its_rank(hand: Hand) -> None:
    await hand.submit(starts("j", "x"), starts("k", "x"))
    first = await hand.claim()
    assert await hand.fail(first, after=5) == []
    assert await hand.names() == ["k/0"]
    await hand.look()
    assert (await hand.reap()).moved == 0, "it is not time yet"
    await hand.ring()
    assert (await hand.reap()).moved == 1
    assert await hand.names() == ["j/0", "k/0"]
    whats = [e.what for e in await hand.journal.events("j")]
    assert whats[-3:] == ["started", "retry", "released"]


async def test_a_failed_try_reported_twice_is_one(hand: Hand) -> None:
    await hand.submit(starts("j", "x"))
    claim = await hand.claim()
    await hand.fail(claim, after=5)
    assert await hand.fail(claim) == []
    await hand.ring()
    await hand.reap()
    assert (await hand.claim()).tries == 1


async def test_a_late_answer_ends_a_back_off(hand: Hand) -> None:
    await hand.submit(starts("j", "x"))
    claim = await hand.claim()
    await hand.fail(claim, after=5)
    assert (await hand.commit(claim, decision=decides(1, 1, "y"))).status == "advanced"
    assert await hand.members(hand.keys.timers) == set()


async def test_a_step_that_goes_to_another_model_changes_its_lane_and_begins_its_tries_anew(
    hand: Hand,
) -> None:
    await hand.submit(starts("j", "x"))
    await hand.fail(await hand.claim())
    claim = await hand.claim()
    tickets = await hand.journal.release(claim, "next", error=ProviderBusy("x"), to=("big", "gpu"))
    assert [(t.lane, t.job, t.step) for t in tickets] == [("gpu", "j", "0")]
    assert await hand.names() == []
    moved = await hand.claim("gpu")
    assert (moved.label, moved.tries, moved.attempt) == ("big", 0, 3)
    await hand.finish(moved)


async def test_a_step_held_for_its_model_may_not_be_handed_over_by_one_who_lost_it(hand: Hand) -> None:
    await hand.submit(starts("j", "x"))
    claim = await hand.claim()
    await hand.lose(claim)
    assert await hand.journal.release(claim, "late", error=ProviderBusy("x"), to=("big", "gpu")) == []
    assert await hand.names() == ["j/0"]


async def test_a_failed_try_of_a_job_that_has_ended_is_dropped_and_of_a_paused_one_put_aside(
    hand: Hand,
) -> None:
    await hand.submit(starts("j", "x"), starts("k", "x"))
    one, two = await hand.claim(), await hand.claim()
    await hand.journal.cancel("j")
    await hand.journal.pause("k")
    assert await hand.fail(one, after=5) == []
    assert await hand.refuse(two) == []
    await hand.look()
    assert await hand.members(hand.keys.leases) == set()
    await hand.journal.resume("k")
    await hand.end_hold()
    assert (await hand.claim()).tries == 1


# Holds ---------------------------------------------------------------------------------------------


async def test_after_a_429_nobody_calls_the_model_and_others_go_on(hand: Hand) -> None:
    await hand.submit(starts("a", "x"), starts("b", "x"), starts("c", "x", model="big"), starts("d", "x"))
    await hand.refuse(await hand.claim())
    assert [name(c) for c in await hand.drain()] == ["c/0"]
    await hand.look()
    assert (await hand.by_model("held"))["small"] == ["b/0", "d/0"]


async def test_steps_that_become_ready_during_a_hold_wait_behind_those_before_them(hand: Hand) -> None:
    await hand.submit(starts("a", "x"), starts("b", "x"), starts("c", "x"))
    await hand.refuse(await hand.claim())
    await hand.drain()
    await hand.submit(starts("d", "x"), starts("e", "x"))
    await hand.end_hold()
    order = []
    for _ in range(5):
        claim = await hand.claim()
        order.append(claim.job)
        await hand.finish(claim)
        await hand.look()
    assert order == ["a", "b", "c", "d", "e"]


async def test_after_a_hold_one_call_goes_first_and_with_each_success_twice_as_many(hand: Hand) -> None:
    await hand.submit(*(starts(f"j{i:02}", "x") for i in range(20)))
    await hand.refuse(await hand.claim())
    await hand.drain()
    await hand.end_hold()
    assert len(await hand.names()) == 1, "what may not be called takes no slot's time"
    flying = await hand.drain()
    assert len(flying) == 1
    for most in (2, 4, 8):
        await hand.finish(flying.pop(0))
        flying += await hand.drain()
        assert len(flying) == most
        await hand.look()


async def test_once_enough_have_succeeded_nothing_is_held_back_any_more(hand: Hand) -> None:
    await hand.submit(starts("a", "x"), starts("b", "x"))
    await hand.refuse(await hand.claim())
    await hand.end_hold()
    await hand.redis("HSET", hand.keys.model("small"), "win", 512)
    await hand.finish(await hand.claim())
    assert (await hand.hash(hand.keys.model("small")))["win"] == b"0"


async def test_a_call_that_hangs_after_a_hold_shuts_the_model_for_five_seconds_only(hand: Hand) -> None:
    await hand.submit(*(starts(f"j{i}", "x") for i in range(3)))
    await hand.refuse(await hand.claim())
    await hand.end_hold()
    hangs = await hand.claim()
    assert await hand.drain() == []
    model, inflight = hand.keys.model("small"), hand.keys.inflight("small")
    await hand.redis("HINCRBY", model, "hold", -10_000_000)  # six seconds have passed
    await hand.redis("ZINCRBY", inflight, -6_000_000, hangs.lease)
    await hand.ring()
    await hand.reap()
    assert len(await hand.drain()) == 1


async def test_a_429_while_the_model_is_let_in_begins_again_with_one(hand: Hand) -> None:
    await hand.submit(*(starts(f"j{i}", "x") for i in range(9)))
    await hand.refuse(await hand.claim())
    await hand.end_hold()
    flying = await hand.drain()
    await hand.finish(flying.pop())
    flying = await hand.drain()
    assert len(flying) == 2
    await hand.refuse(flying[0])
    await hand.finish(flying[1])
    assert await hand.drain() == []
    await hand.end_hold()
    assert len(await hand.drain()) == 1


async def test_answers_to_calls_from_before_a_hold_open_nothing(hand: Hand) -> None:
    await hand.limit(flight=20)
    await hand.submit(*(starts(f"j{i:02}", "x") for i in range(30)))
    flying = await hand.drain()
    assert len(flying) == 20
    await hand.refuse(flying.pop())
    for claim in flying[:8]:
        await hand.finish(claim)
    await hand.end_hold()
    for claim in flying[8:]:
        await hand.finish(claim)
    assert len(await hand.drain()) == 1


@pytest.mark.parametrize(("first", "second"), [(60.0, 5.0), (5.0, 60.0)])
async def test_of_two_holds_the_one_that_lasts_longer_counts(hand: Hand, first: float, second: float) -> None:
    await hand.limit(flight=5)
    await hand.reap()
    await hand.submit(*(starts(f"j{i}", "x") for i in range(3)))
    one, two = await hand.claim(), await hand.claim()
    now = await hand.journal.now()
    await hand.refuse(one, first)
    await hand.refuse(two, second)
    held = float((await hand.hash(hand.keys.model("small")))["hold"]) / 1e6 - now
    assert 60 <= held < 70
    assert await hand.drain() == []
    await hand.redis("ZADD", hand.keys.timers, "XX", 1, "model:small/!")  # the shorter one is over
    await hand.reap()
    timer = await hand.redis("ZSCORE", hand.keys.timers, "model:small/!")
    assert 60 <= float(timer) / 1e6 - now < 70
    assert await hand.drain() == []


@pytest.mark.parametrize("kind", ["hold", "limit", "tenant"])
async def test_what_is_held_and_nothing_would_let_in_is_let_in_by_the_walk(hand: Hand, kind: str) -> None:
    if kind == "limit":
        await hand.limit(flight=1)
    elif kind == "tenant":
        await hand.journal.set_tenant("default", max_in_flight=1)
    await hand.submit(starts("a", "x"), starts("b", "x"))
    claim = await hand.claim()
    if kind == "hold":
        await hand.refuse(claim, hold=30.0)
    assert await hand.journal.claim("llm", "w1") is None
    if kind == "hold":  # what would have rung is lost
        await hand.redis("ZREM", hand.keys.timers, "model:small/!")
        await hand.redis("HSET", hand.keys.model("small"), "hold", 1)
        await hand.redis("HSET", hand.keys.model("small"), "win", 0)
    else:
        await hand.redis("ZREM", hand.keys.timers, "model:small/!", "model:@default/!")
        held = hand.keys.inflight("small" if kind == "limit" else "@default")
        await hand.redis("ZREM", held, claim.lease)
    await hand.journal.walk(cursor="/")
    let_in = await hand.claim()
    assert let_in.job == "b"
    await hand.finish(let_in)
    if kind != "hold":  # as it was
        await hand.redis("ZADD", held, claim.started_us, claim.lease)


async def test_a_held_step_whose_job_ends_leaves_nothing_behind(hand: Hand) -> None:
    await hand.submit(starts("a", "x"), starts("b", "x"))
    await hand.refuse(await hand.claim())
    await hand.drain()
    await hand.journal.cancel("b")
    await hand.journal.cancel("a")
    await hand.look()
    assert await hand.by_model("held") == {}
    await hand.end_hold()
    assert await hand.drain() == []


@pytest.mark.parametrize("way", ["is its outcome", "goes to another model"])
async def test_a_429_holds_its_model_whatever_becomes_of_the_step(hand: Hand, way: str) -> None:
    await hand.submit(*(starts(f"j{i}", "x") for i in range(3)))
    claim = await hand.claim()
    if way == "is its outcome":
        assert (await hand.commit(claim, ok=False, refusal=Refusal(30.0))).status == "turn"
    else:
        error = RateLimited("slow down")
        await hand.journal.release(claim, "429", error=error, refusal=Refusal(30.0), to=("big", "gpu"))
    assert await hand.drain() == []
    await hand.look()
    await hand.end_hold()
    assert [name(c) for c in await hand.drain()] == ["j1/0"], "one goes first"


async def test_a_failure_that_other_calls_would_not_meet_says_nothing_of_the_model(hand: Hand) -> None:
    await hand.submit(*(starts(f"j{i}", "x") for i in range(3)))
    await hand.commit(await hand.claim(), ok=False)
    await hand.journal.release(await hand.claim(), "400", error=ProviderBusy("x"))
    (view,) = await hand.journal.model_views(["small"])
    assert (view.failures, view.hold_until) == (0, 0)


async def test_an_answer_says_nothing_against_its_model_and_a_late_failure_nothing_at_all(hand: Hand) -> None:
    await hand.submit(starts("a", "x"), starts("b", "x"))
    await hand.commit(await hand.claim(), refusal=Refusal(30.0))
    late = await hand.claim()
    await hand.lose(late)
    await hand.commit(late, ok=False, refusal=Refusal(30.0))
    (view,) = await hand.journal.model_views(["small"])
    assert (view.failures, view.hold_until) == (0, 0)


# How long a step has been tried ----------------------------------------------------------------------------


async def test_a_claim_says_when_its_step_was_first_tried(hand: Hand) -> None:
    await hand.submit(starts("j", "x"))
    first = await hand.claim()
    assert first.first_us == first.started_us > first.ready_us
    await hand.fail(first)
    second = await hand.claim()
    await hand.lose(second)
    third = await hand.claim()
    assert (second.first_us, third.first_us) == (first.first_us, first.first_us) < (third.started_us,) * 2
    await hand.journal.release(third, "next", error=ProviderBusy("x"), to=("big", "llm"))
    assert (await hand.claim()).first_us == first.first_us, "also with another model"


async def test_a_retried_step_has_not_been_tried_yet(hand: Hand) -> None:
    await hand.submit(starts("j", "x"))
    first = await hand.claim()
    await hand.commit(first, ok=False, decision=decides(1, 1, ends=JobState.FAILED))
    basis = (await hand.hash(hand.keys.job("j")))["dg"].decode()
    await hand.journal.retry("j", basis=basis, undone=[0])
    again = await hand.claim()
    assert again.first_us == again.started_us > first.started_us


async def test_a_retry_begins_at_the_model_that_was_asked_for(hand: Hand) -> None:
    await hand.submit(starts("j", "x"))
    await hand.journal.release(await hand.claim(), "next", error=ProviderBusy("x"), to=("big", "gpu"))
    await hand.journal.release(await hand.claim("gpu"), "next", error=ProviderBusy("x"), to=("other", "far"))
    failed = await hand.claim("far")
    assert failed.label == "other"
    await hand.commit(failed, ok=False, decision=decides(1, 1, ends=JobState.FAILED))
    basis = (await hand.hash(hand.keys.job("j")))["dg"].decode()
    await hand.journal.retry("j", basis=basis, undone=[0])
    assert (await hand.claim()).label == "small"


async def test_a_fork_begins_at_the_model_that_was_asked_for(hand: Hand) -> None:
    await hand.submit(starts("j", "x"))
    await hand.journal.release(await hand.claim(), "next", error=ProviderBusy("x"), to=("big", "gpu"))
    await hand.journal.fork("j", "k", 1)
    forked = await hand.claim()
    assert (forked.job, forked.label, forked.first_us) == ("k", "small", forked.started_us)


async def test_heads_of_an_earlier_version_have_not_been_tried_yet(hand: Hand) -> None:
    await hand.submit(starts("j", "x"))
    packed = (await hand.hash(hand.keys.job("j")))["h0"]
    head = msgspec.msgpack.decode(packed)[: Head.__struct_fields__.index("first")]
    await hand.redis("HSET", hand.keys.job("j"), "h0", msgspec.msgpack.encode(head))
    claim = await hand.claim()
    assert claim.first_us == claim.started_us


# The circuit breaker ---------------------------------------------------------------------------------


async def test_failures_in_a_row_hold_the_model(hand: Hand) -> None:
    await hand.submit(starts("a", "x"), starts("b", "x"))
    for _ in range(2):
        await hand.fail(await hand.claim(), breaker=3)
    await hand.fail(await hand.claim(), breaker=3)
    assert await hand.drain() == []
    await hand.end_hold()
    assert len(await hand.drain()) == 1


@pytest.mark.parametrize("begun", ["after the first failure", "before it, of a model without limits"])
async def test_a_success_between_failures_keeps_the_breaker_closed(hand: Hand, begun: str) -> None:
    await hand.submit(*(starts(name, "x") for name in "abc"))
    if begun.startswith("before"):
        flying = await hand.drain()
        for claim in flying[:2]:
            await hand.fail(claim, breaker=3)
        await hand.finish(flying[2])
        for _ in range(2):
            await hand.fail(await hand.claim(), breaker=3)
        assert len(await hand.drain()) == 2
        return
    await hand.limit(flight=5)
    for _ in range(2):
        await hand.fail(await hand.claim(), breaker=3)
    await hand.finish(await hand.claim())
    for _ in range(2):
        await hand.fail(await hand.claim(), breaker=3)
    assert len(await hand.drain()) == 2


async def test_a_failure_of_the_request_itself_is_no_success_of_the_model(hand: Hand) -> None:
    await hand.submit(*(starts(f"j{i}", "x") for i in range(4)))
    for _ in range(2):
        await hand.fail(await hand.claim(), after=60, breaker=3)
    await hand.commit(await hand.claim(), ok=False)
    await hand.fail(await hand.claim(), after=60, breaker=3)
    (view,) = await hand.journal.model_views(["small"])
    assert view.failures == 3
    assert view.hold_until is not None
    assert view.hold_until > await hand.journal.now()


async def test_the_call_that_tries_the_model_again_and_fails_holds_it_for_longer(hand: Hand) -> None:
    await hand.limit(flight=5)
    await hand.submit(starts("a", "x"))
    lasted = []
    for _ in range(8):
        await hand.fail(await hand.claim(), breaker=1)
        held = float((await hand.hash(hand.keys.model("small")))["hold"]) / 1e6
        lasted.append(round(held - await hand.journal.now()))
        await hand.end_hold()
    assert lasted == [1, 2, 4, 8, 16, 32, 60, 60]


@pytest.mark.parametrize("most", [50, 0], ids=["limited", "without limits"])
async def test_calls_that_one_fault_fails_together_are_one_failure_of_the_breaker(
    hand: Hand, most: int
) -> None:
    if most:
        await hand.limit(flight=most)
    await hand.submit(*(starts(f"j{i}", "x") for i in range(50)))
    for claim in await hand.drain():
        await hand.fail(claim, after=1, breaker=3)
    facts = await hand.hash(hand.keys.model("small"))
    assert int(facts["fails"]) == 3
    assert float(facts["hold"]) / 1e6 - await hand.journal.now() < 2


async def test_without_a_breaker_failures_hold_nothing(hand: Hand) -> None:
    await hand.submit(starts("a", "x"))
    for _ in range(30):
        await hand.fail(await hand.claim())
    await hand.claim()


async def test_after_an_outage_all_leases_have_the_time_of_a_lease_to_renew(hand: Hand) -> None:
    """Also where the reconciler that comes first is a worker's that has only just started."""
    await hand.submit(starts("a", "x"), starts("b", "x"))
    living, dead = await hand.claim(), await hand.claim()
    await hand.reap()
    beat = f"{hand.keys.prefix}beat"
    now = await hand.journal.now()
    await hand.redis("SET", beat, f"{(now - hand.config.lease) * 1e6:.0f}|0")  # nobody has looked for so long
    await hand.lapse()
    spared = await hand.reap()
    assert spared.moved == 0
    assert spared.next_s == pytest.approx(now + hand.config.lease, abs=5)
    assert await hand.journal.renew([living.lease]) == set()
    await hand.redis("SET", beat, f"{now * 1e6:.0f}|{now * 1e6:.0f}")  # that time is over
    assert (await hand.reap()).moved == 1
    assert (await hand.claim()).job == dead.job
    assert (await hand.commit(living)).status == "turn"
