"""``aios-dist job cancel | pause | resume | signal | retry | fork | priority``: what steers a job."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Sequence
from typing import TYPE_CHECKING, Any

import click

from aios_dist import policies
from aios_dist.cli.choosing import PARKED, Choice, bulk_options, chosen, each
from aios_dist.cli.entry import say
from aios_dist.cli.options import SettingType, as_json_option, budget_of, budget_options, ids_argument
from aios_dist.cli.output import job_record, print_json
from aios_dist.cli.session import on_fleet
from aios_dist.config import settings_of
from aios_dist.errors import InvalidInput, JobError
from aios_dist.model.specs import JobSpec

if TYPE_CHECKING:
    from aios_dist.producer.fleet import AsyncFleet
    from aios_dist.producer.handles import AsyncJob


MOST_SAID = 20
"""Jobs that a verb over many could not be done with, of which each is named."""


def bulk(
    ids: Sequence[str],
    choice: Choice,
    verb: Callable[[AsyncJob], Awaitable[bool]],
    *,
    may: Sequence[str],
    ask: str,
    done: str,
    yes: bool,
) -> list[dict[str, Any]]:
    """One verb over the jobs that are named, or chosen by options; a record for each. See ``choosing``."""
    found = chosen(ids, choice, may=may, ask=ask, yes=yes)
    return on_fleet(lambda fleet: each(fleet, found, verb, done, one=bool(ids))) if found else []


def tell_bulk(
    records: Sequence[dict[str, Any]], done: str, as_json: bool, reached: Sequence[str] = ()
) -> None:
    """What became of jobs that were chosen by options: a count, and those with which it could not be done.

    Args:
        reached: states of a job with which nobody need do it any more: it came there since it was chosen.

    Raises:
        JobError: there are such, and not for that; all of it was said.
    """
    left = [r for r in records if not r[done]]
    if as_json:
        print_json(records)
    else:
        print(f"{len(records) - len(left):,} {done}")
        for record in left[:MOST_SAID]:
            say(f"{record['id']} was not {done}: " + (record.get("error") or f"it is {record['state']}"))
    if refused := [r for r in left if r["state"] not in reached]:
        raise JobError(f"{len(refused):,} of {len(records):,} jobs could not be {done}.")


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
    tell(ids, _each(ids, verb, done), done=done, refused=refused, as_json=as_json)


def tell(
    ids: Sequence[str], records: Sequence[dict[str, Any]], *, done: str, refused: str, as_json: bool
) -> None:
    """What became of jobs that a verb was asked for. See :func:`steer`; without ``ids`` they were chosen.

    Raises:
        InvalidInput: for the first of ``ids`` that it could not be done with.
        JobError: it could not be done with some that were chosen.
    """
    if not ids:
        tell_bulk(records, done, as_json)
        return
    if as_json:
        print_json(records)
    else:
        for record in records:
            if record[done]:
                print(f"{record['id']} {done}")
    failed = next((r for r in records if not r[done]), None)
    if failed is not None:
        raise InvalidInput(f"Job {failed['id']!r} is {failed['state']}: {refused}.")


def _each(ids: Sequence[str], verb: Callable[[AsyncJob], Awaitable[bool]], done: str) -> list[dict[str, Any]]:
    async def work(fleet: AsyncFleet) -> list[dict[str, Any]]:
        records = []
        for id in dict.fromkeys(ids):
            job = fleet.job(id)
            worked = await verb(job)
            records.append({"id": id, done: worked, "state": (await job.status()).value})
        return records

    return on_fleet(work)


@click.command()
@bulk_options
@as_json_option
def cancel(ids: tuple[str, ...], yes: bool, as_json: bool, **options: Any) -> None:
    """End jobs now. Waiting steps are dropped, calls in flight are stopped."""
    done = bulk(
        ids,
        Choice(**options),
        lambda job: job.cancel(),
        may=("waiting", "running", "paused", PARKED),
        ask="Cancel",
        done="cancelled",
        yes=yes,
    )
    if not ids:
        tell_bulk(done, "cancelled", as_json, reached=("done", "failed", "cancelled"))
        return
    if as_json:
        print_json(done)
        return
    for entry in done:
        print(
            f"{entry['id']} " + ("cancelled" if entry["cancelled"] else f"had ended before: {entry['state']}")
        )


@click.command()
@ids_argument
@as_json_option
def pause(ids: tuple[str, ...], as_json: bool) -> None:
    """Stop jobs where they are. Waiting steps wait on, calls in flight end and are kept."""
    steer(
        ids,
        lambda job: job.pause(),
        done="paused",
        refused="only a running job can be paused",
        as_json=as_json,
    )


@click.command()
@bulk_options
@budget_options
@click.option(
    "--from-step",
    metavar="K",
    type=click.IntRange(min=0),
    help="Step K and those after it are asked for anew, by the code of now; what came before is reused.",
)
@as_json_option
def resume(
    ids: tuple[str, ...],
    budget_tokens: int | None,
    budget_money: float | None,
    from_step: int | None,
    yes: bool,
    as_json: bool,
    **options: Any,
) -> None:
    """Let paused jobs go on, with the rank that their steps had.

    A job whose agent's code has changed is parked, which is paused too: it goes on by itself when a worker
    has that code again. All of an agent at once: --agent NAME --state parked.

    A budget counts all that the job has spent: one that paused at 1000 tokens goes on to 2000 with
    --budget-tokens 2000. What is not named of it, and what is done when it is used up, stay as they were.
    """
    budget = budget_of(budget_tokens, budget_money)

    def verb(job: AsyncJob) -> Awaitable[bool]:
        return job.resume(budget, from_step=from_step)

    ask = "Resume" if from_step is None else f"Resume from step {from_step}"
    records = bulk(ids, Choice(**options), verb, may=("paused", PARKED), ask=ask, done="resumed", yes=yes)
    tell(ids, records, done="resumed", refused="only a paused job can be resumed", as_json=as_json)


@click.command()
@click.argument("id")
@click.argument("name")
@click.option("--value", metavar="JSON", help="What the agent's await gives  [default: null]")
@as_json_option
def signal(id: str, name: str, value: str | None, as_json: bool) -> None:
    """Send what a job waits for.

    The job waits with `await signal(NAME)`, or it will.
    """
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


RETRIED = "only a job that failed or was cancelled can be retried"


@click.command()
@bulk_options
@as_json_option
def retry(ids: tuple[str, ...], yes: bool, as_json: bool, **options: Any) -> None:
    """Go on from where jobs failed or were cancelled. What is answered stays answered.

    Chosen by options, and without --state, are those that failed.
    """
    choice = Choice(**options)
    if choice and not choice.states:
        choice.states = ("failed",)
    may = ("failed", "cancelled")
    records = bulk(ids, choice, lambda job: job.retry(), may=may, ask="Retry", done="retried", yes=yes)
    tell(ids, records, done="retried", refused=RETRIED, as_json=as_json)


def retry_jobs(ids: Sequence[str], *, as_json: bool) -> None:
    """See :func:`retry`; the dead letters' command is the same."""
    steer(
        ids,
        lambda job: job.retry(),
        done="retried",
        refused=RETRIED,
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
    """A new job with the history of ID up to a step. What came before step K is reused, not paid again."""

    async def work(fleet: AsyncFleet) -> dict[str, Any]:
        made = await fleet.job(id).fork(step, new)
        return job_record(await made.view())

    record = on_fleet(work)
    if as_json:
        print_json(record)
    else:
        print(record["id"])


@click.command()
@click.argument("id")
@click.argument("priority", metavar="N", type=SettingType(settings_of(JobSpec)["priority"]))
@as_json_option
def priority(id: str, priority: int, as_json: bool) -> None:
    """Let a job run earlier or later, also while its steps wait.

    The priority N is 0 to 9; 9 runs first. Only lanes of policy `priority` look at it: see
    `aios-dist lane list`.
    """

    async def work(fleet: AsyncFleet) -> dict[str, Any]:
        job = fleet.job(id)
        changed = await job.rerank(priority=priority)
        view = await job.view()
        return {
            "id": id,
            "priority": view.priority,
            "changed": changed,
            "state": view.state.value,
            "in_agent_first_plan": view.placed,
            "ignored_on_lanes": await _blind(fleet, id) if changed and not view.placed else [],
        }

    record = on_fleet(work)
    if as_json:
        print_json(record)
    elif record["changed"]:
        print(f"{id} has priority {record['priority']}")
        if record["in_agent_first_plan"]:
            print("Its steps keep their order all the same: that is the place in its agent-first plan.")
        for lane in record["ignored_on_lanes"]:
            print(f"Lane {lane} does not look at priorities: aios-dist lane set {lane} --policy priority")
    if not record["changed"]:
        raise InvalidInput(f"Job {id!r} is {record['state']}: a job that has ended takes no priority.")


async def _blind(fleet: AsyncFleet, id: str) -> list[str]:
    """The lanes of the job's LLM calls whose policy does not look at priorities."""
    calls = {step.lane for step in await fleet.job(id).steps() if step.kind == "llm"}
    return [lane.name for lane in await fleet.lanes() if lane.name in calls and not _looks(lane.rules.policy)]


def _looks(policy: str) -> bool:
    known = policies.get(policy)  # one of a newer version may, as far as we know
    return known is None or known.rank(policies.Waiting(agent="")).per_priority > 0
