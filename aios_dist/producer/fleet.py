"""What producers hold: a fleet and handles of its jobs. :mod:`.sync` is the same without asyncio."""

from __future__ import annotations

import asyncio
import functools
import logging
import os
import secrets
import time
import warnings
import weakref
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable, Iterator, Sequence
from types import NoneType
from typing import TYPE_CHECKING, Any, TypeVar

import msgspec

from aios_dist import policies
from aios_dist.broker.tickets import Tickets
from aios_dist.config import Config, load
from aios_dist.errors import FleetUnavailable, InvalidInput, JobConflict, JournalError, UnknownName
from aios_dist.journal import JobView, Journal, NewJob, Ticket
from aios_dist.model import costs
from aios_dist.model import ids as new_ids
from aios_dist.model.chance import Known
from aios_dist.model.given import given_json, looked_up, named, one, seconds, short, whole
from aios_dist.model.jobs import TURNS_LANE, JobRecord
from aios_dist.model.plans import Plan, shape
from aios_dist.model.specs import JobSpec
from aios_dist.producer.endings import Endings
from aios_dist.producer.fleet_rules import Steering
from aios_dist.producer.handles import AsyncJob, AsyncPlan, Lines
from aios_dist.program import imports as modules
from aios_dist.program import turns, waits
from aios_dist.program.agents import Agent, PromptsAgent, PromptsProgram, program_code, specs_of
from aios_dist.text.tracebacks import text_of
from aios_dist.threads import forks
from aios_dist.threads.errands import users_code

if TYPE_CHECKING:
    from aios_dist.journal.connection import Connection

logger = logging.getLogger("aios_dist.producer.fleet")

T = TypeVar("T")

CHUNK = 15
"""Jobs in one round trip of a bulk submission, and their first steps: one write of some milliseconds."""
CHUNK_BYTES = 250_000
"""… and their bytes. One job that alone has more goes alone."""

SAY_EVERY_S = 60.0
"""An agent that no worker has is said this often."""

RULES_S = 5.0
"""How long a producer trusts what it knows of the lanes' rules."""


class AsyncFleet(forks.OfThisProcess, Steering):
    """A fleet, from the producers' side. Use it as ``async with AsyncFleet.from_env() as fleet``."""

    _instead = "send its Config, or read the same aios.toml there"

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        self._lines = Lines(config.fleet, self._publish, self.extend_plan)
        self._tickets = Tickets(config)
        self._catalog: turns.Catalog | None = None
        self._agents: set[str] = set()
        self._unpriced: set[str] = set()
        self._prices_until = 0.0
        self._workers_until = 0.0
        self._there: set[str] = set()
        """Agents that workers had when that was last looked at."""
        self._missing: dict[str, float] = {}
        """Agents that no worker has, and until when that is not said again."""
        self._unclosed = self._watch_over()
        forks.note(self)

    @property
    def journal(self) -> Journal:
        """Of this process. Raises FleetUnavailable when the fleet has been closed."""
        return self._lines.journal

    @property
    def _endings(self) -> Endings:
        return self._lines.endings

    @property
    def met(self) -> bool:
        """It has reached Redis once, or its parent has: where Redis is away, it comes back."""
        return self._lines.connection.met

    @met.setter
    def met(self, met: bool) -> None:
        self._lines.connection.met = met

    def _watch_over(self) -> weakref.finalize[..., AsyncFleet]:
        made = weakref.finalize(self, _left_open, os.getpid(), self._lines.connection, self._lines.closing())
        made.atexit = False
        return made

    def put_aside(self) -> None:
        """See :class:`.forks.Heir`: it and its handles work as new on a loop of the child."""
        self._unclosed.detach()
        self._lines.put_aside()
        self._unclosed = self._watch_over()
        self._rules_until = 0.0

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
        """Close the connections. Jobs go on; who waits for one in another task gets FleetUnavailable."""
        forks.look()
        self._unclosed.detach()
        await self._lines.close()

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
            FleetUnavailable: Redis cannot be reached, or may evict keys; ``.ids`` holds the job's id where it
                may be there all the same.
        """
        spec = self.spec(agent, id, tenant, input)
        return (await self.submit_many([spec]))[0]

    async def submit_many(self, specs: Iterable[JobSpec]) -> list[AsyncJob]:
        """Submit many jobs that have no order between them, some dozens a round trip.

        Raises:
            InvalidInput, UnknownName: nothing was written.
            JobConflict: an id is taken by another job; jobs before it are submitted, ``.ids`` has theirs.
            FleetUnavailable: as with :meth:`submit`; ``.ids`` has those of the jobs that may be there.
        """
        wanted = specs_of("submit_many() takes", specs)
        ids = self._ids(wanted)
        await self._ready(wanted)
        await self._write(await self._new_jobs(wanted, ids))
        await self._look_at_workers(wanted)
        return [AsyncJob(self._lines, id) for id in ids]

    async def _write(self, jobs: Sequence[NewJob]) -> None:
        """Write jobs without an order between them, part by part."""
        sent: list[str] = []
        for part in _parts(jobs):
            lanes = [(job, n, lane) for job in part for n, lane in enumerate(_lanes(job))]
            then = self._tickets.commands(Ticket(lane, job.id, str(n)) for job, n, lane in lanes)
            before = len(sent)
            sent += [job.id for job in part]
            try:
                done = await self._endings.ask(functools.partial(self.journal.submit, part, then=then))
            except (FleetUnavailable, JournalError) as exc:
                exc.broke_off(sent)
                raise
            if done.status == "conflict":
                raise _conflict(done.conflict, before=sent[:before])

    async def submit_plan(self, plan: Plan, id: str | None = None) -> AsyncPlan:
        """Submit jobs with an order between them, all or none.

        A big plan goes in slices, so that nobody waits for it; nobody sees any of it before it is all there,
        and its first members run while later ones are admitted.

        Args:
            plan: made by ``fifo``, ``fixed`` or ``hybrid``.
            id: the plan's id; the same id with the same jobs twice is the same plan.

        Returns:
            The plan's jobs, in the order in which they are written down.

        Raises:
            InvalidInput, UnknownName, JobConflict: nothing was written.
            FleetUnavailable: as with :meth:`submit`; ``.plan`` has the plan's id where it may be there.
        """
        if not isinstance(plan, Plan):
            raise InvalidInput(f"submit_plan() takes a plan, as fixed([…]), not {short(plan)}.")
        specs = list(plan.jobs())
        name = new_ids.of_plan() if id is None else named("Plan id", id)
        ids = self._ids(specs, within=name)
        layout, nodes = shape(plan, name, ids)
        await self._ready(specs)
        jobs = [
            msgspec.structs.replace(job, node=node, place=place)
            for job, node, place in zip(await self._new_jobs(specs, ids), nodes, layout.places, strict=True)
        ]
        submit = functools.partial(self.journal.submit, jobs, layout, told=self._publish)
        try:
            done = await self._endings.ask(submit)
        except (FleetUnavailable, JournalError) as exc:
            exc.broke_off(ids, plan=name)
            raise
        if done.status == "conflict":
            raise _conflict(done.conflict, plan=name)
        await self._look_at_workers(specs)
        return AsyncPlan(self._lines, name, [AsyncJob(self._lines, id) for id in ids])

    async def extend_plan(self, plan: str, specs: Iterable[JobSpec]) -> list[AsyncJob]:
        """Add jobs at the tail of a plan, also while it runs.

        Raises:
            UnknownName: no such plan.
            InvalidInput: the plan has stopped after a failure.
            JobConflict: an id is taken; nothing was written.
            FleetUnavailable: as with :meth:`submit_many`.
        """
        looked_up("Plan id", plan)
        wanted = specs_of("extend_plan() takes", specs)
        ids = self._ids(wanted, beside=plan)
        if len(set(ids)) < len(ids):
            raise InvalidInput("The same job id comes twice; ids are unique.")
        await self._ready(wanted)
        jobs = await self._new_jobs(wanted, ids)
        extend = functools.partial(self.journal.extend, plan, jobs, told=self._publish)
        try:
            done = await self._endings.ask(extend)
        except (FleetUnavailable, JournalError) as exc:
            exc.broke_off(ids)
            raise
        if done.status == "unknown":
            raise UnknownName(f"There is no plan {plan!r}.")
        if done.status == "stopped":
            raise InvalidInput(f"Plan {plan!r} has stopped after a failure and takes no more jobs.")
        if done.status == "conflict":
            raise _conflict(done.conflict)
        await self._look_at_workers(wanted)
        return [AsyncJob(self._lines, id) for id in ids]

    def spec(
        self, agent: Agent | PromptsAgent | JobSpec | str, id: str | None, tenant: str, input: Any
    ) -> JobSpec:
        """The job that the arguments of :meth:`submit` mean.

        Raises:
            InvalidInput: they mean none.
        """
        if isinstance(agent, JobSpec):
            if input:
                raise InvalidInput("A job has its input: give it to agent.job(…), not to submit() as well.")
            spec = agent if id is None else agent.named(id)
            return spec if tenant == "default" else msgspec.structs.replace(spec, tenant=tenant)
        if isinstance(agent, str):
            known = modules.agent(self.config, agent)
            if known is None:
                given = given_json(input, f"input of agent {agent!r}")
                return JobSpec(agent=agent, input=given, id=id, tenant=tenant)
            agent = known
        if not isinstance(agent, (Agent, PromptsAgent)):
            raise InvalidInput(
                f"submit() takes an @agent, a job or an agent's name, not {type(agent).__name__}."
            )
        return agent.job(id=id, tenant=tenant, **input)

    def _ids(self, specs: Sequence[JobSpec], within: str | None = None, beside: str = "") -> list[str]:
        ids = []
        for place, spec in enumerate(specs):
            named("Agent name", spec.agent)
            named("Tenant", spec.tenant)
            if spec.prompts is None:
                modules.check_one(self.config, spec.agent)
            if spec.id is not None:
                ids.append(named("Job id", spec.id))
            elif within is None:
                ids.append(new_ids.of_job(spec.agent, beside=beside))
            else:  # made of its plan's, which may be given, and as long as an id can be
                ids.append(named("Job id", new_ids.of_member(within, place)))
        return ids

    async def _ready(self, specs: Sequence[JobSpec]) -> None:
        """First use: Redis is fit for use, and what workers have registered is known."""
        if self._catalog is None:
            await self._endings.ask(self.journal.check)
            await self._endings.ask(self._learn)
        unknown = {s.agent for s in specs if s.program is None} - self._agents
        if unknown:
            await self._endings.ask(self._learn)
        if any(s.budget is not None and s.budget.money is not None for s in specs):
            await self._endings.ask(self._look_at_prices)
        for name in sorted(unknown - self._agents):
            known = ", ".join(sorted(self._agents)) or "none"
            raise UnknownName(
                f"No agent {name!r}: neither this process nor any worker has its code "
                f"(workers have: {known}). Import its module here, or add it to [fleet] modules of the "
                "workers."
            )

    async def _look_at_prices(self) -> None:
        """A budget of money that does not see all calls is said, once for the same models."""
        now = asyncio.get_running_loop().time()
        if now < self._prices_until:
            return
        self._prices_until = now + RULES_S
        unpriced = (await self.journal.registry()).unpriced()
        if unpriced - self._unpriced:
            self._unpriced |= unpriced
            logger.warning("%s. %s", *costs.without_price(unpriced))

    async def _look_at_workers(self, specs: Sequence[JobSpec]) -> None:
        """A job that waits for a worker which nobody has started is said: once a minute for each agent."""
        now = time.monotonic()
        agents = {spec.agent for spec in specs if spec.prompts is None}
        unsaid = {agent for agent in agents if now >= self._missing.get(agent, now)}
        if not unsaid or (now < self._workers_until and unsaid <= self._there):
            return
        self._missing |= dict.fromkeys(unsaid, now + SAY_EVERY_S)  # other callers of this loop say nothing
        try:
            registry = await self.journal.registry()
        except (FleetUnavailable, JournalError):
            return  # they are submitted: what is only to be said is no reason to fail
        self._workers_until = now + RULES_S
        self._there = registry.agents_now(self.config.fleet.lease)
        for agent in unsaid & self._there:
            del self._missing[agent]
        # (Where no worker runs at all, they may be about to be started.)
        for agent in sorted(unsaid - self._there) if registry.live(self.config.fleet.lease) else ():
            logger.warning(
                "No worker that runs has the code of agent %r (workers have: %s): its jobs wait for one. "
                "Start one whose [fleet] modules name the agent's module.",
                agent,
                ", ".join(sorted(self._there)) or "none",
            )

    async def _learn(self) -> None:
        registry = await self.journal.registry()
        self._catalog = turns.Catalog.of(self.config, registry.models)
        self._agents = set(registry.agents)
        self._rules_until = 0.0

    async def _look_at_rules(self, specs: Sequence[JobSpec]) -> None:
        """The lanes' policies as they are now, give or take some seconds: Redis puts right what differs."""
        now = asyncio.get_running_loop().time()
        assert self._catalog is not None
        if now >= self._rules_until:
            self._rules_until = now + RULES_S
            rules = await self.journal.lane_rules(sorted({"llm", *self._catalog.models.values()}))
            self._catalog = self._catalog.under({lane: r.policy for lane, r in rules.items()}, {})
        unknown = {spec.agent for spec in specs} - self._catalog.pasts.keys()
        if self._catalog.looks_back and unknown:
            empty = dict.fromkeys(unknown, policies.Past())
            found = empty | await self.journal.pasts(unknown)
            self._catalog = self._catalog.under(self._catalog.lane_policies, {**self._catalog.pasts, **found})

    async def _new_jobs(self, specs: Sequence[JobSpec], ids: Sequence[str]) -> list[NewJob]:
        """Turn 0 of each job. Raises what is wrong with the first requests, before anything is written."""
        made: list[NewJob] = []
        for at in range(0, len(specs), CHUNK):
            part, names = specs[at : at + CHUNK], ids[at : at + CHUNK]
            await self._endings.ask(functools.partial(self._look_at_rules, part))
            try:
                made += await self._first_turns(part, names)
            except UnknownName:
                await self._endings.ask(self._learn)  # a model that a worker has registered since
                made += await self._first_turns(part, names)
            await asyncio.sleep(0)  # other callers of this loop go on
        return made

    async def _first_turns(self, specs: Sequence[JobSpec], ids: Sequence[str]) -> list[NewJob]:
        def run() -> list[NewJob]:
            return [self._new_job(spec, id) for spec, id in zip(specs, ids, strict=True)]

        ours = all(isinstance(spec.program, (PromptsProgram, NoneType)) for spec in specs)
        return run() if ours else await users_code(run)

    def _new_job(self, spec: JobSpec, id: str) -> NewJob:
        assert self._catalog is not None
        record = JobRecord(
            agent=named("Agent name", spec.agent),
            input=spec.input,
            tenant=named("Tenant", spec.tenant),
            prompts=spec.prompts,
            deadline=spec.deadline,
            expected_steps=spec.expected_steps,
            defaults=spec.defaults,
        )
        try:
            size, limit = len(msgspec.json.encode(record)), self.config.fleet.input_limit
        except Exception as exc:  # of a JobSpec that was not made by an agent
            raise InvalidInput(f"The input of job {id!r} is not JSON: {text_of(exc)}.") from None
        if size > limit:
            raise InvalidInput(
                f"The input of job {id!r} has {size:,} bytes, more than input_limit ({limit:,}); "
                "shorten it, or raise input_limit in [fleet]."
            )
        known = Known(secrets.token_hex(16), round(time.time(), 6))
        record = msgspec.structs.replace(record, seed=known.origin[0], submitted_at=known.now)
        if spec.program is None:
            return NewJob(id, record, budget=spec.budget, priority=spec.priority, size=size)
        replay = turns.start(spec.program, self._catalog, known)
        code = program_code(spec.program)
        decision = turns.decide(replay, record, self._catalog, first=0, checked=True, code=code)
        replay.close()
        size += sum(len(ranked.step.request) for ranked in decision.steps)
        return NewJob(id, record, decision, budget=spec.budget, priority=spec.priority, size=size)

    async def _publish(self, tickets: Sequence[Ticket]) -> None:
        send = self.journal.connection.command
        await asyncio.gather(*(send(*c) for c in self._tickets.commands(tickets)))

    # Looking -------------------------------------------------------------------------------------------

    def job(self, id: str) -> AsyncJob:
        """The handle of a job, whoever submitted it."""
        return AsyncJob(self._lines, id)

    async def jobs(self, limit: int = 100, *, ended: bool | None = None) -> list[JobView]:
        """Jobs, newest first; open ones, ended ones, or (None) both."""
        if ended is not None and not isinstance(ended, bool):
            raise InvalidInput(f"ended is True, False or None, not {short(ended)}.")
        return await self.journal.list_jobs(whole("limit", limit), ended=ended)

    # Waiting -------------------------------------------------------------------------------------------

    async def as_completed(
        self, jobs: Iterable[AsyncJob], timeout: float = waits.RESULT_TIMEOUT_S
    ) -> AsyncIterator[AsyncJob]:
        """The jobs in the order in which they end. One connection and no polling, however many they are.

        One that is parked comes too: its ``result()`` says why.

        Raises:
            ResultTimeout: some have not ended in time, and what has ended was handed out; they go on.
        """
        handles = {job.id: job for job in handles_of(jobs, AsyncJob)}
        waits.check("as_completed()", self.config.fleet, seconds("timeout", timeout))
        still_here = forks.begun()
        async for id in self._endings.in_order(list(handles), seconds("timeout", timeout)):
            yield handles[id]
            still_here()


def handles_of(jobs: Any, kind: type[T]) -> list[T]:
    """The handles of a list of them, as ``as_completed`` takes it.

    Raises:
        InvalidInput: it is something else.
    """
    if isinstance(jobs, (str, bytes)) or not isinstance(jobs, Iterable):
        raise InvalidInput(f"as_completed() takes a list of this fleet's jobs, not {short(jobs)}.")
    return [one("as_completed() takes jobs, each", job, kind) for job in jobs]


def _parts(jobs: Sequence[NewJob]) -> Iterator[Sequence[NewJob]]:
    """Jobs for one round trip each: not too many, nor too many steps, not too large."""
    first = size = steps = 0
    for place, job in enumerate(jobs):
        size, steps = size + job.size, steps + len(_lanes(job))
        if place > first and (size > CHUNK_BYTES or steps > CHUNK or place - first == CHUNK):
            yield jobs[first:place]
            first, size, steps = place, job.size, len(_lanes(job))
    if jobs:
        yield jobs[first:]


def _lanes(job: NewJob) -> list[str]:
    return job.decision.lanes() if job.decision is not None else [TURNS_LANE]


def _conflict(id: str, plan: str | None = None, before: Sequence[str] = ()) -> JobConflict:
    if id == plan:
        return JobConflict(f"Plan id {id!r} is taken by another plan (other jobs or order); choose another.")
    error = JobConflict(
        f"Job id {id!r} is taken by another job (other agent, input or tenant); choose another id."
    )
    if before:
        error.broke_off(before)
    return error


_closing: set[asyncio.Task[None]] = set()


def _left_open(process: int, connection: Connection, close: Callable[[], Coroutine[Any, Any, None]]) -> None:
    """Nobody has the fleet any more. On any thread, in the middle of anything: nothing is waited for."""
    loop = connection.loop
    if loop is None or os.getpid() != process:
        return

    def begin() -> None:
        task = loop.create_task(close())
        _closing.add(task)
        task.add_done_callback(_closing.discard)

    try:
        loop.call_soon_threadsafe(begin)
    except RuntimeError:
        pass  # closed, and its sockets with it
    warnings.warn(
        "An AsyncFleet was not closed: use `async with AsyncFleet(…) as fleet`, or await fleet.close().",
        ResourceWarning,
        stacklevel=2,
    )
