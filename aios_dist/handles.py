"""Handles of jobs and plans: they hold an id and the way to the journal, nothing else."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from redis.exceptions import RedisError

from aios_dist.agents import JobSpec
from aios_dist.calls import Usage
from aios_dist.endings import LOOK_AGAIN_S, Endings
from aios_dist.errors import JobCancelled, JobFailed, ResultTimeout, UnknownName, from_record
from aios_dist.jobs import JobState, Outcome, Step, decode
from aios_dist.journal import Event, JobView, Journal, Ticket
from aios_dist.journal.connection import open_client, unavailable

RESULT_TIMEOUT_S = 3600.0
"""What ``result()`` waits when not told otherwise: every wait has an end."""


@dataclass(frozen=True)
class Lines:
    """What a handle needs of its fleet."""

    journal: Journal
    endings: Endings
    publish: Callable[[Sequence[Ticket]], Awaitable[None]]
    extend: Callable[[str, Iterable[JobSpec]], Awaitable[list[AsyncJob]]]


class AsyncJob:
    """A handle: holds nothing but the id."""

    def __init__(self, lines: Lines, id: str) -> None:
        self._lines = lines
        self.id = id

    def __repr__(self) -> str:
        return f"<job {self.id}>"

    async def view(self) -> JobView:
        """The job as it stands.

        Raises:
            UnknownName: no such job.
        """
        view = (await self._lines.journal.views([self.id]))[0]
        if view is None:
            raise UnknownName(f"There is no job {self.id!r}.")
        return view

    async def status(self) -> JobState:
        """``waiting``, ``running``, ``done``, ``failed`` or ``cancelled``."""
        return (await self._lines.journal.state(self.id))[0]

    async def result(self, timeout: float = RESULT_TIMEOUT_S) -> Any:
        """What the agent returned, when it has.

        Args:
            timeout: seconds to wait.

        Raises:
            JobFailed: the agent raised; ``.error`` is what.
            JobCancelled: the job was cancelled.
            ResultTimeout: it has not ended in time; it goes on.
        """
        state, result = await self._lines.journal.state(self.id)
        if not state.ended:
            await self._lines.endings.wait(self.id, timeout)
            state, result = await self._lines.journal.state(self.id)
        if state is JobState.CANCELLED:
            raise JobCancelled(f"Job {self.id!r} was cancelled.")
        outcome = decode(result, Outcome)
        if outcome.error is not None:
            raise JobFailed(self.id, from_record(outcome.error))
        return outcome.value

    async def steps(self) -> list[Step]:
        """Every step with request, outcome, usage and times."""
        return (await self._lines.journal.load(self.id)).steps

    async def usage(self) -> Usage:
        """Tokens that the job has cost so far."""
        return (await self.view()).usage

    async def cancel(self) -> bool:
        """End the job now: waiting steps are dropped, calls in flight are stopped.

        Returns:
            False when the job had ended before.

        Raises:
            UnknownName: no such job.
        """
        status, tickets = await self._lines.journal.cancel(self.id)
        if status == "unknown":
            raise UnknownName(f"There is no job {self.id!r}.")
        await self._lines.publish(tickets)
        return status == "cancelled"

    async def events(self, after: int = -1, timeout: float = RESULT_TIMEOUT_S) -> AsyncIterator[Event]:
        """What happens to the job, from the event after number ``after``, until it has ended.

        Raises:
            UnknownName: no such job.
            ResultTimeout: the job has not ended in time.
        """
        journal = self._lines.journal
        deadline = asyncio.get_running_loop().time() + timeout
        client = open_client(journal.config.redis_url)
        try:
            async with client.pubsub(ignore_subscribe_messages=True) as news:
                await news.subscribe(journal.keys.events(self.id))
                while True:
                    state, _ = await journal.state(self.id)
                    for event in await journal.events(self.id, after):
                        after = event.index
                        yield event
                    if state.ended:
                        return
                    rest = deadline - asyncio.get_running_loop().time()
                    if rest <= 0:
                        raise ResultTimeout(f"Job {self.id!r} has not ended within {timeout:g} s.")
                    await news.get_message(timeout=min(rest, LOOK_AGAIN_S))
        except RedisError as exc:
            raise unavailable(exc, journal.config.redis_url) from None
        finally:
            await client.aclose()


class AsyncPlan(list[AsyncJob]):
    """The jobs of a plan, in the order in which they are written down, and the plan's id."""

    def __init__(self, lines: Lines, id: str, jobs: Iterable[AsyncJob]) -> None:
        super().__init__(jobs)
        self._lines = lines
        self.id = id

    async def state(self) -> str:
        """``running``, ``done`` or ``failed``."""
        return (await self._lines.journal.plan(self.id)).state

    async def extend_with(self, specs: Iterable[JobSpec]) -> list[AsyncJob]:
        """Add jobs at the tail; see :meth:`aios_dist.AsyncFleet.extend_plan`."""
        added = await self._lines.extend(self.id, specs)
        self.extend(added)
        return added
