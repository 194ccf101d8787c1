"""``aios-dist model …``: the group; each command is imported when it is asked for."""

from __future__ import annotations

import click

from aios_dist.cli.lazy import LazyGroup

COMMANDS = {
    "list": ("aios_dist.cli.model_commands", "list_", "Models with their limits, calls and holds."),
    "set": ("aios_dist.cli.model_commands", "set_", "Change limits in the running fleet."),
}


@click.group(cls=LazyGroup, commands_by_name=COMMANDS, invoke_without_command=True)
@click.pass_context
def model(context: click.Context) -> None:
    """Limits of the models over the whole fleet."""
    if context.invoked_subcommand is None:
        click.echo(context.get_help())
