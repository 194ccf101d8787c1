"""Moves of people: they steer jobs, and change rules."""

from __future__ import annotations

from typing import Any

from aios_dist.journal import WorkerInfo
from aios_dist.model.specs import Budget
from tests.driver.core import TENANTS
from tests.driver.producers import AGENTS, SIGNALS, Producers
from tests.driver.seen import ENDED, OPEN
from tests.driver.sending import MODELS, RANKS, say_fallbacks, send_signal, set_limits


class People(Producers):
    """They pause, cancel, signal, retry and fork jobs, and set rules."""

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
        id = (
            self.random.choice(at_work)
            if at_work and self.random.random() < 0.6
            else self.some_job("running")
        )
        if id is not None:
            self.pause_this(id)

    def pause_this(self, id: str) -> None:
        """… that one."""
        self.say(f"pause {id}")
        for _ in range(1 + self.twice()):
            job = self.model.jobs[id]
            if job.state == "running":
                self.model.pause(id)
            elif job.parked:
                job.parked = ""
            self.expect(self.run(self.journal.pause(id)), job.state)

    def resume(self) -> None:
        """Let it go on, perhaps with more money."""
        if (id := self.some_job("paused")) is None or (
            self.model.jobs[id].state not in ("paused", "done") and self.random.random() < 0.8
        ):
            return
        job, more = self.model.jobs[id], self.random.choice([None, None, Budget(tokens=30, money=0.01)])
        self.say(f"resume {id} {more}")
        for _ in range(1 + self.twice()):
            if more and job.state in ("running", "paused"):
                job.budget = (more.tokens, round((more.money or 0) * 1e6), job.budget[2])
            if job.state == "paused":
                self.model.resume(id)
            self.expect(self.run(self.journal.resume(id, more))[0], job.state)

    def rewind(self) -> None:
        """It forgets what came from a step on, and goes on."""
        if (id := self.some_job("paused")) is None:
            return
        self.rewind_this(id, self.random.randint(0, len(self.model.jobs[id].steps) + 1))

    def rewind_this(self, id: str, step: int) -> None:
        """… that one, from that step on."""
        self.say(f"rewind {id} to {step}")
        self.again.add(id)
        salt = f"s{len(self.said)}"
        want = self.model.rewind(id, step)
        self.expect(self.run(self.journal.rewind(id, step, salt=salt))[0], want)
        if self.twice() and want == "running":
            self.expect(self.run(self.journal.rewind(id, step, salt=salt))[0], "running")

    def unpark(self) -> None:
        """The reconciler lets parked jobs go on."""
        self.say("unpark")
        self.model.unpark(
            lambda agent, code: (
                self.fleet.look_without_ends().one["serving"].get(f"has/{agent}@{code}", 0) > self.fleet.now
            )
        )
        more, after = True, b"-"
        while more:
            _, _, more, after = self.run(self.journal.unpark(after))

    def deploy(self) -> None:
        """Workers with a code come, or go."""
        R, agent, code = self.random, self.random.choice(AGENTS), self.random.choice(["c1", "c2"])
        self.deploy_this(agent, code, comes=R.random() < 0.6)

    def deploy_this(self, agent: str, code: str, *, comes: bool) -> None:
        """… with that one."""
        self.say(f"{'here is' if comes else 'gone is'} {agent}@{code}")
        info = WorkerInfo(
            id="wn", host="h", pid=1, pool="p", lanes=["turns"], slots=1, agents=[],
            seen_at=self.fleet.now / 1e6, codes={agent: code} if comes else {},
        )  # fmt: skip
        self.run(self.journal.announce(info, {}))
        if not comes:
            self.run(self.journal.let_codes_go([f"has/{agent}@{code}"]))

    def signal(self) -> None:
        """What a job waits for, or will."""
        waiting = [id for id, job in self.model.jobs.items() for s in job.steps if s.state == "waiting"]
        id = self.random.choice(waiting) if waiting and self.random.random() < 0.4 else self.some_job(*OPEN)
        if id is None:
            return
        self.send(id, self.random.choice(SIGNALS))

    def send(self, id: str, name: str) -> None:
        """… mostly a new one, sometimes one that was sent before."""
        self.texts += 1
        sent = self.random.choice([f"s{self.texts}", *list(self.model.jobs[id].sent)[-1:]])
        self.say(f"signal {id} {name} {sent}")
        for _ in range(1 + self.twice()):
            self.expect(
                self.run(send_signal(self.journal, id, name, sent)), self.model.signal(id, name, sent)
            )

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
        if (id := self.some_job("failed", "cancelled")) is not None:
            self.retry_this(id)

    def retry_this(self, id: str) -> None:
        """… whichever it is."""
        job = self.model.jobs[id]
        failed = [n for n, s in enumerate(job.steps) if s.state == "failed"]
        undone = [n for n in failed if self.random.random() < 0.7] if self.random.random() < 0.5 else None
        basis = self.fleet.job(id).text("dg") if undone is not None else ""
        if undone is not None and self.random.random() < 0.1:
            basis = self.older.get(id, basis)
        self.say(f"retry {id} {undone}")
        for _ in range(1 + self.twice()):
            want = job.state
            if job.state in ("failed", "cancelled"):
                stale = undone is not None and self.proofs.get(basis) != job.proof
                want = "stale" if stale else "running"
                if not stale:
                    self.again.add(id)
                    self.model.retry(id, None if undone is None else set(undone))
            verb = self.journal.retry(id, basis=basis, undone=undone)
            self.expect(self.run(verb)[0], want)

    def fork(self) -> None:
        """A new job with the history of another."""
        if not self.room() or (id := self.some_job(self.random.choice(sorted(OPEN | ENDED)))) is None:
            return
        self.numbers += 1
        new, job = f"k{self.numbers}", self.model.jobs[id]
        step = self.random.choice(
            [self.random.randint(0, len(job.steps)), len(job.steps), len(job.steps) + 1]
        )
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
        self.rules[lane] = (rules.policy, rules.oldest_every, bool(rules.fair))
        if R.random() < 0.8:
            self.policy[lane] = rules.policy

    def limits(self) -> None:
        """Other limits of a model."""
        R, model = self.random, self.random.choice([*MODELS])
        flight, rpm, tpm = R.choice([0, 0, 1, 2, 4]), R.choice([0, 0, 6]), R.choice([0, 0, 350])
        self.say(f"limits {model} {flight} {rpm} {tpm}")
        self.run(set_limits(self.journal, model, flight, rpm, tpm))

    def fallbacks(self) -> None:
        """Another aios.toml: where steps go whose model keeps them waiting."""
        R = self.random
        chains = {m: tuple(R.sample([o for o in MODELS if o != m], R.choice([0, 1, 2]))) for m in MODELS}
        after = R.choice([0.0, 2.0, 60.0])
        self.say(f"fallbacks {chains} after {after}")
        self.run(say_fallbacks(self.journal, chains, after))

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
