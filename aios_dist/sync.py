"""The same fleet for code without asyncio: one loop in a thread serves all handles of a process."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import AsyncIterator, Coroutine, Iterable, Iterator
from concurrent.futures import CancelledError
from typing import Any, TypeVar

from aios_dist.agents import Agent, Budget, JobSpec, PromptsAgent
from aios_dist.calls import Usage
from aios_dist.config import Config, load
from aios_dist.errors import FleetUnavailable
from aios_dist.fleet import AsyncFleet, handles_of
from aios_dist.handles import RESULT_TIMEOUT_S
from aios_dist.jobs import JobState, Step
from aios_dist.journal import DeadLetter, Event, JobView, LaneRules, PlanView, Registry, TenantView
from aios_dist.plans import Plan
from aios_dist.steering import LaneView

T = TypeVar("T")


class _Loop:
    """An event loop in a daemon thread, made anew after a fork."""

    def __init__(self) -> None:
        self.pid = os.getpid()
        self.loop = asyncio.new_event_loop()
        self._closing = False
        threading.Thread(target=self.loop.run_forever, name="aios-fleet", daemon=True).start()

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        if self._closing:
            work.close()
            raise FleetUnavailable("This fleet has been closed: make another.")
        future = asyncio.run_coroutine_threadsafe(work, self.loop)
        try:
            return future.result()
        except CancelledError:
            if self._closing:
                raise FleetUnavailable("The fleet was closed while this waited; its jobs go on.") from None
            raise
        except BaseException:
            future.cancel()  # Ctrl-C in the caller ends the wait on the loop too
            raise

    def close(self, last: Coroutine[Any, Any, None]) -> None:
        """Whoever waits in another thread is told; then ``last``, then the loop ends. Idempotent."""
        if self._closing:
            last.close()
            return
        self._closing = True

        async def end() -> None:
            await last
            while waiting := asyncio.all_tasks() - {asyncio.current_task()}:  # ending, some begin others
                for task in waiting:
                    task.cancel()
                await asyncio.wait(waiting)

        asyncio.run_coroutine_threadsafe(end(), self.loop).result()
        self.loop.call_soon_threadsafe(self.loop.stop)

    def iterate(self, source: AsyncIterator[T]) -> Iterator[T]:
        try:
            while True:
                try:
                    yield self.run(_next(source))
                except StopAsyncIteration:
                    return
        finally:
            close = getattr(source, "aclose", None)
            if close is not None and not self._closing:
                self.run(close())


async def _next(source: AsyncIterator[T]) -> T:
    return await source.__anext__()


class Fleet:
    """A fleet, from the producers' side.

    The methods are those of :class:`aios_dist.AsyncFleet`, without ``await``.
    """

    def __init__(self, config: Config) -> None:
        self.config = config
        self._open()

    def _open(self) -> None:
        self._loop = _Loop()

        async def make() -> AsyncFleet:
            return AsyncFleet(self.config)

        self._fleet = self._loop.run(make())

    @property
    def _on(self) -> tuple[_Loop, AsyncFleet]:
        if self._loop.pid != os.getpid():
            self._open()
        return self._loop, self._fleet

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
        loop, fleet = self._on
        loop.close(fleet.close())

    def submit(
        self,
        agent: Agent | PromptsAgent | JobSpec | str,
        /,
        *,
        id: str | None = None,
        tenant: str = "default",
        **input: Any,
    ) -> Job:
        """Submit one job and return at once; see :meth:`AsyncFleet.submit`."""
        loop, fleet = self._on
        return Job(self, loop.run(fleet.submit(agent, id=id, tenant=tenant, **input)).id)

    def submit_many(self, specs: Iterable[JobSpec]) -> list[Job]:
        """Submit many jobs without an order between them; see :meth:`AsyncFleet.submit_many`."""
        loop, fleet = self._on
        return [Job(self, job.id) for job in loop.run(fleet.submit_many(specs))]

    def submit_plan(self, plan: Plan, id: str | None = None) -> PlanJobs:
        """Submit jobs with an order between them, all or none; see :meth:`AsyncFleet.submit_plan`."""
        loop, fleet = self._on
        made = loop.run(fleet.submit_plan(plan, id=id))
        return PlanJobs(self, made.id, [Job(self, job.id) for job in made])

    def extend_plan(self, plan: str, specs: Iterable[JobSpec]) -> list[Job]:
        """Add jobs at the tail of a plan; see :meth:`AsyncFleet.extend_plan`."""
        loop, fleet = self._on
        return [Job(self, job.id) for job in loop.run(fleet.extend_plan(plan, specs))]

    def job(self, id: str) -> Job:
        """The handle of a job, whoever submitted it."""
        return Job(self, id)

    def jobs(self, limit: int = 100, *, ended: bool | None = None) -> list[JobView]:
        """Jobs, newest first; open ones, ended ones, or (None) both."""
        loop, fleet = self._on
        return loop.run(fleet.jobs(limit, ended=ended))

    def registry(self) -> Registry:
        """Workers, models and agents, as the workers said."""
        loop, fleet = self._on
        return loop.run(fleet.registry())

    def lanes(self) -> list[LaneView]:
        """Every lane with its waiting steps, tickets, slots and workers."""
        loop, fleet = self._on
        return loop.run(fleet.lanes())

    def tenants(self) -> list[TenantView]:
        """Tenants that have settings, or a share of a lane, as they stand."""
        loop, fleet = self._on
        return loop.run(fleet.tenants())

    def set_lane(
        self,
        name: str,
        *,
        policy: str | None = None,
        oldest_every: int | None = None,
        fair: str | None = None,
    ) -> LaneRules:
        """Other rules for a lane of the running fleet; see :meth:`AsyncFleet.set_lane`."""
        loop, fleet = self._on
        return loop.run(fleet.set_lane(name, policy=policy, oldest_every=oldest_every, fair=fair))

    def reset_lane(self, name: str) -> LaneRules:
        """The lane's rules as aios.toml gave them last; see :meth:`AsyncFleet.reset_lane`."""
        loop, fleet = self._on
        return loop.run(fleet.reset_lane(name))

    def set_tenant(
        self,
        name: str,
        *,
        weight: float | None = None,
        max_in_flight: int | None = None,
        tokens_per_day: int | None = None,
        money_per_day: float | None = None,
    ) -> None:
        """Other limits and another share for a tenant; see :meth:`AsyncFleet.set_tenant`."""
        loop, fleet = self._on
        loop.run(
            fleet.set_tenant(
                name,
                weight=weight,
                max_in_flight=max_in_flight,
                tokens_per_day=tokens_per_day,
                money_per_day=money_per_day,
            )
        )

    def dead_letters(self, limit: int = 100) -> list[DeadLetter]:
        """Steps that were given up because they lost their worker each time, newest first."""
        loop, fleet = self._on
        return loop.run(fleet.dead_letters(limit))

    def drop_dead(self, job: str) -> int:
        """Forget the dead letters of a job; how many there were."""
        loop, fleet = self._on
        return loop.run(fleet.drop_dead(job))

    def as_completed(self, jobs: Iterable[Job], timeout: float = RESULT_TIMEOUT_S) -> Iterator[Job]:
        """The jobs in the order in which they end; see :meth:`AsyncFleet.as_completed`."""
        loop, fleet = self._on
        handles = {job.id: job for job in handles_of(jobs, Job)}
        for ended in loop.iterate(fleet.as_completed([fleet.job(id) for id in handles], timeout)):
            yield handles[ended.id]


class Job:
    """A handle: holds nothing but the id."""

    def __init__(self, fleet: Fleet, id: str) -> None:
        self._fleet = fleet
        self.id = id

    def __repr__(self) -> str:
        return f"<job {self.id}>"

    def _run(self, what: str, *args: Any, **named: Any) -> Any:
        loop, fleet = self._fleet._on
        return loop.run(getattr(fleet.job(self.id), what)(*args, **named))

    def view(self) -> JobView:
        """The job as it stands. Raises UnknownName."""
        view: JobView = self._run("view")
        return view

    def status(self) -> JobState:
        """``waiting``, ``running``, ``paused``, ``done``, ``failed`` or ``cancelled``."""
        return JobState(self._run("status"))

    def result(self, timeout: float = RESULT_TIMEOUT_S) -> Any:
        """What the agent returned, when it has, within ``timeout`` seconds; see :meth:`AsyncJob.result`."""
        return self._run("result", timeout)

    def steps(self) -> list[Step]:
        """Every step with request, outcome, usage and times."""
        steps: list[Step] = self._run("steps")
        return steps

    @property
    def usage(self) -> Usage:
        """Tokens that the job has cost so far."""
        usage: Usage = self._run("usage")
        return usage

    def cancel(self) -> bool:
        """End the job now; False when it had ended before; see :meth:`AsyncJob.cancel`."""
        return bool(self._run("cancel"))

    def pause(self) -> bool:
        """Stop the job where it is; see :meth:`AsyncJob.pause`."""
        return bool(self._run("pause"))

    def resume(self, budget: Budget | None = None) -> bool:
        """Let a paused job go on; see :meth:`AsyncJob.resume`."""
        return bool(self._run("resume", budget))

    def rerank(self, *, priority: int) -> bool:
        """Give the job another priority; see :meth:`AsyncJob.rerank`."""
        return bool(self._run("rerank", priority=priority))

    def signal(self, name: str, value: Any = None, *, id: str | None = None) -> bool:
        """Send what the job waits for; see :meth:`AsyncJob.signal`."""
        return bool(self._run("signal", name, value, id=id))

    def retry(self) -> bool:
        """Go on from where the job failed; see :meth:`AsyncJob.retry`."""
        return bool(self._run("retry"))

    def fork(self, step: int, id: str | None = None) -> Job:
        """A new job with this one's history before ``step``; see :meth:`AsyncJob.fork`."""
        return Job(self._fleet, self._run("fork", step, id).id)

    def events(self, after: int = -1, timeout: float = RESULT_TIMEOUT_S) -> Iterator[Event]:
        """What happens to the job, as it happens, until it has ended; see :meth:`AsyncJob.events`."""
        loop, fleet = self._fleet._on
        return loop.iterate(fleet.job(self.id).events(after, timeout))


class PlanJobs(list[Job]):
    """The jobs of a plan, in the order in which they are written down, and the plan's id."""

    def __init__(self, fleet: Fleet, id: str, jobs: Iterable[Job]) -> None:
        super().__init__(jobs)
        self._fleet = fleet
        self.id = id

    def state(self) -> str:
        """``running``, ``done`` or ``failed``."""
        return self.view().state

    def view(self) -> PlanView:
        """The plan as it stands: its state, and how far it is; see :meth:`aios_dist.AsyncPlan.view`."""
        loop, fleet = self._fleet._on
        return loop.run(fleet.journal.plan(self.id))

    def extend_with(self, specs: Iterable[JobSpec]) -> list[Job]:
        """Add jobs at the tail; see :meth:`AsyncFleet.extend_plan`."""
        added = self._fleet.extend_plan(self.id, specs)
        self.extend(added)
        return added
