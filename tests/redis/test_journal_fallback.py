"""A model that keeps its steps waiting: they go to a fallback, by claims and by the reconciler in pages."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from aios_dist.errors import ProviderBusy, RateLimited
from aios_dist.journal import Refusal, Said
from aios_dist.journal.views import Limits
from aios_dist.model.jobs import Outcome
from aios_dist.policies import Rank
from tests.redis.conftest import decides, ranked, starts

if TYPE_CHECKING:
    from tests.redis.conftest import Hand

HOUR = 3600.0
FAR = (("far", "big"),)


async def said(hand: Hand, *chain: tuple[str, str], after: float = 60.0, served: str = "big other") -> None:
    """What aios.toml says of `small`, and what workers serve."""
    await hand.journal.say(Said(models={"small": Limits(fallback=chain, fallback_after=after)}), "file")
    for model in served.split():
        await serve(hand, model)


async def serve(hand: Hand, model: str) -> None:
    until = (await hand.journal.now() + HOUR) * 1e6
    await hand.redis("ZADD", hand.keys.serving, f"{until:.0f}", f"model/{model}")


async def hold(hand: Hand, seconds: float = HOUR, model: str = "small", breaker: int = 0) -> None:
    """A call of somebody's fails, and its provider (or its breaker) holds the model."""
    job = f"breaks-{model}"
    await hand.submit(starts(job, "x", model=model, lane="probe"))
    claim = await hand.claim("probe")
    await hand.commit(claim, ok=False, refusal=Refusal(seconds, breaker))
    await hand.journal.cancel(job)


async def names(hand: Hand, lane: str) -> list[str]:
    return [f"{c.job}:{c.label}" for c in await hand.drain(lane)]


async def test_a_step_that_a_long_hold_keeps_waiting_goes_to_the_fallback(hand: Hand) -> None:
    await said(hand, *FAR)
    await hold(hand)
    got = await hand.journal.submit([starts("a", "x"), starts("b", "x")])
    assert {(t.lane, t.job) for t in got.tickets} == {("far", "a"), ("far", "b")}, (
        "somebody is called for them"
    )
    assert await names(hand, "far") == ["a:big", "b:big"]
    facts = await hand.hash(hand.keys.job("a"))
    assert facts["l0"] == b"llm|small", "a retry begins at its own"
    (moved,) = [e for e in await hand.journal.events("a") if e.what == "released"]
    assert moved.detail == "small is on hold: goes to big"


async def test_the_events_of_a_step_that_goes_elsewhere_are_in_order_and_said_once(hand: Hand) -> None:
    await said(hand, *FAR)
    await hold(hand)
    await hand.submit(starts("a", "x"), starts("b", "signal:go"))
    claim = (await hand.journal.signal("b", "go", Outcome(value=1)))[1]
    assert [t.lane for t in claim] == ["turns"]
    turn = await hand.claim("turns")
    await hand.journal.advance("b", decides(1, 1, "y"), token=turn.token)
    await hand.drain()
    for job in "ab":
        events = [(e.what, e.detail) for e in await hand.journal.events(job) if e.step == (job == "b")]
        assert events == [("ready", "small"), ("released", "small is on hold: goes to big")]
    assert await names(hand, "far") == ["a:big", "b:big"]


@pytest.mark.parametrize(("seconds", "after", "goes"), [(30, 60, False), (61, 60, True), (1, 0, True)])
async def test_a_hold_must_last_for_so_long(hand: Hand, seconds: float, after: float, goes: bool) -> None:
    await said(hand, *FAR, after=after)
    await hold(hand, seconds)
    await hand.submit(starts("a", "x"))
    assert await hand.drain() == []
    assert await names(hand, "far") == (["a:big"] if goes else [])


async def test_an_open_breaker_sends_steps_elsewhere_however_soon_it_closes(hand: Hand) -> None:
    await said(hand, *FAR)
    await hold(hand, 0.0, breaker=1)
    await hand.submit(starts("a", "x"))
    assert await hand.drain() == []
    assert await names(hand, "far") == ["a:big"]


async def test_a_short_word_of_the_provider_is_no_open_breaker(hand: Hand) -> None:
    await said(hand, *FAR)
    await hand.limit(flight=9)
    await hand.submit(starts("k", "x", lane="probe"), starts("l", "x", lane="probe"))
    one, two = await hand.drain("probe")
    await hand.commit(one, ok=False, refusal=Refusal(0.0, 1))
    await hand.commit(two, ok=False, refusal=Refusal(30.0, 1))  # it had begun before
    await hand.submit(starts("a", "x"))
    assert await hand.drain() == []
    assert await names(hand, "far") == []


async def test_what_is_held_already_goes_in_pages(hand: Hand) -> None:
    await said(hand, *FAR)
    await hand.limit(flight=1)
    await hand.submit(starts("a", "x"), *(starts(f"j{i:03}", "x") for i in range(120)))
    (claim,) = await hand.drain()
    assert len((await hand.by_model("held"))["small"]) == 120
    await hand.journal.release(claim, "429", 60, error=RateLimited("x"), refusal=Refusal(HOUR))
    left = []
    for _ in range(4):
        await hand.reap()
        await hand.look()
        left.append(len((await hand.by_model("held")).get("small", ())))
    assert left == [70, 20, 0, 0]
    assert len(await names(hand, "far")) == 121


@pytest.mark.parametrize("fair", ["", "tenant"])
async def test_what_has_nowhere_to_go_keeps_nobody_from_going(hand: Hand, fair: str) -> None:
    """120 steps that came from another model whose last fallback this is, and 3 of its own behind them."""
    await hand.journal.set_lane("llm", fair=fair)
    await said(hand, *FAR)
    await hand.journal.say(Said(models={"first": Limits(fallback=(("llm", "small"),))}), "file")
    await serve(hand, "small")
    await hold(hand, model="first")
    stuck = [starts(f"s{i:03}", "x", model="first", tenant=f"t{i // 10}") for i in range(120)]
    await hand.submit(*stuck)
    await hand.limit(flight=1)
    (claim,) = await hand.drain()
    for _ in range(4):
        await hand.ring()
        await hand.reap()
        assert await hand.drain() == []
    await hand.submit(*(starts(f"z{i}", "x", tenant=f"z{i}") for i in range(3)))
    assert await hand.drain() == []
    await hand.journal.release(claim, "429", HOUR, error=RateLimited("x"), refusal=Refusal(HOUR))
    for _ in range(20):
        await hand.ring()
        await hand.reap()
    assert sorted(await names(hand, "far")) == ["z0:big", "z1:big", "z2:big"]


@pytest.mark.parametrize("way", ["later", "to another", "paused", "elsewhere", "nowhere else"])
async def test_a_failed_try_is_told_once_as_one_whichever_way_its_step_goes(hand: Hand, way: str) -> None:
    if way == "elsewhere":
        await said(hand, *FAR)
    await hand.submit(starts("a", "x"))
    claim = await hand.claim()
    if way == "paused":
        await hand.journal.pause("a")
    refusal = Refusal(HOUR) if way in ("elsewhere", "nowhere else") else None
    to = ("big", "far") if way == "to another" else None
    after = 0 if way == "to another" else 5
    await hand.journal.release(claim, "ProviderBusy", after, error=ProviderBusy("x"), refusal=refusal, to=to)
    told = [(e.what, e.detail) for e in await hand.journal.events("a") if e.step == 0]
    elsewhere = [("released", "small is on hold: goes to big")] if way == "elsewhere" else []
    assert told[2:] == [("retry", "ProviderBusy"), *elsewhere]


async def test_the_step_that_was_refused_does_not_wait_for_the_hold_either(hand: Hand) -> None:
    await said(hand, *FAR)
    await hand.submit(starts("a", "x"))
    await hand.refuse(await hand.claim(), HOUR)
    assert await names(hand, "far") == ["a:big"]
    assert (await hand.hash(hand.keys.job("a")))["e0"], "its error is kept"


async def test_of_the_fallbacks_the_first_that_is_served_and_not_on_hold_itself_is_taken(hand: Hand) -> None:
    chain = (("far", "nobody"), ("far", "big"), ("far", "other"))
    await said(hand, *chain)
    await hold(hand)
    await hold(hand, 30.0, "big")
    await hand.submit(starts("a", "x"))
    assert await hand.drain() == []
    assert await names(hand, "far") == ["a:other"]


async def test_a_step_waits_where_no_fallback_may_be_called_and_goes_once_one_may(hand: Hand) -> None:
    await said(hand, *FAR)
    await hold(hand)
    await hold(hand, 30.0, "big")
    await hand.submit(starts("a", "x"))
    assert await hand.drain() == []
    assert (await hand.by_model("held"))["small"] == ["a/0"]
    timer = float(await hand.redis("ZSCORE", hand.keys.timers, "model:small/!"))
    assert timer / 1e6 - await hand.journal.now() < 3, "somebody looks again soon"
    await hand.end_hold("big")
    assert await names(hand, "far") == ["a:big"]


async def test_a_step_goes_down_the_chain_of_the_model_that_was_asked_for_and_not_back(hand: Hand) -> None:
    await said(hand, ("far", "big"), ("far", "other"))
    await hand.journal.say(Said(models={"other": Limits(fallback=(("llm", "small"),))}), "file")
    for model in ("small", "big", "other"):
        await serve(hand, model)
        await hold(hand, model=model)
    await hand.submit(starts("a", "x"))
    assert await hand.drain() == []
    await hand.end_hold("big")
    assert await names(hand, "far") == ["a:big"]


async def test_a_model_without_a_fallback_keeps_its_steps(hand: Hand) -> None:
    await said(hand)
    await hold(hand)
    await hand.submit(starts("a", "x"))
    assert await hand.drain() == []
    await hand.ring()
    await hand.reap()
    assert (await hand.by_model("held"))["small"] == ["a/0"]


async def test_a_fallback_that_the_file_names_later_counts_for_what_is_held(hand: Hand) -> None:
    await said(hand)
    await hold(hand)
    await hand.submit(starts("a", "x"))
    assert await hand.drain() == []
    await said(hand, *FAR)
    await hand.reap()
    assert await names(hand, "far") == ["a:big"]


async def test_a_hand_that_sets_limits_leaves_the_fallback_as_the_file_says(hand: Hand) -> None:
    await said(hand, *FAR)
    await hand.limit(rpm=100)
    await hold(hand)
    await hand.submit(starts("a", "x"))
    assert await hand.drain() == []
    assert await names(hand, "far") == ["a:big"]


async def test_one_claim_moves_some_and_the_reconciler_the_rest(hand: Hand) -> None:
    await said(hand, *FAR)
    await hand.submit(*(starts(f"j{i:03}", "x") for i in range(36)))
    await hold(hand)  # they stand on the lane
    assert await hand.drain() == []
    await hand.look()
    assert len((await hand.by_model("held"))["small"]) == 16
    await hand.reap()
    assert len(await names(hand, "far")) == 36


async def test_what_goes_to_its_fallback_while_it_is_ranked_anew_is_ranked_to_the_end(hand: Hand) -> None:
    await hand.submit(*(ranked(name, Rank(), "fifo") for name in "abc"))
    await said(hand, ("llm", "big"), after=0.0)
    await hand.journal.set_lane("llm", policy="round-robin")
    await hold(hand)
    await hand.rank_anew("round-robin", Rank(since="round", group="g"))
    assert (await hand.reap()).astray == []
    assert await names(hand, "llm") == ["a:big", "b:big", "c:big"]
