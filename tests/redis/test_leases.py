"""A worker whose renewals do not get through takes nothing: what it claimed would soon be another's too."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import msgspec
import pytest

from aios_dist.errors import FleetUnavailable, JournalError
from aios_dist.journal import Journal
from aios_dist.worker import leases as ours
from aios_dist.worker.leases import Leases
from aios_dist.worker.work import Origin, Work
from tests.redis.conftest import starts

if TYPE_CHECKING:
    from aios_dist.config import FleetConfig
    from tests.redis.conftest import Hand


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not condition():  # noqa: ASYNC110  # it looks at a clock
            await asyncio.sleep(0.01)


async def test_leases_are_fresh_as_long_as_renewals_get_through(config: FleetConfig) -> None:
    journal = Journal(msgspec.structs.replace(config, lease=0.6, renew=0.3))
    leases, renew = Leases(journal), journal.renew
    errors: list[Exception] = [FleetUnavailable("Redis is away."), JournalError("renew broke")]

    async def refused(held: Any) -> set[str]:
        raise errors[0]

    keeping = asyncio.create_task(leases.keep(0.02))
    for _ in range(2):
        await asyncio.sleep(0.4)  # longer than may pass between two
        assert leases.fresh, "nothing is held, and it is renewed all the same"
        journal.renew = refused  # type: ignore[method-assign]
        await until(lambda: not leases.fresh)
        journal.renew = renew  # type: ignore[method-assign]
        await until(lambda: leases.fresh)
        errors.reverse()
    keeping.cancel()
    await journal.close()


class Clock:
    """The monotonic clock of a worker's leases, and of nothing else."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = time.monotonic()
        monkeypatch.setattr(ours, "time", SimpleNamespace(monotonic=lambda: self.now))


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    return Clock(monkeypatch)


async def holding(hand: Hand, *prompts: str) -> tuple[Leases, list[Work]]:
    """A worker's leases of all steps of a job."""
    await hand.submit(starts("x", *prompts))
    leases = Leases(hand.journal)
    works = [Work(await hand.claim(), Origin()) for _ in prompts]
    for work in works:
        leases.add(work.claim, work)
    return leases, works


async def test_the_end_of_one_branch_stops_its_call_and_not_that_of_another(hand: Hand) -> None:
    leases, works = await holding(hand, "a", "b", "c")
    assert leases.cancel("x", "1")
    assert not leases.cancel("other", "0")
    assert [work.stopped for work in works] == ["", "job ended", ""]


async def test_a_claim_is_sure_for_a_lease_less_the_time_between_two_renewals(
    hand: Hand, clock: Clock
) -> None:
    leases, (work, *_) = await holding(hand, "a")
    sure_s = hand.config.lease - hand.config.renew
    clock.now += sure_s - 0.1
    assert leases.fresh
    assert leases.sure(work.claim, asked=0.0), "renewals got through since"
    clock.now += 0.2
    assert not leases.fresh
    assert not leases.sure(work.claim, asked=clock.now - sure_s - 0.1)
    assert leases.sure(work.claim, asked=clock.now - sure_s + 0.1), "it is newer than they are"


async def test_a_renewal_counts_from_when_it_was_sent(hand: Hand, clock: Clock) -> None:
    leases, _ = await holding(hand, "a")
    renew = hand.journal.renew

    async def slow(held: Any) -> Any:
        clock.now += 2.0
        return await renew(held)

    hand.journal.renew = slow  # type: ignore[method-assign]
    await leases.renew()
    clock.now += hand.config.lease - hand.config.renew - 1.0
    assert not leases.fresh


async def test_nothing_is_begun_on_a_lease_that_is_lost_and_on_the_others_it_is(hand: Hand) -> None:
    leases, (lost, kept) = await holding(hand, "a", "b")
    await hand.lose(lost.claim)
    await hand.claim(worker="w2")
    await leases.renew()
    now = time.monotonic()
    assert (leases.sure(lost.claim, now), leases.sure(kept.claim, now)) == (False, True)


async def test_after_a_renewal_that_did_not_get_through_the_next_comes_soon(
    config: FleetConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ours, "SOON_S", 0.001)
    journal, asked = Journal(config), list[float]()

    async def refused(held: Any) -> set[str]:
        asked.append(time.monotonic())
        raise FleetUnavailable("Redis is away.")

    journal.renew = refused  # type: ignore[method-assign]
    keeping = asyncio.create_task(Leases(journal).keep(0.5))
    await until(lambda: len(asked) == 5)
    keeping.cancel()
    await journal.close()
    assert asked[4] - asked[0] < 3 * 0.5, "and not after the usual time between two"
