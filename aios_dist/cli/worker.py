"""``aios-dist worker POOL``: one worker of a pool, in this process, with a log that people can read."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import sys
import warnings
from typing import TYPE_CHECKING, Any

import click

from aios_dist.cli import ctrl_c_at_once
from aios_dist.cli.options import setting_option
from aios_dist.cli.session import hang_up_is_sigterm
from aios_dist.config import FILES_BESIDE_CALLS, PoolConfig, load
from aios_dist.config.reading import find_file
from aios_dist.text import masking

if TYPE_CHECKING:
    from aios_dist.runtime import Runtime

logger = logging.getLogger("aios_dist.worker")

LEVELS = ("debug", "info", "warning", "error")
# They write out requests, prompts included: not even with --loglevel debug.
NEVER_BELOW_WARNING = ("openai", "anthropic", "httpx2", "httpcore2", "aiohttp", "asyncio")
# One line a ticket, or one a connection: what they tell at INFO, Flower and `aios-dist fleet` tell better.
QUIET = ("celery", "kombu", "amqp")


@click.command()
@click.argument("pool")
@setting_option(PoolConfig, "slots", left_out="the pool's")
@click.option("--name", help="Celery's node name; %h is the host  [default: POOL@%h]")
@click.option(
    "--loglevel", type=click.Choice(LEVELS, case_sensitive=False), default="info", show_default=True
)
@click.pass_context
def worker(context: click.Context, pool: str, slots: int | None, name: str | None, loglevel: str) -> None:
    """POOL is a pool of aios.toml, or one of the built-in llm and turns.

    The same as `celery -A workers.POOL worker -n POOL@%h`, without needing that file. Two workers of a pool
    on one machine need two names: --name a@%h. SIGTERM (exit code 0), a terminal that closes, or
    Ctrl-C (130) finishes what is in flight, then ends; Ctrl-C again hands it back at once.
    """
    without_terminal = signal.getsignal(signal.SIGHUP) is signal.SIG_IGN  # nohup
    with ctrl_c_at_once():
        from celery import signals
        from celery.exceptions import SecurityWarning
        from celery.utils.nodenames import default_nodename, host_format

        from aios_dist.runtime import worker_app
        from aios_dist.worker.shortages import allow_files

    config = load()
    file = find_file()
    config.pool(pool)
    app = worker_app(pool, slots=slots, config=config)
    runtime: Runtime = app.aios_runtime
    node = host_format(default_nodename(name or f"{pool}@%h"))
    level = getattr(logging, loglevel.upper())

    @signals.setup_logging.connect(weak=False)  # type: ignore[untyped-decorator]  # celery has no types
    def log(**_: Any) -> None:
        set_up_logging(level)
        logger.info("The configuration: %s.", "no aios.toml" if file is None else file.absolute())

        if hasattr(os, "geteuid") and os.geteuid() == 0:
            logger.warning("This worker runs as root; give it an account of its own.")

    @signals.worker_ready.connect(weak=False)  # type: ignore[untyped-decorator]
    def ready(**_: Any) -> None:
        hang_up_is_sigterm(without_terminal)  # Celery's own: dies at once, or runs on without a terminal
        with contextlib.suppress(OSError):  # nobody reads it, or it has no room: the worker works
            print(ready_line(node, runtime), flush=True)

    by_ctrl_c = False

    @signals.worker_shutting_down.connect(weak=False)  # type: ignore[untyped-decorator]
    def ending(sig: str = "", **_: Any) -> None:
        nonlocal by_ctrl_c
        by_ctrl_c = sig == "SIGINT"

    # Celery warns root in eight lines, of pickle above all, which we never accept. Once and short is enough.
    warnings.filterwarnings("ignore", category=SecurityWarning)
    allow_files(runtime.settings.slots + FILES_BESIDE_CALLS)
    # Without mingle and gossip: a second less at every start, and nothing here asks the neighbours.
    running = app.Worker(hostname=node, loglevel=level, quiet=True, without_mingle=True, without_gossip=True)
    running.start()
    code = int(running.exitcode or 0)
    context.exit(130 if by_ctrl_c and code == 1 else code)  # to Celery, Ctrl-C is a failure


def ready_line(node: str, runtime: Runtime) -> str:
    """What the worker is, in one line."""
    from aios_dist.program.agents import registered

    agents = sorted({*registered(), *runtime.config.agents})
    lanes, models = ", ".join(runtime.settings.lanes), ", ".join(sorted(runtime.models()))
    return (
        f"{node} is ready: lanes {lanes}; {runtime.slots} slots; models {models or 'none'}; "
        f"agents {', '.join(agents) or 'none but data'}"
    )


def set_up_logging(level: int) -> None:
    """Short lines on stderr, without secrets."""
    masking.install()
    out = logging.StreamHandler(sys.stderr)
    out.setFormatter(logging.Formatter("%(asctime)s %(levelname)-7s %(name)s: %(message)s"))
    logging.basicConfig(level=level, handlers=[out], force=True)
    logging.captureWarnings(True)
    for name in NEVER_BELOW_WARNING:
        logging.getLogger(name).setLevel(max(level, logging.WARNING))
    if level == logging.INFO:
        for name in QUIET:
            logging.getLogger(name).setLevel(logging.WARNING)
