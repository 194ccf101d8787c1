"""Handles of jobs and plans: they hold an id and the way to the journal, nothing else."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterable, Sequence
from typing import Any

import msgspec

from aios_dist.config import FleetConfig
from aios_dist.errors import (
    FleetUnavailable,
    InvalidInput,
    JobCancelled,
    JobConflict,
    JobFailed,
    JobParked,
    JournalError,
    ResultTimeout,
    UnknownName,
    from_record,
)
from aios_dist.journal import Event, JobView, Journal, PlanView, Ticket
from aios_dist.journal.journal import MOST_LARGE_SIGNALS, MOST_SIGNALS
from aios_dist.journal.reading import outcome_of
from aios_dist.journal.records import random_name
from aios_dist.model import ids
from aios_dist.model.calls import Usage
from aios_dist.model.given import given_json, looked_up, named, one, seconds, short, whole
from aios_dist.model.jobs import JobState, Outcome, Step
from aios_dist.model.specs import Budget, JobSpec, checked_priority
from aios_dist.producer.endings import LOOK_AGAIN_S, Endings
from aios_dist.program import turns, waits
from aios_dist.threads import forks
from aios_dist.threads.errands import CLOSED, users_code
from aios_dist.threads.forks import OfThisProcess


class Lines:
    """What a fleet and its handles share: the way to Redis, which in a forked child is another one.

    Args:
        config: of the fleet.
        publish, extend: what a handle needs of its fleet besides.
    """

    def __init__(
        self,
        config: FleetConfig,
        publish: Callable[[Sequence[Ticket]], Awaitable[None]],
        extend: Callable[[str, Iterable[JobSpec]], Awaitable[list[AsyncJob]]],
    ) -> None:
        self.publish = publish
        self.extend = extend
        self.config = config
        self._closed = False
        self._begin()

    def _begin(self) -> None:
        self._journal = Journal(self.config)
        self._endings = Endings(self._journal)
        self.connection = self._journal.connection

    @property
    def journal(self) -> Journal:
        """Of this process. Raises FleetUnavailable when the fleet has been closed."""
        self._look()
        return self._journal

    @property
    def endings(self) -> Endings:
        """The same."""
        self._look()
        return self._endings

    def _look(self) -> None:
        forks.look()
        if self._closed:
            raise FleetUnavailable(CLOSED)

    def put_aside(self) -> None:
        """In a child: see :class:`aios_dist.threads.forks.Heir`."""
        forks.keep((self._journal, self._endings))
        met = self.connection.met
        self._begin()
        self.connection.met = met

    def closing(self) -> Callable[[], Coroutine[Any, Any, None]]:
        """What closes the way that is open now, whoever still has the fleet."""
        return functools.partial(_close, self._journal, self._endings)

    async def close(self) -> None:
        """Close it for good."""
        self._closed = True
        await self.closing()()


async def _close(journal: Journal, endings: Endings) -> None:
    await endings.close()
    await journal.close()


class AsyncJob(OfThisProcess):
    """A handle: holds nothing but the id."""

    _instead = "send its id, and take fleet.job(id) there"

    def __init__(self, lines: Lines, id: str) -> None:
        self._lines = lines
        self.id = looked_up("Job id", id)

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

    async def result(self, timeout: float = waits.RESULT_TIMEOUT_S) -> Any:
        """What the agent returned, when it has.

        Args:
            timeout: seconds to wait, in all; with 0 the job is looked at once.

        Raises:
            JobFailed: the agent raised; ``.error`` is what.
            JobCancelled: the job was cancelled.
            JobParked: its agent's code has changed, or that of a job which it waits for in its plan: that
                is paused until there is code that fits.
            ResultTimeout: it has not ended in time; it goes on.
            JournalError: what Redis holds of it cannot be read.
        """
        timeout = seconds("timeout", timeout)
        waits.check("result()", self._lines.config, timeout)
        endings, look = self._lines.endings, functools.partial(self._lines.journal.standing, self.id)
        clock = asyncio.get_running_loop().time
        deadline = clock() + timeout
        job = await endings.by(deadline, look)
        while not job.over:  # once, as a rule; somebody may retry the job as it ends
            if clock() >= deadline:
                raise ResultTimeout(f"Job {self.id!r} has not ended within {timeout:g} s; it goes on.")
            await endings.wait(self.id, deadline)
            job = await endings.by(deadline, look)
        if job.parked:
            raise JobParked.of(job.who, job.parked, job.code, self.id, over_limit=job.over_limit)
        if job.state is JobState.CANCELLED:
            raise JobCancelled(f"Job {self.id!r} was cancelled.")
        outcome = outcome_of(self.id, job.result)
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
        return await self._became(_Cancel(self._lines.journal, self.id)) == "cancelled"

    async def pause(self) -> bool:
        """Stop the job where it is: its waiting steps wait on, calls in flight end and are kept.

        Returns:
            True when it is paused now.

        Raises:
            UnknownName: no such job.
        """
        said = await self._lines.endings.ask(functools.partial(self._lines.journal.pause, self.id))
        return self._known(said) == "paused"

    async def resume(self, budget: Budget | None = None, *, from_step: int | None = None) -> bool:
        """Let a paused job go on, with a new budget where one is given.

        Args:
            budget: what it may cost in all.
            from_step: the steps from this one on are forgotten, and asked for anew by the code that its agent
                has now; what came before is reused. What they cost has counted, and stays in the journal.

        Returns:
            True when it runs now.

        Raises:
            UnknownName: no such job.
            InvalidInput: not a budget; there is no such step, or one from there on is being called.
        """
        if budget is not None:
            one("resume() takes", budget, Budget)
        if from_step is None:
            say = functools.partial(self._lines.journal.resume, self.id, budget)
            return await self._became(say) == "running"
        if type(from_step) is not int:
            raise InvalidInput(f"A job is resumed from the number of a step, not from {short(from_step)}.")
        status = "beyond"
        if 0 <= from_step < 2**31:
            salt = random_name()  # asked again, it is found: what came since is not forgotten
            say = functools.partial(self._lines.journal.rewind, self.id, from_step, budget, salt)
            status = await self._became(say)
        if status == "beyond":
            raise InvalidInput(f"Job {self.id!r} has no step {short(from_step)} to be resumed from.")
        if status == "busy":
            raise InvalidInput(
                f"A step of job {self.id!r} from {from_step} on is being called, and its answer is paid for: "
                "wait until it is there (aios-dist job show), then resume."
            )
        return status == "running"

    async def rerank(self, *, priority: int) -> bool:
        """Give the job another priority, also while its steps wait.

        It counts on lanes whose policy looks at priorities; under others it is only kept.

        Returns:
            False when the job has ended.

        Raises:
            UnknownName: no such job.
            InvalidInput: not a whole number from 0 to 9.
        """
        say = functools.partial(self._lines.journal.rerank, self.id, checked_priority(priority))
        state, _ = await self._lines.endings.ask(say)
        return not JobState(self._known(state)).ended

    async def signal(self, name: str, value: Any = None, *, id: str | None = None) -> bool:
        """Send what the job waits for with ``await signal(name)``, or will wait for.

        Args:
            name: of the signal.
            value: a JSON value, of ``input_limit`` bytes at the most.
            id: of this sending; sent again under the same one it is the same signal, not an answer more. One
                that is made up stands in the message of FleetUnavailable.

        Returns:
            False when the job has ended.

        Raises:
            UnknownName: no such job.
            InvalidInput: the value is not JSON or too large, the name or id cannot be one, or the job keeps
                too many signals that it has not waited for.
        """
        named("Signal name", name)
        sending = random_name() if id is None else named("Signal id", id)
        journal = self._lines.journal
        outcome = Outcome(value=given_json(value, f"value of signal {name!r}"))
        size, limit = len(msgspec.json.encode(outcome.value)), journal.config.input_limit
        if size > limit:
            raise InvalidInput(
                f"The value of signal {name!r} has {size:,} bytes, more than input_limit ({limit:,}); "
                "send a reference to it."
            )
        sent = functools.partial(journal.signal, self.id, name, outcome, sending)
        try:
            status = await self._became(sent)
        except (FleetUnavailable, JournalError) as exc:
            exc.args = (f"{exc} The signal may have come all the same: under id={sending!r} it is the same.",)
            raise
        if status == "full":
            raise InvalidInput(
                f"Job {self.id!r} has as many signals unwaited for as it may ({MOST_SIGNALS:,}, "
                f"or {MOST_LARGE_SIGNALS} times input_limit): it takes {name!r} when it has waited for some."
            )
        return status != "ended"

    async def retry(self) -> bool:
        """A job that failed or was cancelled goes on from where it failed; what is answered stays answered.

        Run again, once, are the steps whose failure its program has not gone on from. A deadline counts anew.

        Returns:
            True when it runs now.

        Raises:
            UnknownName: no such job.
        """
        journal, status = self._lines.journal, "stale"
        while status == "stale":
            history = await self._lines.endings.ask(functools.partial(journal.load, self.id))
            undone = None
            if history.view.state.ended:
                undone = await users_code(functools.partial(turns.undone, history))
            status = await self._became(_Retry(journal, self.id, history.basis, undone))
        return status == "running"

    async def fork(self, step: int, id: str | None = None) -> AsyncJob:
        """A new job with this one's history before ``step``: what came before is reused, not paid again.

        Args:
            step: the first step that is done anew.
            id: the new job's id; one is made up when None.

        Raises:
            UnknownName: no such job.
            JobConflict: the id is taken.
            InvalidInput: this job has no such step.
            FleetUnavailable: Redis is away; ``.ids`` holds the new job's id where it may be there.
        """
        new = ids.of_fork(self.id) if id is None else named("Job id", id)
        if type(step) is not int:
            raise InvalidInput(f"A job is forked at the number of one of its steps, not at {short(step)}.")
        status = "beyond"
        if 0 <= step < 2**31:
            say = functools.partial(self._lines.journal.fork, self.id, new, step)
            try:
                status = await self._became(say)
            except (FleetUnavailable, JournalError) as exc:
                exc.broke_off([new])
                raise
        if status == "conflict":
            raise JobConflict(f"Job id {new!r} is taken; choose another id.")
        if status == "beyond":
            raise InvalidInput(f"Job {self.id!r} has no step {short(step)}: fork it at one of its steps.")
        return AsyncJob(self._lines, new)

    async def _became(self, verb: Callable[[], Awaitable[tuple[str, list[Ticket]]]]) -> str:
        """What a verb has made of the job; its tickets are published."""
        status, tickets = await self._lines.endings.ask(verb)
        await self._lines.publish(tickets)
        return self._known(status)

    def _known(self, status: str) -> str:
        if status == "unknown":
            raise UnknownName(f"There is no job {self.id!r}.")
        return status

    async def events(self, after: int = -1, timeout: float = waits.RESULT_TIMEOUT_S) -> AsyncIterator[Event]:
        """What happens to the job, from the event after number ``after``, until it has ended.

        Args:
            after: a number of an event; -1 for all.
            timeout: seconds, in all.

        Raises:
            UnknownName: no such job.
            ResultTimeout: the job has not ended in time.
        """
        from redis.exceptions import RedisError

        from aios_dist.journal.connection import line_errors, open_client, passes, unavailable

        journal, endings = self._lines.journal, self._lines.endings
        after, timeout = whole("after", after, least=-1), seconds("timeout", timeout)
        waits.check("events()", self._lines.config, timeout)
        clock = asyncio.get_running_loop().time
        deadline = clock() + timeout
        look = functools.partial(journal.state, self.id)
        still_here = forks.begun()
        client = open_client(journal.config.redis_url)
        try:
            while True:
                # Where the line broke, a new one: events are numbered, so none is missed.
                await endings.by(deadline, look)
                try:
                    async with client.pubsub(ignore_subscribe_messages=True) as news:
                        subscribe = functools.partial(news.subscribe, journal.keys.events(self.id))
                        with line_errors():
                            await endings.by(deadline, subscribe)
                        while True:
                            state, _ = await endings.by(deadline, look)
                            for event in await endings.by(
                                deadline, functools.partial(journal.events, self.id, after)
                            ):
                                after = event.index
                                yield event
                                still_here()
                            if state.ended:
                                return
                            rest = deadline - clock()
                            if rest <= 0:
                                raise ResultTimeout(f"Job {self.id!r} has not ended within {timeout:g} s.")
                            with line_errors():
                                await endings.news(news.get_message(timeout=min(rest, LOOK_AGAIN_S)))
                except RedisError as exc:
                    if not passes(exc):
                        raise unavailable(exc, journal.config.redis_url) from None
        finally:
            await client.aclose()


class _Cancel:
    """A cancelling that may be asked for again: whether the job had ended before stays true."""

    def __init__(self, journal: Journal, id: str) -> None:
        self._journal = journal
        self._id = id
        self._open = False

    async def __call__(self) -> tuple[str, list[Ticket]]:
        before = self._open  # the one before, whose answer was lost, has met it so
        if not before:
            (state,) = await self._journal.states([self._id])
            self._open = state is not None and not state.ended
        status, tickets = await self._journal.cancel(self._id)
        if status == "ended" and before:
            (state,) = await self._journal.states([self._id])
            status = "cancelled" if state is JobState.CANCELLED else status
        return status, tickets


class _Retry:
    """A retry that may be asked for again: a job that fails at once is not retried twice."""

    def __init__(self, journal: Journal, id: str, basis: str, undone: list[int] | None) -> None:
        self._journal = journal
        self._id = id
        self._basis = basis
        self._undone = undone
        self._salt = random_name()
        self._asked = False

    async def __call__(self) -> tuple[str, list[Ticket]]:
        if self._asked:
            history = await self._journal.load(self._id)
            if history.retried_with(self._salt):  # the answer was lost
                return history.view.state.value, []
        self._asked = True
        return await self._journal.retry(self._id, basis=self._basis, undone=self._undone, salt=self._salt)


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
