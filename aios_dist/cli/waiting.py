"""Waiting for jobs with something to see meanwhile, and what is printed when they have ended."""

from __future__ import annotations

import asyncio
import contextlib
import json
import sys
from collections.abc import AsyncIterator, Callable, Sequence
from typing import TYPE_CHECKING, Any

from aios_dist.cli.entry import say
from aios_dist.cli.output import error_line, job_record, plain, print_json, print_table, resume_command, short
from aios_dist.errors import JobCancelled, JobError, JobParked, ResultTimeout, UnknownName
from aios_dist.model.jobs import JobState, Outcome

if TYPE_CHECKING:
    from aios_dist.journal import Event, JobView
    from aios_dist.producer.fleet import AsyncFleet


async def wait_and_print(
    fleet: AsyncFleet, ids: Sequence[str], timeout: float, *, as_json: bool, plan: str | None = None
) -> None:
    """Wait until all have ended, print their results.

    Raises:
        JobError: one failed, was cancelled, or has not ended in time; what there is was printed.
        UnknownName: no such job.
    """
    late: ResultTimeout | None = None
    await views_of(fleet, ids)  # a misspelt id is said now, not when the others have ended
    clock = asyncio.get_running_loop().time
    deadline, left = clock() + timeout, timeout
    while late is None:
        try:
            await _wait(fleet, ids, left, quiet=as_json)
        except ResultTimeout as exc:
            late = exc
        else:
            if all(await fleet.journal.over(ids)):  # one that was parked may have gone on by itself
                break
            left = max(0.0, round(deadline - clock(), 1))
    records = [await ended_record(fleet, view) for view in await views_of(fleet, ids)]
    single = len(records) == 1 and plan is None
    if as_json:
        print_json(records[0] if single else {"plan": plan, "jobs": records} if plan else records)
    elif not single:
        _print_many(records)
    elif records[0]["state"] == "done":
        print_result(records[0]["result"])
    if late is not None:
        raise late
    await _raise_unless_done(fleet, records)


async def views_of(fleet: AsyncFleet, ids: Sequence[str]) -> list[JobView]:
    """The jobs as they stand.

    Raises:
        UnknownName: no such job.
    """
    views = []
    for id, view in zip(ids, await fleet.journal.views(ids), strict=True):
        if view is None:
            raise UnknownName(f"There is no job {id!r}.")
        views.append(view)
    return views


async def ended_record(fleet: AsyncFleet, view: JobView) -> dict[str, Any]:
    """A job for ``--json``, with its result and error."""
    outcome = Outcome()
    if view.state.ended:
        from aios_dist.journal.reading import outcome_of

        _, result = await fleet.journal.state(view.id)
        outcome = outcome_of(view.id, result) if result else outcome
    return {**job_record(view), "result": outcome.value, "error": outcome.error}


def print_result(value: Any) -> None:
    """What an agent returned: text as it is, all else as JSON; on a terminal without control characters."""
    text = value if isinstance(value, str) else json.dumps(value, indent=2, ensure_ascii=False)
    print(plain(text) if sys.stdout.isatty() else text)


def _print_many(records: Sequence[dict[str, Any]]) -> None:
    def line(record: dict[str, Any]) -> str:
        if record["error"] is not None:
            return error_line(f"{record['error']['type']}: {record['error']['message']}")
        value = record["result"]
        text = (
            ""
            if value is None
            else value
            if isinstance(value, str)
            else json.dumps(value, ensure_ascii=False)
        )
        first = " ".join(text.split())
        return first if len(first) <= 80 else first[:79] + "…"

    print_table(
        ("JOB", "STATE", "AGENT", ">TOOK", "RESULT"),
        ((r["id"], _stands(r), r["agent"], short(r["took_s"]), line(r)) for r in records),
        empty="No jobs.",
    )


def _stands(record: dict[str, Any]) -> str:
    return "parked" if record["parked"] else str(record["state"])


async def _raise_unless_done(fleet: AsyncFleet, records: Sequence[dict[str, Any]]) -> None:
    bad = [r for r in records if r["state"] != JobState.DONE]
    if not bad:
        return
    first = bad[0]
    if len(records) == 1 and (at := await fleet.journal.standing(first["id"])).parked:
        raise JobParked.of(at.who, at.parked, at.code, first["id"], over_limit=at.over_limit)
    if len(records) > 1:
        states = ", ".join(f"{r['id']} {_stands(r)}" for r in bad[:5]) + (" …" if len(bad) > 5 else "")
        parked = next((f" {r['id']} is parked: {r['why']}" for r in bad if r["parked"]), "")
        raise JobError(f"{len(bad)} of {len(records)} jobs did not end well: {states}.{parked}")
    if first["error"] is not None:
        words = error_line(f"{first['error']['type']}: {first['error']['message']}")
        raise JobError(f"Job {first['id']!r} failed: {words}")
    raise JobCancelled(f"Job {first['id']!r} was cancelled.")


async def _wait(fleet: AsyncFleet, ids: Sequence[str], timeout: float, *, quiet: bool) -> None:
    async with _bar(len(ids), show=not quiet and sys.stderr.isatty()) as tell:
        if len(ids) > 1:
            ended = 0
            async for job in fleet.as_completed([fleet.job(id) for id in ids], timeout):
                if (at := await fleet.journal.standing(job.id)).parked and not quiet:
                    waits = (
                        "is parked"
                        if at.who == job.id
                        else f"waits in its plan for {at.who!r}, which is parked"
                    )
                    say(f"Job {job.id!r} {waits}: {at.parked}")
                ended += 1
                tell(f"{job.id} ended", ended, len(ids))
            return
        done = asked = 0
        async for event in _until_parked(fleet, ids[0], timeout):
            if event.what == "paused":
                view = (await views_of(fleet, ids))[0]
                if view.parked:
                    return  # what there is is said; nothing comes of itself
                if view.state is JobState.PAUSED and not quiet:  # and not one that went on long ago
                    _say_paused(view)
            asked = max(asked, (event.step if event.step is not None else -1) + 1)
            done += event.what in ("done", "failed") and event.step is not None
            # What runs now, by model or tool; a job's events never hold its texts.
            tell(
                f"{ids[0]}: {event.what}" + (f" step {event.step}" if event.step is not None else ""),
                done,
                asked,
            )


async def _until_parked(fleet: AsyncFleet, id: str, timeout: float) -> AsyncIterator[Event]:
    """A job's events, until nothing more comes of itself: also where one before it in its plan is parked."""
    events = fleet.job(id).events(timeout=timeout)
    over = None
    try:
        while True:
            if over is None:
                over = asyncio.ensure_future(anext(fleet.as_completed([fleet.job(id)], timeout), None))
            coming = asyncio.ensure_future(anext(events, None))
            await asyncio.wait({coming, over}, return_when=asyncio.FIRST_COMPLETED)
            if over.done() and not coming.done():
                if (await fleet.journal.standing(id)).parked:
                    coming.cancel()
                    await asyncio.wait({coming})
                    return
                over = None  # it has gone on by itself, or its end is among the events
            if (event := await coming) is None:
                return
            yield event
    finally:
        if over is not None:
            over.cancel()
            await asyncio.gather(over, return_exceptions=True)


def _say_paused(view: JobView) -> None:
    say(f"Job {view.id!r} is paused ({view.why}); it waits for: {resume_command(view)}")


@contextlib.asynccontextmanager
async def _bar(total: int, show: bool) -> AsyncIterator[Callable[[str, int, int], None]]:
    """A line on stderr that says where things stand; nothing where nobody looks."""
    if not show:
        yield lambda text, done, of: None
        return
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        SpinnerColumn,
        TextColumn,
        TimeElapsedColumn,
    )

    from aios_dist.cli.output import console

    columns = (SpinnerColumn(), TextColumn("{task.description}", markup=False), BarColumn(bar_width=24))
    with Progress(
        *columns, MofNCompleteColumn(), TimeElapsedColumn(), console=console(sys.stderr), transient=True
    ) as progress:
        line = progress.add_task("waiting", total=total)
        yield lambda text, done, of: progress.update(line, description=text, completed=done, total=of)
