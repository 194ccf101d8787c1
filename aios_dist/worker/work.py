"""One claimed step on this worker: from the claim until it is written or given back."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Any, NamedTuple

from aios_dist.journal import Claim

if TYPE_CHECKING:
    from aios_dist.worker.rows import End
    from aios_dist.worker.threads import Run


class Stopped(Exception):
    """The worker lets go of a step, because *we* want it to: its job has ended, or the worker ends.

    No ``CancelledError`` stands for it, since users' code and SDKs raise those too.
    """

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class Changed(Exception):
    """The job's program does not repeat what its journal holds: it is not to be gone on with."""


class Origin(NamedTuple):
    """The Celery task that we run in: what it publishes is its child in Flower."""

    ticket: str | None = None
    root: str | None = None


class Next(NamedTuple):
    """A step that was claimed with the commit of another.

    Attributes:
        lane: where it was.
        asked: when the claim was sent, on the monotonic clock.
        root, parent: of the Celery task that its ticket would have been.
    """

    claim: Claim
    lane: str
    asked: float
    root: str | None = None
    parent: str | None = None


class Work:
    """What is done for one claim. Whoever waits for something on its behalf waits by :meth:`wait`.

    Attributes:
        asked: when the claim was sent, on the monotonic clock.
        end: what this try came to, where that is not what it says of itself.
        next: what its slot goes on with.
        hung: its tool, which was given up and may still run: the slot is not free until it ends.
    """

    __slots__ = ("_stop", "asked", "claim", "end", "hung", "next", "origin")

    def __init__(self, claim: Claim, origin: Origin, asked: float | None = None) -> None:
        self.claim = claim
        self.asked = time.monotonic() if asked is None else asked
        self.origin = origin
        self.end: End | None = None
        self.hung: Run | None = None
        self.next: Next | None = None
        self._stop: asyncio.Future[str] = asyncio.get_running_loop().create_future()

    def now(self) -> float:
        """Seconds since the epoch, on Redis' clock as it was at the claim."""
        return round(self.claim.started_us / 1e6 + time.monotonic() - self.asked, 6)

    @property
    def stopped(self) -> str:
        """Why it is to stop, or ""."""
        return self._stop.result() if self._stop.done() else ""

    def cancel(self, msg: Any | None = None) -> bool:
        """Stop, for a reason: a call or a tool ends and its step goes back; an answer that is there stays."""
        if self._stop.done():
            return False
        self._stop.set_result(str(msg or "stopped"))
        return True

    def check(self) -> None:
        """Go on.

        Raises:
            Stopped: it is not to.
        """
        if self.stopped:
            raise Stopped(self.stopped)

    async def wait(self, future: asyncio.Future[Any], limit: float | None = None) -> None:
        """Until the future is done, the work is to stop, or so many seconds are over; look which."""
        if not future.done():
            await asyncio.wait({future, self._stop}, timeout=limit, return_when=asyncio.FIRST_COMPLETED)
