"""What a scheduler is chosen for, held against what claims do (docs/policies.md).

No room is idle beside a step that could use it, the one that has waited longest comes within its bound, and
the tenant that has had least goes first.

It judges by what stands in Redis before and after a claim, and knows no verb.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from tests.driver.checks import MINUTE
from tests.driver.seen import Head, JobSeen, Seen

PROBE = 5_000_000
"""µs: calls that began longer ago tell nothing of how a provider is after a hold (docs/policies.md)."""


def steps_on(seen: Seen, lane: str) -> Iterator[tuple[str, JobSeen, Head]]:
    """The ready steps of a lane, wherever they wait but for a time: ``(name, job, head)``."""
    places = seen.places()
    for id, job in seen.jobs.items():
        if job.state != "running":
            continue  # a step that has not followed it yet does not run
        for step, h in job.heads.items():
            where = places.get(f"{id}/{step}", ())
            if h.state == "ready" and h.lane == lane and any(kind != "timers" for kind, _ in where):
                yield f"{id}/{step}", job, h


def allowed(seen: Seen, name: str, est: int, now: int) -> bool:
    """Whether one more call of a model (or of a tenant, "@T") may start now, by its limits and its hold."""
    if name not in seen.hashes["model"]:
        return True
    flight, rpm, tpm = (seen.model(name, f) for f in ("l_if", "l_rpm", "l_tpm"))
    hold, window = seen.model(name, "hold"), seen.model(name, "win")
    busy = seen.sets["inflight"].get(name, {})
    recent = sum(at >= max(hold, now - PROBE) for at in busy.values())
    if hold > now or 0 < flight <= len(busy) or 0 < window <= recent:
        return False
    calls = {m: at for m, at in seen.sets["window"].get(name, {}).items() if at > now - MINUTE}
    tokens = sum(int(m.rpartition("|")[2]) for m in calls)
    return not calls or not (0 < rpm <= len(calls) or max(1, est) <= tpm < tokens + est)


def free(seen: Seen, name: str, now: int) -> float:
    """How many more calls of it may be in flight now, where a minute's limits allow them."""
    flight, window, rpm = (seen.model(name, f) for f in ("l_if", "win", "l_rpm"))
    calls = sum(at > now - MINUTE for at in seen.sets["window"].get(name, {}).values())
    busy = seen.sets["inflight"].get(name, {})
    recent = sum(at >= max(seen.model(name, "hold"), now - PROBE) for at in busy.values())
    return min(
        flight - len(busy) if flight else 100,
        window - recent if window else 100,
        rpm - calls if rpm else 100,
    )


def idle_room(seen: Seen, now: int) -> list[str]:
    """Steps that a limit holds and that could run: what a pass of the reconciler must not leave behind."""
    lines, places = [], seen.places()
    held: dict[str, list[tuple[str, JobSeen, Head]]] = {}
    for shelf, members in seen.sets["held"].items():
        name = shelf.partition("|")[0]
        for m in members:
            id, _, step = m.rpartition("/")
            if name[0] != "?" and id in seen.jobs and step in seen.jobs[id].heads:
                held.setdefault(name, []).append((m, seen.jobs[id], seen.jobs[id].heads[step]))
    for name, steps in held.items():
        if seen.one["timers"].get(f"model:{name}/!", now + 1) <= now:
            continue  # there was more than goes into one pass
        waits = [
            m for lane in {h.lane for _, _, h in steps} for m, job, h in steps_on(seen, lane)
            if name in (h.label, f"@{job.tenant}") and not any(m == other for other, _, _ in steps)
            and any(kind != "held" or shelf[0] == "?" for kind, shelf in places[m])
        ]  # fmt: skip
        if (
            not waits
            and free(seen, name, now) > 0
            and all(  # (a claim of one that stands there lets in the next)
                allowed(seen, name, h.est, now)
                and (name[0] != "@" or allowed(seen, h.label, h.est, now))
                and (name[0] == "@" or allowed(seen, f"@{job.tenant}", 0, now))
                for _, job, h in steps
            )
        ):
            lines.append(
                f"{name} has room, {waits} are let in, and it holds {sorted(m for m, _, _ in steps)}"
            )
    return lines


@dataclass
class Waiting:
    """A step that waits for its turn as the oldest. ``passed``: dispatches that it could have been."""

    older: set[str]
    ahead: int
    passed: int = 0


@dataclass
class Entry:
    """A tenant that competes on a shared lane.

    Attributes:
        had: what it has been charged since, by its weight.
        ahead: of each other tenant that competed then: how much more that one had than the least of them.
    """

    ahead: dict[str, float]
    had: float = 0.0
    others: dict[str, float] = field(default_factory=dict)


@dataclass
class Promises:
    """What claims have done so far."""

    waiting: dict[str, Waiting] = field(default_factory=dict)
    shares: dict[str, dict[str, Entry]] = field(default_factory=dict)
    returned: set[tuple[str, str]] = field(default_factory=set)  # lanes, with tenants that have not been away

    def forget(self, *, shares: bool) -> None:
        """Ranks or limits are others from here on; ``shares``: weights, or lanes, also."""
        self.waiting.clear()
        if shares:
            self.shares.clear()

    def charged(self, lane: str, tenant: str, amount: float) -> None:
        """A tenant was charged so much for a step, by its weight; less than 0 where that was taken back."""
        entries = self.shares.get(lane, {})
        if tenant in entries:
            entries[tenant].had += amount
        for name, entry in entries.items():
            if name != tenant and tenant in entry.others:
                entry.others[tenant] += amount

    def came_back(self, lane: str, tenant: str) -> None:
        """A call of its was lost or given back: it has not been away, and keeps its counter."""
        self.returned.add((lane, tenant))

    def capped(self, tenant: str) -> None:
        """Its cap is full: it competes no more, and is lifted when it does again (it saves nothing up)."""
        for entries in self.shares.values():
            entries.pop(tenant, None)
            for entry in entries.values():
                entry.others.pop(tenant, None)

    def dispatched(
        self, before: Seen, lane: str, m: str, now: int, spent: Callable[[Seen, str], bool],
        able: Callable[[str], bool],
    ) -> list[str]:  # fmt: skip
        """What is wrong with a claim of this step of a lane. ``spent``: whether a job's budget is used up;
        ``able``: whether the worker can serve a step (else that makes way)."""
        id, _, step = m.rpartition("/")
        tenant, (policy, every, fair) = before.jobs[id].tenant, before.lane(lane)
        places = before.places()
        if not any(kind == "ready" for kind, _ in places[m]):
            return []  # let in by this very claim, or ranked under rules that are no more
        steps = {name: (job, h) for name, job, h in steps_on(before, lane)}
        models = {h.label for _, h in steps.values()}
        open_models = {
            model for model in models
            if all(h.label != model or allowed(before, model, h.est, now) for _, h in steps.values())
        }  # fmt: skip
        mine = (before.jobs[id].heads[step].label, f"@{tenant}")

        def competes(name: str) -> bool:
            job, h = steps[name]
            here = [
                kind == "ready" or (kind == "held" and shelf.partition("|")[0] in mine)
                for kind, shelf in places[name]
            ]
            return (
                any(here)
                and h.policy in ("", policy)  # else it is to be ranked anew first
                and (h.kind != "llm" or h.label in open_models)
                and (h.kind != "llm" or allowed(before, f"@{job.tenant}", 0, now))
                and not spent(before, name.rpartition("/")[0])
                and able(name)
            )

        on_lane = {n for n in steps if competes(n) and any(kind == "ready" for kind, _ in places[n])}
        lines = (
            self._shares(before, lane, m, on_lane) if fair else []
        )  # (what is held is lifted as it is let in)
        self.waiting = {name: w for name, w in self.waiting.items() if name in steps and name != m}
        for name, (job, h) in steps.items():
            if name == m or not every or (fair and job.tenant != tenant):
                continue
            older = {
                other for other, (its, o) in steps.items()
                if (o.ready, other) < (h.ready, name) and other != m and (not fair or its.tenant == tenant)
            }  # fmt: skip
            w = self.waiting.setdefault(name, Waiting(older, len(older) + 1))
            w.ahead += len(older - w.older)
            w.older |= older
            w.passed += competes(name)
            if w.passed > every * (w.ahead + 1):
                lines.append(
                    f"{name} was passed over {w.passed} times, {w.ahead} were before it, every {every}"
                )
        return lines

    def _shares(self, before: Seen, lane: str, m: str, competing: set[str]) -> list[str]:
        """The tenant that has had least goes first, and one that comes has saved nothing up."""
        tenant = before.jobs[m.rpartition("/")[0]].tenant
        counters = {t: float(v) for t, v in before.hashes["share"].get(lane, {}).items() if t[0] != "!"}
        steps = {before.jobs[name.rpartition("/")[0]].tenant: name for name in sorted(competing)}
        there = set(steps)
        most = max((h.cost for job in before.jobs.values() for h in job.heads.values()), default=0)

        def slack(
            other: str,
        ) -> float:  # a step of each: what a limit keeps waiting is lifted as it is let in
            weights = (float(before.hashes["tenant"].get(t, {}).get("w", 1)) for t in (tenant, other))
            return sum(max(1, most) / weight for weight in weights)

        lines = [
            f"{m} of {tenant} runs, and {other} with {steps[other]} has had less: {counters}"
            for other in there
            if counters.get(other, 0.0) + slack(other) < counters.get(tenant, 0.0)
        ]
        was = self.shares.get(lane, {})
        entries = self.shares[lane] = {t: e for t, e in was.items() if t in there}
        for entry in entries.values():
            entry.others = {t: had for t, had in entry.others.items() if t in there}
        stayed = {t for t in there if (lane, t) in self.returned}
        self.returned = {back for back in self.returned if back[0] != lane}
        old = {t: counters.get(t, 0.0) for t in entries.keys() | stayed}
        for t in sorted(there - entries.keys()):
            least = old[t] if t in stayed else min(old.values(), default=0.0)
            others = {u: c for u, c in old.items() if u != t}
            entries[t] = Entry({u: c - least for u, c in others.items()}, others=dict.fromkeys(others, 0.0))
        mine = entries.get(tenant)
        if mine is not None:
            lines += [
                f"{m} of {tenant} runs, which has had {mine.had} since it came; {other} has had {had}, "
                f"and had been {mine.ahead[other]} ahead then: {counters}"
                for other, had in mine.others.items()
                if mine.had > had + mine.ahead[other] + slack(other)
            ]
        return lines
