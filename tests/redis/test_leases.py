"""A worker whose renewals do not get through takes nothing: what it claimed would soon be another's too."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import msgspec

from aios_dist.errors import FleetUnavailable, JournalError
from aios_dist.journal import Journal
from aios_dist.worker.leases import Leases

if TYPE_CHECKING:
    from aios_dist.config import FleetConfig


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
