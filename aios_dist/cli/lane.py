"""``aios-dist lane …``: the group; each command is imported when it is asked for."""

from __future__ import annotations

import click

from aios_dist.cli.lazy import LazyGroup

COMMANDS = {
    "list": ("aios_dist.cli.lane_commands", "list_", "Lanes with their policies and what waits on them."),
    "set": ("aios_dist.cli.lane_commands", "set_", "Change policy and shares in the running fleet."),
    "reset": ("aios_dist.cli.lane_commands", "reset", "Back to what aios.toml says."),
}


@click.group(cls=LazyGroup, commands_by_name=COMMANDS, invoke_without_command=True)
@click.pass_context
def lane(context: click.Context) -> None:
    """Who goes first on each lane: policies and shares."""
    if context.invoked_subcommand is None:
        click.echo(context.get_help())
