"""The way in: the commands by name, global options, and what becomes of errors.

Exit codes: 0; 1 a job that failed, was cancelled or did not end in time, or a finding of ``doctor``;
2 a request that cannot be met as it stands, or a Redis that cannot be reached; 130 Ctrl-C.
"""

from __future__ import annotations

import contextlib
import difflib
import errno
import importlib
import inspect
import locale  # noqa: F401 - gettext would import it in the midst of click's main, where Ctrl-C is click's
import os
import sys
from collections.abc import Mapping, Sequence
from typing import Any, NoReturn

import click

from aios_dist.cli import ctrl_c_at_once, streams
from aios_dist.errors import AiosError, InvalidInput, JobError, StepError

GLOBAL = ("--config", "--redis-url")
UNWRITTEN = "The output cannot be written: {}."
PACKAGES = ("celery", "kombu", "redis", "flower", "aiohttp")

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
    "job": ("aios_dist.cli.job", "job", "Look at jobs, wait for them, steer them."),
    "plan": ("aios_dist.cli.plan", "plan", "How far plans are."),
    "dead": (
        "aios_dist.cli.dead",
        "dead",
        "Steps that lost their worker each time, and were given up.",
    ),
    "model": ("aios_dist.cli.model", "model", "Limits of the models over the whole fleet."),
    "lane": ("aios_dist.cli.lane", "lane", "Who goes first on each lane: policies and shares."),
    "tenant": ("aios_dist.cli.tenant", "tenant", "Weights, limits and budgets of tenants."),
    "fleet": (
        "aios_dist.cli.fleet",
        "fleet",
        "Show workers, slots, lanes, what waits on them, models, agents.",
    ),
    "simulate": ("aios_dist.cli.simulate", "simulate", "What would another policy or plan have done?"),
    "config": ("aios_dist.cli.config", "config", "What aios.toml and the environment say, and its schema."),
    "doctor": ("aios_dist.cli.doctor", "doctor", "Look for what is wrong, and say how to mend it."),
    "healthcheck": (
        "aios_dist.cli.doctor",
        "healthcheck",
        "Exit 0 when this host's worker is alive, else 1.",
    ),
    "fake-llm": (
        "aios_dist.cli.entry",
        "fake_llm",
        "Run a fake LLM that speaks OpenAI's, Anthropic's and Gemini's protocols.",
    ),
    "version": ("aios_dist.cli.entry", "version", "Show the versions of aios-dist and what it stands on."),
}
"""Module, attribute, and the sentence with which the command's help begins. It stands here alone: the list of
commands must cost no import."""


class Commands(click.Group):
    """A group in the order in which its commands were added, which is the order of a newcomer's questions.

    Where no command is named it shows its help, and is content with that.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **{"callback": _help_alone, "invoke_without_command": True, **kwargs})

    def list_commands(self, ctx: click.Context) -> list[str]:
        """As they were added."""
        return list(self.commands)

    def line_of(self, name: str) -> str:
        """A command in one sentence, the first of its help."""
        return self.commands[name].get_short_help_str(limit=1000)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The list of commands; click's own cuts sentences short."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, self.line_of(name)) for name in self.list_commands(ctx)])

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """The command, or a sentence with the nearest right spelling."""
        known = self.list_commands(ctx)
        if args and args[0] not in known and not args[0].startswith("-"):
            near = difflib.get_close_matches(args[0], known, n=1)
            hint = f" Did you mean {near[0]!r}?" if near else ""
            raise click.UsageError(f"There is no command {args[0]!r}.{hint}", ctx)
        return super().resolve_command(ctx, args)


class LazyCommands(Commands):
    """A group that imports a command when it is asked for: ``--help`` must not cost Celery.

    Args:
        table: module, attribute and help's first sentence of each command.
    """

    def __init__(self, *args: Any, table: Mapping[str, tuple[str, str, str]], **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._table = table

    def list_commands(self, ctx: click.Context) -> list[str]:
        """In the table's order."""
        return list(self._table)

    def line_of(self, name: str) -> str:
        """From the table alone."""
        return self._table[name][2]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import the command, and let its help begin with its sentence."""
        if cmd_name not in self._table:
            return None
        module, attribute, line = self._table[cmd_name]
        with ctrl_c_at_once():
            command: click.Command = getattr(importlib.import_module(module), attribute)
        if command.short_help is None:
            command.short_help = line
            command.help = "\n\n".join(filter(None, (line, inspect.cleandoc(command.help or ""))))
        return command


@click.pass_context
def _help_alone(context: click.Context) -> None:
    if context.invoked_subcommand is None:
        click.echo(context.get_help())


@click.group(
    cls=LazyCommands,
    table=COMMANDS,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
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


# Commands without a noun ----------------------------------------------------------------------------------


@click.command(
    context_settings={"ignore_unknown_options": True, "help_option_names": []}, add_help_option=False
)
@click.argument("options", nargs=-1, type=click.UNPROCESSED)
def fake_llm(options: tuple[str, ...]) -> None:
    """--help lists its options."""
    # Not imported: aios_dist.testing stands apart from the rest. The same process, so signals reach it.
    sys.stdout.flush()
    # -P: else Python would look for all that it imports in the current folder first, whosever that is.
    os.execv(sys.executable, [sys.executable, "-P", "-m", "aios_dist.testing", *options])


@click.command()
@click.option("--json", "as_json", is_flag=True, help="For programs.")
def version(as_json: bool) -> None:
    """A package that is not installed is named all the same; in JSON its version is null."""
    with ctrl_c_at_once():
        import platform
        from importlib import metadata  # noqa: F401 - for installed()

        from aios_dist import __version__
        from aios_dist.cli.output import print_json

    found = {"python": platform.python_version()} | {package: installed(package) for package in PACKAGES}
    if as_json:
        print_json({"aios_dist": __version__, **found})
        return
    print(f"aios-dist {__version__}")
    for package, number in found.items():
        print(f"  {package:<10} {number or 'not installed'}")


def installed(package: str) -> str | None:
    """The version of a package, None where it is not installed."""
    from importlib import metadata

    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None
