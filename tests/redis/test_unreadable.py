"""A record that cannot be read costs its own job; leases of others are renewed, claims of others go on."""

from __future__ import annotations

import asyncio
import itertools
import time
from typing import TYPE_CHECKING, Any

import pytest

from aios_dist.model.calls import Usage
from aios_dist.model.jobs import Outcome
from aios_dist.worker.background import Background
from aios_dist.worker.leases import Leases
from tests.redis.conftest import starts

if TYPE_CHECKING:
    from aios_dist.journal import Claim
    from tests.redis.conftest import Hand


class Held:
    """What works on a lease, and minds nothing."""

    def cancel(self, msg: Any | None = None) -> bool:
        """It goes on."""
        return False


async def two_lost(hand: Hand) -> tuple[Claim, Claim, Claim]:
    """Three claims; the leases of two have ended, and the job of the first of those is no hash any more."""
    await hand.submit(starts("odd", "x"), starts("late", "x"), starts("kept", "x"))
    odd, late, kept = [await hand.claim() for _ in range(3)]
    await hand.lapse(odd, late)
    await hand.reap()
    await hand.redis("SET", hand.keys.job("odd"), "no hash")
    return odd, late, kept


async def put_right(hand: Hand) -> None:
    """The reconciler looks at what is marked; what stands on a lane of it is passed over."""
    await hand.journal.walk()
    assert await hand.redis("HGET", hand.keys.prefix + "aside", "odd") == b"its record is no hash"
    assert await hand.drain() == []
    await forget(hand, "odd")


async def forget(hand: Hand, job: str) -> None:
    """As when its time to live is over."""
    await hand.redis("DEL", hand.keys.job(job), hand.keys.events(job))
    await hand.redis("ZREM", hand.keys.ended, job)


async def test_a_lease_that_has_ended_is_regained_beside_one_whose_job_cannot_be_read(hand: Hand) -> None:
    odd, late, kept = await two_lost(hand)
    assert await hand.renew(odd, late, kept) == [odd]
    assert (await hand.journal.renew([late.lease, kept.lease])) == set()
    await put_right(hand)


async def test_what_breaks_the_regaining_of_one_lease_slows_the_renewing_of_no_other(
    hand: Hand, caplog: pytest.LogCaptureFixture
) -> None:
    """A background task that breaks is begun anew after ever longer pauses; leases would end in those."""
    odd, late, kept = await two_lost(hand)
    leases, sent = Leases(hand.journal), []
    for claim in (odd, late, kept):
        leases.add(claim, Held())

    async def renewed(held: Any) -> set[str]:
        sent.append(time.monotonic())
        await hand.journal.signal("odd", "n", Outcome(value=1))
        raise AssertionError

    hand.journal.renew = renewed  # type: ignore[method-assign]
    background = Background()
    background.start("renewing", lambda: leases.keep(0.02))
    while len(sent) < 12:  # noqa: ASYNC110  # the task says it
        await asyncio.sleep(0.02)
    await background.end()
    assert background.broken == {}
    assert max(after - before for before, after in itertools.pairwise(sent)) < 1.0
    assert caplog.text.count("Renewing leases: ") == 1
    del hand.journal.renew
    await hand.renew(odd, late)
    await put_right(hand)


async def test_a_step_that_a_claim_cannot_read_is_looked_at_in_the_next_pass(hand: Hand) -> None:
    await hand.submit(starts("odd", "x"), starts("j", "x"))
    await hand.redis("HSET", hand.keys.job("odd"), "h0", b"\xc1")
    assert (await hand.claim()).job == "j"
    walked = await hand.journal.walk(cursor="/")  # what is marked, and no page of the open jobs
    assert [job for job, _ in walked.found] == ["odd"]
    assert await hand.state("odd") == "failed"
    await forget(hand, "odd")


async def test_a_held_step_that_cannot_be_read_stops_nobody_as_the_oldest(hand: Hand) -> None:
    """Also where its model took more tokens than it may: it needs none, and does not fit all the same."""
    await hand.journal.set_lane("llm", oldest_every=1)
    await hand.limit(tpm=100)
    await hand.submit(starts("first", "x", tokens=50))
    await hand.commit(await hand.claim(), usage=Usage(100, 50, 1))
    await hand.submit(starts("odd", "x", tokens=50), starts("j", "x", tokens=50))
    await hand.redis("ZADD", hand.keys.held("small"), 1e18, "odd/0")  # the oldest, and the last by rank
    await hand.redis("HSET", hand.keys.job("odd"), "h0", b"\xc1")
    await hand.submit(starts("k", "x", tokens=50))
    assert await hand.drain() == []
    await hand.minute()
    assert {claim.job for claim in await hand.drain()} == {"j", "k"}
    await forget(hand, "odd")
