"""``aios-dist job export``: what has run, for ``aios-dist simulate``: times and numbers, no texts."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click
import msgspec

from aios_dist.cli.output import print_json
from aios_dist.cli.session import on_journal
from aios_dist.errors import InvalidInput, UnknownName
from aios_dist.model.jobs import JobState, Kind
from aios_dist.simulate.files import ExportedStep

if TYPE_CHECKING:
    from aios_dist.journal import History, Journal


@click.command()
@click.option(
    "--limit", type=click.IntRange(min=1), default=10_000, show_default=True, help="Jobs; the newest."
)
@click.option("--out", metavar="FILE", help="Where to write  [default: standard output]")
@click.option("--json", "as_json", is_flag=True, help="With --out: say as JSON what was written.")
def export(limit: int, out: str | None, as_json: bool) -> None:
    """Write the calls of the jobs that have ended as JSON lines, for `aios-dist simulate --workload FILE`.

    A line has the job's id, agent, tenant, priority and times, and the call's seconds and tokens: no
    prompts, no answers, no keys.
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
