"""``aios-dist plan show``."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from aios_dist.cli.job_commands import as_json_option
from aios_dist.cli.output import print_json
from aios_dist.cli.session import on_journal

if TYPE_CHECKING:
    from aios_dist.journal import Journal, PlanView


@click.command()
@click.argument("id")
@as_json_option
def show(id: str, as_json: bool) -> None:
    """Show the state of plan ID, and how many of its jobs were admitted, have ended, or were dropped."""

    async def look(journal: Journal) -> PlanView:
        return await journal.plan(id)

    view = on_journal(look)
    if as_json:
        print_json(
            {
                "id": view.id,
                "state": view.state,
                "jobs": view.jobs,
                "admitted": view.admitted,
                "ended": view.ended,
                "dropped": view.dropped,
                "at_work": view.at_work,
            }
        )
        return
    so_far = ""
    if view.jobs is not None:
        so_far = f": of {view.jobs:,} jobs {view.admitted:,} admitted, {view.ended:,} ended"
        so_far += f", {view.dropped:,} dropped after a failure" if view.dropped else ""
    print(f"{view.id} is {view.state}{so_far}{' (at work)' if view.at_work else ''}")
