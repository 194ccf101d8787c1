"""One fleet's journal on a server, its clock, and the way to look at all of it."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import Any

import redis

from aios_dist.config import FleetConfig
from aios_dist.journal import Journal
from tests.driver.patched import Change, journal
from tests.driver.seen import CLOCK, DUMP, FAIL, JobSeen, Seen

EPOCH = 1_767_000_000_000_000
DAY = 86_400_000_000
LEASE_S, RETENTION_S = 600.0, 30 * 86400.0


class Fleet:
    """A journal of its own on a server, its clock, and the way to look at all of it."""

    def __init__(
        self, url: str, name: str, changes: Iterable[Change] = (), attempts: int = 3, functions: bool = True
    ) -> None:
        self.config = FleetConfig(
            name=name, redis_url=url, lease=LEASE_S, renew=200.0, reconcile=2.0, attempts=attempts,
            retention=RETENTION_S,
        )  # fmt: skip
        self.client = redis.Redis.from_url(url, socket_timeout=20)
        self.runner = asyncio.Runner()
        self.journal: Journal = self.runner.run(self._open(list(changes), functions))
        self.prefix = self.journal.keys.prefix
        self.now = EPOCH
        self.last_end = "0-0"
        self._dump = self.client.register_script(DUMP)
        self._seen: Seen | None = None

    async def _open(self, changes: list[Change], functions: bool) -> Journal:
        return journal(self.config, changes, functions=functions)

    def run(self, verb: Any) -> Any:
        """Run a verb to its end, at the fleet's time."""
        self.client.set(self.prefix + CLOCK, self.now)
        return self.runner.get_loop().run_until_complete(verb)

    def fail_behind(self, writes: int) -> None:
        """The next verb ends with an error behind so many writes; 0: none does."""
        self.client.set(self.prefix + FAIL, writes)

    def look(self) -> Seen:
        """All of it, as it is now."""
        seen = self.look_without_ends()
        if seen.ends:
            self.last_end = seen.ends[-1][0]
        return seen

    def look_without_ends(self) -> Seen:
        """The same, and the stream of ends is still to be read."""
        self._seen = Seen(self._dump(args=[self.prefix, self.last_end]), self.prefix, self._seen)
        return self._seen

    def job(self, id: str) -> JobSeen:
        """One job, as it is now."""
        found = self.client.hgetall(f"{self.prefix}job:{id}")
        return JobSeen([part for pair in found.items() for part in pair])

    def forget_outage(self) -> None:
        """Nobody was away for long: ended leases are taken at once (docs/how-it-runs.md, 9)."""
        self.client.delete(self.prefix + "beat")

    def due(self) -> set[str]:
        """Jobs whose turn is due."""
        return {m.decode() for m in self.client.zrange(self.prefix + "due", 0, -1)}

    def score(self, name: str, members: Iterable[str], score: float = 1) -> None:
        """The time of these has come: in a sorted set without a name."""
        for member in members:
            self.client.zadd(self.prefix + name, {member: score}, xx=True)

    def refill(self, other: Fleet) -> None:
        """Become what another fleet is now."""
        self._drop(self.prefix)
        self._copy(other.prefix, self.prefix)
        self.now, self.last_end = other.now, other.last_end

    def save(self) -> None:
        """Keep all as it is now, as a snapshot on disk does."""
        self._drop("saved:" + self.prefix)
        self._copy(self.prefix, "saved:" + self.prefix)

    def restore(self) -> None:
        """Redis comes back with what was saved."""
        self._drop(self.prefix)
        self._copy("saved:" + self.prefix, self.prefix)

    def _copy(self, of: str, to: str) -> None:
        pipe = self.client.pipeline(transaction=False)
        for key in self.client.keys(of + "*"):
            pipe.copy(key, to.encode() + key[len(of) :])
        pipe.execute()

    def _drop(self, prefix: str) -> None:
        if keys := self.client.keys(prefix + "*"):
            self.client.unlink(*keys)

    def clear(self) -> None:
        """Nothing is left of it in Redis."""
        for prefix in (self.prefix, "saved:" + self.prefix):
            self._drop(prefix)

    def close(self) -> None:
        """Let go of the connections, and of the keys."""
        self.clear()
        self.runner.run(self.journal.close())
        self.runner.close()
        self.client.close()
