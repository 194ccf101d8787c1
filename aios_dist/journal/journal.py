"""The journal: one method a verb. The only code that touches the fleet's own keys in Redis."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable, Sequence
from typing import Any

import msgspec
from redis.exceptions import RedisError

from aios_dist.agents import Budget
from aios_dist.calls import Usage
from aios_dist.config import FleetConfig
from aios_dist.errors import BudgetReached, DeadlineExceeded, FleetUnavailable, UnknownName, WorkerLost
from aios_dist.jobs import JobRecord, JobState, Kind, Outcome, decode, digest, encode
from aios_dist.journal import scripts
from aios_dist.journal.connection import Connection, open_client, passes, unavailable
from aios_dist.journal.keys import Keys
from aios_dist.journal.records import (
    Advance,
    Claim,
    DeadLetter,
    Decision,
    Event,
    History,
    JobView,
    Limits,
    ModelView,
    NewJob,
    PlanView,
    Reaped,
    Registry,
    Submitted,
    Ticket,
    WorkerInfo,
    budget_facts,
    head_to_step,
    model_view,
)
from aios_dist.plans import Shape

SLEPT = encode(Outcome())
LATE = encode(Outcome.failed(DeadlineExceeded("The job had not ended within its deadline.")))
SPENT = encode(
    Outcome.failed(BudgetReached("The budget of the job, or of its tenant for the day, is used up."))
)
GIVEN_UP = encode(
    Outcome.failed(WorkerLost("Every worker that tried this step was lost before it answered."))
)
NO_USAGE = Usage()
VIEWED = ("st", "rec", "n", "v", "up", "uo", "uc", "pl", "t0", "t1", "um", "why")
MOST_TOKENS = 10**12
"""Of one step. A provider that counts more counts nonsense, and a verb must not break half way over it."""
LOOK_AGAIN_S = 0.2
"""Between two tries to read the stream of ends while Redis is away."""


class Journal:
    """All that is known of a fleet's jobs. One per event loop."""

    def __init__(self, config: FleetConfig) -> None:
        self.config = config
        self.keys = Keys(config.name)
        self.connection = Connection(config.redis_url, config.redis_timeout)
        self._scripts = scripts.load()
        self._retention_ms = int(config.retention * 1000)

    async def close(self) -> None:
        """Close the connection."""
        await self.connection.close()

    async def _run(self, verb: str, *then: tuple[Any, ...], **fields: Any) -> Any:
        script = self._scripts[verb]
        return await self.connection.eval(script, self.keys.prefix, script.pack(fields), *then)

    # Writing ---------------------------------------------------------------------------------------

    async def submit(
        self, jobs: Sequence[NewJob], plan: Shape | None = None, then: Sequence[tuple[Any, ...]] = ()
    ) -> Submitted:
        """Create jobs, and the plan between them, all or nothing. ``then``: commands sent along.

        Raises:
            FleetUnavailable: nothing was written, or the answer was lost: submit again, with the same ids.
        """
        plain = [_plain(job) for job in jobs]
        whole = digest(msgspec.json.encode([plan, [job["dig"] for job in plain]])) if plan else ""
        status, tickets, detail = await self._run(
            "submit",
            *then,
            jobs=plain,
            plan={**plan.plain(), "dig": whole} if plan else None,
            retention_ms=self._retention_ms,
        )
        state = status.decode()
        if state == "conflict":
            return Submitted(state, [], conflict=detail.decode())
        return Submitted(state, _tickets(tickets), new=[d == b"new" for d in detail])

    async def extend(self, plan: str, jobs: Sequence[NewJob]) -> Submitted:
        """Add jobs at the tail of a plan; ``unknown`` and ``stopped`` are possible answers too."""
        status, *rest = await self._run(
            "extend", plan=plan, jobs=[_plain(job) for job in jobs], retention_ms=self._retention_ms
        )
        state = status.decode()
        if state == "conflict":
            return Submitted(state, [], conflict=rest[0].decode())
        return Submitted(state, _tickets(rest[0]) if rest else [])

    async def claim(self, lane: str, worker: str) -> Claim | None:
        """The best step of the lane that may run, leased to ``worker``; None when there is none.

        Its ``tickets`` are to be published: a job whose budget was used up may have made way for another.
        """
        flat, *got = await self._run(
            "claim",
            lane=lane,
            worker=worker,
            lease_us=int(self.config.lease * 1e6),
            retention_ms=self._retention_ms,
            budget_outcome=SPENT,
        )
        if not got:
            return None  # tickets that came without a claim are left to the reconciler
        job, step, attempt, kind, label, record, request, version, ready, started, tries = got
        return Claim(
            job=job.decode(),
            step=step.decode(),
            attempt=attempt,
            kind=Kind(kind.decode()),
            label=label.decode(),
            record=decode(record, JobRecord),
            request=request,
            version=int(version),
            ready_us=int(ready),
            started_us=int(started),
            tries=tries,
            tickets=_tickets(flat),
        )

    async def commit(
        self,
        claim: Claim,
        outcome: bytes,
        *,
        ok: bool,
        usage: Usage = NO_USAGE,
        money: float = 0.0,
        decision: Decision | None = None,
        turn_here: bool = True,
        then: Sequence[tuple[Any, ...]] = (),
    ) -> Advance:
        """Write a step's outcome, and with it what the turn decided. See ``commit.lua`` for the answers."""
        got = await self._run(
            "commit",
            *then,
            job=claim.job,
            step=claim.step,
            attempt=claim.attempt,
            ok=int(ok),
            outcome=outcome,
            prompt_tokens=_count(usage.prompt_tokens),
            output_tokens=_count(usage.output_tokens),
            calls=usage.calls,
            micros=min(MOST_TOKENS, max(0, round(money * 1e6))),
            decision=decision.plain() if decision else None,
            turn_here=int(turn_here),
            grace_us=int(self.config.reconcile * 1e6),
            retention_ms=self._retention_ms,
        )
        return Advance(got[0].decode(), got[1], _tickets(got[2]))

    async def advance(
        self, job: str, decision: Decision, *, turn_attempt: int = 0, then: Sequence[tuple[Any, ...]] = ()
    ) -> Advance:
        """Write what a turn decided, where it ran apart from a commit."""
        got = await self._run(
            "advance",
            *then,
            job=job,
            decision=decision.plain(),
            turn_attempt=turn_attempt,
            retention_ms=self._retention_ms,
        )
        return Advance(got[0].decode(), got[1], _tickets(got[2]))

    async def release(
        self,
        claim: Claim,
        reason: str,
        after: float = 0.0,
        *,
        error: Exception | None = None,
        hold: float = 0.0,
        breaker: int = 0,
        to: tuple[str, str] | None = None,
    ) -> list[Ticket]:
        """Give a step back with its old rank, after ``after`` seconds without a slot.

        Args:
            claim: the step.
            reason: for people.
            after: seconds.
            error: what a failed try raised; it is kept, and counts as a try.
            hold: seconds for which nobody is to call this model.
            breaker: failures in a row, over the fleet, that hold the model as well; 0 for never.
            to: another model that the step goes to, and its lane; its tries begin anew there.
        """
        _, tickets = await self._run(
            "release",
            job=claim.job,
            step=claim.step,
            attempt=claim.attempt,
            reason=reason,
            after_us=int(after * 1e6),
            error=encode(Outcome.failed(error)) if error is not None else b"",
            hold_us=int(hold * 1e6),
            breaker=breaker,
            model=to[0] if to else "",
            lane=to[1] if to else "",
            retention_ms=self._retention_ms,
        )
        return _tickets(tickets)

    async def renew(self, leases: Iterable[str]) -> set[str]:
        """Renew all leases of a worker in one round trip; those that are lost come back."""
        lost = await self._run(
            "renew",
            leases=list(leases),
            lease_us=int(self.config.lease * 1e6),
            retention_ms=self._retention_ms,
        )
        return {lease.decode() for lease in lost}

    async def cancel(self, job: str) -> tuple[str, list[Ticket]]:
        """End a job; ``cancelled``, ``unknown``, or ``ended`` when it had ended before."""
        status, tickets = await self._run("cancel", job=job, retention_ms=self._retention_ms)
        return status.decode(), _tickets(tickets)

    async def pause(self, job: str, reason: str = "asked for") -> str:
        """Stop a running job where it is; ``paused``, ``unknown``, or the state that forbids it."""
        state: bytes = await self._run("pause", job=job, reason=reason, retention_ms=self._retention_ms)
        return state.decode()

    async def resume(self, job: str, budget: Budget | None = None) -> tuple[str, list[Ticket]]:
        """Let a paused job go on; ``running``, ``unknown``, or the state that forbids it."""
        status, tickets = await self._run(
            "resume", job=job, facts=budget_facts(budget, anew=True), retention_ms=self._retention_ms
        )
        return status.decode(), _tickets(tickets)

    async def signal(self, job: str, name: str, outcome: Outcome) -> tuple[str, list[Ticket]]:
        """Send what a job waits for: ``delivered``, ``kept``, ``ended`` or ``unknown``."""
        status, tickets = await self._run(
            "signal", job=job, name=name, outcome=encode(outcome), retention_ms=self._retention_ms
        )
        return status.decode(), _tickets(tickets)

    async def retry(self, job: str) -> tuple[str, list[Ticket]]:
        """Go on from where a job failed; ``running``, ``unknown``, or the state that forbids it."""
        status, tickets = await self._run("retry", job=job, retention_ms=self._retention_ms)
        return status.decode(), _tickets(tickets)

    async def fork(self, job: str, new: str, step: int) -> tuple[str, list[Ticket]]:
        """A new job with another's history before ``step``; ``new``, or why not (see ``fork.lua``)."""
        status, tickets = await self._run(
            "fork", job=job, new=new, step=step, retention_ms=self._retention_ms
        )
        return status.decode(), _tickets(tickets)

    async def dead_letters(self, limit: int = 100) -> list[DeadLetter]:
        """Steps that were given up, newest first."""
        flat = await self.connection.command("ZRANGE", self.keys.dead, 0, limit - 1, "REV", "WITHSCORES")
        pairs = (
            flat
            if flat and isinstance(flat[0], (list, tuple))
            else list(zip(flat[::2], flat[1::2], strict=True))
        )
        letters = []
        for member, score in pairs:
            job, _, step = member.decode().rpartition("/")
            letters.append(DeadLetter(job, step, float(score) / 1e6))
        return letters

    async def drop_dead(self, job: str) -> int:
        """Forget the dead letters of a job; how many there were."""
        names = [f"{d.job}/{d.step}" for d in await self.dead_letters(10_000) if d.job == job]
        return int(await self.connection.command("ZREM", self.keys.dead, *names)) if names else 0

    async def set_limits(self, model: str, limits: Limits) -> None:
        """The limits of a model, for the whole fleet, from now on."""
        fields = {
            "l_if": limits.in_flight,
            "l_rpm": limits.requests_per_minute,
            "l_tpm": limits.tokens_per_minute,
        }
        key = self.keys.model(model)
        if any(fields.values()) or await self.connection.command("EXISTS", key):
            await self.connection.command("HSET", key, *(x for pair in fields.items() for x in pair))
            # Where the limit has become wider, what it held is let in by the next pass of the reconciler.
            await self.connection.command("ZADD", self.keys.timers, "NX", 1, f"model:{model}/!")

    async def set_tenant(self, tenant: str, tokens_per_day: int, money_per_day: float) -> None:
        """What a tenant may spend on a day; 0 for no limit."""
        key = self.keys.tenant(tenant)
        wanted = {"l_tok": tokens_per_day, "l_mic": round(money_per_day * 1e6)}
        for field, value in wanted.items():
            if value:
                await self.connection.command("HSET", key, field, value)
            else:
                await self.connection.command("HDEL", key, field)

    async def reap(self, lanes: Sequence[str], cursor: str = "0", page: int = 200) -> Reaped:
        """One bounded pass over what time or a crash has left behind."""
        moved, ready, cursor_, next_us = await self._run(
            "reap",
            page=page,
            attempts=self.config.attempts,
            lost_outcome=GIVEN_UP,
            slept_outcome=SLEPT,
            late_outcome=LATE,
            lanes=list(lanes),
            due_us=int(self.config.reconcile * 1e6),
            cursor=cursor,
            retention_ms=self._retention_ms,
        )
        counts = dict(zip(lanes, ready, strict=True))
        return Reaped(moved, counts, cursor_.decode(), int(next_us) / 1e6 or None)

    async def take_reconciler(self, worker: str, seconds: float) -> bool:
        """Become, or stay, the one reconciler of the fleet for some seconds."""
        key, expiry = self.keys.reconciler, int(seconds * 1000)
        if await self.connection.command("SET", key, worker, "NX", "PX", expiry) is not None:
            return True
        if await self.connection.command("GET", key) != worker.encode():
            return False
        await self.connection.command("PEXPIRE", key, expiry)
        return True

    async def announce(self, info: WorkerInfo, models: dict[str, str]) -> None:
        """Say what a worker is and serves."""
        fields: list[Any] = [f"worker/{info.id}", msgspec.json.encode(info)]
        for model, lane in models.items():
            fields += [f"model/{model}", f"{info.seen_at:.0f} {lane}"]
        for agent in info.agents:
            fields += [f"agent/{agent}", f"{info.seen_at:.0f}"]
        await self.connection.command("HSET", self.keys.registry, *fields)

    async def leave(self, worker: str) -> None:
        """A worker says that it is gone."""
        await self.connection.command("HDEL", self.keys.registry, f"worker/{worker}")

    # Reading ---------------------------------------------------------------------------------------

    async def now(self) -> float:
        """Seconds since the epoch on Redis' clock, the only clock that the journal knows."""
        seconds, micros = await self.connection.command("TIME")
        return int(seconds) + int(micros) / 1e6

    async def registry(self) -> Registry:
        """What workers said of themselves; those long gone are forgotten on the way."""
        flat = await self.connection.command("HGETALL", self.keys.registry)
        entries = flat if isinstance(flat, dict) else dict(zip(flat[::2], flat[1::2], strict=True))
        now = await self.now()
        workers, models, agents = [], {}, []
        for field, value in entries.items():
            kind, _, name = field.decode().partition("/")
            if kind == "worker":
                info = msgspec.json.decode(value, type=WorkerInfo)
                if info.seen_at < now - 3 * self.config.lease:
                    await self.leave(info.id)
                else:
                    workers.append(info)
                continue
            seen, _, lane = value.decode().partition(" ")
            if float(seen) < now - self.config.retention:
                await self.connection.command("HDEL", self.keys.registry, field)
            elif kind == "model":
                models[name] = lane
            else:
                agents.append(name)
        return Registry(sorted(workers, key=lambda w: (w.pool, w.id)), models, sorted(agents))

    async def views(self, jobs: Sequence[str]) -> list[JobView | None]:
        """Jobs as they stand, in one round trip; None for an id that is unknown or expired."""
        found = await self._gather(("HMGET", self.keys.job(j), *VIEWED) for j in jobs)
        return [_view(job, facts) for job, facts in zip(jobs, found, strict=True)]

    async def state(self, job: str) -> tuple[JobState, bytes]:
        """The job's state and its encoded result.

        Raises:
            UnknownName: no such job.
        """
        state, result = await self.connection.command("HMGET", self.keys.job(job), "st", "res")
        if state is None:
            raise self._no_job(job)
        return JobState(state.decode()), result or b""

    def _no_job(self, job: str) -> UnknownName:
        days = self.config.retention / 86400
        return UnknownName(f"There is no job {job!r} (a finished job is kept for {days:g} days).")

    async def states(self, jobs: Sequence[str]) -> list[JobState | None]:
        """The state of each job; None for an id that is unknown or expired."""
        found = await self._gather(("HGET", self.keys.job(j), "st") for j in jobs)
        return [JobState(s.decode()) if s else None for s in found]

    async def load(self, job: str) -> History:
        """All of a job.

        Raises:
            UnknownName: no such job.
        """
        flat = await self.connection.command("HGETALL", self.keys.job(job))
        facts = flat if isinstance(flat, dict) else dict(zip(flat[::2], flat[1::2], strict=True))
        if b"st" not in facts:
            raise self._no_job(job)
        named = [facts.get(f.encode()) for f in VIEWED]
        view = _view(job, named)
        assert view is not None
        steps = [
            head_to_step(
                job,
                number,
                msgspec.msgpack.decode(facts[b"h%d" % number]),
                facts.get(b"q%d" % number),
                facts.get(b"o%d" % number),
            )
            for number in range(view.steps)
        ]
        return History(view, decode(facts[b"rec"], JobRecord), steps, facts.get(b"res") or b"")

    async def plan(self, plan: str) -> PlanView:
        """A plan as it stands.

        Raises:
            UnknownName: no such plan.
        """
        state = await self.connection.command("HGET", self.keys.plan(plan), "st")
        if state is None:
            raise UnknownName(f"There is no plan {plan!r}.")
        return PlanView(plan, state.decode())

    async def list_jobs(self, limit: int = 100, *, ended: bool | None = None) -> list[JobView]:
        """Jobs, newest first: open ones, ended ones, or (None) both."""
        ids: list[bytes] = []
        for wanted, key in ((False, self.keys.open), (True, self.keys.ended)):
            if ended in (None, wanted):
                ids += await self.connection.command("ZRANGE", key, 0, limit - 1, "REV")
        views = [v for v in await self.views([i.decode() for i in ids]) if v is not None]
        return sorted(views, key=lambda v: -v.submitted_at)[:limit]

    async def counts(self, lanes: Sequence[str]) -> dict[str, int]:
        """Numbers for people: open jobs, held and timed steps, and ``ready:<lane>`` for each lane."""
        keys = self.keys
        commands = [("ZCARD", keys.open), ("ZCARD", keys.leases), ("ZCARD", keys.timers)]
        commands += [("ZCARD", keys.ready(lane)) for lane in lanes]
        answers = await self._gather(commands)
        return dict(
            zip(("open", "leased", "timed", *(f"ready:{lane}" for lane in lanes)), answers, strict=True)
        )

    async def model_views(self, models: Sequence[str]) -> list[ModelView]:
        """Limits, holds and calls of each model, over the whole fleet."""
        keys, now = self.keys, await self.now()
        commands: list[tuple[Any, ...]] = []
        for model in models:
            commands += [
                ("HMGET", keys.model(model), "l_if", "l_rpm", "l_tpm", "hold", "win", "fails"),
                ("ZCARD", keys.inflight(model)),
                ("ZCARD", keys.held(model)),
                ("ZRANGEBYSCORE", keys.window(model), f"({(now - 60.0) * 1e6:.0f}", "+inf"),
            ]
        got = await self._gather(commands)
        return [model_view(name, now, *got[4 * place : 4 * place + 4]) for place, name in enumerate(models)]

    async def events(self, job: str, after: int = -1) -> list[Event]:
        """The job's events with an index above ``after``."""
        packed = await self.connection.command("LRANGE", self.keys.events(job), after + 1, -1)
        return [_event(after + 1 + i, p) for i, p in enumerate(packed)]

    async def ends_now(self) -> str:
        """Where the stream of ends stands: what is read after this was not there before."""
        last = await self.connection.command("XREVRANGE", self.keys.ends, "+", "-", "COUNT", 1)
        return last[0][0].decode() if last else "0-0"

    async def ends(self, after: str, idle: float = 5.0) -> AsyncIterator[list[str]]:
        """Ids of jobs as they end, in batches, for ever; an empty batch after ``idle`` seconds without one.

        One connection, however many jobs are waited for. A broken connection is opened again and nothing
        is missed; each such gap is shown as an empty batch.
        """
        client = open_client(self.config.redis_url, socket_timeout=idle + 10)
        try:
            while True:
                try:
                    got = await client.xread({self.keys.ends: after}, count=1000, block=int(idle * 1000))
                except RedisError as exc:
                    if not passes(exc):
                        raise unavailable(exc, self.config.redis_url) from None
                    yield []
                    await asyncio.sleep(LOOK_AGAIN_S)
                    continue
                entries = _entries(got)
                if entries:
                    after = entries[-1][0].decode()
                yield [fields[b"job"].decode() for _, fields in entries if b"job" in fields]
        finally:
            await client.aclose()

    async def check(self) -> None:
        """Redis is there and keeps what it is given.

        Raises:
            FleetUnavailable: it cannot be reached, or may evict keys.
        """
        try:
            info = await self.connection.client.info("memory")
        except RedisError as exc:
            if "permission" in str(exc).lower() or "NOPERM" in str(exc):
                return  # an account without INFO: `doctor` says so, work goes on
            raise unavailable(exc, self.config.redis_url) from None
        policy = info.get("maxmemory_policy", "noeviction")
        if policy != "noeviction":
            raise FleetUnavailable(
                f"Redis may evict keys (maxmemory-policy {policy}), which would lose jobs; "
                "set it to noeviction: CONFIG SET maxmemory-policy noeviction."
            )

    async def _gather(self, commands: Iterable[tuple[Any, ...]]) -> list[Any]:
        return list(await asyncio.gather(*(self.connection.command(*c) for c in commands)))


def _plain(job: NewJob) -> dict[str, Any]:
    return {
        "id": job.id,
        "rec": encode(job.record),
        "dig": job.record.digest(),
        "decision": job.decision.plain() if job.decision else None,
        "parent": job.node,
        "facts": ["tn", job.record.tenant, *budget_facts(job.budget)],
        "deadline_us": int(job.deadline * 1e6) if job.deadline else 0,
    }


def _count(tokens: int) -> int:
    return max(0, min(tokens, MOST_TOKENS))


def _tickets(flat: list[bytes]) -> list[Ticket]:
    text = [part.decode() if isinstance(part, bytes) else str(part) for part in flat]
    return [Ticket(*text[i : i + 3]) for i in range(0, len(text), 3)]


def _view(job: str, facts: Sequence[bytes | None]) -> JobView | None:
    state, record, steps, outcomes, prompt, output, calls, plan, submitted, ended, micros, why = facts
    if state is None or record is None:
        return None
    what = decode(record, JobRecord)
    return JobView(
        id=job,
        state=JobState(state.decode()),
        agent=what.agent,
        tenant=what.tenant,
        steps=int(steps or 0),
        outcomes=int(outcomes or 0),
        usage=Usage(int(prompt or 0), int(output or 0), int(calls or 0)),
        plan=plan.decode() if plan else None,
        money=int(micros or 0) / 1e6,
        why=why.decode() if why else "",
        submitted_at=int(submitted or 0) / 1e6,
        ended_at=int(ended or 0) / 1e6,
    )


def _event(index: int, packed: bytes) -> Event:
    at, what, step, detail = msgspec.msgpack.decode(packed)
    return Event(index, int(at) / 1e6, what, int(step) if step.isdigit() else None, detail)


def _entries(got: Any) -> list[Any]:
    """The entries of one stream from XREAD's answer, in RESP2 and RESP3 form."""
    if not got:
        return []
    streams = list(got.values()) if isinstance(got, dict) else [stream[1] for stream in got]
    entries = streams[0]
    if entries and isinstance(entries[0], list) and entries[0] and isinstance(entries[0][0], (list, tuple)):
        return list(entries[0])
    return list(entries)
