"""``aios-dist job pause | resume | signal | retry | fork``: steering jobs, also after their end."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Sequence
from typing import TYPE_CHECKING, Any

import click

from aios_dist.cli.budgets import budget_of, budget_options
from aios_dist.cli.job_commands import as_json_option
from aios_dist.cli.output import job_record, print_json
from aios_dist.cli.session import on_fleet
from aios_dist.errors import InvalidInput

if TYPE_CHECKING:
    from aios_dist.producer.fleet import AsyncFleet
    from aios_dist.producer.handles import AsyncJob

ids_argument = click.argument("ids", metavar="ID...", nargs=-1, required=True)


def steer(
    ids: Sequence[str],
    verb: Callable[[AsyncJob], Awaitable[bool]],
    *,
    done: str,
    refused: str,
    as_json: bool,
) -> None:
    """One verb over several jobs: a line each; those that it cannot be done with are said at the end.

    Args:
        ids: the jobs.
        verb: gives whether it was done.
        done: what a job is then, and the name of that in JSON.
        refused: the end of "Job 'x' is done: …".
        as_json: for programs.

    Raises:
        InvalidInput: for the first one that it could not be done with.
    """

    async def work(fleet: AsyncFleet) -> list[dict[str, Any]]:
        records = []
        for id in dict.fromkeys(ids):
            job = fleet.job(id)
            worked = await verb(job)
            records.append({"id": id, done: worked, "state": (await job.status()).value})
        return records

    records = on_fleet(work)
    if as_json:
        print_json(records)
    else:
        for record in records:
            if record[done]:
                print(f"{record['id']} {done}")
    failed = next((r for r in records if not r[done]), None)
    if failed is not None:
        raise InvalidInput(f"Job {failed['id']!r} is {failed['state']}: {refused}.")


@click.command()
@ids_argument
@as_json_option
def pause(ids: tuple[str, ...], as_json: bool) -> None:
    """Stop jobs where they are: waiting steps wait on, calls in flight end and are kept."""
    steer(
        ids,
        lambda job: job.pause(),
        done="paused",
        refused="only a running job can be paused",
        as_json=as_json,
    )


@click.command()
@ids_argument
@budget_options
@as_json_option
def resume(
    ids: tuple[str, ...],
    budget_tokens: int | None,
    budget_money: float | None,
    as_json: bool,
) -> None:
    """Let paused jobs go on, with the rank that their steps had.

    A budget counts all that the job has spent: one that paused at 1000 tokens goes on to 2000 with
    --budget-tokens 2000. What is not named of it, and what is done when it is used up, stay as they were.
    """
    budget = budget_of(budget_tokens, budget_money)
    steer(
        ids,
        lambda job: job.resume(budget),
        done="resumed",
        refused="only a paused job can be resumed",
        as_json=as_json,
    )


@click.command()
@click.argument("id")
@click.argument("name")
@click.option("--value", metavar="JSON", help="What the agent's await gives  [default: null]")
@as_json_option
def signal(id: str, name: str, value: str | None, as_json: bool) -> None:
    """Send NAME to a job that waits for it with `await signal(NAME)`, or will."""
    try:
        sent = json.loads(value) if value is not None else None
    except (ValueError, RecursionError) as exc:
        raise InvalidInput(f"--value is not JSON: {exc}. Text is quoted twice: --value '\"yes\"'.") from None
    steer(
        [id],
        lambda job: job.signal(name, sent),
        done="signalled",
        refused="a job that has ended takes no signals",
        as_json=as_json,
    )


@click.command()
@ids_argument
@as_json_option
def retry(ids: tuple[str, ...], as_json: bool) -> None:
    """Let jobs that failed or were cancelled go on from there; what is answered stays answered."""
    retry_jobs(ids, as_json=as_json)


def retry_jobs(ids: Sequence[str], *, as_json: bool) -> None:
    """See :func:`retry`; the dead letters' command is the same."""
    steer(
        ids,
        lambda job: job.retry(),
        done="retried",
        refused="only a job that failed or was cancelled can be retried",
        as_json=as_json,
    )


@click.command()
@click.argument("id")
@click.option(
    "--step", metavar="K", type=click.IntRange(min=0), required=True, help="The first step done anew."
)
@click.option("--id", "new", metavar="NEW", help="The new job's id  [default: one is made up]")
@as_json_option
def fork(id: str, step: int, new: str | None, as_json: bool) -> None:
    """A new job with the history of ID before step K: what came before is reused, not paid again."""

    async def work(fleet: AsyncFleet) -> dict[str, Any]:
        made = await fleet.job(id).fork(step, new)
        return job_record(await made.view())

    record = on_fleet(work)
    if as_json:
        print_json(record)
    else:
        print(record["id"])
