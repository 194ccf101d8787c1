"""The way in: the commands by name, global options, and what becomes of errors.

Exit codes: 0; 1 a job that failed, was cancelled or did not end in time, or a finding of ``doctor``;
2 a request that cannot be met as it stands, or a Redis that cannot be reached; 130 Ctrl-C.
"""

from __future__ import annotations

import contextlib
import errno
import locale  # noqa: F401 - gettext would import it in the midst of click's main, where Ctrl-C is click's
import os
import sys
from collections.abc import Sequence
from typing import NoReturn

import click

from aios_dist.cli import streams
from aios_dist.cli.lazy import LazyGroup
from aios_dist.errors import AiosError, InvalidInput, JobError, StepError

GLOBAL = ("--config", "--redis-url")
UNWRITTEN = "The output cannot be written: {}."

COMMANDS = {
    "demo": (
        "aios_dist.demo.command",
        "demo",
        "A fleet on this machine runs agents under fifo and fixed order.",
    ),
    "up": ("aios_dist.cli.up", "up", "A whole fleet on this machine, in this terminal."),
    "worker": ("aios_dist.cli.worker", "worker", "Run one worker of a pool."),
    "flower": ("aios_dist.cli.flower", "flower", "Run Flower, the web page of the fleet."),
    "submit": ("aios_dist.cli.submit", "submit", "Submit an agent, prompts, or a plan from a file."),
    "job": ("aios_dist.cli.groups", "job", "Look at jobs, wait for them, steer them."),
    "plan": ("aios_dist.cli.groups", "plan", "How far plans are."),
    "dead": ("aios_dist.cli.groups", "dead", "Steps that were given up: look at them, retry, drop."),
    "model": ("aios_dist.cli.groups", "model", "Limits of the models over the whole fleet."),
    "lane": ("aios_dist.cli.groups", "lane", "Who goes first on each lane: policies and shares."),
    "tenant": ("aios_dist.cli.groups", "tenant", "Weights, limits and budgets of tenants."),
    "fleet": ("aios_dist.cli.fleet", "fleet", "Show workers, slots, lanes and what waits on them."),
    "simulate": ("aios_dist.cli.simulate", "simulate", "What would another policy have done?"),
    "config": ("aios_dist.cli.groups", "config", "What aios.toml and the environment say, and its schema."),
    "doctor": ("aios_dist.cli.doctor", "doctor", "Look for what is wrong, and say how to mend it."),
    "healthcheck": ("aios_dist.cli.healthcheck", "healthcheck", "Exit 0 when this host's worker is alive."),
    "fake-llm": ("aios_dist.cli.fake_llm", "fake_llm", "Run a fake LLM that speaks OpenAI's protocol."),
    "version": ("aios_dist.cli.version", "version", "Show the versions of aios-dist and what it stands on."),
}


@click.group(
    cls=LazyGroup,
    commands_by_name=COMMANDS,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
    invoke_without_command=True,
    epilog="Listings take --json: one document, snake_case names, times as ISO 8601 in UTC or null, "
    "durations in seconds. Exit codes: 0; 1 a job that did not end well, or a finding; "
    "2 what cannot be done as asked.",
)
@click.option("--config", metavar="FILE", help="aios.toml  [default: AIOS_CONFIG, else ./aios.toml]")
@click.option(
    "--redis-url",
    metavar="URL",
    help="The fleet's Redis. AIOS_REDIS_URL does the same and keeps a password out of the process list.",
)
@click.pass_context
def root(context: click.Context, config: str | None, redis_url: str | None) -> None:
    """LLM agents as Celery work on one shared Redis."""
    # As environment, so that whatever the command starts (workers, Flower, modules of agents) has it.
    for option, name, value in (
        ("--config", "AIOS_CONFIG", config),
        ("--redis-url", "AIOS_REDIS_URL", redis_url),
    ):
        try:
            if value is not None:
                os.environ[name] = value
        except ValueError:
            raise InvalidInput(f"{option} has a character that none of its kind can have.") from None
    if context.invoked_subcommand is None:
        click.echo(context.get_help())


def main(args: Sequence[str] | None = None) -> NoReturn:
    """Run one command and exit."""
    streams.prepare()
    sys.exit(run(args))


def run(args: Sequence[str] | None = None) -> int:
    """Run one command; gives the exit code."""
    if any("\0" in word for word in args or ()):  # no shell can, a program that calls us may
        say("An argument has a zero byte in it, which no file, id or text here can have.")
        return 2
    try:
        code = _run(args)
        sys.stdout.flush()
    except BrokenPipeError:  # `aios-dist job list | head`: nobody reads on
        code = 1
    except OSError as exc:
        code = 2
        say(_refusal(exc))
    streams.flush_or_drop(sys.stdout)
    return code


def _run(args: Sequence[str] | None) -> int:
    try:
        code = root.main(
            args=None if args is None else list(args), prog_name="aios-dist", standalone_mode=False
        )
    except (click.Abort, KeyboardInterrupt):
        return 130
    except click.ClickException as exc:
        say(_sentence(exc))
        return exc.exit_code if exc.exit_code != 1 else 2
    except AiosError as exc:
        say(str(exc))
        return 1 if isinstance(exc, (JobError, StepError)) else 2
    return code if isinstance(code, int) else 0


def _refusal(exc: OSError) -> str:
    why = exc.strerror or str(exc)
    if isinstance(exc.filename, (str, bytes)):
        return f"{os.fsdecode(exc.filename)!r} cannot be used: {why}."
    if exc.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EBADF):
        return UNWRITTEN.format(why)
    return f"The system refuses what this needs: {why}."


def say(sentence: str) -> None:
    """One sentence on stderr."""
    from aios_dist.cli.output import plain

    with contextlib.suppress(OSError):
        print(f"aios-dist: {plain(sentence)}", file=sys.stderr)
    streams.flush_or_drop(sys.stderr)


def _sentence(exc: click.ClickException) -> str:
    text = exc.format_message()
    if not isinstance(exc, click.UsageError) or exc.ctx is None:
        return text
    if isinstance(exc, click.NoSuchOption) and exc.option_name in GLOBAL:
        return f"{exc.option_name} goes before the command: aios-dist {exc.option_name} … {exc.ctx.info_name}"
    return f"{text} See {exc.ctx.command_path} --help."
