"""``aios-dist job …``: the group; each command is imported when it is asked for."""

from __future__ import annotations

import click

from aios_dist.cli.lazy import LazyGroup

COMMANDS = {
    "list": ("aios_dist.cli.job_commands", "list_", "Jobs, newest first."),
    "show": ("aios_dist.cli.job_show", "show", "One job: its steps, models, tokens, times, workers."),
    "wait": ("aios_dist.cli.job_commands", "wait", "Wait for jobs and print their results."),
    "events": ("aios_dist.cli.job_commands", "events", "What happened to a job, and what happens."),
    "cancel": ("aios_dist.cli.job_commands", "cancel", "End jobs now."),
    "pause": ("aios_dist.cli.job_control", "pause", "Stop jobs where they are."),
    "resume": ("aios_dist.cli.job_control", "resume", "Let a paused job go on, with a new budget perhaps."),
    "priority": ("aios_dist.cli.job_priority", "priority", "Let a job run earlier or later."),
    "signal": ("aios_dist.cli.job_control", "signal", "Send what a job waits for."),
    "retry": ("aios_dist.cli.job_control", "retry", "Go on from where jobs failed or were cancelled."),
    "export": ("aios_dist.cli.job_export", "export", "Write what has run as a workload for simulate."),
    "fork": ("aios_dist.cli.job_control", "fork", "A new job with the history of another up to a step."),
}


@click.group(cls=LazyGroup, commands_by_name=COMMANDS, invoke_without_command=True)
@click.pass_context
def job(context: click.Context) -> None:
    """Look at jobs, wait for them, steer them."""
    if context.invoked_subcommand is None:
        click.echo(context.get_help())
