"""Moves of workers: they claim, commit, run turns, give back, die, and come back."""

from __future__ import annotations

from typing import Any

from aios_dist.journal import Claim, Decision, Nothing, Refusal
from aios_dist.journal.records import Parking, random_name
from aios_dist.model.jobs import Kind
from tests.driver.core import Held
from tests.driver.producers import Producers
from tests.driver.promises import allowed, steps_on
from tests.driver.seen import TURN, Seen
from tests.driver.sending import (
    LANES,
    MODELS,
    decided,
    lane_sets,
    send_advance,
    send_commit,
    send_release,
    send_take,
)

SERVES: dict[str, tuple[tuple[str, ...], tuple[str, ...]] | None] = {
    "wa": None, "wb": None, "wc": (("m0", "m2"), ("x",)), "wd": (("m1",), ("y",)), "we": (("m0", "m1"), ()),
}  # fmt: skip
"""What each worker serves, models and agents; None: everything."""


REFUSALS = (Refusal(), Refusal(5.0), Refusal(0.0, 2), Refusal(5.0, 2), Refusal(90.0, 2))
"""What failed calls say of their model."""


class Workers(Producers):
    """They hold claims."""

    # Workers ---------------------------------------------------------------------------------------

    def claim(self) -> None:
        """The best step of a lane; mostly several, as slots are free."""
        lane = self.random.choices(LANES, [6, 4, 4])[0]
        for nth in range(self.random.randint(1, 4)):
            if nth:
                self.look()
            if len(self.held) > 12 or self.take(lane, self.random.choice([*SERVES])) is None:
                return

    def take(self, lane: str, worker: str) -> Held | None:
        """A claim, judged."""
        before = self.look_again()
        self.say(f"claim {lane}")
        serves, token = SERVES.get(worker), random_name()
        models, agents = serves or (None, None)
        ask = {"models": models, "agents": agents}
        slot = self.numbers % 3 == 0
        claim = self.run(send_take(self.journal, lane, worker, token, slot=slot, **ask))
        if self.twice() and isinstance(claim, Claim):  # the answer was lost: the same claim once more
            once_more = send_take(self.journal, lane, worker, token, again=True, slot=slot, **ask)
            claim, first = self.run(once_more), claim
            if not isinstance(claim, Claim) or claim.lease != first.lease or claim.request != first.request:
                raise self.broken([f"claimed {first.lease}, and asked again {claim}"])
        self.said[-1] += f" by {worker} -> {claim.lease if isinstance(claim, Claim) else claim}"
        after = self.fleet.look_without_ends()
        self.follow(after)
        self._budgets(before, after)
        asked = False
        while isinstance(claim, Nothing) and (claim.again or (not asked and lane_sets(after, lane))):
            asked, before = True, after  # as workers do; or a plan went on behind it: tickets bring others
            claim = self.run(self.journal.take(lane, worker, random_name(), **ask))
            self.said[-1] += f", then {claim.lease if isinstance(claim, Claim) else claim}"
            after = self.fleet.look_without_ends()
            self.follow(after)
            self._budgets(before, after)
        if isinstance(claim, Nothing):
            left = [m for name, ms in lane_sets(after, lane) for m in ms]
            if left:
                raise self.broken([f"claim on {lane} gave nothing, and there wait {left}"])
            self._can_serve(after, lane, models, agents)
            return None
        self.numbers += 1
        job = self.model.jobs.get(claim.job)
        life = (job.life, job.incarnation) if job else (0, 0)
        got = Held(claim, self.numbers, *life)
        s = self.model.step(claim.job, claim.step)
        if lines := self.proof(claim.job, claim.basis):
            raise self.broken(lines)
        if serves and not served(claim.kind, claim.label, job.agent if job else "", *serves):
            raise self.broken([f"{worker} claimed {claim.lease}, which it cannot serve"])
        if s is None or job is None or s.state != "ready" or job.state != "running":
            raise self.broken([f"claimed {claim.lease}, which is {s} of {job and job.state}"])
        if s.lane != lane or (claim.step != TURN and claim.request != s.request) or claim.kind != s.kind:
            raise self.broken([f"claimed {claim} on {lane}, the step is {s}"])
        if (claim.version, claim.record.tenant, claim.tries) != (job.written, job.tenant, s.tries):
            raise self.broken([f"claimed {claim}, the job has {job.written} outcomes, the step {s}"])
        if claim.basis != after.jobs[claim.job].text("dg"):
            raise self.broken([f"claimed {claim.lease} at {claim.basis}, and the job stands elsewhere"])
        self._judge(before, after, claim, job)
        m = f"{claim.job}/{claim.step}"

        def able(name: str) -> bool:
            id, _, step = name.rpartition("/")
            h, its = before.jobs[id].heads[step], self.model.jobs.get(id)
            return not serves or served(h.kind, h.label, its.agent if its else "", *serves)

        if lines := self.promises.dispatched(before, lane, m, self.fleet.now, self.spent, able):
            raise self.broken(lines)
        s.state, s.holder, s.attempt, s.given_back = "leased", got.number, s.attempt + 1, False
        self.held.append(got)
        return got

    def _can_serve(self, seen: Seen, lane: str, models: Any, agents: Any) -> None:
        """What a worker can serve does not wait for others."""
        for name, members in seen.sets["held"].items():
            need, (kind, _, what) = name.partition("|")[0], name.partition("|")[0][1:].partition("/")
            mine = models if kind == "model" else agents
            what = what.partition("@")[0]  # (who says no codes takes what there is of the agent)
            ours = [m for m in members if self._on(seen, m, lane)]
            if need[0] == "?" and ours and (mine is None or what in mine):
                raise self.broken([f"claim on {lane} gave nothing, and for {need} wait {ours}"])

    def _on(self, seen: Seen, m: str, lane: str) -> bool:
        id, _, step = m.rpartition("/")
        return id in seen.jobs and step in seen.jobs[id].heads and seen.jobs[id].heads[step].lane == lane

    def _budgets(self, before: Seen, after: Seen) -> None:
        """A claim pauses or ends jobs whose budget is used up, and touches no others."""
        for id, job in list(self.model.jobs.items()):
            now = after.jobs[id].state if id in after.jobs else "gone"
            if job.state == "running" and now in ("paused", "failed") and self.spent(before, id):
                if job.budget[2] == "fail":
                    self.model.end(id, "failed")
                else:
                    self.model.pause(id)

    def spent(self, seen: Seen, id: str) -> bool:
        """A budget of the job, or of its tenant for the day, is used up."""
        job = self.model.jobs[id]
        limits = seen.hashes["tenant"].get(job.tenant, {})
        spend = seen.hashes["spend"].get(f"{job.tenant}:{self.model.day}", {})
        daily = "l_tok" in limits and int(spend.get("tok", 0)) >= int(limits["l_tok"])
        return job.over_budget() or daily

    def _judge(self, before: Seen, after: Seen, claim: Claim, job: Any) -> None:
        """Whether that step may run now, and before the others of its kind."""
        if claim.kind != Kind.LLM:
            return
        lines, now, model = [], self.fleet.now, claim.label
        if self.spent(before, claim.job):
            lines.append(f"{claim.lease} runs, and a budget of it is used up")
        h = before.jobs[claim.job].heads[claim.step]
        most_tokens = before.model(model, "l_tpm") if model in before.hashes["model"] else 0
        never = 0 < most_tokens < h.est
        if claim.over != (most_tokens if never else 0):
            lines.append(f"{claim.lease} is over {claim.over}, with {h.est} of {most_tokens:.0f} tokens")
        for name in (model, f"@{job.tenant}"):
            if name not in before.hashes["model"] or (never and name == model):
                continue  # what can never fit is given out, to be refused
            most, busy = before.model(name, "l_if"), len(before.sets["inflight"].get(name, ()))
            if before.model(name, "hold") > now:
                lines.append(f"{claim.lease} runs, and {name} is on hold")
            if 0 < most <= busy:
                lines.append(f"{claim.lease} runs, and {busy} of {most:.0f} calls of {name} are in flight")
            rpm, tpm = before.model(name, "l_rpm"), before.model(name, "l_tpm")
            window = {m: at for m, at in before.sets["window"].get(name, {}).items() if at > now - 60_000_000}
            tokens = sum(int(m.rpartition("|")[2]) for m in window)
            if 0 < rpm <= len(window):
                lines.append(
                    f"{claim.lease} runs, and {len(window)} of {rpm:.0f} requests a minute were made"
                )
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
        policy, every, fair = before.lane(h.lane)
        count = int(before.hashes["lane"].get(h.lane, {}).get(f"n|{job.tenant if fair else ''}", 0)) + 1
        m = f"{claim.job}/{claim.step}"
        aged = every > 0 and count % every == 0
        looked_at = "look" not in before.hashes["lane"].get(h.lane, {})
        if before.sets["astray"].get(h.lane) or not looked_at:  # what is held moves first (docs/policies.md)
            return []
        if claim.label != h.label:  # by this claim; others go when the reconciler comes
            return []
        others = {}
        for other, its, o in steps_on(before, h.lane):
            where = before.places()[other]
            current = policy is None or o.policy in ("", policy)
            waits = current and any(
                kind == "ready" or (kind == "held" and name[0] != "?") for kind, name in where
            )
            same = o.label == h.label and its.tenant == job.tenant
            if before.model(h.label, "l_tpm") > 0 and not allowed(before, h.label, o.est, self.fleet.now):
                continue  # what fits into the tokens that are left passes it
            if waits and same and not self.spent(before, other.rpartition("/")[0]):
                others[other] = float(o.ready) if aged else o.rank
        best = min(others, key=lambda o: (others[o], o), default=m)
        if m in others and others[best] < others[m]:
            return [f"{m} goes before {best}{' (the oldest goes first)' if aged else ''}: {others}"]
        return []

    def look_again(self) -> Seen:
        """As it is now, without comparing (moves that are not looked at each)."""
        self.seen = self.seen if self.every == 1 else self.fleet.look_without_ends()
        return self.seen

    def pick(self, among: list[Held]) -> Held | None:
        """One of the claims, out of the worker's hands: more often one that has come to something odd."""
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

    def counted(self, claim: Claim) -> tuple[int, int]:
        """Tokens of the prompt and of an answer."""
        R = self.random
        return R.choice([(0, 0), (R.randint(0, 9), R.randint(0, 9)), (R.randint(1, 9), 0)])

    def commit(self, got: Held, ok: bool, decision: Decision | None = None) -> None:
        """An outcome."""
        claim, R = got.claim, self.random
        decision = decision or self.decision(claim.job, 1)
        llm = claim.kind == Kind.LLM
        usage: tuple[float, ...] = (0, 0, 0, 0)
        if llm and ok:
            usage = (*self.counted(claim), 1, R.choice([0, 0, 400, 0.3]))
        refusal = R.choice([None, *REFUSALS]) if llm and not ok else None
        here = R.random() < 0.5
        self.texts += 1
        what = "ok" if ok else "failed"
        self.say(
            f"commit {claim.lease} ({got.number}) {what} {usage} {refusal} {decided(decision)} here={here}"
        )
        self.model.now, self.model.watched = self.fleet.now, set(self.look_again().hashes["tenant"])
        outcome = (
            b'j{"value":%d}' % self.texts if ok else b'j{"error":{"type":"x","message":"%d"}}' % self.texts
        )
        for _ in range(1 + self.twice()):
            right = self.right(claim.job, decision)
            want = self.model.commit(
                got, claim.job, claim.step, ok=ok, usage=usage, decision=decision, right=right, here=here,
                served=self.served(claim.job),
            )  # fmt: skip

            sent = (outcome, ok, usage, refusal, decision, here, self.numbers % 2 == 0)
            status = self.run(send_commit(self.journal, claim, *sent))
            self.expect(status, want)
            if want in ("advanced", "turn", "ended", "paused"):
                h = self.fleet.job(claim.job).heads[claim.step]
                if llm:
                    spent = int(h.ended) - int(h.started) if h.started else 0
                    self.expected_us[claim.job] = self.expected_us.get(claim.job, 0) + max(0, spent)

    def advance(self, got: Held) -> None:
        """What a turn under a lease came to."""
        claim, job = got.claim, self.model.jobs.get(got.claim.job)
        if job is not None and job.retried and self.random.random() < 0.8:
            self.redo(claim.job)
        decision = self.decision(claim.job, 0)
        if decision is None:
            self.release(got)
            return
        self.say(f"advance {claim.lease} ({got.number}) {decided(decision)}")
        for nth in range(1 + self.twice()):
            right = self.right(claim.job, decision)
            served = self.served(claim.job)
            want = self.model.advance(got.number, claim.job, decision, right=right, served=served)
            status = self.run(send_advance(self.journal, claim.job, decision, claim))
            self.expect(status, want)
            if nth == 0 and want == "stale":  # it looks again and writes what there is by then
                self.held.append(got)

    def redo(self, id: str) -> None:
        """A turn has replayed a retried job, and says what its program has not gone on from."""
        job, basis = self.model.jobs[id], self.fleet.job(id).text("dg")
        failed = [n for n, s in enumerate(job.steps) if s.state == "failed"]
        undone = [n for n in failed if self.random.random() < 0.7]
        if self.random.random() < 0.1:
            basis = self.older.get(id, basis)
        self.say(f"redo {id} {undone}")
        self.again.add(id)
        for _ in range(1 + self.twice()):
            right = self.proofs.get(basis) == job.proof
            want = self.model.redo(id, set(undone), right=right)
            self.expect(self.run(self.journal.redo(id, basis, undone))[0], want)

    def go_on(self) -> None:
        """A worker runs a turn without a lease: what it had committed made one due."""
        due = [id for id in self.seen.one["due"] if id in self.model.jobs]
        if not due:
            return
        id = self.random.choice(due)
        if (decision := self.decision(id, 0)) is None:
            return
        self.say(f"advance {id} {decided(decision)}")
        served = self.served(id)
        want = self.model.advance(0, id, decision, right=self.right(id, decision), served=served)
        self.expect(self.run(send_advance(self.journal, id, decision, None)), want)

    def park(self) -> None:
        """A worker with other code runs a turn without a lease: it asks for something else."""
        if (id := self.some_job("running")) is not None:
            self.park_this(id, self.random.choice(["c1", "c2"]))

    def park_this(self, id: str, code: str) -> None:
        """… with that code, of that job."""
        job, basis = self.model.jobs[id], self.fleet.job(id).text("dg")
        if lines := self.proof(id, basis):
            raise self.broken(lines)
        parks = Parking("why", "said")
        decision = Decision(job.written, len(job.steps), basis=basis, code=code, parks=parks)
        self.say(f"advance {id}, whose code was {job.code} and is {code}")
        right = self.right(id, decision)
        want = self.model.advance(0, id, decision, right=right, served=self.served(id))
        self.expect(self.run(send_advance(self.journal, id, decision, None)), want)

    def give_back(self) -> None:
        """A worker gives a step back: for now, for later, for another model."""
        if (got := self.pick(self.held)) is not None:
            self.release(got)
            if self.random.random() < 0.4:
                self.dead.append(got)

    def release(self, got: Held, *, nothing: bool = False) -> None:
        """… with what the provider said, if it is a call; ``nothing``: it was not tried, and that counts."""
        claim, R = got.claim, self.random
        more: dict[str, Any] = {"after": 0.0 if nothing else R.choice([0.0, 0.0, 0.5, 30.0])}
        if nothing:
            more["counted"] = True
        elif claim.kind == Kind.LLM and R.random() < 0.7:
            more |= {"failed": True, "refusal": R.choice([None, *REFUSALS])}
            if R.random() < 0.3:
                to = R.choice([*MODELS])
                more["to"] = (to, MODELS[to])
        elif R.random() < 0.5:
            more["counted"] = True
        self.say(f"release {claim.lease} ({got.number}) {more}")
        for _ in range(1 + self.twice()):
            mine = self.model.release(
                got.number, claim.job, claim.step, failed="failed" in more, to=more.get("to"),
                counted="counted" in more,
            )  # fmt: skip
            self.expect(
                self.run(send_release(self.journal, claim, more)), *([True, None] if mine else [False, None])
            )

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
        self.renew_these([got for got in [*self.held, *self.dead] if self.random.random() < 0.7])

    def renew_these(self, among: list[Held]) -> None:
        """… and what is lost is mostly taken up again where nobody has it."""
        if not among:
            return
        among = list({got.number: got for got in among}.values())
        names = [got.claim.lease for got in among]
        self.say(f"renew {[f'{got.claim.lease} ({got.number})' for got in among]}")
        seen = self.look_again()
        places = seen.places()
        lost = self.run(self.journal.renew(names))
        left = []
        for got in among:
            claim = got.claim
            s = self.model.step(claim.job, claim.step)
            mine = s is not None and s.holder == got.number and s.state == "leased"
            if claim.lease not in self.vanished:  # else it may be there still, and is nobody's
                self.expect_lost(claim, claim.lease in lost, not mine)
            if claim.lease in lost:
                left.append(got)
        if not left or self.random.random() < 0.3:
            return
        self.say(f"regain {[f'{got.claim.lease} ({got.number})' for got in left]}")
        gone = self.run(self.journal.regain([got.claim for got in left]))
        for got in left:
            waits = places.get(f"{got.claim.job}/{got.claim.step}", [("", "")])[0][0]
            if got.claim.job in seen.one["sweeps"]:  # as where it stands when it has followed its job
                waits = waits or "ready"
            self.expect_lost(got.claim, got.claim in gone, not self.model.regain(got, waits))

    def expect_lost(self, claim: Claim, lost: bool, should: bool) -> None:
        """Whether renewing said so."""
        if lost != should:
            raise self.broken(
                [f"renew {claim.lease}: {'lost' if lost else 'renewed'}, should be the opposite"]
            )


def served(kind: Any, label: str, agent: str, models: tuple[str, ...], agents: tuple[str, ...]) -> bool:
    """Whether a worker with these can run a step."""
    return label in models if kind == Kind.LLM else agent in agents
