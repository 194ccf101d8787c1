"""The way to a fleet's keys: one connection, one prefix, the verbs by name.

redis-py costs a program as much as all of ours to import. So it comes with the first fleet that is made, and
not with the names that a program's file begins with: of what a producer imports, :mod:`.connection` alone has
it at its top, and is itself imported in functions.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from aios_dist.config import FleetConfig
from aios_dist.journal import scripts
from aios_dist.journal.keys import Keys

if TYPE_CHECKING:
    from aios_dist.journal.connection import Connection

SAID_TWICE = frozenset(
    {
        *("submit", "extend", "fork", "signal"),  # under ids that the caller makes first
        *(
            "pause",
            "resume",
            "rerank",
            "lane",
            "rules",
            "renew",
            "sweep",
            "gather",
        ),  # how things shall be, not what to change
        *("counts", "events"),  # they look
    }
)
"""Verbs that come to the same when they are said twice, and answer the same: on a connection that turns out
to be dead (a restart, a firewall that forgot it) they are said again at once. ``cancel`` and ``retry`` may be
said twice as well, but answer otherwise: see :mod:`…producer.handles`. What workers say to claim and to
write, they insist on themselves."""


class Access:
    """What the parts of the journal share. One per event loop."""

    def __init__(self, config: FleetConfig) -> None:
        from aios_dist.journal.connection import Connection

        self.config = config
        self.keys = Keys(config.name)
        self.connection: Connection = Connection(config.redis_url, config.redis_timeout)
        self._scripts = scripts.load()
        self._retention_ms = int(config.retention * 1000)

    async def close(self) -> None:
        """Close the connection."""
        await self.connection.close()

    async def _run(self, verb: str, *then: tuple[Any, ...], **fields: Any) -> Any:
        script = self._scripts[verb]
        packed = script.pack({"retention_ms": self._retention_ms, **fields})
        return await self.connection.eval(script, self.keys.prefix, packed, *then, again=verb in SAID_TWICE)

    async def _gather(self, commands: Iterable[tuple[Any, ...]]) -> list[Any]:
        return list(await asyncio.gather(*(self.connection.command(*c) for c in commands)))


def entries_of(got: Any) -> list[Any]:
    """The entries of one stream from XREAD's answer, in RESP2 and RESP3 form."""
    if not got:
        return []
    streams = list(got.values()) if isinstance(got, dict) else [stream[1] for stream in got]
    entries = streams[0]
    if entries and isinstance(entries[0], list) and entries[0] and isinstance(entries[0][0], (list, tuple)):
        return list(entries[0])
    return list(entries)
