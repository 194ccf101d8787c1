"""A journal, and a hand that plays producer, workers, reconciler and time with it.

No test here waits for time: a lease ends, a timer rings because its score is moved into the past, which is
all that the verbs look at. ``Hand.look`` is the list of what must hold after every verb (docs/design.md).
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator, Sequence
from typing import Any, Literal, TypeVar

import msgspec
import pytest
import pytest_asyncio

from aios_dist.config import FleetConfig
from aios_dist.errors import ConfigError, FleetUnavailable, ProviderBusy, RateLimited
from aios_dist.journal import (
    Advance,
    Claim,
    Decision,
    Journal,
    NewJob,
    RankedStep,
    Refusal,
    Stray,
    Ticket,
    scripts,
)
from aios_dist.journal.heads import unpack_head
from aios_dist.journal.records import Reaped
from aios_dist.journal.views import Limits
from aios_dist.local.redis_server import EmbeddedRedis, find_server
from aios_dist.model.calls import LLMRequest, LLMResponse, SignalRequest, SleepRequest, Usage
from aios_dist.model.jobs import JobRecord, JobState, Kind, NewStep, Outcome, encode
from aios_dist.model.plans import Shape
from aios_dist.model.specs import Budget
from aios_dist.policies import Rank
from tests.driver.seen import DUMP, Seen

T = TypeVar("T")
OPEN = ("waiting", "running", "paused")
BEGUN = {"running", "paused", "done", "failed"}
USED = Usage(3, 2, 1)
Member = str | tuple[Any, ...]
"""A job's id, or ``(mode, on_failure, members…)``."""


END = Outcome(value="end")


BY_TIME = Rank()


NO_ENDS = f"{2**64 - 1}-{2**64 - 2}"
"""Behind it there is no entry of a stream."""


def asks(
    *prompts: str,
    lane: str = "llm",
    rank: Rank = BY_TIME,
    policy: str = "",
    model: str = "small",
    tokens: int = 0,
) -> list[RankedStep]:
    """New steps, one a prompt. ``sleep:SECONDS`` and ``signal:NAME`` are what they say."""
    return [RankedStep(_asked(p, lane, model, tokens), rank, policy) for p in prompts]


def _asked(prompt: str, lane: str, model: str, tokens: int) -> NewStep:
    kind, _, what = prompt.partition(":")
    if kind == "sleep":
        request: Any = SleepRequest(float(what))
        return NewStep(Kind.SLEEP, "turns", encode(request), f"d-{prompt}", what, after=float(what))
    if kind == "signal":
        return NewStep(Kind.SIGNAL, "turns", encode(SignalRequest(what)), f"d-{prompt}", what)
    request = LLMRequest([{"role": "user", "content": prompt}])
    return NewStep(Kind.LLM, lane, encode(request), f"d-{prompt}", model, estimate=tokens, cost=tokens)


def decides(
    version: int,
    first: int,
    *prompts: str,
    ends: JobState | None = None,
    lane: str = "llm",
    result: Outcome = END,
    **more: Any,
) -> Decision:
    """What a turn came to: these prompts asked, or this end."""
    steps = asks(*prompts, lane=lane, **more)
    return Decision(version, first, steps, ends, encode(result) if ends else b"")


def starts(
    id: str,
    *prompts: str,
    ends: JobState | None = None,
    lane: str = "llm",
    agent: str = "a",
    tenant: str = "default",
    budget: Budget | None = None,
    deadline: float | None = None,
    priority: int = 0,
    **more: Any,
) -> NewJob:
    """A job whose turn 0 asked for these prompts, or came to this end; neither: a worker is to run it."""
    decision = decides(0, 0, *prompts, ends=ends, lane=lane, **more) if prompts or ends else None
    record = JobRecord(agent, {"id": id}, tenant, deadline=deadline)
    return NewJob(id, record, decision, budget=budget, priority=priority)


def ranked(id: str, rank: Rank, policy: str = "", **more: Any) -> NewJob:
    """A job with one step of that rank."""
    return starts(id, "x", rank=rank, policy=policy, **more)


def plan_of(id: str, root: tuple[Any, ...]) -> tuple[Shape, dict[str, int]]:
    """A plan from ``(mode, on_failure, members…)``; a member is a job's id or such a tuple again."""
    nodes: list[tuple[str, int, int, str]] = []
    links: list[tuple[int, int, str]] = []
    owners: dict[str, int] = {}

    def walk(part: tuple[Any, ...], parent: int) -> int:
        mode, on_failure, *members = part
        number = len(nodes)
        nodes.append((mode, parent, len(members), on_failure))
        for place, member in enumerate(members):
            if isinstance(member, str):
                owners[member] = number
                links.append((number, place, f"j{member}"))
            else:
                links.append((number, place, f"n{walk(member, number)}"))
        return number

    walk(root, -1)
    return Shape(id, nodes, links), owners


async def again(verb: Callable[[], Awaitable[T]], most: int = 20) -> T:
    """Repeat a verb while Redis is away, as every caller may."""
    for _ in range(most):
        try:
            return await verb()
        except FleetUnavailable:
            await asyncio.sleep(0.05)
    return await verb()


class Told(Journal):
    """A journal for hands: a decision that names no basis is one of a program that has seen what is there."""

    async def commit(
        self, claim: Claim, outcome: bytes, *, decision: Decision | None = None, **more: Any
    ) -> Advance:
        return await super().commit(
            claim, outcome, decision=await self.based(claim.job, decision, ahead=1), **more
        )

    async def advance(self, job: str, decision: Decision, **more: Any) -> Advance:
        return await super().advance(job, await self.based(job, decision), **more)

    async def based(self, job: str, decision: Any, ahead: int = 0) -> Any:
        """The decision, on what the job stands at where its numbers say so; else on nothing that ever was."""
        if decision is None or decision.basis:
            return decision
        n, v, basis = await self.connection.command("HMGET", self.keys.job(job), "n", "v", "dg")
        fits = (int(v or 0) + ahead, int(n or 0)) == (decision.version, decision.first)
        return msgspec.structs.replace(decision, basis=(basis or b"").decode() if fits else "another")


class Hand:
    """Moves a fleet's journal verb by verb."""

    def __init__(self, journal: Journal, config: FleetConfig) -> None:
        self.journal = journal
        self.config = config
        self.keys = journal.keys
        self.events: dict[tuple[str, bytes], list[bytes]] = {}
        self.seen: Seen | None = None

    async def redis(self, *args: Any) -> Any:
        """A plain command."""
        return await self.journal.connection.command(*args)

    async def warm(self) -> None:
        """Redis knows all verbs, as it does after a while."""
        await self.journal.events("nobody's")
        for script in scripts.load().values():
            await self.redis("SCRIPT", "LOAD", script.source)

    # Moves -----------------------------------------------------------------------------------------

    async def submit(self, *jobs: NewJob) -> None:
        """Jobs without an order between them."""
        assert (await self.journal.submit(jobs)).status == "new"

    async def plan(self, id: str, root: tuple[Any, ...], jobs: Iterable[NewJob] = ()) -> None:
        """A plan; its jobs ask for one step each unless they are given."""
        shape, owners = plan_of(id, root)
        given = {job.id: job for job in jobs}
        new = [
            msgspec.structs.replace(given.get(job) or starts(job, job), node=n) for job, n in owners.items()
        ]
        assert (await self.journal.submit(new, shape)).status == "new"

    async def claim(self, lane: str = "llm", worker: str = "w1") -> Claim:
        """The best ready step; there is one."""
        claim = await self.journal.claim(lane, worker)
        assert claim is not None, f"nothing is ready on {lane}"
        return claim

    async def names(self, lane: str = "llm") -> list[str]:
        """Ready steps in the order in which they would be claimed; nothing is claimed."""
        return [m.decode() for m in await self.redis("ZRANGE", self.keys.ready(lane), 0, -1)]

    async def rank_anew(self, policy: str, rank: Rank) -> int:
        """What the reconciler does after the lane's rules have changed."""

        async def said(strays: list[Stray]) -> list[tuple[Rank, str]]:
            return [(rank, policy) for _ in strays]

        return await self.journal.rank_strays("llm", said)

    async def order(self) -> list[str]:
        """The jobs in the order in which their steps are dispatched from now on."""
        return [claim.job for claim in await self.drain()]

    async def waiting(self, lane: str = "llm") -> list[str]:
        """Ready steps, wherever on the lane they wait."""
        kinds = [await self.by_model(kind) for kind in ("ready", "stray")]
        return [
            m for sets in kinds for name, ms in sets.items() if name.partition("|")[0] == lane for m in ms
        ]

    async def commit(
        self,
        claim: Claim,
        text: str = "answer",
        *,
        ok: bool = True,
        decision: Decision | None = None,
        usage: Usage = USED,
        **more: Any,
    ) -> Advance:
        """The outcome of a claim, with 3 + 2 tokens."""
        outcome = Outcome(response=LLMResponse(text)) if ok else Outcome.failed(ValueError(text))
        return await self.journal.commit(
            claim, encode(outcome), ok=ok, usage=usage, decision=decision, **more
        )

    async def finish(self, claim: Claim, state: JobState = JobState.DONE) -> Advance:
        """Commit a step as its job's last."""
        history = await self.journal.load(claim.job)
        end = decides(history.view.outcomes + 1, history.view.steps, ends=state)
        done = await self.commit(claim, decision=end)
        assert done.status == "advanced"
        return done

    async def run(self, *, fails: Sequence[str] = (), most: int = 100) -> list[str]:
        """Claim and finish whatever is ready, one by one; the jobs in the order in which they ran."""
        ran = []
        while (claim := await self.journal.claim("llm", "w1")) is not None:
            ran.append(claim.job)
            assert len(ran) <= most
            await self.finish(claim, JobState.FAILED if claim.job in fails else JobState.DONE)
        return ran

    async def go_on(self) -> list[str]:
        """Plans that have something left to do go on until they have not; the jobs of the tickets."""
        jobs, more = [], True
        while more:
            _, tickets, more = await self.journal.go_on()
            jobs += [ticket.job for ticket in tickets]
        return jobs

    async def lapse(self, *claims: Claim) -> None:
        """The leases end now (all of them when none is named); nobody has noticed yet."""
        names = [c.lease for c in claims] or await self.redis("ZRANGE", self.keys.leases, 0, -1)
        for name in names:
            await self.redis("ZADD", self.keys.leases, "XX", 1, name)

    async def ring(self) -> None:
        """The time of all timers and due turns has come; nobody has noticed yet."""
        for key in (self.keys.timers, self.keys.due):
            for member in await self.redis("ZRANGE", key, 0, -1):
                await self.redis("ZADD", key, "XX", 1, member)

    async def reap(self, **more: Any) -> Reaped:
        """One pass of the reconciler."""
        return await self.journal.reap(["llm", "turns"], **more)

    async def expire(self, claim: Claim) -> None:
        """The job is cancelled and its time to live is over; then the reconciler sees the lease end."""
        await self.journal.cancel(claim.job)
        keys = (self.keys.job(claim.job), self.keys.events(claim.job))
        await self.redis("DEL", *keys)
        await self.redis("ZREM", self.keys.ended, claim.job)
        await self.lose(claim)

    async def lose(self, claim: Claim) -> None:
        """The worker dies, and the reconciler sees it."""
        await self.lapse(claim)
        await self.reap()

    async def renew(self, *claims: Claim) -> list[Claim]:
        """As a worker does it; those that are lost."""
        gone = await self.journal.renew(claim.lease for claim in claims)
        return await self.journal.regain([claim for claim in claims if claim.lease in gone])

    async def drain(self, lane: str = "llm") -> list[Claim]:
        """Claim all that may run."""
        claims = []
        while (claim := await self.journal.claim(lane, "w1")) is not None:
            claims.append(claim)
        return claims

    async def limit(self, model: str = "small", flight: int = 0, rpm: int = 0, tpm: int = 0) -> None:
        """Limits of a model."""
        await self.journal.set_limits(model, Limits(flight, rpm, tpm))

    async def refuse(self, claim: Claim, hold: float = 30.0) -> list[Ticket]:
        """429: the model is held, and the step waits as long."""
        return await self.journal.release(
            claim, "429", hold, error=RateLimited("slow down"), refusal=Refusal(hold)
        )

    async def fail(self, claim: Claim, after: float = 0.0, breaker: int = 0) -> list[Ticket]:
        """500: the step is tried again."""
        return await self.journal.release(
            claim, "500", after, error=ProviderBusy("x"), refusal=Refusal(0.0, breaker)
        )

    async def end_hold(self, model: str = "small") -> None:
        """The hold of a model, and the pauses of its steps, are over now; the reconciler looks."""
        await self.redis("HSET", self.keys.model(model), "hold", f"{await self.journal.now() * 1e6:.0f}")
        await self.ring()
        await self.reap()

    async def minute(self, seconds: float = 61.0, model: str = "small") -> None:
        """So many seconds pass for a model's window; the reconciler looks."""
        for member in await self.redis("ZRANGE", self.keys.window(model), 0, -1):
            await self.redis("ZINCRBY", self.keys.window(model), f"{-seconds * 1e6:.0f}", member)
        await self.redis("ZADD", self.keys.timers, "XX", 1, f"model:{model}/!")
        await self.reap()

    async def passed_long_ago(self, job: str, step: int = 0) -> None:
        """The step has waited for tokens, and been passed by smaller ones, for a minute more."""
        key, field = self.keys.job(job), f"h{step}"
        head = unpack_head(await self.redis("HGET", key, field))
        since = head.ready if head.passed is None else head.passed
        older = msgspec.structs.replace(head, ready=head.ready - 61_000_000, passed=since - 61_000_000)
        await self.redis("HSET", key, field, msgspec.msgpack.encode(older))

    # Looking ---------------------------------------------------------------------------------------

    async def state(self, job: str) -> str:
        """The job's state."""
        return (await self.journal.state(job))[0].value

    async def states(self, *jobs: str) -> list[str]:
        """The state of each."""
        return [await self.state(job) for job in jobs]

    async def hash(self, key: str) -> dict[str, bytes]:
        """A hash as it is."""
        flat = await self.redis("HGETALL", key)
        pairs = flat.items() if isinstance(flat, dict) else zip(flat[::2], flat[1::2], strict=True)
        return {field.decode("utf-8", "backslashreplace"): value for field, value in pairs}

    async def members(self, key: str) -> set[str]:
        """What is in a sorted set."""
        return {m.decode() for m in await self.redis("ZRANGE", key, 0, -1)}

    async def whole(self) -> dict[str, Any]:
        """Everything that the fleet has in Redis, but for clock and beat: to see that nothing was written."""
        found: dict[str, Any] = {}
        for raw in await self.redis("KEYS", self.keys.prefix.replace("[", "\\[") + "*"):
            key = raw.decode()
            if not key.endswith((":clock", ":beat")):
                read = {
                    b"hash": ("HGETALL", key),
                    b"list": ("LRANGE", key, 0, -1),
                    b"zset": ("ZRANGE", key, 0, -1, "WITHSCORES"),
                    b"stream": ("XRANGE", key, "-", "+"),
                    b"string": ("GET", key),
                }[await self.redis("TYPE", key)]
                found[key] = await (self.hash(key) if read[0] == "HGETALL" else self.redis(*read))
        return found

    async def jobs(self) -> dict[str, dict[str, bytes]]:
        """Every job's hash."""
        start = self.keys.job("")
        keys = [k.decode() for k in await self.redis("KEYS", start + "*")]
        found = await asyncio.gather(*map(self.hash, keys))
        return {key.removeprefix(start): facts for key, facts in zip(keys, found, strict=True)}

    async def mortal(self, keys: Sequence[str]) -> dict[str, bool]:
        """Which keys have a time to live."""
        left = await asyncio.gather(*(self.redis("PTTL", key) for key in keys))
        return {key: ms >= 0 for key, ms in zip(keys, left, strict=True)}

    async def look(self) -> None:
        """Whatever must hold between any two verbs holds.

        (Most of what the tests of this folder cost is this: all is read in one round trip, and a job that is
        as it was is not unpacked again.)
        """
        dump = await self.redis("EVAL", DUMP, 0, self.keys.prefix.replace("[", "\\["), NO_ENDS)
        self.seen = seen = Seen(dump, self.keys.prefix, self.seen)
        jobs = {id: job.fields for id, job in seen.jobs.items()}
        shelves = {
            kind: {name: list(members) for name, members in seen.sets[kind].items()}
            for kind in ("ready", "readyold", "stray", "astray", "held", "heldold")
        }
        ready = {
            m: shelf.partition("|")[0]
            for kind in ("ready", "stray")
            for shelf, names in shelves[kind].items()
            for m in names
        }
        wrong = [*seen.odd, *seen.odd_texts(), *_look_at_shelves(seen, shelves)]
        timers, leases, due, open_ = (set(seen.one[name]) for name in ("timers", "leases", "due", "open"))
        expect_ready: dict[str, str] = {}
        expect_leases: set[str] = set()
        counted: dict[str, set[str]] = defaultdict(set)
        labels: dict[str, str] = {}
        tenants: dict[str, str] = {}
        held: dict[str, list[str]] = defaultdict(list)
        for shelf, names in shelves["held"].items():
            held[shelf.partition("|")[0]] += names
        in_held = {m: model for model, names in held.items() for m in names}
        for id, facts in jobs.items():
            known, events = self.events.get((id, facts["t0"]), []), seen.events.get(id, [])
            if events[: len(known)] != known:
                wrong.append(f"{id}: its events were {known}, now they are {events}")
            self.events[id, facts["t0"]] = events
            state, steps = facts["st"].decode(), int(facts["n"])
            outcomes = int(facts.get("v", 0))
            left = steps - outcomes
            heads = seen.jobs[id].heads
            wrong += [f"{id}: {field} cannot be read" for field in seen.jobs[id].unreadable]
            numbered = {k: h for k, h in heads.items() if k != "t"}
            if set(numbered) != {str(i) for i in range(steps)}:
                wrong.append(f"{id}: n is {steps}, heads are {sorted(numbered)}")
            written = {k for k, h in numbered.items() if h.state in ("done", "failed")}
            if written != {f[1:] for f in facts if f[0] == "o" and f[1:].isdigit()}:
                wrong.append(f"{id}: outcomes and the states of the heads differ")
            orders, left_out = sorted(numbered[k].order for k in written), int(facts.get("og", 0))
            if len({*orders}) != outcomes or (orders and orders[-1] > outcomes + left_out):
                wrong.append(f"{id}: the order of outcomes has gaps")
            if "sw" in facts:
                wrong.append(f"{id}: its steps have still to follow it, from {facts['sw']!r} on")
            if (id in open_) != (state in OPEN):
                wrong.append(f"{id}: {state}, and in `open` {id in open_}")
            wrong += [
                f"{id}: {state}, and the time to live of {key} does not fit"
                for key in (f"job:{id}", f"ev:{id}")
                if (seen.ttl.get(key, -2) >= 0) != (state not in OPEN)
            ]
            moves = id in due
            for step, h in heads.items():
                name = f"{id}/{step}"
                labels[name] = h.label
                own = f"@{facts['who'].decode().partition('|')[0]}"
                tenants[name] = own
                if h.state == "ready":
                    moves = True
                    if (name in timers) + (name in ready) + (name in in_held) > 1:
                        wrong.append(f"{name} waits in two places")
                    agent = facts["who"].decode().partition("|")[2]  # (alone: of a release before codes)
                    needs = (f"?code/{agent}@{h.code}", *([f"?agent/{agent}"] if h.code else []))
                    if name in in_held and in_held[name] not in (h.label, own, *needs):
                        wrong.append(f"{name} is held for {in_held[name]}, and its model is {h.label}")
                    if name not in timers and name not in in_held:
                        expect_ready[name] = h.lane
                elif h.state == "leased":
                    moves = True
                    expect_leases.add(f"{name}#{h.attempt}.{h.token}")
                elif h.state in ("timed", "waiting"):
                    moves = True
                    if (name in timers) != (h.state == "timed"):
                        wrong.append(f"{name} is {h.state}, and on a timer {name in timers}")
                elif name in timers:
                    wrong.append(f"{name} is {h.state} and on a timer")
                if name in in_held and h.state != "ready":
                    wrong.append(f"{name} is {h.state} and held")
                if h.capped:
                    counted[own].add(f"{name}#{h.attempt}.{h.token}")
                if h.counted:
                    counted[h.label].add(f"{name}#{h.attempt}.{h.token}")
                if (h.counted or h.capped) and h.state != "leased":
                    wrong.append(f"{name} is {h.state} and counts against a limit")
                if (h.state == "parked" and state != "paused") or (h.state == "ready" and state == "paused"):
                    wrong.append(f"{name} is {h.state} in a {state} job")
                if h.state == "pending" and state != "waiting":
                    wrong.append(f"{name} is pending in a {state} job")
                if h.state in ("ready", "leased") and state == "waiting":
                    wrong.append(f"{name} is {h.state} in a waiting job")
                if h.state == "ready" and state not in OPEN:
                    wrong.append(f"{name} is ready in a {state} job")
                if h.state == "dropped" and state in OPEN:
                    wrong.append(f"{name} is dropped in a {state} job")
            if state == "running" and not moves:
                wrong.append(f"{id} is running and nothing will move it")
            if state == "paused" and left == 0 and "wake" not in facts and not moves:
                wrong.append(f"{id} is paused and nothing will move it when it is resumed")
            if id in due and state == "paused":
                wrong.append(f"{id} is paused and its turn is due")
            if state not in OPEN and id in due:
                wrong.append(f"{id} has ended and its turn is due")
        if expect_ready != ready:
            wrong.append(f"ready are {ready}, by the heads {expect_ready}")
        if expect_leases != leases:
            wrong.append(f"leases are {sorted(leases)}, by the heads {sorted(expect_leases)}")
        wrong += _look_at_models(seen, counted, held, ready, labels, tenants, timers)
        if late := set(seen.one["deadlines"]) - open_:
            wrong.append(f"deadlines of jobs that are not open: {late}")
        for id, plan in seen.plans.items():
            wrong += _look_at_plan(id, plan, jobs)
            if (seen.ttl[f"plan:{id}"] == -1) != (plan["st"] == b"running"):
                wrong.append(f"plan {id}: {plan['st']!r}, and its time to live does not fit")
        assert not wrong, "\n".join(wrong)

    async def by_model(self, kind: str) -> dict[str, list[str]]:
        """The sets of one kind (held, inflight, window), by model."""
        start = f"{self.keys.prefix}{kind}:"
        found = {}
        for raw in await self.redis("KEYS", start + "*"):
            key = raw.decode()
            read = ("ZRANGE", key, 0, -1)
            found[key.removeprefix(start)] = [m.decode() for m in await self.redis(*read)]
        return found


def _look_at_shelves(seen: Seen, shelves: dict[str, dict[str, list[str]]]) -> list[str]:
    """Compartments of tenants are known where somebody waits, and the oldest are those that wait."""
    wrong = []
    for kind in ("ready", "held"):
        known = {f"{shelf}|{t}" for shelf, names in seen.sets[f"{kind}by"].items() for t in names}
        if known != {shelf for shelf in shelves[kind] if "|" in shelf}:
            wrong.append(f"{kind}: tenants that wait are {sorted(known)}, sets {sorted(shelves[kind])}")
    astray = {m for names in shelves["astray"].values() for m in names}
    for kind in ("ready", "held"):
        for shelf, names in shelves[kind].items():
            lane = shelf.partition("|")[0] if kind == "ready" else "llm"
            aged = int(seen.hashes["lane"].get(lane, {}).get("oldest", 0)) > 0
            old = set(shelves[f"{kind}old"].get(shelf, ())) - astray
            if old != (set(names) - astray if aged else set()):
                wrong.append(f"{kind} {shelf}: {names} wait, by age {old}, astray {astray}")
        if left := shelves[f"{kind}old"].keys() - shelves[kind].keys():
            wrong.append(f"{kind} by age there are {left}, where nobody waits")
    return wrong


def _look_at_models(
    seen: Seen,
    counted: dict[str, set[str]],
    held: dict[str, list[str]],
    ready: dict[str, str],
    labels: dict[str, str],
    tenants: dict[str, str],
    timers: set[str],
) -> list[str]:
    """Limits are kept, count what is in flight, and let in what they hold."""
    wrong = []
    inflight = {model: set(leases) for model, leases in seen.sets["inflight"].items()}
    if inflight != counted:
        wrong.append(f"in flight are {inflight}, by the heads {dict(counted)}")
    windows = seen.sets["window"]
    for model in {*held, *inflight, *windows}:
        facts = seen.hashes["model"].get(model, {})
        limit, busy = int(facts.get("l_if", 0)), len(inflight.get(model, ()))
        if 0 < limit < busy:
            wrong.append(f"{busy} calls of {model} are in flight, {limit} are allowed")
        tokens = sum(int(entry.rpartition("|")[2]) for entry in windows.get(model, ()))
        if windows.get(model) and tokens != int(facts.get("tok", 0)):
            wrong.append(f"the window of {model} holds {tokens} tokens, its sum is {facts.get('tok')!r}")
        moves = (busy or model[0] == "?" or f"model:{model}/!" in timers) or any(
            model in (labels[m], tenants[m]) for m in ready
        )
        if held.get(model) and not moves:
            wrong.append(f"nothing will let in what is held of {model}: {held[model]}")
    return wrong


def _look_at_plan(id: str, plan: dict[str, bytes], jobs: dict[str, dict[str, bytes]]) -> list[str]:
    wrong: list[str] = []
    nodes = {f[4:]: msgspec.msgpack.decode(v) for f, v in plan.items() if f.startswith("node")}
    members: dict[str, list[str]] = defaultdict(list)
    if plan.get("half"):
        return []  # nobody sees any of it
    rest = ["0"]
    while rest:  # (what extends it, and is half there, is not under its root)
        number = rest.pop()
        members[number] = [plan[f"c{number}.{k}"].decode() for k in range(nodes[number][2])]
        rest += [child[1:] for child in members[number] if child[0] == "n"]
    nodes = {number: nodes[number] for number in members}

    def under(child: str) -> set[str]:
        """The states of the jobs below a member; an expired one counts as ended."""
        if child[0] == "j":
            job = jobs.get(child[1:], {"st": b"done", "pl": id.encode()})
            # One that was retried is its own job from then on (or another plan's): to this one it has ended.
            return {job["st"].decode() if job.get("pl") == id.encode() else "cancelled"}
        return set().union(*(under(c) for c in members[child[1:]]))

    for number, node in nodes.items():
        below = [under(child) for child in members[number]]
        running = [states for states in below if states & {"running", "paused"}]
        if node[0] == "fixed" and len(running) > 1:
            wrong.append(f"plan {id}, node {number}: {len(running)} members of a fixed order run at once")
        if node[0] == "fixed":
            begun = [k for k, states in enumerate(below) if states & BEGUN]
            unfinished = [k for k, states in enumerate(below) if states & set(OPEN)]
            if begun and unfinished and min(unfinished) < max(begun):
                wrong.append(
                    f"plan {id}, node {number}: member {max(begun)} began before {min(unfinished)} ended"
                )
    everything = under("n0")
    if plan["st"] == b"running" and not plan.get("todo") and not everything & {"running", "paused"}:
        wrong.append(f"plan {id} is running and none of its jobs is: {everything}")
    if plan["st"] != b"running" and everything & set(OPEN):
        wrong.append(f"plan {id} is {plan['st']!r} with jobs {everything}")
    return wrong


@pytest.fixture
def config(redis_url: str, fleet_name: str) -> FleetConfig:
    """The fleet's settings: leases that only end when a test ends them."""
    return FleetConfig(name=fleet_name, redis_url=redis_url, lease=600.0)


@pytest_asyncio.fixture
async def journal(config: FleetConfig) -> AsyncIterator[Journal]:
    """The fleet's journal."""
    made = Told(config)
    yield made
    await made.close()


@pytest_asyncio.fixture
async def hand(journal: Journal, config: FleetConfig) -> AsyncIterator[Hand]:
    """Looks once more when the test has ended."""
    made = Hand(journal, config)
    yield made
    await made.look()


@pytest.fixture
def own_server(redis_server: EmbeddedRedis) -> Iterator[EmbeddedRedis]:
    """A server that a test may kill: of the kind that the run uses, with an append-only file."""
    kind = "valkey" if redis_server.kind.startswith("valkey") else "redis"
    with EmbeddedRedis(find_server(kind), {"appendfsync": "always"}).start(appendonly=True) as server:
        yield server


@pytest.fixture(scope="module", params=["redis", "valkey"])
def each_server(request: pytest.FixtureRequest, redis_server: EmbeddedRedis) -> Iterator[EmbeddedRedis]:
    """A Redis, then a Valkey: that of this run, and one of the other kind; skipped where that is missing."""
    kind: Literal["redis", "valkey"] = request.param
    if redis_server.kind.startswith(kind):
        yield redis_server
        return
    try:
        binary = find_server(kind)
    except ConfigError as none:
        pytest.skip(f"only {redis_server.kind} is installed here, no {kind}: {none}")
    with EmbeddedRedis(binary) as server:
        yield server
