"""What claims and leases carry in numbers: how long a job was served, how long a lease lasts, who was lost."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.redis.conftest import decides, starts

if TYPE_CHECKING:
    from tests.redis.conftest import Hand


async def test_a_claim_says_how_long_its_job_has_been_served(hand: Hand) -> None:
    """The policies that go by service know nothing else."""
    await hand.submit(starts("j", "x"))
    first = await hand.claim()
    await hand.commit(first, decision=decides(1, 1, "y"))
    second = await hand.claim()
    assert (first.served, second.served) == (0.0, (await hand.journal.load("j")).view.served)
    assert 0 < second.served < 60


async def left(hand: Hand, lease: str) -> float:
    """Seconds until a lease ends."""
    return float(await hand.redis("ZSCORE", hand.keys.leases, lease)) / 1e6 - await hand.journal.now()


@pytest.mark.parametrize("how", ["claimed", "renewed", "regained"])
async def test_a_lease_lasts_as_long_however_it_was_got(hand: Hand, how: str) -> None:
    await hand.submit(starts("j", "x"))
    claim = await hand.claim()
    if how == "regained":
        await hand.lose(claim)
    elif how == "renewed":
        await hand.lapse(claim)
    if how != "claimed":
        assert await hand.renew(claim) == []
    assert await left(hand, claim.lease) == pytest.approx(hand.config.lease, abs=hand.config.lease / 10)


async def test_a_worker_that_stalls_and_comes_back_again_and_again_has_not_been_lost(hand: Hand) -> None:
    await hand.submit(starts("j", "x"))
    claim = await hand.claim()
    for _ in range(hand.config.attempts + 1):
        await hand.lose(claim)
        assert await hand.renew(claim) == []
    await hand.lose(claim)
    assert await hand.journal.dead_letters() == []
    assert (await hand.claim()).job == "j"
