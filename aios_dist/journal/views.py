"""What the journal shows of itself: jobs, steps, lanes, models, tenants, workers."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple

import msgspec

from aios_dist import policies
from aios_dist.config import LaneConfig, ModelConfig
from aios_dist.journal.heads import Head
from aios_dist.model.calls import LLMRequest, Request, SignalRequest, SleepRequest, ToolRequest, Usage
from aios_dist.model.chance import Known
from aios_dist.model.jobs import (
    TURNS_LANE,
    JobRecord,
    JobState,
    Kind,
    Outcome,
    Rejection,
    Step,
    StepState,
)
from aios_dist.model.texts import Reader


class Event(msgspec.Struct, frozen=True):
    """Something that happened to a job. ``index`` counts from 0; ``at`` is seconds since the epoch."""

    index: int
    at: float
    what: str
    step: int | None = None
    detail: str = ""


class JobView(msgspec.Struct, frozen=True, kw_only=True):
    """A job as it stands. Times are seconds since the epoch, 0 where it has not come to that.

    Attributes:
        money: what its calls cost, where the models' prices are known.
        estimated: tokens of its usage that are estimates, since no usage came with an answer.
        why: the reason of a pause.
        parked: it is paused because its agent's code does not fit what its journal holds.
        parked_for: the code with which it goes on by itself then; "": with none.
        code: of its agent, that it ran with last; "" where that is not known, or the agent is data.
        served: seconds in calls.
        placed: its order is that of an agent-first plan, whatever its priority.
        over_limit: it is parked because it would hold more than ``job_limit``.
        held_bytes: of its requests and answers, as Redis keeps them; 0 of one that has only short ones.
        in_code: its agent is code, which the workers that run its turns must have.
    """

    id: str
    state: JobState
    agent: str
    tenant: str = "default"
    steps: int = 0
    outcomes: int = 0
    usage: Usage = Usage()
    plan: str | None = None
    money: float = 0.0
    estimated: int = 0
    why: str = ""
    served: float = 0.0
    priority: int = 0
    placed: bool = False
    in_code: bool = True
    submitted_at: float = 0.0
    ended_at: float = 0.0
    parked: bool = False
    parked_for: str = ""
    over_limit: bool = False
    held_bytes: int = 0
    code: str = ""

    @property
    def spent(self) -> str:
        """Whose budget has paused it, ``job`` or ``tenant``; empty where none has."""
        return _SPENT.get(self.why, "")


_SPENT = {f"budget of the {whose} used up": whose for whose in ("job", "tenant")}
"""What ``claim.lua`` writes as the reason of such a pause."""


class Wanted(msgspec.Struct, frozen=True):
    """Which jobs are asked for: those of which all holds that is said.

    Attributes:
        states: of :class:`JobState`, or ``parked``; one of them.
        since: submitted no earlier, seconds since the epoch.
        ended: they have, or have not; None: both.
    """

    states: tuple[str, ...] = ()
    agent: str | None = None
    tenant: str | None = None
    since: float | None = None
    plan: str | None = None
    ended: bool | None = None

    def takes(self, view: JobView) -> bool:
        """Whether the job is one of them."""
        names = {view.state.value, *(["parked"] if view.parked else [])}
        return (
            (not self.states or bool(names.intersection(self.states)))
            and self.agent in (None, view.agent)
            and self.tenant in (None, view.tenant)
            and self.plan in (None, view.plan)
            and (self.since is None or view.submitted_at >= self.since)
        )

    def where(self) -> list[bool]:
        """Among the jobs that have ended (True), or those that have not, or both."""
        ends = {state.value for state in JobState if state.ended}
        both = [False, True] if self.ended is None else [self.ended]
        if not self.states:
            return both
        return [ended for ended in both if any((state in ends) == ended for state in self.states)]


class Standing(NamedTuple):
    """A job as who waits for it wants to know it.

    Attributes:
        result: encoded; empty before the end.
        parked: the reason for which it is parked, or one that it waits for in its plan; or "".
        who: the one that is parked.
        code: with which that goes on by itself; "": with none.
        plan: the one that has not admitted it.
        over_limit: that is parked because it would hold more than ``job_limit``.
    """

    state: JobState
    result: bytes = b""
    parked: str = ""
    who: str = ""
    code: str = ""
    plan: str = ""
    over_limit: bool = False

    @property
    def over(self) -> bool:
        """It does not go on by itself just now."""
        return self.state.ended or bool(self.parked)


class History(msgspec.Struct, frozen=True):
    """All that a replay needs: steps by number, outcomes in the order of writing.

    Attributes:
        basis: what a program has seen that was brought to this; see :class:`Decision`.
        retried: the next turn says which failures are run again (``redo``).
        events: as many of the job had been told before it was read.
        forgotten: steps that were left out when it was resumed from an earlier one, as they were then;
            none where it was read without requests.
        code: of its agent, that it ran with last; also where it was resumed from an earlier step since.
        of_code: so many of its first steps that code has asked for, or did when it ran again; None: nobody
            has noted that.
    """

    view: JobView
    record: JobRecord
    steps: list[Step]
    result: bytes = b""
    basis: str = ""
    retried: bool = False
    events: int = 0
    forgotten: list[Step] = []
    code: str = ""
    of_code: int | None = None

    def retried_with(self, salt: str) -> bool:
        """Whether the last retry of the job is the one of this ``salt``: see ``Journal.retry``."""
        return self.basis.partition(".")[0].endswith(f"~{salt}")

    def outcomes(self) -> list[tuple[int, Outcome]]:
        """Number and outcome, in the order in which they were written."""
        done = sorted((s for s in self.steps if s.order), key=lambda s: s.order)
        return [(s.number, outcome) for s in done if (outcome := s.told()) is not None]

    def known(self) -> Known:
        """What its program knows of time and chance at its start."""
        record = self.record  # of an older version: without
        return Known(record.seed or self.view.id, record.submitted_at or self.view.submitted_at)


class WorkerInfo(msgspec.Struct, frozen=True, kw_only=True):
    """What a worker says of itself, at start and with each renewal.

    Attributes:
        in_flight: slots that are taken, also by tools that were given up and still run.
        stuck: what hangs and cannot be ended: tools and agents, each with its job.
        dropped: tickets and messages that came in and were no valid ones.
        slots: as many as it takes now.
        short: why these are fewer than it was told, or "".
        files: its limit of open files; 0: none.
        unpriced: those of its models of which no price is known.
        cancelled: lanes of its pool that it takes nothing from, because Celery was told so.
        codes: what it has of the code of each agent, see :mod:`aios_dist.program.codes`.
        tells_who_waits: it announces each end on the job's own channel; releases before did not.
        reads_texts: it reads documents that are stored apart; releases before did not.
    """

    id: str
    host: str
    pid: int
    pool: str
    lanes: list[str]
    slots: int
    in_flight: int = 0
    models: list[str] = []
    agents: list[str] = []
    started_at: float = 0.0
    seen_at: float = 0.0
    stuck: list[str] = []
    dropped: int = 0
    short: str = ""
    files: int = 0
    unpriced: list[str] = []
    cancelled: list[str] = []
    codes: dict[str, str] = {}
    tells_who_waits: bool = False
    reads_texts: bool = False

    @property
    def node(self) -> str:
        """Its name in Celery and Flower."""
        return self.id.rsplit(":", 2)[0]

    def code_needs(self) -> list[str]:
        """What it has of agents' code for steps of the lane ``turns``, as `serving` names it."""
        if TURNS_LANE not in self.lanes:
            return []
        return [f"has/{agent}@{code}" for agent, code in self.codes.items()]


msgspec.json.Decoder(WorkerInfo)  # known to msgspec from here on: see aios_dist.model.jobs


class Registry(msgspec.Struct, frozen=True):
    """What the workers of a fleet said of themselves.

    Attributes:
        workers: those that have said something in the last 3 leases.
        models: each model's lane; also of workers that are gone, for as long as ended jobs are kept.
        agents: those that are code; the same.
        odd: entries that this version does not understand.
        silent: workers that have said nothing since, and no farewell either.
        now: on Redis' clock, as it was read.
    """

    workers: list[WorkerInfo] = []
    models: dict[str, str] = {}
    agents: list[str] = []
    odd: list[str] = []
    silent: list[WorkerInfo] = []
    now: float = 0.0

    def live(self, lease: float) -> list[WorkerInfo]:
        """Workers that renew."""
        return [worker for worker in self.workers if worker.seen_at > self.now - lease]

    def agents_now(self, lease: float) -> set[str]:
        """Agents whose code a worker that renews has."""
        return {agent for worker in self.live(lease) for agent in worker.agents}

    def unpriced(self) -> set[str]:
        """Models of whose calls no price is known: no budget of money sees them."""
        return {model for worker in self.workers for model in worker.unpriced}

    def lanes(self, configured: Iterable[str]) -> list[str]:
        """Every lane, sorted: those of aios.toml, and what workers serve besides."""
        return sorted({*configured, *(lane for worker in self.workers for lane in worker.lanes)})


class Need(msgspec.Struct, frozen=True):
    """Steps of a lane that wait for a worker with more than those which met them.

    Attributes:
        need: ``model/NAME``, ``agent/NAME``, or of a job that has begun ``code/AGENT@CODE``.
        steps: how many.
        served: there is such a worker.
    """

    lane: str
    need: str
    steps: int
    served: bool

    def __str__(self) -> str:
        """In words, without a full stop."""
        count = "1 step waits" if self.steps == 1 else f"{self.steps} steps wait"
        return f"{count} on lane {self.lane!r} for a worker with {needed(self.need)}"


def needed(need: str) -> str:
    """``model/NAME``, ``agent/NAME`` or ``code/NAME@CODE`` in words."""
    kind, _, name = need.partition("/")
    if kind == "code":
        agent, _, code = name.rpartition("@")
        return f"the code {code} of agent {agent!r}"
    return f"model {name!r}" if kind == "model" else f"the code of agent {name!r}"


class Repairs(msgspec.Struct, frozen=True):
    """What was put right after verbs that broke.

    Attributes:
        counts: how often, by what.
        aside: jobs whose record cannot be read, and why.
        marked: jobs that are to be looked at now.
    """

    counts: dict[str, int] = {}
    aside: dict[str, str] = {}
    marked: int = 0


class DeadLetter(msgspec.Struct, frozen=True):
    """A step that was given up because it lost its worker each time. ``at``: seconds since the epoch."""

    job: str
    step: str
    at: float


class Limits(msgspec.Struct, frozen=True, omit_defaults=True):
    """Limits of a model over the whole fleet; 0 is none.

    Attributes:
        fallback: what aios.toml says of models that steps go to while this one is on hold: lane and name of
            each, in their order. A hand says nothing of them.
        fallback_after: seconds that a hold must last for that.
    """

    in_flight: int = 0
    requests_per_minute: int = 0
    tokens_per_minute: int = 0
    fallback: tuple[tuple[str, str], ...] = ()
    fallback_after: float = ModelConfig().fallback_after


class LaneRules(msgspec.Struct, frozen=True):
    """Who goes first on a lane (:class:`aios_dist.config.LaneConfig`). ``by_hand``: not as in aios.toml."""

    policy: str = "fifo"
    oldest_every: int = 0
    fair: str = ""
    by_hand: bool = False

    @classmethod
    def of(cls, lane: LaneConfig) -> LaneRules:
        """What a lane's table of aios.toml comes to."""
        return cls(lane.policy, policies.oldest_every(lane.policy, lane.oldest_every), lane.fair)


class LaneView(msgspec.Struct, frozen=True):
    """A lane as it stands: waiting steps, tickets in its queue, slots and workers that serve it.

    Attributes:
        rules: who goes first.
        tenants: waiting steps by tenant, where the lane is shared: of the hundred that are served next.
        tenant_count: how many tenants wait.
        due: steps that slept, backed off or were lost until now: the next worker puts them beside these.
        in_flight: steps at the workers that serve it, also of their other lanes.
        to_come: what ``[lanes.*]`` of the configuration says, where other rules hold that no hand has set: it
            holds once a worker starts with this configuration. None: nothing is to come.
    """

    name: str
    ready: int
    tickets: int
    slots: int
    workers: int
    rules: LaneRules = LaneRules()
    tenants: dict[str, int] = {}
    tenant_count: int = 0
    due: int = 0
    in_flight: int = 0
    to_come: LaneRules | None = None

    @property
    def wanted(self) -> int:
        """Slots that the lane can use now: what a scaler goes by, also from and to none."""
        return self.ready + self.due + self.in_flight


class LaneCount(msgspec.Struct, frozen=True):
    """Steps that wait on a lane: all of them, of the tenants that were asked for (none where the lane is not
    shared), how many tenants wait, and how many steps more would wait if somebody reconciled."""

    ready: int
    tenants: dict[str, int] = {}
    tenant_count: int = 0
    due: int = 0


class TenantView(msgspec.Struct, frozen=True, kw_only=True):
    """A tenant as it stands; 0 is no limit.

    Attributes:
        held: steps that wait for ``max_in_flight``.
        counters: what it has had of each shared lane: tokens by their cost, over its weight.
    """

    name: str
    weight: float = 1.0
    max_in_flight: int = 0
    in_flight: int = 0
    held: int = 0
    tokens_per_day: int = 0
    money_per_day: float = 0.0
    tokens_today: int = 0
    money_today: float = 0.0
    counters: dict[str, float] = {}


class ModelView(msgspec.Struct, frozen=True, kw_only=True):
    """A model as it stands over the whole fleet.

    Attributes:
        limits: see :class:`Limits`.
        in_flight: calls that count against the limits now; 0 for a model without limits that never failed.
        held: steps that its limits, or a hold, keep off their lane.
        hold_until: seconds since the epoch until when nobody calls it; 0 when nothing holds it.
        gentle: calls let in at a time after a hold; 0 is no such bound.
        failures: calls that failed in a row.
        requests, tokens: of the calls that count in the last 60 s.
        answers, without_usage: answers since the model is known here, and those that brought no usage.
    """

    name: str
    limits: Limits = Limits()
    in_flight: int = 0
    held: int = 0
    hold_until: float = 0.0
    gentle: int = 0
    failures: int = 0
    requests: int = 0
    tokens: int = 0
    answers: int = 0
    without_usage: int = 0


class PlanView(msgspec.Struct, frozen=True):
    """A plan as it stands.

    Attributes:
        state: ``running``, ``done`` or ``failed``.
        jobs: all that it has; None in this and the next three: it is of a release that did not count.
        admitted: jobs whose turn has come, those that were cancelled before it included.
        ended: those of them that have ended.
        dropped: jobs that will have no turn, after a failure.
        at_work: members are being admitted or dropped at this moment.
    """

    id: str
    state: str
    jobs: int | None = None
    admitted: int | None = None
    ended: int | None = None
    dropped: int | None = None
    at_work: bool = False


REQUESTS: dict[Kind, type[Any]] = {
    Kind.LLM: LLMRequest,
    Kind.TOOL: ToolRequest,
    Kind.SLEEP: SleepRequest,
    Kind.SIGNAL: SignalRequest,
}


_REJECTED = msgspec.json.Decoder(tuple[Rejection, ...])
_ONCE = msgspec.json.Decoder(tuple[Outcome, ...])


def model_view(
    name: str, now: float, facts: list[Any], in_flight: int, held: int, window: list[bytes]
) -> ModelView:
    """A model from what ``_limits.lua`` keeps of it: its hash, and the calls of the last minute."""
    most, requests, tokens, hold, gentle, failures, answers, without = (int(fact or 0) for fact in facts)
    return ModelView(
        name=name,
        limits=Limits(most, requests, tokens),
        in_flight=in_flight,
        held=held,
        hold_until=hold / 1e6 if hold / 1e6 > now else 0.0,
        gentle=gentle,
        failures=failures,
        requests=len(window),
        tokens=sum(int(entry.rpartition(b"|")[2]) for entry in window),
        answers=answers,
        without_usage=without,
    )


WHOLE = Reader({})
"""Reads what refers to nothing."""


def head_to_step(
    job: str, number: int, head: Head, request: bytes | None, outcome: bytes | None, reader: Reader = WHOLE
) -> Step:
    """A step from the head that the Lua verbs keep of it, its request and its outcome."""
    kind = Kind(head.kind)
    record: Request | None = None
    if request:
        record = reader.read(request, REQUESTS[kind])
    return Step(
        job=job,
        number=number,
        kind=kind,
        lane="" if kind in (Kind.SLEEP, Kind.SIGNAL) else head.lane,  # those wait on none
        state=StepState(head.state),
        attempt=head.attempt,
        rank=head.rank,
        ready_at=head.ready / 1e6,
        started_at=head.started / 1e6,
        ended_at=head.ended / 1e6,
        order=head.order,
        worker=head.worker,
        digest=head.digest,
        label=head.label,
        request=record,
        outcome=reader.read(outcome, Outcome) if outcome else None,
        rejected=_REJECTED.decode(head.rejected) if head.rejected else (),
        once=_ONCE.decode(head.once) if head.once else (),
    )
