"""New jobs and plans: what is too much for one write goes in slices, and is there all at once, or never."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator, Sequence
from typing import Any

import msgspec

from aios_dist.journal.records import (
    NewJob,
    Submitted,
    Ticket,
    birth_of,
    budget_facts,
    pack_record,
    tickets_of,
)
from aios_dist.journal.texts import Texts
from aios_dist.model.jobs import digest
from aios_dist.model.plans import Shape
from aios_dist.model.texts import Apart

MOST_STEPS = 30
"""Jobs and steps of one slice, which takes Redis some milliseconds."""
MOST_BYTES = 256 * 1024
"""… and their bytes, but for one job that alone has more."""
MOST_FIELDS = 300
"""Nodes, and links of nodes, of one slice."""

Told = Callable[[list[Ticket]], Awaitable[None]]


class Submitting(Texts):
    """The part of the journal that producers write with."""

    async def submit(
        self,
        jobs: Sequence[NewJob],
        plan: Shape | None = None,
        then: Sequence[tuple[Any, ...]] = (),
        *,
        told: Told | None = None,
    ) -> Submitted:
        """Create jobs, and the plan between them, all or nothing.

        Args:
            jobs: those of a plan in the order in which it is written down.
            plan: goes in slices, and nobody sees any of it until the last; then its members are admitted.
            then: commands sent along (without a plan).
            told: gets tickets as they come, while there is more to do; they are not in the answer then.

        Raises:
            FleetUnavailable: nothing was written, or the answer was lost, or it is half-submitted: submit
                again, with the same ids, and it goes on. What nobody goes on with for a minute is thrown
                away.
        """
        await self._look_again()
        if plan is None:
            plain = [self._new(job) for job in jobs]
            status, tickets, detail, _ = await self._run("submit", *then, jobs=plain, plan=None)
            state = status.decode()
            if state == "conflict":
                return Submitted(state, [], conflict=detail.decode())
            return Submitted(state, tickets_of(tickets), new=[d == b"new" for d in detail])
        return await self._submit_plan(jobs, plan, told)

    def _new(self, job: NewJob) -> dict[str, Any]:
        return _plain(job, self._apart(""))

    async def _submit_plan(self, jobs: Sequence[NewJob], plan: Shape, told: Told | None) -> Submitted:
        if twice := _first_twice(jobs):
            return Submitted("conflict", [], conflict=twice)
        whole = digest(msgspec.json.encode([plan, [job.record.digest() for job in jobs]]))
        items = _Items(jobs, plan, self._new)
        head = {
            "id": plan.id,
            "dig": whole,
            "size": len(plan.nodes),
            "all": len(jobs),
            "places": plan.plain_places(),
        }
        at = 0
        while True:
            part, new = items.slice(at)
            status, tickets, detail, more = await self._run("submit", jobs=new, plan={**head, **part})
            state = status.decode()
            if state == "more":
                at = detail
            elif state == "conflict":
                await self._throw_away(plan.id)
                return Submitted(state, [], conflict=detail.decode())
            elif state == "same":
                return Submitted(state, [])
            elif state == "new":
                rest = await self._go_on(plan.id, tickets_of(tickets), bool(more), told)
                return Submitted(state, rest, new=[True] * len(jobs))

    async def extend(self, plan: str, jobs: Sequence[NewJob], *, told: Told | None = None) -> Submitted:
        """Add jobs at the tail of a plan, all or nothing; ``unknown`` and ``stopped`` are answers too.
        ``told``: see :meth:`submit`."""
        if twice := _first_twice(jobs):
            return Submitted("conflict", [], conflict=twice)
        await self._look_again()
        items = _Items(jobs, None, self._new)
        part, new = items.slice(0)
        name = digest(msgspec.json.encode([[job.id, job.record.digest()] for job in jobs]))
        at, so_far = 0, ""
        while True:
            whole = part["first"] == 0 and part["last"] == 1
            said = {"dig": name, "all": len(jobs), "so_far": so_far, **part}
            status, *rest = await self._run("extend", plan=plan, jobs=new, part=None if whole else said)
            state = status.decode()
            if state == "more":
                so_far, at = "new" if rest[0] else "", rest[0]
            elif state == "same":
                so_far, at = "same", part["upto"]
            elif state != "again":
                break
            part, new = items.slice(at)
        if state == "extended":
            tickets = await self._go_on(plan, tickets_of(rest[0]), bool(rest[1]), told)
            return Submitted(state, tickets)
        if state in ("conflict", "stopped") and not whole:
            await self._throw_away(f"{plan}/{name}")
        if state == "conflict":
            return Submitted(state, [], conflict=rest[0].decode() or jobs[0].id)
        return Submitted(state, [])

    async def go_on(self, plan: str = "") -> tuple[str, list[Ticket], bool]:
        """A plan with members left to admit or drop goes on; what was left half-submitted is thrown away.

        Args:
            plan: its id; empty for the next of all.

        Returns:
            The plan, empty where there is none; tickets to publish; whether there is more to do now.
        """
        name, tickets, more = await self._run("plans", plan=plan)
        return name.decode(), tickets_of(tickets), bool(more)

    async def _go_on(self, plan: str, tickets: list[Ticket], more: bool, told: Told | None) -> list[Ticket]:
        while True:
            if told is not None and tickets:
                await told(tickets)
                tickets = []
            if not more:
                return tickets
            _, new, more = await self.go_on(plan)
            tickets = [*tickets, *new] if told is None else new

    async def _throw_away(self, name: str) -> None:
        """What stands of it, where that is ours to throw away."""
        key, _, part = name.partition("/")
        field = f"x{part}>" if part else "half>"
        while await self.connection.command("HEXISTS", self.keys.plan(key), field):
            await self.go_on(name)


class _Items:
    """What a plan, or an extension of one, consists of, in the order in which it is written."""

    def __init__(
        self, jobs: Sequence[NewJob], plan: Shape | None, plain: Callable[[NewJob], dict[str, Any]]
    ) -> None:
        self._jobs = jobs
        self._plain = plain
        self._nodes = [] if plan is None else plan.plain_nodes()
        links = [] if plan is None else plan.plain_links()
        self._inner = [link for link in links if link["child"][0] == "n"]
        self._places = {link["child"][1:]: link for link in links if link["child"][0] == "j"}
        self._fields = len(self._nodes) + len(self._inner)

    def slice(self, first: int) -> tuple[dict[str, Any], list[dict[str, Any]]]:
        """The slice that begins with that item: what the verb wants to know of it, and its jobs."""
        nodes = self._nodes[first : first + MOST_FIELDS]
        at = first + len(nodes)
        beyond = at - len(self._nodes)
        links = self._inner[beyond : beyond + MOST_FIELDS - len(nodes)] if beyond >= 0 else []
        at += len(links)
        jobs = list(self._of_jobs(at - self._fields)) if at >= self._fields else []
        links = [*links, *(self._places[job["id"]] for job in jobs if job["id"] in self._places)]
        upto = at + len(jobs)
        last = int(upto == self._fields + len(self._jobs))
        part = {"nodes": nodes, "node": first, "links": links, "first": first, "upto": upto, "last": last}
        return part, jobs

    def _of_jobs(self, first: int) -> Iterator[dict[str, Any]]:
        steps = size = 0
        for place in range(first, len(self._jobs)):
            job = self._plain(self._jobs[place])
            asked = job["decision"]["steps"] if job["decision"] else []
            steps += 1 + len(asked)
            texts = job["decision"].get("texts", ()) if job["decision"] else ()
            size += len(job["rec"]) + sum(len(step["request"]) for step in asked) + sum(map(len, texts))
            if place > first and (steps > MOST_STEPS or size > MOST_BYTES):
                return
            yield job


def _first_twice(jobs: Sequence[NewJob]) -> str:
    """An id that comes twice, or nothing."""
    seen: set[str] = set()
    for job in jobs:
        if job.id in seen:
            return job.id
        seen.add(job.id)
    return ""


def _plain(job: NewJob, apart: Apart | None) -> dict[str, Any]:
    record = job.record
    facts = ["who", f"{record.tenant}|{record.agent}", *budget_facts(job.budget)]
    if job.priority:
        facts += ["pr", job.priority]
    if record.deadline is not None:
        facts += ["dl", repr(float(record.deadline))]
    if record.expected_steps is not None:
        facts += ["xs", record.expected_steps]
    if job.place is not None:
        facts += ["pp", "|".join(map(str, job.place))]
    decision = job.decision.plain(apart=apart) if job.decision else None
    if decision is not None and apart is not None and (texts := apart.texts()):
        decision["texts"] = texts
    return {
        "id": job.id,
        "birth": birth_of(record),
        "rec": pack_record(record),
        "dig": record.digest(),
        "decision": decision,
        "parent": job.node,
        "facts": facts,
        "deadline_us": int(record.deadline * 1e6) if record.deadline else 0,
    }
