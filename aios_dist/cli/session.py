"""One command's time with a fleet."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, TypeVar

from aios_dist.cli.at_once import ctrl_c_at_once
from aios_dist.config import Config, load

if TYPE_CHECKING:
    from aios_dist.journal import Journal
    from aios_dist.producer.fleet import AsyncFleet

T = TypeVar("T")


def on_fleet(work: Callable[[AsyncFleet], Awaitable[T]], config: Config | None = None) -> T:
    """Run ``work`` with the fleet of the configuration; Ctrl-C cancels it and closes the connections."""
    with ctrl_c_at_once():
        from aios_dist.producer.fleet import AsyncFleet

    settings = config or load()

    async def session() -> T:
        async with AsyncFleet(settings) as fleet:
            return await work(fleet)

    return asyncio.run(session())


def on_journal(work: Callable[[Journal], Awaitable[T]]) -> T:
    """The same for commands that only look: no Celery, so they answer faster."""
    with ctrl_c_at_once():
        from aios_dist.journal import Journal

    settings = load()

    async def session() -> T:
        journal = Journal(settings.fleet)
        try:
            return await work(journal)
        finally:
            await journal.close()

    return asyncio.run(session())
