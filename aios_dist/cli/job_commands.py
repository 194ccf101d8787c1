"""``aios-dist job list | wait | events | cancel``."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Any

import click

from aios_dist.cli.output import clock, iso, job_record, print_json, print_table, short, took
from aios_dist.cli.session import on_fleet, on_journal

if TYPE_CHECKING:
    from aios_dist.journal import Event, JobView, Journal
    from aios_dist.producer.fleet import AsyncFleet

as_json_option = click.option("--json", "as_json", is_flag=True, help="For programs.")


@click.command("list")
@click.option("--open", "which", flag_value="open", help="Only jobs that have not ended.")
@click.option("--ended", "which", flag_value="ended", help="Only jobs that have ended.")
@click.option(
    "--limit", type=click.IntRange(min=1), default=50, show_default=True, help="How many at the most."
)
@as_json_option
def list_(which: str | None, limit: int, as_json: bool) -> None:
    """Jobs, newest first."""
    ended = None if which is None else which == "ended"

    async def look(journal: Journal) -> list[JobView]:
        return await journal.list_jobs(limit, ended=ended)

    views = on_journal(look)
    if as_json:
        print_json([job_record(view) for view in views])
        return
    print_table(
        ("JOB", "STATE", "AGENT", "TENANT", ">STEPS", ">TOKENS", "SUBMITTED", ">TOOK", "PLAN"),
        (
            (
                v.id,
                v.state.value,
                v.agent,
                v.tenant,
                f"{v.outcomes}/{v.steps}",
                v.usage.total_tokens,
                clock(v.submitted_at),
                short(took(v.submitted_at, v.ended_at)),
                v.plan,
            )
            for v in views
        ),
        empty="No jobs. Submit one: aios-dist submit --prompt 'Say hello' --wait",
    )


@click.command()
@click.argument("ids", metavar="ID...", nargs=-1, required=True)
@click.option("--timeout", type=click.FloatRange(min=0), default=3600.0, show_default=True, help="Seconds.")
@as_json_option
def wait(ids: tuple[str, ...], timeout: float, as_json: bool) -> None:
    """Wait for jobs and print their results; exit 1 unless all ended well."""
    from aios_dist.cli.waiting import wait_and_print

    async def work(fleet: AsyncFleet) -> None:
        await wait_and_print(fleet, list(dict.fromkeys(ids)), timeout, as_json=as_json)

    on_fleet(work)


@click.command()
@click.argument("id")
@click.option("--after", type=click.IntRange(min=-1), default=-1, help="Only events after this number.")
@click.option("--follow", "-f", is_flag=True, help="Go on until the job has ended.")
@click.option(
    "--timeout", type=click.FloatRange(min=0), default=3600.0, help="Seconds to follow at the most."
)
@click.option("--json", "as_json", is_flag=True, help="For programs: one JSON object a line.")
def events(id: str, after: int, follow: bool, timeout: float, as_json: bool) -> None:
    """What happened to a job, and, with --follow, what happens."""

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
        print(json.dumps(fields, ensure_ascii=False), flush=True)
        return
    step = f"step {event.step}" if event.step is not None else ""
    print(
        f"{event.index:>4}  {clock(event.at)}  {event.what:<10} {step:<9} {event.detail}".rstrip(), flush=True
    )


@click.command()
@click.argument("ids", metavar="ID...", nargs=-1, required=True)
@as_json_option
def cancel(ids: tuple[str, ...], as_json: bool) -> None:
    """End jobs now: waiting steps are dropped, calls in flight are stopped."""

    async def work(fleet: AsyncFleet) -> list[dict[str, Any]]:
        done = []
        for id in ids:
            job = fleet.job(id)
            cancelled = await job.cancel()
            done.append({"id": id, "cancelled": cancelled, "state": (await job.status()).value})
        return done

    done = on_fleet(work)
    if as_json:
        print_json(done)
        return
    for entry in done:
        print(
            f"{entry['id']} " + ("cancelled" if entry["cancelled"] else f"had ended before: {entry['state']}")
        )
