"""``aios-dist dead list | show | retry | drop``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import click

from aios_dist.cli.entry import Commands
from aios_dist.cli.job_steering import retry_jobs
from aios_dist.cli.options import as_json_option, ids_argument
from aios_dist.cli.output import (
    clock,
    console,
    error_line,
    iso,
    job_record,
    moment,
    plain,
    print_json,
    print_table,
)
from aios_dist.cli.session import on_fleet, on_journal
from aios_dist.errors import UnknownName

if TYPE_CHECKING:
    from aios_dist.journal import DeadLetter, Event, History, JobView, Journal
    from aios_dist.producer.fleet import AsyncFleet

MOST = 10_000
"""Dead letters that are looked through for those of one job."""

dead = Commands("dead")


@dead.command("list")
@click.option(
    "--limit", type=click.IntRange(min=1), default=50, show_default=True, help="How many at the most."
)
@as_json_option
def list_(limit: int, as_json: bool) -> None:
    """Dead letters, newest first. They are steps that lost their worker [fleet] attempts times."""

    async def look(journal: Journal) -> list[tuple[DeadLetter, JobView | None]]:
        letters = await journal.dead_letters(limit)
        return list(zip(letters, await journal.views([letter.job for letter in letters]), strict=True))

    found = on_journal(look)
    if as_json:
        print_json(
            [
                {
                    "job": letter.job,
                    "step": _number(letter.step),
                    "at": iso(letter.at),
                    "agent": view.agent if view else None,
                    "tenant": view.tenant if view else None,
                    "state": view.state.value if view else None,
                }
                for letter, view in found
            ]
        )
        return
    print_table(
        ("JOB", ">STEP", ">GIVEN UP", "AGENT", "TENANT", "STATE"),
        (
            (
                letter.job,
                _words(letter.step),
                moment(letter.at),
                *((view.agent, view.tenant, view.state.value) if view else ("", "", "expired")),
            )
            for letter, view in found
        ),
        empty="No dead letters.",
    )


@dead.command()
@click.argument("id")
@as_json_option
def show(id: str, as_json: bool) -> None:
    """The dead letters of a job, attempt by attempt."""

    async def look(journal: Journal) -> tuple[list[DeadLetter], History, list[Event]]:
        letters = [letter for letter in await journal.dead_letters(MOST) if letter.job == id]
        history = await journal.load(id)
        if not letters:
            raise _none_of(id)
        return letters, history, await journal.events(id)

    letters, history, events = on_journal(look)
    if as_json:
        record = job_record(history.view)
        record["dead"] = [_record(letter, history, events) for letter in letters]
        print_json(record)
        return
    view, out = history.view, console()
    out.print(f"Job {view.id}: {view.state.value}")
    out.print(f"Agent {view.agent}, tenant {view.tenant}" + (f", plan {view.plan}" if view.plan else ""))
    for letter in letters:
        record = _record(letter, history, events)
        what = " ".join(filter(None, (record["kind"], record["label"])))
        place = f" on lane {record['lane']}" if record["lane"] else ""
        out.print(plain(f"\nStep {_words(letter.step)} ({what}{place}) given up {clock(letter.at)}"))
        if record["error"] is not None:
            out.print(error_line(f"{record['error']['type']}: {record['error']['message']}"))
        print_table(
            ("AT", "WHAT", "DETAIL"),
            ((clock(e.at), e.what, e.detail) for e in _of_step(events, letter.step)),
            empty="Its events are gone.",
        )


@dead.command()
@ids_argument
@as_json_option
def retry(ids: tuple[str, ...], as_json: bool) -> None:
    """Let the jobs of dead letters go on from there (the same as `job retry`)."""
    retry_jobs(ids, as_json=as_json)


@dead.command()
@ids_argument
@as_json_option
def drop(ids: tuple[str, ...], as_json: bool) -> None:
    """Forget the dead letters of jobs. The jobs themselves stay as they are."""

    async def work(fleet: AsyncFleet) -> list[dict[str, Any]]:
        return [{"id": id, "dropped": await fleet.drop_dead(id)} for id in dict.fromkeys(ids)]

    done = on_fleet(work)
    if as_json:
        print_json(done)
    else:
        for entry in done:
            if entry["dropped"]:
                print(f"{entry['id']} dropped {entry['dropped']}")
    without = next((entry["id"] for entry in done if not entry["dropped"]), None)
    if without is not None:
        raise _none_of(without)


def _none_of(id: str) -> UnknownName:
    return UnknownName(f"Job {id!r} has no dead letters. See aios-dist dead list.")


def _record(letter: DeadLetter, history: History, events: Sequence[Event]) -> dict[str, Any]:
    number = _number(letter.step)
    step = history.steps[number] if number is not None and number < len(history.steps) else None
    return {
        "step": number,
        "at": iso(letter.at),
        "kind": step.kind.value if step else "turn",
        "label": step.label if step else None,
        "lane": step.lane if step else None,
        "state": step.state.value if step else None,
        "attempt": step.attempt if step else None,
        "error": step.outcome.error if step and step.outcome else None,
        "events": [
            {"index": e.index, "at": iso(e.at), "what": e.what, "detail": e.detail or None}
            for e in _of_step(events, letter.step)
        ],
    }


def _of_step(events: Sequence[Event], step: str) -> list[Event]:
    """What happened to the step; to the job's turn, where it is that."""
    number = _number(step)
    if number is not None:
        return [event for event in events if event.step == number]
    return [
        event for event in events if event.step is None and event.what in ("ready", "started", "released")
    ]


def _number(step: str) -> int | None:
    return int(step) if step.isdigit() else None


def _words(step: str) -> str:
    return step if step.isdigit() else "turn"
