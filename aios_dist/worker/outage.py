"""Redis is away: said once for all who wait for it, and once more when it is back."""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Iterator

from aios_dist.errors import FleetUnavailable

logger = logging.getLogger("aios_dist.outage")

REMIND_S = 30.0
"""A long outage is mentioned again after this long."""


class Outage:
    """What a worker says of a Redis that is away: hundreds of calls may be waiting to be written."""

    def __init__(self) -> None:
        self._since = 0.0
        self._said = 0.0

    @contextlib.contextmanager
    def passes(self) -> Iterator[None]:
        """What needs Redis and is made up for later: where it is away, that is said, and no fault."""
        try:
            yield
        except FleetUnavailable as exc:
            self.away(exc)

    def away(self, why: Exception) -> None:
        """Somebody could not write."""
        now = time.monotonic()
        self._since = self._since or now
        if not self._said or now - self._said >= REMIND_S:
            self._said = now
            logger.warning("%s Waiting for it; nothing is lost.", why)

    def over(self) -> None:
        """The worker's sign of life was written."""
        if self._since:
            logger.warning("Redis is back after %.1f s.", time.monotonic() - self._since)
        self._since = self._said = 0.0
