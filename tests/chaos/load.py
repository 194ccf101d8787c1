"""What the chaos run submits: jobs of every kind, each with an id of its own, and what is to come of each.

What a job's calls ask and what it returns is made of the answers before, and the fake LLM's answer follows
from what it was asked. So all of it is known beforehand: a ``Promise``, against which the journal and the
provider's own record of the bodies that came are held.
"""

from __future__ import annotations

import functools
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from aios_dist import Fleet, Plan, agent_first, fifo, fixed, prompts
from aios_dist.model.specs import JobSpec
from aios_dist.testing.latency import Uniform
from aios_dist.testing.replies import fingerprint, seeded
from tests.chaos.agents import LONG, RAISED, branching, following, raising, refusing, reviewing
from tests.chaos.changing import deployed

MODELS = ("m0", "m1", "m2", "m3")
"""Four, so that a 429 that holds one model leaves work to do. Every second one streams."""
TENANTS = ("acme", "beta", "corp")
BATCH = 50
PLAN = 5
REFUSED = "(refused)"
REVIEWS = DRAFTS = 3
OUTPUT = "uniform:8,24"
"""Words of an answer, as the fake LLM has it; each word stands for eight bits of what was asked."""

Say = Callable[[str], str]


@dataclass(frozen=True)
class Promise:
    """What is to come of a job.

    Attributes:
        name: what its prompts begin with; the job's id, and of an id that is used again, its life.
        job: the job's id.
        prompts: each of its calls, once.
        result: what it returns.
        error: of which type the error is that ends it, where it is to fail.
        kind: what is done to it: ``""`` nothing, ``reviewed``, ``refused`` at first, ``deployed``: its agent
            has other code meanwhile; ``first`` and ``second`` life of an id, ``stopped``: a first life that
            somebody ends.
    """

    name: str
    job: str
    model: str
    tenant: str
    prompts: tuple[str, ...]
    result: str
    error: str = ""
    kind: str = ""


@dataclass(frozen=True)
class Batch:
    """Jobs that are submitted together, and the order between them, if there is one."""

    jobs: list[JobSpec]
    plan: Plan | None = None
    id: str = ""

    def submit(self, fleet: Fleet) -> None:
        """Safe to repeat: ids are given."""
        if self.plan is not None:
            fleet.submit_plan(self.plan, id=self.id)
        else:
            fleet.submit_many(self.jobs)


def says(seed: int, prompt: str) -> str:
    """What the fake LLM answers to a prompt."""
    mark = fingerprint(seed, [{"role": "user", "content": prompt}])
    return seeded(mark, Uniform(8, 24), None, False).text


class Load:
    """All jobs of a run, drawn from its seed.

    Attributes:
        batches: what a producer submits, in this order.
        refused: jobs that fail until the provider does not refuse them any more, and are to be retried.
        lives: ids that are used twice: the first job and the second.
        before: what a producer of the release before this one submits, see ``tests.chaos.before``.
        promises: what is to come of all of them, by name.
    """

    def __init__(self, jobs: int, seed: int, trace: str, odd: int, before: int = 0) -> None:
        self.promises: dict[str, Promise] = {}
        self.refused: list[JobSpec] = []
        self.lives: list[tuple[JobSpec, JobSpec]] = []
        self._trace = trace
        self._say: Say = functools.partial(says, seed)
        self._dice = random.Random(seed)
        self._kinds = {
            n: {m: prompts(f"reciter-{n}-{m}", verses(n), model=m) for m in MODELS} for n in range(3, 9)
        }
        self.batches = [*self._odd_ones(odd), *self._main(jobs)] if odd else list(self._main(jobs))
        self.before = list(self._of_the_release_before(before))

    def _main(self, jobs: int) -> Iterator[Batch]:
        """Every kind of job under every order: half alone, the rest in plans, of three tenants."""
        number = 0
        while number < jobs:
            part = [self._job(n) for n in range(number, min(jobs, number + BATCH))]
            alone, ordered = part[: len(part) // 2], part[len(part) // 2 :]
            if alone:
                yield Batch(alone)
            for at in range(0, len(ordered), PLAN):
                members = ordered[at : at + PLAN]
                order = (fifo, fixed, agent_first)[at // PLAN % 3]
                yield Batch(members, order(members, on_failure="continue"), f"plan-{members[0].id}")
            number += len(part)

    def _job(self, number: int) -> JobSpec:
        id, model = f"job-{number:05d}", self._dice.choice(MODELS)
        tenant = TENANTS[number % len(TENANTS)]
        if self._dice.random() < 0.5:
            return self._reciter(id, id, self._dice.randint(3, 8), model, tenant)
        made = branching.job(**self._branching(id, model, tenant), id=id, tenant=tenant)
        return made.within(priority=number % 10)

    def _branching(self, id: str, model: str, tenant: str) -> dict[str, Any]:
        """What such a job is given."""
        branches = self._dice.randint(1, 5)
        first = f"{id}: what is to be done?"
        parts = [f"{id}: do part {n} of {self._say(first)}{LONG}{LONG}" for n in range(branches)]
        last = f"{id}: sum up {' / '.join(map(self._say, parts))}"
        self._promise(id, id, model, tenant, [first, *parts, last], self._say(last))
        return {"name": id, "model": model, "branches": branches, "trace": self._trace}

    def _of_the_release_before(self, count: int) -> Iterator[tuple[str, list[dict[str, Any]]]]:
        """Half alone, half in plans: the plan's id or "", and jobs as JSON can say them."""
        for first in range(0, count, PLAN):
            jobs = []
            for number in range(first, min(count, first + PLAN)):
                id, model = f"before-{number:04d}", self._dice.choice(MODELS)
                tenant = TENANTS[number % len(TENANTS)]
                given = self._branching(id, model, tenant)
                jobs.append({"agent": "branching", "given": given, "where": {"id": id, "tenant": tenant}})
            yield (f"plan-before-{first:04d}" if first // PLAN % 2 else ""), jobs

    def _odd_ones(self, count: int) -> Iterator[Batch]:
        """So many of each: tools that raise, reviews, deploys, refused calls, ids that are used again."""
        ways = [(what, loop, caught) for what in RAISED for loop in (False, True) for caught in (False, True)]
        yield Batch([self._raising(f"raising-{n:04d}", *ways[n % len(ways)]) for n in range(count)])
        yield Batch([self._reviewing(f"reviewed-{n:04d}") for n in range(count)])
        yield Batch([self._deployed(f"deployed-{n:04d}") for n in range(count)])
        self.refused = [self._refusing(f"refused-{n:04d}") for n in range(count)]
        self.lives = [self._twice(f"again-{n:04d}", n) for n in range(count)]

    def _raising(self, id: str, what: str, of_a_loop: bool, caught: bool) -> JobSpec:
        model, begin = self._dice.choice(MODELS), f"{id}: begin"
        more = f"{id}: go on after {self._say(begin)}"
        asked, error = ([begin, more], "") if caught else ([begin], "ToolError")
        self._promise(id, id, model, "acme", asked, self._say(more), error=error)
        return raising.job(
            name=id,
            model=model,
            what=what,
            of_a_loop=of_a_loop,
            caught=caught,
            trace=self._trace,
            id=id,
            tenant="acme",
        )

    def _reviewing(self, id: str) -> JobSpec:
        model, asked = self._dice.choice(MODELS), [f"{id}: a draft"]
        for n in range(REVIEWS):
            asked.append(f"{id}: a draft after {review(id, n)} of {self._say(asked[-1])}")
        self._promise(id, id, model, "beta", asked, self._say(asked[-1]), kind="reviewed")
        return reviewing.job(name=id, model=model, reviews=REVIEWS, id=id, tenant="beta")

    def _deployed(self, id: str) -> JobSpec:
        model, asked = self._dice.choice(MODELS), [f"{id}: a draft"]
        for n in range(DRAFTS):
            asked.append(f"{id}: a draft {n} after {self._say(asked[-1])}")
        self._promise(id, id, model, "acme", asked, self._say(asked[-1]), kind="deployed")
        return deployed.job(name=id, model=model, calls=DRAFTS, id=id, tenant="acme")

    def _refusing(self, id: str) -> JobSpec:
        model, parts = self._dice.choice(MODELS), self._dice.randint(2, 5)
        asked = [f"{id}: part {n}{f' {REFUSED}' * (n % 2)}" for n in range(parts)]
        self._promise(id, id, model, "corp", asked, " / ".join(map(self._say, asked)), kind="refused")
        return refusing.job(name=id, model=model, parts=parts, id=id, tenant="corp")

    def _twice(self, id: str, number: int) -> tuple[JobSpec, JobSpec]:
        """The same agent, model and number of calls: only the texts and the tenant tell the lives apart."""
        model, calls, code = self._dice.choice(MODELS), self._dice.randint(3, 6), number % 2 == 0
        kind = "stopped" if number % 3 == 0 else "first"
        one, two = f"{id} of life 1", f"{id} of life 2"
        if code:
            return (
                self._following(one, id, calls, model, "acme", kind),
                self._following(two, id, calls, model, "beta", "second"),
            )
        return (
            self._reciter(one, id, calls, model, "acme", kind),
            self._reciter(two, id, calls, model, "beta", "second"),
        )

    def _following(self, name: str, id: str, calls: int, model: str, tenant: str, kind: str) -> JobSpec:
        asked: list[str] = []
        for n in range(calls):
            said = self._say(asked[-1]) if asked else ""
            asked.append(f"{name}: call {n} after {said}{LONG}{LONG}")
        self._promise(name, id, model, tenant, asked, self._say(asked[-1]), kind=kind)
        return following.job(name=name, calls=calls, model=model, id=id, tenant=tenant)

    def _reciter(self, name: str, id: str, count: int, model: str, tenant: str, kind: str = "") -> JobSpec:
        asked: list[str] = []
        for verse in verses(count):
            asked.append(verse.format(input=name, previous=self._say(asked[-1]) if asked else ""))
        self._promise(name, id, model, tenant, asked, self._say(asked[-1]), kind=kind)
        return self._kinds[count][model].job(input=name, id=id, tenant=tenant)

    def _promise(
        self, name: str, job: str, model: str, tenant: str, asked: list[str], result: str, **more: str
    ) -> None:
        self.promises[name] = Promise(name, job, model, tenant, tuple(asked), result, **more)


def review(id: str, number: int) -> str:
    """What a reviewer sends to a job."""
    return f"review {number} of {id}"


def verses(count: int) -> list[str]:
    """The prompts of an agent that is data."""
    return ["{input}: verse 0", *(f"{{input}}: verse {n} after {{previous}}" for n in range(1, count))]
