"""A fleet without processes: one journal, and a driver that is its producers, people, workers, reconciler and time.

Each move is one verb (sometimes sent twice, as after a lost answer) with arguments from a ``Random``, told to
the model too; then Redis is compared with the model and with itself. The same seed is the same run.
"""

from __future__ import annotations

import asyncio
import copy
import random
import traceback
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import redis

from aios_dist.agents import Budget, JobSpec
from aios_dist.config import FleetConfig
from aios_dist.jobs import JobRecord, JobState, Kind, NewStep
from aios_dist.journal import Claim, Decision, Journal, NewJob, RankedStep, Stray
from aios_dist.plans import Plan, agent_first, fifo, fixed, shape
from aios_dist.policies import Rank
from tests.driver.checks import between, wrong
from tests.driver.known import FENCED
from tests.driver.model import Model, differences
from tests.driver.patched import Change, journal
from tests.driver.seen import CLOCK, DUMP, ENDED, FAIL, OPEN, TURN, JobSeen, Seen, lease_of

EPOCH = 1_767_000_000_000_000
DAY = 86_400_000_000
LEASE_S, RETENTION_S = 600.0, 30 * 86400.0
MODELS = {"m0": "llm", "m1": "llm", "m2": "far"}
LANES = ("llm", "far", "turns")
TENANTS = ("t0", "t1", "t2", "t3")
AGENTS = ("x", "y")
SIGNALS = ("go", "no")
MOST_STEPS = 7
RANKS = {
    "fifo": Rank(),
    "priority": Rank(per_priority=6e7),
    "las": Rank(1e14),
    "deadline": Rank(5e6, "submitted"),
    "round-robin": Rank(since="round", group="x"),
    "remaining": Rank(3e6),
}


class Broken(AssertionError):
    """Something does not hold: what, and the moves that led there."""


@dataclass(frozen=True)
class Held:
    """A claim in a worker's hands. ``number``: no two claims of a run have the same."""

    claim: Claim
    number: int


class Fleet:
    """A journal of its own on a server, its clock, and the way to look at all of it."""

    def __init__(self, url: str, name: str, changes: Iterable[Change] = (), attempts: int = 3) -> None:
        self.config = FleetConfig(
            name=name, redis_url=url, lease=LEASE_S, renew=200.0, reconcile=2.0, attempts=attempts,
            retention=RETENTION_S,
        )  # fmt: skip
        self.client = redis.Redis.from_url(url, socket_timeout=20)
        self.runner = asyncio.Runner()
        self.journal: Journal = self.runner.run(self._open(list(changes)))
        self.prefix = self.journal.keys.prefix
        self.now = EPOCH
        self.last_end = "0-0"
        self._dump = self.client.register_script(DUMP)
        self._seen: Seen | None = None

    async def _open(self, changes: list[Change]) -> Journal:
        return journal(self.config, changes)

    def run(self, verb: Any) -> Any:
        """Run a verb to its end, at the fleet's time."""
        self.client.set(self.prefix + CLOCK, self.now)
        return self.runner.get_loop().run_until_complete(verb)

    def fail_behind(self, writes: int) -> None:
        """The next verb ends with an error behind so many writes; 0: none does."""
        self.client.set(self.prefix + FAIL, writes)

    def look(self) -> Seen:
        """All of it, as it is now."""
        seen = self.look_without_ends()
        if seen.ends:
            self.last_end = seen.ends[-1][0]
        return seen

    def look_without_ends(self) -> Seen:
        """The same, and the stream of ends is still to be read."""
        self._seen = Seen(self._dump(args=[self.prefix, self.last_end]), self.prefix, self._seen)
        return self._seen

    def job(self, id: str) -> JobSeen:
        """One job, as it is now."""
        found = self.client.hgetall(f"{self.prefix}job:{id}")
        return JobSeen([part for pair in found.items() for part in pair])

    def forget_outage(self) -> None:
        """Nobody was away for long: ended leases are taken at once (docs/how-it-runs.md, 9)."""
        self.client.delete(self.prefix + "beat")

    def due(self) -> set[str]:
        """Jobs whose turn is due."""
        return {m.decode() for m in self.client.zrange(self.prefix + "due", 0, -1)}

    def score(self, name: str, members: Iterable[str], score: float = 1) -> None:
        """The time of these has come: in a sorted set without a name."""
        for member in members:
            self.client.zadd(self.prefix + name, {member: score}, xx=True)

    def refill(self, other: Fleet) -> None:
        """Become what another fleet is now."""
        self._drop(self.prefix)
        self._copy(other.prefix, self.prefix)
        self.now, self.last_end = other.now, other.last_end

    def save(self) -> None:
        """Keep all as it is now, as a snapshot on disk does."""
        self._drop("saved:" + self.prefix)
        self._copy(self.prefix, "saved:" + self.prefix)

    def restore(self) -> None:
        """Redis comes back with what was saved."""
        self._drop(self.prefix)
        self._copy("saved:" + self.prefix, self.prefix)

    def _copy(self, of: str, to: str) -> None:
        pipe = self.client.pipeline(transaction=False)
        for key in self.client.keys(of + "*"):
            pipe.copy(key, to.encode() + key[len(of) :])
        pipe.execute()

    def _drop(self, prefix: str) -> None:
        if keys := self.client.keys(prefix + "*"):
            self.client.unlink(*keys)

    def clear(self) -> None:
        """Nothing is left of it in Redis."""
        for prefix in (self.prefix, "saved:" + self.prefix):
            self._drop(prefix)

    def close(self) -> None:
        """Let go of the connections, and of the keys."""
        self.clear()
        self.runner.run(self.journal.close())
        self.runner.close()
        self.client.close()


class Driver:
    """Moves of one run.

    Attributes:
        random: where every choice comes from.
        every: after how many moves all is looked at.
    """

    def __init__(self, fleet: Fleet, random: random.Random, *, every: int = 1, most_open: int = 12) -> None:
        self.fleet, self.random = fleet, random
        self.journal = fleet.journal
        self.every, self.most_open = every, most_open
        self.model = Model()
        self.model.day = fleet.now // DAY
        self.held: list[Held] = []
        self.dead: list[Held] = []
        self.decided: dict[str, Decision] = {}
        self.said: list[str] = []
        self.moves: Counter[str] = Counter()
        self.policy = {"llm": "fifo", "far": "fifo"}
        self.numbers = 0
        self.texts = 0
        self.again: set[str] = set()
        self.moved = False
        self.ends: list[tuple[str, str, str]] = []
        self.expected_us: dict[str, int] = {}
        self.repeat = True
        self.lenient = False  # whatever a verb answers is right: what it was asked about is half-done
        self.gone: list[str] = []  # ids of jobs that have expired
        self.reuse = self.rollback = FENCED
        self.tail = 15  # moves that a report shows
        self.saved: tuple[Any, ...] | None = None
        for lane in self.policy:  # as the first worker does
            self.policy[lane] = policy = random.choice(["fifo", *RANKS])
            every, fair = random.choice([0, 0, 3]), random.choice(["", "tenant"])
            self.run(self.journal.set_lane(lane, policy=policy, oldest_every=every, fair=fair, source="file"))
        self.seen = fleet.look()

    # Saying and looking ----------------------------------------------------------------------------

    def say(self, text: str) -> None:
        """What is done now: for the report."""
        self.said.append(text)

    def broken(self, lines: Iterable[str]) -> Broken:
        """… with the moves before it."""
        last = "\n  ".join(self.said[-self.tail :])
        return Broken("\n".join(lines) + f"\nafter {len(self.said)} moves, the last of them:\n  {last}")

    def expect(self, got: object, *wanted: object) -> None:
        """An answer is one of these."""
        if got not in wanted and not self.lenient:
            raise self.broken([f"{self.said[-1]}: answered {got!r}, should be {' or '.join(map(repr, wanted))}"])

    def look(self) -> Seen:
        """Compare Redis with the model, with itself, and with what it was.

        Raises:
            Broken: something does not hold.
        """
        before, now = self.seen, self.fleet.look()
        ends = [
            ("plan" if "plan" in f else "job", f.get("plan") or f["job"], f["state"]) for _, f in now.ends
        ]
        self.model.day = self.fleet.now // DAY
        lines = [
            *wrong(now),
            *between(before, now, again=frozenset(self.again), moved=self.moved),
            *differences(self.model, now, ends),
            *self._served(now),
        ]
        self.seen, self.again, self.moved = now, set(), False
        if lines:
            raise self.broken(lines)
        return now

    def _served(self, now: Seen) -> list[str]:
        return [
            f"{id} has had {job.number('us')} µs in calls, by its steps {self.expected_us[id]}"
            for id, job in now.jobs.items()
            if id in self.expected_us and job.number("us") != self.expected_us[id]
        ]

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

    def run(self, verb: Any) -> Any:
        """A verb."""
        return self.fleet.run(verb)

    def twice(self) -> bool:
        """The answer was lost: the same is sent again."""
        return self.repeat and self.random.random() < 0.12

    # What programs ask for -------------------------------------------------------------------------

    def steps(self, count: int) -> list[RankedStep]:
        """New steps of every kind, ranked as somebody does who does not always know the latest rules."""
        return [self._step() for _ in range(count)]

    def _step(self) -> RankedStep:
        self.texts += 1
        request, R = b"j%d" % self.texts, self.random
        kind = R.choices([Kind.LLM, Kind.TOOL, Kind.SLEEP, Kind.SIGNAL], [16, 2, 2, 2])[0]
        if kind == Kind.LLM:
            model = R.choice([*MODELS])
            lane = MODELS[model]
            policy = R.choice([*[self.policy[lane]] * 6, *RANKS])
            size = R.choice([0, 10, 300])
            step = NewStep(kind, lane, request, "d" * 24, model, estimate=size, cost=R.choice([0, 5, 100]))
            return RankedStep(step, RANKS[policy], policy)
        if kind == Kind.TOOL:
            return RankedStep(NewStep(kind, "turns", request, "d" * 24, "tool"))
        if kind == Kind.SLEEP:
            return RankedStep(NewStep(kind, "turns", request, "d" * 24, "s", after=R.choice([0.5, 30.0])))
        return self._signal(R.choice(SIGNALS))

    def _signal(self, name: str) -> RankedStep:
        self.texts += 1
        return RankedStep(NewStep(Kind.SIGNAL, "turns", b"j%d" % self.texts, "d" * 24, name))

    def newborn(self) -> NewJob:
        """A job that nobody has submitted yet."""
        R = self.random
        if self.reuse and self.gone and R.random() < 0.7:
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
        budget = None
        if R.random() < 0.2:
            what = R.choice([{"tokens": 0}, {"tokens": 8}, {"money": 0.001}])
            budget = Budget(**what, on_budget=R.choice(["pause", "fail"]))
        return NewJob(id, record, decision, budget=budget, priority=R.choice([0, 0, 5, 9]))

    def decision(self, id: str, ahead: int) -> Decision | None:
        """What a turn came to that sees ``ahead`` more outcomes than there are; or one that is out of date."""
        job, R = self.model.jobs.get(id), self.random
        if job is None or R.random() < 0.15:
            return None
        if id in self.decided and R.random() < 0.1:
            return self.decided[id]
        version, first = job.written + ahead, len(job.steps)
        if R.random() < 0.08 and version:
            version -= 1
        if first >= MOST_STEPS or R.random() < 0.2:
            end = R.choice([JobState.DONE, JobState.DONE, JobState.FAILED])
            made = Decision(version, first, [], end, b"jr")
        else:
            count = R.choice([0, 1, 1, 1, 2, 3])
            if first + count == version:  # everything is answered: a program asks for more, or ends
                count = 1
            made = Decision(version, first, self.steps(count))
            if (early := [name for name, n in job.kept.items() if n]) and R.random() < 0.4:
                made.steps.append(self._signal(early[0]))
        self.decided[id] = made
        return made

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
        self.say(f"submit {[_short(job) for job in jobs]}")
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
        form, owners = shape(tree, f"p{self.numbers}", [job.id for job in new])
        jobs = [
            NewJob(j.id, j.record, j.decision, node, j.budget, j.priority, place)
            for j, node, place in zip(new, owners, form.places, strict=True)
        ]
        self.say(f"plan {form.id} {_form(tree)} {[_short(job) for job in jobs]}")
        self.expect(self.run(self.journal.submit(jobs, form)).status, "new")
        self.again |= {job.id for job in jobs}
        self.model.submit(jobs, form)
        if self.twice():
            self.expect(self.run(self.journal.submit(jobs, form)).status, "same")

    def extend(self) -> None:
        """More jobs for a plan."""
        plans = [p for p in self.model.plans if p in self.seen.plans]
        if not self.room() or not plans:
            return
        plan, jobs = self.random.choice(plans), [self.newborn()]
        stopped = self.model.plan_state(plan) == "failed"
        self.say(f"extend {plan} {[_short(job) for job in jobs]}")
        self.expect(self.run(self.journal.extend(plan, jobs)).status, "stopped" if stopped else "extended")
        if not stopped:
            self.again |= {job.id for job in jobs}
            self.model.extend(plan, jobs)
            if self.twice():
                self.expect(self.run(self.journal.extend(plan, jobs)).tickets, [])

    # People ----------------------------------------------------------------------------------------

    def cancel(self) -> None:
        """End a job."""
        if (id := self.some_job(*OPEN)) is None:
            return
        self.say(f"cancel {id}")
        for _ in range(1 + self.twice()):
            status = self.run(self.journal.cancel(id))[0]
            self.expect(status, "cancelled" if self.model.end(id, "cancelled") else "ended")

    def pause(self) -> None:
        """Stop a job where it is."""
        at_work = [id for id, job in self.model.jobs.items() if job.state == "running" and job.in_flight()]
        id = self.random.choice(at_work) if at_work and self.random.random() < 0.6 else self.some_job("running")
        if id is None:
            return
        self.say(f"pause {id}")
        for _ in range(1 + self.twice()):
            job = self.model.jobs[id]
            if job.state == "running":
                self.model.pause(id)
            self.expect(self.run(self.journal.pause(id)), job.state)

    def resume(self) -> None:
        """Let it go on, perhaps with more money."""
        if (id := self.some_job("paused")) is None or (self.model.jobs[id].state not in ("paused", "done") and self.random.random() < 0.8):
            return
        job, more = self.model.jobs[id], self.random.choice([None, None, Budget(tokens=30, money=0.01)])
        self.say(f"resume {id} {more}")
        for _ in range(1 + self.twice()):
            if more and job.state in ("running", "paused"):
                job.budget = (more.tokens, round((more.money or 0) * 1e6), job.budget[2])
            if job.state == "paused":
                self.model.resume(id)
            self.expect(self.run(self.journal.resume(id, more))[0], job.state)

    def signal(self) -> None:
        """What a job waits for, or will."""
        waiting = [id for id, job in self.model.jobs.items() for s in job.steps if s.state == "waiting"]
        id = self.random.choice(waiting) if waiting and self.random.random() < 0.4 else self.some_job(*OPEN)
        if id is None:
            return
        name = self.random.choice(SIGNALS)
        self.say(f"signal {id} {name}")
        self.expect(self.run(send_signal(self.journal, id, name)), self.model.signal(id, name))

    def rerank(self) -> None:
        """Another priority."""
        if (id := self.some_job(*OPEN)) is None:
            return
        priority = self.random.randint(0, 9)
        self.say(f"rerank {id} {priority}")
        self.moved = True
        for _ in range(1 + self.twice()):
            self.expect(self.run(self.journal.rerank(id, priority))[0], self.model.jobs[id].state)

    def retry(self) -> None:
        """Go on from where it failed: what is answered stays so, what was dropped runs, failures may."""
        if (id := self.some_job("failed", "cancelled")) is None:
            return
        job = self.model.jobs[id]
        self.say(f"retry {id}")
        status = self.run(self.journal.retry(id))[0]
        if job.state not in ("failed", "cancelled"):
            self.expect(status, job.state)
            return
        self.expect(status, "running")
        self.again.add(id)
        heads = self.fleet.job(id).heads
        failed = {n for n, s in enumerate(job.steps) if s.state == "failed"}
        undone = {n for n in failed if heads[str(n)].state != "failed"}
        self.say(f"retry {id}: runs {sorted(undone)} again")
        self.model.retry(id, undone)
        if self.twice():
            self.expect(self.run(self.journal.retry(id))[0], "running")

    def fork(self) -> None:
        """A new job with the history of another."""
        if not self.room() or (id := self.some_job(self.random.choice([*OPEN, *ENDED]))) is None:
            return
        self.numbers += 1
        new, job = f"k{self.numbers}", self.model.jobs[id]
        step = self.random.choice([self.random.randint(0, len(job.steps)), len(job.steps), len(job.steps) + 1])
        self.say(f"fork {id} {new} {step}")
        beyond = step > len(job.steps)
        self.expect(self.run(self.journal.fork(id, new, step))[0], "beyond" if beyond else "new")
        if not beyond:
            self.model.fork(id, new, step)
            if self.twice():
                self.expect(self.run(self.journal.fork(id, new, step))[0], "new")

    # Rules -----------------------------------------------------------------------------------------

    def lane(self) -> None:
        """Other rules of a lane; producers and workers hear of it or not."""
        R, lane = self.random, self.random.choice(["llm", "llm", "far"])
        policy = R.choice([None, *RANKS])
        every, fair = R.choice([None, 0, 2, 3]), R.choice([None, None, "", "tenant"])
        self.say(f"lane {lane} policy={policy} oldest_every={every} fair={fair}")
        rules = self.run(self.journal.set_lane(lane, policy=policy, oldest_every=every, fair=fair))
        if R.random() < 0.8:
            self.policy[lane] = rules.policy

    def limits(self) -> None:
        """Other limits of a model."""
        R, model = self.random, self.random.choice([*MODELS])
        flight, rpm, tpm = R.choice([0, 0, 1, 2, 4]), R.choice([0, 0, 6]), R.choice([0, 0, 350])
        self.say(f"limits {model} {flight} {rpm} {tpm}")
        self.run(set_limits(self.journal, model, flight, rpm, tpm))

    def tenant(self) -> None:
        """Other settings of a tenant."""
        R, tenant = self.random, self.random.choice(TENANTS)
        given: dict[str, Any] = {}
        if R.random() < 0.5:
            given["max_in_flight"] = R.choice([0, 1, 2])
        if R.random() < 0.4:
            given["weight"] = R.choice([0.5, 1.0, 2.0])
        if R.random() < 0.3:
            given["tokens_per_day"] = R.choice([0, 0, 60])
        self.say(f"tenant {tenant} {given}")
        self.run(self.journal.set_tenant(tenant, **given))

    # Workers ---------------------------------------------------------------------------------------

    def claim(self) -> None:
        """The best step of a lane; mostly several, as slots are free."""
        lane = self.random.choices(LANES, [6, 4, 4])[0]
        for nth in range(self.random.randint(1, 4)):
            if nth:
                self.look()
            if len(self.held) > 12 or self.take(lane, self.random.choice(["wa", "wb"])) is None:
                return

    def take(self, lane: str, worker: str) -> Held | None:
        """A claim, judged."""
        before = self.look_again()
        self.say(f"claim {lane}")
        claim: Claim | None = self.run(self.journal.claim(lane, worker))
        self.said[-1] += f" -> {claim.lease if claim else None}"
        after = self.fleet.look_without_ends()
        self._budgets(before, after)
        if claim is None:
            left = [m for name, ms in _lane_sets(after, lane) for m in ms]
            if left:
                raise self.broken([f"claim on {lane} gave nothing, and there wait {left}"])
            return None
        self.numbers += 1
        got = Held(claim, self.numbers)
        s = self.model.step(claim.job, claim.step)
        job = self.model.jobs.get(claim.job)
        if s is None or job is None or s.state != "ready" or job.state != "running":
            raise self.broken([f"claimed {claim.lease}, which is {s} of {job and job.state}"])
        if s.lane != lane or (claim.step != TURN and claim.request != s.request) or claim.kind != s.kind:
            raise self.broken([f"claimed {claim} on {lane}, the step is {s}"])
        if (claim.version, claim.record.tenant, claim.tries) != (job.written, job.tenant, s.tries):
            raise self.broken([f"claimed {claim}, the job has {job.written} outcomes, the step {s}"])
        self._judge(before, after, claim, job)
        s.state, s.holder, s.attempt, s.given_back = "leased", got.number, s.attempt + 1, False
        self.held.append(got)
        return got

    def _budgets(self, before: Seen, after: Seen) -> None:
        """A claim pauses or ends jobs whose budget is used up, and touches no others."""
        for id, job in list(self.model.jobs.items()):
            now = after.jobs[id].state if id in after.jobs else "gone"
            if job.state == "running" and now in ("paused", "failed") and self.spent(before, id):
                if job.budget[2] == "fail" and not job.fork:
                    self.model.end(id, "failed")
                else:
                    self.model.pause(id)

    def spent(self, seen: Seen, id: str) -> bool:
        """A budget of the job, or of its tenant for the day, is used up."""
        job = self.model.jobs[id]
        limits = seen.hashes["tenant"].get(job.tenant, {})
        spend = seen.hashes["spend"].get(f"{job.tenant}:{self.fleet.now // DAY}", {})
        daily = "l_tok" in limits and int(spend.get("tok", 0)) >= int(limits["l_tok"])
        return job.over_budget() or daily

    def _judge(self, before: Seen, after: Seen, claim: Claim, job: Any) -> None:
        """Whether that step may run now, and before the others of its kind."""
        if claim.kind != Kind.LLM:
            return
        lines, now, model = [], self.fleet.now, claim.label
        if self.spent(before, claim.job):
            lines.append(f"{claim.lease} runs, and a budget of it is used up")
        for name in (model, f"@{job.tenant}"):
            if name not in before.hashes["model"]:
                continue
            most, busy = before.model(name, "l_if"), len(before.sets["inflight"].get(name, ()))
            if before.model(name, "hold") > now:
                lines.append(f"{claim.lease} runs, and {name} is on hold")
            if 0 < most <= busy:
                lines.append(f"{claim.lease} runs, and {busy} of {most:.0f} calls of {name} are in flight")
            rpm, tpm = before.model(name, "l_rpm"), before.model(name, "l_tpm")
            window = {m: at for m, at in before.sets["window"].get(name, {}).items() if at > now - 60_000_000}
            tokens = sum(int(m.rpartition("|")[2]) for m in window)
            h = before.jobs[claim.job].heads[claim.step]
            if 0 < rpm <= len(window):
                lines.append(f"{claim.lease} runs, and {len(window)} of {rpm:.0f} requests a minute were made")
            if 0 < tpm < tokens + h.est and window:
                lines.append(f"{claim.lease} runs, and {tokens} + {h.est} are over {tpm:.0f} tokens a minute")
            if claim.lease not in after.sets["inflight"].get(name, ()):
                lines.append(f"{claim.lease} runs, and does not count among the calls of {name}")
            if (rpm or tpm) and f"{claim.lease}|{h.est}" not in after.sets["window"].get(name, ()):
                lines.append(f"{claim.lease} runs, and is not in the window of {name}")
        lines += self._out_of_turn(before, claim, job)
        if lines:
            raise self.broken(lines)

    def _out_of_turn(self, before: Seen, claim: Claim, job: Any) -> list[str]:
        """Another step of the same model and tenant had a lower rank, and it was not the oldest's turn."""
        h = before.jobs[claim.job].heads[claim.step]
        _, every, fair = before.lane(h.lane)
        name = f"{h.lane}|{job.tenant}" if fair else h.lane
        shelf = before.sets["ready"].get(name, {})
        count = int(before.hashes["lane"].get(h.lane, {}).get(f"n|{job.tenant if fair else ''}", 0)) + 1
        m = f"{claim.job}/{claim.step}"
        if m not in shelf:
            return []
        aged = every > 0 and count % every == 0
        others = {}
        for other, rank in shelf.items():
            id, _, step = other.rpartition("/")
            o = before.jobs[id].heads[step]
            if o.label == h.label and before.jobs[id].tenant == job.tenant and not self.spent(before, id):
                others[other] = float(o.ready) if aged else rank
        best = min(others, key=lambda o: (others[o], o), default=m)
        if m in others and others[best] < others[m]:
            return [f"{m} goes before {best}{' (the oldest goes first)' if aged else ''}: {others}"]
        return []

    def look_again(self) -> Seen:
        """As it is now, without comparing (moves that are not looked at each)."""
        self.seen = self.seen if self.every == 1 else self.fleet.look_without_ends()
        return self.seen

    def pick(self, among: list[Held]) -> Held | None:
        """One of the claims, out of the worker's hands; where it has come to something odd, that one more often."""
        if not among:
            return None
        if self.random.random() < 0.5:
            kinds: dict[str, list[Held]] = {}
            for got in among:
                kinds.setdefault(self.now_is(got), []).append(got)
            got = self.random.choice(kinds[self.random.choice(sorted(kinds))])
        else:
            got = self.random.choice(among)
        among.remove(got)
        return got

    def now_is(self, got: Held) -> str:
        """What has become of a claim meanwhile."""
        job, s = self.model.jobs.get(got.claim.job), self.model.step(got.claim.job, got.claim.step)
        if job is None or s is None:
            return "gone"
        if s.holder != got.number:
            return "nobody's" if s.holder == 0 else "another's"
        return f"{s.state} in a {job.state} job"

    def work(self) -> None:
        """A worker is through with a step or a turn."""
        if (got := self.pick(self.held)) is None:
            return
        if got.claim.is_turn:
            self.advance(got)
        else:
            self.commit(got, self.random.random() < 0.85)
        if self.random.random() < 0.15:
            self.dead.append(got)
        del self.dead[:-15]

    def commit(self, got: Held, ok: bool, decision: Decision | None = None) -> None:
        """An outcome."""
        claim, R = got.claim, self.random
        decision = decision or self.decision(claim.job, 1)
        llm = claim.kind == Kind.LLM
        usage = (R.randint(0, 9), R.randint(0, 9), 1, R.choice([0, 0, 400])) if llm and ok else (0, 0, 0, 0)
        here = R.random() < 0.5
        self.texts += 1
        what = "ok" if ok else "failed"
        self.say(f"commit {claim.lease} ({got.number}) {what} {usage} {_decided(decision)} here={here}")
        self.model.day, self.model.watched = self.fleet.now // DAY, set(self.look_again().hashes["tenant"])
        outcome = b'j{"value":%d}' % self.texts if ok else b'j{"error":{"type":"x","message":"%d"}}' % self.texts
        for _ in range(1 + self.twice()):
            want = self.model.commit(
                got.number, claim.job, claim.step, ok=ok, usage=usage, decision=decision, here=here
            )
            status = self.run(send_commit(self.journal, claim, outcome, ok, usage, decision, here))
            self.expect(status, want)
            if want in ("advanced", "turn", "ended", "paused"):
                h = self.fleet.job(claim.job).heads[claim.step]
                if llm:
                    spent = int(h.ended) - int(h.started) if h.started else 0
                    self.expected_us[claim.job] = self.expected_us.get(claim.job, 0) + max(0, spent)

    def advance(self, got: Held) -> None:
        """What a turn under a lease came to."""
        claim = got.claim
        decision = self.decision(claim.job, 0)
        if decision is None:
            self.release(got)
            return
        self.say(f"advance {claim.lease} ({got.number}) {_decided(decision)}")
        for nth in range(1 + self.twice()):
            want = self.model.advance(got.number, claim.job, decision)
            status = self.run(send_advance(self.journal, claim.job, decision, claim))
            self.expect(status, want)
            if nth == 0 and want == "stale":  # it looks again and writes what there is by then
                self.held.append(got)

    def go_on(self) -> None:
        """A worker runs a turn without a lease: what it had committed made one due."""
        due = [id for id in self.seen.one["due"] if id in self.model.jobs]
        if not due:
            return
        id = self.random.choice(due)
        if (decision := self.decision(id, 0)) is None:
            return
        self.say(f"advance {id} {_decided(decision)}")
        want = self.model.advance(0, id, decision)
        self.expect(self.run(send_advance(self.journal, id, decision, None)), want)

    def give_back(self) -> None:
        """A worker gives a step back: for now, for later, for another model."""
        if (got := self.pick(self.held)) is not None:
            self.release(got)
            if self.random.random() < 0.4:
                self.dead.append(got)

    def release(self, got: Held) -> None:
        """… with what the provider said, if it is a call."""
        claim, R = got.claim, self.random
        more: dict[str, Any] = {"after": R.choice([0.0, 0.0, 0.5, 30.0])}
        if claim.kind == Kind.LLM and R.random() < 0.7:
            more |= {"failed": True, "hold": R.choice([0.0, 0.0, 5.0]), "breaker": R.choice([0, 0, 2])}
            if R.random() < 0.3:
                to = R.choice([*MODELS])
                more["to"] = (to, MODELS[to])
        self.say(f"release {claim.lease} ({got.number}) {more}")
        for _ in range(1 + self.twice()):
            mine = self.model.release(
                got.number, claim.job, claim.step, failed="failed" in more, to=more.get("to")
            )
            self.expect(self.run(send_release(self.journal, claim, more)), *([True, None] if mine else [False, None]))

    def die(self) -> None:
        """A worker goes away with what it holds; its leases end now."""
        if (got := self.pick(self.held)) is None:
            return
        self.say(f"lapse {got.claim.lease}")
        self.fleet.score("leases", [got.claim.lease])
        self.dead.append(got)
        del self.dead[:-15]
        if self.random.random() < 0.6:
            self.look()
            self.reap()

    def stall(self) -> None:
        """A lease ends, and its worker does not know."""
        if not self.held:
            return
        got = self.random.choice(self.held)
        self.say(f"lapse {got.claim.lease}, whose worker lives")
        self.fleet.score("leases", [got.claim.lease])

    def late(self) -> None:
        """A worker that was taken for dead writes its answer after all."""
        if (got := self.pick(self.dead)) is None:
            return
        if got.claim.is_turn:
            self.advance(got)
            self.held = [h for h in self.held if h is not got]
        else:
            self.commit(got, True)

    def renew(self) -> None:
        """All that is held, and some that is not any more."""
        among = [got for got in [*self.held, *self.dead] if self.random.random() < 0.7]
        if not among:
            return
        names = [got.claim.lease for got in among]
        self.say(f"renew {[f'{got.claim.lease} ({got.number})' for got in among]}")
        before = self.look_again()
        places = before.places()
        lost = self.run(self.journal.renew(dict.fromkeys(names)))
        for got in among:
            claim = got.claim
            s = self.model.step(claim.job, claim.step)
            mine = s is not None and s.holder == got.number and s.state in ("leased", "ready")
            if not mine:
                self.expect_lost(claim, claim.lease in lost, True)
            elif s is not None and s.state == "leased":
                self.expect_lost(claim, claim.lease in lost, False)
            elif claim.lease not in lost:  # it had ended; nobody has taken the step since
                waits = places.get(f"{claim.job}/{claim.step}", [("", "")])[0][0]
                if s is None or s.given_back or waits not in ("ready", "stray"):
                    raise self.broken([f"renewed {claim.lease}, which was given back and waits in {waits}"])
                s.state, s.lost = "leased", max(0, s.lost - 1)

    def expect_lost(self, claim: Claim, lost: bool, should: bool) -> None:
        """Whether renewing said so."""
        if lost != should:
            raise self.broken([f"renew {claim.lease}: {'lost' if lost else 'renewed'}, should be the opposite"])

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
        ids = [id for id, job in self.model.jobs.items() if job.state in ENDED and id not in kept and not job.in_flight()]
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
                self.run(self.journal.rank_strays(lane, says(self.run(self.journal.lane_rules([lane]))[lane].policy)))
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
            for kind in ("ready", "readyby", "readyold", "stray", "held", "heldby", "heldold", "inflight", "astray")
            for name, members in now.sets[kind].items()
            if members and kind != "astray"
        ]
        left += [f"{name} is left over: {sorted(now.one[name])}" for name in ("leases", "timers", "due", "open", "dirty") if now.one[name]]
        left += [f"plan {p} is {self.model.plan_state(p)}" for p in self.model.plans if self.model.plan_state(p) == "running"]
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


# The verbs as the driver sends them: the one place that follows a change of the journal's methods.


async def send_signal(journal: Journal, id: str, name: str) -> str:
    """A signal's status."""
    from aios_dist.jobs import Outcome

    return (await journal.signal(id, name, Outcome(value=1)))[0]


async def set_limits(journal: Journal, model: str, flight: int, rpm: int, tpm: int) -> None:
    """Limits of a model, by hand."""
    from aios_dist.journal import Limits

    await journal.set_limits(model, Limits(flight, rpm, tpm))


async def send_commit(
    journal: Journal, claim: Claim, outcome: bytes, ok: bool, usage: tuple[int, int, int, int],
    decision: Decision | None, here: bool,
) -> str:  # fmt: skip
    """A commit's status."""
    from aios_dist.calls import Usage

    done = await journal.commit(
        claim, outcome, ok=ok, usage=Usage(*usage[:3]), money=usage[3] / 1e6, decision=decision, turn_here=here
    )
    return done.status


async def send_advance(journal: Journal, id: str, decision: Decision, claim: Claim | None) -> str:
    """An advance's status."""
    return (await journal.advance(id, decision, turn_attempt=claim.attempt if claim else 0)).status


async def send_release(journal: Journal, claim: Claim, more: dict[str, Any]) -> bool | None:
    """Whether it counted; None where the journal does not say."""
    from aios_dist.errors import ProviderBusy

    await journal.release(
        claim, "r", more["after"], error=ProviderBusy("x") if more.get("failed") else None,
        hold=more.get("hold", 0.0), breaker=more.get("breaker", 0), to=more.get("to"),
    )  # fmt: skip
    return None


async def reconcile(journal: Journal) -> None:
    """One pass of the reconciler over everything, but for strays."""
    cursor = "0"
    while True:
        cursor = (await journal.reap(list(LANES), cursor, page=1000)).cursor
        if cursor == "0":
            return


def says(policy: str) -> Any:
    """What a lane's policy says of strays."""

    async def rank(strays: list[Stray]) -> list[tuple[Rank, str]]:
        return [(RANKS[policy], policy) if s.kind == Kind.LLM else (Rank(), "") for s in strays]

    return rank


def _lane_sets(seen: Seen, lane: str) -> list[tuple[str, dict[str, float]]]:
    return [
        (name, members)
        for kind in ("ready", "stray")
        for name, members in seen.sets[kind].items()
        if name.partition("|")[0] == lane
    ]


def _short(job: NewJob) -> str:
    extra = f" budget {job.budget.tokens} {job.budget.money} {job.budget.on_budget}" if job.budget else ""
    return f"{job.id} of {job.record.tenant}: {_decided(job.decision)}{extra}"


def _decided(decision: Decision | None) -> str:
    if decision is None:
        return "no decision"
    steps = ",".join(
        f"{r.step.kind.value}:{r.step.label}:{r.policy}" if r.step.kind == Kind.LLM else f"{r.step.kind.value}:{r.step.label}"
        for r in decision.steps
    )
    return f"v{decision.version} n{decision.first} [{steps}] {decision.ends.value if decision.ends else ''}"


def _form(plan: Plan) -> str:
    members = " ".join(_form(m) if isinstance(m, Plan) else "job" for m in plan.members)
    return f"{plan.mode}-{plan.on_failure}({members})"
