"""``aios-dist dead …``: the group; each command is imported when it is asked for."""

from __future__ import annotations

import click

from aios_dist.cli.lazy import LazyGroup

COMMANDS = {
    "list": ("aios_dist.cli.dead_commands", "list_", "Dead letters, newest first."),
    "show": ("aios_dist.cli.dead_commands", "show", "The dead letters of a job, attempt by attempt."),
    "retry": ("aios_dist.cli.dead_commands", "retry", "Let the jobs of dead letters go on from there."),
    "drop": ("aios_dist.cli.dead_commands", "drop", "Forget the dead letters of jobs."),
}


@click.group(cls=LazyGroup, commands_by_name=COMMANDS, invoke_without_command=True)
@click.pass_context
def dead(context: click.Context) -> None:
    """Steps that were given up because they lost their worker each time."""
    if context.invoked_subcommand is None:
        click.echo(context.get_help())
