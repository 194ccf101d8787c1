"""What a fleet's jobs should be, by docs/how-it-runs.md, docs/reliability.md and the design: not by the Lua.

The model knows states, outcomes, usage, plans and who holds what. Of ranks, sets and times it knows nothing:
those are looked at in Redis (``checks``), and which step a claim takes is taken from its answer and judged.
"""

from __future__ import annotations

import itertools
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from aios_dist.journal import Decision, NewJob
from aios_dist.model.jobs import JobState, Kind
from aios_dist.model.plans import Shape
from aios_dist.model.texts import whole
from tests.driver.seen import ENDED, OPEN, TURN

DAY = 86_400_000_000
UNANSWERED = ("pending", "ready", "timed", "waiting", "parked")
FREE = ("ready", "parked", "dropped", "pending")
"""A step that nobody holds: a late answer to it is kept."""
MOST_SIGNALS = 3
"""… of one name that a job keeps while nobody waits for them (likewise)."""
MOST_BACK = 3
"""How often in a row a step may be given back with nothing to show for it (in these tests)."""

ONCE = itertools.count(1)
"""Numbers that come once, also where a model is put back."""


@dataclass
class StepOf:
    """A step. ``holder``: the claim that took it last, told by its own number and not by its lease's name."""

    kind: str
    lane: str
    label: str
    request: bytes = b""
    state: str = "pending"
    holder: int = 0
    attempt: int = 0
    lost: int = 0
    tries: int = 0
    order: int = 0
    back: int = 0  # times in a row
    given_back: bool = False
    first: tuple[str, str] | None = None  # lane and model before it went to another one


@dataclass
class JobOf:
    """A job.

    Attributes:
        unseen: outcomes were written, or it begins, and no turn has gone on from there.
        life: which submission of its id it is; incarnation: another one after a retry.
        proof: tells where it stands from all that it ever stood at: what a decision is made from.
        retried: its failures are still to be judged by a turn.
        sent: signals by their own ids, and what was answered.
        had_turn: a turn was due, once at least: its step is there.
    """

    tenant: str
    agent: str
    state: str = "running"
    steps: list[StepOf] = field(default_factory=list)
    turn: StepOf = field(default_factory=lambda: StepOf("turn", "turns", "turn", state="idle"))
    had_turn: bool = False
    written: int = 0
    unseen: bool = False
    ends: str = ""
    plan: str = ""
    node: int = -1
    kept: dict[str, int] = field(default_factory=dict)
    tokens: tuple[float, ...] = (0, 0, 0, 0)  # prompt, output, calls, micros
    estimated: int = 0  # … of the first two
    late: set[int] = field(default_factory=set)  # claims whose answers came too late and were paid
    budget: tuple[int | None, int | None, str] = (None, None, "pause")  # tokens, micros, what then
    wake: bool = False
    life: int = field(default_factory=lambda: next(ONCE))
    incarnation: int = field(default_factory=lambda: next(ONCE))
    proof: int = field(default_factory=lambda: next(ONCE))
    retried: bool = False
    sent: dict[str, str] = field(default_factory=dict)
    deadline: float | None = None
    due_by: int | None = None
    code: str = ""  # that its last turn ran with
    parked: str | None = None  # the code that lets it go on by itself; "": none
    forgotten: dict[int, StepOf] = field(default_factory=dict)  # the last of each number

    def over_budget(self) -> bool:
        """Its own budget is used up."""
        tokens, micros, _ = self.budget
        spent = self.tokens[0] + self.tokens[1]
        return (tokens is not None and spent >= tokens) or (micros is not None and self.tokens[3] >= micros)

    def ended_as(self, state: str) -> JobOf:
        """It has ended: what was not answered never is."""
        self.state, self.due_by, self.parked = state, None, None
        for step in self.steps:
            if step.state in UNANSWERED:
                step.state = "dropped"
        if self.turn.state == "ready":
            self.turn.state = "dropped"
        return self

    def in_flight(self) -> bool:
        """A worker is at one of its steps, or was when it ended."""
        return any(step.state == "leased" for step in [*self.steps, self.turn])


@dataclass
class NodeOf:
    """A node of a plan. ``members``: jobs (str) and nodes (int)."""

    mode: str
    parent: int
    on_failure: str
    members: list[str | int] = field(default_factory=list)
    ended: int = 0
    admitted: int = 0
    failed: bool = False


class Model:
    """All jobs and plans of a fleet."""

    def __init__(self) -> None:
        self.jobs: dict[str, JobOf] = {}
        self.plans: dict[str, list[NodeOf]] = {}
        self.ended: list[tuple[str, str, str]] = []
        self.spent: dict[tuple[str, int], list[float]] = defaultdict(lambda: [0, 0])
        self.watched: set[str] = set()  # tenants that were given settings: their spending counts from then on
        self.now = 0

    @property
    def day(self) -> int:
        """Days since the epoch."""
        return self.now // DAY

    # How jobs go on --------------------------------------------------------------------------------

    def begin(self, id: str, step: StepOf) -> None:
        """A step of a running job waits from now on."""
        job = self.jobs[id]
        if step.kind == Kind.SLEEP:
            step.state = "timed"
        elif step.kind == Kind.SIGNAL:
            if job.kept.get(step.label):
                job.kept[step.label] -= 1
                self.outcome(id, step, True)
                self.need_turn(id)
            else:
                step.state = "waiting"
        else:
            step.state = "ready"

    def need_turn(self, id: str) -> None:
        """The program is to be run by whoever can; not while the job is paused."""
        job = self.jobs[id]
        if job.state == "paused":
            job.wake = True
        elif job.turn.state not in ("ready", "leased"):
            job.turn = StepOf("turn", "turns", "turn", state="ready", attempt=job.turn.attempt)
            job.had_turn = True

    def outcome(self, id: str, step: StepOf, ok: bool, by: int = 0) -> None:
        """Written, once; ``by`` a claim."""
        job = self.jobs[id]
        job.written += 1
        number = next(n for n, s in enumerate(job.steps) if s is step)
        job.proof = hash((job.proof, number, by or -next(ONCE)))
        step.order, step.state = job.written, "done" if ok else "failed"
        job.unseen = True

    def apply(self, id: str, decision: Decision, served: Callable[[str], bool] = lambda _: False) -> None:
        """A turn's decision holds. ``served``: whether a worker has that code of the job's agent."""
        job = self.jobs[id]
        if decision.parks is not None:
            code = job.code if job.code != decision.code else ""
            if code and served(code):
                self.need_turn(id)  # another worker's
                return
            job.wake, job.parked = True, code
            self.pause(id)
            self.ended.append(("parked", id, job.plan))
            return
        job.unseen = False
        job.code = decision.code or job.code
        for ranked in decision.steps:
            s = ranked.step
            job.proof = hash((job.proof, len(job.steps), s.label, s.request))
            job.steps.append(StepOf(s.kind.value, s.lane, s.label, s.request))
        for step in job.steps[len(job.steps) - len(decision.steps) :]:
            if job.state == "running":
                self.begin(id, step)
        if decision.ends is None:
            return
        if job.state == "running":
            self.end(id, decision.ends.value)
        else:
            job.ends = decision.ends.value

    def end(self, id: str, state: str, *, silent: bool = False) -> bool:
        """The job's end; its plan hears of it. False when it had ended."""
        job = self.jobs[id]
        before = job.state
        if before not in OPEN:
            return False
        job.ended_as(state)
        self.ended.append(("job", id, state))
        if job.plan and before != "waiting" and not silent:
            self.member_ended(job.plan, job.node, state != "done")
        return True

    def pause(self, id: str) -> None:
        """What waits is put aside; what is in flight ends and is kept."""
        job = self.jobs[id]
        job.state = "paused"
        for step in job.steps:
            if step.state == "ready":
                step.state = "parked"
        if job.turn.state == "ready":
            job.turn.state, job.wake = "idle", True
        job.wake = job.wake or (job.unseen and job.turn.state != "leased")

    # Plans -----------------------------------------------------------------------------------------

    def on(self, plan: str, number: int) -> None:
        """Admit the members whose turn it is."""
        node = self.plans[plan][number]
        while node.admitted < len(node.members) and (node.mode != "fixed" or node.ended == node.admitted):
            member = node.members[node.admitted]
            node.admitted += 1
            if isinstance(member, int):
                self.on(plan, member)
                inner = self.plans[plan][member]
                if inner.ended == len(inner.members):
                    self.count(plan, number, inner.failed)
            elif self.admit(plan, member):
                job = self.jobs.get(member)
                self.count(plan, number, job is None or job.plan != plan or job.state != "done")

    def admit(self, plan: str, id: str) -> bool:
        """The job's turn in its plan has come. True when it ends with that, had ended, left or expired."""
        job = self.jobs.get(id)
        if job is None or job.plan != plan or job.state != "waiting":
            return True
        job.state = "running"
        if job.ends:
            return self.end(id, job.ends, silent=True)
        if not job.steps or job.written:
            self.need_turn(id)
        for step in list(job.steps):
            if step.state == "pending":
                self.begin(id, step)
        return False

    def count(self, plan: str, number: int, failed: bool) -> None:
        """One more member has ended; a failure may stop the node."""
        node = self.plans[plan][number]
        node.ended += 1
        if failed and node.on_failure == "stop":
            node.failed = True
            if node.mode == "fixed":
                for member in node.members[node.admitted :]:
                    self.drop(plan, member)
                node.admitted = node.ended = len(node.members)

    def drop(self, plan: str, member: str | int) -> None:
        """A member whose turn will not come."""
        if isinstance(member, int):
            for inner in self.plans[plan][member].members:
                self.drop(plan, inner)
        elif member in self.jobs and self.jobs[member].plan == plan and self.jobs[member].state == "waiting":
            self.end(member, "cancelled", silent=True)

    def member_ended(self, plan: str, number: int, failed: bool) -> None:
        """… of a node: on to the next, and upwards as far as nodes end with it."""
        self.count(plan, number, failed)
        self.on(plan, number)
        node = self.plans[plan][number]
        if node.ended == len(node.members):
            if node.parent >= 0:
                self.member_ended(plan, node.parent, node.failed)
            else:
                self.end_plan(plan)

    def end_plan(self, plan: str) -> None:
        """All members of the root have ended."""
        self.ended.append(("plan", plan, self.plan_state(plan)))

    def plan_state(self, plan: str) -> str:
        """What its root says."""
        root = self.plans[plan][0]
        if root.ended < len(root.members):
            return "running"
        return "failed" if root.failed else "done"

    # Verbs -----------------------------------------------------------------------------------------

    def submit(self, jobs: list[NewJob], shape: Shape | None = None) -> None:
        """New jobs, and the plan between them."""
        for new in jobs:
            self._add(new, shape.id if shape else "", new.node if shape else -1)
        if shape is None:
            return
        nodes = [NodeOf(mode, parent, on_failure) for mode, parent, _, on_failure in shape.nodes]
        for number, _, child in sorted(shape.links):
            nodes[number].members.append(child[1:] if child[0] == "j" else int(child[1:]))
        self.plans[shape.id] = nodes
        self._from_the_root(shape.id)

    def extend(self, plan: str, jobs: list[NewJob]) -> None:
        """More jobs at the tail of a plan."""
        for new in jobs:
            self._add(new, plan, 0)
            self.plans[plan][0].members.append(new.id)
        self._from_the_root(plan)

    def _from_the_root(self, plan: str) -> None:
        self.on(plan, 0)
        if self.plan_state(plan) != "running":
            self.end_plan(plan)

    def _add(self, new: NewJob, plan: str, node: int) -> None:
        job = JobOf(
            new.record.tenant, new.record.agent, "waiting" if plan else "running", plan=plan, node=node
        )
        if new.budget is not None:
            money = new.budget.money
            micros = None if money is None else round(money * 1e6)
            job.budget = (new.budget.tokens, micros, new.budget.on_budget)
        job.deadline = new.record.deadline
        job.due_by = int(self.now + job.deadline * 1e6) if job.deadline else None
        self.jobs[new.id] = job
        if new.decision is not None:
            self.apply(new.id, new.decision)
        else:
            job.unseen = True
            if not plan:
                self.need_turn(new.id)

    def step(self, id: str, step: str) -> StepOf | None:
        """A step, or the job's turn; None where there is none."""
        job = self.jobs.get(id)
        if job is None:
            return None
        if step == TURN:
            return job.turn
        return job.steps[int(step)] if int(step) < len(job.steps) else None

    def commit(
        self, by: Any, id: str, step: str, *, ok: bool, usage: tuple[float, ...],
        decision: Decision | None, right: bool, here: bool, served: Callable[[str], bool] = lambda _: False,
    ) -> str:  # fmt: skip
        """The status that the verb has to give. ``right``: it was decided from where the job stands."""
        job, s = self.jobs.get(id), self.step(id, step)
        gone = s is None and job is not None and step != TURN
        s = job.forgotten.get(int(step)) if job is not None and gone else s
        if job is None or s is None or (step == TURN and not job.had_turn):  # (Redis was put back)
            return "gone"
        silent = usage[2] > 0 and usage[0] + usage[1] == 0  # the provider reports no usage
        if silent and s.request == by.claim.request:
            guess = by.claim.estimated
            usage = (guess.prompt_tokens, guess.output_tokens, *usage[2:])
        if gone:  # forgotten, and paid for
            self._too_late(job, by, usage, silent)
            return "gone"
        if s.state in ("done", "failed"):
            if s.holder == by.number:
                return "mine"
            self._too_late(job, by, usage, silent)
            return "written"
        if s.holder != by.number:  # an answer is paid for; a failure from before a retry is undone by it
            same = job.life == by.life if ok else job.incarnation == by.incarnation
            if s.state not in FREE or not same or s.request != by.claim.request:
                self._too_late(job, by, usage, silent)
                return "fenced"
            s.holder = by.number
        self.outcome(id, s, ok, by.number)
        if by.number not in job.late:
            self._paid(job, usage, silent)
        if job.state == "paused":
            job.wake = True
            return "paused"
        if job.state != "running":
            return "ended"
        if decision and right and not job.retried:
            self.apply(id, decision, served)
            return "advanced"
        if not here:
            self.need_turn(id)
        return "turn"

    def _too_late(self, job: JobOf, by: Any, usage: tuple[float, ...], silent: bool) -> None:
        """Nobody wants the answer any more; it was paid for, once."""
        if usage[2] and job.life == by.life and by.number not in job.late:
            job.late.add(by.number)
            self._paid(job, usage, silent)

    def _paid(self, job: JobOf, usage: tuple[float, ...], silent: bool) -> None:
        """What a call took counts."""
        if not usage[2]:
            return
        job.tokens = tuple(round(a + b, 6) for a, b in zip(job.tokens, usage, strict=True))
        job.estimated += int(usage[0] + usage[1]) if silent else 0
        if job.tenant in self.watched:
            spent = self.spent[job.tenant, self.day]
            spent[0] += usage[0] + usage[1]
            spent[1] = round(spent[1] + usage[3], 6)

    def turn_over(self, holder: int, id: str) -> None:
        """Who ran a turn under a lease has done so."""
        turn = self.jobs[id].turn
        if holder and turn.holder == holder and turn.state in ("ready", "leased"):
            turn.state = "idle"

    def advance(
        self, holder: int, id: str, decision: Decision, *, right: bool,
        served: Callable[[str], bool] = lambda _: False,
    ) -> str:  # fmt: skip
        """The status that the verb has to give. ``holder``: 0 for a turn without a lease."""
        job = self.jobs.get(id)
        if job is None:
            return "gone"
        if job.state != "running":
            self.turn_over(holder, id)
            job.wake = job.wake or job.state == "paused"
            return "ended"
        if not right or (job.retried and decision.parks is None):
            return "stale"
        self.turn_over(holder, id)
        self.apply(id, decision, served)
        return "advanced"

    def release(
        self, holder: int, id: str, step: str, *, failed: bool, to: tuple[str, str] | None, counted: bool
    ) -> bool:
        """Whether it was the holder's to give back."""
        job, s = self.jobs.get(id), self.step(id, step)
        if job is None or s is None or s.state != "leased" or s.holder != holder:
            return False
        s.tries += failed
        s.back = 0 if failed else s.back + counted
        s.given_back = True
        if to is not None:
            s.first = s.first or (s.lane, s.label)
            (s.label, s.lane), s.tries = to, 0
        if job.state == "running" and counted and not failed and s.back >= MOST_BACK:
            self.give_up(id, step)
        else:
            self.back(id, step)
        return True

    def diverted(self, id: str, step: StepOf, lane: str, label: str) -> None:
        """Its model kept the step waiting: it waits for another one."""
        step.first = step.first or (step.lane, step.label)
        step.lane, step.label, step.tries = lane, label, 0

    def back(self, id: str, step: str) -> None:
        """Nobody holds the step any more."""
        job, s = self.jobs[id], self.step(id, step)
        assert s is not None
        if job.state == "running":
            s.state = "ready"
        elif job.state == "paused":
            s.state = "idle" if step == TURN else "parked"
            job.wake = job.wake or step == TURN
        else:
            s.state = "idle" if step == TURN else "dropped"

    def give_up(self, id: str, step: str) -> None:
        """Nobody brings the step to an end."""
        s = self.step(id, step)
        assert s is not None
        s.holder = 0
        if step == TURN:
            s.state = "dropped"
            self.end(id, "failed")
        else:
            self.outcome(id, s, False)
            self.need_turn(id)

    def lost(self, id: str, step: str, attempts: int) -> None:
        """A lease has ended, and the reconciler saw it."""
        job, s = self.jobs[id], self.step(id, step)
        assert s is not None
        s.lost += 1
        if job.state == "running" and s.lost >= attempts:
            self.give_up(id, step)
        else:
            self.back(id, step)

    def regain(self, by: Any, waits: str) -> bool:
        """Whether a lease that is not there any more is taken up again. ``waits``: where its step does."""
        job, s = self.jobs.get(by.claim.job), self.step(by.claim.job, by.claim.step)
        if job is None or s is None or job.life != by.life:
            return False
        ours, parked = s.holder == by.number, job.state == "paused" and s.state == "parked"
        if not parked and (
            job.state != "running" or s.state != "ready" or waits not in ("ready", "stray", "held")
        ):
            return False
        if by.number in job.late or (by.claim.step != TURN and s.request != by.claim.request):
            return False
        if s.given_back if ours else s.attempt >= by.claim.attempt:
            return False
        s.lost = max(0, s.lost - 1) if ours else s.lost
        s.state, s.holder, s.attempt, s.given_back = "leased", by.number, by.claim.attempt, False
        return True

    def rewind(self, id: str, step: int) -> str:
        """The status that the verb has to give: from that step on all is forgotten, but what it took."""
        job = self.jobs[id]
        if job.state != "paused":
            return job.state
        if step > len(job.steps):
            return "beyond"
        if any(s.state == "leased" for s in job.steps[step:]):
            return "busy"
        for number, s in enumerate(job.steps[step:], step):
            job.forgotten[number] = s
            job.late |= {s.holder} - {0} if s.order else set()  # what it took has counted
        del job.steps[step:]
        for order, s in enumerate(sorted((s for s in job.steps if s.order), key=lambda s: s.order), 1):
            s.order = order
        job.written = sum(bool(s.order) for s in job.steps)
        job.incarnation, job.proof = next(ONCE), next(ONCE)
        job.code, job.wake, job.unseen = "", True, True
        self.resume(id)
        return "running"

    def unpark(self, served: Callable[[str, str], bool]) -> None:
        """Jobs go on whose code a worker has again. ``served``: of an agent and a code."""
        for id, job in self.jobs.items():
            if job.parked and served(job.agent, job.parked):
                self.resume(id)

    def resume(self, id: str) -> None:
        """What was put aside waits again."""
        job = self.jobs[id]
        job.state, job.parked = "running", None
        for step in job.steps:
            if step.state == "parked":
                step.state = "ready"
        if job.wake or len(job.steps) <= job.written:
            job.wake = False
            self.need_turn(id)

    def signal(self, id: str, name: str, sent: str) -> str:
        """The status that the verb has to give; ``sent``: the signal's own id."""
        job = self.jobs.get(id)
        if job is None:
            return "unknown"
        if sent in job.sent:
            return job.sent[sent]
        if job.state not in OPEN:
            return "ended"
        for step in job.steps:
            if step.state == "waiting" and step.label == name:
                self.outcome(id, step, True)
                self.need_turn(id)
                job.sent[sent] = "delivered"
                return "delivered"
        if sum(job.kept.values()) >= MOST_SIGNALS:
            return "full"
        job.kept[name] = job.kept.get(name, 0) + 1
        job.sent[sent] = "kept"
        return "kept"

    def retry(self, id: str, undone: set[int] | None) -> None:
        """``undone``: failed steps that run again; None: a turn is to say which (see redo)."""
        job = self.jobs[id]
        job.state, job.plan, job.wake, job.ends = "running", "", False, ""
        job.incarnation, job.proof, job.retried = next(ONCE), next(ONCE), undone is None
        job.due_by = int(self.now + job.deadline * 1e6) if job.deadline else None
        self._again(id, undone or set())
        job.unseen = True
        self.need_turn(id)

    def redo(self, id: str, undone: set[int], *, right: bool) -> str:
        """The status that the verb has to give."""
        job = self.jobs.get(id)
        if job is None:
            return "gone"
        if job.state != "running":
            return "ended"
        if not job.retried:
            return "redone"
        if not right:
            return "stale"
        job.retried = False
        self._again(id, undone)
        return "redone"

    def _again(self, id: str, undone: set[int]) -> None:
        """Failed steps, and those that were dropped, run again."""
        job = self.jobs[id]
        undone = {n for n in undone if n < len(job.steps) and job.steps[n].state == "failed"}
        answered = [s for n, s in enumerate(job.steps) if s.order and n not in undone]
        for order, step in enumerate(sorted(answered, key=lambda s: s.order), 1):
            step.order = order
        job.written = len(answered)
        job.proof = hash((job.proof, "again", tuple(sorted(undone))))
        again = []
        for n, step in enumerate(job.steps):
            if n in undone or step.state == "dropped":
                step.order = step.lost = step.tries = step.back = 0
                step.state = "pending"
                if n in undone:
                    job.late |= {step.holder} - {0}  # what it took has counted
                    step.holder = 0
                    if step.first:
                        step.lane, step.label = step.first
                again.append(step)
        for step in again:
            self.begin(id, step)

    def fork(self, id: str, new: str, upto: int) -> None:
        """A new job with the history of another up to a step, under its limits."""
        old = self.jobs[id]
        job = self.jobs[new] = JobOf(old.tenant, old.agent, budget=old.budget, unseen=True)
        job.deadline, job.code = old.deadline, old.code
        job.due_by = int(self.now + job.deadline * 1e6) if job.deadline else None
        for s in old.steps[:upto]:
            lane, label = s.first if s.first and not s.order else (s.lane, s.label)
            copy = StepOf(s.kind, lane, label, s.request, order=s.order)
            copy.state = s.state if s.order else "pending"
            if s.order:
                copy.attempt, copy.lost, copy.tries = s.attempt, s.lost, s.tries
            job.steps.append(copy)
        for order, s in enumerate(sorted((s for s in job.steps if s.order), key=lambda s: s.order), 1):
            s.order = order
        job.written = sum(bool(s.order) for s in job.steps)
        for s in list(job.steps):
            if s.state == "pending":
                self.begin(new, s)
        self.need_turn(new)

    def forget(self, id: str) -> None:
        """The job has expired."""
        del self.jobs[id]


def differences(model: Model, seen: Any, ends: list[tuple[str, str, str]]) -> list[str]:
    """Where Redis is not what the model says. ``ends``: what the stream of ends has said since last time."""
    wrong: list[str] = []
    if model.jobs.keys() != seen.jobs.keys():
        wrong.append(f"jobs are {sorted(seen.jobs)}, by the model {sorted(model.jobs)}")
    for id, job in model.jobs.items():
        if id in seen.jobs:
            wrong += _of_a_job(id, job, seen)
    for plan in model.plans:
        if plan in seen.plans and seen.plans[plan]["st"].decode() != model.plan_state(plan):
            wrong.append(f"plan {plan} is {seen.plans[plan]['st']!r}, by the model {model.plan_state(plan)}")
    if sorted(ends) != sorted(model.ended):
        wrong.append(f"the stream of ends says {ends}, what ended is {model.ended}")
    model.ended = []
    for (tenant, day), (tokens, micros) in model.spent.items():
        got = seen.hashes["spend"].get(f"{tenant}:{day}", {})
        if (int(got.get("tok", 0)), round(float(got.get("mic", 0)), 6)) != (tokens, micros):
            wrong.append(f"{tenant} has spent {tokens} tokens and {micros} on day {day}, Redis says {got}")
    return wrong


def _of_a_job(id: str, job: JobOf, seen: Any) -> list[str]:
    wrong = []
    found = seen.jobs[id]
    if found.state != job.state:
        wrong.append(f"{id} is {found.state}, by the model {job.state}")
    used = [*(found.number(f) for f in ("up", "uo", "uc")), found.money(), found.number("ue")]
    if used != [*job.tokens, job.estimated]:
        wrong.append(f"{id}: usage {used}, by the model {job.tokens}, {job.estimated}")
    if (at := seen.one["deadlines"].get(id)) != job.due_by:
        wrong.append(f"{id}: its deadline is {at}, by the model {job.due_by}")
    if found.text("ch") != job.code and job.state in OPEN:
        wrong.append(f"{id}: its code is {found.text('ch')!r}, by the model {job.code!r}")
    parked = None if job.parked is None else f"code/{job.agent}@{job.parked}" if job.parked else "-"
    if found.fields.get("pk", b"").decode() != (parked or ""):
        wrong.append(f"{id}: parked for {found.text('pk')!r}, by the model {parked!r}")
    if ("rt" in found.fields) != job.retried and job.state in OPEN:
        wrong.append(f"{id}: to be judged by a turn: {'rt' in found.fields}, by the model {job.retried}")
    if found.number("n") != len(job.steps) or found.number("v") != job.written:
        got = found.number("n"), found.number("v")
        wrong.append(f"{id}: steps and outcomes are {got}, by the model {len(job.steps)}, {job.written}")
    for n, step in enumerate(job.steps):
        h = found.heads.get(str(n))
        if h is None:
            continue
        order = sum(0 < other.order <= h.order for other in found.heads.values())  # (of a wide job with gaps)
        got = (h.kind, h.lane, h.label, h.state, h.attempt, order, h.tries, h.lost, h.back)
        want = (step.kind, step.lane, step.label, step.state, step.attempt, step.order, step.tries, step.lost)
        want = (*want, step.back)
        if not found.follows(str(n)):
            got, want = got[:3], want[:3]
        elif (
            h.state == "dropped"
        ):  # asked for again it begins anew; who was to do so before it ended may not have
            got, want = got[:6], want[:6]
        if got != want:
            wrong.append(f"{id}/{n} is {got}, by the model {want}")
        if _whole(found, found.fields.get(f"q{n}")) != step.request:
            wrong.append(f"{id}/{n}: its request is another one")
    turn = found.heads.get(TURN)
    state = turn.state if turn else "idle"
    same = {"dropped": "idle"}
    if same.get(state, state) != same.get(job.turn.state, job.turn.state):
        wrong.append(f"{id}: its turn is {state}, by the model {job.turn.state}")
    asked = state in ("ready", "leased") or id in seen.one["due"]
    if job.state == "running" and job.unseen and not asked:
        wrong.append(f"{id}: no turn will see what was written")
    if job.state == "paused" and job.wake and "wake" not in found.fields:
        wrong.append(f"{id} is paused, and nothing says that a turn waits for its end")
    return wrong


def _whole(found: Any, stored: bytes | None) -> bytes | None:
    try:
        return stored and b"j" + whole(stored, found.texts)
    except KeyError:
        return None


__all__ = ["ENDED", "JobState", "Model", "differences"]
