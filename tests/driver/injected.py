"""Errors behind every write of every verb: half of it is done, and the reconciler alone puts it right.

A driver makes a journal. Before one of its moves the journal is copied; on the copy the move's verb ends with
an error behind its k-th write, for k = 1, 2, 3 … until it gets through. Then either nobody asks again (the
caller died) or the same is sent again; from there on only the reconciler, workers that claim and people who
let paused jobs go on are at work. All must be in order again, every job ends, and nothing that is answered is
called again.
"""

from __future__ import annotations

import copy
import random
from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

from aios_dist.journal import Decision
from aios_dist.journal.records import random_name
from aios_dist.model.jobs import JobState
from aios_dist.model.specs import Budget
from tests.driver.checks import wrong
from tests.driver.core import TENANTS, Broken
from tests.driver.driver import Driver
from tests.driver.fleet import Fleet
from tests.driver.patched import Change
from tests.driver.scenes import SCENES
from tests.driver.seen import OPEN, JobSeen, Seen
from tests.driver.sending import LANES, reconcile, says, send_advance, send_commit, send_signal, sweep, walk

ROUNDS = 60
"""Of workers and reconciler, in which all must have ended."""
PASSES = 4
"""Of the reconciler, after which all must be in order."""

NOT_BROKEN = {*SCENES, "corrupt"}
"""Moves that are not tried: scenes have the others' verbs, a corrupt record is wrong before any verb is."""


class Case(NamedTuple):
    """One verb that ended half-way.

    Attributes:
        move: which of the driver's.
        said: the same with its arguments.
        behind: the write behind which it ended.
        command: of that write.
        again: the same was sent again.
        broken: what is wrong afterwards; empty where nothing is.
    """

    move: str
    said: str
    behind: int
    command: str
    again: bool
    broken: list[str]


class Injector:
    """Copies of one driver's fleet to break verbs on."""

    def __init__(self, url: str, name: str, changes: Iterable[Change] = ()) -> None:
        self.probe = Fleet(url, name, changes)
        self.vanished: set[str] = set()

    def close(self) -> None:
        """Let go of the copy."""
        self.probe.close()

    def at(self, driver: Driver, move: str, *, behind: int, again: bool) -> Case | None:
        """The move with an error behind that write; None where the verb gets through."""
        clone = self._clone(driver)
        self.vanished = driver.vanished
        clone.fleet.fail_behind(behind)
        said, failed = len(clone.said), ""
        try:
            clone.play(move)
        except Broken:
            raise
        except Exception as exc:
            if "planted behind" not in str(exc):
                raise
            failed = str(exc).partition("planted behind ")[2].partition(" ")[0]
        clone.fleet.fail_behind(0)
        if not failed:
            return None
        broken = self._at_once() or self._counted(driver, clone)
        if again:
            self._again(driver, move)
            broken = broken or self._counted(driver, clone)
        broken = broken or self.recovers(driver)
        what = clone.said[-1] if len(clone.said) > said else move
        return Case(move, what, behind, failed, again, broken)

    def _at_once(self) -> list[str]:
        """What is wrong as soon as the verb has broken; the reconciler's walk may look once."""
        try:
            if lines := wrong(self.probe.look(), self.vanished):
                self.probe.run(walk(self.probe.journal))
                self.probe.run(sweep(self.probe.journal))  # (a wide job is put right in slices)
                lines = [f"at once: {line}" for line in wrong(self.probe.look(), self.vanished)]
            return lines
        except Exception as exc:
            return [f"at once: {type(exc).__name__}: {exc}"]

    def _counted(self, driver: Driver, clone: Driver) -> list[str]:
        """A call counts once where its answer stands, and not at all where it does not: with its job and
        its tenant. ``clone``: its model has the move done."""
        seen, lines = self.probe.look(), []
        spent = copy.deepcopy(driver.model.spent)
        for id, job in clone.model.jobs.items():
            if id not in seen.jobs or id not in driver.model.jobs:
                continue
            before, now = driver.model.jobs[id], seen.jobs[id]
            if before.tokens == job.tokens:
                want = before.tokens
            else:
                answered = now.paid() != driver.seen.jobs[id].paid()
                want = job.tokens if answered else before.tokens
                if answered and job.tenant in clone.model.watched:
                    of_day = spent[job.tenant, clone.model.day]
                    of_day[0] += sum(job.tokens[:2]) - sum(before.tokens[:2])
                    of_day[1] += job.tokens[3] - before.tokens[3]
            if (got := used(now)) != want:
                lines.append(f"{id} has used {got}, by its answers {want}")
        for (tenant, day), both in spent.items():
            if (got := spends(seen, tenant, day)) != tuple(both):
                lines.append(f"{tenant} has spent {got} on day {day}, by the answers {tuple(both)}")
        return lines

    def recovers(self, driver: Driver) -> list[str]:
        """What is wrong on the copy once the reconciler and workers have done what they can."""
        return list(self._recovers(driver))

    def _clone(self, driver: Driver, *, refill: bool = True) -> Driver:
        if refill:
            self.probe.refill(driver.fleet)
        clone = copy.copy(driver)
        clone.fleet, clone.journal = self.probe, self.probe.journal
        clone.random = random.Random()
        clone.random.setstate(driver.random.getstate())
        for name in (
            "model",
            "held",
            "dead",
            "decided",
            "said",
            "expected_us",
            "gone",
            "again",
            "vanished",
            "policy",
            "rules",
            "proofs",
            "older",
        ):
            setattr(clone, name, copy.deepcopy(getattr(driver, name)))
        clone.repeat, clone.lenient = False, True
        return clone

    def _again(self, driver: Driver, move: str) -> None:
        """The same choices once more, on the half-done journal; whatever it answers."""
        clone = self._clone(driver, refill=False)
        try:
            clone.play(move)
        except Broken:
            pass

    def _recovers(self, driver: Driver) -> Iterator[str]:
        fleet, before = self.probe, driver.seen
        try:
            for _ in range(PASSES):
                fleet.now += 3_000_000
                self._reconcile()
            lines = [f"in order: {line}" for line in wrong(fleet.look(), self.vanished)]
            yield from lines or self._ends(before)
        except Exception as exc:
            yield f"{type(exc).__name__}: {exc}"

    def _reconcile(self) -> None:
        fleet = self.probe
        fleet.run(reconcile(fleet.journal))
        for lane in ("llm", "far"):
            policy = fleet.run(fleet.journal.lane_rules([lane]))[lane].policy
            fleet.run(fleet.journal.rank_strays(lane, says(policy)))

    def _ends(self, before: Seen) -> Iterator[str]:
        fleet = self.probe
        outcomes = {id: job.outcomes() for id, job in fleet.look().jobs.items()}
        calls = Counter({id: job.number("uc") for id, job in fleet.look().jobs.items()})
        called: Counter[str] = Counter()
        for tenant in TENANTS:
            fleet.run(fleet.journal.set_tenant(tenant, tokens_per_day=0))
        for _ in range(ROUNDS):
            seen = fleet.look()
            open_ = {id: job for id, job in seen.jobs.items() if job.state in OPEN}
            if not open_:
                break
            for id, job in open_.items():
                if job.state == "paused":
                    fleet.run(fleet.journal.resume(id, Budget(tokens=10**9, money=1000.0)))
                for h in job.heads.values():
                    if h.state == "waiting":
                        fleet.run(send_signal(fleet.journal, id, h.label, random_name()))
            fleet.score("leases", seen.one["leases"])
            fleet.now += 31_000_000
            self._reconcile()
            for lane in LANES:
                for _ in range(4):
                    claim = fleet.run(fleet.journal.claim(lane, "wz"))
                    if claim is None:
                        break
                    job = fleet.job(claim.job)
                    if f"o{claim.step}" in job.fields:
                        yield f"{claim.lease} is answered and was called again"
                        return
                    called[claim.lease] += 1
                    calls[claim.job] += not claim.is_turn
                    self._finish(claim, job)
        for id, job in fleet.look().jobs.items():
            if job.state in OPEN:
                states = {step: h.state for step, h in job.heads.items()}
                yield f"{id} does not end: {job.state} {states}"
            for step, outcome in outcomes.get(id, {}).items():
                if job.fields.get(f"o{step}") != outcome:
                    yield f"{id}/{step} had an outcome, and has another one"
            if job.number("uc") != calls[id]:
                yield f"{id} counts {job.number('uc')} calls, and {calls[id]} were answered"
        for id in before.jobs.keys() - fleet.look().jobs.keys():
            yield f"{id} is lost"
        for claimed, times in called.items():
            if times > 1:
                yield f"{claimed} was claimed {times} times"
        for _ in range(3):
            fleet.now += 70_000_000
            fleet.forget_outage()
            fleet.score("leases", fleet.look().one["leases"])
            self._reconcile()
        now = fleet.look()
        yield from wrong(now)
        for kind in ("ready", "stray", "held", "inflight"):
            for name, members in now.sets[kind].items():
                yield f"{kind}:{name} is left over: {sorted(members)}"
        for name in ("leases", "timers", "due", "open"):
            if now.one[name]:
                yield f"{name} is left over: {sorted(now.one[name])}"
        for plan, fields in now.plans.items():
            if fields["st"] == b"running":
                yield f"plan {plan} does not end"

    def _finish(self, claim: Any, job: Any) -> None:
        fleet, n, v = self.probe, job.number("n"), job.number("v")
        if "rt" in job.fields:
            fleet.run(fleet.journal.redo(claim.job, job.text("dg"), []))
            job = fleet.job(claim.job)
        end = Decision(v + (not claim.is_turn), n, [], JobState.DONE, b"jr", job.text("dg"))
        if claim.is_turn:
            fleet.run(send_advance(fleet.journal, claim.job, end, claim))
        else:
            fleet.run(send_commit(fleet.journal, claim, b"j{}", True, (1, 1, 1, 0), None, end, True))


def used(job: JobSeen) -> tuple[float, ...]:
    """What a job has used: tokens in and out, calls, micro-money."""
    return *(job.number(field) for field in ("up", "uo", "uc")), job.money()


def spends(seen: Seen, tenant: str, day: int) -> tuple[int, float]:
    """What a tenant has spent on a day: tokens, micro-money."""
    of_day = seen.hashes["spend"].get(f"{tenant}:{day}", {})
    return int(of_day.get("tok", 0)), round(float(of_day.get("mic", 0)), 6)


def inject(
    driver: Driver, injector: Injector, *, moves: int, cases: int, every: int = 1, most: int = 10**6
) -> Iterator[Case]:
    """Let the driver go on, and break the verb of each of its moves on a copy first.

    Args:
        driver, injector: what makes the journal, and the copy.
        moves: how many moves the driver makes.
        cases: situations of each move that are tried.
        every: only each nth write.
        most: writes of one verb that are tried.
    """
    tried: Counter[str] = Counter()
    for tenant in TENANTS:  # what it spends counts from then on
        driver.run(driver.journal.set_tenant(tenant, tokens_per_day=10**9))
    for _ in range(moves):
        move = driver.next_move()
        if tried[move] < cases and move not in NOT_BROKEN:
            driver.look()
            k = 1 + driver.random.randrange(every)
            nth = 0
            while nth < most and (case := injector.at(driver, move, behind=k, again=nth % 2 == 1)):
                yield case
                nth, k = nth + 1, k + every
            tried[move] += nth > 0
        driver.make(move)
