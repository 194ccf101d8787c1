"""The verbs as the driver sends them, and what it says of them: what follows the journal's methods."""

from __future__ import annotations

from typing import Any

from aios_dist.calls import Usage
from aios_dist.errors import ProviderBusy
from aios_dist.jobs import Kind, Outcome
from aios_dist.journal import Claim, Decision, Journal, Limits, NewJob, Stray
from aios_dist.plans import Plan
from aios_dist.policies import Rank
from tests.driver.seen import Seen

MODELS = {"m0": "llm", "m1": "llm", "m2": "far"}
LANES = ("llm", "far", "turns")
RANKS = {
    "fifo": Rank(),
    "priority": Rank(per_priority=6e7),
    "las": Rank(1e14),
    "deadline": Rank(5e6, "submitted"),
    "round-robin": Rank(since="round", group="x"),
    "remaining": Rank(3e6),
}


async def send_signal(journal: Journal, id: str, name: str) -> str:
    """A signal's status."""
    return (await journal.signal(id, name, Outcome(value=1)))[0]


async def set_limits(journal: Journal, model: str, flight: int, rpm: int, tpm: int) -> None:
    """Limits of a model, by hand."""
    await journal.set_limits(model, Limits(flight, rpm, tpm))


async def send_commit(
    journal: Journal, claim: Claim, outcome: bytes, ok: bool, usage: tuple[int, int, int, int],
    decision: Decision | None, here: bool,
) -> str:  # fmt: skip
    """A commit's status."""
    done = await journal.commit(
        claim,
        outcome,
        ok=ok,
        usage=Usage(*usage[:3]),
        money=usage[3] / 1e6,
        decision=decision,
        turn_here=here,
    )
    return done.status


async def send_advance(journal: Journal, id: str, decision: Decision, claim: Claim | None) -> str:
    """An advance's status."""
    return (await journal.advance(id, decision, turn_attempt=claim.attempt if claim else 0)).status


async def send_release(journal: Journal, claim: Claim, more: dict[str, Any]) -> bool | None:
    """Whether it counted; None where the journal does not say."""
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


def lane_sets(seen: Seen, lane: str) -> list[tuple[str, dict[str, float]]]:
    return [
        (name, members)
        for kind in ("ready", "stray")
        for name, members in seen.sets[kind].items()
        if name.partition("|")[0] == lane
    ]


def short(job: NewJob) -> str:
    extra = f" budget {job.budget.tokens} {job.budget.money} {job.budget.on_budget}" if job.budget else ""
    return f"{job.id} of {job.record.tenant}: {decided(job.decision)}{extra}"


def decided(decision: Decision | None) -> str:
    if decision is None:
        return "no decision"
    steps = ",".join(
        f"{r.step.kind.value}:{r.step.label}:{r.policy}"
        if r.step.kind == Kind.LLM
        else f"{r.step.kind.value}:{r.step.label}"
        for r in decision.steps
    )
    return f"v{decision.version} n{decision.first} [{steps}] {decision.ends.value if decision.ends else ''}"


def form(plan: Plan) -> str:
    members = " ".join(form(m) if isinstance(m, Plan) else "job" for m in plan.members)
    return f"{plan.mode}-{plan.on_failure}({members})"
