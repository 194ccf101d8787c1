"""A driver for schedulers: many calls that wait, tenants, models, limits, holds, weights, fallbacks.

The same moves and the same checks as ``driver``, and ``promises`` besides; without what loses or corrupts
things, so that a run is about orders and limits and about nothing else.
"""

from __future__ import annotations

import random
from typing import Any

from aios_dist.journal import Claim, Decision, NewJob, RankedStep
from aios_dist.model.jobs import JobRecord, JobState, Kind, NewStep
from tests.driver.core import TENANTS, Broken, Held
from tests.driver.driver import Driver
from tests.driver.fleet import Fleet
from tests.driver.patched import Change
from tests.driver.producers import _digest
from tests.driver.promises import allowed
from tests.driver.sending import MODELS, RANKS, decided, send_commit, send_release, set_limits, short
from tests.driver.workers import REFUSALS

COSTS = (1, 5, 100)


class Scheduling(Driver):
    """Jobs of one call each; a call takes what it was said to cost, so that shares can be added up."""

    def __init__(self, fleet: Fleet, random: random.Random) -> None:
        super().__init__(fleet, random, most_open=40)
        self.rollback = self.reuse = self.repeat = False
        self.costs = random.choice([(5,), COSTS])  # (alike: then shares are exact)
        for tenant, weight in zip(TENANTS, random.choice([(1, 1, 1, 1), (1, 4, 0.5, 2)]), strict=True):
            self.run(self.journal.set_tenant(tenant, weight=float(weight)))
        if random.random() < 0.5:
            self.run(self.journal.set_lane("llm", fair="tenant"))
        self.seen = fleet.look()

    def next_move(self) -> str:
        """Which one it is to be."""
        return self.random.choices(list(WEIGHTS), list(WEIGHTS.values()))[0]

    def submit(self) -> None:
        """Some jobs of one tenant for one model, as a burst has them."""
        R = self.random
        tenant, model, count = R.choice(TENANTS), R.choice([*MODELS]), R.choice([1, 2, 6])
        if not self.room():
            return
        jobs = [self._one(tenant, model) for _ in range(count)]
        self.say(f"submit {[short(job) for job in jobs]}")
        self.expect(self.run(self.journal.submit(jobs)).new, [True] * len(jobs))
        self.again |= {job.id for job in jobs}
        self.model.submit(jobs)

    def _one(self, tenant: str, model: str) -> NewJob:
        self.numbers += 1
        self.texts += 1
        R, lane, request = self.random, MODELS[model], b'j{"messages":[{"n":%d}]}' % self.texts
        policy = self.policy[lane]
        step = NewStep(
            Kind.LLM,
            lane,
            request,
            _digest(request),
            model,
            estimate=R.choice([0, 10, 300]),
            cost=R.choice(self.costs),
        )
        decision = Decision(0, 0, [RankedStep(step, RANKS[policy], policy)])
        return NewJob(f"j{self.numbers}", JobRecord("x", {}, tenant), decision, priority=R.choice([0, 0, 5]))

    def claim(self) -> None:
        """Slots look for work on both lanes."""
        for lane in ("llm", "far"):
            for _ in range(self.random.randint(1, 3)):
                if len(self.held) > 6 or self.take(lane, "wa") is None:
                    break
                self.look()

    def take(self, lane: str, worker: str) -> Held | None:
        """A claim, judged; what it costs is charged."""
        got = super().take(lane, "wa")
        if got is not None and not got.claim.is_turn:
            self._charge(got, 1.0)
            tenant = got.claim.record.tenant
            if not allowed(self.fleet.look_without_ends(), f"@{tenant}", 0, self.fleet.now):
                self.promises.capped(tenant)
        return got

    def _charge(self, got: Held, part: float) -> None:
        h = self.fleet.job(got.claim.job).heads[got.claim.step]
        tenant, cost = got.claim.record.tenant, max(1, h.cost)
        weight = float(self.seen.hashes["tenant"].get(tenant, {}).get("w", 1))
        self.promises.charged(h.lane, tenant, part * cost / weight if part > 0 else (1 - cost) / weight)

    def _came_back(self, got: Held) -> None:
        lane = self.fleet.job(got.claim.job).heads[got.claim.step].lane
        self.promises.came_back(lane, got.claim.record.tenant)

    def counted(self, claim: Claim) -> tuple[int, int]:
        """What was charged for it, no more and no less."""
        return max(1, self.fleet.job(claim.job).heads[claim.step].cost), 0

    def commit(self, got: Held, ok: bool, decision: Decision | None = None) -> None:
        """… or nothing was."""
        if not ok:
            self._charge(got, -1.0)
        super().commit(got, ok, decision)

    def release(self, got: Held, *, nothing: bool = False) -> None:
        """… and not here either."""
        if not got.claim.is_turn:
            self._charge(got, -1.0)
            self._came_back(got)
        super().release(got, nothing=nothing)

    def work(self) -> None:
        """A call is answered, and its job is done."""
        if not self.held:
            return
        got = self.held.pop(self.random.randrange(len(self.held)))
        claim = got.claim
        h = self.fleet.job(claim.job).heads[claim.step]
        cost = max(1, h.cost)
        basis = self.fleet.job(claim.job).text("dg")
        if lines := self.proof(claim.job, basis):
            raise self.broken(lines)
        job = self.model.jobs[claim.job]
        decision = Decision(job.written + 1, len(job.steps), [], JobState.DONE, b"jr", basis)
        self.say(f"commit {claim.lease} ({got.number}) {decided(decision)}")
        self.model.now, self.model.watched = self.fleet.now, set(self.look_again().hashes["tenant"])
        usage = (cost, 0, 1, 0)
        right = self.right(claim.job, decision)
        want = self.model.commit(
            got, claim.job, claim.step, ok=True, usage=usage, decision=decision, right=right, here=True
        )
        verb = send_commit(self.journal, claim, b'j{"value":1}', True, usage, None, decision, True)
        self.expect(self.run(verb), want)

    def give_back(self) -> None:
        """A call failed: later again, the model on hold or not, or another model."""
        if not self.held:
            return
        R = self.random
        got = self.held.pop(R.randrange(len(self.held)))
        claim = got.claim
        more: dict[str, Any] = {"after": R.choice([0.0, 0.5, 30.0]), "failed": True}
        more["refusal"] = R.choice([None, *REFUSALS])
        if R.random() < 0.3:
            to = R.choice([*MODELS])
            more["to"] = (to, MODELS[to])
        self.say(f"release {claim.lease} ({got.number}) {more}")
        mine = self.model.release(
            got.number, claim.job, claim.step, failed=True, to=more.get("to"), counted=False
        )
        self._charge(got, -1.0)
        if not more["after"]:
            self._came_back(got)
        self.expect(
            self.run(send_release(self.journal, claim, more)), *([True, None] if mine else [False, None])
        )

    def limits(self) -> None:
        """Other limits of a model."""
        R, model = self.random, self.random.choice([*MODELS])
        flight, rpm, tpm = R.choice([0, 1, 2, 4]), R.choice([0, 0, 0, 6]), R.choice([0, 0, 0, 350])
        self.say(f"limits {model} {flight} {rpm} {tpm}")
        self.run(set_limits(self.journal, model, flight, rpm, tpm))

    def tenant(self) -> None:
        """Another cap or weight of a tenant."""
        R, tenant = self.random, self.random.choice(TENANTS)
        given: dict[str, Any] = R.choice(
            [{"max_in_flight": R.choice([0, 1, 2])}, {"weight": R.choice([0.5, 1.0, 4.0])}]
        )
        self.say(f"tenant {tenant} {given}")
        self.run(self.journal.set_tenant(tenant, **given))


WEIGHTS = {
    "submit": 22, "claim": 26, "work": 30, "give_back": 5, "reap": 14, "pass_time": 5, "strays": 4, "ring": 3,
    "cancel": 1.5, "pause": 1, "resume": 2, "rerank": 1, "lane": 1, "limits": 1, "tenant": 1.5, "die": 0.5,
    "renew": 1,
}  # fmt: skip
MOVES = 250

BUGS: tuple[Change, ...] = (
    Change("the oldest never has its turn", "_order",
           "  if every == 0 then return false end", "  do return false end"),
    Change("what a model holds is passed over", "claim",
           "  if not first then return 'run' end", "  if true then return 'run' end"),
    Change("a call that ends lets nobody in", "_limits",
           "  if own then later(own) end\n  later(model)\n", "  if own then later(own) end\n"),
    Change("a place of a tenant's lets nobody in", "_limits",
           "  if own then later(own) end\n  later(model)", "  later(model)"),
)  # fmt: skip
FOUND_BY: dict[str, int] = {
    "the oldest never has its turn": 3,
    "what a model holds is passed over": 1,
    "a call that ends lets nobody in": 0,
    "a place of a tenant's lets nobody in": 5,
}
"""The seed that found each bug when they were last looked for."""


def find(url: str, name: str, bug: Change, seeds: int = 12) -> tuple[int, str] | None:
    """The first seed that finds a bug, and what it says; the one that found it last time first."""
    first = FOUND_BY.get(bug.name, 0)
    for seed in (first, *(s for s in range(seeds) if s != first)):
        fleet = Fleet(url, f"{name}-{seed}", [bug])
        driver = Scheduling(fleet, random.Random(seed))
        try:
            for _ in range(MOVES):
                driver.move()
        except Broken as exc:
            return seed, str(exc).partition("\n")[0]
        finally:
            fleet.close()
    return None
