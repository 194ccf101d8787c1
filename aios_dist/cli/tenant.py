"""``aios-dist tenant …``: the group; each command is imported when it is asked for."""

from __future__ import annotations

import click

from aios_dist.cli.lazy import LazyGroup

COMMANDS = {
    "list": ("aios_dist.cli.tenant_commands", "list_", "Tenants with their weights, limits and budgets."),
    "set": ("aios_dist.cli.tenant_commands", "set_", "Change them in the running fleet."),
}


@click.group(cls=LazyGroup, commands_by_name=COMMANDS, invoke_without_command=True)
@click.pass_context
def tenant(context: click.Context) -> None:
    """Weights, limits and budgets of tenants."""
    if context.invoked_subcommand is None:
        click.echo(context.get_help())
