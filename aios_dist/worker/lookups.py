"""Names of hosts: looked up in threads of their own, and remembered for as long as DNS is away.

A lookup may hang for as long as ``resolv.conf`` says (tens of seconds). In the loop's own few threads it
would keep those of other hosts waiting, and whatever else runs there.
"""

from __future__ import annotations

import asyncio
import logging
import socket
import threading
from typing import Any

from aios_dist.broker.addresses import AWAY

logger = logging.getLogger("aios_dist.lookups")

PATIENCE_S = 1.0
"""How long a lookup is waited for where an earlier answer is known."""

LONGEST_S = 30.0
"""How long where none is known."""

MOST_KNOWN = 1000

Found = list[tuple[Any, ...]]


class Lookups:
    """One event loop's way to ``getaddrinfo``: at most one thread for each host at a time."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._known: dict[tuple[Any, ...], Found] = {}
        self._asked: dict[tuple[Any, ...], asyncio.Future[Found]] = {}
        self._told: set[tuple[Any, ...]] = set()

    async def find(self, *question: Any) -> Found:
        """What ``socket.getaddrinfo`` answers; while DNS is away, what it has answered before.

        Args:
            question: host, port, family, type, proto, flags.

        Raises:
            socket.gaierror: there is no such host, or it is not known.
        """
        known = self._known.get(question)
        asked = self._asked.get(question)
        if asked is None:
            asked = self._asked[question] = self._loop.create_future()
            asked.add_done_callback(lambda future: future.cancelled() or future.exception())
            self._begin(question)
        await asyncio.wait({asked}, timeout=LONGEST_S if known is None else PATIENCE_S)
        error: BaseException | None = socket.gaierror(socket.EAI_AGAIN, "DNS does not answer")
        if asked.done():
            error = asked.exception()
            if error is None:
                self._told.discard(question)
                return asked.result()
        if known is None or not _away(error):
            raise error or AssertionError
        if question not in self._told:
            self._told.add(question)
            logger.warning("DNS does not answer for %s (%s); its last address is used.", question[0], error)
        return known

    def _begin(self, question: tuple[Any, ...]) -> None:
        try:
            threading.Thread(target=self._look, args=question, name="aios-lookup", daemon=True).start()
        except RuntimeError as exc:  # no more threads
            self._end(question, None, socket.gaierror(socket.EAI_AGAIN, str(exc)))

    def _look(self, *question: Any) -> None:
        found: Found | None = None
        error: Exception | None = None
        try:
            found = socket.getaddrinfo(*question)
        except Exception as exc:
            error = exc
        try:
            self._loop.call_soon_threadsafe(self._end, question, found, error)
        except RuntimeError:
            return  # the loop has ended

    def _end(self, question: tuple[Any, ...], found: Found | None, error: Exception | None) -> None:
        asked = self._asked.pop(question)
        if found:
            self._known.pop(question, None)
            self._known[question] = found
            if len(self._known) > MOST_KNOWN:
                self._known.pop(next(iter(self._known)))
        elif not _away(error):
            self._known.pop(question, None)
        if not asked.done():
            if found:
                asked.set_result(found)
            else:
                asked.set_exception(error or socket.gaierror(socket.EAI_NONAME, "no address"))


def _away(error: BaseException | None) -> bool:
    return isinstance(error, OSError) and (not isinstance(error, socket.gaierror) or error.errno in AWAY)


class WorkerLoop(asyncio.SelectorEventLoop):
    """The event loop of a worker: asyncio's own, whatever policy is set, but for its lookups of hosts."""

    def __init__(self) -> None:
        super().__init__()
        self._lookups = Lookups(self)

    async def getaddrinfo(
        self, host: Any, port: Any, *, family: int = 0, type: int = 0, proto: int = 0, flags: int = 0
    ) -> Any:
        """As asyncio's."""
        return await self._lookups.find(host, port, family, type, proto, flags)
