"""What goes into the journal's verbs and what comes out of them."""

from __future__ import annotations

import secrets
from collections.abc import Collection, Mapping, Sequence
from typing import Any, NamedTuple

import msgspec

from aios_dist.config import Config
from aios_dist.journal.views import LaneRules, Limits
from aios_dist.model.calls import INPUT_COST, MOST_TOKENS, OUTPUT_COST, Usage
from aios_dist.model.jobs import (
    DIGEST,
    TURN,
    JobRecord,
    JobState,
    Kind,
    NewStep,
    decode,
    digest,
    encode,
    packed,
)
from aios_dist.model.specs import Budget
from aios_dist.model.texts import Apart
from aios_dist.policies import Rank, Waiting


def bounded(number: float) -> int:
    """A number from outside as the verbs take it, from 0 to ``MOST_TOKENS``: no verb must break over it."""
    return int(max(0, min(MOST_TOKENS, number)))


def micros(money: float) -> float:
    """Millionths of money as the verbs take them: to a millionth of one, from 0 to ``MOST_TOKENS``."""
    return round(max(0.0, min(float(MOST_TOKENS), money * 1e6)), 6)


def as_text(number: float) -> str:
    """A number that is not negative as fields of hashes hold it: up to six decimals, no exponent."""
    return f"{number:.6f}".rstrip("0").rstrip(".")


class Refusal(NamedTuple):
    """What a failed call says of its model, whatever becomes of the step: it would have met other calls too.

    Attributes:
        hold: seconds for which nobody is to call the model (the provider said so); 0: it named none.
        breaker: so many failures in a row, over the fleet, hold it as well; 0: never.
    """

    hold: float = 0.0
    breaker: int = 0

    def plain(self) -> dict[str, Any]:
        """As the verbs take it."""
        return {"hold_us": bounded(self.hold * 1e6), "breaker": self.breaker}


def kept_record(record: bytes, apart: Apart | None, *, of_model: bool = False) -> bytes:
    """A record as Redis holds it. What is packed already stays so."""
    if record[:1] != b"j":
        return record
    if apart is None:
        return packed(record[1:])
    return (apart.request if of_model else apart.document)(record[1:])


class RankedStep(msgspec.Struct, frozen=True):
    """A new step with what its policy said. ``policy`` is empty where the lane's does not apply (tools)."""

    step: NewStep
    rank: Rank = Rank()
    policy: str = ""

    def plain(self, apart: Apart | None = None) -> dict[str, Any]:
        """As the verbs take it, its request whole or taken apart."""
        step = self.step
        return {
            "kind": step.kind.value,
            "lane": step.lane,
            "request": kept_record(step.request, apart, of_model=step.kind is Kind.LLM),
            "digest": step.digest,
            "label": step.label,
            "est": bounded(step.estimate),
            "after": int(step.after * 1e6),
            "cost": bounded(step.cost),
            "base": self.rank.base,
            "since": self.rank.since,
            "level": self.rank.per_priority,
            "group": self.rank.group,
            "policy": self.policy,
            **({"rejected": msgspec.json.encode(step.rejected)} if step.rejected else {}),
            **({"once": msgspec.json.encode(step.once)} if step.once else {}),
        }


class Parking(msgspec.Struct, frozen=True):
    """Why a job stops where it is: its program asks for something else than its journal holds.

    Attributes:
        why: for its owner; it holds words of what was asked for.
        said: the same without them, for events and logs.
    """

    why: str
    said: str


class Decision(msgspec.Struct, frozen=True):
    """What a turn came to.

    Attributes:
        version: how many outcomes the turn has seen, for people.
        first: how many steps the job had; the new ones are numbered from here.
        steps: what the program asks for now.
        ends: the job's end, or None while it goes on.
        result: the encoded result or error, at the end.
        basis: what the program had seen, as ``claim``, ``load`` or the write before gave it: the decision
            holds only where the job stands just there. With a commit: before the outcome that it writes.
        more: the program asks for more steps than are written at a time: who writes these goes on.
        code: of the agent that was run; "" where that is data.
        parks: the program does not repeat what the journal holds: the job stops where it is.
    """

    version: int
    first: int
    steps: list[RankedStep] = []
    ends: JobState | None = None
    result: bytes = b""
    basis: str = ""
    more: bool = False
    code: str = ""
    parks: Parking | None = None

    def plain(
        self, patience: float = 0.0, apart: Apart | None = None, most: int | None = None
    ) -> dict[str, Any]:
        """As the verbs take it.

        Args:
            patience: seconds until somebody else goes on with what is left of it.
            apart: takes its requests apart; None: they are written whole.
            most: bytes that its job may hold.
        """
        return {
            "basis": self.basis,
            "more": max(1, int(patience * 1e6)) if self.more else 0,
            "first": self.first,
            "steps": [s.plain(apart) for s in self.steps],
            **({"most": most} if most is not None else {}),
            "ends": self.ends.value if self.ends else "",
            "result": self.result,
            **({"code": self.code} if self.code else {}),
            **({"parks": msgspec.structs.asdict(self.parks)} if self.parks is not None else {}),
        }

    def lanes(self) -> list[str]:
        """The lane of each new step that waits on one: one ticket each."""
        return [s.step.lane for s in self.steps if s.step.kind in (Kind.LLM, Kind.TOOL)]


class NewJob(msgspec.Struct, frozen=True):
    """A job to be written.

    Attributes:
        id: its id.
        record: what was submitted.
        decision: what its turn 0 came to; None lets a worker run that turn.
        node: the plan's node it belongs to.
        budget: what it may cost, or None.
        priority: 0 to 9.
        place: in an agent-first plan: see :class:`aios_dist.model.plans.Shape`.
        size: bytes of its record and its first requests.
    """

    id: str
    record: JobRecord
    decision: Decision | None = None
    node: int = 0
    budget: Budget | None = None
    priority: int = 0
    place: tuple[int, int, int, int] | None = None
    size: int = 0


class Ticket(msgspec.Struct, frozen=True):
    """A Celery message to be published: there is a ready step on this lane. The step is a hint for people."""

    lane: str
    job: str
    step: str


class Claim(msgspec.Struct, frozen=True):
    """A step that this worker holds. Times are µs since the epoch on Redis' clock; ``served`` is the seconds
    that its job has spent in calls before it.

    Attributes:
        token: random, of this claim alone: every later write is fenced by it.
        basis: what a program must have seen that stands where the job stood at the claim.
        digest: of the request.
        first_us: when the step was first tried since it was asked for, or retried.
        estimate, cost: tokens that limits and shares have reserved for it.
        over: the tokens a minute of its model, where the estimate alone is more: it is refused; else 0.
        code: of its agent, that its job ran with last; "" where that is not known.
        fits: this worker is to run the job's program; else another one has that code.
    """

    job: str
    step: str
    attempt: int
    kind: Kind
    label: str
    record: JobRecord
    request: bytes
    version: int
    ready_us: int
    started_us: int
    tries: int = 0
    served: float = 0.0
    tickets: list[Ticket] = []
    token: str = ""
    basis: str = ""
    digest: str = ""
    worker: str = ""
    first_us: int = 0
    estimate: int = 0
    cost: int = 0
    over: int = 0
    code: str = ""
    fits: bool = True

    @property
    def estimated(self) -> Usage:
        """What an answer without usage is taken to have cost (``_limits.lua`` has the same)."""
        output = (self.cost - INPUT_COST * self.estimate) // (OUTPUT_COST - INPUT_COST)
        output = max(0, min(self.estimate, output))
        return Usage(self.estimate - output, output, 1)

    @property
    def lease(self) -> str:
        """The lease's name, as ``renew`` takes it."""
        return f"{self.job}/{self.step}#{self.attempt}.{self.token}"

    @property
    def incarnation(self) -> str:
        """Which life of the job this is: another one after a retry, or under an id that is used again."""
        return incarnation_in(self.basis)

    @property
    def birth(self) -> str:
        """Which submission (or fork) of the job this is."""
        return birth_in(self.basis)

    @property
    def is_turn(self) -> bool:
        """No step of the program, but the running of it."""
        return self.step == TURN


def incarnation_in(basis: str) -> str:
    """Which life of a job it is that a program has seen."""
    return basis.partition(".")[0]


def birth_in(basis: str) -> str:
    """… and which submission of it."""
    return incarnation_in(basis).partition("~")[0]


class Nothing(msgspec.Struct, frozen=True):
    """What ``take`` answered where nothing may run here.

    Attributes:
        tickets: to be published.
        elsewhere: what waits is for other workers, which are there: the ticket belongs to them.
        again: so many were looked at that there may be one behind them: ask again, with ``unsought``.
    """

    tickets: list[Ticket] = []
    elsewhere: bool = False
    again: bool = False
    unsought: int | None = None


class Form(NamedTuple):
    """What verbs make tickets from.

    Attributes:
        lists: what stands before a lane in the name of its list of tickets.
        ticket: a message of Celery's, with ``<id>``, ``<step>`` and ``<lane>`` in the places of these.
    """

    lists: str
    ticket: bytes


class Asks(NamedTuple):
    """Who claims a step.

    Attributes:
        worker: its id.
        token: random (:func:`random_name`), of this claim alone.
        again: 1: the answer to the same claim was lost: what it got is given once more, or else another step;
            2: what it got, and nothing else.
        models, agents: what the worker can serve; None: everything. The rest waits for those who can.
        codes: the code that it has of each agent; None: whatever is asked for. What began with another
            waits for a worker with that, as long as there is one.
    """

    worker: str
    token: str
    again: int = 0
    models: Sequence[str] | None = None
    agents: Sequence[str] | None = None
    codes: Mapping[str, str] | None = None


class Onward(NamedTuple):
    """What goes with a commit, in the same round trip.

    Attributes:
        form: of the tickets that the write calls for.
        lanes: where the slot that becomes free looks for its next step, in this order.
        asks: as whom; None: it takes none.
        shy: the kin of workers to which it leaves what they have said that they have room for; "": to none.
    """

    form: Form
    lanes: Sequence[str] = ()
    asks: Asks | None = None
    shy: str = ""


class Advance(msgspec.Struct, frozen=True):
    """What ``commit`` or ``advance`` answered: the verb's status, outcomes so far, tickets to publish, and
    where the decision holds what the program has seen now; the lane and the claim that the slot goes on with,
    where it was to look for one, and the ticket that was taken off for that, if one was."""

    status: str
    version: int
    tickets: list[Ticket]
    basis: str = ""
    lane: str = ""
    next: Claim | None = None
    ticket: bytes = b""


class Submitted(msgspec.Struct, frozen=True):
    """What ``submit`` answered: ``new``, ``same`` or ``conflict``; then the id it is about."""

    status: str
    tickets: list[Ticket]
    conflict: str = ""
    new: list[bool] = []


class Lost(NamedTuple):
    """A try whose lease has ended before its worker wrote anything of it.

    Attributes:
        state: of the step since then: ``ready`` for others, ``parked`` or ``idle`` (the job is paused),
            ``failed`` (given up), or ``dropped`` (its job has ended).
        life: of its job, as :attr:`Claim.incarnation`.
    """

    job: str
    step: str
    token: str
    worker: str
    state: str
    agent: str
    kind: str
    label: str
    attempt: int
    life: str


class Reaped(msgspec.Struct, frozen=True):
    """One pass of the reconciler: what moved, ready steps by lane, lanes with steps that were ranked under
    other rules, where the next pass goes on, what could not be moved (job and why), and the tries that were
    lost with their workers."""

    moved: int
    ready: dict[str, int]
    astray: list[str]
    cursor: str
    next_s: float | None
    broken: list[tuple[str, str]] = []
    lost: list[Lost] = []


class Walked(msgspec.Struct, frozen=True):
    """A page of the walk over the open jobs: what was wrong and is put right (job and what), where the next
    page begins (``"0"``: at the start), how many jobs are open, and how many of those were looked at."""

    found: list[tuple[str, str]]
    cursor: str
    open: int
    looked: int


class Stray(msgspec.Struct, frozen=True):
    """A waiting step that was ranked under other rules than its lane has now.

    Attributes:
        name: as the verbs call it.
        kind: of the step.
        waiting: what a policy wants to know of it; nothing of the agent's past.
    """

    name: str
    kind: Kind
    waiting: Waiting


class TenantRules(msgspec.Struct, frozen=True):
    """What a tenant may spend on a day and gets of lanes; None: nothing is said of it."""

    tokens_per_day: int | None = None
    money_per_day: float | None = None
    weight: float | None = None
    max_in_flight: int | None = None


class Said(msgspec.Struct, frozen=True):
    """What aios.toml, or a hand, says of models, tenants and lanes, by name."""

    models: dict[str, Limits] = {}
    tenants: dict[str, TenantRules] = {}
    lanes: dict[str, LaneRules] = {}

    @classmethod
    def of(cls, config: Config, models: Collection[str]) -> Said:
        """What aios.toml says of these models, of tenants and of lanes."""
        return cls(
            models={
                name: Limits(
                    m.max_in_flight,
                    m.requests_per_minute,
                    m.tokens_per_minute,
                    tuple((config.models[other].lane, other) for other in dict.fromkeys(m.fallback)),
                    m.fallback_after,
                )
                for name, m in config.models.items()
                if name in models
            },
            tenants={
                name: TenantRules(**msgspec.structs.asdict(tenant)) for name, tenant in config.tenants.items()
            },
            lanes={name: LaneRules.of(config.lane(name)) for name in config.lane_names()},
        )

    def digest(self) -> str:
        """Tells two things said apart."""
        return digest(msgspec.json.encode(self, order="sorted"))


def budget_facts(budget: Budget | None, *, anew: bool = False) -> list[Any]:
    """A budget as fields of the job's hash; ``anew``: a larger one, under the rule that the job has."""
    if budget is None:
        return []
    facts: list[Any] = [] if anew else ["ob", budget.on_budget]
    if budget.tokens is not None:
        facts += ["bt", budget.tokens]
    if budget.money is not None:
        facts += ["bm", as_text(micros(budget.money))]
    return facts


def random_name() -> str:
    """A name that nobody else has or ever had: of a claim, of a submission."""
    return secrets.token_hex(6)


def birth_of(record: JobRecord) -> str:
    """A job's birth: random, behind a letter that says whether its agent is data or code."""
    return ("d" if record.prompts is not None else "c") + random_name()


def pack_record(record: JobRecord) -> bytes:
    """A record as the job's hash holds it: behind its digest, which the verbs compare."""
    return record.digest().encode() + encode(record)


def unpack_record(data: bytes) -> JobRecord:
    """The record that :func:`pack_record` made."""
    return decode(data[DIGEST:], JobRecord)


def tickets_of(flat: list[Any]) -> list[Ticket]:
    """Tickets from a verb's answer: lane, job, step, lane, job, step, …"""
    text = [part.decode() if isinstance(part, bytes) else str(part) for part in flat]
    return [Ticket(*text[i : i + 3]) for i in range(0, len(text), 3)]
