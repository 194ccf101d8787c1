"""How jobs stand for those who wait for them: whether they go on by themselves."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence

import msgspec

from aios_dist.journal.reading import OVER_LIMIT, Reading, code_in, damaged
from aios_dist.journal.views import Standing
from aios_dist.model.jobs import JobState

MOST_PARKED = 1000
"""Parked members of one plan that are looked at."""

_FIELDS = ("st", "res", "pk", "why", "pn", "hp", "pl", "half")


class Standings(Reading):
    """The part of the journal that knows it."""

    async def standing(self, job: str) -> Standing:
        """The job as who waits for its result wants to know it.

        Raises:
            UnknownName: no such job.
            JournalError: its record cannot be read.
        """
        ((state, result, parked, why, node, _, plan, _),) = await self._seen([job], _FIELDS)
        if state is None:
            raise self.no_job(job)
        try:
            now = JobState(state.decode())
        except ValueError as exc:
            raise damaged(job, exc) from None
        if now is JobState.PAUSED and parked is not None:
            return Standing(now, b"", _text(why), job, code_in(parked), over_limit=parked == OVER_LIMIT)
        if now is JobState.WAITING and plan and (found := await self._behind(_text(plan), [_text(node)])):
            other = found[_text(node)]
            before = await self.standing(other)
            if before.parked:  # and has not gone on just now
                return before._replace(state=now)
        return Standing(now, result or b"", plan=_text(plan) if now is JobState.WAITING else "")

    async def over(self, jobs: Sequence[str]) -> list[bool]:
        """Whether nobody need wait for each job any longer: it has ended, is parked or waits in a plan for
        one that is, or is not there."""
        return (await self.over_and_plans(jobs))[0]

    async def over_and_plans(self, jobs: Sequence[str]) -> tuple[list[bool], set[str]]:
        """The same, and the plans that have not admitted some of the jobs: where another member of one is
        parked (``keys.behind``), these may wait for it."""
        known = {state.value.encode(): state for state in JobState}
        found = await self._seen(jobs, ("st", "pk", "pn", "hp", "pl", "half"))
        over = []
        waiting: dict[str, set[str]] = {}
        for state, parked, node, _, plan, _ in found:
            now = known.get(state or b"")
            over.append(state is None or (now is not None and now.ended) or _parked(now, parked))
            if now is JobState.WAITING and plan:
                waiting.setdefault(_text(plan), set()).add(_text(node))
        for name, nodes in waiting.items():
            if behind := await self._behind(name, nodes):
                over = [
                    is_over
                    or (
                        known.get(state or b"") is JobState.WAITING
                        and _text(plan) == name
                        and _text(node) in behind
                    )
                    for is_over, (state, _, node, _, plan, _) in zip(over, found, strict=True)
                ]
        return over, set(waiting)

    async def _behind(self, plan: str, nodes: Collection[str]) -> dict[str, str]:
        """Of nodes of a plan those whose members wait for a parked one, and which that is: between them and
        the node that both are in, the plan is in a fixed order."""
        first = f"{plan}|"
        found = await self.connection.command(
            "ZRANGE", self.keys.parked_in, f"[{first}", f"[{first}\xff", "BYLEX", "LIMIT", 0, MOST_PARKED
        )
        if not found:
            return {}
        jobs = [name.decode("utf-8", "replace")[len(first) :] for name in found]
        there = await self._gather(("HMGET", self.keys.job(job), "st", "pk", "pl", "pn") for job in jobs)
        parked: dict[str, str] = {}
        for job, (state, need, of, node) in zip(jobs, there, strict=True):
            if state == b"paused" and need is not None and _text(of) == plan:
                parked.setdefault(_text(node), job)
        parents, fixed = await self._tree(plan, [*nodes, *parked])
        behind: dict[str, str] = {}
        for node in nodes:
            above = list(_above(node, parents))
            for other, job in parked.items():
                common = next((one for one in _above(other, parents) if one in above), None)
                if common in fixed:
                    behind[node] = job
        return behind

    async def _tree(self, plan: str, nodes: Iterable[str]) -> tuple[dict[str, str], set[str]]:
        """The parent of each node up to the root, and those that are in a fixed order."""
        parents: dict[str, str] = {}
        fixed: set[str] = set()
        left = set(nodes)
        while left:
            some = sorted(left)
            packed = await self.connection.command("HMGET", self.keys.plan(plan), *(f"node{i}" for i in some))
            left = set()
            for node, value in zip(some, packed, strict=True):
                try:
                    mode, parent, *_ = msgspec.msgpack.decode(value or b"")
                except (ValueError, TypeError, msgspec.MsgspecError):  # the walk says so of it
                    continue
                parents[node] = str(int(parent))
                if mode == "fixed":
                    fixed.add(node)
                if int(parent) >= 0 and parents[node] not in parents:
                    left.add(parents[node])
        return parents, fixed


def _parked(state: JobState | None, need: bytes | None) -> bool:
    return state is JobState.PAUSED and need is not None


def _above(node: str, parents: dict[str, str]) -> Iterable[str]:
    """The node and those that it is in."""
    while node in parents:
        yield node
        node = parents[node]


def _text(value: bytes | None) -> str:
    return (value or b"").decode("utf-8", "replace")
