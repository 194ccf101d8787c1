"""Looks at a fleet's Redis: while a run goes on, and at what is left when it is over."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import redis

from aios_dist.journal.keys import PERMANENT, Keys


@dataclass
class Sampler:
    """Looks at outcomes while the run goes on: one that has been seen never changes."""

    keys: Keys
    seen: dict[str, bytes] = field(default_factory=dict)
    changed: list[str] = field(default_factory=list)
    looks: int = 0
    _at: int = 0

    def look(self, client: redis.Redis, ids: Sequence[str], count: int = 40) -> None:
        """The next ``count`` jobs in turn."""
        some = [ids[(self._at + n) % len(ids)] for n in range(min(count, len(ids)))]
        self._at = (self._at + len(some)) % len(ids)
        pipe = client.pipeline(transaction=False)
        for id in some:
            pipe.hgetall(self.keys.job(id))
        for id, facts in zip(some, pipe.execute(), strict=True):
            for name, value in facts.items():
                if name[:1] == b"o" and name[1:].isdigit():
                    key = f"{id}/{name[1:].decode()}"
                    self.looks += 1
                    if self.seen.setdefault(key, value) != value:
                        self.changed.append(key)

    def forget(self) -> None:
        """Redis has been put back: what was seen may be written anew."""
        self.seen.clear()


WORK = ("open", "leases", "timers", "due", "deadlines", "ready:*", "held:*", "inflight:*")
"""Keys that hold something as long as there is work, and nothing (or do not exist) when there is none."""


def left_over(client: redis.Redis, keys: Keys, queues: str) -> list[str]:
    """Keys that speak of work though all jobs have ended, and keys that would stay for ever."""
    left = []
    for pattern in WORK:
        found = client.scan_iter(match=_literal(keys.prefix) + pattern, count=1000)
        left += [key.decode() for key in found]  # an empty set is no key
    for key in client.scan_iter(match=f"{queues}*", count=1000):
        kind = client.type(key)
        if kind == b"list":
            left.append(f"{key.decode()}: {client.llen(key)} tickets")
    permanent = {keys.prefix + name for name in PERMANENT if "*" not in name}
    families = tuple(keys.prefix + name.rstrip("*") for name in PERMANENT if "*" in name)
    for key in client.scan_iter(match=_literal(keys.prefix) + "*", count=1000):
        name = key.decode()
        if client.ttl(key) == -1 and name not in permanent and not name.startswith(families):
            left.append(f"{name} has no time to live")
    return left


def _literal(prefix: str) -> str:
    return prefix.replace("{", "[{]").replace("}", "[}]")
