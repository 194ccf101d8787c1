"""Rules of lanes and limits that change in the running fleet."""

from __future__ import annotations

import re
from typing import Any

import msgspec
import pytest

from aios_dist import AsyncFleet
from aios_dist.config import Config
from aios_dist.errors import ConfigError
from aios_dist.journal import Claim, Limits, Nothing, Said, Stray, TenantRules, ordering
from aios_dist.policies import Rank
from tests.redis.conftest import Hand, decides, ranked, starts

# Rules that change -----------------------------------------------------------------------------------


BY_NAME = {"fifo": Rank(), "las": Rank(base=1e14), "round-robin": Rank(since="round", group="g")}


async def test_what_waits_under_old_rules_runs_on_in_its_order_until_it_is_ranked_anew(hand: Hand) -> None:
    await hand.submit(*(ranked(f"j{n}", Rank(), "fifo") for n in range(4)))
    await hand.journal.set_lane("llm", policy="las", oldest_every=10)
    assert (await hand.reap()).astray == ["llm"]
    assert (await hand.claim()).job == "j0"
    assert await hand.rank_anew("las", Rank(base=1e14)) == 3
    assert (await hand.reap()).astray == []
    await hand.submit(ranked("new", Rank(), "las"))
    await hand.look()
    assert await hand.order() == ["new", "j1", "j2", "j3"]


@pytest.mark.parametrize("ranked_so_far", [0, 4])
async def test_what_comes_before_all_is_ranked_anew_runs_behind_it(
    hand: Hand, monkeypatch: pytest.MonkeyPatch, ranked_so_far: int
) -> None:
    """Its rank under the new rules says nothing of those that have none yet."""
    await hand.submit(*(ranked(f"old{n}", Rank(), "fifo") for n in range(9)))
    await hand.journal.set_lane("llm", policy="las")
    await hand.submit(*(ranked(f"new{n}", Rank(base=-1e15), "las") for n in range(2)))
    monkeypatch.setattr(ordering, "PAGE", 2)
    monkeypatch.setattr(ordering, "MOST_PAGES", ranked_so_far // 2 + 1)
    await hand.rank_anew("las", Rank())
    await hand.look()
    assert await hand.order() == [*(f"old{n}" for n in range(9)), "new0", "new1"]


async def test_once_all_are_ranked_the_new_rules_decide(hand: Hand, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ordering, "PAGE", 2)
    await hand.submit(*(ranked(f"old{n}", Rank(), "fifo") for n in range(5)))
    await hand.journal.set_lane("llm", policy="las")
    await hand.submit(*(ranked(f"new{n}", Rank(base=-1e15), "las") for n in range(2)))
    assert await hand.rank_anew("las", Rank()) == 7
    assert (await hand.reap()).astray == []
    assert await hand.order() == ["new0", "new1", *(f"old{n}" for n in range(5))]


async def test_rules_that_change_again_before_all_are_ranked_lose_nobody(
    hand: Hand, monkeypatch: pytest.MonkeyPatch
) -> None:
    await hand.submit(*(ranked(f"old{n}", Rank(), "fifo") for n in range(5)))
    await hand.journal.set_lane("llm", policy="las")
    monkeypatch.setattr(ordering, "PAGE", 2)
    monkeypatch.setattr(ordering, "MOST_PAGES", 2)
    await hand.rank_anew("las", Rank())
    assert len(await hand.names()) == 2
    await hand.journal.set_lane("llm", policy="deadline")
    assert len(await hand.waiting()) == 5
    await hand.look()
    assert await hand.order() == [f"old{n}" for n in range(5)]


async def test_behind_what_a_limit_holds_under_old_rules_stands_what_comes_later(hand: Hand) -> None:
    await hand.limit("small", flight=1)
    await hand.submit(*(ranked(f"old{n}", Rank(), "fifo") for n in range(3)))
    running = await hand.claim()
    await hand.journal.set_lane("llm", policy="round-robin")
    rounds = Rank(since="round", group="g")
    await hand.submit(ranked("new", rounds, "round-robin"))
    ran = []
    for _ in range(3):
        await hand.finish(running)
        running = await hand.claim()
        ran.append(running.job)
        await hand.look()
    assert ran == ["old1", "old2", "new"]


async def test_a_step_that_a_producer_ranked_by_old_rules_is_ranked_anew(hand: Hand) -> None:
    await hand.journal.set_lane("llm", policy="las", oldest_every=10)
    await hand.submit(ranked("old", Rank(base=-1e15), "priority"), ranked("new", Rank(), "las"))
    assert (await hand.reap()).astray == ["llm"]
    await hand.rank_anew("las", Rank(base=1e14))
    assert await hand.order() == ["new", "old"]


async def test_strays_come_with_what_a_policy_asks_of_a_step(hand: Hand) -> None:
    await hand.submit(starts("j", "x", rank=Rank(), policy="fifo", agent="planner", tenant="acme"))
    claim = await hand.claim()
    await hand.commit(claim, decision=decides(1, 1, "y", rank=Rank(), policy="fifo", tokens=12))
    await hand.journal.set_lane("llm", policy="las")
    seen: list[Stray] = []

    async def said(strays: list[Stray]) -> list[tuple[Rank, str]]:
        seen.extend(strays)
        return [(Rank(), "las") for _ in strays]

    await hand.journal.rank_strays("llm", said)
    [stray] = seen
    assert (stray.name, stray.waiting[:3]) == ("j/1", ("planner", "acme", 1))
    assert 0 < stray.waiting.served < 60
    assert stray.waiting.cost == 12


async def test_rules_that_change_while_steps_are_ranked_leave_them_to_those_who_know(hand: Hand) -> None:
    await hand.submit(ranked("j", Rank(), "fifo"))
    await hand.journal.set_lane("llm", policy="las")

    async def said(strays: list[Stray]) -> list[tuple[Rank, str]]:
        await hand.journal.set_lane("llm", policy="deadline")
        return [(Rank(), "las") for _ in strays]

    await hand.journal.rank_strays("llm", said)
    assert (await hand.reap()).astray == ["llm"]
    assert await hand.order() == ["j"]


@pytest.mark.parametrize("count", [3, 1200])
async def test_fair_share_can_be_switched_on_and_off_while_steps_wait(hand: Hand, count: int) -> None:
    await hand.submit(*(ranked(f"flood{n:04}", Rank(), "fifo", tenant="flood") for n in range(count)))
    await hand.submit(ranked("small", Rank(), "fifo", tenant="small"))
    await hand.journal.set_lane("llm", fair="tenant")
    assert await hand.rank_anew("fifo", Rank()) == count + 1
    first = [(await hand.claim()).job for _ in range(2)]
    assert first == ["flood0000", "small"]
    await hand.journal.set_lane("llm", fair="")
    assert await hand.rank_anew("fifo", Rank()) == count - 1
    assert await hand.order() == [f"flood{n:04}" for n in range(1, count)]


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


# Bad input -------------------------------------------------------------------------------------------


def test_a_rule_that_cannot_be_is_refused_in_a_sentence() -> None:
    from aios_dist.config import LaneConfig, check_lane

    for rules, words in (
        (LaneConfig("lass"), "no policy 'lass'; did you mean 'las'"),
        (LaneConfig(fair="agent"), "fair must be 'tenant'"),
        (LaneConfig(oldest_every=1), "oldest_every"),
    ):
        with pytest.raises(ConfigError, match=words):
            check_lane("Lane 'llm':", rules)


@pytest.mark.parametrize("before", [None, 3], ids=["unknown to aios.toml", "in aios.toml"])
async def test_limits_set_by_hand_outlive_workers_that_start(hand: Hand, before: int | None) -> None:
    journal = hand.journal

    async def start_worker(limit: int) -> tuple[int, int]:
        acme = TenantRules(0, 0.0, 1.0, limit)
        await journal.say(Said(models={"small": Limits(in_flight=limit)}, tenants={"acme": acme}), "file")
        [model], [tenant] = await journal.model_views(["small"]), await journal.tenant_views(["acme"], [])
        return model.limits.in_flight, tenant.max_in_flight

    assert await start_worker(before or 0) == (before or 0, before or 0)
    await journal.set_limits("small", Limits(in_flight=7))
    await journal.set_tenant("acme", max_in_flight=7)
    assert await start_worker(before or 0) == (7, 7)
    assert await start_worker(9) == (9, 9)
    assert "acme" in await journal.tenant_names([])


async def test_what_a_limit_holds_is_ranked_anew_too(hand: Hand) -> None:
    """Under round-robin ranks are small numbers: old ones would wait for ever."""
    await hand.limit("small", flight=1)
    await hand.submit(*(ranked(f"old{n}", Rank(), "fifo") for n in range(3)))
    running = await hand.claim()
    assert await hand.drain() == []
    await hand.journal.set_lane("llm", policy="round-robin")
    rounds = Rank(since="round", group="g")
    assert await hand.rank_anew("round-robin", rounds) == 2
    await hand.submit(ranked("new", rounds, "round-robin"))
    ran = []
    for _ in range(3):
        await hand.finish(running)
        running = await hand.claim()
        ran.append(running.job)
    assert ran == ["old1", "old2", "new"]


async def test_a_lane_shared_by_many_tenants_is_changed_in_one_go(hand: Hand) -> None:
    await hand.journal.set_lane("llm", fair="tenant")
    await hand.submit(*(ranked(f"j{n:03}", Rank(), "fifo", tenant=f"t{n % 100}") for n in range(300)))
    await hand.journal.set_lane("llm", fair="")
    assert (await hand.journal.waiting(["llm"]))["llm"].ready == 300
    assert await hand.rank_anew("fifo", Rank()) == 300
    assert await hand.order() == [f"j{n:03}" for n in range(300)]


async def test_on_a_lane_that_goes_by_rounds_an_agent_first_plan_goes_by_rounds_too(hand: Hand) -> None:
    await hand.journal.set_lane("llm", policy="round-robin")
    rounds = Rank(since="round", group="g")
    await hand.plan("p", ("agent-first", "continue", "a"), [ranked("a", rounds, "round-robin")])
    await hand.submit(ranked("b", rounds, "round-robin"), ranked("c", rounds, "round-robin"))
    assert await hand.order() == ["a", "b", "c"]


async def test_a_plan_that_went_by_rounds_goes_by_its_places_when_it_is_ranked_anew(hand: Hand) -> None:
    """As after a producer that had not heard yet that the lane is no longer under round-robin."""
    rounds = Rank(since="round", group="g")
    await hand.journal.set_lane("llm", policy="fifo")
    jobs = [
        msgspec.structs.replace(ranked(id, rounds, "round-robin"), place=(0, n, 2, 2))
        for n, id in enumerate("ab")
    ]
    await hand.plan("p", ("agent-first", "continue", "a", "b"), jobs)
    assert await hand.rank_anew("fifo", Rank()) == 2
    first = await hand.claim()
    await hand.commit(first, decision=decides(1, 1, "more", policy="fifo"))
    assert await hand.order() == ["a", "b"]


# Rules that cannot be -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("field", "value", "shown"),
    [
        ("max_in_flight", 2.5, "2.5"),
        ("max_in_flight", True, "True"),
        ("max_in_flight", -1, "-1"),
        ("max_in_flight", 10**30, "1000000000000000000000000000000"),
        ("tokens_per_day", 1.5e6, "1.5e+06"),
        ("tokens_per_day", float("nan"), "nan"),
        ("tokens_per_day", "many", "'many'"),
        ("money_per_day", float("nan"), "nan"),
        ("money_per_day", -0.5, "-0.5"),
        ("money_per_day", True, "True"),
        ("weight", float("nan"), "nan"),
        ("weight", 0, "0"),
        ("weight", True, "True"),
        ("weight", "2", "'2'"),
    ],
)
async def test_a_setting_of_a_tenant_that_cannot_be_is_one_sentence_and_changes_nothing(
    hand: Hand, field: str, value: Any, shown: str
) -> None:
    async with AsyncFleet(Config(fleet=hand.config)) as fleet:
        with pytest.raises(
            ConfigError, match=rf"^Tenant 'acme': {field} must be .*, not {re.escape(shown)}\.$"
        ):
            await fleet.set_tenant("acme", **{field: value})
        assert await fleet.tenants() == []
    assert await hand.whole() == {}


@pytest.mark.parametrize("value", [2.5, float("nan"), -1, True, 10**30])
@pytest.mark.parametrize("field", ["in_flight", "requests_per_minute", "tokens_per_minute"])
async def test_a_limit_of_a_model_that_cannot_be_is_refused(hand: Hand, field: str, value: Any) -> None:
    with pytest.raises(ConfigError, match=r"^Model 'small': \w+ must be a whole number from 0 \(no limit\)"):
        await hand.journal.set_limits("small", Limits(**{field: value}))
    assert await hand.whole() == {}


@pytest.mark.parametrize("every", [2.5, float("nan"), True, -1, 1, 10**30])
async def test_no_lane_lets_the_oldest_go_every_so_many_times_that_are_no_number(
    hand: Hand, every: Any
) -> None:
    async with AsyncFleet(Config(fleet=hand.config)) as fleet:
        with pytest.raises(
            ConfigError, match=r"oldest_every must be 0 \(never\) or a whole number from 2 to 1,000,000, not "
        ):
            await fleet.set_lane("llm", oldest_every=every)
    assert await hand.whole() == {}


async def test_the_turn_of_the_oldest_is_also_that_of_one_that_waited_for_whoever_can_serve_it(
    hand: Hand,
) -> None:
    await hand.journal.set_lane("llm", policy="priority", oldest_every=2)
    ranks = {"first": 3e15, "better": 1e15, "good": 2e15}
    await hand.submit(*(ranked(name, Rank(base=base), "priority") for name, base in ranks.items()))
    assert isinstance(await hand.journal.take("llm", "w1", "token", models=["other"]), Nothing)
    took = [await hand.journal.take("llm", "w2", f"token{n}", models=["small"]) for n in range(2)]
    assert [claim.job for claim in took if isinstance(claim, Claim)] == ["better", "first"]
