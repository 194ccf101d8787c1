"""The numbers on Flower's broker page: how many steps wait on each lane."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import Any

from redis.exceptions import ResponseError

from aios_dist.broker.app import depth_commands
from aios_dist.config import Config
from aios_dist.errors import FleetUnavailable
from aios_dist.journal import Journal


class LaneDepths:
    """Stands in for Flower's counter of queues. Every Redis URL that a worker can use will do."""

    def __init__(self, config: Config) -> None:
        self._config = config
        self.journal = Journal(config.fleet)

    async def queues(self, names: Iterable[str]) -> list[dict[str, Any]]:
        """Name and number of waiting steps of each lane.

        The journal's count is exact. An account that may only touch Celery's keys gets the number of
        tickets: the same but for a spare ticket now and then.

        Raises:
            FleetUnavailable: Redis cannot be reached.
        """
        lanes = list(names)
        try:
            waiting = await self.journal.waiting(lanes, most=0)
            counts = [waiting[lane].ready for lane in lanes]
        except (FleetUnavailable, ResponseError):  # refused as a whole, or a command within the verb
            send = self.journal.connection.command
            counts = await asyncio.gather(*(send(*c) for c in depth_commands(self._config, lanes)))
        return [
            {"name": lane, "messages": count, "messages_ready": count}
            for lane, count in zip(lanes, counts, strict=True)
        ]
