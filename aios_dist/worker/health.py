"""When a worker is no longer fit: too much memory, or threads that hang. It then begins anew, warm."""

from __future__ import annotations

import logging
import os
import sys
import time
from collections.abc import Callable, Iterable

from aios_dist.worker.threads import Run

logger = logging.getLogger("aios_dist.health")

PATIENCE_S = 5.0
"""A thread that was given up and ends within this time has done no harm."""


def most_lost(slots: int) -> int:
    """So many threads that hang are too many."""
    return min(slots, max(4, slots // 4))


def resident_bytes() -> int:
    """The memory that this process holds now."""
    try:
        with open("/proc/self/statm", "rb") as file:
            return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:  # not Linux: the most that it ever held
        import resource

        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak if sys.platform == "darwin" else peak * 1024


class Health:
    """Looks after one worker.

    Args:
        slots: of the worker.
        memory_limit: bytes; 0: no limit.
        lost: what was given up and still runs.
        restart: called once, with the reason.
    """

    def __init__(
        self,
        slots: int,
        memory_limit: int,
        lost: Callable[[], Iterable[Run]],
        restart: Callable[[str], None],
    ) -> None:
        self._most = most_lost(slots)
        self._limit = memory_limit
        self._lost = lost
        self._restart = restart
        self._told: set[str] = set()
        if memory_limit and resident_bytes() > memory_limit:
            logger.error(
                "memory_limit (%d bytes) is less than an idle worker takes (%d): it is not kept to.",
                memory_limit,
                resident_bytes(),
            )
            self._limit = 0

    def resize(self, slots: int) -> None:
        """The worker has so many slots from now on."""
        self._most = most_lost(slots)

    def stuck(self) -> list[str]:
        """Names of what hangs: which tool or agent, and of which job."""
        now = time.monotonic()
        return [run.name for run in self._lost() if run.lost is not None and now - run.lost >= PATIENCE_S]

    async def look(self) -> None:
        """One look; asks for a new beginning where one is due."""
        stuck = self.stuck()
        for name in stuck:
            if name not in self._told:
                logger.error("It hangs and cannot be ended: %s. Its thread is lost.", name)
        self._told = set(stuck)
        if len(stuck) >= self._most:
            self._restart(f"{len(stuck)} threads hang: {', '.join(stuck[:4])}")
        elif self._limit and (held := resident_bytes()) > self._limit:
            self._restart(f"it holds {held:,} bytes, more than memory_limit ({self._limit:,})")
