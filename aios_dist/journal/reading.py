"""What the journal shows: jobs, steps, lanes, models, workers; and jobs as they end."""

from __future__ import annotations

import asyncio
import re
import time
import zlib
from collections.abc import AsyncIterator, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import msgspec

from aios_dist.errors import JournalError, RedisUnfit, UnknownName
from aios_dist.journal.access import entries_of
from aios_dist.journal.heads import unpack_head
from aios_dist.journal.records import unpack_record
from aios_dist.journal.texts import Texts, texts_in
from aios_dist.journal.views import (
    Event,
    History,
    JobView,
    ModelView,
    PlanView,
    Registry,
    Repairs,
    WorkerInfo,
    head_to_step,
    model_view,
)
from aios_dist.model.calls import Usage
from aios_dist.model.given import span
from aios_dist.model.jobs import JobState, Outcome, RecordTooLarge, Step, decode
from aios_dist.model.texts import Reader

if TYPE_CHECKING:
    from aios_dist.journal.hearing import Hearing

VIEWED = (
    *("st", "rec", "n", "v", "up", "uo", "uc", "ue", "um", "us", "pl", "t0", "t1", "why", "pr", "pp", "hp"),
    *("pk", "ch", "tb"),
    "half",
)
SILENT_S = 3600.0
"""How long a worker is told of that says nothing any more: one that was killed, or is stopped."""
OLDER_S = 3600.0
"""For so long after a worker of a release before was seen, all is written as that can read it."""

MOST_PAGES = 50
"""Pages that a list looks through where what it meets is not there yet."""

MOST_TRIES = 5
FIELDS_AT_ONCE = 2_000
"""Tries to read a job in pieces that belong together, and fields in one of them."""

LOOK_AGAIN_S = 0.2
"""Between two tries to read the stream of ends while Redis is away."""

OVER_LIMIT = b"limit"
"""What a job is parked for that would hold too much; ``_plan.lua`` has the same."""

MOST_EVENTS = 5_000
"""Of a job, read by one script."""


class Ends(list[str]):
    """Jobs that have ended or were parked. ``behind``: others may wait for one of them in a plan."""

    behind = False


class Reading(Texts):
    """The reading half of the journal."""

    async def now(self) -> float:
        """Seconds since the epoch on Redis' clock, the only clock that the journal knows."""
        seconds, micros = await self.connection.command("TIME")
        return int(seconds) + int(micros) / 1e6

    async def registry(self) -> Registry:
        """What workers said of themselves; those long gone are forgotten on the way."""
        found, older, clock = await self._gather(
            [("HGETALL", self.keys.registry), ("GET", self.keys.older), ("TIME",)]
        )
        entries, now = _mapping(found), int(clock[0]) + int(clock[1]) / 1e6
        workers: list[WorkerInfo] = []
        silent: list[WorkerInfo] = []
        models: dict[str, str] = {}
        agents: list[str] = []
        odd: list[str] = []
        for field, value in entries.items():
            kind, _, name = field.decode("utf-8", "replace").partition("/")
            try:
                if kind == "worker":
                    info = msgspec.json.decode(value, type=WorkerInfo)
                    seen, shown = info.seen_at, now - 3 * self.config.lease
                    oldest = shown - SILENT_S
                    if seen > now + self.config.lease:  # from before Redis' clock has jumped back
                        shown = oldest = seen + 1
                    if seen >= oldest:
                        (workers if seen >= shown else silent).append(info)
                elif kind in ("model", "agent"):
                    text, _, lane = value.decode().partition(" ")
                    seen, oldest = float(text), now - self.config.retention
                    if seen >= oldest and kind == "model":
                        models[name] = lane
                    elif seen >= oldest:
                        agents.append(name)
                else:
                    if kind != "tenant":
                        odd.append(f"{kind}/{name}")
                    continue
            except (ValueError, msgspec.MsgspecError):  # of a newer version, or of nobody's: the rest goes on
                odd.append(f"{kind}/{name}")
                continue
            if seen < oldest:
                await self.connection.command("HDEL", self.keys.registry, field)
        await self._look_for_older(workers, silent, float(older or 0), now)
        self._looked_at = time.monotonic()
        workers, silent = (sorted(some, key=lambda w: (w.pool, w.id)) for some in (workers, silent))
        return Registry(workers, models, sorted(agents), sorted(odd), silent, now)

    async def _look(self) -> None:
        await self.registry()

    async def _look_for_older(
        self, workers: list[WorkerInfo], silent: list[WorkerInfo], seen: float, now: float
    ) -> None:
        """Whether documents are written apart: where a worker that could not read them was there of late, it
        may come again, from a restart or a rollback."""
        if not all(worker.reads_texts for worker in (*workers, *silent)):
            self.apart = False
            if not 0 <= now - seen < OLDER_S / 60:
                await self.connection.command("SET", self.keys.older, int(now))
            return
        self.apart = bool(workers) and not 0 <= now - seen < OLDER_S

    async def views(self, jobs: Sequence[str]) -> list[JobView | None]:
        """Jobs as they stand, in one round trip; None for an id that is unknown or expired."""
        found = await self._seen(jobs, VIEWED)
        return [view_of(job, facts) for job, facts in zip(jobs, found, strict=True)]

    async def _seen(self, jobs: Sequence[str], fields: Sequence[str]) -> list[list[bytes | None]]:
        """Fields of jobs; none of those that nobody sees yet. ``fields`` has hp and pl, and ends with half.

        A job of a plan that is submitted in slices points to what is to be whole: where that is, it is.
        """
        points, plan = fields.index("hp"), fields.index("pl")
        found = await self._gather(("HMGET", self.keys.job(job), *fields) for job in jobs)
        parts = {(f[plan].decode(), f[points]) for f in found if f[points] is not None and f[plan]}
        wanted = sorted(parts)
        states = await self._gather(("HMGET", self.keys.plan(p), "st", part) for p, part in wanted)
        there = {part for part, (state, left) in zip(wanted, states, strict=True) if state and not left}
        for f in found:
            pointed = f[points] is not None
            if f[-1] is not None or (pointed and (not f[plan] or (f[plan].decode(), f[points]) not in there)):
                f[:] = [None] * len(f)
        return found

    async def last_error(self, job: str, step: str) -> Outcome | None:
        """What the last failed try of a step that has no outcome yet has left; None: nothing, or unreadable.

        Raises:
            FleetUnavailable: Redis cannot be reached, or refuses.
        """
        found = await self.connection.command("HGET", self.keys.job(job), f"e{step}")
        try:
            return decode(found, Outcome) if found else None
        except (ValueError, RecursionError):
            return None

    async def state(self, job: str) -> tuple[JobState, bytes]:
        """The job's state and its encoded result.

        Raises:
            UnknownName: no such job.
            JournalError: its record cannot be read.
        """
        ((state, result, *_),) = await self._seen([job], ("st", "res", "hp", "pl", "half"))
        if state is None:
            raise self.no_job(job)
        try:
            return JobState(state.decode()), result or b""
        except ValueError as exc:
            raise damaged(job, exc) from None

    def no_job(self, job: str) -> UnknownName:
        """The error that says so."""
        kept = span(self.config.retention)
        return UnknownName(f"There is no job {job!r} (a finished job is kept for {kept}).")

    async def states(self, jobs: Sequence[str]) -> list[JobState | None]:
        """The state of each job; None for an id that is unknown or expired, or whose record cannot be read:
        :meth:`state` says which."""
        known = {state.value.encode(): state for state in JobState}
        return [known.get(state or b"") for state, *_ in await self._seen(jobs, ("st", "hp", "pl", "half"))]

    async def load(self, job: str, *, requests: bool = True) -> History:
        """All of a job.

        Args:
            requests: False: without what was asked for, which a replay tells by its digest. Of a long
                conversation that is nearly all there is.

        Raises:
            UnknownName: no such job.
        """
        events, facts = await asyncio.gather(
            self.connection.command("LLEN", self.keys.events(job)),
            self._all(job) if requests else self._without_requests(job),
        )
        if facts.keys() & {b"half", b"hp"}:
            ((state, *_),) = await self._seen([job], ("st", "hp", "pl", "half"))
            facts = {} if state is None else facts
        if b"st" not in facts:
            raise self.no_job(job)
        reader = Reader(texts_in(facts) if requests else await self._fetched(job, _documents(facts), {}))
        try:
            view = view_of(job, [facts.get(f.encode()) for f in VIEWED])
            assert view is not None
            steps = [
                head_to_step(
                    job,
                    number,
                    unpack_head(facts[b"h%d" % number]),
                    facts.get(b"q%d" % number),
                    facts.get(b"o%d" % number),
                    reader,
                )
                for number in range(view.steps)
            ]
            record = unpack_record(facts[b"rec"])
            forgotten = _forgotten(job, facts, reader)
        except UNREADABLE as exc:
            if isinstance(exc, KeyError) and not await self.connection.command("EXISTS", self.keys.job(job)):
                raise self.no_job(job) from None  # it has expired meanwhile
            raise damaged(job, exc) from None
        return History(
            view,
            record,
            steps,
            facts.get(b"res") or b"",
            basis=(facts.get(b"dg") or b"").decode(),
            retried=b"rt" in facts,
            events=events,
            forgotten=forgotten,
            code=(facts.get(b"ch") or facts.get(b"cw") or b"").decode(),
            of_code=int(facts[b"cn"]) if facts.get(b"cn", b"").isdigit() else None,
        )

    async def _all(self, job: str) -> dict[bytes, bytes]:
        return _mapping(await self.connection.command("HGETALL", self.keys.job(job)))

    async def _without_requests(self, job: str) -> dict[bytes, bytes]:
        """What a replay looks at, as it is at one moment: the proof is the same before and after."""
        key = self.keys.job(job)
        fields = (*VIEWED, "rec", "res", "dg", "rt", "cw", "cn")
        for _ in range(MOST_TRIES):
            found = dict(zip(fields, await self.connection.command("HMGET", key, *fields), strict=True))
            if not (found["n"] or b"").isdigit():
                break
            heads = [f"{kind}{step}" for step in range(int(found["n"])) for kind in "ho"]
            pages = [heads[at : at + FIELDS_AT_ONCE] for at in range(0, len(heads), FIELDS_AT_ONCE)]
            values = await self._gather(("HMGET", key, "dg", *page) for page in pages)
            for page, (proof, *told) in zip(pages, values, strict=True):
                if proof != found["dg"]:
                    break
                found.update(zip(page, told, strict=True))
            else:
                return {name.encode(): value for name, value in found.items() if value is not None}
        return await self._all(job)  # others write all the time: in one piece, then

    async def plan(self, plan: str) -> PlanView:
        """A plan as it stands.

        Raises:
            UnknownName: no such plan.
        """
        facts = await self.connection.command(
            "HMGET", self.keys.plan(plan), "st", "half", "all", "far", "todo", "now"
        )
        state, half, jobs, far, todo, now = facts
        if state is None or half:
            raise UnknownName(f"There is no plan {plan!r}.")
        if jobs is None:  # of a release that did not count
            return PlanView(plan, state.decode())
        admitted, ended, dropped = (int(n) for n in (far or b"0|0|0").split(b"|"))
        return PlanView(plan, state.decode(), int(jobs), admitted, ended, dropped, bool(todo or now))

    async def list_jobs(self, limit: int = 100, *, ended: bool | None = None) -> list[JobView]:
        """Jobs, newest first: open ones, ended ones, or (None) both."""
        views: list[JobView] = []
        for wanted, key in ((False, self.keys.open), (True, self.keys.ended)):
            if ended in (None, wanted):
                views += await self._listed(key, limit)
        return sorted(views, key=lambda v: -v.submitted_at)[:limit]

    async def _listed(self, key: str, limit: int) -> list[JobView]:
        """The newest jobs of a set that can be seen: those of a plan that is being submitted cannot."""
        views: list[JobView] = []
        for page in range(MOST_PAGES):
            names = await self.connection.command("ZRANGE", key, page * limit, (page + 1) * limit - 1, "REV")
            ids = [name.decode("utf-8", "replace") for name in names]
            for id, facts in zip(ids, await self._seen(ids, VIEWED), strict=True):
                try:
                    view = view_of(id, facts)
                except JournalError:
                    continue  # `doctor` names it
                if view is not None:
                    views.append(view)
            if len(views) >= limit or len(ids) < limit:
                break
        return views[:limit]

    async def repairs(self) -> Repairs:
        """What was put right or set aside so far, and what is marked now."""
        counts, aside, dirty = await self._gather(
            [("HGETALL", self.keys.mended), ("HGETALL", self.keys.aside), ("ZCARD", self.keys.dirty)]
        )
        return Repairs(
            {name.decode(): int(count) for name, count in _mapping(counts).items()},
            {
                job.decode("utf-8", "replace"): why.decode("utf-8", "replace")
                for job, why in _mapping(aside).items()
            },
            dirty,
        )

    async def model_views(self, models: Sequence[str]) -> list[ModelView]:
        """Limits, holds and calls of each model, over the whole fleet."""
        keys, now = self.keys, await self.now()
        shared = await self._gather(("HGET", keys.waits, f"held:{model}") for model in models)
        held = [int(count or 0) for count in shared]
        commands: list[tuple[Any, ...]] = []
        for model in models:
            commands += [
                ("HMGET", keys.model(model), "l_if", "l_rpm", "l_tpm", "hold", "win", "fails", "na", "nu"),
                ("ZCARD", keys.inflight(model)),
                ("ZCARD", keys.held(model)),
                ("ZRANGEBYSCORE", keys.window(model), f"({(now - 60.0) * 1e6:.0f}", "+inf"),
            ]
        got = await self._gather(commands)
        views = []
        for place, name in enumerate(models):
            facts, in_flight, alone, window = got[4 * place : 4 * place + 4]
            views.append(model_view(name, now, facts, in_flight, alone + held[place], window))
        return views

    async def events(self, job: str, after: int = -1) -> list[Event]:
        """The job's events with an index above ``after``.

        Raises:
            JournalError: one cannot be read.
        """
        packed: list[bytes] = []
        while True:
            page = await self._run("events", job=job, after=after + len(packed), most=MOST_EVENTS)
            packed += page
            if len(page) < MOST_EVENTS:
                break
        try:
            return [_event(after + 1 + i, p) for i, p in enumerate(packed)]
        except UNREADABLE as exc:
            raise damaged(job, exc) from None

    async def ends_now(self) -> str:
        """Where the stream of ends stands: what is read after this was not there before."""
        last = await self.connection.command("XREVRANGE", self.keys.ends, "+", "-", "COUNT", 1)
        return last[0][0].decode() if last else "0-0"

    async def ends(self, after: str, idle: float = 5.0) -> AsyncIterator[Ends]:
        """Jobs as they end or are parked, in batches, for ever; an empty batch after ``idle`` seconds
        without one.

        One connection, however many jobs are waited for. A broken connection is opened again and nothing
        is missed; each such gap is shown as an empty batch.
        """
        from redis.exceptions import RedisError

        from aios_dist.journal.connection import line_errors, open_client, passes, unavailable

        client = open_client(self.config.redis_url, socket_timeout=idle + 10)
        try:
            while True:
                try:
                    with line_errors():
                        got = await client.xread({self.keys.ends: after}, count=1000, block=int(idle * 1000))
                except RedisError as exc:
                    if not passes(exc):
                        raise unavailable(exc, self.config.redis_url) from None
                    yield Ends()
                    await asyncio.sleep(LOOK_AGAIN_S)
                    continue
                entries = entries_of(got)
                if entries:
                    after = entries[-1][0].decode()
                ids = [fields.get(b"job") or fields.get(b"parked") for _, fields in entries]
                ends = Ends(id.decode("utf-8", "replace") for id in ids if id)
                ends.behind = any(b"in" in fields for _, fields in entries)
                yield ends
        finally:
            await client.aclose()

    def hearing(self, quiet: float) -> Hearing:
        """The fleet's channels, to be heard over a connection of their own; ``quiet``: see there."""
        from aios_dist.journal.hearing import Hearing

        return Hearing(self.config.redis_url, quiet)

    async def check(self) -> None:
        """Redis is there and keeps what it is given.

        Raises:
            FleetUnavailable: it cannot be reached; RedisUnfit: it may evict keys, or is too old.
        """
        facts = await self.connection.info()
        if facts is None:
            return  # an account without INFO: `doctor` says so, work goes on
        if (version := facts.get("redis_version", "")) and too_old(version):
            raise RedisUnfit.with_fix(f"Redis {version} is too old", "use Redis 7 or newer, or Valkey")
        policy = facts.get("maxmemory_policy", "noeviction")
        if policy != "noeviction":
            raise RedisUnfit.with_fix(
                f"Redis may evict keys (maxmemory-policy {policy}), which would lose jobs",
                "set it to noeviction: CONFIG SET maxmemory-policy noeviction",
            )


OLDEST = 7
"""The first version of Redis that has what the verbs need, flags and functions; Valkey calls itself 7.2."""


def too_old(version: str) -> bool:
    """Whether the verbs cannot run on it."""
    first = version.partition(".")[0]
    return first.isdigit() and int(first) < OLDEST


def code_in(parked: bytes | None) -> str:
    """The code with which a parked job goes on by itself, from the field that says so; "": with none."""
    need = (parked or b"").decode("utf-8", "replace")
    return need.rpartition("@")[2] if need.startswith("code/") else ""


def _mapping(flat: Any) -> dict[bytes, bytes]:
    """A hash from HGETALL's answer, in RESP2 and RESP3 form."""
    return flat if isinstance(flat, dict) else dict(zip(flat[::2], flat[1::2], strict=True))


_DOCUMENT = re.compile(rb"[qo]\d+")
_FORGOTTEN = re.compile(rb"z(\d+)\|h(\d+)")


HUGE = (RecordTooLarge, zlib.error)
"""… one that no release has written."""

UNREADABLE = (KeyError, IndexError, TypeError, ValueError, zlib.error, msgspec.MsgspecError)
"""What a damaged record raises."""


def _documents(facts: dict[bytes, bytes]) -> Iterator[bytes]:
    """The requests and outcomes of a job."""
    return (value for name, value in facts.items() if _DOCUMENT.fullmatch(name))


def _forgotten(job: str, facts: dict[bytes, bytes], reader: Reader) -> list[Step]:
    """What ``rewind.lua`` has put aside, in the order of its resumings and of the steps' numbers."""
    names = (_FORGOTTEN.fullmatch(name) for name in facts) if b"zn" in facts else ()
    heads = sorted((int(found[1]), int(found[2])) for found in names if found)
    return [
        head_to_step(
            job,
            number,
            unpack_head(facts[b"z%d|h%d" % (era, number)]),
            facts.get(b"z%d|q%d" % (era, number)),
            facts.get(b"z%d|o%d" % (era, number)),
            reader,
        )
        for era, number in heads
    ]


class Unreadable(JournalError):
    """What Redis holds of a job is nothing that any release has written: whoever sees it may set it aside."""


def damaged(job: str, exc: Exception) -> JournalError:
    """The error of a job whose record cannot be read."""
    return (Unreadable if isinstance(exc, HUGE) else JournalError)(
        f"What Redis holds of job {job!r} cannot be read ({type(exc).__name__}: {exc}); the reconciler "
        "sets it aside, and `aios-dist doctor` says so."
    )


def outcome_of(job: str, result: bytes) -> Outcome:
    """What became of a job that has ended.

    Raises:
        JournalError: it cannot be read.
    """
    try:
        return decode(result, Outcome)
    except UNREADABLE as exc:
        raise damaged(job, exc) from None


def view_of(job: str, facts: Sequence[bytes | None]) -> JobView | None:
    """A job from its fields; None where there is none.

    Raises:
        JournalError: they cannot be read.
    """
    try:
        return _read_view(job, facts)
    except UNREADABLE as exc:
        raise damaged(job, exc) from None


def _read_view(job: str, facts: Sequence[bytes | None]) -> JobView | None:
    known = dict(zip(VIEWED, facts, strict=True))
    state, record = known["st"], known["rec"]
    if state is None or record is None or known["half"] is not None:
        return None
    what = unpack_record(record)

    def number(field: str) -> int:
        return int(known[field] or 0)

    def text(field: str) -> str:
        return (known[field] or b"").decode()

    return JobView(
        id=job,
        state=JobState(state.decode()),
        agent=what.agent,
        tenant=what.tenant,
        steps=number("n"),
        outcomes=number("v"),
        usage=Usage(number("up"), number("uo"), number("uc")),
        plan=text("pl") or None,
        money=float(known["um"] or 0) / 1e6,
        estimated=number("ue"),
        why=text("why"),
        served=number("us") / 1e6,
        priority=number("pr"),
        placed=bool(text("pp")),
        in_code=what.prompts is None,
        submitted_at=number("t0") / 1e6,
        ended_at=number("t1") / 1e6,
        parked=known["pk"] is not None and state == b"paused",
        parked_for=code_in(known["pk"]),
        code=text("ch"),
        over_limit=known["pk"] == OVER_LIMIT and state == b"paused",
        held_bytes=number("tb"),
    )


def _event(index: int, packed: bytes) -> Event:
    at, what, step, detail = msgspec.msgpack.decode(packed)
    return Event(index, int(at) / 1e6, what, int(step) if step.isdigit() else None, detail)
