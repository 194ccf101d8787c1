"""The same fleet for code without asyncio: :mod:`.side` serves all its handles in a process."""

from __future__ import annotations

import functools
import os
import threading
import weakref
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable, Iterator
from typing import TYPE_CHECKING, Any, TypeVar

from aios_dist.config import Config, load
from aios_dist.errors import FleetUnavailable
from aios_dist.journal.views import (
    DeadLetter,
    Event,
    JobView,
    LaneRules,
    LaneView,
    PlanView,
    Registry,
    TenantView,
)
from aios_dist.model.calls import Usage
from aios_dist.model.given import given_json, seconds
from aios_dist.model.jobs import JobState, Step
from aios_dist.model.plans import Plan
from aios_dist.model.specs import Budget, JobSpec
from aios_dist.producer.side import Side, here
from aios_dist.program import waits
from aios_dist.program.agents import Agent, PromptsAgent, specs_of
from aios_dist.threads import forks
from aios_dist.threads.errands import CLOSED

if TYPE_CHECKING:
    from aios_dist.producer.fleet import AsyncFleet
    from aios_dist.producer.handles import AsyncJob

T = TypeVar("T")


class Fleet(forks.OfThisProcess):
    """A fleet, from the producers' side.

    The methods are those of :class:`aios_dist.AsyncFleet`, without ``await``.
    """

    _instead = "send its Config, or read the same aios.toml there"

    def __init__(self, config: Config) -> None:
        self.config = config
        self._closed = False
        self._side: Side[AsyncFleet] | None = None
        self._met = False
        self._lock = threading.RLock()
        forks.note(self)
        self._on()  # says at once what is wrong with the URL

    def put_aside(self) -> None:
        """See :class:`.forks.Heir`: the child's side is made when it is first asked something."""
        if self._side is not None:  # else what the parent itself was told by its parent
            self._met = self._side.fleet.met
        self._side = None
        self._lock = threading.RLock()

    def _on(self) -> Side[AsyncFleet]:
        forks.look()
        side = self._side
        return self._made() if side is None or self._closed else side

    def _made(self) -> Side[AsyncFleet]:
        if (refusal := here()) is not None:  # before the lock: who holds it may wait for this thread
            raise refusal
        # Not with the module: a program that names Fleet pays for the way to Redis when it makes one.
        from aios_dist.producer.fleet import AsyncFleet

        with self._lock:
            side, closed = self._side, self._closed
            if closed:
                raise FleetUnavailable(CLOSED)
            if side is not None:
                return side
            made = Side(functools.partial(AsyncFleet, self.config))
            made.fleet.met = self._met  # what the parent has met is there, or comes back
            side = self._side  # a finalizer of somebody's, on this thread, may have asked or closed us
            if side is None:
                side = self._side = made
                weakref.finalize(self, made.abandon).atexit = False
            if side is not made or self._closed:
                made.close()
            return side

    def _run(self, ask: Callable[[AsyncFleet], Coroutine[Any, Any, T]]) -> T:
        side = self._on()
        return side.run(ask(side.fleet))

    def _iterate(self, ask: Callable[[AsyncFleet], AsyncIterator[T]]) -> Iterator[T]:
        side = self._on()
        yield from side.iterate(ask(side.fleet))

    @classmethod
    def from_env(cls, path: str | os.PathLike[str] | None = None) -> Fleet:
        """The fleet of ``aios.toml`` (or ``AIOS_CONFIG``) and ``AIOS_REDIS_URL``.

        Raises:
            ConfigError: a setting is missing, misspelt or out of range.
        """
        return cls(load(path))

    def __enter__(self) -> Fleet:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections. Jobs go on; who waits for one in another thread gets FleetUnavailable."""
        self._closed = True
        side = self._side
        if side is not None:
            side.close()

    def submit(
        self,
        agent: Agent | PromptsAgent | JobSpec | str,
        /,
        *,
        id: str | None = None,
        tenant: str = "default",
        **input: Any,
    ) -> Job:
        """Submit one job and return at once; see :meth:`aios_dist.AsyncFleet.submit`."""
        # Here: it may import the agent's module, and look at objects of the caller's.
        spec = self._on().fleet.spec(agent, id, tenant, input)
        return Job(self, self._run(lambda fleet: fleet.submit(spec)).id)

    def submit_many(self, specs: Iterable[JobSpec]) -> list[Job]:
        """Submit many jobs that have no order between them, some dozens a round trip; see
        :meth:`aios_dist.AsyncFleet.submit_many`."""
        wanted = specs_of("submit_many() takes", specs)  # in the caller's thread: it may ask us meanwhile
        return [Job(self, job.id) for job in self._run(lambda fleet: fleet.submit_many(wanted))]

    def submit_plan(self, plan: Plan, id: str | None = None) -> PlanJobs:
        """Submit jobs with an order between them, all or none; see
        :meth:`aios_dist.AsyncFleet.submit_plan`."""
        made = self._run(lambda fleet: fleet.submit_plan(plan, id=id))
        return PlanJobs(self, made.id, [Job(self, job.id) for job in made])

    def extend_plan(self, plan: str, specs: Iterable[JobSpec]) -> list[Job]:
        """Add jobs at the tail of a plan, also while it runs; see
        :meth:`aios_dist.AsyncFleet.extend_plan`."""
        wanted = specs_of("extend_plan() takes", specs)
        return [Job(self, job.id) for job in self._run(lambda fleet: fleet.extend_plan(plan, wanted))]

    def job(self, id: str) -> Job:
        """The handle of a job, whoever submitted it."""
        return Job(self, id)

    def jobs(self, limit: int = 100, *, ended: bool | None = None) -> list[JobView]:
        """Jobs, newest first; open ones, ended ones, or (None) both."""
        return self._run(lambda fleet: fleet.jobs(limit, ended=ended))

    def registry(self) -> Registry:
        """Workers, models and agents, as the workers said."""
        return self._run(lambda fleet: fleet.registry())

    def lanes(self) -> list[LaneView]:
        """Every lane with its waiting steps, tickets, slots and workers."""
        return self._run(lambda fleet: fleet.lanes())

    def tenants(self) -> list[TenantView]:
        """Tenants that have settings, or a share of a lane, as they stand."""
        return self._run(lambda fleet: fleet.tenants())

    def set_lane(
        self,
        name: str,
        *,
        policy: str | None = None,
        oldest_every: int | None = None,
        fair: str | None = None,
    ) -> LaneRules:
        """Other rules for a lane of the running fleet; None leaves each as it is; see
        :meth:`aios_dist.AsyncFleet.set_lane`."""
        return self._run(
            lambda fleet: fleet.set_lane(name, policy=policy, oldest_every=oldest_every, fair=fair)
        )

    def reset_lane(self, name: str) -> LaneRules:
        """The lane's rules as aios.toml gave them last; see
        :meth:`aios_dist.AsyncFleet.reset_lane`."""
        return self._run(lambda fleet: fleet.reset_lane(name))

    def set_tenant(
        self,
        name: str,
        *,
        weight: float | None = None,
        max_in_flight: int | None = None,
        tokens_per_day: int | None = None,
        money_per_day: float | None = None,
    ) -> None:
        """Other limits and another share for a tenant of the running fleet, at once; None leaves
        each; see :meth:`aios_dist.AsyncFleet.set_tenant`."""
        self._run(
            lambda fleet: fleet.set_tenant(
                name,
                weight=weight,
                max_in_flight=max_in_flight,
                tokens_per_day=tokens_per_day,
                money_per_day=money_per_day,
            )
        )

    def dead_letters(self, limit: int = 100) -> list[DeadLetter]:
        """Steps that were given up because they lost their worker each time, newest first."""
        return self._run(lambda fleet: fleet.dead_letters(limit))

    def drop_dead(self, job: str) -> int:
        """Forget the dead letters of a job; how many there were."""
        return self._run(lambda fleet: fleet.drop_dead(job))

    def as_completed(self, jobs: Iterable[Job], timeout: float = waits.RESULT_TIMEOUT_S) -> Iterator[Job]:
        """The jobs in the order in which they end. One connection and no polling, however many they
        are; see :meth:`aios_dist.AsyncFleet.as_completed`."""
        from aios_dist.producer.fleet import handles_of

        handles = {job.id: job for job in handles_of(jobs, Job)}
        waits.check("as_completed()", self.config.fleet, seconds("timeout", timeout))
        for ended in self._iterate(
            lambda fleet: fleet.as_completed([fleet.job(id) for id in handles], timeout)
        ):
            yield handles[ended.id]


class Job(forks.OfThisProcess):
    """A handle: holds nothing but the id."""

    _instead = "send its id, and take fleet.job(id) there"

    def __init__(self, fleet: Fleet, id: str) -> None:
        self._fleet = fleet
        self.id = id

    def __repr__(self) -> str:
        return f"<job {self.id}>"

    def _run(self, ask: Callable[[AsyncJob], Coroutine[Any, Any, T]]) -> T:
        return self._fleet._run(lambda fleet: ask(fleet.job(self.id)))

    def view(self) -> JobView:
        """The job as it stands; see :meth:`aios_dist.AsyncJob.view`."""
        return self._run(lambda job: job.view())

    def status(self) -> JobState:
        """``waiting``, ``running``, ``paused``, ``done``, ``failed`` or ``cancelled``."""
        return self._run(lambda job: job.status())

    def result(self, timeout: float = waits.RESULT_TIMEOUT_S) -> Any:
        """What the agent returned, when it has; see :meth:`aios_dist.AsyncJob.result`."""
        waits.check("result()", self._fleet.config.fleet, seconds("timeout", timeout))
        return self._run(lambda job: job.result(timeout))

    def steps(self) -> list[Step]:
        """Every step with request, outcome, usage and times."""
        return self._run(lambda job: job.steps())

    @property
    def usage(self) -> Usage:
        """Tokens that the job has cost so far."""
        return self._run(lambda job: job.usage())

    def cancel(self) -> bool:
        """End the job now: waiting steps are dropped, calls in flight are stopped; see
        :meth:`aios_dist.AsyncJob.cancel`."""
        return self._run(lambda job: job.cancel())

    def pause(self) -> bool:
        """Stop the job where it is: its waiting steps wait on, calls in flight end and are kept;
        see :meth:`aios_dist.AsyncJob.pause`."""
        return self._run(lambda job: job.pause())

    def resume(self, budget: Budget | None = None, *, from_step: int | None = None) -> bool:
        """Let a paused job go on, with a new budget where one is given; see
        :meth:`aios_dist.AsyncJob.resume`."""
        return self._run(lambda job: job.resume(budget, from_step=from_step))

    def rerank(self, *, priority: int) -> bool:
        """Give the job another priority, also while its steps wait; see
        :meth:`aios_dist.AsyncJob.rerank`."""
        return self._run(lambda job: job.rerank(priority=priority))

    def signal(self, name: str, value: Any = None, *, id: str | None = None) -> bool:
        """Send what the job waits for with ``await signal(name)``, or will wait for; see
        :meth:`aios_dist.AsyncJob.signal`."""
        given = given_json(value, f"value of signal {name!r}")  # here: it may hold objects of the caller's
        return self._run(lambda job: job.signal(name, given, id=id))

    def retry(self) -> bool:
        """A job that failed or was cancelled goes on from where it failed; what is answered stays
        answered; see :meth:`aios_dist.AsyncJob.retry`."""
        return self._run(lambda job: job.retry())

    def fork(self, step: int, id: str | None = None) -> Job:
        """A new job with this one's history before ``step``: what came before is reused, not paid
        again; see :meth:`aios_dist.AsyncJob.fork`."""
        return Job(self._fleet, self._run(lambda job: job.fork(step, id)).id)

    def events(self, after: int = -1, timeout: float = waits.RESULT_TIMEOUT_S) -> Iterator[Event]:
        """What happens to the job, from the event after number ``after``, until it has ended; see
        :meth:`aios_dist.AsyncJob.events`."""
        waits.check("events()", self._fleet.config.fleet, seconds("timeout", timeout))
        yield from self._fleet._iterate(lambda fleet: fleet.job(self.id).events(after, timeout))


class PlanJobs(forks.OfThisProcess, list[Job]):
    """The jobs of a plan, in the order in which they are written down, and the plan's id."""

    _instead = "send the ids of the plan and its jobs, and take fleet.job(id) there"

    def __init__(self, fleet: Fleet, id: str, jobs: Iterable[Job]) -> None:
        super().__init__(jobs)
        self._fleet = fleet
        self.id = id

    def state(self) -> str:
        """``running``, ``done`` or ``failed``."""
        return self.view().state

    def view(self) -> PlanView:
        """The plan as it stands: its state, and how far it is; see
        :meth:`aios_dist.AsyncPlan.view`."""
        return self._fleet._run(lambda fleet: fleet.journal.plan(self.id))

    def extend_with(self, specs: Iterable[JobSpec]) -> list[Job]:
        """Add jobs at the tail; see :meth:`aios_dist.AsyncFleet.extend_plan`."""
        added = self._fleet.extend_plan(self.id, specs)
        self.extend(added)
        return added
