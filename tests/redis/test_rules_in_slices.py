"""Rules of a lane on which much waits: it is gathered in slices, and nobody passes whom it was behind."""

from __future__ import annotations

from typing import Any
from urllib.parse import urlsplit

import msgspec
import pytest

from aios_dist.broker.app import Tickets
from aios_dist.config import Config
from aios_dist.journal import Journal, LaneRules, Said
from aios_dist.policies import Rank
from aios_dist.worker.reconciler import Reconciler
from tests.driver.known import MENDS
from tests.driver.patched import Change, verbs
from tests.redis.conftest import Hand, ranked
from tests.redis.test_work_of_a_slice import counted

SLICES = [change for change in MENDS if change.file == "_gather"]
"""Of one step each."""
ROUNDS = Rank(since="round", group="g")
MOST = 100
"""Slices of the few steps that wait here."""


@pytest.fixture
def dies(hand: Hand, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever sets rules is gone behind the first slice; the others are called by hand."""

    async def gone(lanes: Any) -> None:
        assert [*lanes]

    hand.journal._scripts = verbs(SLICES)
    monkeypatch.setattr(hand.journal, "_gather_all", gone)


async def gathered(hand: Hand) -> int:
    """All slices that are left; in how many that was."""
    for slices in range(MOST):
        if not await hand.journal.gather(["llm"]):
            return slices + 1
    raise AssertionError("it does not end")


async def rules(hand: Hand) -> tuple[str, int, str]:
    now = (await hand.journal.lane_rules(["llm"]))["llm"]
    return now.policy, now.oldest_every, now.fair


def name(n: int) -> str:
    return f"j{n:02}"


async def wait_there(hand: Hand, count: int = 12, tenants: int = 3) -> None:
    """Steps of tenants in turn, in the order of their numbers."""
    await hand.submit(*(ranked(name(n), Rank(), "fifo", tenant=f"t{n % tenants}") for n in range(count)))


@pytest.mark.usefixtures("dies")
async def test_until_all_is_gathered_the_first_run_by_the_old_rules(hand: Hand) -> None:
    await hand.journal.set_lane("llm", fair="tenant")
    await wait_there(hand)
    said = await hand.journal.set_lane("llm", policy="las", oldest_every=5)
    assert (said.policy, said.oldest_every, said.by_hand) == ("las", 5, True), "what the lane will have"
    assert await hand.by_model("stray") == {"llm": ["j11/0"]}, "the last of one of those whose turn is last"
    ran = [(await hand.claim()).job]
    await hand.journal.gather(["llm"])
    assert await rules(hand) == ("fifo", 0, "tenant")
    ran += [(await hand.claim()).job]
    assert ran == ["j00", "j01"]
    assert await gathered(hand) > 1
    await hand.look()
    assert await rules(hand) == ("las", 5, "tenant")
    assert await hand.rank_anew("las", Rank()) == 10
    assert sorted(await hand.order()) == [name(n) for n in range(2, 12)]


@pytest.mark.usefixtures("dies")
@pytest.mark.parametrize("policy", ["fifo", "las"], ids=["by the old rules", "as who sets them will have it"])
async def test_what_comes_between_slices_runs_behind_what_was_there(hand: Hand, policy: str) -> None:
    await hand.journal.set_lane("llm", fair="tenant")
    await wait_there(hand, 9)
    await hand.journal.set_lane("llm", policy="las", fair="")
    for n in range(3):
        by, base = (policy, 1e13) if policy == "las" else ((await rules(hand))[0], -1e13)
        await hand.submit(ranked(f"new{n}", Rank(base=base), by, tenant="t9"))
        await hand.look()
        await hand.journal.gather(["llm"])
    await gathered(hand)
    await hand.submit(ranked("new3", Rank(base=-1e15), "las"))
    await hand.look()
    assert await hand.order() == [*(name(n) for n in range(9)), *(f"new{n}" for n in range(4))]


@pytest.mark.usefixtures("dies")
async def test_what_is_gathered_is_not_ranked_before_all_is(hand: Hand) -> None:
    await hand.journal.set_lane("llm", fair="tenant")
    await wait_there(hand)
    await hand.journal.set_lane("llm", policy="las")
    waits = await hand.by_model("stray")
    assert 0 < len(waits["llm"]) < 12
    assert await hand.rank_anew("fifo", Rank()) == 0
    assert await hand.by_model("stray") == waits


@pytest.mark.usefixtures("dies")
async def test_rules_that_are_taken_back_between_slices_leave_the_order_as_it_was(hand: Hand) -> None:
    await hand.journal.set_lane("llm", fair="tenant")
    await wait_there(hand)
    await hand.journal.set_lane("llm", policy="las", fair="")
    await hand.journal.gather(["llm"])
    await hand.journal.set_lane("llm", policy="fifo", fair="tenant")
    assert not await hand.journal.gather(["llm"])
    assert {"next", "over"}.isdisjoint(await hand.hash(hand.keys.lane("llm")))
    assert await hand.rank_anew("fifo", Rank()) > 0
    await hand.look()
    assert await hand.by_model("stray") == {}
    assert await hand.order() == [name(n) for n in range(12)]


@pytest.mark.usefixtures("dies")
async def test_rounds_that_are_taken_back_are_what_they_were(hand: Hand) -> None:
    """A new round would be behind all that the group has had: others would go again and again."""
    await hand.journal.set_lane("llm", policy="round-robin", fair="tenant")
    await hand.submit(*(ranked(name(n), ROUNDS, "round-robin") for n in range(9)))
    other = Rank(since="round", group="other")
    await hand.journal.set_lane("llm", policy="fifo")
    for _ in range(5):
        await hand.journal.gather(["llm"])
    await hand.journal.set_lane("llm", policy="round-robin")
    await hand.rank_anew("round-robin", ROUNDS)
    await hand.submit(*(ranked(f"k{n}", other, "round-robin") for n in range(5)))
    in_turn = [one for n in range(5) for one in (name(n), f"k{n}")]
    assert await hand.order() == [*in_turn, *(name(n) for n in range(5, 9))]


@pytest.mark.usefixtures("dies")
async def test_what_was_said_last_counts_however_many_said_other_rules_between_slices(hand: Hand) -> None:
    await hand.journal.set_lane("llm", fair="tenant")
    await wait_there(hand)
    await hand.journal.set_lane("llm", policy="las")
    assert (await hand.journal.set_lane("llm", oldest_every=3)).policy == "las"
    said = await hand.journal.set_lane("llm", policy="deadline", fair="")
    assert (said.policy, said.oldest_every, said.fair) == ("deadline", 3, "")
    await gathered(hand)
    assert await rules(hand) == ("deadline", 3, "")
    await hand.look()
    assert await hand.rank_anew("deadline", Rank()) == 12
    assert await hand.order() == [name(n) for n in range(12)]


@pytest.mark.usefixtures("dies")
async def test_the_reconciler_gathers_the_rest_where_the_caller_is_gone(hand: Hand) -> None:
    await hand.journal.set_lane("llm", fair="tenant")
    await wait_there(hand)
    of_file = Said(lanes={"llm": LaneRules("las"), "far": LaneRules("las", 2, "tenant")})
    await hand.journal.say(of_file, "file")
    assert await hand.journal.knows(of_file)
    assert await rules(hand) == ("fifo", 0, "tenant")
    config = Config(fleet=hand.config)
    reconciler = Reconciler(config, hand.journal, Tickets(config), "w1")
    await reconciler._office.ask("take")
    await reconciler.once()
    assert await rules(hand) == ("las", 0, "")
    assert not reconciler.broken
    await hand.look()
    assert await hand.order() == [name(n) for n in range(12)]


@pytest.mark.usefixtures("dies")
async def test_rules_that_an_older_release_sets_meanwhile_count(hand: Hand) -> None:
    """It knows of no slices: what it makes of the lane is not undone by what was said before."""
    await hand.journal.set_lane("llm", fair="tenant")
    await wait_there(hand)
    await hand.journal.set_lane("llm", policy="las")
    await hand.redis("HSET", hand.keys.lane("llm"), "policy", "deadline", "oldest", "0", "fair", "tenant")
    assert not await hand.journal.gather(["llm"])
    assert await rules(hand) == ("deadline", 0, "tenant")
    assert (await hand.journal.set_lane("llm", oldest_every=4)).policy == "deadline"


@pytest.mark.usefixtures("dies")
async def test_a_round_that_was_counted_by_the_old_shares_is_counted_anew(hand: Hand) -> None:
    """Rounds of a tenant say nothing of those of all."""
    await hand.journal.set_lane("llm", policy="round-robin", fair="tenant")
    await hand.submit(*(ranked(name(n), ROUNDS, "round-robin", tenant="t1") for n in range(7)))
    await hand.journal.set_lane("llm", fair="")
    await hand.submit(ranked("late", Rank(since="round", group="other"), "round-robin", tenant="t2"))
    await gathered(hand)
    await hand.rank_anew("round-robin", ROUNDS)
    await hand.submit(ranked("new", Rank(since="round", group="new"), "round-robin"))
    assert (await hand.order())[:2] == ["j00", "new"]


@pytest.mark.usefixtures("dies")
@pytest.mark.parametrize(
    "after", [("fifo", 0, ""), ("fifo", 0, "tenant"), ("fifo", 3, ""), ("las", 3, "tenant")]
)
@pytest.mark.parametrize("before", [("fifo", 0, ""), ("fifo", 0, "tenant"), ("fifo", 2, "tenant")])
@pytest.mark.parametrize("limited", [False, True], ids=["", "held"])
async def test_between_any_two_rules_nobody_is_lost_or_overtaken(
    hand: Hand, before: tuple[str, int, str], after: tuple[str, int, str], limited: bool
) -> None:
    """Also with strays that are left from the change before; on the lane and where limits hold it."""
    if limited:
        await hand.limit("small", flight=1)
        await hand.journal.set_tenant("t1", max_in_flight=1)
    await hand.journal.set_lane("llm", policy="deadline")
    await wait_there(hand, 14)
    for policy, oldest, fair in (before, after):
        await hand.journal.set_lane("llm", policy=policy, oldest_every=oldest, fair=fair)
        for _ in range(MOST):
            if not await hand.journal.gather(["llm"]):
                break
            await hand.journal.walk("/")
        assert await rules(hand) == (policy, oldest, fair)
        await hand.look()
    held = [m for names in (await hand.by_model("held")).values() for m in names]
    if after != before or limited:
        assert {*held} <= await hand.members(f"{hand.keys.prefix}astray:llm")
    while await hand.rank_anew(after[0], Rank()):
        pass
    await hand.look()
    running, ran = await hand.drain(), []
    while running:
        ran += [claim.job for claim in running]
        for claim in running:
            await hand.finish(claim)
        running = await hand.drain()
    assert sorted(ran) == [name(n) for n in range(14)]
    if not limited and not after[1]:
        assert ran == [name(n) for n in range(14)]


@pytest.mark.parametrize("tenants", [2, 60])
@pytest.mark.parametrize("limited", [False, True], ids=["on the lane", "held"])
async def test_a_slice_is_as_much_however_much_waits_and_of_however_many(
    hand: Hand, tenants: int, limited: bool
) -> None:
    size = [Change("small slices", "_gather", "local SLICE = 500", "local SLICE = 60")]
    hand.journal._scripts = verbs(size)
    await hand.journal.set_lane("llm", fair="tenant", oldest_every=4)
    if limited:
        await hand.limit("small", flight=1)
    await wait_there(hand, 180, tenants)
    async with counted(hand.journal) as seen:
        await hand.journal.set_lane("llm", policy="las")
    assert len(seen) >= (2 if limited else 3)  # (what is held by few, Redis gives in one)
    assert max(commands for _, commands in seen) < 110, seen
    assert await rules(hand) == ("las", 4, "tenant")


async def test_a_slice_of_what_is_held_by_one_is_bounded(hand: Hand) -> None:
    size = [Change("small slices", "_gather", "local SLICE = 500", "local SLICE = 60")]
    await hand.limit("small", flight=1)
    await wait_there(hand, 300)
    await hand.drain()
    hand.journal._scripts = verbs(size)
    async with counted(hand.journal) as seen:
        await hand.journal.set_lane("llm", policy="las")
    assert len(seen) > 3
    assert len(await hand.members(f"{hand.keys.prefix}astray:llm")) == 299


async def test_an_account_of_the_release_before_may_set_rules_too(hand: Hand) -> None:
    """It may not ask for a set by pages, and asks for all of it."""
    await hand.limit("small", flight=1)
    await wait_there(hand, 20)
    await hand.drain()
    who, url = "before", urlsplit(hand.journal.config.redis_url)
    await hand.redis("ACL", "SETUSER", who, "on", ">x", "~*", "&*", "+@all", "-zscan")
    mine = msgspec.structs.replace(
        hand.journal.config, redis_url=url._replace(netloc=f"{who}:x@{url.netloc}").geturl()
    )
    theirs = Journal(mine)
    assert (await theirs.set_lane("llm", policy="las")).policy == "las"
    await theirs.close()
    await hand.redis("ACL", "DELUSER", who)
    assert await rules(hand) == ("las", 0, "")
    assert len(await hand.members(f"{hand.keys.prefix}astray:llm")) == 19
