"""``aios-dist job``: list, events, wait, export; beside it `job_show`, `job_steering`."""

from __future__ import annotations

import json
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import msgspec

from aios_dist.cli import job_show, job_steering
from aios_dist.cli.choosing import Choice, choice_options
from aios_dist.cli.entry import Commands, say
from aios_dist.cli.options import as_json_option, ids_argument
from aios_dist.cli.output import (
    clock,
    error_line,
    iso,
    job_record,
    moment,
    print_json,
    print_table,
    short,
    took,
)
from aios_dist.cli.session import on_fleet, on_journal
from aios_dist.errors import InvalidInput, UnknownName
from aios_dist.model.jobs import JobState, Kind
from aios_dist.text.lines import escaped

if TYPE_CHECKING:
    from aios_dist.journal import Event, History, JobView, Journal
    from aios_dist.producer.fleet import AsyncFleet
    from aios_dist.simulate.files import ExportedStep


MOST_PARKED = 5
"""Parked jobs of a list whose reason is told below it; the others have such a one too."""


@click.command("list")
@click.option("--open", "which", flag_value="open", help="Only jobs that have not ended.")
@click.option("--ended", "which", flag_value="ended", help="Only jobs that have ended.")
@click.option(
    "--limit", type=click.IntRange(min=1), default=50, show_default=True, help="How many at the most."
)
@choice_options
@as_json_option
def list_(which: str | None, limit: int, as_json: bool, **options: Any) -> None:
    """Jobs, newest first."""
    ended = None if which is None else which == "ended"
    choice = Choice(**options)

    async def look(journal: Journal) -> list[JobView]:
        if not choice:
            return await journal.list_jobs(limit, ended=ended)
        return await journal.find_jobs(await choice.wanted(journal, ended), limit)

    views = on_journal(look)
    if as_json:
        print_json([job_record(view) for view in views])
        return
    print_table(
        ("JOB", "STATE", "AGENT", "TENANT", ">STEPS", ">TOKENS", ">SUBMITTED", ">TOOK", "PLAN"),
        (
            (
                v.id,
                "parked" if v.parked else v.state.value,
                v.agent,
                v.tenant,
                f"{v.outcomes}/{v.steps}",
                v.usage.total_tokens,
                moment(v.submitted_at),
                short(took(v.submitted_at, v.ended_at)),
                v.plan,
            )
            for v in views
        ),
        empty=f"No jobs ({choice})."
        if choice
        else "No jobs. Submit one: aios-dist submit --prompt 'Say hello' --wait",
    )
    for view in [view for view in views if view.parked][:MOST_PARKED]:
        say(f"{view.id} is parked: {view.why}")


@click.command()
@ids_argument
@click.option("--timeout", type=click.FloatRange(min=0), default=3600.0, show_default=True, help="Seconds.")
@as_json_option
def wait(ids: tuple[str, ...], timeout: float, as_json: bool) -> None:
    """Wait for jobs and print their results. Exit 1 unless all ended well."""
    from aios_dist.cli.waiting import wait_and_print

    on_fleet(lambda fleet: wait_and_print(fleet, list(dict.fromkeys(ids)), timeout, as_json=as_json))


@click.command()
@click.argument("id")
@click.option("--after", type=click.IntRange(min=-1), default=-1, help="Only events after this number.")
@click.option("--follow", "-f", is_flag=True, help="Go on until the job has ended.")
@click.option(
    "--timeout", type=click.FloatRange(min=0), default=3600.0, help="Seconds to follow at the most."
)
@click.option("--json", "as_json", is_flag=True, help="For programs: one JSON object a line.")
def events(id: str, after: int, follow: bool, timeout: float, as_json: bool) -> None:
    """What happened to a job, and what happens (with --follow)."""

    async def found(fleet: AsyncFleet) -> AsyncIterator[Event]:
        if follow:
            async for event in fleet.job(id).events(after, timeout):
                yield event
            return
        await fleet.job(id).status()  # says so if there is no such job
        for event in await fleet.journal.events(id, after):
            yield event

    async def work(fleet: AsyncFleet) -> None:
        async for event in found(fleet):
            _print_event(event, as_json)

    on_fleet(work)


def _print_event(event: Event, as_json: bool) -> None:
    if as_json:
        fields: dict[str, Any] = {
            "index": event.index,
            "at": iso(event.at),
            "what": event.what,
            "step": event.step,
            "detail": event.detail or None,
        }
        print(escaped(json.dumps(fields, ensure_ascii=False)), flush=True)
        return
    step = f"step {event.step}" if event.step is not None else ""
    line = f"{event.index:>4}  {clock(event.at)}  {event.what:<10} {step:<9} "
    print(f"{line}{error_line(event.detail)}".rstrip(), flush=True)


@click.command()
@click.option(
    "--limit", type=click.IntRange(min=1), default=10_000, show_default=True, help="Jobs; the newest."
)
@click.option("--out", metavar="FILE", help="Where to write  [default: standard output]")
@click.option("--json", "as_json", is_flag=True, help="With --out: say as JSON what was written.")
def export(limit: int, out: str | None, as_json: bool) -> None:
    """Write what has run as a workload for simulate.

    The calls of the jobs that have ended, as JSON lines for `aios-dist simulate --workload FILE`. A line has
    the job's id, agent, tenant, priority and times, and the call's seconds and tokens: no prompts, no
    answers, no keys.
    """

    async def read(journal: Journal) -> list[ExportedStep]:
        found = []
        for view in reversed(await journal.list_jobs(limit, ended=True)):
            try:
                found += calls_of(await journal.load(view.id))
            except UnknownName:  # its time in the journal has just ended
                continue
        return found

    steps = on_journal(read)
    if not steps:
        raise InvalidInput("No job has ended here that made a call: there is nothing to export.")
    text = "".join(msgspec.json.encode(step).decode() + "\n" for step in steps)
    if out is None:
        sys.stdout.write(text)
        return
    try:
        Path(out).write_text(text, encoding="utf-8")
    except OSError as exc:
        raise InvalidInput(f"Cannot write {out!r}: {exc.strerror}.") from None
    except ValueError:
        raise InvalidInput(f"Cannot write {out!r}: no file can have that name.") from None
    jobs = len({step.job for step in steps})
    if as_json:
        print_json({"file": out, "jobs": jobs, "calls": len(steps)})
    else:
        print(f"{jobs} jobs, {len(steps)} calls: {out}", file=sys.stderr)


def calls_of(history: History) -> list[ExportedStep]:
    """The LLM calls of a job that came to an end, numbered anew: what the agent does between them (tools,
    sleeps, waiting for signals) is its own time."""
    view, record = history.view, history.record
    calls = [
        step
        for step in history.steps
        if step.kind is Kind.LLM and step.outcome is not None and step.started_at
    ]
    if not calls:
        return []
    begin = min(step.ready_at for step in calls) if view.plan else view.submitted_at
    from aios_dist.simulate.files import ExportedStep

    found = []
    for number, step in enumerate(calls):
        before = [earlier.ended_at for earlier in calls[:number] if earlier.ended_at <= step.ready_at]
        usage = step.outcome.usage if step.outcome is not None else None
        found.append(
            ExportedStep(
                job=view.id,
                agent=view.agent,
                tenant=view.tenant,
                step=number,
                after=len(before),
                submitted_at=begin,
                own_s=round(max(0.0, step.ready_at - max(before, default=begin)), 6),
                seconds=round(max(0.0, step.ended_at - step.started_at), 6),
                prompt_tokens=usage.prompt_tokens if usage else 0,
                output_tokens=usage.output_tokens if usage else 0,
                priority=view.priority,
                deadline_s=record.deadline,
                expected_steps=record.expected_steps,
                failed=view.state is not JobState.DONE,
            )
        )
    return found


job = Commands("job")
for command in (
    list_,
    job_show.show,
    wait,
    events,
    job_steering.cancel,
    job_steering.pause,
    job_steering.resume,
    job_steering.priority,
    job_steering.signal,
    job_steering.retry,
    export,
    job_steering.fork,
):
    job.add_command(command)
