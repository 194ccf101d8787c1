"""The groups of commands (``aios-dist job …``): tables; each command is imported when it is asked for."""

from __future__ import annotations

from collections.abc import Mapping

import click

from aios_dist.cli.lazy import LazyGroup

Table = Mapping[str, tuple[str, str, str]]


def _group(name: str, about: str, commands: Table) -> LazyGroup:
    """A group that shows its help where no command is named, and is content with that."""

    @click.pass_context
    def without_command(context: click.Context) -> None:
        if context.invoked_subcommand is None:
            click.echo(context.get_help())

    return LazyGroup(
        name,
        help=about,
        callback=without_command,
        invoke_without_command=True,
        commands_by_name=commands,
    )


job = _group(
    "job",
    "Look at jobs, wait for them, steer them.",
    {
        "list": ("aios_dist.cli.job_commands", "list_", "Jobs, newest first."),
        "show": ("aios_dist.cli.job_show", "show", "One job: its steps, models, tokens, times, workers."),
        "wait": ("aios_dist.cli.job_commands", "wait", "Wait for jobs and print their results."),
        "events": ("aios_dist.cli.job_commands", "events", "What happened to a job, and what happens."),
        "cancel": ("aios_dist.cli.job_commands", "cancel", "End jobs now."),
        "pause": ("aios_dist.cli.job_control", "pause", "Stop jobs where they are."),
        "resume": (
            "aios_dist.cli.job_control",
            "resume",
            "Let a paused job go on.",
        ),
        "priority": ("aios_dist.cli.job_priority", "priority", "Let a job run earlier or later."),
        "signal": ("aios_dist.cli.job_control", "signal", "Send what a job waits for."),
        "retry": ("aios_dist.cli.job_control", "retry", "Go on from where jobs failed or were cancelled."),
        "export": ("aios_dist.cli.job_export", "export", "Write what has run as a workload for simulate."),
        "fork": ("aios_dist.cli.job_control", "fork", "A new job with the history of another up to a step."),
    },
)

plan = _group(
    "plan",
    "How far plans are.",
    {
        "show": ("aios_dist.cli.plan_commands", "show", "One plan: its state, members admitted and ended."),
    },
)

dead = _group(
    "dead",
    "Steps that were given up because they lost their worker each time.",
    {
        "list": ("aios_dist.cli.dead_commands", "list_", "Dead letters, newest first."),
        "show": ("aios_dist.cli.dead_commands", "show", "The dead letters of a job, attempt by attempt."),
        "retry": ("aios_dist.cli.dead_commands", "retry", "Let the jobs of dead letters go on from there."),
        "drop": ("aios_dist.cli.dead_commands", "drop", "Forget the dead letters of jobs."),
    },
)

model = _group(
    "model",
    "Limits of the models over the whole fleet.",
    {
        "list": ("aios_dist.cli.model_commands", "list_", "Models with their limits, calls and holds."),
        "set": ("aios_dist.cli.model_commands", "set_", "Change limits in the running fleet."),
    },
)

lane = _group(
    "lane",
    "Who goes first on each lane: policies and shares.",
    {
        "list": ("aios_dist.cli.lane_commands", "list_", "Lanes with their policies and what waits on them."),
        "set": ("aios_dist.cli.lane_commands", "set_", "Change policy and shares in the running fleet."),
        "reset": ("aios_dist.cli.lane_commands", "reset", "Back to what aios.toml says."),
    },
)

config = _group(
    "config",
    "What aios.toml and the environment say.",
    {
        "show": ("aios_dist.cli.config_commands", "show", "Each value, and where it comes from."),
        "schema": ("aios_dist.cli.config_commands", "schema", "The JSON schema of aios.toml, for editors."),
    },
)

tenant = _group(
    "tenant",
    "Weights, limits and budgets of tenants.",
    {
        "list": ("aios_dist.cli.tenant_commands", "list_", "Tenants with their weights, limits and budgets."),
        "set": ("aios_dist.cli.tenant_commands", "set_", "Change them in the running fleet."),
    },
)
