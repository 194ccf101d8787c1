"""A verb that ends half-way, for any reason: the verb itself puts it right; nothing is called twice.

``python -m tests.driver --injected`` tries every write of every verb in many more situations.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

from aios_dist.errors import JournalError
from aios_dist.journal import Claim
from aios_dist.model.jobs import JobState, Outcome
from aios_dist.model.specs import Budget
from tests.driver.checks import wrong
from tests.driver.driver import Driver
from tests.driver.fleet import Fleet
from tests.driver.injected import Injector, inject
from tests.driver.known import MENDS, WIDE
from tests.driver.patched import verbs
from tests.driver.sending import walk
from tests.redis.breaking import SITUATIONS
from tests.redis.conftest import Hand, Told, decides, starts

if TYPE_CHECKING:
    from aios_dist.config import FleetConfig
    from aios_dist.local.redis_server import EmbeddedRedis
    from tests.conftest import Fleets
    from tests.driver.patched import Change

MOVES = 60
EVERY = 7
"""Of a verb's writes one in so many is tried here."""
EACH = 30
"""Of a verb's first writes each is tried, behind those one in three: what comes then is more of the same."""
ROUNDS = 60
"""Of workers and reconciler, in which all must have ended."""


@pytest.fixture
def driver(each_server: EmbeddedRedis, fleets: Fleets) -> Iterator[Driver]:
    """A driver of a small fleet."""
    fleet = Fleet(each_server.url, name := fleets.new_name(), _cuts(each_server))
    yield Driver(fleet, random.Random(1), most_open=5, scenes=False)
    fleet.close()
    fleets.names.discard(name)


@pytest.fixture
def injector(each_server: EmbeddedRedis, fleets: Fleets) -> Iterator[Injector]:
    """Where its fleet is copied to."""
    made = Injector(each_server.url, name := fleets.new_name(), _cuts(each_server))
    yield made
    made.close()
    fleets.names.discard(name)


@pytest.fixture
def fleet(redis_server: EmbeddedRedis, fleets: Fleets) -> Iterator[Fleet]:
    """A fleet of a hand's."""
    made = Fleet(redis_server.url, name := fleets.new_name(), attempts=2)
    made.runner.run(made.journal.close())
    made.journal = made.runner.run(_told(made.config))
    yield made
    made.close()
    fleets.names.discard(name)


def _cuts(server: EmbeddedRedis) -> tuple[Change, ...]:
    """On Valkey jobs of some steps are wide ones."""
    return MENDS if server.kind.startswith("redis") else WIDE


async def _told(config: FleetConfig) -> Told:
    made = Told(config)
    made._scripts = verbs()
    return made


@pytest.mark.parametrize("situation", SITUATIONS)
def test_behind_whatever_write_a_verb_breaks_all_is_put_right(fleet: Fleet, situation: str) -> None:
    hand = Hand(fleet.journal, fleet.config)
    verb = fleet.run(SITUATIONS[situation](hand))
    assert wrong(fleet.look()) == []
    before = fleet.look().jobs.keys()
    fleet.save()
    for behind in itertools.chain(range(1, EACH), itertools.count(EACH, 3)):
        fleet.restore()
        fleet.fail_behind(behind)
        broke = ""
        try:
            fleet.run(verb())
        except JournalError as exc:
            broke = str(exc)
        fleet.fail_behind(0)
        if not broke:
            break
        assert "planted behind" in broke
        if wrong(fleet.look()):  # … or by the next walk: a mark is left where its own write is refused
            fleet.run(walk(fleet.journal))
        assert wrong(fleet.look()) == [], f"at once, behind write {behind}: {broke}"
        fleet.run(verb())  # the caller sends it again
        assert wrong(fleet.look()) == [], f"sent again, behind write {behind}: {broke}"
        if behind % 5 == 0:
            _to_the_end(fleet, hand)
            left = fleet.look()
            assert wrong(left) == [], f"in the end, behind write {behind}: {broke}"
            assert not left.one["open"], f"behind write {behind}, these do not end"
            assert before <= left.jobs.keys()
    assert behind > 2


def test_a_turn_that_waited_for_the_end_of_a_pause_runs_wherever_the_resuming_breaks(fleet: Fleet) -> None:
    hand = Hand(fleet.journal, fleet.config)
    fleet.run(hand.submit(starts("j", "a", "signal:go")))
    claim = fleet.run(hand.claim())
    fleet.run(hand.journal.pause("j"))
    assert fleet.run(hand.commit(claim)).status == "paused"
    fleet.save()
    for behind in itertools.count(1):
        fleet.restore()
        fleet.fail_behind(behind)
        try:
            fleet.run(hand.journal.resume("j"))
        except JournalError:
            fleet.fail_behind(0)
        else:
            break
        fleet.run(walk(fleet.journal))
        job = fleet.job("j")
        waits = "t" in job.heads and job.heads["t"].state == "ready"
        assert job.state == "paused" or waits, f"behind write {behind}"


@pytest.mark.parametrize("again", [True, False], ids=["sent-again", "never-sent-again"])
def test_a_call_counts_once_behind_whatever_write_its_commit_breaks(fleet: Fleet, again: bool) -> None:
    hand = Hand(fleet.journal, fleet.config)
    claim = fleet.run(_paid_by_a_tenant(hand))
    fleet.save()
    seen = []
    for behind in itertools.count(1):
        fleet.restore()
        fleet.fail_behind(behind)
        try:
            fleet.run(hand.commit(claim, decision=decides(1, 2, "c"), money=0.25))
            broke = False
        except JournalError:
            broke = True
        fleet.fail_behind(0)
        if broke and again:
            fleet.run(hand.commit(claim, decision=decides(1, 2, "c"), money=0.25))
        once = again or not broke or "o0" in fleet.look().jobs["j"].fields
        assert _counted(fleet) == ([3, 2, 1, 250_000, 5, 250_000] if once else [0] * 6), (
            f"behind write {behind}"
        )
        seen.append(once)
        if not broke:
            break
    assert behind > 8
    assert again or {*seen} == {True, False}


async def _paid_by_a_tenant(hand: Hand) -> Claim:
    await hand.journal.set_tenant("default", tokens_per_day=10**6)
    await hand.limit(rpm=5)
    await hand.submit(starts("j", "a", "b"))
    return await hand.claim()


def _counted(fleet: Fleet) -> list[int]:
    """Of the job: tokens in and out, calls, micro-money; of its tenant: tokens, micro-money."""
    seen = fleet.look()
    spent = next(iter(seen.hashes["spend"].values()), {})
    return [
        *(seen.jobs["j"].number(field) for field in ("up", "uo", "uc", "um")),
        *(int(spent.get(field, 0)) for field in ("tok", "mic")),
    ]


def _to_the_end(fleet: Fleet, hand: Hand) -> None:
    """Workers and the reconciler do their work; paused jobs are let go on, signals sent."""
    for _ in range(ROUNDS):
        if not fleet.look().one["open"]:
            return
        fleet.now += 61_000_000
        fleet.run(_round(hand))


async def _round(hand: Hand) -> None:
    journal = hand.journal
    for job in await hand.members(hand.keys.open):
        await journal.resume(job, Budget(tokens=10**9))
        await journal.signal(job, "go", Outcome())
    await hand.lapse()
    await hand.ring()
    await hand.reap()
    await hand.go_on()
    await walk(journal)
    for lane in ("llm", "turns"):
        claim = await journal.claim(lane, "w3")
        if claim is None:
            continue
        if (history := await journal.load(claim.job)).retried:
            await journal.redo(claim.job, history.basis, [])
            history = await journal.load(claim.job)
        if claim.is_turn:
            end = decides(history.view.outcomes, history.view.steps, ends=JobState.DONE)
            await journal.advance(claim.job, end, token=claim.token)
        else:
            await hand.finish(claim)


@pytest.mark.slow
def test_a_verb_that_ends_behind_any_of_its_writes_is_put_right(driver: Driver, injector: Injector) -> None:
    cases = list(inject(driver, injector, moves=MOVES, cases=1, every=EVERY))
    assert len(cases) > 10
    broken = [case for case in cases if case.broken]
    assert not broken, "\n".join(map(str, broken))


def test_a_journal_whose_verbs_get_through_is_in_order_before_and_after(
    driver: Driver, injector: Injector
) -> None:
    for nth in range(MOVES):
        move = driver.next_move()
        if nth % 10 == 0:
            assert injector.at(driver, move, behind=10**9, again=False) is None
            assert injector.recovers(driver) == []
        driver.make(move)
