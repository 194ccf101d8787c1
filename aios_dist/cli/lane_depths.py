"""The numbers on Flower's broker page: how many steps wait on each lane."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from redis.exceptions import NoPermissionError

from aios_dist.broker import depth_commands
from aios_dist.config import Config
from aios_dist.journal import Keys
from aios_dist.journal.connection import open_client


class LaneDepths:
    """Stands in for Flower's counter of queues. Every Redis URL that a worker can use will do."""

    def __init__(self, config: Config) -> None:
        self._config = config
        self._client = open_client(config.fleet.redis_url)

    async def queues(self, names: Iterable[str]) -> list[dict[str, Any]]:
        """Name and number of waiting steps of each lane.

        The ready set is exact. An account that may only touch Celery's keys gets the number of tickets: the
        same but for a spare ticket now and then.
        """
        lanes = list(names)
        keys = Keys(self._config.fleet.name)
        try:
            counts = await self._run([("ZCARD", keys.ready(lane)) for lane in lanes])
        except NoPermissionError:
            counts = await self._run(depth_commands(self._config, lanes))
        return [
            {"name": lane, "messages": count, "messages_ready": count}
            for lane, count in zip(lanes, counts, strict=True)
        ]

    async def _run(self, commands: list[tuple[str, str]]) -> list[int]:
        pipeline = self._client.pipeline(transaction=False)
        for command in commands:
            pipeline.execute_command(*command)
        return [int(count) for count in await pipeline.execute()]
