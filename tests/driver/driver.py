"""A fleet without processes: a journal, and a driver that plays producers, people, workers, time.

Each move is one verb (sometimes sent twice, as after a lost answer) with arguments from a ``Random``, told to
the model too; then Redis is compared with the model and with itself. The same seed is the same run.
"""

from __future__ import annotations

import copy
import traceback

from aios_dist.journal import Decision, WorkerInfo
from aios_dist.model.jobs import JobState
from aios_dist.model.specs import Budget
from tests.driver.core import TENANTS, Broken, Held
from tests.driver.people import People
from tests.driver.producers import AGENTS, MOST_STEPS
from tests.driver.promises import idle_room
from tests.driver.scenes import SCENES
from tests.driver.seen import ENDED, OPEN, TURN, lease_of
from tests.driver.sending import LANES, MODELS, RANKS, reconcile, says, send_advance, send_signal, sweep
from tests.driver.workers import SERVES, Workers


class Driver(People, Workers):
    """All of them, time and the reconciler."""

    def move(self) -> None:
        """One move, and a look."""
        self.make(self.next_move())

    def next_move(self) -> str:
        """Which one it is to be."""
        weights = WITH_DEPLOYS if self.deploys else WITH_SCENES if self.scenes else WEIGHTS
        return self.random.choices(list(weights), list(weights.values()))[0]

    def make(self, name: str) -> None:
        """That move, and a look.

        Raises:
            Broken: something does not hold.
        """
        self.fleet.now += self.random.choice([3, 40, 1000, 20_000])
        self.model.now = self.fleet.now
        said = len(self.said)
        if name not in SAME_RULES:
            self.promises.forget(shares=name not in SAME_SHARES)
        try:
            self.play(name)
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

    def play(self, name: str) -> None:
        """That move or scene, whatever comes of it."""
        if name in SCENES:
            SCENES[name](self)
        else:
            getattr(self, name)()

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

    def _judge_pass(self, found: list[tuple[str, str]], waiting: dict[str, int], aside: str) -> None:
        """It puts right what is broken, and nothing else; what waits is counted, and nothing for ever."""
        after = self.fleet.look_without_ends()
        lines = [
            f"put right, where no verb broke: {job}: {what}"
            for job, what in found
            if job not in self.loose(aside)
        ]
        counted = dict.fromkeys(LANES, 0)
        for id, job in after.jobs.items():
            for step, h in job.heads.items():
                for kind, name in after.places().get(f"{id}/{step}", ()):
                    need = name.partition("|")[0][1:]
                    code = need[5:] if need[:5] == "code/" else ""
                    by = (f"has/{code}", f"agent/{code.partition('@')[0]}") if code else (need,)
                    served = any(after.one["serving"].get(one, 0) > self.fleet.now for one in by)
                    if kind in ("ready", "stray") or (kind == "held" and name[0] == "?" and served):
                        counted[h.lane] += 1
        if waiting and waiting != counted and not self.vanished and not aside:
            lines.append(f"counted as waiting were {waiting}, there wait {counted}")
        if not self.vanished and not aside:
            lines += idle_room(after, self.fleet.now)
        for lane, rules in self.rules.items():
            if after.lane(lane) != rules:
                lines.append(f"lane {lane} has the rules {after.lane(lane)}, {rules} were said")
        for model, leases in after.sets["inflight"].items():
            lines += [f"{m} counts against {model}" for m in leases if m in self.vanished]
        if lines:
            raise self.broken(lines)

    def loose(self, aside: str) -> set[str]:
        """What the walk may find: models that something counted against which is gone, the job set aside."""
        return {aside, *MODELS, *(f"@{t}" for t in TENANTS)} if self.vanished or aside else set()

    def corrupt(self) -> None:
        """Something is written over a part of a job: it is set aside, and the others go on."""
        R = self.random
        now = self.fleet.now  # (one past its deadline ends by that)
        ids = [
            id
            for id, job in self.model.jobs.items()
            if job.state in OPEN and not job.plan and (job.due_by is None or job.due_by > now)
            and "sw" not in self.fleet.job(id).fields
        ]  # fmt: skip
        if not ids or R.random() < 0.5:
            return
        id = R.choice(ids)
        fields = [f"h{s}" for s in sorted(self.fleet.job(id).heads) if s != TURN]  # (a turn is made anew)
        field = R.choice(["n", "n", *fields])
        rubbish = {"n": b"x"}.get(field, R.choice([b"\xc1", b"\x93\x01\x02\x03", b""]))
        self.say(f"corrupt {id} {field} {rubbish!r}")
        self.fleet.client.hset(f"{self.fleet.prefix}job:{id}", field, rubbish)
        self.seen = self.fleet.look_without_ends()
        self.reap(aside=id)
        state, why = self.fleet.job(id).state, self.fleet.client.hget(f"{self.fleet.prefix}aside", id)
        if state != "failed" or not why:
            raise self.broken([f"{id} cannot be read, and is {state}, set aside because {why!r}"])
        self.model.end(id, "failed")
        self.vanish(id, reuse=False)

    def reap(self, aside: str = "") -> None:
        """One pass of the reconciler. ``aside``: the job that it cannot read."""
        before, now = self.look_again(), self.fleet.now
        late = {id for id, job in self.model.jobs.items() if job.due_by is not None and job.due_by <= now}
        jobs = copy.deepcopy({id: self.model.jobs[id] for id in late})
        waited = {id: job for id, job in jobs.items() if job.state == "waiting"}
        self.say("reap")
        found, waiting = self.fleet.run(reconcile(self.journal))  # (… nor behind this, which counts)
        if not self.lenient:
            self._judge_pass(found, waiting, aside)
        model, one = self.model, before.one
        if now >= before.spare(now, self.fleet.config):
            for name, at in sorted(one["leases"].items(), key=lambda e: (e[1], e[0])):
                lease = lease_of(name)
                s = model.step(lease.job, lease.step)
                theirs = name in self.vanished  # of a job that had this id before
                if at <= now and s is not None and s.state == "leased" and not theirs and lease.job != aside:
                    model.lost(lease.job, lease.step, self.fleet.config.attempts)
                    job = before.jobs[lease.job]
                    self.promises.came_back(job.heads[lease.step].lane, job.tenant)
        for m, at in sorted(one["timers"].items(), key=lambda e: (e[1], e[0])):
            id, _, step = m.rpartition("/")
            s = model.step(id, step) if step != "!" else None
            if at <= now and s is not None and s.state == "timed" and id != aside:
                model.outcome(id, s, True)
                model.need_turn(id)
        for id, at in sorted(one["deadlines"].items(), key=lambda e: (e[1], e[0])):
            if at <= now and id != aside:
                model.end(id, "failed")
        for id, job in waited.items():  # its plan came to it in this pass too: which was first is one as well
            if model.jobs[id].written and not self.fleet.job(id).fields.get("v"):
                model.jobs[id] = job.ended_as("failed")
        for id in late:  # its plan stopped in this pass too: which of both ends it is a matter of slices
            if (
                id in model.jobs
                and model.jobs[id].state == "cancelled"
                and self.fleet.job(id).state == "failed"
            ):
                model.jobs[id].state = "failed"
                model.ended[model.ended.index(("job", id, "cancelled"))] = ("job", id, "failed")
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
        if len(self.said) % 2:  # who set other rules has died, or gathers yet
            self.run(self.journal.gather([lane]))
        before = self.fleet.look_without_ends()
        self.fleet.run(self.journal.rank_strays(lane, says(policy)))  # (no step follows its job behind that)
        now = self.fleet.look_without_ends()
        if before.comes(lane):
            if before.sets["stray"].get(lane) != now.sets["stray"].get(lane):
                raise self.broken(["ranked before all was gathered"])
        elif policy == now.lane(lane)[0]:
            left = [*now.sets["stray"].get(lane, ()), *now.sets["astray"].get(lane, ())]
            if left:
                raise self.broken([f"ranked anew, and astray are still {left}"])

    def expire(self) -> None:
        """Retention is over for a job that has ended."""
        kept = {
            m for plan, nodes in self.model.plans.items() if self.model.plan_state(plan) == "running"
            for node in nodes for m in node.members
        }  # fmt: skip
        in_flight = self.random.random() < 0.3
        ids = [
            id
            for id, job in self.model.jobs.items()
            if job.state in ENDED and id not in kept and job.in_flight() == in_flight
            and "sw" not in self.fleet.job(id).fields
        ]  # fmt: skip
        if not ids:
            return
        known = {got.claim.job for got in [*self.held, *self.dead]}  # to workers that have slept that long
        id = self.random.choice([id for id in ids if id in known] or ids)
        self.say(f"{id} expires")
        self.vanish(id)

    def vanish(self, id: str, *, reuse: bool = True) -> None:
        """Nothing is left of the job; ``reuse``: its id may be used again."""
        self.fleet.run(sweep(self.journal))  # (before that it does not begin to expire)
        prefix = self.fleet.prefix
        leases = [*self.fleet.look_without_ends().one["leases"]]
        self.vanished |= {id, *(name for name in leases if name.rpartition("/")[0] == id)}
        self.fleet.client.delete(f"{prefix}job:{id}", f"{prefix}ev:{id}")
        self.fleet.client.zrem(f"{prefix}ended", id)  # … and what else the reconciler drops with its time
        self.fleet.client.zrem(f"{prefix}dead", *(f"{id}/{step}" for step in (TURN, *range(MOST_STEPS + 3))))
        self.model.forget(id)
        self.decided.pop(id, None)
        self.expected_us.pop(id, None)
        self.gone += [id] * reuse

    def announce(self) -> None:
        """A worker says what it serves; somebody says what nobody understands."""
        R, worker = self.random, self.random.choice([*SERVES])
        models, agents = SERVES[worker] or (tuple(MODELS), AGENTS)
        self.say(f"{worker} announces {models} {agents}")
        info = WorkerInfo(
            id=worker, host="h", pid=1, pool="p", lanes=[*LANES], slots=1, models=[*models], agents=[*agents],
            seen_at=self.fleet.now / 1e6,
        )  # fmt: skip
        self.run(self.journal.announce(info, {m: MODELS[m] for m in models}))
        odd = R.choice([("worker/new", b"\xc1"), ("model/m9", b"soon"), ("planet/x", b""), ("", b"")])
        self.fleet.client.hset(f"{self.fleet.prefix}registry", *odd)
        self.run(self.journal.registry())

    def save(self) -> None:
        """Redis writes its snapshot."""
        if self.rollback:
            self.say("save")
            self.look()
            self.fleet.save()
            kept = (self.model, self.decided, self.expected_us, self.policy, self.older, self.vanished)
            self.saved = (*copy.deepcopy(kept), self.fleet.last_end, frozenset(self.model.jobs))

    def restore(self) -> None:
        """Redis dies and comes back as it was saved; workers hold what they hold."""
        if self.rollback and self.saved is not None and self.random.random() >= 0.5:
            self.put_back()

    def put_back(self) -> None:
        """… for certain."""
        if not self.rollback or self.saved is None:
            return
        self.say("restore")
        self.fleet.now += 1000  # (it was away: nothing happens at the same µs once more)
        self.fleet.restore()
        *kept, self.fleet.last_end, ids = self.saved
        self.gone += [id for id in self.model.jobs if id not in ids and id[0] == "j"]
        self.model, self.decided, self.expected_us, self.policy, self.older, self.vanished = kept
        self.gone = [id for id in dict.fromkeys(self.gone) if id not in self.model.jobs]
        self.saved, self.rules = None, {}
        self.seen = self.fleet.look_without_ends()

    # The end ---------------------------------------------------------------------------------------

    def drain(self, most: int = 400) -> None:
        """Workers and the reconciler do their work from here on: every job ends, nothing is left over.

        Raises:
            Broken: something does not hold, or does not end.
        """
        self.say("drain")
        self.each = False
        for _ in range(most):
            if not any(job.state in OPEN for job in self.model.jobs.values()):
                break
            for id, job in list(self.model.jobs.items()):
                if job.state == "paused":
                    self._give(id)
                waits = {s.label for s in job.steps if s.state == "waiting"}
                for name in sorted(waits):
                    self.texts += 1
                    self.say(f"signal {id} {name}")
                    sent = f"s{self.texts}"
                    self.expect(
                        self.run(send_signal(self.journal, id, name, sent)), self.model.signal(id, name, sent)
                    )
            self.look()
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
            for name in ("leases", "timers", "due", "open", "dirty", "sweeps")
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
        if job.retried:
            self.redo(claim.job)
        basis = self.fleet.job(claim.job).text("dg")
        if lines := self.proof(claim.job, basis):
            raise self.broken(lines)
        decision = Decision(
            job.written + (not claim.is_turn), len(job.steps), [], JobState.DONE, b"jr", basis
        )
        if claim.is_turn:
            self.say(f"advance {claim.lease} to the end")
            right = self.right(claim.job, decision)
            want = self.model.advance(got.number, claim.job, decision, right=right)
            self.expect(self.run(send_advance(self.journal, claim.job, decision, claim)), want)
        else:
            self.commit(got, True, decision)


WEIGHTS = {
    "submit": 9, "plan": 3, "extend": 2, "claim": 20, "work": 22, "go_on": 4, "give_back": 9, "die": 4,
    "stall": 2.5, "late": 4, "renew": 5, "reap": 9, "ring": 6, "pass_time": 4, "strays": 2.5, "cancel": 1,
    "pause": 3, "resume": 3, "signal": 5, "rerank": 3, "retry": 2.5, "fork": 1.5, "lane": 1.5, "limits": 1.5,
    "fallbacks": 1.5, "tenant": 1.5, "expire": 4, "save": 1, "restore": 1.5, "announce": 1.5, "corrupt": 0.7,
}  # fmt: skip
WITH_SCENES = {
    **WEIGHTS, "drains": 1, "impatient": 1.5, "again_under_its_id": 2, "claimed_again": 1,
    "admitted_again": 1.5, "retried": 2,
}  # fmt: skip
WITH_DEPLOYS = {
    **WITH_SCENES, "park": 6, "rewind": 4, "unpark": 4, "deploy": 4, "pause": 6, "its_code_is_back": 4,
    "forgets": 4,
}  # fmt: skip
SAME_RULES = frozenset({
    "submit", "claim", "work", "go_on", "give_back", "renew", "signal", "cancel", "announce", "reap",
    "pass_time", "ring", "die",
})  # fmt: skip
"""Moves that let ranks, rules and limits be what they are, and bring no step that has waited before."""
SAME_SHARES = frozenset({"strays", "pause", "resume", "rerank", "limits"})
"""Others that let each tenant have had what it has had."""
FOLLOWED = frozenset({"retry", "strays"})
"""Moves that are looked at each, however seldom the others are."""
