"""A fleet without processes: a journal, and a driver that plays producers, people, workers, time.

Each move is one verb (sometimes sent twice, as after a lost answer) with arguments from a ``Random``, told to
the model too; then Redis is compared with the model and with itself. The same seed is the same run.
"""

from __future__ import annotations

import copy
import traceback

from aios_dist.agents import Budget
from aios_dist.jobs import JobState
from aios_dist.journal import Decision
from tests.driver.core import Broken, Held
from tests.driver.people import People
from tests.driver.seen import ENDED, OPEN, lease_of
from tests.driver.sending import LANES, RANKS, reconcile, says, send_advance, send_signal
from tests.driver.workers import Workers


class Driver(People, Workers):
    """All of them, time and the reconciler."""

    def move(self) -> None:
        """One move, and a look."""
        self.make(self.next_move())

    def next_move(self) -> str:
        """Which one it is to be."""
        return self.random.choices(list(WEIGHTS), list(WEIGHTS.values()))[0]

    def make(self, name: str) -> None:
        """That move, and a look.

        Raises:
            Broken: something does not hold.
        """
        self.fleet.now += self.random.choice([3, 40, 1000, 20_000])
        said = len(self.said)
        try:
            getattr(self, name)()
        except Broken:
            raise
        except Exception as exc:
            where = traceback.extract_tb(exc.__traceback__)[-1]
            what = f"{type(exc).__name__}: {exc} ({where.filename.rpartition('/')[2]}:{where.lineno})"
            raise self.broken([f"{self.said[-1] if self.said else name}: {what}"]) from exc
        if len(self.said) > said:
            self.moves[name] += 1
            if len(self.said) % self.every == 0 or name in FOLLOWED:
                self.look()

    # Time and the reconciler -----------------------------------------------------------------------

    def ring(self) -> None:
        """The time of a timer, or of a turn that is due, has come."""
        for name in ("timers", "due"):
            members = [m for m in sorted(self.seen.one[name]) if self.random.random() < 0.5]
            if members:
                self.say(f"ring {name} {members}")
                self.fleet.score(name, members)

    def pass_time(self) -> None:
        """A moment, a minute, rarely a day."""
        seconds = self.random.choices([0.3, 1, 6, 31, 61, 700, 86400], [8, 8, 6, 4, 3, 1, 0.3])[0]
        self.say(f"{seconds} s pass")
        self.fleet.now += int(seconds * 1e6)

    def reap(self) -> None:
        """One pass of the reconciler."""
        before, now = self.look_again(), self.fleet.now
        self.say("reap")
        self.run(reconcile(self.journal))
        model, one = self.model, before.one
        if now >= before.spare(now, self.fleet.config):
            for name, at in sorted(one["leases"].items(), key=lambda e: (e[1], e[0])):
                lease = lease_of(name)
                s = model.step(lease.job, lease.step)
                if at <= now and s is not None and s.state == "leased":
                    model.lost(lease.job, lease.step, self.fleet.config.attempts)
        for m, at in sorted(one["timers"].items(), key=lambda e: (e[1], e[0])):
            id, _, step = m.rpartition("/")
            s = model.step(id, step) if step != "!" else None
            if at <= now and s is not None and s.state == "timed":
                model.outcome(id, s, True)
                model.need_turn(id)
        for id, at in sorted(one["deadlines"].items(), key=lambda e: (e[1], e[0])):
            if at <= now:
                model.end(id, "failed")
        for id, at in one["due"].items():
            if at <= now and id in model.jobs and model.jobs[id].state == "running":
                model.need_turn(id)
        for id, job in model.jobs.items():
            if job.state == "running" and len(job.steps) <= job.written and id not in self.fleet.due():
                model.need_turn(id)

    def strays(self) -> None:
        """The reconciler ranks anew; sometimes one that has not heard of the latest rules."""
        lane = self.random.choice(["llm", "far"])
        rules = self.run(self.journal.lane_rules([lane]))[lane]
        policy = rules.policy if self.random.random() < 0.8 else self.random.choice([*RANKS])
        self.say(f"strays {lane} as {policy}")
        self.moved = True
        self.run(self.journal.rank_strays(lane, says(policy)))
        if policy == rules.policy:
            now = self.fleet.look_without_ends()
            left = [*now.sets["stray"].get(lane, ()), *now.sets["astray"].get(lane, ())]
            if left:
                raise self.broken([f"ranked anew, and astray are still {left}"])

    def expire(self) -> None:
        """Retention is over for a job that has ended."""
        kept = {
            m for plan, nodes in self.model.plans.items() if self.model.plan_state(plan) == "running"
            for node in nodes for m in node.members
        }  # fmt: skip
        ids = [
            id
            for id, job in self.model.jobs.items()
            if job.state in ENDED and id not in kept and not job.in_flight()
        ]
        if not ids:
            return
        known = {got.claim.job for got in [*self.held, *self.dead]}  # to workers that have slept that long
        id = self.random.choice([id for id in ids if id in known] or ids)
        self.say(f"{id} expires")
        prefix = self.fleet.prefix
        self.fleet.client.delete(f"{prefix}job:{id}", f"{prefix}ev:{id}")
        self.fleet.client.zrem(f"{prefix}ended", id)
        self.model.forget(id)
        self.decided.pop(id, None)
        self.expected_us.pop(id, None)
        self.gone.append(id)

    def save(self) -> None:
        """Redis writes its snapshot."""
        if self.rollback:
            self.say("save")
            self.look()
            self.fleet.save()
            kept = (self.model, self.decided, self.expected_us, self.policy)
            self.saved = (*copy.deepcopy(kept), self.fleet.last_end, frozenset(self.model.jobs))

    def restore(self) -> None:
        """Redis dies and comes back as it was saved; workers hold what they hold."""
        if not self.rollback or self.saved is None or self.random.random() < 0.5:
            return
        self.say("restore")
        self.fleet.restore()
        *kept, self.fleet.last_end, ids = self.saved
        self.gone += [id for id in self.model.jobs if id not in ids and id[0] == "j"]
        self.model, self.decided, self.expected_us, self.policy = kept
        self.gone = [id for id in dict.fromkeys(self.gone) if id not in self.model.jobs]
        self.saved = None
        self.seen = self.fleet.look_without_ends()

    # The end ---------------------------------------------------------------------------------------

    def drain(self, most: int = 400) -> None:
        """Workers and the reconciler do their work from here on: every job ends, nothing is left over.

        Raises:
            Broken: something does not hold, or does not end.
        """
        self.say("drain")
        for _ in range(most):
            if not any(job.state in OPEN for job in self.model.jobs.values()):
                break
            for id, job in list(self.model.jobs.items()):
                if job.state == "paused":
                    self._give(id)
                waits = {s.label for s in job.steps if s.state == "waiting"}
                for name in sorted(waits):
                    self.say(f"signal {id} {name}")
                    self.expect(self.run(send_signal(self.journal, id, name)), self.model.signal(id, name))
            self.fleet.now += 31_000_000
            self.held.clear()
            self.fleet.score("leases", self.look().one["leases"])
            self.look()
            self.reap()
            self.look()
            for lane in ("llm", "far"):
                self.run(
                    self.journal.rank_strays(
                        lane, says(self.run(self.journal.lane_rules([lane]))[lane].policy)
                    )
                )
                self.moved = True
            for lane in LANES:
                for _ in range(3):
                    if (got := self.take(lane, "wz")) is None:
                        break
                    self.held.remove(got)
                    self._finish(got)
                    self.look()
        else:
            left = {id: job for id, job in self.model.jobs.items() if job.state in OPEN}
            raise self.broken([f"these do not end: {left}"])
        for _ in range(3):
            self.fleet.now += 70_000_000
            self.fleet.forget_outage()
            self.fleet.score("leases", self.seen.one["leases"])
            self.look()
            self.reap()
            self.look()
        now = self.seen
        left = [
            f"{kind}:{name} is left over: {sorted(members)}"
            for kind in (
                "ready",
                "readyby",
                "readyold",
                "stray",
                "held",
                "heldby",
                "heldold",
                "inflight",
                "astray",
            )
            for name, members in now.sets[kind].items()
            if members and kind != "astray"
        ]
        left += [
            f"{name} is left over: {sorted(now.one[name])}"
            for name in ("leases", "timers", "due", "open", "dirty")
            if now.one[name]
        ]
        left += [
            f"plan {p} is {self.model.plan_state(p)}"
            for p in self.model.plans
            if self.model.plan_state(p) == "running"
        ]
        if left:
            raise self.broken(left)

    def _give(self, id: str) -> None:
        job = self.model.jobs[id]
        self.say(f"resume {id} with all that it wants")
        for tenant in (job.tenant,):
            self.run(self.journal.set_tenant(tenant, tokens_per_day=0))
        job.budget = (10**9, 10**9, job.budget[2])
        self.model.resume(id)
        self.expect(self.run(self.journal.resume(id, Budget(tokens=10**9, money=1000.0)))[0], "running")

    def _finish(self, got: Held) -> None:
        claim = got.claim
        job = self.model.jobs[claim.job]
        decision = Decision(job.written + (not claim.is_turn), len(job.steps), [], JobState.DONE, b"jr")
        if claim.is_turn:
            self.say(f"advance {claim.lease} to the end")
            want = self.model.advance(got.number, claim.job, decision)
            self.expect(self.run(send_advance(self.journal, claim.job, decision, claim)), want)
        else:
            self.commit(got, True, decision)


WEIGHTS = {
    "submit": 9, "plan": 3, "extend": 2, "claim": 20, "work": 22, "go_on": 4, "give_back": 9, "die": 4,
    "stall": 2.5, "late": 4, "renew": 5, "reap": 9, "ring": 6, "pass_time": 4, "strays": 2.5, "cancel": 1,
    "pause": 3, "resume": 3, "signal": 5, "rerank": 3, "retry": 2.5, "fork": 1.5, "lane": 1.5, "limits": 1.5,
    "tenant": 1.5, "expire": 4, "save": 1, "restore": 1.5,
}  # fmt: skip
FOLLOWED = frozenset({"retry", "strays"})
"""Moves that are looked at each, however seldom the others are."""
