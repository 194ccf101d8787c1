"""Moves of producers: what programs ask for, jobs and plans."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import Any

import msgspec
from msgspec.structs import replace

from aios_dist.journal import Decision, NewJob, RankedStep
from aios_dist.journal.records import Parking
from aios_dist.model.jobs import JobRecord, JobState, Kind, NewStep, as_record
from aios_dist.model.plans import Plan, agent_first, fifo, fixed, shape
from aios_dist.model.specs import Budget, JobSpec
from tests.driver.core import TENANTS, Core
from tests.driver.seen import OPEN
from tests.driver.sending import MODELS, RANKS, form, send_extension, send_plan, short

AGENTS = ("x", "y")
SIGNALS = ("go", "no")
MOST_STEPS = 7


def _digest(request: bytes) -> str:
    return hashlib.sha1(request, usedforsecurity=False).hexdigest()[:24]


class Producers(Core):
    """They submit."""

    # What programs ask for -------------------------------------------------------------------------

    def steps(self, count: int) -> list[RankedStep]:
        """New steps of every kind, ranked as somebody does who does not always know the latest rules."""
        return [self._step() for _ in range(count)]

    def _step(self) -> RankedStep:
        request, R = self._asks(), self.random
        kind = R.choices([Kind.LLM, Kind.TOOL, Kind.SLEEP, Kind.SIGNAL], [16, 2, 2, 2])[0]
        if kind == Kind.LLM:
            model = R.choice([*MODELS])
            lane = MODELS[model]
            policy = R.choice([*[self.policy[lane]] * 6, *RANKS])
            size = R.choice([0, 10, 300])
            if self.texts % 23 == 0:
                size = 400  # more than any limit of tokens here
            step = NewStep(
                kind, lane, request, _digest(request), model, estimate=size, cost=R.choice([0, 5, 100])
            )
            return RankedStep(step, RANKS[policy], policy)
        if kind == Kind.TOOL:
            return RankedStep(NewStep(kind, "turns", request, _digest(request), "tool"))
        if kind == Kind.SLEEP:
            return RankedStep(
                NewStep(kind, "turns", request, _digest(request), "s", after=R.choice([0.5, 30.0]))
            )
        return self._signal(R.choice(SIGNALS))

    def _asks(self) -> bytes:
        """A request with some of what was said before, and something new."""
        self.texts += 1
        last = range(max(0, self.texts - 12), self.texts)
        told = sorted(self.random.sample(last, min(len(last), self.texts % 8)))
        messages = [
            {"role": "user", "content": f"text {number}" * (number % 4)} for number in (*told, self.texts)
        ]
        return as_record(msgspec.json.encode({"messages": messages}))

    def _signal(self, name: str) -> RankedStep:
        request = self._asks()
        return RankedStep(NewStep(Kind.SIGNAL, "turns", request, _digest(request), name))

    def newborn(self, plan: str = "") -> NewJob:
        """A job that nobody has submitted yet; not under an id that a plan has had."""
        R = self.random
        had = {member for node in self.model.plans.get(plan, ()) for member in node.members}
        if self.reuse and self.gone and self.gone[0] not in had and R.random() < 0.7:
            id = self.gone.pop(0)
        else:
            self.numbers += 1
            id = f"j{self.numbers}"
        record = JobRecord(
            R.choice(AGENTS), {"n": self.texts}, R.choice(TENANTS), deadline=R.choice([None] * 6 + [40.0])
        )
        decision = None
        if (how := R.random()) < 0.85:
            decision = Decision(0, 0, self.steps(R.randint(1, 3)))
        elif how < 0.92:
            decision = Decision(0, 0, [], R.choice([JobState.DONE, JobState.FAILED]), b"jr")
        if id in self.asked and R.random() < 0.5:  # the same is asked for under the same id
            decision = self.asked[id]
        self.asked[id] = decision
        budget = None
        if R.random() < 0.2:
            what = R.choice([{"tokens": 0}, {"tokens": 8}, {"money": 0.001}])
            budget = Budget(**what, on_budget=R.choice(["pause", "fail"]))
        return NewJob(id, record, decision, budget=budget, priority=R.choice([0, 0, 5, 9]))

    def decision(self, id: str, ahead: int) -> Decision | None:
        """What a turn came to that sees ``ahead`` more outcomes than there are; or an out-of-date one."""
        job, R = self.model.jobs.get(id), self.random
        if job is None or R.random() < 0.15:
            return None
        if not ahead and id in self.decided and R.random() < 0.1:  # it is sent again
            return self.decided[id]
        version, first = job.written + ahead, len(job.steps)
        basis = self.fleet.job(id).text("dg")
        if not self.lenient and (lines := self.proof(id, basis)):
            raise self.broken(lines)
        was = self.older.get(id, basis)
        if R.random() < 0.08:  # what it had seen is not all by now
            basis = was
        self.older[id] = basis
        if first >= MOST_STEPS or R.random() < 0.2:
            end = R.choice([JobState.DONE, JobState.DONE, JobState.FAILED])
            made = Decision(version, first, [], end, b"jr", basis)
        else:
            count = R.choice([0, 1, 1, 1, 2, 3])
            if first + count == version:  # everything is answered: a program asks for more, or ends
                count = 1
            made = Decision(version, first, self.steps(count), basis=basis)
            if (early := [name for name, n in job.kept.items() if n]) and R.random() < 0.4:
                made.steps.append(self._signal(early[0]))
        if self.deploys:
            code = R.choice(["", "c1", "c1", "c2"])
            parks = Parking("why", "said") if code and R.random() < 0.35 else None
            made = replace(made, code=code)
            made = Decision(version, first, basis=basis, code=code, parks=parks) if parks else made
        if not ahead:
            self.decided[id] = made
        return made

    def served(self, id: str) -> Callable[[str], bool]:
        """Whether a worker that lives has a code of the job's agent."""
        serving = self.fleet.look_without_ends().one["serving"]
        agent = self.model.jobs[id].agent if id in self.model.jobs else ""
        return lambda code: serving.get(f"has/{agent}@{code}", 0) > self.fleet.now

    # Producers -------------------------------------------------------------------------------------

    def room(self) -> bool:
        """There are not too many open jobs yet."""
        return sum(job.state in OPEN for job in self.model.jobs.values()) < self.most_open

    def some_job(self, *states: str) -> str | None:
        """A job, mostly one in these states."""
        ids = [id for id, job in self.model.jobs.items() if not states or job.state in states]
        if not ids or self.random.random() < 0.1:
            ids = [*self.model.jobs]
        return self.random.choice(ids) if ids else None

    def submit(self) -> None:
        """A job or two."""
        if not self.room():
            return
        jobs = [self.newborn() for _ in range(self.random.choice([1, 1, 1, 2]))]
        self.say(f"submit {[short(job) for job in jobs]}")
        self.expect(self.run(self.journal.submit(jobs)).new, [True] * len(jobs))
        self.again |= {job.id for job in jobs}
        self.model.submit(jobs)
        if self.twice():
            self.expect(self.run(self.journal.submit(jobs)).new, [False] * len(jobs))

    def plan(self) -> None:
        """A plan of any form."""
        if not self.room():
            return
        new: list[NewJob] = []

        def grow(depth: int) -> Plan:
            members: list[Any] = []
            for _ in range(self.random.randint(1, 3)):
                if depth < 2 and self.random.random() < 0.3:
                    members.append(grow(depth + 1))
                else:
                    new.append(self.newborn())
                    members.append(JobSpec(agent="x", input={}))
            make = self.random.choice([fifo, fixed, fixed, agent_first])
            return make(members, on_failure=self.random.choice(["stop", "continue"]))

        tree = grow(0)
        self.numbers += 1
        drawn, owners = shape(tree, f"p{self.numbers}", [job.id for job in new])
        jobs = [
            NewJob(j.id, j.record, j.decision, node, j.budget, j.priority, place)
            for j, node, place in zip(new, owners, drawn.places, strict=True)
        ]
        self.say(f"plan {drawn.id} {form(tree)} {[short(job) for job in jobs]}")
        self.expect(self.run(send_plan(self.journal, jobs, drawn)), "new")
        self.again |= {job.id for job in jobs}
        self.model.submit(jobs, drawn)
        if self.twice():
            self.expect(self.run(send_plan(self.journal, jobs, drawn)), "same")

    def extend(self) -> None:
        """More jobs for a plan."""
        plans = [p for p in self.model.plans if p in self.seen.plans]
        if not self.room() or not plans:
            return
        plan = self.random.choice(plans)
        jobs = [self.newborn(plan) for _ in range(self.random.choice([1, 1, 1, 3]))]
        stopped = self.model.plan_state(plan) == "failed"
        self.say(f"extend {plan} {[short(job) for job in jobs]}")
        self.expect(
            self.run(send_extension(self.journal, plan, jobs)).status, "stopped" if stopped else "extended"
        )
        if not stopped:
            self.again |= {job.id for job in jobs}
            self.model.extend(plan, jobs)
            if self.twice():
                self.expect(self.run(send_extension(self.journal, plan, jobs)).tickets, [])
