"""The verbs as the driver sends them, and what it says of them: what follows the journal's methods."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any
from unittest import mock

from aios_dist.errors import ProviderBusy
from aios_dist.journal import (
    Asks,
    Claim,
    Decision,
    Form,
    Journal,
    Limits,
    NewJob,
    Nothing,
    Onward,
    Refusal,
    Said,
    Stray,
    submitting,
)
from aios_dist.journal import journal as verbs
from aios_dist.journal.records import Submitted
from aios_dist.model.calls import Usage
from aios_dist.model.jobs import JobRecord, Kind, Outcome
from aios_dist.model.plans import Plan, Shape
from aios_dist.policies import Rank
from tests.driver.model import MOST_BACK, MOST_SIGNALS
from tests.driver.seen import CLOCK, Seen

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


async def send_plan(journal: Journal, jobs: Sequence[NewJob], shape: Shape) -> str:
    """A plan's status; it goes in small slices."""
    with _small():
        return (await journal.submit(jobs, shape)).status


async def send_extension(journal: Journal, plan: str, jobs: Sequence[NewJob]) -> Submitted:
    """What an extension's answer is; it goes in small slices."""
    with _small():
        return await journal.extend(plan, jobs)


@contextlib.contextmanager
def _small() -> Iterator[None]:
    with mock.patch.multiple(submitting, MOST_STEPS=3, MOST_FIELDS=2):
        yield


async def go_on(journal: Journal) -> None:
    """Plans that have something left to do go on until they have not."""
    more = True
    while more:
        _, _, more = await journal.go_on()


async def sweep(journal: Journal) -> int:
    """Steps of wide jobs follow their jobs, until all have. Of how many jobs there were some left."""
    jobs = await journal.connection.command("ZRANGE", journal.keys.prefix + "sweeps", 0, -1)
    for job in jobs:
        while (await journal.sweep(job.decode()))[2]:
            pass
    return len(jobs)


async def send_signal(journal: Journal, id: str, name: str, sent: str) -> str:
    """A signal's status; ``sent``: its own id."""
    with mock.patch.object(verbs, "MOST_SIGNALS", MOST_SIGNALS):
        return (await journal.signal(id, name, Outcome(value=1), sent))[0]


async def set_limits(journal: Journal, model: str, flight: int, rpm: int, tpm: int) -> None:
    """Limits of a model, by hand."""
    await journal.set_limits(model, Limits(flight, rpm, tpm))


async def say_fallbacks(journal: Journal, chains: dict[str, tuple[str, ...]], after: float) -> None:
    """What aios.toml says of models that others go to."""
    said = {
        model: Limits(fallback=tuple((MODELS[other], other) for other in chain), fallback_after=after)
        for model, chain in chains.items()
    }
    await journal.say(Said(models=said), "file")


NOBODYS = Claim("no such job", "0", 1, Kind.LLM, "m0", JobRecord("x", {}), b"", 0, 0, 0)


def _tickets(journal: Journal) -> Form:
    return Form(f"{journal.config.name}.", b'{"step":"<step>","lane":"<lane>","id":"<id>"}')


async def send_take(
    journal: Journal, lane: str, worker: str, token: str, *, slot: bool = False, **ask: Any
) -> Claim | Nothing:
    """A claim. ``slot``: the same, as the slot takes it whose step was lost while it was called."""
    if slot:
        form = _tickets(journal)
        await journal.connection.command("LPUSH", form.lists + lane, "a ticket")
        asks = Asks(worker, token, **ask)
        done = await journal.commit(NOBODYS, b"", ok=True, onward=Onward(form, [lane], asks))
        await journal.connection.command("DEL", form.lists + lane)
        if done.next is not None:
            return done.next
    return await journal.take(lane, worker, token, **ask)


async def send_commit(
    journal: Journal, claim: Claim, outcome: bytes, ok: bool, usage: tuple[Any, ...], refusal: Refusal | None,
    decision: Decision | None, here: bool, slot: bool = False,
) -> str:  # fmt: skip
    """A commit's status. ``slot``: with its tickets in the same write."""
    form = _tickets(journal)
    done = await journal.commit(
        claim,
        outcome,
        ok=ok,
        usage=Usage(*usage[:3]),
        money=usage[3] / 1e6,
        refusal=refusal,
        decision=decision,
        turn_here=here,
        onward=Onward(form) if slot else None,
    )
    if slot:
        await journal.connection.command("DEL", *(form.lists + lane for lane in LANES))
    return done.status


async def send_advance(journal: Journal, id: str, decision: Decision, claim: Claim | None) -> str:
    """An advance's status."""
    return (await journal.advance(id, decision, token=claim.token if claim else "")).status


async def send_release(journal: Journal, claim: Claim, more: dict[str, Any]) -> bool | None:
    """Whether it counted; None where the journal does not say."""
    with mock.patch.object(verbs, "MOST_BACK", MOST_BACK):
        await journal.release(
            claim, "r", more["after"], error=ProviderBusy("x") if more.get("failed") else None,
            refusal=more.get("refusal"), to=more.get("to"),
            counted=more.get("counted", False),
        )  # fmt: skip
    return None


async def reconcile(journal: Journal) -> tuple[list[tuple[str, str]], dict[str, int]]:
    """One pass of the reconciler over everything, but for strays. What it found to be put right, and the
    steps that wait on each lane; nothing of them where some moved behind that."""
    await sweep(journal)
    while await journal.gather():
        pass
    cursor, found = "0", await walk(journal)  # (first: it may let held steps in, which reaping counts)
    while True:
        reaped = await journal.reap(list(LANES), cursor, page=1000)
        cursor, found = reaped.cursor, [*found, *reaped.broken]
        due = float(await journal.connection.command("GET", journal.keys.prefix + CLOCK)) / 1e6
        # More have ended than one pass lets end?
        late = reaped.moved and reaped.next_s is not None and reaped.next_s <= due
        if cursor == "0" and not late:
            planned = await journal.connection.command("EXISTS", journal.keys.prefix + "plans")
            await go_on(journal)
            return found, {} if await sweep(journal) or planned else reaped.ready


async def walk(journal: Journal) -> list[tuple[str, str]]:
    """The slow walk, from its beginning to its end. What it has put right."""
    cursor, found = "0", []
    while True:
        walked = await journal.walk(cursor, page=1000)
        cursor, found = walked.cursor, [*found, *walked.found]
        if cursor == "0":
            return found


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
