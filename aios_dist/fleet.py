"""What producers hold: a fleet and handles of its jobs. :mod:`aios_dist.sync` is the same without asyncio."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import os
import uuid
from collections import defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from typing import Any, TypeVar

import msgspec
from redis.exceptions import RedisError

from aios_dist import modules, turns
from aios_dist.agents import Agent, JobSpec, PromptsAgent, as_json
from aios_dist.broker import Tickets, depth_commands
from aios_dist.calls import Usage
from aios_dist.config import NAME, Config, load
from aios_dist.errors import (
    FleetUnavailable,
    InvalidInput,
    JobCancelled,
    JobConflict,
    JobFailed,
    ResultTimeout,
    UnknownName,
    from_record,
)
from aios_dist.jobs import JobRecord, JobState, Outcome, Step, decode
from aios_dist.journal import Event, JobView, Journal, NewJob, Registry, Ticket
from aios_dist.journal.connection import open_client, unavailable
from aios_dist.plans import Plan, shape

T = TypeVar("T")

RESULT_TIMEOUT_S = 3600.0
"""What ``result()`` waits when not told otherwise: every wait has an end."""

PATIENCE_S = 30.0
"""How long a submission waits for a Redis that was there before and is away: a restart, a failover."""

CHUNK = 200
"""Jobs in one round trip of a bulk submission."""

LOOK_AGAIN_S = 15.0
"""Waiting callers' jobs are looked at again after this long without any news: belt and braces."""


class LaneView(msgspec.Struct, frozen=True):
    """A lane as it stands: waiting steps, tickets in its queue, slots and workers that serve it."""

    name: str
    ready: int
    tickets: int
    slots: int
    workers: int


class AsyncFleet:
    """A fleet, from the producers' side. Use it as ``async with AsyncFleet.from_env() as fleet``."""

    def __init__(self, config: Config) -> None:
        self.config = config
        self.journal = Journal(config.fleet)
        self._tickets = Tickets(config)
        self._catalog: turns.Catalog | None = None
        self._agents: set[str] = set()
        self._waiting: defaultdict[str, list[asyncio.Future[None]]] = defaultdict(list)
        self._watcher: asyncio.Task[None] | None = None
        self._watching = asyncio.Event()

    @classmethod
    def from_env(cls, path: str | os.PathLike[str] | None = None) -> AsyncFleet:
        """The fleet of ``aios.toml`` (or ``AIOS_CONFIG``) and ``AIOS_REDIS_URL``.

        Raises:
            ConfigError: a setting is missing, misspelt or out of range.
        """
        return cls(load(path))

    async def __aenter__(self) -> AsyncFleet:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Close the connections. Jobs go on."""
        if self._watcher is not None:
            self._watcher.cancel()
            await asyncio.gather(self._watcher, return_exceptions=True)
        await self.journal.close()

    # Submitting ----------------------------------------------------------------------------------------

    async def submit(
        self,
        agent: Agent | PromptsAgent | JobSpec | str,
        /,
        *,
        id: str | None = None,
        tenant: str = "default",
        **input: Any,
    ) -> AsyncJob:
        """Submit one job and return at once.

        Args:
            agent: an agent, a job made with ``agent.job(…)``, or the name of an agent that workers have.
            id: the job's id; the same id twice is the same job.
            tenant: on whose behalf it runs.
            input: the agent's arguments.

        Raises:
            InvalidInput, UnknownName, JobConflict: nothing was written.
            FleetUnavailable: Redis cannot be reached, or may evict keys.
        """
        spec = agent if isinstance(agent, JobSpec) else await self._spec(agent, id, tenant, input)
        return (await self.submit_many([spec]))[0]

    async def submit_many(self, specs: Iterable[JobSpec]) -> list[AsyncJob]:
        """Submit many jobs that have no order between them, a few hundred a round trip.

        Raises:
            InvalidInput, UnknownName: nothing was written.
            JobConflict: an id is taken by another job; jobs before it are submitted.
        """
        wanted = list(specs)
        ids = self._ids(wanted)
        await self._ready(wanted)
        for at in range(0, len(wanted), CHUNK):
            part = await self._new_jobs(wanted[at : at + CHUNK], ids[at : at + CHUNK])
            lanes = [(job, n, lane) for job in part for n, lane in enumerate(_lanes(job))]
            then = self._tickets.commands(Ticket(lane, job.id, str(n)) for job, n, lane in lanes)
            done = await self._patiently(functools.partial(self.journal.submit, part, then=then))
            if done.status == "conflict":
                raise _conflict(done.conflict)
        return [AsyncJob(self, id) for id in ids]

    async def submit_plan(self, plan: Plan, id: str | None = None) -> AsyncPlan:
        """Submit jobs with an order between them, all or none.

        Args:
            plan: made by ``fifo``, ``fixed`` or ``hybrid``.
            id: the plan's id; the same id with the same jobs twice is the same plan.

        Returns:
            The plan's jobs, in the order in which they are written down.

        Raises:
            InvalidInput, UnknownName, JobConflict: nothing was written.
        """
        specs = list(plan.jobs())
        name = id or f"plan-{uuid.uuid4().hex[:12]}"
        if not NAME.fullmatch(name):
            raise InvalidInput(f"Plan id {name!r} must be letters, digits and . _ : - (at most 128).")
        ids = self._ids(specs, within=name if id else None)
        layout, nodes = shape(plan, name, ids)
        await self._ready(specs)
        jobs = [
            msgspec.structs.replace(job, node=node)
            for job, node in zip(await self._new_jobs(specs, ids), nodes, strict=True)
        ]
        done = await self._patiently(functools.partial(self.journal.submit, jobs, layout))
        if done.status == "conflict":
            raise _conflict(done.conflict)
        await self._publish(done.tickets)
        return AsyncPlan(self, name, [AsyncJob(self, id) for id in ids])

    async def extend_plan(self, plan: str, specs: Iterable[JobSpec]) -> list[AsyncJob]:
        """Add jobs at the tail of a plan, also while it runs.

        Raises:
            UnknownName: no such plan.
            InvalidInput: the plan has stopped after a failure.
            JobConflict: an id is taken; nothing was written.
        """
        wanted = list(specs)
        ids = self._ids(wanted)
        if len(set(ids)) < len(ids):
            raise InvalidInput("The same job id comes twice; ids are unique.")
        await self._ready(wanted)
        done = await self.journal.extend(plan, await self._new_jobs(wanted, ids))
        if done.status == "unknown":
            raise UnknownName(f"There is no plan {plan!r}.")
        if done.status == "stopped":
            raise InvalidInput(f"Plan {plan!r} has stopped after a failure and takes no more jobs.")
        if done.status == "conflict":
            raise _conflict(done.conflict)
        await self._publish(done.tickets)
        return [AsyncJob(self, id) for id in ids]

    async def _spec(
        self, agent: Agent | PromptsAgent | str, id: str | None, tenant: str, input: Any
    ) -> JobSpec:
        if isinstance(agent, str):
            known = modules.agent(self.config, agent)
            if known is None:
                given = as_json(input, f"input of agent {agent!r}")
                return JobSpec(agent=agent, input=given, id=id, tenant=tenant)
            agent = known
        if not isinstance(agent, (Agent, PromptsAgent)):
            raise InvalidInput(
                f"submit() takes an @agent, a job or an agent's name, not {type(agent).__name__}."
            )
        return agent.job(id=id, tenant=tenant, **input)

    def _ids(self, specs: Sequence[JobSpec], within: str | None = None) -> list[str]:
        ids = []
        for place, spec in enumerate(specs):
            id = spec.id or (f"{within}.{place}" if within else f"{spec.agent}-{uuid.uuid4().hex[:12]}")
            for what, name in (("Job id", id), ("Tenant", spec.tenant)):
                if not NAME.fullmatch(name):
                    raise InvalidInput(f"{what} {name!r} must be letters, digits and . _ : - (at most 128).")
            ids.append(id)
        return ids

    async def _ready(self, specs: Sequence[JobSpec]) -> None:
        """First use: Redis is fit for use, and what workers have registered is known."""
        if self._catalog is None:
            await self.journal.check()
            await self._learn()
        unknown = {s.agent for s in specs if s.program is None} - self._agents
        if unknown:
            await self._learn()
        for name in sorted(unknown - self._agents):
            known = ", ".join(sorted(self._agents)) or "none"
            raise UnknownName(
                f"No agent {name!r}: neither this process nor any worker has its code "
                f"(workers have: {known}). Import its module here, or add it to [fleet] modules of the "
                "workers."
            )

    async def _learn(self) -> None:
        registry = await self.journal.registry()
        self._catalog = turns.Catalog.of(self.config, registry.models)
        self._agents = set(registry.agents)

    async def _new_jobs(self, specs: Sequence[JobSpec], ids: Sequence[str]) -> list[NewJob]:
        """Turn 0 of each job. Raises what is wrong with the first requests, before anything is written."""
        try:
            return [self._new_job(spec, id) for spec, id in zip(specs, ids, strict=True)]
        except UnknownName:
            await self._learn()  # a model that a worker has registered since
            return [self._new_job(spec, id) for spec, id in zip(specs, ids, strict=True)]

    def _new_job(self, spec: JobSpec, id: str) -> NewJob:
        assert self._catalog is not None
        record = JobRecord(agent=spec.agent, input=spec.input, tenant=spec.tenant, prompts=spec.prompts)
        size, limit = len(msgspec.json.encode(record)), self.config.fleet.prompt_limit
        if size > limit:
            raise InvalidInput(
                f"The input of job {id!r} has {size:,} bytes, more than prompt_limit ({limit:,}); "
                "shorten it, or raise prompt_limit in [fleet]."
            )
        if spec.program is None:
            return NewJob(id, record)
        replay = turns.start(spec.program, self._catalog)
        decision = turns.decide(replay, record, self._catalog, first=0)
        replay.close()
        return NewJob(id, record, decision)

    async def _patiently(self, write: Callable[[], Awaitable[T]]) -> T:
        """A verb that is safe to repeat, while Redis restarts or fails over.

        Raises:
            FleetUnavailable: it was away for longer than ``PATIENCE_S``.
        """
        deadline = asyncio.get_running_loop().time() + PATIENCE_S
        while True:
            try:
                return await write()
            except FleetUnavailable:
                if asyncio.get_running_loop().time() > deadline:
                    raise
            await asyncio.sleep(0.25)

    async def _publish(self, tickets: Sequence[Ticket]) -> None:
        send = self.journal.connection.command
        await asyncio.gather(*(send(*c) for c in self._tickets.commands(tickets)))

    # Looking -------------------------------------------------------------------------------------------

    def job(self, id: str) -> AsyncJob:
        """The handle of a job, whoever submitted it."""
        return AsyncJob(self, id)

    async def jobs(self, limit: int = 100, *, ended: bool | None = None) -> list[JobView]:
        """Jobs, newest first; open ones, ended ones, or (None) both."""
        return await self.journal.list_jobs(limit, ended=ended)

    async def registry(self) -> Registry:
        """Workers, models and agents, as the workers said."""
        return await self.journal.registry()

    async def lanes(self) -> list[LaneView]:
        """Every lane with its waiting steps, tickets, slots and workers."""
        registry = await self.journal.registry()
        names = sorted({*self.config.lane_names(), *(lane for w in registry.workers for lane in w.lanes)})
        counts = await self.journal.counts(names)
        send = self.journal.connection.command
        depths = await asyncio.gather(*(send(*c) for c in depth_commands(self.config, names)))
        return [
            LaneView(
                name=name,
                ready=counts[f"ready:{name}"],
                tickets=depth,
                slots=sum(w.slots for w in registry.workers if name in w.lanes),
                workers=sum(name in w.lanes for w in registry.workers),
            )
            for name, depth in zip(names, depths, strict=True)
        ]

    # Waiting -------------------------------------------------------------------------------------------

    async def as_completed(
        self, jobs: Iterable[AsyncJob], timeout: float = RESULT_TIMEOUT_S
    ) -> AsyncIterator[AsyncJob]:
        """The jobs in the order in which they end. One connection and no polling, however many they are.

        Raises:
            ResultTimeout: some have not ended in time; they go on.
        """
        handles = {job.id: job for job in jobs}
        ended: asyncio.Queue[str] = asyncio.Queue()
        futures = {id: self._notice(id) for id in handles}

        def note(id: str, future: asyncio.Future[None]) -> None:
            if not future.cancelled():
                ended.put_nowait(id)

        for id, future in futures.items():
            future.add_done_callback(functools.partial(note, id))
        try:
            await self._watch()
            await self._look(list(handles))
            deadline = asyncio.get_running_loop().time() + timeout
            for left in range(len(handles), 0, -1):
                rest = deadline - asyncio.get_running_loop().time()
                try:
                    id = await asyncio.wait_for(ended.get(), max(0.0, rest))
                except TimeoutError:
                    raise ResultTimeout(
                        f"{left} of {len(handles)} jobs have not ended within {timeout:g} s."
                    ) from None
                yield handles[id]
        finally:
            for id, future in futures.items():
                future.cancel()
                self._forget(id, future)

    async def wait(self, id: str, timeout: float) -> None:
        """Return when the job has ended.

        Raises:
            ResultTimeout: it has not ended in time.
            UnknownName: no such job.
        """
        future = self._notice(id)
        try:
            await self._watch()
            state, _ = await self.journal.state(id)
            if not state.ended:
                await asyncio.wait_for(asyncio.shield(future), timeout)
        except TimeoutError:
            raise ResultTimeout(f"Job {id!r} has not ended within {timeout:g} s; it goes on.") from None
        finally:
            future.cancel()
            self._forget(id, future)

    def _notice(self, id: str) -> asyncio.Future[None]:
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting[id].append(future)
        return future

    def _forget(self, id: str, future: asyncio.Future[None]) -> None:
        waiters = self._waiting.get(id)
        if waiters and future in waiters:
            waiters.remove(future)
        if not waiters:
            self._waiting.pop(id, None)

    async def _watch(self) -> None:
        """From here on, no end is missed."""
        if self._watcher is None or self._watcher.done():
            self._watching.clear()
            self._watcher = asyncio.create_task(self._follow())
        waiter = asyncio.create_task(self._watching.wait())
        await asyncio.wait([waiter, self._watcher], return_when=asyncio.FIRST_COMPLETED)
        waiter.cancel()
        if self._watcher.done():
            self._watcher.result()

    async def _follow(self) -> None:
        after = await self.journal.ends_now()
        self._watching.set()
        async for ids in self.journal.ends(after, idle=LOOK_AGAIN_S):
            for id in ids:
                self._tell(id)
            if not ids and self._waiting:
                with contextlib.suppress(Exception):
                    await self._look(list(self._waiting))

    async def _look(self, ids: Sequence[str]) -> None:
        for id, state in zip(ids, await self.journal.states(ids), strict=True):
            if state is None or state.ended:
                self._tell(id)

    def _tell(self, id: str) -> None:
        for future in self._waiting.pop(id, ()):
            if not future.done():
                future.set_result(None)


class AsyncJob:
    """A handle: holds nothing but the id."""

    def __init__(self, fleet: AsyncFleet, id: str) -> None:
        self._fleet = fleet
        self.id = id

    def __repr__(self) -> str:
        return f"<job {self.id}>"

    async def view(self) -> JobView:
        """The job as it stands.

        Raises:
            UnknownName: no such job.
        """
        view = (await self._fleet.journal.views([self.id]))[0]
        if view is None:
            raise UnknownName(f"There is no job {self.id!r}.")
        return view

    async def status(self) -> JobState:
        """``waiting``, ``running``, ``done``, ``failed`` or ``cancelled``."""
        return (await self._fleet.journal.state(self.id))[0]

    async def result(self, timeout: float = RESULT_TIMEOUT_S) -> Any:
        """What the agent returned, when it has.

        Args:
            timeout: seconds to wait.

        Raises:
            JobFailed: the agent raised; ``.error`` is what.
            JobCancelled: the job was cancelled.
            ResultTimeout: it has not ended in time; it goes on.
        """
        state, result = await self._fleet.journal.state(self.id)
        if not state.ended:
            await self._fleet.wait(self.id, timeout)
            state, result = await self._fleet.journal.state(self.id)
        if state is JobState.CANCELLED:
            raise JobCancelled(f"Job {self.id!r} was cancelled.")
        outcome = decode(result, Outcome)
        if outcome.error is not None:
            raise JobFailed(self.id, from_record(outcome.error))
        return outcome.value

    async def steps(self) -> list[Step]:
        """Every step with request, outcome, usage and times."""
        return (await self._fleet.journal.load(self.id)).steps

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
        status, tickets = await self._fleet.journal.cancel(self.id)
        if status == "unknown":
            raise UnknownName(f"There is no job {self.id!r}.")
        await self._fleet._publish(tickets)
        return status == "cancelled"

    async def events(self, after: int = -1, timeout: float = RESULT_TIMEOUT_S) -> AsyncIterator[Event]:
        """What happens to the job, from the event after number ``after``, until it has ended.

        Raises:
            UnknownName: no such job.
            ResultTimeout: the job has not ended in time.
        """
        journal = self._fleet.journal
        deadline = asyncio.get_running_loop().time() + timeout
        client = open_client(self._fleet.config.fleet.redis_url)
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
            raise unavailable(exc, self._fleet.config.fleet.redis_url) from None
        finally:
            await client.aclose()


class AsyncPlan(list[AsyncJob]):
    """The jobs of a plan, in the order in which they are written down, and the plan's id."""

    def __init__(self, fleet: AsyncFleet, id: str, jobs: Iterable[AsyncJob]) -> None:
        super().__init__(jobs)
        self._fleet = fleet
        self.id = id

    async def state(self) -> str:
        """``running``, ``done`` or ``failed``."""
        return (await self._fleet.journal.plan(self.id)).state

    async def extend_with(self, specs: Iterable[JobSpec]) -> list[AsyncJob]:
        """Add jobs at the tail; see :meth:`AsyncFleet.extend_plan`."""
        added = await self._fleet.extend_plan(self.id, specs)
        self.extend(added)
        return added


def _lanes(job: NewJob) -> list[str]:
    return job.decision.lanes() if job.decision is not None else [turns.TURNS_LANE]


def _conflict(id: str) -> JobConflict:
    return JobConflict(f"Job id {id!r} is taken by another job (other agent or input); choose another id.")
