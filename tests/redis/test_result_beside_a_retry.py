"""Who waits for a job's end while somebody retries it is told an end that it came to, and nothing odd."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from aios_dist.config import Config
from aios_dist.errors import JobCancelled
from aios_dist.producer.fleet import AsyncFleet
from tests.redis.conftest import starts

if TYPE_CHECKING:
    from aios_dist.config import FleetConfig
    from tests.redis.conftest import Hand


async def test_a_result_that_is_waited_for_while_the_job_is_cancelled_and_retried(
    hand: Hand, config: FleetConfig
) -> None:
    fleet = AsyncFleet(Config(fleet=config))
    for number in range(10):
        id = f"j{number}"
        await hand.submit(starts(id, "x"))
        result = asyncio.create_task(fleet.job(id).result(timeout=20))
        await asyncio.sleep(0.002 * number)  # before it looks, while it does, and while it waits
        await asyncio.gather(hand.journal.cancel(id), hand.journal.retry(id, undone=None))
        await hand.redis("HDEL", hand.keys.job(id), "rt")  # as its turn would
        await hand.finish(await hand.claim())
        try:
            assert await result == "end"
        except JobCancelled:
            continue
    await fleet.close()
