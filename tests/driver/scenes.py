"""Scenes: a few moves, one behind the other, that chance alone brings together too seldom.

Each leads to a place where verbs have to tell what looks alike; who and what comes there is chance as ever,
and between the moves all is looked at.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from aios_dist.journal import NewJob
from aios_dist.model.jobs import Kind
from tests.driver.core import Held
from tests.driver.model import MOST_SIGNALS
from tests.driver.producers import SIGNALS
from tests.driver.seen import OPEN
from tests.driver.sending import LANES, short
from tests.driver.workers import SERVES

if TYPE_CHECKING:
    from tests.driver.driver import Driver

MOST_AHEAD = 15
"""Steps that are claimed to come to one that waits behind them."""


def drains(d: Driver) -> None:
    """A worker that cannot work takes steps and gives them back, again and again."""
    lane = d.random.choice(LANES)
    for _ in range(d.random.randint(2, 5)):
        if (got := _take(d, lane)) is None:
            return
        d.held.remove(got)
        d.release(got, nothing=d.random.random() < 0.9)
        d.look()


def impatient(d: Driver) -> None:
    """Somebody sends a job signal upon signal that it does not wait for."""
    if (id := d.some_job(*OPEN)) is not None:
        name = d.random.choice(SIGNALS)
        for _ in range(d.random.randint(1, 2 * MOST_SIGNALS)):
            d.send(id, name)
            d.look()


def again_under_its_id(d: Driver) -> None:
    """A job expires, the same is submitted under its id; who slept with a claim of the first one wakes up."""
    asleep = [
        got
        for got in [*d.held, *d.dead]
        if got.claim.job in d.model.jobs
        and not d.model.jobs[got.claim.job].plan
        and (asked := d.asked.get(got.claim.job)) is not None
        and got.claim.step in {str(n) for n in range(len(asked.steps))}
        and not any(
            got.claim.job == m for nodes in d.model.plans.values() for node in nodes for m in node.members
        )
    ]
    if not d.reuse or not asleep:
        return
    id = d.random.choice(asleep).claim.job
    asleep = [got for got in asleep if got.claim.job == id]
    _cancel(d, id)
    _lapse(d, id)
    d.say(f"{id} expires")
    d.vanish(id, reuse=False)
    d.look()
    again = d.newborn()
    new = NewJob(id, again.record, d.asked[id], budget=again.budget, priority=again.priority)
    d.say(f"submit {short(new)}, once more")
    d.expect(d.run(d.journal.submit([new])).new, [True])
    d.again.add(id)
    d.model.submit([new])
    d.look()
    d.renew_these(asleep)


def claimed_again(d: Driver) -> None:
    """Redis is put back to before some claims; the steps are claimed again, by others, who let go of them."""
    if not d.rollback:
        return
    lane = d.random.choice(LANES)
    d.save()
    first = _several(d, lane)
    d.put_back()
    d.look()
    second = _several(d, lane)
    for got in second:
        if d.random.random() < 0.5:
            d.held.remove(got)
            d.release(got)
        else:
            d.say(f"lapse {got.claim.lease}")
            d.fleet.score("leases", [got.claim.lease])
        d.look()
    d.fleet.forget_outage()
    d.look()
    d.reap()
    d.look()
    d.renew_these(first)


def admitted_again(d: Driver) -> None:
    """Redis is put back to before a plan admitted a job: its answers come all the same, then its turn."""
    if not (waiting := _not_admitted(d)):
        d.plan()
        d.look()
        waiting = _not_admitted(d)
    if not d.rollback or not waiting:
        return
    id = d.random.choice(waiting)
    lane = d.random.choice(sorted(_lanes(d, id)))
    d.save()
    _make_way(d, id)
    for _ in range(MOST_AHEAD):
        if (got := d.take(lane, "wa")) is None or got.claim.job == id:
            break
        d.look()
    d.put_back()
    d.look()
    if got is not None:
        d.held.remove(got)
        d.commit(got, True)
        d.look()
    _make_way(d, id)


def retried(d: Driver) -> None:
    """A job ends of which a step has failed, and others were answered after that; it is retried."""
    ids = [
        id
        for id, job in d.model.jobs.items()
        if job.state in ("running", "paused", "failed", "cancelled")
        and any(s.state == "failed" and s.order < job.written for s in job.steps)
    ]
    if (id := d.random.choice(ids) if ids else _fail_one_of_two(d)) is not None:
        _cancel(d, id)
        d.retry_this(id)


def its_code_is_back(d: Driver) -> None:
    """A job parks (or a worker has its code), perhaps it is paused besides; then its code is there again."""
    parked = [id for id, job in d.model.jobs.items() if job.parked]
    ran = [id for id, job in d.model.jobs.items() if job.state == "running" and job.code]
    if not parked and ran:
        id = d.random.choice(ran)
        job = d.model.jobs[id]
        d.deploy_this(job.agent, job.code, comes=d.random.random() < 0.4)
        d.look()
        d.park_this(id, "c2" if job.code == "c1" else "c1")
        d.look()
        parked = [id] if job.parked else []
    if not parked:
        return
    id = d.random.choice(parked)
    job, code = d.model.jobs[id], d.model.jobs[id].parked or ""
    if d.random.random() < 0.4:
        d.pause_this(id)
        d.look()
    d.deploy_this(job.agent, code, comes=True)
    d.look()
    d.unpark()
    d.look()


def forgets(d: Driver) -> None:
    """A job is resumed from an earlier step: what it forgets was answered, sleeps, is called, was claimed."""

    def remembered(id: str) -> list[int]:
        steps = enumerate(d.model.jobs[id].steps)
        return [n for n, s in steps if s.order or s.state in ("leased", "timed", "parked")]

    ids = [id for id, job in d.model.jobs.items() if job.state in ("running", "paused") and remembered(id)]
    if not ids:
        return
    id = d.random.choice(ids)
    job, basis = d.model.jobs[id], d.fleet.job(id).text("dg")
    if lines := d.proof(id, basis):
        raise d.broken(lines)
    if job.state == "running":
        d.pause_this(id)
        d.look()
    asleep = [got for got in d.held if got.claim.job == id and not got.claim.is_turn]
    if d.random.random() < 0.6:
        _lapse(d, id)
    if id not in d.model.jobs or job.state != "paused":
        return
    d.rewind_this(id, d.random.choice(remembered(id)))
    d.look()
    if lines := d.proof(id, d.fleet.job(id).text("dg")):
        raise d.broken(lines)
    for got in asleep:
        d.held.remove(got)
        d.commit(got, True)
        d.look()
    d.ring()
    d.look()


def _fail_one_of_two(d: Driver) -> str | None:
    """… such a job comes to be, where somebody has two steps of one: the first fails."""
    _several(d, d.random.choice(LANES))
    by_job: dict[str, list[Held]] = {}
    for got in d.held:
        if not got.claim.is_turn:
            by_job.setdefault(got.claim.job, []).append(got)
    for id, pair in by_job.items():
        if len(pair) > 1:
            for ok, got in enumerate(pair[:2]):
                d.held.remove(got)
                d.commit(got, bool(ok))
                d.look()
            return id if id in d.model.jobs else None
    return None


def _lanes(d: Driver, id: str) -> set[str]:
    """Where a job's steps are claimed."""
    return {s.lane for s in d.model.jobs[id].steps if s.kind in (Kind.LLM, Kind.TOOL)}


def _not_admitted(d: Driver) -> list[str]:
    return [id for id, job in d.model.jobs.items() if job.state == "waiting" and _lanes(d, id)]


def _take(d: Driver, lane: str) -> Held | None:
    return d.take(lane, d.random.choice([*SERVES]))


def _several(d: Driver, lane: str, most: int = 3) -> list[Held]:
    taken = []
    for _ in range(d.random.randint(1, most)):
        if (got := _take(d, lane)) is None:
            break
        taken.append(got)
        d.look()
    return taken


def _cancel(d: Driver, id: str) -> None:
    if d.model.jobs[id].state in OPEN:
        d.say(f"cancel {id}")
        d.expect(d.run(d.journal.cancel(id))[0], "cancelled")
        d.model.end(id, "cancelled")
        d.look()


def _lapse(d: Driver, id: str) -> None:
    """The leases of a job end, and the reconciler sees it."""
    names = [name for name in d.seen.one["leases"] if name.rpartition("/")[0] == id]
    if names and d.random.random() < 0.8:
        d.say(f"lapse {names}")
        d.fleet.score("leases", names)
        d.fleet.forget_outage()
        d.look()
        d.reap()
        d.look()


def _make_way(d: Driver, id: str) -> None:
    """What a job waits for in its plan is cancelled, until it is admitted or nothing more runs there."""
    plan = d.model.jobs[id].plan
    for other in list(d.model.jobs):
        if d.model.jobs[id].state != "waiting":
            return
        job = d.model.jobs[other]
        if job.plan == plan and job.state in ("running", "paused"):
            _cancel(d, other)


SCENES: dict[str, Callable[[Driver], None]] = {
    scene.__name__: scene
    for scene in (
        *(drains, impatient, again_under_its_id, claimed_again, admitted_again, retried),
        *(its_code_is_back, forgets),
    )
}
