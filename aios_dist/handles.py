"""Handles of jobs and plans: they hold an id and the way to the journal, nothing else."""

from __future__ import annotations

import asyncio
import functools
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec
from redis.exceptions import RedisError

from aios_dist import turns
from aios_dist.agents import Budget, JobSpec, as_json, checked_priority
from aios_dist.calls import Usage
from aios_dist.config import NAME
from aios_dist.endings import LOOK_AGAIN_S, Endings
from aios_dist.errors import (
    InvalidInput,
    JobCancelled,
    JobConflict,
    JobFailed,
    ResultTimeout,
    UnknownName,
    from_record,
)
from aios_dist.forks import OfThisProcess
from aios_dist.jobs import JobState, Outcome, Step, decode
from aios_dist.journal import Event, JobView, Journal, PlanView, Ticket
from aios_dist.journal.connection import open_client, passes, unavailable
from aios_dist.journal.journal import MOST_SIGNALS
from aios_dist.journal.records import random_name

RESULT_TIMEOUT_S = 3600.0
"""What ``result()`` waits when not told otherwise: every wait has an end."""


@dataclass
class Lines:
    """What a handle needs of its fleet; a fork changes it in the child."""

    journal: Journal
    endings: Endings
    publish: Callable[[Sequence[Ticket]], Awaitable[None]]
    extend: Callable[[str, Iterable[JobSpec]], Awaitable[list[AsyncJob]]]


class AsyncJob(OfThisProcess):
    """A handle: holds nothing but the id."""

    _instead = "send its id, and take fleet.job(id) there"

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
        """``waiting``, ``running``, ``paused``, ``done``, ``failed`` or ``cancelled``."""
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
        endings, look = self._lines.endings, functools.partial(self._lines.journal.state, self.id)
        clock = asyncio.get_running_loop().time
        deadline = clock() + timeout
        state, result = await endings.ask(look)
        while not state.ended:  # once, as a rule; somebody may retry the job as it ends
            await endings.wait(self.id, max(0.0, deadline - clock()))
            state, result = await endings.ask(look)
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

    async def pause(self) -> bool:
        """Stop the job where it is: its waiting steps wait on, calls in flight end and are kept.

        Returns:
            True when it is paused now.

        Raises:
            UnknownName: no such job.
        """
        return self._known(await self._lines.journal.pause(self.id)) == "paused"

    async def resume(self, budget: Budget | None = None) -> bool:
        """Let a paused job go on, with a new budget where one is given.

        Returns:
            True when it runs now.

        Raises:
            UnknownName: no such job.
        """
        status, tickets = await self._lines.journal.resume(self.id, budget)
        await self._lines.publish(tickets)
        return self._known(status) == "running"

    async def rerank(self, *, priority: int) -> bool:
        """Give the job another priority, also while its steps wait.

        It counts on lanes whose policy looks at priorities; under others it is only kept.

        Returns:
            False when the job has ended.

        Raises:
            UnknownName: no such job.
            InvalidInput: not a whole number from 0 to 9.
        """
        state, _ = await self._lines.journal.rerank(self.id, checked_priority(priority))
        return not JobState(self._known(state)).ended

    async def signal(self, name: str, value: Any = None, *, id: str | None = None) -> bool:
        """Send what the job waits for with ``await signal(name)``, or will wait for.

        Args:
            name: of the signal.
            value: a JSON value, of ``prompt_limit`` bytes at the most.
            id: of this sending; sent again under the same one it is the same signal, not an answer more.

        Returns:
            False when the job has ended.

        Raises:
            UnknownName: no such job.
            InvalidInput: the value is not JSON or too large, the name or id cannot be one, or the job keeps
                too many signals of the name that it has not waited for.
        """
        for what, given in (("Signal name", name), ("Signal id", id)):
            if given is not None and not (isinstance(given, str) and NAME.fullmatch(given)):
                raise InvalidInput(f"{what} {given!r} must be letters, digits and . _ : - (at most 128).")
        journal = self._lines.journal
        outcome = Outcome(value=as_json(value, f"value of signal {name!r}"))
        size, limit = len(msgspec.json.encode(outcome.value)), journal.config.prompt_limit
        if size > limit:
            raise InvalidInput(
                f"The value of signal {name!r} has {size:,} bytes, more than prompt_limit ({limit:,}); "
                "send a reference to it."
            )
        sent = functools.partial(journal.signal, self.id, name, outcome, id or random_name())
        status, tickets = await self._lines.endings.ask(sent)
        await self._lines.publish(tickets)
        if status == "full":
            raise InvalidInput(
                f"Job {self.id!r} keeps {MOST_SIGNALS:,} signals {name!r} that it has not waited for: "
                "it takes no more of them."
            )
        return self._known(status) != "ended"

    async def retry(self) -> bool:
        """A job that failed or was cancelled goes on from where it failed; what is answered stays answered.

        Run again, once, are the steps whose failure its program has not gone on from. A deadline counts anew.

        Returns:
            True when it runs now.

        Raises:
            UnknownName: no such job.
        """
        journal = self._lines.journal
        status, tickets = "stale", list[Ticket]()
        while status == "stale":
            history = await journal.load(self.id)
            undone = None
            if history.view.state.ended:  # in a thread: an agent's program is users' code
                undone = await asyncio.to_thread(turns.undone, history)
            status, tickets = await journal.retry(self.id, basis=history.basis, undone=undone)
        await self._lines.publish(tickets)
        return self._known(status) == "running"

    async def fork(self, step: int, id: str | None = None) -> AsyncJob:
        """A new job with this one's history before ``step``: what came before is reused, not paid again.

        Args:
            step: the first step that is done anew.
            id: the new job's id; one is made up when None.

        Raises:
            UnknownName: no such job.
            JobConflict: the id is taken.
            InvalidInput: this job has no such step.
        """
        new = id or f"{self.id}-fork-{uuid.uuid4().hex[:8]}"
        if not NAME.fullmatch(new):
            raise InvalidInput(f"Job id {new!r} must be letters, digits and . _ : - (at most 128).")
        status, tickets = ("beyond", []) if step < 0 else await self._lines.journal.fork(self.id, new, step)
        if self._known(status) == "conflict":
            raise JobConflict(f"Job id {new!r} is taken; choose another id.")
        if status == "beyond":
            raise InvalidInput(f"Job {self.id!r} has no step {step}: fork it at one of its steps.")
        await self._lines.publish(tickets)
        return AsyncJob(self._lines, new)

    def _known(self, status: str) -> str:
        if status == "unknown":
            raise UnknownName(f"There is no job {self.id!r}.")
        return status

    async def events(self, after: int = -1, timeout: float = RESULT_TIMEOUT_S) -> AsyncIterator[Event]:
        """What happens to the job, from the event after number ``after``, until it has ended.

        Raises:
            UnknownName: no such job.
            ResultTimeout: the job has not ended in time.
        """
        journal, ask = self._lines.journal, self._lines.endings.ask
        look = functools.partial(journal.state, self.id)
        deadline = asyncio.get_running_loop().time() + timeout
        client = open_client(journal.config.redis_url)
        try:
            while True:
                await ask(look)  # where the line broke, a new one: events are numbered, so none is missed
                try:
                    async with client.pubsub(ignore_subscribe_messages=True) as news:
                        await news.subscribe(journal.keys.events(self.id))
                        while True:
                            state, _ = await ask(look)
                            for event in await ask(functools.partial(journal.events, self.id, after)):
                                after = event.index
                                yield event
                            if state.ended:
                                return
                            rest = deadline - asyncio.get_running_loop().time()
                            if rest <= 0:
                                raise ResultTimeout(f"Job {self.id!r} has not ended within {timeout:g} s.")
                            await news.get_message(timeout=min(rest, LOOK_AGAIN_S))
                except RedisError as exc:
                    if not passes(exc):
                        raise unavailable(exc, journal.config.redis_url) from None
        finally:
            await client.aclose()


class AsyncPlan(OfThisProcess, list[AsyncJob]):
    """The jobs of a plan, in the order in which they are written down, and the plan's id."""

    _instead = "send the ids of the plan and its jobs, and take fleet.job(id) there"

    def __init__(self, lines: Lines, id: str, jobs: Iterable[AsyncJob]) -> None:
        super().__init__(jobs)
        self._lines = lines
        self.id = id

    async def state(self) -> str:
        """``running``, ``done`` or ``failed``."""
        return (await self.view()).state

    async def view(self) -> PlanView:
        """The plan as it stands: its state, and how far it is.

        Raises:
            UnknownName: no such plan (any more).
        """
        return await self._lines.journal.plan(self.id)

    async def extend_with(self, specs: Iterable[JobSpec]) -> list[AsyncJob]:
        """Add jobs at the tail; see :meth:`aios_dist.AsyncFleet.extend_plan`."""
        added = await self._lines.extend(self.id, specs)
        self.extend(added)
        return added
